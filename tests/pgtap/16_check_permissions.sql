-- check_permissions: each gap with the statement that closes it; and makers that fail say the same.
SELECT plan(74);

CREATE FUNCTION pg_temp.gaps(p_source text, p_type text = 'snap', p_dest text = NULL, p_id int = 1) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' | ', side, object, privilege, fix) FROM mimeo.check_permissions(p_id, p_source, p_type, p_dest) WHERE NOT granted
$$;
-- What a statement ends with, and its hint.
CREATE FUNCTION pg_temp.hint(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_hint text;
BEGIN
    EXECUTE p_sql; RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT; RETURN SQLSTATE || ' ' || SQLERRM || ' | ' || v_hint;
END $$;
CREATE FUNCTION pg_temp.ask_clerk(p_sql text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT x FROM dblink(format('host=127.0.0.1 port=%s dbname=%L user=clerk password=''clerk secret''', inet_server_port(), current_database()),
        p_sql) AS t(x text)
$$;

SELECT is(pg_get_function_arguments(p.oid) || ' -> ' || pg_get_function_result(p.oid),
    'p_dblink_id integer, p_src_table text, p_type text DEFAULT ''snap''::text, p_dest_table text DEFAULT NULL::text, p_filter text[] DEFAULT NULL::text[] -> '
    'TABLE(side text, object text, privilege text, granted boolean, fix text)', 'its signature') FROM pg_proc p WHERE proname = 'check_permissions';

-- Nothing is missing
SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, a text, "b ""c" text);
    CREATE TABLE app.nokey (id int);
    CREATE VIEW app.view AS SELECT * FROM app.t;
    CREATE TABLE app.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE app.part PARTITION OF app.parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE app.parent (id int PRIMARY KEY);
    CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (app.parent);
$$);
SELECT results_eq($$SELECT side, object, privilege, granted, fix FROM mimeo.check_permissions(1, 'app.t', 'dml') OFFSET 1$$, format($$VALUES
    ('source', 'app.t', 'kind', true, NULL), ('source', 'schema app', 'USAGE', true, NULL), ('source', 'app.t', 'SELECT', true, NULL),
    ('source', 'app.t', 'key', true, NULL), ('source', %s, 'writing', true, NULL), ('source', 'schema mimeo', 'USAGE, CREATE', true, NULL), ('source', 'app.t', 'TRIGGER', true, NULL),
    ('destination', 'function mimeo.dml_maker', 'EXECUTE', true, NULL), ('destination', 'function mimeo.refresh_dml', 'EXECUTE', true, NULL),
    ('destination', 'database %s', 'TEMPORARY', true, NULL), ('destination', 'schema app', 'exists', true, NULL),
    ('destination', 'schema app', 'USAGE', true, NULL), ('destination', 'schema app', 'CREATE', true, NULL),
    ('destination', 'app.t', 'free or owned', true, NULL)$$, (SELECT quote_literal(object) FROM mimeo.check_permissions(1, 'app.t') LIMIT 1), current_database()), 'all that a dml job needs, and that it is there');
SELECT results_eq($$SELECT side, privilege, granted, fix, object ~ '^data source 1 .*user=reader' AND object !~ 'secret'
      FROM mimeo.check_permissions(1, 'app.t') LIMIT 1$$,
    $$VALUES ('source', 'connection', true, NULL, true)$$, 'first the connection; no row shows a password');
SELECT is_empty(format('SELECT pg_temp.gaps(%L, %L)', s, t), t || ' of ' || s || ': nothing is missing')
  FROM (VALUES ('app.t', 'snap'), ('app.t', 'table'), ('app.t', 'inserter'), ('app.t', 'inserter_time'), ('app.t', 'inserter_serial'), ('app.t', 'updater'),
               ('app.t', 'updater_time'), ('app.t', 'logdel'), ('app.nokey', 'snap'), ('app.view', 'table'), ('app.parted', 'dml'), ('app.parent', 'dml'),
               ('"app"."t"', 'dml')) v(s, t);
SELECT throws_ok($$SELECT mimeo.check_permissions(1, 'app.t', 'replica')$$, '22023',
    'p_type is ''replica'', it must be ''snap'', ''table'', ''inserter'', ''updater'', ''dml'' or ''logdel''', 'an unknown type');
SELECT throws_ok($$SELECT mimeo.check_permissions(99, 'app.t')$$, '42704', 'there is no data source with the id 99', 'an unknown source');

