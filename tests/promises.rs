//! Promises of the docs that no other file keeps: what a storage swap carries along, sources that are standbys or count nothing, sessions
//! that fire no triggers, a failover, and the locks of docs/locks.md as pg_locks has them.

mod support;

use postgres::Client;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use support::fake::{Act, Fake};
use support::{one, pair, run_dir, script, stuck, wait_for, Cluster, Scene};

const REASON: &str = "SELECT coalesce(reason, '') FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1";

/// One after the other: base backups of the same server.
fn standby(name: &str) -> Cluster {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = run_dir().join(name);
    let path = dir.to_str().unwrap();
    script(&["standby", path, pair().source.dir().to_str().unwrap()], "");
    let port = script(&["restart", path], "").trim().parse().unwrap();
    Cluster::at(&dir, port)
}

/// Until it has replayed what is there now. The last record may end before the position that the primary tells, at the end of a
/// page: so one more is written.
fn follow(standby: &Cluster, scene: &Scene) {
    let mut primary = scene.source_superuser();
    let end: String = one(&mut primary, "SELECT pg_current_wal_insert_lsn()::text");
    primary.batch_execute("SELECT pg_logical_emit_message(true, 'test', '')").unwrap();
    let mut there = standby.superuser(&scene.database);
    wait_for("the standby to replay", || one(&mut there, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")));
}

/// A folder of that server's user.
fn folder(cluster: &Cluster, name: &str) -> PathBuf {
    let dir = cluster.dir().join(name);
    let make = format!("COPY (SELECT) TO PROGRAM 'mkdir {}'", dir.display());
    cluster.superuser("postgres").batch_execute(&make).unwrap();
    dir
}

#[test]
fn a_storage_swap_keeps_what_a_table_is() {
    let scene = Scene::new("promises_swap", 1000);
    let mut superuser = scene.destination_superuser();
    let dir = folder(&pair().destination, "space");
    superuser.batch_execute(&format!("CREATE TABLESPACE promised OWNER dba LOCATION '{}'", dir.display())).unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(
        "SELECT mimeo.table_maker('app.t', 1);
         ALTER TABLE app.t SET UNLOGGED; ALTER TABLE app.t SET TABLESPACE promised;
         CREATE INDEX t_elsewhere ON app.t (v, id) TABLESPACE promised;
         ALTER TABLE app.t SET (fillfactor = 70, autovacuum_enabled = off, toast.autovacuum_enabled = off);
         ALTER TABLE app.t ALTER v SET STATISTICS 500, ALTER v SET STORAGE EXTERNAL;
         CREATE STATISTICS app.t_both (ndistinct, dependencies) ON id, v FROM app.t",
    )
    .unwrap();
    let is = "SELECT jsonb_build_object('oid', c.oid, 'persistence', c.relpersistence, 'space', c.reltablespace, 'options', c.reloptions,
                'toast', (SELECT jsonb_build_array(t.relname, t.relpersistence, t.reltablespace, t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid),
                'columns', (SELECT jsonb_agg(jsonb_build_array(a.attname, a.attstattarget, a.attstorage) ORDER BY a.attnum)
                              FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
                'indexes', (SELECT jsonb_agg(jsonb_build_array(i.oid, i.relname, i.reltablespace, i.relpersistence) ORDER BY i.oid)
                              FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid),
                'statistics', (SELECT jsonb_agg(jsonb_build_array(s.oid, s.stxname) ORDER BY s.oid) FROM pg_statistic_ext s WHERE s.stxrelid = c.oid))::text
              FROM pg_class c WHERE c.oid = 'app.t'::regclass";
    let file = "SELECT pg_relation_filepath('app.t')";
    let (before, old_file): (String, String) = (one(&mut dba, is), one(&mut dba, file));
    scene.change();
    dba.batch_execute("SELECT mimeo.refresh_table('app.t')").unwrap();
    assert_ne!(one::<String>(&mut dba, file), old_file, "its storage was swapped");
    assert_eq!(one::<String>(&mut dba, is), before);
    assert_eq!(scene.changed_rows(1), 1000);
    let estimated: bool = one(
        &mut superuser,
        "SELECT stxdndistinct IS NOT NULL AND stxddependencies IS NOT NULL FROM pg_statistic_ext_data d
           JOIN pg_statistic_ext s ON s.oid = d.stxoid WHERE s.stxname = 't_both'",
    );
    assert!(estimated, "extended statistics are those of the new rows");
    let left: i64 = one(
        &mut dba,
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'mimeo\\_%' AND relnamespace = 'app'::regnamespace",
    );
    assert_eq!(left, 0, "no shadow table is left");
}

#[test]
fn a_standby_is_a_source_of_all_methods_that_only_read() {
    let scene = Scene::new("promises_standby", 500);
    scene
        .owner()
        .batch_execute("CREATE TABLE app.n (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), v text); INSERT INTO app.n (v) SELECT 'v' FROM generate_series(1, 100)")
        .unwrap();
    let standby = standby("reader");
    scene.set_source(standby.port);
    let mut dba = scene.dba();
    dba.batch_execute(
        "SELECT mimeo.snapshot_maker('app.t', 1), mimeo.table_maker('app.t', 1, 'app.tab'), mimeo.inserter_maker('app.n', 'serial', 'id', 1, '0', 'app.ins'),
                mimeo.updater_maker('app.n', 'serial', 'id', 1, '0', 'app.upd')",
    )
    .unwrap();
    scene
        .owner()
        .batch_execute("UPDATE app.t SET v = v || '!'; INSERT INTO app.n (v) SELECT 'w' FROM generate_series(1, 50)")
        .unwrap();
    follow(&standby, &scene);
    dba.batch_execute(
        "SELECT mimeo.refresh_snapshot('app.t'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.ins'), mimeo.refresh_updater('app.upd')",
    )
    .unwrap();
    assert_eq!(scene.changed_rows(1), 500);
    for (query, rows) in [
        ("SELECT count(*) FROM app.tab WHERE v LIKE '%!'", 500),
        ("SELECT count(*) FROM app.ins", 149),
        ("SELECT count(*) FROM app.upd", 149),
    ] {
        assert_eq!(one::<i64>(&mut dba, query), rows, "{query}: all but the newest, for a standby shows no writers");
    }
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.last_status(), "ok", "a standby has no counters: nothing there proves that nothing has changed");
}

#[test]
fn a_source_that_counts_nothing_proves_nothing() {
    let scene = Scene::with_snapshot("promises_uncounted", 10);
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    let database = &scene.database;
    scene.source_superuser().batch_execute(&format!("ALTER DATABASE {database} SET track_counts = off")).unwrap();
    scene.owner().batch_execute("UPDATE app.t SET v = v || '!'").unwrap();
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.changed_rows(1), 10);
    assert_eq!(one::<String>(&mut dba, REASON), "copied: track_counts is off on the source");
}

/// Tables are locked before a refresh opens its snapshot, and views with what they read. What cannot be locked (tables of conditions, policies
/// and functions, materialized views, tables of which the role may read some columns) may be emptied or replaced in between.
#[test]
fn what_the_snapshot_could_not_see_is_read_again() {
    let scene = Scene::new("promises_anew", 10);
    let fake = Fake::before(pair().source.port);
    scene.set_source(fake.port);
    scene
        .source_superuser()
        .batch_execute(
            "CREATE SCHEMA mimeo AUTHORIZATION reader; CREATE ROLE viewer; GRANT USAGE ON SCHEMA app TO viewer;
             ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader",
        )
        .unwrap();
    scene
        .owner()
        .batch_execute(
            "GRANT TRIGGER ON app.t TO reader; CREATE VIEW app.seen AS SELECT * FROM app.t; CREATE TABLE app.wanted AS SELECT id FROM app.t;
             CREATE TABLE app.part (id int PRIMARY KEY, v text, secret text); INSERT INTO app.part SELECT id, v FROM app.t;
             REVOKE SELECT ON app.part FROM reader; GRANT SELECT (id, v) ON app.part TO reader, viewer; CREATE VIEW app.through AS SELECT id, v FROM app.part;
             CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.t;
             CREATE TABLE app.ruled AS TABLE app.t; ALTER TABLE app.ruled ENABLE ROW LEVEL SECURITY; CREATE TABLE app.acl AS SELECT id FROM app.t; CREATE POLICY wanted ON app.ruled USING (id IN (SELECT id FROM app.acl))",
        )
        .unwrap();
    scene
        .source_superuser()
        .batch_execute("ALTER VIEW app.through OWNER TO viewer; GRANT SELECT ON app.through TO reader")
        .unwrap();
    let mut dba = scene.dba();
    let condition = "p_condition := 'WHERE id IN (SELECT id FROM app.wanted)'";
    dba.batch_execute(&format!(
        "SELECT mimeo.snapshot_maker('app.seen', 1, 'app.view_snap'), mimeo.table_maker('app.seen', 1, 'app.view_tab'), mimeo.inserter_maker('app.seen', 'serial', 'id', 1, '0', 'app.view_ins'),
                mimeo.snapshot_maker('app.through', 1, 'app.through_snap'), mimeo.snapshot_maker('app.part', 1, 'app.part_snap', p_filter := '{{id,v}}'),
                mimeo.table_maker('app.kept', 1, 'app.kept_tab'), mimeo.snapshot_maker('app.ruled', 1, 'app.ruled_snap'),
                mimeo.table_maker('app.t', 1, 'app.wanted_tab', {condition}), mimeo.dml_maker('app.t', 1, 'app.wanted_dml', {condition}),
                mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.wanted_ins', {condition}),
                mimeo.table_maker('app.through', 1, 'app.through_one', p_group := 'g'), mimeo.table_maker('app.t', 1, 'app.wanted_one', {condition}, p_group := 'g')"
    ))
    .unwrap();
    let emptied = |table: &str| {
        format!("BEGIN; CREATE TEMPORARY TABLE kept ON COMMIT DROP AS TABLE app.{table}; TRUNCATE app.{table}; INSERT INTO app.{table} TABLE kept; COMMIT")
    };
    let replaced = "BEGIN; CREATE TABLE app.anew AS TABLE app.wanted; GRANT SELECT ON app.anew TO reader, owner; DROP TABLE app.wanted; ALTER TABLE app.anew RENAME TO wanted; COMMIT";
    let again = "begun again, because a table was written anew while it was read";
    for (call, change, rows, is_again) in [
        ("refresh_snapshot('app.view_snap')", emptied("t"), "app.t", false),
        ("refresh_table('app.view_tab')", emptied("t"), "app.t", false),
        ("refresh_inserter('app.view_ins', p_repull := true)", emptied("t"), "app.t WHERE id < 10", false),
        ("refresh_snapshot('app.through_snap')", emptied("part"), "app.part", true),
        ("refresh_snapshot('app.part_snap')", emptied("part"), "app.part", true),
        ("refresh_table('app.kept_tab')", "REFRESH MATERIALIZED VIEW app.kept".to_string(), "app.kept", true),
        ("refresh_table('app.wanted_tab')", emptied("wanted"), "app.t", true),
        ("refresh_dml('app.wanted_dml')", emptied("wanted"), "app.t", true),
        ("refresh_dml('app.wanted_dml', p_repull := true)", emptied("wanted"), "app.t", true),
        ("refresh_inserter('app.wanted_ins', p_repull := true)", emptied("wanted"), "app.t WHERE id < 10", true),
        ("refresh_inserter('app.wanted_ins')", emptied("wanted"), "app.t WHERE id BETWEEN 9 AND 11", true),
        ("refresh_group('g') -- 'app.wanted_one'", emptied("wanted"), "app.t WHERE id < 12", true),
        ("refresh_group('g') -- 'app.through_one'", emptied("part"), "app.part", true),
    ] {
        scene
            .owner()
            .batch_execute("UPDATE app.t SET v = v || '.' WHERE id < 9; UPDATE app.part SET v = v || '.'")
            .unwrap();
        if call == "refresh_inserter('app.wanted_ins')" {
            scene
                .owner()
                .batch_execute(
                    "INSERT INTO app.t VALUES (11, 'new'), (13, 'newest'); INSERT INTO app.wanted VALUES (11), (13)",
                )
                .unwrap();
        }
        if call.contains("wanted_one") {
            scene.owner().batch_execute("INSERT INTO app.t VALUES (12, 'unwanted')").unwrap();
        }
        check(&scene, &fake, (call, &change, rows), is_again.then_some(again));
    }
    scene.owner().batch_execute("DELETE FROM app.t WHERE id = 12; UPDATE app.ruled SET v = v || '.'").unwrap();
    check(&scene, &fake, ("refresh_table('app.wanted_tab')", replaced, "app.t"), Some(again));
    check(&scene, &fake, ("refresh_snapshot('app.ruled_snap')", &emptied("acl"), "app.ruled"), Some(again));
}

/// Refreshes, with `change` done right after the snapshot was opened (if nothing is in its way), and compares.
fn check(scene: &Scene, fake: &Fake, (call, change, rows): (&str, &str, &str), again: Option<&str>) {
    let (database, change) = (scene.database.clone(), format!("SET lock_timeout = '500ms'; {change}"));
    let done = AtomicBool::new(false);
    fake.play(move |moment| {
        // The first answer in the snapshot, of one table or of a group.
        let first = (moment.kind == b'D' && moment.statement.contains("'written', format_type"))
            || (moment.kind == b'C' && moment.statement.contains(" t(known)"));
        if first && !done.swap(true, Ordering::SeqCst) {
            let outcome = pair().source.superuser(&database).batch_execute(&change);
            assert!(outcome.is_ok() || support::sqlstate(&outcome) == "55P03", "{change}: {outcome:?}");
        }
        Act::Pass
    });
    let mut dba = scene.dba();
    dba.batch_execute(&format!("SELECT mimeo.{call}")).unwrap();
    let name = call.split('\'').rev().nth(1).unwrap();
    let name = if name.starts_with("app.") { name } else { call.split('\'').nth(1).unwrap() };
    let reason: String = one(
        &mut dba,
        &format!("SELECT coalesce(reason, '') FROM mimeo.run_history WHERE dest_table = '{name}' ORDER BY run_id DESC LIMIT 1"),
    );
    assert_eq!(reason.contains("begun again"), again.is_some(), "{call}: {reason}");
    assert!(again.is_none_or(|again| reason.contains(again)), "{call}: {reason}");
    let digest = |from: &str| {
        format!("SELECT count(*) || ' ' || md5(string_agg(t::text, ' ' ORDER BY id)) FROM (SELECT id, v FROM {from}) t")
    };
    let selected = rows.find(' ').map_or("", |at| &rows[at..]);
    let (here, there): (String, String) =
        (one(&mut dba, &digest(&format!("{name}{selected}"))), one(&mut scene.owner(), &digest(rows)));
    assert_eq!(here, there, "{call}: {reason}");
}

/// By a reset of one table's counters, which then reach the same numbers as before.
#[test]
fn counters_that_somebody_has_set_back_prove_nothing() {
    let scene = Scene::with_snapshot("promises_reset", 10);
    let mut dba = scene.dba();
    let mut superuser = scene.source_superuser();
    let refresh = "SELECT mimeo.refresh_snapshot('app.t')";
    let reset = "SELECT pg_stat_reset_single_table_counters('app.t'::regclass)";
    superuser.batch_execute(reset).unwrap();
    scene.change();
    dba.batch_execute(refresh).unwrap();
    dba.batch_execute(refresh).unwrap();
    assert_eq!(scene.last_status(), "skipped");
    superuser.batch_execute(reset).unwrap();
    scene.change();
    dba.batch_execute(refresh).unwrap();
    assert_eq!(scene.last_status(), "ok");
    assert_eq!(scene.changed_rows(2), 10);
}

#[test]
fn triggers_do_not_fire_for_replicas_unless_their_owner_says_so() {
    let scene = Scene::new("promises_replica", 10);
    let mut superuser = scene.source_superuser();
    superuser.batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader").unwrap();
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.dml_maker('app.t', 1)").unwrap();
    let replica = "BEGIN; SET LOCAL session_replication_role = replica; UPDATE app.t SET v = v || '!'; COMMIT";
    superuser.batch_execute(replica).unwrap();
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t')").unwrap();
    assert_eq!(scene.changed_rows(1), 0, "nobody has queued it");
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t', p_repull := true)").unwrap();
    assert_eq!(scene.changed_rows(1), 10);
    let triggers: String = one(
        &mut superuser,
        "SELECT string_agg(format('ALTER TABLE app.t ENABLE ALWAYS TRIGGER %I', tgname), '; ') FROM pg_trigger
          WHERE tgrelid = 'app.t'::regclass AND NOT tgisinternal",
    );
    superuser.batch_execute(&triggers).unwrap();
    superuser.batch_execute(replica).unwrap();
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t')").unwrap();
    assert_eq!(scene.changed_rows(2), 10);
    assert_eq!(scene.last_status(), "ok");
}

#[test]
fn a_failover_to_a_standby_that_had_lagged_is_mended_by_a_repull() {
    let scene = Scene::new("promises_failover", 10);
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.dml_maker('app.t', 1)").unwrap();
    let standby = standby("lagging");
    follow(&standby, &scene);
    let path = standby.dir().to_str().unwrap().to_string();
    script(&["stop", &path], "");
    scene.owner().batch_execute("DELETE FROM app.t WHERE id <= 3; UPDATE app.t SET v = v || '!'").unwrap();
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t')").unwrap();
    assert_eq!(scene.rows(), 7);
    // What the standby has not received is lost.
    let conf = standby.dir().join("data/postgresql.auto.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{settings}\nprimary_conninfo = ''\n")).unwrap();
    script(&["restart", &path], "");
    let mut there = standby.superuser(&scene.database);
    there.batch_execute("SELECT pg_promote(wait => true)").unwrap();
    wait_for("the promotion", || one(&mut there, "SELECT NOT pg_is_in_recovery()"));
    scene.set_source(standby.port);
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t', p_repull := true)").unwrap();
    let same =
        |client: &mut Client| -> String { one(client, "SELECT string_agg(t::text, ' ' ORDER BY id) FROM app.t t") };
    let mut promoted = standby.superuser(&scene.database);
    assert_eq!(scene.rows(), 10, "the deletes are lost");
    assert_eq!(same(&mut dba), same(&mut promoted));
    promoted.batch_execute("UPDATE app.t SET v = v || '?'").unwrap();
    dba.batch_execute("SELECT mimeo.refresh_dml('app.t')").unwrap();
    assert_eq!(same(&mut dba), same(&mut promoted));
}

