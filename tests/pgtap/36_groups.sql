-- Groups: refresh_config.refresh_group, refresh_group(…): all members in one snapshot of their source, and shown at one moment here.
SELECT plan(108);

CREATE TABLE seen AS SELECT 0::bigint AS run_id;
-- What ran since the last look, with its group.
CREATE FUNCTION ran() RETURNS text LANGUAGE sql AS $$
    WITH fresh AS (SELECT * FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)),
         mark AS (UPDATE seen SET run_id = coalesce((SELECT max(run_id) FROM fresh), run_id))
    SELECT coalesce(string_agg(concat_ws(' ', dest_table, status, 'in ' || refresh_group), ', ' ORDER BY dest_table, run_id), 'nothing') FROM fresh
$$;
CREATE FUNCTION call(p_arguments text = '') RETURNS text LANGUAGE sql AS $$
    SELECT in_session('dba', format('CALL mimeo.run_refresh(%s)', p_arguments))
$$;

-- All six methods in one group.
SELECT on_source($$CREATE TABLE app.s (id int PRIMARY KEY, v text); INSERT INTO app.s SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.i (id serial PRIMARY KEY, v text); INSERT INTO app.i (v) SELECT 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.u (id int PRIMARY KEY, n serial, v text); INSERT INTO app.u (id, v) SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.d (id int PRIMARY KEY, v text); INSERT INTO app.d SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.l (id int PRIMARY KEY, v text); INSERT INTO app.l SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.outside (id int PRIMARY KEY)$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.s', 1, p_group := 'all'), mimeo.table_maker('app.t', 1, p_group := 'all'),
    mimeo.inserter_maker('app.i', 'serial', 'id', 1, p_group := 'all'), mimeo.updater_maker('app.u', 'serial', 'n', 1, p_group := 'all'),
    mimeo.dml_maker('app.d', 1, p_group := 'all'), mimeo.logdel_maker('app.l', 1, p_group := 'all')$$, 'makers put jobs into a group');
SELECT is((SELECT string_agg(dest_table, ' ' ORDER BY dest_table) FROM mimeo.refresh_config WHERE refresh_group = 'all'), 'app.d app.i app.l app.s app.t app.u', 'refresh_config says so');
SELECT matches(ran(), '^app.d ok, app.i ok, app.l ok, app.s ok, app.t (ok|warning), app.u ok$', 'they pull their first data alone');
SELECT is((SELECT bool_and(refresh_group = 'all') FROM mimeo.job_status), true, 'job_status knows it');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.outside', 1, p_group := '')$$, '22023', 'p_group is empty', 'a group has a name');
SELECT throws_ok($$UPDATE mimeo.refresh_config SET refresh_group = ''$$, '23514', NULL, 'also in refresh_config');
SELECT throws_ok($$SELECT mimeo.refresh_group('none')$$, '42704', 'no job belongs to group "none"', 'a group without members');
SELECT throws_ok($$SELECT mimeo.refresh_group(NULL)$$, '22004', NULL, 'a group has to be given');

SELECT lives_ok($$SELECT mimeo.refresh_group('all')$$, 'nothing has changed');
SELECT is(ran(), 'app.d ok in all, app.i ok in all, app.l ok in all, app.s ok in all, app.t ok in all, app.u ok in all', 'a row for each member, with the group');
SELECT on_source($$UPDATE app.s SET v = 'new' WHERE id < 10; DELETE FROM app.s WHERE id = 50; INSERT INTO app.s VALUES (101, 'more');
    UPDATE app.t SET v = 'new' WHERE id < 10; DELETE FROM app.t WHERE id = 50; INSERT INTO app.t VALUES (101, 'more');
    INSERT INTO app.i (v) VALUES ('more'), ('and more');
    UPDATE app.u SET v = 'new', n = nextval('app.u_n_seq') WHERE id < 10; INSERT INTO app.u (id, v) VALUES (101, 'more');
    UPDATE app.d SET v = 'new' WHERE id < 10; DELETE FROM app.d WHERE id = 50; INSERT INTO app.d VALUES (101, 'more');
    UPDATE app.l SET v = 'new' WHERE id < 10; DELETE FROM app.l WHERE id = 50; INSERT INTO app.l VALUES (101, 'more')$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('all')$$, 'all of them have changed');
