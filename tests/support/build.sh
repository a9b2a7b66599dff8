#!/usr/bin/env bash
# Builds the extension and installs it where PostgreSQL looks for it. A file that is there already and the same is not
# touched, and a new one takes its place in one step: another run may be using it.
set -euo pipefail
cd "$(dirname "$0")/../.."
PG_MAJOR=${PG_MAJOR:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
major=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
out=target/package/pg$major
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo pgrx package --no-default-features --features "pg$major" --pg-config "$PG_CONFIG" --out-dir "$out" >"$log" 2>&1 ||
    { cat "$log" >&2; exit 1; }
# The way here from 1.5.1: what has to be kept is put aside, 2.x is created as it always is, and what was kept comes back.
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
created=$(find "$out" -name "mimeo--$version.sql")
{
    cat sql/from_1.5.1/before.sql
    grep -v '^\\echo' "$created"
    cat sql/from_1.5.1/after.sql
} >"$(dirname "$created")/mimeo--1.5.1--$version.sql"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
(cd "$out" && find . -type f) | while read -r file; do
    target=${file#.}
    if ! cmp -s "$out/$file" "$target"; then
        as_root install -D -m 644 "$out/$file" "$target.new"
        as_root mv "$target.new" "$target"
    fi
done
