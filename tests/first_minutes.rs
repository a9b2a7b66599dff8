//! Where users stop, with more than one server or session: sources that are too old or standbys, two copies of one job, looking at what
//! somebody else runs, schemas that belong to others. By number, as in tests/pgtap/32_first_minutes.sql.

mod support;

use postgres::Client;
use support::fake::{Act, Fake};
use support::proxy::Proxy;
use support::{in_background, message, one, pair, run_dir, script, sqlstate, wait_for, Cluster, Scene, REFRESH};

/// DETAIL, HINT and CONTEXT of an error.
fn more(outcome: &Result<(), postgres::Error>) -> String {
    let Err(error) = outcome else { return String::new() };
    let Some(error) = error.as_db_error() else { return String::new() };
    [error.detail(), error.hint(), error.where_()].into_iter().flatten().collect::<Vec<_>>().join("\n")
}

#[test]
fn c7_a_source_below_10_is_refused_in_one_sentence() {
    let scene = Scene::new("too_old", 10);
    let fake = Fake::before(pair().source.port);
    fake.play(|moment| {
        // ParameterStatus: the name, NUL, the value, NUL.
        if moment.kind == b'S' && moment.body.starts_with(b"server_version\0") {
            return Act::Instead(support::fake::parameter("server_version", "9.6.24"));
        }
        Act::Pass
    });
    scene.set_source(fake.port);
    for maker in ["snapshot_maker('app.t', 1)", "dml_maker('app.t', 1)", "table_maker('app.t', 1)"] {
        let outcome = scene.dba().batch_execute(&format!("SELECT mimeo.{maker}"));
        assert_eq!(sqlstate(&outcome), "0A000", "{maker}");
        let said = message(&outcome);
        assert!(said.ends_with("is PostgreSQL 9.6, and a source must be PostgreSQL 10 or later"), "{said}");
    }
    let left: i64 = one(&mut scene.dba(), "SELECT count(*) FROM mimeo.refresh_config");
    assert_eq!(left, 0);
}

/// A standby of the source, which cancels queries at once that are in the way of its recovery.
fn standby(name: &str) -> Cluster {
    let dir = run_dir().join(name);
    let path = dir.to_str().unwrap();
    script(&["standby", path, pair().source.dir().to_str().unwrap()], "");
    let conf = dir.join("data/postgresql.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{settings}\nmax_standby_streaming_delay = 0\nmax_standby_archive_delay = 0\n"))
        .unwrap();
    let port = script(&["restart", path], "").trim().parse().unwrap();
    Cluster::at(&dir, port)
}

