-- Where users stop: errors that help, cases that need no refusal, and what a DBA looks for in the first minutes. By number.
SELECT no_plan();

SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, v text, secret text);
    INSERT INTO app.t SELECT i, 'v' || i, 's' FROM generate_series(1, 20) i;
    CREATE INDEX t_trgm ON app.t (v); CREATE INDEX ON app.t (lower(v));
$$);

-- N3: everything has a description.
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo') AND obj_description(p.oid, 'pg_proc') IS NULL
$$, 'N3: every function is described');
SELECT is_empty($$
    SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo') AND c.relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL
$$, 'N3: every table and view');
SELECT is_empty($$
    SELECT c.oid::regclass, a.attname FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mimeo') AND c.relkind IN ('r', 'v') AND col_description(c.oid, a.attnum) IS NULL
$$, 'N3: every column');

-- F12
CREATE TABLE app.ddl_log (what text);
SELECT mimeo.dml_maker('app.t', 1);
CREATE FUNCTION app.log_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO ddl_log VALUES (TG_OP); RETURN NEW; END';
CREATE TRIGGER log_it AFTER INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.log_it();
SELECT on_source($$INSERT INTO app.t VALUES (21, 'new')$$);
SELECT alike(told($$SELECT mimeo.refresh_dml('app.t')$$),
    '42P01 relation "ddl_log" does not exist%search_path = pg_catalog, pg_temp%context: %PL/pgSQL function app.log_it() line 1%', 'F12: a name that a trigger does not find');
SELECT alike((last_run('app.t')).error, '%CONTEXT: PL/pgSQL function app.log_it() line 1%', 'F12: the history has its CONTEXT');
ALTER FUNCTION app.log_it() SET search_path = app;
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.t')$$, 'F12: what the HINT says helps');
ALTER TABLE app.t ADD CONSTRAINT small CHECK (id < 100), ADD CONSTRAINT known UNIQUE (v);
SELECT on_source($$INSERT INTO app.t VALUES (101, 'large')$$);
SELECT alike(told($$SELECT mimeo.refresh_dml('app.t')$$), '23514 %| names: app t small', 'F12: the names of schema, table and constraint');
SELECT alike((last_run('app.t')).error, E'%\nSCHEMA NAME: app\nTABLE NAME: t\nCONSTRAINT NAME: small', 'F12: in the history, too');
SELECT on_source($$DELETE FROM app.t WHERE id = 101; INSERT INTO app.t VALUES (50, 'own code')$$);
CREATE FUNCTION app.own_code() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
    IF NEW.id = 50 THEN RAISE EXCEPTION 'the application says no' USING ERRCODE = 'MY002', TABLE = 'theirs'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER own_code BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.own_code();
SELECT alike(told($$SELECT mimeo.refresh_dml('app.t')$$), 'MY002 the application says no %app.own_code() line 4 at RAISE%| names: theirs', 'F12: a SQLSTATE of the application, and the context of the error itself');
SELECT is((last_run('app.t')).sqlstate, 'MY002', 'F12: in the history, too');
DROP TRIGGER own_code ON app.t;
SELECT on_source($$DELETE FROM app.t WHERE id = 50$$);
DELETE FROM app.t WHERE secret IS NULL;
ALTER TABLE app.t DROP CONSTRAINT known, ALTER COLUMN secret SET NOT NULL;
SELECT alike(told($$SELECT mimeo.refresh_dml('app.t', p_repull := true)$$), '23502 %| names: app t secret', 'F12: the name of a column');
SELECT mimeo.dml_destroyer('app.t', false);

