-- The checks: whether both sides hold the same, and what is not copied.
SELECT plan(81);

CREATE FUNCTION pg_temp.signature(p_function text) RETURNS text LANGUAGE sql AS $$
    SELECT pg_get_function_arguments(oid) || ' -> ' || pg_get_function_result(oid) FROM pg_proc
     WHERE proname = p_function AND pronamespace = 'mimeo'::regnamespace
$$;
SELECT is(pg_temp.signature('validate_rowcount'),
    'p_destination text, p_lower_interval text DEFAULT NULL::text, p_upper_interval text DEFAULT NULL::text, p_debug boolean DEFAULT false, '
    'OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT min_dest_value text, OUT max_dest_value text -> record',
    'validate_rowcount has the signature of 1.x');
SELECT is(pg_temp.signature('check_source_columns'),
    'p_data_source_id integer DEFAULT NULL::integer, OUT dest_schemaname text, OUT dest_tablename text, OUT src_schemaname text, '
    'OUT src_tablename text, OUT missing_column_name text, OUT missing_column_type text, OUT data_source integer -> SETOF record',
    'check_source_columns has the signature of 1.x');
SELECT is(pg_temp.signature('check_missing_source_tables'),
    'p_data_source_id integer DEFAULT NULL::integer, p_views boolean DEFAULT false, OUT schemaname text, OUT tablename text, '
    'OUT data_source integer -> SETOF record', 'check_missing_source_tables has the signature of 1.x');
SELECT is(pg_temp.signature('snapshot_monitor'),
    'p_rowcount bigint DEFAULT NULL::bigint, p_size bigint DEFAULT NULL::bigint, p_destination text DEFAULT NULL::text, '
    'p_debug boolean DEFAULT false -> TABLE(dest_tablename text, source_rowcount bigint, source_size bigint)',
    'snapshot_monitor has the signature of 1.x');

-- validate_rowcount: the methods that copy the whole table
SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, "we""ird; --" text, a int);
    INSERT INTO app.t SELECT i, 'v' || i, i FROM generate_series(1, 100) i;
$$);
SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap', p_condition := 'WHERE a <= 60 OR a > 90');
SELECT mimeo.table_maker('app.t', 1, 'app.tab');
SELECT mimeo.dml_maker('app.t', 1, 'app.dml');
SELECT mimeo.logdel_maker('app.t', 1, 'app.logdel');
SELECT results_eq(format('SELECT * FROM mimeo.validate_rowcount(%L)', d), format('VALUES (true, %s::bigint, %1$s::bigint, NULL, NULL)', n),
    d || ': the counts match')
  FROM (VALUES ('app.snap', 70), ('app.tab', 100), ('app.dml', 100), ('app.logdel', 100)) v(d, n);
SELECT on_source('DELETE FROM app.t WHERE id IN (1, 2, 3)');
SELECT results_eq(format('SELECT match, source_count, dest_count FROM mimeo.validate_rowcount(%L)', d),
    format('VALUES (false, %s::bigint, %s::bigint)', s, n), d || ': and do not, once rows are gone on the source')
  FROM (VALUES ('app.snap', 67, 70), ('app.tab', 97, 100), ('app.dml', 97, 100), ('app.logdel', 97, 100)) v(d, s, n);
SELECT mimeo.refresh_snap('app.snap'), mimeo.refresh_table('app.tab'), mimeo.refresh_dml('app.dml'), mimeo.refresh_logdel('app.logdel');
SELECT is((SELECT count(*) FROM app.logdel), 100::bigint, 'the logdel table keeps deleted rows,');
SELECT results_eq(format('SELECT * FROM mimeo.validate_rowcount(%L)', d), format('VALUES (true, %s::bigint, %1$s::bigint, NULL, NULL)', n),
    d || ': a refresh mends it; deleted rows do not count')
  FROM (VALUES ('app.snap', 67), ('app.tab', 97), ('app.dml', 97), ('app.logdel', 97)) v(d, n);
SELECT ok(NOT (mimeo.validate_rowcount('app.tab')).match IS NULL, 'the function gives one record');
SELECT throws_ok($$SELECT mimeo.validate_rowcount('app.tab', '10')$$, '22023',
    '"app.tab" is a job of type table, which has no range of values: leave the intervals out', 'a range of a table');
