#!/usr/bin/env bash
# The same table, nine mixed columns and three indexes, copied by mimeo 2 and by its peers, in one run on one machine.
# Prints a Markdown table: the median of several copies in seconds, and its ratio to the bare pipe, which builds no index.
#
# Usage: snapshot.sh [rows …]      REPEAT: copies of each, 3
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- 100000 1000000 4000000
. "$here/bench/lib.sh"

mimeo2() { on_destination -d mimeo2 -c "SELECT mimeo.refresh_snapshot('public.t', p_check_stats := false)"; }
mimeo1() { on_destination -d mimeo1 -c "SELECT mimeo.refresh_snap('public.t', p_check_stats := false)"; }
matview() { on_destination -d matview -c "REFRESH MATERIALIZED VIEW m"; }
logical() {
    on_destination -d logical -c "CREATE SUBSCRIPTION s CONNECTION 'host=$dir/source port=$source_port user=postgres' PUBLICATION p"
    until [ "$(on_destination -d logical -c "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate IN ('s', 'r')")" = 1 ]; do
        sleep 0.05
    done
}
copydb() {
    runuser -u postgres -- env HOME="$dir/copydb_home" pgcopydb clone --source "host=$dir/source port=$source_port user=postgres dbname=postgres" \
        --target "host=$dir/destination port=$destination_port user=postgres dbname=copydb" --dir "$dir/copydb_work" \
        --drop-if-exists --restart --no-acl --no-owner
}
pipe() {
    on_source -c 'COPY t TO STDOUT (FORMAT binary)' | on_destination -d pipe -c 'COPY t FROM STDIN (FORMAT binary)'
}
before_mimeo2() { :; }
before_mimeo1() { :; }
before_matview() { :; }
before_logical() {
    on_destination -d logical -c 'DROP SUBSCRIPTION IF EXISTS s'
    on_destination -d logical -c 'TRUNCATE t'
}
before_copydb() { rm -rf "$dir/copydb_work"; }
before_pipe() { on_destination -d pipe -c 'TRUNCATE t'; }

for database in mimeo2 mimeo1 matview logical copydb pipe; do on_destination -d postgres -c "CREATE DATABASE $database"; done
mkdir -p "$dir/copydb_home"
[ "$(id -u)" != 0 ] || chown -R postgres "$dir"

echo "| rows | | seconds | to the pipe |"
echo "|---|---|---|---|"
for rows in "$@"; do
    on_source -c 'DROP PUBLICATION IF EXISTS p'
    fill_source t "$rows"
    on_source -c 'CREATE PUBLICATION p FOR TABLE t'
    for peer in mimeo2 mimeo1; do
        on_destination -d $peer -c 'DROP EXTENSION IF EXISTS mimeo' -c 'DROP VIEW IF EXISTS t' -c 'DROP TABLE IF EXISTS t_snap1, t_snap2'
    done
    install_mimeo mimeo2 ''
    on_destination -d mimeo1 -c 'CREATE EXTENSION IF NOT EXISTS dblink'
    install_mimeo mimeo1 "VERSION '1.5.1'"
    for peer in mimeo2 mimeo1; do on_destination -d $peer -c "SELECT mimeo.snapshot_maker('public.t', 1)" >/dev/null; done
    on_destination -d matview -c 'DROP EXTENSION IF EXISTS postgres_fdw CASCADE' -c 'CREATE EXTENSION postgres_fdw' \
        -c "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$source_port', dbname 'postgres', fetch_size '10000')" \
        -c "CREATE USER MAPPING FOR postgres SERVER s OPTIONS (user 'copier', password 'copier')" \
        -c "CREATE FOREIGN TABLE f ($columns) SERVER s OPTIONS (schema_name 'public', table_name 't')" \
        -c 'CREATE MATERIALIZED VIEW m AS SELECT * FROM f WITH NO DATA' -c 'CREATE UNIQUE INDEX ON m (id)' \
        -c 'CREATE INDEX ON m (customer)' -c 'CREATE INDEX ON m (placed)'
    on_destination -d logical -c 'DROP SUBSCRIPTION IF EXISTS s'
    on_destination -d logical -c 'DROP TABLE IF EXISTS t' -c "CREATE TABLE t ($columns)" -c 'ALTER TABLE t ADD PRIMARY KEY (id)' \
        -c 'CREATE INDEX ON t (customer)' -c 'CREATE INDEX ON t (placed)'
    on_destination -d pipe -c 'DROP TABLE IF EXISTS t' -c "CREATE TABLE t ($columns)"

    run_peers pipe mimeo2 matview copydb logical mimeo1
    before_logical
    show "$rows" pipe "pipe:psql to psql, binary, no index" "mimeo2:mimeo 2 snapshot" "matview:materialized view over postgres_fdw" \
        "copydb:pgcopydb clone" "logical:logical replication, initial sync" "mimeo1:mimeo 1.5.1 snapshot"
    on_destination -d mimeo2 -c "SELECT mimeo.refresh_snapshot('public.t')" >/dev/null
    # What the copies left to be written is not what a skipped refresh waits for.
    on_source -c CHECKPOINT
    on_destination -d mimeo2 -c CHECKPOINT
    for _ in 1 2 3 4 5; do on_destination -d mimeo2 -c "SELECT mimeo.refresh_snapshot('public.t')" >/dev/null; done
    skipped=$(on_destination -d mimeo2 -c "SELECT round((percentile_cont(0.5) WITHIN GROUP
        (ORDER BY extract(epoch FROM ended - started)) * 1000)::numeric, 1) FROM mimeo.run_history WHERE status = 'skipped'")
    echo "| $rows | mimeo 2, memory of the backend: $(memory mimeo2) MB; a skipped refresh: $skipped ms | | |"
done
