-- dml: inserts, updates and deletes on the source are replayed, exactly once.
SELECT plan(82);

SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, v text, n numeric);
    CREATE INDEX ON app.t (v);
    INSERT INTO app.t SELECT i, 'old', i FROM generate_series(1, 100) i;
$$);
SELECT lives_ok($$SELECT mimeo.dml_maker('app.t', 1)$$, 'a job is made');
SELECT same_rows('app.t');
SELECT results_eq($$SELECT type, control, pk_name, pk_type, insert_on_fetch FROM mimeo.refresh_config_dml$$,
    $$VALUES ('dml', 'mimeo.app_t_q', '{id}'::text[], '{integer}'::text[], true)$$, 'with the source''s key');
SELECT is(ask_source($$SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'app.t'::regclass$$),
    'app_t_mimeo_trig_delete app_t_mimeo_trig_insert app_t_mimeo_trig_truncate app_t_mimeo_trig_update', 'triggers are on the source');
SELECT is(ask_source($$SELECT string_agg(concat_ws(' ', tgname, proname, prosecdef, proconfig, has_function_privilege('public', p.oid, 'EXECUTE')), E'\n' ORDER BY tgname)
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid WHERE tgrelid = 'app.t'::regclass$$),
    'app_t_mimeo_trig_delete app_t_mimeo_queue_delete t {"search_path=\"\""} f
app_t_mimeo_trig_insert app_t_mimeo_queue_insert t {"search_path=\"\""} f
app_t_mimeo_trig_truncate app_t_mimeo_queue t {"search_path=\"\""} f
app_t_mimeo_trig_update app_t_mimeo_queue_update t {"search_path=\"\""} f',
    'their functions have a pinned search_path and are for nobody else; what writes rows has one of its own');
SELECT is(ask_source($$SELECT count(*) FROM pg_proc WHERE pronamespace = 'mimeo'::regnamespace AND proname ~ '_(insert|update|delete)$' AND prosrc ~ 'TG_OP'$$), '0', 'which does not ask what has happened');
SELECT is((SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 't' AND schemaname = 'app'), 't_id_pk t_v_idx', 'indexes are copied');

SELECT on_source($$UPDATE app.t SET v = 'new' WHERE id <= 10; DELETE FROM app.t WHERE id BETWEEN 20 AND 25;
    INSERT INTO app.t VALUES (101, 'inserted', 1)$$);
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.t')$$, 'a refresh');
SELECT same_rows('app.t');
SELECT results_eq($$SELECT (r).status, (r).rows, (r).queue_rows FROM (SELECT last_run('app.t') r) x$$, $$VALUES ('ok', 17::bigint, 0::bigint)$$, 'takes what has changed');
SELECT is(ask_reader('SELECT count(*) FROM mimeo.app_t_q WHERE mimeo_op <> ''P'''), '17', 'the queue is kept until this is committed');
SELECT mimeo.refresh_dml('app.t');
SELECT is(ask_reader('SELECT count(*) FROM mimeo.app_t_q WHERE mimeo_op <> ''P'''), '0', 'and removed by the next refresh');
SELECT is((last_run('app.t')).rows, 0::bigint, 'which takes nothing again');

-- Keys that change, come back, and change places
SELECT on_source($$UPDATE app.t SET id = id + 1000 WHERE id BETWEEN 30 AND 35; DELETE FROM app.t WHERE id = 1; INSERT INTO app.t VALUES (1, 'again', 0);
    INSERT INTO app.t VALUES (2000, 'short', 0); DELETE FROM app.t WHERE id = 2000;
    UPDATE app.t SET id = -40 WHERE id = 40; UPDATE app.t SET id = 40 WHERE id = 41; UPDATE app.t SET id = 41 WHERE id = -40$$);
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');

