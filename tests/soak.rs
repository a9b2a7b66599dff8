//! About twenty jobs of all methods for a while, with writers, readers, columns that come and go, and backends that are
//! cancelled, terminated and killed on both sides. In the end every destination holds what its method promises, and
//! nothing is left over.
//!
//! MIMEO_SOAK_SECONDS (40) is the length, MIMEO_SOAK_SEED makes the same choices again.

mod support;

use postgres::{Client, Config, NoTls};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::load::{commit_prepared, Dice};
use support::{one, pair, wait_for, Cluster, Scene};

const DATABASE: &str = "soak";

/// The rows of app.items and app.parts that are there all the time; those of items share the same sum at every moment.
const ANCHORS: i64 = 300;
const SUM: i64 = ANCHORS * 1000;

/// What a backend may grow by, in its memory contexts, and in its heap for the allocator's gaps.
const CONTEXT_SLACK: i64 = 512 * 1024;
/// And by so much for each refresh: PostgreSQL's caches keep what they have looked up of tables that are gone since, some
/// hundred bytes for each that is made and dropped, whoever does it.
const REMEMBERED: i64 = 2048;
const HEAP_SLACK: i64 = 4 * 1024 * 1024;

struct Job {
    method: &'static str,
    destination: &'static str,
    source: &'static str,
    /// What the maker gets behind source table, data source and destination; of inserter and updater all of it.
    more: &'static str,
    condition: &'static str,
}

const fn job(method: &'static str, destination: &'static str, source: &'static str, more: &'static str) -> Job {
    Job { method, destination, source, more, condition: "" }
}

const JOBS: [Job; 21] = [
    job("snapshot", "s_items", "items", ""),
    job("snapshot", "s_kept", "items", ""),
    job("snapshot", "s_filter", "items", ", p_filter := '{id,w}'"),
    Job {
        method: "snapshot",
        destination: "s_third",
        source: "items",
        more: ", p_condition := 'WHERE id % 3 = 0'",
        condition: "WHERE id % 3 = 0",
    },
    job("snapshot", "s_parts", "parts", ""),
    job("table", "t_items", "items", ""),
    job("table", "t_trigger", "items", ""),
    job("table", "t_parent", "items", ""),
    job("table", "t_parts", "parts", ""),
    job("inserter", "i_id", "events", "'serial', 'id'"),
    job("inserter", "i_at", "events", "'time', 'at'"),
    job("updater", "u_rev", "states", "'serial', 'rev'"),
    job("updater", "u_at", "states", "'time', 'at'"),
    job("dml", "d_items", "items", ""),
    Job {
        method: "dml",
        destination: "d_even",
        source: "items",
        more: ", p_condition := 'WHERE w % 2 = 0'",
        condition: "WHERE w % 2 = 0",
    },
    job("dml", "d_parts", "parts", ""),
    job("dml", "d_pairs", "pairs", ""),
    job("logdel", "l_items", "items", ""),
    job("logdel", "l_parts", "parts", ""),
    job("logdel", "l_pairs", "pairs", ""),
    job("dml", "d_states", "states", ""),
];

const TABLES: [&str; 5] = ["items", "parts", "pairs", "events", "states"];

impl Job {
    fn make(&self) -> String {
        let Job { method, destination, source, more, .. } = self;
        match *method {
            "inserter" | "updater" => {
                format!("SELECT mimeo.{method}_maker('app.{source}', {more}, 1, p_dest_table := 'app.{destination}')")
            }
            _ => format!("SELECT mimeo.{method}_maker('app.{source}', 1, 'app.{destination}'{more})"),
        }
    }

    fn refresh(&self, options: &str) -> String {
        format!("SELECT mimeo.refresh_{}('app.{}'{options})", self.method, self.destination)
    }

    /// The caller alters the destination when columns of its source change.
    fn is_altered(&self) -> bool {
        self.method != "snapshot" && !self.follows()
    }

    /// The job follows the columns of its source.
    fn follows(&self) -> bool {
        self.method != "snapshot" && self.destination.len().is_multiple_of(2)
    }

    /// A part of its changes may come without the others.
    fn may_be_limited(&self) -> bool {
        matches!(self.method, "dml" | "logdel") && self.source != "items"
    }
}

/// What all threads share.
struct Soak {
    scene: Scene,
    seed: u64,
    stop: AtomicBool,
    /// No cluster is killed any more.
    calm: AtomicBool,
    /// The backend whose memory is measured.
    lasting: AtomicI32,
    /// Held by who disturbs others, and by who must not be disturbed.
    disturbing: Mutex<()>,
    tally: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<Vec<String>>,
    /// Of each source table, the columns that came during the test.
    columns: Mutex<BTreeMap<&'static str, Vec<String>>>,
}