SELECT is(ran(), 'app.d ok in all, app.i ok in all, app.l ok in all, app.s ok in all, app.t ok in all, app.u ok in all', 'a row for each');
SELECT same_rows('app.' || name) FROM unnest('{s,t,i,u,d}'::text[]) name;
SELECT is((SELECT count(*) FILTER (WHERE mimeo_source_deleted IS NULL) || ' ' || count(*) FILTER (WHERE mimeo_source_deleted IS NOT NULL) FROM app.l), '100 1', 'a logdel job stamps what is gone');
SELECT matches((last_run('app.s')).reason, '^delta: 10 rows came, 10 were deleted, 100 were there', 'a delta stays one');

-- The newest rows come at once, and what is not safe yet is taken again.
SELECT is((SELECT max(id) FROM app.i), (ask_source('SELECT max(id) FROM app.i'))::int, 'an inserter has all that the snapshot showed');
SELECT on_source($$INSERT INTO app.i (v) VALUES ('later')$$);
SELECT mimeo.refresh_group('all'); SELECT mimeo.refresh_inserter('app.i'); SELECT mimeo.refresh_group('all'); SELECT mimeo.refresh_inserter('app.i');
SELECT same_rows('app.i');
SELECT on_source($$DELETE FROM app.u WHERE id = 101; INSERT INTO app.u (id, v) VALUES (102, 'more')$$);
SELECT mimeo.refresh_updater('app.u'); SELECT mimeo.refresh_group('all'); SELECT mimeo.refresh_group('all');
SELECT is((SELECT count(*) FROM app.u), 102::bigint, 'and an updater merges');
SELECT ran();

-- A single refresh of a member.
CREATE FUNCTION notices(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_sql; RETURN 'no error';
END $$;
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.s')$$, 'works');
SELECT is(ran(), 'app.s skipped', 'and is no run of the group');
SELECT matches((SELECT string_agg(action || ': ' || estimate, E'\n') FROM mimeo.plan_refresh('app.s') WHERE action ~ 'group'),
    'group "all" .*refresh_group refreshes all 6 of them', 'plan_refresh tells of the group');

-- Snapshots alone, all unchanged: one look.
UPDATE mimeo.refresh_config SET refresh_group = NULL;
SELECT on_source($$DO 'BEGIN FOR i IN 1..20 LOOP EXECUTE format(''CREATE TABLE app.many%s (id int PRIMARY KEY); INSERT INTO app.many%s SELECT generate_series(1, 50)'', i, i); END LOOP; END'$$);
SELECT mimeo.snapshot_maker('app.many' || i, 1, p_group := 'many') FROM generate_series(1, 20) i;
SELECT mimeo.refresh_group('many'); SELECT ran();
SELECT mimeo.refresh_group('many');
SELECT is((SELECT count(*) FILTER (WHERE status = 'skipped' AND reason = 'unchanged on the source') FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)), 20::bigint, 'unchanged snapshots are skipped');
SELECT ran();
SELECT on_source('UPDATE app.many3 SET id = id WHERE id = 1'); SELECT mimeo.refresh_snapshot('app.many3'); SELECT ran(); SELECT mimeo.refresh_group('many');
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen) AND reason ~ '^delta: 0 rows came, 0 were deleted'), 20::bigint, 'not if one of them was copied at another moment');
SELECT ran(); SELECT mimeo.refresh_group('many'); SELECT is((SELECT count(*) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen) AND status = 'skipped'), 20::bigint, 'afterwards they are again'); SELECT ran();
SELECT on_source('DELETE FROM app.many7 WHERE id = 3');
SELECT mimeo.refresh_group('many');
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen) AND reason ~ '^delta: 0 rows came, 0 were deleted'), 19::bigint, 'beside one that has changed, the others prove themselves by their row versions');
SELECT is((SELECT count(*) FROM app.many7), 49::bigint, 'which has come');
SELECT ran();
UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'app.many9';
SELECT on_source('DELETE FROM app.many7 WHERE id = 4');
SELECT mimeo.refresh_group('many');
SELECT matches((last_run('app.many9')).reason, '^copied: of one moment with the group', 'and are copied without these: counters may come late');
SELECT ran();
SELECT mimeo.snapshot_destroyer('app.many' || i, false) FROM generate_series(1, 20) i;