/// The modes that a backend holds or waits for on relations of this name, but for its indexes.
fn locks(client: &mut Client, pid: i32, name: &str) -> String {
    one(
        client,
        &format!(
            "SELECT coalesce(string_agg(DISTINCT l.mode, ' ' ORDER BY l.mode), '') FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
              WHERE l.pid = {pid} AND c.relname = '{name}' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ),
    )
}

#[test]
fn locks_are_those_of_docs_locks() {
    let scene = Scene::new("promises_locks", 20_000);
    let mut dba = scene.dba();
    let mut looking = scene.destination_superuser();
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    scene.change();
    let (proxy, pid, call) = stuck(&scene, "SELECT mimeo.refresh_snapshot('app.t')");
    let live = one::<String>(&mut dba, "SELECT DISTINCT source.relname::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
        JOIN pg_class source ON source.oid = d.refobjid WHERE r.ev_class = 'app.t'::regclass AND source.relname LIKE 't\\_snap_'");
    let idle = if live == "t_snap1" { "t_snap2" } else { "t_snap1" };
    assert!(locks(&mut looking, pid, idle).contains("AccessExclusiveLock"), "the idle twin, from the beginning");
    for (name, most) in [("t", ""), (live.as_str(), "AccessShareLock")] {
        let held = locks(&mut looking, pid, name);
        assert!(held.is_empty() || held == most || held == "AccessShareLock", "{name}: {held}");
    }
    let there: String = one(
        &mut scene.source_superuser(),
        "SELECT string_agg(DISTINCT l.mode, ' ' ORDER BY l.mode) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
          WHERE a.application_name LIKE 'mimeo/%' AND a.datname = current_database() AND l.relation = 'app.t'::regclass",
    );
    assert_eq!(there, "AccessShareLock", "on the source, until the rows have come");
    support::terminate(&scene, pid, call);
    drop(proxy);
    scene.set_source(pair().source.port);

    dba.batch_execute("SELECT mimeo.snapshot_destroyer('app.t', false); SELECT mimeo.table_maker('app.t', 1)").unwrap();
    let (proxy, pid, call) = stuck(&scene, "SELECT mimeo.refresh_table('app.t')");
    let held = locks(&mut looking, pid, "t");
    assert!(held.contains("ShareUpdateExclusiveLock"), "{held}");
    for mode in ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"] {
        assert!(!held.split(' ').any(|found| found == mode), "{mode} on a table that is read and written");
    }
    support::terminate(&scene, pid, call);
    drop(proxy);
}
