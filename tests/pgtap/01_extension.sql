-- The extension itself: made by a database owner, closed to everybody else, and its configuration.
SELECT plan(30);

SELECT is((SELECT extowner::regrole::text FROM pg_extension WHERE extname = 'mimeo'), 'dba',
    'a database owner who is no superuser can create the extension');
SELECT is((SELECT extversion FROM pg_extension WHERE extname = 'mimeo'), '2.2.0', 'at its version');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo')
       AND has_function_privilege('clerk', p.oid, 'EXECUTE') AND p.proname <> 'running_refreshes'
$$, 'no function is open to PUBLIC, but for the one behind the view progress, which asks who may read job_status');
SELECT is_empty($$
    SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo') AND c.relkind IN ('r', 'v', 'S')
       AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('clerk', c.oid, 'USAGE, SELECT, UPDATE')
                ELSE has_table_privilege('clerk', c.oid, 'SELECT, INSERT, UPDATE, DELETE') END
$$, 'no table is open to PUBLIC');
SELECT lives_ok($$GRANT EXECUTE ON FUNCTION mimeo.refresh_snapshot(text, bool, bool, bool, int, bool, bool) TO clerk$$,
    'its owner may grant its functions');
SELECT lives_ok($$GRANT SELECT ON mimeo.run_history TO clerk$$, 'its owner may grant its tables');
SELECT throws_ok($$CREATE TRIGGER t BEFORE INSERT ON mimeo.refresh_config FOR EACH ROW
    EXECUTE FUNCTION suppress_redundant_updates_trigger()$$, '42501', NULL,
    'its owner cannot put code of his own on the tables that mimeo writes as their owner');

-- Search_path in functions that run as somebody else (defect 16 of 1.5.1).
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo') AND p.prosecdef
       AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c = 'search_path=pg_catalog, pg_temp')
$$, 'a function that runs as its owner has a pinned search_path'); -- defect 16 of 1.5.1

-- Sources
SELECT throws_ok($$INSERT INTO mimeo.dblink_mapping_mimeo (data_source, password_required) VALUES ('host=x', false)$$,
    '42501', NULL, 'only a superuser may say that a source needs no password');
SELECT throws_ok($$UPDATE mimeo.dblink_mapping_mimeo SET password_required = false$$, '42501', NULL,
    'not afterwards either');

-- The views that 1.x had as tables
CREATE FUNCTION pg_temp.columns(p_relation text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname)
      FROM pg_attribute WHERE attrelid = p_relation::regclass AND attnum > 0
$$;
SELECT is(pg_temp.columns('mimeo.refresh_config_updater_time'),
    'batch_limit integer, boundary interval, condition text, control text, dblink integer, dest_table text, '
    'dst_active boolean, dst_end integer, dst_start integer, filter text[], jobmon boolean, '
    'last_run timestamp with time zone, last_value timestamp with time zone, period interval, pk_name text[], '
    'pk_type text[], source_table text, type text', 'refresh_config_updater_time has the columns of 1.x');
SELECT is(pg_temp.columns('mimeo.refresh_config_inserter_serial'),
    'batch_limit integer, boundary integer, condition text, control text, dblink integer, dest_table text, '
    'filter text[], jobmon boolean, last_run timestamp with time zone, last_value bigint, period interval, '
    'source_table text, type text', 'refresh_config_inserter_serial has the columns of 1.x');

CREATE SCHEMA a
    CREATE TABLE snap () CREATE TABLE "table" () CREATE TABLE dml () CREATE TABLE logdel () CREATE TABLE it () CREATE TABLE "is" () CREATE TABLE ut () CREATE TABLE us ();
INSERT INTO mimeo.refresh_config_snap (dest_table, source_table, dblink) VALUES ('a.snap', 'a.snap', 1);
INSERT INTO mimeo.refresh_config_table (dest_table, source_table, dblink) VALUES ('a.table', 'a.table', 1);
INSERT INTO mimeo.refresh_config_dml (dest_table, source_table, dblink, control, pk_name, pk_type)
VALUES ('a.dml', 'a.dml', 1, 'q', '{id}', '{int}');
INSERT INTO mimeo.refresh_config_logdel (dest_table, source_table, dblink, control, pk_name, pk_type)
VALUES ('a.logdel', 'a.logdel', 1, 'q', '{id}', '{int}');
INSERT INTO mimeo.refresh_config_inserter_time (dest_table, source_table, dblink, control, last_value)
VALUES ('a.it', 'a.it', 1, 'at', '2020-02-03 04:05:06.789+02');
INSERT INTO mimeo.refresh_config_inserter_serial (dest_table, source_table, dblink, control, boundary, last_value)
VALUES ('a.is', 'a.is', 1, 'id', 7, 12345678901);
INSERT INTO mimeo.refresh_config_updater_time (dest_table, source_table, dblink, control, boundary, last_value, pk_name,
    pk_type) VALUES ('a.ut', 'a.ut', 1, 'at', '1 day 2 hours', '2020-02-03', '{id}', '{int}');
