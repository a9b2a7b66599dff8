#!/usr/bin/env bash
# pg_upgrade, in a Debian that has the newer PostgreSQL: jobs, sources, sequences and state stay, the next refresh of every job works,
# and does not trust what it knew of the old cluster.
#
# Usage: pg_upgrade.sh [OLD NEW]        majors, 15 and 17; as root
set -euo pipefail
cd "$(dirname "$0")/../.."
older=${1:-15} newer=${2:-17}
if [ "${3:-}" != inside ]; then
    for major in $older $newer; do
        tests/support/chroot.sh "$major" tests/support/install.sh build
        tests/support/chroot.sh "$major" tests/support/build.sh
    done
    MIMEO_OLD=$older exec tests/support/chroot.sh "$newer" "$0" "$older" "$newer" inside
fi

new=/usr/lib/postgresql/$newer/bin
run=$(mktemp -d /tmp/mimeo_pg_upgrade.XXXXXX)
chmod 755 "$run"
# The library for JIT of the older PostgreSQL needs others that are not there.
export PG_OPTIONS='jit = off'
trap 'PG_CONFIG=$new/pg_config tests/support/cluster.sh stop-all "$run"; rm -rf "$run"' EXIT
. tests/matrix/old.sh
cluster() { PG_CONFIG=$(config_of "$1") tests/support/cluster.sh "${@:2}"; }
cluster "$old" start "$run/old" >/dev/null
source_port=$(cluster "$new" start "$run/source")
on() { # on old|new|source DATABASE psql-arguments…
    psql -XqAt -v ON_ERROR_STOP=1 -h "$run/$1" -p "$(cat "$run/$1/port")" -U postgres -d "$2" "${@:3}"
}
failed=0
is() { # is GOT WANTED WHAT
    if [ "$1" = "$2" ]; then echo "ok - $3"; else printf 'not ok - %s\n  got:    %s\n  wanted: %s\n' "$3" "$1" "$2"; failed=1; fi
}

on source postgres <<'SQL'
CREATE ROLE reader LOGIN PASSWORD 'reader secret';
CREATE DATABASE app;
SQL
on source app <<'SQL'
CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO reader; CREATE SCHEMA mimeo AUTHORIZATION reader;
CREATE TABLE app.t (id serial PRIMARY KEY, v text NOT NULL, changed timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO app.t (v) SELECT 'v' || i FROM generate_series(1, 1000) i;
CREATE TYPE app.mood AS ENUM ('fine', 'well');
CREATE TABLE app.m (id int PRIMARY KEY, m app.mood); INSERT INTO app.m VALUES (1, 'fine');
GRANT SELECT, TRIGGER ON ALL TABLES IN SCHEMA app TO reader;
SQL
on old postgres -c "CREATE ROLE dba LOGIN" -c "CREATE DATABASE app OWNER dba"
on old app >/dev/null <<SQL
SET SESSION AUTHORIZATION dba;
CREATE EXTENSION mimeo; CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('fine', 'well');
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd) VALUES ('host=127.0.0.1 port=$source_port dbname=app', 'reader', 'reader secret');
SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap'), mimeo.snapshot_maker('app.m', 1), mimeo.snapshot_maker('app.t', 1, 'app.same'),
       mimeo.table_maker('app.t', 1, 'app.tab'), mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.ins'),
       mimeo.updater_maker('app.t', 'time', 'changed', 1, '0 seconds', 'app.upd'), mimeo.dml_maker('app.t', 1, 'app.d'), mimeo.logdel_maker('app.t', 1, 'app.l');
SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l');
UPDATE mimeo.refresh_config SET period = '1 hour';
UPDATE mimeo.refresh_config_snap SET keep_previous = true, max_shrink_percent = 90 WHERE dest_table = 'app.snap';
SQL
on source app -c "UPDATE app.t SET v = 'kept' WHERE id = 7"
on old app -c "SELECT mimeo.refresh_snapshot('app.snap')" >/dev/null
on source app -c "UPDATE app.t SET v = 'late', changed = clock_timestamp() WHERE id <= 10" -c "DELETE FROM app.t WHERE id = 500" \
    -c "INSERT INTO app.t (v) SELECT 'new' FROM generate_series(1, 50)"
