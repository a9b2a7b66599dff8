#!/usr/bin/env bash
# What keeps releases upgradable.
#
# Usage: release.sh check      every released script is as it was released, and there is a way from each release to the next
#                              and back, the one that is being made included
#        release.sh VERSION    after the checks and the tests of upgrades: freezes the script that creates this version, and
#                              adds it and the ways to it to the list of released scripts
# SQL_DIR is where the scripts are.
set -euo pipefail
cd "$(dirname "$0")/../.."
sql=${SQL_DIR:-sql}
fail() { echo "mimeo: $*" >&2; exit 1; }
current=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
released() { sed -n 's/^.*  mimeo--\([0-9.]*\)\.sql$/\1/p' "$sql/released.sha256" | grep -v -- --; }
is_released() { released | grep -qxF "$1"; }

check() {
    (cd "$sql" && sha256sum --check --quiet released.sha256) ||
        fail "a released script was changed: put it back, and write the change into the script from the last release to this one"
    local before=
    for version in $(released) $(is_released "$current" || echo "$current"); do
        for way in ${before:+"$before--$version" "$version--$before"}; do
            [ -s "$sql/mimeo--$way.sql" ] || fail "sql/mimeo--$way.sql is missing"
        done
        before=$version
    done
}

case ${1:-} in
check) check ;;
'') fail "which version? make release VERSION=$current" ;;
*)
    [ "$1" = "$current" ] || fail "Cargo.toml says version $current, not $1"
    ! is_released "$1" || fail "version $1 is released already"
    [ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed"
    check
    last=$(released | tail -n 1)
    grep -q "^const OLD: &str = \"$last\";" tests/release.rs || fail "tests/release.rs does not begin at $last, the last release"
    tests/support/build.sh
    run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_release.XXXXXX")
    chmod 755 "$run"
    trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
    MIMEO_RUN_DIR=$run tests/support/cargo.sh test --quiet --package mimeo-tests --test release --test upgrade
    created=$(find target/package -name "mimeo--$1.sql" | head -n 1)
    # Without what pgrx says of its own sources.
    grep -v -E '^/\* </?(begin|end) connected objects> \*/$|^-- src/[a-z_/]+\.rs:[0-9]+$' "$created" |
        awk '/^\/\*$/ { skip = 1 } !skip { print } /^\*\/$/ { skip = 0 }' | cat -s >"$sql/mimeo--$1.sql"
    (cd "$sql" && sha256sum "mimeo--$1.sql" "mimeo--$last--$1.sql" "mimeo--$1--$last.sql" >>released.sha256)
    echo "mimeo $1 is frozen. Now: git add sql && git commit -m 'Release $1' && git tag v$1, and raise the version in Cargo.toml."
    ;;
esac