-- F15
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.c1', p_condition := 'WHERE id < 5 ; ')$$, 'F15: a semicolon at the end');
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.c2', p_condition := 'WHERE id < 5 -- only some')$$, 'F15: a comment at the end');
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.c3', p_condition := E'WHERE id < 5; -- only some')$$, 'F15: both');
SELECT lives_ok($$SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.c4', p_condition := 'WHERE id < 5 /* some */;')$$, 'F15: where a query goes on behind it');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.c1'), mimeo.refresh_table('app.c2'), mimeo.refresh_table('app.c3'), mimeo.refresh_inserter('app.c4')$$, 'F15: they are refreshed');
SELECT is((SELECT count(*) FROM app.c1) + (SELECT count(*) FROM app.c2) + (SELECT count(*) FROM app.c3) + (SELECT count(*) FROM app.c4), 16::bigint, 'F15: and mean what they say');
SELECT alike(told(format('SELECT mimeo.table_maker(''app.t'', 1, ''app.c5'', p_condition := %L)', c)), '42601 the condition cannot be used:%| hint: A condition is what follows FROM%WHERE%',
    'F15: ' || c) FROM unnest('{id < 5,WHERE id < 5 /* open,WHERE id < 5; DROP TABLE t,(id < 5),WHERE id < $1}'::text[]) c;
SELECT alike(told($$SELECT mimeo.table_maker('app.t', 1, 'app.c5', p_condition := 'active')$$), '42%| hint: %WHERE%', 'F15: a word that would be taken for an alias');

-- F17
SELECT mimeo.snapshot_maker('app.t', 1, 'app.orders');
SELECT is((SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'app.orders_snap1'::regclass),
    'orders_snap1_id_pk snap1_orders_snap1_lower_idx snap1_orders_snap1_trgm', 'F17: only whole words of an index name are replaced');
SELECT on_source('ALTER TABLE app.t ADD COLUMN more int');
SELECT mimeo.refresh_snapshot('app.orders');
ALTER INDEX app.snap2_orders_snap2_trgm RENAME TO snap2_orders_snap2_orders_snap2rgm;
SELECT on_source('ALTER TABLE app.t DROP COLUMN more');
SELECT mimeo.refresh_snapshot('app.orders'); SELECT mimeo.refresh_snapshot('app.orders', p_check_stats := false);
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = 'app.orders_snap2'::regclass), 3::bigint, 'F17: an index that an older release has named is not made twice');

-- F20
SELECT on_source($$CREATE TABLE app.parent (id int PRIMARY KEY, v text); CREATE TABLE app.kid () INHERITS (app.parent);
    INSERT INTO app.parent VALUES (1, 'p'); INSERT INTO app.kid VALUES (1, 'k')$$);
SELECT alike(told(format('SELECT mimeo.%s_maker(''app.parent'', 1)', m)),
    '23505 rows of "app.parent" and of the tables that inherit from it have the same key%| hint: %WHERE tableoid = ''app.parent''::regclass%', 'F20: ' || m)
  FROM unnest('{snapshot,table,dml,logdel}'::text[]) m;
SELECT lives_ok($$SELECT mimeo.dml_maker('app.parent', 1, p_condition := $c$WHERE tableoid = 'app.parent'::regclass$c$)$$, 'F20: what the HINT says helps');
SELECT is((SELECT v FROM app.parent), 'p', 'F20: the table alone');

SELECT on_source($$CREATE TABLE app.up (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), v text); CREATE TABLE app.up_kid (PRIMARY KEY (id)) INHERITS (app.up);
    INSERT INTO app.up (id, v) VALUES (1, 'p'); INSERT INTO app.up_kid (id, v) VALUES (2, 'k')$$);
SELECT mimeo.updater_maker('app.up', 'time', 'at', 1, '0 seconds');
SELECT lives_ok($$SELECT mimeo.refresh_updater('app.up')$$, 'F20: an updater of a parent, as long as keys are apart');
SELECT on_source($$INSERT INTO app.up_kid (id, v) VALUES (1, 'the same key')$$);
SELECT alike(told($$SELECT mimeo.refresh_updater('app.up')$$), '23505 rows of "app.up" and of the tables that inherit from it have the same key%', 'F20: a key of the parent in a child that comes later');
SELECT is((SELECT v FROM app.up WHERE id = 1), 'p', 'F20: does not take its place');

