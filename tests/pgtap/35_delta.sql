-- delta: a refresh of a snapshot copies the row versions that have changed on the source, and deletes those that are gone.
SELECT no_plan();
SELECT set_config('mimeo.swap_max_wait', '1s', false) \g /dev/null
-- A source of PostgreSQL 13 or older has no ranges of TIDs; there all rows are copied.
SELECT source_version() >= 140000 AS has_delta \gset
\if :has_delta
\else
SELECT on_source($$CREATE TABLE app.old (id int PRIMARY KEY); INSERT INTO app.old VALUES (1)$$);
SELECT mimeo.snapshot_maker('app.old', 1);
SELECT is((SELECT delta FROM mimeo.refresh_config_snap), NULL, 'a source without ranges of TIDs: no delta');
SELECT * FROM finish();
\quit
\endif

CREATE FUNCTION pg_temp.live(p_view text) RETURNS text LANGUAGE sql AS $$
    SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
     WHERE r.ev_class = p_view::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass
$$;
-- Refreshes, and returns the status and how: as delta with its numbers, or why all rows were copied.
CREATE FUNCTION pg_temp.refresh_as_learned(p_table text = 'app.t') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mimeo.refresh_snapshot(p_table);
    RETURN (SELECT concat(r.status, ': ', coalesce(substring(r.reason FROM 'no delta: [^;]*'), r.reason)) FROM last_run(p_table) r);
END $$;
-- The same, whatever was learned before: on a busy machine a delta takes longer than a copy at times, and is not tried again at once.
CREATE FUNCTION pg_temp.refresh(p_table text = 'app.t') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mimeo.refresh_config SET state = state - 'learned' WHERE dest_table = p_table AND state ? 'learned';
    RETURN pg_temp.refresh_as_learned(p_table);
END $$;
-- As a delta: so many rows came, so many were deleted, so many were there; and both sides are equal.
CREATE FUNCTION pg_temp.delta(p_came int, p_deleted int, p_there int, p_what text, p_table text = 'app.t') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT is(pg_temp.refresh(p_table), format('ok: delta: %s rows came, %s were deleted, %s were there', p_came, p_deleted, p_there), p_what);
    RETURN NEXT same_rows(p_table);
END $$;
CREATE FUNCTION pg_temp.copied(p_why text, p_what text, p_table text = 'app.t') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT is(pg_temp.refresh_as_learned(p_table), 'ok: no delta: ' || p_why, p_what);
    RETURN NEXT same_rows(p_table);
END $$;
CREATE FUNCTION pg_temp.hidden(p_table text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s %s', attname, format_type(atttypid, NULL)), ', ' ORDER BY attnum) FROM pg_attribute
     WHERE attrelid = p_table::regclass AND attname LIKE 'mimeo%' AND NOT attisdropped
$$;

-- What a maker makes
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE INDEX t_v ON app.t (v); ALTER TABLE app.t SET (autovacuum_enabled = false);
    INSERT INTO app.t SELECT i, 'v' || i FROM generate_series(1, 10000) i$$);
SELECT mimeo.snapshot_maker('app.t', 1);
SELECT is((SELECT delta FROM mimeo.refresh_config_snap), true, 'the maker sets delta');
SELECT is(pg_temp.hidden('app.t_snap1') || ' / ' || pg_temp.hidden('app.t_snap2'), 'mimeo_xmin xid, mimeo_ctid tid / mimeo_xmin xid, mimeo_ctid tid', 'the twins have hidden columns');
SELECT columns_are('app', 't', ARRAY['id', 'v'], 'the view does not show them');
SELECT is((SELECT count(*) FROM pg_stats WHERE attname LIKE 'mimeo%' AND schemaname = 'app'), 0::bigint, 'and nobody makes statistics of them');
SELECT is((SELECT count(*) FROM (TABLE app.t_snap1 UNION ALL TABLE app.t_snap2) a FULL JOIN dblink(replace(source_dsn(), 'owner', 'reader'), 'SELECT id, ctid, xmin FROM app.t') AS s(id int, place tid, version xid)
    ON s.id = a.id AND s.place = a.mimeo_ctid AND s.version = a.mimeo_xmin WHERE a.id IS NULL OR s.id IS NULL), 0::bigint, 'they hold the versions of the source');
SELECT is(pg_temp.refresh(), 'skipped: unchanged on the source', 'nothing has changed: nothing is compared');

-- Each form of writing
SELECT on_source($$INSERT INTO app.t VALUES (10001, 'new')$$);
SELECT pg_temp.live('app.t') AS live \gset
SELECT pg_temp.delta(1, 0, 10000, 'INSERT');
SELECT is(pg_temp.live('app.t'), :'live', 'the view still shows the same twin');
SELECT on_source($$UPDATE app.t SET v = 'changed' WHERE id % 1000 = 5$$);
SELECT pg_temp.delta(10, 10, 10001, 'UPDATE');
SELECT on_source($$DELETE FROM app.t WHERE id BETWEEN 100 AND 149$$);
SELECT pg_temp.delta(0, 50, 10001, 'DELETE');
SELECT on_source($$UPDATE app.t SET id = -id WHERE id BETWEEN 200 AND 209$$);
SELECT pg_temp.delta(10, 10, 9951, 'UPDATE of a key');
SELECT on_source($$INSERT INTO app.t VALUES (1, 'one'), (20000, 'more') ON CONFLICT (id) DO UPDATE SET v = excluded.v || '!'; INSERT INTO app.t VALUES (2, 'two') ON CONFLICT DO NOTHING$$);
SELECT pg_temp.delta(2, 1, 9951, 'INSERT … ON CONFLICT');
SELECT on_source($$UPDATE app.t SET v = 'a' WHERE id = 3; UPDATE app.t SET v = 'b' WHERE id = 3; UPDATE app.t SET v = 'c' WHERE id = 3$$);
SELECT pg_temp.delta(1, 1, 9952, 'a chain of versions in one page (HOT)');
SELECT on_source($$UPDATE app.t SET v = v || '' WHERE id = 3; UPDATE app.t SET v = 'v4' WHERE id = 4$$);
SELECT pg_temp.delta(2, 2, 9952, 'an UPDATE that changes no value is a version, too');
SELECT on_source($$BEGIN; SAVEPOINT a; INSERT INTO app.t VALUES (30000, 'rolled back'); UPDATE app.t SET v = 'rolled back' WHERE id = 6; DELETE FROM app.t WHERE id = 7; ROLLBACK TO a;
    SAVEPOINT b; INSERT INTO app.t VALUES (30001, 'kept'); UPDATE app.t SET v = 'kept' WHERE id = 8; RELEASE b; UPDATE app.t SET v = 'kept twice' WHERE id = 8; COMMIT$$);