impl Soak {
    fn dice(&self, thread: u64) -> Dice {
        Dice(self.seed.wrapping_mul(1_000_003).wrapping_add(thread))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn count(&self, what: impl Into<String>) {
        *self.tally.lock().unwrap().entry(what.into()).or_insert(0) += 1;
    }

    fn counted(&self, what: &str) -> u64 {
        self.tally.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    fn fault(&self, what: String) {
        eprintln!("fault: {what}");
        self.faults.lock().unwrap().push(what);
    }
}

/// A session that connects again after whatever happened to it.
struct Session {
    cluster: &'static Cluster,
    user: &'static str,
    client: Option<Client>,
}

impl Session {
    fn source() -> Session {
        Session { cluster: &pair().source, user: "owner", client: None }
    }

    fn destination() -> Session {
        Session { cluster: &pair().destination, user: "dba", client: None }
    }

    fn client(&mut self) -> Option<&mut Client> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Config::new()
                .host("127.0.0.1")
                .port(self.cluster.port)
                .user(self.user)
                .password(format!("{} secret", self.user))
                .dbname(DATABASE)
                .connect(NoTls)
                .ok();
            if self.client.is_none() {
                std::thread::sleep(Duration::from_millis(30));
            }
        }
        self.client.as_mut()
    }

    /// None without a connection; else what became of the statements, and the session is outside of a transaction.
    fn run(&mut self, statements: &str) -> Option<Result<(), postgres::Error>> {
        let client = self.client()?;
        let outcome = client.batch_execute(statements);
        if outcome.is_err() {
            let _ = client.batch_execute("ROLLBACK");
        }
        Some(outcome)
    }

    /// Until it works. A lock that is not to be had is left to the others in between.
    fn insist(&mut self, soak: &Soak, statement: &str) {
        let statement = format!("SET lock_timeout = '1s'; {statement}");
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.run(&statement) {
                Some(Ok(())) => return,
                Some(Err(error)) if Instant::now() > end => return soak.fault(format!("{statement}: {error}")),
                _ => std::thread::sleep(Duration::from_millis(30)),
            }
        }
    }
}

fn state_of(error: &postgres::Error) -> String {
    error.code().map_or_else(|| "closed".to_string(), |code| code.code().to_string())
}

/// What happens to sessions that are cancelled, terminated, or in a cluster that is killed.
const DISTURBED: [&str; 7] = ["closed", "57014", "57P01", "57P02", "57P03", "08006", "08001"];

/// What a refresh may fail with: that, a column that is missing, locks, and a call of which a job failed.
fn is_expected(state: &str) -> bool {
    DISTURBED.contains(&state) || ["42804", "55P03", "40P01", "40001", "38000"].contains(&state)
}

const SOURCE: &str = "
    ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT TRIGGER ON TABLES TO reader;
    CREATE SEQUENCE app.ids START 10000; CREATE SEQUENCE app.revisions;
    CREATE TABLE app.items (id bigint PRIMARY KEY, v text NOT NULL, w bigint NOT NULL, doc jsonb);
    CREATE INDEX ON app.items (w);
    CREATE TABLE app.parts (region int, id bigint, v text, w numeric, PRIMARY KEY (region, id))
        PARTITION BY LIST (region);
    CREATE TABLE app.parts0 PARTITION OF app.parts FOR VALUES IN (0);
    CREATE TABLE app.parts1 PARTITION OF app.parts FOR VALUES IN (1);
    CREATE TABLE app.parts2 PARTITION OF app.parts FOR VALUES IN (2);
    CREATE TABLE app.pairs (a bigint, b text, v text, at timestamp DEFAULT now(), PRIMARY KEY (a, b));
    CREATE TABLE app.events (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), v text);
    CREATE INDEX ON app.events (at);
    CREATE TABLE app.states (id bigint PRIMARY KEY, rev bigint NOT NULL DEFAULT nextval('app.revisions'),
                             at timestamptz NOT NULL DEFAULT now(), v text);
    CREATE INDEX ON app.states (rev); CREATE INDEX ON app.states (at);
    CREATE TABLE app.graves (tab text, key text);
    CREATE FUNCTION app.bury() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE was text := (SELECT string_agg(to_jsonb(old)->>k, ' ') FROM unnest(tg_argv[1:]) k);
    BEGIN
        IF tg_op = 'DELETE' OR was <> (SELECT string_agg(to_jsonb(new)->>k, ' ') FROM unnest(tg_argv[1:]) k) THEN
            INSERT INTO app.graves VALUES (tg_argv[0], was);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER bury AFTER DELETE OR UPDATE ON app.items FOR EACH ROW EXECUTE FUNCTION app.bury('items', 'id');
    CREATE TRIGGER bury AFTER DELETE OR UPDATE ON app.parts FOR EACH ROW
        EXECUTE FUNCTION app.bury('parts', 'region', 'id');
    CREATE TRIGGER bury AFTER DELETE OR UPDATE ON app.pairs FOR EACH ROW EXECUTE FUNCTION app.bury('pairs', 'a', 'b');
    INSERT INTO app.items SELECT i, 'anchor', 1000 FROM generate_series(1, 300) i;
    INSERT INTO app.items SELECT nextval('app.ids'), 'v', i FROM generate_series(1, 3000) i;
    INSERT INTO app.parts SELECT i % 3, i, 'anchor', i FROM generate_series(1, 300) i;
    INSERT INTO app.parts SELECT i % 3, nextval('app.ids'), 'v', i FROM generate_series(1, 2000) i;
    INSERT INTO app.pairs SELECT nextval('app.ids'), 'b' || i, 'v' FROM generate_series(1, 2000) i;
    INSERT INTO app.events (v) SELECT 'v' FROM generate_series(1, 500) i;
    INSERT INTO app.states SELECT nextval('app.ids') FROM generate_series(1, 2000) i";

