//! Deltas with several sessions: readers that began before, locks, what is cancelled, rolled back or terminated, prepared transactions, a
//! standby as the source.

mod support;

use postgres::Client;
use std::time::Duration;
use support::proxy::Proxy;
use support::{in_background, message, one, pair, run_dir, script, sqlstate, terminate, wait_for, Cluster, Scene};

const DELTA: &str = "SELECT mimeo.refresh_snapshot('app.t')";

fn reason(scene: &Scene) -> String {
    one(&mut scene.dba(), "SELECT concat(status, ': ', reason) FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")
}

fn digest(client: &mut Client, table: &str) -> String {
    one(
        client,
        &format!("SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\"), '')) FROM {table} t"),
    )
}

fn assert_equal(scene: &Scene) {
    assert_eq!(digest(&mut scene.dba(), "app.t"), digest(&mut scene.owner(), "app.t"), "{}", reason(scene));
}

/// Changes some rows of the source.
fn change_some(scene: &Scene) {
    scene
        .owner()
        .batch_execute(
            "UPDATE app.t SET v = v || '!' WHERE id % 50 = 0; DELETE FROM app.t WHERE id % 50 = 1;
             INSERT INTO app.t SELECT max(id) + 1, 'new' FROM app.t; SELECT pg_stat_force_next_flush()",
        )
        .unwrap();
}

#[test]
fn readers_never_wait_and_keep_their_rows() {
    let scene = Scene::with_delta("delta_readers", 20_000);
    let before = digest(&mut scene.dba(), "app.t");
    let mut old = scene.dba();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(digest(&mut old, "app.t"), before);
    let mut cursor = scene.dba();
    cursor.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT count(*) FROM app.t t; ").unwrap();

    change_some(&scene);
    let mut refreshing = scene.dba();
    refreshing.batch_execute("BEGIN").unwrap();
    refreshing.batch_execute(DELTA).unwrap();
    let own: String = one(&mut refreshing, "SELECT reason FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1");
    assert_eq!(own, "delta: 401 rows came, 800 were deleted, 20000 were there");

    // Not committed yet: others see the old rows, at once.
    let mut reader = scene.dba();
    reader.batch_execute("SET lock_timeout = '100ms'").unwrap();
    assert_eq!(digest(&mut reader, "app.t"), before);
    let waiting: i64 = one(&mut reader, "SELECT count(*) FROM pg_locks WHERE NOT granted");
    assert_eq!(waiting, 0);
    let exclusive: i64 = one(
        &mut reader,
        "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
          WHERE l.mode = 'AccessExclusiveLock' AND c.relname IN ('t', (SELECT d.refobjid::regclass::name FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
            WHERE r.ev_class = 'app.t'::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass LIMIT 1))",
    );
    assert_eq!(exclusive, 0, "nothing that readers would wait for");
    refreshing.batch_execute("COMMIT").unwrap();

    assert_equal(&scene);
    assert_eq!(digest(&mut old, "app.t"), before, "an older snapshot keeps the rows that it had");
    let counted: i64 = one(&mut cursor, "FETCH c");
    assert_eq!(counted, 20_000);
    old.batch_execute("COMMIT").unwrap();
    assert_ne!(digest(&mut old, "app.t"), before);
}

