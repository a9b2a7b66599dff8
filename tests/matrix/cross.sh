#!/usr/bin/env bash
# Every behaviour between two versions of PostgreSQL, each of which has a Debian of its own (chroot.sh); as root.
#
# Usage: cross.sh SOURCE DESTINATION [file …]      majors
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$1 destination=$2
shift 2
older=$((source < destination ? source : destination)) newer=$((source < destination ? destination : source))
if [ "${1:-}" != inside ]; then
    for major in $older $newer; do
        tests/support/chroot.sh "$major" tests/support/install.sh test
        tests/support/chroot.sh "$major" tests/support/build.sh
    done
    MIMEO_OLD=$older exec tests/support/chroot.sh "$newer" "$0" "$source" "$destination" inside "$@"
fi
shift
run=$(mktemp -d /tmp/mimeo_cross.XXXXXX)
chmod 755 "$run"
# The library for JIT of the older PostgreSQL needs others that are not there.
export PG_OPTIONS='jit = off'
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
. tests/matrix/old.sh
new=/usr/lib/postgresql/$newer/bin
if [ "$source" = "$older" ]; then
    export SOURCE_PG_CONFIG=$(config_of "$old") PG_CONFIG=$(config_of "$new")
else
    export SOURCE_PG_CONFIG=$(config_of "$new") PG_CONFIG=$(config_of "$old")
fi
echo "source: $("$SOURCE_PG_CONFIG" --version); destination: $("$PG_CONFIG" --version)"
tests/support/pgtap.sh "$run/pgtap" "$@"
