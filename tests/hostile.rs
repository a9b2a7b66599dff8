//! A source that is broken, or means harm: a refresh from it fails with one error and soon, the old rows stay, the backend
//! lives on with nothing left open, no password gets out, and the next refresh from an honest source works.

mod support;

use postgres::Client;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::fake::{
    complete, data_row, message, notice, parameter, report, row_description, with_length, Act, Fake, Moment,
};
use support::{one, pair, sqlstate, wait_for, Scene};

const PASSWORD: &str = "reader secret";

struct Job {
    name: &'static str,
    table: &'static str,
    make: &'static str,
    refresh: &'static str,
    /// Gives a refresh something to do.
    change: &'static str,
    /// Which rows of the source a refresh brings.
    rows: &'static str,
}

const SNAPSHOT: Job = Job {
    name: "snapshot",
    table: "app.t",
    make: "SELECT mimeo.snapshot_maker('app.t', 1)",
    refresh: "SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false)",
    change: "UPDATE app.t SET v = v || '!'",
    rows: "",
};
const TABLE: Job = Job {
    name: "table",
    table: "app.tab",
    make: "SELECT mimeo.table_maker('app.tab', 1)",
    refresh: "SELECT mimeo.refresh_table('app.tab')",
    change: "UPDATE app.tab SET v = v || '!'",
    rows: "",
};
const INSERTER: Job = Job {
    name: "inserter",
    table: "app.ins",
    make: "SELECT mimeo.inserter_maker('app.ins', 'serial', 'id', 1)",
    refresh: "SELECT mimeo.refresh_inserter('app.ins')",
    change: "INSERT INTO app.ins (v) SELECT 'more' FROM generate_series(1, 5)",
    // The newest value may still get company.
    rows: "WHERE id < (SELECT max(id) FROM app.ins)",
};
const UPDATER: Job = Job {
    name: "updater",
    table: "app.upd",
    make: "SELECT mimeo.updater_maker('app.upd', 'serial', 'n', 1)",
    refresh: "SELECT mimeo.refresh_updater('app.upd')",
    change: "UPDATE app.upd SET v = v || '!', n = nextval('app.upd_n_seq') WHERE id > 0;
             UPDATE app.upd SET n = nextval('app.upd_n_seq') WHERE id = 0",
    rows: "WHERE id > 0",
};
const DML: Job = Job {
    name: "dml",
    table: "app.dm",
    make: "SELECT mimeo.dml_maker('app.dm', 1)",
    refresh: "SELECT mimeo.refresh_dml('app.dm')",
    change: "UPDATE app.dm SET v = v || '!'",
    rows: "",
};
/// Of its rows only those come that have changed. Whatever happened before, it is tried.
const DELTA: Job = Job {
    name: "delta",
    table: "app.few",
    make: "SELECT mimeo.snapshot_maker('app.few', 1)",
    refresh: "UPDATE mimeo.refresh_config SET state = state - 'learned'; SELECT mimeo.refresh_snapshot('app.few', p_check_stats := false)",
    change: "UPDATE app.few SET v = v || '!' WHERE id % 600 = 0",
    rows: "",
};
/// Its rows come in COPY's text format, for an OID of one server means nothing on another.
const TEXT: Job = Job {
    name: "text",
    table: "app.words",
    make: "SELECT mimeo.table_maker('app.words', 1)",
    refresh: "SELECT mimeo.refresh_table('app.words')",
    change: "UPDATE app.words SET v = v || '!'",
    rows: "",
};
const GROUP: Job = Job {
    name: "group",
    table: "app.tab",
    make: "SELECT mimeo.table_maker('app.tab', 1), mimeo.dml_maker('app.dm', 1);
           UPDATE mimeo.refresh_config SET refresh_group = 'pair' WHERE dest_table IN ('app.tab', 'app.dm')",
    refresh: "SELECT mimeo.refresh_group('pair')",
    change: "UPDATE app.tab SET v = v || '!'",
    rows: "",
};

/// A destination behind a source that lies, and what it had open before.
struct Stage {
    scene: Scene,
    fake: Fake,
    jobs: Vec<&'static Job>,
    dba: Client,
    owner: Client,
    witness: Client,
    pid: i32,
    sockets: usize,
    trials: usize,
    failures: i64,
    /// The failures that run_history does not have.
    silent: Vec<String>,
    /// How many refreshes may still end well before they come to the trick: how often one asks again whether something is there differs.
    ends_before: usize,
}

/// After so many tricks an honest refresh has to work.
const AT_ONCE: usize = 8;

/// How long a call may take beyond its statement_timeout.
const GRACE: Duration = Duration::from_secs(2);

impl Stage {
    fn new(name: &str, jobs: &[&'static Job]) -> Stage {
        let scene = Scene::new(&format!("hostile_{name}"), 8);
        scene
            .owner()
            .batch_execute(
                "CREATE TABLE app.tab (id int PRIMARY KEY, v text NOT NULL);
                 INSERT INTO app.tab SELECT i, 'value ' || i FROM generate_series(1, 8) i;
                 CREATE TABLE app.few (id int PRIMARY KEY, v text NOT NULL);
                 INSERT INTO app.few SELECT i, 'value ' || i FROM generate_series(1, 3000) i;
                 CREATE TABLE app.ins (id serial PRIMARY KEY, v text NOT NULL);
                 INSERT INTO app.ins (v) SELECT 'value ' || i FROM generate_series(1, 8) i;
                 CREATE TABLE app.upd (id int PRIMARY KEY, v text NOT NULL, n bigserial UNIQUE);
                 INSERT INTO app.upd SELECT i, 'value ' || i FROM generate_series(8, 0, -1) i;
                 CREATE TABLE app.dm (id int PRIMARY KEY, v text NOT NULL);
                 INSERT INTO app.dm SELECT i, 'value ' || i FROM generate_series(1, 8) i;
                 GRANT TRIGGER ON app.dm TO reader;
                 CREATE TABLE app.words (id int PRIMARY KEY, v text NOT NULL, r regtype NOT NULL DEFAULT 'int4');
                 INSERT INTO app.words SELECT i, 'value ' || i FROM generate_series(1, 8) i",
            )
            .unwrap();
        scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
        let fake = Fake::before(pair().source.port);
        scene.set_source(fake.port);
        let mut dba = scene.dba();
        for job in jobs {
            dba.batch_execute(job.make).unwrap();
        }
        let (owner, witness) = (scene.owner(), scene.source_superuser());
        let pid = one(&mut dba, "SELECT pg_backend_pid()");
        let jobs = jobs.to_vec();
        let mut stage = Stage {
            scene,
            fake,
            jobs,
            dba,
            owner,
            witness,
            pid,
            sockets: 0,
            trials: 0,
            failures: 0,
            silent: Vec::new(),
            ends_before: 0,
        };
        for job in stage.jobs.clone() {
            stage.owner.batch_execute(job.change).unwrap();
            stage.refresh_honestly(job, "at first");
        }
        stage.sockets = stage.open_descriptors();
        stage
    }

    /// Plays a trick on a refresh, and looks at what it has left behind. The SQLSTATE of the error; 00000 if there was none.
    fn suffer(
        &mut self,
        job: &Job,
        what: &str,
        timeout: Duration,
        trick: impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static,
    ) -> String {
        let what = &format!("{}: {what}", job.name);
        self.trials += 1;
        self.owner.batch_execute(job.change).unwrap();
        let before = self.ours(job);
        let trick = Arc::new(trick);
        let mut timeout = timeout;
        let (outcome, recorded) = loop {
            let recorded = self.recorded();
            let again = trick.clone();
            self.fake.play(move |moment| again(moment));
            self.dba.batch_execute(&format!("SET statement_timeout = {}", timeout.as_millis())).unwrap();
            let since = Instant::now();
            let outcome = self.dba.batch_execute(job.refresh);
            let took = since.elapsed();
            assert!(took < timeout + GRACE, "{what}: took {took:?}");
            // A slow machine may not even have come to the trick.
            if self.fake.has_played() || sqlstate(&outcome) != "57014" || timeout > LONG {
                break (outcome, recorded);
            }
            timeout *= 2;
        };
        let report = outcome.as_ref().err().map(|error| {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{what}: the backend is gone: {error}"));
            format!("{}\n{}\n{}", error.message(), error.detail().unwrap_or(""), error.hint().unwrap_or(""))
        });
        if report.is_none() && !self.fake.has_played() && self.ends_before > 0 {
            self.ends_before -= 1;
        } else {
            assert!(self.fake.has_played(), "{what}: the trick was not played, {report:?}");
        }
        self.dba.batch_execute("SET statement_timeout = '20s'").unwrap();
        assert_eq!(one::<i32>(&mut self.dba, "SELECT pg_backend_pid()"), self.pid, "{what}: another backend");

        let now = self.ours(job);
        match &report {
            Some(report) => {
                self.failures += 1;
                if self.recorded() == recorded {
                    self.silent.push(format!("{what}: {report}"));
                }
                assert_eq!(now, before, "{what}: the old rows stay");
                assert!(!report.contains(PASSWORD), "{what}: {report}");
                assert!(report.len() < 100_000, "{what}: {} bytes of report", report.len());
            }
            None => assert!(now == self.theirs(job) || now == before, "{what}: neither the old rows nor the new ones"),
        }
        // A step of connecting that was left ends in its own thread, which closes what it holds.
        wait_for("the threads of the backend to end", || self.threads() == 1);
        assert_eq!(self.open_descriptors(), self.sockets, "{what}: a descriptor is left open");
        if self.trials.is_multiple_of(AT_ONCE) {
            self.refresh_honestly(job, what);
            // What a refresh asks for depends on whether the one before it had something to do.
            self.owner.batch_execute(job.change).unwrap();
            self.refresh_honestly(job, what);
        }
        sqlstate(&outcome)
    }

    fn refresh_honestly(&mut self, job: &Job, what: &str) {
        self.fake.be_honest();
        self.dba.batch_execute(job.refresh).unwrap_or_else(|error| panic!("{what}: then {error:?}"));
        assert_eq!(self.ours(job), self.theirs(job), "{what}: the next refresh brings all");
    }

    fn ours(&mut self, job: &Job) -> String {
        let rows = if job.rows.contains("max") { "" } else { job.rows };
        one(&mut self.dba, &content(job.table, rows))
    }

    fn theirs(&mut self, job: &Job) -> String {
        one(&mut self.witness, &content(job.table, job.rows))
    }

    fn recorded(&mut self) -> i64 {
        one(&mut self.dba, "SELECT count(*) FROM mimeo.run_history WHERE status = 'critical'")
    }

    /// What the backend has open, but for files of its own cluster.
    fn open_descriptors(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let links = all.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|link| !link.starts_with(pair().destination.dir())).count()
    }

    fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap().count()
    }

    /// The most memory that the backend ever had, in megabytes.
    fn most_memory(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() / 1024
    }

    /// What all that happened has left behind.
    fn end(mut self) {
        for job in self.jobs.clone() {
            self.refresh_honestly(job, "at last");
        }
        let scene = &self.scene;
        wait_for("the sessions on the source to end", || {
            one::<i64>(
                &mut self.witness,
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'reader'",
            ) == 0
        });
        let told: i64 = one(
            &mut self.dba,
            &format!(
                "SELECT count(*) FROM mimeo.run_history h WHERE h::text LIKE '%{PASSWORD}%' OR length(h::text) > 150000"
            ),
        );
        assert_eq!(told, 0, "run_history tells no password");
        let log = String::from_utf8_lossy(&std::fs::read(pair().destination.dir().join("log")).unwrap()).to_string();
        // A failure just before the statement_timeout may be left to the log.
        let ours = format!("@{} ", scene.database);
        let logged = log.lines().filter(|line| line.contains(&ours) && line.contains("could not be recorded"));
        assert!(self.silent.len() <= logged.count(), "failures that are recorded nowhere: {:#?}", self.silent);
        for line in
            log.lines().filter(|line| !line.contains("dblink_mapping_mimeo") && !line.contains("says the source"))
        {
            let bad = [PASSWORD, "PANIC", "terminated by signal", "leak", "not closed"];
            assert!(!bad.iter().any(|bad| line.contains(bad)), "the log has: {line}");
        }
        println!("{}: {} tricks, {} errors", scene.database, self.trials, self.failures);
    }
}

fn content(table: &str, rows: &str) -> String {
    format!(
        "SELECT coalesce(string_agg(concat_ws(' ', id, v), ',' ORDER BY id), '') FROM (SELECT id, v FROM {table} {rows}) x"
    )
}

const LONG: Duration = Duration::from_secs(8);
/// Long enough for a refresh of a few rows, if nothing is in its way.
const SHORT: Duration = Duration::from_millis(300);

/// Does so at the first moment that fits.
fn once(
    place: impl Fn(&Moment<'_>) -> bool + Send + Sync + 'static,
    act: impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static,
) -> impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static {
    let done = AtomicBool::new(false);
    move |moment| {
        if done.load(Ordering::SeqCst) || !place(moment) {
            return Act::Pass;
        }
        done.store(true, Ordering::SeqCst);
        act(moment)
    }
}

/// These bytes before the message.
fn ahead(bytes: &[u8], moment: &Moment<'_>) -> Vec<u8> {
    [bytes, &moment.bytes()].concat()
}

type Place = (&'static str, fn(&Moment<'_>) -> bool);

const LOGIN: Place = ("at the login", |moment| moment.number == 2);
const READY: Place = ("when ready", |moment| moment.kind == b'K');
const SET_UP: Place = ("at the set-up", |moment| moment.statement.contains("current_user"));
const CATALOG: Place = ("in a catalog query", |moment| {
    moment.kind == b'D' && moment.in_catalog() && !moment.statement.contains("current_user")
});
const COPY: Place = ("in a copy", |moment| moment.kind == b'd' && !moment.body.starts_with(b"PGCOPY"));
const COPY_END: Place = ("at the end of a copy", |moment| moment.kind == b'C' && moment.in_copy());

fn goes_away_at_each_message(job: &'static Job) {
    let mut stage = Stage::new(&format!("closes_{}", job.name), &[job]);
    stage.owner.batch_execute(job.change).unwrap();
    stage.refresh_honestly(job, "for its messages");
    let kinds = stage.fake.kinds();
    stage.ends_before = 5;
    let mut errors = 0;
    for (number, kind) in kinds.iter().enumerate() {
        // All parameters are alike.
        if *kind == b'S' && number > 0 && kinds[number - 1] == b'S' {
            continue;
        }
        let in_the_middle = b"RTDdHC".contains(kind);
        for half in [Some(false), in_the_middle.then_some(true)].into_iter().flatten() {
            let what = format!("closes at message {number} ({}), half of it sent: {half}", char::from(*kind));
            let state = stage.suffer(job, &what, LONG, move |moment| {
                if moment.number != number {
                    return Act::Pass;
                }
                let bytes = moment.bytes();
                Act::Close(bytes[..if half { bytes.len() / 2 } else { 0 }].to_vec())
            });
            assert!(["08001", "08006", "00000"].contains(&state.as_str()), "{}: {what}: {state}", job.name);
            errors += usize::from(state != "00000");
        }
    }
    assert!(errors > 40, "{errors} errors");
    stage.end();
}

#[test]
fn a_snapshot_survives_a_source_that_goes_away_at_any_message() {
    goes_away_at_each_message(&SNAPSHOT);
}

#[test]
fn a_table_survives_a_source_that_goes_away_at_any_message() {
    goes_away_at_each_message(&TABLE);
}

#[test]
fn an_inserter_survives_a_source_that_goes_away_at_any_message() {
    goes_away_at_each_message(&INSERTER);
}

#[test]
fn an_updater_survives_a_source_that_goes_away_at_any_message() {
    goes_away_at_each_message(&UPDATER);
}

#[test]
fn a_dml_job_survives_a_source_that_goes_away_at_any_message() {
    goes_away_at_each_message(&DML);
}

/// Lets `rewrite` make another stream of each COPY's data, that is sent in messages of this size.
fn rewriting(size: usize, rewrite: fn(Vec<u8>) -> Vec<u8>) -> impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static {
    let collected = Mutex::new(Vec::new());
    move |moment| match moment.kind {
        b'd' => {
            collected.lock().unwrap().extend(moment.body);
            Act::Instead(Vec::new())
        }
        b'c' => {
            let stream = rewrite(std::mem::take(&mut *collected.lock().unwrap()));
            let mut bytes: Vec<u8> = stream.chunks(size).flat_map(|chunk| message(b'd', chunk)).collect();
            bytes.extend(moment.bytes());
            Act::Instead(bytes)
        }
        _ => Act::Pass,
    }
}

const HEADER: usize = 19;
const TRAILER: [u8; 2] = [255, 255];

type Row = Vec<Option<Vec<u8>>>;

/// The rows of a stream in COPY's binary format.
fn decode(stream: &[u8]) -> Vec<Row> {
    let mut at = HEADER;
    let mut rows = Vec::new();
    loop {
        let count = i16::from_be_bytes(stream[at..at + 2].try_into().unwrap());
        at += 2;
        if count < 0 {
            return rows;
        }
        let mut row = Vec::new();
        for _ in 0..count {
            let length = i32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
            at += 4;
            row.push((length >= 0).then(|| stream[at..at + length as usize].to_vec()));
            at += length.max(0) as usize;
        }
        rows.push(row);
    }
}

fn encode(rows: &[Row]) -> Vec<u8> {
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        stream.extend((row.len() as i16).to_be_bytes());
        for field in row {
            stream.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
            stream.extend(field.iter().flatten());
        }
    }
    stream.extend(TRAILER);
    stream
}

