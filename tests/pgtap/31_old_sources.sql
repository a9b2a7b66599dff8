-- C7: every method, changes of every kind, on whatever PostgreSQL the source has. tests/matrix/old_sources.sh runs this with sources of 10 to 16.
SELECT no_plan();

SELECT on_source($$
    CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
    CREATE TYPE app.mood AS ENUM ('fine', 'well');
    CREATE TABLE app.t (
        id serial PRIMARY KEY, v text NOT NULL, n numeric(20, 10), f float8, r real, fs float8[], p point, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        u timestamp, d date, i interval, j jsonb, b bytea, a int[], k app.positive, tz timetz, net inet, bits bit varying(9), num int8range);
    INSERT INTO app.t (v, n, f, r, fs, p, u, d, i, j, b, a, k, tz, net, bits, num)
    SELECT 'v' || i, i / 7.0, i / 3.0::float8, i / 3.0::real, ARRAY[i / 7.0::float8, 'NaN', '-Infinity'], point(i / 3.0, 1e-9), now(), current_date,
           i * interval '1 hour 1.5 s', json_build_object('i', i)::jsonb, decode(md5(i::text), 'hex'), ARRAY[i, NULL], i, '12:00+02', '10.0.0.1', B'101', int8range(i, i + 9)
      FROM generate_series(1, 2000) i;
    CREATE INDEX ON app.t (lower(v)); CREATE UNIQUE INDEX ON app.t (id, n) WHERE n > 0;
    CREATE TABLE app.numbered (id numeric PRIMARY KEY, v text);
    INSERT INTO app.numbered SELECT i, 'v' || i FROM generate_series(1, 50) i; INSERT INTO app.numbered VALUES ('NaN', 'nan');
    CREATE TABLE app.parted (id int NOT NULL, v text, at timestamptz NOT NULL DEFAULT clock_timestamp()) PARTITION BY RANGE (id);
    CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE app.parted_2 PARTITION OF app.parted FOR VALUES FROM (100) TO (1000) PARTITION BY RANGE (id);
    CREATE TABLE app.parted_2a PARTITION OF app.parted_2 FOR VALUES FROM (100) TO (500);
    INSERT INTO app.parted SELECT i, 'v' || i FROM generate_series(50, 149) i;
    CREATE TABLE app.parent (id int PRIMARY KEY, v text);
    CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (app.parent);
    INSERT INTO app.parent SELECT i, 'p' FROM generate_series(1, 10) i; INSERT INTO app.child SELECT i, 'c' FROM generate_series(11, 20) i;
    CREATE VIEW app.seen AS SELECT id, v FROM app.t WHERE id % 2 = 0;
    CREATE MATERIALIZED VIEW app.kept AS SELECT id, v FROM app.t WHERE id < 100;
$$);
SELECT on_source(format('GRANT SELECT, TRIGGER ON %s TO reader', string_agg(quote_ident(s) || '.' || quote_ident(t), ', ')))
  FROM dblink(source_dsn(), $$SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'app'$$) AS x(s text, t text);
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TYPE app.mood AS ENUM ('fine', 'well');

-- All six methods.
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap')$$, 'a snapshot is made');
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.tab')$$, 'a table');
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.ins')$$, 'an inserter by a serial');
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.t', 'time', 'at', 1, '0 seconds', 'app.ins_time', p_index := false)$$, 'an inserter by time');
SELECT lives_ok($$SELECT mimeo.updater_maker('app.t', 'time', 'at', 1, '0 seconds', 'app.upd')$$, 'an updater');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.t', 1, 'app.d')$$, 'a dml job');
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.t', 1, 'app.l')$$, 'a logdel job');
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.numbered', 'serial', 'id', 1, '0', p_condition := $c$WHERE id <> 'NaN'$c$)$$, 'an inserter by a numeric');
SELECT lives_ok($$SELECT mimeo.snapshot_maker('app.seen', 1), mimeo.snapshot_maker('app.kept', 1), mimeo.snapshot_maker('app.parted', 1, 'app.parted_snap')$$,
    'snapshots of a view, a materialized view, a partitioned table');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.parted', 1, 'app.parted_d', p_pk_name := '{id}', p_pk_type := '{int}')$$, 'dml of a partitioned table');
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.parted', 1, 'app.parted_l', p_pk_name := '{id}', p_pk_type := '{int}')$$, 'logdel of it');
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.parted', 'time', 'at', 1, '0 seconds', 'app.parted_i')$$, 'an inserter of it');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.parent', 1, 'app.parent_d'), mimeo.dml_maker('app.child', 1, 'app.child_d')$$, 'dml of parent and child');

