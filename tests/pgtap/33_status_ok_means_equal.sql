-- A run that is ok has brought what it says: field reports by their numbers (F…, U…, C…), each with variations.
SELECT no_plan();

CREATE FUNCTION pg_temp.equal(p_table text) RETURNS boolean LANGUAGE sql AS $$ SELECT match FROM mimeo.validate_content(p_table) $$;
CREATE FUNCTION pg_temp.status(p_table text) RETURNS text LANGUAGE sql AS $$ SELECT (last_run(p_table)).status $$;

-- F1: names of users never meet ours: each identifier that statements of ours use is a column here, of a key or not, also of a composite type.
CREATE TEMPORARY TABLE names (n text, place serial);
INSERT INTO names (n) SELECT unnest('{o,n,t,q,k,r,d,x,p,v,old,new,NEW,OLD,key,new_rows,old_rows,mimeo_k,mimeo_d,mimeo_n,mimeo_o,mimeo_r,mimeo_x,mimeo_v,mimeo_q,mimeo,mimeo_row,mimeo_key1,mimeo_size,mimeo_rows,mimeo_place,mimeo_names,mimeo_texts,mimeo_from,mimeo_was,mimeo_seq,mimeo_xid,mimeo_op,mimeo_at,found,tg_op,tg_relid,select,user,ctid_,place,size,this,other,known,unknown,queued,gone,position,waiting,stamp}'::text[]);
SELECT on_source(format('CREATE TYPE app.pair AS (a int, b text); CREATE TABLE app.named (%s, %s, PRIMARY KEY (o, mimeo_k, new_rows, mimeo_seq)); INSERT INTO app.named SELECT i, i, i, i FROM generate_series(1, 30) i',
    string_agg(format('%I %s', n, CASE WHEN n IN ('o', 'mimeo_k', 'new_rows', 'mimeo_seq') THEN 'int' ELSE 'text' END), ', ' ORDER BY n NOT IN ('o', 'mimeo_k', 'new_rows', 'mimeo_seq'), place), 'c app.pair')) FROM names;
CREATE TYPE app.pair AS (a int, b text);
SELECT lives_ok($$SELECT mimeo.dml_maker('app.named', 1, 'app.named_dml'), mimeo.logdel_maker('app.named', 1, 'app.named_logdel'), mimeo.logdel_maker('app.named', 1, 'app.named_some', p_filter := '{o,mimeo_k,new_rows,mimeo_seq,n,t,old_rows,mimeo_row}'),
    mimeo.updater_maker('app.named', 'serial', 'o', 1, NULL, 'app.named_updater', p_pk_name := '{o,mimeo_k,new_rows,mimeo_seq}', p_pk_type := '{int,int,int,int}'), mimeo.inserter_maker('app.named', 'serial', 'o', 1, NULL, 'app.named_inserter'),
    mimeo.snapshot_maker('app.named', 1, 'app.named_snap'), mimeo.table_maker('app.named', 1, 'app.named_table')$$, 'F1: makers');
SELECT lives_ok(format('SELECT on_source($s$UPDATE app.named SET %s, c = ROW(o, ''x''); UPDATE app.named SET o = o + 1000, mimeo_k = -mimeo_k WHERE o < 4; DELETE FROM app.named WHERE o BETWEEN 5 AND 9; INSERT INTO app.named SELECT i, i, i, i FROM generate_series(31, 40) i$s$)',
    string_agg(format('%I = %L', n, n), ', ')), 'F1: writers') FROM names WHERE n NOT IN ('o', 'mimeo_k', 'new_rows', 'mimeo_seq');
SELECT lives_ok(format('SELECT mimeo.refresh_%s(%L)', m, 'app.named_' || d), 'F1: refresh of ' || d) FROM (VALUES ('dml', 'dml'), ('logdel', 'logdel'), ('logdel', 'some'), ('updater', 'updater'), ('inserter', 'inserter'), ('snapshot', 'snap'), ('table', 'table')) v(m, d);
SELECT ok(pg_temp.equal('app.named_' || d), 'F1: equal: ' || d) FROM unnest('{dml,logdel,some,snap,table}'::text[]) d;
SELECT results_eq($$SELECT o, n, old_rows, mimeo_row, (c).b FROM app.named_logdel WHERE o IN (5, 6) AND mimeo_source_deleted IS NOT NULL ORDER BY o$$, $$VALUES (5, 'n', 'old_rows', 'mimeo_row', 'x'), (6, 'n', 'old_rows', 'mimeo_row', 'x')$$, 'F1: deleted rows have their last values');
SELECT is((SELECT count(*) FROM app.named_logdel WHERE mimeo_source_deleted IS NOT NULL), 8::bigint, 'F1: and those whose keys were changed');
SELECT is((SELECT string_agg(DISTINCT mimeo_row || n, ' ') FROM app.named_some WHERE mimeo_source_deleted IS NOT NULL), 'mimeo_rown', 'F1: with a filter, too');

-- F2: keys of types with operators of their own, through domains. F13: the extension lives in another schema here.
SELECT on_source($$CREATE EXTENSION citext; CREATE EXTENSION ltree;
    CREATE DOMAIN app.d1 AS citext; CREATE DOMAIN app.d2 AS app.d1; CREATE DOMAIN app.path AS ltree; CREATE DOMAIN app.short AS varchar(20); CREATE DOMAIN app.num AS numeric;
    CREATE TABLE app.dk (k app.d2, p app.path, s app.short, n app.num, v text, PRIMARY KEY (k, p, s, n), at timestamptz NOT NULL DEFAULT now());
    INSERT INTO app.dk SELECT 'Key' || i, ('top.n' || i)::ltree, 's' || i, i + 0.10, 'v' FROM generate_series(1, 20) i;
    CREATE TABLE app.ci (k citext PRIMARY KEY, many citext[], v text); INSERT INTO app.ci SELECT 'Key' || i, ARRAY['A', 'b']::citext[], 'v' FROM generate_series(1, 20) i$$);
CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext;
CREATE DOMAIN app.d1 AS ext.citext; CREATE DOMAIN app.d2 AS app.d1; CREATE DOMAIN app.path AS ext.ltree; CREATE DOMAIN app.short AS varchar(20); CREATE DOMAIN app.num AS numeric;
SELECT lives_ok($$SELECT mimeo.dml_maker('app.dk', 1, 'app.dk_dml'), mimeo.logdel_maker('app.dk', 1, 'app.dk_logdel'), mimeo.updater_maker('app.dk', 'time', 'at', 1, NULL, 'app.dk_updater'), mimeo.dml_maker('app.ci', 1, 'app.ci_dml'), mimeo.snapshot_maker('app.ci', 1, 'app.ci_snap'), mimeo.logdel_maker('app.ci', 1, 'app.ci_logdel')$$, 'F2, F13: makers');
SELECT on_source($$UPDATE app.dk SET k = upper(k::text)::citext, n = n + 0.00, v = 'w', at = clock_timestamp() WHERE n < 5; DELETE FROM app.dk WHERE k = 'KEY7'; UPDATE app.dk SET k = 'other' WHERE k = 'kEy8'; INSERT INTO app.dk VALUES ('new', 'a.b', 's', 1, 'v', clock_timestamp());
    UPDATE app.ci SET k = upper(k::text)::citext, v = 'w' WHERE k IN ('key1', 'key2'); DELETE FROM app.ci WHERE k = 'KEY3'$$);
SELECT mimeo.refresh_dml('app.dk_dml'), mimeo.refresh_logdel('app.dk_logdel'), mimeo.refresh_updater('app.dk_updater'), mimeo.refresh_dml('app.ci_dml'), mimeo.refresh_snapshot('app.ci_snap'), mimeo.refresh_logdel('app.ci_logdel');
SELECT ok(pg_temp.equal('app.' || d), 'F2, F13: equal: ' || d) FROM unnest('{dk_dml,dk_logdel,ci_dml,ci_snap,ci_logdel}'::text[]) d;
SELECT is((SELECT count(*) FROM app.dk_updater WHERE v = 'w'), 4::bigint, 'F2: an updater finds such keys');
SELECT is((SELECT count(*) FROM app.dk_logdel WHERE mimeo_source_deleted IS NOT NULL), 2::bigint, 'F2: of logdel rows that are gone');
SELECT is_empty($$SELECT * FROM mimeo.check_source_columns() WHERE dest_tablename LIKE 'ci%'$$, 'F13: check_source_columns takes it for the same type');

-- F3: rows that are gone stay, so only the key is unique.
SELECT on_source($$CREATE TABLE app.mail (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, email text UNIQUE, at timestamptz NOT NULL DEFAULT clock_timestamp(), EXCLUDE USING btree (email WITH =)); CREATE UNIQUE INDEX ON app.mail (lower(email)); CREATE UNIQUE INDEX ON app.mail (email) WHERE id > 0;
    INSERT INTO app.mail (email) SELECT 'm' || i FROM generate_series(1, 10) i$$);
SELECT mimeo.logdel_maker('app.mail', 1, 'app.mail_logdel'), mimeo.updater_maker('app.mail', 'time', 'at', 1, '0', 'app.mail_updater'), mimeo.inserter_maker('app.mail', 'serial', 'id', 1, '0', 'app.mail_inserter'), mimeo.dml_maker('app.mail', 1, 'app.mail_dml');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = ('app.mail_' || m)::regclass AND indisunique), u::bigint, 'F3: unique indexes of ' || m) FROM (VALUES ('logdel', 1), ('updater', 1), ('inserter', 1), ('dml', 4)) v(m, u);
SELECT on_source($$DELETE FROM app.mail WHERE id <= 3; INSERT INTO app.mail (email) VALUES ('m1'), ('m2'), ('m3'); UPDATE app.mail SET email = NULL, at = clock_timestamp() WHERE id = 5; UPDATE app.mail SET email = 'm5', at = clock_timestamp() WHERE id = 4; INSERT INTO app.mail (email) VALUES ('last')$$);
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.mail_logdel'), mimeo.refresh_updater('app.mail_updater'), mimeo.refresh_inserter('app.mail_inserter'), mimeo.refresh_dml('app.mail_dml')$$, 'F3: a value that is used again');
SELECT ok(pg_temp.equal('app.mail_logdel') AND pg_temp.equal('app.mail_dml'), 'F3: equal');
CREATE UNIQUE INDEX kept ON app.mail_inserter (email) WHERE id > 10;
SELECT on_source($$DELETE FROM app.mail WHERE email = 'm1'; INSERT INTO app.mail (email) VALUES ('m1'), ('behind')$$);
SELECT alike(told($$SELECT mimeo.refresh_inserter('app.mail_inserter')$$), '23505 %kept%hint: %only the key can be unique%', 'F3: a unique index that somebody has put here is an error that says so');

