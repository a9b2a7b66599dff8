//! Two clusters and databases on them, for tests that need several sessions or faults.

#![allow(dead_code)]

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod catalog;
pub mod fake;
pub mod load;
pub mod proxy;
pub mod random;
use proxy::Proxy;

/// A cluster made by tests/support/cluster.sh.
pub struct Cluster {
    dir: PathBuf,
    pub port: u16,
}

impl Cluster {
    pub fn start(dir: &Path, options: &str) -> Cluster {
        let port = script(&["start", dir.to_str().unwrap()], options).trim().parse().unwrap();
        Cluster { dir: dir.to_path_buf(), port }
    }

    /// One that was made otherwise.
    pub fn at(dir: &Path, port: u16) -> Cluster {
        Cluster { dir: dir.to_path_buf(), port }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn superuser(&self, database: &str) -> Client {
        self.try_superuser(database).unwrap()
    }

    pub fn try_superuser(&self, database: &str) -> Result<Client, postgres::Error> {
        Config::new().host_path(&self.dir).port(self.port).user("postgres").dbname(database).connect(NoTls)
    }

    pub fn connect(&self, user: &str, database: &str) -> Client {
        Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .password(format!("{user} secret"))
            .dbname(database)
            .connect(NoTls)
            .unwrap()
    }

    /// After a crash: until it takes connections again.
    pub fn wait_until_up(&self) {
        wait_for("the cluster to come back", || self.try_superuser("postgres").is_ok());
    }
}

pub fn script(arguments: &[&str], options: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/cluster.sh");
    let output = Command::new("bash")
        .arg(script)
        .args(arguments)
        .env("PG_OPTIONS", options)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "cluster.sh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A source and a destination, stopped when the process ends.
pub struct Pair {
    pub source: Cluster,
    pub destination: Cluster,
}

static RUN: OnceLock<PathBuf> = OnceLock::new();
static PAIR: OnceLock<Pair> = OnceLock::new();

/// Where this process keeps its clusters. They are stopped and removed when it ends.
pub fn run_dir() -> &'static Path {
    extern "C" fn clean_up() {
        if let Some(dir) = RUN.get() {
            script(&["stop-all", dir.to_str().unwrap()], "");
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    RUN.get_or_init(|| {
        let base = std::env::var_os("MIMEO_RUN_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(format!("mimeo_{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // SAFETY: registers a function that lives as long as the process.
        unsafe { libc::atexit(clean_up) };
        dir
    })
}

/// The clusters that the tests of one file share.
pub fn pair() -> &'static Pair {
    PAIR.get_or_init(|| {
        let pair = Pair {
            source: Cluster::start(&run_dir().join("source"), ""),
            destination: Cluster::start(&run_dir().join("destination"), ""),
        };
        pair.source
            .superuser("postgres")
            .batch_execute(
                "CREATE ROLE owner LOGIN PASSWORD 'owner secret'; CREATE ROLE reader LOGIN PASSWORD 'reader secret'",
            )
            .unwrap();
        pair.destination.superuser("postgres").batch_execute("CREATE ROLE dba LOGIN PASSWORD 'dba secret'").unwrap();
        pair
    })
}

/// A database on each side, with a source table app.t of `rows` rows, and mimeo, owned by a role that is no superuser.
pub struct Scene {
    pub database: String,
}

impl Scene {
    pub fn new(database: &str, rows: u32) -> Scene {
        let pair = pair();
        let create = |cluster: &Cluster, owner: &str| {
            cluster.superuser("postgres").batch_execute(&format!("CREATE DATABASE {database} OWNER {owner}")).unwrap();
        };
        create(&pair.source, "owner");
        create(&pair.destination, "dba");
        let scene = Scene { database: database.to_string() };
        scene
            .owner()
            .batch_execute(&format!(
                "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO reader;
                 ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO reader;
                 CREATE TABLE app.t (id int PRIMARY KEY, v text NOT NULL);
                 CREATE INDEX ON app.t (v);
                 INSERT INTO app.t SELECT i, 'value ' || i FROM generate_series(1, {rows}) i"
            ))
            .unwrap();
        scene
            .dba()
            .batch_execute(&format!(
                "CREATE EXTENSION mimeo; CREATE SCHEMA app; ALTER DATABASE {database} SET mimeo.swap_max_wait = '30s'"
            ))
            .unwrap();
        scene.set_source(pair.source.port);
        scene
    }

    /// Makes data source 1 lead to the source through this port.
    pub fn set_source(&self, port: u16) {
        let database = &self.database;
        self.dba()
            .batch_execute(&format!(
                "INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
                 VALUES (1, 'host=127.0.0.1 port={port} dbname={database}', 'reader', 'reader secret')
                 ON CONFLICT (data_source_id) DO UPDATE SET data_source = excluded.data_source, pwd = excluded.pwd"
            ))
            .unwrap();
    }

    /// What pg_dump writes of the destination.
    pub fn dump(&self, option: &str) -> String {
        let cluster = &pair().destination;
        let dump = Command::new("pg_dump")
            .args(["-h", cluster.dir().to_str().unwrap(), "-p", &cluster.port.to_string(), "-U", "postgres"])
            .args([option, &self.database])
            .output()
            .unwrap();
        assert!(dump.status.success(), "{dump:?}");
        String::from_utf8(dump.stdout).unwrap()
    }

    /// With a job that copies all rows each time that anything has changed.
    pub fn with_snapshot(database: &str, rows: u32) -> Scene {
        let scene = Scene::with_delta(database, rows);
        scene.dba().batch_execute("UPDATE mimeo.refresh_config SET delta = NULL").unwrap();
        scene
    }

    /// As a maker makes it.
    pub fn with_delta(database: &str, rows: u32) -> Scene {
        let scene = Scene::new(database, rows);
        scene.dba().batch_execute("SELECT mimeo.snapshot_maker('app.t', 1)").unwrap();
        scene
    }

    pub fn dba(&self) -> Client {
        pair().destination.connect("dba", &self.database)
    }

    pub fn owner(&self) -> Client {
        pair().source.connect("owner", &self.database)
    }

    pub fn source_superuser(&self) -> Client {
        pair().source.superuser(&self.database)
    }

    pub fn destination_superuser(&self) -> Client {
        pair().destination.superuser(&self.database)
    }

    /// Changes every row of the source, so that a refresh has something to do.
    pub fn change(&self) {
        self.owner().batch_execute("UPDATE app.t SET v = v || '!'; SELECT pg_stat_force_next_flush()").unwrap();
    }

    pub fn rows(&self) -> i64 {
        one(&mut self.dba(), "SELECT count(*) FROM app.t")
    }

    /// Rows that have been through `change` so many times.
    pub fn changed_rows(&self, times: usize) -> i64 {
        one(&mut self.dba(), &format!("SELECT count(*) FROM app.t WHERE v LIKE '%{}'", "!".repeat(times)))
    }

    pub fn last_status(&self) -> String {
        one(&mut self.dba(), "SELECT status FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")
    }

    /// Sessions of mimeo that are open on the source.
    pub fn source_sessions(&self) -> i64 {
        one(
            &mut self.source_superuser(),
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND application_name LIKE 'mimeo/%'",
        )
    }

    /// The backend that is refreshing, once it is in that phase.
    pub fn wait_for_phase(&self, phase: &str) -> i32 {
        let mut client = self.destination_superuser();
        let query = format!(
            "SELECT pid FROM pg_stat_activity
              WHERE datname = current_database() AND query LIKE 'mimeo.refresh_%(''app.t%''): {phase}'"
        );
        let mut pid = None;
        wait_for(&format!("a refresh in phase {phase}"), || {
            pid = client.query_opt(&query, &[]).unwrap().map(|row| row.get(0));
            pid.is_some()
        });
        pid.unwrap()
    }
}

pub type Background = JoinHandle<(Client, Result<(), postgres::Error>)>;

/// Refreshes a snapshot through a network that falls silent in the middle of the copy. The backend that is stuck.
pub fn stuck_in_copy(scene: &Scene) -> (Proxy, i32, Background) {
    scene.change();
    stuck(scene, REFRESH)
}

/// Runs a refresh of app.t through a network that falls silent in the middle of the copy.
pub fn stuck(scene: &Scene, statement: &str) -> (Proxy, i32, Background) {
    stuck_after(300_000, scene, statement)
}

/// The same, after so many bytes.
fn stuck_after(bytes: u64, scene: &Scene, statement: &str) -> (Proxy, i32, Background) {
    let proxy = Proxy::start(pair().source.port, bytes);
    scene.set_source(proxy.port);
    let refresh = in_background(scene.dba(), statement);
    let pid = scene.wait_for_phase("copy");
    wait_for("the network to be silent", || proxy.is_silent());
    (proxy, pid, refresh)
}

/// A refresh whose workers wait for rows, because the network has fallen silent after so many bytes, more than 8 MB of
/// rows: its backend, and one of its workers.
pub fn stuck_with_workers(bytes: u64, scene: &Scene, statement: &str) -> (Proxy, i32, i32, Background) {
    scene.change();
    let (proxy, pid, refresh) = stuck_after(bytes, scene, statement);
    let mut superuser = scene.destination_superuser();
    let mut worker = None;
    wait_for("workers that wait for rows", || {
        let query = "SELECT pid FROM pg_stat_activity WHERE leader_pid = $1 AND wait_event = 'Extension'";
        worker = superuser.query(query, &[&pid]).unwrap().first().map(|row| row.get(0));
        worker.is_some()
    });
    (proxy, pid, worker.unwrap(), refresh)
}

/// A refresh that copies, whatever the counters say.
pub const REFRESH: &str = "SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)";

pub fn one<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> T {
    client.query_one(query, &[]).unwrap().get(0)
}

/// Runs a statement in a thread with a session of its own.
pub fn in_background(mut client: Client, statement: &str) -> Background {
    let statement = statement.to_string();
    std::thread::spawn(move || {
        let outcome = client.batch_execute(&statement);
        (client, outcome)
    })
}

/// Waits for a state, up to a minute.
pub fn wait_for(what: &str, reached: impl FnMut() -> bool) {
    wait_for_minutes(1, what, reached);
}

pub fn wait_for_minutes(minutes: u64, what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    while !reached() {
        assert!(Instant::now() < end, "waited {minutes} min for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn sqlstate(outcome: &Result<(), postgres::Error>) -> String {
    match outcome {
        Ok(()) => "00000".to_string(),
        Err(error) => error.code().map_or_else(|| format!("no SQLSTATE: {error}"), |code| code.code().to_string()),
    }
}

/// Terminates a backend, and looks at what is said of its call. If the end of the connection comes together with the server's last
/// message, the client tells only of that; a crash would have ended the other session too.
pub fn terminate(scene: &Scene, pid: i32, call: Background) {
    let mut superuser = scene.destination_superuser();
    let since = Instant::now();
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    let error = call.join().unwrap().1.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{error}");
    superuser.batch_execute("SELECT 1").unwrap();
}

/// The error message that the server sent; empty without an error.
pub fn message(outcome: &Result<(), postgres::Error>) -> String {
    match outcome {
        Ok(()) => String::new(),
        Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_string()),
    }
}

/// Kills a backend, and waits until its cluster has noticed, thrown out everybody else, and come back.
pub fn crash(cluster: &Cluster, pid: i32) {
    let mut witness = cluster.superuser("postgres");
    // SAFETY: a backend of a cluster of this test's own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    wait_for("the crash to be noticed", || witness.simple_query("SELECT 1").is_err());
    cluster.wait_until_up();
}
