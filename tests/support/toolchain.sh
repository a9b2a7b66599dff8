#!/usr/bin/env bash
# Whether the Rust on this machine builds mimeo and its tests: said before anything is installed or built.
#
# Usage: toolchain.sh
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$here/Cargo.toml" | head -n 1)
how="With rustup: rustup update stable. Without: get rustup from https://rustup.rs (Debian 13 also has a package: apt install rustup && rustup default stable), open a new shell, and call make again."

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    printf 'mimeo: Rust %s or newer is wanted, and there is no cargo or no rustc on this PATH.\n%s\n' "$wanted" "$how" >&2
    exit 1
fi
if ! found=$(rustc --version 2>&1); then
    printf 'mimeo: rustc does not run: %s\n%s\n' "$found" "$how" >&2
    exit 1
fi
number=$(echo "$found" | sed 's/^rustc \([0-9.]*\).*/\1/')
if [ "$(printf '%s\n%s\n' "$wanted" "$number" | sort -V | head -n 1)" != "$wanted" ]; then
    printf 'mimeo: Rust %s or newer is wanted, and %s is rustc %s.\n%s\n' "$wanted" "$(command -v rustc)" "$number" "$how" >&2
    exit 1
fi
