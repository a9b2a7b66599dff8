-- From 2.0 to 2.1: rollback_snapshot, guards, plan_refresh.

-- The views are locked before the tables, as queries on them do: each of these two statements locks the view alone.
ALTER VIEW @extschema@.refresh_config_snap ALTER COLUMN dest_table DROP DEFAULT;
ALTER VIEW @extschema@.job_status ALTER COLUMN dest_table DROP DEFAULT;
LOCK TABLE @extschema@.refresh_config, @extschema@.run_history IN ACCESS EXCLUSIVE MODE;

ALTER TABLE @extschema@.refresh_config
    ADD COLUMN keep_previous boolean NOT NULL DEFAULT false,
    ADD COLUMN max_shrink_percent integer,
    ADD COLUMN guard text,
    ADD CONSTRAINT refresh_config_max_shrink_percent_check CHECK (max_shrink_percent BETWEEN 0 AND 100);
COMMENT ON COLUMN @extschema@.refresh_config.keep_previous IS
    'The data that a refresh replaces stays in the idle twin, for rollback_snapshot';
COMMENT ON COLUMN @extschema@.refresh_config.max_shrink_percent IS
    'A refresh that brings fewer rows than are there, by more than this, is refused';
COMMENT ON COLUMN @extschema@.refresh_config.guard IS
    'A query that must return true before the new data shows; {new} in it is the table that holds them';
ALTER TABLE @extschema@.run_history
    DROP CONSTRAINT run_history_status_check,
    ADD CONSTRAINT run_history_status_check CHECK (status IN ('ok', 'skipped', 'warning', 'critical', 'concurrent', 'rolled_back'));

CREATE OR REPLACE VIEW @extschema@.refresh_config_snap AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           check_stats,
           (state #>> '{seen,fingerprint,changes,0}')::bigint AS n_tup_ins,
           (state #>> '{seen,fingerprint,changes,1}')::bigint AS n_tup_upd,
           (state #>> '{seen,fingerprint,changes,2}')::bigint AS n_tup_del,
           post_script, keep_previous, max_shrink_percent, guard
      FROM @extschema@.refresh_config WHERE type = 'snap' WITH CHECK OPTION;

CREATE OR REPLACE VIEW @extschema@.job_status AS
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
    IF NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = TG_RELID AND d.deptype = 'e'
                      AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'mimeo') THEN
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
    v_new.keep_previous := coalesce(v_new.keep_previous, false);
    v_new.state := coalesce(v_new.state, '{}');
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
    v_harmless text[] := '{last_run,period,batch_limit,jobmon,boundary,last_value,dst_active,dst_start,dst_end,check_stats,insert_on_fetch,n_tup_ins,n_tup_upd,n_tup_del,keep_previous,max_shrink_percent}';
    v_owner text;
BEGIN
    IF TG_OP = 'UPDATE' AND to_jsonb(NEW) - v_harmless = to_jsonb(OLD) - v_harmless THEN
        RETURN NEW;
    END IF;
    -- However the name is written: without quotes, spaces and capitals.
    SELECT r.rolname INTO v_owner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
     WHERE lower(translate(concat(n.nspname, '.', c.relname), '" ', '')) = lower(translate(NEW.dest_table, '" ', ''))
       AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1;
    IF v_owner IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('destination %s belongs to %s, whose rights %s does not have', NEW.dest_table, v_owner, current_user),
            HINT = 'Its owner may change this job.';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION rollback_snapshot(p_destination text) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rollback_snapshot_wrapper';
CREATE FUNCTION plan_refresh(p_destination text) RETURNS TABLE (step integer, side text, action text, lock text, estimate text)
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'plan_refresh_wrapper';
REVOKE ALL ON FUNCTION rollback_snapshot(text), plan_refresh(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rollback_snapshot(text), plan_refresh(text) TO @extowner@ WITH GRANT OPTION;
