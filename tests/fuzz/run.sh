#!/usr/bin/env bash
# Runs every fuzz target, and the test of generated sources; the targets from the inputs in corpus and from those that earlier runs have found, which stay in
# target/fuzz. An input that fails is left in tests/fuzz/artifacts. Installs cargo-fuzz if it is missing.
#
# Usage: run.sh [SECONDS]        of each target, 60
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
tests/support/install.sh fuzz
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "mimeo: installing cargo-fuzz (about three minutes, once)"
    tests/support/cargo.sh install cargo-fuzz --locked --quiet
fi
# The address sanitizer is for nightly compilers, and for those that take themselves for one.
toolchains=$(rustup toolchain list 2>/dev/null || true)
if grep -q '^nightly' <<<"$toolchains"; then export RUSTUP_TOOLCHAIN=nightly; else export RUSTC_BOOTSTRAP=1; fi
# cargo-fuzz calls what this names.
export CARGO=$PWD/tests/support/cargo.sh CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

cargo-fuzz build --fuzz-dir tests/fuzz
for target in $(cargo-fuzz list --fuzz-dir tests/fuzz); do
    echo "== $target"
    found=$CARGO_TARGET_DIR/corpus/$target
    mkdir -p "$found" "tests/fuzz/corpus/$target"
    # Without a line for each input that is kept.
    cargo-fuzz run --fuzz-dir tests/fuzz "$target" "$found" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -print_final_stats=1 2>&1 |
        grep -avE $'^#[0-9]+\t(NEW|REDUCE|RELOAD) |# Uses: '
done

# What a source's catalogs say, made up at random, against the extension as it is installed.
echo "== generated"
unset CARGO
CARGO_TARGET_DIR=${CARGO_TARGET_DIR%/fuzz}
tests/support/build.sh
run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_fuzz.XXXXXX")
chmod 755 "$run"
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
MIMEO_RUN_DIR=$run MIMEO_FUZZ_SECONDS=$seconds tests/support/cargo.sh test --quiet --package mimeo-tests --test generated -- --nocapture
