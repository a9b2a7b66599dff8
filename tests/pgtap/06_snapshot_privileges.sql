-- Who may do what, and as whom. The files before this one ran as `dba`, who is no superuser.
SELECT plan(44);

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text);
    INSERT INTO app.t SELECT i, 'v' FROM generate_series(1, 10) i; CREATE TABLE app.locked (id int, secret text)$$);
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false, 'the maker is no superuser');
SELECT mimeo.snapshot_maker('app.t', 1);
UPDATE mimeo.refresh_config SET delta = NULL; -- so that all rows are copied each time

-- Another role, with nothing but EXECUTE
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk($$SELECT mimeo.refresh_snapshot('app.t')$$), 'permission denied for function refresh_snapshot',
    'without EXECUTE nobody refreshes');
GRANT EXECUTE ON FUNCTION mimeo.refresh_snapshot TO clerk;
SELECT is(as_clerk($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$), 'done',
    'a role with nothing but EXECUTE refreshes');
SELECT is((SELECT run_by FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1), 'clerk', 'and is in the history');
SELECT table_owner_is('app', 't_snap1', 'dba', 'the twins still belong to their owner');
SELECT is(as_clerk('SELECT count(*)::text FROM app.t'), 'permission denied for schema app', 'and are not open to it');
SELECT is(as_clerk('SELECT pwd FROM mimeo.dblink_mapping_mimeo'),
    'permission denied for table dblink_mapping_mimeo', 'nor is the password');

-- Code on a twin runs as its owner, not as the caller: clerk's rights cannot be borrowed, nor a superuser's.
CREATE FUNCTION app.who(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF $1 IS NOT NULL THEN
        RAISE EXCEPTION 'run by % with %', current_user, current_setting('search_path');
    END IF;
    RETURN $1;
END
$$;
DO $$ BEGIN
    EXECUTE (SELECT format('CREATE INDEX who_idx ON app.%I (app.who(v))', c.relname) FROM pg_class c
        WHERE c.relname LIKE 't\_snap_' AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
              WHERE d.refobjid = c.oid AND r.ev_class = 'app.t'::regclass));
END $$;
SELECT is(as_clerk($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$),
    'run by dba with pg_catalog, pg_temp', 'an index expression runs as the owner, with a pinned search_path');
CREATE OR REPLACE FUNCTION app.who(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('role', 'dba', false);
    RETURN $1;
END
$$;
SELECT alike(as_clerk($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$),
    'cannot set parameter "role" within security-restricted operation', 'and under restriction');
DROP INDEX app.who_idx;

-- An operator in the way
CREATE FUNCTION public.wrong(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.wrong);
CREATE FUNCTION public.format_type(oid, int) RETURNS text LANGUAGE sql AS 'SELECT ''wrong''';
CREATE FUNCTION pg_temp.run(p_sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('search_path', 'public, app, pg_catalog', true);
    EXECUTE p_sql;
    PERFORM set_config('search_path', 'app, tap, public', true);
END
$$;
SELECT lives_ok($$SELECT pg_temp.run($q$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$q$)$$,
    'objects in public that look like those of pg_catalog are not used'); -- defect 16 of 1.5.1
SELECT lives_ok($$SELECT pg_temp.run($q$SELECT mimeo.snapshot_maker('app.t', 1, 'app.again')$q$)$$,
    'objects in public that look like those of pg_catalog are not used by a maker'); -- defect 16 of 1.5.1
DROP OPERATOR public.= (text, text);

-- Somebody who may not create
SELECT is(as_clerk($$SELECT mimeo.snapshot_maker('app.t', 1, 'app.by_clerk')$$),
    'permission denied for function snapshot_maker', 'a maker needs EXECUTE');
GRANT EXECUTE ON FUNCTION mimeo.snapshot_maker, mimeo.snapshot_destroyer TO clerk;
GRANT USAGE ON SCHEMA app TO clerk;
SELECT is(as_clerk($$SELECT mimeo.snapshot_maker('app.t', 1, 'app.by_clerk')$$),
    'permission denied for schema app', 'and CREATE in the destination schema');
SELECT alike(as_clerk($$SELECT mimeo.snapshot_destroyer('app.t')$$), 'must be owner of %',
    'a destroyer needs to own what it drops');
SELECT is((SELECT count(*) FROM app.t), 10::bigint, 'and leaves it alone otherwise');

-- On the source
SELECT on_source('REVOKE SELECT ON app.t FROM reader');
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$,
    'role "reader" may not read "app.t" on data source 1 %', 'SELECT on the source was revoked');
SELECT on_source('GRANT SELECT (id, v) ON app.t TO reader');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$, 'SELECT on all columns will do');
SELECT on_source('REVOKE SELECT ON app.t FROM reader; GRANT SELECT (id) ON app.t TO reader');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.t', 1, 'app.ids', p_filter := '{id}')$$,
    'with a filter, SELECT on its columns');
