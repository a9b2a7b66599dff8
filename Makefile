# What a user and a developer run. Everything that is missing is installed first.

.PHONY: build install test test-all fuzz demo demo-stop bench deb dist release clean

# Before anything is installed: a Rust that is too old would only tell so after a while.
ifneq ($(filter-out clean demo-stop dist,$(or $(MAKECMDGOALS),build)),)
ifneq ($(shell tests/support/toolchain.sh >&2 || echo no),)
$(error this needs another Rust)
endif
endif

ifndef PG_MAJOR
export PG_MAJOR := $(shell PG_CONFIG='$(PG_CONFIG)' tests/support/major.sh)
endif

build:
	@tests/support/install.sh build

install: build
	@tests/support/build.sh

# make test PG=17        in a Debian of its own, which has that PostgreSQL (15 to 19); needs root for chroot
test:
	@$(if $(PG),tests/support/chroot.sh $(PG)) tests/support/test.sh

# All of the matrix, which docs/tested.md tells of: two to three hours, as root; a call that ended early is taken up where it was.
# make test-all PARTS="pg19 cross-15-19"        only these
test-all:
	@tests/matrix/all.sh $(PARTS)

# make fuzz SECONDS=600        of each target
fuzz:
	@tests/fuzz/run.sh $(SECONDS)

demo:
	@tests/demo/demo.sh

demo-stop:
	@tests/demo/demo.sh stop

# make bench ROWS="100000 1000000 4000000"      the sizes of the snapshot
bench:
	@tests/bench/snapshot.sh $(ROWS)
	@tests/bench/methods.sh
	@tests/bench/replay.sh
	@tests/bench/jobs.sh
	@tests/bench/delta.sh

# make deb PG=17        a Debian package; with PG, built in a Debian of its own
deb:
	@$(if $(PG),tests/support/chroot.sh $(PG)) tests/support/install.sh build
	@$(if $(PG),tests/support/chroot.sh $(PG)) tests/support/deb.sh

# the archive for PGXN
dist:
	@tests/support/dist.sh

# make release VERSION=2.1.0      freezes the scripts of a version, once upgrade and downgrade are proven
release: build
	@tests/support/release.sh "$(VERSION)"

clean:
	cargo clean
