#!/usr/bin/env bash
# Two clusters, a table of two million rows that is written to all the time, and a snapshot of it that is read all the
# time while it is refreshed.
#
# Usage: demo.sh [stop]      DEMO_DIR: where the clusters live; SCALE: pgbench's, 20 is 2,000,000 accounts
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
dir=${DEMO_DIR:-${TMPDIR:-/tmp}/mimeo_demo}
scale=${SCALE:-20}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config}
cluster="$here/support/cluster.sh"

stop() {
    "$cluster" stop-all "$dir"
    rm -rf "$dir"
}
if [ "${1:-}" = stop ]; then
    stop
    echo "The demo's clusters are stopped and removed."
    exit
fi

"$here/support/install.sh" build
bin=$("$PG_CONFIG" --bindir)
"$here/support/build.sh"
if [ -e "$dir" ]; then stop; fi
mkdir -p "$dir"
chmod 755 "$dir"
background=()
end() {
    local status=$?
    [ ${#background[@]} = 0 ] || kill "${background[@]}" 2>/dev/null || true
    [ $status = 0 ] || stop
}
trap end EXIT

echo "Starting a source and a destination cluster"
source_port=$("$cluster" start "$dir/source")
destination_port=$("$cluster" start "$dir/destination")
on_source() { psql -XqAt -v ON_ERROR_STOP=1 -h "$dir/source" -p "$source_port" -U postgres -d shop "$@"; }
as_dba() { PGPASSWORD=dba psql -Xq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$destination_port" -U dba -d reports "$@"; }

psql -Xq -h "$dir/source" -p "$source_port" -U postgres -c 'CREATE DATABASE shop'
echo "Filling the source: pgbench, scale $scale"
"$bin/pgbench" -i -q -s "$scale" -h "$dir/source" -p "$source_port" -U postgres shop >/dev/null 2>&1
on_source -c "CREATE ROLE copier LOGIN PASSWORD 'copier'" -c "GRANT SELECT ON pgbench_accounts TO copier"
psql -Xq -h "$dir/destination" -p "$destination_port" -U postgres \
    -c "CREATE ROLE dba LOGIN PASSWORD 'dba'" -c 'CREATE DATABASE reports OWNER dba'

echo "Making the job"
as_dba -At <<SQL
CREATE EXTENSION mimeo;
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
VALUES ('host=127.0.0.1 port=$source_port dbname=shop', 'copier', 'copier');
SELECT mimeo.snapshot_maker('public.pgbench_accounts', 1);
CREATE TABLE demo (step serial, what text, live text);
CREATE FUNCTION live() RETURNS text LANGUAGE sql AS \$\$
    SELECT c.relname FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid JOIN pg_class c ON c.oid = d.refobjid
     WHERE r.ev_class = 'pgbench_accounts'::regclass AND d.refclassid = 'pg_class'::regclass AND c.oid <> r.ev_class LIMIT 1
\$\$;
INSERT INTO demo (what, live) VALUES ('the maker pulls the first data', live());
SQL
step() { # what…: refreshes, and notes which twin is live
    echo "Refreshing: $1"
    as_dba -At -o /dev/null -c "SELECT mimeo.refresh_snapshot('public.pgbench_accounts')" -c "INSERT INTO demo (what, live) VALUES ('$1', live())"
}

echo "Starting a writer on the source, and two readers of the view"
writer_log=$dir/writer.log
"$bin/pgbench" -n -c 2 -T 3600 -h "$dir/source" -p "$source_port" -U postgres shop >"$writer_log" 2>&1 &
background+=($!)
writer=$!
cat >"$dir/read.sql" <<'SQL'
\set aid random(1, 100000 * :scale)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
SQL
mkdir "$dir/readers"
PGPASSWORD=dba "$bin/pgbench" -n -c 2 -j 2 -T 3600 -f "$dir/read.sql" -D scale="$scale" -l --log-prefix="$dir/readers/log" \
    -h 127.0.0.1 -p "$destination_port" -U dba reports >"$dir/readers.log" 2>&1 &
background+=($!)
readers=$!

updates() { on_source -c "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'"; }
for _ in 1 2 3; do
    # Sessions report what they changed about once a second; before that a refresh has nothing to go by.
    seen=$(updates)
    until [ "$(updates)" != "$seen" ]; do sleep 0.1; done
    step 'while the source is written to'
done
echo "Refreshing: four tables of one moment"
on_source -c "GRANT SELECT ON pgbench_tellers, pgbench_branches, pgbench_history TO copier"
as_dba -At -o /dev/null -c "SET client_min_messages = warning" \
    -c "SELECT mimeo.table_maker('public.pgbench_tellers', 1, p_group := 'bank'), mimeo.snapshot_maker('public.pgbench_branches', 1, p_group := 'bank'),
               mimeo.inserter_maker('public.pgbench_history', 'time', 'mtime', 1, p_group := 'bank')" \
    -c "UPDATE mimeo.refresh_config SET refresh_group = 'bank' WHERE dest_table = 'public.pgbench_accounts'"
balances() {
    as_dba -At -c "SELECT format('accounts %s, tellers %s, branches %s, history %s', (SELECT sum(abalance) FROM pgbench_accounts),
        (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history))"
}
apart=$(balances)
as_dba -At -o /dev/null -c "SELECT mimeo.refresh_group('bank')"
together=$(balances)
as_dba -At -c "UPDATE mimeo.refresh_config SET refresh_group = NULL WHERE dest_table = 'public.pgbench_accounts'"
kill "$writer" 2>/dev/null
wait "$writer" 2>/dev/null || true
on_source -c "DO \$\$ BEGIN PERFORM pg_stat_force_next_flush(); END \$\$" || true
step 'the writer has stopped'
until [ "$(as_dba -At -c "SELECT status FROM mimeo.run_history WHERE dest_table = 'public.pgbench_accounts' ORDER BY run_id DESC LIMIT 1")" = skipped ]; do
    step 'nothing has changed since'
done
on_source -c "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 100 = 0" -c "SELECT pg_stat_force_next_flush()" >/dev/null
step 'one percent of the rows were changed'
on_source -c "ALTER TABLE pgbench_accounts ADD note text DEFAULT 'new'"
step 'a column was added on the source'
if ! kill -0 "$readers" 2>/dev/null; then
    cat "$dir/readers.log" >&2
    exit 1
fi
kill "$readers"
wait "$readers" 2>/dev/null || true
read -r reads longest < <(cat "$dir"/readers/log* | awk '{ n++; if ($3 > m) m = $3 } END { print n, m / 1000 }')
differences=$(on_source -c "SELECT count(*), sum(abalance), md5(string_agg(note, '' ORDER BY aid)) FROM pgbench_accounts" |
    { read -r there; here_too=$(as_dba -At -c "SELECT count(*), sum(abalance), md5(string_agg(note, '' ORDER BY aid)) FROM pgbench_accounts"); [ "$there" = "$here_too" ] && echo none || echo "$there and $here_too"; })

echo
as_dba -P footer=off -P border=2 <<'SQL'
SELECT d.step, d.what, h.status, h.rows, round(extract(epoch FROM h.ended - h.started)::numeric, 2) AS seconds,
       round(h.bytes / 1e6, 1) AS "MB", d.live AS "live twin", split_part(h.reason, ';', 1) || coalesce('; ' || substring(h.reason FROM 'no delta: [^;]*'), '') AS how
  FROM demo d JOIN (SELECT row_number() OVER (ORDER BY run_id) AS step, * FROM mimeo.run_history
                      WHERE dest_table = 'public.pgbench_accounts' AND refresh_group IS NULL) h USING (step)
 ORDER BY d.step;
SQL
cat <<TEXT
Readers: $reads queries of the view meanwhile, none failed; the longest took $longest ms.
Differences between source and destination at the end: $differences.
Balances, which each transaction of the writer changes alike: each table alone: $apart;
  the four as a group: $together.

Both clusters are up. To look around:
  PGPASSWORD=dba psql -h 127.0.0.1 -p $destination_port -U dba reports
  psql -h $dir/source -p $source_port -U postgres shop
In the first one:
  SELECT * FROM mimeo.run_history;
  SELECT mimeo.refresh_snapshot('pgbench_accounts', p_debug := true);
To stop and remove them: make demo-stop
TEXT
[ "$differences" = none ]