SELECT pg_temp.delta(2, 1, 9952, 'savepoints, kept and rolled back');
SELECT on_source($$BEGIN; UPDATE app.t SET v = 'never' WHERE id < 1000; DELETE FROM app.t WHERE id > 9000; ROLLBACK; INSERT INTO app.t VALUES (30002, 'after it')$$);
SELECT pg_temp.delta(1, 0, 9953, 'a transaction that was rolled back');
SELECT on_source($$BEGIN; SELECT count(*) FROM (SELECT FROM app.t WHERE id < 5000 FOR UPDATE) x; SELECT count(*) FROM (SELECT FROM app.t WHERE id < 50 FOR KEY SHARE) x;
    INSERT INTO app.t VALUES (30003, 'locks'); COMMIT$$);
SELECT pg_temp.delta(1, 0, 9954, 'rows that were locked are the same');
SELECT on_source($$BEGIN; INSERT INTO app.t VALUES (30004, 'come'); DELETE FROM app.t WHERE id = 30004; INSERT INTO app.t VALUES (30004, 'come again'); COMMIT$$);
SELECT pg_temp.delta(1, 0, 9955, 'a row that came and went in one transaction');

-- Places that are used again, frozen rows
SELECT on_source($$DELETE FROM app.t WHERE id BETWEEN 300 AND 499$$);
SELECT on_source('VACUUM app.t');
SELECT on_source($$INSERT INTO app.t SELECT i, 'again' || i FROM generate_series(40001, 40150) i$$);
SELECT pg_temp.delta(150, 200, 9956, 'other rows in the places of deleted ones');
SELECT ok((SELECT count(*) > 0 FROM app.t_snap1 WHERE (mimeo_ctid::text::point)[0] < 5 AND id > 40000) OR (SELECT count(*) > 0 FROM app.t_snap2 WHERE (mimeo_ctid::text::point)[0] < 5 AND id > 40000),
    'they did get the old places');
SELECT on_source('VACUUM FREEZE app.t');
SELECT on_source($$INSERT INTO app.t VALUES (50001, 'one more')$$);
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 1 rows came, 0 were deleted%', true, 'frozen rows are the same');
SELECT same_rows('app.t');

-- What writes the rows anew, or changes what they mean
SELECT on_source('VACUUM FULL app.t');
SELECT pg_temp.copied('the rows of the source were written anew', 'VACUUM FULL');
SELECT on_source('CLUSTER app.t USING t_pkey');
SELECT pg_temp.copied('the rows of the source were written anew', 'CLUSTER');
SELECT on_source($$BEGIN; CREATE TEMPORARY TABLE kept AS SELECT * FROM app.t; TRUNCATE app.t; INSERT INTO app.t SELECT * FROM kept; COMMIT$$);
SELECT pg_temp.copied('the rows of the source were written anew', 'TRUNCATE');
SELECT on_source($$ALTER TABLE app.t ADD COLUMN n int DEFAULT 5$$);
SELECT pg_temp.copied('its columns have changed', 'ADD COLUMN … DEFAULT');
SELECT is((SELECT min(n) FROM app.t), 5, 'and the value has arrived');
SELECT on_source($$ALTER TABLE app.t DROP COLUMN n; ALTER TABLE app.t ADD COLUMN n int DEFAULT 6$$);
SELECT pg_temp.copied('the rows of the source were written anew', 'a column dropped and added anew');
SELECT is((SELECT min(n) FROM app.t), 6, 'and the new value has arrived');
SELECT on_source($$ALTER TABLE app.t ALTER COLUMN v TYPE varchar$$);
SELECT pg_temp.copied('its columns have changed', 'ALTER TYPE without a rewrite');
SELECT on_source($$ALTER TABLE app.t ALTER COLUMN n TYPE bigint USING n * 2$$);
SELECT pg_temp.copied('its columns have changed', 'ALTER TYPE with a rewrite');
SELECT on_source($$ALTER TABLE app.t ALTER COLUMN n TYPE bigint USING n * 2$$);
SELECT pg_temp.copied('the rows of the source were written anew', 'ALTER TYPE … USING to the same type');
SELECT on_source($$ALTER TABLE app.t RENAME TO gone; CREATE TABLE app.t (LIKE app.gone INCLUDING ALL); INSERT INTO app.t SELECT * FROM app.gone; UPDATE app.t SET v = 'other' WHERE id = 1$$);
SELECT pg_temp.copied('the source table is another one', 'another table under its name');
SELECT on_source($$UPDATE app.t SET v = 'delta again' WHERE id = 1$$);
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 1 rows came, 1 were deleted%', true, 'after a copy of all rows there is a delta again');

