//! dml and logdel, exactly once: whatever dies at whatever moment, no change is lost and none is applied twice. It crashes
//! whole clusters, so it is the only test of its file.

mod support;

use postgres::{Client, Config, NoTls};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::load::{commit_prepared, Dice};
use support::{crash, one, pair, sqlstate, stuck, wait_for, Cluster, Scene};

const EQUAL: &str =
    "SELECT count(*) || ' ' || coalesce(md5(string_agg(r::text, ' ' ORDER BY r::text)), '') FROM (SELECT id, v, w FROM";

fn digest(client: &mut Client, table: &str) -> String {
    one(client, &format!("{EQUAL} {table}) r"))
}

fn assert_equal(scene: &Scene, when: &str) {
    let source = digest(&mut scene.owner(), "app.t");
    assert_eq!(digest(&mut scene.dba(), "app.t"), source, "dml {when}");
    assert_eq!(digest(&mut scene.dba(), "app.tl WHERE mimeo_source_deleted IS NULL"), source, "logdel {when}");
}

const REFRESHES: [&str; 2] = ["SELECT mimeo.refresh_dml('app.t')", "SELECT mimeo.refresh_logdel('app.tl')"];

fn refresh(scene: &Scene) {
    for refresh in REFRESHES {
        scene.dba().batch_execute(refresh).unwrap();
    }
}

fn pid(client: &mut Client) -> i32 {
    one(client, "SELECT pg_backend_pid()")
}

fn try_connect(cluster: &Cluster, user: &str, database: &str) -> Option<Client> {
    Config::new()
        .host("127.0.0.1")
        .port(cluster.port)
        .user(user)
        .password(format!("{user} secret"))
        .dbname(database)
        .connect(NoTls)
        .ok()
}

fn scene() -> Scene {
    let scene = Scene::new("crash_replay", 0);
    scene
        .owner()
        .batch_execute(
            "ALTER TABLE app.t ADD w int; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT TRIGGER ON TABLES TO reader;
             GRANT TRIGGER ON app.t TO reader; CREATE SEQUENCE app.ids; INSERT INTO app.t SELECT nextval('app.ids'), 'v', 0 FROM generate_series(1, 30000)",
        )
        .unwrap();
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene
        .dba()
        .batch_execute("SELECT mimeo.dml_maker('app.t', 1); SELECT mimeo.logdel_maker('app.t', 1, 'app.tl')")
        .unwrap();
    scene
}

#[test]
fn exactly_once() {
    let scene = scene();
    assert_equal(&scene, "at first");
    at_chosen_moments(&scene);
    under_load(&scene);
}

fn at_chosen_moments(scene: &Scene) {
    let change = || {
        scene
            .owner()
            .batch_execute(
                "UPDATE app.t SET w = w + 1 WHERE id % 3 = 0; DELETE FROM app.t WHERE id % 1000 = 0;
                 UPDATE app.t SET id = nextval('app.ids') WHERE id % 1000 = 1; INSERT INTO app.t SELECT nextval('app.ids'), repeat('x', 500), 0 FROM generate_series(1, 1000)",
            )
            .unwrap();
    };
    change();
    let mut client = scene.dba();
    client.batch_execute("BEGIN").unwrap();
    REFRESHES.iter().for_each(|refresh| client.batch_execute(refresh).unwrap());
    let backend = pid(&mut client);
    crash(&pair().destination, backend);
    refresh(scene);
    assert_equal(scene, "after a crash between applying and committing");

    change();
    let mut client = scene.dba();
    client.batch_execute("SET synchronous_commit = off").unwrap();
    REFRESHES.iter().for_each(|refresh| client.batch_execute(refresh).unwrap());
    let backend = pid(&mut client);
    crash(&pair().destination, backend);
    refresh(scene);
    assert_equal(scene, "after a crash behind the commit");

    for refresh_statement in REFRESHES {
        change();
        let (proxy, _, running) = stuck(scene, refresh_statement);
        let source_pid: i32 = one(
            &mut scene.source_superuser(),
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mimeo/app.t%' AND datname = current_database()
                AND backend_type = 'client backend'",
        );
        crash(&pair().source, source_pid);
        proxy.allow(u64::MAX);
        assert_eq!(sqlstate(&running.join().unwrap().1), "08006");
        scene.set_source(pair().source.port);
        refresh(scene);
        assert_equal(scene, "after a crash of the source during the fetch");
    }

    // Transactions that stay open, and end out of order.
    let (mut first, mut second, mut third) = (scene.owner(), scene.owner(), scene.owner());
    first.batch_execute("BEGIN; UPDATE app.t SET v = 'first' WHERE id % 5 = 0 AND id > 200").unwrap();
    second.batch_execute("BEGIN; DELETE FROM app.t WHERE id % 5 = 1 AND id > 29000; SAVEPOINT s; INSERT INTO app.t VALUES (nextval('app.ids'), 'x', 1); ROLLBACK TO s").unwrap();
    third.batch_execute("INSERT INTO app.t VALUES (nextval('app.ids'), 'third', 1)").unwrap();
    refresh(scene);
    assert_equal(scene, "with open transactions");
    second.batch_execute("COMMIT").unwrap();
    refresh(scene);
    refresh(scene);
    assert_equal(scene, "when the second has committed");
    third.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app.t").unwrap();
    first.batch_execute("COMMIT").unwrap();
    refresh(scene);
    third.batch_execute("INSERT INTO app.t VALUES (nextval('app.ids'), 'with an old snapshot', 1); COMMIT").unwrap();
    refresh(scene);
    refresh(scene);
    assert_equal(scene, "when all have ended");
}

