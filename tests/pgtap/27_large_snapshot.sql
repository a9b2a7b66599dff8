-- Snapshots so large that indexes are built while the rows still come.
SELECT plan(57);

CREATE FUNCTION pg_temp.indexes(p_table text) RETURNS TABLE (name text, am text, plain bool) LANGUAGE sql AS $$
    SELECT i.indexrelid::regclass::text, m.amname::text, i.indexprs IS NULL AND i.indpred IS NULL
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
     WHERE i.indrelid = p_table::regclass ORDER BY c.relname
$$;
CREATE FUNCTION pg_temp.live() RETURNS text LANGUAGE sql AS $$
    SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
     WHERE r.ev_class = to_regclass('app.t') AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass
$$;
CREATE FUNCTION pg_temp.behind() RETURNS text LANGUAGE sql AS $$
    SELECT substring((last_run('app.t')).reason FROM '(\d+) indexes? built while the rows came')
$$;

SELECT on_source($$CREATE TYPE app.mood AS ENUM ('low', 'high');
    CREATE TABLE app.t (gone int, id bigint PRIMARY KEY, v text, w text COLLATE "C", at timestamptz, mood app.mood, tags int[]);
    ALTER TABLE app.t DROP COLUMN gone;
    INSERT INTO app.t SELECT i, repeat(md5(i::text), 6), CASE WHEN i % 10 > 0 THEN 'w' || i % 100 END, '2020-01-01'::timestamptz + i * interval '1 min',
        (ARRAY['low', 'high'])[i % 2 + 1]::app.mood, ARRAY[i % 7, i % 11] FROM generate_series(1, 60000) i;
    CREATE INDEX t_w_idx ON app.t (w DESC NULLS FIRST, at) INCLUDE (mood);
    CREATE INDEX t_v_idx ON app.t (v);
    CREATE INDEX t_mood_idx ON app.t (mood);
    CREATE INDEX t_part_idx ON app.t (at) WHERE w IS NULL;
    CREATE INDEX t_lower_idx ON app.t (lower(v));
    CREATE INDEX t_tags_idx ON app.t USING gin (tags);
    CREATE INDEX t_hash_idx ON app.t USING hash (w)$$);
CREATE TYPE app.mood AS ENUM ('low', 'high');
SELECT mimeo.snapshot_maker('app.t', 1);
UPDATE mimeo.refresh_config SET delta = NULL; -- so that all rows are copied each time

SELECT is(pg_temp.behind(), '4', 'the B-trees on columns are built while the rows come, the others afterwards');
SELECT same_rows('app.t', 'id, w, at');
SELECT is((SELECT count(*) FROM pg_temp.indexes(pg_temp.live())), 8::bigint, 'all indexes are there');
SELECT lives_ok(format('SELECT tap.bt_index_parent_check(%L, true)', name), 'the entries are in order and complete: ' || name)
  FROM pg_temp.indexes(pg_temp.live()) WHERE am = 'btree';
SELECT is((SELECT reltuples FROM pg_class WHERE oid = name::regclass), 60000::real, 'the entries are counted: ' || name)
  FROM pg_temp.indexes(pg_temp.live()) WHERE plain AND am = 'btree';
SELECT ok((SELECT reltuples = 60000 AND relpages = pg_relation_size(oid) / 8192 AND relallvisible = relpages FROM pg_class WHERE oid = pg_temp.live()::regclass),
    'and the rows, all of them visible to all');

SET enable_seqscan = off;
SELECT is((SELECT count(*) FROM app.t WHERE w = 'w77'), 600::bigint, 'a query by index finds its rows');
SELECT is((SELECT count(*) FROM app.t WHERE id BETWEEN 100 AND 50100), 50001::bigint, 'a range of the key');
SELECT is((SELECT count(*) FROM app.t WHERE tags @> ARRAY[10]), (SELECT count(*) FROM generate_series(1, 60000) i WHERE i % 7 = 10 OR i % 11 = 10), 'GIN');
RESET enable_seqscan;

-- The other twin, and the first one again.
SELECT on_source($$UPDATE app.t SET w = 'changed' WHERE id % 1000 = 0; DELETE FROM app.t WHERE id > 59990$$);
SELECT mimeo.refresh_snapshot('app.t');
SELECT is(pg_temp.behind(), '4', 'the other twin');
SELECT same_rows('app.t', 'id, w, at');
SELECT lives_ok(format('SELECT tap.bt_index_parent_check(%L, true)', name), 'the entries are in order and complete: ' || name)
  FROM pg_temp.indexes(pg_temp.live()) WHERE am = 'btree';
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
SELECT same_rows('app.t', 'id, w, at');
SELECT lives_ok(format('SELECT tap.bt_index_parent_check(%L, true)', name), 'the entries are in order and complete: ' || name)
  FROM pg_temp.indexes(pg_temp.live()) WHERE am = 'btree';

