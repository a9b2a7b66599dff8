-- A refresh works as the owner of its destination: who may say what it does, and that this is asked again at each run.
SELECT plan(71);

SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t SELECT i, 'v' FROM generate_series(1, 10) i; GRANT SELECT ON app.t TO reader$$);
SELECT as_superuser($$CREATE SCHEMA secret CREATE TABLE t (id int PRIMARY KEY, v text); CREATE SCHEMA "ärger" CREATE TABLE t (id int PRIMARY KEY, v text)$$);
GRANT USAGE ON SCHEMA mimeo TO clerk;
GRANT USAGE, CREATE ON SCHEMA app TO clerk;
GRANT SELECT, INSERT, UPDATE ON mimeo.refresh_config, mimeo.refresh_config_table, mimeo.refresh_config_inserter_serial TO clerk;
GRANT EXECUTE ON FUNCTION mimeo.table_maker TO clerk;
CREATE FUNCTION pg_temp.configured_by(p_dest_table text) RETURNS text LANGUAGE sql AS $$
    SELECT state #>> '{configured_by,role}' FROM mimeo.refresh_config
     WHERE dest_table = p_dest_table AND (state #>> '{configured_by,oid}')::oid = (SELECT oid FROM pg_roles WHERE rolname = state #>> '{configured_by,role}')
$$;
CREATE FUNCTION pg_temp.insert_job(p_dest_table text, p_state text = '{}') RETURNS text LANGUAGE sql AS $$
    SELECT format('INSERT INTO mimeo.refresh_config (dest_table, source_table, type, dblink, state) VALUES (%L, ''app.t'', ''table'', 1, %L)', p_dest_table, p_state)
$$;

-- The name of a destination is one name only
SELECT throws_ok(pg_temp.insert_job(d), '42501', format('destination %s belongs to postgres, whose rights dba does not have', d), 'not for others: ' || d)
  FROM unnest('{secret.t,ärger.t,pg_catalog.pg_authid}'::text[]) d;
SELECT throws_ok(pg_temp.insert_job(d), '42501', format('there is no destination %s that dba could have the rights of', d), 'however it is written: ' || d)
  FROM unnest(ARRAY['"secret"."t"', 'secret."t"', E'secret\t.t', E'secret.\nt', E'secret\u00A0.\u00A0t', E'\u00A0secret.t', 'Secret.T', 'SECRET.t', ' secret.t', 'secret.t ', 'ÄRGER.t',
                    'nowhere.t', 't', 'secret.', '']) d;
CREATE TABLE app.mine (id int PRIMARY KEY, v text);
SELECT lives_ok(pg_temp.insert_job('app.mine', '{"configured_by": {"role": "postgres", "oid": 10}}'), 'a job of one''s own');
SELECT is(pg_temp.configured_by('app.mine'), 'dba', 'knows who made it, whatever it said');
SELECT throws_ok($$UPDATE mimeo.refresh_config SET dest_table = 'secret.t' WHERE dest_table = 'app.mine'$$, '42501',
    'destination secret.t belongs to postgres, whose rights dba does not have', 'it does not get another destination');
SELECT lives_ok(format('UPDATE mimeo.refresh_config SET state = %L WHERE dest_table = ''app.mine''', s), 'what it remembers can be changed: ' || s)
  FROM unnest(ARRAY['{"configured_by": {"role": "postgres", "oid": 10}}', '[]', '7', 'null', '{"configured_by": null}']) s;
SELECT is(pg_temp.configured_by('app.mine'), 'dba', 'but not who is responsible');
UPDATE mimeo.refresh_config SET state = '[]' WHERE dest_table = 'app.mine';
SELECT is(pg_temp.configured_by('app.mine'), 'dba', 'nor hidden');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.mine')$$, 'it is refreshed');
SELECT is(pg_temp.configured_by('app.mine'), 'dba', 'which changes nothing of that');

-- The views that write by way of a function
CREATE TABLE app.ins (id int PRIMARY KEY, v text);
SET mimeo_guard.configured_by = '{"role": "postgres", "oid": 10}';
SELECT lives_ok($$INSERT INTO mimeo.refresh_config_inserter_serial (dest_table, source_table, dblink, control) VALUES ('app.ins', 'app.t', 1, 'id')$$, 'a job by way of a view');
SELECT is(pg_temp.configured_by('app.ins'), 'dba', 'knows who made it');
SELECT throws_ok($$INSERT INTO mimeo.refresh_config_inserter_serial (dest_table, source_table, dblink, control) VALUES ('"secret"."t"', 'app.t', 1, 'id')$$, '42501',
    'there is no destination "secret"."t" that dba could have the rights of', 'not for others');
SELECT as_superuser($$UPDATE mimeo.refresh_config_inserter_serial SET period = '1 h' WHERE dest_table = 'app.ins'$$);
SELECT is(pg_temp.configured_by('app.ins'), 'dba', 'a superuser changes how often it runs');
SELECT as_superuser($$UPDATE mimeo.refresh_config_inserter_serial SET condition = 'WHERE id > 0' WHERE dest_table = 'app.ins'$$);
SELECT is(pg_temp.configured_by('app.ins'), 'postgres', 'or what it does');
SET mimeo_guard.configured_by = '{"role": "postgres", "oid": 10}';
UPDATE mimeo.refresh_config_inserter_serial SET condition = NULL WHERE dest_table = 'app.ins';
SELECT is(pg_temp.configured_by('app.ins'), 'dba', 'and dba again');
SELECT lives_ok($$SELECT mimeo.refresh_inserter('app.ins')$$, 'it is refreshed');
SELECT results_eq($$SELECT state ? 'left', state #>> '{configured_by,role}' FROM mimeo.refresh_config WHERE dest_table = 'app.ins'$$, $$VALUES (true, 'dba')$$, 'and remembers both');

-- A view that its owner makes one of the extension's
CREATE VIEW app.refresh_config_table AS SELECT * FROM mimeo.refresh_config;
SELECT throws_ok($$CREATE TRIGGER t INSTEAD OF INSERT ON app.refresh_config_table FOR EACH ROW EXECUTE FUNCTION mimeo.write_refresh_config()$$, '42501',
    'permission denied for function mimeo.write_refresh_config', 'the function behind the views is not for others');
SELECT as_superuser('GRANT EXECUTE ON FUNCTION mimeo.write_refresh_config TO dba');
CREATE TRIGGER t INSTEAD OF INSERT ON app.refresh_config_table FOR EACH ROW EXECUTE FUNCTION mimeo.write_refresh_config();
ALTER EXTENSION mimeo ADD VIEW app.refresh_config_table;
SELECT throws_ok($$INSERT INTO app.refresh_config_table (dest_table, source_table, type, dblink) VALUES ('secret.t', 'app.t', 'table', 1)$$, '42501',
    'app.refresh_config_table is not a view of mimeo', 'nor does it write for a view that was made a member');
ALTER EXTENSION mimeo DROP VIEW app.refresh_config_table;
SELECT as_superuser('REVOKE EXECUTE ON FUNCTION mimeo.write_refresh_config FROM dba');

-- A name that comes to another table
CREATE SCHEMA foo;
CREATE SCHEMA bar;
SELECT mimeo.table_maker('app.t', 1, 'foo.t');
SELECT is(pg_temp.configured_by('foo.t'), 'dba', 'a maker''s job knows the caller');
SELECT as_superuser('CREATE TABLE bar.t (id int PRIMARY KEY, v text); INSERT INTO bar.t VALUES (-1, ''of postgres''); GRANT SELECT ON bar.t TO dba');
ALTER SCHEMA foo RENAME TO was_foo;
ALTER SCHEMA bar RENAME TO foo;
SELECT throws_ok(statement, '42501', 'destination "foo.t" belongs to role "postgres", but role "dba", which configured the job, does not have its rights', statement)
  FROM unnest(ARRAY['SELECT mimeo.refresh_table(''foo.t'')', 'SELECT tap.as_superuser(''SELECT mimeo.refresh_table(''''foo.t'''')'')', 'SELECT mimeo.plan_refresh(''foo.t'')',
                    'SELECT mimeo.validate_rowcount(''foo.t'')', 'SELECT mimeo.validate_content(''foo.t'')']) statement;
CREATE FUNCTION pg_temp.hint_of(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_hint text;
BEGIN
    EXECUTE p_sql;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;
    RETURN v_hint;
END
$$;
SELECT is(pg_temp.hint_of('SELECT mimeo.refresh_table(''foo.t'')'),
    'If the job is as it should be, role "postgres" can confirm it: SELECT "mimeo"."confirm_job"(''foo.t'');', 'the hint says how to confirm it');
SELECT is(pg_temp.hint_of(pg_temp.insert_job('nowhere.t')), 'It has to exist. dest_table is its schema, a dot and its name, as pg_class has them, without quotes.', 'and how a destination is named');
SELECT results_eq('SELECT id FROM foo.t', 'VALUES (-1)', 'nothing has come into it');
SELECT throws_ok($$UPDATE mimeo.refresh_config SET state = state - 'configured_by' WHERE dest_table = 'foo.t'$$, '42501',
    'destination foo.t belongs to postgres, whose rights dba does not have', 'only its owner can confirm the job');
SELECT as_superuser($$UPDATE mimeo.refresh_config SET state = state - 'configured_by' WHERE dest_table = 'foo.t'$$);
SELECT is(pg_temp.configured_by('foo.t'), 'postgres', 'and is responsible then');
SELECT lives_ok($$SELECT mimeo.refresh_table('foo.t')$$, 'it is refreshed then');
SELECT is((SELECT count(*) FROM foo.t), 10::bigint, 'with what it should hold');

-- A table that comes to another owner
SELECT mimeo.table_maker('app.t', 1, 'app.given');
SELECT mimeo.snapshot_maker('app.t', 1, 'app.shown');
UPDATE mimeo.refresh_config SET keep_previous = true WHERE dest_table = 'app.shown';
SELECT mimeo.refresh_snapshot('app.shown', p_check_stats := false);
SELECT is(pg_temp.configured_by('app.shown'), 'dba', 'what a snapshot remembers leaves that alone');
SELECT as_superuser('ALTER TABLE app.given OWNER TO clerk; ALTER VIEW app.shown OWNER TO clerk; ALTER TABLE app.shown_snap1 OWNER TO clerk; ALTER TABLE app.shown_snap2 OWNER TO clerk');
SELECT throws_ok(format('SELECT mimeo.%s(%L)', f, d), '42501', format('destination "%s" belongs to role "clerk", but role "dba", which configured the job, does not have its rights', d), f || ' of what is another''s now')
  FROM (VALUES ('refresh_table', 'app.given'), ('refresh_snapshot', 'app.shown'), ('plan_refresh', 'app.shown'), ('rollback_snapshot', 'app.shown'), ('validate_rowcount', 'app.shown')) v (f, d);
SELECT throws_ok($$UPDATE mimeo.refresh_config SET state = '{}' WHERE dest_table = 'app.given'$$, '42501', 'destination app.given belongs to clerk, whose rights dba does not have', 'who had it cannot confirm it');
SELECT lives_ok($$UPDATE mimeo.refresh_config SET period = '1 day' WHERE dest_table = 'app.given'$$, 'the rest stays open');
SELECT is(pg_temp.configured_by('app.given'), 'dba', 'and changes nothing');
SELECT is(as_clerk($$UPDATE mimeo.refresh_config SET state = state - 'configured_by' WHERE dest_table = 'app.given' RETURNING 'x'$$), 'done', 'its owner can');
SELECT is(pg_temp.configured_by('app.given'), 'clerk', 'and is responsible then');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.given')$$, 'it is refreshed then, whoever calls');
SELECT lives_ok($$SELECT as_superuser('SELECT mimeo.snapshot_destroyer(''app.shown'', false)')$$, 'a job can be destroyed whoever configured it');

-- A planted row, and who is responsible for what others make
SELECT is(as_clerk('SELECT mimeo.table_maker(''app.t'', 1, ''app.of_clerk'')::text'), 'done', 'clerk makes a job');
SELECT is(pg_temp.configured_by('app.of_clerk'), 'clerk', 'of his own');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.of_clerk')$$, 'that dba can refresh');
SELECT mimeo.table_maker('app.t', 1, 'app.planted');
DROP TABLE app.planted;
SELECT as_superuser('CREATE TABLE app.planted (id int PRIMARY KEY, v text)');
SELECT throws_ok('SELECT mimeo.refresh_table(''app.planted'')', '42501', 'destination "app.planted" belongs to role "postgres", but role "dba", which configured the job, does not have its rights',
    'a row that waited for a table of others');

SELECT as_superuser('ALTER ROLE clerk RENAME TO scribe');
SELECT lives_ok($$SELECT mimeo.refresh_table('app.of_clerk')$$, 'a role may get another name');
SELECT as_superuser('ALTER ROLE scribe RENAME TO clerk');

SELECT * FROM finish();
