-- What a run leaves behind: run_history, also of failures; job_status and health; pg_jobmon.
SELECT plan(46);

CREATE FUNCTION runs(p_dest_table text = 'app.t') RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(status, ' ' ORDER BY run_id) FROM mimeo.run_history WHERE dest_table = p_dest_table
$$;
CREATE FUNCTION again() RETURNS text LANGUAGE sql AS $$ SELECT in_session('dba', 'SELECT mimeo.refresh_table(''app.t'')') $$;

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t VALUES (1, 'a')$$);
SELECT mimeo.table_maker('app.t', 1);
SELECT is(runs(), 'ok', 'a maker''s pull is a run');

-- Failures of direct calls
SELECT on_source('ALTER TABLE app.t RENAME TO gone');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '42P01', NULL, 'a refresh fails');
SELECT is(runs(), 'ok critical', 'and is recorded, though its transaction is rolled back');
SELECT is((last_run('app.t')).sqlstate, '42P01', 'with its SQLSTATE');
SELECT alike((last_run('app.t')).error, 'table "app.t" does not exist on data source 1 (%)%DETAIL: Refreshing table "app.t"%HINT: If it was renamed%', 'its message, DETAIL and HINT');
SELECT is((last_run('app.t')).run_by, 'dba', 'and by whom');
SELECT is((last_run('app.t')).phases #>> '{0,phase}', 'connect', 'and how far it came');
SELECT ok((last_run('app.t')).ended >= (last_run('app.t')).started, 'and when');
SELECT unalike((last_run('app.t')).error, '%secret%', 'no password');
SELECT is(as_clerk('SELECT 1'), 'done', 'the role clerk is there');
GRANT USAGE ON SCHEMA mimeo TO clerk;
GRANT EXECUTE ON FUNCTION mimeo.refresh_table TO clerk;
SELECT alike(as_clerk($$SELECT mimeo.refresh_table('app.t')$$), 'table "app.t" does not exist%', 'a role that may only refresh');
SELECT is((last_run('app.t')).run_by, 'clerk', 'is recorded too');
SELECT throws_ok($$DO 'BEGIN PERFORM mimeo.refresh_table(''app.t''); EXCEPTION WHEN OTHERS THEN RAISE; END'$$, '42P01', NULL, 'a failure inside of a block');
SELECT is(runs(), 'ok critical critical critical', 'is recorded once');
SELECT is((SELECT error FROM mimeo.job_status), (last_run('app.t')).error, 'job_status shows the error');
SELECT throws_ok($$SELECT mimeo.table_maker('app.nothing', 1)$$, '42P01', NULL, 'a maker that fails');
SELECT is(runs('app.nothing'), NULL, 'leaves no run behind');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.gone', 1, 'app.x', p_condition := 'WHERE 1/(id-1) = 0')$$, '22012', NULL, 'also one that fails while it pulls');
SELECT is(runs('app.x'), NULL, 'leaves none');
SELECT on_source('ALTER TABLE app.gone RENAME TO t');
SELECT is(again(), 'done', 'the source is back');
SELECT is((SELECT last_status || ' ' || consecutive_failures FROM mimeo.job_status), 'ok 0', 'job_status says so');
SELECT is((SELECT error FROM mimeo.job_status), NULL, 'and has no error');
SELECT ok((SELECT last_success = last_run AND lag < '1 minute' AND rows = 1 AND bytes > 0 AND duration > '0' FROM mimeo.job_status), 'but figures of the last run');
SELECT is((SELECT source || ' ' || type || ' ' || data_source_id FROM mimeo.job_status), 'app.t table 1', 'and what is copied from where');

-- health
SELECT is((SELECT (database, jobs, late, failing)::text FROM mimeo.health), format('(%s,1,0,0)', current_database()), 'health: one row a database');
SELECT ok((SELECT oldest_lag < '1 minute' FROM mimeo.health), 'with the oldest lag');
UPDATE mimeo.refresh_config SET period = '1 hour';
SELECT is((SELECT late FROM mimeo.health), 0::bigint, 'a job that has run is not late');
UPDATE mimeo.run_history SET started = started - interval '3 hours', ended = ended - interval '3 hours';
UPDATE mimeo.refresh_config SET state = state || jsonb_build_object('data_as_of', now() - interval '3 hours');
SELECT is((SELECT late FROM mimeo.health), 1::bigint, 'it is after twice its period');
SELECT ok((SELECT oldest_lag > '2 hours' FROM mimeo.health), 'and its data are old');

-- Pruning
INSERT INTO mimeo.run_history (dest_table, source_table, type, started, status)
SELECT 'app.t', 'app.t', 'table', now() - interval '31 days', 'ok' FROM generate_series(1, 150);
INSERT INTO mimeo.run_history (dest_table, source_table, type, started, status) VALUES ('app.t', 'app.t', 'table', now() - interval '29 days', 'ok');
SELECT again();
SELECT again();
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE started < now() - interval '28 days'), 1::bigint, 'rows older than 30 days go');
SELECT is(current_setting('mimeo.history_keep'), '30d', 'mimeo.history_keep says how long they stay');
SELECT throws_ok($$SET mimeo.history_keep = '1h'$$, '42501', NULL, 'which only a superuser may change');
SELECT throws_ok($$SET mimeo.history_kept = '1h'$$, '42602', NULL, 'a setting that mimeo does not have is refused');

