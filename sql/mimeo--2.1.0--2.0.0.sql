-- Back from 2.1 to 2.0. What 2.1 keeps in its three columns is forgotten, and a WARNING says of which jobs. Another one says which
-- jobs have functions on their source that only 2.1 knows.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- The views are locked before the tables, as queries on them do: each of these two statements locks the view alone.
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.job_status ALTER COLUMN dest_table DROP DEFAULT;
LOCK TABLE @extschema@.refresh_config, @extschema@.run_history IN ACCESS EXCLUSIVE MODE;

DO $do$
DECLARE
    v_jobs text;
BEGIN
    SELECT string_agg(c.dest_table, ', ' ORDER BY c.dest_table COLLATE "C") INTO v_jobs
      FROM @extschema@.refresh_config c WHERE c.keep_previous OR c.max_shrink_percent IS NOT NULL OR c.guard IS NOT NULL;
    IF v_jobs IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('keep_previous, max_shrink_percent and guard of these jobs are forgotten: %s', v_jobs),
            HINT = 'mimeo 2.0 does not know them.';
    END IF;
    SELECT string_agg(c.dest_table, ', ' ORDER BY c.dest_table COLLATE "C") INTO v_jobs
      FROM @extschema@.refresh_config c WHERE c.type IN ('dml', 'logdel');
    IF v_jobs IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('triggers on the source have functions that mimeo 2.0 does not know, for these jobs: %s', v_jobs),
            HINT = 'Refresh each of them before the package of 2.0 is put back: that gives the triggers their old function.';
    END IF;
END
$do$;

DROP FUNCTION @extschema@.rollback_snapshot(text);
DROP FUNCTION @extschema@.plan_refresh(text);

-- A view cannot lose columns: it is made anew, and its grants come back.
CREATE TEMPORARY TABLE pg_temp.mimeo_acl AS
    SELECT NULL::name AS col, c.relacl AS acl FROM pg_catalog.pg_class c
     WHERE c.oid = '@extschema@.refresh_config_snap'::pg_catalog.regclass
    UNION ALL
    SELECT a.attname, a.attacl FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = '@extschema@.refresh_config_snap'::pg_catalog.regclass AND a.attacl IS NOT NULL
       AND a.attname NOT IN ('keep_previous', 'max_shrink_percent', 'guard');
CREATE TEMPORARY TABLE pg_temp.mimeo_init AS
    SELECT p.objsubid, p.privtype, p.initprivs FROM pg_catalog.pg_init_privs p
     WHERE p.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND p.objoid = '@extschema@.refresh_config_snap'::pg_catalog.regclass;

DROP VIEW @extschema@.refresh_config_snap;
UPDATE @extschema@.run_history SET status = 'warning' WHERE status = 'rolled_back';
ALTER TABLE @extschema@.run_history
    DROP CONSTRAINT run_history_status_check,
    ADD CONSTRAINT run_history_status_check CHECK (status IN ('ok', 'skipped', 'warning', 'critical', 'concurrent'));
CREATE OR REPLACE VIEW @extschema@.job_status AS
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

ALTER TABLE @extschema@.refresh_config
    DROP CONSTRAINT refresh_config_max_shrink_percent_check,
    DROP COLUMN keep_previous, DROP COLUMN max_shrink_percent, DROP COLUMN guard;
UPDATE @extschema@.refresh_config SET state = state - 'previous' WHERE state ? 'previous';
CREATE OR REPLACE FUNCTION @extschema@.write_refresh_config() RETURNS trigger
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

CREATE OR REPLACE FUNCTION @extschema@.guard_refresh_config() RETURNS trigger
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

DO $do$
DECLARE
    v_view regclass := '@extschema@.refresh_config_snap';
    v_grant record;
BEGIN
    FOR v_grant IN SELECT g.col, a.* FROM pg_temp.mimeo_acl g CROSS JOIN LATERAL aclexplode(g.acl) a LOOP
        EXECUTE format('GRANT %s %s ON %s TO %s %s', v_grant.privilege_type, '(' || quote_ident(v_grant.col) || ')', v_view,
            CASE v_grant.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grant.grantee::regrole::text END,
            CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
    -- As they were: who gave them, and which of them came with the extension, so that pg_dump knows the others.
    UPDATE pg_class SET relacl = (SELECT acl FROM pg_temp.mimeo_acl WHERE col IS NULL) WHERE oid = v_view;
    UPDATE pg_attribute a SET attacl = g.acl FROM pg_temp.mimeo_acl g WHERE a.attrelid = v_view AND a.attname = g.col;
    DELETE FROM pg_init_privs WHERE classoid = 'pg_class'::regclass AND objoid = v_view;
    INSERT INTO pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
    SELECT v_view, 'pg_class'::regclass, objsubid, privtype, initprivs FROM pg_temp.mimeo_init;
    -- From 17 on roles are also known to be named there.
    DELETE FROM pg_shdepend s
     WHERE s.deptype = 'i' AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND s.classid = 'pg_class'::regclass AND s.objid = v_view
       AND NOT EXISTS (SELECT FROM pg_temp.mimeo_init i, aclexplode(i.initprivs) a WHERE s.refobjid IN (a.grantee, a.grantor));
END
$do$;
DROP TABLE pg_temp.mimeo_acl, pg_temp.mimeo_init;
