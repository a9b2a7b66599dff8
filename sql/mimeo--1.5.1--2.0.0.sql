-- From mimeo 1.5.1, first part: what has to be kept is put aside, and everything of 1.5.1 goes. The script that creates 2.x
-- follows, then after.sql. All of it is one transaction: a failure leaves 1.5.1 as it was.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE TEMPORARY TABLE pg_temp.mimeo_1_sources AS SELECT data_source_id, data_source, username, pwd FROM @extschema@.dblink_mapping_mimeo;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_sequence AS SELECT last_value, is_called FROM @extschema@.dblink_mapping_mimeo_data_source_id_seq;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_snap AS SELECT * FROM ONLY @extschema@.refresh_config_snap;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_table AS SELECT * FROM ONLY @extschema@.refresh_config_table;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_inserter_time AS SELECT * FROM ONLY @extschema@.refresh_config_inserter_time;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_inserter_serial AS SELECT * FROM ONLY @extschema@.refresh_config_inserter_serial;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_updater_time AS SELECT * FROM ONLY @extschema@.refresh_config_updater_time;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_updater_serial AS SELECT * FROM ONLY @extschema@.refresh_config_updater_serial;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_dml AS SELECT * FROM ONLY @extschema@.refresh_config_dml;
CREATE TEMPORARY TABLE pg_temp.mimeo_1_logdel AS SELECT * FROM ONLY @extschema@.refresh_config_logdel;

-- Grants to others than the owner, by name: tables, columns of tables, functions. 1.5.1 left its functions open to PUBLIC; whoever
-- may use the schema could call those that run as their owner, and nothing with the others. So that is what is kept of it.
CREATE TEMPORARY TABLE pg_temp.mimeo_1_grants AS
    SELECT 'table' AS kind, c.relname::text AS name, NULL::text AS col, a.grantee, a.privilege_type, a.is_grantable
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'mimeo'
      JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
     CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
     WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND c.relkind = 'r' AND a.grantee <> c.relowner
    UNION ALL
    SELECT 'column', c.relname::text, t.attname::text, a.grantee, a.privilege_type, a.is_grantable
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'mimeo'
      JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
      JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid
     CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
     WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND c.relkind = 'r' AND a.grantee <> c.relowner
    UNION
    SELECT 'function', p.proname::text, NULL, a.grantee, a.privilege_type, a.is_grantable
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'mimeo'
      JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.objid
     CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) a
     WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND a.grantee NOT IN (p.proowner, 0)
    UNION
    SELECT 'function', p.proname::text, NULL, u.grantee, 'EXECUTE', false
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'mimeo'
      JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.objid
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) u
     WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND p.prosecdef
       AND u.privilege_type = 'USAGE' AND u.grantee NOT IN (n.nspowner, 0)
       AND EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a WHERE a.grantee = 0);

DO $$
DECLARE
    v_name text;
BEGIN
    -- Children before their parents. Out of the extension first, so that its list of tables to dump forgets them.
    FOREACH v_name IN ARRAY '{refresh_config_snap,refresh_config_table,refresh_config_inserter_time,refresh_config_inserter_serial,refresh_config_inserter,refresh_config_updater_time,refresh_config_updater_serial,refresh_config_updater,refresh_config_dml,refresh_config_logdel,refresh_config,dblink_mapping_mimeo}'::text[] LOOP
        EXECUTE format('ALTER EXTENSION mimeo DROP TABLE @extschema@.%I', v_name);
        IF v_name = 'dblink_mapping_mimeo' THEN
            ALTER EXTENSION mimeo DROP SEQUENCE @extschema@.dblink_mapping_mimeo_data_source_id_seq;
        END IF;
        EXECUTE format('DROP TABLE @extschema@.%I', v_name);
    END LOOP;
    FOR v_name IN
        SELECT d.objid::regprocedure::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'mimeo'
         WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    LOOP
        EXECUTE format('DROP FUNCTION %s', v_name);
    END LOOP;
END
$$;

-- bootstrap
-- The configuration and the history. They are read and written by mimeo's functions as their owner, and by hand.

-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE TABLE @extschema@.dblink_mapping_mimeo (
    data_source_id serial,
    data_source text NOT NULL,
    username text,
    pwd text,
    password_required boolean NOT NULL DEFAULT true,
    CONSTRAINT dblink_mapping_mimeo_data_source_id_pkey PRIMARY KEY (data_source_id)
);
COMMENT ON TABLE @extschema@.dblink_mapping_mimeo IS 'The databases that tables are copied from';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.data_source IS
    'A libpq connection string, or the name of a foreign server whose user mapping holds the credentials';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.password_required IS
    'Jobs of roles that are not superusers connect with a password that is given here; only a superuser may set it false';

-- Without this, anyone who may write here could use the identity of the server itself (trust, peer, a passfile).
CREATE FUNCTION @extschema@.guard_password_required() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RETURN NEW;
    END IF;
    IF NOT NEW.password_required THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('data source %s: only a superuser may say that no password is required', NEW.data_source_id),
            HINT = 'Give a username and pwd, or ask a superuser to set password_required to false.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_password_required BEFORE INSERT OR UPDATE ON @extschema@.dblink_mapping_mimeo
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_password_required();