const DESTINATION: &str = "
    CREATE TABLE app.t_parts (region int, id bigint, v text, w numeric, PRIMARY KEY (region, id))
        PARTITION BY HASH (id);
    CREATE TABLE app.t_parts0 PARTITION OF app.t_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE app.t_parts1 PARTITION OF app.t_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE app.d_parts (region int, id bigint, v text, w numeric, PRIMARY KEY (region, id))
        PARTITION BY LIST (region);
    CREATE TABLE app.d_parts0 PARTITION OF app.d_parts FOR VALUES IN (0, 2);
    CREATE TABLE app.d_parts1 PARTITION OF app.d_parts DEFAULT";

const AFTER_MAKERS: &str = "
    CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER nothing BEFORE INSERT ON app.t_trigger FOR EACH ROW EXECUTE FUNCTION app.nothing();
    CREATE TABLE app.children (item bigint REFERENCES app.t_parent);
    INSERT INTO app.children SELECT generate_series(1, 300);
    UPDATE mimeo.refresh_config_table SET truncate_cascade = false;
    UPDATE mimeo.refresh_config_snap SET keep_previous = true WHERE dest_table = 'app.s_kept';
    UPDATE mimeo.refresh_config SET period = '1 second';
    SELECT mimeo.refresh_table('app.t_parts');
    SELECT mimeo.refresh_dml('app.d_parts', p_repull := true)";

fn soak(seed: u64) -> Soak {
    let scene = Scene::new(DATABASE, 0);
    scene.owner().batch_execute(SOURCE).unwrap();
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene
        .destination_superuser()
        .batch_execute("GRANT pg_read_all_stats TO dba; ALTER DATABASE soak SET mimeo.writer_wait = '200ms'")
        .unwrap();
    scene.dba().batch_execute(DESTINATION).unwrap();
    for job in &JOBS {
        scene.dba().batch_execute(&job.make()).unwrap();
        if job.is_altered() {
            let config = format!(
                "UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table = 'app.{}'",
                job.destination
            );
            scene.dba().batch_execute(&config).unwrap();
        }
    }
    scene.dba().batch_execute(AFTER_MAKERS).unwrap();
    Soak {
        scene,
        seed,
        stop: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        lasting: AtomicI32::new(0),
        disturbing: Mutex::default(),
        tally: Mutex::default(),
        faults: Mutex::default(),
        columns: Mutex::default(),
    }
}

/// A change of one table, with a column that came meanwhile.
fn change(table: &str, dice: &mut Dice, column: Option<&String>) -> String {
    let n = dice.roll(1000);
    let (named, value) = column.map_or_else(Default::default, |c| (format!(", {c}"), format!(", {n}")));
    let set = column.map_or_else(String::new, |c| format!(", {c} = {n}"));
    let some = |key: &str| format!("WHERE {key} > {ANCHORS} AND {key} % 97 = {}", n % 97);
    let count = 1 + dice.roll(40);
    let many = format!("FROM generate_series(1, {count}) i");
    match (table, dice.roll(6)) {
        ("events", _) => format!("INSERT INTO app.events (v{named}) SELECT 'e' || i{value} {many}"),
        ("items", 0) => {
            format!("INSERT INTO app.items (id, v, w{named}) SELECT nextval('app.ids'), 'new', i{value} {many}")
        }
        ("items", 1) => {
            let (from, to) = (1 + n % 100, 1 + n % 100 + 3 * (1 + dice.roll(60)));
            format!(
                "UPDATE app.items SET w = w + CASE id WHEN {from} THEN {count} ELSE -{count} END
                  WHERE id IN ({from}, {to})"
            )
        }
        ("items", 2) => format!("DELETE FROM app.items {}", some("id")),
        ("items", 3) => format!("UPDATE app.items SET id = nextval('app.ids') {}", some("id")),
        ("items", 4) => format!(
            "INSERT INTO app.items (id, v, w{named}) VALUES ({}, 'upsert', {n}{value})
             ON CONFLICT (id) DO UPDATE SET v = 'again', w = {n}",
            1000 + n
        ),
        ("items", _) => format!(
            "UPDATE app.items SET v = repeat('{n} ', {count}), w = w + 1, doc = '{{\"n\": {n}}}'{set} {}",
            some("id")
        ),
        ("parts", 0 | 1) => {
            format!(
                "INSERT INTO app.parts (region, id, v{named}) SELECT i % 3, nextval('app.ids'), 'new'{value} {many}"
            )
        }
        ("parts", 2) => format!("DELETE FROM app.parts {}", some("id")),
        ("parts", 3) => format!("UPDATE app.parts SET region = (region + 1) % 3 {}", some("id")),
        ("parts", _) => format!("UPDATE app.parts SET v = 'changed', w = w + {n}.5{set} {}", some("id")),
        ("pairs", 0 | 1) => {
            format!("INSERT INTO app.pairs (a, b, v{named}) SELECT nextval('app.ids'), 'b' || i, NULL{value} {many}")
        }
        ("pairs", 2) => format!("DELETE FROM app.pairs {}", some("a")),
        ("pairs", 3) => format!("UPDATE app.pairs SET b = 'k' || nextval('app.ids') {}", some("a")),
        ("pairs", _) => format!("UPDATE app.pairs SET v = '{n}', at = clock_timestamp(){set} {}", some("a")),
        (_, 0 | 1) => format!("INSERT INTO app.states (id, v{named}) SELECT nextval('app.ids'), 'new'{value} {many}"),
        (_, 2) => format!("DELETE FROM app.states {}", some("id")),
        (_, 3) => format!(
            "UPDATE app.states SET id = nextval('app.ids'), rev = nextval('app.revisions'), at = now() {}",
            some("id")
        ),
        (_, _) => {
            format!("UPDATE app.states SET v = '{n}', rev = nextval('app.revisions'), at = now(){set} {}", some("id"))
        }
    }
}