INSERT INTO mimeo.refresh_config_updater_serial (dest_table, source_table, dblink, control, pk_name, pk_type)
VALUES ('a.us', 'a.us', 1, 'id', '{id}', '{int}');
SELECT results_eq($$SELECT type FROM mimeo.refresh_config ORDER BY type$$,
    ARRAY['dml', 'inserter_serial', 'inserter_time', 'logdel', 'snap', 'table', 'updater_serial', 'updater_time'],
    'each view writes its own type through to the one table');
SELECT results_eq($$SELECT boundary, dst_active, dst_start, dst_end FROM mimeo.refresh_config_inserter_time$$,
    $$VALUES ('10 minutes'::interval, true, 30, 230)$$, 'with the defaults of 1.x');

SET datestyle = 'SQL, DMY';
SET timezone = 'Asia/Tokyo';
UPDATE mimeo.refresh_config_inserter_time SET last_value = last_value + interval '1 s', period = '5 min';
SELECT results_eq($$SELECT last_value, period FROM mimeo.refresh_config_inserter_time$$,
    $$VALUES ('2020-02-03 02:05:07.789+00'::timestamptz, '5 min'::interval)$$,
    'a time keeps its value whatever the DateStyle and TimeZone of the sessions');
RESET datestyle;
RESET timezone;
UPDATE mimeo.refresh_config_updater_serial SET last_value = 99, boundary = 3;
SELECT results_eq($$SELECT last_value, boundary FROM mimeo.refresh_config WHERE type = 'updater_serial'$$,
    $$VALUES ('99', '3')$$, 'an update of a serial view arrives in the table');
UPDATE mimeo.refresh_config_snap SET condition = 'WHERE true', check_stats = false, post_script = '{select 1}';
SELECT results_eq($$SELECT condition, check_stats, post_script FROM mimeo.refresh_config WHERE type = 'snap'$$,
    $$VALUES ('WHERE true', false, '{select 1}'::text[])$$, 'an update of refresh_config_snap arrives in the table');
SELECT throws_ok($$UPDATE mimeo.refresh_config_snap SET type = 'dml'$$, NULL, NULL,
    'a view does not let a job change its method');
SELECT throws_ok($$UPDATE mimeo.refresh_config_updater_time SET type = 'updater_serial'$$, '44000', NULL,
    'nor do the views with triggers');
DELETE FROM mimeo.refresh_config_updater_time;
DELETE FROM mimeo.refresh_config_logdel;
SELECT is((SELECT count(*) FROM mimeo.refresh_config WHERE type IN ('updater_time', 'logdel')), 0::bigint,
    'a delete arrives in the table');

-- One destination, one job (defect 18 of 1.5.1).
SELECT throws_ok($$INSERT INTO mimeo.refresh_config_table (dest_table, source_table, dblink) VALUES ('a.dml', 'x', 1)$$,
    '23505', NULL, 'a destination cannot have two jobs of different methods'); -- defect 18 of 1.5.1
SELECT throws_ok($$INSERT INTO mimeo.refresh_config (dest_table, source_table, type, dblink) VALUES ('a.logdel', 'b', 'x', 1)$$,
    '23514', NULL, 'an unknown type is refused');
SELECT throws_ok($$INSERT INTO mimeo.refresh_config_snap (dest_table, source_table, dblink) VALUES ('a.logdel', 'b', 77)$$,
    '23503', NULL, 'an unknown source is refused');
SELECT throws_ok($$DELETE FROM mimeo.dblink_mapping_mimeo$$, '23503', NULL, 'a source that jobs use cannot be deleted');

-- A refresh works as the owner of its destination: nobody can make it work on what belongs to others.
SELECT throws_like(format($$INSERT INTO mimeo.refresh_config%s (dest_table, source_table, dblink%s) VALUES (%L, 'x', 1%s)$$, v, c, d, x),
    CASE d WHEN 'pg_catalog.pg_authid' THEN 'destination % belongs to postgres, whose rights dba does not have' ELSE 'there is no destination % that dba could have the rights of' END, 'no job on ' || d || ' by way of refresh_config' || v)
  FROM (VALUES ('', ', type', 'pg_catalog.pg_authid', $$, 'table'$$), ('_snap', '', '"pg_catalog"."pg_class"', ''),
               ('_inserter_serial', ', control', 'PG_CATALOG.PG_AUTHID', $$, 'rolconnlimit'$$)) t(v, c, d, x);
CREATE VIEW app.refresh_config_x_time AS SELECT * FROM mimeo.refresh_config_inserter_time;
SELECT throws_ok($$CREATE TRIGGER t INSTEAD OF INSERT ON app.refresh_config_x_time FOR EACH ROW EXECUTE FUNCTION mimeo.write_refresh_config()$$,
    '42501', 'permission denied for function mimeo.write_refresh_config', 'the function behind the views is for no other view');

SELECT results_eq($$
    SELECT c::regclass::text FROM pg_extension e, unnest(e.extconfig) c WHERE extname = 'mimeo' ORDER BY 1$$,
    ARRAY['mimeo.dblink_mapping_mimeo', 'mimeo.dblink_mapping_mimeo_data_source_id_seq', 'mimeo.refresh_config',
          'mimeo.run_history', 'mimeo.run_history_run_id_seq'], 'pg_dump takes configuration and history along');
SELECT is(mimeo.concurrent_lock_check('app.nothing'), true, 'concurrent_lock_check takes a free lock');

SELECT * FROM finish();
