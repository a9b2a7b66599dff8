-- From mimeo 1.5.1, first part: what has to be kept is put aside, and everything of 1.5.1 goes. The script that creates 2.x
-- follows, then after.sql. All of it is one transaction: a failure leaves 1.5.1 as it was.

CREATE TEMPORARY TABLE mimeo_1_sources AS SELECT data_source_id, data_source, username, pwd FROM @extschema@.dblink_mapping_mimeo;
CREATE TEMPORARY TABLE mimeo_1_sequence AS SELECT last_value, is_called FROM @extschema@.dblink_mapping_mimeo_data_source_id_seq;
CREATE TEMPORARY TABLE mimeo_1_snap AS SELECT * FROM ONLY @extschema@.refresh_config_snap;
CREATE TEMPORARY TABLE mimeo_1_table AS SELECT * FROM ONLY @extschema@.refresh_config_table;
CREATE TEMPORARY TABLE mimeo_1_inserter_time AS SELECT * FROM ONLY @extschema@.refresh_config_inserter_time;
CREATE TEMPORARY TABLE mimeo_1_inserter_serial AS SELECT * FROM ONLY @extschema@.refresh_config_inserter_serial;
CREATE TEMPORARY TABLE mimeo_1_updater_time AS SELECT * FROM ONLY @extschema@.refresh_config_updater_time;
CREATE TEMPORARY TABLE mimeo_1_updater_serial AS SELECT * FROM ONLY @extschema@.refresh_config_updater_serial;
CREATE TEMPORARY TABLE mimeo_1_dml AS SELECT * FROM ONLY @extschema@.refresh_config_dml;
CREATE TEMPORARY TABLE mimeo_1_logdel AS SELECT * FROM ONLY @extschema@.refresh_config_logdel;

-- Grants to others than the owner, by name: tables, columns of tables, functions. 1.5.1 left its functions open to PUBLIC; whoever
-- may use the schema could call those that run as their owner, and nothing with the others. So that is what is kept of it.
CREATE TEMPORARY TABLE mimeo_1_grants AS
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
