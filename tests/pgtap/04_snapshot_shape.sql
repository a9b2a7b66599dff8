-- What happens when the columns of the source change.
SELECT plan(44);

CREATE FUNCTION pg_temp.refresh() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mimeo.refresh_snapshot('app.t');
    RETURN (last_run('app.t')).reason;
END
$$;
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, a text NOT NULL, b int, c varchar(10));
    CREATE INDEX t_b_idx ON app.t (b);
    INSERT INTO app.t SELECT i, 'a' || i, i, 'c' FROM generate_series(1, 50) i$$);
SELECT mimeo.snapshot_maker('app.t', 1);
UPDATE mimeo.refresh_config SET delta = NULL; -- so that the twins have no columns but those of the source
GRANT SELECT ON app.t TO clerk WITH GRANT OPTION;
GRANT SELECT (a), UPDATE (b) ON app.t TO PUBLIC;
COMMENT ON VIEW app.t IS 'a copy';
COMMENT ON COLUMN app.t.a IS 'the letter';
ALTER VIEW app.t SET (security_barrier = true);
CREATE INDEX by_hand ON app.t_snap1 (lower(a));
CREATE INDEX by_hand2 ON app.t_snap2 (lower(a));
CREATE TABLE app.log (what text);
GRANT INSERT ON app.log TO dba;
UPDATE mimeo.refresh_config_snap SET post_script = ARRAY['INSERT INTO app.log SELECT current_setting(''search_path'')'];

-- Added
SELECT on_source($$ALTER TABLE app.t ADD d date NOT NULL DEFAULT '2020-01-01'; CREATE INDEX t_d_idx ON app.t (d)$$);
SELECT alike(pg_temp.refresh(), '%columns of the source changed: added "d"%', 'an added column is noticed');
SELECT columns_are('app', 't', ARRAY['id', 'a', 'b', 'c', 'd'], 'and shown');
SELECT is((SELECT count(*) FROM app.t WHERE d = '2020-01-01'), 50::bigint, 'with its values');
SELECT columns_are('app', 't_snap1', ARRAY['id', 'a', 'b', 'c', 'd'], 'the first twin has it');
SELECT columns_are('app', 't_snap2', ARRAY['id', 'a', 'b', 'c', 'd'], 'the second one too');
SELECT col_not_null('app', 't_snap1', 'd', 'NOT NULL comes along');
SELECT has_index('app', 't_snap1', 'snap1_t_snap1_d_idx', 'so does its index');
SELECT has_index('app', 't_snap2', 'snap2_t_snap2_d_idx', 'on both');
SELECT is((SELECT what FROM app.log), 'pg_catalog, pg_temp', 'post_script has run, with a pinned search_path');
SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
SELECT is((SELECT count(*) FROM app.log), 1::bigint, 'and runs only when the columns have changed');

-- Dropped. Other views depend on the view.
CREATE VIEW app.upper_a AS SELECT id, upper(a) AS a FROM app.t WHERE id > 10;
CREATE VIEW app.on_top WITH (security_barrier) AS SELECT count(*) AS n FROM app.upper_a;
GRANT SELECT ON app.on_top TO clerk;
COMMENT ON VIEW app.on_top IS 'on top';
ALTER VIEW app.upper_a ALTER COLUMN a SET DEFAULT 'none';
CREATE MATERIALIZED VIEW app.kept AS SELECT id, a FROM app.t;
CREATE UNIQUE INDEX kept_id ON app.kept (id);
CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER read_only INSTEAD OF INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.nothing();
CREATE RULE no_delete AS ON DELETE TO app.upper_a DO INSTEAD NOTHING;
SELECT on_source($$ALTER TABLE app.t DROP c$$);
SELECT alike(pg_temp.refresh(), '%dropped "c"%', 'a column dropped on the source alone is noticed'); -- defect 5 of 1.5.1
SELECT columns_are('app', 't', ARRAY['id', 'a', 'b', 'd'], 'a column that was dropped on the source is gone'); -- defect 5 of 1.5.1
SELECT columns_are('app', 't_snap1', ARRAY['id', 'a', 'b', 'd'], 'from the first twin');
SELECT columns_are('app', 't_snap2', ARRAY['id', 'a', 'b', 'd'], 'from the second twin');
SELECT is((SELECT n FROM app.on_top), 40::bigint, 'views on the view are there again'); -- defect 10 of 1.5.1
SELECT is((SELECT reloptions::text FROM pg_class WHERE oid = 'app.on_top'::regclass), '{security_barrier=true}',
    'with their options');
