-- Constraints of a destination that are deferred: a refresh works as the owner, and has them checked at once.
SELECT plan(18);

SELECT on_source($$CREATE TABLE app.parent (id int PRIMARY KEY); INSERT INTO app.parent VALUES (1), (2);
    CREATE TABLE app.t (id bigserial PRIMARY KEY, parent int, u int, changed timestamptz NOT NULL DEFAULT clock_timestamp());
    INSERT INTO app.t (parent, u) VALUES (1, 1), (2, 2); GRANT TRIGGER, SELECT ON ALL TABLES IN SCHEMA app TO reader$$);
SELECT mimeo.table_maker('app.parent', 1), mimeo.table_maker('app.t', 1, 'app.tab'), mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.ins'),
    mimeo.updater_maker('app.t', 'time', 'changed', 1, '0 seconds', 'app.upd'), mimeo.dml_maker('app.t', 1, 'app.d'), mimeo.logdel_maker('app.t', 1, 'app.l') \g /dev/null
CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY '{tab,ins,upd,d,l}'::text[] LOOP
        EXECUTE format('ALTER TABLE app.%1$I ADD CONSTRAINT %1$s_parent FOREIGN KEY (parent) REFERENCES app.parent DEFERRABLE INITIALLY DEFERRED,
            ADD CONSTRAINT "%1$s Unique" UNIQUE (u) DEFERRABLE INITIALLY DEFERRED', v_table);
    END LOOP;
    -- So that it is loaded in place.
    CREATE TRIGGER nothing AFTER INSERT ON app.tab FOR EACH STATEMENT EXECUTE FUNCTION app.nothing();
END
$$;
CREATE FUNCTION pg_temp.refreshes() RETURNS TABLE (refresh text) LANGUAGE sql AS $$
    VALUES ('SELECT mimeo.refresh_table(''app.tab'')'), ('SELECT mimeo.refresh_inserter(''app.ins'')'), ('SELECT mimeo.refresh_updater(''app.upd'')'),
           ('SELECT mimeo.refresh_dml(''app.d'')'), ('SELECT mimeo.refresh_logdel(''app.l'')')
$$;

SELECT on_source($$INSERT INTO app.t (parent, u) VALUES (1, 3), (1, 4); UPDATE app.t SET u = 10, changed = clock_timestamp() WHERE id = 2; INSERT INTO app.t (parent) VALUES (1)$$);
SELECT lives_ok(refresh, refresh) FROM pg_temp.refreshes();
SELECT same_rows('app.tab', 'id, parent, u', 'app.t');
SELECT same_rows('app.d', 'id, parent, u', 'app.t');

-- A row that violates one is told of by its refresh, and changes nothing
SELECT on_source($$UPDATE app.t SET u = 3, changed = clock_timestamp() WHERE id = 1; INSERT INTO app.t (parent, u) VALUES (1, 4), (NULL, NULL)$$);
SELECT throws_ok(refresh, '23505', NULL, refresh || ': a value twice') FROM pg_temp.refreshes();
SELECT on_source($$UPDATE app.t SET u = NULL, changed = clock_timestamp(), parent = 9 WHERE parent = 1; INSERT INTO app.t (parent) VALUES (9), (NULL)$$);
SELECT throws_ok(refresh, '23503', NULL, refresh || ': a row that points nowhere') FROM pg_temp.refreshes();

-- Constraints of the caller stay deferred
CREATE TABLE app.own (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO app.own VALUES (1), (1);
SELECT on_source($$UPDATE app.t SET parent = 1, changed = clock_timestamp() WHERE parent = 9$$);
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.d')$$, 'what the caller has yet to put right is left to him');
DELETE FROM app.own WHERE ctid = (SELECT min(ctid) FROM app.own);
COMMIT;
SELECT * FROM finish();
