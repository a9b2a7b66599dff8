-- dml and logdel: partitioned tables and hierarchies, privileges, and what must not be missed or left behind on a source.
SELECT plan(83);

-- Partitions: also those that come, go, and are truncated
SELECT on_source($$CREATE TABLE app.p (id int, r int, v text, PRIMARY KEY (r, id)) PARTITION BY RANGE (r);
    CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100); CREATE TABLE app.p2 (v text, junk int, id int NOT NULL, r int NOT NULL);
    ALTER TABLE app.p2 DROP COLUMN junk; ALTER TABLE app.p ATTACH PARTITION app.p2 FOR VALUES FROM (100) TO (200);
    INSERT INTO app.p SELECT i, i, 'old' FROM generate_series(1, 199) i$$);
SELECT lives_ok($$SELECT mimeo.dml_maker('app.p', 1), mimeo.logdel_maker('app.p', 1, 'app.pl')$$, 'a partitioned source');
CREATE VIEW live AS SELECT id, r, v FROM app.pl WHERE mimeo_source_deleted IS NULL;
CREATE FUNCTION pg_temp.both(p_what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mimeo.refresh_dml('app.p'); PERFORM mimeo.refresh_logdel('app.pl');
    RETURN NEXT same_rows('app.p'); RETURN NEXT same_rows('live', 't.*', 'app.p');
    RETURN NEXT is((last_run('app.p')).status || (last_run('app.pl')).status, p_what, p_what);
END $$;
SELECT * FROM pg_temp.both('okok');
SELECT on_source($$UPDATE app.p SET v = 'via the root' WHERE r % 10 = 0; UPDATE app.p2 SET v = 'directly' WHERE r % 10 = 1; DELETE FROM app.p1 WHERE r < 10;
    UPDATE app.p SET r = r + 100 WHERE r BETWEEN 50 AND 60 AND false; UPDATE app.p SET r = 199, id = 1000 WHERE r = 50; INSERT INTO app.p2 (id, r) VALUES (2000, 150)$$);
SELECT * FROM pg_temp.both('okok');
SELECT on_source($$CREATE TABLE app.p3 PARTITION OF app.p FOR VALUES FROM (200) TO (300); INSERT INTO app.p SELECT i, i FROM generate_series(200, 210) i; DELETE FROM app.p3 WHERE r = 205$$);
SELECT * FROM pg_temp.both('okok');
SELECT on_source($$CREATE TABLE app.p4 (LIKE app.p); INSERT INTO app.p4 SELECT i, i, 'attached' FROM generate_series(300, 320) i;
    ALTER TABLE app.p ATTACH PARTITION app.p4 FOR VALUES FROM (300) TO (400); UPDATE app.p SET v = 'changed' WHERE r = 301$$);
SELECT * FROM pg_temp.both('okok');
SELECT is((SELECT count(*) FROM app.p WHERE v = 'attached'), 20::bigint, 'rows that come with a partition are copied');
SELECT on_source('ALTER TABLE app.p DETACH PARTITION app.p3; UPDATE app.p3 SET v = 1');
SELECT * FROM pg_temp.both('warningwarning');
SELECT on_source('TRUNCATE app.p4');
SELECT * FROM pg_temp.both('warningwarning');
SELECT on_source($$REVOKE ALL ON app.p2 FROM reader; CREATE TABLE app.p5 (LIKE app.p); INSERT INTO app.p5 SELECT i, i, 'attached' FROM generate_series(500, 520) i;
    ALTER TABLE app.p ATTACH PARTITION app.p5 FOR VALUES FROM (500) TO (600); REVOKE ALL ON app.p5 FROM reader$$);
SELECT * FROM pg_temp.both('okok');
SELECT on_source($$TRUNCATE app.p; INSERT INTO app.p VALUES (1, 1, 'after')$$);
SELECT mimeo.refresh_dml('app.p'), mimeo.refresh_logdel('app.pl');
SELECT same_rows('app.p');
SELECT same_rows('live', 't.*', 'app.p');

-- Changes behind the triggers of a partition
SELECT on_source($$ALTER TABLE app.p DETACH PARTITION app.p1; INSERT INTO app.p1 VALUES (77, 77, 'while detached');
    ALTER TABLE app.p ATTACH PARTITION app.p1 FOR VALUES FROM (0) TO (100)$$);
SELECT * FROM pg_temp.both('warningwarning');
SELECT on_source($$ALTER TABLE app.p1 DISABLE TRIGGER USER; UPDATE app.p SET v = 'unseen' WHERE r = 77$$);
SELECT throws_like($$SELECT mimeo.refresh_dml('app.p')$$, 'changes of "app.p" on data source 1 % are missed: its triggers are disabled or gone',
    'F18: whoever calls it is told by an error');
SELECT throws_ok($$SELECT mimeo.refresh_logdel('app.pl')$$, '55000', NULL, 'of a logdel job, too');
SELECT is((last_run('app.p')).status, 'critical', 'a trigger that is disabled on one partition is noticed');
SELECT on_source($$ALTER TABLE app.p1 ENABLE TRIGGER USER$$);
SELECT * FROM pg_temp.both('warningwarning');

-- A partition by itself: who writes to it may name its parent
SELECT mimeo.dml_maker('app.p1', 1);
SELECT on_source($$UPDATE app.p SET v = 'via the parent' WHERE r = 77; UPDATE app.p1 SET v = 'directly' WHERE r = 1; INSERT INTO app.p VALUES (78, 78)$$);
SELECT mimeo.refresh_dml('app.p1');
SELECT same_rows('app.p1');
SELECT on_source($$CREATE TABLE app.alone (LIKE app.p INCLUDING ALL); INSERT INTO app.alone VALUES (9001, 9001, 'x')$$);
SELECT mimeo.dml_maker('app.alone', 1);
SELECT on_source($$ALTER TABLE app.p ATTACH PARTITION app.alone FOR VALUES FROM (9000) TO (9100); UPDATE app.p SET v = 'via the parent' WHERE r = 9001$$);
SELECT mimeo.refresh_dml('app.alone');
SELECT matches((last_run('app.alone')).reason, 'all rows are copied: something else is queued now than before', 'by other triggers from then on');
SELECT on_source($$UPDATE app.p SET v = 'later' WHERE r = 9001$$);
SELECT mimeo.refresh_dml('app.alone');
SELECT same_rows('app.alone');

-- A hierarchy of tables
SELECT on_source($$CREATE TABLE app.h (id int PRIMARY KEY, v text); CREATE TABLE app.h1 (x int, PRIMARY KEY (id)) INHERITS (app.h);
    INSERT INTO app.h SELECT i FROM generate_series(1, 10) i; INSERT INTO app.h1 SELECT i FROM generate_series(11, 20) i$$);
SELECT mimeo.dml_maker('app.h', 1);
SELECT same_rows('app.h');
SELECT on_source($$UPDATE app.h SET v = 'all' WHERE id % 2 = 0; DELETE FROM app.h1 WHERE id = 11; INSERT INTO app.h1 VALUES (21); UPDATE ONLY app.h SET v = 'only' WHERE id = 1$$);
SELECT mimeo.refresh_dml('app.h');
SELECT same_rows('app.h');
SELECT on_source($$TRUNCATE app.h1; INSERT INTO app.h1 VALUES (31)$$);
SELECT mimeo.refresh_dml('app.h');
SELECT same_rows('app.h');
SELECT is((SELECT count(*) FROM app.h), 11::bigint, 'a child that is truncated is not the whole table');
SELECT on_source($$CREATE TABLE app.h2 (PRIMARY KEY (id)) INHERITS (app.h); INSERT INTO app.h2 VALUES (41), (42)$$);
SELECT mimeo.refresh_dml('app.h');
SELECT same_rows('app.h');
SELECT on_source($$DELETE FROM app.h2 WHERE id = 41; TRUNCATE app.h$$);
SELECT mimeo.refresh_dml('app.h');
SELECT same_rows('app.h');

-- Privileges on the source: each gap is told with what closes it, and nothing is made
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t VALUES (1, 'x'); REVOKE TRIGGER ON app.t FROM reader;
    CREATE TABLE app.nokey (id int); CREATE TABLE app.nullable (id int UNIQUE, v text); CREATE VIEW app.view AS SELECT * FROM app.t$$);