-- pg_jobmon
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t', p_jobmon := true)$$, '42704', 'extension "pg_jobmon" is not installed in this database', 'pg_jobmon: asked for but absent');
SELECT throws_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.j', p_jobmon := true)$$, '42704', 'extension "pg_jobmon" is not installed in this database', 'by a maker too');
UPDATE mimeo.refresh_config SET jobmon = true;
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '42704', 'extension "pg_jobmon" is not installed in this database', 'or by the job');
SELECT make_jobmon('Job "monitor"');
SELECT again();
SELECT is((SELECT (j.name, j.status, j.level, s.status)::text FROM "Job ""monitor""".job j JOIN "Job ""monitor""".step s ON s.job = j.id), '("REFRESH TABLE: APP.T",OK,,OK)', 'if it is there, a run is logged, whatever its schema');
SELECT alike((SELECT message FROM "Job ""monitor""".step), '1 rows, % bytes in %', 'with its figures');
SELECT mimeo.refresh_table('app.t', p_jobmon := false);
SELECT is((SELECT count(*) FROM "Job ""monitor""".job), 1::bigint, 'not if the caller does not want it');
SELECT on_source('ALTER TABLE app.t RENAME TO gone');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '42P01', NULL, 'a failure');
SELECT is((SELECT (j.status, j.level, s.status)::text FROM "Job ""monitor""".job j JOIN "Job ""monitor""".step s ON s.job = j.id WHERE j.id = 2), '(FAILED,,CRITICAL)', 'is logged too');
SELECT alike((SELECT message FROM "Job ""monitor""".step WHERE job = 2), '%table "app.t" does not exist%', 'with its error');
UPDATE mimeo.refresh_config SET last_run = NULL;
SELECT alike(in_session('dba', 'CALL mimeo.run_refresh()'), '1 of 1 jobs failed: "app.t"%', 'by run_refresh');
SELECT is((SELECT count(*) FROM "Job ""monitor""".job WHERE status = 'FAILED'), 2::bigint, 'as well');
SELECT on_source('ALTER TABLE app.gone RENAME TO t');
SELECT mimeo.table_maker('app.t', 1, 'app.j');
SELECT ok((SELECT jobmon FROM mimeo.refresh_config WHERE dest_table = 'app.j'), 'a new job is logged there if it is installed');
DROP FUNCTION "Job ""monitor""".close_job(bigint);
SELECT is(again(), 'done', 'a run does not fail because pg_jobmon does');
SELECT finish();
