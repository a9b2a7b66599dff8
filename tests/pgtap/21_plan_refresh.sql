-- plan_refresh: what a refresh would do, with nothing done.
SELECT plan(50);
SELECT set_config('mimeo.swap_lock_timeout', '50ms', false), set_config('mimeo.swap_max_wait', '7s', false) \g /dev/null
CREATE FUNCTION pg_temp.planned(p_destination text, p_part text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' | ', step, side, action, lock, estimate), E'\n' ORDER BY step) FROM mimeo.plan_refresh(p_destination)
     WHERE concat_ws(' | ', step, side, action, lock, estimate) LIKE p_part
$$;
-- All that a refresh could have changed here and over there.
CREATE FUNCTION pg_temp.everything() RETURNS text LANGUAGE sql AS $$
    SELECT (SELECT md5(string_agg(c::text, '')) FROM mimeo.refresh_config c) || (SELECT count(*) FROM mimeo.run_history)
        || (SELECT string_agg(concat(oid, relfilenode, relname), ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = 'app'::regnamespace)
        || ask_source($q$SELECT string_agg(concat(c.oid, relfilenode, n_live_tup, n_dead_tup), ' ' ORDER BY c.oid)
                          FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE relnamespace IN ('app'::regnamespace, 'mimeo'::regnamespace)$q$)
$$;

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, changed timestamptz DEFAULT now(), v text); INSERT INTO app.t SELECT i, now() - interval '1 hour', i FROM generate_series(1, 5000) i; ANALYZE app.t;
    CREATE TABLE app.other AS SELECT * FROM app.t; ALTER TABLE app.other ADD PRIMARY KEY (id); ANALYZE app.other;
    CREATE TABLE app.weird (id int PRIMARY KEY, r regclass); GRANT SELECT, TRIGGER ON ALL TABLES IN SCHEMA app TO reader$$);
SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap'), mimeo.table_maker('app.t', 1, 'app.tab'), mimeo.inserter_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.ins'),
       mimeo.updater_maker('app.t', 'time', 'changed', 1, p_dest_table := 'app.upd'), mimeo.dml_maker('app.other', 1, 'app.d'), mimeo.logdel_maker('app.other', 1, 'app.l'),
       mimeo.snapshot_maker('app.weird', 1), mimeo.table_maker('app.other', 1, 'app.inplace') \g /dev/null
UPDATE mimeo.refresh_config SET delta = NULL; -- 35_delta.sql has the plan of a delta

-- A snapshot
SELECT alike(pg_temp.planned('app.snap', '2 |%'), '2 | source | connect to % as role "reader"', 'where a snapshot comes from');
SELECT alike(pg_temp.planned('app.snap', '3 |%'), '3 | source | read counters and columns of "app.t" | unchanged on the source', 'a snapshot that would be skipped: why');
SELECT is(pg_temp.planned('app.snap', '4 |%'), '4 | destination | nothing: the refresh is skipped | 0 rows', 'and that it would');
SELECT is((SELECT max(step) FROM mimeo.plan_refresh('app.snap')), 4, 'and no more');
SELECT on_source($$UPDATE app.t SET v = 'x' WHERE id = 1$$);
CREATE TEMPORARY TABLE before AS SELECT pg_temp.everything() AS state;
SELECT alike(pg_temp.planned('app.snap', '3 |%'), '%copied: the source has changed', 'one that would not: why');
SELECT alike(pg_temp.planned('app.snap', '% COPY %'), '% | source | COPY (SELECT "app"."t"."id", %) TO STDOUT (FORMAT binary) | ACCESS SHARE on "app.t" until the rows have come | about 5000 rows, % kB; binary: %',
    'the rows, as the source expects them, and their form');
SELECT alike(pg_temp.planned('app.snap', '%load them%'), '%into "app.snap_snap1", while they come | last time 5000 rows in % s', 'where they go, and how long that took');
SELECT alike(pg_temp.planned('app.snap', '%OR REPLACE%'), '%CREATE OR REPLACE VIEW "app"."snap" AS%FROM "app"."snap_snap1" | ACCESS EXCLUSIVE on "app.snap",%tried for 50 ms at a time, for 7 s in all',
    'the swap, its lock, and for how long');