-- Foreign keys between table jobs, with a circle, and one to a table outside.
SELECT on_source($$CREATE TABLE app.boss (id int PRIMARY KEY, deputy int); CREATE TABLE app.worker (id int PRIMARY KEY, boss int NOT NULL REFERENCES app.boss);
    CREATE TABLE app.task (id int PRIMARY KEY, worker int NOT NULL REFERENCES app.worker, parent int REFERENCES app.task);
    INSERT INTO app.boss VALUES (1), (2); INSERT INTO app.worker VALUES (10, 1), (20, 2); UPDATE app.boss SET deputy = id * 10;
    ALTER TABLE app.boss ADD FOREIGN KEY (deputy) REFERENCES app.worker DEFERRABLE; INSERT INTO app.task VALUES (100, 10, NULL), (101, 10, 100), (200, 20, NULL)$$);
SELECT mimeo.table_maker('app.' || name, 1, p_group := 'keys') FROM unnest('{boss,worker,task}'::text[]) name;
ALTER TABLE app.worker ADD FOREIGN KEY (boss) REFERENCES app.boss;
ALTER TABLE app.boss ADD FOREIGN KEY (deputy) REFERENCES app.worker;
ALTER TABLE app.task ADD FOREIGN KEY (worker) REFERENCES app.worker, ADD FOREIGN KEY (parent) REFERENCES app.task;
SELECT on_source($$BEGIN; INSERT INTO app.boss VALUES (3); INSERT INTO app.worker VALUES (30, 3); UPDATE app.boss SET deputy = 30 WHERE id = 3; INSERT INTO app.task VALUES (300, 30, NULL);
    UPDATE app.boss SET deputy = NULL WHERE id = 1; DELETE FROM app.task WHERE worker = 10; DELETE FROM app.worker WHERE boss = 1; DELETE FROM app.boss WHERE id = 1; COMMIT$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.boss')$$, '23503', NULL, 'alone, none of them can follow: parents are gone');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.task')$$, '23503', NULL, 'and others have not come');
SELECT lives_ok($$SELECT mimeo.refresh_group('keys')$$, 'together they can');
SELECT same_rows('app.' || name) FROM unnest('{boss,worker,task}'::text[]) name;
SELECT throws_ok($$INSERT INTO app.task VALUES (1, 999, NULL)$$, '23503', NULL, 'the keys are there');
CREATE TABLE app.note (task int REFERENCES app.task); INSERT INTO app.note VALUES (200);
SELECT on_source('DELETE FROM app.task WHERE id = 200');
SELECT throws_ok($$SELECT mimeo.refresh_group('keys')$$, '23503', NULL, 'a table outside that refers to a row that is gone');
SELECT is((SELECT count(*) FROM app.task), 2::bigint, 'nothing has changed');
SELECT matches((SELECT error FROM mimeo.run_history WHERE dest_table = 'app.boss' ORDER BY run_id DESC LIMIT 1), '^taken back with group "keys", because "app.task" failed', 'the history says which member has failed');
SELECT ran();
SELECT mimeo.refresh_table('app.task', p_truncate_cascade := true);
SELECT is((SELECT count(*) FROM app.note), 0::bigint, 'truncate_cascade empties it in a refresh by itself');
INSERT INTO app.note VALUES (300); UPDATE mimeo.refresh_config SET truncate_cascade = true WHERE dest_table = 'app.worker';
SELECT on_source('DELETE FROM app.task WHERE id = 300');
SELECT throws_ok($$SELECT mimeo.refresh_group('keys')$$, '23503', NULL, 'in a group, members are not emptied: their rows are checked');
UPDATE mimeo.refresh_config SET truncate_cascade = NULL WHERE dest_table = 'app.worker'; UPDATE mimeo.refresh_config SET truncate_cascade = true WHERE dest_table = 'app.task';
SELECT lives_ok($$SELECT mimeo.refresh_group('keys')$$, 'of one that nobody else refers to, it can');
SELECT is((SELECT count(*) FROM app.note), 0::bigint, 'and is emptied');
DROP TABLE app.note; SELECT ran();

-- Rows that are merged in place: keys that can be deferred hold at the end.
SELECT on_source($$CREATE TABLE app.head (id int PRIMARY KEY, v text); CREATE TABLE app.line (id int PRIMARY KEY, head int REFERENCES app.head, v text);
    INSERT INTO app.head VALUES (1, 'a'), (2, 'b'); INSERT INTO app.line VALUES (1, 1, 'x'), (2, 2, 'y')$$);
