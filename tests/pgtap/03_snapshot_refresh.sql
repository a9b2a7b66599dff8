-- refresh_snapshot: twins that take turns, when it copies and when it may skip, what it records.
SELECT plan(64);

CREATE FUNCTION pg_temp.live(p_view text) RETURNS text LANGUAGE sql AS $$
    SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
     WHERE r.ev_class = p_view::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass
$$;
CREATE FUNCTION pg_temp.refresh(VARIADIC p_rest text[] = '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT mimeo.refresh_snapshot(%L %s)', 'app.t', array_to_string(p_rest, ' '));
    RETURN (last_run('app.t')).status;
END
$$;

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE INDEX t_v_idx ON app.t (v);
    INSERT INTO app.t SELECT i, 'v' || i FROM generate_series(1, 1000) i$$);
SELECT mimeo.snapshot_maker('app.t', 1);
UPDATE mimeo.refresh_config SET delta = NULL; -- here all rows are copied; 35_delta.sql has the other way

-- Skipping
SELECT is(pg_temp.refresh(), 'skipped', 'nothing has changed: skipped');
SELECT is((last_run('app.t')).reason, 'unchanged on the source', 'the history says why');
SELECT ok((SELECT last_run > now() - interval '1 min' FROM mimeo.refresh_config), 'last_run moves all the same');
SELECT is(pg_temp.refresh(', p_check_stats := false'), 'ok', 'unless the caller does not want it');
UPDATE mimeo.refresh_config_snap SET check_stats = false;
SELECT is(pg_temp.refresh(), 'ok', 'or the job does not want it');
SELECT is(pg_temp.refresh(', p_check_stats := true'), 'ok', 'the caller wins, but there is nothing to compare with yet');
UPDATE mimeo.refresh_config_snap SET check_stats = true;
SELECT is(pg_temp.refresh(), 'skipped', 'then there is');

-- Changes
SELECT is(pg_temp.live('app.t'), 't_snap1', 'after four copies the first twin is live');
SELECT is((SELECT count(*) FROM app.t_snap2), 0::bigint, 'the other one was emptied');
SELECT on_source($$INSERT INTO app.t VALUES (1001, 'new')$$);
SELECT is(pg_temp.refresh(), 'ok', 'an INSERT is noticed');
SELECT is(pg_temp.live('app.t'), 't_snap2', 'the twins take turns');
SELECT is((SELECT count(*) FROM app.t), 1001::bigint, 'the new row is there');
SELECT is((SELECT count(*) FROM app.t_snap1), 0::bigint, 'the old twin was emptied');
SELECT on_source($$UPDATE app.t SET v = 'changed' WHERE id = 5$$);
SELECT is(pg_temp.refresh(), 'ok', 'an UPDATE is noticed');
SELECT is((SELECT v FROM app.t WHERE id = 5), 'changed', 'and has arrived');
SELECT on_source($$DELETE FROM app.t WHERE id = 6$$);
SELECT is(pg_temp.refresh(), 'ok', 'a DELETE is noticed');
SELECT is((SELECT count(*) FROM app.t), 1000::bigint, 'and has arrived');
SELECT is(pg_temp.refresh(), 'skipped', 'nothing more has changed');
SELECT on_source($$TRUNCATE app.t$$);
SELECT is(pg_temp.refresh(), 'ok', 'a TRUNCATE is noticed'); -- defect 4 of 1.5.1
SELECT is((SELECT count(*) FROM app.t), 0::bigint, 'a TRUNCATE empties the snapshot'); -- defect 4 of 1.5.1
SELECT is(pg_temp.refresh(), 'skipped', 'an empty table is skipped too');
SELECT on_source($$BEGIN; INSERT INTO app.t SELECT i, 'w' FROM generate_series(1, 10) i; COMMIT$$);
SELECT is(pg_temp.refresh(), 'ok', 'filled again');
SELECT on_source($$ALTER TABLE app.t RENAME TO gone; CREATE TABLE app.t (id int PRIMARY KEY, v text);
    INSERT INTO app.t SELECT i, 'other' FROM generate_series(1, 10) i$$);
SELECT is(pg_temp.refresh(), 'ok', 'another table under the same name, with the same counters, is noticed');
SELECT is((SELECT count(*) FROM app.t WHERE v = 'other'), 10::bigint, 'and has arrived');
SELECT is(pg_temp.refresh(), 'skipped', 'once');

