#!/usr/bin/env bash
# Sources of older PostgreSQL: every method against real servers of 10 to 16, with this machine's PostgreSQL as the destination.
#
# Usage: old_sources.sh [MAJOR …]        10 11 12 13 14 16 by default
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/support/install.sh test
tests/support/build.sh
run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_old_sources.XXXXXX")
chmod 755 "$run"
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
failed=0
[ $# -gt 0 ] || set -- 10 11 12 13 14 16
for major in "$@"; do
    SOURCE_PG_CONFIG=$(tests/support/server.sh "$major")
    export SOURCE_PG_CONFIG
    echo "source: $("$SOURCE_PG_CONFIG" --version)"
    tests/support/pgtap.sh "$run/$major" "$PWD/tests/pgtap/31_old_sources.sql" || failed=1
    tests/support/cluster.sh stop-all "$run/$major"
done
exit $failed