-- What somebody does here
SELECT on_source($$UPDATE app.t SET v = 'once' WHERE id = 2$$);
DO $$ BEGIN EXECUTE format('DELETE FROM app.%I WHERE id = 10', replace(pg_temp.live('app.t'), 'app.', '')); PERFORM pg_stat_force_next_flush(); END $$;
SELECT pg_temp.copied('somebody may have written to the live twin', 'a row deleted by hand');
SELECT on_source($$UPDATE app.t SET v = 'twice' WHERE id = 2$$);
DO $$ BEGIN EXECUTE format('UPDATE app.%I SET v = %L WHERE id = 11', replace(pg_temp.live('app.t'), 'app.', ''), 'by hand'); PERFORM pg_stat_force_next_flush(); END $$;
SELECT pg_temp.copied('somebody may have written to the live twin', 'a row changed by hand');
SELECT on_source($$UPDATE app.t SET v = 'thrice' WHERE id = 2$$);
DO $$ BEGIN EXECUTE format('ALTER TABLE app.%I SET UNLOGGED, SET LOGGED', replace(pg_temp.live('app.t'), 'app.', '')); EXCEPTION WHEN OTHERS THEN EXECUTE format('CLUSTER app.%1$I USING %1$s_id_pk', replace(pg_temp.live('app.t'), 'app.', '')); END $$;
SELECT pg_temp.copied('the live twin is not as the last refresh left it', 'the live twin written anew');

-- The decision
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id % 3 = 0$$);
SELECT is(pg_temp.refresh() LIKE 'ok: no delta: about 3_ percent of the rows have changed', true, 'a third of the rows: all are copied, and nothing is compared');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id % 3 = 0$$);
SET mimeo.delta_limit_percent = 40;
SELECT is(pg_temp.refresh() LIKE 'ok: delta: %', true, 'unless the limit is higher');
SELECT same_rows('app.t');
SET mimeo.delta_limit_percent = 0;
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
SELECT pg_temp.copied('mimeo.delta_limit_percent is 0', 'with a limit of 0 all rows are copied');
RESET mimeo.delta_limit_percent;
UPDATE mimeo.refresh_config_snap SET check_stats = false;
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 0 rows came, 0 were deleted%', true, 'without counters the versions prove that nothing has changed');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id % 2 = 0$$);
SELECT is(pg_temp.refresh() LIKE 'ok: no delta: % percent of the rows%differ', true, 'without them the comparison finds that too much has changed');
SELECT same_rows('app.t');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
SELECT pg_temp.copied('the last one was not faster than a copy', 'after a delta in vain it is not tried for a while');
-- Each in a transaction of its own.
\o /dev/null
SELECT max(run_id) AS in_vain FROM mimeo.run_history \gset
SELECT 'SELECT pg_temp.refresh_as_learned()' FROM generate_series(1, 20) \gexec
\o
SELECT is(EXISTS (SELECT FROM mimeo.run_history WHERE run_id > :in_vain AND reason LIKE 'delta: 0 rows came, 0 were deleted%'), true, 'and then again');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
SELECT alike(pg_temp.refresh(), 'ok: delta: 1 rows came, 1 were deleted%', 'and from then on');
UPDATE mimeo.refresh_config_snap SET check_stats = true;
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
SELECT is(string_agg(action, ' / ') ~ 'versions of the rows of "app.t", condensed / compare them .* / read the versions of blocks that differ, .* / delete the rows that are gone', true, 'plan_refresh tells of a delta')
  FROM mimeo.plan_refresh('app.t');
SELECT is(string_agg(estimate, ' / ') ~ '[0-9]+ sums for [0-9]+ blocks / [0-9]+ rows, all of which are copied instead if more than 30 percent differ', true, 'with its numbers')
  FROM mimeo.plan_refresh('app.t');
SELECT pg_temp.refresh() \g /dev/null
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 FROM app.t LIMIT 1 \g /dev/null
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
SELECT is(pg_temp.refresh(), 'ok: no delta: this transaction keeps one snapshot', 'a transaction that keeps its snapshot copies all rows');
COMMIT;
SELECT same_rows('app.t');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id = 3$$);
BEGIN;
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 1 rows came, 1 were deleted%', true, 'a refresh');
SELECT on_source($$UPDATE app.t SET v = v || '.' WHERE id IN (3, 4)$$);
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 2 rows came, 2 were deleted%', true, 'and another one in the same transaction');
SELECT same_rows('app.t');
ROLLBACK;
SELECT pg_temp.copied('somebody may have written to the live twin', 'when it is rolled back, all rows are copied: PostgreSQL counts what was rolled back as written');

-- A cursor of the same session keeps its rows, and so does a loop over the view
BEGIN;
DECLARE reading CURSOR FOR SELECT count(*) FROM app.t WHERE v LIKE '%.' AND id = 3;
SELECT on_source($$UPDATE app.t SET v = 'no dot' WHERE id = 3$$);
SELECT is(pg_temp.refresh() LIKE 'ok: delta: 1 rows came, 1 were deleted%', true, 'while a cursor is open on the view');
FETCH reading \gset
SELECT is(:count, 1, 'which shows what it showed');
SELECT is((SELECT v FROM app.t WHERE id = 3), 'no dot', 'the next query shows the new row');
COMMIT;