/// One transaction, which may be prepared under that name.
fn transaction(soak: &Soak, dice: &mut Dice, name: &str) -> String {
    let mut script = String::from("BEGIN; SET LOCAL lock_timeout = '3s';");
    for _ in 0..=dice.roll(3) {
        let table = *dice.pick(&TABLES);
        let columns = soak.columns.lock().unwrap().get(table).cloned().unwrap_or_default();
        let column = columns.get(dice.roll(3) as usize);
        let statement = change(table, dice, column);
        script.push_str(&match dice.roll(6) {
            0 => format!("SAVEPOINT s; {statement}; ROLLBACK TO s;"),
            1 => format!("SAVEPOINT s; {statement}; RELEASE s;"),
            _ => format!("{statement};"),
        });
    }
    script.push_str(&match dice.roll(10) {
        0 => "ROLLBACK".to_string(),
        1 => format!("PREPARE TRANSACTION '{name}'"),
        2 => format!("SELECT pg_sleep({}); COMMIT", dice.roll(100) as f64 / 500.0),
        _ => "COMMIT".to_string(),
    });
    script
}

fn write(soak: &Soak, writer: u64) {
    let mut dice = soak.dice(writer);
    let mut session = Session::source();
    let own = format!("w{writer}_%");
    let mut number = 0;
    let mut clean = false;
    loop {
        // What it had prepared when it lost its session would hold up everybody.
        if !clean {
            clean = session.client().is_some_and(|client| commit_prepared(client, &own).is_ok());
            continue;
        }
        if soak.stopped() {
            return;
        }
        number += 1;
        let name = format!("w{writer}_{number}");
        let script = transaction(soak, &mut dice, &name);
        let outcome = session.run(&script);
        if matches!(outcome, Some(Ok(()))) {
            soak.count("transactions written");
            if script.contains("PREPARE") {
                dice.pause(1, 100);
                let end = if dice.roll(3) == 0 { "ROLLBACK" } else { "COMMIT" };
                clean = matches!(session.run(&format!("{end} PREPARED '{name}'")), Some(Ok(())));
            }
        } else {
            clean = false;
        }
        dice.pause(1, 60);
    }
}

/// Adds and drops columns, on either side first where a job does not follow them. Each change is completed.
fn change_columns(soak: &Soak) {
    let mut dice = soak.dice(50);
    let (mut source, mut destination) = (Session::source(), Session::destination());
    let mut number = 0;
    while !soak.is_calm() {
        dice.pause(100, 2000);
        number += 1;
        let table = *dice.pick(&TABLES);
        let mut there = soak.columns.lock().unwrap().get(table).cloned().unwrap_or_default();
        let drop = there.len() > 2 || !there.is_empty() && dice.roll(3) == 0;
        let (column, clause) = if drop {
            let column = there.remove(dice.roll(there.len() as u64) as usize);
            soak.columns.lock().unwrap().insert(table, there.clone());
            (column.clone(), format!("DROP COLUMN IF EXISTS {column}"))
        } else {
            let column = format!("c{number}");
            (column.clone(), format!("ADD COLUMN IF NOT EXISTS {column} int DEFAULT {number}"))
        };
        let source_first = dice.roll(2) == 0;
        for on_source in [source_first, !source_first] {
            if on_source {
                source.insist(soak, &format!("ALTER TABLE app.{table} {clause}"));
                if !drop {
                    there.push(column.clone());
                    soak.columns.lock().unwrap().insert(table, there.clone());
                }
            } else {
                for job in JOBS.iter().filter(|job| job.source == table && job.is_altered()) {
                    destination.insist(soak, &format!("ALTER TABLE app.{} {clause}", job.destination));
                }
            }
            dice.pause(0, 700);
        }
        soak.count(if drop { "columns dropped" } else { "columns added" });
    }
}

fn refresh(soak: &Soak, thread: u64) {
    let mut dice = soak.dice(thread);
    let mut session = Session::destination();
    while !soak.stopped() {
        let job = dice.pick(&JOBS);
        let statement = job.refresh("");
        let kept = job.destination == "s_kept";
        let whole = match dice.roll(12) {
            0 => format!("BEGIN; {statement}; ROLLBACK"),
            1 => format!("BEGIN; {statement}; {}; COMMIT", dice.pick(&JOBS).refresh("")),
            // In place its rows would be deleted while others point at them.
            2 if job.destination != "t_parent" => format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {statement}; COMMIT"),
            3 => format!("SET synchronous_commit = off; {statement}; RESET synchronous_commit"),
            4 if !matches!(job.method, "snapshot" | "table") => job.refresh(", p_repull := true"),
            5 | 6 if job.may_be_limited() => job.refresh(&format!(", p_limit := {}", 1 + dice.roll(500))),
            5..=7 if kept => "SELECT mimeo.rollback_snapshot('app.s_kept')".to_string(),
            8 => format!("SELECT mimeo.plan_refresh('app.{}')", job.destination),
            9 => format!("SELECT mimeo.validate_content('app.{}')", job.destination),
            _ => statement,
        };
        note(soak, &whole, session.run(&whole));
        dice.pause(1, 100);
    }
}

