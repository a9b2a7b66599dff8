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