-- A transaction that is rolled back (defect 2 of 1.5.1).
SELECT on_source($$UPDATE app.t SET v = 'kept' WHERE id < 50$$);
BEGIN; SELECT mimeo.refresh_dml('app.t'); ROLLBACK;
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT on_source($$UPDATE app.t SET v = 'twice' WHERE id < 50$$);
BEGIN;
SELECT mimeo.refresh_dml('app.t');
SELECT on_source($$UPDATE app.t SET v = 'thrice' WHERE id < 40$$);
SELECT mimeo.refresh_dml('app.t');
SAVEPOINT s;
SELECT mimeo.refresh_dml('app.t');
ROLLBACK TO s;
ROLLBACK;
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT is((SELECT count(*) FROM app.t WHERE v = 'thrice'), (SELECT count(*) FROM app.t WHERE id < 40), 'a rollback loses no changes'); -- defect 2 of 1.5.1
SELECT on_source($$UPDATE app.t SET v = 'four' WHERE id < 40$$);
BEGIN; SELECT mimeo.refresh_dml('app.t'); SELECT mimeo.refresh_dml('app.t'); COMMIT;
SELECT same_rows('app.t');

-- TRUNCATE (defect 4 of 1.5.1).
SELECT on_source($$TRUNCATE app.t; INSERT INTO app.t SELECT i, 'after', i FROM generate_series(1, 7) i$$);
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT is((SELECT count(*) FROM app.t), 7::bigint, 'TRUNCATE arrives'); -- defect 4 of 1.5.1
SELECT on_source($$TRUNCATE app.t$$);
SELECT mimeo.refresh_dml('app.t', p_limit := 5);
SELECT is((SELECT count(*) FROM app.t), 0::bigint, 'alone, too');
SELECT on_source($$BEGIN; INSERT INTO app.t VALUES (1, 'gone', 1); TRUNCATE app.t; INSERT INTO app.t VALUES (2, 'stays', 1); COMMIT$$);
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');

-- All that writes on a source: ON CONFLICT, MERGE, foreign keys that cascade, savepoints, prepared transactions
SELECT on_source($$CREATE TABLE app.parent (id int PRIMARY KEY, v text);
    CREATE TABLE app.child (a int, b text, parent int REFERENCES app.parent ON UPDATE CASCADE ON DELETE CASCADE, PRIMARY KEY (b, a));
    INSERT INTO app.parent SELECT i FROM generate_series(1, 50) i; INSERT INTO app.child SELECT i, 'c', i % 50 + 1 FROM generate_series(1, 200) i$$);