fn refresh_all(soak: &Soak) {
    let mut dice = soak.dice(70);
    let mut session = Session::destination();
    while !soak.stopped() {
        let call = "CALL mimeo.run_refresh(p_jobs := 2)";
        note(soak, call, session.run(call));
        dice.pause(100, 1000);
    }
}

/// Counts what became of a call; what should not happen is a fault.
fn note(soak: &Soak, statement: &str, outcome: Option<Result<(), postgres::Error>>) {
    match outcome {
        None => {}
        Some(Ok(())) => soak.count("calls done"),
        Some(Err(error)) => {
            let state = state_of(&error);
            // Nothing is kept, or a refresh runs.
            let rollback = statement.contains("rollback_snapshot") && ["55000", "55006"].contains(&state.as_str());
            if !is_expected(&state) && !rollback {
                soak.fault(format!("{statement}: {error:?}"));
            }
            soak.count(format!("calls failed with {state}"));
        }
    }
}

/// What readers may rely on at any moment: the rows that are always there, and their sum.
const ALWAYS: [(&str, &str, i64, i64); 11] = [
    ("s_items", "sum(w)::bigint", ANCHORS, SUM),
    ("s_kept", "sum(w)::bigint", ANCHORS, SUM),
    ("s_filter", "sum(w)::bigint", ANCHORS, SUM),
    ("s_third", "sum(w)::bigint", ANCHORS / 3, SUM / 3),
    ("s_parts", "0::bigint", ANCHORS, 0),
    ("t_items", "sum(w)::bigint", ANCHORS, SUM),
    ("t_trigger", "sum(w)::bigint", ANCHORS, SUM),
    ("t_parent", "sum(w)::bigint", ANCHORS, SUM),
    ("t_parts", "0::bigint", ANCHORS, 0),
    ("d_items", "sum(w)::bigint", ANCHORS, SUM),
    ("l_items", "sum(w)::bigint", ANCHORS, SUM),
];

fn read(soak: &Soak, thread: u64) {
    let mut dice = soak.dice(thread);
    let mut session = Session::destination();
    while !soak.stopped() {
        let (table, sum, rows, total) = dice.pick(&ALWAYS);
        let query = format!("SELECT count(*), {sum} FROM app.{table} WHERE id <= {ANCHORS}");
        let Some(client) = session.client() else { continue };
        let seen = if dice.roll(4) == 0 { twice(client, &query) } else { client.query_one(&query, &[]) };
        match seen.map(|row| (row.get(0), row.get::<_, Option<i64>>(1))) {
            Ok((count, Some(sum))) if (count, sum) == (*rows, *total) => soak.count("reads"),
            Ok(seen) => soak.fault(format!("a reader saw {seen:?} in {table}, not {rows} rows with {total}")),
            Err(error) if DISTURBED.contains(&state_of(&error).as_str()) => {}
            Err(error) => soak.fault(format!("a reader of {table}: {error:?}")),
        }
        dice.pause(1, 40);
    }
}

/// In one snapshot, with a refresh or two in between.
fn twice(client: &mut Client, query: &str) -> Result<postgres::Row, postgres::Error> {
    let mut transaction =
        client.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start()?;
    transaction.query_one("SELECT pg_sleep(0.05)", &[])?;
    transaction.query_one(query, &[])?;
    transaction.query_one("SELECT pg_sleep(0.05)", &[])?;
    let row = transaction.query_one(query, &[])?;
    transaction.commit()?;
    Ok(row)
}

/// Cancels, terminates or kills somebody at random.
fn disturb(soak: &Soak, dice: &mut Dice) {
    let _nobody_else = soak.disturbing.lock().unwrap();
    let on_source = dice.roll(2) == 0;
    let what = *dice.pick(&["cancel", "cancel", "terminate", "terminate", "kill -9"]);
    let what = if what == "kill -9" && soak.is_calm() { "terminate" } else { what };
    let (cluster, side) = if on_source { (&pair().source, "source") } else { (&pair().destination, "destination") };
    let worked = match dice.roll(4) {
        0 => "true",
        _ if on_source => "application_name LIKE 'mimeo/%'",
        _ => "query LIKE 'mimeo.refresh_%'",
    };
    let spared = if what == "cancel" { 0 } else { soak.lasting.load(Ordering::Relaxed) };
    let Ok(mut client) = cluster.try_superuser(DATABASE) else { return };
    let victim = client.query_opt(
        &format!(
            "SELECT pid, backend_type FROM pg_stat_activity WHERE {worked} AND datname = current_database()
                AND backend_type IN ('client backend', 'mimeo worker') AND pid NOT IN (pg_backend_pid(), {spared})
              ORDER BY md5(pid || '{}') LIMIT 1",
            dice.roll(1000)
        ),
        &[],
    );
    let Ok(Some(victim)) = victim else { return };
    let pid: i32 = victim.get(0);
    let hit = match what {
        "cancel" => client.execute("SELECT pg_cancel_backend($1)", &[&pid]).is_ok(),
        "terminate" => client.execute("SELECT pg_terminate_backend($1)", &[&pid]).is_ok(),
        // SAFETY: a backend of a cluster of this test's own.
        _ => unsafe { libc::kill(pid, libc::SIGKILL) == 0 },
    };
    // One that was about to end by itself is not missed by its cluster.
    if hit && (what != "kill -9" || is_thrown_out(&mut client)) {
        soak.count(format!("{what} on the {side} ({})", victim.get::<_, String>(1)));
        cluster.wait_until_up();
    }
}

