//! What others in the same database, and on the same server, have put around a destination: it runs as nobody but themselves, makes
//! nobody wait, and loses nothing of what they rely on. Cases by number: the threat model in docs/security.md.

mod support;

use postgres::Client;
use std::time::{Duration, Instant};
use support::{in_background, message, one, pair, run_dir, sqlstate, wait_for, Cluster, Scene};

/// A role of its own beside dba, who may read what is copied and make things in a schema of its own.
fn auditor(scene: &Scene, superuser: bool) -> Client {
    let rights = if superuser { "SUPERUSER" } else { "NOSUPERUSER" };
    let name = if superuser { "chief" } else { "auditor" };
    scene
        .destination_superuser()
        .batch_execute(&format!(
            "DO $$ BEGIN CREATE ROLE {name} LOGIN {rights} PASSWORD '{name} secret'; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
             CREATE SCHEMA {name} AUTHORIZATION {name}"
        ))
        .unwrap();
    scene
        .dba()
        .batch_execute(&format!("GRANT USAGE ON SCHEMA app TO {name}; GRANT SELECT ON app.t TO {name}"))
        .unwrap();
    pair().destination.connect(name, &scene.database)
}

/// The next refresh makes the view of the snapshot anew.
fn change_columns(scene: &Scene, times: usize) {
    scene
        .owner()
        .batch_execute(&format!("ALTER TABLE app.t RENAME COLUMN v TO w{times}; ALTER TABLE app.t RENAME COLUMN w{times} TO v; ALTER TABLE app.t ADD COLUMN c{times} int; ALTER TABLE app.t DROP COLUMN IF EXISTS c{}", times - 1))
        .unwrap();
}

fn is_filled(client: &mut Client, view: &str) -> bool {
    one(client, &format!("SELECT relispopulated FROM pg_class WHERE oid = '{view}'::regclass"))
}

const POLICY: &str = "
    CREATE FUNCTION app.evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
    CREATE POLICY p ON app.t_snap1 USING (app.evil()); CREATE POLICY p ON app.t_snap2 USING (app.evil());
    ALTER TABLE app.t_snap1 ENABLE ROW LEVEL SECURITY; ALTER TABLE app.t_snap2 ENABLE ROW LEVEL SECURITY";

/// S6.
#[test]
fn nobody_runs_the_code_of_a_snapshots_owner_for_his_materialized_view() {
    let scene = Scene::with_snapshot("planted_policy", 10);
    change_columns(&scene, 1);
    scene.dba().batch_execute(support::REFRESH).unwrap();
    let mut superuser = scene.destination_superuser();
    for chief in [false, true] {
        let (mut other, name) = (auditor(&scene, chief), if chief { "chief" } else { "auditor" });
        other.batch_execute(&format!("CREATE MATERIALIZED VIEW {name}.kept AS SELECT id, v FROM app.t")).unwrap();
    }
    scene.dba().batch_execute("CREATE MATERIALIZED VIEW app.own AS SELECT id, v FROM app.t").unwrap();
    scene.dba().batch_execute(POLICY).unwrap();
    change_columns(&scene, 2);
    // With all the rights of those whose views they are.
    superuser.batch_execute(support::REFRESH).unwrap();
    assert!(!is_filled(&mut superuser, "auditor.kept") && !is_filled(&mut superuser, "chief.kept"));
    wait_for("the owner's own view", || is_filled(&mut superuser, "app.own"));
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.own"), 10);
    assert_eq!(
        one::<String>(&mut superuser, "SELECT matviewowner::text FROM pg_matviews WHERE schemaname = 'chief'"),
        "chief"
    );

    // Without the rights of the others not even with a view that nobody has touched.
    scene
        .dba()
        .batch_execute(
            "ALTER TABLE app.t_snap1 DISABLE ROW LEVEL SECURITY; ALTER TABLE app.t_snap2 DISABLE ROW LEVEL SECURITY",
        )
        .unwrap();
    change_columns(&scene, 3);
    let mut dba = scene.dba();
    dba.batch_execute(support::REFRESH).unwrap();
    wait_for("the owner's own view", || is_filled(&mut superuser, "app.own"));
    assert!(!is_filled(&mut superuser, "auditor.kept") && !is_filled(&mut superuser, "chief.kept"));
}

