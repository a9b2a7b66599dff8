-- What a refresh loads beside a table has the same indexes, whatever they are, and however many rows come: into a few they are put row
-- by row, of many they are built while more come, and the others afterwards.
SELECT plan(37);

SELECT on_source($$
    CREATE TABLE app.t (id int PRIMARY KEY, a int NOT NULL, b text COLLATE "C", tags int[], during int4range, s int, padding text);
    CREATE TABLE app.plain (id int PRIMARY KEY, a int, padding text);
    CREATE INDEX plain_a_idx ON app.plain (a);
$$);
SELECT mimeo.table_maker('app.t', 1), mimeo.table_maker('app.plain', 1), mimeo.dml_maker('app.plain', 1, 'app.by_key') \g /dev/null
CREATE UNIQUE INDEX by_a ON app.t (a DESC NULLS LAST) INCLUDE (b) WITH (fillfactor = 70);
CREATE INDEX by_b ON app.t (b text_pattern_ops, a);
CREATE INDEX by_expression ON app.t (lower(b));
CREATE INDEX by_part ON app.t (a) WHERE a % 10 = 0;
CREATE INDEX by_hash ON app.t USING hash (b);
CREATE INDEX by_tags ON app.t USING gin (tags);
CREATE INDEX by_block ON app.t USING brin (a);
CREATE INDEX by_range ON app.t USING gist (during);
ALTER TABLE app.t ADD CONSTRAINT apart EXCLUDE USING gist (during WITH &&),
    ADD CONSTRAINT later EXCLUDE USING btree (s WITH =) DEFERRABLE INITIALLY DEFERRED, ADD CONSTRAINT once UNIQUE (a, s) DEFERRABLE;

