#!/usr/bin/env bash
# Runs a command of this project on another system, which has another PostgreSQL: 14 and 16 are those of Ubuntu 22.04 and 24.04,
# 17 is that of Debian 13, 18 that of sid. It is made
# once by debootstrap and kept in a folder; what is mounted into it is gone when the command ends, whatever happens.
#
# Usage: chroot.sh MAJOR command…        in the project's folder, as root; PG_MAJOR is set, and CARGO_TARGET_DIR is the chroot's own
# This machine's own /usr is at /old there, for updates from its PostgreSQL.
# MIMEO_CHROOTS: where they are kept (/var/cache/mimeo).
set -euo pipefail
major=$1
shift
options=() keyring= script=/usr/share/debootstrap/scripts/sid
mirror=http://deb.debian.org/debian
case $major in
14) suite=jammy ;;
16) suite=noble ;;
17) suite=trixie ;;
18) suite=sid ;;
*) echo "mimeo: no system is known that has PostgreSQL $major" >&2; exit 1 ;;
esac
case $suite in
jammy | noble)
    mirror=http://archive.ubuntu.com/ubuntu script=/usr/share/debootstrap/scripts/gutsy
    keyring=${MIMEO_CHROOTS:-/var/cache/mimeo}/ubuntu-archive-keyring.gpg
    options=(--components=main,universe --keyring="$keyring")
    ;;
esac
if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env=MIMEO_CHROOTS "$0" "$major" "$@"; fi
project=$(cd "$(dirname "$0")/../.." && pwd)
root=${MIMEO_CHROOTS:-/var/cache/mimeo}/pg$major

if [ ! -e "$root/complete" ]; then
    [ -x /usr/sbin/debootstrap ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; }
    mkdir -p "$(dirname "$root")"
    if [ -n "$keyring" ] && [ ! -e "$keyring" ]; then
        # Debian has no package of Ubuntu's keys; this one is known by its sum.
        got=$(mktemp -d)
        wget -q -O "$got/keyring.deb" "$mirror/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
        echo "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $got/keyring.deb" | sha256sum --check --quiet
        dpkg-deb -x "$got/keyring.deb" "$got/files"
        cp "$got/files/usr/share/keyrings/ubuntu-archive-keyring.gpg" "$keyring"
        rm -rf "$got"
    fi
    rm -rf "$root"
    mkdir -p "$root"
    packages=postgresql-$major,postgresql-server-dev-$major,postgresql-$major-pgtap,libtap-parser-sourcehandler-pgtap-perl
    packages=$packages,postgresql-$major-mimeo,libpq-dev,gcc,libc6-dev,make,perl,clang,libclang-dev,pkg-config,ca-certificates
    echo "mimeo: making an installation of $suite with PostgreSQL $major (about two minutes, once)"
    debootstrap --variant=minbase --include="$packages" "${options[@]}" "$suite" "$root" "$mirror" "$script" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; exit 1; }
    touch "$root/complete"
fi
cargo=${CARGO_HOME:-$HOME/.cargo} rustup=${RUSTUP_HOME:-$HOME/.rustup}
mkdir -p "$root/project" "$root/cargo" "$root/rustup" "$root/root/.pgrx" "$root/old"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
export root project cargo rustup major
# A mount namespace of its own: it ends with its last process.
exec unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    mount --make-rprivate /
    mount --bind "$project" "$root/project"
    mount --bind "$cargo" "$root/cargo"
    mount --bind "$rustup" "$root/rustup"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm" 2>/dev/null || true
    mount --bind /usr "$root/old"
    exec chroot "$root" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 CARGO_HOME=/cargo RUSTUP_HOME=/rustup \
        PATH=/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin PG_MAJOR="$major" CARGO_TARGET_DIR="/project/target/pg$major" \
        MIMEO_RUN_DIR="${MIMEO_RUN_DIR:-}" bash -euo pipefail -c "cd /project && exec \"\$@\"" bash "$@"
' bash "$@"
