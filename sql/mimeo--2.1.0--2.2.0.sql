-- From 2.1 to 2.2: guards that hold under every session_replication_role, and jobs that somebody answers for.
-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

LOCK TABLE @extschema@.refresh_config, @extschema@.dblink_mapping_mimeo IN SHARE ROW EXCLUSIVE MODE;

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
    SELECT r.rolsuper OR r.oid = c.relowner,
           jsonb_build_object('role', r.rolname, 'oid', r.oid::bigint, 'system', s.system_identifier::text, 'owner', (
               SELECT d.relowner::bigint FROM pg_class d JOIN pg_namespace n ON n.oid = d.relnamespace
                WHERE concat(n.nspname, '.', d.relname) = NEW.dest_table LIMIT 1)) INTO v_trusted, v_me
      FROM pg_roles r CROSS JOIN pg_class c CROSS JOIN pg_control_system() s WHERE r.rolname = current_user AND c.oid = TG_RELID;
    IF TG_OP = 'UPDATE' THEN
        v_changed := to_jsonb(NEW) - v_harmless <> to_jsonb(OLD) - v_harmless;
    END IF;
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

CREATE FUNCTION @extschema@.confirm_job(p_destination text) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'confirm_job_wrapper';
REVOKE ALL ON FUNCTION @extschema@.confirm_job(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.confirm_job(text) TO @extowner@ WITH GRANT OPTION;
