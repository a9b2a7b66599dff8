-- inserter: new rows, by a time or serial column.
SELECT plan(87);

SELECT on_source($$
    CREATE TABLE app.s (id bigserial PRIMARY KEY, a int, v text);
    INSERT INTO app.s (a, v) SELECT i, 'v' || i FROM generate_series(1, 100) i;
    CREATE TABLE app.tm (id int, at timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON app.tm (at);
    INSERT INTO app.tm SELECT i, clock_timestamp() - i * interval '1 h' FROM generate_series(1, 50) i;
$$);

-- Makers
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1)$$, 'a serial inserter is made');
SELECT is((SELECT count(*) FROM app.s), 100::bigint, 'with all rows');
SELECT results_eq($$SELECT type, control, boundary, last_value FROM mimeo.refresh_config_inserter WHERE dest_table = 'app.s'$$,
    $$VALUES ('inserter_serial', 'id', '10', '100')$$, 'the job knows the greatest value');
SELECT results_eq($$SELECT boundary, last_value FROM mimeo.refresh_config_inserter_serial$$, $$VALUES (10, 100::bigint)$$,
    'also as numbers');
SELECT is((SELECT string_agg(indexname, ' ') FROM pg_indexes WHERE tablename = 's'), 's_id_pk', 'with the indexes of the source');
SELECT is((SELECT attidentity = '' AND NOT atthasdef AND attnotnull FROM pg_attribute WHERE attrelid = 'app.s'::regclass AND attname = 'id'),
    true, 'a replica holds generated values as plain ones, NOT NULL'); -- defect 14 of 1.5.1
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.tm', 'time', 'at', 1)$$, 'a time inserter is made');
SELECT is((SELECT count(*) FROM app.tm), 50::bigint, 'with all rows, also those of the last minutes, for nobody is writing');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_time), (SELECT max(at) FROM app.tm),
    'and the greatest time');
SELECT results_eq($$SELECT boundary, dst_active, dst_start, dst_end FROM mimeo.refresh_config_inserter_time$$,
    $$VALUES ('10 minutes'::interval, true, 30, 230)$$, 'the defaults of a time-based job');

-- Refreshes
SELECT on_source($$INSERT INTO app.s (a, v) SELECT i, 'v' || i FROM generate_series(101, 150) i;
    INSERT INTO app.tm (id) SELECT generate_series(51, 60)$$);
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.s')$$, 'a refresh');
SELECT is((SELECT max(id) FROM app.s), 149::bigint,
    'brings what is new, but for the greatest value: the bound is exclusive');
SELECT is((SELECT count(*) FROM app.s), 149::bigint, 'each row once');
SELECT matches((last_run('app.s')).reason, 'bound 150: proven', 'the history says which bound was used');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial), 149::bigint, 'last_value follows');
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.tm')$$, 'a time-based one');
SELECT is((SELECT count(*) FROM app.tm), 60::bigint, 'does not wait for the boundary when it is proven that nothing can be late');
SELECT mimeo.refresh_inserter('app.s');
SELECT is((last_run('app.s')).rows, 0::bigint, 'nothing new, nothing copied');
SELECT is((SELECT count(*) FROM app.s), 149::bigint, 'and nothing twice');
SELECT on_source($$INSERT INTO app.s (a, v) VALUES (151, 'v151')$$);
BEGIN;
SELECT mimeo.refresh_inserter('app.s');
ROLLBACK;
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial), 149::bigint, 'a rollback takes last_value back with the data');
SELECT mimeo.refresh_inserter('app.s');
SELECT is((SELECT max(id) FROM app.s), 150::bigint, 'and the next refresh brings it');

-- A condition with OR (defect 3 of 1.5.1).
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.ored',
    p_condition := 'WHERE a < 10 OR a > 100')$$, 'a condition with OR');
SELECT is((SELECT count(*) FROM app.ored), 60::bigint, 'selects rows');
SELECT on_source($$INSERT INTO app.s (a, v) SELECT i, 'v' FROM generate_series(1, 20) i$$);
SELECT mimeo.refresh_inserter('app.ored');
SELECT is((SELECT count(*) - count(DISTINCT id) FROM app.ored), 0::bigint, 'a condition with OR brings no row twice'); -- defect 3 of 1.5.1
SELECT is((SELECT count(*) FROM app.ored), 69::bigint, 'but for those that are new');
SELECT on_source($$CREATE TABLE app.other (id int, v text); INSERT INTO app.other SELECT i, 'o' FROM generate_series(1, 5) i$$);
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.joined', p_filter := '{id,v}',
    p_condition := ', app.other WHERE other.id = s.a')$$, 'a joined table with the same column names');
