# What the benchmarks share: two clusters of their own with the same settings, and how a copy is timed. To be sourced;
# `here` is the folder of the tests.
"$here/support/install.sh" bench
"$here/support/build.sh"
repeat=${REPEAT:-3}
dir=$(mktemp -d "${TMPDIR:-/tmp}/mimeo_bench.XXXXXX")
chmod 755 "$dir"
cluster="$here/support/cluster.sh"
trap '"$cluster" stop-all "$dir"; rm -rf "$dir"' EXIT

options=$'shared_buffers = 2GB\nmax_wal_size = 8GB'
PG_OPTIONS="$options"$'\nwal_level = logical' "$cluster" start "$dir/source" >"$dir/source_port"
PG_OPTIONS=$options "$cluster" start "$dir/destination" >"$dir/destination_port"
source_port=$(cat "$dir/source_port") destination_port=$(cat "$dir/destination_port")
on_source() { PGOPTIONS='-c client_min_messages=error' psql -XqAt -v ON_ERROR_STOP=1 -h "$dir/source" -p "$source_port" -U postgres "$@"; }
on_destination() { PGOPTIONS='-c client_min_messages=error' psql -XqAt -v ON_ERROR_STOP=1 -h "$dir/destination" -p "$destination_port" -U postgres "$@"; }
columns='id bigint, customer int, status text, amount numeric(12,2), placed timestamptz, due date, paid bool, score float8, note text'

seconds() { # command…: how long it takes
    local since
    since=$(date +%s.%N)
    "$@" >/dev/null 2>>"$dir/errors" || { tail -n 5 "$dir/errors" >&2; exit 1; }
    echo "$(date +%s.%N) - $since" | bc
}
median() { sort -n | awk '{ a[NR] = $1 } END { printf "%.2f\n", a[int((NR + 1) / 2)] }'; }


# Rows of about 215 bytes: the columns, and a query that makes them from a number i.
values="i, i % 50000, (ARRAY['new', 'paid', 'sent', 'returned'])[i % 4 + 1], (i % 100000) / 7.0,
        '2020-01-01'::timestamptz + i * interval '37 s', '2020-01-01'::date + (i % 2000)::int, i % 3 = 0, random(),
        repeat(md5(i::text), 4)"
fill_source() { # table rows
    on_source -c "DROP TABLE IF EXISTS $1" -c "CREATE TABLE $1 ($columns)" \
        -c "INSERT INTO $1 SELECT $values FROM generate_series(1, $2::bigint) i" -c "ALTER TABLE $1 ADD PRIMARY KEY (id)" \
        -c "CREATE INDEX $1_customer_idx ON $1 (customer)" -c "CREATE INDEX $1_placed_idx ON $1 (placed)" \
        -c "GRANT SELECT ON $1 TO copier"
    on_source -c "VACUUM ANALYZE $1"
}
run_peers() { # peer…: each copies as often as is asked, in turn; before_<peer> prepares a copy. What others left to be
              # written to the disk is written first.
    local peer
    for peer in "$@"; do : >"$dir/$peer.times"; done
    for _ in $(seq "$repeat"); do
        for peer in "$@"; do
            "before_$peer"
            on_destination -d postgres -c CHECKPOINT
            sync
            seconds "$peer" >>"$dir/$peer.times"
        done
    done
}
show() { # first column, peer of the floor, then peer:title…
    local what=$1 floor time
    floor=$(median <"$dir/$2.times")
    shift 2
    for peer in "$@"; do
        time=$(median <"$dir/${peer%%:*}.times")
        echo "| $what | ${peer#*:} | $time | $(echo "scale=2; $time / $floor" | bc) |"
    done
}
memory() { # command that refreshes: the largest anonymous memory of its backend, in MB
    "$1" >/dev/null &
    local refresh=$! pid='' most=0 now
    while kill -0 $refresh 2>/dev/null; do
        [ -n "$pid" ] || pid=$(on_destination -d postgres -c "SELECT pid FROM pg_stat_activity WHERE query LIKE 'mimeo.refresh_%'")
        now=$(awk '/RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        [ "${now:-0}" -le "$most" ] || most=$now
        sleep 0.05
    done
    wait $refresh
    echo "$((most / 1024))"
}
on_source -c "CREATE ROLE copier LOGIN PASSWORD 'copier'"
mapping="host=127.0.0.1 port=$source_port dbname=postgres"
install_mimeo() { # database version-clause
    on_destination -d "$1" -c "CREATE EXTENSION mimeo $2" -c "INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
        VALUES ('$mapping', 'copier', 'copier')"
}
