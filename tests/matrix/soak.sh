#!/usr/bin/env bash
# A soak: all methods under DML and DDL at random, and every table compared, for as long as is wanted.
#
# Usage: soak.sh [SECONDS]        600
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/support/install.sh test
tests/support/build.sh
run=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_soak.XXXXXX")
chmod 755 "$run"
trap 'tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
export MIMEO_RUN_DIR=$run MIMEO_SOAK_SECONDS=${1:-600}
tests/support/cargo.sh test --quiet --package mimeo-tests --test soak -- --nocapture
