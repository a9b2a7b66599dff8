//! When identities of rows stop being proof: a crash of the source that takes commits back, a standby that had lagged and is promoted, a copy of
//! an earlier state that is started instead, transaction IDs that come again. It crashes whole clusters, so it has clusters of its own.

mod support;

use postgres::Client;
use std::path::Path;
use std::process::Command;
use support::{crash, one, pair, run_dir, script, wait_for, Cluster, Scene};

/// Whatever the counters say.
const DELTA: &str = "SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)";

fn reason(dba: &mut Client) -> String {
    one(dba, "SELECT concat(status, ': ', reason) FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")
}

fn rows(client: &mut Client) -> Vec<(i32, String)> {
    client
        .query("SELECT id, v FROM app.t ORDER BY id, v", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

/// The newest row of the source: its version, and what it holds.
fn newest(client: &mut Client) -> (String, String) {
    let row =
        client.query_one("SELECT ctid::text || ' ' || xmin::text, v FROM app.t ORDER BY id DESC LIMIT 1", &[]).unwrap();
    (row.get(0), row.get(1))
}

/// A source of its own, whose WAL is flushed by nobody but who asks for it.
fn source(name: &str, options: &str) -> Cluster {
    let options = format!("autovacuum = off\nwal_writer_delay = 10s\n{options}");
    let cluster = Cluster::start(&run_dir().join(name), &options);
    cluster
        .superuser("postgres")
        .batch_execute(
            "CREATE ROLE owner LOGIN PASSWORD 'owner secret'; CREATE ROLE reader LOGIN PASSWORD 'reader secret'",
        )
        .unwrap();
    cluster
        .superuser("postgres")
        .batch_execute(
            "CREATE SCHEMA app AUTHORIZATION owner; GRANT USAGE ON SCHEMA app TO reader; SET ROLE owner;
             CREATE TABLE app.t (id int PRIMARY KEY, v text NOT NULL); GRANT SELECT ON app.t TO reader;
             INSERT INTO app.t SELECT i, 'v' || i FROM generate_series(1, 1000) i",
        )
        .unwrap();
    cluster
}

fn lead_to(dba: &mut Client, port: u16) {
    dba.batch_execute(&format!(
        "INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
         VALUES (1, 'host=127.0.0.1 port={port} dbname=postgres', 'reader', 'reader secret')
         ON CONFLICT (data_source_id) DO UPDATE SET data_source = excluded.data_source, pwd = excluded.pwd"
    ))
    .unwrap();
}

fn as_postgres(program: &Path, arguments: &[&str]) {
    // SAFETY: asks for the user.
    let mut command = match unsafe { libc::geteuid() } {
        0 => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    };
    let output = command.args(arguments).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{program:?} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn program(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    Path::new(std::fs::read_to_string(cluster.dir().join("bin")).unwrap().trim()).join(name)
}

/// Uses transaction IDs up, so that the next one is that of a version that was seen. There a refresh may have used one: it flushes the WAL by a
/// commit, and from PostgreSQL 19 on those who read write WAL, too.
fn go_on_to(writer: &mut Client, version: &str) {
    let wanted: i64 = version.rsplit(' ').next().unwrap().parse().unwrap();
    while one::<i64>(writer, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint") < wanted {
        writer.batch_execute("SELECT pg_current_xact_id()").unwrap();
    }
}

fn stop(cluster: &Cluster) {
    let data = cluster.dir().join("data");
    as_postgres(&program(cluster, "pg_ctl"), &["-D", data.to_str().unwrap(), "-m", "fast", "-w", "stop"]);
}

fn restart(cluster: &Cluster) {
    script(&["restart", cluster.dir().to_str().unwrap()], "");
}

#[test]
fn versions_prove_nothing_once_history_was_another() {
    let scene = Scene::new("delta_history", 1);
    let mut dba = scene.dba();
    commits_that_a_crash_takes_back(&mut dba);
    a_standby_that_had_lagged_is_promoted(&mut dba);
    a_copy_of_an_earlier_state_is_started(&mut dba);
    the_epoch_turns(&mut dba);
    a_crash_here_loses_what_was_counted(&scene);
}

/// With synchronous_commit = off a commit that was seen may be lost in a crash, and its transaction ID be used again.
fn commits_that_a_crash_takes_back(dba: &mut Client) {
    let source = source("async", "synchronous_commit = off\nfsync = on");
    lead_to(dba, source.port);
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    for round in 0..3 {
        let mut writer = source.superuser("postgres");
        // The page that the row goes to is in the WAL after this, so that the row itself is a small record, which the WAL writer leaves.
        writer
            .batch_execute(&format!(
                "CHECKPOINT; SET synchronous_commit = on; INSERT INTO app.t VALUES ({}, 'kept'); SET synchronous_commit = off",
                500_000 - round
            ))
            .unwrap();
        dba.batch_execute(DELTA).unwrap();
        writer.batch_execute(&format!("INSERT INTO app.t VALUES ({}, 'before the crash')", 600_000 + round)).unwrap();
        let before = newest(&mut writer);
        dba.batch_execute(DELTA).unwrap();
        assert!(reason(dba).starts_with("ok: delta: 1 rows came"), "{}", reason(dba));
        let pid = one(&mut writer, "SELECT pg_backend_pid()");
        crash(&source, pid);
        let mut writer = source.superuser("postgres");
        writer
            .batch_execute(&format!(
                "INSERT INTO app.t VALUES ({}, 'after the crash') ON CONFLICT DO NOTHING",
                600_000 + round
            ))
            .unwrap();
        let after = newest(&mut writer);
        assert!(before.0 != after.0 || before.1 == after.1, "the same version twice: {before:?}, {after:?}");
        dba.batch_execute(DELTA).unwrap();
        assert_eq!(rows(dba), rows(&mut writer), "{}", reason(dba));
    }
    dba.batch_execute("SELECT mimeo.snapshot_destroyer('app.t', false)").unwrap();
    script(&["stop", source.dir().to_str().unwrap()], "");
}

/// It hands out the same transaction IDs and places again, with other contents.
fn a_standby_that_had_lagged_is_promoted(dba: &mut Client) {
    let primary = source("primary", "");
    let dir = run_dir().join("lagging");
    script(&["standby", dir.to_str().unwrap(), primary.dir().to_str().unwrap()], "");
    let port = script(&["restart", dir.to_str().unwrap()], "").trim().parse().unwrap();
    let standby = Cluster::at(&dir, port);
    wait_for("the standby to follow", || {
        standby
            .try_superuser("postgres")
            .is_ok_and(|mut client| one::<i64>(&mut client, "SELECT count(*) FROM pg_class WHERE relname = 't'") == 1)
    });
    lead_to(dba, primary.port);
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    let position: String = one(&mut primary.superuser("postgres"), "SELECT pg_current_wal_insert_lsn()::text");
    primary.superuser("postgres").batch_execute("SELECT pg_switch_wal()").unwrap();
    wait_for("the standby to have all of it", || {
        one(&mut standby.superuser("postgres"), &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"))
    });
    // The standby stays behind from here on.
    script(&["stop", dir.to_str().unwrap()], "");
    let mut writer = primary.superuser("postgres");
    writer.batch_execute("INSERT INTO app.t VALUES (2000, 'on the primary')").unwrap();
    let there = newest(&mut writer);
    dba.batch_execute(DELTA).unwrap();
    assert!(reason(dba).starts_with("ok: delta: 1 rows came"), "{}", reason(dba));
    stop(&primary);

    restart(&standby);
    as_postgres(&program(&primary, "pg_ctl"), &["-D", dir.join("data").to_str().unwrap(), "-w", "promote"]);
    let mut writer = standby.superuser("postgres");
    // Promotion itself takes no transaction ID.
    go_on_to(&mut writer, &there.0);
    writer.batch_execute("INSERT INTO app.t VALUES (2000, 'on the promoted standby')").unwrap();
    let here = newest(&mut writer);
    assert_eq!(there.0, here.0, "the same version, which is what this is about");
    assert_ne!(there.1, here.1);
    lead_to(dba, standby.port);
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(rows(dba), rows(&mut writer), "{}", reason(dba));
    assert!(reason(dba).contains("no delta: "), "{}", reason(dba));
    dba.batch_execute("SELECT mimeo.snapshot_destroyer('app.t', false)").unwrap();
    script(&["stop", dir.to_str().unwrap()], "");
}

/// A restored virtual machine, or a snapshot of the file system: the same server, port and timeline.
fn a_copy_of_an_earlier_state_is_started(dba: &mut Client) {
    let source = source("restored", "");
    stop(&source);
    let (data, kept) = (source.dir().join("data"), source.dir().join("kept"));
    as_postgres(Path::new("/bin/cp"), &["-a", data.to_str().unwrap(), kept.to_str().unwrap()]);
    restart(&source);
    lead_to(dba, source.port);
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    let mut writer = source.superuser("postgres");
    writer.batch_execute("INSERT INTO app.t VALUES (2000, 'in the time that is taken back')").unwrap();
    let there = newest(&mut writer);
    dba.batch_execute(DELTA).unwrap();
    assert!(reason(dba).starts_with("ok: delta: 1 rows came"), "{}", reason(dba));
    drop(writer);
    stop(&source);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    restart(&source);
    let mut writer = source.superuser("postgres");
    go_on_to(&mut writer, &there.0);
    writer.batch_execute("INSERT INTO app.t VALUES (2000, 'after the restore')").unwrap();
    let here = newest(&mut writer);
    assert_eq!(there.0, here.0, "the same version, which is what this is about");
    // It may have gone on for longer than before.
    writer.batch_execute("INSERT INTO app.t SELECT i, repeat('x', 1000) FROM generate_series(2001, 2050) i").unwrap();
    dba.batch_execute(DELTA).unwrap();
    assert_eq!(rows(dba), rows(&mut writer), "{}", reason(dba));
    assert!(reason(dba).contains("no delta: "), "{}", reason(dba));
    dba.batch_execute("SELECT mimeo.snapshot_destroyer('app.t', false)").unwrap();
    script(&["stop", source.dir().to_str().unwrap()], "");
}

/// A cluster whose transaction IDs are just below the point where they begin again.
fn the_epoch_turns(dba: &mut Client) {
    let source = source("epoch", "");
    // Not further than half of the IDs at a time, with all rows frozen in between.
    for next in [1_500_000_000_u32, 3_000_000_000, 4_294_967_200] {
        stop(&source);
        advance(&source, next);
        restart(&source);
        source
            .superuser("postgres")
            .batch_execute("UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'")
            .unwrap();
        for database in ["postgres", "template1", "template0"] {
            source.superuser(database).batch_execute("VACUUM FREEZE").unwrap();
        }
        source.superuser("postgres").batch_execute("CHECKPOINT").unwrap();
    }
    lead_to(dba, source.port);
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    let mut writer = source.superuser("postgres");
    let (mut turned, mut deltas) = (false, 0);
    for round in 0..40 {
        for row in 0..5 {
            let id = 2000 + round * 5 + row;
            writer
                .batch_execute(&format!(
                    "INSERT INTO app.t VALUES ({id}, 'round {round}'); UPDATE app.t SET v = v || '.' WHERE id = {}",
                    id - 1999
                ))
                .unwrap();
        }
        dba.batch_execute(DELTA).unwrap();
        // On a busy machine a delta takes longer than a copy at times; the next refreshes copy all rows then.
        let told = reason(dba);
        if !told.ends_with("no delta: the last one was not faster than a copy") {
            let there = 1000 + round * 5;
            assert_eq!(told, format!("ok: delta: 10 rows came, 5 were deleted, {there} were there"), "round {round}");
            deltas += 1;
        }
        assert_eq!(rows(dba), rows(&mut writer));
        let next: String = one(&mut writer, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text");
        turned |= next.parse::<u64>().unwrap() > u64::from(u32::MAX);
    }
    assert!(turned, "the transaction IDs have begun again");
    assert!(deltas >= 20, "{deltas} deltas of 40");
    // A row of the time before whose ID, without its epoch, is that of a transaction that has run since: it cannot be told from a newer
    // one, and comes again.
    dba.batch_execute("SELECT mimeo.snapshot_destroyer('app.t', false)").unwrap();
    script(&["stop", source.dir().to_str().unwrap()], "");
}

/// Sets the next transaction ID of a stopped cluster.
fn advance(cluster: &Cluster, next: u32) {
    let data = cluster.dir().join("data");
    // The page of pg_xact that it lies on has to be there: 2^20 transactions a file.
    let segment = data.join("pg_xact").join(format!("{:04X}", next >> 20));
    if !segment.exists() {
        std::fs::write(&segment, vec![0; 256 * 1024]).unwrap();
        as_postgres_owner(&segment);
    }
    as_postgres(&program(cluster, "pg_resetwal"), &["-f", "-x", &next.to_string(), data.to_str().unwrap()]);
}

fn as_postgres_owner(file: &Path) {
    // SAFETY: asks for the user.
    if unsafe { libc::geteuid() } == 0 {
        assert!(Command::new("chown").arg("postgres:postgres").arg(file).status().unwrap().success());
    }
}

/// A crash of a backend resets the counters that tell that somebody has written to a twin, while the postmaster goes on.
fn a_crash_here_loses_what_was_counted(scene: &Scene) {
    scene.set_source(pair().source.port);
    let mut dba = scene.dba();
    let mut owner = scene.owner();
    owner.batch_execute("INSERT INTO app.t SELECT i, 'v' || i FROM generate_series(2, 3000) i").unwrap();
    dba.batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
    for refresh in [DELTA, "SELECT mimeo.refresh_snapshot('app.t')"] {
        let live: String = one(
            &mut dba,
            "SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
              WHERE r.ev_class = 'app.t'::regclass AND d.refobjid <> r.ev_class AND d.refclassid = 'pg_class'::regclass",
        );
        dba.batch_execute(&format!(
            "UPDATE {live} SET v = 'by hand' WHERE id = 1000; DELETE FROM {live} WHERE id = 1001"
        ))
        .unwrap();
        let pid = one(&mut dba, "SELECT pg_backend_pid()");
        crash(&pair().destination, pid);
        dba = scene.dba();
        dba.batch_execute(refresh).unwrap();
        assert_eq!(rows(&mut dba), rows(&mut owner), "{}", reason(&mut dba));
    }
}
