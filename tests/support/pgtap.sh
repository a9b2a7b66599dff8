#!/usr/bin/env bash
# Runs tests/pgtap/*.sql: each file in a database of its own on a destination cluster, beside a database of the same
# name on a source cluster. Nobody in it is a superuser: `dba` owns the destination database and created the
# extension, `clerk` may only do what a test grants; on the source, `owner` owns the tables and `reader` reads them.
#
# Usage: pgtap.sh DIR [file …]      DIR: where the clusters may be made
# SOURCE_PG_CONFIG: the source has another PostgreSQL than PG_CONFIG
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$1
shift
[ $# -gt 0 ] || set -- "$here"/pgtap/*.sql
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config}

source_port=$(PG_CONFIG=${SOURCE_PG_CONFIG:-$PG_CONFIG} "$here/support/cluster.sh" start "$dir/source")
destination_port=$("$here/support/cluster.sh" start "$dir/destination")
on() { # on source|destination DATABASE psql-arguments…
    local cluster=$1 database=$2
    shift 2
    psql -XqAt -v ON_ERROR_STOP=1 -h "$dir/$cluster" -p "$(cat "$dir/$cluster/port")" -U postgres -d "$database" "$@"
}

on source postgres <<SQL
CREATE ROLE owner LOGIN PASSWORD 'owner secret';
CREATE ROLE reader LOGIN PASSWORD 'reader secret';
CREATE DATABASE template_source OWNER owner;
SQL
on source template_source <<SQL
SET ROLE owner;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader;
RESET ROLE;
CREATE SCHEMA mimeo AUTHORIZATION reader;
CREATE EXTENSION postgres_fdw;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO owner;
CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$source_port', dbname 'postgres');
ALTER SERVER itself OWNER TO owner;
SQL

on destination postgres <<SQL
CREATE ROLE dba LOGIN PASSWORD 'dba secret';
CREATE ROLE clerk LOGIN PASSWORD 'clerk secret';
CREATE DATABASE template_destination OWNER dba;
SQL
on destination template_destination <<SQL
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION dblink SCHEMA tap;
CREATE EXTENSION amcheck SCHEMA tap;
GRANT EXECUTE ON FUNCTION tap.bt_index_parent_check(regclass, boolean) TO PUBLIC;
CREATE EXTENSION postgres_fdw;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw, dblink_fdw TO dba;
SET ROLE dba;
CREATE EXTENSION mimeo;
CREATE SCHEMA app;
RESET ROLE;
SQL
on destination template_destination -f "$here/support/helpers.sql"

failed=()
for file in "$@"; do
    name=$(basename "$file" .sql)
    on source postgres -c "CREATE DATABASE \"$name\" TEMPLATE template_source OWNER owner"
    on destination postgres -c "CREATE DATABASE \"$name\" TEMPLATE template_destination OWNER dba"
    on destination postgres -c "ALTER DATABASE \"$name\" SET search_path = app, tap, public"
    on destination postgres -c "ALTER DATABASE \"$name\" SET tap.source_port = $source_port"
    on destination "$name" <<SQL
SET ROLE dba;
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
VALUES ('host=127.0.0.1 port=$source_port dbname=$name', 'reader', 'reader secret');
SQL
    PGPASSWORD='dba secret' PGOPTIONS='-c client_min_messages=warning' pg_prove --failures --comments \
        -h 127.0.0.1 -p "$destination_port" -U dba -d "$name" "$file" 2>&1 |
        tee "$dir/$name.log" || failed+=("$name")
done
# Once more at the end, for whoever sees only that.
for name in "${failed[@]}"; do
    echo "== failed: $name.sql"
    grep -vE "WARNING: |\.\. ok$" "$dir/$name.log" | tail -n 25
done
[ ${#failed[@]} -eq 0 ]
