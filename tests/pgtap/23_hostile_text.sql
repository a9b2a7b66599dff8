-- Names, conditions, post_scripts and guards that mean harm: as whom they run, and what they cannot do.
SELECT plan(73);

-- Names of tables and columns: quotes, dollars, backslashes, other scripts, 63 bytes of them
CREATE TEMPORARY TABLE odd (name text);
INSERT INTO odd VALUES ('a"b''c'), ('$$; DROP SCHEMA app CASCADE; $$'), ('back\slash\\'), ('{new}'), ('%I %s %1$s'), ('-- x'), ('/* x'), (E'new\nline'), ('💾 таблица'),
    (repeat('é', 28)), ('Capital'), ('SELECT'), ('a b.c d');
SELECT on_source(format('CREATE TABLE app.%1$I (%2$I int PRIMARY KEY, %1$I text, plain int DEFAULT 1); INSERT INTO app.%1$I VALUES (1, %3$L), (2, ''b'');
    GRANT SELECT, TRIGGER ON app.%1$I TO reader', name, left(name, 20) || ' id', name)) FROM odd;
SELECT lives_ok(format('SELECT mimeo.snapshot_maker(%1$L, 1, %2$L), mimeo.table_maker(%1$L, 1, %3$L), mimeo.inserter_maker(%1$L, ''serial'', %4$L, 1, ''0'', %5$L),
    mimeo.updater_maker(%1$L, ''serial'', %4$L, 1, ''0'', %6$L), mimeo.dml_maker(%1$L, 1, %7$L), mimeo.logdel_maker(%1$L, 1, %8$L)',
    format('app.%I', name), format('app.%I', name), format('app.%I', left(name, 24) || 't'), left(name, 20) || ' id', format('app.%I', left(name, 24) || 'i'),
    format('app.%I', left(name, 24) || 'u'), format('app.%I', left(name, 24) || 'd'), format('app.%I', left(name, 24) || 'l')), 'makers take ' || name) FROM odd;
SELECT on_source(format('UPDATE app.%1$I SET %1$I = %1$I || ''!''; INSERT INTO app.%1$I VALUES (3, ''c'')', name)) FROM odd;
SELECT lives_ok(format('SELECT %s', string_agg(format('mimeo.refresh_%s(%L)', replace(regexp_replace(type, '_.*', ''), 'snap', 'snapshot'), dest_table), ', ')),
    'refreshers take them') FROM mimeo.refresh_config;
SELECT is((SELECT count(*) FROM mimeo.run_history WHERE status <> 'ok'), 0::bigint, 'all of them');
SELECT is((SELECT count(*) FROM odd WHERE (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM app.%I WHERE %1$I IS NOT NULL', name), false, true, '')))[1]::text <> '3'), 0::bigint,
    'with their rows');
SELECT lives_ok(format('SELECT %s', string_agg(format('mimeo.plan_refresh(%L)', dest_table), ', ')), 'so does plan_refresh') FROM mimeo.refresh_config;
SELECT lives_ok(format('SELECT mimeo.%s_destroyer(%L, false)', replace(regexp_replace(type, '_.*', ''), 'snap', 'snapshot'), dest_table), 'and the destroyers: ' || dest_table)
  FROM mimeo.refresh_config WHERE type IN ('snap', 'dml');

-- Conditions are part of one query on the source
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, v text); INSERT INTO app.t SELECT i, 'v' FROM generate_series(1, 10) i; GRANT SELECT ON app.t TO reader$$);
SELECT throws_ok(format('SELECT mimeo.snapshot_maker(''app.t'', 1, ''app.no'', p_condition := %L)', condition), '42601', NULL, 'a condition is no statement: ' || condition)
  FROM unnest(ARRAY['WHERE true; DROP TABLE app.t', 'WHERE true) TO STDOUT; DELETE FROM app.t; COPY (SELECT 1', '; COMMIT', 'WHERE (']) condition;
SELECT on_source('CREATE SEQUENCE app.ids; GRANT ALL ON SEQUENCE app.ids TO reader');
SELECT throws_ok($$SELECT mimeo.snapshot_maker('app.t', 1, 'app.no', p_condition := 'WHERE (SELECT nextval(''app.ids'')) > 0')$$, '25006', NULL, 'nor does it write');
SELECT is(ask_source('SELECT count(*)::text FROM app.t'), '10', 'the source is as it was');

-- post_script and guard run as the owner of the destination, restricted
SELECT mimeo.snapshot_maker('app.t', 1);
CREATE FUNCTION pg_temp.with_guard(p_guard text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mimeo.refresh_config_snap SET guard = p_guard WHERE dest_table = 'app.t';
    PERFORM mimeo.refresh_snapshot('app.t', p_check_stats := false);
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
SELECT is(pg_temp.with_guard($$SELECT set_config('role', 'postgres', false) = ''$$), 'cannot set parameter "role" within security-restricted operation', 'no other role');
SELECT is(pg_temp.with_guard($$SELECT set_config('session_authorization', 'postgres', false) = ''$$), 'cannot set parameter "session_authorization" within security-restricted operation', 'no other session');
SELECT alike(pg_temp.with_guard($$SELECT true; DROP TABLE app.t_snap1$$), 'syntax error%', 'a guard is one query');
SELECT alike(pg_temp.with_guard($$SELECT true) IS TRUE; SELECT (true$$), '%: the guard is not one query', 'however it is written');
SELECT is(pg_temp.with_guard($$SELECT current_setting('search_path') = 'pg_catalog, pg_temp'$$), 'done', 'its search_path is pinned');
SELECT is(pg_temp.with_guard($$SELECT pg_read_file('/etc/passwd') <> ''$$), 'permission denied for function pg_read_file', 'it may what the owner may');
UPDATE mimeo.refresh_config_snap SET guard = NULL WHERE dest_table = 'app.t';
CREATE FUNCTION pg_temp.with_script(p_statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mimeo.refresh_config_snap SET post_script = ARRAY[p_statement], filter = CASE WHEN filter IS NULL THEN '{id}'::text[] END WHERE dest_table = 'app.t';
    PERFORM mimeo.refresh_snapshot('app.t', p_check_stats := false);
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
SELECT is(pg_temp.with_script('SET ROLE postgres'), 'cannot set parameter "role" within security-restricted operation', 'post_script: no other role');
SELECT is(pg_temp.with_script('RESET SESSION AUTHORIZATION'), 'cannot set parameter "session_authorization" within security-restricted operation', 'post_script: no other session');
SELECT alike(pg_temp.with_script('CREATE TEMPORARY TABLE pg_class (x int)'), 'cannot create temporary table within security-restricted operation', 'post_script: nothing that stays in the session');
SELECT is(pg_temp.with_script(statement), message, 'post_script: not ' || statement)
  FROM (VALUES ('COMMIT', 'a transaction cannot be begun or ended here'), ('SELECT 1; ROLLBACK', 'a transaction cannot be begun or ended here'),
               ('COPY app.t TO STDOUT', 'COPY to or from the client is not possible here')) v (statement, message);
SELECT is((SELECT count(*) FROM app.t), 10::bigint, 'and the old data stays');

-- Who may say what runs as the owner
GRANT USAGE ON SCHEMA mimeo TO clerk;
GRANT SELECT, UPDATE ON mimeo.refresh_config, mimeo.refresh_config_snap TO clerk;
SELECT alike(as_clerk(format('UPDATE mimeo.%s SET %s WHERE dest_table = ''app.t'' RETURNING ''x''', v, change)), 'destination app.t belongs to dba, whose rights % does not have', v || ': ' || change)
  FROM unnest('{refresh_config,refresh_config_snap}'::text[]) v,
       unnest(ARRAY['guard = ''SELECT true''', 'max_shrink_percent = 99', 'post_script = ''{SELECT 1}''', 'source_table = ''app.x''', 'condition = ''WHERE true''']) change;
SELECT is(as_clerk('UPDATE mimeo.refresh_config_snap SET keep_previous = true, period = ''1 day'' WHERE dest_table = ''app.t'' RETURNING ''x'''), 'done', 'the rest is open to who may write there');

SELECT * FROM finish();
