//! Several sessions at once: readers during a swap, two refreshes, transactions of every kind around a refresh.

mod support;

use std::time::{Duration, Instant};
use support::proxy::Proxy;
use support::{in_background, message, one, pair, run_dir, script, sqlstate, stuck, wait_for, Cluster, Scene, REFRESH};

#[test]
fn a_second_refresh_ends_at_once_and_says_so() {
    let scene = Scene::with_snapshot("second_refresh", 100);
    let mut first = scene.dba();
    first.batch_execute("BEGIN; SELECT mimeo.concurrent_lock_check('app.t')").unwrap();
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.last_status(), "concurrent");
    assert!(!one::<bool>(&mut scene.dba(), "SELECT mimeo.concurrent_lock_check('app.t')"));
    first.batch_execute("COMMIT").unwrap();
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.last_status(), "ok");
}

/// Defect 1 of 1.5.1.
#[test]
fn p_lock_wait_waits() {
    let scene = Scene::with_snapshot("lock_wait", 100);
    let mut waiting = scene.destination_superuser();
    for wait in ["10", "0"] {
        let mut first = scene.dba();
        first.batch_execute("BEGIN; SELECT mimeo.concurrent_lock_check('app.t')").unwrap();
        let second = in_background(
            scene.dba(),
            &format!("SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false, p_lock_wait := {wait})"),
        );
        wait_for("the second refresh to wait", || {
            one(&mut waiting, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'object' AND NOT granted")
        });
        first.batch_execute("COMMIT").unwrap();
        assert_eq!(sqlstate(&second.join().unwrap().1), "00000");
        assert_eq!(scene.last_status(), "ok", "p_lock_wait := {wait}");
    }

    let mut first = scene.dba();
    first.batch_execute("BEGIN; SELECT mimeo.concurrent_lock_check('app.t')").unwrap();
    let since = Instant::now();
    scene.dba().batch_execute("SELECT mimeo.refresh_snapshot('app.t', p_lock_wait := 1)").unwrap();
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert_eq!(scene.last_status(), "concurrent");
}

/// Defect 7 of 1.5.1.
#[test]
fn an_older_repeatable_read_reader_sees_rows() {
    let scene = Scene::with_snapshot("older_reader", 1000);
    let mut reader = scene.dba();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    scene.change();
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t"), 1000);
    assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t_snap1 FULL JOIN app.t USING (id)"), 1000);
    reader.batch_execute("COMMIT").unwrap();
    assert_eq!(scene.changed_rows(1), 1000);
}

#[test]
fn a_dump_goes_on_while_a_refresh_swaps() {
    let scene = Scene::with_snapshot("dump", 1000);
    // pg_dump takes its snapshot and all its locks first, and reads the rows later.
    let mut dump = scene.dba();
    dump.batch_execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1;
         LOCK TABLE app.t_snap1, app.t_snap2 IN ACCESS SHARE MODE",
    )
    .unwrap();
    scene.change();
    let refresh = in_background(scene.dba(), REFRESH);
    scene.wait_for_phase("wait for the idle twin");
    assert_eq!(one::<i64>(&mut dump, "SELECT count(*) FROM app.t"), 1000);
    dump.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "00000");
    assert_eq!(scene.changed_rows(1), 1000);
}

/// Defect 8 of 1.5.1.
#[test]
fn a_reader_that_holds_the_view_delays_the_swap_and_nobody_else() {
    let scene = Scene::with_snapshot("long_reader", 1000);
    let mut holder = scene.dba();
    holder.batch_execute("BEGIN; SELECT * FROM app.t LIMIT 1").unwrap();
    scene.change();
    let refresh = in_background(scene.dba(), REFRESH);
    scene.wait_for_phase("swap");
    let mut reader = scene.dba();
    let mut longest = Duration::ZERO;
    for _ in 0..60 {
        let since = Instant::now();
        assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t WHERE v NOT LIKE '%!'"), 1000);
        longest = longest.max(since.elapsed());
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(longest < Duration::from_millis(700), "a reader waited for {longest:?}");
    holder.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "00000");
    assert_eq!(scene.changed_rows(1), 1000);
}

#[test]
fn a_swap_that_is_not_possible_in_time_is_an_error_and_the_old_data_stays() {
    let scene = Scene::with_snapshot("no_swap", 1000);
    let mut holder = scene.dba();
    holder.batch_execute("BEGIN; SELECT * FROM app.t LIMIT 1").unwrap();
    scene.change();
    let mut client = scene.dba();
    client.batch_execute("SET mimeo.swap_max_wait = '1s'; SET mimeo.swap_lock_timeout = '20ms'").unwrap();
    let outcome = client.batch_execute(REFRESH);
    assert_eq!(sqlstate(&outcome), "55P03");
    assert_eq!(scene.changed_rows(1), 0);
    assert_eq!(scene.rows(), 1000);
    holder.batch_execute("COMMIT").unwrap();
    client.batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), 1000);
}

