-- logdel: as dml, and rows that were deleted on the source stay, with their last values and the time.
SELECT plan(40);

SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, v text, j json, at timestamptz, b bytea, f float8, a int[]);
    INSERT INTO app.t SELECT i, 'old', '{"a":  1}', '2020-01-01 00:00:00+00', '\x00ff', 0.1 + 0.2, ARRAY[i, NULL] FROM generate_series(1, 100) i;
$$);
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.t', 1)$$, 'a job is made');
SELECT columns_are('app', 't', ARRAY['id', 'v', 'j', 'at', 'b', 'f', 'a', 'mimeo_source_deleted'], 'with one more column');
CREATE VIEW live AS SELECT id, v, j, at, b, f, a FROM app.t WHERE mimeo_source_deleted IS NULL;
SELECT same_rows('live', source_columns, 'app.t') FROM (VALUES ('t.*')) v(source_columns);

SELECT on_source($$UPDATE app.t SET v = 'new' WHERE id <= 10; DELETE FROM app.t WHERE id BETWEEN 20 AND 25; INSERT INTO app.t VALUES (101, 'inserted')$$);
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.t')$$, 'a refresh');
SELECT same_rows('live', 't.*', 'app.t');
SELECT is((SELECT count(*) FROM app.t WHERE mimeo_source_deleted IS NOT NULL), 6::bigint, 'deleted rows stay');
SELECT is((SELECT count(*) FROM app.t WHERE mimeo_source_deleted BETWEEN now() - interval '1 hour' AND clock_timestamp()), 6::bigint, 'with the time');

-- The last values, also of changes that no refresh has seen
SELECT on_source($$UPDATE app.t SET v = 'last', j = '{"b": [1, 1,  1]}', at = '2021-06-01 12:34:56.789+02', b = '\x0102', f = 1e-300, a = '{{1,2},{3,4}}' WHERE id = 30;
    DELETE FROM app.t WHERE id = 30; INSERT INTO app.t VALUES (500, 'short-lived'); DELETE FROM app.t WHERE id = 500$$);
SELECT mimeo.refresh_logdel('app.t');
SELECT results_eq($$SELECT v, j::text, at, b, f, a FROM app.t WHERE id = 30 AND mimeo_source_deleted IS NOT NULL$$,
    $$VALUES ('last', '{"b": [1, 1,  1]}', '2021-06-01 12:34:56.789+02'::timestamptz, '\x0102'::bytea, 1e-300::float8, '{{1,2},{3,4}}'::int[])$$, 'deleted rows have their last values');
SELECT is((SELECT v FROM app.t WHERE id = 500 AND mimeo_source_deleted IS NOT NULL), 'short-lived', 'a row that came and went between two refreshes is there too');

-- Keys
SELECT on_source($$INSERT INTO app.t VALUES (20, 'lives again'); UPDATE app.t SET id = 700, v = 'moved' WHERE id = 40; DELETE FROM app.t WHERE id = 41; INSERT INTO app.t VALUES (41, 'same refresh')$$);
SELECT mimeo.refresh_logdel('app.t');
SELECT same_rows('live', 't.*', 'app.t');
SELECT results_eq($$SELECT id, v, mimeo_source_deleted IS NULL FROM app.t WHERE id IN (20, 40, 41, 700) ORDER BY id$$,
    $$VALUES (20, 'lives again', true), (40, 'old', false), (41, 'same refresh', true), (700, 'moved', true)$$, 'a key that is used again lives again; the old key of a row is deleted');
SELECT on_source($$DELETE FROM app.t WHERE id = 20$$);
SELECT mimeo.refresh_logdel('app.t');
SELECT is((SELECT v FROM app.t WHERE id = 20 AND mimeo_source_deleted IS NOT NULL), 'lives again', 'and is deleted again');

-- A rollback, and two refreshes in one transaction
SELECT on_source($$DELETE FROM app.t WHERE id BETWEEN 50 AND 52$$);
BEGIN; SELECT mimeo.refresh_logdel('app.t'); ROLLBACK;
BEGIN; SELECT mimeo.refresh_logdel('app.t'); SELECT mimeo.refresh_logdel('app.t'); COMMIT;
SELECT mimeo.refresh_logdel('app.t');
SELECT is((SELECT count(*) FROM app.t WHERE id BETWEEN 50 AND 52 AND mimeo_source_deleted IS NOT NULL), 3::bigint, 'a rollback loses no deletes'); -- defect 2 of 1.5.1

-- Repull
DELETE FROM app.t WHERE id < 5; UPDATE app.t SET v = 'damaged' WHERE mimeo_source_deleted IS NULL; INSERT INTO app.t (id, v) VALUES (9000, 'never there');
SELECT on_source($$DELETE FROM app.t WHERE id = 60$$);
CREATE TEMP TABLE before AS SELECT * FROM app.t WHERE mimeo_source_deleted IS NOT NULL;
SELECT mimeo.refresh_logdel('app.t', p_repull := true);
SELECT same_rows('live', 't.*', 'app.t');
SELECT is((SELECT count(*) FROM before b JOIN app.t t USING (id, mimeo_source_deleted, v)), (SELECT count(*) FROM before), 'a repull keeps the deleted rows');
SELECT is((SELECT count(*) FROM app.t WHERE mimeo_source_deleted IS NOT NULL), (SELECT count(*) + 1 FROM before), 'and takes the deletes that were queued');
SELECT is((SELECT count(*) FROM app.t WHERE id = 9000), 0::bigint, 'a row that is not there and not deleted goes');
SELECT mimeo.refresh_logdel('app.t', p_repull := true, p_insert_on_fetch := false);
SELECT same_rows('live', 't.*', 'app.t');

