-- The jobs of one method each, under the names and with the columns that 1.x had. INSERT, UPDATE and DELETE go
-- through to refresh_config.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE VIEW @extschema@.refresh_config_snap AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           check_stats,
           (state #>> '{seen,fingerprint,changes,0}')::bigint AS n_tup_ins,
           (state #>> '{seen,fingerprint,changes,1}')::bigint AS n_tup_upd,
           (state #>> '{seen,fingerprint,changes,2}')::bigint AS n_tup_del,
           post_script, keep_previous, max_shrink_percent, guard, delta
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
           control, pk_name, pk_type, insert_on_fetch, max_queue_size
      FROM @extschema@.refresh_config WHERE type = 'dml' WITH CHECK OPTION;
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN type SET DEFAULT 'dml';
ALTER VIEW @extschema@.refresh_config_dml ALTER COLUMN insert_on_fetch SET DEFAULT true;

CREATE VIEW @extschema@.refresh_config_logdel AS
    SELECT dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit, jobmon,
           control, pk_name, pk_type, insert_on_fetch, max_queue_size
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
    v_new.keep_previous := coalesce(v_new.keep_previous, false);
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
-- from where, with which condition, which statements run afterwards, and when new data is refused. The rest (period, limits,
-- last_value …) is open to everybody who may write here. It runs as whoever writes, also through the views. Who has said it stays in the row, for
-- owners and names change: a refresh wants that role to have the rights of whom the destination belongs to by then.
CREATE FUNCTION @extschema@.guard_refresh_config() RETURNS trigger
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
CREATE TRIGGER guard_refresh_config BEFORE INSERT OR UPDATE ON @extschema@.refresh_config
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_refresh_config();
-- Under every session_replication_role; of the views nothing is written where their triggers do not fire.
ALTER TABLE @extschema@.refresh_config ENABLE ALWAYS TRIGGER guard_refresh_config;
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
COMMENT ON VIEW @extschema@.job_status IS 'One row a job: when it last ran, how that ended, whether it is due';

-- For a monitoring probe. Late is a job with a period whose data is older than twice that, or that has none yet.
CREATE VIEW @extschema@.health AS
    SELECT current_database()::text AS database, count(*) AS jobs,
           count(*) FILTER (WHERE period IS NOT NULL AND coalesce(lag > 2 * period, true)) AS late,
           count(*) FILTER (WHERE last_status = 'critical') AS failing, max(lag) AS oldest_lag,
           count(*) FILTER (WHERE period IS NULL AND NOT EXISTS (SELECT FROM @extschema@.refresh_config g
                WHERE g.refresh_group = s.refresh_group AND g.period IS NOT NULL)) AS unscheduled
      FROM @extschema@.job_status s;
COMMENT ON VIEW @extschema@.health IS 'One row: how many jobs there are, are late, fail, and how old the oldest data is';
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
SELECT pg_catalog.set_config('search_path', '@extschema@, pg_temp', true);