-- F21
SELECT on_source('ALTER TABLE app.t RENAME TO t2');
SELECT alike(told('SELECT mimeo.refresh_table(''app.c1'')'), '42P01 table "app.t" does not exist on data source 1%UPDATE "mimeo"."refresh_config" SET source_table = ''…'' WHERE dest_table = ''app.c1'';%',
    'F21: the HINT names source_table');
SELECT alike(told(format('SELECT mimeo.refresh_%s(%L)', m, d)), '42P01 %UPDATE "mimeo"."refresh_config"%', 'F21: ' || m)
  FROM (VALUES ('inserter', 'app.c4'), ('snapshot', 'app.orders')) j (m, d);
SELECT on_source('ALTER TABLE app.t2 RENAME TO t');
SELECT alike(told($$SELECT mimeo.table_maker('pg_catalog.pg_class', 1, 'app.pg_class')$$), '0A000 "pg_catalog.pg_class" has columns whose values have no meaning on another server: %pg_node_tree%p_filter%',
    'F21: types that cannot be copied are named');
SELECT alike(told($$SELECT mimeo.table_maker('pg_catalog.pg_stats', 1, 'app.pg_stats')$$), '0A000 %most_common_vals"%(anyarray)%', 'F21: anyarray');

-- F23
SELECT on_source($$CREATE FUNCTION app.norm(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
    CREATE TABLE app.normed (id int PRIMARY KEY, v text); INSERT INTO app.normed VALUES (1, 'A'); CREATE INDEX normed_v ON app.normed (app.norm(v))$$);
SELECT is((SELECT count(*) FROM mimeo.check_permissions(1, 'app.normed', 'table') WHERE object = 'index normed_v' AND NOT granted
    AND fix LIKE '%function app.norm(text) does not exist%CREATE INDEX "normed_v" ON %(app.norm(v));'), 1::bigint, 'F23: check_permissions tells of an index that cannot be made here');
SELECT is((SELECT count(*) FROM pg_class WHERE relname LIKE 'normed%'), 0::bigint, 'F23: and leaves nothing');
SELECT lives_ok(format('SELECT mimeo.%s_maker(''app.normed'', %s1, p_dest_table := ''app.normed_%1$s'')', m, a), 'F23: ' || m)
  FROM (VALUES ('snapshot', ''), ('table', ''), ('inserter', '''serial'', ''id'', '), ('updater', '''serial'', ''id'', '), ('dml', ''), ('logdel', '')) j (m, a);
SELECT is((SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid WHERE c.relname LIKE 'normed_%' AND c.relname NOT LIKE '%snap_' AND x.indisunique), 5::bigint,
    'F23: the key has its index in each');

-- F25
SELECT alike(told(statement), '22004 ' || argument || ' must not be NULL | hint: %', 'F25: ' || statement) FROM (VALUES
    ('p_destination', 'SELECT mimeo.refresh_snapshot(NULL)'), ('p_destination', 'SELECT mimeo.refresh_table(NULL)'), ('p_destination', 'SELECT mimeo.refresh_inserter(NULL)'),
    ('p_destination', 'SELECT mimeo.refresh_updater(NULL)'), ('p_destination', 'SELECT mimeo.refresh_dml(NULL)'), ('p_destination', 'SELECT mimeo.refresh_logdel(NULL)'),
    ('p_destination', 'SELECT mimeo.rollback_snapshot(NULL)'), ('p_destination', 'SELECT mimeo.plan_refresh(NULL)'), ('p_destination', 'SELECT mimeo.confirm_job(NULL)'),
    ('p_destination', 'SELECT mimeo.validate_rowcount(NULL)'), ('p_destination', 'SELECT mimeo.validate_content(NULL)'), ('p_destination', 'SELECT mimeo.differences(NULL)'),
    ('p_dest_table', 'SELECT mimeo.concurrent_lock_check(NULL)'), ('p_dest_table', 'SELECT mimeo.snapshot_destroyer(NULL)'), ('p_dest_table', 'SELECT mimeo.table_destroyer(NULL)'),
    ('p_dest_table', 'SELECT mimeo.inserter_destroyer(NULL)'), ('p_dest_table', 'SELECT mimeo.updater_destroyer(NULL)'), ('p_dest_table', 'SELECT mimeo.dml_destroyer(NULL)'),
    ('p_dest_table', 'SELECT mimeo.logdel_destroyer(NULL)'), ('p_keep_table', 'SELECT mimeo.table_destroyer(''app.c1'', NULL)'), ('p_keep_source', 'SELECT mimeo.dml_destroyer(''app.c1'', p_keep_source := NULL)'), ('p_src_table', 'SELECT mimeo.snapshot_maker(NULL, 1)'),
    ('p_dblink_id', 'SELECT mimeo.table_maker(''app.t'', NULL)'), ('p_index', 'SELECT mimeo.dml_maker(''app.t'', 1, p_index := NULL)'), ('p_type', 'SELECT mimeo.inserter_maker(''app.t'', NULL, ''id'', 1)'),
    ('p_control_field', 'SELECT mimeo.updater_maker(''app.t'', ''serial'', NULL, 1)'), ('p_pulldata', 'SELECT mimeo.refresh_snapshot(''app.orders'', p_pulldata := NULL)'),
    ('p_repull', 'SELECT mimeo.refresh_inserter(''app.c4'', p_repull := NULL)'), ('p_debug', 'SELECT mimeo.refresh_dml(''app.d'', p_debug := NULL)'),
    ('p_type', 'SELECT mimeo.check_permissions(1, ''app.t'', NULL)'), ('p_views', 'SELECT mimeo.check_missing_source_tables(1, NULL)'), ('p_show', 'SELECT mimeo.validate_content(''app.c1'', p_show := NULL)')) s (argument, statement);
SELECT alike(told(statement), '22004 ' || argument || ' must not hold NULL | hint: %', 'F25: ' || statement) FROM (VALUES
    ('p_filter', 'SELECT mimeo.snapshot_maker(''app.t'', 1, p_filter := ''{id,null}'')'), ('p_sequences', 'SELECT mimeo.table_maker(''app.t'', 1, p_sequences := ''{null}'')'),
    ('p_pk_name', 'SELECT mimeo.updater_maker(''app.t'', ''serial'', ''id'', 1, p_pk_name := ''{null}'', p_pk_type := ''{int}'')'),
    ('p_pk_type', 'SELECT mimeo.dml_maker(''app.t'', 1, p_pk_name := ''{id}'', p_pk_type := ''{null}'')'), ('p_filter', 'SELECT mimeo.check_permissions(1, ''app.t'', p_filter := ''{null}'')')) s (argument, statement);
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE error ~ 'backtrace|panic|\.rs:|core::'), 0::bigint, 'F25: no backtrace in the history');

-- F26
SELECT mimeo.snapshot_maker('app.t', 1, 'app.looped');
UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'app.looped'; -- so that the twins take turns
SELECT on_source('UPDATE app.t SET v = v || ''!''');
DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM app.looped LOOP PERFORM mimeo.refresh_snapshot('app.looped'); END LOOP; END $$;
SELECT is((SELECT count(*) FROM app.looped WHERE v LIKE '%!'), 21::bigint, 'F26: a loop over the view that refreshes it');
SELECT is((SELECT string_agg(status, ' ' ORDER BY status) FROM (SELECT DISTINCT status FROM mimeo.run_history WHERE dest_table = 'app.looped') h), 'ok skipped', 'F26: without an error');
SELECT on_source('UPDATE app.t SET v = v || ''?''');
BEGIN;
DECLARE reading CURSOR FOR SELECT id FROM app.looped ORDER BY id;
FETCH 1 FROM reading;
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.looped')$$, 'F26: a cursor on the view');
SELECT alike(told($$SELECT mimeo.refresh_snapshot('app.looped', p_check_stats := false)$$), '55006 "app.looped_snap%" is being read by a cursor or a query of this session%', 'F26: once more, and the twin that it reads is needed');
SELECT results_eq('FETCH 2 FROM reading', 'VALUES (2), (3)', 'F26: it reads on');
COMMIT;
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.looped', p_check_stats := false)$$, 'F26: the next refresh empties what was left');
SELECT is((SELECT count(*) FROM app.looped WHERE v LIKE '%?'), 21::bigint, 'F26: and is right');

-- C1
SELECT lives_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.later', p_sequences := '{app.later_ids}')$$, 'C1: a sequence that is made right after');
SELECT is((last_run('app.later')).status, 'warning', 'C1: the first run warns of it');
CREATE SEQUENCE app.later_ids; ALTER TABLE app.later ALTER id SET DEFAULT nextval('app.later_ids');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.later')$$, 'C1: when it is there');
SELECT is(nextval('app.later_ids'), 22::bigint, 'C1: it follows the rows');
SELECT is((last_run('app.later')).status, 'ok', 'C1: and nothing is warned of');

-- C2
SELECT as_superuser('CREATE ROLE first_minutes_owner; GRANT first_minutes_owner TO dba');
CREATE SCHEMA closed; GRANT USAGE, CREATE ON SCHEMA closed TO first_minutes_owner;
SELECT mimeo.snapshot_maker('app.t', 1, 'closed.s'), mimeo.table_maker('app.t', 1, 'closed.t'), mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'closed.i'),
       mimeo.updater_maker('app.t', 'serial', 'id', 1, '0', 'closed.u'), mimeo.dml_maker('app.t', 1, 'closed.d'), mimeo.logdel_maker('app.t', 1, 'closed.l');