-- TRUNCATE
SELECT on_source($$TRUNCATE app.t; INSERT INTO app.t VALUES (1, 'after'), (20, 'after')$$);
SELECT mimeo.refresh_logdel('app.t');
SELECT same_rows('live', 't.*', 'app.t');
SELECT is((SELECT count(*) FROM app.t WHERE mimeo_source_deleted IS NULL), 2::bigint, 'TRUNCATE stamps every row'); -- defect 4 of 1.5.1
SELECT cmp_ok((SELECT count(*) FROM app.t WHERE mimeo_source_deleted IS NOT NULL), '>', 90::bigint, 'and deletes none');

-- Columns, of a job that does not follow them: first here, then on the source
UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table = 'app.t';
ALTER TABLE app.t ADD COLUMN extra int;
SELECT on_source($$ALTER TABLE app.t ADD COLUMN extra int DEFAULT 7; UPDATE app.t SET extra = 8 WHERE id = 1; DELETE FROM app.t WHERE id = 20$$);
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.t')$$, 'a column that was added here and then on the source');
SELECT results_eq($$SELECT id, extra, mimeo_source_deleted IS NULL FROM app.t WHERE id IN (1, 20) ORDER BY id$$, $$VALUES (1, 8, true), (20, 7, false)$$, 'arrives, also in deleted rows');
SELECT on_source($$ALTER TABLE app.t ADD COLUMN late int; UPDATE app.t SET late = 1 WHERE id = 1; INSERT INTO app.t (id, late) VALUES (21, 1); DELETE FROM app.t WHERE id = 21$$);
SELECT throws_like($$SELECT mimeo.refresh_logdel('app.t')$$, '%column "late" is missing%', 'in the other order it is an error that says what to run');
ALTER TABLE app.t ADD COLUMN late integer;
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.t')$$, 'after which nothing is lost');
SELECT results_eq($$SELECT id, late FROM app.t WHERE id IN (1, 21) ORDER BY id$$, $$VALUES (1, 1), (21, 1)$$, 'not even of deleted rows');
SELECT on_source($$ALTER TABLE app.t DROP COLUMN late; DELETE FROM app.t WHERE id = 1$$);
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.t')$$, 'a column that is dropped on the source stops neither writers nor the refresh');

-- Condition and filter
SELECT on_source($$CREATE TABLE app.c (id int PRIMARY KEY, v int, w int); INSERT INTO app.c SELECT i, i, i FROM generate_series(1, 50) i$$);
SELECT mimeo.logdel_maker('app.c', 1, p_condition := 'WHERE v > 10 OR w < 0', p_filter := '{id,v}');
SELECT on_source($$DELETE FROM app.c WHERE id IN (5, 20); UPDATE app.c SET v = 1 WHERE id = 21; UPDATE app.c SET v = 100 WHERE id = 6$$);
SELECT mimeo.refresh_logdel('app.c');
SELECT is((SELECT count(*) FROM app.c WHERE id = 5), 0::bigint, 'a deleted row that the condition never selected is not there');
SELECT results_eq($$SELECT id, v, mimeo_source_deleted IS NULL FROM app.c WHERE id IN (6, 20, 21) ORDER BY id$$,
    $$VALUES (6, 100, true), (20, 20, false), (21, 21, false)$$, 'rows that leave the condition count as deleted, those that enter it come');
SELECT on_source($$UPDATE app.c SET v = 21 WHERE id = 21$$);
SELECT mimeo.refresh_logdel('app.c');
SELECT is((SELECT mimeo_source_deleted FROM app.c WHERE id = 21), NULL, 'and live again when they come back');

-- Batches
SELECT on_source($$DELETE FROM app.c WHERE id BETWEEN 30 AND 49$$);
SELECT mimeo.refresh_logdel('app.c', p_limit := 15);
SELECT is((SELECT count(*) FROM app.c WHERE mimeo_source_deleted IS NOT NULL), 16::bigint, 'a batch');
SELECT is((last_run('app.c')).queue_rows, 5::bigint, 'leaves the rest in the queue');
SELECT mimeo.refresh_logdel('app.c');
SELECT is((SELECT count(*) FROM app.c WHERE mimeo_source_deleted IS NOT NULL), 21::bigint, 'for the next one');

-- Bad input
SELECT on_source($$CREATE TABLE app.own (id int PRIMARY KEY, mimeo_source_deleted timestamptz)$$);
SELECT throws_like($$SELECT mimeo.logdel_maker('app.own', 1)$$, '%it has a column "mimeo_source_deleted" of its own', 'a source with such a column');
CREATE TABLE app.no_stamp (id int PRIMARY KEY, v int, w int);
SELECT throws_like($$SELECT mimeo.logdel_maker('app.c', 1, 'app.no_stamp')$$, '%it has no column "mimeo_source_deleted" of type timestamptz', 'a destination without one');
SELECT is(ask_reader($$SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relkind = 'r' AND relname LIKE 'app_c_q%'$$), 'app_c_q', 'leaves nothing on the source');
ALTER TABLE app.no_stamp ADD COLUMN mimeo_source_deleted timestamptz;
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.c', 1, 'app.no_stamp')$$, 'a destination that is there is kept');
SELECT on_source($$INSERT INTO app.c VALUES (1000, 1, 1)$$);
SELECT mimeo.refresh_logdel('app.no_stamp');
SELECT is((SELECT string_agg(id::text, ' ') FROM app.no_stamp), '1000', 'and gets what comes from then on');
SELECT lives_ok($$SELECT mimeo.logdel_destroyer('app.t'), mimeo.logdel_destroyer('app.no_stamp', false)$$, 'the jobs end');
SELECT is(ask_source($$SELECT count(*) FROM pg_trigger WHERE tgrelid = 'app.t'::regclass$$), '0', 'and their triggers are gone');

SELECT * FROM finish();