-- Without workers
SET max_parallel_maintenance_workers = 0;
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
RESET max_parallel_maintenance_workers;
SELECT is(pg_temp.behind(), NULL, 'no workers: the indexes are built afterwards');
SELECT same_rows('app.t', 'id, w, at');
SET max_parallel_maintenance_workers = 1;
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
RESET max_parallel_maintenance_workers;
SELECT is(pg_temp.behind(), '4', 'two workers, and the session itself');
SELECT same_rows('app.t', 'id, w, at');

-- In a transaction that keeps its snapshot, in a function's loop, and taken back
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
SELECT same_rows('app.t', 'id, w, at');
COMMIT;
DO $$
DECLARE
    v_row record;
BEGIN
    FOR v_row IN SELECT 'app.t' AS name LOOP
        PERFORM mimeo.refresh_snapshot(v_row.name, p_check_stats := false);
        PERFORM mimeo.refresh_snapshot(v_row.name, p_check_stats := false);
    END LOOP;
END
$$;
SELECT same_rows('app.t', 'id, w, at');
SELECT pg_temp.live() AS before \gset
BEGIN;
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
ROLLBACK;
SELECT is(pg_temp.live(), :'before', 'rolled back: the same twin is live');
SELECT same_rows('app.t', 'id, w, at');

-- A row that violates a unique index that was added here
SELECT CASE :'before' WHEN 't_snap1' THEN 'app.t_snap2' ELSE 'app.t_snap1' END AS idle \gset
CREATE UNIQUE INDEX mine ON :idle (at);
SELECT on_source($$UPDATE app.t SET at = (SELECT at FROM app.t WHERE id = 7) WHERE id = 55555$$);
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t')$$, 'could not create unique index "mine"%', 'a violated unique index is an error');
SELECT is(pg_temp.live(), :'before', 'nothing is swapped');
SELECT is((SELECT count(*) FROM app.t), 59990::bigint, 'the old rows are live');
SELECT is((last_run('app.t')).sqlstate, '23505', 'the history tells');
SELECT on_source($$UPDATE app.t SET at = now() WHERE id = 55555$$);
SELECT mimeo.refresh_snapshot('app.t');
SELECT is(pg_temp.behind(), '5', 'once that is mended, it is built with the others');
SELECT lives_ok($$SELECT tap.bt_index_parent_check('app.mine', true)$$, 'and complete');
SELECT same_rows('app.t', 'id, w, at');

-- Checks of users run where every statement is allowed.
SELECT format('ALTER TABLE %s ADD CHECK (id > 0)', twin) FROM unnest('{app.t_snap1,app.t_snap2}'::text[]) twin \gexec
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
SELECT is(pg_temp.behind(), NULL, 'with a CHECK constraint the indexes are built afterwards');
SELECT same_rows('app.t', 'id, w, at');
SELECT is((SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND datname = current_database()), 0::bigint, 'no worker is left');

-- Statistics that are kept instead of made anew count rows and entries as they are; large values are copied, too.
SELECT on_source($$CREATE TABLE app.u (id int PRIMARY KEY, v text, large text); ALTER TABLE app.u ALTER large SET STORAGE EXTERNAL;
    INSERT INTO app.u SELECT i, repeat(md5(i::text), 6), CASE WHEN i % 100 = 0 THEN repeat(md5(i::text), 200) END FROM generate_series(1, 50000) i;
    CREATE INDEX u_v_idx ON app.u (v)$$);
SELECT mimeo.snapshot_maker('app.u', 1);
UPDATE mimeo.refresh_config SET delta = NULL;
-- The hidden columns go.
SELECT mimeo.refresh_snapshot('app.u', p_check_stats := false), mimeo.refresh_snapshot('app.u', p_check_stats := false) \g /dev/null
SELECT on_source($$INSERT INTO app.u SELECT i, repeat(md5(i::text), 6) FROM generate_series(50001, 50100) i$$);
SELECT mimeo.refresh_snapshot('app.u');
SELECT matches((last_run('app.u')).reason, '2 indexes built while the rows came.*statistics kept', 'statistics are kept');
SELECT same_rows('app.u');
SELECT ok((SELECT reltuples = 50100 AND relpages = pg_relation_size(oid) / 8192 AND relallvisible = relpages FROM pg_class
            WHERE relname LIKE 'u\_snap_' AND relpages > 0), 'rows and pages are counted');
SELECT is((SELECT reltuples FROM pg_class WHERE oid = i.indexrelid), 50100::real, 'entries are counted: ' || i.indexrelid::regclass)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname LIKE 'u\_snap_' AND c.relpages > 0 ORDER BY i.indexrelid::regclass::text;
SELECT lives_ok(format('SELECT tap.bt_index_parent_check(%L, true)', i.indexrelid::regclass), 'the entries are in order and complete: ' || i.indexrelid::regclass)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname LIKE 'u\_snap_' AND c.relpages > 0 ORDER BY i.indexrelid::regclass::text;

SELECT * FROM finish();
