-- validate_content: whether the rows of both sides hold the same.
SELECT plan(63);

SELECT is((SELECT pg_get_function_arguments(p.oid) || ' -> ' || pg_get_function_result(p.oid) FROM pg_proc p WHERE proname = 'validate_content'),
    'p_destination text, p_lower_interval text DEFAULT NULL::text, p_upper_interval text DEFAULT NULL::text, p_show integer DEFAULT 0, '
    'OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT source_hash text, OUT dest_hash text -> record', 'its signature');

-- Of every type something, in sessions whose formats differ on both sides
SELECT on_source($$
    CREATE TYPE app.mood AS ENUM ('good', 'bad');
    CREATE DOMAIN app.price AS numeric(10,2);
    CREATE DOMAIN app.ratio AS float8;
    CREATE TYPE app.pair AS (a int, b text);
    CREATE TABLE app.types (id int PRIMARY KEY, "we""ird, (col)" text, b bool, i2 smallint, i8 bigint, n numeric, n2 numeric(10,2), f4 real, f8 float8,
        m money, t text, vc varchar(10), c char(10), ba bytea, d date, ts timestamp, tz timestamptz, ti time, tt timetz, iv interval, u uuid, j json,
        jb jsonb, x xml, ia int[], ta text[], fa float8[], r int4range, tr tstzrange, e app.mood, dm app.price, dr app.ratio, p app.pair, pa app.pair[],
        ip inet, bits bit(5), vb varbit, pt point, ts_v tsvector, oc "char", na name);
    INSERT INTO app.types VALUES (1, E'a,b"c\\d (x)\n', true, -1, 9007199254740993, 1.50, 1.5, 0.1, 0.1, 12.5, 'ü', 'v', 'c', '\x00ff5c', '2024-02-29',
        '2024-03-31 02:30:00.123456', '2024-03-31 02:30:00.123456+05', '23:59:59.5', '10:00+02', '1 year 2 mons -3 days 04:05:06.7', 
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1,  "a": 1.0}', '{"b": 1, "a": 1.0}', '<a b="1">x</a>', '{1,NULL,3}', '{"a b",NULL,"NULL",""}',
        '{0.1,NaN}', '[1,5)', '["2024-01-01 00:00+01",)', 'good', 2.5, 0.1, '(1,"x,y")', '{"(1,a)","(,)"}', '10.0.0.1/24', '10101', '1', '(0.1,1e20)', 'a b', 'x', 'n'),
        (2, '', false, NULL, NULL, 'NaN', 0, 'Infinity', '-0', -1, '', '', '', '', 'infinity', '-infinity', 'infinity', NULL, NULL, '0', NULL, 'null', 'null',
         NULL, '{}', '{}', NULL, 'empty', NULL, 'bad', NULL, NULL, NULL, '{}', '::1', NULL, '', NULL, '', '', '');
    INSERT INTO app.types (id) VALUES (3);