/// What a writer does in one transaction: every kind of change, savepoints, rollbacks, prepared transactions.
fn write(client: &mut Client, dice: &mut Dice, name: &str) -> Result<(), postgres::Error> {
    let mut script = String::from("BEGIN;");
    for _ in 0..=dice.roll(3) {
        let (low, modulus) = (dice.roll(30_000), 50 + dice.roll(400));
        let some = format!("WHERE id BETWEEN {low} AND {low} + 3000 AND id % {modulus} = 7");
        script.push_str(&match dice.roll(7) {
            0 => format!("INSERT INTO app.t SELECT nextval('app.ids'), '{name}', {modulus} FROM generate_series(1, {});", 1 + modulus / 10),
            1 => format!("DELETE FROM app.t {some};"),
            2 => format!("UPDATE app.t SET id = nextval('app.ids') {some};"),
            3 => format!("SAVEPOINT s; UPDATE app.t SET w = w + 1 {some}; ROLLBACK TO s;"),
            4 => format!("INSERT INTO app.t VALUES ({low}, '{name}', 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v, w = -1;"),
            5 => format!("DELETE FROM app.t WHERE id = {low}; INSERT INTO app.t VALUES ({low}, 'again', 0) ON CONFLICT DO NOTHING;"),
            _ => format!("UPDATE app.t SET v = '{name}', w = w + 1 {some};"),
        });
    }
    script.push_str(&match dice.roll(8) {
        0 => "ROLLBACK".to_string(),
        1 => format!("PREPARE TRANSACTION '{name}'"),
        2 => format!("SELECT pg_sleep({}); COMMIT", dice.roll(100) as f64 / 500.0),
        _ => "COMMIT".to_string(),
    });
    let done = client.batch_execute(&script);
    if done.is_ok() && script.contains("PREPARE") {
        let end = if dice.roll(3) == 0 { "ROLLBACK" } else { "COMMIT" };
        return client.batch_execute(&format!("{end} PREPARED '{name}'"));
    }
    if done.is_err() {
        client.batch_execute("ROLLBACK")?;
    }
    Ok(())
}