SELECT mimeo.dml_maker('app.line', 1, p_group := 'merged'), mimeo.dml_maker('app.head', 1, p_group := 'merged');
ALTER TABLE app.line ADD CONSTRAINT line_head FOREIGN KEY (head) REFERENCES app.head DEFERRABLE INITIALLY DEFERRED;
SELECT on_source($$INSERT INTO app.head VALUES (3, 'c'); INSERT INTO app.line VALUES (3, 3, 'z'); DELETE FROM app.line WHERE head = 1; DELETE FROM app.head WHERE id = 1$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('merged')$$, 'parents and children, inserted and deleted');
SELECT same_rows('app.head'); SELECT same_rows('app.line');
INSERT INTO app.line VALUES (99, 2, 'mine');
SELECT on_source($$DELETE FROM app.line WHERE head = 2; DELETE FROM app.head WHERE id = 2$$);
SELECT throws_ok($$SELECT mimeo.refresh_group('merged')$$, '23503', NULL, 'a row of our own whose parent goes');
SELECT is((SELECT count(*) FROM app.head), 2::bigint, 'nothing has changed');
DELETE FROM app.line WHERE id = 99; SELECT ran();
SELECT lives_ok($$SELECT mimeo.refresh_group('merged')$$, 'without it, they come');
SELECT same_rows('app.line'); SELECT ran();

-- One member fails, all are taken back.
SELECT on_source($$INSERT INTO app.head VALUES (4, 'd'); INSERT INTO app.line VALUES (4, 4, 'new'); CREATE TABLE app.guarded AS SELECT 1 AS id$$);
SELECT mimeo.snapshot_maker('app.guarded', 1, p_group := 'merged');
UPDATE mimeo.refresh_config SET guard = 'SELECT false' WHERE dest_table = 'app.guarded'; SELECT on_source('INSERT INTO app.guarded VALUES (2)');
SELECT ran();
SELECT matches(told($$SELECT mimeo.refresh_group('merged')$$), '^23514 .*app.guarded', 'a guard that refuses');
SELECT is((SELECT count(*) FROM app.head WHERE id = 4), 0::bigint, 'no member is changed');
SELECT is(in_session('dba', $$SELECT mimeo.refresh_group('merged')$$) ~ 'Refreshing group "merged", of which nothing is changed now', true, 'DETAIL tells of the group');
SELECT is(ran(), 'app.guarded critical in merged, app.guarded critical in merged, app.head critical in merged, app.head critical in merged, app.line critical in merged, app.line critical in merged', 'each has a row');
SELECT is((SELECT failing FROM mimeo.health), 3::bigint, 'health counts them');

-- run_refresh takes a group as one.
UPDATE mimeo.refresh_config SET guard = NULL, period = '1 hour' WHERE dest_table = 'app.guarded';
UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours';
SELECT is(call(), 'done', 'a group is due as soon as one of its members is');
SELECT is(ran(), 'app.guarded ok in merged, app.head ok in merged, app.line ok in merged', 'and runs as one');
SELECT is(call(), 'done', 'not again'); SELECT is(ran(), 'nothing', 'until it is due');
UPDATE mimeo.refresh_config SET last_run = NULL WHERE dest_table = 'app.guarded'; UPDATE mimeo.refresh_config SET guard = 'SELECT false' WHERE dest_table = 'app.guarded';
SELECT on_source('INSERT INTO app.guarded VALUES (3)');
SELECT matches(call(), '^1 of 1 jobs failed: "group merged"', 'a group that fails is named');
SELECT is(ran(), 'app.guarded critical in merged, app.head critical in merged, app.line critical in merged', 'with a row for each member');
UPDATE mimeo.refresh_config SET guard = NULL WHERE dest_table = 'app.guarded';
UPDATE mimeo.refresh_config SET last_run = NULL, period = '1 hour' WHERE dest_table IN ('app.guarded', 'app.s', 'app.t');
SELECT is(call('p_jobs := 2'), 'done', 'and by workers');
SELECT is(ran(), 'app.guarded ok in merged, app.head ok in merged, app.line ok in merged, app.s skipped, app.t ok', 'beside others');

