-- From mimeo 1.5.1, last part: what was put aside comes back.

-- 1.5.1 connected without a password where none was given, and such sources go on doing so.
INSERT INTO @extschema@.dblink_mapping_mimeo (data_source_id, data_source, username, pwd, password_required)
SELECT data_source_id, data_source, username, pwd, coalesce(pwd, '') <> '' FROM mimeo_1_sources;
SELECT pg_catalog.setval('@extschema@.dblink_mapping_mimeo_data_source_id_seq', last_value, is_called) FROM mimeo_1_sequence;

DO $do$
DECLARE
    v_type text;
    v_columns text;
    v_row record;
    v_grant record;
    v_lost text;
BEGIN
    -- Through the views, which write each value as 2.x keeps it. The counters of a snapshot prove nothing any more: its next
    -- refresh copies. Of two jobs with one destination, which 2.x does not have, the one that ran last stays.
    FOR v_row IN
        SELECT kind, job FROM (
            SELECT 'snap' AS kind, to_jsonb(j) AS job FROM mimeo_1_snap j UNION ALL
            SELECT 'table', to_jsonb(j) FROM mimeo_1_table j UNION ALL
            SELECT 'inserter_time', to_jsonb(j) FROM mimeo_1_inserter_time j UNION ALL
            SELECT 'inserter_serial', to_jsonb(j) FROM mimeo_1_inserter_serial j UNION ALL
            SELECT 'updater_time', to_jsonb(j) FROM mimeo_1_updater_time j UNION ALL
            SELECT 'updater_serial', to_jsonb(j) FROM mimeo_1_updater_serial j UNION ALL
            SELECT 'dml', to_jsonb(j) FROM mimeo_1_dml j UNION ALL
            SELECT 'logdel', to_jsonb(j) FROM mimeo_1_logdel j) jobs
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

    FOR v_grant IN SELECT * FROM mimeo_1_grants ORDER BY kind, name, col, grantee LOOP
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
    IF v_lost IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('some privileges on configuration tables are not kept: %s', v_lost),
            HINT = 'mimeo writes these tables as their owner.';
    END IF;
    IF EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                WHERE n.nspname = '@extschema@' AND a.grantee = 0 AND a.privilege_type = 'USAGE') THEN
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

DROP TABLE mimeo_1_sources, mimeo_1_sequence, mimeo_1_snap, mimeo_1_table, mimeo_1_inserter_time, mimeo_1_inserter_serial,
    mimeo_1_updater_time, mimeo_1_updater_serial, mimeo_1_dml, mimeo_1_logdel, mimeo_1_grants;
