//! Deltas at random: DML with deletes, moves, vacuums and whatever writes tables anew, against refreshes at any moment, some of them killed. After
//! each refresh that says ok while nobody writes, both sides hold the same.
//!
//! MIMEO_DELTA_SECONDS is how long, 120; MIMEO_DELTA_SEED begins with that seed. A failure names its own.

mod support;

use postgres::Client;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};
use support::random::Random;
use support::{in_background, one, Scene};

const TABLES: &[&str] = &["keyed", "plain", "wide", "parts", "heirs", "some"];

const MAKE: &str = "
CREATE TABLE app.keyed (id int PRIMARY KEY, k int, v text, at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON app.keyed (k); CREATE INDEX ON app.keyed (v);
CREATE TABLE app.plain (id int, k int, v text);
CREATE TABLE app.wide (id int PRIMARY KEY, k int, v text, large text, b bytea);
ALTER TABLE app.wide ALTER COLUMN large SET STORAGE EXTERNAL;
CREATE TABLE app.parts (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE app.parts0 PARTITION OF app.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE app.parts1 PARTITION OF app.parts FOR VALUES FROM (100) TO (200);
CREATE TABLE app.parts2 PARTITION OF app.parts DEFAULT;
CREATE TABLE app.heirs (id int, k int, v text); CREATE TABLE app.heir () INHERITS (app.heirs);
CREATE TABLE app.some (id int, k int, v text, secret text);
GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader;
INSERT INTO app.keyed SELECT i, i % 300, 'v' || i FROM generate_series(1, 8000) i;
INSERT INTO app.plain SELECT i / 2, i % 300, 'v' || i / 2 FROM generate_series(1, 8000) i;
INSERT INTO app.wide SELECT i, i % 300, 'v' || i, repeat(md5(i::text), 100), decode(md5(i::text), 'hex') FROM generate_series(1, 1500) i;
INSERT INTO app.parts SELECT i, i % 300, 'v' || i FROM generate_series(1, 8000) i;
INSERT INTO app.heirs SELECT i, i % 300, 'v' || i FROM generate_series(1, 4000) i;
INSERT INTO app.heir SELECT i, i % 300, 'v' || i FROM generate_series(4001, 8000) i;
INSERT INTO app.some SELECT i, i % 300, 'v' || i, 's' FROM generate_series(1, 8000) i;";

/// One write of an application, of a few rows or more.
fn write(random: &mut Random, table: &str) -> String {
    let k = random.below(300);
    let new = 10_000 + random.below(1_000_000_000);
    let more = if table == "wide" { ", repeat(md5(i::text), 90), NULL" } else { "" };
    match random.below(16) {
        0..=3 => format!("UPDATE app.{table} SET v = v || '+' WHERE k = {k} AND id % 3 = {}", random.below(3)),
        4 => format!("UPDATE app.{table} SET v = left(v, 8) WHERE k BETWEEN {k} AND {k} + {}", random.below(12)),
        5..=6 => format!("DELETE FROM app.{table} WHERE k = {k} AND id % 4 = {}", random.below(4)),
        7..=9 => format!(
            "INSERT INTO app.{table} SELECT i, {}, 'new'{more} FROM generate_series({new}, {new} + {}) i ON CONFLICT DO NOTHING",
            random.below(300),
            random.below(40)
        ),
        10 => format!("UPDATE app.{table} SET k = (k + {}) % 300 WHERE k = {k}", 1 + random.below(250)),
        11 => format!(
            "BEGIN; SAVEPOINT a; UPDATE app.{table} SET v = 'lost' WHERE k = {k}; DELETE FROM app.{table} WHERE k = {k}; ROLLBACK TO a;
             UPDATE app.{table} SET v = v || '.' WHERE k = {k}; SAVEPOINT b; UPDATE app.{table} SET v = v || ',' WHERE k = {k}; COMMIT"
        ),
        12 => format!("BEGIN; DELETE FROM app.{table} WHERE k < {k}; INSERT INTO app.{table} SELECT {new}, 1, 'x'; ROLLBACK"),
        13 => format!("BEGIN; SELECT count(*) FROM (SELECT FROM app.{table} WHERE k = {k} FOR UPDATE) x; UPDATE app.{table} SET v = v WHERE k = {k} AND id % 2 = 0; COMMIT"),
        14 if table == "wide" => format!("UPDATE app.wide SET large = reverse(large) || '{k}' WHERE k = {k}"),
        14 => format!("BEGIN; CREATE TEMPORARY TABLE moved ON COMMIT DROP AS SELECT * FROM app.{table} WHERE k = {k}; DELETE FROM app.{table} WHERE k = {k}; INSERT INTO app.{table} SELECT * FROM moved; COMMIT"),
        _ => format!("UPDATE app.{table} SET id = id WHERE k = {k}"),
    }
}

/// What the table's owner or autovacuum does, now and then.
fn maintain(random: &mut Random, table: &str) -> String {
    let table = match (table, random.below(3)) {
        ("parts", part) => format!("parts{part}"),
        ("heirs", 0) => "heir".to_string(),
        (table, _) => table.to_string(),
    };
    let rare = random.chance(7);
    match (rare, random.below(6)) {
        (false, 0..=3) => format!("VACUUM app.{table}"),
        (false, 4) => format!("VACUUM FREEZE app.{table}"),
        (false, _) => format!("VACUUM ANALYZE app.{table}"),
        (true, 0) => format!("VACUUM FULL app.{table}"),
        (true, 1) => format!("TRUNCATE app.{table}; INSERT INTO app.{table} SELECT i, CASE '{table}' WHEN 'parts1' THEN 100 + i % 100 WHEN 'parts2' THEN 250 ELSE i % 100 END, 'again' FROM generate_series(1, 3000) i"),
        (true, 2) => format!("ALTER TABLE app.{table} SET (fillfactor = {})", 50 + random.below(50)),
        (true, 3) if table == "parts1" => {
            "ALTER TABLE app.parts DETACH PARTITION app.parts1; UPDATE app.parts1 SET v = 'apart' WHERE id % 9 = 0;
             ALTER TABLE app.parts ATTACH PARTITION app.parts1 FOR VALUES FROM (100) TO (200)".to_string()
        }
        (true, 4) if table == "keyed" => "CLUSTER app.keyed USING keyed_pkey".to_string(),
        (true, _) => format!("ANALYZE app.{table}"),
    }
}

fn digest(client: &mut Client, table: &str, columns: &str, filter: &str) -> String {
    one(
        client,
        &format!(
            "SELECT count(*) || ' ' || md5(coalesce(string_agg(md5(r::text), '' ORDER BY md5(r::text)), ''))
               FROM (SELECT {columns} FROM app.{table} t WHERE {filter}) r"
        ),
    )
}

/// The columns and rows that are copied.
fn copied(table: &str) -> (&'static str, &'static str) {
    if table == "some" {
        ("id, k, v", "k <> 7 AND id > 5")
    } else {
        ("t.*", "true")
    }
}

/// A source that is written to, and what its writers share.
struct Writers {
    /// Nobody writes as long as it is held.
    pause: RwLock<()>,
    over: AtomicBool,
    seed: AtomicU64,
    failed: Mutex<Vec<String>>,
}

fn write_until_over(shared: &Writers, scene: &Scene) {
    let mut owner = scene.owner();
    let mut random = Random(shared.seed.fetch_add(0x9e37_79b9, Ordering::SeqCst) | 1);
    owner.batch_execute("SET lock_timeout = '2s'").unwrap();
    while !shared.over.load(Ordering::SeqCst) {
        let _writing = shared.pause.read().unwrap();
        let table = *random.pick(TABLES);
        let statement = if random.chance(7) { maintain(&mut random, table) } else { write(&mut random, table) };
        if let Err(error) = owner.batch_execute(&statement) {
            let _ = owner.batch_execute("ROLLBACK");
            // Two that write the same rows.
            let known = ["55P03", "40P01", "40001", "23505", "42809"];
            if !error.code().is_some_and(|code| known.contains(&code.code())) {
                shared.failed.lock().unwrap().push(format!("{statement}: {error:?}"));
            }
        }
    }
}

#[test]
fn both_sides_are_equal_after_each_delta() {
    let seconds = std::env::var("MIMEO_DELTA_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let seed = std::env::var("MIMEO_DELTA_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1);
    println!("MIMEO_DELTA_SEED={seed}");
    let mut random = Random(seed);
    let scene = Arc::new(Scene::new("delta_random", 1));
    scene.owner().batch_execute(MAKE).unwrap();
    let mut dba = scene.dba();
    for table in TABLES.iter().filter(|table| **table != "some") {
        dba.batch_execute(&format!("SELECT mimeo.snapshot_maker('app.{table}', 1)")).unwrap();
    }
    dba.batch_execute(
        "SELECT mimeo.snapshot_maker('app.some', 1, p_filter := '{id,k,v}', p_condition := 'WHERE k <> 7 AND id > 5')",
    )
    .unwrap();
    // More of them than would be worth it.
    dba.batch_execute(
        "ALTER DATABASE delta_random SET mimeo.delta_limit_percent = 90; SET mimeo.delta_limit_percent = 90",
    )
    .unwrap();
    // One has a trigger and a deferred constraint, so that its rows are replaced in one command.
    dba.batch_execute(
        "CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER nothing AFTER INSERT OR DELETE ON app.heirs_snap1 FOR EACH ROW EXECUTE FUNCTION app.nothing();
         CREATE TRIGGER nothing AFTER INSERT OR DELETE ON app.heirs_snap2 FOR EACH ROW EXECUTE FUNCTION app.nothing()",
    )
    .unwrap();

    let shared = Arc::new(Writers {
        pause: RwLock::new(()),
        over: AtomicBool::new(false),
        seed: AtomicU64::new(seed),
        failed: Mutex::new(Vec::new()),
    });
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let (shared, scene) = (shared.clone(), scene.clone());
            std::thread::spawn(move || write_until_over(&shared, &scene))
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let (mut compared, mut ended) = (0_u64, 0_u64);
    while Instant::now() < end {
        // Any number of refreshes while the source is written to; some are ended from outside, or rolled back.
        for _ in 0..random.below(4) {
            let table = *random.pick(TABLES);
            let statement =
                format!("SELECT mimeo.refresh_snapshot('app.{table}', p_check_stats := {})", random.chance(50));
            match random.below(8) {
                0 => {
                    let refresh = in_background(scene.dba(), &statement);
                    std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
                    let end = *random.pick(&["pg_cancel_backend", "pg_terminate_backend"]);
                    scene
                        .destination_superuser()
                        .batch_execute(&format!(
                            "SELECT {end}(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'mimeo.refresh_%'"
                        ))
                        .unwrap();
                    ended += u64::from(refresh.join().unwrap().1.is_err());
                }
                1 => dba.batch_execute(&format!("BEGIN; {statement}; ROLLBACK")).unwrap(),
                2 => {
                    let refresh = in_background(scene.dba(), &statement);
                    std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
                    scene
                        .source_superuser()
                        .batch_execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mimeo/%'",
                        )
                        .unwrap();
                    ended += u64::from(refresh.join().unwrap().1.is_err());
                }
                _ => dba.batch_execute(&statement).unwrap(),
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(30) as u64));
        let table = *random.pick(TABLES);
        let nobody_writes = shared.pause.write().unwrap();
        if let Some(failed) = shared.failed.lock().unwrap().pop() {
            shared.over.store(true, Ordering::SeqCst);
            panic!("MIMEO_DELTA_SEED={seed}: {failed}");
        }
        scene.owner().batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        dba.batch_execute(&format!("SELECT mimeo.refresh_snapshot('app.{table}', p_check_stats := false)")).unwrap();
        let last: String = one(
            &mut dba,
            &format!("SELECT concat(status, ': ', reason) FROM mimeo.run_history WHERE dest_table = 'app.{table}' ORDER BY run_id DESC LIMIT 1"),
        );
        let (columns, filter) = copied(table);
        let (theirs, ours) =
            (digest(&mut scene.owner(), table, columns, filter), digest(&mut dba, table, columns, "true"));
        drop(nobody_writes);
        if theirs != ours {
            shared.over.store(true, Ordering::SeqCst);
            panic!("MIMEO_DELTA_SEED={seed}: app.{table} differs after '{last}': {theirs} there, {ours} here");
        }
        compared += 1;
        let kind = match last.split("no delta: ").nth(1).and_then(|why| why.split(';').next()) {
            Some(why) => format!("all rows: {}", why.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')),
            None => "delta".to_string(),
        };
        *counts.entry(kind).or_default() += 1;
        // What a delta left in the indexes is found by them, too.
        if random.chance(2) {
            dba.batch_execute("SET enable_seqscan = off").unwrap();
            let by_index = digest(&mut dba, "keyed", "t.*", "id > -1");
            dba.batch_execute("RESET enable_seqscan").unwrap();
            assert_eq!(by_index, digest(&mut dba, "keyed", "t.*", "true"), "MIMEO_DELTA_SEED={seed}");
        }
    }
    shared.over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(counts.get("delta").is_some_and(|deltas| *deltas > 0), "{counts:?}");
    println!("MIMEO_DELTA_SEED={seed}: {compared} refreshes compared in {seconds} s, {ended} ended from outside, all equal: {counts:?}");
}
