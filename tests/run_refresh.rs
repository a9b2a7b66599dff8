//! CALL run_refresh with several workers, several calls, and workers that come to grief.

mod support;

use std::time::{Duration, Instant};
use support::proxy::Proxy;
use support::{in_background, message, one, pair, run_dir, sqlstate, wait_for, Cluster, Scene};

/// So many small snapshot jobs of one source table, all due.
fn jobs(name: &str, count: usize) -> Scene {
    let scene = Scene::new(name, 10);
    scene
        .dba()
        .batch_execute(&format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM mimeo.snapshot_maker('app.t', 1, 'app.t' || i); END LOOP; END $$;
             UPDATE mimeo.refresh_config SET period = '1 hour', last_run = NULL, check_stats = false;
             DELETE FROM mimeo.run_history"
        ))
        .unwrap();
    scene
}

fn runs(scene: &Scene, status: &str) -> i64 {
    scene.dba().query_one("SELECT count(*) FROM mimeo.run_history WHERE status = $1", &[&status]).unwrap().get(0)
}

fn workers(scene: &Scene) -> i64 {
    one(
        &mut scene.destination_superuser(),
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mimeo worker' AND datname = current_database()",
    )
}

#[test]
fn fifty_jobs_of_which_one_is_broken() {
    let scene = jobs("fifty", 50);
    let mut dba = scene.dba();
    dba.batch_execute("UPDATE mimeo.refresh_config SET source_table = 'app.nowhere' WHERE dest_table = 'app.t17'")
        .unwrap();
    let outcome = dba.batch_execute("CALL mimeo.run_refresh(p_jobs := 4)");
    assert_eq!(sqlstate(&outcome), "38000");
    assert_eq!(message(&outcome), "1 of 50 jobs failed: \"app.t17\"");
    assert_eq!((runs(&scene, "ok"), runs(&scene, "critical")), (49, 1));
    let due: i64 = one(&mut dba, "SELECT count(*) FROM mimeo.job_status WHERE due");
    assert_eq!(due, 1, "only the broken one is still due");
    assert_eq!(scene.source_sessions(), 0);
}

#[test]
fn two_calls_share_the_work() {
    let scene = jobs("shared", 24);
    let first = in_background(scene.dba(), "CALL mimeo.run_refresh()");
    let second = in_background(scene.dba(), "CALL mimeo.run_refresh(p_jobs := 2)");
    first.join().unwrap().1.unwrap();
    second.join().unwrap().1.unwrap();
    assert_eq!((runs(&scene, "ok"), runs(&scene, "concurrent")), (24, 0), "each job once, and nobody complains");
}

#[test]
fn two_calls_record_what_is_unchanged_once() {
    let scene = jobs("shared_unchanged", 40);
    let mut dba = scene.dba();
    dba.batch_execute("UPDATE mimeo.refresh_config SET check_stats = true").unwrap();
    dba.batch_execute("CALL mimeo.run_refresh()").unwrap();
    dba.batch_execute("DELETE FROM mimeo.run_history").unwrap();
    for round in 1..=12 {
        dba.batch_execute("UPDATE mimeo.refresh_config SET last_run = NULL").unwrap();
        let calls: Vec<_> = (0..3).map(|_| in_background(scene.dba(), "CALL mimeo.run_refresh()")).collect();
        calls.into_iter().for_each(|call| call.join().unwrap().1.unwrap());
        assert_eq!((runs(&scene, "skipped"), runs(&scene, "concurrent")), (40 * round, 0), "round {round}");
    }
}

/// One of the jobs reads from a source that falls silent.
fn with_a_hanging_job(name: &str) -> (Scene, Proxy) {
    let scene = jobs(name, 6);
    let proxy = Proxy::start(pair().source.port, 0);
    scene
        .dba()
        .batch_execute(&format!(
            "INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
             VALUES (2, 'host=127.0.0.1 port={} dbname={} connect_timeout=3600', 'reader', 'reader secret');
             UPDATE mimeo.refresh_config SET dblink = 2 WHERE dest_table = 'app.t3'",
            proxy.port, scene.database
        ))
        .unwrap();
    (scene, proxy)
}

