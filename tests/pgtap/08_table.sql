-- table: a plain table, all of whose rows are replaced by each refresh.
SELECT plan(66);

SELECT on_source($$
    CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int NOT NULL DEFAULT 7,
        doubled int GENERATED ALWAYS AS (a * 2) STORED, made timestamptz DEFAULT now(), v text COLLATE "C" DEFAULT 'x'::text);
    CREATE INDEX t_v_idx ON app.t (v);
    INSERT INTO app.t (a, v) SELECT i, 'v' || i FROM generate_series(1, 100) i;
$$);

-- The maker
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1)$$, 'a table job is made');
SELECT has_table('app', 't', 'its destination is a table');
SELECT table_owner_is('app', 't', 'dba', 'that the caller owns');
SELECT is((SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.t t),
    ask_source($$SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.t t$$), 'with the rows of the source');
SELECT results_eq($$SELECT source_table, type, truncate_cascade, jobmon, last_run IS NOT NULL FROM mimeo.refresh_config$$,
    $$VALUES ('app.t', 'table', false, false, true)$$, 'the job is recorded');
SELECT is((last_run('app.t')).status, 'ok', 'so is its first run');
SELECT is((last_run('app.t')).rows, 100::bigint, 'with its rows');
SELECT is((SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 't'), 't_id_pk t_v_idx',
    'indexes are copied under their own names');

-- What a development copy keeps (defect 14 of 1.5.1).
SELECT is((SELECT attgenerated::text FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attname = 'doubled'), 's',
    'a generated column stays one'); -- defect 14 of 1.5.1
SELECT is((SELECT attidentity::text FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attname = 'id'), 'a',
    'an identity column stays one'); -- defect 14 of 1.5.1
SELECT col_default_is('app', 't', 'a', 7, 'a constant default is kept');
SELECT col_default_is('app', 't', 'v', 'x'::text, 'also one with a cast');
SELECT col_hasnt_default('app', 't', 'made', 'one that is a call is not');
SELECT col_not_null('app', 't', 'a', 'NOT NULL is kept'); -- defect 14 of 1.5.1
SELECT is((SELECT attcollation::regcollation::text FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attname = 'v'),
    '"C"', 'collations are kept'); -- defect 14 of 1.5.1
INSERT INTO app.t (a) VALUES (1);
SELECT is((SELECT max(id) FROM app.t), 101, 'the identity goes on after the rows that were copied');

-- A refresh
SELECT on_source($$DELETE FROM app.t WHERE id <= 40; UPDATE app.t SET v = 'changed' WHERE id > 90;
    INSERT INTO app.t (a, v) SELECT i, repeat('long ', 3000) FROM generate_series(1, 5) i$$);
CREATE VIEW app.on_t AS SELECT count(*) AS n FROM app.t;
GRANT SELECT ON app.t TO clerk;
COMMENT ON TABLE app.t IS 'mine';
CREATE TEMPORARY TABLE before AS SELECT oid, relfilenode, relacl, (SELECT relfilenode FROM pg_class WHERE oid = 'app.t_v_idx'::regclass)
    AS index_file FROM pg_class WHERE oid = 'app.t'::regclass;
SELECT lives_ok($$SELECT mimeo.refresh_table('app.t')$$, 'it is refreshed');
SELECT is((SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.t t),
    ask_source($$SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.t t$$), 'and holds what the source holds');
SELECT is((SELECT n FROM app.on_t), 65::bigint, 'a view on it shows that');
SELECT is((SELECT oid FROM pg_class WHERE oid = 'app.t'::regclass), (SELECT oid FROM before), 'it is the same table');
SELECT is((SELECT relacl FROM pg_class WHERE oid = 'app.t'::regclass), (SELECT relacl FROM before), 'with its grants');
SELECT is(obj_description('app.t'::regclass, 'pg_class'), 'mine', 'and its comment');
SELECT isnt((SELECT relfilenode FROM pg_class WHERE oid = 'app.t'::regclass), (SELECT relfilenode FROM before),
    'in another file');
SELECT isnt((SELECT relfilenode FROM pg_class WHERE oid = 'app.t_v_idx'::regclass), (SELECT index_file FROM before),
    'and so are its indexes');
