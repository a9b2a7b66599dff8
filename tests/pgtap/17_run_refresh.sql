-- CALL mimeo.run_refresh(): what is due, each job in a transaction of its own; what failed is recorded and named, and the
-- rest runs.
SELECT plan(49);

-- The statuses of what ran since the last look, by job.
CREATE TABLE seen AS SELECT 0::bigint AS run_id;
CREATE FUNCTION ran() RETURNS text LANGUAGE sql AS $$
    WITH fresh AS (SELECT * FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)),
         mark AS (UPDATE seen SET run_id = coalesce((SELECT max(run_id) FROM fresh), run_id))
    SELECT coalesce(string_agg(dest_table || ' ' || status, ', ' ORDER BY run_id), 'nothing') FROM fresh
$$;
CREATE FUNCTION due() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(dest_table, ' ' ORDER BY dest_table), 'nothing') FROM mimeo.job_status WHERE due
$$;
CREATE FUNCTION call(p_arguments text = '') RETURNS text LANGUAGE sql AS $$
    SELECT in_session('dba', format('CALL mimeo.run_refresh(%s)', p_arguments))
$$;

SELECT on_source($$CREATE TABLE app.s (id int PRIMARY KEY, v text); INSERT INTO app.s VALUES (1, 'a');
    CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t VALUES (1, 'a');
    CREATE TABLE app.i (id serial PRIMARY KEY, v text); INSERT INTO app.i (v) VALUES ('a'), ('b');
    CREATE TABLE app.u (id int PRIMARY KEY, n serial, v text); INSERT INTO app.u (id, v) VALUES (1, 'a'), (2, 'b');
    CREATE TABLE app.d (id int PRIMARY KEY, v text); INSERT INTO app.d VALUES (1, 'a');
    CREATE TABLE app.l (id int PRIMARY KEY, v text); INSERT INTO app.l VALUES (1, 'a')$$);
SELECT mimeo.snapshot_maker('app.s', 1);
SELECT mimeo.table_maker('app.t', 1);
SELECT mimeo.inserter_maker('app.i', 'serial', 'id', 1);
SELECT mimeo.updater_maker('app.u', 'serial', 'n', 1);
SELECT mimeo.dml_maker('app.d', 1);
SELECT mimeo.logdel_maker('app.l', 1);
SELECT isnt(ran(), 'nothing', 'the makers have run each job once');

-- What is due
SELECT is(due(), 'nothing', 'a job without a period is never due');
CALL mimeo.run_refresh();
SELECT is(ran(), 'nothing', 'so nothing runs');
UPDATE mimeo.refresh_config SET period = '1 hour';
SELECT is(due(), 'nothing', 'nor is one that has just run');
UPDATE mimeo.refresh_config SET last_run = NULL WHERE dest_table = 'app.s';
SELECT is(due(), 'app.s', 'a job that never ran is due'); -- defect 15 of 1.5.1
CALL mimeo.run_refresh();
SELECT is(ran(), 'app.s skipped', 'and runs');
SELECT is(due(), 'nothing', 'once');
UPDATE mimeo.refresh_config SET last_run = now() - interval '59 minutes' WHERE dest_table = 'app.t';
SELECT is(due(), 'nothing', 'an hour is not over after 59 minutes');
UPDATE mimeo.refresh_config SET last_run = now() - interval '61 minutes' WHERE dest_table = 'app.t';
SELECT is(due(), 'app.t', 'after 61 it is');
CALL mimeo.run_refresh();
SELECT is(ran(), 'app.t ok', 'and the job runs');

-- All methods, oldest first
SELECT on_source($$UPDATE app.s SET v = 'b'; UPDATE app.t SET v = 'b'; INSERT INTO app.i (v) VALUES ('c');
    UPDATE app.u SET v = 'x', n = DEFAULT WHERE id = 1; UPDATE app.d SET v = 'b'; DELETE FROM app.l$$);
SELECT pg_sleep(0);
CREATE TABLE rank AS SELECT * FROM unnest('{app.l,app.u,app.s,app.i,app.d,app.t}'::text[]) WITH ORDINALITY r(dest_table, n);
UPDATE mimeo.refresh_config c SET last_run = now() - interval '10 days' + n * interval '1 day' FROM rank r WHERE r.dest_table = c.dest_table;
DELETE FROM mimeo.run_history;
CALL mimeo.run_refresh();
SELECT is(ran(), 'app.l ok, app.u ok, app.s ok, app.i ok, app.d ok, app.t ok', 'all methods, that first which ran longest ago');
SELECT is((SELECT v FROM app.s), 'b', 'the snapshot has what is new');
SELECT is((SELECT v FROM app.t), 'b', 'the table too');
SELECT is((SELECT v FROM app.d), 'b', 'dml too');
SELECT isnt((SELECT mimeo_source_deleted FROM app.l), NULL, 'logdel too');
SELECT is((SELECT count(DISTINCT xmin::text) FROM mimeo.run_history), 6::bigint, 'each in a transaction of its own');

-- One method; at most so many
UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours';
CALL mimeo.run_refresh('snap');
SELECT is(ran(), 'app.s skipped', 'p_type: only that method');
CALL mimeo.run_refresh(p_type := 'inserter');
SELECT is(ran(), 'app.i ok', 'of both incremental kinds');
CALL mimeo.run_refresh(p_batch_limit := 2);
SELECT is(array_length(string_to_array(ran(), ','), 1), 2, 'p_batch_limit: at most so many');
SELECT is(call($$'weekly'$$), 'p_type is "weekly"; it may be snap, table, inserter, updater, dml, logdel, or NULL for all', 'another p_type is refused');
SELECT is(call('p_jobs := 0'), 'p_jobs is 0; it has to be greater than 0', 'so is no worker');
SELECT is(call('p_batch_limit := -1'), 'p_batch_limit is -1; it has to be greater than 0', 'and a limit below 1');
CALL mimeo.run_refresh();
SELECT ok(true) FROM ran();