CREATE TABLE @extschema@.refresh_config (
    dest_table text NOT NULL,
    source_table text NOT NULL,
    type text NOT NULL,
    dblink integer NOT NULL,
    last_run timestamptz,
    filter text[],
    condition text,
    period interval,
    batch_limit integer,
    jobmon boolean NOT NULL DEFAULT false,
    -- inserter, updater
    control text,
    boundary text,
    last_value text,
    dst_active boolean,
    dst_start integer,
    dst_end integer,
    -- updater, dml, logdel
    pk_name text[],
    pk_type text[],
    insert_on_fetch boolean,
    -- snap
    check_stats boolean,
    post_script text[],
    -- table
    truncate_cascade boolean,
    sequences text[],
    -- what the method itself remembers
    state jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT refresh_config_pkey PRIMARY KEY (dest_table),
    CONSTRAINT refresh_config_dblink_fkey FOREIGN KEY (dblink)
        REFERENCES @extschema@.dblink_mapping_mimeo (data_source_id),
    CONSTRAINT refresh_config_type_check CHECK (type IN ('snap', 'table', 'inserter_time', 'inserter_serial',
        'updater_time', 'updater_serial', 'dml', 'logdel')),
    CONSTRAINT refresh_config_control_check CHECK (type NOT IN ('inserter_time', 'inserter_serial', 'updater_time',
        'updater_serial') OR (control IS NOT NULL AND boundary IS NOT NULL AND last_value IS NOT NULL)),
    CONSTRAINT refresh_config_pk_check CHECK (type NOT IN ('updater_time', 'updater_serial', 'dml', 'logdel')
        OR (pk_name IS NOT NULL AND pk_type IS NOT NULL))
);
CREATE INDEX refresh_config_dblink_idx ON @extschema@.refresh_config (dblink);
COMMENT ON TABLE @extschema@.refresh_config IS 'One row a job; the views refresh_config_… show those of one method';
COMMENT ON COLUMN @extschema@.refresh_config.state IS 'What mimeo remembers from run to run; not to be changed by hand';

CREATE TABLE @extschema@.run_history (
    run_id bigint GENERATED BY DEFAULT AS IDENTITY,
    dest_table text NOT NULL,
    source_table text NOT NULL,
    type text NOT NULL,
    started timestamptz NOT NULL,
    ended timestamptz NOT NULL DEFAULT clock_timestamp(),
    status text NOT NULL,
    reason text,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    queue_rows bigint,
    phases jsonb NOT NULL DEFAULT '[]',
    sqlstate text,
    error text,
    run_by text NOT NULL DEFAULT session_user,
    CONSTRAINT run_history_pkey PRIMARY KEY (run_id),
    CONSTRAINT run_history_status_check CHECK (status IN ('ok', 'skipped', 'warning', 'critical', 'concurrent'))
);
CREATE INDEX run_history_dest_table_idx ON @extschema@.run_history (dest_table, started);
CREATE INDEX run_history_started_idx ON @extschema@.run_history (started);
COMMENT ON TABLE @extschema@.run_history IS 'One row a run';
COMMENT ON COLUMN @extschema@.run_history.queue_rows IS 'dml and logdel: changes that wait on the source after the run';
COMMENT ON COLUMN @extschema@.run_history.phases IS 'What the run spent its time on: [{"phase": …, "ms": …}, …]';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.dblink_mapping_mimeo', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.dblink_mapping_mimeo_data_source_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.refresh_config', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.run_history', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.run_history_run_id_seq', '');
-- For the functions that are made without a schema.
SELECT pg_catalog.set_config('search_path', '@extschema@, pg_temp', true);

-- requires:
--   tables

