#!/usr/bin/env bash
# All of the matrix: every test on PostgreSQL 15 to 19, behaviour between majors, old sources, packages, pg_upgrade, fuzzing, a soak, and
# the newest Rust. What is committed is tested, in a checkout of its own. A call that ended early is taken up by the next one: a part that has
# passed is run again only when something that it runs has changed since, or a Debian has another minor. At the end one line a part;
# docs/tested.md is written when all of them have passed.
#
# Usage: all.sh [PART …]        all of them by default; as root, for chroot
# MIMEO_SINCE: a commit; what has passed there or later counts, whatever has changed since: for who knows that it does not matter.
# MIMEO_LANES: how many parts run at once (2); two of them never in the same Debian.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=MIMEO_LANES,MIMEO_SINCE,MIMEO_CHROOTS,PATH,CARGO_HOME,RUSTUP_HOME,HOME "$0" "$@"
lanes=${MIMEO_LANES:-2}
commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain)" ] || echo "mimeo: there are changes that are not committed, and not tested either" >&2
here=$PWD
home=$PWD/target/test-all
checkout=$home/checkout state=$home/state
mkdir -p "$state"

# name | majors whose Debian it uses | minutes, about | command
parts() {
    cat <<'PARTS'
pg15|15|25|make test PG=15
pg16|16|25|make test PG=16
pg17|17|25|make test PG=17
pg18|18|25|make test PG=18
pg19|19|25|make test PG=19
cross-15-19|15 19|5|tests/matrix/cross.sh 15 19
cross-19-15|15 19|5|tests/matrix/cross.sh 19 15
cross-16-18|16 18|5|tests/matrix/cross.sh 16 18
cross-18-17|17 18|5|tests/matrix/cross.sh 18 17
sources-15|15|3|tests/matrix/old_sources.sh 15 10 11 12 13 14
sources-19|19|3|tests/matrix/old_sources.sh 19 10 11 12 13 14
package-15|15|10|tests/matrix/package.sh 15
package-17|17|8|tests/matrix/package.sh 17
package-19|19|4|tests/matrix/package.sh 19
pg_upgrade-15-17|15 17|3|tests/matrix/pg_upgrade.sh 15 17
pg_upgrade-15-19|15 19|3|tests/matrix/pg_upgrade.sh 15 19
pg_upgrade-18-19|18 19|3|tests/matrix/pg_upgrade.sh 18 19
soak|17|12|tests/support/chroot.sh 17 tests/matrix/soak.sh 600
fuzz|15|12|tests/support/chroot.sh 15 tests/fuzz/run.sh 60
newest-rust|18|4|tests/matrix/newest_rust.sh
PARTS
}
names() { parts | cut -d'|' -f1; }
of() { parts | awk -F'|' -v name="$1" -v field="$2" '$1 == name { print $field }'; } # of NAME FIELD
[ $# -gt 0 ] || mapfile -t wanted < <(names)
[ $# = 0 ] || wanted=("$@")
for name in "${wanted[@]}"; do
    [ -n "$(of "$name" 1)" ] || { echo "mimeo: there is no part $name; there are: $(names | tr '\n' ' ')" >&2; exit 1; }
done

# One call at a time: they share systems and artifacts.
exec 9>"$home/lock"
flock --nonblock 9 || { echo "mimeo: another call of test-all is at work" >&2; exit 1; }
[ -d "$checkout/.git" ] || git clone --quiet "$here" "$checkout"
git -C "$checkout" fetch --quiet "$here" "$commit"
git -C "$checkout" checkout --quiet --force --detach "$commit"
cd "$checkout"

# What a part runs: all that is committed but what no test reads, and of this folder only its own scripts; the servers, and the compiler.
key() {
    local command others='docs/(tested|versions|limits|CHANGELOG|contributing|architecture|benchmarks|choose|glossary|security|upgrade)\.md$|README\.md$|tests/(matrix|bench|demo)/'
    command=$(of "$1" 4)
    {
        echo "$command"
        git ls-tree -r HEAD | grep -vE $'\t'"($others)"
        for file in $(grep -oE 'tests/matrix/[a-z_]+\.sh' <<<"$command"); do
            git ls-tree HEAD "$file" tests/matrix/old.sh $([ "$file" != tests/matrix/package.sh ] || echo tests/matrix/released_deb.sh README.md)
        done
        for major in $(of "$1" 2); do cat "$state/minor-$major"; done
        rustc --version
    } | sha256sum | cut -c 1-16
}
passed() {
    local known at
    read -r known _ _ at 2>/dev/null <"$state/$1.passed" || return 1
    [ "$known" = "$(key "$1")" ] || { [ -n "${MIMEO_SINCE:-}" ] && git merge-base --is-ancestor "$MIMEO_SINCE" "$at" 2>/dev/null; }
}

# The newest minor of each major.
needed=$(for name in "${wanted[@]}"; do of "$name" 2; done | tr ' ' '\n' | sort -nu)
for major in $needed; do
    # shellcheck disable=SC2016
    tests/support/alive.sh "PostgreSQL $major: its Debian" tests/support/chroot.sh "$major" bash -c '
        apt-get update -qq && apt-get upgrade --with-new-pkgs -y -qq >/dev/null'
    # shellcheck disable=SC2016
    tests/support/chroot.sh "$major" bash -c '"/usr/lib/postgresql/$PG_MAJOR/bin/postgres" --version' |
        sed 's/.*PostgreSQL) \([^ ]*\).*/\1/' >"$state/minor-$major"
done

# What was tested, in words.
minor() { cat "$state/minor-$1"; }
about() {
    local name=$1 log=$state/$1.log
    case $name in
    pg*[0-9]) [[ "$name" == pg_upgrade* ]] && echo "from $(minor "$(cut -d- -f2 <<<"$name")") to $(minor "$(cut -d- -f3 <<<"$name")")" || echo "PostgreSQL $(minor "${name#pg}")" ;;
    cross-*) sed -n 's/^source: PostgreSQL \(.*\); destination: PostgreSQL \(.*\)$/source \1, destination \2/p; s/^source: postgres (PostgreSQL) \([^ ]*\).*; destination: postgres (PostgreSQL) \([^ ]*\).*/source \1, destination \2/p' "$log" | head -n 1 ;;
    sources-*) echo "sources $(sed -n 's/^source: PostgreSQL //p' "$log" | sed 's/\.0$//' | tr '\n' ' ')to $(minor "${name#sources-}")" ;;
    package-*) sed -n 's/^ok - apt installs //p' "$log" | paste -sd, | sed "s/,/, /g; s/^/PostgreSQL $(minor "${name#package-}"): /" ;;
    newest-rust) sed -n 's/^\(rustc [0-9.]*\).*/\1/p' "$log" | head -n 1 ;;
    soak) echo "ten minutes, PostgreSQL $(minor 17)" ;;
    fuzz) echo "a minute for each target" ;;
    esac
}