/// The stream with other bytes at the beginning of its first row, which are the number of fields and the length of the first.
fn with_first_row(mut stream: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    stream[HEADER + at..HEADER + at + bytes.len()].copy_from_slice(bytes);
    stream
}

fn with_rows(stream: &[u8], change: impl Fn(&mut Vec<Row>)) -> Vec<u8> {
    let mut rows = decode(stream);
    change(&mut rows);
    encode(&rows)
}

fn without_trailer(mut stream: Vec<u8>) -> Vec<u8> {
    stream.truncate(stream.len() - TRAILER.len());
    stream
}

type Rewrite = (&'static str, fn(Vec<u8>) -> Vec<u8>);

const BINARY: [Rewrite; 28] = [
    ("bad signature", |mut stream| {
        stream[0] = b'X';
        stream
    }),
    ("critical flags", |mut stream| {
        stream[11] = 0x80;
        stream
    }),
    ("huge extension area", |mut stream| {
        stream[15..19].copy_from_slice(&i32::MAX.to_be_bytes());
        stream
    }),
    ("extension area of negative length", |mut stream| {
        stream[15..19].copy_from_slice(&(-1i32).to_be_bytes());
        stream
    }),
    ("cut in the header", |stream| stream[..HEADER - 3].to_vec()),
    ("empty", |_| Vec::new()),
    ("nothing but a header", |stream| stream[..HEADER].to_vec()),
    ("no header", |stream| stream[HEADER..].to_vec()),
    ("a header and a trailer", |stream| [&stream[..HEADER], &TRAILER].concat()),
    ("a field more than there are columns", |stream| with_rows(&stream, |rows| rows[1].push(Some(b"more".to_vec())))),
    ("a field less than there are columns", |stream| {
        with_rows(&stream, |rows| {
            rows[1].pop();
        })
    }),
    ("no field", |stream| with_rows(&stream, |rows| rows[1].clear())),
    ("-2 fields", |stream| with_first_row(stream, 0, &(-2i16).to_be_bytes())),
    ("32767 fields", |stream| with_first_row(stream, 0, &i16::MAX.to_be_bytes())),
    ("a field of length -2", |stream| with_first_row(stream, 2, &(-2i32).to_be_bytes())),
    ("a field of the least length", |stream| with_first_row(stream, 2, &i32::MIN.to_be_bytes())),
    ("a field of the greatest length", |stream| with_first_row(stream, 2, &i32::MAX.to_be_bytes())),
    ("a field that is longer than the stream", |stream| with_first_row(stream, 2, &100_000i32.to_be_bytes())),
    ("a field that goes beyond its own bytes", |stream| with_first_row(stream, 2, &9i32.to_be_bytes())),
    ("cut in a row", |stream| without_trailer(stream[..stream.len() - 3].to_vec())),
    ("no trailer", without_trailer),
    ("a row after the trailer", |stream| [&stream[..], &stream[HEADER..]].concat()),
    ("a byte after the trailer", |stream| [&stream[..], b"x"].concat()),
    ("text that is not UTF-8", |stream| {
        with_rows(&stream, |rows| {
            let field = rows[1].len().min(2) - 1;
            rows[1][field] = Some(b"\xff\xfe".to_vec());
        })
    }),
    ("text with a NUL", |stream| {
        with_rows(&stream, |rows| {
            let field = rows[1].len().min(2) - 1;
            rows[1][field] = Some(b"a\0b".to_vec());
        })
    }),
    ("NULL as a key", |stream| with_rows(&stream, |rows| rows[1][0] = None)),
    ("a row twice", |stream| with_rows(&stream, |rows| rows.push(rows[0].clone()))),
    ("a row is missing", |stream| {
        with_rows(&stream, |rows| {
            rows.pop();
        })
    }),
];

#[test]
fn binary_copy_data_that_is_not_what_it_should_be_is_refused() {
    let jobs = [&SNAPSHOT, &TABLE, &INSERTER, &UPDATER, &DML];
    let mut stage = Stage::new("binary", &jobs);
    for job in jobs {
        for (what, rewrite) in BINARY {
            for size in [8192, 7] {
                if size == 7 && job.name != "snapshot" {
                    continue;
                }
                let state = stage.suffer(job, what, LONG, rewriting(size, rewrite));
                assert_ne!(state, "00000", "{}: {what}", job.name);
            }
        }
        let state = stage.suffer(job, "byte by byte", LONG, rewriting(1, |stream| stream));
        assert_eq!(state, "00000", "{}: how the stream is cut does not matter", job.name);
    }
    stage.end();
}

/// Rewrites the second line.
fn with_line(stream: &[u8], change: fn(&str) -> Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    let mut lines: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
    lines[1] = change(text.lines().nth(1).unwrap());
    lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
}

const IN_TEXT: [Rewrite; 15] = [
    ("a column less", |stream| with_line(&stream, |line| line.rsplit_once('\t').unwrap().0.into())),
    ("a column more", |stream| with_line(&stream, |line| format!("{line}\tmore").into())),
    ("an empty line", |stream| with_line(&stream, |_| Vec::new())),
    ("a number that is none", |stream| with_line(&stream, |line| format!("x{line}").into())),
    ("an escape that is not UTF-8", |stream| with_line(&stream, |line| line.replace("value", "\\377").into())),
    ("an escape that is NUL", |stream| with_line(&stream, |line| line.replace("value", "\\000").into())),
    ("a backslash at the end of a line", |stream| with_line(&stream, |line| format!("{line}\\").into())),
    ("bytes that are not UTF-8", |stream| with_line(&stream, |line| [line.as_bytes(), b"\xff"].concat())),
    ("a NUL", |stream| with_line(&stream, |line| [line.as_bytes(), b"\0"].concat())),
    ("a carriage return", |stream| with_line(&stream, |line| format!("{line}\r").into())),
    ("its end in the middle", |stream| with_line(&stream, |line| format!("\\.\n{line}").into())),
    ("NULL as a key", |stream| with_line(&stream, |line| format!("\\N\t{}", line.split_once('\t').unwrap().1).into())),
    ("empty", |_| Vec::new()),
    ("cut in a line", |stream| stream[..stream.len() - 4].to_vec()),
    ("a megabyte in one line", |stream| with_line(&stream, |_| vec![b'x'; 1_000_000])),
];

#[test]
fn text_copy_data_that_is_not_what_it_should_be_is_refused() {
    let mut stage = Stage::new("text", &[&TEXT]);
    for (what, rewrite) in IN_TEXT {
        for size in [8192, 7] {
            if size == 7 && what.contains("megabyte") {
                continue;
            }
            let state = stage.suffer(&TEXT, what, LONG, rewriting(size, rewrite));
            assert_ne!(state, "00000", "{what}");
        }
    }
    // COPY itself takes these.
    for (what, rewrite) in [
        ("no newline at the end", (|stream| stream[..stream.len() - 1].to_vec()) as fn(Vec<u8>) -> Vec<u8>),
        ("a backslash in place of the last newline", |stream| [&stream[..stream.len() - 1], b"\\"].concat()),
        ("its end at the end", |stream| [&stream[..], b"\\.\n"].concat()),
    ] {
        assert_eq!(stage.suffer(&TEXT, what, LONG, rewriting(7, rewrite)), "00000", "{what}");
    }
    // From 18 on PostgreSQL refuses this, before it took what stands before the end.
    let within_a_line = |stream: Vec<u8>| with_line(&stream, |line| format!("{line}\\.").into());
    let state = stage.suffer(&TEXT, "its end within a line", LONG, rewriting(7, within_a_line));
    assert!(["00000", "22P04"].contains(&state.as_str()), "{state}");
    stage.end();
}

#[test]
fn a_count_that_is_missing_or_absurd_is_refused() {
    let jobs = [&SNAPSHOT, &TABLE, &INSERTER, &UPDATER, &DML, &TEXT];
    let mut stage = Stage::new("counts", &jobs);
    for job in jobs {
        for tag in
            ["COPY", "COPY ", "COPY -1", "COPY 1", "COPY 99999999999999999999", "COPY 8x", "SELECT 0", "", "\u{7f}"]
        {
            let trick = move |moment: &Moment<'_>| match moment.kind {
                b'C' if moment.in_copy() => Act::Instead(complete(tag)),
                _ => Act::Pass,
            };
            let state = stage.suffer(job, &format!("ends with '{tag}'"), LONG, trick);
            assert_ne!(state, "00000", "{}: '{tag}'", job.name);
        }
    }
    stage.end();
}

