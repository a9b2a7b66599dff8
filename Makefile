# What a user and a developer run. Everything that is missing is installed first.

.PHONY: build install test demo demo-stop bench release clean

build:
	@tests/support/install.sh build

install: build
	@tests/support/build.sh

# make test PG=17        in a Debian of its own, which has that PostgreSQL (17 or 18); needs root for chroot
test:
	@$(if $(PG),tests/support/chroot.sh $(PG)) tests/support/test.sh

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

# make release VERSION=2.1.0      freezes the scripts of a version, once upgrade and downgrade are proven
release: build
	@tests/support/release.sh "$(VERSION)"

clean:
	cargo clean
