#!/usr/bin/env bash
# README's commands on a machine that was just made: a Debian with make, a Rust toolchain by rustup, and nothing else. And with
# Debian's own Rust, which is too old: that it says so at once.
#
# Usage: newcomer.sh 12|13 [demo|test|rust …]        all three by default; as root. What is committed is tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=${1:-13}
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- rust demo test
case $release in
12) suite=bookworm ;;
13) suite=trixie ;;
*) echo "mimeo: Debian 12 or 13, not $release" >&2; exit 1 ;;
esac
root=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_newcomer.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
tests/support/system.sh make "$suite" "$root" make,ca-certificates
# Whom this machine trusts on the network, that one does, too.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rustup=${RUSTUP_HOME:-$HOME/.rustup}
failed=0

attempt() { # attempt TARGET EXIT_STATUS WHAT [NAME=VALUE …]: one command of README, with how long it took
    local started=$SECONDS status=0
    PASS= tests/support/system.sh run "$root" "$rustup:/root/.rustup" -- "${@:4}" \
        bash -euo pipefail -c 'cd /root/mimeo && make "$1"' bash "$1" </dev/null || status=$?
    if [ "$status" = "$2" ]; then
        echo "ok - Debian $release: make $1 $3 (exit status $status, $((SECONDS - started)) s)"
    else
        echo "not ok - Debian $release: make $1 $3: exit status $status instead of $2, after $((SECONDS - started)) s"
        failed=1
    fi
}
checkout() {
    rm -rf "$root/root/mimeo"
    mkdir -p "$root/root/mimeo"
    git archive HEAD | tar -x -C "$root/root/mimeo"
}

checkout
for what in "$@"; do
    case $what in
    rust)
        # In a copy of that Debian: what it installs is not on the machine that the other commands are tried on.
        cp -a --reflink=auto "$root" "$root.rust"
        whole=$root root=$root.rust
        trap 'rm -rf "$whole" "$whole.rust"' EXIT
        PASS= tests/support/system.sh run "$root" -- bash -euo pipefail -c \
            'apt-get update -qq && apt-get install -y -qq --no-install-recommends cargo rustc >/dev/null 2>&1; rustc --version'
        attempt demo 2 "says that Debian's own Rust is too old"
        root=$whole
        ;;
    demo | test)
        # rustup's programs, and nothing that cargo has installed since.
        mkdir -p "$root/root/.cargo/bin"
        cp -a "${CARGO_HOME:-$HOME/.cargo}/bin/rustup" "$root/root/.cargo/bin/"
        for program in cargo rustc rustfmt cargo-fmt cargo-clippy clippy-driver rustdoc; do ln -sf rustup "$root/root/.cargo/bin/$program"; done
        attempt "$what" 0 "works" PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        ;;
    esac
done
exit $failed