SELECT as_superuser(format('ALTER TABLE closed.%I OWNER TO first_minutes_owner', relname)) FROM pg_class WHERE relnamespace = 'closed'::regnamespace AND relkind IN ('r', 'v');
GRANT SELECT ON closed.s TO clerk; ALTER VIEW closed.s SET (security_barrier = true);
REVOKE CREATE ON SCHEMA closed FROM first_minutes_owner;
SELECT mimeo.confirm_job(dest_table) FROM mimeo.refresh_config WHERE dest_table LIKE 'closed.%';
SELECT on_source($$UPDATE app.t SET v = 'closed'; INSERT INTO app.t VALUES (30, 'closed')$$);
SELECT lives_ok(format('SELECT mimeo.refresh_%s(%L)', m, 'closed.' || left(m, 1)), 'C2: without CREATE: ' || m) FROM unnest('{snapshot,table,inserter,updater,dml,logdel}'::text[]) m;
SELECT is((SELECT count(*) FROM closed.s WHERE v = 'closed') || ' ' || (SELECT count(*) FROM closed.t WHERE v = 'closed') || ' ' || (SELECT count(*) FROM closed.d WHERE v = 'closed'),
    '22 22 22', 'C2: all is there');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('closed.s', p_check_stats := false), mimeo.refresh_table('closed.t')$$, 'C2: and once more');
