//! The scheduler: with shared_preload_libraries = 'mimeo', jobs run by themselves. Each test has a destination cluster of its
//! own.

mod support;

use std::path::PathBuf;
use support::proxy::Proxy;
use support::{crash, one, pair, run_dir, script, wait_for, wait_for_minutes, Cluster, Scene};

const OPTIONS: &str = "shared_preload_libraries = 'mimeo'\nmimeo.naptime = 1\nmax_worker_processes = 20";

/// A destination cluster whose scheduler looks after these databases, and a source.
struct Station {
    cluster: Cluster,
    dir: PathBuf,
    scene: Scene,
}

impl Station {
    fn new(name: &str, databases: &str) -> Station {
        let dir = run_dir().join(format!("station_{name}"));
        let cluster = Cluster::start(&dir, &format!("{OPTIONS}\nmimeo.databases = '{databases}'"));
        cluster.superuser("postgres").batch_execute("CREATE ROLE dba LOGIN PASSWORD 'dba secret'").unwrap();
        Station { cluster, dir, scene: Scene::new(name, 10) }
    }

    /// A database with a job that is due every second.
    fn database(&self, name: &str) {
        self.cluster.superuser("postgres").batch_execute(&format!("CREATE DATABASE {name} OWNER dba")).unwrap();
        let mut dba = self.cluster.connect("dba", name);
        dba.batch_execute(&format!(
            "CREATE EXTENSION mimeo; CREATE SCHEMA app;
             INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
             VALUES ('host=127.0.0.1 port={} dbname={}', 'reader', 'reader secret');
             SELECT mimeo.snapshot_maker('app.t', 1); UPDATE mimeo.refresh_config SET period = '1 second'",
            pair().source.port,
            self.scene.database
        ))
        .unwrap();
    }

    fn runs(&self, database: &str) -> i64 {
        one(&mut self.cluster.connect("dba", database), "SELECT count(*) FROM mimeo.run_history")
    }