#[test]
fn the_old_twin_is_emptied_later_if_somebody_uses_it() {
    let scene = Scene::with_snapshot("old_twin", 100);
    let mut holder = scene.dba();
    let live: String = one(
        &mut holder,
        "SELECT relname::text FROM pg_class WHERE relname LIKE 't\\_snap_' AND pg_relation_size(oid) > 0",
    );
    holder.batch_execute(&format!("BEGIN; SELECT * FROM app.{live} LIMIT 1")).unwrap();
    scene.change();
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), 100);
    assert_eq!(one::<i64>(&mut holder, &format!("SELECT count(*) FROM app.{live}")), 100);
    holder.batch_execute("COMMIT").unwrap();
    scene.dba().batch_execute(REFRESH).unwrap();
    scene.dba().batch_execute(REFRESH).unwrap();
    assert_eq!(
        one::<i64>(
            &mut holder,
            "SELECT count(*) FROM pg_class WHERE relname LIKE 't\\_snap_' AND pg_relation_size(oid) > 0"
        ),
        1
    );
}

#[test]
fn a_refresh_works_from_every_kind_of_caller() {
    let scene = Scene::with_snapshot("callers", 500);
    let callers = [
        ("a plain SELECT", REFRESH.to_string()),
        ("a DO block", "DO $$ BEGIN PERFORM mimeo.refresh_snapshot('app.t', p_check_stats := false); END $$".into()),
        (
            "a loop over a query",
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT dest_table FROM mimeo.refresh_config LOOP
             PERFORM mimeo.refresh_snapshot(r.dest_table, p_check_stats := false); END LOOP; END $$"
                .into(),
        ),
        (
            "one SELECT over several rows",
            "SELECT mimeo.refresh_snapshot(d, p_check_stats := false) FROM unnest('{app.t,app.t,t}'::text[]) d".into(),
        ),
        ("REPEATABLE READ", format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; {REFRESH}; COMMIT")),
        ("SERIALIZABLE", format!("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; {REFRESH}; COMMIT")),
        (
            "with an open cursor",
            format!("BEGIN; DECLARE c CURSOR FOR SELECT * FROM pg_class; FETCH c; {REFRESH}; FETCH c; COMMIT"),
        ),
        ("after having read the view", format!("BEGIN; SELECT * FROM app.t; {REFRESH}; COMMIT")),
        (
            "after a savepoint that was rolled back",
            format!("BEGIN; SAVEPOINT s; {REFRESH}; ROLLBACK TO s; {REFRESH}; RELEASE s; COMMIT"),
        ),
        (
            "a PL/pgSQL block that catches errors",
            "DO $$ BEGIN PERFORM mimeo.refresh_snapshot('app.t',
             p_check_stats := false); PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN
             PERFORM mimeo.refresh_snapshot('app.t', p_check_stats := false); END $$"
                .into(),
        ),
    ];
    let mut client = scene.dba();
    client.batch_execute("SET search_path = app").unwrap();
    for (times, (caller, statement)) in callers.iter().enumerate() {
        scene.change();
        let outcome = client.batch_execute(statement);
        assert!(outcome.is_ok(), "{caller}: {outcome:?}");
        assert_eq!(scene.changed_rows(times + 1), 500, "{caller}");
        assert_eq!(scene.last_status(), "ok", "{caller}");
    }
}

#[test]
fn a_rollback_leaves_the_old_data_and_the_next_refresh_copies_again() {
    let scene = Scene::with_snapshot("rollback", 1000);
    scene.change();
    let mut client = scene.dba();
    client.batch_execute(&format!("BEGIN; {REFRESH}; {REFRESH}; ROLLBACK")).unwrap();
    assert_eq!(scene.changed_rows(1), 0);
    assert_eq!(scene.rows(), 1000);
    client.batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.last_status(), "ok");
    assert_eq!(scene.changed_rows(1), 1000);
}