-- F4: last values in every type.
SELECT on_source($$CREATE TYPE app.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN app.pos AS int CHECK (VALUE > 0); CREATE TYPE app.deep AS (j jsonb, a int[], p app.pair);
    CREATE TABLE app.zoo (id int PRIMARY KEY, j jsonb, j0 jsonb, js json, a int[], a2 int[], vec oidvector, v2 int2vector, m money, f8 float8, f4 real, nan numeric, ts timestamptz, ts0 timestamp, d date, tm time, tz timetz, i interval, b bytea, c char(5), c1 "char", vc varchar(9), bits bit(3), vb bit varying, u uuid,
        ip inet, ci cidr, mac macaddr, pt point, ln line, bx box, pl polygon, cr circle, r int4range, rs tstzrange, x xml, tsv tsvector, tsq tsquery, e app.mood, dm app.pos, comp app.deep, ea app.mood[], ta text[], ja jsonb[], n name, o oid, lsn pg_lsn, txt text, empty text, bo bool, ct citext, lt ltree);
    INSERT INTO app.zoo SELECT i, 'null', '{"a": null, "b": [1, "x"]}', '{"a":  1,"a":2}', '[2:4]={1,2,3}', '{}', '1 2 3', '4 5', '$1,234.56', 'NaN', 0.1, 'NaN', 'infinity', '-infinity', 'infinity', '24:00', '12:00+05:30', '1 mon -3 days 04:05:06.789', '\x00ff5c27', 'ab', 'c', 'vc', '101', '1', '00112233-4455-6677-8899-aabbccddeeff',
        '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '(0.1,1e-300)', '{1,2,3}', '(1,2),(3,4)', '((0,0),(1,1),(1,0))', '<(0,0),1>', '[1,5)', '[2020-01-01,)', '<a>b</a>', 'a:1 b', 'a & b', 'ok', 7, ROW('null'::jsonb, '[0:1]={7,8}'::int[], ROW(1, 'x"y')::app.pair)::app.deep, '{sad,NULL}', ARRAY['a"b', NULL, 'NULL', ''], ARRAY['null'::jsonb, NULL], 'nm', 4294967295, '0/16B3748', 'o''k \ "q"', '', true, 'CI', 'a.b'
    FROM generate_series(1, 6) i$$);
CREATE TYPE app.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN app.pos AS int CHECK (VALUE > 0); CREATE TYPE app.deep AS (j jsonb, a int[], p app.pair);
SELECT lives_ok($$SELECT mimeo.logdel_maker('app.zoo', 1)$$, 'F4: a job of all types');
CREATE TEMPORARY TABLE were AS SELECT z::text AS whole FROM (SELECT * FROM app.zoo WHERE id IN (2, 3, 4)) z;
-- F14, F16: whatever the settings of who deletes.
SELECT on_source($$SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -5; SET bytea_output = 'escape'; SET lc_monetary = 'en_US.utf8'; SET xmlbinary = 'hex'; SET timezone = 'Asia/Kathmandu'; SET quote_all_identifiers = on; DELETE FROM app.zoo WHERE id IN (2, 3)$$)
 WHERE ask_source($$SELECT count(*) FROM pg_collation WHERE collname = 'en_US.utf8'$$)::int > 0;
SELECT on_source($$SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -5; SET bytea_output = 'escape'; SET timezone = 'Asia/Kathmandu'; SET quote_all_identifiers = on; DELETE FROM app.zoo WHERE id IN (2, 3); UPDATE app.zoo SET id = 40 WHERE id = 4$$);
SELECT lives_ok($$SELECT mimeo.refresh_logdel('app.zoo')$$, 'F4: they are deleted, and one gets another key');
SELECT results_eq($$SELECT z::text FROM app.zoo z WHERE mimeo_source_deleted IS NOT NULL ORDER BY id$$,
    $$SELECT left(whole, -1) || '"' || z.mimeo_source_deleted || '")' FROM were JOIN app.zoo z ON split_part(ltrim(whole, '('), ',', 1) = z.id::text ORDER BY z.id$$, 'F4: what the rows held, in every type');
SELECT ok(pg_temp.equal('app.zoo'), 'F4: the others are equal');

-- F10: the queue holds what the job copies.
SELECT on_source($$CREATE TABLE app.private (id int PRIMARY KEY, v text, secret text); INSERT INTO app.private SELECT i, 'v', 'top secret' FROM generate_series(1, 9) i; REVOKE SELECT ON app.private FROM reader; GRANT SELECT (id, v) ON app.private TO reader$$);
SELECT mimeo.logdel_maker('app.private', 1, p_filter := '{id,v}');
SELECT on_source($$UPDATE app.private SET secret = 'changed' WHERE id = 1; DELETE FROM app.private WHERE id = 2; UPDATE app.private SET id = 30 WHERE id = 3; ALTER TABLE app.private ADD COLUMN another text DEFAULT 'secret too'; DELETE FROM app.private WHERE id = 4$$);
SELECT is(ask_reader($$SELECT count(*) FROM mimeo.app_private_q q WHERE q::text LIKE '%secret%' OR q::text LIKE '%changed%'$$), '0', 'F10: no value of a column that the filter leaves out');
SELECT is(ask_reader($$SELECT count(*) FROM mimeo.app_private_q WHERE mimeo_op <> 'P'$$), '4', 'F10: nor its changes alone');
SELECT mimeo.refresh_logdel('app.private');
SELECT ok(pg_temp.equal('app.private'), 'F10: and the job is right');

