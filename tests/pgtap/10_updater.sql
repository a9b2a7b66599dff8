-- updater: new and changed rows, by a time or serial column, put in their places by key.
SELECT plan(42);

SELECT on_source($$
    CREATE SEQUENCE app.revisions;
    CREATE TABLE app.u (a int, b text, rev bigint NOT NULL DEFAULT nextval('app.revisions'), v text, PRIMARY KEY (a, b));
    CREATE INDEX ON app.u (rev);
    INSERT INTO app.u (a, b, v) SELECT i, 'b' || i % 3, 'old' FROM generate_series(1, 100) i;
    CREATE TABLE app.tu (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), v text);
    INSERT INTO app.tu SELECT i, clock_timestamp() - interval '1 day', 'old' FROM generate_series(1, 20) i;
$$);

SELECT lives_ok($$SELECT mimeo.updater_maker('app.u', 'serial', 'rev', 1)$$, 'a serial updater is made');
SELECT is((SELECT count(*) FROM app.u), 100::bigint, 'with all rows');
SELECT results_eq($$SELECT pk_name, pk_type FROM mimeo.refresh_config_updater$$,
    $$VALUES ('{a,b}'::text[], '{integer,text}'::text[])$$, 'and the key of the source');
SELECT lives_ok($$SELECT mimeo.updater_maker('app.tu', 'time', 'at', 1)$$, 'a time updater is made');

SELECT on_source($$UPDATE app.u SET v = 'new', rev = DEFAULT WHERE a <= 30;
    INSERT INTO app.u (a, b, v) SELECT i, 'b', 'inserted' FROM generate_series(101, 120) i;
    UPDATE app.tu SET v = 'new', at = clock_timestamp() WHERE id <= 5; INSERT INTO app.tu VALUES (21, DEFAULT, 'inserted')$$);
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.u')$$, 'a refresh');
SELECT results_eq($$SELECT v, count(*) FROM app.u GROUP BY 1 ORDER BY 1$$,
    $$VALUES ('inserted', 19::bigint), ('new', 30::bigint), ('old', 70::bigint)$$, 'brings what is new and what has changed');
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.tu')$$, 'a time-based one');
SELECT results_eq($$SELECT v, count(*) FROM app.tu GROUP BY 1 ORDER BY 1$$,
    $$VALUES ('inserted', 1::bigint), ('new', 5::bigint), ('old', 15::bigint)$$, 'too');
SELECT is((last_run('app.tu')).rows, 6::bigint, 'and nothing else');

-- Columns of the destination's own keep their values.
ALTER TABLE app.u ADD COLUMN own text;
UPDATE app.u SET own = 'mine' WHERE a = 50;
SELECT on_source($$UPDATE app.u SET v = 'again', rev = DEFAULT WHERE a IN (50, 51); INSERT INTO app.u VALUES (500, 'x')$$);
SELECT mimeo.refresh_updater('app.u');
SELECT results_eq($$SELECT a, v, own FROM app.u WHERE v = 'again' ORDER BY a$$, $$VALUES (50, 'again', 'mine'), (51, 'again', NULL)$$,
    'a column that only the destination has keeps its value');

-- Conditions and filters
SELECT mimeo.updater_maker('app.u', 'serial', 'rev', 1, p_dest_table := 'app.part', p_filter := '{rev,a,b}',
    p_condition := 'WHERE a < 20 OR a > 110');
SELECT columns_are('app', 'part', ARRAY['a', 'b', 'rev'], 'a filter chooses the columns');
SELECT is((SELECT string_agg(indexname, ' ') FROM pg_indexes WHERE tablename = 'part'), 'part_a_b_pk',
    'of the indexes only the key''s is copied');
SELECT on_source($$UPDATE app.u SET rev = DEFAULT WHERE a % 2 = 0; INSERT INTO app.u VALUES (501, 'x')$$);
SELECT mimeo.refresh_updater('app.part');
SELECT is((SELECT count(*)::text FROM app.part), ask_source($$SELECT count(*) FROM app.u WHERE (a < 20 OR a > 110) AND a < 501$$),
    'a condition with OR brings no row twice'); -- defect 3 of 1.5.1
SELECT throws_ok($$SELECT mimeo.updater_maker('app.u', 'serial', 'rev', 1, p_dest_table := 'app.x', p_filter := '{rev,a}')$$,
    '42P10', 'the filter of "app.u" lacks columns of the key: "b"', 'a filter without a column of the key');

