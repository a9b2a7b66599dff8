#!/usr/bin/env bash
# Many small snapshot jobs: CALL run_refresh with one worker, with four, and one call of refresh_snapshot after the other. Then a thousand
# that have not changed, in one session, and a group of ten tables against ten refreshes.
#
# Usage: jobs.sh [jobs]        REPEAT=5 for more runs than three of each; UNCHANGED=1000 ROWS=100000
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/bench/lib.sh"
jobs=${1:-50}

fill_source orders 1000
on_destination -d postgres -o /dev/null <<SQL
CREATE EXTENSION mimeo;
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
VALUES ('host=127.0.0.1 port=$source_port dbname=postgres', 'copier', 'copier');
SELECT mimeo.snapshot_maker('public.orders', 1, 'public.orders' || i) FROM generate_series(1, $jobs) i;
UPDATE mimeo.refresh_config SET period = '1 second', check_stats = false;
SQL

# A session for each job, as a crontab with a line for each has it.
one_by_one() {
    for i in $(seq "$jobs"); do on_destination -d postgres -c "SELECT mimeo.refresh_snapshot('public.orders$i')" >/dev/null; done
}
one_worker() { on_destination -d postgres -c "CALL mimeo.run_refresh()"; }
four_workers() { on_destination -d postgres -c "CALL mimeo.run_refresh(p_jobs := 4)"; }
all_due() { on_destination -d postgres -c "UPDATE mimeo.refresh_config SET last_run = NULL"; }
before_one_by_one() { all_due; }
before_one_worker() { all_due; }
before_four_workers() { all_due; }
run_peers one_by_one one_worker four_workers

echo "| $jobs jobs of 1000 rows | | seconds | to one by one |"
echo "|---|---|---|---|"
show "$jobs jobs" one_by_one "one_by_one:refresh_snapshot, one session each" "one_worker:CALL run_refresh()" \
    "four_workers:CALL run_refresh(p_jobs := 4)"

# A thousand jobs that have not changed: all due.
unchanged=${UNCHANGED:-1000}
fill_source small 100
on_destination -d postgres -c "UPDATE mimeo.refresh_config SET period = NULL"
for i in $(seq 0 100 $((unchanged - 1))); do
    on_destination -d postgres -c "SELECT mimeo.snapshot_maker('public.small', 1, 'public.small' || i, p_period := '1 hour')
        FROM generate_series($i, $((i + 99))) i" >/dev/null
done
on_destination -d postgres -c "VACUUM ANALYZE"
all_small_due() { on_destination -d postgres -c "UPDATE mimeo.refresh_config SET last_run = NULL WHERE period IS NOT NULL"; }
all_unchanged() { on_destination -d postgres -c "CALL mimeo.run_refresh()"; }
status_of_all() { on_destination -d postgres -c "SELECT * FROM mimeo.job_status"; }
before_all_unchanged() { all_small_due; }
before_status_of_all() { :; }
run_peers all_unchanged status_of_all
on_destination -d postgres -c "SELECT 1 / (count(*) = 0)::int FROM mimeo.run_history
    WHERE dest_table LIKE 'public.small%' AND status <> 'skipped' AND run_id > (SELECT max(run_id) FROM mimeo.run_history) - $((unchanged * repeat))" >/dev/null

echo
echo "| $unchanged unchanged jobs | | seconds | |"
echo "|---|---|---|---|"
show "$unchanged jobs" all_unchanged "all_unchanged:CALL run_refresh(), one session" "status_of_all:SELECT * FROM job_status"

# A group of ten tables, all of which have changed.
rows=${ROWS:-100000}
on_destination -d postgres -c "UPDATE mimeo.refresh_config SET period = NULL"
for i in 1 2 3 4 5 6 7 8 9 10; do
    fill_source "wide$i" "$rows"
    on_destination -d postgres -c "SELECT mimeo.snapshot_maker('public.wide$i', 1, 'public.group$i', p_group := 'ten'), mimeo.snapshot_maker('public.wide$i', 1, 'public.alone$i')
        , mimeo.table_maker('public.wide$i', 1, 'public.tables$i', p_group := 'tables'), mimeo.table_maker('public.wide$i', 1, 'public.table_alone$i')" >/dev/null
done
on_destination -d postgres -c "UPDATE mimeo.refresh_config SET delta = NULL"
change_all() { # all rows count as changed
    for i in 1 2 3 4 5 6 7 8 9 10; do on_source -c "UPDATE wide$i SET paid = NOT paid WHERE id = 1; SELECT pg_stat_force_next_flush()" >/dev/null; done
}
group_of_snapshots() { on_destination -d postgres -c "SELECT mimeo.refresh_group('ten')"; }
snapshots_alone() { for i in 1 2 3 4 5 6 7 8 9 10; do on_destination -d postgres -c "SELECT mimeo.refresh_snapshot('public.alone$i')"; done; }
group_of_tables() { on_destination -d postgres -c "SELECT mimeo.refresh_group('tables')"; }
tables_alone() { for i in 1 2 3 4 5 6 7 8 9 10; do on_destination -d postgres -c "SELECT mimeo.refresh_table('public.table_alone$i')"; done; }
for peer in group_of_snapshots snapshots_alone group_of_tables tables_alone; do eval "before_$peer() { change_all; }"; done
run_peers group_of_snapshots snapshots_alone group_of_tables tables_alone

echo
echo "| ten tables of $rows rows | | seconds | to ten refreshes |"
echo "|---|---|---|---|"
show "10 x $rows rows" snapshots_alone "snapshots_alone:refresh_snapshot, one session each" "group_of_snapshots:refresh_group"
show "10 x $rows rows" tables_alone "tables_alone:refresh_table, one session each" "group_of_tables:refresh_group"