/// Answers to a catalog query instead of the rows that it has.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let value = |text: &str| data_row(&[Some(text.as_bytes())]);
    vec![
        ("NULL", data_row(&[None])),
        ("no row", Vec::new()),
        ("an empty text", value("")),
        ("not JSON", value("no JSON")),
        ("JSON that is cut", value("[{\"oid\": 1,")),
        ("an object without fields", value("{}")),
        ("a list of nothing", value("[]")),
        ("a list of objects without fields", value("[{}]")),
        ("null", value("null")),
        ("a string", value("\"text\"")),
        ("a string with NUL", value("[{\"oid\": 1, \"name\": \"a\\u0000b\", \"schema\": \"a\\u0000b\"}]")),
        ("the password", value(&format!("\"{PASSWORD}\""))),
        ("deep lists", value(&"[".repeat(100_000))),
        ("deep objects", value(&"{\"a\":".repeat(100_000))),
        ("two columns", data_row(&[Some(b"{}"), Some(b"{}")])),
        ("no column", data_row(&[])),
        ("two columns, announced", [row_description(2), data_row(&[None, None])].concat()),
        ("not UTF-8", data_row(&[Some(b"\"\xff\xfe\"")])),
        ("a row of negative length", message(b'D', b"\0\x01\xff\xff\xff\xfe")),
        ("a row that is cut", message(b'D', b"\0\x01\0\0\0\x09{}")),
        ("a row of 32767 columns", message(b'D', b"\x7f\xff\0\0\0\0")),
        ("a thousand rows", value("{}").repeat(1000)),
    ]
}

/// How many rows of catalog queries a refresh gets.
fn catalog_rows(stage: &mut Stage, job: &Job) -> usize {
    stage.owner.batch_execute(job.change).unwrap();
    stage.refresh_honestly(job, "for its rows");
    stage.fake.kinds().iter().filter(|kind| **kind == b'D').count()
}

fn lies_in_catalogs(job: &'static Job) {
    let mut stage = Stage::new(&format!("lies_{}", job.name), &[job]);
    let rows = catalog_rows(&mut stage, job);
    assert!(rows > 2, "{rows}");
    for row in 1..=rows {
        for (place, (what, bytes)) in answers().into_iter().enumerate() {
            // Of the jobs that share most of their queries, each tries half.
            if (place + row) % 2 == 0 && ["table", "inserter", "updater"].contains(&job.name) {
                continue;
            }
            let seen = AtomicUsize::new(0);
            let what = format!("{what} instead of row {row}");
            stage.suffer(job, &what, LONG, move |moment| {
                if moment.kind == b'D' && seen.fetch_add(1, Ordering::SeqCst) + 1 == row {
                    return Act::Instead(bytes.clone());
                }
                Act::Pass
            });
        }
    }
    stage.end();
}

#[test]
fn a_snapshot_survives_lies_in_catalogs() {
    lies_in_catalogs(&SNAPSHOT);
}

#[test]
fn a_table_survives_lies_in_catalogs() {
    lies_in_catalogs(&TABLE);
}

#[test]
fn an_inserter_survives_lies_in_catalogs() {
    lies_in_catalogs(&INSERTER);
}

#[test]
fn an_updater_survives_lies_in_catalogs() {
    lies_in_catalogs(&UPDATER);
}

#[test]
fn a_dml_job_survives_lies_in_catalogs() {
    lies_in_catalogs(&DML);
}

#[test]
fn a_comparison_puts_nothing_of_the_source_into_its_own_queries() {
    let mut stage = Stage::new("compares", &[&SNAPSHOT]);
    stage.owner.batch_execute(SNAPSHOT.change).unwrap();
    stage.dba.batch_execute("CREATE TABLE app.kept (x int)").unwrap();
    stage.fake.play(once(
        |moment| moment.kind == b'D' && moment.statement.contains("b.bucket, b.sums"),
        |moment| {
            // Of a DataRow with one value: behind the number of values and its length.
            let answer = String::from_utf8(moment.body[6..].to_vec()).unwrap();
            let parts: Vec<_> = answer.splitn(3, '"').collect();
            let lie = format!("{}\"}}'::text[]); DROP TABLE app.kept; --\"{}", parts[0], parts[2]);
            Act::Instead(data_row(&[Some(lie.as_bytes())]))
        },
    ));
    let outcome = stage.dba.batch_execute("SELECT mimeo.validate_content('app.t', p_show := 3)");
    assert!(stage.fake.has_played());
    assert_eq!(sqlstate(&outcome), "XX000");
    assert!(one::<bool>(&mut stage.dba, "SELECT to_regclass('app.kept') IS NOT NULL"));
    stage.fake.be_honest();
    stage.dba.batch_execute("DROP TABLE app.kept").unwrap();
    stage.end();
}

/// The first catalog query about columns.
const COLUMNS: Place = ("columns", |moment| moment.kind == b'D' && moment.statement.contains("'typmod'"));

/// A description of the job's table with these columns.
fn shape(job: &Job, columns: &str) -> Vec<u8> {
    let name = job.table.trim_start_matches("app.");
    let document = format!(
        "[{{\"oid\": 1, \"schema\": \"app\", \"name\": \"{name}\", \"kind\": \"r\", \"columns\": [{columns}]}}]"
    );
    data_row(&[Some(document.as_bytes())])
}

fn column(name: &str, type_name: &str, more: &str) -> String {
    format!(
        "{{\"name\": \"{name}\", \"number\": 1, \"type\": \"{type_name}\", \"type_oid\": 23, \"typmod\": -1,
           \"not_null\": false, \"generated\": \"\", \"identity\": \"\", \"collation\": null{more}}}"
    )
}

#[test]
fn a_shape_that_means_harm_is_refused() {
    let mut stage = Stage::new("shapes", &[&SNAPSHOT, &TABLE]);
    let many: Vec<_> = (0..100_000).map(|number| column(&format!("c{number}"), "integer", "")).collect();
    let shapes = [
        ("no columns", String::new()),
        ("a column twice", [column("id", "integer", ""), column("id", "integer", "")].join(",")),
        ("a type that ends the statement", column("id", "integer); DROP TABLE app.t_snap1; --", "")),
        ("a name that ends the statement", column("id\\\"; DROP TABLE app.t_snap1; --", "integer", "")),
        ("a name with NUL", column("a\\u0000b", "integer", "")),
        ("a type with NUL", column("id", "int\\u0000eger", "")),
        ("an empty name", column("", "integer", "")),
        ("a long name", column(&"x".repeat(1_000_000), "integer", "")),
        ("a long type", column("id", &"x".repeat(1_000_000), "")),
        ("a system column", column("ctid", "integer", "")),
        ("a type that no column can have", column("id", "trigger", "")),
        ("the password for a type", column("id", PASSWORD, "")),
        ("100,000 columns", many.join(",")),
    ];
    for job in [&SNAPSHOT, &TABLE] {
        for (what, columns) in &shapes {
            let bytes = shape(job, columns);
            let state = stage.suffer(job, what, LONG, once(COLUMNS.1, move |_| Act::Instead(bytes.clone())));
            assert_ne!(state, "00000", "{}: {what}", job.name);
        }
    }
    stage.end();
}

#[test]
fn a_huge_document_is_no_more_than_an_error() {
    let mut stage = Stage::new("huge", &[&SNAPSHOT]);
    for (what, text) in [
        ("50 MB of a string", format!("\"{}\"", "x".repeat(50_000_000))),
        ("50 MB of a name", format!("{{\"oid\": 1, \"name\": \"{}\"}}", "x".repeat(50_000_000))),
        ("50 MB of numbers", format!("[1{}]", ",1".repeat(25_000_000))),
        ("50 MB of anything", "\n".repeat(50_000_000)),
    ] {
        let state = stage.suffer(
            &SNAPSHOT,
            what,
            LONG,
            once(CATALOG.1, move |_| Act::Instead(data_row(&[Some(text.as_bytes())]))),
        );
        assert_ne!(state, "00000", "{what}");
    }
    let text = format!("[{}]", " ".repeat(64 * 1024 * 1024));
    let trick = once(CATALOG.1, move |_| Act::Instead(data_row(&[Some(text.as_bytes())])));
    assert_eq!(stage.suffer(&SNAPSHOT, "more than 64 MB", LONG, trick), "08006");
    stage.end();
}