/// S7.
#[test]
fn readers_do_not_wait_for_a_materialized_view() {
    let scene = Scene::with_snapshot("slow_view", 10);
    change_columns(&scene, 1);
    scene.dba().batch_execute(support::REFRESH).unwrap();
    let mut other = auditor(&scene, false);
    other
        .batch_execute(
            "CREATE MATERIALIZED VIEW auditor.slow AS SELECT count(*) AS n, pg_sleep(3) IS NULL AS slept FROM app.t",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "CREATE MATERIALIZED VIEW app.slow AS SELECT count(*) AS n, pg_sleep(3) IS NULL AS slept FROM app.t",
        )
        .unwrap();
    change_columns(&scene, 2);
    let (mut reader, mut superuser) = (scene.dba(), scene.destination_superuser());
    let since = Instant::now();
    scene.dba().batch_execute(support::REFRESH).unwrap();
    assert!(since.elapsed() < Duration::from_secs(3), "the refresh took {:?}", since.elapsed());
    wait_for("the worker to be at it", || {
        one(
            &mut superuser,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'mimeo worker' AND wait_event = 'PgSleep'",
        )
    });
    let since = Instant::now();
    assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t"), 10);
    assert!(since.elapsed() < Duration::from_secs(1), "a reader waited for {:?}", since.elapsed());
    wait_for("the view to be filled", || is_filled(&mut superuser, "app.slow"));
    assert!(!is_filled(&mut superuser, "auditor.slow"));
}

/// A table job, and what it is refreshed with.
fn table(scene: &Scene) -> Client {
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.table_maker('app.t', 1, 'app.tab')").unwrap();
    dba
}

const REFRESH_TABLE: &str = "SELECT mimeo.refresh_table('app.tab')";

/// S15.
#[test]
fn a_swap_of_storage_keeps_what_serializable_transactions_have_read() {
    let scene = Scene::new("serializable", 10_000);
    let mut dba = table(&scene);
    dba.batch_execute("CREATE TABLE app.mine (id int PRIMARY KEY, v text); INSERT INTO app.mine VALUES (1, 'x')")
        .unwrap();
    let file = "SELECT pg_relation_filenode('app.tab')::int8";
    // The places of all rows become others, in the table and in its index.
    scene.owner().batch_execute("DELETE FROM app.t WHERE id < 5000").unwrap();
    let (mut first, mut second) = (scene.dba(), scene.dba());
    second.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM app.mine WHERE id = 1").unwrap();
    first
        .batch_execute(
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL enable_seqscan = off; SELECT * FROM app.tab WHERE id = 9000;
             UPDATE app.mine SET v = 'y' WHERE id = 1; COMMIT",
        )
        .unwrap();
    let before: i64 = one(&mut dba, file);
    dba.batch_execute(REFRESH_TABLE).unwrap();
    assert_ne!(one::<i64>(&mut dba, file), before, "its storage was swapped");
    // Each has read what the other one writes.
    let outcome =
        second.batch_execute("SET LOCAL enable_seqscan = off; UPDATE app.tab SET v = 'z' WHERE id = 9000; COMMIT");
    assert_eq!(sqlstate(&outcome), "40001", "{}", message(&outcome));
}

