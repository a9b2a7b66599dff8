#!/usr/bin/env bash
# cargo, as every script here calls it: a Rust that Cargo.toml accepts, and pgrx has not declared, is told to build all the same.
#
# Usage: cargo.sh SUBCOMMAND…        clippy, test, install, pgrx package, …
set -euo pipefail
manifest=$(dirname "$(realpath "$0")")/../../Cargo.toml
declared=$(sed -n 's/^pgrx-rust-version *= *"\([0-9.]*\)".*/\1/p' "$manifest")
found=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
flag=()
[ "$(printf '%s\n%s\n' "$declared" "$found" | sort -V | head -n 1)" = "$declared" ] || flag=(--ignore-rust-version)
export PGRX_BUILD_FLAGS="${PGRX_BUILD_FLAGS:-} ${flag[*]}"
case $1 in
build | check | clippy | install | run | rustc | test) exec cargo "$1" "${flag[@]}" "${@:2}" ;;
*) exec cargo "$@" ;;
esac
