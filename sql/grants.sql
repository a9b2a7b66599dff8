-- Nothing is for PUBLIC, but for running_refreshes, which asks itself who calls it. The role that created the extension, superuser or not,
-- may use all of it and pass it on; but it gets no TRIGGER and no ownership, for the functions write these tables as their owner, and the functions behind
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
GRANT SELECT ON @extschema@.job_status, @extschema@.health, @extschema@.progress TO @extowner@ WITH GRANT OPTION;
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
GRANT EXECUTE ON FUNCTION @extschema@.running_refreshes() TO PUBLIC;

-- The schema may have been there, and belong to somebody else.
DO $do$
BEGIN
    IF NOT has_schema_privilege('@extowner@'::regrole::oid, '@extschema@'::regnamespace::oid, 'USAGE') THEN
        GRANT USAGE ON SCHEMA @extschema@ TO @extowner@;
    END IF;
END
$do$;

-- What each object is, for whoever looks at it in psql or a catalog browser. One sentence; where a NULL means something, it says what.
DO $do$
DECLARE
    v_name text;
    v_column text;
    v_comment text;
    v_routine regprocedure;
    v_relation regclass;
BEGIN
    FOR v_name, v_comment IN VALUES
        ('snapshot_maker', 'Makes a snapshot job: copies a table behind a view, whose next copies are swapped in; p_dblink_id is dblink_mapping_mimeo.data_source_id'),
        ('table_maker', 'Makes a table job: copies a table into a plain table, all of whose rows each refresh replaces'),
        ('inserter_maker', 'Makes an inserter job: each refresh adds the rows that are new by a time or serial column (p_type time or serial)'),
        ('updater_maker', 'Makes an updater job: each refresh brings the rows that are new or changed by a time or serial column, and finds their places by key'),
        ('dml_maker', 'Makes a dml job: triggers on the source queue the keys that change, and each refresh replays inserts, updates and deletes'),
        ('logdel_maker', 'Makes a logdel job: as dml, and rows that are deleted on the source stay here, with the time in mimeo_source_deleted'),
        ('refresh_snapshot', 'Refreshes a snapshot job, unless nothing has changed on its source; p_lock_wait: seconds to wait for another refresh of it, NULL not at all, 0 without limit'),
        ('refresh_snap', 'The name that refresh_snapshot had in 1.x'),
        ('refresh_table', 'Refreshes a table job: replaces all rows, and sets its sequences behind them'),
        ('refresh_inserter', 'Refreshes an inserter job; p_limit: rows, at most; p_repull: copies all rows anew, or those between p_repull_start and p_repull_end, both exclusive'),
        ('refresh_updater', 'Refreshes an updater job; arguments as of refresh_inserter'),
        ('refresh_dml', 'Refreshes a dml job; p_limit: queued changes, at most; p_repull: copies all rows anew'),
        ('refresh_logdel', 'Refreshes a logdel job; arguments as of refresh_dml'),
        ('run_refresh', 'Refreshes every job that is due by its period, each in a transaction of its own; p_jobs: in so many background workers'),
        ('snapshot_destroyer', 'Ends a snapshot job; its data stays as a plain table under the name of the view, unless p_keep_table is false'),
        ('table_destroyer', 'Ends a table job; its table stays, unless p_keep_table is false'),
        ('inserter_destroyer', 'Ends an inserter job; its table stays, unless p_keep_table is false'),
        ('updater_destroyer', 'Ends an updater job; its table stays, unless p_keep_table is false'),
        ('dml_destroyer', 'Ends a dml job, and takes queue and triggers off the source, unless p_keep_source is true; its table stays, unless p_keep_table is false'),
        ('logdel_destroyer', 'Ends a logdel job, as dml_destroyer does'),
        ('refresh_group', 'Refreshes all jobs of a group in one snapshot of their source, and shows them at one moment'),
        ('confirm_job', 'Says that a job is right as it is configured; by a role that has the rights of the owner of its destination'),
        ('rollback_snapshot', 'Shows the data again that the last refresh of a snapshot replaced, if refresh_config.keep_previous is set'),
        ('plan_refresh', 'Tells what a refresh would do now, step by step, with its locks and estimates, and does nothing'),
        ('concurrent_lock_check', 'Takes the lock of a job until the end of the transaction, as its refreshes do; false if one of them holds it'),
        ('validate_rowcount', 'Counts the rows of a job on both sides; of an inserter or updater between two intervals back from the newest value here'),
        ('validate_content', 'Compares what the rows of a job hold on both sides by a hash; p_show: NOTICEs of so many keys that differ'),
        ('differences', 'Keys whose rows differ between both sides of a job, how, and whether the difference may just wait for the next refresh'),
        ('check_permissions', 'What the source role and the caller need for a job of a method, whether they have it, and the statement that gives it'),
        ('check_source_columns', 'Columns of sources that destinations lack, or hold with another type; p_data_source_id: NULL is all sources'),
        ('check_missing_source_tables', 'Tables of sources that no job copies; p_views: views too'),
        ('snapshot_monitor', 'Rows and bytes of the source tables of snapshot jobs, of those that reach p_rowcount or p_size, if given'),
        ('running_refreshes', 'Behind the view progress: the refreshes that run, for whoever may read job_status'),
        ('guard_password_required', 'Trigger: only a superuser may say that a data source needs no password'),
        ('mark_given_password', 'Trigger: marks a password that is given anew'),
        ('guard_password_host', 'Trigger: a password goes to no other host than the one that it was given for'),
        ('guard_refresh_config', 'Trigger: who changes a job has the rights of the owner of its destination, and answers for it'),
        ('write_refresh_config', 'Trigger: writes what a view of one method is told through to refresh_config')
    LOOP
        FOR v_routine IN
            SELECT p.oid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
             WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
               AND p.proname = v_name
        LOOP
            EXECUTE format('COMMENT ON ROUTINE %s IS %L', v_routine, v_comment);
        END LOOP;
    END LOOP;

    FOR v_name, v_comment IN VALUES
        ('refresh_config_snap', 'The snapshot jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_table', 'The table jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_inserter', 'The inserter jobs, with boundary and last_value as text'),
        ('refresh_config_inserter_time', 'The inserter jobs by time, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_inserter_serial', 'The inserter jobs by a serial column, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_updater', 'The updater jobs, with boundary and last_value as text'),
        ('refresh_config_updater_time', 'The updater jobs by time, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_updater_serial', 'The updater jobs by a serial column, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_dml', 'The dml jobs, as 1.x showed them; writes go through to refresh_config'),
        ('refresh_config_logdel', 'The logdel jobs, as 1.x showed them; writes go through to refresh_config'),
        ('progress', 'One row a refresh that runs')
    LOOP
        EXECUTE format('COMMENT ON VIEW @extschema@.%I IS %L', v_name, v_comment);
    END LOOP;

    -- A column means the same wherever it is, unless a table is named.
    FOR v_name, v_column, v_comment IN VALUES
        (NULL, 'dest_table', 'The destination, as schema.table without quotes'),
        (NULL, 'source_table', 'The table on the source, as schema.table without quotes'),
        (NULL, 'type', 'The method: snap, table, inserter_time, inserter_serial, updater_time, updater_serial, dml or logdel'),
        (NULL, 'dblink', 'The data source: dblink_mapping_mimeo.data_source_id'),
        (NULL, 'last_run', 'When the last run began that did its work; NULL if there was none'),
        (NULL, 'filter', 'The columns that are copied; NULL is all'),
        (NULL, 'condition', 'What follows the table in a query on the source, WHERE first: the rows that are copied; NULL is all'),
        (NULL, 'period', 'How often run_refresh refreshes it; NULL is never'),
        (NULL, 'batch_limit', 'Rows or queued changes that one refresh takes, at most; NULL is no limit'),
        (NULL, 'jobmon', 'Runs are logged with pg_jobmon'),
        (NULL, 'control', 'inserter, updater: the column that tells new rows; dml, logdel: the queue on the source'),
        (NULL, 'boundary', 'inserter, updater: how far a refresh stays behind the newest rows'),
        (NULL, 'last_value', 'inserter, updater: the greatest control value that was copied'),
        (NULL, 'dst_active', 'inserter, updater by time: pauses between dst_start and dst_end on a day when the clocks change'),
        (NULL, 'dst_start', 'The pause begins: hours and minutes, 230 is half past two'),
        (NULL, 'dst_end', 'The pause ends: hours and minutes'),
        (NULL, 'pk_name', 'updater, dml, logdel: the columns of the key'),
        (NULL, 'pk_type', 'The types of the columns of the key'),
        (NULL, 'insert_on_fetch', 'dml, logdel: rows go into the destination while they come; false: all are fetched first'),
        (NULL, 'check_stats', 'snap: nothing is copied if the counters of the source show that nothing has changed'),
        (NULL, 'post_script', 'snap: statements that run after the columns have changed'),
        (NULL, 'truncate_cascade', 'table: tables that refer to this one are emptied with it'),
        (NULL, 'sequences', 'table: sequences that are set behind the rows'),
        (NULL, 'n_tup_ins', 'Rows inserted into the source by the last copy; NULL if unknown'),
        (NULL, 'n_tup_upd', 'Rows updated on the source by the last copy; NULL if unknown'),
        (NULL, 'n_tup_del', 'Rows deleted from the source by the last copy; NULL if unknown'),
        (NULL, 'state', 'What mimeo remembers from run to run; not to be changed by hand'),
        (NULL, 'keep_previous', 'snap: the data that a refresh replaces stays in the idle twin, for rollback_snapshot'),
        (NULL, 'max_shrink_percent', 'snap: a refresh that brings fewer rows than are there, by more than this, is refused; NULL is never'),
        (NULL, 'follow_columns', 'Not of snapshots, which do it always: columns that are added, renamed, widened or dropped on the source are followed here; NULL is false'),
        (NULL, 'refresh_group', 'Jobs of the same name are refreshed together, by refresh_group and run_refresh'),
        (NULL, 'delta', 'snap: a refresh copies the row versions that have changed on the source, and deletes those that are gone; NULL is false'),
        (NULL, 'max_queue_size', 'dml, logdel: how large the queue on the source may become, in bytes, before it takes no more changes and all rows are copied; NULL is no limit'),
        (NULL, 'guard', 'snap: a query that must return true before the new data shows; {new} in it is the table that holds them; NULL is none'),
        (NULL, 'rows', 'Rows that came from the source'),
        (NULL, 'bytes', 'Bytes that came from the source'),
        (NULL, 'data_source_id', 'Number of the data source, as makers take it in p_dblink_id'),
        ('dblink_mapping_mimeo', 'data_source', 'A libpq connection string, or the name of a foreign server whose user mapping holds the credentials'),
        ('dblink_mapping_mimeo', 'username', 'The role on the source; NULL with a foreign server'),
        ('dblink_mapping_mimeo', 'pwd', 'Its password; NULL with a foreign server'),
        ('dblink_mapping_mimeo', 'password_required', 'Jobs of roles that are not superusers connect with a password that is given here; only a superuser may set it false'),
        ('run_history', 'run_id', 'Number of the run'),
        ('run_history', 'started', 'When it began'),
        ('run_history', 'ended', 'When it ended'),
        ('run_history', 'status', 'ok, skipped (nothing to do), warning (done, but look at it), critical (not done), concurrent (another refresh was running), rolled_back (by rollback_snapshot)'),
        ('run_history', 'reason', 'Why it was skipped or not, and what was noticed'),
        ('run_history', 'queue_rows', 'dml and logdel: changes that wait on the source after the run; NULL for other methods'),
        ('run_history', 'phases', 'What the run spent its time on: [{"phase": …, "ms": …}, …]'),
        ('run_history', 'sqlstate', 'SQLSTATE of the error; NULL if there was none'),
        ('run_history', 'error', 'The error, with DETAIL, HINT and CONTEXT; NULL if there was none'),
        ('run_history', 'run_by', 'The role that had logged in'),
        ('job_status', 'source', 'The table on the source'),
        ('job_status', 'last_status', 'How the last run ended, as in run_history; NULL if there was none'),
        ('job_status', 'last_success', 'When the last run began that brought the data up to date; NULL if there was none'),
        ('job_status', 'lag', 'How old the data is: the time since data_as_of, or since last_success if that is unknown'),
        ('job_status', 'due', 'run_refresh would refresh it now'),
        ('job_status', 'duration', 'How long the last run took'),
        ('job_status', 'consecutive_failures', 'Runs that have failed since the last success'),
        ('job_status', 'error', 'The error or warning of the last run; NULL if there was none'),
        ('job_status', 'last_attempt', 'When the last run began, whatever came of it'),
        ('job_status', 'data_as_of', 'The moment up to which all changes of the source are here; NULL if unknown'),
        ('health', 'database', 'This database'),
        ('health', 'jobs', 'How many jobs there are'),
        ('health', 'late', 'Jobs with a period whose data is older than twice that, or that have none yet'),
        ('health', 'failing', 'Jobs whose last run has failed'),
        ('health', 'oldest_lag', 'The greatest lag of all jobs'),
        ('health', 'unscheduled', 'Jobs that run_refresh never refreshes: neither they nor another one of their group has a period'),
        ('run_history', 'refresh_group', 'The group that was refreshed as one; NULL of a refresh by itself'),
        ('progress', 'refresh_group', 'The group that is refreshed as one; phase and figures are those of the member at work'),
        ('progress', 'pid', 'The process that refreshes'),
        ('progress', 'phase', 'What it is doing; NULL if somebody holds the lock of the job without refreshing it'),
        ('progress', 'started', 'When its transaction began'),
        ('progress', 'rows', 'Rows that have come so far in this phase; NULL in phases without any'),
        ('progress', 'rows_expected', 'snap, table: rows that the last copy had; NULL if unknown'),
        ('progress', 'percent', 'Of the rows expected, never above 100; NULL if unknown'),
        ('progress', 'bytes', 'Bytes that have come so far in this phase; NULL in phases without any'),
        ('progress', 'rate', 'Bytes a second since it began'),
        ('progress', 'eta', 'How long the copy will still take, at this pace; NULL if unknown'),
        ('progress', 'bar', 'The percent, 20 characters wide; NULL if unknown')
    LOOP
        FOR v_relation IN
            SELECT c.oid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = v_column AND NOT a.attisdropped
             WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
               AND c.relkind IN ('r', 'v') AND (v_name IS NULL OR c.relname = v_name)
        LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', v_relation, v_column, v_comment);
        END LOOP;
    END LOOP;
END
$do$;
