#!/usr/bin/env bash
# Prints the major version of PostgreSQL that is built for: PG_CONFIG's, or the newest that is installed, or else the one that this
# release of Debian has.
set -euo pipefail
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# apt knows no package before its first update, which is no error either.
packaged() { { apt-cache depends postgresql 2>/dev/null || true; } | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1; }

if [ -n "${PG_CONFIG:-}" ]; then
    "$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'
    exit
fi
# On a machine without any PostgreSQL there is no such folder, which is no error.
major=$({ find /usr/lib/postgresql -mindepth 3 -maxdepth 3 -path '*/bin/postgres' 2>/dev/null || true; } | cut -d/ -f5 | sort -n | tail -n 1)
if [ -z "$major" ] && command -v apt-cache >/dev/null; then
    major=$(packaged)
    [ -n "$major" ] || { as_root apt-get update -qq >&2 && major=$(packaged); }
fi
echo "${major:-15}"
