-- A transaction with a refresh in it can be prepared, unless rows went through a temporary table; then nothing is lost.
SELECT plan(12);

SELECT on_source($$CREATE TABLE app.s (id int PRIMARY KEY, v text); GRANT SELECT, TRIGGER ON app.s TO reader; INSERT INTO app.s SELECT i, 'v' FROM generate_series(1, 10) i$$);
SELECT mimeo.snapshot_maker('app.s', 1, 'app.snap'), mimeo.table_maker('app.s', 1, 'app.tab'), mimeo.inserter_maker('app.s', 'serial', 'id', 1, '0', 'app.ins'),
    mimeo.updater_maker('app.s', 'serial', 'id', 1, '0', 'app.upd'), mimeo.dml_maker('app.s', 1, 'app.dml'), mimeo.logdel_maker('app.s', 1, 'app.log');
SELECT on_source($$DELETE FROM app.s WHERE id = 3; INSERT INTO app.s SELECT i, 'x' FROM generate_series(11, 20) i$$);

\set ON_ERROR_STOP 0
BEGIN;
SELECT mimeo.refresh_snapshot('app.snap'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.ins');
PREPARE TRANSACTION 'no temporary table';
SELECT is(:'SQLSTATE'::text, '00000', 'snapshot, table and inserter can be prepared');
SELECT is((SELECT count(*) FROM app.ins), 10::bigint, 'what is prepared does not show');
COMMIT PREPARED 'no temporary table';
BEGIN;
SELECT mimeo.refresh_updater('app.upd');
PREPARE TRANSACTION 'updater';
SELECT is(:'SQLSTATE'::text, '0A000', 'an updater cannot');
BEGIN;
SELECT mimeo.refresh_dml('app.dml');
PREPARE TRANSACTION 'dml';
SELECT is(:'SQLSTATE'::text, '0A000', 'nor can a dml');
BEGIN;
SELECT mimeo.refresh_logdel('app.log');
PREPARE TRANSACTION 'logdel';
SELECT is(:'SQLSTATE'::text, '0A000', 'nor can a logdel');
\set ON_ERROR_STOP 1

SELECT mimeo.refresh_updater('app.upd'), mimeo.refresh_dml('app.dml'), mimeo.refresh_logdel('app.log'), mimeo.refresh_inserter('app.ins');
SELECT same_rows('app.' || t, 't.*', 'app.s') FROM unnest('{snap,tab,dml}'::text[]) t;
SELECT is((SELECT count(*) FROM app.ins), 19::bigint, 'app.ins has all but the last');
SELECT is((SELECT count(*) FROM app.upd), 19::bigint, 'app.upd has all but the last');
SELECT is((SELECT count(*) FROM app.log), 20::bigint, 'app.log has all');
SELECT is((SELECT count(*) FROM app.log WHERE mimeo_source_deleted IS NULL), 19::bigint, 'one of them deleted');

SELECT * FROM finish();