#[test]
fn refreshes_inside_one_transaction_and_with_a_column_change_roll_back_together() {
    let scene = Scene::with_snapshot("one_transaction", 1000);
    scene.owner().batch_execute("ALTER TABLE app.t DROP v; ALTER TABLE app.t ADD w int DEFAULT 7").unwrap();
    let mut client = scene.dba();
    client.batch_execute("CREATE VIEW app.depends AS SELECT id FROM app.t").unwrap();
    client.batch_execute(&format!("BEGIN; {REFRESH}; SELECT w FROM app.t; {REFRESH}; ROLLBACK")).unwrap();
    assert_eq!(one::<i64>(&mut client, "SELECT count(v) FROM app.t"), 1000);
    client.batch_execute(&format!("BEGIN; {REFRESH}; {REFRESH}; COMMIT")).unwrap();
    assert_eq!(one::<i64>(&mut client, "SELECT sum(w) FROM app.t"), 7000);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM app.depends"), 1000);
}

#[test]
fn a_failed_statement_leaves_no_session_on_the_source() {
    let scene = Scene::with_snapshot("no_session", 100);
    let mut client = scene.dba();
    client.batch_execute("UPDATE mimeo.refresh_config SET condition = 'WHERE 1 / (id - 50) > 7'").unwrap();
    // Many times: a descriptor that is not given back would be missed sooner or later.
    for _ in 0..30 {
        let outcome = client.batch_execute(REFRESH);
        assert_eq!(sqlstate(&outcome), "22012");
    }
    assert_eq!(scene.rows(), 100);
    wait_for("the sessions on the source to end", || scene.source_sessions() == 0);
    client.batch_execute("UPDATE mimeo.refresh_config SET condition = NULL").unwrap();
    client.batch_execute(REFRESH).unwrap();
    wait_for("the session on the source to end", || scene.source_sessions() == 0);
}

#[test]
fn read_only_transactions_and_standbys_get_a_clear_error() {
    let scene = Scene::with_snapshot("read_only", 10);
    let mut client = scene.dba();
    let outcome = client.batch_execute(&format!("BEGIN READ ONLY; {REFRESH}"));
    assert_eq!(sqlstate(&outcome), "25006");
    assert_eq!(message(&outcome), "refresh_snapshot cannot run in a read-only transaction");

    let primary = &pair().destination;
    let dir = run_dir().join("standby");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.to_str().unwrap();
    script(&["standby", path, primary.dir().to_str().unwrap()], "");
    let port = script(&["restart", path], "").trim().parse().unwrap();
    let standby = Cluster::at(&dir, port);
    let mut client = standby.connect("dba", &scene.database);
    let outcome = client.batch_execute(REFRESH);
    assert_eq!(sqlstate(&outcome), "25006");
    assert_eq!(message(&outcome), "refresh_snapshot cannot run on a standby");
}

#[test]
fn an_older_repeatable_read_transaction_cannot_refresh_what_another_has_refreshed_since() {
    let scene = Scene::new("older_refresher", 100);
    let jobs = [
        ("snapshot", "'app.t', 1, 'app.of_snapshot'"),
        ("table", "'app.t', 1, 'app.of_table'"),
        ("inserter", "'app.t', 'serial', 'id', 1, '0', 'app.of_inserter'"),
        ("updater", "'app.t', 'serial', 'id', 1, '0', 'app.of_updater'"),
        ("dml", "'app.t', 1, 'app.of_dml'"),
        ("logdel", "'app.t', 1, 'app.of_logdel'"),
    ];
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene.owner().batch_execute("GRANT TRIGGER ON app.t TO reader").unwrap();
    let (mut older, mut other) = (scene.dba(), scene.dba());
    other.batch_execute("SET mimeo.writer_wait = 0").unwrap();
    for (method, arguments) in jobs {
        let refresh = format!("mimeo.refresh_{method}('app.of_{method}')");
        other.batch_execute(&format!("SELECT mimeo.{method}_maker({arguments})")).unwrap();
        for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
            older.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1")).unwrap();
            scene.owner().batch_execute("INSERT INTO app.t SELECT max(id) + 1, 'new' FROM app.t").unwrap();
            other.batch_execute(&format!("SELECT {refresh}")).unwrap();
            let outcome = older.batch_execute(&format!("SELECT {refresh}"));
            assert_eq!(sqlstate(&outcome), "40001", "{refresh}: {}", message(&outcome));
            older.batch_execute("ROLLBACK").unwrap();
        }
        older
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT {refresh}; SELECT {refresh}; COMMIT"
            ))
            .unwrap();
    }
}

