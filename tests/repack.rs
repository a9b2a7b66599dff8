//! REPACK (CONCURRENTLY), of PostgreSQL 19, again and again on both sides while all methods copy: a table that it has written anew looks empty
//! to whoever has a snapshot from before, and no refresh and no reader of a destination may fall for that. With older servers there is nothing to see.
//!
//! MIMEO_REPACK_SECONDS is how long, 15.

mod support;

use postgres::Client;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use support::{in_background, one, wait_for, Scene};

/// Rows that are there all the time; the sum of their values never changes.
const ROWS: i64 = 2000;
const REFRESHES: &[(&str, &str)] = &[
    ("app.delta", "SELECT mimeo.refresh_snapshot('app.delta')"),
    ("app.whole", "SELECT mimeo.refresh_snapshot('app.whole')"),
    ("app.tab", "SELECT mimeo.refresh_table('app.tab')"),
    ("app.upd", "SELECT mimeo.refresh_updater('app.upd')"),
    ("app.ins", "SELECT mimeo.refresh_inserter('app.ins')"),
    ("app.dm", "SELECT mimeo.refresh_dml('app.dm')"),
    ("app.logd", "SELECT mimeo.refresh_logdel('app.logd')"),
];
/// What is of one moment at any time: the rows, and their sum.
const WHOLE: &[&str] = &["app.delta", "app.whole", "app.tab", "app.dm", "app.logd"];
const HERE: &[&str] = &[
    "app.delta_snap1",
    "app.delta_snap2",
    "app.whole_snap1",
    "app.whole_snap2",
    "app.tab",
    "app.upd",
    "app.ins",
    "app.dm",
    "app.logd",
];

fn prepare(scene: &Scene) {
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader").unwrap();
    scene
        .owner()
        .batch_execute(&format!(
            "CREATE TABLE app.pairs (id int PRIMARY KEY, v bigint NOT NULL, changed timestamptz NOT NULL DEFAULT clock_timestamp());
             INSERT INTO app.pairs SELECT i, 1000 FROM generate_series(1, {ROWS}) i"
        ))
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.pairs', 1, 'app.delta'), mimeo.snapshot_maker('app.pairs', 1, 'app.whole'), mimeo.table_maker('app.pairs', 1, 'app.tab'),
                    mimeo.updater_maker('app.pairs', 'time', 'changed', 1, '0 seconds', 'app.upd'), mimeo.inserter_maker('app.pairs', 'serial', 'id', 1, '0', 'app.ins'),
                    mimeo.dml_maker('app.pairs', 1, 'app.dm'), mimeo.logdel_maker('app.pairs', 1, 'app.logd');
             UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'app.whole'",
        )
        .unwrap();
}

fn there(table: &str) -> String {
    let live = if table == "app.logd" { " WHERE mimeo_source_deleted IS NULL" } else { "" };
    format!("SELECT count(*) || ' ' || sum(v) FROM {table}{live}")
}