/// S18.
#[test]
fn a_swap_of_storage_keeps_how_columns_are_stored_and_counted() {
    let scene = Scene::new("storage", 3000);
    scene.owner().batch_execute("ALTER TABLE app.t ADD COLUMN a int, ADD COLUMN b int; UPDATE app.t SET a = id % 10, b = id % 10, v = repeat(md5(id::text), 100)").unwrap();
    let mut dba = table(&scene);
    let (version, lz4): (i32, bool) = (
        one(&mut dba, "SELECT current_setting('server_version_num')::int / 10000"),
        one(&mut dba, "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"),
    );
    let compression = if lz4 { "ALTER TABLE app.tab ALTER v SET COMPRESSION lz4;" } else { "" };
    dba.batch_execute(&format!(
        "ALTER TABLE app.tab ALTER v SET STORAGE MAIN; {compression} ALTER TABLE app.tab ALTER a SET STATISTICS 1000; ALTER TABLE app.tab ALTER b SET (n_distinct = -0.5);
         ALTER TABLE app.tab SET (fillfactor = 90, toast.autovacuum_enabled = off, toast.vacuum_truncate = off);
         CREATE INDEX tab_x ON app.tab ((id % 7)); ALTER INDEX app.tab_x ALTER COLUMN 1 SET STATISTICS 500;
         CREATE STATISTICS app.ab (dependencies, ndistinct, mcv) ON a, b FROM app.tab; CREATE STATISTICS app.e ON (a + b) FROM app.tab; ALTER STATISTICS app.ab SET STATISTICS 300;
         ANALYZE app.tab"
    ))
    .unwrap();
    let settings = "SELECT concat_ws(' | ', (SELECT string_agg(concat_ws(' ', attname, attstorage, attcompression, to_jsonb(a) ->> 'attstattarget', attoptions), ', ' ORDER BY attnum)
                          FROM pg_attribute a WHERE attrelid = c.oid AND attnum > 0),
                      c.reloptions, (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid),
                      (SELECT string_agg(concat_ws(' ', stxname, stxkind::text, to_jsonb(e) ->> 'stxstattarget'), ', ' ORDER BY stxname) FROM pg_statistic_ext e WHERE stxrelid = c.oid),
                      (SELECT to_jsonb(a) ->> 'attstattarget' FROM pg_attribute a WHERE attrelid = 'app.tab_x'::regclass AND attnum = 1))
                     FROM pg_class c WHERE c.oid = 'app.tab'::regclass";
    let before: String = one(&mut dba, settings);
    assert!(before.contains("toast") || before.contains("autovacuum_enabled=off"), "{before}");
    // Now the columns hold other values, with nothing between them.
    scene.owner().batch_execute("UPDATE app.t SET a = id % 20, b = id % 30").unwrap();
    dba.batch_execute("DELETE FROM app.tab WHERE id > 2000").unwrap();
    // What this session has counted so far, which would otherwise be added to the new counters.
    dba.batch_execute("SELECT pg_stat_force_next_flush()").unwrap_or_default();
    dba.batch_execute(REFRESH_TABLE).unwrap();
    assert_eq!(one::<String>(&mut dba, settings), before);
    if lz4 {
        assert_eq!(
            one::<String>(&mut dba, "SELECT DISTINCT pg_column_compression(v) FROM app.tab"),
            "lz4",
            "new values are compressed so"
        );
    }
    let mut superuser = scene.destination_superuser();
    // What is around the number of distinct values is written otherwise from 19 on.
    let known = "SELECT coalesce(string_agg(statistics_name || ' ' || coalesce(substring(n_distinct::text FROM '(\\d+)}'), '') || ' ' || coalesce(array_length(most_common_vals, 1), 0), ', ' ORDER BY statistics_name), 'none')
                   FROM pg_stats_ext WHERE tablename = 'tab'";
    assert_eq!(one::<String>(&mut superuser, known), "ab 60 60, e  0", "extended statistics are those of the new rows");
    if version >= 15 {
        assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM pg_stats_ext_exprs WHERE tablename = 'tab'"), 1);
    }
    assert_eq!(
        one::<i64>(
            &mut superuser,
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'mimeo\\_%' OR relname LIKE '%mimeo_'"
        ),
        0
    );
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM pg_statistic_ext WHERE stxname LIKE 'mimeo%'"), 0);
    superuser.batch_execute("SELECT pg_stat_force_next_flush()").unwrap_or_default();
    wait_for("the counters", || {
        one::<String>(
            &mut superuser,
            "SELECT n_live_tup || ' ' || n_dead_tup FROM pg_stat_user_tables WHERE relname = 'tab'",
        ) == "3000 0"
    });
}

