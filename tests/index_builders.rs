//! Workers that build the indexes of a table while its rows still come: whatever ends the load ends them, and the other way
//! round.

mod support;

use std::time::{Duration, Instant};
use support::{one, pair, run_dir, script, sqlstate, stuck_with_workers, terminate, wait_for, Cluster, Scene, REFRESH};

const ROWS: i64 = 120_000;

const REFRESH_TABLE: &str = "SELECT mimeo.refresh_table('app.t')";

/// A snapshot of rows of about 230 bytes.
fn large(database: &str) -> Scene {
    large_copy(database, "SELECT mimeo.snapshot_maker('app.t', 1)", REFRESH)
}

/// The same in a plain table.
fn large_table(database: &str) -> Scene {
    large_copy(database, "SELECT mimeo.table_maker('app.t', 1)", REFRESH_TABLE)
}

fn large_copy(database: &str, maker: &str, refresh: &str) -> Scene {
    let scene = Scene::new(database, 100);
    scene.dba().batch_execute(&format!("{maker}; UPDATE mimeo.refresh_config SET delta = NULL")).unwrap();
    scene
        .owner()
        .batch_execute(&format!(
            "INSERT INTO app.t SELECT i, repeat('x', 200) || i FROM generate_series(101, {ROWS}) i;
             SELECT pg_stat_force_next_flush()"
        ))
        .unwrap();
    scene.dba().batch_execute(refresh).unwrap();
    scene
}

fn assert_recovers(scene: &Scene) {
    assert_recovers_by(scene, REFRESH);
}

fn assert_recovers_by(scene: &Scene, refresh: &str) {
    let workers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND datname = current_database()";
    wait_for("the workers to be gone", || one::<i64>(&mut scene.destination_superuser(), workers) == 0);
    assert_eq!(scene.changed_rows(1), 0, "the old data stays");
    assert_eq!(scene.rows(), ROWS, "all of it");
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(refresh).unwrap();
    assert_eq!(scene.changed_rows(1), ROWS);
    let by_index = "SET enable_seqscan = off; SET enable_bitmapscan = off";
    let mut dba = scene.dba();
    dba.batch_execute(by_index).unwrap();
    assert_eq!(
        one::<i64>(&mut dba, "SELECT count(*) FROM app.t WHERE id > 0"),
        ROWS,
        "all rows are in the key's index"
    );
    let reason: String = one(&mut dba, "SELECT reason FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1");
    assert!(reason.contains("2 indexes built while the rows came"), "{reason}");
}

#[test]
fn a_cancelled_load_stops_its_workers() {
    let scene = large("cancel_followed");
    let (_proxy, pid, _, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH);
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_recovers(&scene);
}

#[test]
fn there_is_one_worker_more_than_postgresql_has_beside_a_session() {
    let scene = large("count_followers");
    scene
        .destination_superuser()
        .batch_execute(&format!("ALTER DATABASE {} SET max_parallel_maintenance_workers = 1", scene.database))
        .unwrap();
    let (_proxy, pid, _, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH);
    let mut superuser = scene.destination_superuser();
    let workers =
        format!("SELECT count(*) FROM pg_stat_activity WHERE leader_pid = {pid} AND wait_event = 'Extension'");
    wait_for("one for each of the two indexes", || one::<i64>(&mut superuser, &workers) == 2);
    superuser.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    assert_recovers(&scene);
}

#[test]
fn so_does_a_cancelled_load_of_a_table_and_nothing_is_left_beside_it() {
    let scene = large_table("cancel_table_followed");
    let (_proxy, pid, _, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH_TABLE);
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_recovers_by(&scene, REFRESH_TABLE);
    let beside = "SELECT count(*) FROM pg_class WHERE relname LIKE 'mimeo\\_%' AND relnamespace = 'app'::regnamespace";
    assert_eq!(one::<i64>(&mut scene.dba(), beside), 0);
}