-- The jobs of one method each, under the names and with the columns that 1.x had. INSERT, UPDATE and DELETE go
-- through to refresh_config.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE VIEW @extschema@.refresh_config_snap AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           check_stats,
           (state #>> '{seen,fingerprint,changes,0}')::bigint AS n_tup_ins,
           (state #>> '{seen,fingerprint,changes,1}')::bigint AS n_tup_upd,
           (state #>> '{seen,fingerprint,changes,2}')::bigint AS n_tup_del,
           post_script
      FROM @extschema@.refresh_config WHERE type = 'snap' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN type SET DEFAULT 'snap';
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN check_stats SET DEFAULT true;

CREATE VIEW @extschema@.refresh_config_table AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           truncate_cascade, sequences
      FROM @extschema@.refresh_config WHERE type = 'table' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_table ALTER COLUMN type SET DEFAULT 'table';
ALTER VIEW @extschema@.refresh_config_table ALTER COLUMN truncate_cascade SET DEFAULT false;

CREATE VIEW @extschema@.refresh_config_inserter AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, boundary, last_value, dst_active, dst_start, dst_end
      FROM @extschema@.refresh_config WHERE type IN ('inserter_time', 'inserter_serial') WITH CHECK OPTION;

CREATE VIEW @extschema@.refresh_config_updater AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, boundary, last_value, dst_active, dst_start, dst_end, pk_name, pk_type
      FROM @extschema@.refresh_config WHERE type IN ('updater_time', 'updater_serial') WITH CHECK OPTION;

CREATE VIEW @extschema@.refresh_config_dml AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, insert_on_fetch
      FROM @extschema@.refresh_config WHERE type = 'dml' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN type SET DEFAULT 'dml';
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN insert_on_fetch SET DEFAULT true;

CREATE VIEW @extschema@.refresh_config_logdel AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, insert_on_fetch
      FROM @extschema@.refresh_config WHERE type = 'logdel' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_logdel ALTER COLUMN type SET DEFAULT 'logdel';
ALTER VIEW @extschema@.refresh_config_logdel ALTER COLUMN insert_on_fetch SET DEFAULT true;

-- boundary and last_value have a type of their own in these four. refresh_config keeps them as text, written in ISO
-- and UTC, so that they read the same in every session; the triggers below translate.
CREATE VIEW @extschema@.refresh_config_inserter_time AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, boundary::interval AS boundary, last_value::timestamptz AS last_value,
           dst_active, dst_start, dst_end
      FROM @extschema@.refresh_config WHERE type = 'inserter_time';
ALTER VIEW @extschema@.refresh_config_inserter_time ALTER COLUMN type SET DEFAULT 'inserter_time';

CREATE VIEW @extschema@.refresh_config_inserter_serial AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, boundary::integer AS boundary, trunc(last_value::numeric)::bigint AS last_value
      FROM @extschema@.refresh_config WHERE type = 'inserter_serial';
ALTER VIEW @extschema@.refresh_config_inserter_serial ALTER COLUMN type SET DEFAULT 'inserter_serial';

CREATE VIEW @extschema@.refresh_config_updater_time AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, boundary::interval AS boundary, last_value::timestamptz AS last_value,
           dst_active, dst_start, dst_end
      FROM @extschema@.refresh_config WHERE type = 'updater_time';
ALTER VIEW @extschema@.refresh_config_updater_time ALTER COLUMN type SET DEFAULT 'updater_time';

CREATE VIEW @extschema@.refresh_config_updater_serial AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, boundary::integer AS boundary, trunc(last_value::numeric)::bigint AS last_value
      FROM @extschema@.refresh_config WHERE type = 'updater_serial';
ALTER VIEW @extschema@.refresh_config_updater_serial ALTER COLUMN type SET DEFAULT 'updater_serial';

-- Writes a row of one of the four views through to refresh_config, as its owner. What a view does not have keeps its
-- value; what a new row does not say gets the default that 1.x had.
CREATE FUNCTION @extschema@.write_refresh_config() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET intervalstyle = postgres SET timezone = 'UTC'
AS $$
DECLARE
    v_new @extschema@.refresh_config;
    v_time boolean := TG_TABLE_NAME LIKE '%\_time';
    v_type text := substr(TG_TABLE_NAME, length('refresh_config_') + 1);
    v_stored text;
BEGIN
    -- It writes as its owner: only for the views that it was made for.
    IF NOT EXISTS (SELECT FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                     JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
                    WHERE c.oid = TG_RELID AND c.relnamespace = e.extnamespace AND e.extname = 'mimeo'
                      AND c.relowner = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)) THEN
        RAISE insufficient_privilege USING MESSAGE = format('%s is not a view of mimeo', TG_RELID::regclass);
    END IF;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM @extschema@.refresh_config WHERE dest_table = OLD.dest_table;
        RETURN OLD;
    END IF;
    IF NEW.type <> v_type THEN
        RAISE EXCEPTION USING ERRCODE = '44000',
            MESSAGE = format('%s holds jobs of type %s only', TG_TABLE_NAME, v_type);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT * INTO v_new FROM @extschema@.refresh_config WHERE dest_table = OLD.dest_table FOR UPDATE;
    END IF;
    v_stored := v_new.last_value;
    v_new := jsonb_populate_record(v_new, to_jsonb(NEW));
    v_new.boundary := coalesce(NEW.boundary::text, CASE WHEN v_time THEN '00:10:00' ELSE '0' END);
    -- What the view shows may be less exact than what the table holds.
    IF TG_OP = 'INSERT' OR NEW.last_value IS DISTINCT FROM OLD.last_value THEN
        v_new.last_value := coalesce(NEW.last_value::text, CASE WHEN v_time THEN NULL ELSE '0' END);
    ELSE
        v_new.last_value := v_stored;
    END IF;
    v_new.jobmon := coalesce(v_new.jobmon, false);
    v_new.state := coalesce(v_new.state, '{}');
    -- guard_refresh_config, which has just run as whoever writes, says who that is.
    IF current_setting('mimeo_guard.configured_by') <> '' THEN
        v_new.state := v_new.state || jsonb_build_object('configured_by', current_setting('mimeo_guard.configured_by')::jsonb);
    END IF;
    IF v_time THEN
        v_new.dst_active := coalesce(v_new.dst_active, true);
        v_new.dst_start := coalesce(v_new.dst_start, 30);
        v_new.dst_end := coalesce(v_new.dst_end, 230);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM @extschema@.refresh_config WHERE dest_table = OLD.dest_table;
    END IF;
    INSERT INTO @extschema@.refresh_config SELECT v_new.*;
    RETURN NEW;
END
$$;

CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_inserter_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_inserter_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_updater_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_updater_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();

-- A refresh works as the owner of its destination. So only who has that role's rights may say what it does: what is copied
-- from where, with which condition, and which statements run afterwards. The rest (period, limits, last_value …) is open
-- to everybody who may write here. It runs as whoever writes, also through the views. Who has said it stays in the row, for
-- owners and names change: a refresh wants that role to have the rights of whom the destination belongs to by then.
CREATE FUNCTION @extschema@.guard_refresh_config() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_harmless text[] := '{last_run,period,batch_limit,jobmon,boundary,last_value,dst_active,dst_start,dst_end,check_stats,insert_on_fetch,n_tup_ins,n_tup_upd,n_tup_del}';
    v_changed boolean := true;
    v_me jsonb;
    v_trusted boolean;
    v_owner text;
BEGIN
    -- mimeo's functions write as the owner of the table.
    SELECT r.rolsuper OR r.oid = c.relowner, jsonb_build_object('role', r.rolname, 'oid', r.oid::bigint) INTO v_trusted, v_me
      FROM pg_roles r CROSS JOIN pg_class c WHERE r.rolname = current_user AND c.oid = TG_RELID;
    IF TG_OP = 'UPDATE' THEN
        v_changed := to_jsonb(NEW) - v_harmless <> to_jsonb(OLD) - v_harmless;
    END IF;
    IF v_changed AND v_trusted IS NOT TRUE THEN
        SELECT r.rolname INTO v_owner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
         WHERE concat(n.nspname, '.', c.relname) = NEW.dest_table AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1;
        IF v_owner IS NOT NULL THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('destination %s belongs to %s, whose rights %s does not have', NEW.dest_table, v_owner, current_user),
                HINT = 'Its owner may change this job.';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE concat(n.nspname, '.', c.relname) = NEW.dest_table) THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('there is no destination %s that %s could have the rights of', NEW.dest_table, current_user),
                HINT = 'It has to exist. dest_table is its schema, a dot and its name, as pg_class has them, without quotes.';
        END IF;
    END IF;
    IF TG_WHEN = 'INSTEAD OF' THEN
        -- For write_refresh_config, which runs next, as another role.
        PERFORM set_config('mimeo_guard.configured_by',
                           CASE WHEN v_changed AND (TG_OP = 'UPDATE' OR v_trusted IS NOT TRUE) THEN v_me::text ELSE '' END, true);
        RETURN NEW;
    END IF;
    IF jsonb_typeof(NEW.state) <> 'object' THEN
        NEW.state := '{}';
    END IF;
    IF v_trusted IS NOT TRUE THEN
        IF v_changed THEN
            NEW.state := NEW.state || jsonb_build_object('configured_by', v_me);
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF to_jsonb(NEW) - v_harmless - 'state' <> to_jsonb(OLD) - v_harmless - 'state' THEN
            -- Who changes the job is responsible, unless the same statement says who is.
            IF NEW.state -> 'configured_by' IS NOT DISTINCT FROM OLD.state -> 'configured_by' OR NOT NEW.state ? 'configured_by' THEN
                NEW.state := NEW.state || jsonb_build_object('configured_by', v_me);
            END IF;
        ELSIF OLD.state ? 'configured_by' AND NOT NEW.state ? 'configured_by' THEN
            -- To take just that away is to confirm the job. What a refresh remembers does not change who is responsible.
            NEW.state := NEW.state || jsonb_build_object('configured_by',
                CASE WHEN NEW.state = OLD.state - 'configured_by' THEN v_me ELSE OLD.state -> 'configured_by' END);
        END IF;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_refresh_config BEFORE INSERT OR UPDATE ON @extschema@.refresh_config
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();
CREATE TRIGGER guard_refresh_config INSTEAD OF INSERT OR UPDATE ON @extschema@.refresh_config_inserter_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();
CREATE TRIGGER guard_refresh_config INSTEAD OF INSERT OR UPDATE ON @extschema@.refresh_config_inserter_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();
CREATE TRIGGER guard_refresh_config INSTEAD OF INSERT OR UPDATE ON @extschema@.refresh_config_updater_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();
CREATE TRIGGER guard_refresh_config INSTEAD OF INSERT OR UPDATE ON @extschema@.refresh_config_updater_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();

-- What has become of each job. Of the last run: its status, figures and error; last_success is when the last run that brought
-- the data up to date began.
CREATE VIEW @extschema@.job_status AS
    SELECT c.dest_table, c.type, c.source_table AS source, c.period, c.last_run, l.status AS last_status, s.last_success,
           clock_timestamp() - s.last_success AS lag,
           c.period IS NOT NULL AND (c.last_run IS NULL
               OR c.last_run <= clock_timestamp() - c.period + least(c.period / 10, interval '5 seconds')) AS due,
           l.rows, l.bytes, l.ended - l.started AS duration, f.consecutive_failures,
           CASE WHEN l.status IN ('warning', 'critical') THEN coalesce(l.error, l.reason) END AS error,
           c.dblink AS data_source_id, 
           greatest(c.last_run, CASE WHEN l.status = 'critical' THEN l.started END) AS last_attempt
      FROM @extschema@.refresh_config c
      LEFT JOIN LATERAL (SELECT h.* FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status <> 'concurrent'
                          ORDER BY h.started DESC, h.run_id DESC LIMIT 1) l ON true
      LEFT JOIN LATERAL (SELECT h.started FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status IN ('ok', 'skipped', 'warning')
                          ORDER BY h.started DESC LIMIT 1) h ON true
     CROSS JOIN LATERAL (SELECT coalesce(h.started, c.last_run) AS last_success) s
     CROSS JOIN LATERAL (SELECT count(*) AS consecutive_failures FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status = 'critical'
                            AND h.started > coalesce(s.last_success, '-infinity')) f;
COMMENT ON VIEW @extschema@.job_status IS 'One row a job: when it last ran, how that ended, whether it is due';

-- For a monitoring probe. Late is a job with a period whose data is older than twice that, or that has none yet.
CREATE VIEW @extschema@.health AS
    SELECT current_database()::text AS database, count(*) AS jobs,
           count(*) FILTER (WHERE period IS NOT NULL AND coalesce(lag > 2 * period, true)) AS late,
           count(*) FILTER (WHERE last_status = 'critical') AS failing, max(lag) AS oldest_lag
      FROM @extschema@.job_status;
COMMENT ON VIEW @extschema@.health IS 'One row: how many jobs there are, are late, fail, and how old the oldest data is';
SELECT pg_catalog.set_config('search_path', '@extschema@, pg_temp', true);

-- mimeo::api::monitors::check_missing_source_tables

CREATE FUNCTION check_missing_source_tables(p_data_source_id integer DEFAULT NULL, p_views boolean DEFAULT false,
    OUT schemaname text, OUT tablename text, OUT data_source integer) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'check_missing_source_tables_wrapper';

-- mimeo::api::monitors::check_permissions
CREATE  FUNCTION "check_permissions"(
	"p_dblink_id" INT, /* i32 */
	"p_src_table" TEXT, /* & str */
	"p_type" TEXT DEFAULT 'snap', /* & str */
	"p_dest_table" TEXT DEFAULT NULL /* Option < & str > */
) RETURNS TABLE (
	"side" TEXT,  /* String */
	"object" TEXT,  /* String */
	"privilege" TEXT,  /* String */
	"granted" bool,  /* bool */
	"fix" TEXT  /* Option < String > */
)
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'check_permissions_wrapper';

-- mimeo::api::monitors::check_source_columns

CREATE FUNCTION check_source_columns(p_data_source_id integer DEFAULT NULL, OUT dest_schemaname text, OUT dest_tablename text,
    OUT src_schemaname text, OUT src_tablename text, OUT missing_column_name text, OUT missing_column_type text,
    OUT data_source integer) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'check_source_columns_wrapper';

-- mimeo::api::monitors::concurrent_lock_check
CREATE  FUNCTION "concurrent_lock_check"(
	"p_dest_table" TEXT, /* & str */
	"p_lock_wait" INT DEFAULT NULL /* Option < i32 > */
) RETURNS bool /* Result < bool, ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'concurrent_lock_check_wrapper';

-- mimeo::api::destroyers::dml_destroyer
CREATE  FUNCTION "dml_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'dml_destroyer_wrapper';

-- mimeo::api::makers::dml_maker
CREATE  FUNCTION "dml_maker"(
	"p_src_table" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_pk_name" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_pk_type" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'dml_maker_wrapper';

-- mimeo::api::destroyers::inserter_destroyer
CREATE  FUNCTION "inserter_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'inserter_destroyer_wrapper';

-- mimeo::api::makers::inserter_maker
CREATE  FUNCTION "inserter_maker"(
	"p_src_table" TEXT, /* & str */
	"p_type" TEXT, /* & str */
	"p_control_field" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_boundary" TEXT DEFAULT NULL, /* Option < & str > */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'inserter_maker_wrapper';

-- mimeo::api::destroyers::logdel_destroyer
CREATE  FUNCTION "logdel_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'logdel_destroyer_wrapper';

-- mimeo::api::makers::logdel_maker
CREATE  FUNCTION "logdel_maker"(
	"p_src_table" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_pk_name" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_pk_type" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'logdel_maker_wrapper';

-- mimeo::api::refreshers::refresh_dml
CREATE  FUNCTION "refresh_dml"(
	"p_destination" TEXT, /* & str */
	"p_limit" INT DEFAULT NULL, /* Option < i32 > */
	"p_repull" bool DEFAULT false, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_insert_on_fetch" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_dml_wrapper';

-- mimeo::api::refreshers::refresh_inserter
CREATE  FUNCTION "refresh_inserter"(
	"p_destination" TEXT, /* & str */
	"p_limit" INT DEFAULT NULL, /* Option < i32 > */
	"p_repull" bool DEFAULT false, /* bool */
	"p_repull_start" TEXT DEFAULT NULL, /* Option < & str > */
	"p_repull_end" TEXT DEFAULT NULL, /* Option < & str > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_inserter_wrapper';

-- mimeo::api::refreshers::refresh_logdel
CREATE  FUNCTION "refresh_logdel"(
	"p_destination" TEXT, /* & str */
	"p_limit" INT DEFAULT NULL, /* Option < i32 > */
	"p_repull" bool DEFAULT false, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_insert_on_fetch" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_logdel_wrapper';

-- mimeo::api::refreshers::refresh_snap
CREATE  FUNCTION "refresh_snap"(
	"p_destination" TEXT, /* & str */
	"p_index" bool DEFAULT true, /* bool */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_check_stats" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_snap_wrapper';

-- mimeo::api::refreshers::refresh_snapshot
CREATE  FUNCTION "refresh_snapshot"(
	"p_destination" TEXT, /* & str */
	"p_index" bool DEFAULT true, /* bool */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_check_stats" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_snapshot_wrapper';

-- mimeo::api::refreshers::refresh_table
CREATE  FUNCTION "refresh_table"(
	"p_destination" TEXT, /* & str */
	"p_truncate_cascade" bool DEFAULT NULL, /* Option < bool > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_table_wrapper';

-- mimeo::api::refreshers::refresh_updater
CREATE  FUNCTION "refresh_updater"(
	"p_destination" TEXT, /* & str */
	"p_limit" INT DEFAULT NULL, /* Option < i32 > */
	"p_repull" bool DEFAULT false, /* bool */
	"p_repull_start" TEXT DEFAULT NULL, /* Option < & str > */
	"p_repull_end" TEXT DEFAULT NULL, /* Option < & str > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_lock_wait" INT DEFAULT NULL, /* Option < i32 > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_updater_wrapper';

-- mimeo::api::schedule::run_refresh

CREATE PROCEDURE run_refresh(p_type text DEFAULT NULL, p_batch_limit integer DEFAULT NULL, p_jobs integer DEFAULT 1)
    LANGUAGE c AS 'MODULE_PATHNAME', 'run_refresh_wrapper';

-- mimeo::api::destroyers::snapshot_destroyer
CREATE  FUNCTION "snapshot_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'snapshot_destroyer_wrapper';

-- mimeo::api::makers::snapshot_maker
CREATE  FUNCTION "snapshot_maker"(
	"p_src_table" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'snapshot_maker_wrapper';

-- mimeo::api::monitors::snapshot_monitor
CREATE  FUNCTION "snapshot_monitor"(
	"p_rowcount" bigint DEFAULT NULL, /* Option < i64 > */
	"p_size" bigint DEFAULT NULL, /* Option < i64 > */
	"p_destination" TEXT DEFAULT NULL, /* Option < & str > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS TABLE (
	"dest_tablename" TEXT,  /* String */
	"source_rowcount" bigint,  /* i64 */
	"source_size" bigint  /* i64 */
)
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'snapshot_monitor_wrapper';

-- mimeo::api::destroyers::table_destroyer
CREATE  FUNCTION "table_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'table_destroyer_wrapper';

-- mimeo::api::makers::table_maker
CREATE  FUNCTION "table_maker"(
	"p_src_table" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_sequences" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'table_maker_wrapper';

-- mimeo::api::destroyers::updater_destroyer
CREATE  FUNCTION "updater_destroyer"(
	"p_dest_table" TEXT, /* & str */
	"p_keep_table" bool DEFAULT true, /* bool */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'updater_destroyer_wrapper';

-- mimeo::api::makers::updater_maker
CREATE  FUNCTION "updater_maker"(
	"p_src_table" TEXT, /* & str */
	"p_type" TEXT, /* & str */
	"p_control_field" TEXT, /* & str */
	"p_dblink_id" INT, /* i32 */
	"p_boundary" TEXT DEFAULT NULL, /* Option < & str > */
	"p_dest_table" TEXT DEFAULT NULL, /* Option < & str > */
	"p_index" bool DEFAULT true, /* bool */
	"p_filter" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_condition" TEXT DEFAULT NULL, /* Option < & str > */
	"p_pulldata" bool DEFAULT true, /* bool */
	"p_pk_name" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_pk_type" TEXT[] DEFAULT NULL, /* :: std :: option :: Option < Vec < String > > */
	"p_jobmon" bool DEFAULT NULL, /* Option < bool > */
	"p_debug" bool DEFAULT false /* bool */
) RETURNS VOID /* Result < (), ErrorReport > */
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'updater_maker_wrapper';

-- mimeo::api::monitors::validate_content

CREATE FUNCTION validate_content(p_destination text, p_lower_interval text DEFAULT NULL, p_upper_interval text DEFAULT NULL,
    p_show integer DEFAULT 0, OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT source_hash text,
    OUT dest_hash text) RETURNS record
LANGUAGE c AS 'MODULE_PATHNAME', 'validate_content_wrapper';

-- mimeo::api::monitors::validate_rowcount

CREATE FUNCTION validate_rowcount(p_destination text, p_lower_interval text DEFAULT NULL, p_upper_interval text DEFAULT NULL,
    p_debug boolean DEFAULT false, OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT min_dest_value text,
    OUT max_dest_value text) RETURNS record
LANGUAGE c AS 'MODULE_PATHNAME', 'validate_rowcount_wrapper';

-- finalize
-- Nothing is for PUBLIC. The role that created the extension, superuser or not, may use all of it and pass it on; but
-- it gets no TRIGGER and no ownership, for the functions write these tables as their owner, and the functions behind
-- triggers are for mimeo's own.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

REVOKE ALL ON @extschema@.dblink_mapping_mimeo, @extschema@.refresh_config, @extschema@.run_history FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.dblink_mapping_mimeo, @extschema@.refresh_config,
    @extschema@.run_history, @extschema@.refresh_config_snap, @extschema@.refresh_config_table,
    @extschema@.refresh_config_inserter, @extschema@.refresh_config_inserter_time,
    @extschema@.refresh_config_inserter_serial, @extschema@.refresh_config_updater,
    @extschema@.refresh_config_updater_time, @extschema@.refresh_config_updater_serial,
    @extschema@.refresh_config_dml, @extschema@.refresh_config_logdel
    TO @extowner@ WITH GRANT OPTION;
GRANT SELECT ON @extschema@.job_status, @extschema@.health TO @extowner@ WITH GRANT OPTION;
GRANT USAGE, SELECT, UPDATE ON SEQUENCE @extschema@.dblink_mapping_mimeo_data_source_id_seq,
    @extschema@.run_history_run_id_seq TO @extowner@ WITH GRANT OPTION;

DO $do$
DECLARE
    v_function regprocedure;
    v_trigger boolean;
BEGIN
    FOR v_function, v_trigger IN
        SELECT p.oid, p.prorettype = 'trigger'::regtype
          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
         WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', v_function);
        IF NOT v_trigger THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s WITH GRANT OPTION', v_function, '@extowner@');
        END IF;
    END LOOP;
END
$do$;

-- From mimeo 1.5.1, last part: what was put aside comes back.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- 1.5.1 connected without a password where none was given, and such sources go on doing so.
INSERT INTO @extschema@.dblink_mapping_mimeo (data_source_id, data_source, username, pwd, password_required)
SELECT data_source_id, data_source, username, pwd, coalesce(pwd, '') <> '' FROM pg_temp.mimeo_1_sources;
SELECT pg_catalog.setval('@extschema@.dblink_mapping_mimeo_data_source_id_seq', last_value, is_called) FROM pg_temp.mimeo_1_sequence;

DO $do$
DECLARE
    v_type text;
    v_columns text;
    v_row record;
    v_grant record;
    v_lost text;
BEGIN
    -- What a fresh installation grants. GRANTs in this script count as such, and pg_dump would leave out what users have granted.
    CREATE TEMPORARY TABLE pg_temp.mimeo_1_fresh AS SELECT p.* FROM pg_init_privs p
      JOIN pg_depend d ON (d.classid, d.objid) = (p.classoid, p.objoid) AND d.deptype = 'e'
      JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'mimeo';

    -- Through the views, which write each value as 2.x keeps it. The counters of a snapshot prove nothing any more: its next
    -- refresh copies. Of two jobs with one destination, which 2.x does not have, the one that ran last stays.
    FOR v_row IN
        SELECT kind, job FROM (
            SELECT 'snap' AS kind, to_jsonb(j) AS job FROM pg_temp.mimeo_1_snap j UNION ALL
            SELECT 'table', to_jsonb(j) FROM pg_temp.mimeo_1_table j UNION ALL
            SELECT 'inserter_time', to_jsonb(j) FROM pg_temp.mimeo_1_inserter_time j UNION ALL
            SELECT 'inserter_serial', to_jsonb(j) FROM pg_temp.mimeo_1_inserter_serial j UNION ALL
            SELECT 'updater_time', to_jsonb(j) FROM pg_temp.mimeo_1_updater_time j UNION ALL
            SELECT 'updater_serial', to_jsonb(j) FROM pg_temp.mimeo_1_updater_serial j UNION ALL
            SELECT 'dml', to_jsonb(j) FROM pg_temp.mimeo_1_dml j UNION ALL
            SELECT 'logdel', to_jsonb(j) FROM pg_temp.mimeo_1_logdel j) jobs
         ORDER BY job ->> 'dest_table', (job ->> 'last_run')::timestamptz DESC NULLS LAST, kind
    LOOP
        IF EXISTS (SELECT FROM @extschema@.refresh_config c WHERE c.dest_table = v_row.job ->> 'dest_table') THEN
            RAISE WARNING USING
                MESSAGE = format('the %s job of %s is not kept: another job has the same destination', v_row.kind, v_row.job ->> 'dest_table'),
                HINT = 'Drop its triggers and queue on the source, if it has any, and make it again with another destination.';
            CONTINUE;
        END IF;
        SELECT string_agg(quote_ident(a.attname), ', ') INTO v_columns
          FROM pg_attribute a
         WHERE a.attrelid = format('@extschema@.%I', 'refresh_config_' || v_row.kind)::regclass AND a.attnum > 0
           AND v_row.job ? a.attname AND a.attname NOT IN ('n_tup_ins', 'n_tup_upd', 'n_tup_del');
        EXECUTE format('INSERT INTO @extschema@.%1$I (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::@extschema@.%1$I, $1)',
                       'refresh_config_' || v_row.kind, v_columns) USING v_row.job;
    END LOOP;

    -- Nobody knows who has configured these jobs: the role that has worked for each of them till now.
    UPDATE @extschema@.refresh_config c
       SET state = c.state || jsonb_build_object('configured_by', jsonb_build_object('role', r.rolname, 'oid', r.oid::bigint))
      FROM pg_roles r
     WHERE r.oid = coalesce((SELECT o.relowner FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace
                              WHERE concat(n.nspname, '.', o.relname) = c.dest_table ORDER BY length(n.nspname) LIMIT 1),
                            '@extowner@'::regrole);

    FOR v_grant IN SELECT * FROM pg_temp.mimeo_1_grants ORDER BY kind, name, col, grantee LOOP
        v_type := CASE WHEN v_grant.grantee = 0 THEN 'PUBLIC' ELSE v_grant.grantee::regrole::text END;
        CASE v_grant.kind
        WHEN 'function' THEN
            SELECT string_agg(p.oid::regprocedure::text, ', ') INTO v_columns
              FROM pg_proc p WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proname = v_grant.name;
            IF v_columns IS NOT NULL THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s %s', v_columns, v_type, CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
            END IF;
        WHEN 'column' THEN
            IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = format('@extschema@.%I', v_grant.name)::regclass AND a.attname = v_grant.col) THEN
                EXECUTE format('GRANT %s (%I) ON @extschema@.%I TO %s %s', v_grant.privilege_type, v_grant.col, v_grant.name, v_type,
                               CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
            END IF;
        ELSE
            -- Who may make triggers or foreign keys on these tables could use the rights of their owner.
            IF v_grant.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE') THEN
                v_lost := concat_ws(', ', v_lost, format('%s on %s of %s', v_grant.privilege_type, v_grant.name, v_type));
            ELSE
                EXECUTE format('GRANT %s ON @extschema@.%I TO %s %s', v_grant.privilege_type, v_grant.name, v_type,
                               CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
            END IF;
        END CASE;
    END LOOP;
    DELETE FROM pg_init_privs p USING pg_depend d, pg_extension e
     WHERE (d.classid, d.objid, d.deptype, d.refclassid, d.refobjid) = (p.classoid, p.objoid, 'e', 'pg_extension'::regclass, e.oid) AND e.extname = 'mimeo';
    INSERT INTO pg_init_privs SELECT * FROM pg_temp.mimeo_1_fresh;
    -- From 17 on roles are also known to be named there.
    DELETE FROM pg_shdepend s USING pg_depend d, pg_extension e
     WHERE s.deptype = 'i' AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (d.classid, d.objid, d.deptype, d.refclassid, d.refobjid) = (s.classid, s.objid, 'e', 'pg_extension'::regclass, e.oid) AND e.extname = 'mimeo'
       AND NOT EXISTS (SELECT FROM pg_temp.mimeo_1_fresh f, aclexplode(f.initprivs) a
                        WHERE (f.classoid, f.objoid) = (s.classid, s.objid) AND s.refobjid IN (a.grantee, a.grantor));
    IF v_lost IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('some privileges on configuration tables are not kept: %s', v_lost),
            HINT = 'mimeo writes these tables as their owner.';
    END IF;
    IF EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                WHERE n.oid = '@extschema@'::regnamespace AND a.grantee = 0 AND a.privilege_type = 'USAGE') THEN
        RAISE WARNING USING
            MESSAGE = 'the functions of mimeo are not open to PUBLIC any more',
            HINT = 'GRANT EXECUTE on the refreshers to the roles that call them.';
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink')
       AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'dblink'
                        WHERE d.deptype <> 'e' AND d.refclassid = 'pg_extension'::regclass) THEN
        RAISE NOTICE 'mimeo does not need the extension dblink any more';
    END IF;
END
$do$;

DROP TABLE pg_temp.mimeo_1_sources, pg_temp.mimeo_1_sequence, pg_temp.mimeo_1_snap, pg_temp.mimeo_1_table,
    pg_temp.mimeo_1_inserter_time, pg_temp.mimeo_1_inserter_serial, pg_temp.mimeo_1_updater_time, pg_temp.mimeo_1_updater_serial,
    pg_temp.mimeo_1_dml, pg_temp.mimeo_1_logdel, pg_temp.mimeo_1_grants, pg_temp.mimeo_1_fresh;
