-- Back from 2.2 to 2.1.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Views before tables, as queries on them do: each of these statements locks the view alone.
ALTER VIEW @extschema@.progress ALTER COLUMN pid DROP DEFAULT;
ALTER VIEW @extschema@.health ALTER COLUMN database DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.refresh_config_logdel ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.job_status ALTER COLUMN dest_table DROP DEFAULT;
-- In this order, and this strongly at once: a refresh that runs reads the one before it writes the other.
LOCK TABLE @extschema@.refresh_config IN ACCESS EXCLUSIVE MODE;
LOCK TABLE @extschema@.dblink_mapping_mimeo IN ACCESS EXCLUSIVE MODE;

DROP FUNCTION @extschema@.confirm_job(text);
DROP FUNCTION @extschema@.refresh_group(text, integer, boolean);
DROP TRIGGER a_password_is_given ON @extschema@.dblink_mapping_mimeo;
DROP TRIGGER guard_password_host ON @extschema@.dblink_mapping_mimeo;
DROP FUNCTION @extschema@.mark_given_password();
DROP FUNCTION @extschema@.guard_password_host();
ALTER TABLE @extschema@.dblink_mapping_mimeo ENABLE TRIGGER guard_password_required;
ALTER TABLE @extschema@.refresh_config ENABLE TRIGGER guard_refresh_config;

CREATE OR REPLACE FUNCTION @extschema@.guard_refresh_config() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_harmless text[] := '{last_run,period,batch_limit,jobmon,boundary,last_value,dst_active,dst_start,dst_end,check_stats,insert_on_fetch,n_tup_ins,n_tup_upd,n_tup_del,keep_previous,max_shrink_percent}';
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

-- What newcomers and users of 1.5.1 met. The functions are made as they were, with the grants that they had.
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
    p_debug bool DEFAULT false
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
    p_debug bool DEFAULT false
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
    p_debug bool DEFAULT false
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
    p_debug bool DEFAULT false
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
    p_debug bool DEFAULT false
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
    p_debug bool DEFAULT false
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'logdel_maker_wrapper';

CREATE FUNCTION @extschema@.dml_destroyer(
    p_dest_table TEXT,
    p_keep_table bool DEFAULT true,
    p_debug bool DEFAULT false
) RETURNS VOID
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'dml_destroyer_wrapper';

CREATE FUNCTION @extschema@.logdel_destroyer(
    p_dest_table TEXT,
    p_keep_table bool DEFAULT true,
    p_debug bool DEFAULT false
) RETURNS VOID
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'logdel_destroyer_wrapper';