-- Guards are asked of the result
UPDATE mimeo.refresh_config_snap SET guard = 'SELECT count(*) < 12000 FROM {new}', max_shrink_percent = 1;
SELECT on_source($$INSERT INTO app.t (id, v) SELECT i, 'guarded' FROM generate_series(70001, 72500) i$$);
SELECT is(told($$SELECT mimeo.refresh_snapshot('app.t')$$) LIKE '%the guard does not return true%', true, 'a guard that is not met: an error');
SELECT is((SELECT count(*) FROM app.t WHERE v = 'guarded'), 0::bigint, 'and the old rows stay');
SELECT on_source($$DELETE FROM app.t WHERE v = 'guarded' OR id % 50 = 0$$);
SELECT is(told($$SELECT mimeo.refresh_snapshot('app.t')$$) LIKE '%are fewer than the%', true, 'so does max_shrink_percent');
UPDATE mimeo.refresh_config_snap SET guard = NULL, max_shrink_percent = NULL;
SELECT is(pg_temp.refresh() LIKE 'ok: %', true, 'without them it goes through');
SELECT same_rows('app.t');

-- keep_previous
SELECT on_source($$CREATE TABLE app.kept (id int PRIMARY KEY, v text); INSERT INTO app.kept SELECT i, 'v' || i FROM generate_series(1, 1000) i$$);
SELECT mimeo.snapshot_maker('app.kept', 1);
UPDATE mimeo.refresh_config_snap SET keep_previous = true WHERE dest_table = 'app.kept';
SELECT on_source($$UPDATE app.kept SET v = 'to be taken back' WHERE id = 3$$);
SELECT pg_temp.copied('keep_previous keeps the rows that a swap replaces', 'keep_previous: all rows are copied', 'app.kept');
SELECT mimeo.rollback_snapshot('app.kept');
SELECT is((SELECT v FROM app.kept WHERE id = 3), 'v3', 'and can be taken back');
UPDATE mimeo.refresh_config_snap SET keep_previous = false WHERE dest_table = 'app.kept';
SELECT pg_temp.delta(1, 1, 1000, 'after which a delta finds what was taken back', 'app.kept');

-- The content
SELECT is((SELECT match FROM mimeo.validate_content('app.t')), true, 'validate_content knows nothing of hidden columns');
SELECT is((SELECT match FROM mimeo.validate_rowcount('app.t')), true, 'nor does validate_rowcount');