-- The job changes while the source does not (defect 9 of 1.5.1).
UPDATE mimeo.refresh_config_snap SET condition = 'WHERE id > 7';
SELECT is(pg_temp.refresh(), 'ok', 'a changed condition is noticed'); -- defect 9 of 1.5.1
SELECT is((SELECT count(*) FROM app.t), 3::bigint, 'a changed condition holds'); -- defect 9 of 1.5.1
SELECT is(pg_temp.refresh(), 'skipped', 'a plain condition does not keep the job from being skipped');
UPDATE mimeo.refresh_config_snap SET condition = 'WHERE id > 7 OR v < current_user';
SELECT is(pg_temp.refresh(), 'ok', 'a condition that calls something');
SELECT is(pg_temp.refresh(), 'ok', 'may select other rows of the same table: never skipped');
UPDATE mimeo.refresh_config_snap SET condition = 'WHERE id IN (SELECT id FROM app.gone)';
SELECT is(pg_temp.refresh(), 'ok', 'so may one with a subquery');
SELECT is(pg_temp.refresh(), 'ok', 'never skipped either');
UPDATE mimeo.refresh_config_snap SET condition = NULL, filter = '{id}';
SELECT is(pg_temp.refresh(), 'ok', 'a changed filter is noticed'); -- defect 9 of 1.5.1
SELECT columns_are('app', 't', ARRAY['id'], 'a changed filter holds'); -- defect 9 of 1.5.1
UPDATE mimeo.refresh_config_snap SET filter = NULL;
SELECT is(pg_temp.refresh(), 'ok', 'and taken back');
SELECT columns_are('app', 't', ARRAY['id', 'v'], 'all columns again');


-- The live twin was touched by somebody else.
SELECT is(pg_temp.refresh(), 'skipped', 'unchanged');
DO $$ BEGIN EXECUTE 'TRUNCATE ' || pg_temp.live('app.t'); END $$;
SELECT is(pg_temp.refresh(), 'ok', 'a live twin that somebody emptied is filled again');
SELECT is((SELECT count(*) FROM app.t), 10::bigint, 'with all rows');

-- Without data
SELECT is(pg_temp.refresh(', p_pulldata := false'), 'ok', 'p_pulldata := false');
SELECT is((SELECT count(*) FROM app.t), 0::bigint, 'leaves the snapshot empty');
SELECT is(pg_temp.refresh(), 'ok', 'the next refresh does not take that for the source');
SELECT is((SELECT count(*) FROM app.t), 10::bigint, 'and fills it');

-- What a DBA put on a twin stays.
CREATE INDEX by_hand ON app.t_snap1 (v, id);
COMMENT ON INDEX app.by_hand IS 'mine';
ALTER TABLE app.t_snap1 ADD CONSTRAINT small CHECK (id < 1000000);
CREATE TABLE app.parent (id int PRIMARY KEY);
INSERT INTO app.parent SELECT generate_series(1, 100);
ALTER TABLE app.t_snap1 ADD CONSTRAINT to_parent FOREIGN KEY (id) REFERENCES app.parent DEFERRABLE;
ALTER TABLE app.t_snap1 SET (autovacuum_enabled = false);
DO $$ BEGIN PERFORM pg_temp.refresh(', p_check_stats := false'), pg_temp.refresh(', p_check_stats := false'); END $$;
SELECT is(obj_description('app.by_hand'::regclass), 'mine', 'an index that a DBA added stays, with its comment');
SELECT is((SELECT string_agg(conname || ' ' || convalidated, ', ' ORDER BY conname) FROM pg_constraint
    WHERE conrelid = 'app.t_snap1'::regclass AND contype IN ('c', 'f')), 'small true, to_parent true',
    'so do constraints and foreign keys');
SELECT is((SELECT reloptions::text FROM pg_class WHERE oid = 'app.t_snap1'::regclass), '{autovacuum_enabled=false}',
    'and storage parameters');
SET enable_seqscan = off;
SELECT is((SELECT count(*) FROM app.t_snap1 WHERE v = 'other'), (SELECT count(*) FROM app.t_snap1),
    'the index that was added holds all rows');
RESET enable_seqscan;
SELECT on_source($$INSERT INTO app.t VALUES (2000000, 'too large')$$);
DO $$ BEGIN IF pg_temp.live('app.t') = 't_snap1' THEN PERFORM pg_temp.refresh(); END IF; END $$;
SELECT throws_ok($$SELECT pg_temp.refresh(', p_check_stats := false')$$, '23514', NULL,
    'a row that violates a local CHECK constraint is an error');
SELECT on_source($$UPDATE app.t SET id = 500 WHERE id = 2000000$$);
SELECT throws_ok($$SELECT pg_temp.refresh(', p_check_stats := false')$$, '23503', NULL,
    'so is one that violates a local foreign key');
