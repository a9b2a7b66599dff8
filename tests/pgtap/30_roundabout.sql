-- What strangers and sources have tried by roundabout ways (docs/security.md): casts of enums, conditions of triggers, tables further
-- away, jobs that change hands, sessions that are shared. A function of the clerk's that runs takes a value of app.ran, which
-- no rollback gives back.
SELECT plan(48);

GRANT USAGE, CREATE ON SCHEMA app TO clerk;
GRANT USAGE ON SCHEMA mimeo TO clerk;
CREATE FUNCTION pg_temp.clerk_runs(p_statements text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_statement text;
    v_said text;
BEGIN
    FOREACH v_statement IN ARRAY p_statements LOOP
        v_said := tap.as_clerk(v_statement);
        IF v_said <> 'done' THEN
            RAISE 'the stage of this test: % says %', v_statement, v_said;
        END IF;
    END LOOP;
END
$$;
CREATE FUNCTION pg_temp.outcome(p_statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
SELECT pg_temp.clerk_runs(ARRAY[
    'CREATE SEQUENCE app.ran', 'GRANT ALL ON SEQUENCE app.ran TO PUBLIC',
    'CREATE TYPE app.fold AS ENUM (''a'', ''b'')',
    $$CREATE FUNCTION app.evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM nextval(''app.ran''); RETURN 1; END'$$,
    $$CREATE FUNCTION app.evil_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''app.ran''); RETURN NULL; END'$$,
    $$CREATE FUNCTION app.to_fold(int) RETURNS app.fold LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.evil(1); RETURN ''a''; END'$$,
    $$CREATE FUNCTION app.fold_to(app.fold) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.evil(1); END'$$,
    $$CREATE FUNCTION app.fold_text(app.fold) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.evil(1); RETURN ''a''; END'$$,
    'CREATE CAST (int AS app.fold) WITH FUNCTION app.to_fold(int)',
    'CREATE CAST (app.fold AS int) WITH FUNCTION app.fold_to(app.fold) AS IMPLICIT']) \g /dev/null
CREATE FUNCTION pg_temp.ran() RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN is_called THEN last_value || ' calls' ELSE 'nothing ran' END FROM app.ran $$;
SELECT on_source($$CREATE TYPE app.fold AS ENUM ('a', 'b')$$);

-- A cast that the source's generation expression uses, there as well as here
SELECT on_source($$CREATE FUNCTION app.to_fold(int) RETURNS app.fold LANGUAGE sql IMMUTABLE AS 'SELECT ''a''::app.fold'; CREATE CAST (int AS app.fold) WITH FUNCTION app.to_fold(int);
    CREATE TABLE app.folded (id int PRIMARY KEY, b boolean GENERATED ALWAYS AS ((1)::app.fold IS NOT NULL) STORED, c text DEFAULT ('a'::app.fold)::text); INSERT INTO app.folded VALUES (1)$$);
SELECT lives_ok($$SELECT mimeo.table_maker('app.folded', 1)$$, 'a cast of a stranger in a generated column');
SELECT is(pg_temp.ran(), 'nothing ran', 'is not even tried out by the planner');
SELECT is((SELECT string_agg(attgenerated::text || atthasdef, ',') FROM pg_attribute WHERE attrelid = 'app.folded'::regclass AND attnum > 0), 'false,false,false', 'the columns come without it');
SELECT is((SELECT t::text FROM app.folded t), '(1,t,a)', 'and with the values of the source');

-- A foreign key from a column of a stranger's enum
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v int); INSERT INTO app.t SELECT i, i FROM generate_series(1, 5) i$$);
SELECT mimeo.table_maker('app.t', 1, 'app.tab'), mimeo.dml_maker('app.t', 1, 'app.dm'), mimeo.snapshot_maker('app.t', 1, 'app.snap'),
       mimeo.updater_maker('app.t', 'serial', 'id', 1, '0', 'app.upd') \g /dev/null
GRANT REFERENCES ON app.tab, app.dm TO clerk;
SELECT pg_temp.clerk_runs(ARRAY['CREATE TABLE app.keys (k app.fold REFERENCES app.tab (id))', 'INSERT INTO app.keys VALUES (''a'') RETURNING ''x''', 'ALTER SEQUENCE app.ran RESTART', 'GRANT SELECT ON app.keys TO dba']) \g /dev/null
SELECT on_source('UPDATE app.t SET v = v + 1');
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.tab')$$), 'type app.fold belongs to role "clerk", and could run code with the rights of role "dba"', 'a foreign key with a cast of a stranger''s');
SELECT is(pg_temp.ran(), 'nothing ran', 'whose cast does not run');
SELECT is((SELECT sum(v) FROM app.tab), 15::bigint, 'the old rows stay');
SELECT pg_temp.clerk_runs(ARRAY['DROP TABLE app.keys']) \g /dev/null
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.tab')$$), 'done', 'without it the refresh goes on');

