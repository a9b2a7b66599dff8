#!/usr/bin/env bash
# Deltas of a snapshot against copies of all rows of the same table, in turns: time, bytes over the wire, and WAL on the destination.
# Medians; REPEAT: rounds of each, 5.
#
# Usage: delta.sh [rows] [more rows]      1,000,000; 8,000,000 for the last table, 0 leaves it out
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
rows=${1:-1000000} more=${2:-8000000}
REPEAT=${REPEAT:-5}
. "$here/bench/lib.sh"

on_destination -d postgres -c 'CREATE EXTENSION mimeo' -c "
INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd) VALUES
    (1, 'host=127.0.0.1 port=$source_port dbname=postgres', 'copier', 'copier')"

jobs() { # table [data source]: a job that copies all rows, and one with delta
    on_destination -d postgres -c "SELECT mimeo.snapshot_maker('public.$1', ${2:-1}, 'public.$1_all')" \
        -c "SELECT mimeo.snapshot_maker('public.$1', ${2:-1}, 'public.$1_delta')" \
        -c "UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'public.$1_all'" \
        -c "SELECT mimeo.refresh_snapshot('public.$1_all', p_check_stats := false) FROM generate_series(1, 2)" >/dev/null
}
refresh() { # job file [settings]: its seconds, bytes over the wire, and bytes of WAL, as a line of the file
    on_destination -d postgres -c CHECKPOINT
    on_destination -d postgres <<SQL >>"$2"
${3:-}
SELECT pg_current_wal_insert_lsn() AS before \gset
SELECT mimeo.refresh_snapshot('public.$1', p_check_stats := false) \g /dev/null
SELECT concat_ws(' ', extract(epoch FROM ended - started), bytes, pg_current_wal_insert_lsn() - :'before'::pg_lsn, left(reason, 6) = 'delta:')
  FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1;
SQL
}
middle() { awk -v n="$1" '{ print $n }' "$2" | sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
line() { # what file-of-all file-of-delta
    local deltas
    deltas=$(awk '$4 == "t"' "$3" | wc -l)
    echo "$1 $(middle 1 "$2") $(middle 1 "$3") $(middle 2 "$2") $(middle 2 "$3") $(middle 3 "$2") $(middle 3 "$3") $deltas" |
        awk -F'\t' '{ split($2, v, " "); printf "| %s | %.3f | %.3f | %.2f | %.1f %% | %.1f %% | %d |\n", $1, v[1], v[2], v[2] / v[1], 100 * v[4] / v[3], 100 * v[6] / v[5], v[7] }'
}
measure() { # what table change [settings]: both jobs after each change, in turns
    local all=$dir/all.times delta=$dir/delta.times round
    : >"$all"; : >"$delta"
    for round in $(seq "$REPEAT"); do
        [ -z "$3" ] || on_source -c "${3//ROUND/$round}" -c CHECKPOINT >/dev/null
        refresh "$2_all" "$all" "${4:-}"
        refresh "$2_delta" "$delta" "${4:-}"
    done
    line "$1	" "$all" "$delta"
}

echo "| table, and what has changed | all rows, s | delta, s | delta to all | bytes | WAL | deltas of $REPEAT |"
echo "|---|---|---|---|---|---|---|"
fill_source orders "$rows"
jobs orders
name="$rows rows of 215 bytes"
measure "$name: nothing, without counters" orders ''
measure "$name: 0.01 %" orders "UPDATE orders SET score = ROUND WHERE id % 10000 = ROUND"
measure "$name: 1 %, the newest" orders "UPDATE orders SET score = ROUND WHERE id > $rows - $rows / 100"
measure "$name: 1 %, at random" orders "UPDATE orders SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 100 = 0"
measure "$name: 1 %, at random, deleted or inserted" orders "DELETE FROM orders WHERE hashint8(id + ROUND * 1000003) % 200 = 0;
    INSERT INTO orders SELECT $values FROM generate_series(ROUND * 100000000, ROUND * 100000000::bigint + $rows / 200) i"
measure "$name: 10 %, at random" orders "UPDATE orders SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 10 = 0"
measure "$name: 25 %, at random" orders "UPDATE orders SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 4 = 0"
measure "$name: all" orders "UPDATE orders SET score = ROUND"
# The same job, which copies all rows: what the hidden columns cost.
on_destination -d postgres -c "SELECT mimeo.refresh_snapshot('public.orders_delta', p_check_stats := false)" >/dev/null
measure "$name: all rows copied, with and without hidden columns" orders '' 'SET mimeo.delta_limit_percent = 0;'

# A link of 10 MB a second.
"$here/bench/slow_link.pl" "$source_port" 10000000 >"$dir/slow_port" &
slow=$!
trap 'kill $slow 2>/dev/null; "$cluster" stop-all "$dir"; rm -rf "$dir"' EXIT
until [ -s "$dir/slow_port" ]; do sleep 0.1; done
on_source -c "VACUUM FULL orders" -c "VACUUM ANALYZE orders"
on_destination -d postgres -c "UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'host=127.0.0.1 port=$(cat "$dir/slow_port") dbname=postgres', pwd = 'copier'" \
    -c "SELECT mimeo.refresh_snapshot('public.orders_delta', p_check_stats := false)" >/dev/null
REPEAT=$(((REPEAT + 1) / 2)) measure "the same over 10 MB/s: 1 %, at random" orders "UPDATE orders SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 100 = 0"
kill $slow

# A standby, which has no counters.
"$cluster" standby "$dir/standby" "$dir/source"
standby_port=$("$cluster" restart "$dir/standby")
on_destination -d postgres -c "UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'host=127.0.0.1 port=$standby_port dbname=postgres', pwd = 'copier'" \
    -c "SELECT mimeo.refresh_snapshot('public.orders_delta', p_check_stats := false)" >/dev/null
measure "from a standby: nothing" orders ''
"$cluster" stop "$dir/standby"
on_destination -d postgres -c "UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'host=127.0.0.1 port=$source_port dbname=postgres', pwd = 'copier'"
on_destination -d postgres -c "SELECT mimeo.snapshot_destroyer(dest_table, false) FROM mimeo.refresh_config" >/dev/null
on_source -c 'DROP TABLE orders'

# Rows of 1 kB, some of them with values in TOAST.
on_source -c "CREATE TABLE letters (id bigint PRIMARY KEY, score float8, text text)" -c "ALTER TABLE letters ALTER text SET STORAGE EXTERNAL" \
    -c "INSERT INTO letters SELECT i, 0, repeat(md5(i::text), CASE i % 10 WHEN 0 THEN 120 ELSE 28 END) FROM generate_series(1, $rows) i" \
    -c "CREATE INDEX ON letters (score)" -c "GRANT SELECT ON letters TO copier" -c "VACUUM ANALYZE letters"
jobs letters
measure "$rows rows of 1 kB, some in TOAST: 1 %, at random" letters "UPDATE letters SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 100 = 0"
on_destination -d postgres -c "SELECT mimeo.snapshot_destroyer(dest_table, false) FROM mimeo.refresh_config" >/dev/null
on_source -c 'DROP TABLE letters'

[ "$more" = 0 ] && exit
fill_source orders "$more"
jobs orders
name="$more rows of 215 bytes"
REPEAT=$(((REPEAT + 1) / 2))
measure "$name: 0.01 %" orders "UPDATE orders SET score = ROUND WHERE id % 10000 = ROUND"
measure "$name: 1 %, at random" orders "UPDATE orders SET score = ROUND WHERE hashint8(id + ROUND * 1000003) % 100 = 0"