SET enable_seqscan = off;
SELECT is((SELECT count(*) FROM app.t WHERE v = 'changed'), 10::bigint, 'that find the new rows');
SELECT is((SELECT length(v) FROM app.t WHERE id = 105), 15000, 'also those with long values');
RESET enable_seqscan;
SELECT is((SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'app.t'::regclass),
    'pg_toast.pg_toast_' || 'app.t'::regclass::oid, 'whose table has the name that PostgreSQL gives it');
SELECT ok((SELECT reltuples = 65 FROM pg_class WHERE oid = 'app.t'::regclass), 'it is analysed');
SELECT ok(EXISTS (SELECT FROM pg_stats WHERE schemaname = 'app' AND tablename = 't' AND attname = 'v'), 'with statistics');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relname LIKE 'mimeo\_%' AND relnamespace = 'app'::regnamespace$$,
    'nothing is left beside it');
INSERT INTO app.t (a) VALUES (1);
SELECT is((SELECT max(id) FROM app.t), 106, 'the identity follows');
SELECT mimeo.refresh_table('app.t') FROM generate_series(1, 3);
SELECT is((SELECT n FROM app.on_t), 65::bigint, 'several refreshes of one statement');
ALTER TABLE app.t DROP COLUMN a CASCADE;
UPDATE mimeo.refresh_config SET filter = '{id,v,made}' WHERE dest_table = 'app.t';
ALTER TABLE app.t ADD COLUMN own text DEFAULT 'mine';
SELECT lives_ok($$SELECT mimeo.refresh_table('app.t')$$, 'a destination with a dropped column and one of its own');
SELECT is((SELECT count(*) FROM app.t WHERE own = 'mine' AND id > 0 AND made IS NOT NULL AND v IS NOT NULL), 65::bigint,
    'has every value in its place');

-- Foreign keys, in and out
SELECT on_source($$CREATE TABLE app.p (id int PRIMARY KEY); INSERT INTO app.p SELECT generate_series(1, 10);
    CREATE TABLE app.c (id int PRIMARY KEY, p int, boss int); INSERT INTO app.c SELECT i, i, i FROM generate_series(1, 10) i$$);
SELECT mimeo.table_maker('app.p', 1);
SELECT mimeo.table_maker('app.c', 1);
ALTER TABLE app.c ADD CONSTRAINT to_p FOREIGN KEY (p) REFERENCES app.p, ADD CONSTRAINT to_boss FOREIGN KEY (boss) REFERENCES app.c;
SELECT lives_ok($$SELECT mimeo.refresh_table('app.p')$$, 'a table that others point at can be refreshed');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.c')$$, 'one that points at others and at itself too');
SELECT on_source('DELETE FROM app.p WHERE id > 8; DELETE FROM app.c WHERE id > 9');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.p')$$, '23503',
    'rows of "app.c" violate foreign key "to_p" with the new rows of "app.p"', 'as long as every row finds what it points at');
SELECT is((SELECT count(*) FROM app.p), 10::bigint, 'else nothing changes');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.c')$$, 'the referencing table first');
SELECT is((SELECT count(*) FROM app.c), 9::bigint, 'has the rows of the source');
SELECT on_source('UPDATE app.c SET p = 77 WHERE id = 1');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.c')$$, '23503', 'rows of "app.c" violate foreign key "to_p" with the new rows of "app.p"',
    'a new row that points nowhere');
SELECT on_source('UPDATE app.c SET p = 1, boss = 10 WHERE id = 1');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.c')$$, '23503', NULL, 'also when it points at its own table');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.p', p_truncate_cascade := true)$$, 'with truncate_cascade');
SELECT results_eq($$SELECT (SELECT count(*) FROM app.p), (SELECT count(*) FROM app.c)$$, $$VALUES (8::bigint, 0::bigint)$$,
    'the referencing table is emptied');
UPDATE mimeo.refresh_config_table SET truncate_cascade = true WHERE dest_table = 'app.p';
INSERT INTO app.c VALUES (1, 1, 1);
SELECT mimeo.refresh_table('app.p');
SELECT is((SELECT count(*) FROM app.c), 0::bigint, 'also when the job says so');