-- Keys
SELECT on_source($$CREATE TABLE app.nokey (id int, rev serial, v text); INSERT INTO app.nokey (id, v) SELECT i % 5, i FROM generate_series(1, 10) i;
    CREATE VIEW app.uview AS SELECT * FROM app.u;
    CREATE TABLE app.by_unique (x int, "Odd ""Key""" text NOT NULL, rev serial, UNIQUE ("Odd ""Key"""));
    CREATE UNIQUE INDEX ON app.by_unique (x); CREATE UNIQUE INDEX ON app.by_unique (lower("Odd ""Key"""));
    INSERT INTO app.by_unique SELECT i, 'k' || i FROM generate_series(1, 5) i$$);
SELECT throws_like($$SELECT mimeo.updater_maker('app.nokey', 'serial', 'rev', 1)$$, '"app.nokey" on data source 1 % has no key that identifies its rows',
    'a source without a key');
SELECT hasnt_table('app', 'nokey', 'leaves nothing behind');
SELECT throws_ok($$SELECT mimeo.updater_maker('app.nokey', 'serial', 'rev', 1, p_pk_name := '{id}')$$, '22023',
    'p_pk_name and p_pk_type must be given both, or neither', 'half a key');
SELECT throws_ok($$SELECT mimeo.updater_maker('app.nokey', 'serial', 'rev', 1, p_pk_name := '{id,no}', p_pk_type := '{int,int}')$$, '22023',
    'p_pk_name names columns that "app.nokey" does not have: "no"', 'a key of unknown columns');
SELECT lives_ok($$SELECT mimeo.updater_maker('app.by_unique', 'serial', 'rev', 1)$$, 'a unique index on NOT NULL columns is a key');
SELECT is((SELECT pk_name[1] FROM mimeo.refresh_config WHERE dest_table = 'app.by_unique'), 'Odd "Key"', 'the first one that is neither partial nor on expressions nor on NULLs');
SELECT on_source($$UPDATE app.by_unique SET x = x + 100, rev = nextval('app.by_unique_rev_seq') WHERE x < 3; INSERT INTO app.by_unique VALUES (9, 'z')$$);
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.by_unique')$$, 'and with odd names');
SELECT is((SELECT string_agg(x::text, ' ' ORDER BY x) FROM app.by_unique), '3 4 5 101 102', 'rows find their places');
SELECT throws_ok($$SELECT mimeo.updater_maker('app.uview', 'serial', 'rev', 1)$$, '55000', NULL, 'a view needs a key that is named');
SELECT lives_ok($$SELECT mimeo.updater_maker('app.uview', 'serial', 'rev', 1, p_pk_name := '{a,b}', p_pk_type := '{int,text}')$$, 'and then is a source');
SELECT on_source($$UPDATE app.u SET v = 'seen', rev = DEFAULT WHERE a <= 15; INSERT INTO app.u SELECT i, 'y' FROM generate_series(600, 611) i$$);
SELECT mimeo.refresh_updater('app.uview');
SELECT is((SELECT count(*) FROM app.uview WHERE v = 'seen'), 15::bigint, 'whose rows are updated too');
SELECT is((SELECT count(*) - count(DISTINCT (a, b)) FROM app.uview), 0::bigint, 'in their places');

-- Partitioned destination, repulls, limits
CREATE TABLE app.parts (a int NOT NULL, b text NOT NULL, rev bigint, v text) PARTITION BY HASH (a);
CREATE TABLE app.parts_0 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT mimeo.updater_maker('app.u', 'serial', 'rev', 1, p_dest_table := 'app.parts');
SELECT mimeo.refresh_updater('app.parts', p_repull := true);
SELECT is((SELECT count(*)::text FROM app.parts), ask_source('SELECT count(*) FROM app.u'), 'a repull fills a partitioned destination');
SELECT on_source($$UPDATE app.u SET v = 'moved', rev = DEFAULT WHERE a > 100; INSERT INTO app.u VALUES (700, 'x')$$);
SELECT mimeo.refresh_updater('app.parts');
SELECT is((SELECT count(*)::text FROM app.parts WHERE v = 'moved'), ask_source($$SELECT count(*) FROM app.u WHERE v = 'moved'$$), 'and updates go to its partitions');
SELECT on_source('DELETE FROM app.u WHERE a BETWEEN 10 AND 12');
SELECT mimeo.refresh_updater('app.u', p_repull := true, p_repull_start := '0');
SELECT is((SELECT md5(string_agg((a, b, rev, v)::text, '|' ORDER BY a, b)) FROM app.u WHERE a < 700),
    ask_source($$SELECT md5(string_agg(u::text, '|' ORDER BY a, b)) FROM app.u u WHERE a < 700$$), 'a repull of a range brings deletes too');