-- Rights: who may execute refresh_group needs no more.
SELECT matches(as_clerk($$SELECT mimeo.refresh_group('merged')$$), 'permission denied', 'not without EXECUTE');
GRANT EXECUTE ON FUNCTION mimeo.refresh_group TO clerk; GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk($$SELECT mimeo.refresh_group('merged')$$), 'done', 'with it');

-- Members of two owners: two connections, one snapshot; and a foreign key from one to the other.
SELECT on_source($$CREATE TABLE app.mother (id int PRIMARY KEY); CREATE TABLE app.child (id int PRIMARY KEY, mother int REFERENCES app.mother); INSERT INTO app.mother VALUES (1); INSERT INTO app.child VALUES (1, 1)$$);
SELECT mimeo.table_maker('app.mother', 1, p_group := 'owners');
GRANT SELECT (id), REFERENCES ON app.mother TO clerk; GRANT USAGE, CREATE ON SCHEMA app TO clerk; GRANT EXECUTE ON FUNCTION mimeo.table_maker TO clerk;
SELECT is(as_clerk($$SELECT mimeo.table_maker('app.child', 1, p_group := 'owners')$$), 'done', 'another role makes a member');
SELECT is(as_clerk($$ALTER TABLE app.child ADD FOREIGN KEY (mother) REFERENCES app.mother$$), 'done', 'with a key to a table that is not its own');
SELECT on_source($$INSERT INTO app.mother VALUES (2); INSERT INTO app.child VALUES (2, 2); DELETE FROM app.child WHERE id = 1; DELETE FROM app.mother WHERE id = 1$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('owners')$$, 'both are refreshed');
SELECT is((SELECT array_agg(id) FROM app.mother), '{2}', 'the one'); SELECT is(as_clerk('SELECT 1 / (count(*) = 1 AND min(id) = 2)::int FROM app.child'), 'done', 'and the other');
SELECT is((SELECT count(*) FROM information_schema.table_privileges WHERE table_name LIKE 'mimeo\_%'), 0::bigint, 'nothing is left of what the check needed');
SELECT ran();

-- In a transaction that keeps one snapshot, and twice in one.
SELECT on_source($$INSERT INTO app.mother VALUES (3); INSERT INTO app.child VALUES (3, 3)$$);
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT throws_ok($$SELECT mimeo.refresh_group('owners')$$, '23503', NULL, 'with keys, rows cannot be replaced in place'); ROLLBACK;
BEGIN; SELECT lives_ok($$SELECT mimeo.refresh_group('owners'), mimeo.refresh_group('owners')$$, 'twice in one transaction'); COMMIT;
SELECT is((SELECT array_agg(id ORDER BY id) FROM app.mother), '{2,3}', 'it has come');
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT lives_ok($$SELECT mimeo.refresh_group('merged')$$, 'others can, in REPEATABLE READ'); COMMIT;
SELECT ran();

-- What changes in place, and what all at once.
UPDATE mimeo.refresh_config SET refresh_group = CASE WHEN dest_table IN ('app.s', 'app.t', 'app.d') THEN 'mixed' END WHERE dest_table <> 'app.child';
SELECT mimeo.refresh_group('mixed'), ran();
SELECT on_source($$UPDATE app.s SET v = 'once more'; UPDATE app.t SET v = 'once more'$$); SELECT mimeo.refresh_group('mixed');
SELECT ok((last_run('app.t')).reason IS NULL AND (last_run('app.s')).reason ~ '^copied: .*(differ|changed)$', 'a table and a snapshot are swapped');
SELECT on_source($$UPDATE app.s SET v = 'twice'; UPDATE app.t SET v = 'twice'; DELETE FROM app.d WHERE id = 1$$); SELECT mimeo.refresh_group('mixed');
SELECT ok((last_run('app.t')).reason ~ '^replaced in place: other tables of its group' AND (last_run('app.s')).reason ~ 'replaced in place: other tables of its group', 'beside a dml job that changes in place, they do, too');
SELECT is((SELECT count(*) FROM app.s WHERE v = 'twice'), (SELECT count(*) FROM app.s), 'with all rows');
SELECT on_source($$UPDATE app.s SET v = 'thrice' WHERE id = 3$$); SELECT mimeo.refresh_group('mixed');
SELECT matches((last_run('app.s')).reason, '^delta: 1 rows came, 1 were deleted, 100 were there$', 'a delta comes after it');