-- F5, U1: a column that comes later brings the values of old rows, and a type that is rewritten USING something is noticed.
SELECT on_source($$CREATE TABLE app.grow (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text, at timestamptz NOT NULL DEFAULT clock_timestamp()); INSERT INTO app.grow (v) SELECT 'v' || i FROM generate_series(1, 50) i$$);
SELECT mimeo.dml_maker('app.grow', 1, 'app.grow_dml'), mimeo.logdel_maker('app.grow', 1, 'app.grow_logdel'), mimeo.updater_maker('app.grow', 'serial', 'id', 1, '0', 'app.grow_updater'), mimeo.inserter_maker('app.grow', 'serial', 'id', 1, '0', 'app.grow_inserter'), mimeo.snapshot_maker('app.grow', 1, 'app.grow_snap');
UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table LIKE 'app.grow%'; -- as jobs of older releases
SELECT on_source($$DELETE FROM app.grow WHERE id = 1; ALTER TABLE app.grow ADD COLUMN n int DEFAULT 7, ADD COLUMN r float8 DEFAULT random()$$);
SELECT alike(told(format('SELECT mimeo.refresh_%s(%L)', m, 'app.grow_' || m)), '42804 %column "n" is missing%', 'F5: until it is here, a refresh says so, also when nothing is queued: ' || m) FROM unnest('{dml,logdel,updater,inserter}'::text[]) m;
ALTER TABLE app.grow_dml ADD COLUMN n int, ADD COLUMN r float8; ALTER TABLE app.grow_logdel ADD COLUMN n int, ADD COLUMN r float8;
ALTER TABLE app.grow_updater ADD COLUMN n int, ADD COLUMN r float8; ALTER TABLE app.grow_inserter ADD COLUMN n int, ADD COLUMN r float8;
SELECT on_source($$INSERT INTO app.grow (v) VALUES ('new'), ('newest')$$);
SELECT alike((SELECT string_agg(concat_ws(' ', action, estimate), E'\n') FROM mimeo.plan_refresh('app.grow_' || m)), '%column "n" was added%', 'F5: plan_refresh tells: ' || m) FROM unnest('{dml,logdel,updater,inserter}'::text[]) m;
SELECT lives_ok(format('SELECT mimeo.refresh_%s(%L)', m, 'app.grow_' || m), 'F5: ' || m) FROM unnest('{dml,logdel,updater,inserter}'::text[]) m;
SELECT is(pg_temp.status('app.grow_' || m), 'warning', 'F5: it is a warning that tells: ' || m) FROM unnest('{dml,logdel,updater,inserter}'::text[]) m;
SELECT ok(pg_temp.equal('app.grow_' || m), 'F5: old rows have their values: ' || m) FROM unnest('{dml,logdel}'::text[]) m;
SELECT is((SELECT count(*) FROM app.grow_updater WHERE n = 7 AND r IS NOT NULL), 50::bigint, 'F5: of an updater, too, which keeps the row that is gone');
SELECT is((SELECT count(*) FROM app.grow_updater WHERE id = 1 AND n IS NULL), 1::bigint, 'F5: as it was');
SELECT on_source($$INSERT INTO app.grow (v) VALUES ('later')$$);
SELECT mimeo.refresh_inserter('app.grow_inserter'), mimeo.refresh_dml('app.grow_dml'), mimeo.refresh_updater('app.grow_updater');
SELECT alike((last_run('app.grow_inserter')).status || (last_run('app.grow_inserter')).reason, 'warning%p_repull := true%', 'F5: an inserter, which takes no row twice, warns until it is told to');
SELECT is(pg_temp.status('app.grow_dml') || pg_temp.status('app.grow_updater'), 'okok', 'F5: the others once');
SELECT mimeo.refresh_inserter('app.grow_inserter', p_repull := true);
SELECT on_source($$INSERT INTO app.grow (v) VALUES ('last')$$);
SELECT mimeo.refresh_inserter('app.grow_inserter');
SELECT is(pg_temp.status('app.grow_inserter'), 'ok', 'F5: then it is done');
SELECT on_source($$ALTER TABLE app.grow ALTER v TYPE text USING upper(v)$$);
SELECT mimeo.refresh_dml('app.grow_dml'), mimeo.refresh_logdel('app.grow_logdel'), mimeo.refresh_updater('app.grow_updater'), mimeo.refresh_inserter('app.grow_inserter'), mimeo.refresh_snapshot('app.grow_snap');
SELECT ok(pg_temp.equal('app.grow_' || m), 'F5: the same type, rewritten USING something: ' || m) FROM unnest('{dml,logdel,snap}'::text[]) m;
SELECT alike((last_run('app.grow_' || m)).reason, '%column "v" may have been written anew%', 'F5: noticed: ' || m) FROM unnest('{dml,logdel,updater,inserter}'::text[]) m;
SELECT is((SELECT count(*) FROM app.grow_updater WHERE v <> upper(v)), 1::bigint, 'F5: an updater has the new values, but of the row that is gone');
SELECT on_source($$VACUUM FULL app.grow$$);
SELECT on_source($$CLUSTER app.grow USING grow_pkey$$);
SELECT on_source($$ALTER TABLE app.grow ALTER v SET NOT NULL, ALTER v SET STATISTICS 10$$);
SELECT on_source($$ALTER TABLE app.grow ADD COLUMN nothing int$$);
ALTER TABLE app.grow_dml ADD COLUMN nothing int;
SELECT mimeo.refresh_dml('app.grow_dml') FROM (SELECT mimeo.refresh_dml('app.grow_dml')) x;
SELECT is(pg_temp.status('app.grow_dml'), 'ok', 'F5: a column of NULLs needs no copy');
SELECT on_source($$ALTER TABLE app.grow RENAME v TO w; DELETE FROM app.grow WHERE id = 2$$);
SELECT alike(told($$SELECT mimeo.refresh_dml('app.grow_dml')$$), '%column "w" is missing%hint: Run on the destination: ALTER TABLE "app"."grow_dml" RENAME COLUMN "v" TO "w";%', 'U1: a column that was renamed is to be renamed here');
ALTER TABLE app.grow_dml RENAME v TO w; ALTER TABLE app.grow_logdel RENAME v TO w; ALTER TABLE app.grow_logdel ADD COLUMN nothing int;
SELECT mimeo.refresh_dml('app.grow_dml'), mimeo.refresh_logdel('app.grow_logdel');
SELECT ok(pg_temp.equal('app.grow_dml') AND pg_temp.equal('app.grow_logdel'), 'U1: equal then');
SELECT is((SELECT w FROM app.grow_logdel WHERE id = 2 AND mimeo_source_deleted IS NOT NULL), 'V2', 'U1: a row that was deleted under the new name has its values');