SELECT alike(pg_temp.planned('app.snap', '%TRUNCATE "app"."snap_snap2"%'), '%if it is free at that instant%', 'what becomes of the old twin');
SELECT on_source($$INSERT INTO app.weird VALUES (1, 'app.t')$$);
SELECT alike(pg_temp.planned('app.weird', '% COPY %'), '%(FORMAT text)%text: the binary form of column "r" (regclass) may differ%', 'text, and why');
BEGIN;
UPDATE mimeo.refresh_config_snap SET keep_previous = true, max_shrink_percent = 5, guard = 'SELECT count(*) > 1 FROM {new}' WHERE dest_table = 'app.snap';
SELECT alike(pg_temp.planned('app.snap', '%keep %'), '%| keep "app.snap_snap2" | keep_previous%', 'what is kept');
SELECT alike(pg_temp.planned('app.snap', '%by more than 5%'), '%SELECT count(*) FROM "app"."snap_snap2"%', 'the guards');
SELECT alike(pg_temp.planned('app.snap', '%unless it%'), '%SELECT count(*) > 1 FROM "app"."snap_snap1"%', 'both');
ROLLBACK;

-- The others
SELECT alike(pg_temp.planned('app.tab', '% COPY %'), '%about 5000 rows%', 'a table: all rows');
SELECT alike(pg_temp.planned('app.tab', '%swap its storage%'), '%ACCESS EXCLUSIVE on "app.tab", for some milliseconds%the old rows can be read until then', 'and its lock');
CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nothing AFTER INSERT ON app.inplace FOR EACH ROW EXECUTE FUNCTION app.nothing();
SELECT alike(pg_temp.planned('app.inplace', '%DELETE%'), '%DELETE FROM "app"."inplace"%in place%', 'or in place');
SELECT alike(pg_temp.planned('app.ins', '%find up to%'), '%which value column "id" of "app.t" is complete | up to 4990, exclusive: boundary 10%', 'an inserter: its bound');
SELECT alike(pg_temp.planned('app.ins', '% COPY %'), '%WHERE "mimeo"."id" OPERATOR(pg_catalog.>=) ''4990''%', 'its range');
SELECT alike(pg_temp.planned('app.upd', '%update or insert%'), '%in "app"."upd" by "id" | ROW EXCLUSIVE on "app.upd"%33 % of it or more', 'an updater: by which key');
SELECT alike(pg_temp.planned('app.d', '%nothing%'), '%nothing: no change waits | 0 rows', 'a dml job without changes');
SELECT on_source($$UPDATE app.other SET v = 'y' WHERE id <= 30; DELETE FROM app.other WHERE id > 4990$$);
SELECT alike(pg_temp.planned('app.d', '%| read%'), '%read "mimeo"."app_other_q" | 40 changes wait', 'with changes: how many');
SELECT alike(pg_temp.planned('app.d', '% COPY %'), '%about 40 rows%', 'and how many rows');
SELECT alike(pg_temp.planned('app.d', '%put them in place%'), '%ROW EXCLUSIVE on "app.d"%60 % of it or more', 'they take their places, or the table is written anew');
SELECT alike(pg_temp.planned('app.l', '%stamp%'), '%ROW EXCLUSIVE on "app.l"%33 % of it or more', 'logdel stamps');
SELECT mimeo.refresh_dml('app.d');
SELECT alike(pg_temp.planned('app.d', '%applied%'), '%DELETE from "mimeo"."app_other_q" what the last refresh has applied%', 'what is applied, and removed by the next');
SELECT alike(pg_temp.planned('app.d', '%| read%'), '%0 changes wait', 'does not wait');
SELECT on_source($$UPDATE app.other SET v = 'z' WHERE id <= 3$$);
BEGIN;
UPDATE mimeo.refresh_config SET filter = '{id,v}' WHERE dest_table = 'app.d';
SELECT alike(pg_temp.planned('app.d', '%| read%'), '%0 changes wait', 'nothing waits in a queue that is yet to be made');
SELECT alike(pg_temp.planned('app.d', '%swap its storage%'), '%ACCESS EXCLUSIVE on "app.d",%', 'the rows come beside those that are there');
SELECT alike(pg_temp.planned('app.d', '%copy all rows%'), '%the filter or the condition has changed', 'when all rows are copied: why');
SELECT alike(pg_temp.planned('app.d', '%triggers%'), '%source | make the triggers of "app"."other" anew | ACCESS EXCLUSIVE on "app.other",% | something else is to be queued now', 'and that other changes will be queued');
SELECT on_source('ALTER TABLE app.other DISABLE TRIGGER app_other_mimeo_trig_insert');
SELECT is(pg_temp.planned('app.d', '%disabled%'), NULL, 'triggers that are made anew are enabled');
ROLLBACK;
SELECT alike(pg_temp.planned('app.d', '%disabled%'), '%| the run is critical', 'others that are disabled miss changes');
SELECT on_source('ALTER TABLE app.other ENABLE TRIGGER app_other_mimeo_trig_insert');

