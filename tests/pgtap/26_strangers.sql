-- What a source names here, in its indexes, generated columns and types, must not run code of a third role.
SELECT plan(17);

SELECT on_source($$
    CREATE FUNCTION app.spy(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE FUNCTION app.spy(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR app.=== (FUNCTION = app.spy, LEFTARG = int, RIGHTARG = int);
    CREATE FUNCTION app.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE DOMAIN app.watched AS int CHECK (app.spy(VALUE) > 0);
    CREATE TYPE app.pair AS (a int, b app.watched);
$$);
-- Here they are the clerk's, and tell who runs them.
GRANT USAGE, CREATE ON SCHEMA app TO clerk;
SELECT is(as_clerk(statement), 'done', split_part(statement, ' ', 2)) FROM unnest(ARRAY[
    $$CREATE FUNCTION app.spy(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE ''called as %'', current_user; END'$$,
    $$CREATE FUNCTION app.spy(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE ''called as %'', current_user; END'$$,
    'CREATE OPERATOR app.=== (FUNCTION = app.spy, LEFTARG = int, RIGHTARG = int)',
    'CREATE DOMAIN app.watched AS int CHECK (app.spy(VALUE) > 0)',
    'CREATE TYPE app.pair AS (a int, b app.watched)']) statement;

-- Indexes
SELECT on_source(format('CREATE TABLE app.i%1$s (id int PRIMARY KEY, v int); INSERT INTO app.i%1$s VALUES (1, 1); CREATE INDEX extra ON app.i%1$s %2$s; DROP INDEX app.extra;
    CREATE INDEX i%1$s_x ON app.i%1$s %2$s', number, definition))
  FROM unnest(ARRAY['((app.spy(id)))', '((app.spy(1)))', '(v) WHERE app.spy(id) > 0', '((id OPERATOR(app.===) v))']) WITH ORDINALITY d (definition, number);
SELECT lives_ok(format('SELECT mimeo.snapshot_maker(''app.i%s'', 1)', number), 'an index is left out, and the table is copied: ' || number) FROM generate_series(1, 4) number;
SELECT is((SELECT count(*) FROM pg_index x WHERE x.indrelid::regclass::text ~ 'i[1-4]_snap[12]$' AND NOT x.indisprimary), 0::bigint, 'nothing of it is made');
SELECT on_source('ALTER TABLE app.i1 ADD COLUMN w int');
SELECT lives_ok($$SELECT mimeo.refresh_snapshot('app.i1')$$, 'a refresh leaves such an index out');
SELECT same_rows('app.i1');
CREATE FUNCTION app.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SELECT on_source('CREATE TABLE app.m (id int PRIMARY KEY, v int); INSERT INTO app.m VALUES (1, 1); CREATE INDEX m_x ON app.m (lower(v::text), app.mine(v)) WHERE v > 0');
SELECT mimeo.snapshot_maker('app.m', 1);
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = 'app.m_snap1'::regclass), 2::bigint, 'what is the caller''s own, or PostgreSQL''s, is no stranger');

-- Types
SELECT on_source('CREATE TABLE app.d (id int, x app.watched); CREATE TABLE app.a (id int, x app.watched[]); CREATE TABLE app.c (id int, x app.pair)');
SELECT throws_ok(format('SELECT mimeo.snapshot_maker(''app.%s'', 1)', name), '42501',
    'function app.spy(integer) belongs to role "clerk", and would run with the rights of role "dba"', 'a column''s type: ' || name) FROM unnest('{d,a,c}'::text[]) name;

-- Generated columns
SELECT on_source('CREATE TABLE app.g (id int PRIMARY KEY, g int GENERATED ALWAYS AS (app.spy(id)) STORED); INSERT INTO app.g VALUES (7)');
SELECT mimeo.table_maker('app.g', 1);
SELECT same_rows('app.g');

SELECT * FROM finish();