-- The source: each gap, what the maker says of it, and that the statement closes it
SELECT on_source('REVOKE SELECT, TRIGGER ON app.t FROM reader');
SELECT results_eq($$SELECT pg_temp.gaps('app.t')$$, $$VALUES ('source | app.t | SELECT | GRANT SELECT ON "app"."t" TO "reader";')$$, 'no SELECT');
SELECT alike(pg_temp.hint($$SELECT mimeo.snapshot_maker('app.t', 1)$$),
    '42501 role "reader" may not read "app.t" % | Run on the source: GRANT SELECT ON "app"."t" TO "reader";', 'the maker says the same');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'logdel')$$, $$VALUES ('source | app.t | SELECT | GRANT SELECT ON "app"."t" TO "reader";'),
    ('source | app.t | TRIGGER | GRANT TRIGGER ON "app"."t" TO "reader";')$$, 'nor TRIGGER');
SELECT on_source(string_agg(fix, ' ')) FROM mimeo.check_permissions(1, 'app.t', 'logdel');
SELECT is_empty($$SELECT pg_temp.gaps('app.t', 'logdel')$$, 'the statements close the gaps');

SELECT on_source('REVOKE SELECT ON app.t FROM reader; GRANT SELECT (id) ON app.t TO reader');
SELECT results_eq($$SELECT granted, privilege, fix FROM mimeo.check_permissions(1, 'app.t') WHERE privilege LIKE 'SELECT%'$$,
    $$VALUES (true, 'SELECT (id)', NULL), (false, 'SELECT (a, b "c)', 'GRANT SELECT ("a", "b ""c") ON "app"."t" TO "reader";')$$,
    'only some columns may be read');
SELECT alike(pg_temp.hint($$SELECT mimeo.snapshot_maker('app.t', 1)$$), '% | Run on the source: GRANT SELECT ("a", "b ""c") ON "app"."t" TO "reader";',
    'the maker says the same');
SELECT on_source(string_agg(fix, ' ')) FROM mimeo.check_permissions(1, 'app.t');
SELECT is_empty($$SELECT pg_temp.gaps('app.t')$$, 'the statement closes the gap');

SELECT on_source($$CREATE SCHEMA "S; DROP"; CREATE TABLE "S; DROP"."T""able" (id int PRIMARY KEY)$$);
SELECT results_eq($$SELECT pg_temp.gaps('S; DROP.T"able', 'dml', 'app.odd')$$, $$VALUES
    ('source | schema S; DROP | USAGE | GRANT USAGE ON SCHEMA "S; DROP" TO "reader";'),
    ('source | S; DROP.T"able | SELECT | GRANT SELECT ON "S; DROP"."T""able" TO "reader";'),
    ('source | S; DROP.T"able | TRIGGER | GRANT TRIGGER ON "S; DROP"."T""able" TO "reader";')$$, 'names of the other kind');
SELECT alike(pg_temp.hint($$SELECT mimeo.dml_maker('S; DROP.T"able', 1, 'app.odd')$$),
    '% | Run on the source: GRANT USAGE ON SCHEMA "S; DROP" TO "reader"; GRANT SELECT ON "S; DROP"."T""able" TO "reader";', 'the maker says the same');
SELECT on_source(string_agg(fix, ' ')) FROM mimeo.check_permissions(1, 'S; DROP.T"able', 'dml', 'app.odd');
SELECT lives_ok($$SELECT mimeo.dml_maker('S; DROP.T"able', 1, 'app.odd')$$, 'after these statements a maker finds nothing amiss');

SELECT on_source('REVOKE TRIGGER ON app.parted, app.part, app.parent, app.child FROM reader; REVOKE SELECT ON app.part, app.child FROM reader');
SELECT results_eq($$SELECT pg_temp.gaps('app.parted', 'dml')$$, $$VALUES ('source | app.parted | TRIGGER | GRANT TRIGGER ON "app"."parted" TO "reader";'),
    ('source | app.part | TRIGGER | GRANT TRIGGER ON "app"."part" TO "reader";')$$, 'a partitioned table gives its triggers to its partitions, for which PostgreSQL asks the right there, too');
SELECT results_eq($$SELECT pg_temp.gaps('app.parent', 'dml')$$, $$VALUES ('source | app.parent | TRIGGER | GRANT TRIGGER ON "app"."parent" TO "reader";'),
    ('source | app.child | TRIGGER | GRANT TRIGGER ON "app"."child" TO "reader";'), ('source | app.child | SELECT | GRANT SELECT ON "app"."child" TO "reader";')$$,
    'children by inheritance get triggers of their own');
SELECT results_eq($$SELECT pg_temp.gaps('app.view', 'dml')$$, $$VALUES
    ('source | app.view | kind | -- dml and logdel need a plain or partitioned table: choose snap, table, inserter or updater'),
    ('source | app.view | key | ALTER TABLE "app"."view" ADD PRIMARY KEY (…); -- or name a key of it with p_pk_name and p_pk_type in the maker')$$, 'a view has no triggers');
