#!/usr/bin/env bash
# Runs the tests of src/pg_tests: each is an SQL function. The extension that has them is built apart and put into a copy of the server's
# programs in DIR, so that the installed one, which another run may be using, stays what it is.
#
# Usage: pg_test.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$1
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config}
major=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
mkdir -p "$dir"

tests/support/alive.sh "building the tests that run in a server" \
    tests/support/cargo.sh pgrx package --test --profile quick --no-default-features --features "pg$major pg_test" --pg-config "$PG_CONFIG" --out-dir "$dir/package"

# PostgreSQL finds its files from where its programs are: these are copied, and all else is linked.
for folder in bindir pkglibdir sharedir; do
    from=$("$PG_CONFIG" --$folder)
    mkdir -p "$dir/server$from"
    if [ $folder = bindir ]; then cp "$from"/* "$dir/server$from/"; else cp -rsn "$from/." "$dir/server$from/"; fi
done
cp -r --remove-destination "$dir/package/." "$dir/server/"
chmod -R a+rX "$dir"
# Programs that look for their libraries beside them find them where they were.
cluster=$(LD_LIBRARY_PATH=$("$PG_CONFIG" --libdir) PG_CONFIG=$dir/server$("$PG_CONFIG" --bindir)/pg_config tests/support/cluster.sh start "$dir/cluster")
run() { PGOPTIONS="-c client_min_messages=warning" psql -Xq -h "$dir/cluster" -p "$cluster" -U postgres -v ON_ERROR_STOP=1 "$@"; }
run -c "CREATE EXTENSION mimeo"
failed=0 count=0
for test in $(run -Atc "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'tests'::regnamespace ORDER BY 1"); do
    count=$((count + 1))
    run -At -c BEGIN -c "SELECT tests.$test()" -c ROLLBACK >/dev/null || { echo "failed: $test" >&2; failed=$((failed + 1)); }
done
tests/support/cluster.sh stop-all "$dir/cluster"
echo "$count tests in a server, $failed failed"
[ "$count" -gt 0 ] && [ "$failed" = 0 ]