    fn wait_for_runs(&self, database: &str) {
        let before = self.runs(database);
        wait_for(&format!("jobs in {database} to run"), || self.runs(database) >= before + 2);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn scheduler(&self) -> Option<i32> {
        self.cluster
            .superuser("postgres")
            .query_opt("SELECT pid FROM pg_stat_activity WHERE backend_type = 'mimeo scheduler'", &[])
            .unwrap()
            .map(|row| row.get(0))
    }
}

#[test]
fn jobs_run_by_themselves_in_several_databases_and_a_reload_adds_one() {
    let station = Station::new("several", "first, second, \"no where\"");
    for database in ["first", "second", "third"] {
        station.database(database);
    }
    station.wait_for_runs("first");
    station.wait_for_runs("second");
    assert_eq!(station.runs("third"), 1, "a database that is not named is left alone");
    let by: String = one(
        &mut station.cluster.connect("dba", "first"),
        "SELECT string_agg(DISTINCT run_by, ',') FROM mimeo.run_history WHERE status = 'skipped'",
    );
    assert_eq!(by, "dba", "as the role that created the extension");

    let mut superuser = station.cluster.superuser("postgres");
    superuser.batch_execute("ALTER SYSTEM SET mimeo.databases = 'third'").unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").unwrap();
    station.wait_for_runs("third");
    let said = station.log().matches("there is no database \"no where\"").count();
    assert_eq!(said, 1, "a database that is missing is said once, not every second");
}

#[test]
fn a_scheduler_that_is_terminated_comes_back() {
    let station = Station::new("terminated", "here");
    station.database("here");
    station.wait_for_runs("here");
    let first = station.scheduler().unwrap();
    station.cluster.superuser("postgres").execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_for("another scheduler", || station.scheduler().is_some_and(|pid| pid != first));
    station.wait_for_runs("here");
}

#[test]
fn a_scheduler_that_is_killed_comes_back() {
    let station = Station::new("killed", "here");
    station.database("here");
    station.wait_for_runs("here");
    let first = station.scheduler().unwrap();
    crash(&station.cluster, first);
    wait_for("another scheduler", || station.scheduler().is_some_and(|pid| pid != first));
    station.wait_for_runs("here");
}

#[test]
fn a_database_or_the_extension_may_go() {
    let station = Station::new("gone", "bare, dropped, here");
    for database in ["bare", "dropped", "here"] {
        station.database(database);
        station.wait_for_runs(database);
    }
    station.cluster.connect("dba", "bare").batch_execute("DROP EXTENSION mimeo CASCADE").unwrap();
    let mut superuser = station.cluster.superuser("postgres");
    wait_for("the database to be dropped", || superuser.batch_execute("DROP DATABASE dropped").is_ok());
    for _ in 0..3 {
        station.wait_for_runs("here");
    }
    let log = station.log();
    // A worker that had just been started when the database went ends so.
    let starting = |line: &str| line.contains("FATAL:  database ") && line.ends_with(" does not exist");
    assert!(!log.lines().any(|line| line.contains("FATAL") && !starting(line)), "{log}");
    let errors: Vec<_> =
        log.lines().filter(|line| line.contains("ERROR") && !line.contains("being accessed")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(log.matches("there is no database \"dropped\"").count(), 2, "once before it was made, once after");
    // And it may come again.
    station.cluster.connect("dba", "bare").batch_execute("DROP SCHEMA app CASCADE").unwrap();
    superuser.batch_execute("DROP DATABASE bare").unwrap();
    station.database("bare");
    station.wait_for_runs("bare");
}

#[test]
fn nothing_runs_on_a_standby_until_it_is_promoted() {
    let station = Station::new("on_standby", "here");
    station.database("here");
    station.wait_for_runs("here");
    let dir = run_dir().join("station_standby");
    script(&["standby", dir.to_str().unwrap(), station.dir.to_str().unwrap()], "");
    let port = script(&["restart", dir.to_str().unwrap()], "").trim().parse().unwrap();
    let standby = Cluster::at(&dir, port);
    let mut superuser = standby.superuser("here");
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'mimeo%'";
    // The standby sees the primary's runs.
    let runs: i64 = one(&mut superuser, "SELECT count(*) FROM mimeo.run_history");
    wait_for("the standby to follow", || {
        one::<i64>(&mut superuser, "SELECT count(*) FROM mimeo.run_history") > runs + 1
    });
    assert_eq!(one::<i64>(&mut superuser, workers), 0, "no scheduler on a standby");

    script(&["stop", station.dir.to_str().unwrap()], "");
    superuser.batch_execute("SELECT pg_promote()").unwrap();
    let runs: i64 = one(&mut superuser, "SELECT count(*) FROM mimeo.run_history");
    wait_for("the promoted server to run jobs", || {
        one::<i64>(&mut superuser, "SELECT count(*) FROM mimeo.run_history") > runs + 1
    });
}

#[test]
fn a_job_that_fails_or_hangs_does_not_hold_the_others_back() {
    let station = Station::new("hangs", "here");
    station.database("here");
    let mut dba = station.cluster.connect("dba", "here");
    let proxy = Proxy::start(pair().source.port, 0);
    dba.batch_execute(&format!(
        "SELECT mimeo.snapshot_maker('app.t', 1, 'app.broken');
         SELECT mimeo.snapshot_maker('app.t', 1, 'app.hanging');
         INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
         VALUES ('host=127.0.0.1 port={} dbname={} connect_timeout=3600', 'reader', 'reader secret');
         UPDATE mimeo.refresh_config SET source_table = 'app.nowhere' WHERE dest_table = 'app.broken';
         UPDATE mimeo.refresh_config SET dblink = 2 WHERE dest_table = 'app.hanging';
         UPDATE mimeo.refresh_config SET period = '1 second'",
        proxy.port, station.scene.database
    ))
    .unwrap();
    let mut count = |dest_table: &str, status: &str| -> i64 {
        dba.query_one(
            "SELECT count(*) FROM mimeo.run_history WHERE dest_table = $1 AND status = $2",
            &[&dest_table, &status],
        )
        .unwrap()
        .get(0)
    };
    let before = count("app.t", "skipped");
    wait_for("the good job to run, and the broken one to fail", || {
        count("app.t", "skipped") > before + 3 && count("app.broken", "critical") > 2
    });
    assert_eq!(count("app.hanging", "ok") + count("app.hanging", "critical"), 1, "it has run once: by its maker");
    assert!(station.log().contains("mimeo scheduler: 1 of"), "the server's log tells of the failure");
    let workers: i64 = one(
        &mut station.cluster.superuser("here"),
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mimeo worker'",
    );
    assert!(workers <= 2, "{workers} workers, mimeo.max_workers is 2");
}

/// docs/howto.md says how: both ways in which pg_cron runs a command, a background worker and a connection.
#[test]
fn pg_cron_runs_what_is_due_in_a_worker_and_by_a_connection() {
    let available = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_cron')";
    if !one::<bool>(&mut pair().destination.superuser("postgres"), available) {
        eprintln!("left out: there is no pg_cron for this server");
        return;
    }
    let mut stations = Vec::new();
    for (name, in_worker) in [("cron_worker", "on"), ("cron_connection", "off")] {
        let dir = run_dir().join(format!("station_{name}"));
        // pg_cron connects by the socket, where the bootstrap superuser needs no password.
        let options = format!(
            "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'here'\ncron.host = '{}'\ncron.use_background_workers = {in_worker}\n\
             cron.log_run = on",
            dir.display()
        );
        let station = Station { cluster: Cluster::start(&dir, &options), dir, scene: Scene::new(name, 10) };
        station.cluster.superuser("postgres").batch_execute("CREATE ROLE dba LOGIN PASSWORD 'dba secret'").unwrap();
        station.database("here");
        let mut superuser = station.cluster.superuser("here");
        superuser.batch_execute("CREATE EXTENSION pg_cron").unwrap();
        let before = station.runs("here");
        superuser.batch_execute("SELECT cron.schedule('mimeo', '* * * * *', 'CALL mimeo.run_refresh()')").unwrap();
        stations.push((station, superuser, before));
    }
    for (station, superuser, before) in &mut stations {
        // The first call comes with the next minute, and is waited for as long again.
        let ran = || station.runs("here") > *before;
        wait_for_minutes(2, "pg_cron to call run_refresh", ran);
        let status = "SELECT coalesce(string_agg(DISTINCT status, ','), '') FROM cron.job_run_details WHERE status IN ('succeeded', 'failed')";
        wait_for("pg_cron to record it", || one::<String>(superuser, status) == "succeeded");
    }
}