#[test]
fn a_worker_that_is_terminated_ends_the_load_of_a_table() {
    let scene = large_table("terminate_table_worker");
    let (_proxy, _, worker, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH_TABLE);
    scene.destination_superuser().execute("SELECT pg_terminate_backend($1)", &[&worker]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57P01");
    assert_recovers_by(&scene, REFRESH_TABLE);
}

#[test]
fn a_terminated_load_stops_its_workers() {
    let scene = large("terminate_followed");
    let (_proxy, pid, _, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH);
    terminate(&scene, pid, refresh);
    assert_recovers(&scene);
}

#[test]
fn a_worker_that_is_terminated_ends_the_load_and_the_session_goes_on() {
    let scene = large("terminate_worker");
    let (_proxy, _, worker, refresh) = stuck_with_workers(20_000_000, &scene, REFRESH);
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_terminate_backend($1)", &[&worker]).unwrap();
    let (mut client, outcome) = refresh.join().unwrap();
    assert_eq!(sqlstate(&outcome), "57P01");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    client.batch_execute("CREATE TEMPORARY TABLE goes_on (i int); INSERT INTO goes_on VALUES (1)").unwrap();
    assert_recovers(&scene);
}

#[test]
fn a_worker_that_finds_a_duplicate_ends_the_load_and_the_transaction_can_go_on_from_a_savepoint() {
    let scene = large("duplicate_followed");
    scene.change();
    let mut dba = scene.dba();
    let idle: String = one(
        &mut dba,
        "SELECT 'app.' || relname FROM pg_class WHERE relname LIKE 't\\_snap_' AND pg_relation_size(oid) = 0",
    );
    scene.owner().batch_execute("UPDATE app.t SET v = (SELECT v FROM app.t WHERE id = 7) WHERE id = 119999").unwrap();
    dba.batch_execute(&format!("CREATE UNIQUE INDEX only_once ON {idle} (v)")).unwrap();
    // One worker for each index, so that it is not this session that finds it.
    dba.batch_execute("SET max_parallel_maintenance_workers = 3; BEGIN; SAVEPOINT before").unwrap();
    assert_eq!(sqlstate(&dba.batch_execute(REFRESH)), "23505");
    dba.batch_execute("ROLLBACK TO before; DROP INDEX app.only_once").unwrap();
    dba.batch_execute(REFRESH).unwrap();
    dba.batch_execute("COMMIT").unwrap();
    assert_eq!(scene.changed_rows(1), ROWS);
}

#[test]
fn a_worker_of_run_refresh_has_workers_too() {
    let scene = large("run_refresh_followed");
    scene.change();
    let mut dba = scene.dba();
    dba.batch_execute("UPDATE mimeo.refresh_config SET period = '0 s'").unwrap();
    dba.batch_execute("CALL mimeo.run_refresh(p_jobs := 2)").unwrap();
    assert_eq!(scene.changed_rows(1), ROWS);
    let reason: String = one(&mut scene.dba(), "SELECT reason FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1");
    assert!(reason.contains("2 indexes built while the rows came"), "{reason}");
}

/// A destination that stops as in a crash right after a refresh, and comes back: rows and indexes are complete. Its buffers are few, so
/// that most of the table has been written out of them meanwhile.
fn survives_a_crash(name: &str, options: &str, maker: &str, refresh: &str) {
    let scene = Scene::new(name, 100);
    scene
        .owner()
        .batch_execute(&format!(
            "INSERT INTO app.t SELECT i, repeat('x', 200) || i FROM generate_series(101, {ROWS}) i"
        ))
        .unwrap();
    let dir = run_dir().join(name);
    let cluster = Cluster::start(&dir, &format!("shared_buffers = 8MB\n{options}"));
    cluster
        .superuser("postgres")
        .batch_execute("CREATE ROLE dba LOGIN PASSWORD 'dba secret'")
        .and_then(|()| cluster.superuser("postgres").batch_execute(&format!("CREATE DATABASE {name} OWNER dba")))
        .unwrap();
    cluster.superuser(name).batch_execute("CREATE EXTENSION amcheck").unwrap();
    let mut dba = cluster.connect("dba", name);
    dba.batch_execute(&format!(
        "CREATE EXTENSION mimeo; CREATE SCHEMA app;
         INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
         VALUES ('host=127.0.0.1 port={} dbname={name}', 'reader', 'reader secret');
         SELECT mimeo.{maker}('app.t', 1); UPDATE mimeo.refresh_config SET delta = NULL",
        pair().source.port
    ))
    .unwrap();
    dba.batch_execute(refresh).unwrap();
    let reason: String = one(&mut dba, "SELECT reason FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1");
    assert!(reason.contains("2 indexes built while the rows came"), "{reason}");

    script(&["stop", dir.to_str().unwrap()], "");
    script(&["restart", dir.to_str().unwrap()], "");
    let mut superuser = cluster.superuser(name);
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.t"), ROWS);
    let checked = superuser
        .query(
            "SELECT bt_index_parent_check(i.indexrelid, true) FROM pg_index i
              WHERE i.indrelid IN (to_regclass('app.t'), to_regclass('app.t_snap1'), to_regclass('app.t_snap2'))
                AND pg_relation_size(i.indrelid) > 0",
            &[],
        )
        .unwrap();
    assert_eq!(checked.len(), 2);
    script(&["stop", dir.to_str().unwrap()], "");
}

#[test]
fn what_followed_a_load_survives_a_crash() {
    survives_a_crash("crash_replica", "wal_level = replica", "snapshot_maker", REFRESH);
}

#[test]
fn what_followed_a_load_survives_a_crash_with_minimal_wal() {
    survives_a_crash("crash_minimal", "wal_level = minimal\nmax_wal_senders = 0", "snapshot_maker", REFRESH);
}

#[test]
fn what_followed_the_load_of_a_table_survives_a_crash() {
    survives_a_crash("crash_table", "wal_level = replica", "table_maker", REFRESH_TABLE);
}

#[test]
fn what_followed_the_load_of_a_table_survives_a_crash_with_minimal_wal() {
    survives_a_crash("crash_table_minimal", "wal_level = minimal\nmax_wal_senders = 0", "table_maker", REFRESH_TABLE);
}