SELECT columns_are('app', 'joined', ARRAY['id', 'v'], 'does no harm');
SELECT is((SELECT count(*) FROM app.joined), 10::bigint, 'its rows are found');

-- Limits and ties
SELECT on_source($$CREATE TABLE app.ties (k int, n serial); INSERT INTO app.ties (k) SELECT i / 10 FROM generate_series(10, 99) i$$);
SELECT mimeo.inserter_maker('app.ties', 'serial', 'k', 1, p_boundary := '0', p_pulldata := false);
UPDATE mimeo.refresh_config_inserter_serial SET last_value = 0, batch_limit = 25 WHERE dest_table = 'app.ties';
SELECT mimeo.refresh_inserter('app.ties');
SELECT is((SELECT count(*) FROM app.ties), 20::bigint, 'rows that share the cut-off value all go to the next batch');
SELECT is((last_run('app.ties')).status, 'warning', 'a full batch is a warning');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial WHERE dest_table = 'app.ties'), 2::bigint,
    'and last_value is the last one that is complete');
SELECT mimeo.refresh_inserter('app.ties', p_limit := 30);
SELECT is((SELECT count(*) FROM app.ties), 50::bigint, 'the argument wins over the job');
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.ties', p_limit := 5)$$, '54000', 'more than 5 rows of "app.ties" have the same value of column "k", 6, so no batch can end',
    'F18: a batch that never ends is an error');
SELECT is((SELECT count(*) FROM app.ties), 50::bigint, 'a batch of one single value does not advance');
SELECT is((last_run('app.ties')).status, 'critical', 'and is critical, for it never will');
SELECT mimeo.refresh_inserter('app.ties', p_limit := 40);
SELECT is((SELECT count(*) FROM app.ties), 80::bigint, 'a higher limit goes on, up to the greatest value');
SELECT is((last_run('app.ties')).status, 'warning', 'three quarters of a limit are a warning');
SELECT matches((last_run('app.ties')).reason, 'boundary 0, because the values do not come from a sequence', 'here the boundary counts');

-- Repulls
DELETE FROM app.s WHERE id BETWEEN 20 AND 30 OR id = 1;
UPDATE app.s SET v = 'spoilt' WHERE id IN (5, 25, 60);
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.s', p_repull := true, p_repull_start := '19', p_repull_end := '50')$$,
    'a repull of a range');
SELECT is((SELECT count(*) FROM app.s WHERE id BETWEEN 20 AND 49), 30::bigint, 'replaces that range');
SELECT is((SELECT string_agg(id::text, ' ' ORDER BY id) FROM app.s WHERE v = 'spoilt'), '5 60', 'and nothing else');
SELECT is((SELECT count(*) - count(DISTINCT id) FROM app.s), 0::bigint, 'its bounds are exclusive');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial WHERE dest_table = 'app.s'), (SELECT max(id) FROM app.s),
    'last_value is the true maximum');
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.s', p_repull := true)$$, 'a repull of everything');
SELECT is((SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.s t),
    ask_source($$SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM app.s t$$), 'makes the tables equal');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial WHERE dest_table = 'app.s'), (SELECT max(id) FROM app.s),
    'and last_value the true maximum');
SELECT on_source('INSERT INTO app.s (a) VALUES (1), (2)');
SELECT mimeo.refresh_inserter('app.s');
SELECT is((SELECT count(*) - count(DISTINCT id) FROM app.s), 0::bigint, 'after which no row comes twice');
SELECT on_source('INSERT INTO app.s (a) SELECT generate_series(1, 100)');
SELECT mimeo.refresh_inserter('app.s', p_repull := true, p_repull_start := (SELECT max(id) + 50 FROM app.s)::text,
    p_repull_end := (SELECT max(id) + 60 FROM app.s)::text);
SELECT mimeo.refresh_inserter('app.s');
SELECT is((SELECT count(*) FROM app.s), (SELECT max(id) FROM app.s), 'a repull beyond last_value leaves no gap');
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.s', p_repull := true, p_repull_start := 'x')$$, '22023',
    'p_repull_start ''x'' is not a value of type int8', 'a bound that is no number');

-- Rows that come in below, before anything has been copied
SELECT on_source('CREATE TABLE app.empty (id int GENERATED ALWAYS AS IDENTITY, v text)');
SELECT mimeo.inserter_maker('app.empty', 'serial', 'id', 1);
SELECT on_source('INSERT INTO app.empty (id, v) OVERRIDING SYSTEM VALUE VALUES (-5, ''a''), (-4, ''b''), (3, ''c'')');
SELECT mimeo.refresh_inserter('app.empty');
SELECT is((SELECT string_agg(id::text, ' ' ORDER BY id) FROM app.empty), '-5 -4', 'a job on an empty table misses no first row');

