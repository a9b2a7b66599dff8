//! Backends that die by kill -9, on either side: the old data stays, and the next refresh works. It crashes whole
//! clusters, so it is the only test of this file.

mod support;

use std::process::Command;
use support::{message, one, pair, sqlstate, stuck_in_copy, wait_for, Scene, REFRESH};

#[test]
fn kill_9_of_a_backend_in_mid_copy_leaves_the_old_data_live() {
    let scene = Scene::with_snapshot("kill", 50_000);
    let (proxy, _, refresh) = stuck_in_copy(&scene);
    let source_pid: i32 = one(
        &mut scene.source_superuser(),
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'mimeo/app.t' AND datname = current_database()",
    );
    kill_9(source_pid);
    pair().source.wait_until_up();
    proxy.allow(u64::MAX);
    let (_, outcome) = refresh.join().unwrap();
    assert_eq!(sqlstate(&outcome), "08006", "{}", message(&outcome));
    assert_eq!(scene.changed_rows(1), 0, "the old data stays");
    assert_eq!(scene.rows(), 50_000, "all of it");
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), 50_000);

    let (_proxy, pid, refresh) = stuck_in_copy(&scene);
    kill_9(pid);
    assert!(refresh.join().unwrap().1.is_err());
    pair().destination.wait_until_up();
    assert_eq!(scene.changed_rows(2), 0);
    assert_eq!(scene.changed_rows(1), 50_000, "the old data stays");
    wait_for("the session on the source to end", || scene.source_sessions() == 0);
    scene.set_source(pair().source.port);
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(2), 50_000);
    assert_eq!(
        one::<i64>(
            &mut scene.dba(),
            "SELECT count(*) FROM pg_class WHERE relname LIKE 't\\_snap_' AND pg_relation_size(oid) > 0"
        ),
        1,
        "nothing is left in the idle twin"
    );
    // A crash of the source resets its counters, so they prove nothing about what was copied before it.
    scene.dba().batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    let source_pid: i32 = one(&mut scene.source_superuser(), "SELECT pg_backend_pid()");
    let mut victim = scene.source_superuser();
    let victim_pid: i32 = one(&mut victim, "SELECT pg_backend_pid()");
    assert_ne!(source_pid, victim_pid);
    kill_9(victim_pid);
    wait_for("the source to notice", || victim.simple_query("SELECT 1").is_err());
    pair().source.wait_until_up();
    scene.dba().batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.last_status(), "ok", "counters from before a crash are not compared with those after it");
}

fn kill_9(pid: i32) {
    // Not our own child, and another user's when the tests do not run as root.
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