SELECT mimeo.dml_maker('app.parent', 1), mimeo.dml_maker('app.child', 1);
SELECT on_source($$DELETE FROM app.parent WHERE id <= 5; UPDATE app.parent SET id = id + 100 WHERE id > 45$$);
SELECT mimeo.refresh_dml('app.parent'), mimeo.refresh_dml('app.child');
SELECT same_rows('app.parent');
SELECT same_rows('app.child');
SELECT on_source($$INSERT INTO app.parent VALUES (7, 'conflict'), (300, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
    MERGE INTO app.parent p USING (VALUES (8, 'merged'), (9, NULL), (301, 'made')) n(id, v) ON p.id = n.id
      WHEN MATCHED AND n.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = n.v WHEN NOT MATCHED THEN INSERT VALUES (n.id, n.v);
    BEGIN; INSERT INTO app.child VALUES (900, 'x', 10); SAVEPOINT s; INSERT INTO app.child VALUES (901, 'x', 10); ROLLBACK TO s;
    SAVEPOINT s; UPDATE app.child SET a = 902 WHERE a = 900; RELEASE s; COMMIT;
    WITH gone AS (DELETE FROM app.child WHERE a < 10 RETURNING *) INSERT INTO app.child SELECT a + 5000, 'moved', parent FROM gone$$);
SELECT mimeo.refresh_dml('app.parent'), mimeo.refresh_dml('app.child');
SELECT same_rows('app.parent');
SELECT same_rows('app.child');
SELECT on_source($$BEGIN; UPDATE app.parent SET v = 'prepared'; PREPARE TRANSACTION 'dml_test'$$);
SELECT on_source($$INSERT INTO app.parent VALUES (500, 'before it')$$);
SELECT mimeo.refresh_dml('app.parent');
SELECT is((SELECT count(*) FROM app.parent WHERE v IN ('prepared', 'before it')), 1::bigint, 'a prepared transaction has not happened yet');
SELECT mimeo.refresh_dml('app.parent');
SELECT on_source($$COMMIT PREPARED 'dml_test'$$);
SELECT mimeo.refresh_dml('app.parent');
SELECT same_rows('app.parent');

-- A trigger that changes the key behind the statement's back
SELECT on_source($$CREATE FUNCTION app.moves() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id + 7000; RETURN NEW; END';
    CREATE TRIGGER moves BEFORE UPDATE ON app.parent FOR EACH ROW EXECUTE FUNCTION app.moves(); UPDATE app.parent SET v = 'moved' WHERE id = 20; DROP TRIGGER moves ON app.parent$$);
SELECT mimeo.refresh_dml('app.parent'), mimeo.refresh_dml('app.child');
SELECT same_rows('app.parent');
SELECT same_rows('app.child');

-- Part of a composite key
SELECT on_source($$UPDATE app.child SET b = 'part' WHERE a % 7 = 0$$);
SELECT mimeo.refresh_dml('app.child');
SELECT same_rows('app.child');

-- Keys of all kinds
SELECT on_source($$CREATE COLLATION app.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE DOMAIN app.code AS varchar(10) NOT NULL CHECK (VALUE <> '');
    CREATE TABLE app."Odd ""T""" ("the ""Key""" text, "B%s" uuid, c numeric, "$4" app.code, v int, PRIMARY KEY ("the ""Key""", "B%s", c, "$4"));
    INSERT INTO app."Odd ""T""" SELECT 'k' || i, md5(i::text)::uuid, i, i, i FROM generate_series(1, 20) i;
    CREATE TABLE app.ci_keys (k text COLLATE app.ci PRIMARY KEY, v int); INSERT INTO app.ci_keys VALUES ('a', 1), ('b', 2);
    CREATE TABLE app.numbers (k numeric PRIMARY KEY, v int); INSERT INTO app.numbers VALUES (1, 1), (2, 2);
    CREATE TABLE app.chars (k char(5) PRIMARY KEY, b bit(3), v int); INSERT INTO app.chars VALUES ('a', '101', 1), ('bcdef', '000', 2);
    CREATE TABLE app.by_unique (a int, b int NOT NULL UNIQUE); INSERT INTO app.by_unique VALUES (1, 1)$$);
CREATE COLLATION app.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN app.code AS varchar(10) NOT NULL CHECK (VALUE <> '');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.Odd "T"', 1), mimeo.dml_maker('app.ci_keys', 1), mimeo.dml_maker('app.numbers', 1), mimeo.dml_maker('app.chars', 1), mimeo.dml_maker('app.by_unique', 1)$$,
    'four columns with odd names, a domain, a nondeterministic collation, numeric, char, and a unique index on NOT NULL');
SELECT on_source($$UPDATE app."Odd ""T""" SET "B%s" = md5('x' || v)::uuid, c = c + 0.50 WHERE v < 10; DELETE FROM app."Odd ""T""" WHERE v > 15;
    UPDATE app.ci_keys SET k = 'A', v = 3 WHERE k = 'a'; DELETE FROM app.ci_keys WHERE k = 'B';
    UPDATE app.numbers SET k = 1.0 WHERE k = 1; UPDATE app.numbers SET k = 2.00, v = 9 WHERE k = 2;
    UPDATE app.chars SET k = 'b' WHERE k = 'a'; INSERT INTO app.chars VALUES ('a', '111', 5); UPDATE app.by_unique SET a = NULL, b = 2$$);
SELECT mimeo.refresh_dml('app.Odd "T"'), mimeo.refresh_dml('app.ci_keys'), mimeo.refresh_dml('app.numbers'), mimeo.refresh_dml('app.chars'), mimeo.refresh_dml('app.by_unique');
SELECT same_rows('app."Odd ""T"""');
SELECT same_rows('app.ci_keys');
SELECT same_rows('app.numbers');
SELECT same_rows('app.chars');
SELECT same_rows('app.by_unique');
SELECT on_source($$TRUNCATE app."Odd ""T"""; INSERT INTO app."Odd ""T""" VALUES ('x', md5('x')::uuid, 1, 'c', 1)$$);
SELECT mimeo.refresh_dml('app.Odd "T"');
SELECT same_rows('app."Odd ""T"""');

