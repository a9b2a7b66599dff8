-- snapshot_maker: what it makes, and what it refuses without leaving anything behind.
SELECT plan(51);

SELECT on_source($$
    CREATE TABLE app.orders (id int PRIMARY KEY, customer text NOT NULL, total numeric(12, 2), placed timestamptz,
        note text COLLATE "C", UNIQUE (customer, id));
    CREATE INDEX orders_placed_idx ON app.orders (placed DESC NULLS LAST) WHERE total > 10;
    CREATE INDEX orders_lower ON app.orders (lower(customer));
    CREATE INDEX by_total ON app.orders USING brin (total);
    INSERT INTO app.orders SELECT i, 'customer ' || i % 7, i * 1.5, now() - i * interval '1 h', 'n' || i
      FROM generate_series(1, 500) i;
$$);

-- Made under the source's own name
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.orders', 1)$$, 'a snapshot is made');
SELECT has_view('app', 'orders', 'the view has the name of the source table');
SELECT has_table('app', 'orders_snap1', 'the first twin');
SELECT has_table('app', 'orders_snap2', 'the second twin');
SELECT is((SELECT count(*) FROM app.orders), 500::bigint, 'the data is there');
SELECT is((SELECT md5(string_agg(o::text, '|' ORDER BY id)) FROM app.orders o),
    ask_source($$SELECT md5(string_agg(o::text, '|' ORDER BY id)) FROM app.orders o$$), 'and it is the same');
SELECT view_owner_is('app', 'orders', 'dba', 'the caller owns the view');
SELECT table_owner_is('app', 'orders_snap1', 'dba', 'and the twins');
SELECT results_eq($$SELECT source_table, type, dblink, check_stats, last_run IS NOT NULL FROM mimeo.refresh_config$$,
    $$VALUES ('app.orders', 'snap', 1, true, true)$$, 'the job is recorded');
SELECT results_eq($$SELECT status, rows, bytes > 0, jsonb_array_length(phases) > 3 FROM mimeo.run_history$$,
    $$VALUES ('ok', 500::bigint, true, true)$$, 'its first run is in the history');

SELECT is((SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'orders_snap2'),
    'orders_snap2_id_pk snap2_by_total snap2_orders_snap2_customer_id_key snap2_orders_snap2_lower '
    'snap2_orders_snap2_placed_idx', 'its indexes are copied, under the names of the contract');
SELECT results_eq($$
    SELECT replace(pg_get_indexdef(indexrelid), 'snap2', 'snap1') FROM pg_index WHERE indrelid = 'app.orders_snap2'::regclass
    ORDER BY 1$$, $$
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'app.orders_snap1'::regclass ORDER BY 1$$,
    'both twins have the same ones');
SELECT col_is_pk('app', 'orders_snap1', 'id', 'the primary key is one');
SELECT is((SELECT pg_get_indexdef('app.snap1_orders_snap1_placed_idx'::regclass)),
    'CREATE INDEX snap1_orders_snap1_placed_idx ON app.orders_snap1 USING btree (placed DESC NULLS LAST) '
    'WHERE (total > (10)::numeric)', 'order and predicate are kept');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid IN ('app.orders_snap1'::regclass, 'app.orders_snap2'::regclass)
    AND NOT (indisvalid AND indisready)), 0::bigint, 'all of them are valid');

-- NOT NULL and collations (defect 14 of 1.5.1).
SELECT col_not_null('app', 'orders_snap1', 'customer', 'NOT NULL is copied'); -- defect 14 of 1.5.1
SELECT results_eq($$SELECT attcollation::regcollation::text FROM pg_attribute WHERE attrelid = 'app.orders_snap1'::regclass
    AND attname = 'note'$$, ARRAY['"C"'], 'collations are copied'); -- defect 14 of 1.5.1
SELECT throws_ok($$INSERT INTO app.orders_snap1 (id, customer) VALUES (1, NULL)$$, '23502', NULL, 'and hold');

-- Another name, other options
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.some', p_filter := '{note,id,total}',
    p_condition := 'WHERE id <= 10 OR id > 490')$$, 'filter and condition');
SELECT columns_are('app', 'some', ARRAY['id', 'total', 'note'], 'the filter chooses the columns, the source their order');
SELECT is((SELECT count(*) FROM app.some), 20::bigint, 'the condition chooses the rows');
SELECT is((SELECT string_agg(indexname, ' ') FROM pg_indexes WHERE tablename = 'some_snap1'), 'some_snap1_id_pk',
    'with a filter only the index of the key is copied');
SELECT on_source($$CREATE TABLE app.vip (name text); INSERT INTO app.vip VALUES ('customer 3');$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.vip_orders',
    p_condition := ', app.vip WHERE vip.name = orders.customer')$$, 'a condition may join another table');