$$);
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE DOMAIN app.price AS numeric(10,2);
CREATE DOMAIN app.ratio AS float8;
CREATE TYPE app.pair AS (a int, b text);
SELECT mimeo.snapshot_maker('app.types', 1, 'app.t_snap');
SELECT mimeo.table_maker('app.types', 1, 'app.t_tab');
SELECT mimeo.dml_maker('app.types', 1, 'app.t_dml');
SELECT mimeo.updater_maker('app.types', 'serial', 'id', 1, p_boundary := '0', p_dest_table := 'app.t_upd');
SELECT mimeo.inserter_maker('app.types', 'serial', 'id', 1, p_boundary := '0', p_dest_table := 'app.t_ins', p_filter := '{id,f8,x,tz}', p_condition := 'WHERE id = 1 OR t = ''''');
CREATE FUNCTION pg_temp.match(p_destination text, p_rows int) RETURNS text LANGUAGE sql AS $$
    SELECT is(c, ROW(true, p_rows::bigint, p_rows::bigint, c.source_hash, c.source_hash)::text, p_destination || ' holds the same')
      FROM (SELECT v::text AS c, v.* FROM mimeo.validate_content(p_destination) v) c
$$;
SELECT pg_temp.match(d, n) FROM (VALUES ('app.t_snap', 3), ('app.t_tab', 3), ('app.t_dml', 3), ('app.t_upd', 3), ('app.t_ins', 2)) v(d, n);
SELECT is((SELECT count(DISTINCT h) FROM (SELECT (mimeo.validate_content(d)).dest_hash FROM unnest('{app.t_snap,app.t_tab,app.t_dml,app.t_upd}'::text[]) d) x(h)), 1::bigint,
    'the hash does not depend on the method');
CREATE TABLE hash_before AS SELECT dest_hash FROM mimeo.validate_content('app.t_tab');
SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = -5; SET bytea_output = 'escape';
SELECT as_reader(format($$ALTER ROLE reader IN DATABASE %I SET timezone = 'America/New_York'; ALTER ROLE reader IN DATABASE %1$I SET bytea_output = 'escape'$$, current_database()));
SELECT pg_temp.match(d, n) FROM (VALUES ('app.t_snap', 3), ('app.t_tab', 3), ('app.t_ins', 2)) v(d, n);
SELECT results_eq($$SELECT dest_hash FROM mimeo.validate_content('app.t_tab')$$, 'SELECT dest_hash FROM hash_before', 'nor on the formats of a session');
RESET ALL;
SET client_min_messages = warning;

-- Each column counts.
CREATE FUNCTION pg_temp.changed(p_set text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_found record;
BEGIN
    EXECUTE 'UPDATE app.t_tab SET ' || p_set || ' WHERE id = 1';
    SELECT * INTO v_found FROM mimeo.validate_content('app.t_tab');
    PERFORM mimeo.refresh_table('app.t_tab');
    RETURN is(concat_ws(' ', v_found.match, v_found.source_count = v_found.dest_count, v_found.source_hash = v_found.dest_hash), 'f t f', 'a difference in ' || p_set);
END $$;
SELECT pg_temp.changed(s) FROM unnest(ARRAY['"we""ird, (col)" = ''''', '"we""ird, (col)" = NULL', 'b = NULL', 'i8 = i8 - 1', 'n = 1.51', 'f4 = 0.10000001',
    'f8 = 0.10000000000000002', 'm = 12.51', 't = ''u''', 'c = ''d''', 'ba = ''\x00ff5d''', 'ts = ts + interval ''1 us''', 'tz = tz + interval ''1 us''', 'iv = ''14 mons -3 days 04:05:06.8''',
    'j = ''{"b": 1, "a": 1.0}''', 'jb = ''{"b": 1, "a": 2}''', 'x = ''<a b="1">y</a>''', 'ia = ''{1,3}''', 'ta = ''{"a b",NULL,NULL,""}''', 'r = ''[1,6)''',
    'e = ''bad''', 'dm = 2.51', 'dr = 0.2', 'p = ''(1,"x, y")''', 'pa = NULL', 'bits = ''10100''']) s;

-- Other types here that hold the same values
SELECT on_source($$CREATE TABLE app.wide (id int PRIMARY KEY, i int, i8 bigint, f real, n numeric(10,2), c char(5), c2 char(5), d date, v varchar(9), s smallint, dt date);
    INSERT INTO app.wide VALUES (1, 7, 1234567890123456789, 0.1, 1.50, 'ab', 'cd', '2024-02-03', 'x', 3, '2024-02-03'), (2, 100, 1e17, 1e20, 100, NULL, 'e', NULL, '', 1, 'infinity')$$);
CREATE TABLE app.wide (dt timestamptz, id bigint, i numeric(13,3), i8 numeric, f float8, n numeric, c text, c2 char(20), d timestamp, v text, s float4, more int DEFAULT 1);
SET timezone = 'UTC';
SELECT mimeo.table_maker('app.wide', 1);
SELECT mimeo.refresh_table('app.wide');
SELECT pg_temp.match('app.wide', 2);
UPDATE app.wide SET n = 1.5, i = 7.000 WHERE id = 1;
SELECT pg_temp.match('app.wide', 2);
UPDATE app.wide SET n = 1.51 WHERE id = 1;
SELECT is((mimeo.validate_content('app.wide')).match, false, 'another number is one');
UPDATE app.wide SET n = 1.5, more = 2 WHERE id = 1;
SELECT pg_temp.match('app.wide', 2);
RESET timezone;

-- Order does not count, duplicates do.
SELECT on_source($$CREATE TABLE app.bag (v int, w text); INSERT INTO app.bag VALUES (1, 'a'), (2, 'b'), (2, 'b'), (3, NULL)$$);
SELECT mimeo.table_maker('app.bag', 1);
CREATE TEMP TABLE held AS TABLE app.bag; TRUNCATE app.bag; INSERT INTO app.bag SELECT * FROM held ORDER BY v DESC;
SELECT pg_temp.match('app.bag', 4);
UPDATE app.bag SET (v, w) = (3, NULL) WHERE ctid = (SELECT ctid FROM app.bag WHERE v = 2 LIMIT 1);
SELECT is((mimeo.validate_content('app.bag')).match, false, 'the same rows another number of times do not match');
SELECT mimeo.refresh_table('app.bag');
INSERT INTO app.bag VALUES (1, 'a');
SELECT results_eq($$SELECT match, source_count, dest_count FROM mimeo.validate_content('app.bag')$$, $$VALUES (false, 4::bigint, 5::bigint)$$, 'nor does one more');
UPDATE app.bag SET w = '' WHERE w IS NULL; DELETE FROM app.bag WHERE ctid = (SELECT max(ctid) FROM app.bag WHERE v = 1);
SELECT is((mimeo.validate_content('app.bag')).match, false, 'NULL is not an empty text');
TRUNCATE app.bag; SELECT on_source('TRUNCATE app.bag');
SELECT pg_temp.match('app.bag', 0);

