#!/usr/bin/env bash
# Installs what `make demo`, `make test` and `make bench` need and this machine lacks: PostgreSQL with its
# headers, clang for bindgen, pgTAP, and cargo-pgrx in the version that Cargo.toml names.
#
# Usage: install.sh [build|test|bench|fuzz]      (each kind includes build, and the others test)
# PG_MAJOR is the version of PostgreSQL (major.sh). PG_CONFIG chooses one that is there already; then its packages are the caller's.
set -euo pipefail
kind=${1:-test}
here=$(cd "$(dirname "$0")/../.." && pwd)
"$here/tests/support/toolchain.sh"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

lacking() { # the packages among the arguments that are not installed
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || echo "$package"
    done
}

install_packages() {
    local missing
    missing=$(lacking "$@" | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || { echo "mimeo: please install: $missing" >&2; exit 1; }
    as_root apt-get update -qq
    # shellcheck disable=SC2086
    as_root "$here/tests/support/alive.sh" "installing $missing" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}

PG_MAJOR=${PG_MAJOR:-15}
if [ -z "${PG_CONFIG:-}" ]; then
    packages="postgresql-$PG_MAJOR postgresql-server-dev-$PG_MAJOR libpq-dev libicu-dev gcc libc6-dev make perl clang libclang-dev pkg-config"
    # 1.5.1 is where updates begin.
    [ "$kind" = build ] || packages="$packages postgresql-$PG_MAJOR-pgtap libtap-parser-sourcehandler-pgtap-perl postgresql-$PG_MAJOR-mimeo pgbouncer"
    [ "$kind" != bench ] || packages="$packages pgcopydb bc"
    [ "$kind" != fuzz ] || packages="$packages g++"
    # shellcheck disable=SC2086
    install_packages $packages
    # One test needs it, and is left out where no archive has it.
    [ "$kind" = build ] || (install_packages "postgresql-$PG_MAJOR-cron") >/dev/null 2>&1 || echo "mimeo: pg_cron is not to be had" >&2
    PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
fi

version=$(sed -n 's/^pgrx *= *"=\([0-9.]*\)".*/\1/p' "$here/Cargo.toml")
if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $version" ]; then
    # Unoptimised it is there in half the time, and is as quick at what it does here.
    CARGO_PROFILE_DEV_DEBUG=0 "$here/tests/support/alive.sh" "installing cargo-pgrx $version (some minutes, once)" \
        "$here/tests/support/cargo.sh" install cargo-pgrx --version "$version" --locked --debug
fi
major=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
config=${PGRX_HOME:-$HOME/.pgrx}/config.toml
grep -q "^pg$major *= *\"$PG_CONFIG\"" "$config" 2>/dev/null || cargo pgrx init "--pg$major" "$PG_CONFIG" >/dev/null