#[test]
fn what_is_cancelled_terminated_or_rolled_back_leaves_the_old_rows() {
    let scene = Scene::new("delta_ends", 20_000);
    scene.owner().batch_execute("UPDATE app.t SET v = repeat(md5(v), 20)").unwrap();
    scene.dba().batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    // So that versions come from many blocks, and rows in several batches.
    let mut before = digest(&mut scene.dba(), "app.t");
    let proxy = Proxy::start(pair().source.port, u64::MAX);
    scene.set_source(proxy.port);
    // Where the network falls silent: counted from its beginning, in a delta of which this many bytes come in all.
    change_some(&scene);
    let passed = proxy.passed();
    scene.dba().batch_execute(DELTA).unwrap();
    assert!(reason(&scene).starts_with("ok: delta: 401 rows came"), "{}", reason(&scene));
    let all = proxy.passed() - passed;
    let mut phases = std::collections::BTreeSet::new();
    for (number, percent) in [6, 10, 14, 18, 22, 30, 45, 60, 75, 90, 97].iter().enumerate() {
        before = digest(&mut scene.dba(), "app.t");
        change_some(&scene);
        // A connection of its own.
        scene.dba().batch_execute("SELECT 1").unwrap();
        proxy.allow(all * percent / 100);
        let refresh = in_background(scene.dba(), DELTA);
        wait_for("the network to be silent", || proxy.is_silent() || refresh.is_finished());
        let mut superuser = scene.destination_superuser();
        let row = superuser
            .query_opt(
                "SELECT pid, split_part(query, ': ', 2) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'mimeo.refresh_%'",
                &[],
            )
            .unwrap();
        let Some(row) = row else {
            refresh.join().unwrap().1.unwrap();
            proxy.allow(u64::MAX);
            continue;
        };
        let (pid, phase): (i32, String) = (row.get(0), row.get(1));
        phases.insert(phase);
        if number % 2 == 0 {
            superuser.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
            let (_, outcome) = refresh.join().unwrap();
            assert_eq!(sqlstate(&outcome), "57014", "{}", message(&outcome));
        } else {
            terminate(&scene, pid, refresh);
        }
        assert_eq!(digest(&mut scene.dba(), "app.t"), before, "after {percent} percent");
        proxy.allow(u64::MAX);
        scene.dba().batch_execute(DELTA).unwrap();
        assert_equal(&scene);
    }
    assert!(phases.contains("change") && phases.len() > 1, "{phases:?}");

    change_some(&scene);
    let now = digest(&mut scene.dba(), "app.t");
    let mut dba = scene.dba();
    dba.batch_execute("BEGIN").unwrap();
    dba.batch_execute(DELTA).unwrap();
    assert_ne!(digest(&mut dba, "app.t"), now);
    dba.batch_execute("ROLLBACK").unwrap();
    assert_eq!(digest(&mut dba, "app.t"), now);
    assert_ne!(now, before);
    dba.batch_execute(DELTA).unwrap();
    assert_equal(&scene);
}

#[test]
fn somebody_who_writes_or_indexes_the_twin_does_not_stop_it() {
    let scene = Scene::with_delta("delta_locked", 5_000);
    let live: String = one(
        &mut scene.dba(),
        "SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
          WHERE r.ev_class = 'app.t'::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass",
    );
    change_some(&scene);
    let mut other = scene.dba();
    other.batch_execute(&format!("BEGIN; LOCK TABLE {live} IN SHARE MODE")).unwrap();
    scene.dba().batch_execute(DELTA).unwrap();
    assert!(reason(&scene).ends_with("no delta: somebody has locked the live twin"), "{}", reason(&scene));
    other.batch_execute("COMMIT").unwrap();
    assert_equal(&scene);
}

#[test]
fn prepared_transactions_count_when_they_are_committed() {
    let scene = Scene::with_delta("delta_prepared", 5_000);
    let mut owner = scene.owner();
    owner
        .batch_execute(
            "BEGIN; UPDATE app.t SET v = 'prepared' WHERE id = 7; DELETE FROM app.t WHERE id = 8; INSERT INTO app.t VALUES (9000, 'prepared');
             PREPARE TRANSACTION 'delta'",
        )
        .unwrap();
    owner.batch_execute("UPDATE app.t SET v = 'other' WHERE id = 9; SELECT pg_stat_force_next_flush()").unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 1 rows came, 1 were deleted, 5000 were there");
    assert_equal(&scene);
    owner.batch_execute("COMMIT PREPARED 'delta'").unwrap();
    owner.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)").unwrap();
    assert_eq!(reason(&scene), "ok: delta: 2 rows came, 2 were deleted, 5000 were there");
    assert_equal(&scene);
    // A writer that is still at it.
    let mut writer = scene.owner();
    writer
        .batch_execute("BEGIN; UPDATE app.t SET v = 'late' WHERE id = 10; UPDATE app.t SET v = 'later' WHERE id = 10")
        .unwrap();
    owner.batch_execute("UPDATE app.t SET v = 'early' WHERE id = 11; SELECT pg_stat_force_next_flush()").unwrap();
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 1 rows came, 1 were deleted, 5000 were there");
    writer.batch_execute("COMMIT; SELECT pg_stat_force_next_flush()").unwrap();
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 1 rows came, 1 were deleted, 5000 were there");
    assert_equal(&scene);
}