-- Types of the control column
SELECT on_source($$CREATE TABLE app.types (n numeric, ts timestamp, d date, s smallint, u uuid, x text);
    INSERT INTO app.types SELECT i + 0.5, timestamp '2020-01-01' + i * interval '1 h', date '2020-01-01' + i, i FROM generate_series(1, 9) i;
    INSERT INTO app.types VALUES ('NaN', 'infinity', 'infinity', 1)$$);
SELECT lives_ok(format($$SELECT mimeo.inserter_maker('app.types', %L, %L, 1, %L, 'app.by_%s')$$, t, c, b, c), 'control column ' || c)
  FROM (VALUES ('serial', 'n', '0'), ('time', 'ts', '0'), ('time', 'd', '0'), ('serial', 's', '0')) v(t, c, b);
UPDATE mimeo.refresh_config SET last_value = '3.5' WHERE control = 'n';
UPDATE mimeo.refresh_config SET last_value = '2020-01-01 03:00:00' WHERE control = 'ts';
UPDATE mimeo.refresh_config SET last_value = '2020-01-04' WHERE control = 'd';
TRUNCATE app.by_n, app.by_ts, app.by_d;
SELECT mimeo.refresh_inserter('app.by_' || c) FROM unnest('{n,ts,d}'::text[]) c;
SELECT is((SELECT count(*) FROM app.by_n), 5::bigint, 'numeric: NaN is not taken for the greatest value');
SELECT is((SELECT count(*) FROM app.by_ts), 6::bigint, 'timestamp: an infinite time is never reached');
SELECT is((SELECT count(*) FROM app.by_d), 6::bigint, 'date');
SELECT is((SELECT last_value FROM mimeo.refresh_config_inserter_serial WHERE control = 'n'), 8::bigint, 'the view shows whole numbers');
UPDATE mimeo.refresh_config_inserter_serial SET period = '1 h' WHERE control = 'n';
SELECT is((SELECT last_value FROM mimeo.refresh_config WHERE control = 'n'), '8.5', 'and keeps what it does not show');
SELECT throws_ok(format($$SELECT mimeo.inserter_maker('app.types', %L, %L, 1, p_dest_table := 'app.x')$$, t, c), '42809', NULL,
    format('control column %s as %s is refused', c, t))
  FROM (VALUES ('serial', 'u'), ('serial', 'x'), ('time', 'n'), ('serial', 'ts'), ('serial', 'nope')) v(t, c);
SELECT throws_ok($$SELECT mimeo.inserter_maker('app.s', 'clock', 'id', 1, p_dest_table := 'app.x')$$, '22023',
    'p_type is ''clock'', it must be ''time'' or ''serial''', 'an unknown p_type');
SELECT throws_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_boundary := 'much', p_dest_table := 'app.x')$$, '22023',
    'p_boundary ''much'' is not an integer', 'a boundary that is no number');
SELECT throws_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_filter := '{v}', p_dest_table := 'app.x')$$, '42P10',
    'the filter of "app.s" lacks the control column: "id"', 'a filter without the control column');

-- Other sources
SELECT on_source('CREATE VIEW app.view AS SELECT * FROM app.s');
SELECT mimeo.inserter_maker('app.view', 'serial', 'id', 1);
SELECT is((SELECT count(*)::text FROM app.view), ask_source('SELECT count(*) FROM app.s'), 'a view can be the source');
SELECT on_source('INSERT INTO app.s (a) SELECT generate_series(1, 15)');
SELECT mimeo.refresh_inserter('app.view');
SELECT is((SELECT max(id)::text FROM app.view), ask_source('SELECT max(id) - 11 FROM app.s'), 'there the boundary counts');
SELECT matches((last_run('app.view')).reason, 'boundary 10, because the source is not a table', 'as the history says');
SELECT is((SELECT count(*) - count(DISTINCT id) FROM app.view), 0::bigint, 'and rows that were copied before they were safe come once');

-- The destination
CREATE TABLE app.there (id bigint, own text DEFAULT 'mine', v text, a int);
INSERT INTO app.there VALUES (42, 'x', 'y', 1);
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.there')$$, 'a destination that is there');
SELECT is((SELECT last_value FROM mimeo.refresh_config WHERE dest_table = 'app.there'), '42', 'goes on from what it holds');
SELECT mimeo.refresh_inserter('app.there');
SELECT is((SELECT min(id)::text || ' ' || min(own) FROM app.there WHERE id > 42), '43 mine', 'and keeps its own columns');
ALTER TABLE app.there DROP COLUMN v;
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.there')$$, '42804',
    'destination "app.there" cannot take the columns of "app.s": column "v" is missing', 'a column that was dropped here');
