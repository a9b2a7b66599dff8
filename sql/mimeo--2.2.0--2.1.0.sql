-- Back from 2.2 to 2.1.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- In this order, and this strongly at once: a refresh that runs reads the one before it writes the other.
LOCK TABLE @extschema@.dblink_mapping_mimeo IN ACCESS EXCLUSIVE MODE;
LOCK TABLE @extschema@.refresh_config IN SHARE ROW EXCLUSIVE MODE;

DROP FUNCTION @extschema@.confirm_job(text);
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
