-- From 2.1 to 2.2: guards that hold under every session_replication_role, and jobs that somebody answers for.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- The views are locked before the tables, as queries on them do: each of these statements locks the view alone.
ALTER VIEW @extschema@.health ALTER COLUMN database DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_logdel ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.job_status ALTER COLUMN dest_table DROP DEFAULT;
LOCK TABLE @extschema@.refresh_config IN ACCESS EXCLUSIVE MODE;
LOCK TABLE @extschema@.dblink_mapping_mimeo IN SHARE ROW EXCLUSIVE MODE;

-- A queue on a source must not fill its disk.
ALTER TABLE @extschema@.refresh_config ADD COLUMN max_queue_size bigint, ADD COLUMN follow_columns boolean,
    ADD COLUMN delta boolean, ADD COLUMN refresh_group text,
    ADD CONSTRAINT refresh_config_refresh_group_check CHECK (refresh_group <> ''),
    ADD CONSTRAINT refresh_config_max_queue_size_check CHECK (max_queue_size > 0);
ALTER TABLE @extschema@.run_history ADD COLUMN refresh_group text;
CREATE OR REPLACE VIEW @extschema@.refresh_config_snap AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           check_stats,
           (state #>> '{seen,fingerprint,changes,0}')::bigint AS n_tup_ins,
           (state #>> '{seen,fingerprint,changes,1}')::bigint AS n_tup_upd,
           (state #>> '{seen,fingerprint,changes,2}')::bigint AS n_tup_del,
           post_script, keep_previous, max_shrink_percent, guard, delta
      FROM @extschema@.refresh_config WHERE type = 'snap' WITH CHECK OPTION;
CREATE OR REPLACE VIEW @extschema@.refresh_config_dml AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, insert_on_fetch, max_queue_size
      FROM @extschema@.refresh_config WHERE type = 'dml' WITH CHECK OPTION;
CREATE OR REPLACE VIEW @extschema@.refresh_config_logdel AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, insert_on_fetch, max_queue_size
      FROM @extschema@.refresh_config WHERE type = 'logdel' WITH CHECK OPTION;

-- How old the data is: a refresh that works may still bring nothing new.
CREATE OR REPLACE VIEW @extschema@.job_status AS
    SELECT c.dest_table, c.type, c.source_table AS source, c.period, c.last_run, l.status AS last_status, s.last_success,
           clock_timestamp() - coalesce(d.data_as_of, s.last_success) AS lag,
           c.period IS NOT NULL AND (c.last_run IS NULL
               OR c.last_run <= clock_timestamp() - c.period + least(c.period / 10, interval '5 seconds')) AS due,
           l.rows, l.bytes, l.ended - l.started AS duration, f.consecutive_failures,
           CASE WHEN l.status IN ('warning', 'critical', 'rolled_back') THEN coalesce(l.error, l.reason) END AS error,
           c.dblink AS data_source_id,
           greatest(c.last_run, CASE WHEN l.status = 'critical' THEN l.started END) AS last_attempt, d.data_as_of,
           c.refresh_group
      FROM @extschema@.refresh_config c
      LEFT JOIN LATERAL (SELECT h.* FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status <> 'concurrent'
                          ORDER BY h.started DESC, h.run_id DESC LIMIT 1) l ON true
      LEFT JOIN LATERAL (SELECT h.started FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status IN ('ok', 'skipped', 'warning')
                          ORDER BY h.started DESC LIMIT 1) h ON true
     CROSS JOIN LATERAL (SELECT coalesce(h.started, c.last_run) AS last_success) s
     CROSS JOIN LATERAL (SELECT (c.state ->> 'data_as_of')::timestamptz AS data_as_of) d
     CROSS JOIN LATERAL (SELECT count(*) AS consecutive_failures FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status = 'critical'
                            AND h.started > coalesce(s.last_success, '-infinity')) f;

-- A password goes to no other host than the one that it was given for: who may change where a source leads need not know it. The
-- first trigger fires only for a statement that names pwd, and leaves a mark for the second.
CREATE FUNCTION @extschema@.mark_given_password() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.pwd := chr(1) || NEW.pwd;
    RETURN NEW;
END
$$;
CREATE FUNCTION @extschema@.guard_password_host() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Nothing but keywords and plain values; what is written otherwise counts as a whole.
    v_plain text := '^\s*(\w+\s*=\s*[^\s''\\=]+\s+)*\w+\s*=\s*[^\s''\\=]+\s*$';
    -- What says where it leads, and how it makes sure of that.
    v_where text[] := '{host,hostaddr,port,service,servicefile,load_balance_hosts,target_session_attrs,sslmode,sslrootcert,sslcrl,sslcrldir,sslnegotiation,ssl_min_protocol_version,ssl_max_protocol_version,channel_binding,require_auth,gssencmode,krbsrvname,gsslib}';
    v_old text := OLD.data_source;
    v_new text := NEW.data_source;
BEGIN
    IF left(NEW.pwd, 1) = chr(1) THEN
        NEW.pwd := substr(NEW.pwd, 2);
        RETURN NEW;
    END IF;
    -- Of ASCII only: other spaces are none to libpq.
    IF v_old ~ v_plain AND v_new ~ v_plain AND octet_length(convert_to(v_old || v_new, 'UTF8')) = length(v_old || v_new) THEN
        -- Of a keyword that stands twice the last value counts.
        SELECT concat('=', string_agg(concat(m[1], '=', m[2]), ' ' ORDER BY m[1], n)) INTO v_old
          FROM regexp_matches(v_old, '(\w+)\s*=\s*([^\s''\\=]+)', 'g') WITH ORDINALITY r (m, n) WHERE m[1] = ANY (v_where);
        SELECT concat('=', string_agg(concat(m[1], '=', m[2]), ' ' ORDER BY m[1], n)) INTO v_new
          FROM regexp_matches(v_new, '(\w+)\s*=\s*([^\s''\\=]+)', 'g') WITH ORDINALITY r (m, n) WHERE m[1] = ANY (v_where);
    END IF;
    IF NEW.pwd <> '' AND v_new <> v_old THEN
        NEW.pwd := NULL;
        RAISE WARNING USING
            MESSAGE = format('data source %s has lost its password, because it leads elsewhere now', NEW.data_source_id),
            HINT = 'Give pwd in the same UPDATE as data_source.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER a_password_is_given BEFORE UPDATE OF pwd ON @extschema@.dblink_mapping_mimeo
    FOR EACH ROW EXECUTE FUNCTION @extschema@.mark_given_password();
CREATE TRIGGER guard_password_host BEFORE UPDATE ON @extschema@.dblink_mapping_mimeo
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_password_host();
-- Under every session_replication_role.
ALTER TABLE @extschema@.dblink_mapping_mimeo ENABLE ALWAYS TRIGGER guard_password_required,
    ENABLE ALWAYS TRIGGER a_password_is_given, ENABLE ALWAYS TRIGGER guard_password_host;
REVOKE ALL ON FUNCTION @extschema@.mark_given_password(), @extschema@.guard_password_host() FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.guard_refresh_config() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_harmless text[] := '{last_run,period,batch_limit,jobmon,boundary,last_value,dst_active,dst_start,dst_end,check_stats,insert_on_fetch,n_tup_ins,n_tup_upd,n_tup_del,keep_previous}';
    v_changed boolean := true;
    v_me jsonb;
    v_trusted boolean;
    v_owner text;
    v_destination text;
BEGIN
    -- mimeo's functions write as the owner of the table.
    SELECT r.rolsuper OR r.oid = c.relowner INTO v_trusted
      FROM pg_roles r CROSS JOIN pg_class c WHERE r.rolname = current_user AND c.oid = TG_RELID;
    IF TG_OP = 'UPDATE' THEN
        v_changed := to_jsonb(NEW) - v_harmless <> to_jsonb(OLD) - v_harmless;
        -- What a refresh remembers. Four of the views have no state.
        IF v_trusted AND TG_WHEN = 'BEFORE' THEN
            IF jsonb_typeof(NEW.state) = 'object' AND NEW.state -> 'configured_by' IS NOT DISTINCT FROM OLD.state -> 'configured_by'
                AND to_jsonb(NEW) - v_harmless - 'state' = to_jsonb(OLD) - v_harmless - 'state' THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    -- It looks at all relations.
    SELECT jsonb_build_object('role', r.rolname, 'oid', r.oid::bigint, 'system', s.system_identifier::text, 'owner', (
               SELECT d.relowner::bigint FROM pg_class d JOIN pg_namespace n ON n.oid = d.relnamespace
                WHERE concat(n.nspname, '.', d.relname) = NEW.dest_table LIMIT 1)) INTO v_me
      FROM pg_roles r CROSS JOIN pg_control_system() s WHERE r.rolname = current_user;
    IF v_changed AND v_trusted IS NOT TRUE THEN
        -- The job that it was, too: it would be taken away from its owner.
        SELECT r.rolname, concat(n.nspname, '.', c.relname) INTO v_owner, v_destination
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
         WHERE concat(n.nspname, '.', c.relname) IN (NEW.dest_table, CASE WHEN TG_OP = 'UPDATE' THEN OLD.dest_table END)
           AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1;
        IF v_owner IS NOT NULL THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('destination %s belongs to %s, whose rights %s does not have', v_destination, v_owner, current_user),
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
        PERFORM set_config('mimeo_guard.configured_by', CASE WHEN v_changed THEN v_me::text ELSE '' END, true);
        RETURN NEW;
    END IF;
    IF jsonb_typeof(NEW.state) <> 'object' THEN
        NEW.state := '{}';
    END IF;
    IF v_trusted IS NOT TRUE THEN
        IF v_changed THEN
            NEW.state := NEW.state || jsonb_build_object('configured_by', v_me);
        END IF;
    ELSIF TG_OP = 'INSERT' THEN
        IF NOT NEW.state ? 'configured_by' THEN
            NEW.state := NEW.state || jsonb_build_object('configured_by', v_me);
        END IF;
    ELSE
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
ALTER TABLE @extschema@.refresh_config ENABLE ALWAYS TRIGGER guard_refresh_config;

-- A job that nobody answers for is not refreshed any more. What is there is confirmed, in the name of the role that brings 2.2 here;
-- from now on a role counts by its OID, which another role of that name does not have.
UPDATE @extschema@.refresh_config c
   SET state = c.state || jsonb_build_object('configured_by', coalesce(
       (SELECT jsonb_build_object('role', r.rolname, 'oid', r.oid::bigint, 'system', s.system_identifier::text, 'owner', (
                   SELECT d.relowner::bigint FROM pg_class d JOIN pg_namespace n ON n.oid = d.relnamespace
                    WHERE concat(n.nspname, '.', d.relname) = c.dest_table LIMIT 1))
          FROM pg_roles r CROSS JOIN pg_control_system() s
         WHERE r.rolname = c.state #>> '{configured_by,role}' OR r.oid::text = c.state #>> '{configured_by,oid}'
            OR NOT c.state ? 'configured_by' AND r.rolname = current_user
         ORDER BY r.rolname = c.state #>> '{configured_by,role}' DESC LIMIT 1),
       c.state -> 'configured_by'))
 WHERE jsonb_typeof(c.state) = 'object';

CREATE FUNCTION @extschema@.refresh_group(
    p_group TEXT,
    p_lock_wait INT DEFAULT NULL,
    p_debug bool DEFAULT false
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'refresh_group_wrapper';
REVOKE ALL ON FUNCTION @extschema@.refresh_group(text, integer, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.refresh_group(text, integer, boolean) TO @extowner@ WITH GRANT OPTION;

CREATE FUNCTION @extschema@.confirm_job(p_destination text) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'confirm_job_wrapper';
REVOKE ALL ON FUNCTION @extschema@.confirm_job(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.confirm_job(text) TO @extowner@ WITH GRANT OPTION;

-- What newcomers and users of 1.5.1 met. Functions with new arguments at their end are made anew, with the grants that they had; those that
-- took NULL for nothing to do say now which argument must not be NULL.
CREATE TEMPORARY TABLE pg_temp.mimeo_acl AS
    SELECT p.proname, p.proacl AS acl FROM pg_catalog.pg_proc p
     WHERE p.pronamespace = '@extschema@'::pg_catalog.regnamespace AND p.proname = ANY ('{snapshot_maker,table_maker,inserter_maker,updater_maker,dml_maker,logdel_maker,dml_destroyer,logdel_destroyer,check_permissions}'::pg_catalog.name[])
       AND EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                    WHERE e.extname = 'mimeo' AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e');
CREATE TEMPORARY TABLE pg_temp.mimeo_init AS
    SELECT p.proname, i.privtype, i.initprivs FROM pg_catalog.pg_init_privs i JOIN pg_catalog.pg_proc p ON p.oid = i.objoid
     WHERE i.classoid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.pronamespace = '@extschema@'::pg_catalog.regnamespace
       AND p.proname = ANY (SELECT a.proname FROM pg_temp.mimeo_acl a);
DO $do$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
          JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
         WHERE e.extname = 'mimeo' AND p.proname = ANY (SELECT a.proname FROM pg_temp.mimeo_acl a)
    LOOP
        EXECUTE format('ALTER EXTENSION mimeo DROP FUNCTION %1$s; DROP FUNCTION %1$s', v_function);
    END LOOP;
END
$do$;
CREATE FUNCTION @extschema@.snapshot_maker(
    p_src_table TEXT,
    p_dblink_id INT,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'snapshot_maker_wrapper';

CREATE FUNCTION @extschema@.table_maker(
    p_src_table TEXT,
    p_dblink_id INT,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_sequences TEXT[] DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'table_maker_wrapper';

CREATE FUNCTION @extschema@.inserter_maker(
    p_src_table TEXT,
    p_type TEXT,
    p_control_field TEXT,
    p_dblink_id INT,
    p_boundary TEXT DEFAULT NULL,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'inserter_maker_wrapper';

CREATE FUNCTION @extschema@.updater_maker(
    p_src_table TEXT,
    p_type TEXT,
    p_control_field TEXT,
    p_dblink_id INT,
    p_boundary TEXT DEFAULT NULL,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_pk_name TEXT[] DEFAULT NULL,
    p_pk_type TEXT[] DEFAULT NULL,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'updater_maker_wrapper';

CREATE FUNCTION @extschema@.dml_maker(
    p_src_table TEXT,
    p_dblink_id INT,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_pk_name TEXT[] DEFAULT NULL,
    p_pk_type TEXT[] DEFAULT NULL,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'dml_maker_wrapper';

CREATE FUNCTION @extschema@.logdel_maker(
    p_src_table TEXT,
    p_dblink_id INT,
    p_dest_table TEXT DEFAULT NULL,
    p_index bool DEFAULT true,
    p_filter TEXT[] DEFAULT NULL,
    p_condition TEXT DEFAULT NULL,
    p_pulldata bool DEFAULT true,
    p_pk_name TEXT[] DEFAULT NULL,
    p_pk_type TEXT[] DEFAULT NULL,
    p_jobmon bool DEFAULT NULL,
    p_debug bool DEFAULT false,
    p_group TEXT DEFAULT NULL,
    p_period interval DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'logdel_maker_wrapper';

CREATE FUNCTION @extschema@.dml_destroyer(
    p_dest_table TEXT,
    p_keep_table bool DEFAULT true,
    p_debug bool DEFAULT false,
    p_keep_source bool DEFAULT false
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'dml_destroyer_wrapper';

CREATE FUNCTION @extschema@.logdel_destroyer(
    p_dest_table TEXT,
    p_keep_table bool DEFAULT true,
    p_debug bool DEFAULT false,
    p_keep_source bool DEFAULT false
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'logdel_destroyer_wrapper';

CREATE FUNCTION @extschema@.check_permissions(
    p_dblink_id INT,
    p_src_table TEXT,
    p_type TEXT DEFAULT 'snap',
    p_dest_table TEXT DEFAULT NULL,
    p_filter TEXT[] DEFAULT NULL
) RETURNS TABLE (
    side TEXT,
    object TEXT,
    privilege TEXT,
    granted bool,
    fix TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'check_permissions_wrapper';
DO $do$
DECLARE
    v_grant record;
BEGIN
    -- So that the roles are known to be named there.
    FOR v_grant IN
        SELECT p.oid::regprocedure AS function, a.* FROM pg_temp.mimeo_acl g CROSS JOIN LATERAL aclexplode(g.acl) a
          JOIN pg_proc p ON p.pronamespace = '@extschema@'::regnamespace AND p.proname = g.proname
          JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
          JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'mimeo'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s %s', v_grant.function,
            CASE v_grant.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grant.grantee::regrole::text END,
            CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
    -- As they were: who gave them, and which of them came with the extension, so that pg_dump knows the others.
    FOR v_grant IN
        SELECT p.oid, g.proname, g.acl FROM pg_temp.mimeo_acl g
          JOIN pg_proc p ON p.pronamespace = '@extschema@'::regnamespace AND p.proname = g.proname
          JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
          JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'mimeo'
    LOOP
        UPDATE pg_proc SET proacl = v_grant.acl WHERE oid = v_grant.oid;
        DELETE FROM pg_init_privs WHERE classoid = 'pg_proc'::regclass AND objoid = v_grant.oid;
        INSERT INTO pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
        SELECT v_grant.oid, 'pg_proc'::regclass, 0, i.privtype, i.initprivs FROM pg_temp.mimeo_init i WHERE i.proname = v_grant.proname;
        -- From 17 on roles are also known to be named there.
        DELETE FROM pg_shdepend s
         WHERE s.deptype = 'i' AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND s.classid = 'pg_proc'::regclass AND s.objid = v_grant.oid
           AND NOT EXISTS (SELECT FROM pg_temp.mimeo_init i, aclexplode(i.initprivs) a
                            WHERE i.proname = v_grant.proname AND s.refobjid IN (a.grantee, a.grantor));
    END LOOP;
END
$do$;
DROP TABLE pg_temp.mimeo_acl, pg_temp.mimeo_init;

ALTER FUNCTION @extschema@.snapshot_destroyer(text, boolean, boolean) CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.table_destroyer(text, boolean, boolean) CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.inserter_destroyer(text, boolean, boolean) CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.updater_destroyer(text, boolean, boolean) CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.rollback_snapshot(text) CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.plan_refresh(text) CALLED ON NULL INPUT;

CREATE FUNCTION @extschema@.differences(
    p_destination TEXT,
    p_lower_interval TEXT DEFAULT NULL,
    p_upper_interval TEXT DEFAULT NULL,
    p_limit INT DEFAULT 100
) RETURNS TABLE (
    key jsonb,
    difference TEXT,
    may_wait bool
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'differences_wrapper';
REVOKE ALL ON FUNCTION @extschema@.differences(text, text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.differences(text, text, text, integer) TO @extowner@ WITH GRANT OPTION;

CREATE OR REPLACE VIEW @extschema@.health AS
    SELECT current_database()::text AS database, count(*) AS jobs,
           count(*) FILTER (WHERE period IS NOT NULL AND coalesce(lag > 2 * period, true)) AS late,
           count(*) FILTER (WHERE last_status = 'critical') AS failing, max(lag) AS oldest_lag,
           count(*) FILTER (WHERE period IS NULL AND NOT EXISTS (SELECT FROM @extschema@.refresh_config g
                WHERE g.refresh_group = s.refresh_group AND g.period IS NOT NULL)) AS unscheduled
      FROM @extschema@.job_status s;

-- What runs: a refresh holds the lock of its job, which everybody sees in pg_locks, but not what another role is doing. Who may read
-- job_status may read this.
CREATE FUNCTION @extschema@.running_refreshes(OUT pid integer, OUT job bigint, OUT phase text, OUT started timestamptz, OUT rows bigint,
    OUT bytes bigint, OUT member text) RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid, l.objid::bigint, substring(a.query FROM '''\): ([a-z_ ]{1,40})$'), a.xact_start, p.tuples_processed, p.bytes_processed,
           replace(substring(a.query FROM '^[^(]*refresh_group\(''.*'', ''(.*)''\): [a-z_ ]{1,40}$'), '''''', '''')
      FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_stat_progress_copy p ON p.pid = l.pid
     WHERE l.locktype = 'object' AND l.granted AND l.mode = 'ExclusiveLock' AND l.classid = '@extschema@.refresh_config'::regclass
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND has_table_privilege(CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END,
                               '@extschema@.job_status'::regclass, 'SELECT')
$$;
CREATE VIEW @extschema@.progress AS
    SELECT r.pid, c.dest_table, c.type, g.refresh_group, r.phase, r.started, r.rows, e.rows_expected, d.percent, r.bytes,
           (r.bytes / nullif(extract(epoch FROM clock_timestamp() - r.started), 0))::bigint AS rate,
           CASE WHEN d.percent BETWEEN 1 AND 99 THEN (clock_timestamp() - r.started) * ((100 - d.percent) / d.percent::float8) END AS eta,
           rpad(repeat('#', d.percent / 5), 20, '.') AS bar
      FROM @extschema@.running_refreshes() w
      JOIN @extschema@.refresh_config c ON hashtext(c.dest_table)::bigint & 4294967295 = w.job
      -- A group holds the locks of all of its members, and works at one of them.
     CROSS JOIN LATERAL (SELECT w.pid, w.started, CASE WHEN h.here THEN w.phase END AS phase, CASE WHEN h.here THEN w.rows END AS rows,
                                CASE WHEN h.here THEN w.bytes END AS bytes
                           FROM (SELECT w.member IS NULL OR w.member = c.dest_table AS here) h) r
     CROSS JOIN LATERAL (SELECT CASE WHEN w.member IS NOT NULL THEN c.refresh_group END AS refresh_group) g
      LEFT JOIN LATERAL (SELECT nullif(h.rows, 0) AS rows_expected FROM @extschema@.run_history h
                          WHERE h.dest_table = c.dest_table AND h.status IN ('ok', 'warning') AND c.type IN ('snap', 'table')
                            AND coalesce(h.reason, '') NOT LIKE 'delta:%' AND coalesce(r.phase, '') NOT IN ('condense', 'compare', 'change')
                          ORDER BY h.started DESC LIMIT 1) e ON true
     CROSS JOIN LATERAL (SELECT CASE WHEN r.rows IS NOT NULL AND e.rows_expected IS NOT NULL
                                     THEN least(100, 100 * r.rows / e.rows_expected)::integer END AS percent) d;
REVOKE ALL ON FUNCTION @extschema@.running_refreshes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.running_refreshes() TO @extowner@ WITH GRANT OPTION;
GRANT EXECUTE ON FUNCTION @extschema@.running_refreshes() TO PUBLIC;
GRANT SELECT ON @extschema@.progress TO @extowner@ WITH GRANT OPTION;

-- The schema may have been there, and belong to somebody else.
DO $do$
BEGIN
    IF NOT has_schema_privilege('@extowner@'::regrole::oid, '@extschema@'::regnamespace::oid, 'USAGE') THEN
        GRANT USAGE ON SCHEMA @extschema@ TO @extowner@;
    END IF;
END
$do$;


-- In 1.5.1 a refresh ran with the rights of the owner of the extension; now with those of the owner of the destination, who needs them.
DO $do$
DECLARE
    v_grant text;
    v_job text;
BEGIN
    FOR v_job, v_grant IN
        SELECT c.dest_table, format('GRANT %s ON SCHEMA %s TO %s;', string_agg(p.privilege, ', ' ORDER BY p.privilege DESC), n.oid::regnamespace, d.relowner::regrole)
          FROM @extschema@.refresh_config c
          JOIN pg_class d ON true JOIN pg_namespace n ON n.oid = d.relnamespace
         CROSS JOIN (VALUES ('USAGE'), ('CREATE')) p (privilege)
         WHERE concat(n.nspname, '.', d.relname) = c.dest_table AND NOT has_schema_privilege(d.relowner, n.oid, p.privilege)
         GROUP BY c.dest_table, n.oid, d.relowner ORDER BY c.dest_table
    LOOP
        RAISE WARNING USING MESSAGE = format('%s: its owner lacks rights on its schema', v_job),
            HINT = v_grant || ' Without USAGE it cannot be refreshed; without CREATE, rows are replaced in place where they could be exchanged, and columns cannot follow.';
    END LOOP;
END
$do$;

-- What each object is, for whoever looks at it in psql or a catalog browser. One sentence; where a NULL means something, it says what.
DO $do$
DECLARE
    v_name text;
    v_column text;
    v_comment text;
    v_routine regprocedure;
    v_relation regclass;
BEGIN
    FOR v_name, v_comment IN VALUES
        ('snapshot_maker', 'Makes a snapshot job: copies a table behind a view, whose next copies are swapped in; p_dblink_id is dblink_mapping_mimeo.data_source_id'),
        ('table_maker', 'Makes a table job: copies a table into a plain table, all of whose rows each refresh replaces'),
        ('inserter_maker', 'Makes an inserter job: each refresh adds the rows that are new by a time or serial column (p_type time or serial)'),
        ('updater_maker', 'Makes an updater job: each refresh brings the rows that are new or changed by a time or serial column, and finds their places by key'),
        ('dml_maker', 'Makes a dml job: triggers on the source queue the keys that change, and each refresh replays inserts, updates and deletes'),
        ('logdel_maker', 'Makes a logdel job: as dml, and rows that are deleted on the source stay here, with the time in mimeo_source_deleted'),
        ('refresh_snapshot', 'Refreshes a snapshot job, unless nothing has changed on its source; p_lock_wait: seconds to wait for another refresh of it, NULL not at all, 0 without limit'),
        ('refresh_snap', 'The name that refresh_snapshot had in 1.x'),
        ('refresh_table', 'Refreshes a table job: replaces all rows, and sets its sequences behind them'),
        ('refresh_inserter', 'Refreshes an inserter job; p_limit: rows, at most; p_repull: copies all rows anew, or those between p_repull_start and p_repull_end, both exclusive'),
        ('refresh_updater', 'Refreshes an updater job; arguments as of refresh_inserter'),
        ('refresh_dml', 'Refreshes a dml job; p_limit: queued changes, at most; p_repull: copies all rows anew'),
        ('refresh_logdel', 'Refreshes a logdel job; arguments as of refresh_dml'),
        ('run_refresh', 'Refreshes every job that is due by its period, each in a transaction of its own; p_jobs: in so many background workers'),
        ('snapshot_destroyer', 'Ends a snapshot job; its data stays as a plain table under the name of the view, unless p_keep_table is false'),
        ('table_destroyer', 'Ends a table job; its table stays, unless p_keep_table is false'),
        ('inserter_destroyer', 'Ends an inserter job; its table stays, unless p_keep_table is false'),
        ('updater_destroyer', 'Ends an updater job; its table stays, unless p_keep_table is false'),
        ('dml_destroyer', 'Ends a dml job, and takes queue and triggers off the source, unless p_keep_source is true; its table stays, unless p_keep_table is false'),
        ('logdel_destroyer', 'Ends a logdel job, as dml_destroyer does'),
        ('refresh_group', 'Refreshes all jobs of a group in one snapshot of their source, and shows them at one moment'),
        ('confirm_job', 'Says that a job is right as it is configured; by a role that has the rights of the owner of its destination'),
        ('rollback_snapshot', 'Shows the data again that the last refresh of a snapshot replaced, if refresh_config.keep_previous is set'),
        ('plan_refresh', 'Tells what a refresh would do now, step by step, with its locks and estimates, and does nothing'),
        ('concurrent_lock_check', 'Takes the lock of a job until the end of the transaction, as its refreshes do; false if one of them holds it'),
        ('validate_rowcount', 'Counts the rows of a job on both sides; of an inserter or updater between two intervals back from the newest value here'),
        ('validate_content', 'Compares what the rows of a job hold on both sides by a hash; p_show: NOTICEs of so many keys that differ'),
        ('differences', 'Keys whose rows differ between both sides of a job, how, and whether the difference may just wait for the next refresh'),
        ('check_permissions', 'What the source role and the caller need for a job of a method, whether they have it, and the statement that gives it'),
        ('check_source_columns', 'Columns of sources that destinations lack, or hold with another type; p_data_source_id: NULL is all sources'),
        ('check_missing_source_tables', 'Tables of sources that no job copies; p_views: views too'),
        ('snapshot_monitor', 'Rows and bytes of the source tables of snapshot jobs, of those that reach p_rowcount or p_size, if given'),
        ('running_refreshes', 'Behind the view progress: the refreshes that run, for whoever may read job_status'),
        ('guard_password_required', 'Trigger: only a superuser may say that a data source needs no password'),
        ('mark_given_password', 'Trigger: marks a password that is given anew'),
        ('guard_password_host', 'Trigger: a password goes to no other host than the one that it was given for'),
        ('guard_refresh_config', 'Trigger: who changes a job has the rights of the owner of its destination, and answers for it'),
        ('write_refresh_config', 'Trigger: writes what a view of one method is told through to refresh_config')
    LOOP
        FOR v_routine IN
            SELECT p.oid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
             WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
               AND p.proname = v_name
        LOOP
            EXECUTE format('COMMENT ON ROUTINE %s IS %L', v_routine, v_comment);
        END LOOP;
    END LOOP;

    FOR v_name, v_comment IN VALUES
        ('refresh_config_snap', 'The snapshot jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_table', 'The table jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_inserter', 'The inserter jobs, with boundary and last_value as text'),
        ('refresh_config_inserter_time', 'The inserter jobs by time, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_inserter_serial', 'The inserter jobs by a serial column, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_updater', 'The updater jobs, with boundary and last_value as text'),
        ('refresh_config_updater_time', 'The updater jobs by time, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_updater_serial', 'The updater jobs by a serial column, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_dml', 'The dml jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_logdel', 'The logdel jobs, as 1.x showed them; writes go through to refresh_config'),
        ('progress', 'One row a refresh that runs')
    LOOP
        EXECUTE format('COMMENT ON VIEW @extschema@.%I IS %L', v_name, v_comment);
    END LOOP;

    -- A column means the same wherever it is, unless a table is named.
    FOR v_name, v_column, v_comment IN VALUES
        (NULL, 'dest_table', 'The destination, as schema.table without quotes'),
        (NULL, 'source_table', 'The table on the source, as schema.table without quotes'),
        (NULL, 'type', 'The method: snap, table, inserter_time, inserter_serial, updater_time, updater_serial, dml or logdel'),
        (NULL, 'dblink', 'The data source: dblink_mapping_mimeo.data_source_id'),
        (NULL, 'last_run', 'When the last run began that did its work; NULL if there was none'),
        (NULL, 'filter', 'The columns that are copied; NULL is all'),
        (NULL, 'condition', 'What follows the table in a query on the source, WHERE first: the rows that are copied; NULL is all'),
        (NULL, 'period', 'How often run_refresh refreshes it; NULL is never'),
        (NULL, 'batch_limit', 'Rows or queued changes that one refresh takes, at most; NULL is no limit'),
        (NULL, 'jobmon', 'Runs are logged with pg_jobmon'),
        (NULL, 'control', 'inserter, updater: the column that tells new rows; dml, logdel: the queue on the source'),
        (NULL, 'boundary', 'inserter, updater: how far a refresh stays behind the newest rows'),
        (NULL, 'last_value', 'inserter, updater: the greatest control value that was copied'),
        (NULL, 'dst_active', 'inserter, updater by time: pauses between dst_start and dst_end on a day when the clocks change'),
        (NULL, 'dst_start', 'The pause begins: hours and minutes, 230 is half past two'),
        (NULL, 'dst_end', 'The pause ends: hours and minutes'),
        (NULL, 'pk_name', 'updater, dml, logdel: the columns of the key'),
        (NULL, 'pk_type', 'The types of the columns of the key'),
        (NULL, 'insert_on_fetch', 'dml, logdel: rows go into the destination while they come; false: all are fetched first'),
        (NULL, 'check_stats', 'snap: nothing is copied if the counters of the source show that nothing has changed'),
        (NULL, 'post_script', 'snap: statements that run after the columns have changed'),
        (NULL, 'truncate_cascade', 'table: tables that refer to this one are emptied with it'),
        (NULL, 'sequences', 'table: sequences that are set behind the rows'),
        (NULL, 'n_tup_ins', 'Rows inserted into the source by the last copy; NULL if unknown'),
        (NULL, 'n_tup_upd', 'Rows updated on the source by the last copy; NULL if unknown'),
        (NULL, 'n_tup_del', 'Rows deleted from the source by the last copy; NULL if unknown'),
        (NULL, 'state', 'What mimeo remembers from run to run; not to be changed by hand'),
        (NULL, 'keep_previous', 'snap: the data that a refresh replaces stays in the idle twin, for rollback_snapshot'),
        (NULL, 'max_shrink_percent', 'snap: a refresh that brings fewer rows than are there, by more than this, is refused; NULL is never'),
        (NULL, 'follow_columns', 'Not of snapshots, which do it always: columns that are added, renamed, widened or dropped on the source are followed here; NULL is false'),
        (NULL, 'refresh_group', 'Jobs of the same name are refreshed together, by refresh_group and run_refresh'),
        (NULL, 'delta', 'snap: a refresh copies the row versions that have changed on the source, and deletes those that are gone; NULL is false'),
        (NULL, 'max_queue_size', 'dml, logdel: how large the queue on the source may become, in bytes, before it takes no more changes and all rows are copied; NULL is no limit'),
        (NULL, 'guard', 'snap: a query that must return true before the new data shows; {new} in it is the table that holds them; NULL is none'),
        (NULL, 'rows', 'Rows that came from the source'),
        (NULL, 'bytes', 'Bytes that came from the source'),
        (NULL, 'data_source_id', 'Number of the data source, as makers take it in p_dblink_id'),
        ('dblink_mapping_mimeo', 'data_source', 'A libpq connection string, or the name of a foreign server whose user mapping holds the credentials'),
        ('dblink_mapping_mimeo', 'username', 'The role on the source; NULL with a foreign server'),
        ('dblink_mapping_mimeo', 'pwd', 'Its password; NULL with a foreign server'),
        ('dblink_mapping_mimeo', 'password_required', 'Jobs of roles that are not superusers connect with a password that is given here; only a superuser may set it false'),
        ('run_history', 'run_id', 'Number of the run'),
        ('run_history', 'started', 'When it began'),
        ('run_history', 'ended', 'When it ended'),
        ('run_history', 'status', 'ok, skipped (nothing to do), warning (done, but look at it), critical (not done), concurrent (another refresh was running), rolled_back (by rollback_snapshot)'),
        ('run_history', 'reason', 'Why it was skipped or not, and what was noticed'),
        ('run_history', 'queue_rows', 'dml and logdel: changes that wait on the source after the run; NULL for other methods'),
        ('run_history', 'phases', 'What the run spent its time on: [{"phase": …, "ms": …}, …]'),
        ('run_history', 'sqlstate', 'SQLSTATE of the error; NULL if there was none'),
        ('run_history', 'error', 'The error, with DETAIL, HINT and CONTEXT; NULL if there was none'),
        ('run_history', 'run_by', 'The role that had logged in'),
        ('job_status', 'source', 'The table on the source'),
        ('job_status', 'last_status', 'How the last run ended, as in run_history; NULL if there was none'),
        ('job_status', 'last_success', 'When the last run began that brought the data up to date; NULL if there was none'),
        ('job_status', 'lag', 'How old the data is: the time since data_as_of, or since last_success if that is unknown'),
        ('job_status', 'due', 'run_refresh would refresh it now'),
        ('job_status', 'duration', 'How long the last run took'),
        ('job_status', 'consecutive_failures', 'Runs that have failed since the last success'),
        ('job_status', 'error', 'The error or warning of the last run; NULL if there was none'),
        ('job_status', 'last_attempt', 'When the last run began, whatever came of it'),
        ('job_status', 'data_as_of', 'The moment up to which all changes of the source are here; NULL if unknown'),
        ('health', 'database', 'This database'),
        ('health', 'jobs', 'How many jobs there are'),
        ('health', 'late', 'Jobs with a period whose data is older than twice that, or that have none yet'),
        ('health', 'failing', 'Jobs whose last run has failed'),
        ('health', 'oldest_lag', 'The greatest lag of all jobs'),
        ('health', 'unscheduled', 'Jobs that run_refresh never refreshes: neither they nor another one of their group has a period'),
        ('run_history', 'refresh_group', 'The group that was refreshed as one; NULL of a refresh by itself'),
        ('progress', 'refresh_group', 'The group that is refreshed as one; phase and figures are those of the member at work'),
        ('progress', 'pid', 'The process that refreshes'),
        ('progress', 'phase', 'What it is doing; NULL if somebody holds the lock of the job without refreshing it'),
        ('progress', 'started', 'When its transaction began'),
        ('progress', 'rows', 'Rows that have come so far in this phase; NULL in phases without any'),
        ('progress', 'rows_expected', 'snap, table: rows that the last copy had; NULL if unknown'),
        ('progress', 'percent', 'Of the rows expected, never above 100; NULL if unknown'),
        ('progress', 'bytes', 'Bytes that have come so far in this phase; NULL in phases without any'),
        ('progress', 'rate', 'Bytes a second since it began'),
        ('progress', 'eta', 'How long the copy will still take, at this pace; NULL if unknown'),
        ('progress', 'bar', 'The percent, 20 characters wide; NULL if unknown')
    LOOP
        FOR v_relation IN
            SELECT c.oid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = v_column AND NOT a.attisdropped
             WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
               AND c.relkind IN ('r', 'v') AND (v_name IS NULL OR c.relname = v_name)
        LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', v_relation, v_column, v_comment);
        END LOOP;
    END LOOP;
END
$do$;