-- Constraints and triggers that somebody has put on the twins see a DELETE and an INSERT in one command
SELECT on_source($$CREATE TABLE app.tree (id int PRIMARY KEY, parent int, u int, period int4range); INSERT INTO app.tree SELECT i, nullif(i / 2, 0), i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 1000) i$$);
SELECT mimeo.snapshot_maker('app.tree', 1);
CREATE TABLE app.log (operation text, id int);
CREATE FUNCTION app.log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.log VALUES (TG_OP, coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;
DO $$
DECLARE v_twin text;
BEGIN
    FOREACH v_twin IN ARRAY '{tree_snap1,tree_snap2}'::text[] LOOP
        EXECUTE format('ALTER TABLE app.%1$I ADD FOREIGN KEY (parent) REFERENCES app.%1$I (id), ADD UNIQUE (u), ADD UNIQUE (period) DEFERRABLE INITIALLY DEFERRED,
            ADD EXCLUDE USING gist (period WITH &&)', v_twin);
    END LOOP;
END $$;
SELECT on_source($$UPDATE app.tree SET u = 2001 - u WHERE id = 1; UPDATE app.tree SET u = 1 WHERE id = 1000; UPDATE app.tree SET period = '[1,2)' WHERE id = 10; UPDATE app.tree SET period = '[100,110)' WHERE id = 11$$);
SELECT pg_temp.delta(4, 4, 1000, 'a parent of itself, unique values and ranges that move between rows', 'app.tree');
DO $$
BEGIN
    EXECUTE format('CREATE TRIGGER log AFTER INSERT OR DELETE ON app.%I FOR EACH ROW EXECUTE FUNCTION app.log()', replace(pg_temp.live('app.tree'), 'app.', ''));
END $$;
SELECT on_source($$UPDATE app.tree SET parent = NULL WHERE id = 7; DELETE FROM app.tree WHERE id = 999; INSERT INTO app.tree VALUES (5000, 7, 5000, NULL)$$);
SELECT pg_temp.delta(2, 2, 1000, 'with a trigger', 'app.tree');
SELECT is((SELECT string_agg(concat(operation, ' ', id), ', ' ORDER BY operation, id) FROM app.log), 'DELETE 7, DELETE 999, INSERT 7, INSERT 5000', 'which fires for each row');
SELECT on_source($$UPDATE app.tree SET u = 5 WHERE id = 6$$);
SELECT is(told($$SELECT mimeo.refresh_snapshot('app.tree')$$) LIKE '%duplicate key%', true, 'a value twice: an error, as of a copy');
SELECT on_source($$UPDATE app.tree SET u = 7000 WHERE id = 6; UPDATE app.tree SET parent = 99999 WHERE id = 5$$);
SELECT is(told($$SELECT mimeo.refresh_snapshot('app.tree')$$) LIKE '%foreign key%', true, 'a row without its parent: an error, too');
SELECT on_source($$UPDATE app.tree SET parent = 1 WHERE id = 5$$);
SELECT is(pg_temp.refresh('app.tree') LIKE 'ok:%', true, 'mended');
SELECT same_rows('app.tree');
-- A unique value that moves to a row in an earlier block, without triggers
SELECT on_source($$CREATE TABLE app.moves (id int PRIMARY KEY, u int UNIQUE, pad text); ALTER TABLE app.moves SET (autovacuum_enabled = false, fillfactor = 70);
    INSERT INTO app.moves SELECT i, i, repeat('x', 100) FROM generate_series(1, 5000) i$$);
SELECT mimeo.snapshot_maker('app.moves', 1);
SELECT on_source($$UPDATE app.moves SET u = NULL WHERE id IN (1, 5000); UPDATE app.moves SET u = 5000 WHERE id = 1; UPDATE app.moves SET u = 1 WHERE id = 5000;
    UPDATE app.moves SET id = id + 10000 WHERE id BETWEEN 100 AND 110; UPDATE app.moves SET id = id - 4000 WHERE id BETWEEN 4100 AND 4110$$);
SELECT pg_temp.delta(24, 24, 5000, 'unique values that move between blocks', 'app.moves');
SELECT bt_index_parent_check(indexrelid, true) FROM pg_index WHERE indrelid IN ('app.moves_snap1'::regclass, 'app.moves_snap2'::regclass) \g /dev/null

-- Rules are what a copy does not know
DO $$ BEGIN EXECUTE format('CREATE RULE nothing AS ON INSERT TO app.%I DO INSTEAD NOTHING', replace(pg_temp.live('app.moves'), 'app.', '')); END $$;
SELECT on_source($$UPDATE app.moves SET u = NULL WHERE id = 50$$);
SELECT pg_temp.copied('the live twin has rules', 'a rule on the live twin', 'app.moves');

-- A trigger that refuses rows: all are copied, into the twin that does not have it
CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT on_source($$CREATE TABLE app.refusing (id int, v text); INSERT INTO app.refusing SELECT i, 'v' FROM generate_series(1, 100) i$$);
SELECT mimeo.snapshot_maker('app.refusing', 1);
DO $$ BEGIN EXECUTE format('CREATE TRIGGER refuse BEFORE DELETE ON app.%I FOR EACH ROW EXECUTE FUNCTION app.refuse()', replace(pg_temp.live('app.refusing'), 'app.', '')); END $$;
SELECT on_source($$UPDATE app.refusing SET v = 'w' WHERE id = 8$$);
SELECT matches(pg_temp.refresh('app.refusing'), 'no delta: .*1 rows of', 'a trigger that keeps rows from being deleted');
SELECT same_rows('app.refusing');

-- Any table
SELECT on_source($$CREATE TABLE app.twice (v text); INSERT INTO app.twice SELECT 'same' FROM generate_series(1, 1000)$$);
SELECT mimeo.snapshot_maker('app.twice', 1);
SELECT on_source($$DELETE FROM app.twice WHERE ctid IN (SELECT ctid FROM app.twice LIMIT 7); INSERT INTO app.twice SELECT 'same' FROM generate_series(1, 3)$$);
SELECT pg_temp.delta(3, 7, 1000, 'rows that are equal, without a key', 'app.twice');
SELECT on_source($$CREATE TABLE app.large (id int, v text, b bytea); INSERT INTO app.large SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 2000) j), decode(repeat('00ff', 30000), 'hex') FROM generate_series(1, 40) i$$);
SELECT mimeo.snapshot_maker('app.large', 1);
SELECT on_source($$UPDATE app.large SET id = -id WHERE id = 3; UPDATE app.large SET v = reverse(v) WHERE id = 5; UPDATE app.large SET b = NULL WHERE id = 7$$);
SELECT pg_temp.delta(3, 3, 40, 'values in TOAST', 'app.large');
SELECT on_source($$CREATE TABLE app.some (id int, v text, secret text); INSERT INTO app.some SELECT i, 'v' || i, 's' FROM generate_series(1, 1000) i$$);
SELECT mimeo.snapshot_maker('app.some', 1, p_filter := '{id,v}', p_condition := 'WHERE id > 100 AND v <> ''v500''; -- not that one');
SELECT on_source($$UPDATE app.some SET v = 'changed' WHERE id IN (50, 150); UPDATE app.some SET id = 99 WHERE id = 200; UPDATE app.some SET v = 'v501' WHERE id = 500; UPDATE app.some SET v = 'v500' WHERE id = 501$$);
SELECT is(pg_temp.refresh('app.some'), 'ok: delta: 2 rows came, 3 were deleted, 899 were there', 'a filter and a condition');
SELECT same_rows('app.some', 'id, v', p_where := $$id > 100 AND v <> 'v500'$$);
UPDATE mimeo.refresh_config SET condition = 'WHERE id > 90' WHERE dest_table = 'app.some';
SELECT is(pg_temp.refresh('app.some'), 'ok: no delta: the filter or the condition has changed', 'another condition');
SELECT same_rows('app.some', 'id, v', p_where := 'id > 90');
UPDATE mimeo.refresh_config SET condition = 'WHERE id > (SELECT 90)' WHERE dest_table = 'app.some';
SELECT is(pg_temp.refresh('app.some'), 'ok: no delta: what the condition selects may change without the table', 'a condition that may change by itself');
-- What a join selects may change without the table, here and where counters prove that nothing has changed
SELECT on_source($$CREATE TABLE app.joined (id int, v text); INSERT INTO app.joined SELECT i, 'v' FROM generate_series(1, 100) i; CREATE TABLE app.allowed (k int); INSERT INTO app.allowed SELECT generate_series(1, 50)$$);
SELECT mimeo.snapshot_maker('app.joined', 1, p_condition := 'JOIN app.allowed a ON a.k = app.joined.id WHERE app.joined.id > 0');
SELECT on_source($$DELETE FROM app.allowed WHERE k > 40; INSERT INTO app.allowed VALUES (99)$$);
SELECT is(pg_temp.refresh('app.joined'), 'ok: no delta: what the condition selects may change without the table', 'a condition with a join');
SELECT is((SELECT count(*) || ' ' || max(id) FROM app.joined), '41 99', 'what it selects has arrived');
-- An attribute that is dropped and added anew has no value in old rows
SELECT on_source($$CREATE TYPE app.pair AS (a int, b int); CREATE TABLE app.pairs (id int, p app.pair); INSERT INTO app.pairs SELECT i, ROW(i, i)::app.pair FROM generate_series(1, 100) i$$);
CREATE TYPE app.pair AS (a int, b int);
SELECT mimeo.snapshot_maker('app.pairs', 1);
SELECT on_source($$ALTER TYPE app.pair DROP ATTRIBUTE b; ALTER TYPE app.pair ADD ATTRIBUTE b int$$);
SELECT is(pg_temp.refresh('app.pairs') LIKE 'ok:%', true, 'an attribute of a type dropped and added anew');
SELECT same_rows('app.pairs', 'id, (p).a, (p).b');
-- Names of other things inside of other types
SELECT on_source($$CREATE DOMAIN app.thing AS regclass; CREATE TABLE app.inner_things (id int, thing app.thing); INSERT INTO app.inner_things VALUES (1, 'pg_class')$$);
CREATE DOMAIN app.thing AS regclass;
SELECT mimeo.snapshot_maker('app.inner_things', 1);
SELECT on_source($$INSERT INTO app.inner_things VALUES (2, 'pg_type')$$);
SELECT pg_temp.copied('it has columns whose values are names of other things', 'names of other objects, below a domain', 'app.inner_things');
SELECT on_source($$CREATE TYPE app.mood AS ENUM ('sad', 'ok'); CREATE TABLE app.moods (id int, m app.mood); INSERT INTO app.moods SELECT i, 'ok' FROM generate_series(1, 1000) i$$);
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'fine');
SELECT mimeo.snapshot_maker('app.moods', 1);
SELECT on_source($$UPDATE app.moods SET m = 'sad' WHERE id = 1$$);
SELECT pg_temp.delta(1, 1, 1000, 'a type of users', 'app.moods');
SELECT on_source($$ALTER TYPE app.mood RENAME VALUE 'ok' TO 'fine'$$);
SELECT pg_temp.copied('its columns have changed', 'a label that was renamed', 'app.moods');
SELECT on_source(format('CREATE TABLE app.wide (%s)', (SELECT string_agg(format('c%s int', i), ', ') FROM generate_series(1, 1599) i)));
SELECT on_source($$INSERT INTO app.wide (c1) VALUES (1)$$);
SELECT mimeo.snapshot_maker('app.wide', 1);
SELECT is((SELECT delta FROM mimeo.refresh_config_snap WHERE dest_table = 'app.wide'), NULL, 'no room for the hidden columns: no delta');
UPDATE mimeo.refresh_config_snap SET delta = true WHERE dest_table = 'app.wide';
SELECT on_source($$INSERT INTO app.wide (c1) VALUES (2)$$);
SELECT is(pg_temp.refresh('app.wide'), 'ok: no delta: there is no room for the hidden columns', 'also when it is asked for');
-- Columns that come and go use up those that a table can have: then there is no delta, and no error
SELECT on_source(format('CREATE TABLE app.worn (%s)', (SELECT string_agg(format('c%s int', i), ', ') FROM generate_series(1, 1592) i)));
SELECT on_source($$INSERT INTO app.worn (c1) VALUES (1)$$);
SELECT mimeo.snapshot_maker('app.worn', 1);
DO $$ BEGIN
    FOR i IN 1..5 LOOP
        UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'app.worn';
        PERFORM mimeo.refresh_snapshot('app.worn', p_check_stats := false), mimeo.refresh_snapshot('app.worn', p_check_stats := false);
        UPDATE mimeo.refresh_config SET delta = true WHERE dest_table = 'app.worn';
        PERFORM mimeo.refresh_snapshot('app.worn', p_check_stats := false), mimeo.refresh_snapshot('app.worn', p_check_stats := false);
    END LOOP;
