-- snapshot_destroyer: the data stays as a plain table, or everything goes.
SELECT plan(22);

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text NOT NULL); CREATE INDEX t_v_idx ON app.t (v);
    INSERT INTO app.t SELECT i, 'v' FROM generate_series(1, 10) i$$);
SELECT mimeo.snapshot_maker('app.t', 1);
GRANT SELECT ON app.t TO clerk;
GRANT SELECT (v) ON app.t TO PUBLIC;
COMMENT ON VIEW app.t IS 'a copy';
CREATE VIEW app.v AS SELECT count(*) AS n FROM app.t;
SELECT lives_ok($$SELECT mimeo.snapshot_destroyer('app.t')$$, 'the job is destroyed');
SELECT has_table('app', 't', 'a table has the name of the view');
SELECT is((SELECT count(*) FROM app.t), 10::bigint, 'with the data');
SELECT table_owner_is('app', 't', 'dba', 'the owner');
SELECT is((SELECT replace(relacl::text, 'm/', '/') FROM pg_class WHERE oid = 'app.t'::regclass), '{dba=arwdDxt/dba,clerk=r/dba}', 'the grants');
SELECT is((SELECT attacl::text FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attname = 'v'), '{=r/dba}',
    'those on columns too');
SELECT is(obj_description('app.t'::regclass, 'pg_class'), 'a copy', 'the comment');
SELECT col_is_pk('app', 't', 'id', 'the primary key');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = 'app.t'::regclass), 2::bigint, 'the indexes');
SELECT col_not_null('app', 't', 'v', 'and NOT NULL');
SELECT is((SELECT n FROM app.v), 10::bigint, 'views on it show the table');
SELECT hasnt_table('app', 't_snap1', 'the first twin is gone');
SELECT hasnt_table('app', 't_snap2', 'the second too');
SELECT is_empty('SELECT FROM mimeo.refresh_config', 'so is the job');
SELECT throws_ok($$SELECT mimeo.snapshot_destroyer('app.t')$$, '42704',
    'Destination table given in argument (app.t) is not managed by mimeo', 'it cannot be destroyed twice');

SELECT mimeo.snapshot_maker('app.t', 1, 'app.u');
CREATE VIEW app.on_u AS SELECT * FROM app.u;
SELECT throws_ok($$SELECT mimeo.snapshot_destroyer('app.u', false)$$, '2BP01', NULL,
    'what others depend on is not dropped');
SELECT has_table('app', 'u_snap1', 'and nothing is changed');
DROP VIEW app.on_u;
SELECT lives_ok($$SELECT mimeo.snapshot_destroyer('app.u', p_keep_table := false)$$, 'without keeping the table');
SELECT is_empty($$SELECT FROM pg_class WHERE relname LIKE 'u%' AND relnamespace = 'app'::regnamespace$$, 'everything goes');
SELECT is_empty('SELECT FROM mimeo.refresh_config', 'the job too');

SELECT mimeo.snapshot_maker('app.t', 1, 'app.u');
DROP VIEW app.u;
SELECT lives_ok($$SELECT mimeo.snapshot_destroyer('app.u', p_keep_table := false)$$, 'a job whose view is gone');
SELECT is_empty($$SELECT FROM pg_class WHERE relname LIKE 'u%' AND relnamespace = 'app'::regnamespace$$,
    'is cleaned up as well');

SELECT * FROM finish();