/// Writers of every kind, and refreshes that are killed at random, for a while. MIMEO_LOAD_SECONDS makes it longer.
fn under_load(scene: &Scene) {
    let seconds = std::env::var("MIMEO_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let (stop, stop_refreshing) = (AtomicBool::new(false), AtomicBool::new(false));
    let (written, refreshed) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(BTreeMap::<String, u32>::new());
    let mut kills = [0; 5];
    std::thread::scope(|threads| {
        for writer in 0..4 {
            let (stop, written) = (&stop, &written);
            threads.spawn(move || {
                let mut dice = Dice(writer + 1);
                let mut client = None;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Some(connected) = client.as_mut() else {
                        client = try_connect(&pair().source, "owner", "crash_replay");
                        // What it had prepared when the source crashed holds up everybody.
                        if client
                            .as_mut()
                            .is_some_and(|client| commit_prepared(client, &format!("w{writer}_%")).is_err())
                        {
                            client = None;
                        }
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    number += 1;
                    if write(connected, &mut dice, &format!("w{writer}_{number}")).is_ok() {
                        written.fetch_add(1, Ordering::Relaxed);
                    } else {
                        client = None;
                    }
                }
            });
        }
        for (job, statement) in REFRESHES.into_iter().enumerate() {
            let (stop, refreshed, failed) = (&stop_refreshing, &refreshed, &failed);
            threads.spawn(move || {
                let mut dice = Dice(100 + job as u64);
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let Some(connected) = client.as_mut() else {
                        client = try_connect(&pair().destination, "dba", "crash_replay");
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    let limited = statement.replace("')", &format!("', p_limit := {})", 1 + dice.roll(3000)));
                    let whole = match dice.roll(6) {
                        0 => format!("BEGIN; {statement}; ROLLBACK"),
                        1 => format!("BEGIN; {statement}; {statement}; COMMIT"),
                        2 => limited,
                        3 => format!("SET synchronous_commit = off; {statement}; RESET synchronous_commit"),
                        _ => statement.to_string(),
                    };
                    let outcome = connected.batch_execute(&whole);
                    if outcome.is_ok() {
                        refreshed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        *failed.lock().unwrap().entry(sqlstate(&outcome)).or_insert(0) += 1;
                        if connected.batch_execute("ROLLBACK").is_err() {
                            client = None;
                        }
                    }
                }
            });
        }
        let mut dice = Dice(4711);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(300 + dice.roll(2500)));
            let what = dice.roll(5) as usize;
            let (cluster, victims) = if what < 3 {
                (&pair().destination, "query LIKE 'mimeo.refresh_%'")
            } else {
                (&pair().source, "application_name LIKE 'mimeo/%'")
            };
            let Ok(mut client) = cluster.try_superuser("crash_replay") else { continue };
            let victim = client.query_opt(
                &format!("SELECT pid FROM pg_stat_activity WHERE {victims} AND backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1"),
                &[],
            );
            let Ok(Some(victim)) = victim else { continue };
            let victim: i32 = victim.get(0);
            let hit = match what {
                0 => client.execute("SELECT pg_cancel_backend($1)", &[&victim]).is_ok(),
                1 | 3 => client.execute("SELECT pg_terminate_backend($1)", &[&victim]).is_ok(),
                // SAFETY: a backend of a cluster of this test's own.
                _ => unsafe { libc::kill(victim, libc::SIGKILL) == 0 },
            };
            kills[what] += u32::from(hit);
            if hit && (what == 2 || what == 4) {
                std::thread::sleep(Duration::from_millis(300));
                cluster.wait_until_up();
            }
        }
        stop.store(true, Ordering::Relaxed);
        stop_refreshing.store(true, Ordering::Relaxed);
    });
    let mut source = scene.source_superuser();
    commit_prepared(&mut source, "%").unwrap();
    wait_for("the sessions on the source to end", || scene.source_sessions() == 0);
    refresh(scene);
    refresh(scene);
    assert_equal(scene, "after the load");
    let whole: String = one(
        &mut scene.dba(),
        "SELECT coalesce(string_agg(concat_ws(' ', run_id, type, reason), '; ' ORDER BY run_id), '')
           FROM mimeo.run_history WHERE reason LIKE '%all rows are copied:%'",
    );
    eprintln!(
        "{seconds} s: {written:?} transactions written, {refreshed:?} refreshes done, failed by SQLSTATE: {:?}; destination: {} cancelled, \
         {} terminated, {} kill -9; source: {} terminated, {} kill -9; equal: {}",
        failed.lock().unwrap(),
        kills[0],
        kills[1],
        kills[2],
        kills[3],
        kills[4],
        digest(&mut scene.dba(), "app.t")
    );
    assert_eq!(whole, "", "the queue told everything");
    assert!(refreshed.into_inner() > 5 && written.into_inner() > 50);
}