fn follow(standby: &Cluster, database: &str) {
    let position: String = one(&mut pair().source.superuser(database), "SELECT pg_current_wal_lsn()::text");
    wait_for("the standby to follow", || {
        standby.try_superuser(database).is_ok_and(|mut client| {
            one(&mut client, &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"))
        })
    });
}

/// Locks the table on the primary once the standby reads it: replaying that cancels the reader.
fn conflict(standby: &Cluster, database: &str, refresh: &dyn Fn() -> bool) -> bool {
    let mut there = standby.superuser(database);
    let mut over = false;
    wait_for("a copy on the standby", || {
        over = refresh();
        over || one(
            &mut there,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COPY (%' AND state = 'active')",
        )
    });
    if over {
        return false;
    }
    pair()
        .source
        .superuser(database)
        .batch_execute("BEGIN; LOCK TABLE app.t IN ACCESS EXCLUSIVE MODE; COMMIT")
        .unwrap();
    follow(standby, database);
    true
}

#[test]
fn f22_and_copies_from_a_standby() {
    let scene = Scene::new("from_standby", 40);
    scene
        .owner()
        .batch_execute("CREATE VIEW app.slow AS SELECT id, v, pg_sleep(0.05) IS NULL AS slow FROM app.t; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo; GRANT USAGE, CREATE ON SCHEMA mimeo TO reader")
        .unwrap();
    scene.dba().batch_execute("SELECT mimeo.dml_maker('app.t', 1, 'app.d'), mimeo.refresh_dml('app.d')").unwrap();
    let standby = standby("conflicts");
    scene.set_source(standby.port);
    follow(&standby, &scene.database);
    let mut dba = scene.dba();

    let outcome = dba.batch_execute("SELECT mimeo.logdel_maker('app.t', 1)");
    assert!(
        message(&outcome).ends_with("is a standby, on which a dml or logdel job cannot have a queue"),
        "{}",
        message(&outcome)
    );
    assert!(more(&outcome).contains("snapshot, table, inserter, updater"), "{}", more(&outcome));
    let fix: String =
        one(&mut dba, "SELECT fix FROM mimeo.check_permissions(1, 'app.t', 'dml') WHERE privilege = 'writing'");
    assert!(fix.contains("it is a standby"), "{fix}");
    // A job that was made before.
    scene.owner().batch_execute("UPDATE app.t SET v = 'x' WHERE id = 1").unwrap();
    follow(&standby, &scene.database);
    dba.batch_execute("SELECT mimeo.refresh_dml('app.d')").unwrap();
    let outcome = dba.batch_execute("SELECT mimeo.refresh_dml('app.d')");
    assert!(
        message(&outcome).ends_with("is a standby, on which a dml or logdel job cannot have a queue"),
        "{}",
        message(&outcome)
    );
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1, 'app.s'), mimeo.table_maker('app.t', 1, 'app.tab')")
        .unwrap();

    // Recovery cancels the copy once.
    dba.batch_execute("SELECT mimeo.table_maker('app.slow', 1)").unwrap();
    let refresh = in_background(scene.dba(), "SELECT mimeo.refresh_table('app.slow')");
    assert!(conflict(&standby, &scene.database, &|| refresh.is_finished()));
    let (_, outcome) = refresh.join().unwrap();
    outcome.unwrap();
    let last = "SELECT status || ': ' || reason || ' ' || rows FROM mimeo.run_history WHERE dest_table = 'app.slow' ORDER BY run_id DESC LIMIT 1";
    let said: String = one(&mut dba, last);
    assert!(
        said.starts_with("ok: begun again, because the recovery of the standby cancelled the copy")
            && said.ends_with(" 40"),
        "{said}"
    );
    // And each time: then it is said what helps.
    let refresh = in_background(scene.dba(), "SELECT mimeo.refresh_table('app.slow')");
    let mut times = 0;
    while conflict(&standby, &scene.database, &|| refresh.is_finished()) {
        times += 1;
    }
    let (_, outcome) = refresh.join().unwrap();
    assert_eq!((sqlstate(&outcome).as_str(), times), ("40001", 3));
    assert!(
        more(&outcome).contains("max_standby_streaming_delay") && more(&outcome).contains("hot_standby_feedback"),
        "{}",
        more(&outcome)
    );
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.slow"), 40, "the old rows stay");
}

#[test]
fn u2_a_queue_that_another_copy_of_the_job_uses_is_not_taken_away() {
    let scene = Scene::new("two_copies", 10);
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    scene
        .dba()
        .batch_execute("SELECT mimeo.dml_maker('app.t', 1, 'app.d'); SELECT mimeo.logdel_maker('app.t', 1, 'app.l'); SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')")
        .unwrap();
    let copied = Scene { database: "two_copies_restored".to_string() };
    pair()
        .destination
        .superuser("postgres")
        .batch_execute("CREATE DATABASE two_copies_restored TEMPLATE two_copies OWNER dba")
        .unwrap();
    let refused = |scene: &Scene, what: &str| {
        for statement in ["SELECT mimeo.dml_destroyer('app.d')", "SELECT mimeo.logdel_destroyer('app.l')"] {
            assert_eq!(sqlstate(&scene.dba().batch_execute(statement)), "55006", "{what}: {statement}");
        }
    };
    refused(&copied, "a copy that has refreshed nothing yet");
    let mut owner = scene.owner();
    copied.dba().batch_execute("SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')").unwrap();
    refused(&scene, "the copy has refreshed, and found nothing to do");
    scene.dba().batch_execute("SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')").unwrap();
    refused(&copied, "the first one has refreshed last");
    for id in [1, 2, 3] {
        owner.batch_execute(&format!("UPDATE app.t SET v = 'new' WHERE id = {id}")).unwrap();
        copied.dba().batch_execute("SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')").unwrap();
    }
    let queues = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relkind = 'r'";
    let mut source = scene.source_superuser();
    for (method, destination) in [("dml", "app.d"), ("logdel", "app.l")] {
        let outcome = scene.dba().batch_execute(&format!("SELECT mimeo.{method}_destroyer('{destination}')"));
        assert_eq!(sqlstate(&outcome), "55006");
        assert!(message(&outcome).contains("was last used by another copy of the job of"), "{}", message(&outcome));
        assert!(more(&outcome).contains("p_keep_source := true"), "{}", more(&outcome));
        scene
            .dba()
            .batch_execute(&format!("SELECT mimeo.{method}_destroyer('{destination}', p_keep_source := true)"))
            .unwrap();
        assert_eq!(one::<String>(&mut source, queues), "app_t_q app_t_q01", "the queues stay");
    }
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM mimeo.refresh_config"), 0);
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.d"), 10, "the tables stay");
    owner.batch_execute("UPDATE app.t SET v = 'newer' WHERE id = 4").unwrap();
    copied.dba().batch_execute("SELECT mimeo.refresh_dml('app.d'); SELECT mimeo.dml_destroyer('app.d'); SELECT mimeo.logdel_destroyer('app.l', false)").unwrap();
    let left: i64 = one(&mut source, "SELECT count(*) FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace");
    assert_eq!(left, 0, "who used them last takes them away");
    // A source that is gone is not needed to end the job here.
    let alone = Scene::new("source_gone", 3);
    alone
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    alone.dba().batch_execute("SELECT mimeo.dml_maker('app.t', 1)").unwrap();
    alone.set_source(1);
    alone
        .dba()
        .batch_execute("SELECT mimeo.dml_destroyer('app.t', p_keep_table := false, p_keep_source := true)")
        .unwrap();
    assert_eq!(one::<i64>(&mut alone.dba(), "SELECT count(*) FROM pg_class WHERE oid = to_regclass('app.t')"), 0);
}

#[test]
fn u5_what_runs_is_shown_to_whoever_may_read_job_status() {
    let scene = Scene::with_snapshot("progress", 20_000);
    scene.dba().batch_execute(REFRESH).unwrap();
    let mut superuser = scene.destination_superuser();
    superuser
        .batch_execute("CREATE ROLE looker LOGIN PASSWORD 'looker secret'; CREATE ROLE stranger LOGIN PASSWORD 'stranger secret'; CREATE ROLE caller LOGIN PASSWORD 'caller secret'")
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "GRANT USAGE ON SCHEMA mimeo TO looker, stranger, caller; GRANT SELECT ON mimeo.progress, mimeo.job_status TO looker; GRANT SELECT ON mimeo.progress TO stranger;
             GRANT EXECUTE ON FUNCTION mimeo.refresh_snapshot TO caller",
        )
        .unwrap();
    scene.change();
    let proxy = Proxy::start(pair().source.port, 300_000);
    scene.set_source(proxy.port);
    let caller = pair().destination.connect("caller", &scene.database);
    let refresh = in_background(caller, "SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)");
    let pid = scene.wait_for_phase("copy");
    wait_for("the network to be silent", || proxy.is_silent());
    let progress = "SELECT pid || ' ' || dest_table || ' ' || type || ' ' || phase || ' ' || rows_expected || ' ' || (rows BETWEEN 1 AND 19999) || ' ' || (percent BETWEEN 0 AND 99)
                        || ' ' || length(bar) || ' ' || (bytes > 0) || ' ' || (rate > 0) || ' ' || (started <= now()) FROM mimeo.progress";
    for who in ["dba", "looker"] {
        let mut client = pair().destination.connect(who, &scene.database);
        assert_eq!(
            one::<String>(&mut client, progress),
            format!("{pid} app.t snap copy 20000 true true 20 true true true"),
            "{who}"
        );
    }
    let mut stranger = pair().destination.connect("stranger", &scene.database);
    assert_eq!(one::<i64>(&mut stranger, "SELECT count(*) FROM mimeo.progress"), 0);
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    refresh.join().unwrap().1.unwrap_err();
    wait_for("nothing to run", || one::<i64>(&mut superuser, "SELECT count(*) FROM mimeo.progress") == 0);
}