-- A CHECK and a view with a cast of an enum to text, for which its owner makes a function later
SELECT on_source($$CREATE TABLE app.moods (id int PRIMARY KEY, m app.fold); INSERT INTO app.moods VALUES (1, 'a')$$);
SELECT mimeo.table_maker('app.moods', 1, 'app.mood_tab'), mimeo.snapshot_maker('app.moods', 1, 'app.mood_snap') \g /dev/null
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.mood_tab')$$), 'done', 'an enum of a stranger that is only copied');
ALTER TABLE app.mood_tab ADD CONSTRAINT c CHECK (m::text <> 'x');
CREATE VIEW app.mood_view AS SELECT id, m::text AS m FROM app.mood_snap;
SELECT pg_temp.clerk_runs(ARRAY['CREATE CAST (app.fold AS text) WITH FUNCTION app.fold_text(app.fold)']) \g /dev/null
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.mood_tab')$$), 'type app.fold belongs to role "clerk", and could run code with the rights of role "dba"', 'one that a CHECK casts');
SELECT on_source('ALTER TABLE app.moods ALTER id TYPE bigint');
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_snapshot('app.mood_snap')$$), 'view app.mood_view depends on view "app.mood_snap", whose columns change, and cannot be kept: type app.fold belongs to role "clerk", and could run code with the rights of role "dba"', 'one that a view casts, which would be made anew');
SELECT is(pg_temp.ran(), 'nothing ran', 'nothing of it runs');

-- Who may make triggers writes their conditions
GRANT TRIGGER ON app.tab TO clerk;
SELECT pg_temp.clerk_runs(ARRAY[$$CREATE TRIGGER w BEFORE INSERT OR UPDATE ON app.tab FOR EACH ROW WHEN (query_to_xml('SELECT app.evil(1)', true, true, '') IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()$$]) \g /dev/null
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.tab')$$), 'the right to make triggers on table app.tab, which has some, belongs to role "clerk", and could run code with the rights of role "dba"', 'a trigger with a condition');
SELECT is(pg_temp.ran(), 'nothing ran', 'which is not asked');
REVOKE TRIGGER ON app.tab FROM clerk;
DROP TRIGGER w ON app.tab;
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_table('app.tab')$$), 'done', 'without trigger and right it goes on');

-- Tables that a DELETE reaches by the actions of their foreign keys
SELECT pg_temp.clerk_runs(ARRAY['CREATE TABLE app.below (id int REFERENCES app.dm (id) ON DELETE CASCADE)', 'INSERT INTO app.below VALUES (5) RETURNING ''x''',
    'GRANT SELECT ON app.below TO dba', 'CREATE TRIGGER t AFTER DELETE ON app.below FOR EACH STATEMENT EXECUTE FUNCTION app.evil_row()']) \g /dev/null
SELECT on_source('DELETE FROM app.t WHERE id = 5');
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_dml('app.dm')$$), 'function app.evil_row() belongs to role "clerk", and would run with the rights of role "dba"', 'a trigger of a table that points at a destination');
SELECT is(pg_temp.ran(), 'nothing ran', 'does not fire');
SELECT is((SELECT count(*) FROM app.dm), 5::bigint, 'nothing is deleted');
SELECT pg_temp.clerk_runs(ARRAY['DROP TRIGGER t ON app.below']) \g /dev/null
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_dml('app.dm')$$), 'done', 'without it the refresh goes on');
SELECT is((SELECT count(*) FROM app.below), 0::bigint, 'and the foreign key does what it says');