SELECT is((SELECT count(*) FROM closed.s), 22::bigint, 'C2: swapped back');
SELECT is((SELECT reloptions::text || has_table_privilege('clerk', 'closed.s', 'SELECT') FROM pg_class WHERE oid = 'closed.s'::regclass), '{security_barrier=true}true', 'C2: what is on the view stays');
SELECT alike(pg_get_viewdef('closed.s'::regclass), '% FROM closed.s_snap%', 'C2: it is a view like any other');
CREATE VIEW app.on_closed AS SELECT id FROM closed.s;
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('closed.s', p_check_stats := false)$$, 'C2: with a view on it');
SELECT is((SELECT count(*) FROM app.on_closed), 22::bigint, 'C2: which goes on');
SELECT on_source('ALTER TABLE app.t ADD COLUMN extra int');
SELECT alike(told($$SELECT mimeo.refresh_snapshot('closed.s')$$), '42501 permission denied for schema closed | hint: Its owner, role "dba", or a superuser can run: GRANT CREATE ON SCHEMA "closed" TO "first_minutes_owner";%',
    'C2: where something is made, the error has the GRANT');
SELECT on_source('ALTER TABLE app.t DROP COLUMN extra');
REVOKE USAGE ON SCHEMA closed FROM first_minutes_owner;
SELECT alike(told(format('SELECT mimeo.refresh_%s(%L)', m, 'closed.' || left(m, 1))), '42501 permission denied for schema closed | hint: %GRANT USAGE ON SCHEMA "closed" TO "first_minutes_owner";%',
    'C2: without USAGE: ' || m) FROM unnest('{snapshot,table,inserter,updater,dml,logdel}'::text[]) m;