SELECT results_eq(format('SELECT pg_temp.gaps(%L, %L)', 'app.nokey', t),
    $$VALUES ('source | app.nokey | key | ALTER TABLE "app"."nokey" ADD PRIMARY KEY (…); -- or name a key of it with p_pk_name and p_pk_type in the maker')$$, t || ' of a table without a key')
  FROM unnest('{dml,logdel,updater}'::text[]) t;
SELECT results_eq($$SELECT pg_temp.gaps('app.nothing')$$,
    $$VALUES ('source | app.nothing | exists | -- there is no such table: give it as schema.table, exactly as it is spelled on the source')$$, 'no such table');

SELECT as_reader('DROP SCHEMA mimeo CASCADE');
SELECT mimeo.dml_destroyer('app.odd');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'dml')$$, $$VALUES ('source | schema mimeo | USAGE, CREATE | CREATE SCHEMA "mimeo"; GRANT USAGE, CREATE ON SCHEMA "mimeo" TO "reader";')$$,
    'no schema for queues');
SELECT on_source('CREATE SCHEMA mimeo; GRANT USAGE ON SCHEMA mimeo TO reader');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'dml')$$, $$VALUES ('source | schema mimeo | USAGE, CREATE | GRANT USAGE, CREATE ON SCHEMA "mimeo" TO "reader";')$$,
    'a schema that is somebody else''s');
SELECT alike(pg_temp.hint($$SELECT mimeo.dml_maker('app.t', 1)$$), '% | Run on the source: GRANT USAGE, CREATE ON SCHEMA "mimeo" TO "reader";', 'the maker says the same');
SELECT is_empty($$SELECT pg_temp.gaps('app.t', 'snap')$$, 'a snapshot does not need it');
SELECT on_source(string_agg(fix, ' ')) FROM mimeo.check_permissions(1, 'app.t', 'dml');
SELECT lives_ok($$SELECT mimeo.dml_maker('app.t', 1); SELECT mimeo.dml_destroyer('app.t', false)$$, 'the statement closes the gap');

-- The destination, for a role that may nothing but ask
GRANT USAGE ON SCHEMA mimeo TO clerk;
SELECT is(as_clerk($$SELECT mimeo.check_permissions(1, 'app.t')$$), 'permission denied for function check_permissions', 'without EXECUTE nobody asks');
GRANT EXECUTE ON FUNCTION mimeo.check_permissions, mimeo.snapshot_maker TO clerk;
CREATE SCHEMA "Here;";
CREATE TABLE "Here;".taken (id int);
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
SELECT results_eq($$SELECT pg_temp.ask_clerk('SELECT concat_ws('' | '', side, object, privilege, fix)
      FROM mimeo.check_permissions(1, ''app.t'', ''updater'', ''Here;.taken'') WHERE NOT granted')$$, format($$VALUES
    ('destination | function mimeo.updater_maker | EXECUTE | GRANT EXECUTE ON FUNCTION "mimeo"."updater_maker" TO "clerk";'),
    ('destination | function mimeo.refresh_updater | EXECUTE | GRANT EXECUTE ON FUNCTION "mimeo"."refresh_updater" TO "clerk";'),
    ('destination | database %1$s | TEMPORARY | GRANT TEMPORARY ON DATABASE "%1$s" TO "clerk";'),
    ('destination | schema Here; | USAGE | GRANT USAGE ON SCHEMA "Here;" TO "clerk";'),
    ('destination | schema Here; | CREATE | GRANT CREATE ON SCHEMA "Here;" TO "clerk";'),
    ('destination | Here;.taken | free or owned | ALTER TABLE "Here;"."taken" OWNER TO "clerk";')$$, current_database()), 'all that clerk lacks');
SELECT is(pg_temp.hint($q$SELECT pg_temp.ask_clerk($$SELECT mimeo.snapshot_maker('app.t', 1, 'Here;.t')$$)$q$),
    '42501 permission denied for schema Here; | Its owner, role "dba", or a superuser can run: GRANT USAGE ON SCHEMA "Here;" TO "clerk"; GRANT CREATE ON SCHEMA "Here;" TO "clerk";', 'the maker says the same');
GRANT USAGE ON SCHEMA "Here;" TO clerk;
SELECT is(pg_temp.hint($q$SELECT pg_temp.ask_clerk($$SELECT mimeo.snapshot_maker('app.t', 1, 'Here;.t')$$)$q$),
    '42501 permission denied for schema Here; | Its owner, role "dba", or a superuser can run: GRANT CREATE ON SCHEMA "Here;" TO "clerk";', 'only what is missing');
