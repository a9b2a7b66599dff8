-- rollback_snapshot: back to the data before; and guards, which refuse new data before anybody sees it.
SELECT plan(50);
SELECT set_config('mimeo.swap_max_wait', '1s', false) \g /dev/null
CREATE FUNCTION pg_temp.live(p_view text) RETURNS text LANGUAGE sql AS $$
    SELECT substring(pg_get_viewdef(p_view::regclass) from 'FROM [^;]*(.)"?;$')
$$;
CREATE FUNCTION pg_temp.size_of_idle(p_view text) RETURNS bigint LANGUAGE sql AS $$
    SELECT pg_relation_size(format('%s_snap%s', p_view, 3 - pg_temp.live(p_view)::int)::regclass)
$$;

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t SELECT i, 'monday' FROM generate_series(1, 100) i$$);
SELECT mimeo.snapshot_maker('app.t', 1);
CREATE VIEW app.on_t AS SELECT count(*) AS n, min(v) AS v FROM app.t;
GRANT SELECT ON app.t TO clerk;

-- Nothing is kept unless it is asked for
SELECT on_source($$UPDATE app.t SET v = 'tuesday'$$);
SELECT mimeo.refresh_snapshot('app.t');
SELECT is((SELECT keep_previous FROM mimeo.refresh_config_snap WHERE dest_table = 'app.t'), false, 'keep_previous is off by default');
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, '55000', 'there is no earlier data of "app.t" to go back to', 'without data to go back to: an error');
SELECT is((SELECT v FROM app.on_t), 'tuesday', 'which changes nothing');
UPDATE mimeo.refresh_config_snap SET keep_previous = true WHERE dest_table = 'app.t';
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, '55000', NULL, 'asking for it does not bring back what is gone');

-- Back and on
SELECT on_source($$UPDATE app.t SET v = 'wednesday'; DELETE FROM app.t WHERE id > 50$$);
SELECT mimeo.refresh_snapshot('app.t');
SELECT cmp_ok(pg_temp.size_of_idle('app.t'), '>', 0::bigint, 'the old twin is not emptied');
SELECT mimeo.refresh_snapshot('app.t');
SELECT is((last_run('app.t')).status, 'skipped', 'nor does a skipped refresh');
SELECT lives_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, 'back to tuesday');
SELECT results_eq($$SELECT n, v FROM app.on_t$$, $$VALUES (100::bigint, 'tuesday')$$, 'the data before shows, also to a view on it');
SELECT ok(has_table_privilege('clerk', 'app.t', 'SELECT'), 'and whom it was granted to may read it');
SELECT results_eq($$SELECT status, count(*) FROM mimeo.run_history WHERE dest_table = 'app.t' GROUP BY 1 ORDER BY 1$$,
    $$VALUES ('ok'::text, 2::bigint), ('rolled_back', 2)$$, 'the runs whose data was taken back say so');
SELECT matches((last_run('app.t')).reason, 'unchanged on the source; rolled back by dba at ', 'and who did it, and when');
SELECT is((SELECT last_success FROM mimeo.job_status WHERE dest_table = 'app.t'),
    (SELECT max(started) FROM mimeo.run_history WHERE dest_table = 'app.t' AND status = 'ok'), 'job_status tells how old the data is that shows');
SELECT is((SELECT last_status FROM mimeo.job_status WHERE dest_table = 'app.t'), 'rolled_back', 'and why');
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, '55000', NULL, 'there is one step back, not two');
SELECT mimeo.refresh_snapshot('app.t');
SELECT is((last_run('app.t')).status, 'ok', 'the next refresh is not skipped, though nothing has changed on the source');
SELECT same_rows('app.t');
SELECT lives_ok($$SELECT mimeo.rollback_snapshot('t')$$, 'and can be taken back too, under a bare name');
SELECT results_eq($$SELECT n, v FROM app.on_t$$, $$VALUES (100::bigint, 'tuesday')$$, 'to tuesday');
SELECT mimeo.refresh_snapshot('app.t');

-- Inside a transaction that is rolled back
SELECT on_source($$UPDATE app.t SET v = 'thursday'$$);
SELECT mimeo.refresh_snapshot('app.t');
BEGIN;
SELECT mimeo.rollback_snapshot('app.t');
SELECT is((SELECT v FROM app.on_t), 'wednesday', 'inside of a transaction');
ROLLBACK;
SELECT is((SELECT v FROM app.on_t), 'thursday', 'which is rolled back');
SELECT is((last_run('app.t')).status, 'ok', 'with the history');
BEGIN;
SELECT on_source($$UPDATE app.t SET v = 'never'$$);
SELECT mimeo.refresh_snapshot('app.t');
ROLLBACK;
SELECT lives_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, 'after a refresh that was rolled back');
SELECT is((SELECT v FROM app.on_t), 'wednesday', 'the data is that of before the last one that was not');