GRANT USAGE ON SCHEMA closed TO first_minutes_owner;

-- C6
CREATE FUNCTION app.tell_activity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'activity: %', (SELECT query FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid());
END $$;
CREATE TRIGGER tell_activity BEFORE INSERT ON app.c1 FOR EACH ROW EXECUTE FUNCTION app.tell_activity();
SELECT alike(told($$SELECT mimeo.refresh_table('app.c1')$$), '% activity: mimeo.refresh_table(''app.c1''): copy%', 'C6: pg_stat_activity begins with the function and the job');
DROP TRIGGER tell_activity ON app.c1;
-- C8
SELECT is((SELECT count(*) FROM pg_indexes WHERE schemaname = 'closed' AND indexname = 'l_mimeo_source_deleted'), 1::bigint, 'C8: a logdel table has an index on mimeo_source_deleted');
SELECT mimeo.logdel_maker('app.t', 1, 'app.no_index', p_index := false);
SELECT is((SELECT count(*) FROM pg_indexes WHERE tablename = 'no_index' AND indexname LIKE '%deleted'), 0::bigint, 'C8: not without p_index');

-- U6
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.c4', p_repull_start := '1')$$, 'U6: a range without p_repull does nothing, as in 1.5.1');
-- U7
SELECT on_source($$CREATE TABLE app.m (id int PRIMARY KEY, k numeric, v text, at timestamptz NOT NULL DEFAULT clock_timestamp()); INSERT INTO app.m SELECT i, i, 'v' FROM generate_series(1, 100) i$$);
SELECT mimeo.dml_maker('app.m', 1, 'app.m_d'), mimeo.logdel_maker('app.m', 1, 'app.m_l'), mimeo.updater_maker('app.m', 'time', 'at', 1, '0 seconds', 'app.m_u'),
       mimeo.snapshot_maker('app.m', 1, 'app.m_s'), mimeo.table_maker('app.m', 1, 'app.m_t');
SELECT mimeo.refresh_updater('app.m_u');
DELETE FROM app.m_d WHERE id = 10; UPDATE app.m_d SET v = 'by hand' WHERE id = 11; INSERT INTO app.m_d VALUES (1000, 1, 'extra', now()); DELETE FROM app.m_u WHERE id = 10; UPDATE app.m_l SET v = 'by hand' WHERE id = 7;
SELECT on_source($$UPDATE app.m SET v = 'later', at = clock_timestamp() WHERE id = 20; DELETE FROM app.m WHERE id = 21; INSERT INTO app.m VALUES (200, 200, 'new')$$);
SELECT results_eq($$SELECT key, difference, may_wait FROM mimeo.differences('app.m_d') ORDER BY (key ->> 'id')::int$$, $$VALUES
    ('{"id": 10}'::jsonb, 'only on the source', false), ('{"id": 11}', 'different', false), ('{"id": 20}', 'different', true), ('{"id": 21}', 'only here', true),
    ('{"id": 200}', 'only on the source', true), ('{"id": 1000}', 'only here', false)$$, 'U7: which rows differ, and which of them may just wait');