/// A standby of the source.
fn standby(name: &str) -> Cluster {
    let dir = run_dir().join(name);
    let path = dir.to_str().unwrap();
    script(&["standby", path, pair().source.dir().to_str().unwrap()], "");
    let port = script(&["restart", path], "").trim().parse().unwrap();
    Cluster::at(&dir, port)
}

fn follow(standby: &Cluster, database: &str) {
    let position: String = one(&mut pair().source.superuser(database), "SELECT pg_current_wal_insert_lsn()::text");
    pair().source.superuser(database).batch_execute("SELECT pg_switch_wal()").unwrap();
    wait_for("the standby to follow", || {
        standby.try_superuser(database).is_ok_and(|mut client| {
            one(&mut client, &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"))
        })
    });
}

#[test]
fn a_standby_has_no_counters_but_versions() {
    let scene = Scene::new("delta_standby", 20_000);
    let standby = standby("delta_source");
    follow(&standby, &scene.database);
    scene.set_source(standby.port);
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    let written = |dba: &mut Client| -> i64 {
        one(dba, "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables WHERE relname LIKE 't\\_snap_'")
    };
    let before = written(&mut dba);
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 0 rows came, 0 were deleted, 20000 were there");
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(written(&mut dba), before, "nothing is written");
    change_some(&scene);
    follow(&standby, &scene.database);
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 401 rows came, 800 were deleted, 20000 were there");
    assert_equal(&scene);
    scene.owner().batch_execute("VACUUM app.t").unwrap();
    scene
        .owner()
        .batch_execute("INSERT INTO app.t SELECT i, 'in old places' FROM generate_series(100001, 100300) i")
        .unwrap();
    follow(&standby, &scene.database);
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(reason(&scene), "ok: delta: 300 rows came, 0 were deleted, 19601 were there");
    assert_equal(&scene);
}

/// The source answers with what cannot be: all rows are copied.
#[test]
fn a_delta_that_fails_here_becomes_a_copy() {
    let scene = Scene::with_delta("delta_fails", 5_000);
    let live: String = one(
        &mut scene.dba(),
        "SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
          WHERE r.ev_class = 'app.t'::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass",
    );
    // Only the live twin refuses what comes.
    scene.dba().batch_execute(&format!("ALTER TABLE {live} ADD CHECK (v <> 'refused')")).unwrap();
    scene
        .owner()
        .batch_execute("UPDATE app.t SET v = 'refused' WHERE id = 4999; SELECT pg_stat_force_next_flush()")
        .unwrap();
    scene.dba().batch_execute(DELTA).unwrap();
    assert!(reason(&scene).contains("no delta: new row for relation"), "{}", reason(&scene));
    assert_equal(&scene);
}

/// What the source refuses is no error either.
#[test]
fn a_delta_that_the_source_refuses_becomes_a_copy() {
    let scene = Scene::with_delta("delta_refused", 5_000);
    for (function, place) in [
        ("pg_catalog.hashtidextended(tid, bigint)", "condensing"),
        ("pg_catalog.pg_current_wal_insert_lsn()", "asking where rows come from"),
        ("pg_catalog.pg_control_system()", "asking for the system"),
        ("pg_catalog.pg_current_wal_flush_lsn()", "asking whether the WAL is flushed"),
    ] {
        scene.source_superuser().batch_execute(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")).unwrap();
        change_some(&scene);
        scene.dba().batch_execute(DELTA).unwrap();
        let why = reason(&scene);
        let told = if place.contains("flushed") { "has not flushed its WAL" } else { "no delta: " };
        assert!(why.starts_with("ok: ") && why.contains(told), "{place}: {why}");
        assert_equal(&scene);
        scene.dba().batch_execute("SELECT mimeo.snapshot_maker('app.t', 1, 'app.other')").unwrap();
        scene.dba().batch_execute("SELECT mimeo.snapshot_destroyer('app.other', false)").unwrap();
        scene.source_superuser().batch_execute(&format!("GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")).unwrap();
        change_some(&scene);
        scene
            .dba()
            .batch_execute("UPDATE mimeo.refresh_config SET state = jsonb_set(state, '{learned}', '{}')")
            .unwrap();
        scene.dba().batch_execute(DELTA).unwrap();
        assert_equal(&scene);
    }
    change_some(&scene);
    scene.dba().batch_execute(DELTA).unwrap();
    assert!(reason(&scene).starts_with("ok: delta: "), "{}", reason(&scene));
}

/// A dump has locked both twins as readers do.
#[test]
fn a_dump_does_not_stop_a_delta() {
    let scene = Scene::with_delta("delta_dump", 5_000);
    let short = "SET mimeo.swap_max_wait = '1s'";
    let mut dump = scene.dba();
    dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app.t_snap1, app.t_snap2; LOCK TABLE app.t_snap1, app.t_snap2 IN ACCESS SHARE MODE")
        .unwrap();
    change_some(&scene);
    scene.dba().batch_execute(DELTA).unwrap();
    assert!(reason(&scene).starts_with("ok: delta: "), "{}", reason(&scene));
    assert_equal(&scene);
    // All rows would go into the idle twin, which the dump has locked.
    scene.change();
    let mut dba = scene.dba();
    dba.batch_execute(short).unwrap();
    let outcome = dba.batch_execute(DELTA);
    assert!(message(&outcome).contains("was in use"), "{}", message(&outcome));
    // So would they if only the comparison tells that too many have changed.
    let outcome = dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)");
    assert!(message(&outcome).contains("was in use"), "{}", message(&outcome));
    dump.batch_execute("COMMIT").unwrap();
    scene.dba().batch_execute(DELTA).unwrap();
    assert_equal(&scene);
}

/// A partition that is being detached is not part of its table any more, although the catalogs still say so.
#[test]
fn a_partition_that_is_being_detached_is_gone() {
    let scene = Scene::new("delta_detached", 1);
    let mut owner = scene.owner();
    owner
        .batch_execute(
            "CREATE TABLE app.parts (id int, v text) PARTITION BY RANGE (id);
             CREATE TABLE app.p1 PARTITION OF app.parts FOR VALUES FROM (0) TO (3000); CREATE TABLE app.p2 PARTITION OF app.parts FOR VALUES FROM (3000) TO (6000);
             CREATE TABLE app.p3 PARTITION OF app.parts FOR VALUES FROM (6000) TO (9000);
             INSERT INTO app.parts SELECT i, 'v' FROM generate_series(0, 6500) i; SELECT pg_stat_force_next_flush()",
        )
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.parts', 1)").unwrap();
    for refresh in [
        "SELECT mimeo.refresh_snapshot('app.parts')",
        "SELECT mimeo.refresh_snapshot('app.parts', p_check_stats := false)",
    ] {
        let mut reader = scene.owner();
        reader.batch_execute("BEGIN; SELECT count(*) FROM app.parts").unwrap();
        let partition = if refresh.contains("p_check") { "p2" } else { "p3" };
        let mut detaching = scene.owner();
        let token = detaching.cancel_token();
        let statement = format!("ALTER TABLE app.parts DETACH PARTITION app.{partition} CONCURRENTLY");
        let detach = std::thread::spawn(move || detaching.batch_execute(&statement));
        let mut superuser = scene.source_superuser();
        wait_for("the partition to be marked", || {
            one::<i64>(&mut superuser, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
        });
        token.cancel_query(postgres::NoTls).unwrap();
        detach.join().unwrap().unwrap_err();
        dba.batch_execute(refresh).unwrap();
        assert_eq!(digest(&mut dba, "app.parts"), digest(&mut owner, "app.parts"), "{}", reason(&scene));
        reader.batch_execute("COMMIT").unwrap();
        owner.batch_execute(&format!("ALTER TABLE app.parts DETACH PARTITION app.{partition} FINALIZE")).unwrap();
    }
}