CREATE FUNCTION pg_temp.refresh_all() RETURNS text LANGUAGE sql AS $$
    SELECT mimeo.refresh_snapshot('app.snap'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.ins'), mimeo.refresh_inserter('app.ins_time'),
           mimeo.refresh_updater('app.upd'), mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l'), mimeo.refresh_inserter('app.numbered'),
           mimeo.refresh_snapshot('app.seen'), mimeo.refresh_snapshot('app.kept'), mimeo.refresh_snapshot('app.parted_snap'),
           mimeo.refresh_dml('app.parted_d'), mimeo.refresh_logdel('app.parted_l'), mimeo.refresh_inserter('app.parted_i'),
           mimeo.refresh_dml('app.parent_d'), mimeo.refresh_dml('app.child_d');
    SELECT string_agg(dest_table || ' ' || status, ', ' ORDER BY dest_table)
      FROM (SELECT DISTINCT ON (dest_table) dest_table, status FROM mimeo.run_history ORDER BY dest_table, run_id DESC) h
     WHERE status NOT IN ('ok', 'skipped');
$$;
CREATE FUNCTION pg_temp.different(VARIADIC p_except text[]) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(dest_table || ' ' || v.source_count || '/' || v.dest_count, ', ' ORDER BY dest_table)
      FROM mimeo.refresh_config c CROSS JOIN LATERAL mimeo.validate_content(dest_table, NULL,
           CASE WHEN type LIKE '%_time' THEN '0 seconds' WHEN type LIKE '%_serial' THEN '0' END) v
     WHERE NOT v.match AND dest_table <> ALL (p_except)
$$;
SELECT is(pg_temp.different('{}'), NULL, 'what the makers have pulled is the same on both sides');
SELECT is(pg_temp.refresh_all(), NULL, 'a refresh of each, with nothing to do');
SELECT is(pg_temp.refresh_all(), NULL, 'and one more');

-- Changes of every kind, of one row and of many, within one transaction and over several.
SELECT on_source($$
    INSERT INTO app.t (v, f, fs) SELECT 'new' || i, 0.1 * i, ARRAY[0.1 * i] FROM generate_series(1, 500) i;
    UPDATE app.t SET v = 'changed', f = 1 / 3.0, at = clock_timestamp() WHERE id BETWEEN 100 AND 300;
    UPDATE app.t SET id = id + 100000, at = clock_timestamp() WHERE id IN (7, 8);
    DELETE FROM app.t WHERE id BETWEEN 400 AND 420;
    INSERT INTO app.t (id, v) VALUES (410, 'again') ON CONFLICT (id) DO UPDATE SET v = 'not';
    INSERT INTO app.t (id, v) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET v = 'upserted', at = clock_timestamp();
    INSERT INTO app.numbered SELECT i, 'v' || i FROM generate_series(51, 60) i;
    INSERT INTO app.parted SELECT i, 'more' FROM generate_series(150, 160) i; INSERT INTO app.parted_1 VALUES (1, 'straight'); UPDATE app.parted SET v = 'u' WHERE id = 60;
    UPDATE app.parted_2a SET v = 'u2' WHERE id = 120; DELETE FROM app.parted WHERE id IN (70, 130);
    INSERT INTO app.child VALUES (30, 'c'); UPDATE app.parent SET v = 'both' WHERE id IN (3, 13); DELETE FROM ONLY app.parent WHERE id = 4; DELETE FROM app.child WHERE id = 14;
$$);
SELECT on_source('REFRESH MATERIALIZED VIEW app.kept');
SELECT is(pg_temp.refresh_all(), NULL, 'all of it is refreshed');
SELECT is(pg_temp.different('app.ins', 'app.ins_time', 'app.upd', 'app.parted_i'), NULL, 'and the same on both sides');
SELECT is((SELECT count(*)::int FROM app.ins WHERE v LIKE 'new%'), 500, 'the inserter has what is new');
SELECT is((SELECT count(*)::int FROM app.ins_time WHERE v LIKE 'new%'), 500, 'by time too');
SELECT is((SELECT count(*)::int FROM app.upd WHERE v IN ('changed', 'upserted')), 202, 'the updater has what has changed');
SELECT is((SELECT count(*)::int FROM app.l WHERE mimeo_source_deleted IS NOT NULL), 22, 'logdel keeps what was deleted, and what got another key');
SELECT results_eq($$SELECT f, r, n, fs, b, j, num FROM app.l WHERE id = 401$$,
    $$SELECT 401 / 3.0::float8, (401 / 3.0::real)::real, (401 / 7.0)::numeric(20, 10), ARRAY[401 / 7.0::float8, 'NaN', '-Infinity'], decode(md5('401'), 'hex'),
             jsonb_build_object('i', 401), int8range(401, 410)$$, 'and its last values, to the last digit');

-- A partition and a child come, one goes, some are truncated.
SELECT on_source($$
    CREATE TABLE app.parted_2b PARTITION OF app.parted_2 FOR VALUES FROM (500) TO (1000);
    INSERT INTO app.parted VALUES (600, 'in the new one');
    CREATE TABLE app.child_2 (PRIMARY KEY (id)) INHERITS (app.parent);
    INSERT INTO app.child_2 VALUES (40, 'c2');
    GRANT SELECT, TRIGGER ON app.parted_2b, app.child_2 TO reader;
$$);
SELECT is(pg_temp.refresh_all(), NULL, 'a partition and a child that come');
SELECT is(pg_temp.different('app.ins', 'app.ins_time', 'app.upd', 'app.parted_l', 'app.parted_i'), NULL, 'are there with their rows');
SELECT on_source($$INSERT INTO app.parted VALUES (601, 'queued'); UPDATE app.parted SET v = 'w' WHERE id = 600; UPDATE app.child_2 SET v = 'w'; TRUNCATE app.child; TRUNCATE app.parted_1$$);
SELECT lives_ok('SELECT pg_temp.refresh_all()', 'what is written to them');
SELECT is(pg_temp.different('app.ins', 'app.ins_time', 'app.upd', 'app.parted_l', 'app.parted_i'), NULL, 'is there, too');
SELECT on_source('TRUNCATE app.t, app.parted, app.parent; INSERT INTO app.t (v) VALUES (''after'')');
SELECT lives_ok('SELECT pg_temp.refresh_all()', 'a TRUNCATE of all');
SELECT is(pg_temp.different('app.ins', 'app.ins_time', 'app.upd', 'app.parted_l', 'app.parted_i', 'app.l'), NULL, 'empties them');

-- Who may read the whole need not be able to read the parts.
SELECT on_source($$REVOKE ALL ON app.parted_2a, app.parted_1 FROM reader; INSERT INTO app.parted VALUES (3, 'hidden'), (103, 'hidden')$$);
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.parted_snap'), mimeo.refresh_inserter('app.parted_i'), mimeo.refresh_dml('app.parted_d')$$,
    'a partition that only its parent shows') WHERE source_version() >= 110000;