-- Filter and condition
SELECT on_source($$CREATE TABLE app.wide (id int PRIMARY KEY, a int, b int, c json); INSERT INTO app.wide SELECT i, i, i, '{}' FROM generate_series(1, 100) i$$);
SELECT mimeo.dml_maker('app.wide', 1, p_filter := '{id,a}');
SELECT columns_are('app', 'wide', ARRAY['id', 'a'], 'a filter');
SELECT mimeo.refresh_dml('app.wide');
SELECT on_source($$UPDATE app.wide SET b = 0, c = '[]'; UPDATE app.wide SET a = a$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT is((last_run('app.wide')).rows, 0::bigint, 'an UPDATE that changes no filtered column queues nothing');
SELECT on_source($$UPDATE app.wide SET a = CASE WHEN id < 5 THEN NULL ELSE a END, b = 7; UPDATE app.wide SET id = id + 500 WHERE id > 98; DELETE FROM app.wide WHERE id = 50$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT is((last_run('app.wide')).rows, 9::bigint, 'others do');
SELECT same_rows('app.wide', 'id, a');
SELECT throws_ok($$SELECT mimeo.dml_maker('app.wide', 1, 'app.x', p_filter := '{a}')$$, '42P10', 'the filter of "app.wide" lacks columns of the key: "id"', 'a filter without the key');
SELECT mimeo.dml_maker('app.wide', 1, 'app.part', p_condition := 'WHERE a < 20 OR b > 1000');
SELECT is(ask_source($$SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relkind = 'r' AND relname LIKE 'app_wide%'$$),
    'app_wide_q app_wide_q01', 'the second destination has a queue of its own');
SELECT on_source($$UPDATE app.wide SET a = 1000 WHERE id BETWEEN 10 AND 15; UPDATE app.wide SET b = 2000 WHERE id BETWEEN 60 AND 65$$);
SELECT mimeo.refresh_dml('app.part'), mimeo.refresh_dml('app.wide');
SELECT same_rows('app.part', 'id, a, b, c::text', 'app.wide', 'a < 20 OR b > 1000');
SELECT is((SELECT count(*) FROM app.part WHERE id BETWEEN 10 AND 15 OR id BETWEEN 60 AND 65), 6::bigint, 'rows that leave the condition go, and those that enter it come');
SELECT same_rows('app.wide', 'id, a');

-- Batches
SELECT on_source($$UPDATE app.wide SET a = -a; UPDATE app.wide SET a = a - 1$$);
SELECT mimeo.refresh_dml('app.wide', p_limit := 10);
SELECT results_eq($$SELECT (r).status, (r).queue_rows FROM (SELECT last_run('app.wide') r) x$$, $$VALUES ('warning', 180::bigint)$$, 'a batch that is full is a warning, and the history says what waits');
UPDATE mimeo.refresh_config SET batch_limit = 150 WHERE dest_table = 'app.wide';
SELECT mimeo.refresh_dml('app.wide');
SELECT mimeo.refresh_dml('app.wide');
SELECT same_rows('app.wide', 'id, a');
SELECT is((last_run('app.wide')).status, 'ok', 'fewer than three quarters are none');
SELECT on_source($$UPDATE app.wide SET a = 1 WHERE id < 20$$);
SELECT mimeo.refresh_dml('app.wide', p_limit := 25);
SELECT is((last_run('app.wide')).status, 'warning', 'three quarters are');

-- Repulls
DELETE FROM app.wide WHERE id < 30; UPDATE app.wide SET a = 0; INSERT INTO app.wide VALUES (9999, 1);
SELECT on_source($$UPDATE app.wide SET a = 5 WHERE id = 77$$);
SELECT mimeo.refresh_dml('app.wide', p_repull := true);
SELECT same_rows('app.wide', 'id, a');
SELECT mimeo.refresh_dml('app.wide');
SELECT is((last_run('app.wide')).rows, 0::bigint, 'a repull has what was queued');
DELETE FROM app.wide;
SELECT mimeo.refresh_dml('app.wide', p_repull := true, p_insert_on_fetch := false);
SELECT same_rows('app.wide', 'id, a');
SELECT on_source($$UPDATE app.wide SET a = 6 WHERE id = 77$$);
SELECT mimeo.refresh_dml('app.wide', p_insert_on_fetch := false);
SELECT same_rows('app.wide', 'id, a');

-- A filter that changes, and a condition
UPDATE mimeo.refresh_config SET filter = '{id,a,b}' WHERE dest_table = 'app.wide';
SELECT throws_like($$SELECT mimeo.refresh_dml('app.wide')$$, '%column "b" is missing%', 'a filter with a column more: the destination needs it');
ALTER TABLE app.wide ADD COLUMN b integer;
SELECT mimeo.refresh_dml('app.wide');
SELECT same_rows('app.wide', 'id, a, b');
SELECT on_source($$UPDATE app.wide SET b = 4711 WHERE id < 10$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT same_rows('app.wide', 'id, a, b');
SELECT is((last_run('app.wide')).rows, 9::bigint, 'and its changes are queued from then on');
UPDATE mimeo.refresh_config SET condition = 'WHERE id < 50' WHERE dest_table = 'app.part';
SELECT mimeo.refresh_dml('app.part');
SELECT same_rows('app.part', 'id, a, b, c::text', 'app.wide', 'id < 50');
UPDATE mimeo.refresh_config SET condition = 'WHERE a < 20 OR b > 1000' WHERE dest_table = 'app.part';

-- A job that does not follow columns.
UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table = 'app.wide';
SELECT on_source($$ALTER TABLE app.wide RENAME COLUMN b TO bb; UPDATE app.wide SET a = 99 WHERE id = 3$$);
SELECT throws_like($$SELECT mimeo.refresh_dml('app.wide')$$, 'the filter names columns that "app.wide" does not have: "b"', 'a filtered column that is renamed does not stop writers');
SELECT on_source($$ALTER TABLE app.wide RENAME COLUMN bb TO b$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT same_rows('app.wide', 'id, a, b');

-- A filter that is changed in a transaction that is rolled back
BEGIN; UPDATE mimeo.refresh_config SET filter = '{id,a}' WHERE dest_table = 'app.wide'; SELECT mimeo.refresh_dml('app.wide'); ROLLBACK;
SELECT on_source($$UPDATE app.wide SET b = 815 WHERE id = 7$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT on_source($$UPDATE app.wide SET b = 816 WHERE id = 8$$);
SELECT mimeo.refresh_dml('app.wide');
SELECT same_rows('app.wide', 'id, a, b');

-- Many changes: the table is written anew
SELECT on_source($$INSERT INTO app.t SELECT i, 'many', i FROM generate_series(10, 60000) i$$);
SELECT mimeo.refresh_dml('app.t', p_repull := true);
ALTER TABLE app.t ADD COLUMN own text DEFAULT 'own'; UPDATE app.t SET own = 'mine' WHERE id % 2 = 0; ANALYZE app.t;
SELECT on_source($$UPDATE app.t SET v = 'all' WHERE id > 100; DELETE FROM app.t WHERE id % 100 = 0; UPDATE app.t SET id = -id WHERE id % 101 = 0$$);
SELECT mimeo.refresh_dml('app.t');
SELECT matches((last_run('app.t')).reason, 'written anew', 'many changes');
SELECT same_rows('app.t', 'id, v, n');
SELECT is((SELECT count(*) FROM app.t WHERE own = 'mine' AND id % 2 <> 0), 0::bigint, 'the destination''s own column keeps its values');

-- Rows that come straight into their places are written anew with the rest only when they are most of the table
SELECT on_source($$CREATE TABLE app.most (id int PRIMARY KEY, v text); GRANT SELECT, TRIGGER ON app.most TO reader;
    INSERT INTO app.most SELECT i, 'one' FROM generate_series(1, 120000) i$$);
SELECT mimeo.dml_maker('app.most', 1);
ANALYZE app.most;
SELECT on_source($$UPDATE app.most SET v = 'two' WHERE id <= 60000; DELETE FROM app.most WHERE id % 100 = 0 AND id <= 60000$$);
SELECT mimeo.refresh_dml('app.most');
SELECT doesnt_match((last_run('app.most')).reason, 'written anew', 'a half of the rows take their places');
SELECT same_rows('app.most', 'id, v');
ANALYZE app.most;
SELECT on_source($$UPDATE app.most SET v = 'three' WHERE id > 30000; DELETE FROM app.most WHERE id % 101 = 0$$);
SELECT mimeo.refresh_dml('app.most');
SELECT matches((last_run('app.most')).reason, 'written anew', 'three quarters of them are written anew with the rest');
SELECT same_rows('app.most', 'id, v');

-- A queue that was last analyzed while it was empty (defect 17 of 1.5.1)
SELECT mimeo.refresh_dml('app.t');
SELECT as_reader('ANALYZE mimeo.app_t_q');
SELECT on_source($$UPDATE app.t SET v = 'linear'; UPDATE app.t SET n = n + 1; UPDATE app.t SET n = n + 1; UPDATE app.t SET n = n + 1$$);
SET statement_timeout = '60s';
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.t')$$, 'a queue with old statistics is read in linear time'); -- defect 17 of 1.5.1
-- Somebody else is at the queue, and nobody waits for him
SELECT dblink_connect('holder', replace(source_dsn(), 'owner', 'reader'));
SELECT dblink_exec('holder', 'BEGIN; LOCK TABLE mimeo.app_t_q IN ROW EXCLUSIVE MODE');
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.t')$$, 'and emptied');
SELECT cmp_ok(ask_reader($$SELECT pg_relation_size('mimeo.app_t_q')$$)::bigint, '>', 8000000::bigint, 'but not shrunk while somebody has it locked');
SELECT dblink_disconnect('holder');
RESET statement_timeout;
SELECT same_rows('app.t', 'id, v, n');
-- A VACUUM that is at it just then puts it off to the next refresh
SELECT count(mimeo.refresh_dml('app.t')) FROM generate_series(1, 20) WHERE ask_reader($$SELECT pg_relation_size('mimeo.app_t_q')$$)::bigint > 100000;
SELECT cmp_ok(ask_reader($$SELECT pg_relation_size('mimeo.app_t_q')$$)::bigint, '<', 100000::bigint, 'a queue that has grown is shrunk by the next refresh');

-- The end
SELECT lives_ok($$SELECT mimeo.dml_destroyer('app.wide')$$, 'a job ends');
SELECT is(ask_source($$SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'app.wide'::regclass$$),
    'app_wide_mimeo_trig01_delete app_wide_mimeo_trig01_insert app_wide_mimeo_trig01_truncate app_wide_mimeo_trig01_update', 'its triggers go, those of the other destination stay');
SELECT has_table('app', 'wide', 'the table is kept');
SELECT lives_ok($$SELECT mimeo.dml_destroyer('app.part', false)$$, 'another one');
SELECT hasnt_table('app', 'part', 'with its table');
SELECT is(ask_source($$SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relname LIKE 'app_wide%')
    + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'mimeo'::regnamespace AND proname LIKE 'app_wide%')$$), '0', 'leaves nothing on the source');

-- Names that leave no room for functions of their own
SELECT on_source(format('CREATE TABLE app.%1$s (id int PRIMARY KEY, v int); INSERT INTO app.%1$s VALUES (1, 1), (2, 2)', repeat('n', 58)));
SELECT mimeo.dml_maker('app.' || repeat('n', 58), 1);
SELECT on_source(format('INSERT INTO app.%1$s VALUES (3, 3); UPDATE app.%1$s SET v = -v, id = id * 10 WHERE id > 1; DELETE FROM app.%1$s WHERE id = 1', repeat('n', 58)));
SELECT mimeo.refresh_dml('app.' || repeat('n', 58));
SELECT same_rows('app.' || repeat('n', 58));

SELECT * FROM finish();