-- In place, the rows that others point at would be deleted for a moment.
SELECT on_source('CREATE TABLE app.q (id int PRIMARY KEY); INSERT INTO app.q SELECT generate_series(1, 10)');
SELECT mimeo.table_maker('app.q', 1);
CREATE TABLE app.kids (q int CONSTRAINT kids_q REFERENCES app.q ON DELETE CASCADE);
INSERT INTO app.kids SELECT generate_series(1, 10);
SELECT lives_ok($$SELECT mimeo.refresh_table('app.q')$$, 'rows that go with those they point at');
SELECT is((SELECT count(*) FROM app.kids), 10::bigint, 'rows that refer to it stay when storage is swapped');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT throws_ok($$SELECT mimeo.refresh_table('app.q')$$, '42809', 'destination "app.q" cannot be written to by mimeo: '
    'it can only be emptied and loaded in place, and foreign key "kids_q" would delete or change rows of "app.kids"', 'in place they would be lost');
COMMIT;
SELECT is((SELECT count(*) FROM app.kids), 10::bigint, 'so nothing is done');
DELETE FROM app.kids;
CREATE FUNCTION app.same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER same BEFORE INSERT ON app.q FOR EACH ROW EXECUTE FUNCTION app.same();
SELECT lives_ok($$SELECT mimeo.refresh_table('app.q')$$, 'unless there are none');

-- Sequences
CREATE SEQUENCE app.ids;
ALTER TABLE app.p ALTER COLUMN id SET DEFAULT nextval('app.ids');
UPDATE mimeo.refresh_config_table SET sequences = '{app.ids}' WHERE dest_table = 'app.p';
SELECT mimeo.refresh_table('app.p');
SELECT is(nextval('app.ids'), 9::bigint, 'a listed sequence goes on after what its tables hold');
SELECT on_source('DELETE FROM app.p');
SELECT mimeo.refresh_table('app.p');
SELECT is(nextval('app.ids'), 1::bigint, 'and begins anew when they are empty');
UPDATE mimeo.refresh_config_table SET sequences = '{app.nope}' WHERE dest_table = 'app.p';
SELECT mimeo.refresh_table('app.p');
SELECT is((last_run('app.p')).status || ': ' || split_part((last_run('app.p')).reason, '; ', -1), 'warning: sequences that do not exist: "app.nope"',
    'C1: one that does not exist is a warning');

-- Destinations that are there
CREATE TABLE app.parts (id int NOT NULL, p int, boss int, extra text DEFAULT 'e') PARTITION BY RANGE (id);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM (1) TO (5);
CREATE TABLE app.parts_2 PARTITION OF app.parts DEFAULT;
INSERT INTO app.parts (id) VALUES (100);
SELECT lives_ok($$SELECT mimeo.table_maker('app.c', 1, 'app.parts')$$, 'a partitioned destination that is there');
SELECT is((SELECT count(*) FROM app.parts), 1::bigint, 'is kept, and nothing is pulled');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.parts')$$, 'it can be refreshed');
SELECT is((SELECT count(*) FROM app.parts WHERE extra = 'e'), 9::bigint, 'in place, with its own columns');
SELECT is((SELECT count(*) FROM app.parts_1), 4::bigint, 'in its partitions');
ALTER TABLE app.parts DROP COLUMN boss;
SELECT throws_ok($$SELECT mimeo.refresh_table('app.parts')$$, '42804',
    'destination "app.parts" cannot take the columns of "app.c": column "boss" is missing', 'a column that is missing');
ALTER TABLE app.parts ADD COLUMN boss text;
SELECT throws_ok($$SELECT mimeo.refresh_table('app.parts')$$, '42804',
    'destination "app.parts" cannot take the columns of "app.c": column "boss" is text, but integer on the source', 'or of another type');
ALTER TABLE app.parts ALTER COLUMN boss TYPE bigint USING NULL;
SELECT lives_ok($$SELECT mimeo.refresh_table('app.parts')$$, 'a wider type will do');
SELECT throws_ok($$SELECT mimeo.table_maker('app.c', 1, 'app.parts')$$, '42710',
    'Table replication already defined for app.parts', 'a second job for one destination');

-- Destroyer
SELECT lives_ok($$SELECT mimeo.table_destroyer('app.parts')$$, 'the job ends');
SELECT is((SELECT count(*) FROM app.parts), 9::bigint, 'the table stays');
SELECT lives_ok($$SELECT mimeo.table_destroyer('app.c', p_keep_table := false)$$, 'or goes');
SELECT hasnt_table('app', 'c', 'when told so');

SELECT * FROM finish();