/// Messages that have no place there.
fn odd_messages() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |what: &str, bytes: Vec<u8>| all.push((what.to_string(), bytes));
    for state in ["xx000", "42", "", "00000", "57014", "0A000\u{1}", "ABCDEFGHIJ", PASSWORD] {
        let bytes = report(b'E', "ERROR", state, &format!("your password is {PASSWORD}"));
        add(&format!("an error with SQLSTATE '{state}'"), bytes);
    }
    add("a fatal error", report(b'E', "FATAL", "57P01", "the end"));
    add("a panic", report(b'E', "PANIC", "XX000", "so says the source"));
    add("an error of 10 MB", report(b'E', "ERROR", "XX000", &"long ".repeat(2_000_000)));
    add("an error without fields", message(b'E', b"\0"));
    add("an error that is cut", message(b'E', b"SERR"));
    add("an error that is not UTF-8", message(b'E', b"SERROR\0CXX000\0M\xff\xfe\xfd\0\0"));
    add("a thousand errors", report(b'E', "ERROR", "XX000", "once more").repeat(1000));
    for kind in [b'?', 0, 255, b'G', b'W', b'H', b'c', b'I', b's', b't', b'n', b'1', b'V', b'v', b'R'] {
        add(&format!("message {kind}"), message(kind, b"\0\0\x01\0\0"));
    }
    for kind in *b"DdTNECA" {
        for length in [-1, 3, 100_000, i32::MAX] {
            add(&format!("message {} of length {length}", char::from(kind)), with_length(kind, length, b""));
        }
    }
    for state in *b"ETX" {
        add(&format!("ready in state {}", char::from(state)), message(b'Z', &[state]));
    }
    for (name, value) in [
        ("server_version", "0"),
        ("server_version", "99999999999999999999.9"),
        ("client_encoding", "BIG5"),
        ("client_encoding", "no encoding"),
        ("standard_conforming_strings", "off"),
        ("is_superuser", PASSWORD),
        ("", ""),
    ] {
        add(&format!("{name} is '{value}'"), parameter(name, value));
    }
    add("a parameter of 1 MB", parameter("application_name", &"x".repeat(1_000_000)));
    add("a parameter that is cut", message(b'S', b"server_version"));
    add("3000 notices", notice(&format!("your password is {PASSWORD}")).repeat(3000));
    add("a notice of 10 MB", notice(&"x".repeat(10_000_000)));
    add("3000 notifications", message(b'A', b"\0\0\0\x01channel\0payload\0").repeat(3000));
    add("another cancel key", message(b'K', &[0; 8]));
    add("-1 columns", message(b'T', &[255, 255]));
    add("32767 columns that are not there", message(b'T', &[127, 255]));
    add("columns twice", row_description(1).repeat(2));
    add("rows without columns", data_row(&[Some(b"x")]));
    add("the end of a command", complete("SELECT 1"));
    add("the protocol's version 3.0", message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]));
    add("a wish for the password", message(b'R', &[0, 0, 0, 3]));
    add("login over", message(b'R', &[0, 0, 0, 0]));
    add("bytes at random", (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    all
}

fn survives_odd_messages(place: Place) {
    let name = place.0.replace([' ', '-'], "_");
    let mut stage = Stage::new(&format!("odd_{name}"), &[&SNAPSHOT]);
    for (what, bytes) in odd_messages() {
        stage.suffer(
            &SNAPSHOT,
            &format!("{what} {}", place.0),
            SHORT,
            once(place.1, move |moment| Act::Instead(ahead(&bytes, moment))),
        );
    }
    stage.end();
}

#[test]
fn odd_messages_at_the_login_do_no_harm() {
    survives_odd_messages(LOGIN);
}

#[test]
fn odd_messages_at_the_end_of_the_login_do_no_harm() {
    survives_odd_messages(READY);
}

#[test]
fn odd_messages_at_the_set_up_do_no_harm() {
    survives_odd_messages(SET_UP);
}

#[test]
fn odd_messages_in_a_catalog_query_do_no_harm() {
    survives_odd_messages(CATALOG);
}

#[test]
fn odd_messages_in_a_copy_do_no_harm() {
    survives_odd_messages(COPY);
}

#[test]
fn odd_messages_at_the_end_of_a_copy_do_no_harm() {
    survives_odd_messages(COPY_END);
}

#[test]
fn an_error_in_the_middle_of_a_copy_is_told_as_it_is_but_for_what_is_wrong_with_it() {
    let mut stage = Stage::new("errors", &[&SNAPSHOT]);
    for (state, told) in [("23505", "23505"), ("xx000", "08P01"), ("42", "08P01"), ("", "08P01"), ("00000", "08P01")] {
        let trick = once(COPY.1, move |_| Act::Close(report(b'E', "ERROR", state, "no more")));
        assert_eq!(stage.suffer(&SNAPSHOT, &format!("SQLSTATE '{state}'"), LONG, trick), told);
    }
    stage.end();
}

/// A refresh that will begin again waits a second or two before: a cancel then is recorded like any other.
#[test]
fn a_cancel_between_two_tries_is_recorded() {
    for job in [&SNAPSHOT, &TABLE, &INSERTER, &UPDATER, &DML, &GROUP] {
        let mut stage = Stage::new(&format!("tries_{}", job.name), &[job]);
        let trick = once(COPY.1, move |_| Act::Close(report(b'E', "ERROR", "40001", "conflict with recovery")));
        assert_eq!(stage.suffer(job, "a conflict, and a cancel", SHORT, trick), "57014");
        assert!(stage.silent.is_empty(), "{:?}", stage.silent);
        stage.end();
    }
}

/// What never ends.
fn endless() -> Vec<(&'static str, Vec<u8>)> {
    let parameters: Vec<u8> =
        (0..1000).flat_map(|number| parameter(&format!("parameter {number}"), &"x".repeat(100))).collect();
    vec![
        ("notices", notice(&format!("your password is {PASSWORD}"))),
        ("notifications", message(b'A', b"\0\0\0\x01channel\0payload\0")),
        ("parameters", parameters),
        ("rows", data_row(&[Some(b"{}")])),
        ("results", [row_description(1), data_row(&[Some(b"{}")]), complete("SELECT 1")].concat()),
        ("empty copy data", message(b'd', b"")),
        ("copy data", message(b'd', b"\0\x02\0\0\0\x04\0\0\0\x01\0\0\0\x01x")),
        ("trailers", message(b'd', &TRAILER)),
        ("copies", message(b'H', b"\0\0\x01\0\0")),
        ("errors", report(b'E', "ERROR", "XX000", "again")),
        ("readiness", message(b'Z', b"I")),
    ]
}

#[test]
fn a_stream_without_end_is_ended_by_statement_timeout() {
    let timeout = Duration::from_millis(700);
    let mut stage = Stage::new("endless", &[&SNAPSHOT]);
    let memory = stage.most_memory();
    for place in [LOGIN, READY, SET_UP, CATALOG, COPY, COPY_END] {
        for (what, bytes) in endless() {
            let what = format!("endless {what} {}", place.0);
            let state = stage.suffer(&SNAPSHOT, &what, timeout, once(place.1, move |_| Act::Flood(bytes.clone())));
            assert_ne!(state, "00000", "{what}");
            let grown = stage.most_memory() - memory;
            assert!(grown < 100, "{what}: {grown} MB more");
        }
    }
    stage.end();
}

/// A row of a binary COPY.
fn copied(fields: &[&[u8]]) -> Vec<u8> {
    let mut row = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        row.extend((field.len() as i32).to_be_bytes());
        row.extend(*field);
    }
    message(b'd', &row)
}

/// What a source may say of versions: the query that it answers, and the answer.
fn odd_versions() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let sum = |part: i32, number: i32, count: i64, hash: i64| {
        copied(&[&part.to_be_bytes(), &number.to_be_bytes(), &count.to_be_bytes(), &hash.to_be_bytes()])
    };
    let version = |block: u32, offset: u16, xmin: u32| {
        copied(&[&[&block.to_be_bytes()[..], &offset.to_be_bytes()].concat(), &xmin.to_be_bytes()])
    };
    let (condensed, versions) = ("hashtidextended", "v.ctid, v.xmin FROM");
    vec![
        ("a sum of no part", condensed, sum(7, 0, 1, 1)),
        ("a sum of a negative part", condensed, sum(-1, 0, 1, 1)),
        ("a sum of no group", condensed, sum(0, 1 << 30, 1, 1)),
        ("a sum of a negative group", condensed, sum(0, -1, 1, 1)),
        ("a sum twice", condensed, [sum(0, 0, 1, 1), sum(0, 0, 1, 1)].concat()),
        ("a negative count", condensed, sum(0, 0, -1, 1)),
        ("a huge count", condensed, sum(0, 0, i64::MAX, 1)),
        ("another count", condensed, sum(0, 0, 1, 1)),
        ("a sum of too few fields", condensed, copied(&[&[0; 4], &[0; 4]])),
        ("a sum of fields of no length", condensed, copied(&[&[], &[], &[], &[]])),
        ("a sum of long fields", condensed, copied(&[&[1; 4], &[1; 4], &[1; 8], &[1; 900]])),
        ("a NULL", condensed, message(b'd', b"\0\x04\xff\xff\xff\xff\0\0\0\x04\0\0\0\0")),
        ("the end at once", condensed, message(b'd', &TRAILER)),
        ("a version beyond the end", versions, version(u32::MAX, 1, 1000)),
        ("a version nowhere", versions, version(u32::MAX, u16::MAX, 0)),
        ("a version of an odd place", versions, version(0, u16::MAX, 1000)),
        ("versions without order", versions, [version(1, 5, 1000), version(1, 4, 1000)].concat()),
        ("a version twice", versions, [version(1, 5, 1000), version(1, 5, 1000)].concat()),
        ("versions that are not there", versions, (1..200).flat_map(|offset| version(0, offset, 1000)).collect()),
        ("a version of no length", versions, copied(&[&[], &[]])),
        ("the end of versions at once", versions, message(b'd', &TRAILER)),
        ("no version", versions, Vec::new()),
    ]
}