END $$;
SELECT on_source($$INSERT INTO app.worn (c1) VALUES (2)$$);
SELECT pg_temp.copied('there is no room for the hidden columns', 'hidden columns that came and went too often', 'app.worn');
SELECT on_source($$CREATE TABLE app.named (mimeo_ctid int, mimeo_xmin text); INSERT INTO app.named VALUES (1, 'x')$$);
SELECT mimeo.snapshot_maker('app.named', 1);
UPDATE mimeo.refresh_config_snap SET delta = true WHERE dest_table = 'app.named';
SELECT on_source($$INSERT INTO app.named VALUES (2, 'y')$$);
SELECT pg_temp.copied('there is no room for the hidden columns', 'columns of the source that are called like ours', 'app.named');
SELECT on_source($$ALTER TABLE app.named RENAME mimeo_ctid TO a; ALTER TABLE app.named RENAME mimeo_xmin TO b; INSERT INTO app.named SELECT i, i::text FROM generate_series(3, 100) i$$);
SELECT is(pg_temp.refresh('app.named') LIKE 'ok:%', true, 'once they are not');
SELECT on_source($$INSERT INTO app.named VALUES (101, 'y')$$);
SELECT pg_temp.delta(1, 0, 100, 'there is a delta', 'app.named');
SELECT on_source($$ALTER TABLE app.named RENAME a TO mimeo_ctid$$);
SELECT pg_temp.copied('there is no room for the hidden columns', 'and not when a column gets such a name', 'app.named');
SELECT on_source($$CREATE TABLE app.things (id int, thing regclass); INSERT INTO app.things VALUES (1, 'pg_class')$$);
SELECT mimeo.snapshot_maker('app.things', 1);
SELECT on_source($$INSERT INTO app.things VALUES (2, 'pg_type')$$);
SELECT pg_temp.copied('it has columns whose values are names of other things', 'names of other objects', 'app.things');
SELECT on_source($$CREATE TABLE app.empty (id int)$$);
SELECT mimeo.snapshot_maker('app.empty', 1);
SELECT on_source($$INSERT INTO app.empty SELECT generate_series(1, 100)$$);
SELECT is(pg_temp.refresh('app.empty') LIKE 'ok: no delta: % percent of the rows%', true, 'from nothing to something: all rows');
SELECT same_rows('app.empty');
SELECT on_source($$DELETE FROM app.empty WHERE id > 80$$);
SELECT pg_temp.delta(0, 20, 100, 'fewer', 'app.empty');