SELECT is((SELECT count(*) FROM app.vip_orders), (SELECT count(*) FROM app.orders WHERE customer = 'customer 3'),
    'and select through it');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.bare', p_index := false, p_pulldata := false)$$,
    'without indexes and data');
SELECT is((SELECT count(*) FROM app.bare), 0::bigint, 'it is empty');
SELECT is((SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'bare_snap_'), 0::bigint, 'and has no index');
SELECT is((SELECT last_run FROM mimeo.refresh_config WHERE dest_table = 'app.bare'), NULL, 'and has not run');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.bare')$$, 'it can be refreshed');
SELECT is((SELECT count(*) FROM app.bare), 500::bigint, 'and then has the rows');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'short')$$, 'a bare destination');
SELECT is((SELECT count(*) FROM app.short), 500::bigint, 'is made in the first schema of the search_path');

-- Refusals: one clear error each, and nothing is left.
CREATE TEMPORARY TABLE before AS SELECT count(*) AS relations, (SELECT count(*) FROM mimeo.refresh_config) AS jobs
    FROM pg_class WHERE relnamespace = 'app'::regnamespace;
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 42, 'app.x')$$, '42704',
    'there is no data source with the id 42', 'an unknown source id');
SELECT throws_like($$SELECT mimeo.snapshot_maker('app.nothing', 1, 'app.x')$$,
    'table "app.nothing" does not exist on data source 1 (host=127.0.0.1 %)', 'a source table that does not exist');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.x', p_filter := '{id,nope,neither}')$$, '42703',
    'the filter names columns that "app.orders" does not have: "nope", "neither"', 'unknown columns in the filter');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.x', p_condition := 'WHERE (')$$, '42601', NULL,
    'a condition that does not parse');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.x', p_condition := 'WHERE nope = 1')$$, '42703',
    NULL, 'a condition with an unknown column keeps the SQLSTATE of the source');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.x',
    p_condition := ') TO STDOUT; DROP TABLE app.vip; --')$$, '42601', NULL,
    'a condition cannot smuggle in another statement');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1)$$, '42710', 'Snapshot replication already defined for app.orders', 'a destination that exists');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.orders_snap1')$$, '42P07', NULL,
    'a destination whose name is taken by a twin');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.orders', 1, 'nowhere.orders')$$, '3F000',
    'schema "nowhere" does not exist on the destination', 'a destination schema that does not exist');
SELECT throws_ok(format($$SELECT mimeo.snapshot_maker('app.orders', 1, 'app.%s')$$, repeat('x', 64)), '42622', NULL,
    'a name that is too long');
SELECT on_source($$CREATE TYPE app.mood AS ENUM ('sad', 'glad'); CREATE TABLE app.moods (id int, m app.mood, n app.mood[])$$);
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.moods', 1)$$, '42704',
    '"app.moods" uses types that do not exist on the destination: app.mood (column "m"), app.mood[] (column "n")',
    'types that do not exist here');
SELECT on_source($$CREATE COLLATION app.odd (provider = icu, locale = 'de'); CREATE TABLE app.collated (t text COLLATE app.odd)$$);
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.collated', 1)$$, '42704', NULL, 'a collation that does not exist here');
SELECT on_source($$CREATE TABLE app.hidden (id int); REVOKE ALL ON app.hidden FROM reader$$);
SELECT throws_like($$SELECT mimeo.snapshot_maker('app.hidden', 1)$$, 'role "reader" may not read "app.hidden" on data source 1 %',
    'a source table that the role may not read');
SELECT on_source($$CREATE TABLE app.hollow ()$$);
SELECT throws_like($$SELECT mimeo.snapshot_maker('app.hollow', 1)$$, '"app.hollow" on % cannot be copied: no column %',
    'a table without columns');
SELECT on_source($$CREATE FUNCTION app.twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE TABLE app.calls (id int); CREATE INDEX ON app.calls (app.twice(id));$$);
SELECT is((SELECT (count(*), (SELECT count(*) FROM mimeo.refresh_config))::text FROM pg_class
    WHERE relnamespace = 'app'::regnamespace), (SELECT b::text FROM before b), 'nothing is left of any of them');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.calls', 1)$$, 'F23: an index that cannot be made here does not keep the data away');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = 'app.calls_snap1'::regclass), 0::bigint, 'it is left out');
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.unheard')$$, '42704',
    'Destination table given in argument (app.unheard) is not managed by mimeo', 'refreshing what is not a job');
CREATE TABLE app.before (id int);
INSERT INTO mimeo.refresh_config_table (dest_table, source_table, dblink) VALUES ('app.before', 'app.orders', 1);
SELECT throws_ok($$SELECT mimeo.refresh_snapshot('app.before')$$, '42809', NULL, 'refreshing a job of another method');

SELECT * FROM finish();