SELECT on_source($$UPDATE app.t SET id = 50 WHERE id = 500$$);
CREATE UNIQUE INDEX only_one ON app.t_snap1 (v);
SELECT throws_ok($$SELECT pg_temp.refresh(', p_check_stats := false')$$, '23505', NULL,
    'and one that violates a local unique index');
SELECT is((SELECT count(*) FROM app.t), 11::bigint, 'the old data is live all the time');
DROP INDEX app.only_one;
SELECT is(pg_temp.refresh(), 'ok', 'with the obstacle gone it goes on');

-- The view keeps what is on it.
ALTER VIEW app.t SET (security_barrier = true);
GRANT SELECT ON app.t TO clerk;
COMMENT ON VIEW app.t IS 'a copy';
DO $$ BEGIN PERFORM pg_temp.refresh(', p_check_stats := false'); END $$;
SELECT is((SELECT reloptions::text FROM pg_class WHERE oid = 'app.t'::regclass), '{security_barrier=true}',
    'options of the view survive a swap');
SELECT ok(has_table_privilege('clerk', 'app.t', 'SELECT'), 'grants survive a swap');
SELECT is(obj_description('app.t'::regclass), 'a copy', 'comments survive a swap');

-- Names
SELECT on_source($$CREATE TABLE app."snap1 and.More" ("snap1" int PRIMARY KEY, "Mixed ""quoted"" snap2" text);
    INSERT INTO app."snap1 and.More" VALUES (1, 'x')$$);
DO $$ BEGIN
    PERFORM mimeo.snapshot_maker('app.snap1 and.More', 1);
    UPDATE mimeo.refresh_config SET delta = NULL;
    FOR i IN 1..3 LOOP PERFORM mimeo.refresh_snapshot('"app"."snap1 and.More"', p_check_stats := false); END LOOP;
END $$;
SELECT is((SELECT count(*) FROM app."snap1 and.More"), 1::bigint,
    'names that contain snap1, dots, spaces and capitals are just names'); -- defect 6 of 1.5.1
SELECT is(pg_temp.live('app."snap1 and.More"'), '"snap1 and.More_snap1"', 'the rows of such a table go to the idle twin each time'); -- defect 6 of 1.5.1
SELECT mimeo.refresh_snap('t', p_lock_wait := 5);
SELECT mimeo.refresh_snap('t', p_lock_wait := 5);
SELECT is((last_run('app.t')).status, 'skipped', 'refresh_snap is the same function; a bare name is found by search_path');

-- Statistics
SELECT on_source($$CREATE TABLE app.stats (id int PRIMARY KEY, v text); INSERT INTO app.stats SELECT i, i % 10 FROM generate_series(1, 20000) i$$);
SELECT mimeo.snapshot_maker('app.stats', 1);
UPDATE mimeo.refresh_config SET delta = NULL;
-- The hidden columns go.
SELECT mimeo.refresh_snapshot('app.stats', p_check_stats := false), mimeo.refresh_snapshot('app.stats', p_check_stats := false) \g /dev/null
SELECT on_source($$UPDATE app.stats SET v = 'new' WHERE id <= 100$$);
SELECT mimeo.refresh_snapshot('app.stats');
SELECT matches((last_run('app.stats')).reason, 'statistics kept', 'few rows have changed: the statistics go along');
SELECT is((SELECT array_length(most_common_vals::text::text[], 1) FROM pg_stats WHERE tablename = pg_temp.live('app.stats') AND attname = 'v'), 10,
    'and the planner has them');
SELECT on_source($$UPDATE app.stats SET v = 'new' WHERE id <= 1950$$);
SELECT mimeo.refresh_snapshot('app.stats');
SELECT doesnt_match((last_run('app.stats')).reason, 'statistics kept', 'more than a tenth since they were made: they are made anew');
SELECT is((SELECT 'new' = ANY (most_common_vals::text::text[]) FROM pg_stats WHERE tablename = pg_temp.live('app.stats') AND attname = 'v'), true,
    'and say so');
SELECT on_source($$UPDATE app.stats SET v = 'newer' WHERE id <= 10$$);
DO $$ BEGIN
    EXECUTE format('CREATE INDEX ON app.%I (upper(v))', CASE pg_temp.live('app.stats') WHEN 'stats_snap1' THEN 'stats_snap2' ELSE 'stats_snap1' END);
    PERFORM mimeo.refresh_snapshot('app.stats');
END $$;
SELECT doesnt_match((last_run('app.stats')).reason, 'statistics kept', 'an index on an expression needs its own');
SELECT is((SELECT count(*) FROM pg_stats s JOIN pg_indexes i ON i.indexname = s.tablename WHERE i.tablename = pg_temp.live('app.stats')), 1::bigint, 'and gets them');

SELECT * FROM finish();
