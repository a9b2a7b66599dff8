#!/usr/bin/env bash
# A PostgreSQL cluster of our own, on a free port of 127.0.0.1 and with its socket in its own folder.
#
# Usage: cluster.sh start DIR [initdb options]   prints the port
#        cluster.sh standby DIR PRIMARY_DIR      a standby, to be started with restart
#        cluster.sh restart DIR                  after a crash or a stop; same port
#        cluster.sh stop DIR
#        cluster.sh stop-all DIR                 all clusters below a folder
# The bootstrap superuser is postgres, trusted on the socket; over TCP everybody needs a password.
# PG_OPTIONS holds more settings, one a line.
set -euo pipefail
command=$1 dir=$2
shift 2
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config}
# Programs and server of a cluster stay those that it was made with.
bin=$(cat "$dir/bin" 2>/dev/null || "$PG_CONFIG" --bindir 2>/dev/null || true)

# PostgreSQL refuses to run as root.
as_postgres() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }

free_port() {
    perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)->sockport, "\n"'
}

start() { # on a port that nobody took between asking and starting
    local try port
    for try in 1 2 3 4 5; do
        port=${1:-$(free_port)}
        if as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -o "-p $port" -w -t 120 start >/dev/null 2>&1; then
            echo "$port" >"$dir/port"
            echo "$port"
            return
        fi
        [ -z "${1:-}" ] || break
    done
    tail -n 20 "$dir/log" >&2
    exit 1
}

case $command in
start)
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    echo "$bin" >"$dir/bin"
    as_postgres "$bin/initdb" -D "$dir/data" -U postgres -E UTF8 --no-locale --no-sync "$@" >"$dir/initdb.log" 2>&1 ||
        { cat "$dir/initdb.log" >&2; exit 1; }
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
shared_buffers = 256MB
max_wal_size = 4GB
max_prepared_transactions = 10
password_encryption = 'scram-sha-256'
log_line_prefix = '%m [%p] %u@%d %a '
${PG_OPTIONS:-}
CONF
    cat >"$dir/data/pg_hba.conf" <<'HBA'
local all postgres trust
local replication postgres trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
HBA
    start
    ;;
standby)
    primary=$1
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    echo "$bin" >"$dir/bin"
    as_postgres "$bin/pg_basebackup" -h "$primary" -p "$(cat "$primary/port")" -U postgres -D "$dir/data" -R -X stream -c fast
    echo "unix_socket_directories = '$dir'" >>"$dir/data/postgresql.conf"
    free_port >"$dir/port"
    ;;
restart)
    start "$(cat "$dir/port")"
    ;;
stop)
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    ;;
stop-all)
    for pidfile in $(find "$dir" -name postmaster.pid 2>/dev/null); do
        own=$(cat "$(dirname "$(dirname "$pidfile")")/bin" 2>/dev/null || echo "$bin")
        as_postgres "$own/pg_ctl" -D "$(dirname "$pidfile")" -m immediate -w stop >/dev/null 2>&1 || true
    done
    ;;
esac