-- Names of pg_catalog that a schema before it has, too
SELECT pg_temp.clerk_runs(ARRAY['CREATE DOMAIN app.text AS pg_catalog.text CHECK (app.evil(1) > 1)', 'CREATE DOMAIN app.int4 AS pg_catalog.int4 CHECK (app.evil(1) > 1)']) \g /dev/null
SET search_path = app, pg_catalog, tap;
SELECT lives_ok(call, 'under a search_path with schemas before pg_catalog: ' || call)
  FROM unnest(ARRAY[$$SELECT mimeo.refresh_table('app.tab')$$, $$SELECT mimeo.refresh_snapshot('app.snap', p_check_stats := false)$$, $$SELECT mimeo.refresh_dml('app.dm')$$, $$SELECT * FROM mimeo.plan_refresh('app.tab')$$,
    $$SELECT * FROM mimeo.validate_content('app.tab')$$, $$SELECT mimeo.table_maker('app.t', 1, 'app.again')$$, $$SELECT mimeo.table_destroyer('app.again', false)$$]) call;
RESET search_path;
SELECT is(pg_temp.ran(), 'nothing ran', 'nothing of that schema is used');
SELECT pg_temp.clerk_runs(ARRAY['DROP DOMAIN app.text', 'DROP DOMAIN app.int4']) \g /dev/null

-- Views that read each other
CREATE VIEW app.one AS SELECT id, v FROM app.snap;
CREATE VIEW app.two AS SELECT id FROM app.one;
CREATE OR REPLACE VIEW app.one AS SELECT s.id, s.v FROM app.snap s WHERE NOT EXISTS (SELECT FROM app.two);
SELECT on_source('ALTER TABLE app.t ALTER v TYPE bigint');
SELECT alike(pg_temp.outcome($$SELECT mimeo.refresh_snapshot('app.snap')$$), '%whose columns change, and cannot be kept: views that read each other cannot be made anew', 'views without an order end with an error');
DROP VIEW app.one, app.two CASCADE;
SELECT is(pg_temp.outcome($$SELECT mimeo.refresh_snapshot('app.snap')$$), 'done', 'without them the columns change');

-- A lock that somebody keeps
SELECT tap.dblink_connect('holder', format('host=127.0.0.1 port=%s dbname=%L user=dba password=''dba secret''', inet_server_port(), current_database())) \g /dev/null
SELECT tap.dblink_exec('holder', 'BEGIN; LOCK TABLE app.tab IN SHARE MODE') \g /dev/null
SET mimeo.swap_max_wait = '1s';
SELECT alike(pg_temp.outcome($$SELECT mimeo.refresh_table('app.tab')$$), '"app.tab" was in use for % s, and was not refreshed', 'a destination that is locked is not waited for without end');
SELECT tap.dblink_exec('holder', 'ROLLBACK') \g /dev/null
SELECT tap.dblink_disconnect('holder') \g /dev/null
RESET mimeo.swap_max_wait;

-- A superuser's job, and a destination that becomes somebody else's
SELECT as_superuser($$CREATE TABLE app.handed (id int, v bigint); SELECT mimeo.table_maker('app.t', 1, 'app.handed', p_filter := '{id,v}')$$);
SELECT as_superuser($$SELECT mimeo.refresh_table('app.handed')$$);
SELECT as_superuser('DROP TABLE app.handed');
SELECT pg_temp.clerk_runs(ARRAY['CREATE TABLE app.handed (id int, v bigint)']) \g /dev/null
SELECT is(pg_temp.outcome($$SELECT as_superuser('SELECT mimeo.refresh_table(''app.handed'')')$$), 'destination "app.handed" belongs to role "clerk" now, but belonged to another role when its job was configured', 'a table of the same name gets no rows');
GRANT EXECUTE ON FUNCTION mimeo.table_destroyer, mimeo.refresh_table TO clerk;
DROP TABLE app.mood_tab;
SELECT is(as_clerk($$SELECT mimeo.table_destroyer('app.mood_tab')::text$$), 'must be owner of app.mood_tab', 'a job whose table is gone is ended by who answers for it');
SELECT lives_ok($$SELECT mimeo.table_destroyer('app.mood_tab')$$, 'who is this one');

-- What a row holds is for who may read it
ALTER TABLE app.tab ALTER v TYPE bigint;
ALTER TABLE app.tab ADD CONSTRAINT small CHECK (v < 100) NOT VALID;
SELECT on_source('UPDATE app.t SET v = 777 WHERE id = 1');
SELECT unalike(in_session('clerk', $$SELECT mimeo.refresh_table('app.tab')::text$$), '%777%', 'a role that may only refresh is not told of a row');
SELECT unalike((SELECT error FROM last_run('app.tab')), '%777%', 'nor by the history');
SELECT alike(in_session('dba', $$SELECT mimeo.refresh_table('app.tab')::text$$), '%777%', 'its owner is');
ALTER TABLE app.tab DROP CONSTRAINT small;