/// S19.
#[test]
fn what_decodes_the_wal_sees_the_rows_of_the_destination() {
    let scene = Scene::new("decoded", 20);
    let cluster = Cluster::start(&run_dir().join("logical"), "wal_level = logical\nmax_replication_slots = 5");
    let mut superuser = cluster.superuser("postgres");
    let (port, database) = (pair().source.port, &scene.database);
    superuser
        .batch_execute(&format!(
            "CREATE EXTENSION mimeo; CREATE SCHEMA app;
             INSERT INTO mimeo.dblink_mapping_mimeo VALUES (1, 'host=127.0.0.1 port={port} dbname={database}', 'reader', 'reader secret');
             SELECT mimeo.table_maker('app.t', 1, 'app.tab')"
        ))
        .unwrap();
    let reason = "SELECT coalesce(reason, '') FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1";
    superuser.batch_execute(REFRESH_TABLE).unwrap();
    assert!(!one::<String>(&mut superuser, reason).contains("in place"));
    superuser.batch_execute("SELECT pg_create_logical_replication_slot('decoder', 'test_decoding')").unwrap();
    superuser.batch_execute(REFRESH_TABLE).unwrap();
    let said: String = one(&mut superuser, reason);
    assert!(
        said.contains("replaced in place: a logical replication slot decodes what is written in this database"),
        "{said}"
    );
    let seen = |client: &mut Client, what: &str| -> i64 {
        one(
            client,
            &format!(
                "SELECT count(*) FROM pg_logical_slot_peek_changes('decoder', NULL, NULL) WHERE data LIKE '{what}'"
            ),
        )
    };
    assert_eq!(seen(&mut superuser, "table app.tab: INSERT%"), 20);
    assert_eq!(seen(&mut superuser, "%mimeo\\_%"), 0);
    superuser.batch_execute("SELECT pg_drop_replication_slot('decoder')").unwrap();
    superuser.batch_execute(REFRESH_TABLE).unwrap();
    assert!(!one::<String>(&mut superuser, reason).contains("in place"), "without it as ever");
    support::script(&["stop", cluster.dir().to_str().unwrap()], "");
}

/// The environment of the server, and its files, are for sources that a superuser answers for.
#[test]
fn a_source_gets_nothing_of_the_servers_environment() {
    let scene = Scene::new("environment", 7);
    // The postmaster has them, and every backend with it.
    std::env::set_var("PGOPTIONS", "-c mimeo_test.leak=yes");
    std::env::set_var("PGAPPNAME", "leaked");
    let cluster = Cluster::start(&run_dir().join("environment"), "");
    std::env::remove_var("PGOPTIONS");
    std::env::remove_var("PGAPPNAME");
    let mut superuser = cluster.superuser("postgres");
    let (port, database) = (pair().source.port, &scene.database);
    superuser
        .batch_execute(&format!(
            "CREATE EXTENSION mimeo; CREATE SCHEMA app;
             INSERT INTO mimeo.dblink_mapping_mimeo VALUES (1, 'host=127.0.0.1 port={port} dbname={database}', 'reader', 'reader secret');
             SELECT mimeo.table_maker('app.t', 1, 'app.tab', p_condition := $$WHERE coalesce(current_setting('mimeo_test.leak', true), '') <> 'yes'$$)"
        ))
        .unwrap();
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.tab"), 7, "not even for a superuser's job");
    superuser.batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET password_required = false").unwrap();
    superuser.batch_execute(REFRESH_TABLE).unwrap();
    assert_eq!(
        one::<i64>(&mut superuser, "SELECT count(*) FROM app.tab"),
        0,
        "a superuser has answered for the source"
    );
    superuser.batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET password_required = true").unwrap();
    superuser.batch_execute(REFRESH_TABLE).unwrap();
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.tab"), 7, "it is there again for nobody else");
    support::script(&["stop", cluster.dir().to_str().unwrap()], "");
}

/// A stranger's lock of his own table must not let a refresh wait for ever, nor a lock of the job be held by hand (S17).
#[test]
fn the_lock_of_a_job_is_taken_by_refreshes_only() {
    let scene = Scene::new("job_lock", 10);
    let mut dba = table(&scene);
    scene.destination_superuser().batch_execute("DO $$ BEGIN CREATE ROLE auditor LOGIN PASSWORD 'auditor secret'; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$").unwrap();
    let mut other = pair().destination.connect("auditor", &scene.database);
    for key in
        ["hashtext('mimeo refresh'), hashtext('app.tab')", "hashtext('app.tab')", "'mimeo refresh'::regclass::int"]
    {
        let _ = other.batch_execute(&format!("SELECT pg_advisory_lock({key})"));
    }
    dba.batch_execute(REFRESH_TABLE).unwrap();
    assert_eq!(scene.last_status(), "ok");
    dba.batch_execute("BEGIN; SELECT mimeo.concurrent_lock_check('app.tab')").unwrap();
    let waiting = in_background(scene.dba(), "SELECT mimeo.refresh_table('app.tab', p_lock_wait := 20)");
    let mut superuser = scene.destination_superuser();
    wait_for("the refresh to wait", || {
        one(&mut superuser, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'object' AND NOT granted")
    });
    dba.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&waiting.join().unwrap().1), "00000");
    assert_eq!(scene.last_status(), "ok");
}