SELECT is((SELECT string_agg(key ->> 'id', ' ' ORDER BY (key ->> 'id')::int) FROM mimeo.differences('app.m_l') WHERE NOT may_wait), '7', 'U7: of a logdel job');
SELECT is((SELECT string_agg(key ->> 'id' || may_wait, ' ' ORDER BY (key ->> 'id')::int) FROM mimeo.differences('app.m_u', NULL, '0 seconds')), '10false 20true 21false', 'U7: of an updater');
SELECT is((SELECT count(*) FILTER (WHERE may_wait) || ' of ' || count(*) FROM mimeo.differences('app.m_s')), '3 of 3', 'U7: of a snapshot whose source has changed all may wait');
SELECT mimeo.refresh_dml('app.m_d'), mimeo.refresh_snapshot('app.m_s');
SELECT is((SELECT string_agg(key ->> 'id', ' ' ORDER BY (key ->> 'id')::int) FROM mimeo.differences('app.m_d')), '10 11 1000', 'U7: after a refresh only what is lost is left');
SELECT is((SELECT bool_or(may_wait) FROM mimeo.differences('app.m_d')), false, 'U7: and waits for nothing, though the queue still has the changes');
SELECT is((SELECT count(*) FROM mimeo.differences('app.m_s')), 0::bigint, 'U7: none where both sides are the same');
SELECT is((SELECT count(*) FROM mimeo.differences('app.m_d', p_limit := 2)), 2::bigint, 'U7: not more than p_limit');
SELECT alike(told($$SELECT mimeo.differences('app.m_d', p_limit := -1)$$), '22023 p_limit is -1%', 'U7: a limit that is none');
SELECT alike(told($$SELECT mimeo.differences('app.m_d', '1 day')$$), '22023 %', 'U7: intervals of a job that has none');

SELECT on_source($$CREATE TABLE app.allowed (id int); INSERT INTO app.allowed VALUES (1), (2);
    CREATE FUNCTION app.isok(int, int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM app.allowed a WHERE a.id = $1)';
    CREATE OPERATOR app.=? (LEFTARG = int, RIGHTARG = int, FUNCTION = app.isok)$$);