-- Ranges, deleted rows, columns of one side
SELECT on_source($$CREATE TABLE app.s (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), v text);
    INSERT INTO app.s (v, at) SELECT 'v' || i, '2024-06-01 00:00+00'::timestamptz + i * interval '1 hour' FROM generate_series(1, 100) i$$);
SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.s_id');
SELECT mimeo.updater_maker('app.s', 'time', 'at', 1, p_dest_table := 'app.s_at');
SELECT mimeo.logdel_maker('app.s', 1, 'app.s_log');
UPDATE app.s_id SET v = 'damaged' WHERE id = 50; UPDATE app.s_at SET v = 'damaged' WHERE id = 50;
SELECT results_eq($$SELECT match, source_count, dest_count FROM mimeo.validate_content('app.s_id')$$, $$VALUES (false, 90::bigint, 90::bigint)$$, 'a damaged row, where counts match');
SELECT results_eq($$SELECT match, source_count, dest_count FROM mimeo.validate_content('app.s_id', '49')$$, $$VALUES (true, 40::bigint, 40::bigint)$$, 'but not in this range');
SELECT results_eq($$SELECT match, source_count, dest_count FROM mimeo.validate_content('app.s_id', '50')$$, $$VALUES (false, 41::bigint, 41::bigint)$$, 'and in this one');
SELECT results_eq($$SELECT match, source_count, dest_count FROM mimeo.validate_content('app.s_at', '49 hours', '1 hour')$$, $$VALUES (true, 49::bigint, 49::bigint)$$, 'a range of times');
SELECT results_eq($$SELECT match FROM mimeo.validate_content('app.s_at')$$, $$VALUES (false)$$, 'the whole of it');
SELECT on_source('DELETE FROM app.s WHERE id <= 10');
SELECT is((mimeo.validate_content('app.s_log')).match, false, 'logdel: rows that were deleted on the source');
SELECT mimeo.refresh_logdel('app.s_log');
SELECT pg_temp.match('app.s_log', 90);
UPDATE app.s_log SET v = 'damaged' WHERE id = 1;
SELECT pg_temp.match('app.s_log', 90);
UPDATE app.s_log SET v = 'damaged' WHERE id = 11;
SELECT is((mimeo.validate_content('app.s_log')).match, false, 'live rows count, deleted ones do not');
SELECT mimeo.table_maker('app.s', 1, 'app.s_tab');
SELECT on_source('ALTER TABLE app.s ADD COLUMN late int DEFAULT 1');
SELECT pg_temp.match('app.s_tab', 90);
ALTER TABLE app.s_tab DROP COLUMN v, DROP COLUMN at, DROP COLUMN id;
SELECT throws_like($$SELECT mimeo.validate_content('app.s_tab')$$, '%it has none of the source''s columns', 'nothing to compare');
SELECT throws_ok($$SELECT mimeo.validate_content('app.s_id', 'x')$$, '22023', 'p_lower_interval ''x'' is not an integer', 'a bad interval');
SELECT throws_ok($$SELECT mimeo.validate_content('app.no')$$, '42704', NULL, 'no job');

-- Who may see keys
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk($$SELECT mimeo.validate_content('app.s_id')$$), 'permission denied for function validate_content', 'without EXECUTE nobody compares');
GRANT EXECUTE ON FUNCTION mimeo.validate_content TO clerk;
SELECT is(as_clerk($$SELECT mimeo.validate_content('app.s_id')$$), 'done', 'a hash tells nothing,');
SELECT is(as_clerk($$SELECT mimeo.validate_content('app.s_id', p_show := 1)$$), 'rows of "app.s_id" are shown only to a role that may read it', 'keys do');
GRANT USAGE ON SCHEMA app TO clerk; GRANT SELECT ON app.s_id TO clerk;
SELECT is(as_clerk($$SELECT mimeo.validate_content('app.s_id', p_show := 1)$$), 'done', 'to whom may read them anyway');

SELECT * FROM finish();