-- F6: nothing is rounded or cut.
SELECT on_source($$CREATE DOMAIN app.money2 AS numeric(9,2); CREATE TYPE app.inner2 AS (n numeric(9,4)); CREATE TABLE app.wide (id int PRIMARY KEY, a numeric(9,2), b timestamp(0), c interval(0), d varchar(5), e char(4), f bit(3), g varbit(4), h time(1), i numeric(9,2)[], j app.money2, k int, l bigint, m app.inner2, at timestamptz DEFAULT now());
    INSERT INTO app.wide VALUES (1, 1.25, now(), '1.5 s', 'abcde', 'ab', '101', '1', '12:00', '{1.25}', 2.25, 5, 6, ROW(1.2345))$$);
CREATE DOMAIN app.money2 AS numeric(9,2); CREATE TYPE app.inner2 AS (n numeric(9,4));
SELECT mimeo.dml_maker('app.wide', 1, 'app.wide_dml'), mimeo.logdel_maker('app.wide', 1, 'app.wide_logdel'), mimeo.updater_maker('app.wide', 'time', 'at', 1, NULL, 'app.wide_updater'), mimeo.inserter_maker('app.wide', 'serial', 'id', 1, NULL, 'app.wide_inserter'), mimeo.table_maker('app.wide', 1, 'app.wide_table');
UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table LIKE 'app.wide%';
CREATE FUNCTION pg_temp.refused(p_column text, p_type text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE m text;
BEGIN
    PERFORM on_source(format('ALTER TABLE app.wide ALTER %s TYPE %s', p_column, p_type));
    FOREACH m IN ARRAY '{dml,logdel,updater,inserter,table}'::text[] LOOP
        RETURN NEXT alike(told(format('SELECT mimeo.refresh_%s(%L)', m, 'app.wide_' || m)), format('42804 %%column "%s" is %%ALTER TABLE%%ALTER COLUMN "%s" TYPE %%', p_column, p_column), format('F6: %s %s of %s', p_column, p_type, m));
        EXECUTE format('ALTER TABLE app.wide_%s ALTER %s TYPE %s', m, p_column, p_type);
        RETURN NEXT lives_ok(format('SELECT mimeo.refresh_%s(%L)', m, 'app.wide_' || m), 'F6: and works with it');
    END LOOP;
END $$;
SELECT pg_temp.refused(c, t) FROM (VALUES ('a', 'numeric(9,4)'), ('a', 'numeric'), ('b', 'timestamp(3)'), ('b', 'timestamp'), ('c', 'interval'), ('d', 'varchar(9)'), ('d', 'text'), ('e', 'char(8)'), ('g', 'varbit(9)'), ('h', 'time(4)'), ('i', 'numeric(9,4)[]'), ('k', 'bigint'), ('l', 'numeric')) v(c, t);
SELECT ok(pg_temp.equal('app.wide_' || m), 'F6: equal at the end: ' || m) FROM unnest('{dml,logdel,table}'::text[]) m;
CREATE TABLE app.wide_kept (id int PRIMARY KEY, a numeric(5,1), b timestamp(0), c interval, d varchar(2), e text, f bit(3), g varbit, h time, i numeric[], j numeric(9,1), k bigint, l float8, m app.inner2, at timestamptz);
SELECT alike(told($$SELECT mimeo.dml_maker('app.wide', 1, 'app.wide_kept')$$), '42804 %column "a" is numeric(5,1), but numeric on the source; column "b" is timestamp(0) without time zone%column "d" is %column "j" is numeric(9,1)%column "l" is double precision%', 'F6: a kept destination that is narrower');

-- F7: rows without a control value are not there until they get one.
SELECT on_source($$CREATE TABLE app.late (id int PRIMARY KEY, at timestamptz, v text); INSERT INTO app.late SELECT i, CASE WHEN i > 5 THEN now() - interval '1 hour' END, 'v' FROM generate_series(1, 20) i$$);
SELECT mimeo.inserter_maker('app.late', 'time', 'at', 1, '0', 'app.late_inserter'), mimeo.updater_maker('app.late', 'time', 'at', 1, '0', 'app.late_updater');
SELECT is((SELECT count(*) FROM app.late_inserter) + (SELECT count(*) FROM app.late_updater), 30::bigint, 'F7: a maker leaves them out');
SELECT mimeo.refresh_inserter('app.late_inserter'), mimeo.refresh_updater('app.late_updater'), mimeo.refresh_inserter('app.late_inserter', p_repull := true);
SELECT is((SELECT count(*) FROM app.late_inserter) + (SELECT count(*) FROM app.late_updater), 30::bigint, 'F7: and refreshes');
SELECT ok(pg_temp.equal('app.late_inserter'), 'F7: as validate_content sees it');
SELECT on_source($$UPDATE app.late SET at = clock_timestamp() WHERE id <= 5$$);
SELECT pg_sleep(0.1);
SELECT mimeo.refresh_inserter('app.late_inserter'), mimeo.refresh_updater('app.late_updater');
SELECT is((SELECT count(*) FROM app.late_inserter) + (SELECT count(*) FROM app.late_updater), 40::bigint, 'F7: they come when they have one, once');
SELECT on_source($$UPDATE app.late SET at = clock_timestamp() WHERE id = 7$$);
SELECT pg_sleep(0.1);
SELECT alike(told($$SELECT mimeo.refresh_inserter('app.late_inserter')$$), '23505 could not store a row in destination "app.late_inserter"%hint: If the row was copied before and has another control value now, use an updater%', 'F7: a row that comes again');

-- F8: a kept destination that is ahead of the source.
SELECT on_source($$CREATE TABLE app.ahead (id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), v text); INSERT INTO app.ahead (v) SELECT 'v' FROM generate_series(1, 30)$$);
CREATE TABLE app.ahead_inf (id int, at timestamptz, v text); CREATE TABLE app.ahead_far (LIKE app.ahead_inf); CREATE TABLE app.ahead_id (LIKE app.ahead_inf); CREATE TABLE app.ahead_up (LIKE app.ahead_inf);
INSERT INTO app.ahead_inf SELECT 0, 'infinity', 'mine'; INSERT INTO app.ahead_far SELECT 0, now() + interval '30 years', 'mine'; INSERT INTO app.ahead_id SELECT 2000000000, now(), 'mine'; INSERT INTO app.ahead_up SELECT 0, 'infinity', 'mine';
SELECT mimeo.inserter_maker('app.ahead', 'time', 'at', 1, '0', 'app.ahead_inf'), mimeo.inserter_maker('app.ahead', 'time', 'at', 1, '0', 'app.ahead_far'), mimeo.inserter_maker('app.ahead', 'serial', 'id', 1, '0', 'app.ahead_id'), mimeo.updater_maker('app.ahead', 'time', 'at', 1, '0', 'app.ahead_up');
SELECT on_source($$INSERT INTO app.ahead (v) SELECT 'new' FROM generate_series(1, 5)$$);
SELECT pg_sleep(0.1); -- the source's clock has to pass these rows' time
SELECT mimeo.refresh_inserter('app.ahead_inf'), mimeo.refresh_inserter('app.ahead_far'), mimeo.refresh_inserter('app.ahead_id'), mimeo.refresh_updater('app.ahead_up');
SELECT is((SELECT count(*) FROM app.ahead_inf WHERE v = 'new'), 5::bigint, 'F8: infinity');
SELECT is((SELECT count(*) FROM app.ahead_far WHERE v = 'new'), 5::bigint, 'F8: a far value');
SELECT is((SELECT count(*) FROM app.ahead_id WHERE v = 'new'), 4::bigint, 'F8: a high id, all but the last');
SELECT is((SELECT count(*) FROM app.ahead_up WHERE v = 'new'), 5::bigint, 'F8: an updater');
SELECT is((SELECT count(*) FROM app.ahead_inf WHERE v = 'mine'), 1::bigint, 'F8: what was there stays');
UPDATE mimeo.refresh_config SET last_value = 'infinity' WHERE dest_table = 'app.ahead_inf';
SELECT mimeo.refresh_inserter('app.ahead_inf');
SELECT alike((last_run('app.ahead_inf')).status || (last_run('app.ahead_inf')).reason, 'warning%last_value infinity is later than the source''s clock%', 'F8: a last_value that nothing can come after is a warning');