CREATE FUNCTION @extschema@.check_permissions(
    p_dblink_id INT,
    p_src_table TEXT,
    p_type TEXT DEFAULT 'snap',
    p_dest_table TEXT DEFAULT NULL
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

ALTER FUNCTION @extschema@.snapshot_destroyer(text, boolean, boolean) STRICT;
ALTER FUNCTION @extschema@.table_destroyer(text, boolean, boolean) STRICT;
ALTER FUNCTION @extschema@.inserter_destroyer(text, boolean, boolean) STRICT;
ALTER FUNCTION @extschema@.updater_destroyer(text, boolean, boolean) STRICT;
ALTER FUNCTION @extschema@.rollback_snapshot(text) STRICT;
ALTER FUNCTION @extschema@.plan_refresh(text) STRICT;
DROP FUNCTION @extschema@.differences(text, text, text, integer);
DROP VIEW @extschema@.progress;
DROP FUNCTION @extschema@.running_refreshes();

-- Views cannot lose columns: they are made anew, and their grants come back.
CREATE TEMPORARY TABLE pg_temp.mimeo_acl AS
    SELECT c.relname, NULL::name AS col, c.relacl AS acl FROM pg_catalog.pg_class c
     WHERE c.relnamespace = '@extschema@'::pg_catalog.regnamespace AND c.relname = ANY ('{health,job_status,refresh_config_snap,refresh_config_dml,refresh_config_logdel}'::pg_catalog.name[])
    UNION ALL
    SELECT c.relname, a.attname, a.attacl FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = '@extschema@'::pg_catalog.regnamespace AND c.relname = ANY ('{health,job_status,refresh_config_snap,refresh_config_dml,refresh_config_logdel}'::pg_catalog.name[])
       AND a.attacl IS NOT NULL AND a.attname <> ALL ('{unscheduled,data_as_of,refresh_group,max_queue_size,delta}'::pg_catalog.name[]);
CREATE TEMPORARY TABLE pg_temp.mimeo_init AS
    SELECT c.relname, p.objsubid, p.privtype, p.initprivs FROM pg_catalog.pg_init_privs p JOIN pg_catalog.pg_class c ON c.oid = p.objoid
     WHERE p.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relnamespace = '@extschema@'::pg_catalog.regnamespace
       AND c.relname = ANY ('{health,job_status,refresh_config_snap,refresh_config_dml,refresh_config_logdel}'::pg_catalog.name[]);
DROP VIEW @extschema@.health, @extschema@.job_status, @extschema@.refresh_config_snap, @extschema@.refresh_config_dml, @extschema@.refresh_config_logdel;
DO $do$
DECLARE
    v_jobs text;
BEGIN
    SELECT string_agg(c.dest_table, ', ' ORDER BY c.dest_table COLLATE "C") INTO v_jobs
      FROM @extschema@.refresh_config c WHERE c.type IN ('dml', 'logdel');
    IF v_jobs IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('queues on the source are of a kind that mimeo 2.1 does not know, for these jobs: %s', v_jobs),
            HINT = 'max_queue_size is forgotten. The first refresh of each by the package of 2.1 makes its queue anew, and copies all rows.';
    END IF;
END
$do$;
UPDATE @extschema@.refresh_config SET state = state - 'data_as_of' WHERE state ? 'data_as_of';
ALTER TABLE @extschema@.refresh_config DROP CONSTRAINT refresh_config_max_queue_size_check, DROP COLUMN max_queue_size,
    DROP COLUMN follow_columns, DROP COLUMN delta, DROP CONSTRAINT refresh_config_refresh_group_check, DROP COLUMN refresh_group;
ALTER TABLE @extschema@.run_history DROP COLUMN refresh_group;
CREATE VIEW @extschema@.refresh_config_snap AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           check_stats,
           (state #>> '{seen,fingerprint,changes,0}')::bigint AS n_tup_ins,
           (state #>> '{seen,fingerprint,changes,1}')::bigint AS n_tup_upd,
           (state #>> '{seen,fingerprint,changes,2}')::bigint AS n_tup_del,
           post_script, keep_previous, max_shrink_percent, guard
      FROM @extschema@.refresh_config WHERE type = 'snap' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN type SET DEFAULT 'snap';
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN check_stats SET DEFAULT true;
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
CREATE VIEW @extschema@.job_status AS
    SELECT c.dest_table, c.type, c.source_table AS source, c.period, c.last_run, l.status AS last_status, s.last_success,
           clock_timestamp() - s.last_success AS lag,
           c.period IS NOT NULL AND (c.last_run IS NULL
               OR c.last_run <= clock_timestamp() - c.period + least(c.period / 10, interval '5 seconds')) AS due,
           l.rows, l.bytes, l.ended - l.started AS duration, f.consecutive_failures,
           CASE WHEN l.status IN ('warning', 'critical', 'rolled_back') THEN coalesce(l.error, l.reason) END AS error,
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
CREATE VIEW @extschema@.health AS
    SELECT current_database()::text AS database, count(*) AS jobs,
           count(*) FILTER (WHERE period IS NOT NULL AND coalesce(lag > 2 * period, true)) AS late,
           count(*) FILTER (WHERE last_status = 'critical') AS failing, max(lag) AS oldest_lag
      FROM @extschema@.job_status;
DO $do$
DECLARE
    v_view regclass;
    v_name name;
    v_grant record;
BEGIN
    FOREACH v_name IN ARRAY '{health,job_status,refresh_config_snap,refresh_config_dml,refresh_config_logdel}'::name[] LOOP
        v_view := format('%I.%I', '@extschema@', v_name)::regclass;
        FOR v_grant IN SELECT g.col, a.* FROM pg_temp.mimeo_acl g CROSS JOIN LATERAL aclexplode(g.acl) a WHERE g.relname = v_name LOOP
            EXECUTE format('GRANT %s %s ON %s TO %s %s', v_grant.privilege_type, '(' || quote_ident(v_grant.col) || ')', v_view,
                CASE v_grant.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grant.grantee::regrole::text END,
                CASE WHEN v_grant.is_grantable THEN 'WITH GRANT OPTION' END);
        END LOOP;
        UPDATE pg_class SET relacl = (SELECT acl FROM pg_temp.mimeo_acl WHERE col IS NULL AND relname = v_name) WHERE oid = v_view;
        UPDATE pg_attribute a SET attacl = g.acl FROM pg_temp.mimeo_acl g WHERE g.relname = v_name AND a.attrelid = v_view AND a.attname = g.col;
        DELETE FROM pg_init_privs WHERE classoid = 'pg_class'::regclass AND objoid = v_view;
        INSERT INTO pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
        SELECT v_view, 'pg_class'::regclass, objsubid, privtype, initprivs FROM pg_temp.mimeo_init WHERE relname = v_name;
        DELETE FROM pg_shdepend s
         WHERE s.deptype = 'i' AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND s.classid = 'pg_class'::regclass AND s.objid = v_view
           AND NOT EXISTS (SELECT FROM pg_temp.mimeo_init i, aclexplode(i.initprivs) a WHERE i.relname = v_name AND s.refobjid IN (a.grantee, a.grantor));
    END LOOP;
END
$do$;
DROP TABLE pg_temp.mimeo_acl, pg_temp.mimeo_init;

-- 2.1 has these descriptions only.
DO $do$
DECLARE
    v_object text;
BEGIN
    FOR v_object IN
        SELECT format('ROUTINE %s', p.oid::regprocedure) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
         WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
        UNION ALL
        SELECT format('%s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass)
          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v')
         WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
        UNION ALL
        SELECT format('COLUMN %s.%I', c.oid::regclass, a.attname)
          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v')
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    LOOP
        EXECUTE format('COMMENT ON %s IS NULL', v_object);
    END LOOP;
END
$do$;
COMMENT ON TABLE @extschema@.dblink_mapping_mimeo IS 'The databases that tables are copied from';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.data_source IS
    'A libpq connection string, or the name of a foreign server whose user mapping holds the credentials';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.password_required IS
    'Jobs of roles that are not superusers connect with a password that is given here; only a superuser may set it false';
COMMENT ON TABLE @extschema@.refresh_config IS 'One row a job; the views refresh_config_… show those of one method';
COMMENT ON COLUMN @extschema@.refresh_config.state IS 'What mimeo remembers from run to run; not to be changed by hand';
COMMENT ON COLUMN @extschema@.refresh_config.keep_previous IS
    'The data that a refresh replaces stays in the idle twin, for rollback_snapshot';
COMMENT ON COLUMN @extschema@.refresh_config.max_shrink_percent IS
    'A refresh that brings fewer rows than are there, by more than this, is refused';
COMMENT ON COLUMN @extschema@.refresh_config.guard IS
    'A query that must return true before the new data shows; {new} in it is the table that holds them';
COMMENT ON TABLE @extschema@.run_history IS 'One row a run';
COMMENT ON COLUMN @extschema@.run_history.queue_rows IS 'dml and logdel: changes that wait on the source after the run';
COMMENT ON COLUMN @extschema@.run_history.phases IS 'What the run spent its time on: [{"phase": …, "ms": …}, …]';
COMMENT ON VIEW @extschema@.job_status IS 'One row a job: when it last ran, how that ended, whether it is due';
COMMENT ON VIEW @extschema@.health IS 'One row: how many jobs there are, are late, fail, and how old the oldest data is';