#[test]
fn a_call_that_is_cancelled_takes_its_workers_along() {
    let (scene, _proxy) = with_a_hanging_job("cancelled");
    let mut dba = scene.dba();
    let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
    let call = in_background(dba, "CALL mimeo.run_refresh(p_jobs := 3)");
    wait_for("all but one to be done", || runs(&scene, "ok") == 5);
    let transactions: i64 = one(
        &mut scene.destination_superuser(),
        &format!("SELECT count(backend_xmin) FROM pg_stat_activity WHERE pid = {pid}"),
    );
    assert_eq!(transactions, 0, "the call that waits holds vacuum back from nothing");
    let since = Instant::now();
    scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&call.join().unwrap().1), "57014");
    wait_for("the workers to be gone", || workers(&scene) == 0);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// A postmaster that starts nothing, as long as this lasts.
struct Stopped(i32);

impl Stopped {
    fn new(cluster: &Cluster) -> Stopped {
        let file = std::fs::read_to_string(cluster.dir().join("data/postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap().parse().unwrap();
        // SAFETY: the postmaster of a cluster of the tests' own.
        unsafe { libc::kill(postmaster, libc::SIGSTOP) };
        Stopped(postmaster)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

#[test]
fn workers_that_start_when_their_caller_is_gone_end_without_a_trace() {
    let scene = jobs("orphans", 6);
    let mut dba = scene.dba();
    let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
    let mut witness = scene.destination_superuser();
    let stopped = Stopped::new(&pair().destination);
    let call = in_background(dba, "CALL mimeo.run_refresh(p_jobs := 3)");
    let caller = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_for("the caller to wait for its workers", || {
        one::<i64>(&mut witness, &format!("{caller} AND wait_event_type = 'Extension'")) == 1
    });
    assert!(one::<bool>(&mut witness, &format!("SELECT pg_terminate_backend({pid})")));
    wait_for("the caller to be gone", || one::<i64>(&mut witness, &caller) == 0);
    drop(stopped);
    assert!(call.join().unwrap().1.is_err());
    // The postmaster starts workers one after the other: those of this call come after the orphans.
    scene.dba().batch_execute("CALL mimeo.run_refresh(p_jobs := 3)").unwrap();
    assert_eq!(runs(&scene, "ok"), 6, "the next call does all the work");
    wait_for("the workers to be gone", || workers(&scene) == 0);
    assert!(witness.simple_query("SELECT 1").is_ok(), "and no session was thrown out");
}

#[test]
fn a_call_without_workers_is_cancelled_in_the_middle_of_a_job() {
    let (scene, _proxy) = with_a_hanging_job("cancelled_alone");
    let mut dba = scene.dba();
    dba.batch_execute(
        "UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours' WHERE dest_table > 'app.t3'",
    )
    .unwrap();
    let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
    let call = in_background(dba, "CALL mimeo.run_refresh()");
    wait_for("the jobs before it to be done", || runs(&scene, "ok") == 2);
    let mut superuser = scene.destination_superuser();
    wait_for("the job to hang", || {
        one(
            &mut superuser,
            &format!("SELECT query LIKE 'mimeo.refresh_%(''app.t3''): %' FROM pg_stat_activity WHERE pid = {pid}"),
        )
    });
    superuser.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    assert_eq!(sqlstate(&call.join().unwrap().1), "57014");
    assert_eq!((runs(&scene, "ok"), runs(&scene, "critical")), (2, 1), "what was done stays, and the job is recorded");
}

#[test]
fn a_worker_that_is_terminated_fails_only_its_job() {
    let (scene, _proxy) = with_a_hanging_job("terminated");
    let call = in_background(scene.dba(), "CALL mimeo.run_refresh(p_jobs := 3)");
    wait_for("all but one to be done", || runs(&scene, "ok") == 5);
    scene
        .destination_superuser()
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type = 'mimeo worker' AND datname = current_database()",
            &[],
        )
        .unwrap();
    let outcome = call.join().unwrap().1;
    assert_eq!(message(&outcome), "1 of 6 jobs failed: \"app.t3\"");
    assert_eq!((runs(&scene, "ok"), runs(&scene, "critical")), (5, 1), "it is recorded");
}

#[test]
fn settings_and_role_of_the_session_hold_in_its_workers() {
    let scene = jobs("settings", 3);
    scene
        .destination_superuser()
        .batch_execute("CREATE ROLE deputy; GRANT dba TO deputy; CREATE ROLE caller LOGIN PASSWORD 'caller secret'; GRANT deputy TO caller")
        .unwrap();
    let mut caller = pair().destination.connect("caller", &scene.database);
    let outcome = caller.batch_execute("SET ROLE deputy; SET mimeo.connect_timeout = 7");
    outcome.unwrap();
    let proxy = Proxy::start(pair().source.port, 0);
    scene.set_source(proxy.port);
    caller.batch_execute("SET mimeo.connect_timeout = 1").unwrap();
    let outcome = caller.batch_execute("CALL mimeo.run_refresh(p_jobs := 2)");
    assert_eq!(message(&outcome), "3 of 3 jobs failed: \"app.t1\", \"app.t2\", \"app.t3\"");
    let error: String = one(&mut scene.dba(), "SELECT min(error) FROM mimeo.run_history");
    assert!(error.contains("no answer within 1 s"), "{error}");
}

#[test]
fn without_background_workers_the_caller_does_the_work() {
    let scene = Scene::new("no_workers", 10);
    let cluster = Cluster::start(&run_dir().join("no_workers"), "max_worker_processes = 0");
    let mut superuser = cluster.superuser("postgres");
    superuser
        .batch_execute(&format!(
            "CREATE EXTENSION mimeo; CREATE SCHEMA app;
             INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
             VALUES ('host=127.0.0.1 port={} dbname={}', 'reader', 'reader secret');
             SELECT mimeo.snapshot_maker('app.t', 1, 'app.t' || i) FROM generate_series(1, 3) i;
             UPDATE mimeo.refresh_config SET period = '1 hour', last_run = NULL, check_stats = false;
             DELETE FROM mimeo.run_history",
            pair().source.port,
            scene.database
        ))
        .unwrap();
    superuser.batch_execute("CALL mimeo.run_refresh(p_jobs := 3)").unwrap();
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM mimeo.run_history"), 3);
    // A failure of a direct call cannot be recorded then; the error comes all the same, and at once.
    superuser.batch_execute("UPDATE mimeo.refresh_config SET source_table = 'app.nowhere'").unwrap();
    let outcome = superuser.batch_execute("SELECT mimeo.refresh_snapshot('app.t1')");
    assert_eq!(sqlstate(&outcome), "42P01");
}

#[test]
fn jobs_of_one_call_share_a_connection_and_do_without_if_it_is_lost() {
    let (scene, proxy) = with_a_hanging_job("reused");
    let mut dba = scene.dba();
    dba.batch_execute(
        "UPDATE mimeo.refresh_config SET last_run = now() - interval '2 hours' - right(dest_table, 1)::int * interval '-1 minute'",
    )
    .unwrap();
    let call = in_background(scene.dba(), "CALL mimeo.run_refresh()");
    wait_for("the jobs before the one that hangs to be done", || runs(&scene, "ok") == 2);
    let mut source = scene.source_superuser();
    let kept = "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mimeo/%'";
    let rows = source.query(kept, &[]).unwrap();
    assert_eq!(rows.len(), 1, "one connection for both, and it waits for the next");
    assert_eq!(rows[0].get::<_, String>(1), "idle", "without a transaction");
    source.execute("SELECT pg_terminate_backend($1)", &[&rows[0].get::<_, i32>(0)]).unwrap();
    wait_for("it to be gone", || source.query(kept, &[]).unwrap().is_empty());
    proxy.allow(u64::MAX);
    call.join().unwrap().1.unwrap();
    assert_eq!((runs(&scene, "ok"), runs(&scene, "critical")), (6, 0));
    wait_for("all connections to be closed", || scene.source_sessions() == 0);
}
