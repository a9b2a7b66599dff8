#!/usr/bin/env bash
# table, inserter and updater, by mimeo 2 and by mimeo 1.5.1, in one run on one machine, against the bare pipe. Prints a
# Markdown table: the median of several refreshes in seconds, and its ratio to the pipe.
#
# Usage: methods.sh [rows]      REPEAT: refreshes of each, 3
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
rows=${1:-1000000}
. "$here/bench/lib.sh"

for database in mimeo2 mimeo1 pipe; do on_destination -d postgres -c "CREATE DATABASE $database"; done
on_destination -d mimeo1 -c 'CREATE EXTENSION dblink'
install_mimeo mimeo2 ''
install_mimeo mimeo1 "VERSION '1.5.1'"
fill_source i "$rows"
fill_source u $((rows * 2))
# The second half of it has changed since.
changed="id > $rows"
for peer in mimeo2 mimeo1; do
    on_destination -d $peer -c "SELECT mimeo.table_maker('public.i', 1, 'public.whole')" \
        -c "SELECT mimeo.inserter_maker('public.i', 'serial', 'id', 1, '0', 'public.new', p_pulldata := false)" \
        -c "SELECT mimeo.updater_maker('public.u', 'serial', 'id', 1, '0', 'public.changed')" >/dev/null
    on_destination -d $peer -c 'VACUUM ANALYZE'
done
on_destination -d pipe -c "CREATE TABLE whole ($columns)" -c "CREATE TABLE new ($columns)" -c 'ALTER TABLE new ADD PRIMARY KEY (id)' \
    -c 'CREATE INDEX ON new (customer)' -c 'CREATE INDEX ON new (placed)' -c "CREATE TABLE changed ($columns)"

copy() { # source query, destination table
    on_source -c "COPY ($1) TO STDOUT (FORMAT binary)" | on_destination -d pipe -c "COPY $2 FROM STDIN (FORMAT binary)"
}
pipe_whole() { copy 'SELECT * FROM i' whole; }
pipe_new() { copy "SELECT * FROM i WHERE id < $rows" new; }
pipe_changed() { copy "SELECT * FROM u WHERE $changed" changed; }
before_pipe_whole() { on_destination -d pipe -c 'TRUNCATE whole'; }
before_pipe_new() { on_destination -d pipe -c 'TRUNCATE new'; }
before_pipe_changed() { on_destination -d pipe -c 'TRUNCATE changed'; }

mimeo2_table() { on_destination -d mimeo2 -c "SELECT mimeo.refresh_table('public.whole')"; }
mimeo1_table() { on_destination -d mimeo1 -c "SELECT mimeo.refresh_table('public.whole')"; }
mimeo2_inserter() { on_destination -d mimeo2 -c "SELECT mimeo.refresh_inserter('public.new')"; }
mimeo1_inserter() { on_destination -d mimeo1 -c "SELECT mimeo.refresh_inserter('public.new')"; }
mimeo2_updater() { on_destination -d mimeo2 -c "SELECT mimeo.refresh_updater('public.changed')"; }
mimeo1_updater() { on_destination -d mimeo1 -c "SELECT mimeo.refresh_updater('public.changed')"; }
before_mimeo2_table() { :; }
before_mimeo1_table() { :; }
before_mimeo2_inserter() { on_destination -d mimeo2 -c 'TRUNCATE new' -c "UPDATE mimeo.refresh_config SET last_value = '0' WHERE dest_table = 'public.new'"; }
before_mimeo1_inserter() { on_destination -d mimeo1 -c 'TRUNCATE new' -c "UPDATE mimeo.refresh_config_inserter_serial SET last_value = 0"; }
before_mimeo2_updater() {
    on_destination -d mimeo2 -c 'VACUUM ANALYZE changed'
    on_destination -d mimeo2 -c "UPDATE mimeo.refresh_config SET last_value = '$rows' WHERE dest_table = 'public.changed'"
}
before_mimeo1_updater() {
    on_destination -d mimeo1 -c 'VACUUM ANALYZE changed'
    on_destination -d mimeo1 -c "UPDATE mimeo.refresh_config_updater_serial SET last_value = $rows"
}

longest_wait() { # peer: the longest query of one reader while refresh_table runs, in ms
    local bin reader
    bin=$(pg_config --bindir)
    rm -f "$dir"/reader.*
    echo 'SELECT amount FROM whole WHERE id = 1;' >"$dir/read.sql"
    "$bin/pgbench" -n -c 1 -T 600 -f "$dir/read.sql" -l --log-prefix="$dir/reader" -h "$dir/destination" -p "$destination_port" \
        -U postgres "$1" >/dev/null 2>&1 &
    reader=$!
    "$1_table" >/dev/null
    sleep 1
    kill -TERM $reader
    wait $reader 2>/dev/null || true
    cat "$dir"/reader.* | awk '$3 > m { m = $3 } END { printf "%.1f", m / 1000 }'
}
echo "| refresh | | seconds | to the pipe |"
echo "|---|---|---|---|"
run_peers pipe_whole mimeo2_table mimeo1_table
show "table, $rows rows" pipe_whole "pipe_whole:the pipe, no index" "mimeo2_table:mimeo 2" "mimeo1_table:mimeo 1.5.1"
echo "| table, $rows rows | longest wait of a reader: mimeo 2 $(longest_wait mimeo2) ms, mimeo 1.5.1 $(longest_wait mimeo1) ms | | |"
run_peers pipe_new mimeo2_inserter mimeo1_inserter
show "inserter, $rows new rows" pipe_new "pipe_new:the pipe, into the same indexes" "mimeo2_inserter:mimeo 2" "mimeo1_inserter:mimeo 1.5.1"
before_mimeo2_inserter
echo "| inserter, $rows new rows | memory of the backend: $(memory mimeo2_inserter) MB | | |"
run_peers pipe_changed mimeo2_updater mimeo1_updater
show "updater, $rows changed of $((rows * 2)) rows" pipe_changed "pipe_changed:the pipe, no index" "mimeo2_updater:mimeo 2" "mimeo1_updater:mimeo 1.5.1"
before_mimeo2_updater
echo "| updater, $rows changed of $((rows * 2)) rows | memory of the backend: $(memory mimeo2_updater) MB | | |"
