#!/usr/bin/env bash
# Runs a command of this project on another system, which has another PostgreSQL: 15 is that of Debian 12, 17 that of Debian 13, 18 that
# of sid, and 19 that of experimental. No Debian has 16: its server and its headers are packages of npm's and PyPI's (server.sh), on a
# Debian 12. A system is made once and kept in a folder; what is mounted into it is gone when the command ends, whatever happens.
#
# Usage: chroot.sh MAJOR command…        in the project's folder, as root; PG_MAJOR is set, and CARGO_TARGET_DIR is the chroot's own
#        chroot.sh MAJOR                 only makes it
# With MIMEO_OLD, a major: the /usr of its system, which is made, too, is at /old there; and the older servers of server.sh are where they are.
# MIMEO_CHROOTS: where all of it is kept (/var/cache/mimeo).
set -euo pipefail
major=$1
shift
like=$major
case $major in
15) suite=bookworm ;;
16) suite=bookworm like=15 ;;
17) suite=trixie ;;
18) suite=sid ;;
19) suite=sid like=18 ;;
*)
    echo "mimeo: nothing is known that has PostgreSQL $major, 15 to 19 are; where its programs and headers are: PG_CONFIG=/path/to/pg_config" >&2
    exit 1
    ;;
esac
if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env=MIMEO_CHROOTS,MIMEO_OLD,HOME,CARGO_HOME,RUSTUP_HOME "$0" "$major" "$@"; fi
project=$(cd "$(dirname "$0")/../.." && pwd)
chroots=${MIMEO_CHROOTS:-/var/cache/mimeo}
root=$chroots/pg$major

# The lists of sid are valid for a week, and a mirror may lag behind.
lagging() { echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90lagging"; }
inside() { PASS="" "$project/tests/support/system.sh" run "$root" -- bash -euo pipefail -c "$1"; }

if [ ! -e "$root/complete" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    packages=libtap-parser-sourcehandler-pgtap-perl,pgbouncer,libicu-dev,gcc,libc6-dev,make,perl,clang,libclang-dev,pkg-config,ca-certificates
    case $major in
    16) packages=$packages,postgresql-client-$like,libpq-dev ;;
    # What experimental brings, with its libpq, comes afterwards.
    19) ;;
    *) packages=$packages,postgresql-$major,postgresql-server-dev-$major,postgresql-$major-pgtap,postgresql-$major-mimeo,libpq-dev ;;
    esac
    "$project/tests/support/system.sh" make "$suite" "$root" "$packages"
    lagging
    case $major in
    16) MIMEO_SERVERS=$chroots/servers "$project/tests/support/server.sh" 16 "$root/usr/lib/postgresql/16" >/dev/null ;;
    19)
        "$project/tests/support/system.sh" experimental "$root" postgresql-19
        inside 'apt-get update -qq
            apt-get install -y -qq --no-install-recommends postgresql-19 postgresql-server-dev-19 libpq-dev >/dev/null'
        ;;
    esac
    # Extensions that are nothing but SQL serve other majors, too: where a major has no package of them, the next one's is taken.
    if [ "$like" != "$major" ]; then
        inside "to=\$(/usr/lib/postgresql/$major/bin/pg_config --sharedir)/extension
            cd \$(mktemp -d) && chmod 755 . && apt-get update -qq && apt-get download -qq postgresql-$like-pgtap postgresql-$like-mimeo
            for package in *.deb; do dpkg -x \$package .; done
            cp -n usr/share/postgresql/$like/extension/* \$to/"
    fi
    touch "$root/complete"
fi
[ $# -gt 0 ] || exit 0
mkdir -p "$root/root/.pgrx"
lagging
# Whom this machine trusts on the network, that one does, too.
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
binds=()
if [ -n "${MIMEO_OLD:-}" ]; then
    "$0" "$MIMEO_OLD"
    binds+=("$chroots/pg$MIMEO_OLD/usr:/old")
fi
mkdir -p "$chroots/servers"
binds+=("$chroots/servers:$chroots/servers")
# Its packages are there, and no archive has those of its major that install.sh would ask for.
PG_CONFIG=
[ "$like" = "$major" ] || PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config
export MIMEO_SERVERS=$chroots/servers PG_CONFIG PASS="PG_MAJOR PG_CONFIG MIMEO_RUN_DIR MIMEO_SERVERS MIMEO_OLD"
PG_MAJOR=$major exec "$project/tests/support/system.sh" run "$root" "$project:/project" "${CARGO_HOME:-$HOME/.cargo}:/cargo" \
    "${RUSTUP_HOME:-$HOME/.rustup}:/rustup" "${binds[@]}" -- \
    CARGO_HOME=/cargo RUSTUP_HOME=/rustup PATH=/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR="/project/target/pg$major" \
    bash -euo pipefail -c 'cd /project && exec "$@"' bash "$@"
