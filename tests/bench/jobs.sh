#!/usr/bin/env bash
# Many small snapshot jobs: CALL run_refresh with one worker, with four, and one call of refresh_snapshot after the other.
#
# Usage: jobs.sh [jobs]        REPEAT=5 for more runs than three of each
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/bench/lib.sh"
jobs=${1:-50}

fill_source orders 1000
on_destination -d postgres <<SQL
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