-- health: a member without a period is refreshed with its group.
UPDATE mimeo.refresh_config SET period = CASE WHEN dest_table = 'app.s' THEN interval '1 hour' END;
SELECT is((SELECT unscheduled FROM mimeo.health), (SELECT count(*) - 3 FROM mimeo.refresh_config), 'health knows that a group is refreshed as one');

-- Conditions are read along the source role's own search_path, as ever.
UPDATE mimeo.refresh_config SET period = NULL, refresh_group = NULL WHERE dest_table <> 'app.child';
SELECT on_source($$CREATE TABLE public.pick (id int); GRANT SELECT ON public.pick TO reader; INSERT INTO public.pick VALUES (1), (2), (500)$$);
SELECT mimeo.table_maker('app.t', 1, 'app.t_some', p_condition := 'WHERE id IN (SELECT id FROM pick)', p_group := 'some'),
       mimeo.inserter_maker('app.i', 'serial', 'id', 1, p_dest_table := 'app.i_some', p_condition := 'WHERE id IN (SELECT id FROM pick)', p_group := 'some'),
       mimeo.snapshot_maker('app.t', 1, 'app.s_some', p_condition := ', pick WHERE app.t.id = pick.id', p_group := 'some');
SELECT on_source($$INSERT INTO app.t VALUES (500, 'new'); INSERT INTO app.i VALUES (500, 'new')$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('some')$$, 'conditions that name tables without a schema');
SELECT is((SELECT array_agg(id ORDER BY id) FROM app.t_some), '{1,2,500}', 'of a table job');
SELECT is((SELECT array_agg(id ORDER BY id) FROM app.s_some), '{1,2,500}', 'of a snapshot');
SELECT is((SELECT max(id) FROM app.i_some), 500, 'of an inserter');

-- A column that comes together with rows of both ends of a foreign key.
UPDATE mimeo.refresh_config SET refresh_group = CASE WHEN dest_table IN ('app.head', 'app.line') THEN 'merged' END WHERE dest_table <> 'app.child';
SELECT on_source($$ALTER TABLE app.head ADD COLUMN more int; INSERT INTO app.head VALUES (50, 'h', 1); INSERT INTO app.line VALUES (50, 50, 'l')$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('merged')$$, 'the key is checked once the rows are there');
SELECT same_rows('app.head'); SELECT same_rows('app.line');
SELECT on_source($$ALTER TABLE app.head ADD COLUMN again int; DELETE FROM app.line WHERE id = 50; DELETE FROM app.head WHERE id = 50$$);
INSERT INTO app.line VALUES (98, 50, 'mine');
SELECT throws_ok($$SELECT mimeo.refresh_group('merged')$$, '23503', NULL, 'and is not left out');
DELETE FROM app.line WHERE id = 98;

-- All rows of a table come anew to which one outside refers.
CREATE TABLE app.outside_note (head int REFERENCES app.head); INSERT INTO app.outside_note SELECT id FROM app.head WHERE id <> 50 LIMIT 1;
UPDATE mimeo.refresh_config SET condition = 'WHERE id > 0' WHERE dest_table = 'app.head'; SELECT on_source($$INSERT INTO app.line VALUES (60, 3, 'x')$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('merged')$$, 'they are exchanged, not deleted');
SELECT same_rows('app.head'); DROP TABLE app.outside_note;
SELECT ran();

-- Members of two data sources.
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd) SELECT data_source || ' application_name=second', username, pwd FROM mimeo.dblink_mapping_mimeo WHERE data_source_id = 1;
SELECT mimeo.table_maker('app.t', 1, 'app.t_one', p_group := 'sources'), mimeo.snapshot_maker('app.t', 2, 'app.t_two', p_group := 'sources'); SELECT ran();
SELECT on_source($$INSERT INTO app.t VALUES (700, 'seven')$$);
SELECT lives_ok($$SELECT mimeo.refresh_group('sources', p_debug := true)$$, 'two data sources'); SELECT same_rows('app.t_one', p_source := 'app.t'); SELECT same_rows('app.t_two', p_source := 'app.t');
UPDATE mimeo.dblink_mapping_mimeo SET pwd = 'wrong' WHERE data_source_id = 2; SELECT on_source($$INSERT INTO app.t VALUES (701, 'eight')$$);
SELECT ok(told($$SELECT mimeo.refresh_group('sources')$$) ~ '^08' AND (SELECT count(*) FROM app.t_one WHERE id = 701) = 0, 'one of which cannot be reached: nothing is refreshed');
UPDATE mimeo.dblink_mapping_mimeo SET pwd = 'reader secret' WHERE data_source_id = 2; SELECT ran();