SELECT on_source($$UPDATE app.u SET v = 'batch', rev = DEFAULT WHERE a <= 90$$);
SELECT mimeo.refresh_updater('app.u', p_limit := 10);
SELECT is((SELECT count(*) FROM app.u WHERE v = 'batch'), 10::bigint, 'a batch');
SELECT is((last_run('app.u')).status, 'warning', 'that is full is a warning');
SELECT mimeo.refresh_updater('app.u', p_limit := 1000);
SELECT is((SELECT count(*) FROM app.u WHERE v = 'batch'), 86::bigint, 'the rest comes with the next one, but for the greatest value');

-- A key that is said to identify rows and does not
SELECT mimeo.updater_maker('app.nokey', 'serial', 'rev', 1, p_pk_name := '{id}', p_pk_type := '{int}', p_index := false);
SELECT on_source($$INSERT INTO app.nokey (id, v) SELECT i % 5, 'later ' || i FROM generate_series(1, 20) i$$);
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.nokey')$$, 'a named key that is not unique');
SELECT is((SELECT count(DISTINCT v) FROM app.nokey WHERE id = 3), 1::bigint, 'the newest row of each counts');

-- So many rows that the table is written anew
SELECT on_source($$CREATE TABLE app.big (id int PRIMARY KEY, gone int, rev bigint DEFAULT nextval('app.revisions'), v text);
    CREATE INDEX ON app.big (v);
    INSERT INTO app.big SELECT i, i, nextval('app.revisions'), CASE WHEN i < 50 THEN repeat('long ' || i, 5000) ELSE 'v' END FROM generate_series(1, 90000) i$$);
SELECT mimeo.updater_maker('app.big', 'serial', 'rev', 1, p_filter := '{id,rev,v}');
ALTER TABLE app.big ADD COLUMN dropped int, ADD COLUMN own text DEFAULT 'default',
    ADD COLUMN loaded timestamp DEFAULT now(), ADD COLUMN number numeric(20, 5) DEFAULT random();
ALTER TABLE app.big DROP COLUMN dropped;
UPDATE app.big SET own = 'mine' WHERE id % 10 = 0;
ANALYZE app.big;
SELECT on_source($$UPDATE app.big SET v = repeat('longer ' || id, 4000), rev = DEFAULT WHERE id < 20; UPDATE app.big SET v = 'changed', rev = DEFAULT WHERE id > 30000;
    INSERT INTO app.big (id, v) SELECT i, 'inserted' FROM generate_series(90001, 90010) i; INSERT INTO app.big (id, v) VALUES (99999, 'last')$$);
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.big')$$, 'two thirds of a table have changed');
SELECT matches((last_run('app.big')).reason, 'the table is written anew', 'so it is written anew');
SELECT is((SELECT count(*) || md5(string_agg((id, rev, v)::text, '|' ORDER BY id)) FROM app.big),
    ask_source($$SELECT count(*) || md5(string_agg((id, rev, v)::text, '|' ORDER BY id)) FROM app.big WHERE id < 99999$$), 'and holds what the source holds');
SELECT results_eq($$SELECT own, count(*) FROM app.big GROUP BY 1 ORDER BY 1$$, $$VALUES ('default', 81010::bigint), ('mine', 9000)$$,
    'its own column keeps its values, and has its default in new rows');
SELECT is((SELECT count(*) FROM app.big WHERE loaded > localtimestamp - interval '1 hour' AND loaded <= clock_timestamp()
    AND number BETWEEN 0 AND 1), 90010::bigint, 'and so have those whose default is of another type');
SELECT is((SELECT count(*) FROM app.big WHERE id = 77), 1::bigint, 'its index finds rows');

SELECT lives_ok($$SELECT mimeo.updater_destroyer('app.u', false)$$, 'the job ends');
SELECT hasnt_table('app', 'u', 'with its table, when told so');

SELECT * FROM finish();
