#!/usr/bin/env bash
# Every behaviour between two versions of PostgreSQL: this machine's 15, and that of a chroot.
#
# Usage: cross.sh MAJOR from|to [file …]      15 is the source (from), or the destination (to)
set -euo pipefail
cd "$(dirname "$0")/../.."
major=$1 direction=$2
shift 2
if [ "${1:-}" != inside ]; then
    tests/support/install.sh test
    tests/support/build.sh
    tests/support/chroot.sh "$major" tests/support/install.sh test
    tests/support/chroot.sh "$major" tests/support/build.sh
    exec tests/support/chroot.sh "$major" "$0" "$major" "$direction" inside "$@"
fi
shift
run=$(mktemp -d /tmp/mimeo_cross.XXXXXX)
chmod 755 "$run"
# The library for JIT of this machine's PostgreSQL needs others that are not there.
export PG_OPTIONS='jit = off'
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
. tests/matrix/old.sh
new=/usr/lib/postgresql/$major/bin
if [ "$direction" = from ]; then
    export SOURCE_PG_CONFIG=$(config_of "$old") PG_CONFIG=$(config_of "$new")
else
    export SOURCE_PG_CONFIG=$(config_of "$new") PG_CONFIG=$(config_of "$old")
fi
echo "source: $("$SOURCE_PG_CONFIG" --version); destination: $("$PG_CONFIG" --version)"
tests/support/pgtap.sh "$run/pgtap" "$@"
