//! Backends that die by kill -9, on either side: the old data stays, and the next refresh works. It crashes whole
//! clusters, so it is the only test of this file.

mod support;

use support::{crash, message, one, pair, sqlstate, stuck_in_copy, stuck_with_workers, wait_for, Scene, REFRESH};

#[test]
fn kill_9_of_a_backend_in_mid_copy_leaves_the_old_data_live() {
    // More than the sockets between the two could hold.
    let scene = Scene::with_snapshot("kill", 600_000);
    let (proxy, _, refresh) = stuck_in_copy(&scene);
    let source_pid: i32 = one(
        &mut scene.source_superuser(),
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'mimeo/app.t' AND datname = current_database()
            AND backend_type = 'client backend'",
    );
    crash(&pair().source, source_pid);
    proxy.allow(u64::MAX);
    let (_, outcome) = refresh.join().unwrap();
    assert_eq!(sqlstate(&outcome), "08006", "{}", message(&outcome));
    assert_eq!(scene.changed_rows(1), 0, "the old data stays");
    assert_eq!(scene.rows(), 600_000, "all of it");
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), 600_000);

    let (_proxy, pid, refresh) = stuck_in_copy(&scene);
    crash(&pair().destination, pid);
    assert!(refresh.join().unwrap().1.is_err());
    assert_eq!(scene.changed_rows(2), 0);
    assert_eq!(scene.changed_rows(1), 600_000, "the old data stays");
    wait_for("the session on the source to end", || scene.source_sessions() == 0);
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(2), 600_000);
    assert_eq!(
        one::<i64>(
            &mut scene.dba(),
            "SELECT count(*) FROM pg_class WHERE relname LIKE 't\\_snap_' AND pg_relation_size(oid) > 0"
        ),
        1,
        "nothing is left in the idle twin"
    );
    // A worker that builds an index while the rows still come.
    let (_proxy, _, worker, refresh) = stuck_with_workers(12_000_000, &scene, REFRESH);
    crash(&pair().destination, worker);
    assert!(refresh.join().unwrap().1.is_err());
    assert_eq!(scene.changed_rows(3), 0);
    assert_eq!(scene.changed_rows(2), 600_000, "the old data stays");
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(3), 600_000);

    // A crash of the source resets its counters, so they prove nothing about what was copied before it.
    scene.dba().batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    let mut victim = scene.source_superuser();
    let victim_pid = one(&mut victim, "SELECT pg_backend_pid()");
    crash(&pair().source, victim_pid);
    scene.dba().batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.last_status(), "ok", "counters from before a crash are not compared with those after it");
}