-- F9: NULL in a named key counts as equal; a key that rows share is told.
SELECT on_source($$CREATE TABLE app.nk (a int, b text, at timestamptz NOT NULL DEFAULT clock_timestamp(), v text); CREATE UNIQUE INDEX ON app.nk (a, b); INSERT INTO app.nk VALUES (1, NULL, now(), 'v'), (NULL, 'x', now(), 'v'), (2, 'y', now(), 'v')$$);
SELECT mimeo.updater_maker('app.nk', 'time', 'at', 1, p_boundary := '0', p_pk_name := '{a,b}', p_pk_type := '{int,text}');
SELECT on_source($$UPDATE app.nk SET v = 'w', at = clock_timestamp()$$); SELECT mimeo.refresh_updater('app.nk');
SELECT on_source($$UPDATE app.nk SET v = 'x', at = clock_timestamp()$$); SELECT pg_sleep(0.1); SELECT mimeo.refresh_updater('app.nk');
SELECT results_eq($$SELECT a, b, v FROM app.nk ORDER BY a, b$$, $$VALUES (1, NULL::text, 'x'), (2, 'y', 'x'), (NULL, 'x', 'x')$$, 'F9: one row each');
SELECT on_source($$CREATE TABLE app.shared (a int NOT NULL, b int NOT NULL, v text); INSERT INTO app.shared VALUES (1, 1, 'x'), (1, 2, 'y'), (2, 1, 'z')$$);
SELECT alike(told(format('SELECT mimeo.%s_maker(''app.shared'', 1, p_pk_name := ''{a}'', p_pk_type := ''{int}'')', m)), '23505 different rows of "app.shared" have the same key ("a")%hint: %p_pk_name%', 'F9: a key that is none, of ' || m) FROM unnest('{dml,logdel}'::text[]) m;
SELECT on_source($$UPDATE app.shared SET a = 3 WHERE b = 2$$);
SELECT lives_ok($$SELECT mimeo.dml_maker('app.shared', 1, p_pk_name := '{a}', p_pk_type := '{int}')$$, 'F9: as long as it is one');
SELECT on_source($$INSERT INTO app.shared VALUES (1, 5, 'again')$$);
SELECT alike(told($$SELECT mimeo.refresh_dml('app.shared')$$), '23505 different rows of "app.shared" have the same key ("a")%', 'F9: later, too');

