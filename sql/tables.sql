-- The configuration and the history. They are read and written by mimeo's functions as their owner, and by hand.

-- The schema may belong to somebody who has put operators and functions there: nothing is looked up in it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE TABLE @extschema@.dblink_mapping_mimeo (
    data_source_id serial,
    data_source text NOT NULL,
    username text,
    pwd text,
    password_required boolean NOT NULL DEFAULT true,
    CONSTRAINT dblink_mapping_mimeo_data_source_id_pkey PRIMARY KEY (data_source_id)
);
COMMENT ON TABLE @extschema@.dblink_mapping_mimeo IS 'The databases that tables are copied from';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.data_source IS
    'A libpq connection string, or the name of a foreign server whose user mapping holds the credentials';
COMMENT ON COLUMN @extschema@.dblink_mapping_mimeo.password_required IS
    'Jobs of roles that are not superusers connect with a password that is given here; only a superuser may set it false';

-- Without this, anyone who may write here could use the identity of the server itself (trust, peer, a passfile).
CREATE FUNCTION @extschema@.guard_password_required() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RETURN NEW;
    END IF;
    IF NOT NEW.password_required THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('data source %s: only a superuser may say that no password is required', NEW.data_source_id),
            HINT = 'Give a username and pwd, or ask a superuser to set password_required to false.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_password_required BEFORE INSERT OR UPDATE ON @extschema@.dblink_mapping_mimeo
    FOR EACH ROW EXECUTE FUNCTION @extschema@.guard_password_required();

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

CREATE TABLE @extschema@.refresh_config (
    dest_table text NOT NULL,
    source_table text NOT NULL,
    type text NOT NULL,
    dblink integer NOT NULL,
    last_run timestamptz,
    filter text[],
    condition text,
    period interval,
    batch_limit integer,
    jobmon boolean NOT NULL DEFAULT false,
    -- inserter, updater
    control text,
    boundary text,
    last_value text,
    dst_active boolean,
    dst_start integer,
    dst_end integer,
    -- updater, dml, logdel
    pk_name text[],
    pk_type text[],
    insert_on_fetch boolean,
    -- snap
    check_stats boolean,
    post_script text[],
    -- table
    truncate_cascade boolean,
    sequences text[],
    -- what the method itself remembers
    state jsonb NOT NULL DEFAULT '{}',
    -- snap: what is kept of the data before, and when the new data is refused
    keep_previous boolean NOT NULL DEFAULT false,
    max_shrink_percent integer,
    guard text,
    -- dml, logdel: in bytes
    max_queue_size bigint,
    -- all but snap: whether columns that change on the source are followed
    follow_columns boolean,
    -- snap: whether refreshes copy the row versions that have changed
    delta boolean,
    -- jobs of one name are refreshed together
    refresh_group text,
    CONSTRAINT refresh_config_pkey PRIMARY KEY (dest_table),
    CONSTRAINT refresh_config_dblink_fkey FOREIGN KEY (dblink)
        REFERENCES @extschema@.dblink_mapping_mimeo (data_source_id),
    CONSTRAINT refresh_config_type_check CHECK (type IN ('snap', 'table', 'inserter_time', 'inserter_serial',
        'updater_time', 'updater_serial', 'dml', 'logdel')),
    CONSTRAINT refresh_config_control_check CHECK (type NOT IN ('inserter_time', 'inserter_serial', 'updater_time',
        'updater_serial') OR (control IS NOT NULL AND boundary IS NOT NULL AND last_value IS NOT NULL)),
    CONSTRAINT refresh_config_pk_check CHECK (type NOT IN ('updater_time', 'updater_serial', 'dml', 'logdel')
        OR (pk_name IS NOT NULL AND pk_type IS NOT NULL)),
    CONSTRAINT refresh_config_max_shrink_percent_check CHECK (max_shrink_percent BETWEEN 0 AND 100),
    CONSTRAINT refresh_config_max_queue_size_check CHECK (max_queue_size > 0),
    CONSTRAINT refresh_config_refresh_group_check CHECK (refresh_group <> '')
);
CREATE INDEX refresh_config_dblink_idx ON @extschema@.refresh_config (dblink);
COMMENT ON TABLE @extschema@.refresh_config IS 'One row a job; the views refresh_config_… show those of one method';
COMMENT ON COLUMN @extschema@.refresh_config.state IS 'What mimeo remembers from run to run; not to be changed by hand';
COMMENT ON COLUMN @extschema@.refresh_config.keep_previous IS
    'The data that a refresh replaces stays in the idle twin, for rollback_snapshot';
COMMENT ON COLUMN @extschema@.refresh_config.max_shrink_percent IS
    'A refresh that brings fewer rows than are there, by more than this, is refused';
COMMENT ON COLUMN @extschema@.refresh_config.guard IS
    'A query that must return true before the new data shows; {new} in it is the table that holds them';

CREATE TABLE @extschema@.run_history (
    run_id bigint GENERATED BY DEFAULT AS IDENTITY,
    dest_table text NOT NULL,
    source_table text NOT NULL,
    type text NOT NULL,
    started timestamptz NOT NULL,
    ended timestamptz NOT NULL DEFAULT clock_timestamp(),
    status text NOT NULL,
    reason text,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    queue_rows bigint,
    phases jsonb NOT NULL DEFAULT '[]',
    sqlstate text,
    error text,
    run_by text NOT NULL DEFAULT session_user,
    -- the group that was refreshed as one
    refresh_group text,
    CONSTRAINT run_history_pkey PRIMARY KEY (run_id),
    CONSTRAINT run_history_status_check CHECK (status IN ('ok', 'skipped', 'warning', 'critical', 'concurrent', 'rolled_back'))
);
CREATE INDEX run_history_dest_table_idx ON @extschema@.run_history (dest_table, started);
CREATE INDEX run_history_started_idx ON @extschema@.run_history (started);
COMMENT ON TABLE @extschema@.run_history IS 'One row a run';
COMMENT ON COLUMN @extschema@.run_history.queue_rows IS 'dml and logdel: changes that wait on the source after the run';
COMMENT ON COLUMN @extschema@.run_history.phases IS 'What the run spent its time on: [{"phase": …, "ms": …}, …]';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.dblink_mapping_mimeo', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.dblink_mapping_mimeo_data_source_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.refresh_config', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.run_history', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.run_history_run_id_seq', '');
-- For the functions that are made without a schema.
SELECT pg_catalog.set_config('search_path', '@extschema@, pg_temp', true);