-- Triggers that were missing are made again; that changes were missed is not forgotten if the refresh, or another member, fails after it.
SELECT on_source($$CREATE TABLE app.parent (id int PRIMARY KEY, v text); CREATE TABLE app.kid (PRIMARY KEY (id)) INHERITS (app.parent); INSERT INTO app.kid VALUES (1, 'a')$$);
SELECT mimeo.dml_maker('app.parent', 1);
CREATE FUNCTION miss(p_id int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM on_source(format('DROP TRIGGER %I ON app.kid', tgname))
       FROM dblink(source_dsn(), 'SELECT tgname FROM pg_trigger WHERE tgrelid = ''app.kid''::regclass AND NOT tgisinternal') t(tgname name);
    PERFORM on_source(format('INSERT INTO app.kid VALUES (%s, ''missed''); INSERT INTO app.parent VALUES (%s, ''bad'')', p_id, p_id + 1));
END $$;
SELECT miss(5); ALTER TABLE app.parent ADD CONSTRAINT good CHECK (v <> 'bad');
SELECT throws_ok($$SELECT mimeo.refresh_dml('app.parent')$$, '23514', NULL, 'a refresh that fails after the triggers were made');
ALTER TABLE app.parent DROP CONSTRAINT good;
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.parent')$$, 'the next one'); SELECT same_rows('app.parent');
SELECT miss(7); UPDATE mimeo.refresh_config SET refresh_group = 'missed', guard = CASE type WHEN 'snap' THEN 'SELECT false' END WHERE dest_table IN ('app.parent', 'app.guarded');
SELECT on_source('INSERT INTO app.guarded VALUES (4)');
SELECT throws_ok($$SELECT mimeo.refresh_group('missed')$$, '23514', NULL, 'another member fails');
UPDATE mimeo.refresh_config SET guard = NULL WHERE dest_table = 'app.guarded';
SELECT lives_ok($$SELECT mimeo.refresh_group('missed')$$, 'the next group'); SELECT same_rows('app.parent'); SELECT ran();

-- Many snapshots that have not changed: one look tells, once the first of them has shown that the source answers.
UPDATE mimeo.refresh_config SET period = NULL, refresh_group = NULL WHERE dest_table <> 'app.child';
SELECT on_source($$DO 'BEGIN FOR i IN 1..6 LOOP EXECUTE format(''CREATE TABLE app.few%s (id int PRIMARY KEY); INSERT INTO app.few%s SELECT generate_series(1, 50)'', i, i); END LOOP; END'$$);
SELECT mimeo.snapshot_maker('app.few' || i, 1, p_period := '1 hour') FROM generate_series(1, 6) i; SELECT ran();
SELECT on_source('DELETE FROM app.few4 WHERE id = 1');
UPDATE mimeo.refresh_config SET last_run = NULL WHERE period IS NOT NULL;
SELECT is(call('p_batch_limit := 3'), 'done', 'not more than asked for');
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE run_id > (SELECT run_id FROM seen)), 3::bigint, 'three');
SELECT is(call(), 'done', 'the others');
SELECT is(ran(), 'app.few1 skipped, app.few2 skipped, app.few3 skipped, app.few4 ok, app.few5 skipped, app.few6 skipped', 'each once; the one that has changed is copied');
SELECT is((SELECT count(*) FROM mimeo.job_status WHERE period IS NOT NULL AND (due OR data_as_of < now() - interval '1 minute' OR last_status NOT IN ('ok', 'skipped'))), 0::bigint, 'none is due any more, and the data is of now');
UPDATE mimeo.refresh_config SET last_run = NULL WHERE period IS NOT NULL;
SELECT is(call('p_jobs := 2') || ' ' || ran(), 'done app.few1 skipped, app.few2 skipped, app.few3 skipped, app.few4 skipped, app.few5 skipped, app.few6 skipped', 'by workers, too');
SELECT * FROM finish();