-- C3: keys of other types, and of other names.
SELECT on_source($$CREATE TABLE app.key (id int PRIMARY KEY, v text); INSERT INTO app.key SELECT i, 'v' FROM generate_series(1, 10) i$$);
SELECT mimeo.dml_maker('app.key', 1, 'app.key_dml'), mimeo.logdel_maker('app.key', 1, 'app.key_logdel');
UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table LIKE 'app.key%';
SELECT lives_ok($$SELECT on_source('ALTER TABLE app.key ALTER id TYPE bigint; INSERT INTO app.key VALUES (5000000000, ''large''); UPDATE app.key SET id = id + 6000000000 WHERE id = 1; DELETE FROM app.key WHERE id = 2')$$, 'C3: a key becomes bigint, with values beyond int');
SELECT alike(told(format('SELECT mimeo.refresh_%s(%L)', m, 'app.key_' || m)), '42804 %ALTER TABLE "app"."key_%" ALTER COLUMN "id" TYPE bigint;%', 'C3: the refresh says which ALTER TABLE is needed: ' || m) FROM unnest('{dml,logdel}'::text[]) m;
ALTER TABLE app.key_dml ALTER id TYPE bigint; ALTER TABLE app.key_logdel ALTER id TYPE bigint;
SELECT mimeo.refresh_dml('app.key_dml'), mimeo.refresh_logdel('app.key_logdel');
SELECT ok(pg_temp.equal('app.key_dml') AND pg_temp.equal('app.key_logdel'), 'C3: and loses nothing');
SELECT results_eq($$SELECT id FROM app.key_logdel WHERE mimeo_source_deleted IS NOT NULL ORDER BY 1$$, $$VALUES (1::bigint), (2)$$, 'C3: nor what was deleted');
SELECT lives_ok($$SELECT on_source('ALTER TABLE app.key RENAME id TO nr; UPDATE app.key SET v = ''renamed'' WHERE nr = 3; INSERT INTO app.key VALUES (77, ''new''); DELETE FROM app.key WHERE nr = 4; UPDATE app.key SET nr = 78 WHERE nr = 5')$$, 'C3: a key is renamed, and writers go on');
SELECT alike(told($$SELECT mimeo.refresh_dml('app.key_dml')$$), '42P10 %"app.key" on %lacks columns of the key of the job: "id"%hint: %pk_name%', 'C3: the refresh says so');
ALTER TABLE app.key_dml RENAME id TO nr; ALTER TABLE app.key_logdel RENAME id TO nr; UPDATE mimeo.refresh_config SET pk_name = '{nr}' WHERE dest_table LIKE 'app.key_%';
SELECT mimeo.refresh_dml('app.key_dml'), mimeo.refresh_logdel('app.key_logdel');
SELECT ok(pg_temp.equal('app.key_dml') AND pg_temp.equal('app.key_logdel'), 'C3: then all rows are copied');
SELECT on_source($$UPDATE app.key SET nr = nr + 1000 WHERE nr IN (6, 7); DELETE FROM app.key WHERE nr = 8; TRUNCATE app.key; INSERT INTO app.key VALUES (1, 'x'); ALTER TABLE app.key ALTER nr TYPE text; INSERT INTO app.key VALUES ('a', 'text')$$);
ALTER TABLE app.key_dml ALTER nr TYPE text; ALTER TABLE app.key_logdel ALTER nr TYPE text;
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.key_dml'), mimeo.refresh_logdel('app.key_logdel')$$, 'C3: even text');
SELECT ok(pg_temp.equal('app.key_dml') AND pg_temp.equal('app.key_logdel'), 'C3: equal');
-- The same of a partitioned table, whose triggers fire once a row, in a session that has written before.
SELECT on_source($$CREATE TABLE app.parts (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); CREATE TABLE app.parts1 PARTITION OF app.parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01'); CREATE TABLE app.parts2 (v text, id int NOT NULL, x int, day date NOT NULL); ALTER TABLE app.parts2 DROP COLUMN x; ALTER TABLE app.parts ATTACH PARTITION app.parts2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    INSERT INTO app.parts SELECT i, date '2020-06-01', 'v' FROM generate_series(1, 5) i UNION ALL SELECT i, date '2021-06-01', 'v' FROM generate_series(1, 5) i$$);
SELECT mimeo.dml_maker('app.parts', 1, 'app.parts_dml'), mimeo.logdel_maker('app.parts', 1, 'app.parts_logdel'), mimeo.logdel_maker('app.parts', 1, 'app.parts_some', p_filter := '{id,day}');
SELECT lives_ok($$SELECT on_source('UPDATE app.parts SET v = ''w'' WHERE id = 1; DELETE FROM app.parts WHERE id = 2; ALTER TABLE app.parts ALTER id TYPE bigint; INSERT INTO app.parts VALUES (5000000000, ''2020-02-02'', ''x''), (5000000000, ''2021-02-02'', ''x''); UPDATE app.parts SET v = ''w'', day = day + 366 WHERE id = 3 AND day < ''2021-01-01''; DELETE FROM app.parts WHERE id = 4;
    ALTER TABLE app.parts RENAME v TO note; UPDATE app.parts SET note = ''n'' WHERE id = 5; ALTER TABLE app.parts ADD COLUMN more int DEFAULT 5; UPDATE app.parts SET more = 6; DELETE FROM app.parts2 WHERE id = 5')$$, 'C3: a partitioned table');
ALTER TABLE app.parts_dml ALTER id TYPE bigint; ALTER TABLE app.parts_logdel ALTER id TYPE bigint; ALTER TABLE app.parts_some ALTER id TYPE bigint;
ALTER TABLE app.parts_dml RENAME v TO note; ALTER TABLE app.parts_logdel RENAME v TO note; ALTER TABLE app.parts_dml ADD COLUMN more int; ALTER TABLE app.parts_logdel ADD COLUMN more int;
SELECT lives_ok($$SELECT mimeo.refresh_dml('app.parts_dml'), mimeo.refresh_logdel('app.parts_logdel'), mimeo.refresh_logdel('app.parts_some')$$, 'C3: its refreshes');
SELECT ok(pg_temp.equal('app.parts_' || m), 'C3: equal: ' || m) FROM unnest('{dml,logdel,some}'::text[]) m;
SELECT is((SELECT count(*) FROM app.parts_logdel WHERE mimeo_source_deleted IS NOT NULL), 6::bigint, 'C3: rows that are gone');

-- U10: rows changed by hand in a snapshot.
SELECT on_source($$CREATE TABLE app.hand (id int PRIMARY KEY, v text); INSERT INTO app.hand SELECT i, 'v' FROM generate_series(1, 20) i$$);
SELECT mimeo.snapshot_maker('app.hand', 1);
SELECT mimeo.refresh_snapshot('app.hand'); SELECT is(pg_temp.status('app.hand'), 'skipped', 'U10: unchanged');
CREATE FUNCTION pg_temp.by_hand(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(p_sql, (SELECT d.refobjid::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE r.ev_class = 'app.hand'::regclass AND d.refobjid <> 'app.hand'::regclass AND d.refclassid = 'pg_class'::regclass LIMIT 1));
    PERFORM pg_stat_force_next_flush(); RETURN NULL;
END $$;
SELECT pg_temp.by_hand($$DELETE FROM %s WHERE id < 5$$); SELECT mimeo.refresh_snapshot('app.hand');
SELECT ok(pg_temp.equal('app.hand') AND pg_temp.status('app.hand') = 'ok', 'U10: rows that were deleted by hand come back');
SELECT pg_temp.by_hand($$UPDATE %s SET v = 'mine' WHERE id < 5$$); SELECT mimeo.refresh_snapshot('app.hand');
SELECT ok(pg_temp.equal('app.hand'), 'U10: changed ones, too');
SELECT pg_temp.by_hand($$INSERT INTO %s (id, v) VALUES (99, 'mine')$$); SELECT mimeo.refresh_snapshot('app.hand');
SELECT ok(pg_temp.equal('app.hand'), 'U10: and rows more');
SELECT mimeo.refresh_snapshot('app.hand'); SELECT is(pg_temp.status('app.hand'), 'skipped', 'U10: then it is skipped again');

-- U3: how old the data is.
SELECT ok((SELECT bool_and(data_as_of IS NOT NULL AND data_as_of <= clock_timestamp() AND lag < '10 minutes') FROM mimeo.job_status WHERE dest_table IN ('app.hand', 'app.mail_dml', 'app.late_updater', 'app.wide_table')), 'U3: job_status tells as of which moment the data is');

-- F24: a queue has a size.
SELECT is((SELECT DISTINCT max_queue_size FROM mimeo.refresh_config_dml), 10737418240, 'F24: 10 GB by default');
SELECT is((SELECT count(*) FROM mimeo.refresh_config WHERE max_queue_size IS NOT NULL AND type NOT IN ('dml', 'logdel')), 0::bigint, 'F24: of no other method');
SELECT on_source($$CREATE TABLE app.full (id int PRIMARY KEY, v text); INSERT INTO app.full SELECT i, 'v' FROM generate_series(1, 1000) i$$);
SELECT mimeo.dml_maker('app.full', 1, 'app.full_dml'), mimeo.logdel_maker('app.full', 1, 'app.full_logdel');
UPDATE mimeo.refresh_config SET max_queue_size = 200000 WHERE dest_table LIKE 'app.full%';
SELECT mimeo.refresh_dml('app.full_dml'), mimeo.refresh_logdel('app.full_logdel');
SELECT lives_ok($$SELECT on_source('UPDATE app.full SET v = v || ''x''') FROM generate_series(1, 10)$$, 'F24: writers go on');
SELECT cmp_ok(ask_reader('SELECT count(*) FROM mimeo.app_full_q')::int, '<', 6000, 'F24: while the queue takes no more');
SELECT on_source($$DELETE FROM app.full WHERE id <= 10; INSERT INTO app.full SELECT i, 'new' FROM generate_series(2001, 2010) i$$);
SELECT alike((SELECT string_agg(action, E'\n') FROM mimeo.plan_refresh('app.full_dml')), '%which is full%', 'F24: plan_refresh tells');
SELECT mimeo.refresh_dml('app.full_dml'), mimeo.refresh_logdel('app.full_logdel');
SELECT alike((last_run('app.full_' || m)).status || (last_run('app.full_' || m)).reason, 'warning%all rows are copied: the queue had reached max_queue_size (200000 bytes)%', 'F24: the next refresh copies all rows with a warning: ' || m) FROM unnest('{dml,logdel}'::text[]) m;
SELECT ok(pg_temp.equal('app.full_dml') AND pg_temp.equal('app.full_logdel'), 'F24: equal');
SELECT on_source($$UPDATE app.full SET v = 'y' WHERE id < 20; DELETE FROM app.full WHERE id = 20$$);
SELECT mimeo.refresh_dml('app.full_dml'), mimeo.refresh_logdel('app.full_logdel');
SELECT is(pg_temp.status('app.full_dml') || pg_temp.status('app.full_logdel'), 'okok', 'F24: then changes are queued again');
SELECT is((last_run('app.full_dml')).rows, 10::bigint, 'F24: and only they come');
SELECT ok(pg_temp.equal('app.full_dml') AND pg_temp.equal('app.full_logdel'), 'F24: equal again');

SELECT * FROM finish();