SELECT mimeo.snapshot_maker('app.m', 1, 'app.m_op', p_condition := 'WHERE id OPERATOR(app.=?) 0');
SELECT on_source('INSERT INTO app.allowed VALUES (3)');
SELECT mimeo.refresh_snapshot('app.m_op');
SELECT is((SELECT count(*) FROM app.m_op), 3::bigint, 'a condition that calls a function by an operator is asked each time');
-- A destination that is kept, of a partitioned table: nothing has changed since the maker, so nothing is copied.
SELECT on_source($$CREATE TABLE app.pt (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE app.pt_1 PARTITION OF app.pt FOR VALUES FROM (0) TO (100); INSERT INTO app.pt SELECT i FROM generate_series(1, 10) i$$);
CREATE TABLE app.pt_kept (id int PRIMARY KEY, v text); INSERT INTO app.pt_kept VALUES (77, 'mine');
SELECT mimeo.dml_maker('app.pt', 1, 'app.pt_kept'), mimeo.dml_maker('app.pt', 1, 'app.pt_new');
SELECT mimeo.refresh_dml('app.pt_kept');
SELECT is((SELECT string_agg(id::text, ' ') FROM app.pt_kept), '77', 'a destination that is kept gets what changes from then on');
SELECT is((last_run('app.pt_kept')).status || ' ' || (last_run('app.pt_new')).status, 'ok ok', 'and no run has anything to warn of');
SELECT on_source('TRUNCATE app.pt_1');
SELECT is((SELECT count(*) FILTER (WHERE may_wait) || ' of ' || count(*) FROM mimeo.differences('app.pt_new')), '10 of 10', 'U7: a partition that was truncated waits, too');

-- U8
SELECT on_source('REVOKE SELECT ON app.m FROM reader; GRANT SELECT (id, v) ON app.m TO reader');
SELECT is((SELECT string_agg(fix, ' ') FROM mimeo.check_permissions(1, 'app.m', 'dml', 'app.m_new', '{id,v}') WHERE NOT granted), NULL, 'U8: with p_filter the other columns are not asked for');
SELECT alike((SELECT string_agg(fix, ' ') FROM mimeo.check_permissions(1, 'app.m', 'dml', 'app.m_new') WHERE NOT granted), '%GRANT SELECT ("k", "at")%', 'U8: without it, they are');
SELECT mimeo.table_maker('app.m', 1, 'app.m_f', p_filter := '{id,v}');
SELECT is((SELECT string_agg(fix, ' ') FROM mimeo.check_permissions(1, 'app.m', 'table', 'app.m_f') WHERE NOT granted), NULL, 'U8: a job that is there has its own filter');
SELECT alike(told($$SELECT mimeo.check_permissions(1, 'app.m', p_filter := '{nope}')$$), '42703 the filter names columns that "app.m" does not have: "nope"%', 'U8: a filter that names what is not there');
SELECT on_source('REVOKE ALL ON app.m FROM reader; REVOKE ALL (id, v) ON app.m FROM reader');
SELECT is((SELECT string_agg(fix, ' ') FROM mimeo.check_permissions(1, 'app.m', 'snap', 'app.m_new', '{id,v}') WHERE NOT granted), 'GRANT SELECT ("id", "v") ON "app"."m" TO "reader";',
    'U8: without any right, only the columns of the filter are asked for');
SELECT alike(told($$SELECT mimeo.snapshot_maker('app.m', 1, 'app.m_new', p_filter := '{id,v}')$$), '42501 %GRANT SELECT ("id", "v") ON "app"."m" TO "reader";%', 'U8: the maker says the same');
SELECT on_source('GRANT SELECT, TRIGGER ON app.m TO reader');
SELECT alike(told($$SELECT mimeo.snapshot_maker('app.m', 1, 'app.m_s')$$), '42710 Snapshot replication already defined for app.m_s%', 'U9: a maker of a job that is there says so');

-- U9
SELECT mimeo.snapshot_maker('app.m', 1, 'app.p1', p_period := '5 minutes'), mimeo.table_maker('app.m', 1, 'app.p2', p_period := '1 hour'),
       mimeo.inserter_maker('app.m', 'time', 'at', 1, p_dest_table := 'app.p3', p_period := '1 day'), mimeo.updater_maker('app.m', 'time', 'at', 1, p_dest_table := 'app.p4', p_period := '1 mon'),
       mimeo.dml_maker('app.m', 1, 'app.p5', p_period := '0'), mimeo.logdel_maker('app.m', 1, 'app.p6', p_period := '90 seconds');
SELECT is((SELECT string_agg(period::text, ' ' ORDER BY dest_table) FROM mimeo.refresh_config WHERE dest_table LIKE 'app.p_'), '00:05:00 01:00:00 1 day 1 mon 00:00:00 00:01:30', 'U9: makers take a period');
SELECT alike(told($$SELECT mimeo.snapshot_maker('app.m', 1, 'app.p7', p_period := '-1 minute')$$), '22023 p_period is negative%', 'U9: a negative one is refused');
SELECT is((SELECT unscheduled FROM mimeo.health), (SELECT count(*) FROM mimeo.refresh_config WHERE period IS NULL), 'U9: health counts the jobs that nobody refreshes by itself');

-- U5
SELECT is((SELECT count(*) FROM mimeo.progress), 0::bigint, 'U5: nothing runs');
BEGIN;
SELECT mimeo.refresh_table('app.p2');
SELECT is((SELECT dest_table || ' ' || type || ' ' || (pid = pg_backend_pid()) || ' ' || rows_expected FROM mimeo.progress), 'app.p2 table true 100', 'U5: what runs is shown');
GRANT USAGE ON SCHEMA mimeo TO clerk;
COMMIT;

-- U12
SELECT alike(told($$SELECT mimeo.table_maker('app.m', 1, 'nowhere.m')$$), '3F000 schema "nowhere" does not exist on the destination | hint: Run on the destination: CREATE SCHEMA "nowhere"; (which needs CREATE on the database)%', 'U12: who can make a schema');
SELECT * FROM finish();