SELECT is((mimeo.validate_content('app.parted_d')).match, true, 'is copied all the same') WHERE source_version() >= 110000;

-- A queue that was made on a server before 13 keeps its columns when that is upgraded.
SELECT as_reader($$ALTER TABLE mimeo.app_t_q ALTER mimeo_xid DROP DEFAULT, ALTER mimeo_xid TYPE bigint USING mimeo_xid::text::bigint,
    ALTER mimeo_xid SET DEFAULT txid_current()$$);
SELECT on_source($$INSERT INTO app.t (v) VALUES ('narrow'); DELETE FROM app.t WHERE v = 'after'$$);
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.d')$$, 'its changes are applied');
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.d')$$, 'once');
SELECT is((mimeo.validate_content('app.d')).match, true, 'and right');
SELECT is(ask_reader('SELECT count(*)::text FROM mimeo.app_t_q'), '1', 'and removed from the queue');

-- The rest of the functions.
SELECT lives_ok($$SELECT mimeo.plan_refresh(dest_table) FROM mimeo.refresh_config$$, 'plan_refresh tells what would be done');
SELECT is((SELECT count(*)::int FROM mimeo.check_source_columns(1)), 0, 'no column is missing');
SELECT lives_ok($$SELECT * FROM mimeo.check_missing_source_tables(1, true)$$, 'tables without a job are listed');
SELECT lives_ok($$SELECT * FROM mimeo.snapshot_monitor()$$, 'sizes are told');
SELECT lives_ok($$SELECT * FROM mimeo.check_permissions(1, 'app.parted', 'logdel')$$, 'check_permissions');
SELECT lives_ok($$SELECT mimeo.dml_destroyer(dest_table, false) FROM mimeo.refresh_config WHERE type = 'dml'$$, 'jobs with a queue are destroyed');
SELECT lives_ok($$SELECT mimeo.logdel_destroyer(dest_table, false) FROM mimeo.refresh_config WHERE type = 'logdel'$$, 'and those that keep rows');
SELECT is(ask_source($$SELECT count(*)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'mimeo'$$), '0', 'nothing is left on the source');
SELECT is(ask_source($$SELECT count(*)::text FROM pg_trigger WHERE NOT tgisinternal$$), '0', 'no trigger either');
SELECT * FROM finish();
