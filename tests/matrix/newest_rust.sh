#!/usr/bin/env bash
# The whole house under the newest stable Rust, which is that of Debian's sid: no warning of clippy's, and no file is formatted otherwise.
# The fuzz targets stand in for a server of 15, which sid has not: a nightly compiler builds them (tests/fuzz/run.sh).
#
# Usage: newest_rust.sh        as root
set -euo pipefail
cd "$(dirname "$0")/../.."
major=18
if [ "${1:-}" != inside ]; then
    tests/support/chroot.sh "$major" tests/support/install.sh build
    exec tests/support/chroot.sh "$major" "$0" inside
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends cargo rustc rust-clippy rustfmt >/dev/null
# Its own programs, also those that cargo calls, and artifacts of its own.
mkdir -p /root/newest_rust
ln -sfn "$CARGO_HOME/registry" /root/newest_rust/registry
export CARGO_HOME=/root/newest_rust PATH=/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR=/project/target/newest_rust
rustc --version
cargo clippy --version
cargo fmt --check
tests/support/cargo.sh clippy --profile quick --workspace --all-targets --quiet --no-default-features --features "mimeo/pg_test pg$major" -- -D warnings
