#!/usr/bin/env bash
# The Debian package of a version that was released, built from its own sources with what they name. Prints its path.
#
# Usage: released_deb.sh VERSION MAJOR        as root
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$1 major=$2
package=$PWD/target/released/postgresql-$major-mimeo_$version-1_$(dpkg --print-architecture).deb
if [ ! -e "$package" ]; then
    commit=$(git log -1 --format=%H --grep="^Release ${version//./\\.}\$")
    [ -n "$commit" ] || { echo "mimeo: no commit says that it is release $version" >&2; exit 1; }
    sources=target/released/$version-$major
    rm -rf "$sources"
    mkdir -p "$sources"
    git archive "$commit" | tar -x -C "$sources"
    # shellcheck disable=SC2016
    tests/support/chroot.sh "$major" bash -euo pipefail -c '
        cd "$1"
        export CARGO_INSTALL_ROOT=/project/target/released/tools CARGO_TARGET_DIR=/project/target/released/pg$2
        export PATH=$CARGO_INSTALL_ROOT/bin:$PATH PGRX_HOME=/root/.pgrx_released
        mkdir -p "$PGRX_HOME"
        tests/support/install.sh build
        tests/support/deb.sh /project/target/released' bash "$sources" "$major" >&2
fi
echo "$package"