CREATE FUNCTION pg_temp.hint(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_hint text;
BEGIN
    EXECUTE p_sql; RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT; RETURN SQLERRM || ' | ' || v_hint;
END $$;
SELECT alike(pg_temp.hint($$SELECT mimeo.dml_maker('app.t', 1)$$),
    'role "reader" may not make a queue in schema "mimeo" and triggers on the table on data source 1 % | Run on the source: GRANT TRIGGER ON "app"."t" TO "reader";', 'no TRIGGER');
SELECT on_source('GRANT TRIGGER ON app.t TO reader; REVOKE SELECT ON app.t FROM reader');
SELECT alike(pg_temp.hint($$SELECT mimeo.dml_maker('app.t', 1)$$), '% | Run on the source: GRANT SELECT ON "app"."t" TO "reader";', 'no SELECT');
SELECT on_source('GRANT SELECT ON app.t TO reader');
SELECT throws_like($$SELECT mimeo.dml_maker('app.nokey', 1)$$, '%has no key that identifies its rows', 'no key');
SELECT throws_ok($$SELECT mimeo.dml_maker('app.nullable', 1, p_pk_name := '{id}', p_pk_type := '{int}')$$, '55000', 'columns of the key of "app.nullable" may be NULL: "id"', 'a key that may be NULL');
SELECT throws_like($$SELECT mimeo.logdel_maker('app.view', 1)$$, '%a logdel job needs a plain or partitioned table', 'a view');
SELECT is((SELECT count(*) FROM pg_tables WHERE tablename IN ('t', 'nokey', 'nullable')), 0::bigint, 'nothing is left here');

-- A maker that comes to nothing leaves nothing on the source
CREATE FUNCTION pg_temp.left_there() RETURNS text LANGUAGE sql AS $$
    SELECT ask_source('SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = ''mimeo''::regnamespace AND relname LIKE ''app\_t\_%'')
        + (SELECT count(*) FROM pg_proc WHERE pronamespace = ''mimeo''::regnamespace AND proname LIKE ''app\_t\_%'')
        + (SELECT count(*) FROM pg_trigger WHERE tgrelid = ''app.t''::regclass)') $$;
BEGIN; SELECT mimeo.dml_maker('app.t', 1); ROLLBACK;
SELECT is(pg_temp.left_there(), '0', 'rolled back');
BEGIN; SAVEPOINT s; SELECT mimeo.dml_maker('app.t', 1); ROLLBACK TO s; COMMIT;
SELECT is(pg_temp.left_there(), '0', 'rolled back to a savepoint');
SELECT on_source($$CREATE INDEX ON app.t (lower(v)); CREATE FUNCTION app.f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'; CREATE INDEX ON app.t (app.f(v))$$);
SELECT throws_ok($$SELECT mimeo.dml_maker('app.t', 1, p_condition := 'WHERE 1 / (id - id) > 0')$$, '22012', 'division by zero', 'failed');
SELECT is(pg_temp.left_there(), '0', 'failed: nothing there');
DO $$ BEGIN PERFORM mimeo.dml_maker('app.t', 1, 'app.good', p_index := false);
    BEGIN PERFORM mimeo.dml_maker('app.nokey', 1); EXCEPTION WHEN OTHERS THEN NULL; END; END $$;
SELECT is(pg_temp.left_there(), '11', 'a maker that fails takes away nothing that another one has made');
SELECT mimeo.dml_destroyer('app.good');
BEGIN; SAVEPOINT s; SELECT mimeo.dml_maker('app.t', 1, p_index := false); ROLLBACK TO s; SELECT mimeo.dml_maker('app.t', 1, p_index := false); COMMIT;
SELECT is(ask_source('SELECT count(*) FROM pg_trigger WHERE tgrelid = ''app.t''::regclass'), '4', 'made, rolled back, and made again');
SELECT mimeo.dml_destroyer('app.t', false);
SELECT mimeo.dml_maker('app.t', 1, p_index := false);
SELECT is(pg_temp.left_there(), '11', 'done: a queue, its sequence, four functions and five triggers');

-- Writers need no privilege of their own, and cannot use the function for more
SELECT on_source($$INSERT INTO app.t VALUES (2, 'owner')$$);
SELECT throws_like($$SELECT on_source('CREATE TABLE app.mine (id int); CREATE TRIGGER x AFTER INSERT ON app.mine REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mimeo.app_t_mimeo_queue_insert()')$$,
    'permission denied for schema mimeo', 'nobody else can use the function');
SELECT dblink_disconnect('owner');
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');

-- Here: another role with nothing but EXECUTE
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk($$SELECT mimeo.refresh_dml('app.t')$$), 'permission denied for function refresh_dml', 'without EXECUTE nobody refreshes');
GRANT EXECUTE ON FUNCTION mimeo.refresh_dml, mimeo.dml_destroyer TO clerk;
SELECT on_source($$UPDATE app.t SET v = 'clerk'$$);
SELECT is(as_clerk($$SELECT mimeo.refresh_dml('app.t')$$), 'done', 'with it, anybody');
SELECT same_rows('app.t');
SELECT is(as_clerk($$SELECT mimeo.dml_destroyer('app.t')$$), 'must be owner of app.t', 'only who owns the destination ends its job');

-- Triggers that were disabled
SELECT on_source($$ALTER TABLE app.t DISABLE TRIGGER USER; UPDATE app.t SET v = 'unseen'$$);
SELECT throws_ok($$SELECT mimeo.refresh_dml('app.t')$$, '55000', NULL, 'disabled triggers are an error');
SELECT is((last_run('app.t')).status, 'critical', 'disabled triggers are noticed');
SELECT on_source('ALTER TABLE app.t ENABLE TRIGGER USER');
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT matches((last_run('app.t')).reason, 'all rows are copied: triggers were disabled', 'and all rows are copied once they are enabled again');
SELECT on_source('ALTER TABLE app.t ENABLE ALWAYS TRIGGER app_t_mimeo_trig_update');
SELECT mimeo.refresh_dml('app.t');
SELECT is((last_run('app.t')).status, 'ok', 'the owner may make them fire ALWAYS');

-- Another copy of the job has emptied the queue
SELECT on_source($$UPDATE app.t SET v = 'first'$$);
SELECT mimeo.refresh_dml('app.t'); SELECT mimeo.refresh_dml('app.t');
CREATE TEMP TABLE kept AS SELECT state FROM mimeo.refresh_config WHERE dest_table = 'app.t';
SELECT on_source($$UPDATE app.t SET v = 'second'$$);
SELECT mimeo.refresh_dml('app.t'); SELECT mimeo.refresh_dml('app.t');
UPDATE mimeo.refresh_config SET state = (SELECT state FROM kept) WHERE dest_table = 'app.t'; UPDATE app.t SET v = 'first';
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT matches((last_run('app.t')).reason, 'by another copy of this job', 'a destination that was restored from a backup is noticed');
SELECT on_source($$UPDATE app.t SET v = 'third'$$);
SELECT mimeo.refresh_dml('app.t');
UPDATE kept SET state = (SELECT state FROM mimeo.refresh_config WHERE dest_table = 'app.t');
SELECT on_source($$UPDATE app.t SET v = 'fourth'$$);
SELECT mimeo.refresh_dml('app.t'); SELECT mimeo.refresh_dml('app.t');
UPDATE mimeo.refresh_config SET state = (SELECT state FROM kept) WHERE dest_table = 'app.t'; UPDATE app.t SET v = 'third';
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT matches((last_run('app.t')).reason, 'by another copy of this job', 'also if the backup was made before its changes were removed');

-- The source is another cluster
UPDATE mimeo.refresh_config SET state = jsonb_set(state, '{system}', '"1"') WHERE dest_table = 'app.t';
SELECT on_source($$UPDATE app.t SET v = 'restored'$$);
SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT matches((last_run('app.t')).reason, 'the source is another cluster now', 'a source that was restored elsewhere is noticed');
SELECT on_source($$UPDATE app.t SET v = 'and goes on'$$);
SELECT mimeo.refresh_dml('app.t'); SELECT mimeo.refresh_dml('app.t');
SELECT same_rows('app.t');
SELECT is(ask_reader($$SELECT count(*) FROM mimeo.app_t_q$$), '1', 'and its queue is emptied');

-- What is gone on the source
SELECT as_reader('DROP TABLE mimeo.app_t_q');
SELECT throws_like($$SELECT mimeo.refresh_dml('app.t')$$, 'queue "mimeo.app_t_q" does not exist on data source 1 %', 'a queue that is gone');
SELECT lives_ok($$SELECT mimeo.dml_destroyer('app.t')$$, 'and the job can still be ended');
SELECT is(pg_temp.left_there(), '0', 'with what is left of it');

-- Up to 99 further destinations
SELECT as_reader($$DO 'BEGIN FOR i IN 0..98 LOOP EXECUTE format(''CREATE TABLE mimeo.app_t_q%s ()'', CASE WHEN i > 0 THEN lpad(i::text, 2, ''0'') END); END LOOP; END'$$);
SELECT mimeo.dml_maker('app.t', 1, p_index := false, p_dest_table := 'app.last');
SELECT is((SELECT control FROM mimeo.refresh_config WHERE dest_table = 'app.last'), 'mimeo.app_t_q99', 'the hundredth destination');
SELECT throws_ok($$SELECT mimeo.dml_maker('app.t', 1, p_index := false, p_dest_table := 'app.more')$$, '54000', '"app.t" already has 100 destinations', 'is the last');

-- Long names
SELECT on_source($$CREATE TABLE app."ünïcödé table name that is as long as PostgreSQL lets it b" (id int PRIMARY KEY)$$);
SELECT lives_ok($$SELECT mimeo.dml_maker('app.ünïcödé table name that is as long as PostgreSQL lets it b', 1)$$, 'a name of 63 bytes');
SELECT on_source($$INSERT INTO app."ünïcödé table name that is as long as PostgreSQL lets it b" VALUES (1)$$);
SELECT mimeo.refresh_dml('app.ünïcödé table name that is as long as PostgreSQL lets it b');
SELECT same_rows('app."ünïcödé table name that is as long as PostgreSQL lets it b"');

-- A source without the schema
SELECT as_reader('DROP SCHEMA mimeo CASCADE');
SELECT alike(pg_temp.hint($$SELECT mimeo.dml_maker('app.t', 1, p_dest_table := 'app.more')$$), '% | Run on the source: CREATE SCHEMA "mimeo"; GRANT USAGE, CREATE ON SCHEMA "mimeo" TO "reader";', 'no schema');

SELECT * FROM finish();