CREATE FUNCTION pg_temp.fill(rows int) RETURNS void LANGUAGE sql AS $$
    SELECT on_source(format('TRUNCATE app.t; INSERT INTO app.t SELECT i, i, ''V'' || i, ARRAY[i %% 100, i], int4range(i, i + 1), i, repeat(''x'', 200)
        FROM generate_series(1, %s) i', rows))
$$;
-- What each index finds, whether PostgreSQL would use it or not
CREATE FUNCTION pg_temp.found(rows int) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    v_index text;
    v_query text;
    v_plan json;
    v_count bigint;
BEGIN
    FOR v_index, v_query IN VALUES ('t_id_pk', 'id > 0'), ('by_a', 'a > 0'), ('by_b', 'b ~>=~ ''V'''), ('by_expression', 'lower(b) >= ''v'''),
            ('by_part', 'a % 10 = 0 AND a > 0'), ('by_hash', 'b = ''V7'''), ('by_tags', 'tags @> ''{7}'''), ('by_block', 'a BETWEEN 1 AND 1000000'),
            ('by_range', 'during && int4range(1, 1000000)'), ('later', 's > 0'), ('once', '(a, s) > (0, 0)') LOOP
        -- The others are put away for this query.
        BEGIN
            EXECUTE (SELECT coalesce(string_agg(format('ALTER TABLE app.t DROP CONSTRAINT %I; ', k.conname), ''), '') FROM pg_constraint k
                      WHERE k.conrelid = 'app.t'::regclass AND k.conindid <> 0 AND k.conname <> v_index);
            EXECUTE (SELECT coalesce(string_agg(format('DROP INDEX app.%I; ', indexname), ''), '') FROM pg_indexes
                      WHERE tablename = 't' AND indexname <> v_index);
            EXECUTE format('EXPLAIN (FORMAT json) SELECT * FROM app.t WHERE %s', v_query) INTO v_plan;
            EXECUTE format('SELECT count(padding) FROM app.t WHERE %s', v_query) INTO v_count;
            RAISE EXCEPTION USING ERRCODE = 'UE001', MESSAGE = format('%s %s %s', v_index, CASE WHEN v_plan::text LIKE '%"' || v_index || '"%'
                THEN 'finds' ELSE 'was not used:' END, v_count);
        EXCEPTION WHEN SQLSTATE 'UE001' THEN
            RETURN NEXT SQLERRM;
        END;
    END LOOP;
END
$$;
CREATE FUNCTION pg_temp.all_found(rows int) RETURNS text[] LANGUAGE sql AS $$
    SELECT ARRAY(SELECT format('%s finds %s', i, n) FROM (VALUES ('t_id_pk', rows), ('by_a', rows), ('by_b', rows), ('by_expression', rows),
        ('by_part', rows / 10), ('by_hash', least(rows, 1)), ('by_tags', least(rows, 1) + greatest(rows - 7, 0) / 100), ('by_block', rows), ('by_range', rows),
        ('later', rows), ('once', rows)) v (i, n))
$$;

-- None, one batch, some, and enough to have workers
CREATE FUNCTION pg_temp.refreshed(rows int) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.fill(rows);
    CREATE TEMPORARY TABLE files AS SELECT indexrelid, pg_relation_filenode(indexrelid) AS file FROM pg_index WHERE indrelid = 'app.t'::regclass;
    RETURN NEXT lives_ok($q$SELECT mimeo.refresh_table('app.t')$q$, rows || ' rows');
    RETURN NEXT is((SELECT count(*) FROM app.t), rows::bigint, 'all of them are there');
    RETURN NEXT is(ARRAY(SELECT pg_temp.found(rows)), pg_temp.all_found(rows), 'and in each index');
    RETURN NEXT is((SELECT count(*) FROM files WHERE pg_relation_filenode(indexrelid) = file), 0::bigint, 'all of which are new');
    RETURN NEXT ok((SELECT reltuples = rows AND reloptions = '{fillfactor=70}' FROM pg_class WHERE relname = 'by_a'), 'with what PostgreSQL keeps of them');
    DROP TABLE files;
END
$$;
SELECT pg_temp.refreshed(0);
SELECT pg_temp.refreshed(300);
SELECT pg_temp.refreshed(5000);
SELECT pg_temp.refreshed(45000);
SELECT alike((last_run('app.t')).reason, '%4 indexes built while the rows came%', 'those on plain columns while the rows came');

-- A row that violates one changes nothing, and the error names what the user knows
SELECT on_source($$UPDATE app.t SET s = 1 WHERE id = 2$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '23P01', 'could not create exclusion constraint "later"', 'a row that an exclusion constraint forbids');
SELECT on_source($$UPDATE app.t SET s = 2, a = 1 WHERE id = 2$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '23505', 'could not create unique index "by_a"', 'or a unique index, of many rows');
SELECT on_source($$DELETE FROM app.t WHERE id > 300$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '23505', 'duplicate key value violates unique constraint "by_a"', 'or of a few');
SELECT on_source($$UPDATE app.t SET a = 2, b = NULL WHERE id = 2$$);
ALTER TABLE app.t ALTER b SET NOT NULL, ADD CONSTRAINT few CHECK (a > 0);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '23502', 'null value in column "b" of relation "t" violates not-null constraint', 'or a NULL');
SELECT on_source($$UPDATE app.t SET b = '' WHERE id = 2; UPDATE app.t SET a = -7 WHERE id = 1; DELETE FROM app.t WHERE id > 5$$);
SELECT throws_ok($$SELECT mimeo.refresh_table('app.t')$$, '23514', 'new row for relation "t" violates check constraint "few"', 'or a check');
SELECT is((SELECT count(*) FROM app.t), 45000::bigint, 'changes nothing');

-- Keys WITHOUT OVERLAPS
SELECT on_source($$CREATE TABLE app.o (room int4range NOT NULL, during int4range NOT NULL); INSERT INTO app.o SELECT int4range(i, i + 1), int4range(1, 9) FROM generate_series(1, 2000) i$$);
CREATE TABLE app.o (room int4range NOT NULL, during int4range NOT NULL);
SELECT mimeo.table_maker('app.o', 1) \g /dev/null
SELECT format('ALTER TABLE app.o ADD CONSTRAINT o_key PRIMARY KEY (room, during WITHOUT OVERLAPS), ADD CONSTRAINT o_once UNIQUE (room, during WITHOUT OVERLAPS)')
 WHERE current_setting('server_version_num')::int >= 180000 \gexec
SELECT lives_ok($$SELECT mimeo.refresh_table('app.o')$$, 'a table with keys without overlaps, where there are such');
SELECT is((SELECT count(*) FROM app.o), 2000::bigint, 'has its rows');
SELECT on_source($$INSERT INTO app.o VALUES (int4range(7, 8), int4range(3, 4))$$);
SELECT CASE WHEN current_setting('server_version_num')::int < 180000 THEN pass('that may not overlap')
    ELSE throws_ok($$SELECT mimeo.refresh_table('app.o')$$, '23P01', NULL, 'that may not overlap') END;

SELECT on_source($$UPDATE app.o SET during = int4range(1, 3) WHERE room = int4range(7, 8) AND during = int4range(1, 9)$$);
CREATE TABLE app.booking (room int4range, during int4range);
SELECT mimeo.refresh_table('app.o');
INSERT INTO app.booking VALUES (int4range(7, 8), int4range(2, 4)), (int4range(9, 10), int4range(2, 9));
SELECT 'ALTER TABLE app.booking ADD CONSTRAINT covered FOREIGN KEY (room, PERIOD during) REFERENCES app.o'
 WHERE current_setting('server_version_num')::int >= 180000 \gexec
SELECT on_source($$UPDATE app.o SET during = int4range(1, 3) WHERE room = int4range(9, 10)$$);
SELECT CASE WHEN current_setting('server_version_num')::int < 180000 THEN pass('nor leave')
    ELSE throws_ok($$SELECT mimeo.refresh_table('app.o')$$, '23503', NULL, 'nor leave what points at them half covered') END;

-- The check of a partition by itself
SELECT on_source($$CREATE TABLE app.part (r int, v text); INSERT INTO app.part VALUES (1, 'a'), (11, 'b')$$);
CREATE TABLE app.whole (r int, v text) PARTITION BY RANGE (r);
CREATE TABLE app.part PARTITION OF app.whole FOR VALUES FROM (1) TO (10);
SELECT mimeo.table_maker('app.part', 1) \g /dev/null
SELECT throws_ok($$SELECT mimeo.refresh_table('app.part')$$, '23514', 'new row for relation "part" violates check constraint "part"', 'a row that belongs elsewhere');

-- Other methods
SELECT on_source($$INSERT INTO app.plain SELECT i, i, repeat('x', 200) FROM generate_series(1, 45000) i$$);
SELECT mimeo.refresh_dml('app.by_key', p_repull := true);
SELECT alike((last_run('app.by_key')).reason, '%2 indexes built while the rows came%', 'a repull of a dml job does so too');
SELECT same_rows('app.by_key', 'id, a, padding', 'app.plain');
SELECT mimeo.refresh_table('app.plain');
SELECT alike((last_run('app.plain')).reason, '%2 indexes built while the rows came%', 'and a table without anything else');
SELECT same_rows('app.plain', 'id, a, padding', 'app.plain');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relname LIKE 'mimeo\_%' AND relnamespace = 'app'::regnamespace$$, 'nothing is left beside them');
SELECT * FROM finish();