SELECT throws_ok($$SELECT mimeo.validate_rowcount('app.nothing')$$, '42704',
    'Destination table given in argument (app.nothing) is not managed by mimeo', 'an unknown destination');

-- No refresh runs while it counts.
SELECT dblink_connect('other', format('host=127.0.0.1 port=%s dbname=%L user=dba password=''dba secret''', inet_server_port(), current_database()));
SELECT dblink_exec('other', 'SET lock_timeout = 200');
BEGIN;
SELECT mimeo.validate_rowcount('app.tab');
SELECT is((SELECT taken FROM dblink('other', $$SELECT mimeo.concurrent_lock_check('app.tab')$$) AS t(taken bool)), false,
    'the job is locked until the end of the transaction');
COMMIT;
BEGIN;
SELECT mimeo.concurrent_lock_check('app.tab');
SELECT dblink_send_query('other', $$SELECT mimeo.validate_rowcount('app.tab')$$);
SELECT pg_sleep(0.2);
SELECT is(dblink_is_busy('other'), 1, 'and it waits for a refresh that runs');
COMMIT;
SELECT is((SELECT r FROM dblink_get_result('other') AS t(r text)), '(t,97,97,,)', 'which it then counts');
SELECT dblink_disconnect('other');

-- Serial columns
SELECT on_source($$
    CREATE TABLE app.s (id bigserial PRIMARY KEY, v text);
    INSERT INTO app.s (v) SELECT 'v' || i FROM generate_series(1, 100) i;
$$);
SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1);
SELECT mimeo.updater_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.u', p_condition := 'WHERE id > 50 OR v = ''v7''');
SELECT on_source($$INSERT INTO app.s (v) SELECT 'new' FROM generate_series(1, 30)$$);
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s')$$, $$VALUES (true, 90::bigint, 90::bigint, '1', '90')$$,
    'a serial inserter: up to its greatest value less the boundary');
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s', '20')$$, $$VALUES (true, 11::bigint, 11::bigint, '80', '90')$$,
    'from the greatest value less the lower interval');
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s', '20', '15')$$, $$VALUES (true, 6::bigint, 6::bigint, '80', '85')$$,
    'to that less the upper interval');
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s', p_upper_interval := '0')$$,
    $$VALUES (true, 100::bigint, 100::bigint, '1', '100')$$, 'which goes before the boundary');
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.u', p_upper_interval := '0')$$,
    $$VALUES (true, 51::bigint, 51::bigint, '7', '100')$$, 'an updater with a condition');
DELETE FROM app.s WHERE id = 85;
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s', '20')$$, $$VALUES (false, 11::bigint, 10::bigint, '80', '90')$$,
    'a row that is lost here is noticed');
SELECT results_eq($$SELECT match FROM mimeo.validate_rowcount('app.s', '12')$$, $$VALUES (true)$$, 'but not outside the range');
SELECT throws_ok(format($$SELECT mimeo.validate_rowcount('app.s', %L, %L)$$, l, u), '22023', m, m)
  FROM (VALUES ('1 day', NULL, 'p_lower_interval ''1 day'' is not an integer'), (NULL, 'x', 'p_upper_interval ''x'' is not an integer'),
               ('-1', NULL, 'p_lower_interval ''-1'' is negative'), ('99999999999999999999', NULL, 'p_lower_interval ''99999999999999999999'' is not an integer'),
               ('5', NULL, 'p_lower_interval ''5'' must be longer than the job''s boundary ''10'', or no row lies between them'),
               ('5', '6', 'p_lower_interval ''5'' must be longer than p_upper_interval ''6'', or no row lies between them')) v(l, u, m);
TRUNCATE app.s;
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s')$$, $$VALUES (false, 130::bigint, 0::bigint, NULL, NULL)$$,
    'an empty destination: the range has no bounds');
SELECT on_source('TRUNCATE app.s');
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.s', '20', '10')$$, $$VALUES (true, 0::bigint, 0::bigint, NULL, NULL)$$,
    'both empty: they match');
SELECT on_source($$CREATE TABLE app.n ("Sp""äce; " numeric PRIMARY KEY, v int);
    INSERT INTO app.n VALUES (0.5, 1), (1.5, 2), (20.25, 3), (30.75, 4), ('NaN', 5)$$);
SELECT mimeo.inserter_maker('app.n', 'serial', 'Sp"äce; ', 1);
SELECT results_eq($$SELECT * FROM mimeo.validate_rowcount('app.n')$$, $$VALUES (true, 3::bigint, 3::bigint, '0.5', '20.75')$$,
    'a numeric column with a name of the other kind');

-- Time columns, in sessions and columns of all sorts
SELECT on_source($$
    CREATE TABLE app.tz (id int PRIMARY KEY, at timestamptz NOT NULL, local timestamp, day date);
    INSERT INTO app.tz SELECT i, t, t AT TIME ZONE 'UTC', (t AT TIME ZONE 'UTC')::date
      FROM generate_series(0, 99) i, LATERAL (SELECT '2024-03-31 12:00:00.5+00'::timestamptz - i * interval '1 hour' AS t) x;
$$);
SELECT mimeo.inserter_maker('app.tz', 'time', 'at', 1, p_dest_table := 'app.by_at');
SELECT mimeo.inserter_maker('app.tz', 'time', 'local', 1, p_dest_table := 'app.by_local');
SELECT mimeo.inserter_maker('app.tz', 'time', 'day', 1, p_dest_table := 'app.by_day', p_boundary := '1 day');
CREATE FUNCTION pg_temp.times(p_session text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT results_eq($q$SELECT * FROM mimeo.validate_rowcount('app.by_at')$q$,
        $q$VALUES (true, 99::bigint, 99::bigint, '2024-03-27 09:00:00.5+00', '2024-03-31 11:50:00.5+00')$q$, p_session || ': timestamptz, in UTC')
    UNION ALL
    SELECT results_eq($q$SELECT * FROM mimeo.validate_rowcount('app.by_at', '1 day', '3 hours')$q$,
        $q$VALUES (true, 22::bigint, 22::bigint, '2024-03-30 12:00:00.5+00', '2024-03-31 09:00:00.5+00')$q$, p_session || ': between two intervals')
    UNION ALL
    SELECT results_eq($q$SELECT * FROM mimeo.validate_rowcount('app.by_local', '2 hours', '0')$q$,
        $q$VALUES (true, 3::bigint, 3::bigint, '2024-03-31 10:00:00.5', '2024-03-31 12:00:00.5')$q$, p_session || ': timestamp')
    UNION ALL
    SELECT results_eq($q$SELECT * FROM mimeo.validate_rowcount('app.by_day', '2 days')$q$,
        $q$VALUES (true, 48::bigint, 48::bigint, '2024-03-29', '2024-03-30')$q$, p_session || ': date')
$$;
SELECT pg_temp.times('default');
SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard';
SELECT pg_temp.times('Tokyo, SQL, DMY');
SET timezone = 'Europe/Berlin'; SET datestyle = 'German';
SELECT pg_temp.times('Berlin, German');
RESET timezone; RESET datestyle; RESET intervalstyle;
SELECT as_reader(format($$ALTER ROLE reader IN DATABASE %I SET timezone = 'America/New_York'$$, current_database()));
SELECT pg_temp.times('a source role in New York');

-- check_source_columns
SELECT is_empty('SELECT * FROM mimeo.check_source_columns()', 'no column is missing');
SELECT on_source($$
    CREATE TYPE app.mood AS ENUM ('good', 'bad');
    CREATE TABLE app.cols (id int PRIMARY KEY, v varchar(10), n numeric(8,2), at timestamp(3), "we""ird; --" text);
    INSERT INTO app.cols VALUES (1, 'a', 1.5, now(), 'x');
    CREATE TABLE app.other (id int PRIMARY KEY, a text, b text);
    CREATE TABLE app.gone (id int PRIMARY KEY);
$$);
CREATE TYPE app.mood AS ENUM ('good', 'bad');
SELECT mimeo.snapshot_maker('app.cols', 1, 'app.c_snap');
SELECT mimeo.table_maker('app.cols', 1, 'app.c_tab');
SELECT mimeo.updater_maker('app.cols', 'serial', 'id', 1, p_dest_table := 'app.c_upd', p_filter := '{id,v}');
SELECT mimeo.dml_maker('app.cols', 1, 'app.c_dml', p_filter := '{id,n}');
SELECT mimeo.logdel_maker('app.other', 1, 'app.c_log');
SELECT mimeo.snapshot_maker('app.gone', 1, 'app.c_gone');
SELECT is_empty('SELECT * FROM mimeo.check_source_columns()', 'nor of any other method, with a filter or without');
SELECT on_source($$
    ALTER TABLE app.cols ALTER v TYPE varchar(20), ALTER n TYPE numeric(10,2), ADD "Ne""w " app.mood[], ADD plain bigint;
    ALTER TABLE app.other RENAME b TO c;
    DROP TABLE app.gone;
$$);
SET client_min_messages = error;
SELECT results_eq($$SELECT * FROM mimeo.check_source_columns() ORDER BY dest_tablename, missing_column_name COLLATE "C"$$, $$VALUES
    ('app', 'c_dml', 'app', 'cols', 'n', 'numeric(10,2)', 1),
    ('app', 'c_log', 'app', 'other', 'c', 'text', 1),
    ('app', 'c_snap', 'app', 'cols', 'Ne"w ', 'app.mood[]', 1),
    ('app', 'c_snap', 'app', 'cols', 'n', 'numeric(10,2)', 1),
    ('app', 'c_snap', 'app', 'cols', 'plain', 'bigint', 1),
    ('app', 'c_snap', 'app', 'cols', 'v', 'character varying(20)', 1),
    ('app', 'c_tab', 'app', 'cols', 'Ne"w ', 'app.mood[]', 1),
    ('app', 'c_tab', 'app', 'cols', 'n', 'numeric(10,2)', 1),
    ('app', 'c_tab', 'app', 'cols', 'plain', 'bigint', 1),
    ('app', 'c_tab', 'app', 'cols', 'v', 'character varying(20)', 1),
    ('app', 'c_upd', 'app', 'cols', 'v', 'character varying(20)', 1)$$,
    'columns that are new or have another type, each with its type; not those that a filter leaves out');
SELECT mimeo.refresh_snap('app.c_snap');
SELECT is_empty($$SELECT * FROM mimeo.check_source_columns(1) WHERE dest_tablename = 'c_snap'$$, 'a snapshot mends itself at its next refresh');

-- One source after the other
INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
VALUES (7, 'host=127.0.0.1 port=1 dbname=nowhere', 'reader', 'x');
CREATE TABLE app.c_tab2 (id int);
INSERT INTO mimeo.refresh_config_table (dest_table, source_table, dblink) VALUES ('app.c_tab2', 'app.cols', 7);
SELECT is((SELECT count(*) FROM mimeo.check_source_columns() WHERE dest_tablename = 'c_tab'), 4::bigint,
    'a source that cannot be reached does not hide the others');
SELECT throws_ok('SELECT mimeo.check_source_columns(7)', '08001', NULL, 'it is an error if it alone was asked for');
SELECT throws_ok(format('SELECT mimeo.%s(99)', f), '42704', 'there is no data source with the id 99', f || ': an unknown source')
  FROM unnest('{check_source_columns,check_missing_source_tables}'::text[]) f;
DELETE FROM mimeo.refresh_config WHERE dblink = 7;

-- check_missing_source_tables
SELECT on_source($$
    CREATE TABLE app."Not.co""pied" (id int);
    CREATE TABLE app.parted (id int) PARTITION BY RANGE (id);
    CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (10);
    CREATE VIEW app.view AS SELECT 1 AS id;
    CREATE MATERIALIZED VIEW app.matview AS SELECT 1 AS id;
    CREATE VIEW app.copied_view AS SELECT 1 AS id;
    CREATE SCHEMA secret;
    CREATE TABLE secret.hidden (id int);
$$);
SELECT mimeo.snapshot_maker('app.copied_view', 1);
SELECT results_eq('SELECT * FROM mimeo.check_missing_source_tables(1)', $$VALUES
    ('app', 'Not.co"pied', 1), ('app', 'parted', 1), ('secret', 'hidden', 1)$$,
    'tables and partitioned tables that nobody copies, neither their partitions nor the queues');
SELECT results_eq('SELECT * FROM mimeo.check_missing_source_tables(p_views := true)', $$VALUES
    ('app', 'Not.co"pied', 1), ('app', 'matview', 1), ('app', 'parted', 1), ('app', 'view', 1), ('secret', 'hidden', 1)$$,
    'with p_views also views; a source that cannot be reached is left out');
SELECT throws_ok('SELECT mimeo.check_missing_source_tables(7)', '08001', NULL, 'and is an error if it alone was asked for');
UPDATE mimeo.refresh_config SET source_table = '"app"."Not.co""pied"' WHERE dest_table = 'app.c_gone';
SELECT results_eq('SELECT tablename FROM mimeo.check_missing_source_tables()', $$VALUES ('parted'), ('hidden')$$,
    'a job may name its table with quotes');
DELETE FROM mimeo.dblink_mapping_mimeo WHERE data_source_id = 7;

-- snapshot_monitor
SELECT on_source($$
    CREATE TABLE app.big (id int, filler text) PARTITION BY RANGE (id);
    CREATE TABLE app.big_1 PARTITION OF app.big FOR VALUES FROM (0) TO (1000);
    CREATE TABLE app.big_2 PARTITION OF app.big FOR VALUES FROM (1000) TO (2001);
    INSERT INTO app.big SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i;
    CREATE TABLE app.wide (id int, filler text);
    ALTER TABLE app.wide ALTER filler SET STORAGE EXTERNAL;
    INSERT INTO app.wide SELECT i, repeat('x', 100000) FROM generate_series(1, 10) i;
$$);
SELECT mimeo.snapshot_maker('app.big', 1, p_condition := 'WHERE id < 10');
SELECT mimeo.snapshot_maker('app.wide', 1);
-- From PostgreSQL 19 on queries write visibility maps, too, and the size would grow while it is asked for.
SELECT on_source('VACUUM ' || t) FROM unnest('{app.big,app.wide,app.cols}'::text[]) t;
SELECT results_eq($$SELECT * FROM mimeo.snapshot_monitor() WHERE dest_tablename IN ('app.big', 'app.wide', 'app.c_snap') ORDER BY 1$$,
    format('VALUES (%L, 2000::bigint, %s::bigint), (%L, 1::bigint, %s), (%L, 10::bigint, %s)',
        'app.big', ask_source($$SELECT pg_table_size('app.big_1') + pg_table_size('app.big_2')$$),
        'app.c_snap', ask_source($$SELECT pg_table_size('app.cols')$$), 'app.wide', ask_source($$SELECT pg_table_size('app.wide')$$)),
    'rows and bytes of the source tables, partitions and TOAST included');
SELECT is((SELECT count(*) FROM mimeo.snapshot_monitor()), 6::bigint, 'of every snapshot whose source is there, a view too');
SELECT results_eq('SELECT dest_tablename FROM mimeo.snapshot_monitor(p_rowcount := 2000)', $$VALUES ('app.big')$$, 'those that reach so many rows');
SELECT results_eq('SELECT dest_tablename FROM mimeo.snapshot_monitor(p_size := 1000000)', $$VALUES ('app.wide')$$, 'or so many bytes');
SELECT results_eq('SELECT dest_tablename FROM mimeo.snapshot_monitor(2000, 1000000) ORDER BY 1', $$VALUES ('app.big'), ('app.wide')$$,
    'one of both is enough');
SELECT is_empty('SELECT * FROM mimeo.snapshot_monitor(2001, 100000000)', 'none');
SELECT results_eq($$SELECT dest_tablename FROM mimeo.snapshot_monitor(p_destination := 'app.c_snap')$$, $$VALUES ('app.c_snap')$$, 'a single one');
SELECT throws_ok($$SELECT * FROM mimeo.snapshot_monitor(p_destination := 'app.tab')$$, '42809', 'destination table "app.tab" is a job of type table, not snapshot',
    'it must be a snapshot');
SELECT throws_ok($$SELECT * FROM mimeo.snapshot_monitor(p_destination := 'app.none')$$, '42704', NULL, 'and a job');

-- Nobody checks anything without a grant.
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk(format('SELECT mimeo.%s', f)), 'permission denied for function ' || split_part(f, '(', 1), f)
  FROM unnest(ARRAY['validate_rowcount(''app.tab'')', 'check_source_columns()', 'check_missing_source_tables()', 'snapshot_monitor()']) f;
GRANT EXECUTE ON FUNCTION mimeo.validate_rowcount TO clerk;
SELECT is(as_clerk($$SELECT mimeo.validate_rowcount('app.tab')$$), 'done', 'counting needs no right on the destination');

SELECT * FROM finish();
