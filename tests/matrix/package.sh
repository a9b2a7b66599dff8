#!/usr/bin/env bash
# The Debian package in a Debian that was just made and has nothing of this project: over the packages of 1.5.1 and of the last release,
# whose jobs go on after ALTER EXTENSION UPDATE, and with the first lines of README.md by a role that is no superuser.
#
# Usage: package.sh [MAJOR]        15 (Debian 12), 17 (Debian 13), 18 (sid) or 19 (experimental, with neither of the older ones); as root
set -euo pipefail
cd "$(dirname "$0")/../.."
major=${1:-15} released=2.1.0
case $major in
15) suite=bookworm ;;
17) suite=trixie ;;
18) suite=sid ;;
19) suite=sid released= ;;
*) echo "mimeo: no release of Debian has PostgreSQL $major" >&2; exit 1 ;;
esac

# Runs bash in that Debian, with what it reads from standard input.
inside() { PASS="major port released" tests/support/system.sh run "$root" -- bash -euo pipefail -s; }

[ -z "$released" ] || before=$(tests/matrix/released_deb.sh "$released" "$major")
rm -f "target/deb/postgresql-$major-mimeo_"*.deb
make deb PG="$major" >/dev/null
package=$(find "$PWD/target/deb" -name "postgresql-$major-mimeo_*.deb")
root=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_package.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)->sockport')
export root major port released
tests/support/system.sh make "$suite" "$root"
[ "$major" != 19 ] || tests/support/system.sh experimental "$root" postgresql-19
cp "$package" "$root/mimeo.deb"
[ -z "$released" ] || cp "$before" "$root/released.deb"
# Nothing is started by itself.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

inside <<'INSIDE'
say() { echo "ok - $*"; }
ask() { (cd / && runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 -p "$port" "$@"); }
is() { # is GOT WANTED WHAT
    if [ "$1" = "$2" ]; then say "$3"; else printf 'not ok - %s\n  got:    %s\n  wanted: %s\n' "$3" "$1" "$2"; exit 1; fi
}
quiet() { "$@" >/tmp/log 2>&1 || { tail -n 30 /tmp/log >&2; exit 1; }; }

# The lists of sid are valid for a week, and a mirror may lag behind.
echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/90lagging
quiet apt-get update
quiet apt-get install -y --no-install-recommends "postgresql-$major"
[ -d "/etc/postgresql/$major/main" ] || quiet pg_createcluster "$major" main
pg_conftool "$major" main set port "$port"
quiet pg_ctlcluster "$major" main start

ask -d postgres -c "CREATE ROLE copier LOGIN PASSWORD 'secret'" -c "CREATE ROLE dba LOGIN PASSWORD 'secret'" \
    -c "CREATE DATABASE shop" -c "CREATE DATABASE old" -c "CREATE DATABASE released OWNER dba" -c "CREATE DATABASE reports OWNER dba"
ask -d shop -c "CREATE TABLE orders AS SELECT i AS id, now() AS placed FROM generate_series(1, 1000) i" -c "GRANT SELECT ON orders TO copier"
source="host=127.0.0.1 port=$port dbname=shop"
installed() { dpkg-query -W -f='${Version}' "postgresql-$major-mimeo" | cut -d- -f1; }
# over DATABASE REFRESH: the package over an older one, whose job goes on
rows=1000
over() {
    local before
    before=$(installed)
    quiet apt-get install -y --no-install-recommends /mimeo.deb
    version=$(installed)
    say "apt installs $version over $before"
    rows=$((rows + 1))
    ask -d shop -c "INSERT INTO orders VALUES ($rows, now())"
    ask -d "$1" -c "SET client_min_messages = warning" -c "ALTER EXTENSION mimeo UPDATE" -c "SELECT mimeo.$2('public.orders')" >/dev/null
    is "$(ask -d "$1" -c "SELECT count(*) || ' ' || (SELECT extversion FROM pg_extension WHERE extname = 'mimeo') FROM orders")" "$rows $version" \
        "ALTER EXTENSION mimeo UPDATE, and the job of $before goes on"
}

if [ -n "$released" ]; then
    quiet apt-get install -y --no-install-recommends "postgresql-$major-mimeo"
    is "$(installed)" 1.5.1 "the package of 1.5.1 is there"
    ask -d old >/dev/null <<SQL
CREATE SCHEMA dblink; CREATE EXTENSION dblink SCHEMA dblink; CREATE SCHEMA mimeo; CREATE EXTENSION mimeo SCHEMA mimeo;
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd) VALUES ('$source', 'copier', 'secret');
SET client_min_messages = warning; SELECT mimeo.snapshot_maker('public.orders', 1);
SQL
    is "$(ask -d old -c 'SELECT count(*) FROM orders')" $rows "1.5.1 has made a snapshot"
    over old refresh_snap

    # Sessions that had the newer library keep it: these are new.
    quiet apt-get install -y --no-install-recommends --allow-downgrades /released.deb
    is "$(installed)" "$released" "the package of $released is there"
    ask -d released >/dev/null <<SQL
SET client_min_messages = warning; CREATE EXTENSION mimeo;
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd) VALUES ('$source', 'copier', 'secret');
SELECT mimeo.snapshot_maker('public.orders', 1);
SQL
    is "$(ask -d released -c "SELECT count(*) || ' ' || (SELECT extversion FROM pg_extension WHERE extname = 'mimeo') FROM orders")" "$rows $released" \
        "$released has made a snapshot"
    over released refresh_snapshot
else
    quiet apt-get install -y --no-install-recommends /mimeo.deb
    say "apt installs $(installed)"
fi

# The first lines of SQL in README.md, with this source in place of the example's.
sed -n '/^```sql$/,/^```$/p' "/usr/share/doc/postgresql-$major-mimeo/README.md" | sed '/^```/d' |
    sed "s/host=shop dbname=shop/$source/; s/'…'/'secret'/" >/tmp/first.sql
is "$(grep -c . /tmp/first.sql)" 4 "README.md begins with four lines of SQL"
PGPASSWORD=secret psql -Xq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U dba -d reports -f /tmp/first.sql >/dev/null
is "$(ask -d reports -c 'SELECT count(*) FROM orders')" $rows "which work for a role that is no superuser"

quiet apt-get purge -y "postgresql-$major-mimeo"
is "$(find / -xdev -name '*mimeo*' ! -path '/proc/*' ! -path /mimeo.deb ! -path /released.deb ! -path '/var/cache/*' ! -path '/var/lib/apt/*' ! -path '/var/log/*' | head)" "" \
    "and nothing stays of the package when it is removed"
pg_ctlcluster "$major" main stop -m immediate
INSIDE
