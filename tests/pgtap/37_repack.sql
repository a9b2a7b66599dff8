-- Tables that are written anew, on either side: by REPACK, also while others use them, which PostgreSQL has from 19 on, or else by VACUUM FULL.
SELECT no_plan();
SELECT on_source($$CREATE TABLE app.t (id int PRIMARY KEY, a int NOT NULL, changed timestamptz NOT NULL DEFAULT clock_timestamp(), v text);
    CREATE INDEX t_a ON app.t (a); INSERT INTO app.t (id, a, v) SELECT i, -i, repeat('x', 100) FROM generate_series(1, 3000) i$$);
SELECT mimeo.snapshot_maker('app.t', 1, 'app.delta'), mimeo.snapshot_maker('app.t', 1, 'app.whole'), mimeo.table_maker('app.t', 1, 'app.tab'),
       mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.ins'), mimeo.updater_maker('app.t', 'time', 'changed', 1, '0 seconds', 'app.upd'),
       mimeo.dml_maker('app.t', 1, 'app.dm'), mimeo.logdel_maker('app.t', 1, 'app.logd') \g /dev/null
UPDATE mimeo.refresh_config_snap SET delta = NULL WHERE dest_table = 'app.whole';

CREATE FUNCTION pg_temp.refresh_all() RETURNS text LANGUAGE sql AS $$
    SELECT mimeo.refresh_snapshot('app.delta'), mimeo.refresh_snapshot('app.whole'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.ins'),
           mimeo.refresh_updater('app.upd'), mimeo.refresh_dml('app.dm'), mimeo.refresh_logdel('app.logd');
    SELECT string_agg(DISTINCT r.status, ', ' ORDER BY r.status) FROM mimeo.refresh_config c CROSS JOIN last_run(c.dest_table) r
$$;
CREATE FUNCTION pg_temp.all_same(p_what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT isnt(pg_temp.refresh_all(), NULL, p_what);
    RETURN NEXT is((SELECT string_agg(format('%s: %s', c.dest_table, r.status), ', ') FROM mimeo.refresh_config c CROSS JOIN last_run(c.dest_table) r WHERE r.status NOT IN ('ok', 'skipped')), NULL, p_what || ': every job is ok');
    RETURN QUERY SELECT same_rows(d, s, 'app.t') FROM (VALUES ('app.delta', 't.*'), ('app.whole', 't.*'), ('app.tab', 't.*'), ('app.dm', 't.*')) v (d, s);
    RETURN NEXT same_rows('(SELECT id, a, changed, v FROM app.logd WHERE mimeo_source_deleted IS NULL)', 't.*', 'app.t');
    -- What is gone stays there; all else is as on the source.
    RETURN NEXT same_rows('(SELECT * FROM app.upd u WHERE id IN (SELECT id FROM app.tab))', 't.*', 'app.t');
    RETURN NEXT is((SELECT count(*) FROM app.tab t LEFT JOIN app.ins i USING (id) WHERE i.id IS NULL AND t.id < (SELECT max(id) FROM app.tab)), 0::bigint, 'app.ins has every row, but for the highest');
END $$;
-- One way after the other
SELECT CASE WHEN source_version() >= 190000 THEN 'REPACK %s' ELSE 'VACUUM FULL %s' END AS plainly_there,
       CASE WHEN source_version() >= 190000 THEN 'REPACK (CONCURRENTLY) %s' ELSE 'VACUUM FULL %s' END AS concurrently_there,
       CASE WHEN source_version() >= 190000 THEN 'REPACK %s USING INDEX t_a' ELSE 'CLUSTER %s USING t_a' END AS in_order_there,
       CASE WHEN current_setting('server_version_num')::int >= 190000 THEN 'REPACK %s' ELSE 'VACUUM FULL %s' END AS plainly_here,
       CASE WHEN current_setting('server_version_num')::int >= 190000 THEN 'REPACK (CONCURRENTLY) %s' ELSE 'VACUUM FULL %s' END AS concurrently_here \gset
SELECT on_source($$DELETE FROM app.t WHERE id % 10 = 0$$);
SELECT on_source($$UPDATE app.t SET v = 'changed', changed = clock_timestamp() WHERE id % 10 = 1$$);
SELECT on_source($$INSERT INTO app.t (id, a) SELECT i, -i FROM generate_series(3001, 3100) i$$);
SELECT on_source(format(:'plainly_there', 'app.t'));
SELECT pg_temp.all_same('the source is written anew after changes');
SELECT on_source(format(:'in_order_there', 'app.t'));
SELECT pg_temp.all_same('the source is put in order, and nothing else');
SELECT is(pg_temp.refresh_all(), 'ok, skipped', 'without a change the snapshots are skipped again');
SELECT on_source($$DELETE FROM app.t WHERE id % 10 = 2$$);
SELECT on_source(format(:'concurrently_there', 'app.t'));
SELECT on_source($$UPDATE app.t SET v = 'once more', changed = clock_timestamp() WHERE id % 10 = 3$$);
SELECT pg_temp.all_same('the source is written anew while it is used, between changes');
SELECT on_source(format(:'concurrently_there', 'app.t'));
SELECT pg_temp.all_same('the source is written anew while it is used, and nothing else');

-- Here: each table that mimeo keeps
SELECT format(:'plainly_here', t) FROM unnest('{app.delta_snap1,app.delta_snap2,app.whole_snap1,app.whole_snap2,app.tab,app.ins,app.upd,app.dm,app.logd}'::text[]) t \gexec
SELECT pg_temp.all_same('the destinations are written anew');
SELECT on_source($$UPDATE app.t SET v = 'and again', changed = clock_timestamp() WHERE id % 10 = 4$$);
SELECT on_source($$INSERT INTO app.t (id, a) SELECT i, -i FROM generate_series(3101, 3200) i$$);
SELECT pg_temp.all_same('and follow what changes then');
SELECT format(:'concurrently_here', t) FROM unnest('{app.delta_snap1,app.delta_snap2,app.whole_snap1,app.whole_snap2,app.tab,app.ins,app.upd,app.dm,app.logd}'::text[]) t \gexec
SELECT on_source($$DELETE FROM app.t WHERE id % 10 = 5$$);
SELECT pg_temp.all_same('the destinations are written anew while they are used');

-- The queues, which REPACK makes small again
SELECT on_source($$UPDATE app.t SET v = 'queued', changed = clock_timestamp() WHERE id % 10 = 6$$);
SELECT as_reader(format(:'plainly_there', q)) FROM unnest(string_to_array(ask_reader($$SELECT string_agg(c.oid::regclass::text, ',') FROM pg_class c WHERE c.relnamespace = 'mimeo'::regnamespace AND c.relkind = 'r'$$), ',')) q;
SELECT pg_temp.all_same('the queues are written anew');
SELECT * FROM finish();
