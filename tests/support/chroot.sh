#!/usr/bin/env bash
# Runs a command of this project on another system, which has another PostgreSQL: 17 is that of Debian 13, 18 that of sid. It is made
# once by debootstrap and kept in a folder; what is mounted into it is gone when the command ends, whatever happens.
#
# Usage: chroot.sh MAJOR command…        in the project's folder, as root; PG_MAJOR is set, and CARGO_TARGET_DIR is the chroot's own
# This machine's own /usr is at /old there, for updates from its PostgreSQL.
# MIMEO_CHROOTS: where they are kept (/var/cache/mimeo).
set -euo pipefail
major=$1
shift
case $major in
17) suite=trixie ;;
18) suite=sid ;;
*)
    echo "mimeo: no release of Debian is known that has PostgreSQL $major; where its programs and headers are: PG_CONFIG=/path/to/pg_config" >&2
    exit 1
    ;;
esac
if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env=MIMEO_CHROOTS "$0" "$major" "$@"; fi
project=$(cd "$(dirname "$0")/../.." && pwd)
root=${MIMEO_CHROOTS:-/var/cache/mimeo}/pg$major

if [ ! -e "$root/complete" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    packages=postgresql-$major,postgresql-server-dev-$major,postgresql-$major-pgtap,libtap-parser-sourcehandler-pgtap-perl
    packages=$packages,postgresql-$major-mimeo,libpq-dev,gcc,libc6-dev,make,perl,clang,libclang-dev,pkg-config,ca-certificates
    "$project/tests/support/system.sh" make "$suite" "$root" "$packages"
    touch "$root/complete"
fi
mkdir -p "$root/root/.pgrx"
# The lists of sid are valid for a week, and a mirror may lag behind.
echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90lagging"
export PASS="PG_MAJOR MIMEO_RUN_DIR"
PG_MAJOR=$major exec "$project/tests/support/system.sh" run "$root" "$project:/project" "${CARGO_HOME:-$HOME/.cargo}:/cargo" \
    "${RUSTUP_HOME:-$HOME/.rustup}:/rustup" /usr:/old -- \
    CARGO_HOME=/cargo RUSTUP_HOME=/rustup PATH=/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR="/project/target/pg$major" \
    bash -euo pipefail -c 'cd /project && exec "$@"' bash "$@"