#[test]
fn c5_an_extension_in_a_schema_of_somebody_else_can_be_used_by_its_owner() {
    let scene = Scene::new("schema_of_another", 3);
    scene.dba().batch_execute("DROP EXTENSION mimeo").unwrap();
    let mut superuser = scene.destination_superuser();
    superuser
        .batch_execute("DROP SCHEMA mimeo; CREATE ROLE landlord; CREATE SCHEMA mimeo AUTHORIZATION landlord")
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute("CREATE EXTENSION mimeo").unwrap();
    scene.set_source(pair().source.port);
    dba.batch_execute(
        "SELECT mimeo.snapshot_maker('app.t', 1); SELECT mimeo.refresh_snapshot('app.t'); SELECT * FROM mimeo.health",
    )
    .unwrap();
    assert_eq!(
        one::<String>(&mut dba, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'mimeo'"),
        "landlord"
    );
}

fn told_to(client: &mut Client, statement: &str) -> String {
    let outcome = client.batch_execute(statement);
    format!("{}\n{}", message(&outcome), more(&outcome))
}

#[test]
fn f25_no_error_has_a_backtrace() {
    // The clusters of these tests run with RUST_BACKTRACE=1.
    let scene = Scene::with_snapshot("no_traces", 10);
    let mut dba = scene.dba();
    scene.owner().batch_execute("CREATE TABLE app.bad (id int); INSERT INTO app.bad VALUES (0)").unwrap();
    dba.batch_execute("SELECT mimeo.table_maker('app.bad', 1); ALTER TABLE app.bad ADD CHECK (1 / id > 0) NOT VALID")
        .unwrap();
    let mut all = String::new();
    for statement in [
        "SELECT mimeo.refresh_snapshot(NULL)",
        "SELECT mimeo.refresh_snapshot('nothing')",
        "SELECT mimeo.refresh_table('app.bad')",
        "SELECT mimeo.snapshot_maker('app.t', 1, p_filter := '{null}')",
        "SELECT mimeo.snapshot_maker('app.t', 7)",
        "SELECT mimeo.table_maker('app.t', 1, 'app.other', p_condition := 'WHERE nope')",
        "CALL mimeo.run_refresh(p_jobs := 0)",
    ] {
        let told = told_to(&mut dba, statement);
        assert!(told.len() > 3, "{statement}");
        all.push_str(&told);
    }
    // One that comes from PostgreSQL before anything is prepared for it.
    let mut superuser = scene.destination_superuser();
    superuser.batch_execute("BEGIN; LOCK TABLE mimeo.refresh_config IN ACCESS EXCLUSIVE MODE").unwrap();
    let told = told_to(&mut dba, "SET lock_timeout = 10; SELECT mimeo.refresh_snapshot('app.t')");
    assert!(told.contains("lock timeout"), "{told}");
    all.push_str(&told);
    superuser.batch_execute("ROLLBACK").unwrap();
    all.push_str(&one::<String>(&mut dba, "SELECT coalesce(string_agg(error, ' '), '') FROM mimeo.run_history"));
    for sign in ["backtrace", "pgrx", "core::", "std::", ".rs:"] {
        assert!(!all.contains(sign), "{sign}: {all}");
    }
}
