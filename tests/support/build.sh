#!/usr/bin/env bash
# Builds the extension and installs it where PostgreSQL looks for it. A file that is there already and the same is not
# touched, and a new one takes its place in one step: another run may be using it.
set -euo pipefail
cd "$(dirname "$0")/../.."
PG_MAJOR=${PG_MAJOR:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
major=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
out=target/package/pg$major
rm -rf "$out"
tests/support/alive.sh "building mimeo for PostgreSQL $major" \
    tests/support/cargo.sh pgrx package --no-default-features --features "pg$major" --pg-config "$PG_CONFIG" --out-dir "$out"
# Released scripts as they were released: what creates an older version, too.
cp sql/mimeo--*.sql "$(dirname "$(find "$out" -name mimeo.control)")/"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
(cd "$out" && find . -type f) | while read -r file; do
    target=${file#.}
    if ! cmp -s "$out/$file" "$target"; then
        as_root install -D -m 644 "$out/$file" "$target.new"
        as_root mv "$target.new" "$target"
    fi
done