SELECT mimeo.dml_maker('app.other', 1, 'app.j', p_condition := 'JOIN app.t w ON w.id = other.id') \g /dev/null
SELECT on_source($$UPDATE app.other SET v = 'w' WHERE id <= 3$$);
SELECT alike(pg_temp.planned('app.j', '%put them in place%'), '%33 % of it or more', 'rows of a condition that joins tables come into a temporary table first');
BEGIN;
UPDATE mimeo.refresh_config SET filter = '{id,v}' WHERE dest_table = 'app.j';
SELECT alike(pg_temp.planned('app.j', '%load them%'), '%into a temporary table%', 'also if they are all of them');
SELECT alike(pg_temp.planned('app.j', '%swap its storage%'), '%SHARE ROW EXCLUSIVE on "app.j"%ACCESS EXCLUSIVE on "app.j",%', 'which take the place of all rows at once');
ROLLBACK;

-- Triggers on the source
SELECT is(pg_temp.planned('app.d', '%triggers%'), NULL, 'triggers that are as they should be stay');
CREATE TEMPORARY TABLE triggers AS SELECT ask_source($$SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_trigger WHERE tgrelid = 'app.other'::regclass$$) AS made;
SELECT as_reader($$DO $d$ BEGIN
    EXECUTE format('COMMENT ON FUNCTION mimeo.app_other_mimeo_queue() IS %L',
        replace(obj_description('mimeo.app_other_mimeo_queue()'::regprocedure), '"sensitive":[]', '"sensitive":["datestyle"]'));
END $d$ $$);
SELECT alike(pg_temp.planned('app.d', '%triggers%'), '%| make the triggers of "app"."other" anew |% | as this release has them; one try', 'those of an older release do not');
SELECT mimeo.refresh_dml('app.d');
SELECT alike((last_run('app.d')).reason, '%the triggers on the source were made anew%', 'and the refresh does so');
SELECT isnt(ask_source($$SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_trigger WHERE tgrelid = 'app.other'::regclass$$), made, 'they are others') FROM triggers;
SELECT is(pg_temp.planned('app.d', '%triggers%'), NULL, 'once');
SELECT on_source($$CREATE TABLE app.child () INHERITS (app.other); ALTER TABLE app.child ADD PRIMARY KEY (id); GRANT SELECT, TRIGGER ON app.child TO reader$$);
SELECT alike(pg_temp.planned('app.d', '%triggers%'), '%source | give "app"."child" the triggers of the job | SHARE ROW EXCLUSIVE on "app.child",%', 'a child that has come gets them');
SELECT is(pg_temp.planned('app.d', '%nobody%'), NULL, 'and has no rows yet');
SELECT on_source($$INSERT INTO app.child VALUES (9001)$$);
SELECT alike(pg_temp.planned('app.d', '%nobody%'), '%source | read the keys of "app"."child", which nobody has queued', 'whose rows come too');
SELECT on_source($$DROP TABLE app.child$$);

-- Nothing is done
DELETE FROM before; INSERT INTO before SELECT pg_temp.everything();
SELECT count(pg_temp.planned(dest_table, '%')) FROM mimeo.refresh_config \g /dev/null
SELECT is(pg_temp.everything(), state, 'nothing is changed on either side') FROM before;
BEGIN;
SELECT count(pg_temp.planned(dest_table, '%')) FROM mimeo.refresh_config \g /dev/null
SELECT is((SELECT string_agg(concat_ws(' ', relation::regclass, mode), ', ') FROM pg_locks WHERE pid = pg_backend_pid() AND mode NOT IN ('AccessShareLock', 'ExclusiveLock')), NULL, 'and nothing is locked');
SELECT is(ask_source($$SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'mimeo%'$$), '0', 'nor connected');
ROLLBACK;
SELECT mimeo.concurrent_lock_check('app.nothing') \g /dev/null
BEGIN;
SELECT mimeo.concurrent_lock_check('app.snap') \g /dev/null
SELECT alike(pg_temp.planned('app.snap', '1 |%'), '1 | destination | take the lock of the job |%another refresh holds it now%', 'a refresh that runs is told of');
ROLLBACK;

-- Errors are those of the refresh
SELECT throws_like($$SELECT * FROM mimeo.plan_refresh('app.nothing')$$, '%is not managed by mimeo', 'no job');
SELECT on_source($$REVOKE SELECT ON app.t FROM reader$$);
SELECT throws_ok($$SELECT * FROM mimeo.plan_refresh('app.tab')$$, '42501', NULL, 'no privilege');
SELECT alike(as_clerk($$SELECT * FROM mimeo.plan_refresh('app.t')$$), 'permission denied%', 'only who was granted it');

SELECT * FROM finish();
