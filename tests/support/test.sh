#!/usr/bin/env bash
# Every test. Clusters live in a folder of this run, and are stopped whatever happens.
set -euo pipefail
cd "$(dirname "$0")/../.."
started=$SECONDS
cargo=tests/support/cargo.sh
# The version that Cargo.toml builds for without being told shares its artifacts with whoever calls cargo by hand.
version=()
[ "${PG_MAJOR:-15}" = 15 ] || version=(--no-default-features --features "pg$PG_MAJOR")
say() { echo "== $* ($((SECONDS - started)) s)"; }

say "install what is missing"
tests/support/install.sh test
say "format and lints"
cargo fmt --check
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
for file in tests/*.rs; do
    grep -qx "path = \"${file#tests/}\"" tests/Cargo.toml || { echo "mimeo: tests/Cargo.toml does not name $file" >&2; exit 1; }
done
tests/support/alive.sh "compiling, with clippy" "$cargo" clippy --profile quick --workspace --all-targets --features mimeo/pg_test "${version[@]}" -- -D warnings
say "released scripts"
tests/support/release.sh check
say "build"
tests/support/build.sh

run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_test.XXXXXX")
chmod 755 "$run"
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
export MIMEO_RUN_DIR=$run

say "pure logic"
tests/support/alive.sh "compiling its tests" "$cargo" test --profile quick --package mimeo --lib --no-run "${version[@]}"
"$cargo" test --profile quick --package mimeo --lib --quiet "${version[@]}"
say "single functions, in a server"
tests/support/pg_test.sh "$run/pg_test"
say "behaviour, in SQL"
tests/support/pgtap.sh "$run/pgtap"
tests/support/cluster.sh stop-all "$run/pgtap"
say "several sessions and faults"
tests/support/alive.sh "compiling the tests" "$cargo" test --package mimeo-tests --tests --no-run
"$cargo" test --quiet --package mimeo-tests --tests --no-fail-fast
say "done"
