#!/usr/bin/env bash
# dml, by mimeo 2 and by mimeo 1.5.1, in one run on one machine: what its triggers cost those who write to the source, and
# how long a refresh takes for many queued changes. Prints Markdown tables of medians.
#
# Usage: replay.sh [rows]      rows: of the table whose changes are refreshed, 2,000,000; REPEAT: of each, 3;
#                              ROUNDS: of what writers do, 24, each of SECONDS_EACH, 2
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
rows=${1:-2000000}
. "$here/bench/lib.sh"
bin=$(pg_config --bindir)
rounds=${ROUNDS:-24}

on_source -c 'CREATE SCHEMA mimeo AUTHORIZATION copier'
for database in mimeo2 mimeo1; do on_destination -d postgres -c "CREATE DATABASE $database"; done
on_destination -d mimeo1 -c 'CREATE EXTENSION dblink'
install_mimeo mimeo2 ''
install_mimeo mimeo1 "VERSION '1.5.1'"
# One table each, and one that nobody copies.
for peer in none mimeo1 mimeo2; do
    fill_source "w_$peer" 100000
    on_source -c "GRANT TRIGGER ON w_$peer TO copier"
    [ $peer = none ] || on_destination -d $peer -c "SELECT mimeo.dml_maker('public.w_$peer', 1)" >/dev/null
done

empty_queue() { # peer: so that each finds the same
    [ "$1" = none ] || on_source -c "DELETE FROM mimeo.public_w_$1_q" -c "VACUUM mimeo.public_w_$1_q"
    on_source -c "VACUUM w_$1" -c CHECKPOINT
}
bulk() { on_source -c "UPDATE w_$1 SET score = score + 1"; }
in_turn() { # round: the peers, another one first each time, forwards and backwards: what one leaves to be done is not always
            # the same one's burden
    local peers=(none mimeo1 mimeo2)
    [ $(($1 / 3 % 2)) = 0 ] || peers=(mimeo2 mimeo1 none)
    for turn in 0 1 2; do echo "${peers[(turn + $1) % 3]}"; done
}
single() { # peer statement: transactions a second of 8 clients
    "$bin/pgbench" -n -c 8 -j 2 -T "${SECONDS_EACH:-2}" -f "$dir/$2.$1.sql" -h "$dir/source" -p "$source_port" -U postgres postgres 2>/dev/null |
        awk '/^tps/ { print $3 }'
}
for peer in none mimeo1 mimeo2; do
    on_source -c "CREATE SEQUENCE s_$peer START 1000000"
    echo "INSERT INTO w_$peer (id, customer, note) VALUES (nextval('s_$peer'), 1, 'x');" >"$dir/insert.$peer.sql"
    printf '%s\n' '\set id random(1, 100000)' "UPDATE w_$peer SET score = score + 1 WHERE id = :id;" >"$dir/update.$peer.sql"
    # As many rows come as go.
    printf '%s\n' '\set id random(2000000, 2000000000)' "INSERT INTO w_$peer (id) VALUES (:id) ON CONFLICT DO NOTHING;" \
        "DELETE FROM w_$peer WHERE id = :id;" >"$dir/delete.$peer.sql"
done

middle() { sort -n "$1" | awk '{ a[NR] = $1 } END { printf "%.3f", a[int((NR + 1) / 2)] }'; }
ratio() { # what: of mimeo 2 to 1.5.1 in the same round: the geometric mean, and how far it may be off (95 %)
    paste "$dir/$1.mimeo2.times" "$dir/$1.mimeo1.times" | awk '{ x = log($1 / $2); sum += x; squares += x * x }
        END { if (NR > 1) { mean = sum / NR; var = (squares - NR * mean * mean) / (NR - 1)
                            printf "%.3f ± %.3f", exp(mean), 1.96 * exp(mean) * sqrt((var > 0 ? var : 0) / NR) } }'
}
overhead() { # of mimeo 2 to that of 1.5.1 in the same round, in percent: the middle one
    paste "$dir"/bulk.{none,mimeo1,mimeo2}.times | awk '$2 > $1 { print 100 * ($3 - $1) / ($2 - $1) }' >"$dir/overhead"
    middle "$dir/overhead"
}
echo "| writing to the source | no trigger | mimeo 1.5.1 | mimeo 2 | mimeo 2 to 1.5.1 |"
echo "|---|---|---|---|---|"
rm -f "$dir"/*.times
for round in $(seq "$rounds"); do
    for peer in $(in_turn "$round"); do
        empty_queue $peer
        seconds bulk $peer >>"$dir/bulk.$peer.times"
    done
done
row() { # title what ratio
    echo "| $1 | $(middle "$dir/$2.none.times") | $(middle "$dir/$2.mimeo1.times") | $(middle "$dir/$2.mimeo2.times") | $3 |"
}
row 'UPDATE of 100,000 rows, s' bulk "overhead: $(overhead) %"
for statement in insert update delete; do
    for round in $(seq "$rounds"); do
        for peer in $(in_turn "$round"); do
            empty_queue $peer
            single $peer $statement >>"$dir/$statement.$peer.times"
        done
    done
    title="single-row ${statement^^}, 8 clients, transactions a second"
    [ $statement != delete ] || title='single-row INSERT and DELETE, 8 clients, transactions a second'
    row "$title" $statement "$(ratio $statement)"
done

for peer in mimeo1 mimeo2; do
    fill_source "r_$peer" "$rows"
    on_source -c "GRANT TRIGGER ON r_$peer TO copier"
    on_destination -d $peer -c "SELECT mimeo.dml_maker('public.r_$peer', 1)" >/dev/null
    on_destination -d $peer -c 'VACUUM ANALYZE'
done
replay() { on_destination -d "$1" -c "SET statement_timeout = '15min'" -c "SELECT mimeo.refresh_dml('public.r_$1')"; }
mimeo2() { replay mimeo2; }
mimeo1() { replay mimeo1; }
change() { # peer: `changes` rows that lie together, a tenth of them deleted and as many inserted
    replay "$1" >/dev/null
    on_destination -d "$1" -c "VACUUM ANALYZE r_$1"
    on_source -c "UPDATE r_$1 SET score = score + 1 WHERE id > $changes / 10 AND id <= $changes" \
        -c "WITH gone AS (DELETE FROM r_$1 WHERE id <= $changes / 20 RETURNING *) INSERT INTO r_$1 SELECT * FROM gone" \
        -c "VACUUM ANALYZE r_$1" -c "ANALYZE mimeo.public_r_$1_q"
}
before_mimeo2() { change mimeo2; }
before_mimeo1() { change mimeo1; }
echo
echo "| refresh_dml, of a table of $rows rows | mimeo 1.5.1, s | mimeo 2, s | memory of the backend |"
echo "|---|---|---|---|"
for changes in 100000 1000000; do
    peers='mimeo2 mimeo1'
    # 1.5.1 takes too long for a million.
    [ $changes = 100000 ] || peers=mimeo2
    run_peers $peers
    before_mimeo2
    echo "| $changes queued changes | $([ $changes = 100000 ] && median <"$dir/mimeo1.times" || echo 'not measured') | $(median <"$dir/mimeo2.times") | $(memory mimeo2) MB |"
done