-- Several tables behind one
SELECT on_source($$CREATE TABLE app.parts (id int, at date, v text) PARTITION BY RANGE (at);
    CREATE TABLE app.p1 PARTITION OF app.parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01'); CREATE TABLE app.p2 (v text, gone int, at date, id int); ALTER TABLE app.p2 DROP COLUMN gone;
    ALTER TABLE app.parts ATTACH PARTITION app.p2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    CREATE TABLE app.p3 PARTITION OF app.parts FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
    INSERT INTO app.parts SELECT i, '2020-01-01'::date + i % 700, 'v' || i FROM generate_series(1, 7000) i$$);
SELECT mimeo.snapshot_maker('app.parts', 1);
SELECT is(pg_temp.hidden('app.parts_snap1'), 'mimeo_xmin xid, mimeo_ctid tid, mimeo_tableoid oid', 'partitions: the twins keep the table, too');
SELECT on_source($$UPDATE app.parts SET v = 'w' WHERE id IN (1, 400, 699); DELETE FROM app.p2 WHERE id = 401; INSERT INTO app.parts VALUES (8000, '2022-05-05', 'third')$$);
SELECT pg_temp.delta(4, 4, 7000, 'changes in each of them', 'app.parts');
SELECT on_source($$UPDATE app.parts SET at = '2022-06-06' WHERE id IN (2, 402)$$);
SELECT pg_temp.delta(2, 2, 7000, 'rows that move from one to another', 'app.parts');
SELECT on_source($$CREATE TABLE app.p4 (LIKE app.parts); INSERT INTO app.p4 SELECT i, '2023-03-03', 'p4' FROM generate_series(9001, 9100) i; ALTER TABLE app.parts ATTACH PARTITION app.p4 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')$$);
SELECT pg_temp.delta(100, 0, 7000, 'ATTACH', 'app.parts');
SELECT on_source($$TRUNCATE app.p3; INSERT INTO app.p3 VALUES (9500, '2022-07-07', 'again')$$);
SELECT pg_temp.delta(1, 3, 7100, 'TRUNCATE of one', 'app.parts');
SELECT on_source($$ALTER TABLE app.parts DETACH PARTITION app.p4; DROP TABLE app.p4$$);
SELECT pg_temp.delta(0, 100, 7098, 'DETACH', 'app.parts');
SELECT on_source($$ALTER TABLE app.parts DETACH PARTITION app.p3; ALTER TABLE app.p3 DROP COLUMN v; ALTER TABLE app.p3 ADD COLUMN v text DEFAULT 'filled';
    ALTER TABLE app.parts ATTACH PARTITION app.p3 FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')$$);
SELECT pg_temp.delta(1, 1, 6998, 'a value that old rows get while their partition is detached', 'app.parts');
SELECT is((SELECT v FROM app.parts WHERE id = 9500), 'filled', 'has arrived');
SELECT on_source('VACUUM FULL app.p1');
SELECT is(pg_temp.refresh('app.parts') LIKE 'ok: no delta: % percent of the rows differ', true, 'VACUUM FULL of one that has most of the rows');
SELECT same_rows('app.parts');
SELECT on_source($$CREATE TABLE app.heirs (id int, v text); CREATE TABLE app.heir (extra int) INHERITS (app.heirs); INSERT INTO app.heirs SELECT i, 'parent' FROM generate_series(1, 500) i; INSERT INTO app.heir SELECT i, 'child', 1 FROM generate_series(1, 500) i;
    GRANT SELECT ON app.heir TO reader$$);
SELECT mimeo.snapshot_maker('app.heirs', 1);
SELECT on_source($$UPDATE app.heirs SET v = 'changed' WHERE id = 5; UPDATE app.heir SET extra = 2 WHERE id = 6$$);
SELECT pg_temp.delta(3, 3, 1000, 'children', 'app.heirs');
SELECT on_source($$CREATE TABLE app.lonely (id int, v text); INSERT INTO app.lonely SELECT i, 'v' FROM generate_series(1, 500) i$$);
SELECT mimeo.snapshot_maker('app.lonely', 1);
SELECT on_source($$CREATE TABLE app.late () INHERITS (app.lonely); INSERT INTO app.late VALUES (501, 'late')$$);
SELECT pg_temp.copied('the live twin does not have the hidden columns', 'the first child', 'app.lonely');
SELECT is(pg_temp.hidden(pg_temp.live('app.lonely')), 'mimeo_xmin xid, mimeo_ctid tid, mimeo_tableoid oid', 'after which the twin keeps the table');
SELECT on_source($$UPDATE app.lonely SET v = 'changed' WHERE id IN (1, 501)$$);
SELECT pg_temp.delta(2, 2, 501, 'changes in both', 'app.lonely');
UPDATE mimeo.refresh_config SET condition = 'WHERE lonely.id > 0' WHERE dest_table = 'app.lonely';
SELECT pg_temp.copied('the condition names a table, and the rows lie in others', 'a condition that names the parent', 'app.lonely');
UPDATE mimeo.refresh_config SET condition = 'WHERE lonely IS NOT NULL' WHERE dest_table = 'app.lonely';
SELECT pg_temp.copied('the condition names a table, and the rows lie in others', 'or its rows as a whole', 'app.lonely');
-- An index of the source does not change the order
SELECT on_source($$CREATE TABLE app.ordered (id int PRIMARY KEY, v text); ALTER TABLE app.ordered SET (autovacuum_enabled = false); INSERT INTO app.ordered SELECT 20001 - i, 'v' FROM generate_series(1, 20000) i; ANALYZE app.ordered$$);
SELECT mimeo.snapshot_maker('app.ordered', 1, p_condition := 'WHERE id > 19000');
SELECT on_source($$UPDATE app.ordered SET v = 'w' WHERE id = 19500$$);
SELECT is(pg_temp.refresh('app.ordered'), 'ok: delta: 1 rows came, 1 were deleted, 1000 were there', 'a condition that an index serves');

-- What the role may see
SELECT on_source($$CREATE TABLE app.heir2 () INHERITS (app.heirs); INSERT INTO app.heir2 VALUES (9, 'x'); REVOKE ALL ON app.heir2 FROM reader$$);
SELECT is(pg_temp.refresh('app.heirs') LIKE 'ok: no delta: the role on the source may not read app.heir2', true, 'a child that the role may not read by itself');
SELECT same_rows('app.heirs');
SELECT on_source($$CREATE TABLE app.policed (id int, v text); INSERT INTO app.policed SELECT i, 'v' FROM generate_series(1, 100) i; ALTER TABLE app.policed ENABLE ROW LEVEL SECURITY;
    CREATE POLICY "some rows" ON app.policed USING (id % 2 = 0)$$);
SELECT mimeo.snapshot_maker('app.policed', 1);
SELECT is((SELECT delta FROM mimeo.refresh_config_snap WHERE dest_table = 'app.policed'), NULL, 'row security: no delta');
UPDATE mimeo.refresh_config_snap SET delta = true WHERE dest_table = 'app.policed';
SELECT is(pg_temp.refresh('app.policed'), 'ok: no delta: row security decides what is visible', 'also when it is asked for');
SELECT on_source($$CREATE TABLE app.columns (id int, v text, secret text); INSERT INTO app.columns SELECT i, 'v' FROM generate_series(1, 100) i; REVOKE ALL ON app.columns FROM reader; GRANT SELECT (id, v) ON app.columns TO reader$$);
SELECT mimeo.snapshot_maker('app.columns', 1, p_filter := '{id,v}');
SELECT is((SELECT delta FROM mimeo.refresh_config_snap WHERE dest_table = 'app.columns'), NULL, 'rights on some columns only: no delta');
UPDATE mimeo.refresh_config_snap SET delta = true WHERE dest_table = 'app.columns';
SELECT on_source($$INSERT INTO app.columns VALUES (101, 'v')$$);
SELECT is(pg_temp.refresh('app.columns'), 'ok: no delta: the role on the source may not read app.columns', 'also when it is asked for');
SELECT same_rows('app.columns', 'id, v');
SELECT on_source($$CREATE VIEW app.a_view AS SELECT * FROM app.twice; CREATE MATERIALIZED VIEW app.a_matview AS SELECT * FROM app.twice$$);
SELECT mimeo.snapshot_maker('app.a_view', 1), mimeo.snapshot_maker('app.a_matview', 1) \g /dev/null
SELECT is((SELECT count(*) FROM mimeo.refresh_config_snap WHERE delta AND dest_table LIKE 'app.a%'), 0::bigint, 'views and materialized views: no delta');

-- A job of an older release
SELECT on_source($$CREATE TABLE app.job21 (id int PRIMARY KEY, v text); INSERT INTO app.job21 SELECT i, 'v' || i FROM generate_series(1, 1000) i$$);
SELECT mimeo.snapshot_maker('app.job21', 1);
UPDATE mimeo.refresh_config_snap SET delta = NULL WHERE dest_table = 'app.job21';
SELECT on_source($$UPDATE app.job21 SET v = 'a' WHERE id = 1$$);
SELECT is(pg_temp.refresh('app.job21'), 'ok: copied: the source has changed', 'delta NULL: all rows, and no word of it');
SELECT is(pg_temp.hidden(pg_temp.live('app.job21')), NULL, 'nor hidden columns');
UPDATE mimeo.refresh_config_snap SET delta = true WHERE dest_table = 'app.job21';
SELECT is(pg_temp.refresh('app.job21'), 'skipped: unchanged on the source', 'delta true: nothing happens at once');
SELECT on_source($$UPDATE app.job21 SET v = 'b' WHERE id = 1$$);
SELECT pg_temp.copied('the last copy did not keep versions of rows', 'the next copy keeps the versions', 'app.job21');
SELECT on_source($$UPDATE app.job21 SET v = 'c' WHERE id = 1$$);
SELECT pg_temp.delta(1, 1, 1000, 'and then there is a delta', 'app.job21');
CREATE VIEW app.on_job21 AS SELECT v FROM app.job21 WHERE id = 1;
GRANT SELECT ON app.job21 TO clerk;
SELECT on_source($$ALTER TABLE app.job21 ADD COLUMN n int$$);
SELECT pg_temp.copied('its columns have changed', 'columns change', 'app.job21');
SELECT on_source($$UPDATE app.job21 SET n = 1 WHERE id = 1$$);
SELECT pg_temp.delta(1, 1, 1000, 'and then there is a delta again', 'app.job21');
SELECT mimeo.snapshot_destroyer('app.job21');
SELECT columns_are('app', 'job21', ARRAY['id', 'v', 'n'], 'the destroyer takes the hidden columns off the table that is kept');
SELECT same_rows('app.job21');
SELECT is((SELECT v FROM app.on_job21), 'c', 'its dependents stay');
SELECT * FROM finish();
