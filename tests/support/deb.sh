#!/usr/bin/env bash
# A Debian package of what is built for one major version, named as Debian names them: it takes the place of the package of 1.5.1.
#
# Usage: deb.sh [OUT_DIR]        prints the path of the package; PG_MAJOR: 15
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/deb}
PG_MAJOR=${PG_MAJOR:-15}
tests/support/build.sh
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)-1
architecture=$(dpkg --print-architecture)
name=postgresql-$PG_MAJOR-mimeo
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
cp -r "target/package/pg$PG_MAJOR/usr" "$root/usr"
library=$(find "$root" -name mimeo.so)
strip --strip-unneeded "$library"
documents=$root/usr/share/doc/$name
mkdir -p "$documents" "$root/DEBIAN"
cp README.md "$documents/"
cp -r docs "$documents/docs"
gzip -9nc docs/CHANGELOG.md >"$documents/changelog.gz"
cat >"$documents/copyright" <<C
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: mimeo

Files: *
Copyright: the authors of mimeo
License: PostgreSQL

License: PostgreSQL
$(sed 's/^$/./; s/^/ /' docs/LICENSE)
C
# The C library's version is the one that it was built with.
libc=$(objdump -T "$library" | sed -n 's/.*GLIBC_\([0-9.]*\)[ )].*/\1/p' | sort -V | tail -n 1)
cat >"$root/DEBIAN/control" <<C
Package: $name
Version: $version
Architecture: $architecture
Section: database
Priority: optional
Maintainer: mimeo <mimeo@localhost>
Depends: postgresql-$PG_MAJOR, libc6 (>= $libc), libgcc-s1, libpq5
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Description: copies single tables from other PostgreSQL databases
 On a schedule, by pulling: the whole table behind a view that is swapped, only
 what is new, or every change through a queue. An extension of PostgreSQL; no
 replication slot, no daemon, no superuser.
C
chmod -R u=rwX,go=rX "$root"
mkdir -p "$out"
dpkg-deb --root-owner-group --build "$root" "$out/${name}_${version}_$architecture.deb" >/dev/null
echo "$out/${name}_${version}_$architecture.deb"