#[test]
fn no_refresh_and_no_reader_finds_an_empty_table() {
    let scene = Scene::new("repack", 1);
    let version: i32 = one(&mut scene.dba(), "SELECT current_setting('server_version_num')::int");
    if version < 190_000 {
        println!("PostgreSQL {version} has no REPACK");
        return;
    }
    prepare(&scene);
    let wanted = format!("{ROWS} {}", ROWS * 1000);
    let seconds = std::env::var("MIMEO_REPACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let over = AtomicBool::new(false);
    let (repacked, refreshed, read, put_off) =
        (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0));
    let end = Instant::now() + Duration::from_secs(seconds);
    let until_over = |step: &mut dyn FnMut(u64)| {
        let mut number = 0;
        while !over.load(Ordering::SeqCst) {
            step(number);
            number += 1;
        }
    };
    // What two that want the same table may be told.
    let retried = |client: &mut Client, statement: &str| match client.batch_execute(statement) {
        Ok(()) => true,
        Err(error) if error.code().is_some_and(|code| ["40P01", "55P03"].contains(&code.code())) => false,
        Err(error) => panic!("{statement}: {error:?}"),
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut owner = scene.owner();
            until_over(&mut |number| {
                let (from, to) = (number * 7919 % ROWS as u64 + 1, (number * 104_729 + 1) % ROWS as u64 + 1);
                if from != to {
                    owner
                        .batch_execute(&format!(
                            "UPDATE app.pairs SET v = v + CASE id WHEN {from} THEN -1 ELSE 1 END, changed = clock_timestamp() WHERE id IN ({from}, {to})"
                        ))
                        .unwrap();
                }
            });
        });
        threads.spawn(|| {
            let mut owner = scene.owner();
            until_over(&mut |_| {
                repacked.fetch_add(i64::from(retried(&mut owner, "REPACK (CONCURRENTLY) app.pairs")), Ordering::SeqCst);
            });
        });
        threads.spawn(|| {
            let mut dba = scene.dba();
            until_over(&mut |number| {
                let table = HERE[number as usize % HERE.len()];
                repacked.fetch_add(
                    i64::from(retried(&mut dba, &format!("REPACK (CONCURRENTLY) {table}"))),
                    Ordering::SeqCst,
                );
            });
        });
        threads.spawn(|| {
            let mut dba = scene.dba();
            until_over(&mut |number| {
                let table = WHOLE[number as usize % WHOLE.len()];
                assert_eq!(one::<String>(&mut dba, &there(table)), wanted, "{table}, as readers see it");
                read.fetch_add(1, Ordering::SeqCst);
            });
        });
        let (over, refreshed, put_off, scene, retried) = (&over, &refreshed, &put_off, &scene, &retried);
        for jobs in REFRESHES.chunks(4) {
            threads.spawn(move || {
                let mut dba = scene.dba();
                while Instant::now() < end {
                    for (_, refresh) in jobs {
                        let counter = if retried(&mut dba, refresh) { refreshed } else { put_off };
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                }
                over.store(true, Ordering::SeqCst);
            });
        }
    });
    let (mut dba, mut owner) = (scene.dba(), scene.owner());
    for (table, refresh) in REFRESHES {
        dba.batch_execute(refresh).unwrap();
        let digest = |from: &str| {
            format!("SELECT md5(string_agg((id, v, changed AT TIME ZONE 'UTC')::text, ' ' ORDER BY id)) FROM {from}")
        };
        if *table != "app.ins" {
            assert_eq!(
                one::<String>(&mut dba, &digest(table)),
                one::<String>(&mut owner, &digest("app.pairs")),
                "{table}"
            );
        }
    }
    println!("{repacked:?} times written anew, {refreshed:?} refreshes, {put_off:?} put off, {read:?} reads");
    let enough =
        |counter: &AtomicI64, least: i64| assert!(counter.load(Ordering::SeqCst) >= least, "{counter:?} of {least}");
    enough(&repacked, 10);
    enough(&refreshed, 20);
    enough(&read, 50);
}

/// The slot by which REPACK (CONCURRENTLY) decodes concerns no other table.
#[test]
fn a_repack_of_another_table_keeps_none_from_being_swapped() {
    let scene = Scene::new("repack_another", 1000);
    let mut dba = scene.dba();
    if one::<i32>(&mut dba, "SELECT current_setting('server_version_num')::int") < 190_000 {
        return;
    }
    dba.batch_execute(
        "SELECT mimeo.table_maker('app.t', 1, 'app.tab'); CREATE TABLE app.other (id int PRIMARY KEY); INSERT INTO app.other VALUES (1)",
    )
    .unwrap();
    let mut reader = scene.dba();
    reader.batch_execute("BEGIN; TABLE app.other").unwrap();
    let repack = in_background(scene.dba(), "REPACK (CONCURRENTLY) app.other");
    let mut superuser = scene.destination_superuser();
    // It has copied the table, and waits for the reader.
    wait_for("REPACK at its end", || {
        one(
            &mut superuser,
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE plugin = 'pgrepack' AND database = current_database())
                AND EXISTS (SELECT FROM pg_locks WHERE relation = 'app.other'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)",
        )
    });
    scene.change();
    dba.batch_execute("SELECT mimeo.refresh_table('app.tab')").unwrap();
    let reason: String =
        one(&mut dba, "SELECT coalesce(reason, '') FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1");
    assert!(!reason.contains("in place"), "{reason}");
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.tab WHERE v LIKE '%!'"), 1000);
    reader.batch_execute("COMMIT").unwrap();
    repack.join().unwrap().1.unwrap();
}