#[test]
fn an_older_repeatable_read_transaction_cannot_refresh_a_table_that_was_altered_since() {
    let scene = Scene::new("altered_since", 100);
    scene.owner().batch_execute("ALTER TABLE app.t ADD extra int").unwrap();
    let (mut older, mut other) = (scene.dba(), scene.dba());
    other.batch_execute("SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, '0', 'app.u')").unwrap();
    older.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    scene.owner().batch_execute("ALTER TABLE app.t DROP extra; INSERT INTO app.t VALUES (101, 'new')").unwrap();
    other.batch_execute("ALTER TABLE app.u DROP extra").unwrap();
    let outcome = older.batch_execute("SELECT mimeo.refresh_updater('app.u')");
    assert_eq!(sqlstate(&outcome), "40001", "{}", message(&outcome));
    older.batch_execute("ROLLBACK").unwrap();
    older
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT mimeo.refresh_updater('app.u'); COMMIT")
        .unwrap();
}

#[test]
fn readers_of_a_table_do_not_wait_while_it_is_refreshed() {
    let scene = Scene::new("table_readers", 200_000);
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.t', 1)").unwrap();
    scene.change();
    // The refresh has everything but the source's last rows, and readers come and go.
    let (proxy, _, refresh) = stuck(&scene, "SELECT mimeo.refresh_table('app.t')");
    let mut reader = scene.dba();
    reader.batch_execute("SET lock_timeout = '1s'").unwrap();
    assert_eq!(
        one::<i64>(&mut reader, "SELECT count(*) FROM app.t WHERE v NOT LIKE '%!'"),
        200_000,
        "the old rows, all of them"
    );
    // One that holds the table for long delays the swap, and nobody else.
    reader.batch_execute("BEGIN; SELECT count(*) FROM app.t").unwrap();
    proxy.allow(u64::MAX);
    scene.wait_for_phase("replace");
    let mut waiting = scene.destination_superuser();
    wait_for("the refresh to try", || {
        one(&mut waiting, "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted")
    });
    let open = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'mimeo/%' AND state <> 'idle'";
    assert_eq!(one::<i64>(&mut scene.source_superuser(), open), 0, "the source has nothing to do with it any more");
    let mut other = scene.dba();
    other.batch_execute("SET lock_timeout = '1s'").unwrap();
    for _ in 0..20 {
        other.batch_execute("SELECT count(*) FROM app.t").unwrap();
    }
    reader.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "00000");
    assert_eq!(scene.changed_rows(1), 200_000);
}

#[test]
fn an_older_repeatable_read_reader_of_a_table_sees_rows() {
    let scene = Scene::new("table_older_reader", 1000);
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.t', 1)").unwrap();
    let mut reader = scene.dba();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    scene.change();
    scene.dba().batch_execute("SELECT mimeo.refresh_table('app.t')").unwrap();
    assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t"), 1000);
}

#[test]
fn a_large_twin_is_emptied_after_the_commit() {
    let scene = Scene::with_snapshot("large", 10);
    // The worker that does it is a superuser, and does not find what others have put into public.
    let mut superuser = scene.destination_superuser();
    superuser
        .batch_execute(
            "CREATE TABLE public.called (by text);
             CREATE FUNCTION public.spy(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.called VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2::oid; END';
             CREATE OPERATOR public.= (FUNCTION = public.spy, LEFTARG = oid, RIGHTARG = regclass)",
        )
        .unwrap();
    scene
        .owner()
        .batch_execute("INSERT INTO app.t SELECT i, repeat('x', 400) FROM generate_series(11, 100000) i")
        .unwrap();
    let mut dba = scene.dba();
    let sizes = "SELECT pg_relation_size('app.t_snap1') + pg_relation_size('app.t_snap2')";
    dba.batch_execute(REFRESH).unwrap();
    let one_copy: i64 = one(&mut dba, sizes);
    assert!(one_copy > 32 << 20, "{one_copy} bytes");
    for _ in 0..2 {
        dba.batch_execute(REFRESH).unwrap();
        wait_for("the old twin to be empty", || one::<i64>(&mut dba, sizes) == one_copy);
        assert_eq!(scene.rows(), 100_000);
    }
    // A swap that was rolled back: the twin that stays live keeps its rows.
    dba.batch_execute(&format!("BEGIN; SAVEPOINT s; {REFRESH}; ROLLBACK TO s; COMMIT")).unwrap();
    wait_for("the worker to have been there", || {
        one::<i64>(
            &mut scene.destination_superuser(),
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mimeo worker' AND datname = current_database()",
        ) == 0
    });
    assert_eq!(scene.rows(), 100_000);
    assert_eq!(one::<i64>(&mut dba, sizes), one_copy);
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM public.called"), 0);
}

#[test]
fn a_rollback_waits_for_readers_and_they_not_for_it() {
    let scene = Scene::with_snapshot("rollback_snapshot", 1000);
    let mut dba = scene.dba();
    dba.batch_execute("UPDATE mimeo.refresh_config SET keep_previous = true").unwrap();
    scene.change();
    dba.batch_execute(REFRESH).unwrap();
    assert_eq!(scene.changed_rows(1), 1000);

    // While a refresh runs, it is not clear what would be rolled back.
    let mut other = scene.dba();
    other.batch_execute("BEGIN; SELECT mimeo.concurrent_lock_check('app.t')").unwrap();
    assert_eq!(sqlstate(&dba.batch_execute("SELECT mimeo.rollback_snapshot('app.t')")), "55006");
    other.batch_execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();

    let mut holder = scene.dba();
    holder.batch_execute("BEGIN; SELECT * FROM app.t LIMIT 1").unwrap();
    let mut pid_of = scene.destination_superuser();
    let rollback = in_background(scene.dba(), "SELECT mimeo.rollback_snapshot('app.t')");
    wait_for("the rollback to try", || {
        one(&mut pid_of, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%rollback_snapshot%' AND pid <> pg_backend_pid()")
    });
    let mut reader = scene.dba();
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        let since = Instant::now();
        assert_eq!(one::<i64>(&mut reader, "SELECT count(*) FROM app.t WHERE v LIKE '%!'"), 1000);
        longest = longest.max(since.elapsed());
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(longest < Duration::from_millis(700), "a reader waited for {longest:?}");
    holder.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&rollback.join().unwrap().1), "00000");
    assert_eq!(scene.changed_rows(1), 0);
    assert_eq!(scene.rows(), 1000);
    assert_eq!(one::<i64>(&mut other, "SELECT count(*) FROM app.t"), 1000, "an older reader sees rows");
}