DROP TABLE "Here;".taken;
CREATE FUNCTION pg_temp.close_gaps(p_type text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_fix text;
BEGIN
    FOR v_fix IN SELECT pg_temp.ask_clerk(format('SELECT fix FROM mimeo.check_permissions(1, ''app.t'', %L, ''Here;.taken'') WHERE NOT granted', p_type)) LOOP
        EXECUTE v_fix;
    END LOOP;
END $$;
SELECT pg_temp.close_gaps(t) FROM unnest('{updater,snap}'::text[]) t;
SELECT is_empty($$SELECT pg_temp.ask_clerk('SELECT object FROM mimeo.check_permissions(1, ''app.t'', ''updater'', ''Here;.taken'') WHERE NOT granted')$$,
    'the statements close the gaps');
SELECT is(as_clerk($$SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, p_dest_table := 'Here;.taken')$$), 'done', 'after them a maker works');
SELECT is(as_clerk($$SELECT mimeo.refresh_updater('Here;.taken')$$), 'done', 'and a refresh');
SELECT is(as_clerk($$SELECT mimeo.snapshot_maker('app.t', 1, 'Here;.snap')$$), 'done', 'a snapshot');
SELECT is(as_clerk($$SELECT mimeo.refresh_snapshot('Here;.snap')$$), 'done', 'and its refresh');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'updater', 'Here;.taken')$$,
    $$VALUES ('destination | Here;.taken | free or owned | ALTER TABLE "Here;"."taken" OWNER TO "dba";')$$, 'what is there must be the caller''s');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'snap', 'Here;.snap')$$, $$VALUES
    ('destination | Here;.snap | free or owned | ALTER VIEW "Here;"."snap" OWNER TO "dba";'),
    ('destination | Here;.snap_snap1 | free or owned | ALTER TABLE "Here;"."snap_snap1" OWNER TO "dba";'),
    ('destination | Here;.snap_snap2 | free or owned | ALTER TABLE "Here;"."snap_snap2" OWNER TO "dba";')$$, 'of a snapshot, with its twins');
CREATE TABLE app.mine (id int);
SELECT is_empty($$SELECT pg_temp.gaps('app.t', 'table', 'app.mine')$$, 'a table of one''s own is kept,');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'snap', 'app.mine')$$,
    $$VALUES ('destination | app.mine | free or owned | -- "app.mine" exists: drop it, rename it, or choose another p_dest_table')$$, 'but not by a snapshot');
SELECT results_eq($$SELECT pg_temp.gaps('app.t', 'snap', 'Not here.t')$$,
    $$VALUES ('destination | schema Not here | exists | CREATE SCHEMA "Not here"; GRANT USAGE, CREATE ON SCHEMA "Not here" TO "dba";')$$, 'no schema');
SELECT is(pg_temp.hint($$SELECT mimeo.snapshot_maker('app.t', 1, 'Not here.t')$$), '3F000 schema "Not here" does not exist on the destination | Run on the destination: CREATE SCHEMA "Not here"; (which needs CREATE on the database), or choose another p_dest_table.',
    'the maker says so, too');

-- A source that does not let us in is a row, and the destination is looked at all the same.
INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
SELECT id, format(replace(s, 'PORT', substring(d.data_source from 'port=\d+')), current_database()), u, p
  FROM mimeo.dblink_mapping_mimeo d, (VALUES
    (11, 'host=127.0.0.1 PORT dbname=%s', 'reader', 'wrong secret'), (12, 'host=127.0.0.1 PORT dbname=no_such_db', 'reader', 'reader secret'),
    (13, 'host=127.0.0.1 port=1 dbname=%s', 'reader', 'reader secret'), (14, 'host=127.0.0.1 PORT dbname=%s', 'reader', NULL),
    (15, 'host=127.0.0.1 PORT dbname=%s', 'nobody "there"', 'x'), (16, 'elsewhere', NULL, NULL), (17, 'no such server', NULL, NULL)) v(id, s, u, p)
 WHERE d.data_source_id = 1;