/// Within a few seconds.
fn is_thrown_out(client: &mut Client) -> bool {
    (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        client.simple_query("SELECT 1").is_err()
    })
}

fn disturb_until(soak: &Soak, dice: &mut Dice, end: Instant) {
    while Instant::now() < end {
        dice.pause(200, 1800);
        disturb(soak, dice);
    }
}

#[derive(Debug)]
struct Usage {
    /// Bytes in use, but for the caches of the catalogs.
    contexts: i64,
    /// Bytes of these in use.
    caches: i64,
    /// By name: how many there are, and their bytes.
    by_name: BTreeMap<String, (i64, i64)>,
    heap: i64,
    /// Sockets, pipes and the like; files come and go.
    descriptors: usize,
    files: usize,
}

fn usage(client: &mut Client) -> Usage {
    let query = "SELECT name, count(*), sum(used_bytes)::bigint FROM pg_backend_memory_contexts GROUP BY name";
    let rows = client.query(query, &[]).unwrap();
    let by_name: BTreeMap<_, _> = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let caches = by_name["CacheMemoryContext"].1;
    let contexts = by_name.values().map(|(_, bytes)| bytes).sum::<i64>() - caches;
    let pid: i32 = one(client, "SELECT pg_backend_pid()");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kilobytes: i64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let targets: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let files = targets.iter().filter(|target| target.is_absolute()).count();
    Usage { contexts, caches, by_name, heap: kilobytes * 1024, descriptors: targets.len() - files, files }
}

/// One backend that refreshes every job again and again. What it used when it was warm; how many rounds it made, and how
/// many of them since.
fn refresh_in_one_backend(soak: &Soak, mut client: Client) -> (Client, Option<Usage>, [u64; 2]) {
    let begun = Instant::now();
    let mut warm = None;
    let (mut rounds, mut cold) = (0, 0);
    let warm_up = seconds() / 10;
    while !soak.stopped() {
        for job in &JOBS {
            let statement = job.refresh("");
            let outcome = client.batch_execute(&statement);
            note(soak, &statement, Some(outcome));
            if job.destination == "s_kept" && rounds % 2 == 0 {
                let statement = "SELECT mimeo.rollback_snapshot('app.s_kept')";
                let outcome = client.batch_execute(statement);
                note(soak, statement, Some(outcome));
            }
        }
        rounds += 1;
        if warm.is_none() && rounds >= 3 && begun.elapsed() > Duration::from_secs(warm_up) {
            warm = Some(usage_undisturbed(soak, &mut client));
            cold = rounds;
        }
    }
    (client, warm, [rounds, rounds - cold])
}

fn usage_undisturbed(soak: &Soak, client: &mut Client) -> Usage {
    let _nobody_else = soak.disturbing.lock().unwrap();
    // A cancel may be on its way.
    for _ in 0..10 {
        if client.simple_query("SELECT pg_sleep(0.1)").is_ok() {
            break;
        }
    }
    usage(client)
}