#[test]
fn versions_of_rows_that_cannot_be_do_no_harm() {
    let mut stage = Stage::new("versions", &[&DELTA]);
    let memory = stage.most_memory();
    let (mut errors, mut copies) = (0, 0);
    for (what, query, bytes) in odd_versions() {
        for in_a_row in [1, 3] {
            let seen = AtomicUsize::new(0);
            let again = bytes.clone();
            let trick = move |moment: &Moment<'_>| {
                let here =
                    moment.kind == b'd' && moment.statement.contains(query) && !moment.body.starts_with(b"PGCOPY");
                if here && seen.fetch_add(1, Ordering::SeqCst) < in_a_row {
                    return Act::Instead(again.clone());
                }
                Act::Pass
            };
            let state = stage.suffer(&DELTA, &format!("{what}, {in_a_row} times"), LONG, trick);
            errors += usize::from(state != "00000");
            copies += usize::from(state == "00000");
        }
    }
    // The rows that are asked for.
    for (what, bytes) in
        [("no row", Vec::new()), ("a row of other fields", copied(&[&[0; 4]])), ("the end", message(b'd', &TRAILER))]
    {
        let place = |moment: &Moment<'_>| {
            moment.kind == b'd'
                && moment.statement.contains(" = ANY (".replace('=', "OPERATOR(pg_catalog.=)").as_str())
                && !moment.body.starts_with(b"PGCOPY")
        };
        let state = stage.suffer(
            &DELTA,
            &format!("{what} in place of one that was asked for"),
            LONG,
            once(place, move |_| Act::Instead(bytes.clone())),
        );
        errors += usize::from(state != "00000");
    }
    for (query, bytes) in [
        ("hashtidextended", copied(&[&[0; 4], &[0; 4], &[0; 8], &[0; 8]])),
        ("v.ctid, v.xmin FROM", copied(&[&[0, 0, 0, 1, 0, 1], &[0, 0, 3, 0]])),
        ("v.ctid, v.xmin FROM", message(b'd', b"")),
    ] {
        let place = move |moment: &Moment<'_>| {
            moment.kind == b'd' && moment.statement.contains(query) && !moment.body.starts_with(b"PGCOPY")
        };
        let state = stage.suffer(
            &DELTA,
            &format!("rows of {query} without end"),
            Duration::from_millis(700),
            once(place, move |_| Act::Flood(bytes.clone())),
        );
        assert_ne!(state, "00000");
    }
    let grown = stage.most_memory() - memory;
    assert!(grown < 100, "{grown} MB more");
    assert!(copies > 20, "{copies} became a copy, {errors} an error");
    stage.end();
}

#[test]
fn a_delta_survives_lies_in_catalogs() {
    lies_in_catalogs(&DELTA);
}

#[test]
fn rows_without_end_after_those_of_a_copy_are_refused() {
    let mut stage = Stage::new("endless_trailer", &[&SNAPSHOT, &TEXT]);
    for (job, last) in [(&SNAPSHOT, &TRAILER[..]), (&TEXT, &b"8\t"[..])] {
        let end = if job.name == "text" { b"\\.\n".to_vec() } else { TRAILER.to_vec() };
        let trick = once(
            move |moment| moment.kind == b'd' && moment.body.starts_with(last),
            move |_| Act::Flood(message(b'd', &end)),
        );
        let state = stage.suffer(job, "trailers without end", Duration::from_millis(700), trick);
        assert_ne!(state, "00000");
    }
    stage.end();
}

#[test]
fn silence_is_ended_by_statement_timeout_also_if_nobody_takes_the_cancel() {
    let timeout = Duration::from_millis(500);
    let jobs = [&SNAPSHOT, &TABLE, &INSERTER, &UPDATER, &DML];
    let mut stage = Stage::new("silence", &jobs);
    for job in jobs {
        for place in [LOGIN, READY, SET_UP, CATALOG, COPY, COPY_END] {
            for deaf in [false, true] {
                if deaf && job.name != "snapshot" {
                    continue;
                }
                stage.fake.be_deaf(deaf);
                let what = format!("silence {}, deaf: {deaf}", place.0);
                let state = stage.suffer(job, &what, timeout, once(place.1, |_| Act::Silence(Vec::new())));
                assert_eq!(state, "57014", "{}: {what}", job.name);
            }
        }
    }
    stage.fake.be_deaf(false);
    stage.end();
}