CREATE FUNCTION pg_temp.refusal(p_id int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(fix, E'\n') FROM mimeo.check_permissions(p_id, 'app.t') WHERE side = 'source' AND privilege = 'connection' AND NOT granted
$$;
SELECT alike(pg_temp.refusal(11), E'-- % password authentication failed for user "reader"\n%UPDATE "mimeo"."dblink_mapping_mimeo" SET username = ''reader'', pwd = ''…'' '
    'WHERE data_source_id = 11;%ALTER ROLE "reader" PASSWORD ''…'';%', 'a wrong password');
SELECT unalike(pg_temp.refusal(11), '%secret%', 'which is not told');
SELECT alike(pg_temp.refusal(15), '%CREATE ROLE "nobody ""there""" LOGIN PASSWORD ''…'';', 'a role that is not there looks the same');
SELECT alike(pg_temp.refusal(12), E'-- % database "no_such_db" does not exist\n%CREATE DATABASE "no_such_db";%', 'a database that is not there');
SELECT alike(pg_temp.refusal(13), E'-- % Connection refused\n-- is the server up, %\nUPDATE "mimeo"."dblink_mapping_mimeo" SET data_source = %', 'a server that is not there');
SELECT is(pg_temp.refusal(14), (SELECT format(E'-- %s must be reached with a password of its own\nUPDATE "mimeo"."dblink_mapping_mimeo" SET username = ''reader'', pwd = ''…'' WHERE data_source_id = 14;',
    object) FROM mimeo.check_permissions(14, 'app.t') LIMIT 1), 'no password');
SELECT alike(pg_temp.refusal(17), '-- its data_source is neither a connection string nor the name of a foreign server (no such server)%', 'no such server');
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
SELECT alike(pg_temp.refusal(16), E'-- %has no user mapping for foreign server %\nCREATE USER MAPPING FOR "dba" SERVER "elsewhere" OPTIONS (user ''…'', password ''…'');', 'no user mapping');
SELECT results_eq($$SELECT pg_temp.ask_clerk('SELECT fix FROM mimeo.check_permissions(16, ''app.t'', ''snap'', ''Here;.x'') WHERE NOT granted LIMIT 1')$$,
    $$VALUES (E'-- data source 16 cannot be used: role "clerk" lacks USAGE on foreign server "elsewhere"\nGRANT USAGE ON FOREIGN SERVER "elsewhere" TO "clerk";')$$, 'no USAGE on the foreign server');
SELECT is(pg_temp.hint($q$SELECT pg_temp.ask_clerk($$SELECT mimeo.snapshot_maker('app.t', 16, 'Here;.x')$$)$q$),
    '42501 data source 16 cannot be used: role "clerk" lacks USAGE on foreign server "elsewhere" | GRANT USAGE ON FOREIGN SERVER "elsewhere" TO "clerk";', 'the maker says the same');
CREATE USER MAPPING FOR dba SERVER elsewhere OPTIONS (user 'reader');
SELECT alike(pg_temp.refusal(16), E'%\nALTER USER MAPPING FOR "dba" SERVER "elsewhere" OPTIONS (ADD password ''…'');', 'a user mapping without a password');
ALTER USER MAPPING FOR dba SERVER elsewhere OPTIONS (ADD password 'x');
SELECT alike(pg_temp.refusal(16), E'%\nALTER SERVER "elsewhere" OPTIONS (SET host %', 'a foreign server that leads nowhere');
SELECT results_eq($$SELECT DISTINCT side FROM mimeo.check_permissions(13, 'app.t') WHERE granted$$, $$VALUES ('destination')$$, 'the destination is looked at all the same');
SELECT on_source(format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()));
SELECT alike(pg_temp.refusal(1), format(E'-- %%permission denied for database%%\n-- on the source:\nGRANT CONNECT ON DATABASE "%s" TO "reader";', current_database()), 'no CONNECT');
SELECT on_source(format('GRANT CONNECT ON DATABASE %I TO reader', current_database()));
SELECT is_empty($$SELECT pg_temp.gaps('app.t')$$, 'the statement closes the gap');
SELECT is_empty($$SELECT * FROM mimeo.check_permissions(11, 'app.t') c WHERE c::text LIKE '%secret%'$$, 'no password in any row');

INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
VALUES (18, 'host=127.0.0.1 passfile=x', 'reader', 'x'), (19, 'Postgresql://reader:hunter2@127.0.0.1/x', NULL, NULL);
SELECT is(pg_temp.refusal(18), E'-- only a superuser may give it the connection parameter "passfile"\n-- take it out of data_source; or, as a superuser on the destination:\n'
    'UPDATE "mimeo"."dblink_mapping_mimeo" SET password_required = false WHERE data_source_id = 18;', 'a parameter that is a superuser''s to give');
SELECT alike(pg_temp.refusal(19), E'-- its data_source is neither a connection string nor the name of a foreign server\n%UPDATE %', 'what is hardly a connection string');
SELECT unalike(pg_temp.refusal(19), '%hunter2%', 'is not told');

SELECT * FROM finish();