SELECT ok(has_table_privilege('clerk', 'app.on_top', 'SELECT'), 'grants');
SELECT is(obj_description('app.on_top'::regclass), 'on top', 'comments');
SELECT is((SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'app.upper_a'::regclass),
    '''none''::text', 'column defaults');
SELECT has_rule('app', 'upper_a', 'no_delete', 'rules');
SELECT has_trigger('app', 't', 'read_only', 'triggers');
DO $$ BEGIN WHILE NOT (SELECT relispopulated FROM pg_class WHERE oid = 'app.kept'::regclass) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$;
SELECT is((SELECT count(*) FROM app.kept), 50::bigint, 'a materialized view is filled again, after the commit');
SELECT has_index('app', 'kept', 'kept_id', 'and has its index');
SELECT is((SELECT replace(relacl::text, 'm/', '/') FROM pg_class WHERE oid = 'app.t'::regclass), '{dba=arwdDxt/dba,clerk=r*/dba}',
    'the view itself keeps its grants');
SELECT is((SELECT string_agg(attname || attacl::text, ' ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = 'app.t'::regclass AND attacl IS NOT NULL), 'a{=r/dba} b{=w/dba}', 'those on columns too');
SELECT is(obj_description('app.t'::regclass) || col_description('app.t'::regclass, 2), 'a copythe letter', 'its comments');
SELECT is((SELECT reloptions::text FROM pg_class WHERE oid = 'app.t'::regclass), '{security_barrier=true}', 'its options');
SELECT view_owner_is('app', 't', 'dba', 'and its owner');
SELECT has_index('app', 't_snap1', 'by_hand', 'an index that a DBA added is still there');
SELECT has_index('app', 't_snap2', 'by_hand2', 'on the other twin too');

-- Renamed, retyped, NULL allowed, reordered
SELECT on_source($$ALTER TABLE app.t RENAME b TO bb; ALTER TABLE app.t ALTER id TYPE bigint;
    ALTER TABLE app.t ALTER a DROP NOT NULL$$);
SELECT alike(pg_temp.refresh(), '%renamed "b" to "bb"; retyped "id"; changed NOT NULL of "a"%', 'other changes are told apart');
SELECT columns_are('app', 't', ARRAY['id', 'a', 'bb', 'd'], 'renamed');
SELECT col_type_is('app', 't', 'id', 'bigint', 'retyped');
SELECT col_is_null('app', 't_snap2', 'a', 'NULL is allowed');
SELECT has_index('app', 't_snap1', 'snap1_t_snap1_b_idx', 'the index of a renamed column stays');
SELECT col_is_pk('app', 't_snap1', 'id', 'the primary key of a retyped column stays');
SELECT on_source($$ALTER TABLE app.t DROP d; ALTER TABLE app.t ADD d text; UPDATE app.t SET d = 'text'$$);
SELECT alike(pg_temp.refresh(), '%retyped "d"%', 'a column dropped and added again with another type');
SELECT is((SELECT DISTINCT d FROM app.t), 'text', 'holds the new values');

-- A view on the view that cannot live without the column stops the refresh.
SELECT on_source($$ALTER TABLE app.t DROP a$$);
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t')$$,
    'view app.upper_a depends on view "app.t", whose columns change, and cannot be kept: %',
    'a dependent that cannot be kept is named');
SELECT columns_are('app', 't', ARRAY['id', 'a', 'bb', 'd'], 'and nothing is changed');
DROP MATERIALIZED VIEW app.kept;
DROP VIEW app.upper_a CASCADE;
CREATE FUNCTION app.takes(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT throws_like($$SELECT mimeo.refresh_snapshot('app.t')$$, 'function app.takes(app.t) depends on view "app.t",%',
    'so is one that is not known how to be kept');
DROP FUNCTION app.takes(app.t);
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.t')$$, 'without them it goes on');
SELECT columns_are('app', 't', ARRAY['id', 'bb', 'd'], 'and the column is gone');
SELECT hasnt_index('app', 't_snap1', 'by_hand', 'with the index on it');

SELECT * FROM finish();