-- Over a change of columns
SELECT mimeo.refresh_snapshot('app.t');
SELECT on_source($$ALTER TABLE app.t DROP COLUMN v; ALTER TABLE app.t ADD COLUMN extra int DEFAULT 7; UPDATE app.t SET extra = id$$);
DROP VIEW app.on_t;
UPDATE mimeo.refresh_config_snap SET post_script = '{"COMMENT ON VIEW app.t IS ''new columns''"}' WHERE dest_table = 'app.t';
SELECT mimeo.refresh_snapshot('app.t');
SELECT columns_are('app', 't', '{id,extra}'::name[], 'other columns have come');
SELECT lives_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, 'back over a change of columns');
SELECT columns_are('app', 't', '{id,v}'::name[], 'the columns are those of before');
SELECT is((SELECT count(*) FROM app.t WHERE v = 'never'), 50::bigint, 'with their data');
COMMENT ON VIEW app.t IS 'old columns';
SELECT mimeo.refresh_snapshot('app.t');
SELECT same_rows('app.t', 'id, extra');
SELECT is(obj_description('app.t'::regclass), 'new columns', 'the post_script runs again when they come again');

-- What is kept is only what a refresh has left
DO $$ BEGIN EXECUTE format('TRUNCATE app.t_snap%s', 3 - pg_temp.live('app.t')::int); END $$;
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, '55000', NULL, 'a twin that somebody has emptied is nothing to go back to');
SELECT mimeo.refresh_snapshot('app.t', p_pulldata := false);
SELECT is((SELECT count(*) FROM app.t), 0::bigint, 'emptied by p_pulldata');
SELECT lives_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, 'can be taken back');
SELECT same_rows('app.t', 'id, extra');
UPDATE mimeo.refresh_config_snap SET keep_previous = false WHERE dest_table = 'app.t';
SELECT mimeo.refresh_snapshot('app.t');
SELECT is(pg_temp.size_of_idle('app.t'), 0::bigint, 'without keep_previous the old twin is emptied again');
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.t')$$, '55000', NULL, 'and nothing to go back to');

-- Others
SELECT on_source($$CREATE TABLE app.d (id int PRIMARY KEY); INSERT INTO app.d SELECT generate_series(1, 10)$$);
SELECT mimeo.table_maker('app.d', 1);
SELECT throws_ok($$SELECT mimeo.rollback_snapshot('app.d')$$, '42809', NULL, 'only snapshots');
SELECT throws_like($$SELECT mimeo.rollback_snapshot('app.nothing')$$, '%is not managed by mimeo', 'only jobs');
SELECT alike(as_clerk($$SELECT mimeo.rollback_snapshot('app.t')$$), 'permission denied%', 'only who was granted it');

-- max_shrink_percent
SELECT throws_ok($$UPDATE mimeo.refresh_config_snap SET max_shrink_percent = 101 WHERE dest_table = 'app.t'$$, '23514', NULL, 'a percentage');
UPDATE mimeo.refresh_config_snap SET max_shrink_percent = 20, keep_previous = true WHERE dest_table = 'app.t';
SELECT on_source($$DELETE FROM app.t WHERE id > 40$$);
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'a fall by 20 percent is none by more');
SELECT on_source($$DELETE FROM app.t WHERE id > 31$$);
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '23514', 'the new data of "app.t" is refused: 31 rows are fewer than the 40 that are there now, by more than 20 percent',
    'a fall by more is refused');
SELECT is((SELECT count(*) FROM app.t), 40::bigint, 'the old data stays');
SELECT is((last_run('app.t')).status, 'critical', 'the run is critical');
SELECT mimeo.rollback_snapshot('app.t');
SELECT is((SELECT count(*) FROM app.t), 50::bigint, 'and a refused refresh has not touched what was kept');
UPDATE mimeo.refresh_config_snap SET max_shrink_percent = NULL WHERE dest_table = 'app.t';
SELECT mimeo.refresh_snapshot('app.t');
SELECT same_rows('app.t', 'id, extra');

-- guard
UPDATE mimeo.refresh_config_snap SET guard = 'SELECT count(*) > 20 AND current_user = ''dba'' FROM {new}; ' WHERE dest_table = 'app.t';
SELECT on_source($$DELETE FROM app.t WHERE id > 25$$);
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'a guard that returns true lets the new data in, asked as the owner of the destination');
SELECT on_source($$DELETE FROM app.t WHERE id > 15$$);
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '23514', 'the new data of "app.t" is refused: the guard does not return true', 'one that returns false does not');
UPDATE mimeo.refresh_config_snap SET guard = 'SELECT NULL::bool FROM {new} WHERE false' WHERE dest_table = 'app.t';
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, '23514', NULL, 'nor does one that says nothing');
UPDATE mimeo.refresh_config_snap SET guard = 'SELECT id FROM {new}' WHERE dest_table = 'app.t';
SELECT alike(in_session('dba', $$SELECT mimeo.refresh_snapshot('app.t')$$), '%In the guard: SELECT id FROM {new}%', 'a guard that fails is named');
SELECT is((SELECT count(*) FROM app.t), 25::bigint, 'the old data stays each time');

SELECT * FROM finish();
