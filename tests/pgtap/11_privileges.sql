-- table, inserter and updater: who may do what, and as whom it is done.
SELECT plan(21);

SELECT on_source($$CREATE TABLE app.t (id bigserial PRIMARY KEY, v text); INSERT INTO app.t (v) SELECT 'v' || i FROM generate_series(1, 20) i;
    REVOKE SELECT ON app.t FROM reader$$);
SELECT throws_like(format($$SELECT mimeo.%s_maker('app.t', %s1)$$, m, a), 'role "reader" may not read "app.t" on data source 1 %',
    m || ': SELECT on the source is missing')
  FROM (VALUES ('table', ''), ('inserter', $$'serial', 'id', $$), ('updater', $$'serial', 'id', $$)) v(m, a);
SELECT on_source('GRANT SELECT ON app.t TO reader');
SELECT mimeo.table_maker('app.t', 1, 'app.by_table');
SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.by_inserter');
SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.by_updater');
SELECT on_source($$INSERT INTO app.t (v) SELECT 'new' FROM generate_series(1, 5)$$);

-- Another role, with nothing but EXECUTE
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk(format('SELECT mimeo.refresh_%s(''app.by_%1$s'')', m)), 'permission denied for function refresh_' || m,
    m || ': without EXECUTE nobody refreshes') FROM unnest('{table,inserter,updater}'::text[]) m;
GRANT EXECUTE ON FUNCTION mimeo.refresh_table, mimeo.refresh_inserter, mimeo.refresh_updater TO clerk;
SELECT is(as_clerk(format('SELECT mimeo.refresh_%s(''app.by_%1$s'')', m)), 'done', m || ': a role with nothing but EXECUTE refreshes')
  FROM unnest('{table,inserter,updater}'::text[]) m;
SELECT results_eq($$SELECT (SELECT count(*) FROM app.by_table), (SELECT count(*) FROM app.by_inserter), (SELECT count(*) FROM app.by_updater)$$,
    $$VALUES (25::bigint, 24::bigint, 24::bigint)$$, 'and the rows are there');
SELECT is((SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'app'::regnamespace), 'dba',
    'everything still belongs to its owner');

-- Code on a destination runs as its owner, not as the caller.
CREATE FUNCTION app.who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'run by % with %', current_user, current_setting('search_path');
END
$$;
CREATE TRIGGER who BEFORE INSERT ON app.by_table FOR EACH ROW EXECUTE FUNCTION app.who();
CREATE TRIGGER who BEFORE INSERT ON app.by_inserter FOR EACH ROW EXECUTE FUNCTION app.who();
CREATE TRIGGER who BEFORE INSERT OR UPDATE ON app.by_updater FOR EACH ROW EXECUTE FUNCTION app.who();
SELECT on_source($$INSERT INTO app.t (v) SELECT 'newer' FROM generate_series(1, 5)$$);
SELECT is(as_clerk(format('SELECT mimeo.refresh_%s(''app.by_%1$s'')', m)), 'run by dba with pg_catalog, pg_temp', m || ': a trigger runs as the owner')
  FROM unnest('{table,inserter,updater}'::text[]) m;

-- What cannot be written to
ALTER TABLE app.by_inserter ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT throws_ok($$SELECT mimeo.refresh_inserter('app.by_inserter')$$, '42809',
    'destination "app.by_inserter" cannot be written to by mimeo: row security is forced on its owner', 'row security is not passed over');
CREATE VIEW app.view AS SELECT 1::bigint AS id, 'x' AS v;
SELECT throws_ok($$SELECT mimeo.table_maker('app.t', 1, 'app.view')$$, '42809',
    'destination "app.view" cannot be written to by mimeo: it is not a table', 'a view is no destination');

-- Who may end a job
GRANT EXECUTE ON FUNCTION mimeo.table_destroyer, mimeo.table_maker TO clerk;
SELECT is(as_clerk($$SELECT mimeo.table_destroyer('app.by_table')$$), 'must be owner of app.by_table', 'only who owns the destination ends its job');
SELECT alike(as_clerk($$SELECT mimeo.table_maker('app.t', 1, 'app.by_clerk')$$), 'permission denied for schema app', 'and who may create there makes one');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.by_inserter')$$, '42809', 'destination table "app.by_inserter" is a job of type inserter, not table',
    'the refresher of another method');
SELECT throws_ok($$SELECT mimeo.refresh_table('app.nothing')$$, '42704',
    'Destination table given in argument (app.nothing) is not managed by mimeo', 'an unknown destination');
DROP TABLE app.by_updater;
SELECT throws_ok($$SELECT mimeo.refresh_updater('app.by_updater')$$, '55000', 'destination "app.by_updater" is not as mimeo left it: it is missing',
    'a destination that was dropped');

SELECT * FROM finish();