/// Files of the database that belong to no relation.
fn stray_files(client: &mut Client) -> BTreeSet<String> {
    let query = "
        SELECT f FROM pg_database d, pg_ls_dir('base/' || d.oid) f
         WHERE d.datname = current_database() AND f ~ '^[t0-9]' AND NOT EXISTS (
               SELECT FROM pg_class c
                WHERE pg_relation_filenode(c.oid)::text = substring(f, '^(?:t[0-9]+_)?([0-9]+)'))";
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// The columns of a table but those that the method adds.
fn columns_of(client: &mut Client, table: &str) -> String {
    one(
        client,
        &format!(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute
              WHERE attrelid = 'app.{table}'::regclass AND attnum > 0 AND NOT attisdropped
                AND attname <> 'mimeo_source_deleted'"
        ),
    )
}

fn rows_of(client: &mut Client, query: &str) -> BTreeSet<String> {
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// How many rows were compared.
fn compare(soak: &Soak, job: &Job) -> usize {
    let (mut there, mut here) = (soak.scene.owner(), soak.scene.dba());
    let Job { method, destination, source, condition, .. } = job;
    let columns = if *destination == "s_filter" { "id, w".to_string() } else { columns_of(&mut there, source) };
    let held = columns_of(&mut here, destination);
    // What the source has dropped stays where a job follows it.
    let holds_all = columns.split(", ").all(|column| held.split(", ").any(|own| own == column));
    if columns != held && !(job.follows() && holds_all) {
        soak.fault(format!("{destination} has columns {held}"));
    }
    // The greatest value of a serial column waits for a greater one.
    let last = match *destination {
        "i_id" => "WHERE id < (SELECT max(id) FROM app.events)",
        "u_rev" => "WHERE rev < (SELECT max(rev) FROM app.states)",
        _ => condition,
    };
    let expected = rows_of(&mut there, &format!("SELECT ROW({columns})::text FROM app.{source} {last}"));
    let live = if *method == "logdel" { "WHERE mimeo_source_deleted IS NULL" } else { "" };
    let mut found = rows_of(&mut here, &format!("SELECT ROW({columns})::text FROM app.{destination} {live}"));
    if *method == "updater" {
        found.retain(|row| expected.contains(row));
    }
    let difference: Vec<_> = expected.symmetric_difference(&found).take(6).collect();
    if !difference.is_empty() {
        let counts = (expected.len(), found.len());
        soak.fault(format!("{destination} differs from {source}: {counts:?} rows, {difference:#?}"));
    }
    if *method == "logdel" {
        let keys = match *source {
            "items" => "id",
            "parts" => "region || ' ' || id",
            _ => "a || ' ' || b",
        };
        let buried = rows_of(&mut there, &format!("SELECT DISTINCT key FROM app.graves WHERE tab = '{source}'"));
        let kept = rows_of(&mut here, &format!("SELECT ({keys})::text FROM app.{destination}"));
        let lost: Vec<_> = buried.difference(&kept).take(6).collect();
        if !lost.is_empty() {
            soak.fault(format!("{destination} lacks deleted rows: {lost:?} of {}", buried.len()));
        }
        return expected.len() + buried.len();
    }
    expected.len()
}

/// What nobody may have left behind, with every session but ours gone.
fn look_for_remains(soak: &Soak) {
    let scene = &soak.scene;
    wait_for("the sessions on the source to end", || scene.source_sessions() == 0);
    let superusers = [("source", scene.source_superuser()), ("destination", scene.destination_superuser())];
    for (side, mut client) in superusers {
        for (what, query) in [
            ("temporary tables", "FROM pg_class WHERE relpersistence = 't'"),
            ("shadow tables", "FROM pg_class WHERE relname ~ '^mimeo_[0-9]+$' AND relnamespace = 'app'::regnamespace"),
            ("locks of jobs", "FROM pg_locks WHERE locktype = 'object' AND mode = 'ExclusiveLock'"),
            ("prepared transactions", "FROM pg_prepared_xacts"),
            ("workers", "FROM pg_stat_activity WHERE backend_type LIKE 'mimeo%'"),
        ] {
            let count: i64 = one(&mut client, &format!("SELECT count(*) {query}"));
            if count != 0 {
                soak.fault(format!("{count} {what} are left on the {side}"));
            }
        }
    }
    for cluster in [&pair().source, &pair().destination] {
        let log = std::fs::read(cluster.dir().join("log")).unwrap();
        for line in String::from_utf8_lossy(&log).lines() {
            let bad = ["PANIC", "invalid memory", "could not find", "could not open", "cache lookup failed", "leak"];
            if bad.iter().any(|words| line.contains(words)) {
                soak.fault(format!("the log of {:?}: {line}", cluster.dir().file_name().unwrap()));
            }
        }
    }
    let query =
        "SELECT DISTINCT concat_ws(' ', sqlstate, dest_table, error) FROM mimeo.run_history WHERE status = 'critical'";
    for error in rows_of(&mut scene.dba(), query) {
        if !is_expected(error.split(' ').next().unwrap_or_default()) {
            soak.fault(format!("a run failed: {error}"));
        }
    }
}

/// Everybody at work: first with crashes and columns that change, then without, and with a backend that lasts.
fn under_load(soak: &Soak) -> (Client, Usage, [u64; 2], BTreeSet<String>) {
    let mut dice = soak.dice(99);
    let length = Duration::from_secs(seconds());
    let begun = Instant::now();
    std::thread::scope(|threads| {
        (1..=4).for_each(|number| drop(threads.spawn(move || write(soak, number))));
        (11..=13).for_each(|number| drop(threads.spawn(move || refresh(soak, number))));
        (21..=22).for_each(|number| drop(threads.spawn(move || read(soak, number))));
        threads.spawn(|| refresh_all(soak));
        let changing = threads.spawn(|| change_columns(soak));
        disturb_until(soak, &mut dice, begun + length * 6 / 10);
        soak.calm.store(true, Ordering::Relaxed);
        changing.join().unwrap();
        let strays = stray_files(&mut soak.scene.destination_superuser());
        let mut client = soak.scene.dba();
        // Those that it has got stay with a backend, and the bound of 8 MB would be reached after hours.
        client.batch_execute("SET temp_buffers = '800kB'").unwrap();
        soak.lasting.store(one(&mut client, "SELECT pg_backend_pid()"), Ordering::Relaxed);
        let lasting = threads.spawn(move || refresh_in_one_backend(soak, client));
        disturb_until(soak, &mut dice, begun + length);
        soak.stop.store(true, Ordering::Relaxed);
        let (mut client, warm, rounds) = lasting.join().unwrap();
        let warm = warm.unwrap_or_else(|| usage_undisturbed(soak, &mut client));
        (client, warm, rounds, strays)
    })
}

/// No backend may have crashed by itself. The log around one that has is all that is left of it.
fn look_for_crashes() {
    for cluster in [&pair().source, &pair().destination] {
        let log = std::fs::read(cluster.dir().join("log")).unwrap();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        for (place, line) in lines.iter().enumerate() {
            // Of signal 9 all are this test's own.
            let crashed =
                ["signal 11", "signal 6", "signal 7"].iter().any(|signal| line.contains(&format!("by {signal}:")));
            let around = &lines[place.saturating_sub(40)..(place + 5).min(lines.len())];
            assert!(!crashed, "a crash on {:?}:\n{}", cluster.dir().file_name().unwrap(), around.join("\n"));
        }
    }
}

/// Every job twice, which must work now, and once more after a step back.
fn settle(soak: &Soak, client: &mut Client) {
    let mut source = soak.scene.source_superuser();
    commit_prepared(&mut source, "%").unwrap();
    wait_for("the writers to be gone", || {
        0i64 == one(&mut source, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner'")
    });
    source
        .batch_execute(
            "INSERT INTO app.events (v) VALUES ('last');
             UPDATE app.states SET rev = nextval('app.revisions'), at = now()
              WHERE id = (SELECT min(id) FROM app.states);
             SELECT pg_stat_force_next_flush()",
        )
        .unwrap();
    for round in 1..=3 {
        for job in &JOBS {
            if let Err(error) = client.batch_execute(&job.refresh("")) {
                soak.fault(format!("{} in quiet round {round}: {error:?}", job.destination));
            }
        }
        if round == 2 && client.batch_execute("SELECT mimeo.rollback_snapshot('app.s_kept')").is_ok() {
            soak.count("steps back in the end");
        }
    }
}

fn report(soak: &Soak, rows: usize, [rounds, warm_rounds]: [u64; 2], warm: &Usage, end: &Usage) {
    eprintln!("{} jobs, {} s, MIMEO_SOAK_SEED={}", JOBS.len(), seconds(), soak.seed);
    for (what, count) in soak.tally.lock().unwrap().iter() {
        eprintln!("{count:>8}  {what}");
    }
    let query = "SELECT concat_ws('  ', lpad(count(*)::text, 8), 'runs ' || status, sqlstate) FROM mimeo.run_history
                  GROUP BY status, sqlstate ORDER BY status, sqlstate";
    for row in soak.scene.dba().query(query, &[]).unwrap() {
        eprintln!("{}", row.get::<_, String>(0));
    }
    eprintln!("{rows:>8}  rows compared");
    eprintln!("{rounds:>8}  rounds of all jobs in one backend");
    eprintln!("{warm_rounds:>8}  of them since it was warm");
    for (what, before, after) in [
        ("bytes in use in memory contexts", warm.contexts, end.contexts),
        ("bytes in use in CacheMemoryContext", warm.caches, end.caches),
        ("bytes of RssAnon", warm.heap, end.heap),
        ("sockets and pipes", warm.descriptors as i64, end.descriptors as i64),
        ("open files", warm.files as i64, end.files as i64),
    ] {
        eprintln!("{what}: {before} when it was warm, {after} in the end");
    }
    for (name, after) in &end.by_name {
        let before = warm.by_name.get(name).copied().unwrap_or_default();
        if before.1 != after.1 {
            eprintln!("  {name}: {before:?} when it was warm, {after:?} in the end (number, bytes)");
        }
    }
}

fn seconds() -> u64 {
    std::env::var("MIMEO_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("MIMEO_SOAK_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or(u64::from(now.subsec_nanos()))
}

#[test]
fn every_destination_is_right_in_the_end_and_nothing_is_left_over() {
    let seed = seed();
    eprintln!("MIMEO_SOAK_SEED={seed}");
    let soak = soak(seed);
    let (mut client, warm, rounds, strays) = under_load(&soak);
    look_for_crashes();
    settle(&soak, &mut client);
    let end = usage(&mut client);
    drop(client);
    let rows = JOBS.iter().map(|job| compare(&soak, job)).sum();
    look_for_remains(&soak);
    let mut superuser = soak.scene.destination_superuser();
    superuser.batch_execute("CHECKPOINT").unwrap();
    let more: Vec<_> = stray_files(&mut superuser).difference(&strays).cloned().collect();
    if !more.is_empty() {
        soak.fault(format!("files that belong to no relation: {more:?}"));
    }
    // The settling in the end comes to some rounds more.
    let remembered = REMEMBERED * (rounds[1] as i64 + 3) * JOBS.len() as i64;
    if end.contexts > warm.contexts + CONTEXT_SLACK
        || end.caches > warm.caches + CONTEXT_SLACK + remembered
        || end.heap > warm.heap + HEAP_SLACK + remembered
    {
        soak.fault("the backend has grown".to_string());
    }
    if end.descriptors != warm.descriptors {
        soak.fault("the backend has other descriptors than before".to_string());
    }
    report(&soak, rows, rounds, &warm, &end);
    let faults = soak.faults.lock().unwrap();
    assert!(faults.is_empty(), "MIMEO_SOAK_SEED={seed}: {} faults: {faults:#?}", faults.len());
    assert!(soak.counted("transactions written") > 50 && soak.counted("calls done") > 50 && soak.counted("reads") > 50);
}