pending=()
for name in "${wanted[@]}"; do passed "$name" || pending+=("$name"); done
ran=${#pending[@]}
declare -A running=() began=()
stop() {
    for pid in "${!running[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    wait
}
trap stop EXIT
trap 'exit 130' INT TERM
free() { # whether no part at work uses a Debian that this one does
    local mine=" $(of "$1" 2) " pid major
    for pid in "${!running[@]}"; do
        for major in $(of "${running[$pid]}" 2); do [[ "$mine" != *" $major "* ]] || return 1; done
    done
}
while [ ${#pending[@]} -gt 0 ] || [ ${#running[@]} -gt 0 ]; do
    rest=()
    for name in "${pending[@]}"; do
        if [ ${#running[@]} -lt "$lanes" ] && free "$name"; then
            echo "mimeo: $name (about $(of "$name" 3) min)" >&2
            rm -f "$state/$name.failed"
            # The lock is theirs, too: whoever comes after a call that was killed waits for them.
            setsid bash -c "$(of "$name" 4)" >"$state/$name.log" 2>&1 </dev/null &
            running[$!]=$name
            began[$name]=$SECONDS
        else
            rest+=("$name")
        fi
    done
    pending=("${rest[@]}")
    status=0
    wait -n -p pid || status=$?
    name=${running[$pid]}
    unset "running[$pid]"
    seconds=$((SECONDS - ${began[$name]}))
    if [ $status = 0 ]; then
        about "$name" >"$state/$name.about"
        echo "$(key "$name") $seconds $(date -u +%F) ${commit:0:12}" >"$state/$name.passed"
        echo "mimeo: $name passed in $seconds s" >&2
    else
        echo "$seconds $status" >"$state/$name.failed"
        echo "mimeo: $name failed after $seconds s, exit status $status: $state/$name.log" >&2
    fi
done

failed=0
echo "mimeo: this call took $((SECONDS / 60)) min, for $ran of ${#wanted[@]} parts; the others had passed before" >&2
for name in "${wanted[@]}"; do
    if passed "$name"; then
        printf 'ok - %s: %s (%s s)\n' "$name" "$(cat "$state/$name.about")" "$(cut -d' ' -f2 "$state/$name.passed")"
    else
        printf 'not ok - %s: %s\n' "$name" "$state/$name.log"
        failed=1
    fi
done

all=1
for name in $(names); do passed "$name" || all=0; done
if [ $all = 1 ]; then
    {
        echo "# What was last tested"
        echo
        echo "\`make test-all\` at commit \`${commit:0:12}\`. A part that passed at an earlier commit was not run again, where what has changed since does not touch what it runs."
        echo
        echo "| Part | What | Seconds | Date | Commit |"
        echo "|---|---|---|---|---|"
        for name in $(names); do
            read -r _ seconds date at <"$state/$name.passed"
            echo "| $name | $(cat "$state/$name.about") | $seconds | $date | \`$at\` |"
        done
        echo
        echo "pgNN is every test of \`make test\` in a Debian that has that major: 15 of Debian 12, 17 of Debian 13, 18 of sid, 19 of experimental, 16 put"
        echo "together of packages of npm's and PyPI's. A cross is every behaviour in SQL, from a source of the first major to a destination of the second."
        echo "Parts run two or three at a time on two cores, which is why their seconds add up to more than the whole takes."
    } >"$here/docs/tested.md"
    echo "mimeo: all parts have passed at ${commit:0:12}; docs/tested.md says so"
fi
exit $failed