jobs="SELECT md5(string_agg(c::text, E'\n' ORDER BY dest_table)) || ' ' || count(*) FROM mimeo.refresh_config c"
before=$(on old app -c "$jobs")
sources="SELECT string_agg(m::text, ' ') || (SELECT (last_value, is_called)::text FROM mimeo.dblink_mapping_mimeo_data_source_id_seq) FROM mimeo.dblink_mapping_mimeo m"
sources_before=$(on old app -c "$sources")

runuser -u postgres -- "$old/pg_ctl" -D "$run/old/data" -m fast -w stop >/dev/null
mkdir "$run/new"
chown postgres "$run/new"
# As the old cluster, which has none by default.
checksums=()
[ "$newer" -lt 18 ] || [ "$older" -ge 18 ] || checksums=(--no-data-checksums)
(cd "$run/new" && runuser -u postgres -- "$new/initdb" -D data -U postgres -E UTF8 --no-locale --no-sync "${checksums[@]}" >initdb.log 2>&1 &&
    runuser -u postgres -- env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" "$new/pg_upgrade" -b "$old" -B "$new" -d "$run/old/data" -D "$run/new/data" \
        -U postgres -s "$run/new" >upgrade.log 2>&1) || { cat "$run/new/upgrade.log" "$run"/new/data/pg_upgrade_output.d/*/log/* >&2; exit 1; }
cp "$run/old/data/pg_hba.conf" "$run/new/data/"
printf "listen_addresses = '127.0.0.1'\nunix_socket_directories = '%s'\n" "$run/new" >>"$run/new/data/postgresql.conf"
cp "$run/old/port" "$run/new/port"
cluster "$new" restart "$run/new" >/dev/null

is "$(on new app -c "$jobs")" "$before" "every job is there, with its values and its state"
is "$(on new app -c "$sources")" "$sources_before" "and the sources"
is "$(on new app -c "SELECT count(*) FROM app.snap WHERE v = 'kept'")" 1 "with the data"
refreshes="SELECT mimeo.refresh_snapshot('app.snap'), mimeo.refresh_snapshot('app.same'), mimeo.refresh_snapshot('app.m'), mimeo.refresh_table('app.tab'),
    mimeo.refresh_inserter('app.ins'), mimeo.refresh_updater('app.upd'), mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')"
on new app -c "SET SESSION AUTHORIZATION dba" -c "$refreshes" >/dev/null
is "$(on new app -c "SELECT string_agg(dest_table || ' ' || status, ', ' ORDER BY run_id) FROM (SELECT * FROM mimeo.run_history ORDER BY run_id DESC LIMIT 8) h")" \
    "app.snap ok, app.same ok, app.m ok, app.tab ok, app.ins ok, app.upd ok, app.d ok, app.l ok" "the next refresh of every job works"
is "$(on new app -c "SELECT split_part(reason, ';', 1) FROM mimeo.run_history WHERE dest_table = 'app.m' ORDER BY run_id DESC LIMIT 1")" \
    "copied: the live twin is not as the last refresh left it" "and does not skip what it knew from the old cluster"
is "$(on new app -c "SELECT string_agg(rows::text, ' ') FROM mimeo.run_history WHERE dest_table IN ('app.d', 'app.l') AND run_id > (SELECT max(run_id) - 2 FROM mimeo.run_history)")" \
    "61 61" "the queues go on where they were"
digest() { echo "SELECT md5(string_agg((id, v, changed AT TIME ZONE 'UTC')::text, ' ' ORDER BY id)) FROM $1"; }
wanted=$(on source app -c "$(digest app.t)")
for table in app.snap app.same app.tab app.d "app.l WHERE mimeo_source_deleted IS NULL"; do
    is "$(on new app -c "$(digest "$table")")" "$wanted" "$table holds what the source holds"
done
is "$(on new app -c "SELECT count(*) FILTER (WHERE v = 'late') || ' ' || count(*) FROM app.upd")" "10 1050" "app.upd has what changed"
is "$(on new app -c "SELECT v FROM app.l WHERE mimeo_source_deleted IS NOT NULL")" "v500" "app.l keeps what was deleted"
on new app -c "SET SESSION AUTHORIZATION dba" -c "SELECT mimeo.refresh_snapshot('app.m')" >/dev/null
is "$(on new app -c "SELECT status FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")" skipped "from then on the new cluster's own proof counts"
exit $failed