SELECT throws_ok($$SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1)$$, '42710',
    'Inserter replication already defined for app.s', 'a second job for one destination');

-- The day when clocks change: a zone in which it is about noon of such a day
DO $$
DECLARE utc timestamp := now() AT TIME ZONE 'UTC';
BEGIN
    EXECUTE format('SET timezone = %L', format('AAA%sBBB,%s/0:30,%s',
        extract(hour FROM utc)::int - 12, extract(doy FROM utc)::int - 1, extract(doy FROM utc)::int % 365));
END $$;
UPDATE mimeo.refresh_config_inserter_time SET dst_start = 0, dst_end = 2400 WHERE dest_table = 'app.tm';
SELECT on_source('INSERT INTO app.tm (id) VALUES (61)');
SELECT mimeo.refresh_inserter('app.tm');
SELECT is((last_run('app.tm')).status, 'skipped', 'on the day when clocks change a time-based job pauses');
UPDATE mimeo.refresh_config_inserter_time SET dst_active = false WHERE dest_table = 'app.tm';
SELECT mimeo.refresh_inserter('app.tm');
SELECT is((SELECT max(id) FROM app.tm), 61, 'unless dst_active is off');
RESET timezone;

-- Destroyer
SELECT lives_ok($$SELECT mimeo.inserter_destroyer('app.there')$$, 'the job ends');
SELECT has_table('app', 'there', 'the table stays');
SELECT throws_ok($$SELECT mimeo.updater_destroyer('app.s')$$, '42809',
    'destination table "app.s" is a job of type inserter, not updater', 'the destroyer of another method');

-- Many rows, whose index entries are sorted
SELECT on_source($$CREATE TABLE app.many (id bigserial PRIMARY KEY, a int, b text UNIQUE, c int[], d timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON app.many (lower(b), a DESC); CREATE INDEX ON app.many (d) WHERE a % 2 = 0; CREATE INDEX ON app.many USING gin (c);
    CREATE UNIQUE INDEX ON app.many (a, id) INCLUDE (b); CREATE INDEX ON app.many USING hash (a);
    INSERT INTO app.many (a, b, c) SELECT i % 1000, md5(i::text), ARRAY[i % 7, i % 11] FROM generate_series(1, 100) i$$);
SELECT mimeo.inserter_maker('app.many', 'serial', 'id', 1);
SELECT on_source($$INSERT INTO app.many (a, b, c) SELECT i % 1000, CASE WHEN i % 1000 > 0 THEN md5(i::text) END, ARRAY[i % 7, i % 11] FROM generate_series(101, 80000) i$$);
SELECT mimeo.refresh_inserter('app.many');
SELECT same_rows('app.many', 't.*', p_where := 'id < 80000');
SELECT lives_ok(format('SELECT tap.bt_index_parent_check(%L, true)', 'app.' || quote_ident(c.relname)), 'the entries are in order and complete: ' || c.relname)
  FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'app.many'::regclass AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND x.indisunique
 ORDER BY 1;
SELECT on_source($$INSERT INTO app.many (a, b) SELECT 5, 'x' || i FROM generate_series(1, 40000) i; INSERT INTO app.many (a) VALUES (1)$$);
SELECT alike(pg_get_indexdef('app.many_b_key'::regclass), 'CREATE INDEX %', 'what is unique on the source, but is not the key, is not unique here, where rows stay');
DROP INDEX app.many_b_key; CREATE UNIQUE INDEX many_b_key ON app.many (b);
INSERT INTO app.many (id, b) VALUES (-1, 'x39999');
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.many')$$, '23505', NULL, 'and uniqueness is checked');

SELECT on_source($$CREATE TABLE app.excl (id bigserial PRIMARY KEY, a int); INSERT INTO app.excl (a) SELECT i % 5000 FROM generate_series(1, 5010) i$$);
CREATE TABLE app.excl (id bigint PRIMARY KEY, a int, EXCLUDE USING btree (a WITH =));
SELECT mimeo.inserter_maker('app.excl', 'serial', 'id', 1);
UPDATE mimeo.refresh_config_inserter_serial SET last_value = 0 WHERE dest_table = 'app.excl';
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.excl')$$, '23P01', NULL, 'so are exclusion constraints');

SELECT * FROM finish();