-- A job that fails
SELECT on_source('ALTER TABLE app.t RENAME TO gone');
UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours' WHERE dest_table IN ('app.s', 'app.t', 'app.d');
UPDATE mimeo.refresh_config SET last_run = now() - interval '3 hours' WHERE dest_table = 'app.t';
SELECT alike(call(), '1 of 3 jobs failed: "app.t"%"app.t": table "app.t" does not exist on data source 1%', 'the call ends in an error that names it'); -- defect 15 of 1.5.1
SELECT is(ran(), 'app.t critical, app.d ok, app.s skipped', 'the others have run');
SELECT is((last_run('app.t')).sqlstate, '42P01', 'run_history has its SQLSTATE');
SELECT alike((last_run('app.t')).error, 'table "app.t" does not exist on data source 1%HINT: If it was renamed%UPDATE "mimeo"."refresh_config" SET source_table = %', 'and the error, with what to do');
SELECT is((last_run('app.t')).source_table, 'app.t', 'and its source');
SELECT is(due(), 'app.t', 'it stays due');
SELECT alike(call(), '1 of 1 jobs failed: "app.t"%', 'and is tried again');
SELECT is((SELECT consecutive_failures FROM mimeo.job_status WHERE dest_table = 'app.t'), 2::bigint, 'job_status counts the failures');
UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours' WHERE dest_table = 'app.s';
CALL mimeo.run_refresh(p_batch_limit := 1);
SELECT ok(ran() LIKE '%app.s skipped', 'a job that always fails does not keep others from a limited call');
SELECT on_source('ALTER TABLE app.gone RENAME TO t');
SELECT is(call(), 'done', 'when its source is back, it runs');
SELECT is((SELECT consecutive_failures FROM mimeo.job_status WHERE dest_table = 'app.t'), 0::bigint, 'and the count begins anew');

-- A row that the destination refuses
SELECT ran() IS NOT NULL;
ALTER TABLE app.i ADD CONSTRAINT few CHECK (id < 4);
SELECT on_source($$INSERT INTO app.i (v) VALUES ('d'), ('e'), ('f'); UPDATE app.d SET v = 'c'$$);
UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours' WHERE dest_table = 'app.d';
UPDATE mimeo.refresh_config SET last_run = now() - interval '3 hours' WHERE dest_table = 'app.i';
SELECT alike(call(), '1 of 2 jobs failed: "app.i"%violates check constraint "few"%', 'a row that is refused fails only its own job');
SELECT is(ran(), 'app.i critical, app.d ok', 'and is recorded');
SELECT is((SELECT v FROM app.d), 'c', 'the next job has been done');
ALTER TABLE app.i DROP CONSTRAINT few;

-- Who may, and where
SELECT is(as_clerk('CALL mimeo.run_refresh()'), 'permission denied for schema mimeo', 'nobody may who was not granted it');
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk('CALL mimeo.run_refresh()'), 'permission denied for procedure run_refresh', 'nor with the schema alone');
GRANT EXECUTE ON PROCEDURE mimeo.run_refresh TO clerk;
SELECT is(as_clerk('CALL mimeo.run_refresh()'), 'done', 'EXECUTE is enough');
SELECT is(ran(), 'app.i ok', 'its jobs run');
SELECT is((last_run('app.i')).run_by, 'clerk', 'and the history says by whom');
SELECT is(call('); SELECT 1; CALL mimeo.run_refresh('), 'run_refresh cannot run inside a transaction block', 'it has to be called by itself');
SELECT throws_ok($$DO 'BEGIN CALL mimeo.run_refresh(); END'$$, '25001', 'run_refresh cannot run inside a transaction block', 'not from a function or a block of a transaction');

-- Several workers
SELECT on_source($$CREATE TABLE app.many (id int PRIMARY KEY); INSERT INTO app.many SELECT generate_series(1, 10)$$);
SELECT mimeo.snapshot_maker('app.many', 1, 'app.many' || n) FROM generate_series(1, 8) n;
UPDATE mimeo.refresh_config SET period = '1 hour', last_run = NULL, check_stats = false WHERE dest_table LIKE 'app.many%';
UPDATE mimeo.refresh_config SET source_table = 'app.nowhere' WHERE dest_table = 'app.many5';
SELECT ran() IS NOT NULL;
SELECT alike(call('p_jobs := 3'), '1 of 8 jobs failed: "app.many5"%"app.many5": table "app.nowhere" does not exist%', 'p_jobs: a worker''s failure is named too');
SELECT is((SELECT count(*) FILTER (WHERE status = 'ok') || ' ok, ' || count(*) FILTER (WHERE status = 'critical') || ' critical'
             FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)), '7 ok, 1 critical', 'each job has run once');
SELECT is((SELECT count(DISTINCT run_by) || min(run_by) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)), '1dba', 'as the caller');
UPDATE mimeo.refresh_config SET last_run = NULL WHERE dest_table LIKE 'app.many%' AND dest_table <> 'app.many5';
UPDATE mimeo.refresh_config SET period = NULL WHERE dest_table = 'app.many5';
SELECT ran() IS NOT NULL;
SELECT is(call('p_jobs := 3, p_batch_limit := 2'), 'done', 'with a limit');
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)), 2::bigint, 'the workers begin no more than that together');

SELECT finish();