/// Taking back what a maker has made on the source cannot be cancelled.
#[test]
fn a_source_that_never_answers_does_not_hold_the_end_of_a_transaction() {
    let mut stage = Stage::new("undo", &[&DML]);
    let memory = stage.most_memory();
    let undoing: fn(&Moment<'_>) -> bool = |moment| moment.statement.starts_with("SET statement_timeout");
    type Play = fn() -> Act;
    let tricks: [(&str, Place, Play); 4] = [
        ("silence", ("before the login", |moment| moment.number == 1), || Act::Silence(Vec::new())),
        ("silence", ("at the first statement", undoing), || Act::Silence(Vec::new())),
        ("rows", ("at the first statement", undoing), || Act::Flood(data_row(&[Some(b"x")]))),
        ("copies", ("at the first statement", undoing), || Act::Flood(message(b'H', b"\0\0\x01\0\0"))),
    ];
    for (what, place, play) in tricks {
        let what = format!("{what} {}", place.0);
        let (failed, played) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (has_failed, has_played) = (failed.clone(), played.clone());
        stage.fake.play(move |moment| {
            if has_failed.load(Ordering::SeqCst) {
                if !place.1(moment) {
                    return Act::Pass;
                }
                has_played.store(true, Ordering::SeqCst);
                return play();
            }
            if !COPY.1(moment) {
                return Act::Pass;
            }
            has_failed.store(true, Ordering::SeqCst);
            Act::Close(report(b'E', "ERROR", "23505", "no more"))
        });
        let since = Instant::now();
        let outcome = stage.dba.batch_execute("SELECT mimeo.dml_maker('app.dm', 1, 'app.again')");
        let took = since.elapsed();
        assert!(failed.load(Ordering::SeqCst) && played.load(Ordering::SeqCst), "{what}: not played, {outcome:?}");
        assert!(took < Duration::from_secs(12), "{what}: took {took:?}");
        assert_eq!(sqlstate(&outcome), "23505", "{what}: the maker's own error, not {outcome:?}");
        assert_eq!(one::<i32>(&mut stage.dba, "SELECT pg_backend_pid()"), stage.pid, "{what}: another backend");
        assert_eq!(stage.open_descriptors(), stage.sockets, "{what}: a descriptor is left open");
        assert!(stage.most_memory() - memory < 100, "{what}: what came was kept");
    }
    let log = String::from_utf8_lossy(&std::fs::read(pair().destination.dir().join("log")).unwrap()).to_string();
    let told = log
        .lines()
        .filter(|line| line.contains("@hostile_undo ") && line.contains("are left there; run on that source"));
    assert_eq!(told.count(), 4, "the log says what is left on the source");
    stage.end();
}

/// Runs a maker while the source answers `statement` with `lie`. What became of it; the backend lives on, and nothing was run.
fn make_with_a_lie(
    stage: &mut Stage,
    maker: &str,
    number: usize,
    lies: &[(&'static str, String)],
) -> (String, Duration) {
    let lies: Vec<(&'static str, Vec<u8>)> =
        lies.iter().map(|(statement, lie)| (*statement, data_row(&[Some(lie.as_bytes())]))).collect();
    let expected: Vec<_> = lies.iter().map(|(statement, _)| *statement).collect();
    stage.fake.play(move |moment| match lies.iter().find(|(statement, _)| moment.statement.contains(statement)) {
        Some((_, bytes)) if moment.kind == b'D' => Act::Instead(bytes.clone()),
        _ => Act::Pass,
    });
    let since = Instant::now();
    let outcome = stage.dba.batch_execute(&format!("SELECT mimeo.{maker}('app.tab', 1, 'app.made_{number}')"));
    let took = since.elapsed();
    assert!(stage.fake.has_played(), "{expected:?}");
    if let Err(error) = &outcome {
        assert!(error.as_db_error().is_some(), "the backend is gone: {error}");
    }
    stage.fake.be_honest();
    stage.dba.batch_execute("SET statement_timeout = '20s'").unwrap();
    assert_eq!(one::<i32>(&mut stage.dba, "SELECT pg_backend_pid()"), stage.pid, "another backend");
    assert!(one::<bool>(&mut stage.dba, "SELECT to_regclass('app.canary') IS NOT NULL"), "what a source says was run");
    (sqlstate(&outcome), took)
}

const INDEXES: &str = "pg_get_indexdef(x.indexrelid)";
const DEFAULTS: &str = "'expression', pg_get_expr(d.adbin";
const SHAPES: &str = "'typmod', a.atttypmod";
const TYPES: &str = "WITH RECURSIVE reach(oid)";

fn index(definition: &str) -> String {
    serde_like(&format!(
        "[{{\"name\": \"i\", \"definition\": {}, \"primary\": false, \"unique\": false, \"immediate\": true, \"partial\": false,
            \"expressions\": true, \"columns\": []}}]",
        quoted(definition)
    ))
}

fn serde_like(text: &str) -> String {
    text.replace('\n', " ")
}

/// As a string of JSON.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' => "\\\"".to_string(),
            '\\' => "\\\\".to_string(),
            c if (c as u32) < 32 => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Expressions that lead deep, each in its own way, so many levels.
fn deep(levels: usize) -> Vec<(&'static str, String)> {
    let nest =
        |open: &str, middle: &str, close: &str| format!("{}{middle}{}", open.repeat(levels), close.repeat(levels));
    vec![
        ("parentheses", nest("(", "id", ")")),
        ("NOT", nest("NOT ", "(id > 0)", "")),
        ("signs", nest("- ", "id", "")),
        ("a chain of additions", format!("id{}", " + 1".repeat(levels))),
        ("a chain of casts", format!("id{}", "::bigint".repeat(levels))),
        ("a chain of AND", format!("id > 0{}", " AND id > 0".repeat(levels))),
        ("calls", nest("abs(", "id", ")")),
        ("CASE", nest("CASE WHEN true THEN ", "id", " END")),
        ("arrays", nest("ARRAY[", "id", "]")),
        ("rows", nest("ROW(", "id", ")")),
        ("a chain of COLLATE", format!("v{}", " COLLATE \"C\"".repeat(levels))),
        ("a chain of IS NULL", format!("id{}", " IS NULL".repeat(levels))),
        ("coalesce", nest("coalesce(", "id", ")")),
        ("subqueries", nest("(SELECT ", "1", ")")),
    ]
}

/// S4, and what is like it: the deepest of a definition meets PostgreSQL's own limit of the stack, in one guard.
#[test]
fn a_definition_that_is_nested_deep_is_refused() {
    let mut stage = Stage::new("deep", &[&TABLE]);
    stage.dba.batch_execute("CREATE TABLE app.canary ()").unwrap();
    let mut number = 0;
    for levels in [50, 3000, 20_000] {
        for (what, expression) in deep(levels) {
            for wrapped in [
                vec![(INDEXES, index(&format!("CREATE INDEX i ON app.tab USING btree ((({expression})))")))],
                vec![(
                    INDEXES,
                    index(&format!("CREATE INDEX i ON app.tab USING btree (id) WHERE ({expression}) IS NULL")),
                )],
                vec![(
                    DEFAULTS,
                    format!("[{{\"column\": \"v\", \"expression\": {}, \"generated\": true}}]", quoted(&expression)),
                )],
            ] {
                number += 1;
                let (_, took) = make_with_a_lie(&mut stage, "table_maker", number, &wrapped);
                // Of 50 rows within each other PostgreSQL doubles the quotes until the text has a gigabyte, which takes seconds.
                assert!(took < Duration::from_secs(60), "{what}, {levels} levels: {took:?}");
            }
        }
    }
    println!("{number} definitions");
    stage.end();
}

/// S2, and what is like it.
#[test]
fn what_a_definition_says_is_not_run() {
    let mut stage = Stage::new("definitions", &[&TABLE]);
    stage.dba.batch_execute("CREATE TABLE app.canary ()").unwrap();
    let drop = "DROP TABLE app.canary";
    let indexes = [
        format!("CREATE INDEX i ON app.tab (id); {drop}"),
        drop.to_string(),
        format!("DO $$ BEGIN {drop}; END $$"),
        "CREATE INDEX i ON app.tab ((SELECT 1))".to_string(),
        "CREATE INDEX i ON app.tab ((a.b.c.d(id)))".to_string(),
        "CREATE INDEX i ON app.tab ((id OPERATOR(a.b.+) 1))".to_string(),
        "CREATE INDEX i ON app.tab (id no.such_ops)".to_string(),
        "CREATE INDEX i ON app.tab USING no_such_method (id)".to_string(),
        "CREATE INDEX i ON app.tab (id) TABLESPACE nowhere".to_string(),
        "CREATE INDEX i ON app.tab (id) WITH (fillfactor = 'x); --')".to_string(),
        "CREATE INDEX i ON app.tab ((id::no.such_type))".to_string(),
        "CREATE INDEX i ON app.tab ((($1)))".to_string(),
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS canary ON app.canary (id)".to_string(),
        "CREATE INDEX i ON ONLY app.tab (random())".to_string(),
        "CREATE INDEX i ON app.tab (id) WHERE (pg_catalog.pg_sleep(100) IS NOT NULL)".to_string(),
        String::new(),
        ";;".to_string(),
        "-- ".to_string(),
        "CREATE INDEX i ON app.tab (\u{0}id)".to_string(),
    ];
    let mut number = 0;
    for definition in &indexes {
        number += 1;
        let (state, took) = make_with_a_lie(&mut stage, "table_maker", number, &[(INDEXES, index(definition))]);
        assert!(took < Duration::from_secs(5), "{definition}: {took:?}");
        let harmless = definition.contains("TABLESPACE") || definition.contains("CONCURRENTLY");
        // Another index than the key's is left out.
        assert_eq!(state == "00000", !definition.contains('\u{0}'), "{definition}: {state}");
        let made: i64 = one(
            &mut stage.dba,
            &format!("SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('app.made_{number}')"),
        );
        assert_eq!(made, i64::from(harmless), "{definition}");
    }
    let pairs = [
        ("'x' /*", "E'\\n*/); DROP TABLE app.canary; --'"),
        ("'x' --", "E'\\n); DROP TABLE app.canary; --'"),
        ("$a$", "$a$); DROP TABLE app.canary; --"),
        ("'x", "); DROP TABLE app.canary; --'"),
        ("1), DEFAULT (2", "3"),
        ("1 AS x", "1 FROM app.canary"),
        ("1 WHERE true", "DISTINCT 1"),
        ("1 INTO app.x", "1 FOR UPDATE"),
        ("1; DROP TABLE app.canary", "1 UNION SELECT 2"),
        ("1 LIMIT 1", "1 ORDER BY 1"),
        ("'x'::app.canary", "'x'::app.tab%TYPE"),
        ("", " "),
        ("\\', 'x", "U&'\\0027' UESCAPE '!'"),
    ];
    for generated in [false, true] {
        for (first, second) in pairs {
            number += 1;
            let document = format!(
                "[{{\"column\": \"id\", \"expression\": {}, \"generated\": {generated}}}, {{\"column\": \"v\", \"expression\": {}, \"generated\": {generated}}}]",
                quoted(first),
                quoted(second)
            );
            let (_, took) = make_with_a_lie(&mut stage, "table_maker", number, &[(DEFAULTS, document)]);
            assert!(took < Duration::from_secs(5), "{first}: {took:?}");
        }
    }
    stage.end();
}

/// A shape of one column of a type that no server knows by itself, and the types behind it.
fn typed(types: &str) -> Vec<(&'static str, String)> {
    let column = "{\"name\": \"id\", \"number\": 1, \"type\": \"app.d\", \"type_oid\": 20000, \"typmod\": -1, \"not_null\": false, \
                  \"generated\": \"\", \"identity\": \"\", \"collation\": null}";
    let shape =
        format!("[{{\"oid\": 1, \"schema\": \"app\", \"name\": \"t\", \"kind\": \"r\", \"columns\": [{column}]}}]");
    vec![(SHAPES, shape), (TYPES, format!("{{{types}}}"))]
}

fn domain(oid: usize, base: usize) -> String {
    format!("\"{oid}\": {{\"name\": \"app.d{oid}\", \"kind\": \"d\", \"element\": 0, \"base\": {base}, \"binary\": true, \"subtype\": null, \"labels\": null, \"attributes\": null}}")
}

/// S14, and what is like it.
#[test]
fn types_without_end_are_refused_at_once() {
    let mut stage = Stage::new("types", &[&TABLE]);
    stage.dba.batch_execute("CREATE TABLE app.canary (); CREATE DOMAIN app.d AS int").unwrap();
    let chain = |length: usize| (0..length).map(|n| domain(20_000 + n, 20_001 + n)).collect::<Vec<_>>().join(",");
    let composite = |oid: usize, of: &str| {
        format!("\"{oid}\": {{\"name\": \"app.c{oid}\", \"kind\": \"c\", \"element\": 0, \"base\": 0, \"binary\": true, \"subtype\": null, \"labels\": null, \"attributes\": [{of}]}}")
    };
    let many = (0..60_000).map(|n| format!("[\"a{n}\", 20000]")).collect::<Vec<_>>().join(",");
    let cases = [
        ("50,000 domains over each other", chain(50_000)),
        ("a domain over itself", domain(20_000, 20_000)),
        ("two domains over each other", [domain(20_000, 20_001), domain(20_001, 20_000)].join(",")),
        ("65 domains", chain(65)),
        ("a composite of itself", composite(20_000, "[\"a\", 20000]")),
        ("a composite with 60,000 attributes", composite(20_000, &many)),
        ("20,000 types beside each other", (0..20_000).map(|n| domain(20_000 + n, 23)).collect::<Vec<_>>().join(",")),
    ];
    for (number, (what, types)) in cases.iter().enumerate() {
        for (other, maker) in ["table_maker", "snapshot_maker"].into_iter().enumerate() {
            stage.dba.batch_execute("SET statement_timeout = '2s'").unwrap();
            let (state, took) = make_with_a_lie(&mut stage, maker, 2 * number + other, &typed(types));
            assert!(took < Duration::from_secs(4), "{what}: {took:?}");
            if what.contains("domain") {
                assert_eq!(state, "42809", "{maker}, {what}");
            }
        }
    }
    stage.end();
}

/// Lists of transactions that write: each look at them is no more than sorting them.
#[test]
fn a_hundred_thousand_writers_are_looked_at_in_a_moment() {
    let mut stage = Stage::new("writers", &[&INSERTER]);
    let list: Vec<_> = (0..100_000).map(|n| format!("\"{}/{n}\"", n % 50_000)).collect();
    let blockers = format!("{{\"writers\": [{0}], \"running\": [{0}]}}", list.join(","));
    let shown = format!("[{}]", list.join(","));
    stage.dba.batch_execute("SET mimeo.writer_wait = '100ms'").unwrap();
    let state = stage.suffer(&INSERTER, "100,000 writers", LONG, move |moment| match moment.kind {
        b'D' if moment.statement.contains("'writers'") => Act::Instead(data_row(&[Some(blockers.as_bytes())])),
        b'D' if moment.statement.contains("l.virtualtransaction OPERATOR(pg_catalog.=) ANY") => {
            Act::Instead(data_row(&[Some(shown.as_bytes())]))
        }
        _ => Act::Pass,
    });
    assert_eq!(state, "00000");
    stage.end();
}

/// A server that asks for SCRAM says how many rounds the client has to compute: half an hour of them, and nothing of libpq's looks up.
#[test]
fn rounds_of_scram_without_end_are_ended_by_statement_timeout_and_by_termination() {
    let mut stage = Stage::new("scram", &[&TABLE]);
    let rounds = |moment: &Moment<'_>| {
        let body = String::from_utf8_lossy(moment.body).to_string();
        if moment.kind != b'R' || !body.contains(",i=4096") {
            return Act::Pass;
        }
        Act::Instead(message(b'R', body.replace(",i=4096", ",i=2147483647").as_bytes()))
    };
    stage.fake.play(rounds);
    stage.dba.batch_execute("SET statement_timeout = '500ms'").unwrap();
    let since = Instant::now();
    let outcome = stage.dba.batch_execute(TABLE.refresh);
    assert!(stage.fake.has_played(), "not played, {outcome:?}");
    assert!(since.elapsed() < Duration::from_millis(500) + GRACE, "took {:?}", since.elapsed());
    assert_eq!(sqlstate(&outcome), "57014");
    stage.fake.be_honest();
    stage.dba.batch_execute("SET statement_timeout = '20s'").unwrap();
    stage.refresh_honestly(&TABLE, "beside a thread that computes");

    stage.fake.play(rounds);
    let mut other = stage.scene.dba();
    let pid: i32 = one(&mut other, "SELECT pg_backend_pid()");
    let calling = std::thread::spawn(move || other.batch_execute(TABLE.refresh));
    wait_for("the other backend to compute", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() == 2 && stage.fake.has_played()
    });
    let since = Instant::now();
    assert!(one::<bool>(&mut stage.dba, &format!("SELECT pg_terminate_backend({pid}, 5000)")), "it does not end");
    assert!(since.elapsed() < GRACE, "took {:?}", since.elapsed());
    assert!(calling.join().unwrap().is_err());
    assert_eq!(one::<i32>(&mut stage.dba, "SELECT pg_backend_pid()"), stage.pid, "the cluster has not started again");

    // The first backend's thread ends with it.
    let Stage { scene, fake, dba, pid, .. } = stage;
    drop(dba);
    wait_for("the first backend to end", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    let log = String::from_utf8_lossy(&std::fs::read(pair().destination.dir().join("log")).unwrap()).to_string();
    assert!(!log.contains("terminated by signal"), "a backend has crashed");
    drop((scene, fake));
}

/// What was asked for lies below the bound: a greater value would keep all later rows away for ever.
#[test]
fn a_greatest_value_beyond_the_bound_is_refused() {
    for job in [&INSERTER, &UPDATER] {
        let mut stage = Stage::new(&format!("greatest_{}", job.name), &[job]);
        let greatest = |moment: &Moment<'_>| {
            moment.kind == b'D' && moment.statement.starts_with("SELECT pg_catalog.max(\"mimeo\"")
        };
        let trick = once(greatest, |_| Act::Instead(data_row(&[Some(b"2147483000")])));
        let state = stage.suffer(job, "a greatest value that nobody has", LONG, trick);
        assert_ne!(state, "00000", "{}", job.name);
        stage.end();
    }
}

/// Escapes of JSON hide what a text holds.
#[test]
fn what_an_escape_stands_for_is_seen() {
    let mut stage = Stage::new("escapes", &[&TABLE]);
    stage.dba.batch_execute("CREATE TABLE app.canary ()").unwrap();
    let called =
        |name: &str| index("CREATE INDEX i ON app.tab USING btree (nothing)").replace("\"i\"", &format!("\"{name}\""));
    let (state, took) = make_with_a_lie(&mut stage, "table_maker", 1, &[(INDEXES, called("t\\u0000"))]);
    assert!(state.starts_with("08") && took < GRACE, "{state} after {took:?}");

    let (first, rest) = PASSWORD.split_at(1);
    let lie = data_row(&[Some(called(&format!("\\u{:04x}{rest}", first.as_bytes()[0])).as_bytes())]);
    stage.fake.play(move |moment| {
        if moment.kind == b'D' && moment.statement.contains(INDEXES) {
            return Act::Instead(lie.clone());
        }
        Act::Pass
    });
    // The WARNING that it is left out is in the log, in which `end` looks for the password.
    stage.dba.batch_execute("SELECT mimeo.table_maker('app.tab', 1, 'app.told')").unwrap();
    let log = std::fs::read_to_string(pair().destination.dir().join("log")).unwrap();
    assert!(log.contains("\"app.told\": index \"********\" is left out"), "it is told without the password");
    stage.end();
}

/// Lists that a source may make as long as it likes, beside 1600 columns: each is gone through once.
#[test]
fn long_lists_beside_many_columns_are_gone_through_once() {
    let mut stage = Stage::new("lists", &[&TABLE]);
    stage.dba.batch_execute("CREATE TABLE app.canary ()").unwrap();
    let columns: Vec<_> = (0..1600).map(|n| column(&format!("a column with a long name {n}"), "integer", "")).collect();
    let shape = format!(
        "[{{\"oid\": 1, \"schema\": \"app\", \"name\": \"t\", \"kind\": \"r\", \"columns\": [{}]}}]",
        columns.join(",")
    );
    let names =
        |count: usize| (0..count).map(|n| format!("\"a column with a long nam {n}\"")).collect::<Vec<_>>().join(",");
    let found = format!(
        "{{\"oid\": 1, \"schema\": \"app\", \"name\": \"tab\", \"kind\": \"r\", \"schema_usage\": true, \"readable\": false, \"readable_columns\": [{}]}}",
        names(1_000_000)
    );
    let unique = index("CREATE UNIQUE INDEX i ON app.tab USING btree (id)")
        .replace("\"unique\": false", "\"unique\": true")
        .replace("\"expressions\": true", "\"expressions\": false")
        .replace(
            "\"columns\": []",
            &format!("\"columns\": [{}]", vec!["\"a column with a long name 1599\""; 1_000_000].join(",")),
        );
    let default = |n: usize| {
        format!("{{\"column\": \"a column with a long nam {n}\", \"expression\": \"1\", \"generated\": false}}")
    };
    let defaults = format!("[{}]", (0..400_000).map(default).collect::<Vec<_>>().join(","));
    let types = || (TYPES, "{}".to_string());
    let cases = [
        ("table_maker", vec![("'readable_columns'", found), (SHAPES, shape.clone()), types()]),
        (
            "dml_maker",
            vec![(INDEXES, unique), (SHAPES, shape.replace("\"not_null\": false", "\"not_null\": true")), types()],
        ),
        ("table_maker", vec![(DEFAULTS, defaults), (SHAPES, shape), types()]),
    ];
    for (number, (maker, lies)) in cases.into_iter().enumerate() {
        stage.dba.batch_execute("SET statement_timeout = '2s'").unwrap();
        let (_, took) = make_with_a_lie(&mut stage, maker, number, &lies);
        assert!(took < Duration::from_secs(2) + GRACE, "{maker}, {}: {took:?}", lies[0].0);
        println!("{maker}, {}: {took:?}", lies[0].0);
    }
    stage.end();
}
