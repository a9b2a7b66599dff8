-- What PostgreSQL 18 and 19 have that older ones lack: where the source is older there is nothing to see; a destination that is older says so.
SELECT no_plan();
SELECT source_version() >= 180000 AS source18, source_version() >= 190000 AS source19,
       current_setting('server_version_num')::int >= 190000 AS here19, current_setting('server_version_num')::int >= 180000 AS here18 \gset
\if :source18
\else
SELECT pass('the source has nothing of it');
SELECT * FROM finish();
\quit
\endif

-- Keys WITHOUT OVERLAPS identify rows, as other keys do.
SELECT on_source($$CREATE TABLE app.booking (room int4range, during daterange, guest text, changed timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (room, during WITHOUT OVERLAPS));
    INSERT INTO app.booking SELECT int4range(i, i + 1), daterange('2026-01-01'::date + d * 7, '2026-01-01'::date + d * 7 + 6), 'guest ' || i * d FROM generate_series(1, 50) i, generate_series(1, 10) d$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.booking', 1, 'app.b_snap')$$, 'a snapshot of a table with a key WITHOUT OVERLAPS');
SELECT lives_ok($$SELECT mimeo.table_maker('app.booking', 1, 'app.b_tab')$$, 'a table');
SELECT lives_ok($$SELECT mimeo.updater_maker('app.booking', 'time', 'changed', 1, '0 seconds', 'app.b_upd')$$, 'an updater');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.booking', 1, 'app.b_dml')$$, 'a dml');
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.booking', 1, 'app.b_log')$$, 'a logdel');
SELECT on_source($$UPDATE app.booking SET during = daterange(lower(during), upper(during) - 1), changed = clock_timestamp() WHERE room = int4range(7, 8)$$);
SELECT on_source($$DELETE FROM app.booking WHERE room = int4range(9, 10)$$);
SELECT on_source($$INSERT INTO app.booking VALUES (int4range(9, 10), '[2027-01-01,2027-02-01)', 'a new one'), ('[100,)', '(,)', 'without ends')$$);
SELECT mimeo.refresh_snapshot('app.b_snap'), mimeo.refresh_table('app.b_tab'), mimeo.refresh_dml('app.b_dml'), mimeo.refresh_logdel('app.b_log'), mimeo.refresh_updater('app.b_upd') \g /dev/null
SELECT same_rows('app.b_snap', 't.*', 'app.booking');
SELECT same_rows('app.b_tab', 't.*', 'app.booking');
SELECT same_rows('app.b_dml', 't.*', 'app.booking');
SELECT same_rows('(SELECT room, during, guest, changed FROM app.b_log WHERE mimeo_source_deleted IS NULL)', 't.*', 'app.booking');
SELECT is((SELECT count(*) FROM app.b_upd u JOIN app.b_tab t USING (room, during) WHERE u.guest = t.guest), (SELECT count(*) FROM app.b_tab), 'app.b_upd has every row');
SELECT is((SELECT match FROM mimeo.validate_content('app.b_dml')), true, 'validate_content knows such keys');

-- Columns that are generated when they are read, with a CHECK, whose expression changes (19)
SELECT on_source($$CREATE TABLE app.v (id int PRIMARY KEY, a int, double int GENERATED ALWAYS AS (a * 2) VIRTUAL, CHECK (double < 100000)); INSERT INTO app.v (id, a) SELECT i, i FROM generate_series(1, 500) i$$);
SELECT mimeo.snapshot_maker('app.v', 1, 'app.v_snap'), mimeo.table_maker('app.v', 1, 'app.v_tab'), mimeo.dml_maker('app.v', 1, 'app.v_dml') \g /dev/null
SELECT on_source($$UPDATE app.v SET a = a + 1 WHERE id % 7 = 0$$);
SELECT mimeo.refresh_snapshot('app.v_snap'), mimeo.refresh_table('app.v_tab'), mimeo.refresh_dml('app.v_dml') \g /dev/null
SELECT same_rows(d, 't.id, t.a, t.double', 'app.v') FROM unnest('{app.v_snap,app.v_tab,app.v_dml}'::text[]) d;
\if :source19
SELECT on_source($$ALTER TABLE app.v ALTER double SET EXPRESSION AS (a * 3)$$);
SELECT mimeo.refresh_snapshot('app.v_snap'), mimeo.refresh_table('app.v_tab') \g /dev/null
SELECT same_rows(d, 't.id, t.a, t.double', 'app.v') FROM unnest('{app.v_snap,app.v_tab}'::text[]) d;
\endif

-- A CHECK that is not enforced on the source is none of the destination; one of the destination's own that is not enforced stops no row.
SELECT on_source($$CREATE TABLE app.c (id int PRIMARY KEY, a int, CONSTRAINT small CHECK (a < 10) NOT ENFORCED); INSERT INTO app.c VALUES (1, 5), (2, 50)$$);
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.c', 1, 'app.c_snap'), mimeo.table_maker('app.c', 1, 'app.c_tab'), mimeo.dml_maker('app.c', 1, 'app.c_dml')$$, 'with a CHECK that is not enforced');
\if :here18
ALTER TABLE app.c_tab ADD CONSTRAINT small CHECK (a < 10) NOT ENFORCED;
ALTER TABLE app.c_dml ADD CONSTRAINT small CHECK (a < 10) NOT ENFORCED;
\endif
SELECT on_source($$INSERT INTO app.c VALUES (3, 500)$$);
SELECT mimeo.refresh_snapshot('app.c_snap'), mimeo.refresh_table('app.c_tab'), mimeo.refresh_dml('app.c_dml') \g /dev/null
SELECT same_rows(d, 't.*', 'app.c') FROM unnest('{app.c_snap,app.c_tab,app.c_dml}'::text[]) d;
\if :here19
ALTER TABLE app.c_tab ALTER CONSTRAINT small NOT ENFORCED;
SELECT on_source($$DELETE FROM app.c WHERE a > 10$$);
SELECT mimeo.refresh_table('app.c_tab'), mimeo.refresh_dml('app.c_dml') \g /dev/null
ALTER TABLE app.c_tab ALTER CONSTRAINT small ENFORCED;
ALTER TABLE app.c_dml ALTER CONSTRAINT small ENFORCED;
SELECT on_source($$INSERT INTO app.c VALUES (4, 4)$$);
SELECT mimeo.refresh_table('app.c_tab'), mimeo.refresh_dml('app.c_dml') \g /dev/null
SELECT same_rows(d, 't.*', 'app.c') FROM unnest('{app.c_tab,app.c_dml}'::text[]) d;
SELECT on_source($$INSERT INTO app.c VALUES (5, 5000)$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.c_tab')$$, '23514', NULL, 'one that is enforced since does');
SELECT throws_ok($$SELECT mimeo.refresh_dml('app.c_dml')$$, '23514', NULL, 'for every method');
\endif

\if :source19
-- Types
SELECT on_source($$CREATE DOMAIN app.big AS oid8; CREATE TABLE app.types (id int PRIMARY KEY, o oid8, os oid8[], d regdatabase, ds regdatabase[], b app.big, h text COMPRESSION lz4);
    INSERT INTO app.types VALUES (1, '18446744073709551615', '{0,NULL,9223372036854775808}', 'postgres', '{template1,NULL}', 1, repeat('x', 10000)), (2, NULL, NULL, NULL, NULL, NULL, NULL), (3, 0, '{}', '-', '{}', 0, '')$$);
\if :here19
CREATE DOMAIN app.big AS oid8;
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.types', 1, 'app.ty_snap'), mimeo.table_maker('app.types', 1, 'app.ty_tab'), mimeo.dml_maker('app.types', 1, 'app.ty_dml'),
    mimeo.inserter_maker('app.types', 'serial', 'id', 1, '0', 'app.ty_ins')$$, 'oid8 and regdatabase are copied');
SELECT on_source($$UPDATE app.types SET o = '9223372036854775808', d = 'template0' WHERE id = 1$$);
SELECT on_source($$INSERT INTO app.types VALUES (4, 4, '{4}', 'postgres')$$);
SELECT mimeo.refresh_snapshot('app.ty_snap'), mimeo.refresh_table('app.ty_tab'), mimeo.refresh_dml('app.ty_dml'), mimeo.refresh_inserter('app.ty_ins') \g /dev/null
SELECT same_rows(d, 't.*', 'app.types') FROM unnest('{app.ty_snap,app.ty_tab,app.ty_dml}'::text[]) d;
SELECT is((SELECT match FROM mimeo.validate_content(d)), true, 'validate_content compares them') FROM unnest('{app.ty_snap,app.ty_tab,app.ty_dml}'::text[]) d;
\else
SELECT matches(told($$SELECT mimeo.snapshot_maker('app.types', 1, 'app.ty_snap')$$), '^42704 .*(oid8|big|regdatabase)', 'a destination that does not know the type says so');
SELECT is(to_regclass('app.ty_snap'), NULL, 'and nothing is made');
\endif
SELECT on_source($$CREATE TABLE app.serial8 (id oid8 PRIMARY KEY, v text); INSERT INTO app.serial8 VALUES ('1', 'a'), ('18446744073709551615', 'b')$$);
\if :here19
SELECT lives_ok($$SELECT mimeo.dml_maker('app.serial8', 1)$$, 'oid8 as a key');
SELECT on_source($$UPDATE app.serial8 SET v = 'c' WHERE id = '18446744073709551615'$$);
SELECT on_source($$DELETE FROM app.serial8 WHERE id = '1'$$);
SELECT mimeo.refresh_dml('app.serial8') \g /dev/null
SELECT same_rows('app.serial8');
SELECT throws_ok($$SELECT mimeo.inserter_maker('app.serial8', 'serial', 'id', 1, '0', 'app.s8_ins')$$, '42809', NULL, 'oid8 is no control column');
\endif
\endif
SELECT * FROM finish();