SELECT on_source('REVOKE USAGE ON SCHEMA app FROM reader');
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)$$,
    'role "reader" may not read "app.t" %', 'USAGE on the schema was revoked');
SELECT on_source('GRANT USAGE ON SCHEMA app TO reader; GRANT SELECT ON app.t TO reader');

-- Passwords
UPDATE mimeo.dblink_mapping_mimeo SET pwd = 'hunter2 is wrong';
SELECT throws_matching($$SELECT mimeo.refresh_snapshot('app.t')$$,
    '^could not connect to data source 1 .*password authentication failed', 'a wrong password');
SELECT throws_matching($$SELECT mimeo.refresh_snapshot('app.t')$$, '^((?!hunter2).)*$', 'is not printed');
UPDATE mimeo.dblink_mapping_mimeo SET pwd = NULL;
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t')$$, 'data source 1 % must be reached with a password of its own',
    'without a password of its own nobody but a superuser connects');
UPDATE mimeo.dblink_mapping_mimeo SET data_source = data_source || ' password=''reader secret''';
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'the connection string may hold it');
UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'host=127.0.0.1 hunter2', pwd = 'x';
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '22023',
    'data source 1 cannot be used: its data_source is not a connection string that libpq can read',
    'a broken connection string is not printed, for it may hold a password');
CREATE FUNCTION pg_temp.told(p_data_source text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mimeo.dblink_mapping_mimeo SET data_source = p_data_source, pwd = 'reader secret';
    PERFORM mimeo.refresh_snapshot('app.t');
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT is(pg_temp.told(p), '22023 data source 1 cannot be used: its data_source is neither a connection string nor the name of a foreign server',
    'nor one that is hardly one') FROM unnest('{Postgresql://reader:hunter2@127.0.0.1/x,postgres:/reader:hunter2@127.0.0.1/x}'::text[]) p;
SELECT is(pg_temp.told('host=127.0.0.1 dbname=postgres://reader:hunter2@127.0.0.1/x'),
    '22023 data source 1 cannot be used: its dbname is a connection string', 'nor one in the place of a database');
SELECT matches(pg_temp.told('host=127.0.0.1 port=1 dbname=postgres:/reader:hunter2@x'),
    '^08001 could not connect to data source 1 \(host=127.0.0.1 port=1 user=reader\)((?!hunter2).)*$', 'nor what may be one');

-- What a connection may be given by who is no superuser
SELECT is(pg_temp.told('host=127.0.0.1 ' || p || '=x'),
    '42501 data source 1 cannot be used: only a superuser may give it the connection parameter "' || p || '"', p || ' is a superuser''s to give')
  FROM unnest('{passfile,service,sslcert,sslkey,sslpassword,requirepeer,krbsrvname,gsslib,replication}'::text[]) p;
SELECT is(pg_temp.told(format('host=127.0.0.1 port=%s dbname=%s application_name=mine connect_timeout=18446744073709551615
    sslmode=prefer keepalives=1 keepalives_idle=10 target_session_attrs=any options=''-c work_mem=1MB''',
    substring(tap.source_dsn() FROM 'port=(\d+)'), current_database())), 'done', 'others may be given by anybody');
UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'host=127.0.0.1 port=1 dbname=x user=y', pwd = 'x';
SELECT throws_matching($$SELECT mimeo.refresh_snapshot('app.t')$$,
    '^could not connect to data source 1 \(host=127.0.0.1 port=1 dbname=x', 'a source that is not there');

-- A foreign server as the source
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', dbname '06_snapshot_privileges', fetch_size '17');
DO $$ BEGIN EXECUTE format('ALTER SERVER elsewhere OPTIONS (ADD port %L)', substring(tap.source_dsn() FROM 'port=(\d+)')); END $$;
UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'elsewhere', username = NULL, pwd = NULL;
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '42704', NULL, 'a foreign server without a user mapping');
CREATE USER MAPPING FOR dba SERVER elsewhere OPTIONS (user 'reader', password 'reader secret');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'a foreign server with the owner''s user mapping');
ALTER SERVER elsewhere OPTIONS (ADD passfile '/nowhere');
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '42501',
    'data source 1 cannot be used: only a superuser may give it the connection parameter "passfile"', 'a parameter that is a superuser''s to give');
CREATE SERVER beyond FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '127.0.0.1', dbname '06_snapshot_privileges');
DO $$ BEGIN EXECUTE format('ALTER SERVER beyond OPTIONS (ADD port %L)', substring(tap.source_dsn() FROM 'port=(\d+)')); END $$;
CREATE USER MAPPING FOR dba SERVER beyond OPTIONS (user 'reader', password 'wrong');
UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'beyond';
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '08001', NULL, 'a server of dblink_fdw: its password counts');
ALTER USER MAPPING FOR dba SERVER beyond OPTIONS (SET password 'reader secret');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'and with the right one it is a source too');

SELECT * FROM finish();
