//! A network that falls silent: a refresh ends soon, the old data stays, the next one works.

mod support;

use std::time::{Duration, Instant};
use support::proxy::Proxy;
use support::{in_background, message, one, pair, sqlstate, stuck_in_copy, terminate, wait_for, Scene, REFRESH};

const UNLIMITED: u64 = u64::MAX;

fn assert_recovers(scene: &Scene, rows: i64) {
    assert_eq!(scene.changed_rows(1), 0, "the old data stays");
    assert_eq!(scene.rows(), rows, "all of it");
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), rows);
}

#[test]
fn a_cancel_ends_a_refresh_whose_network_is_silent() {
    let scene = Scene::with_snapshot("cancel", 50_000);
    let (_proxy, pid, refresh) = stuck_in_copy(&scene);
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_recovers(&scene, 50_000);
}

#[test]
fn a_terminate_ends_a_refresh_whose_network_is_silent() {
    let scene = Scene::with_snapshot("terminate", 50_000);
    let (_proxy, pid, refresh) = stuck_in_copy(&scene);
    terminate(&scene, pid, refresh);
    assert_recovers(&scene, 50_000);
}

#[test]
fn statement_timeout_ends_a_refresh_whose_network_is_silent() {
    let scene = Scene::with_snapshot("statement_timeout", 50_000);
    let proxy = Proxy::start(pair().source.port, 300_000);
    scene.set_source(proxy.port);
    scene.change();
    let mut client = scene.dba();
    client.batch_execute("SET statement_timeout = '1s'").unwrap();
    let since = Instant::now();
    let outcome = client.batch_execute(REFRESH);
    assert_eq!(sqlstate(&outcome), "57014");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_recovers(&scene, 50_000);
}

#[test]
fn a_source_that_does_not_answer_is_given_up_after_connect_timeout() {
    let scene = Scene::with_snapshot("no_answer", 100);
    let proxy = Proxy::start(pair().source.port, 0);
    scene.set_source(proxy.port);
    let mut client = scene.dba();
    client.batch_execute("SET mimeo.connect_timeout = 1").unwrap();
    let since = Instant::now();
    let outcome = client.batch_execute(REFRESH);
    assert_eq!(sqlstate(&outcome), "08001");
    assert!(message(&outcome).ends_with("no answer within 1 s"), "{}", message(&outcome));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());

    // And a cancel does not wait for it.
    client.batch_execute("SET mimeo.connect_timeout = 60").unwrap();
    let refresh = in_background(client, REFRESH);
    let pid = scene.wait_for_phase("connect");
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    proxy.allow(UNLIMITED);
    scene.dba().batch_execute(REFRESH).unwrap();
}

#[test]
fn a_cancelled_refresh_stops_its_query_on_the_source() {
    let scene = Scene::with_snapshot("cancel_remote", 100);
    let mut client = scene.dba();
    client.batch_execute("UPDATE mimeo.refresh_config SET condition = 'WHERE pg_sleep(1000) IS NULL'").unwrap();
    let refresh = in_background(client, REFRESH);
    let pid = scene.wait_for_phase("copy");
    let mut source = scene.source_superuser();
    wait_for("the query to run on the source", || {
        one(&mut source, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    });
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    wait_for("the query on the source to end", || scene.source_sessions() == 0);
}

#[test]
fn another_session_sees_how_far_a_copy_has_come() {
    let scene = Scene::with_snapshot("progress", 50_000);
    let (_proxy, pid, refresh) = stuck_in_copy(&scene);
    let mut superuser = scene.destination_superuser();
    wait_for("rows to be seen", || {
        one(
            &mut superuser,
            &format!(
                "SELECT count(*) = 1 FROM pg_stat_progress_copy
                  WHERE pid = {pid} AND relid IN ('app.t_snap1'::regclass, 'app.t_snap2'::regclass)
                    AND tuples_processed BETWEEN 1 AND 49999 AND bytes_processed > 0"
            ),
        )
    });
    superuser.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "57014");
    let (status, error): (String, String) = {
        let row = scene
            .dba()
            .query_one("SELECT status, sqlstate FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1", &[])
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!((status.as_str(), error.as_str()), ("critical", "57014"), "a cancelled run is recorded");
}