#[test]
fn a_twin_that_is_kept_is_not_emptied_by_the_worker_of_an_earlier_refresh() {
    let scene = Scene::with_snapshot("kept_twin", 1);
    let mut owner = scene.owner();
    owner.batch_execute("INSERT INTO app.t SELECT i, repeat('x', 400) FROM generate_series(2, 100000) i").unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(REFRESH).unwrap();
    // Of two refreshes in one transaction the first one asks for a worker, and the second one keeps what it replaces.
    dba.batch_execute(&format!("BEGIN; {REFRESH}; UPDATE mimeo.refresh_config SET keep_previous = true; {REFRESH}"))
        .unwrap();
    // Another session is before the worker in the queue for the twins, so that the worker is seen there.
    let mut watch = scene.destination_superuser();
    let waiting = |of: &str| {
        format!(
            "SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
              WHERE l.locktype = 'relation' AND NOT l.granted AND a.backend_type = '{of}' AND a.datname = current_database()"
        )
    };
    let before = in_background(scene.dba(), "BEGIN; LOCK TABLE app.t_snap1, app.t_snap2 IN ACCESS SHARE MODE");
    wait_for("a session before the worker", || one(&mut watch, &waiting("client backend")));
    dba.batch_execute("COMMIT").unwrap();
    let mut before = before.join().unwrap().0;
    wait_for("the worker", || one(&mut watch, &waiting("mimeo worker")));
    before.batch_execute("COMMIT").unwrap();
    wait_for("the worker to be gone", || {
        one(
            &mut watch,
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'mimeo worker' AND datname = current_database()",
        )
    });
    dba.batch_execute("SELECT mimeo.rollback_snapshot('app.t')").unwrap();
    assert_eq!(scene.rows(), 100_000);
}

#[test]
fn a_plan_that_is_being_made_while_the_view_is_made_anew_is_made_to_its_end() {
    let scene = Scene::with_snapshot("plan_meanwhile", 100);
    let proxy = Proxy::start(pair().source.port, 0);
    scene.set_source(proxy.port);
    let plan = in_background(scene.dba(), "SELECT * FROM mimeo.plan_refresh('app.t')");
    let mut superuser = scene.destination_superuser();
    wait_for("a plan that waits for its source", || {
        let waits =
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%plan_refresh(%' AND wait_event = 'Extension'
                        AND pid <> pg_backend_pid()";
        one(&mut superuser, waits)
    });
    scene.set_source(pair().source.port);
    scene.owner().batch_execute("ALTER TABLE app.t ALTER id TYPE bigint").unwrap();
    scene.dba().batch_execute(REFRESH).unwrap();
    proxy.allow(u64::MAX);
    let (_, outcome) = plan.join().unwrap();
    assert_eq!(sqlstate(&outcome), "00000", "{}", message(&outcome));
}