-- A destroyer takes away what was made for its job, whatever the job's row says
SELECT as_reader('CREATE TABLE mimeo.precious (id int)') \g /dev/null
SELECT as_superuser($$UPDATE mimeo.refresh_config SET state = jsonb_set(state, '{objects,queue,name}', '"precious"') WHERE dest_table = 'app.dm'$$);
SELECT alike(pg_temp.outcome($$SELECT mimeo.dml_destroyer('app.dm')$$), 'table mimeo precious on data source 1 %was not made for destination "app.dm"', 'a table that is no queue');
SELECT as_superuser($$UPDATE mimeo.refresh_config SET state = jsonb_set(state, '{objects}', (SELECT o.state -> 'objects' FROM mimeo.refresh_config o WHERE o.dest_table = 'app.dm2')) WHERE dest_table = 'app.dm'$$)
 WHERE mimeo.dml_maker('app.t', 1, 'app.dm2') IS NOT NULL;
SELECT alike(pg_temp.outcome($$SELECT mimeo.dml_destroyer('app.dm')$$), 'table mimeo app_t_q01 on data source 1 %was not made for destination "app.dm"', 'the queue of another destination');
SELECT is(ask_source($$SELECT count(*) FROM pg_tables WHERE schemaname = 'mimeo' AND tablename IN ('precious', 'app_t_q01')$$), '2', 'both stay');

-- Jobs that share a session
SELECT on_source($$CREATE TABLE app.a (id int); CREATE TABLE app.b (id int); INSERT INTO app.a VALUES (1); INSERT INTO app.b SELECT generate_series(1, 3);
    ALTER TABLE app.b ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON app.b USING (current_setting('role') = 'none' AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))$$);
SELECT mimeo.table_maker('app.a', 1, p_condition := 'WHERE set_config(''role'', ''reader'', false) IS NOT NULL AND pg_advisory_lock(7) IS NOT NULL'), mimeo.table_maker('app.b', 1) \g /dev/null
SELECT is((SELECT count(*) FROM app.b), 3::bigint, 'a policy of the source hides nothing from a session of its own');
SELECT on_source('INSERT INTO app.b SELECT generate_series(4, 6)');
UPDATE mimeo.refresh_config SET period = CASE WHEN dest_table IN ('app.a', 'app.b') THEN interval '1 hour' END, last_run = NULL;
CALL mimeo.run_refresh('table');
SELECT is((SELECT string_agg(dest_table || ' ' || status, ', ' ORDER BY run_id) FROM mimeo.run_history WHERE dest_table IN ('app.a', 'app.b') AND run_id > (SELECT max(run_id) - 2 FROM mimeo.run_history)),
    'app.a ok, app.b ok', 'both jobs run, one after the other');
SELECT is((SELECT count(*) FROM app.b), 6::bigint, 'what a condition has done to the session of one does not reach the next');

-- What is plain is asked of the constant, not of how it is spelled
SELECT on_source($$CREATE TABLE app.clock (id int, at timestamptz); INSERT INTO app.clock VALUES (1, now() - interval '1 hour')$$);
SELECT mimeo.snapshot_maker('app.clock', 1, p_condition := $$WHERE at < E'n\157w'$$);
SELECT mimeo.refresh_snapshot('app.clock');
SELECT is((SELECT status || ' ' || rows FROM last_run('app.clock')), 'ok 1', 'a condition that means another moment each time is asked again');

-- Expressions of a source that make much of little
SELECT on_source($$CREATE TABLE app.much (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS (length(repeat('x', 1000000))) STORED); INSERT INTO app.much (id, v) VALUES (1, 'a');
    CREATE TABLE app.padded (id int PRIMARY KEY, v text); CREATE INDEX by_padded ON app.padded (lpad(v, 8, '0')); CREATE INDEX by_much ON app.padded (length(lpad(v, 1000000)))$$);
SELECT lives_ok($$SELECT mimeo.table_maker('app.much', 1)$$, 'a generated column of a million letters');
SELECT is((SELECT n FROM app.much), 1000000, 'comes as a plain one');
SELECT lives_ok($$SELECT mimeo.table_maker('app.padded', 1)$$, 'an index on one is left out');
SELECT is((SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'app.padded'::regclass),
    'by_padded padded_id_pk', 'one of eight letters is made');
SELECT * FROM finish();
