-- What the files of tests/pgtap share: functions in the schema tap of the destination database. Run by pgtap.sh.

-- What a test does on its source, as the owner of the tables there.
CREATE FUNCTION tap.source_dsn() RETURNS text LANGUAGE sql AS $$
    SELECT format('host=127.0.0.1 port=%s dbname=%L user=owner password=''owner secret''',
        current_setting('tap.source_port'), current_database())
$$;

CREATE FUNCTION tap.source_version() RETURNS int LANGUAGE sql AS $$
    SELECT answer FROM tap.dblink(tap.source_dsn(), 'SHOW server_version_num') AS t(answer int)
$$;

CREATE FUNCTION tap.on_source(p_sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tap.dblink_connect('owner', tap.source_dsn());
    PERFORM tap.dblink_exec('owner', 'SET client_min_messages = warning');
    PERFORM tap.dblink_exec('owner', p_sql);
    -- The counters of the table move now, not some seconds later. Before 15 a process collected them, and wrote them twice a second.
    IF tap.source_version() >= 150000 THEN
        PERFORM * FROM tap.dblink('owner', 'SELECT pg_stat_force_next_flush()') AS t(done text);
        PERFORM tap.dblink_disconnect('owner');
    ELSE
        PERFORM tap.dblink_disconnect('owner');
        PERFORM tap.dblink_exec(tap.source_dsn(), 'DO ''DECLARE t timestamptz := clock_timestamp();
            BEGIN LOOP PERFORM pg_stat_clear_snapshot(); EXIT WHEN pg_stat_get_snapshot_timestamp() > t; PERFORM pg_sleep(0.02); END LOOP; END''');
    END IF;
END
$$;

CREATE FUNCTION tap.ask_source(p_sql text) RETURNS text LANGUAGE sql AS $$
    SELECT answer FROM tap.dblink(tap.source_dsn(), p_sql) AS t(answer text)
$$;

-- The same as the role that mimeo has there.
CREATE FUNCTION tap.as_reader(p_sql text) RETURNS text LANGUAGE sql AS $$
    SELECT tap.dblink_exec(replace(tap.source_dsn(), 'owner', 'reader'), p_sql)
$$;

CREATE FUNCTION tap.ask_reader(p_sql text) RETURNS text LANGUAGE sql AS $$
    SELECT answer FROM tap.dblink(replace(tap.source_dsn(), 'owner', 'reader'), p_sql) AS t(answer text)
$$;

-- Whether source and destination hold the same rows, in these columns and where the source is asked so.
CREATE FUNCTION tap.same_rows(p_table text, p_columns text = 't.*', p_source text = NULL, p_where text = 'true') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_query text := 'SELECT count(*) || '' '' || md5(coalesce(string_agg(r::text, ''|'' ORDER BY r::text COLLATE "C"), '''')) FROM (SELECT %s FROM %s t WHERE %s) r';
    v_here text;
BEGIN
    EXECUTE format(v_query, p_columns, p_table, 'true') INTO v_here;
    RETURN tap.is(v_here, tap.ask_source(format(v_query, p_columns, coalesce(p_source, p_table), p_where)), p_table || ' holds what the source holds');
END
$$;

-- What a role is told when it tries something in a session of its own: 'done', or the error with its DETAIL.
CREATE FUNCTION tap.in_session(p_role text, p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_detail text;
BEGIN
    PERFORM tap.dblink_connect('other', format('host=127.0.0.1 port=%s dbname=%L user=%s password=''%s secret''',
        inet_server_port(), current_database(), p_role, p_role));
    PERFORM * FROM tap.dblink('other', p_sql) AS t(x text);
    PERFORM tap.dblink_disconnect('other');
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL;
    PERFORM tap.dblink_disconnect('other');
    RETURN concat_ws(E'\n', SQLERRM, nullif(v_detail, ''));
END
$$;

CREATE FUNCTION tap.as_clerk(p_sql text) RETURNS text LANGUAGE sql AS $$
    SELECT split_part(tap.in_session('clerk', p_sql), E'\n', 1)
$$;

-- What only a superuser can do.
CREATE FUNCTION tap.as_superuser(p_sql text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE p_sql;
END
$$;

-- Something that looks like pg_jobmon, which Debian does not have: the five functions, and what they were told.
CREATE FUNCTION tap.make_jobmon(p_schema text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE SCHEMA %1$I', p_schema);
    EXECUTE format($body$
        CREATE TABLE %1$I.job (id bigint GENERATED ALWAYS AS IDENTITY, name text, status text, level int);
        CREATE TABLE %1$I.step (id bigint GENERATED ALWAYS AS IDENTITY, job bigint, name text, status text, message text);
        CREATE FUNCTION %1$I.add_job(p_name text) RETURNS bigint LANGUAGE sql AS
            'INSERT INTO %1$I.job (name) VALUES (upper(p_name)) RETURNING id';
        CREATE FUNCTION %1$I.add_step(p_job bigint, p_name text) RETURNS bigint LANGUAGE sql AS
            'INSERT INTO %1$I.step (job, name) VALUES (p_job, p_name) RETURNING id';
        CREATE FUNCTION %1$I.update_step(p_step bigint, p_status text, p_message text) RETURNS void LANGUAGE sql AS
            'UPDATE %1$I.step SET status = p_status, message = p_message WHERE id = p_step';
        CREATE FUNCTION %1$I.close_job(p_job bigint) RETURNS void LANGUAGE sql AS
            'UPDATE %1$I.job SET status = ''OK'' WHERE id = p_job';
        CREATE FUNCTION %1$I.fail_job(p_job bigint, p_level int = NULL) RETURNS void LANGUAGE sql AS
            'UPDATE %1$I.job SET status = ''FAILED'', level = p_level WHERE id = p_job';$body$, p_schema);
    PERFORM tap.call_it_jobmon(p_schema);
END
$$;

CREATE FUNCTION tap.call_it_jobmon(p_schema text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT max(oid::bigint) + 100000, 'pg_jobmon', 'dba'::regrole, quote_ident(p_schema)::regnamespace, false, '1.3' FROM pg_extension
$$;

-- The last run of a job.
CREATE FUNCTION tap.last_run(p_dest_table text) RETURNS mimeo.run_history LANGUAGE sql AS $$
    SELECT * FROM mimeo.run_history WHERE dest_table = p_dest_table ORDER BY run_id DESC LIMIT 1
$$;

-- What a statement is answered: its SQLSTATE, error and HINT, or 'no error'.
CREATE FUNCTION tap.told(p_sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_hint text; v_context text; v_names text[];
BEGIN
    EXECUTE p_sql; RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT, v_context = PG_EXCEPTION_CONTEXT;
    DECLARE v_schema text; v_table text; v_column text; v_constraint text;
    BEGIN
        GET STACKED DIAGNOSTICS v_schema = SCHEMA_NAME, v_table = TABLE_NAME, v_column = COLUMN_NAME, v_constraint = CONSTRAINT_NAME;
        RETURN concat_ws(' | ', SQLSTATE || ' ' || SQLERRM, 'hint: ' || v_hint, 'context: ' || v_context,
                         'names: ' || concat_ws(' ', nullif(v_schema, ''), nullif(v_table, ''), nullif(v_column, ''), nullif(v_constraint, '')));
    END;
END $$;
