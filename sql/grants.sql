-- Nothing is for PUBLIC. The role that created the extension, superuser or not, may use all of it and pass it on; but
-- it gets no TRIGGER and no ownership, for the functions write these tables as their owner.

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
BEGIN
    FOR v_function IN
        SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
         WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', v_function);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO @extowner@ WITH GRANT OPTION', v_function);
    END LOOP;
END
$do$;
