-- What can be a source: every kind of relation, every type, every name.
SELECT plan(44);

CREATE FUNCTION pg_temp.digest(p_relation text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v text;
BEGIN
    EXECUTE format('SELECT md5(string_agg(x::text, E''\n'' ORDER BY x::text COLLATE "C")) FROM %s x', p_relation) INTO v;
    RETURN v;
END
$$;
CREATE FUNCTION pg_temp.same(p_relation text) RETURNS boolean LANGUAGE sql AS $$
    SELECT pg_temp.digest(p_relation) = ask_source(format(
        $q$SELECT md5(string_agg(x::text, E'\n' ORDER BY x::text COLLATE "C")) FROM %s x$q$, p_relation))
$$;

-- Kinds of relations
SELECT on_source($$
    CREATE TABLE app.base (id int PRIMARY KEY, v text);
    INSERT INTO app.base SELECT i, 'v' || i FROM generate_series(1, 300) i;
    CREATE VIEW app.a_view AS SELECT id, upper(v) AS v FROM app.base WHERE id % 2 = 0;
    CREATE MATERIALIZED VIEW app.a_matview AS SELECT id, v FROM app.base;
    CREATE UNIQUE INDEX a_matview_id ON app.a_matview (id);
    CREATE TABLE app.parted (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE app.parted_2 PARTITION OF app.parted FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
        PARTITION BY HASH (id);
    CREATE TABLE app.parted_2_1 PARTITION OF app.parted_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    CREATE INDEX parted_at_idx ON app.parted (at);
    INSERT INTO app.parted SELECT i, '2020-06-01'::date + i FROM generate_series(1, 400) i;
    CREATE TABLE app.ancestor (id int, v text);
    CREATE TABLE app.descendant (w int) INHERITS (app.ancestor);
    INSERT INTO app.ancestor VALUES (1, 'up');
    INSERT INTO app.descendant VALUES (2, 'down', 3);
    CREATE USER MAPPING FOR PUBLIC SERVER itself OPTIONS (user 'reader', password 'reader secret');
    CREATE FOREIGN TABLE app.a_foreign (datname name, encoding int) SERVER itself
        OPTIONS (schema_name 'pg_catalog', table_name 'pg_database');
$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.a_view', 1)$$, 'a view');
SELECT ok(pg_temp.same('app.a_view'), 'a view arrives as it is');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.a_view')$$, 'again');
SELECT is((last_run('app.a_view')).reason, 'copied: only tables have counters', 'a view is always copied');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.a_matview', 1)$$, 'a materialized view is copied'); -- defect 12 of 1.5.1
SELECT ok(pg_temp.same('app.a_matview'), 'a materialized view arrives as it is'); -- defect 12 of 1.5.1
SELECT has_index('app', 'a_matview_snap1', 'snap1_a_matview_snap1_id', 'an index of a materialized view is copied');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.parted', 1)$$, 'an indexed partitioned table is copied'); -- defect 11 of 1.5.1
SELECT ok(pg_temp.same('app.parted'), 'a partitioned table arrives as it is'); -- defect 11 of 1.5.1
SELECT has_index('app', 'parted_snap2', 'snap2_parted_snap2_at_idx', 'an index of a partitioned table is copied'); -- defect 11 of 1.5.1
SELECT col_is_pk('app', 'parted_snap2', ARRAY['id', 'at'], 'so is its primary key');
SELECT mimeo.refresh_snapshot('app.parted');
SELECT is((last_run('app.parted')).status, 'skipped', 'nothing changed in any partition: skipped');
SELECT on_source($$INSERT INTO app.parted_2_1 VALUES (1, '2021-12-31')$$);
SELECT mimeo.refresh_snapshot('app.parted');
SELECT is((last_run('app.parted')).status, 'ok', 'a row in a partition of a partition is noticed');
SELECT on_source($$TRUNCATE app.parted_1$$);
SELECT mimeo.refresh_snapshot('app.parted');
SELECT is((last_run('app.parted')).status, 'ok', 'so is the TRUNCATE of a partition');
SELECT on_source($$ALTER TABLE app.parted DETACH PARTITION app.parted_1$$);
SELECT mimeo.refresh_snapshot('app.parted');
SELECT is((last_run('app.parted')).status, 'ok', 'and a DETACH');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.ancestor', 1)$$, 'a table with children');
SELECT ok(pg_temp.same('app.ancestor'), 'comes with their rows');
SELECT on_source($$UPDATE app.descendant SET v = 'deeper'$$);
SELECT mimeo.refresh_snapshot('app.ancestor');
SELECT ok(pg_temp.same('app.ancestor'), 'whose changes are noticed');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.a_foreign', 1)$$, 'a foreign table');
SELECT ok(pg_temp.same('app.a_foreign'), 'is the same');

-- Types
SELECT on_source($$
    CREATE TABLE app.zoo (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        c_smallint smallint, c_int int, c_bigint bigint, c_numeric numeric, c_numeric2 numeric(20, 5), c_real real,
        c_double double precision, c_money money, c_text text, c_varchar varchar, c_varchar2 varchar(7), c_char char(5),
        c_char1 "char", c_name name, c_bytea bytea, c_timestamp timestamp, c_timestamptz timestamptz(3), c_date date,
        c_time time, c_timetz timetz, c_interval interval, c_interval2 interval day to second(2), c_bool bool,
        c_point point, c_line line, c_lseg lseg, c_box box, c_path path, c_polygon polygon, c_circle circle,
        c_inet inet, c_cidr cidr, c_macaddr macaddr, c_macaddr8 macaddr8, c_bit bit(3), c_varbit varbit(9),
        c_tsvector tsvector, c_tsquery tsquery, c_uuid uuid, c_xml xml, c_json json, c_jsonb jsonb, c_jsonpath jsonpath,
        c_pg_lsn pg_lsn, c_pg_snapshot pg_snapshot, c_txid txid_snapshot, c_oid oid, c_xid xid, c_xid8 xid8, c_cid cid,
        c_tid tid, c_oidvector oidvector, c_int2vector int2vector, c_int4range int4range, c_int8range int8range,
        c_numrange numrange, c_tsrange tsrange, c_tstzrange tstzrange, c_daterange daterange,
        c_int4multirange int4multirange, c_ints int[], c_texts text[], c_matrix int[][], c_stamps timestamptz[],
        c_ranges int4range[], c_generated int GENERATED ALWAYS AS (c_int / 2) STORED, c_refcursor refcursor
    );
    INSERT INTO app.zoo (c_smallint) VALUES (NULL);
    INSERT INTO app.zoo (c_smallint, c_int, c_bigint, c_numeric, c_numeric2, c_real, c_double, c_money, c_text, c_varchar,
        c_varchar2, c_char, c_char1, c_name, c_bytea, c_timestamp, c_timestamptz, c_date, c_time, c_timetz, c_interval,
        c_interval2, c_bool, c_point, c_line, c_lseg, c_box, c_path, c_polygon, c_circle, c_inet, c_cidr, c_macaddr,
        c_macaddr8, c_bit, c_varbit, c_tsvector, c_tsquery, c_uuid, c_xml, c_json, c_jsonb, c_jsonpath, c_pg_lsn,
        c_pg_snapshot, c_txid, c_oid, c_xid, c_xid8, c_cid, c_tid, c_oidvector, c_int2vector, c_int4range, c_int8range,
        c_numrange, c_tsrange, c_tstzrange, c_daterange, c_int4multirange, c_ints, c_texts, c_matrix, c_stamps, c_ranges,
        c_refcursor)
    SELECT -32768, 2147483647, -9223372036854775808, 'NaN', 123456789012345.12345, 'Infinity', 0.1::float8 + 0.2, 12.34,
        E'tab\tnew\nline \\ back "quote" ü€😀', '', 'seven 7', 'ab', 'x', 'a name', '\x00ff10', 'infinity',
        '2020-02-29 12:34:56.789+05:30', '4713-01-01 BC', '24:00:00', '01:02:03.456789-15:59', '-1 mon +2 days -03:04:05',
        '1 day 02:03:04.05', true, '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,1),(2,0)]',
        '((0,0),(1,1),(2,0))', '<(1,2),3>', '::ffff:1.2.3.4/96', '10.0.0.0/8', '08:00:2b:01:02:03',
        '08:00:2b:01:02:03:04:05', B'101', B'10101', 'a fat:1A cat:2', 'fat & (rat | !cat)',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '<a>b</a>', '{"a":  1, "a": 2}', '{"b": [1, null, "ü"]}', '$.a[*] ? (@ > 1)',
        '16/B374D848', '10:20:10,14,15', '10:20:10,14,15', 4294967295, '4294967295', '18446744073709551615', '7', '(42,7)',
        '1 2 3', '1 2', '[1,10)', 'empty', '(,1.5]', '[2020-01-01,2020-01-02)', '[2020-01-01 00:00+00,)',
        '[2020-01-01,2020-01-31)', '{[1,3), [5,8)}', '{1,NULL,3}', '{"a b",NULL,"","\""}', '[0:1][2:3]={{1,2},{3,4}}',
        '{"2020-01-01 00:00+00"}', '{"[1,2)",empty}', 'c'
      FROM generate_series(1, 20);
$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.zoo', 1)$$, 'every built-in type');
SET timezone = 'UTC';
SELECT is(pg_temp.digest('app.zoo'),
    ask_source($$SET timezone = 'UTC'; SELECT md5(string_agg(x::text, E'\n' ORDER BY x::text COLLATE "C")) FROM app.zoo x$$),
    'every value is the same');
SELECT isnt((last_run('app.zoo')).reason LIKE '%text format%', true, 'all of them in the binary format');
SELECT is((SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation), ', '
        ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app.zoo_snap1'::regclass AND attnum > 0 AND attname NOT IN ('mimeo_xmin', 'mimeo_ctid')),
    ask_source($$SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation), ', '
        ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app.zoo'::regclass AND attnum > 0$$),
    'every type has its length and precision');
SELECT is((SELECT count(*) FROM pg_attribute WHERE attrelid = 'app.zoo_snap1'::regclass
    AND (attidentity <> '' OR attgenerated <> '')), 0::bigint, 'identity and generated columns are plain here'); -- defect 14 of 1.5.1
SELECT is((SELECT DISTINCT c_generated FROM app.zoo WHERE c_int > 0), 1073741823, 'with their values');

SELECT on_source($$CREATE TABLE app.texts (id int, c_regclass regclass, c_acl aclitem[]);
    INSERT INTO app.texts VALUES (1, 'pg_catalog.pg_class', '{postgres=r/postgres}')$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.texts', 1)$$, 'types whose binary form means nothing here');
SELECT ok((last_run('app.texts')).reason LIKE '%text format%', 'come as text');
SELECT ok(pg_temp.same('app.texts'), 'and are the same');

-- Types of our own, which exist on both sides
CREATE TYPE app.mood AS ENUM ('sad', 'glad', 'so so');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TYPE app.pair AS (a int, b text);
CREATE TYPE app.nested AS (p app.pair, m app.mood[]);
CREATE TYPE app.floats AS RANGE (subtype = float8);
SELECT on_source($$
    CREATE TYPE app.unused AS (x int);
    CREATE TYPE app.mood AS ENUM ('glad', 'sad', 'so so');
    CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
    CREATE TYPE app.pair AS (a int, b text);
    CREATE TYPE app.nested AS (p app.pair, m app.mood[]);
    CREATE TYPE app.floats AS RANGE (subtype = float8);
    CREATE TABLE app.scalars (m app.mood, d app.positive, p app.pair);
    INSERT INTO app.scalars VALUES ('sad', 1, '(1,"x, y")'), ('glad', NULL, NULL), ('so so', 3, '(,)');
    CREATE TABLE app.containers (id int, ms app.mood[], ds app.positive[], ps app.pair[], n app.nested, f app.floats);
    INSERT INTO app.containers VALUES (1, '{sad,"so so",NULL}', '{1,2}', ARRAY[(1, 'a')::app.pair], ((1, 'b'), '{glad}'),
        '[1.5,2)');
$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.scalars', 1)$$, 'enums, domains and composites');
SELECT ok(pg_temp.same('app.scalars'), 'are the same');
SELECT isnt((last_run('app.scalars')).reason LIKE '%text format%', true, 'in the binary format');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.containers', 1)$$, 'arrays and composites of them, and ranges');
SELECT ok(pg_temp.same('app.containers'), 'are the same');
SELECT mimeo.refresh_snapshot('app.scalars');
SELECT is((last_run('app.scalars')).status, 'skipped', 'nothing changed: skipped');
SELECT on_source($$ALTER TYPE app.mood RENAME VALUE 'glad' TO 'happy'$$);
ALTER TYPE app.mood RENAME VALUE 'glad' TO 'cheerful';
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.scalars')$$, '22P02', NULL,
    'a renamed label is noticed, and one that does not exist here is an error');
ALTER TYPE app.mood RENAME VALUE 'cheerful' TO 'happy';
SELECT mimeo.refresh_snapshot('app.scalars');
SELECT ok(pg_temp.same('app.scalars'), 'until it does');

-- Names, dropped columns, many columns, wide values
SELECT on_source(format($$
    CREATE TABLE app.%1$I (a int, gone text, "%% ""q"" 'a' \ .dot" int PRIMARY KEY, %2$I text, also_gone int, "select" int);
    ALTER TABLE app.%1$I DROP gone; ALTER TABLE app.%1$I DROP also_gone;
    INSERT INTO app.%1$I VALUES (1, 2, 'three', 4);
    CREATE INDEX %3$I ON app.%1$I (%2$I);
    CREATE INDEX %4$I ON app.%1$I (%2$I, a);
$$, repeat('N', 63), 'Ü' || repeat('c', 61), repeat('i', 62) || '1', repeat('i', 62) || '2'));
SELECT lives_ok(format($$SELECT mimeo.snapshot_maker('app.%s', 1)$$, repeat('N', 63)), 'odd names of 63 bytes');
SELECT ok(pg_temp.same(format('app.%I', repeat('N', 63))), 'are the same');
SELECT lives_ok(format($$SELECT mimeo.refresh_snapshot('app.%s', p_check_stats := false)$$, repeat('N', 63)), 'again');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = format('app.%I', repeat('N', 57) || '_snap1')::regclass),
    3::bigint, 'all indexes are there, although their names had to be cut');
DO $$ BEGIN
    PERFORM on_source((SELECT format('CREATE TABLE app.wide (%s)', string_agg('c' || i || ' int DEFAULT ' || i, ', '))
        FROM generate_series(1, 1500) i) || '; INSERT INTO app.wide DEFAULT VALUES');
    PERFORM on_source($q$CREATE TABLE app.big (id int, t text, b bytea); INSERT INTO app.big
        VALUES (1, repeat('0123456789', 5000000), decode(repeat('00ff', 10000000), 'hex')), (2, '', '')$q$);
END $$;
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.wide', 1)$$, '1500 columns');
SELECT ok(pg_temp.same('app.wide'), 'are the same');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.big', 1)$$, 'values of 50 MB');

SELECT * FROM finish();
