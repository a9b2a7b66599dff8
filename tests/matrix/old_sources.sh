#!/usr/bin/env bash
# Sources of older PostgreSQL: every method against real servers of 10 to 14, with the destination's PostgreSQL in a Debian of its own.
#
# Usage: old_sources.sh [DESTINATION [MAJOR …]]        15, and 10 11 12 13 14, by default; as root
set -euo pipefail
cd "$(dirname "$0")/../.."
destination=${1:-15}
[ $# = 0 ] || shift
if [ "${1:-}" != inside ]; then
    [ $# -gt 0 ] || set -- 10 11 12 13 14
    for major in "$@"; do MIMEO_SERVERS=${MIMEO_CHROOTS:-/var/cache/mimeo}/servers tests/support/server.sh "$major" >/dev/null; done
    tests/support/chroot.sh "$destination" tests/support/install.sh test
    tests/support/chroot.sh "$destination" tests/support/build.sh
    exec tests/support/chroot.sh "$destination" "$0" "$destination" inside "$@"
fi
shift
run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_old_sources.XXXXXX")
chmod 755 "$run"
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
failed=0
for major in "$@"; do
    SOURCE_PG_CONFIG=$(tests/support/server.sh "$major")
    export SOURCE_PG_CONFIG
    echo "source: $("$SOURCE_PG_CONFIG" --version)"
    tests/support/pgtap.sh "$run/$major" "$PWD/tests/pgtap/31_old_sources.sql" || failed=1
    tests/support/cluster.sh stop-all "$run/$major"
done
exit $failed
