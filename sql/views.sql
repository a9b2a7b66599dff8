-- The jobs of one method each, under the names and with the columns that 1.x had. INSERT, UPDATE and DELETE go
-- through to refresh_config.

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
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM @extschema@.refresh_config WHERE dest_table = OLD.dest_table;
        RETURN OLD;
    END IF;
    IF NEW.type <> v_type THEN
        RAISE EXCEPTION USING ERRCODE = '44000',
            MESSAGE = format('%s holds jobs of type %s only', TG_TABLE_NAME, v_type);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT * INTO v_new FROM @extschema@.refresh_config WHERE dest_table = OLD.dest_table;
    END IF;
    v_new := jsonb_populate_record(v_new, to_jsonb(NEW));
    v_new.boundary := coalesce(NEW.boundary::text, CASE WHEN v_time THEN '00:10:00' ELSE '0' END);
    -- What the view shows may be less exact than what the table holds.
    IF TG_OP = 'INSERT' OR NEW.last_value IS DISTINCT FROM OLD.last_value THEN
        v_new.last_value := coalesce(NEW.last_value::text, CASE WHEN v_time THEN NULL ELSE '0' END);
    ELSE
        v_new.last_value := (SELECT c.last_value FROM @extschema@.refresh_config c WHERE c.dest_table = OLD.dest_table);
    END IF;
    v_new.jobmon := coalesce(v_new.jobmon, false);
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

CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_inserter_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_inserter_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_updater_time
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
CREATE TRIGGER write_refresh_config INSTEAD OF INSERT OR UPDATE OR DELETE ON @extschema@.refresh_config_updater_serial
    FOR EACH ROW EXECUTE FUNCTION @extschema@.write_refresh_config();
