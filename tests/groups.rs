//! Groups under constant writes: readers never see half of one, whatever kind of query they use and however a refresh ends.
//!
//! MIMEO_GROUP_SECONDS is how long each of the first two tests takes, 25; MIMEO_GROUP_ALONE=1 refreshes each member by itself instead, with which the first
//! has to fail.

mod support;

use postgres::{Client, IsolationLevel};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use support::proxy::Proxy;
use support::random::Random;
use support::{in_background, message, one, pair, wait_for, Scene};

const MAKE: &str = "
CREATE TABLE app.accounts (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE app.transfers (id serial PRIMARY KEY, src int NOT NULL, dst int NOT NULL, amount int NOT NULL);
CREATE TABLE app.spent (id int PRIMARY KEY, n serial, transfers int NOT NULL);
CREATE TABLE app.orders (id int PRIMARY KEY, total int NOT NULL);
CREATE TABLE app.lines (id serial PRIMARY KEY, order_id int NOT NULL, amount int NOT NULL);
CREATE TABLE app.events (id serial PRIMARY KEY, v text);
CREATE TABLE app.waiting (events int NOT NULL);
GRANT SELECT, TRIGGER ON ALL TABLES IN SCHEMA app TO reader;
INSERT INTO app.accounts SELECT i, 1000 FROM generate_series(1, 50) i;
INSERT INTO app.spent (id, transfers) SELECT i, 0 FROM generate_series(1, 50) i;
INSERT INTO app.orders SELECT i, 0 FROM generate_series(1, 200) i;
INSERT INTO app.events (v) SELECT 'e' || i FROM generate_series(1, 100) i;
INSERT INTO app.waiting VALUES (100);";

const JOBS: &str = "
SELECT mimeo.snapshot_maker('app.accounts', 1, p_group := 'shop');
SELECT mimeo.inserter_maker('app.transfers', 'serial', 'id', 1, p_group := 'shop');
SELECT mimeo.updater_maker('app.spent', 'serial', 'n', 1, p_group := 'shop');
SELECT mimeo.dml_maker('app.orders', 1, p_group := 'shop');
SELECT mimeo.snapshot_maker('app.lines', 1, p_group := 'shop');
SELECT mimeo.logdel_maker('app.events', 1, p_group := 'shop');
SELECT mimeo.table_maker('app.waiting', 1, p_group := 'shop');
UPDATE mimeo.refresh_config SET delta = NULL WHERE dest_table = 'app.accounts'";

const MEMBERS: [(&str, &str); 7] = [
    ("accounts", "snapshot"),
    ("transfers", "inserter"),
    ("spent", "updater"),
    ("orders", "dml"),
    ("lines", "snapshot"),
    ("events", "logdel"),
    ("waiting", "table"),
];

/// How many things do not add up.
const BROKEN: &str = "
SELECT (SELECT count(*) FROM app.accounts a
          LEFT JOIN (SELECT x.id, sum(x.amount) AS sum FROM app.transfers t CROSS JOIN LATERAL (VALUES (t.src, -t.amount), (t.dst, t.amount)) x (id, amount)
                      GROUP BY x.id) t USING (id) WHERE a.balance <> 1000 + coalesce(t.sum, 0))
     + (SELECT count(*) FROM app.spent s LEFT JOIN (SELECT src, count(*) AS n FROM app.transfers GROUP BY src) t ON t.src = s.id
         WHERE s.transfers <> coalesce(t.n, 0))
     + (SELECT count(*) FROM app.orders o FULL JOIN (SELECT order_id, sum(amount) AS sum FROM app.lines GROUP BY order_id) l ON l.order_id = o.id
         WHERE o.id IS NULL OR o.total <> coalesce(l.sum, 0))
     + (SELECT count(*) FROM app.waiting w WHERE w.events <> (SELECT count(*) FROM app.events e WHERE to_jsonb(e) ->> 'mimeo_source_deleted' IS NULL))";

/// One transaction of the application.
fn write(random: &mut Random) -> String {
    let (a, b) = (1 + random.below(50), 1 + random.below(49));
    let (order, amount) = (1 + random.below(200), 1 + random.below(90));
    match random.below(10) {
        0..=3 => format!(
            "BEGIN; UPDATE app.accounts SET balance = balance - {amount} WHERE id = {a};
             UPDATE app.accounts SET balance = balance + {amount} WHERE id = {a} % 50 + {b} - CASE WHEN {a} % 50 + {b} > 50 THEN 50 ELSE 0 END;
             INSERT INTO app.transfers (src, dst, amount) VALUES ({a}, {a} % 50 + {b} - CASE WHEN {a} % 50 + {b} > 50 THEN 50 ELSE 0 END, {amount});
             UPDATE app.spent SET transfers = transfers + 1, n = nextval('app.spent_n_seq') WHERE id = {a}; COMMIT"
        ),
        4..=5 => format!(
            "BEGIN; SELECT pg_advisory_xact_lock({order}); UPDATE app.orders SET total = total + {amount} WHERE id = {order}; INSERT INTO app.lines (order_id, amount) VALUES ({order}, {amount}); COMMIT"
        ),
        6 => format!(
            "BEGIN; SELECT pg_advisory_xact_lock({order});
             WITH gone AS (DELETE FROM app.lines WHERE order_id = {order} AND id % 2 = 0 RETURNING amount)
             UPDATE app.orders SET total = total - coalesce((SELECT sum(amount) FROM gone), 0) WHERE id = {order}; COMMIT"
        ),
        7 => format!(
            "BEGIN; SELECT pg_advisory_xact_lock({order}); DELETE FROM app.lines WHERE order_id = {order}; DELETE FROM app.orders WHERE id = {order} AND NOT EXISTS (SELECT FROM app.lines WHERE order_id = {order});
             INSERT INTO app.orders VALUES ({order}, 0) ON CONFLICT (id) DO UPDATE SET total = 0; COMMIT"
        ),
        8 => "BEGIN; UPDATE app.waiting SET events = events + 1; INSERT INTO app.events (v) VALUES ('new'); COMMIT".to_string(),
        _ => "BEGIN; WITH gone AS (DELETE FROM app.events WHERE id = (SELECT min(id) FROM app.events) RETURNING 1)
              UPDATE app.waiting SET events = events - (SELECT count(*) FROM gone); COMMIT"
            .to_string(),
    }
}

struct Shop {
    scene: Scene,
    over: Arc<AtomicBool>,
}

/// Ends with whatever it has counted.
type Counting = JoinHandle<u64>;

impl Shop {
    fn open(database: &str) -> Shop {
        let scene = Scene::new(database, 1);
        scene.owner().batch_execute(MAKE).unwrap();
        scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
        scene.dba().batch_execute(JOBS).unwrap();
        scene
            .dba()
            .batch_execute("CREATE INDEX ON app.transfers (src); SELECT mimeo.refresh_group('shop'); SELECT mimeo.refresh_group('shop')")
            .unwrap();
        Shop { scene, over: Arc::new(AtomicBool::new(false)) }
    }

    fn writer(&self, seed: u64) -> Counting {
        let (mut client, over) = (self.scene.owner(), self.over.clone());
        std::thread::spawn(move || {
            let (mut random, mut written) = (Random(seed | 1), 0);
            while !over.load(Ordering::SeqCst) {
                client.batch_execute(&write(&mut random)).unwrap();
                written += 1;
                // Not as fast as it can: there are readers, too.
                std::thread::sleep(Duration::from_millis(3));
            }
            written
        })
    }

    /// Checks again and again, in one way of several; the longest wait, in microseconds.
    fn reader(&self, way: usize) -> (JoinHandle<(u64, u64)>, Arc<AtomicU64>) {
        let (mut client, over) = (self.scene.dba(), self.over.clone());
        let broken = Arc::new(AtomicU64::new(0));
        let found = broken.clone();
        let reading = std::thread::spawn(move || {
            let (mut longest, mut checked) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let began = Instant::now();
                let wrong = look(&mut client, way);
                longest = longest.max(began.elapsed().as_micros() as u64);
                checked += 1;
                if wrong > 0 {
                    if broken.load(Ordering::SeqCst) == 0 {
                        eprintln!("way {way}: {}", told(&mut client));
                    }
                    broken.fetch_add(1, Ordering::SeqCst);
                }
            }
            (checked, longest)
        });
        (reading, found)
    }

    fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether both sides hold the same, once nobody writes.
    fn assert_equal(&self) {
        let (mut here, mut there) = (self.scene.dba(), self.scene.owner());
        here.batch_execute("SELECT mimeo.refresh_group('shop', p_lock_wait := 60)").unwrap();
        for (table, method) in MEMBERS {
            let (columns, rows) = match method {
                "logdel" => ("t.id, t.v", "WHERE t.mimeo_source_deleted IS NULL"),
                _ => ("t.*", ""),
            };
            let digest = |rows: &str| {
                format!("SELECT count(*) || ' ' || md5(coalesce(string_agg(r::text, '|' ORDER BY r::text), '')) FROM (SELECT {columns} FROM app.{table} t {rows}) r")
            };
            let (ours, theirs): (String, String) = (one(&mut here, &digest(rows)), one(&mut there, &digest("")));
            assert_eq!(ours, theirs, "{table}");
        }
    }
}

/// The way that costs hardly anything, so that it shows how long readers wait.
const LIGHT: usize = 5;

/// One check: a query, a transaction that keeps its snapshot and looks at one table after the other, a cursor, a prepared statement.
fn look(client: &mut Client, way: usize) -> i64 {
    match way {
        0 => client.query_one(BROKEN, &[]).unwrap().get(0),
        1 => {
            let mut transaction = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .unwrap();
            let wrong = transaction.query_one(BROKEN, &[]).unwrap().get(0);
            transaction.rollback().unwrap();
            wrong
        }
        2 => {
            // The snapshot is older than the first look at any of them.
            let mut transaction = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .unwrap();
            transaction.query_one("SELECT 1", &[]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let orders: i64 = transaction.query_one("SELECT sum(total) FROM app.orders", &[]).unwrap().get(0);
            std::thread::sleep(Duration::from_millis(20));
            let lines: i64 =
                transaction.query_one("SELECT coalesce(sum(amount), 0) FROM app.lines", &[]).unwrap().get(0);
            let balance: i64 = transaction.query_one("SELECT sum(balance) FROM app.accounts", &[]).unwrap().get(0);
            let wrong: i64 = transaction.query_one(BROKEN, &[]).unwrap().get(0);
            transaction.rollback().unwrap();
            wrong + i64::from(orders != lines) + i64::from(balance != 50_000)
        }
        LIGHT => {
            let row = client.query_one("SELECT (SELECT balance FROM app.accounts WHERE id = 1), (SELECT total FROM app.orders WHERE id = 1), (SELECT events FROM app.waiting),
                (SELECT max(id) FROM app.transfers), (SELECT max(id) FROM app.lines), (SELECT max(id) FROM app.events), (SELECT max(id) FROM app.spent)", &[]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            i64::from(row.len() != 7)
        }
        3 => {
            let mut transaction = client.transaction().unwrap();
            transaction.batch_execute(&format!("DECLARE look CURSOR FOR {BROKEN}")).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let wrong = transaction.query_one("FETCH look", &[]).unwrap().get(0);
            transaction.rollback().unwrap();
            wrong
        }
        _ => {
            // Again and again the same plan.
            let query = client.prepare(BROKEN).unwrap();
            (0..4).map(|_| client.query_one(&query, &[]).unwrap().get::<_, i64>(0)).max().unwrap()
        }
    }
}

/// What does not add up, and what was refreshed last.
fn told(client: &mut Client) -> String {
    let parts: Vec<i64> = BROKEN
        .split("\n     + ")
        .map(|part| one(client, &format!("SELECT {}", part.trim_start().trim_start_matches("SELECT "))))
        .collect();
    let last: String = one(
        client,
        "SELECT string_agg(concat_ws(' ', dest_table, status, reason), E'\\n' ORDER BY run_id) FROM mimeo.run_history WHERE started > clock_timestamp() - interval '2 s'",
    );
    format!("{parts:?}\n{last}")
}

fn seconds() -> Duration {
    Duration::from_secs(std::env::var("MIMEO_GROUP_SECONDS").map_or(25, |text| text.parse().unwrap()))
}

fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[test]
fn readers_never_see_half_of_a_group() {
    let shop = Shop::open("groups_readers");
    let alone = std::env::var_os("MIMEO_GROUP_ALONE").is_some();
    let seed = seed();
    let writers: Vec<_> = (0..2).map(|number| shop.writer(seed + number)).collect();
    let readers: Vec<_> = (0..=LIGHT).map(|way| shop.reader(way)).collect();
    let mut dba = shop.scene.dba();
    let (began, mut refreshes) = (Instant::now(), 0);
    while began.elapsed() < seconds() {
        if alone {
            for (table, method) in MEMBERS {
                dba.batch_execute(&format!("SELECT mimeo.refresh_{method}('app.{table}')")).unwrap();
            }
        } else {
            dba.batch_execute("SELECT mimeo.refresh_group('shop')").unwrap();
        }
        refreshes += 1;
    }
    shop.finish();
    let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let mut longest = Vec::new();
    let (mut checked, mut wrong) = (0, Vec::new());
    for (reader, broken) in readers {
        let (looks, wait) = reader.join().unwrap();
        checked += looks;
        longest.push(wait as f64 / 1000.0);
        wrong.push(broken.load(Ordering::SeqCst));
    }
    println!(
        "seed {seed}: {refreshes} refreshes while {written} transactions were written, {checked} checks, broken {wrong:?}, longest look {longest:.0?} ms, the last of which is a light one"
    );
    assert!(refreshes > 3 && written > 100 && checked > 100, "everybody was at work");
    assert_eq!(
        wrong,
        [0; LIGHT + 1],
        "in a query, in REPEATABLE READ, with an older snapshot, in a cursor, in a prepared statement"
    );
    shop.assert_equal();
    let statuses: String =
        one(&mut dba, "SELECT string_agg(DISTINCT status, ' ') FROM mimeo.run_history WHERE refresh_group = 'shop'");
    assert!(alone || !statuses.contains("critical"), "{statuses}");
}

#[test]
fn a_group_is_all_or_nothing_however_it_ends() {
    let shop = Shop::open("groups_kills");
    let seed = seed();
    let mut random = Random(seed | 1);
    let writers: Vec<_> = (0..2).map(|number| shop.writer(seed + number)).collect();
    let readers: Vec<_> = [0, 2].into_iter().map(|way| shop.reader(way)).collect();
    let (mut here, mut there) = (shop.scene.destination_superuser(), shop.scene.source_superuser());
    let (began, mut ended) = (Instant::now(), [0; 5]);
    while began.elapsed() < seconds() {
        let mut dba = shop.scene.dba();
        let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
        let how = random.below(5);
        let call = match how {
            0 => "BEGIN; SELECT mimeo.refresh_group('shop', p_lock_wait := 20); ROLLBACK",
            _ => "SELECT mimeo.refresh_group('shop', p_lock_wait := 20)",
        };
        let refresh = in_background(dba, call);
        std::thread::sleep(Duration::from_millis(random.below(160) as u64));
        match how {
            1 => here.execute("SELECT pg_cancel_backend($1)", &[&pid]).map(drop).unwrap(),
            2 => here.execute("SELECT pg_terminate_backend($1)", &[&pid]).map(drop).unwrap(),
            3 => there
                .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mimeo/%'")
                .unwrap(),
            _ => {}
        }
        if refresh.join().unwrap().1.is_err() {
            ended[how] += 1;
        }
    }
    shop.finish();
    let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let mut wrong = Vec::new();
    for (reader, broken) in readers {
        reader.join().unwrap();
        wrong.push(broken.load(Ordering::SeqCst));
    }
    println!("seed {seed}: refreshes that ended from outside {ended:?}, {written} transactions, broken {wrong:?}");
    assert_eq!(wrong, [0; 2], "half of a group was seen");
    assert_eq!([ended[0], ended[4]], [0; 2], "nobody had ended these");
    shop.assert_equal();
}

#[test]
fn a_member_that_cannot_be_swapped_keeps_all_from_it() {
    let scene = Scene::new("groups_locked", 100);
    scene
        .owner()
        .batch_execute(
            "CREATE TABLE app.u (id int PRIMARY KEY); INSERT INTO app.u VALUES (1); GRANT SELECT ON app.u TO reader",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.table_maker('app.t', 1, p_group := 'g'), mimeo.table_maker('app.u', 1, p_group := 'g')",
        )
        .unwrap();
    scene.owner().batch_execute("DELETE FROM app.t WHERE id > 50; INSERT INTO app.u VALUES (2)").unwrap();
    scene.destination_superuser().batch_execute("ALTER DATABASE groups_locked SET mimeo.swap_max_wait = '3s'").unwrap();
    let mut reader = scene.dba();
    let mut reading = reader.transaction().unwrap();
    reading.query("SELECT FROM app.u", &[]).unwrap();
    let refresh = in_background(scene.dba(), "SELECT mimeo.refresh_group('g')");
    // Readers of the other table go on meanwhile.
    let mut other = scene.dba();
    let mut longest = Duration::ZERO;
    while !refresh.is_finished() {
        let began = Instant::now();
        let rows: i64 = one(&mut other, "SELECT count(*) FROM app.t");
        assert_eq!(rows, 100);
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_millis(1000), "{longest:?}");
    let outcome = refresh.join().unwrap().1;
    assert!(message(&outcome).contains("app.u"), "{outcome:?}");
    let told: String = one(&mut other, "SELECT string_agg(dest_table || ' ' || left(error, 30), ', ' ORDER BY dest_table) FROM mimeo.run_history WHERE refresh_group = 'g'");
    assert!(told.starts_with("app.t taken back with group"), "{told}");
    reading.rollback().unwrap();
    other.batch_execute("SELECT mimeo.refresh_group('g')").unwrap();
    assert_eq!(one::<i64>(&mut other, "SELECT count(*) FROM app.t"), 50);
}

#[test]
fn a_locked_member_leaves_the_group_as_it_is() {
    let scene = Scene::new("groups_busy", 100);
    scene.owner().batch_execute("CREATE TABLE app.u (id int PRIMARY KEY); GRANT SELECT ON app.u TO reader").unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.table_maker('app.t', 1, p_group := 'g'), mimeo.table_maker('app.u', 1, p_group := 'g')",
        )
        .unwrap();
    scene.owner().batch_execute("INSERT INTO app.u VALUES (1)").unwrap();
    let mut holder = scene.dba();
    holder.batch_execute("BEGIN; SELECT mimeo.refresh_table('app.t')").unwrap();
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.refresh_group('g')").unwrap();
    let statuses: String = one(&mut dba, "SELECT string_agg(dest_table || ' ' || status || ' ' || reason, ', ' ORDER BY dest_table) FROM mimeo.run_history WHERE refresh_group = 'g'");
    let why = "concurrent another refresh of \"app.t\" was running";
    assert_eq!(statuses, format!("app.t {why}, app.u {why}"));
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.u"), 0);
    let waiting = in_background(dba, "SELECT mimeo.refresh_group('g', p_lock_wait := 30)");
    wait_for("it to wait for the lock", || {
        one::<i64>(
            &mut scene.destination_superuser(),
            "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND NOT granted",
        ) > 0
    });
    holder.batch_execute("COMMIT").unwrap();
    waiting.join().unwrap().1.unwrap();
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.u"), 1);
}

/// Rows of a transaction that is open while others are copied come when it commits, once; also if members are refreshed by themselves in between.
#[test]
fn rows_that_commit_late_come_once() {
    let scene = Scene::new("groups_late", 1);
    scene
        .owner()
        .batch_execute(
            "CREATE TABLE app.i (id serial PRIMARY KEY, v text); CREATE TABLE app.u (id int PRIMARY KEY, n serial, v text);
             CREATE TABLE app.at (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
             INSERT INTO app.i (v) SELECT 'v' FROM generate_series(1, 10); INSERT INTO app.u (id, v) SELECT i, 'v' FROM generate_series(1, 10) i;
             INSERT INTO app.at (id) SELECT generate_series(1, 10); GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader",
        )
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(
        "SELECT mimeo.inserter_maker('app.i', 'serial', 'id', 1, p_group := 'g'), mimeo.updater_maker('app.u', 'serial', 'n', 1, p_group := 'g'),
                mimeo.inserter_maker('app.at', 'time', 'at', 1, p_group := 'g'); SET mimeo.writer_wait = '100ms'",
    )
    .unwrap();
    let (mut late, mut owner) = (scene.owner(), scene.owner());
    let ids = "SELECT concat((SELECT string_agg(id::text, ',' ORDER BY id) FROM app.i WHERE id > 10), ' ', (SELECT string_agg(id || v, ',' ORDER BY id) FROM app.u WHERE id > 10 OR v <> 'v'),
                             ' ', (SELECT string_agg(id::text, ',' ORDER BY id) FROM app.at WHERE id > 10))";
    let group = "SELECT mimeo.refresh_group('g')";
    let alone =
        "SELECT mimeo.refresh_inserter('app.i'), mimeo.refresh_updater('app.u'), mimeo.refresh_inserter('app.at')";
    let mut next = 11;
    for calls in [[group, group], [group, alone], [alone, group], [alone, alone]] {
        let (first, second) = (next, next + 1);
        next += 2;
        late.batch_execute(&format!(
            "BEGIN; INSERT INTO app.i VALUES (DEFAULT, 'late'); INSERT INTO app.u VALUES ({first}, DEFAULT, 'late'); INSERT INTO app.at VALUES ({first})"
        ))
        .unwrap();
        owner
            .batch_execute(&format!(
                "INSERT INTO app.i VALUES (DEFAULT, 'soon'); INSERT INTO app.u VALUES ({second}, DEFAULT, 'soon'); INSERT INTO app.at VALUES ({second})"
            ))
            .unwrap();
        dba.batch_execute(calls[0]).unwrap();
        if calls[0] == group {
            let seen: String = one(&mut dba, ids);
            let shown: String = one(&mut owner, ids);
            assert_eq!(seen, shown, "what has committed is here");
        }
        late.batch_execute("COMMIT").unwrap();
        dba.batch_execute(calls[1]).unwrap();
        dba.batch_execute(group).unwrap();
        assert_eq!(one::<String>(&mut dba, ids), one::<String>(&mut owner, ids), "{calls:?}");
    }
    // A row that was rolled back, one that was updated beyond the bound, and one that is gone again before it was safe.
    late.batch_execute("BEGIN; INSERT INTO app.i VALUES (DEFAULT, 'never')").unwrap();
    owner
        .batch_execute("INSERT INTO app.i VALUES (DEFAULT, 'gone soon'); INSERT INTO app.u VALUES (100, DEFAULT, 'a')")
        .unwrap();
    dba.batch_execute(group).unwrap();
    owner
        .batch_execute("DELETE FROM app.i WHERE v = 'gone soon'; UPDATE app.u SET v = 'b', n = nextval('app.u_n_seq') WHERE id = 100")
        .unwrap();
    dba.batch_execute(group).unwrap();
    late.batch_execute("ROLLBACK").unwrap();
    dba.batch_execute(group).unwrap();
    assert_eq!(one::<String>(&mut dba, ids), one::<String>(&mut owner, ids));
    // One that comes after all others are gone, those which had been taken early among them.
    late.batch_execute("BEGIN; INSERT INTO app.i VALUES (DEFAULT, 'at last')").unwrap();
    owner.batch_execute("INSERT INTO app.i VALUES (DEFAULT, 'gone soon')").unwrap();
    dba.batch_execute(group).unwrap();
    owner.batch_execute("DELETE FROM app.i").unwrap();
    dba.batch_execute(group).unwrap();
    late.batch_execute("COMMIT").unwrap();
    dba.batch_execute(group).unwrap();
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.i WHERE v = 'at last'"), 1);
}

/// What a group that hangs shows of itself.
#[test]
fn progress_shows_the_member_at_work() {
    let scene = Scene::new("groups_progress", 20_000);
    scene.owner().batch_execute("CREATE TABLE app.u (id int); CREATE TABLE app.beneath (id int); CREATE VIEW app.v AS SELECT * FROM app.beneath; GRANT SELECT ON app.u, app.v TO reader").unwrap();
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.t', 1, p_group := 'it''s g'), mimeo.table_maker('app.u', 1, p_group := 'it''s g'), mimeo.snapshot_maker('app.v', 1, p_group := 'it''s g')").unwrap();
    let proxy = Proxy::start(pair().source.port, 300_000);
    scene.set_source(proxy.port);
    let refresh = in_background(scene.dba(), "SELECT mimeo.refresh_group('it''s g')");
    wait_for("the first table to hang", || {
        let at_work =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'mimeo.refresh_group(%, ''app.t''): copy'";
        proxy.is_silent() && one::<i64>(&mut scene.destination_superuser(), at_work) == 1
    });
    let shown: String = one(
        &mut scene.dba(),
        "SELECT string_agg(concat_ws(' ', dest_table, refresh_group, coalesce(phase, '-')), ', ' ORDER BY dest_table) FROM mimeo.progress",
    );
    assert_eq!(shown, "app.t it's g copy, app.u it's g -, app.v it's g -");
    // A table that is still to be read keeps its rows.
    for table in ["app.u", "app.beneath"] {
        let truncated = scene.owner().batch_execute(&format!("SET lock_timeout = '100ms'; TRUNCATE {table}"));
        assert_eq!(support::sqlstate(&truncated), "55P03", "{table}");
    }
    proxy.allow(u64::MAX);
    refresh.join().unwrap().1.unwrap();
}

/// Groups, single refreshes, DDL and dumps at the same time, with source and destination in one database, tables of which are members and sources
/// of others: nobody deadlocks.
#[test]
fn nobody_deadlocks() {
    let scene = Scene::new("groups_locks", 10);
    let database = scene.database.clone();
    let port = pair().destination.port;
    scene
        .destination_superuser()
        .batch_execute("CREATE ROLE keeper LOGIN PASSWORD 'keeper secret'; GRANT keeper TO dba")
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "CREATE SCHEMA source; GRANT USAGE ON SCHEMA source, app TO keeper; ALTER DEFAULT PRIVILEGES GRANT SELECT, TRIGGER ON TABLES TO keeper;
             CREATE TABLE source.a (id int PRIMARY KEY, v text); CREATE TABLE source.b (id int PRIMARY KEY, v text); CREATE TABLE source.c (id int PRIMARY KEY, v text);
             INSERT INTO source.a SELECT i, 'v' FROM generate_series(1, 500) i; INSERT INTO source.b SELECT * FROM source.a; INSERT INTO source.c SELECT * FROM source.a;"
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(&format!(
            "INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd)
             VALUES (2, 'host=127.0.0.1 port={port} dbname={database}', 'keeper', 'keeper secret')"
        ))
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.table_maker('source.a', 2, 'app.a1', p_group := 'one'), mimeo.snapshot_maker('source.b', 2, 'app.b1', p_group := 'one'), mimeo.table_maker('source.c', 2, 'app.c1', p_group := 'one')",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.table_maker('app.a1', 2, 'app.a2', p_group := 'two'), mimeo.snapshot_maker('source.b', 2, 'app.b2', p_group := 'two'), mimeo.table_maker('app.c1', 2, 'app.c2', p_group := 'two');
             SELECT mimeo.table_maker('source.a', 2, 'app.a3')"
        )
        .unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let calls = [
        "SELECT mimeo.refresh_group('one', p_lock_wait := 60)",
        "SELECT mimeo.refresh_group('two', p_lock_wait := 60)",
        "SELECT mimeo.refresh_group('one', p_lock_wait := 60)",
        "SELECT mimeo.refresh_table('app.a3', p_lock_wait := 60); SELECT mimeo.refresh_table('app.c1', p_lock_wait := 60)",
        "UPDATE source.a SET v = v || '.'; UPDATE source.b SET v = left(v || '.', 20); UPDATE source.c SET v = left(v || '.', 20); UPDATE source.a SET v = left(v, 20)",
        "SET lock_timeout = '2s'; COMMENT ON TABLE app.a1 IS 'x'; ALTER TABLE app.c2 SET (fillfactor = 90); ALTER TABLE app.a2 ALTER COLUMN v SET STATISTICS 10",
        "SET lock_timeout = '2s'; BEGIN; LOCK TABLE app.a1, app.a2, app.b1, app.b2, app.c1, app.c2 IN ACCESS SHARE MODE; SELECT count(*) FROM app.a1; COMMIT",
    ];
    let at_work: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let (mut client, over) = (scene.dba(), over.clone());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                let mut done = 0;
                while !over.load(Ordering::SeqCst) {
                    match client.batch_execute(call) {
                        Ok(()) => done += 1,
                        Err(error) => {
                            let told = error
                                .as_db_error()
                                .map_or(error.to_string(), |error| format!("{} {error}", error.code().code()));
                            // DDL and a dump that wait too long.
                            if !told.starts_with("55P03") {
                                failed.push(told);
                            }
                            let _ = client.batch_execute("ROLLBACK");
                        }
                    }
                }
                (call, done, failed)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(8));
    over.store(true, Ordering::SeqCst);
    for worker in at_work {
        let (call, done, failed) = worker.join().unwrap();
        assert!(failed.is_empty(), "{call}: {failed:?}");
        // DDL may wait in vain, on a busy machine.
        assert!(done > 0 || call.contains("lock_timeout"), "{call}: {done}");
    }
}

const NORTHWIND: [&str; 12] = [
    "categories",
    "suppliers",
    "products",
    "customers",
    "employees",
    "shippers",
    "orders",
    "order_details",
    "region",
    "territories",
    "employee_territories",
    "us_states",
];

const NORTHWIND_TABLES: &str = "
CREATE TABLE app.categories (id int PRIMARY KEY, name text);
CREATE TABLE app.suppliers (id int PRIMARY KEY, name text);
CREATE TABLE app.products (id int PRIMARY KEY, category int NOT NULL, supplier int, name text, price numeric(10,2));
CREATE TABLE app.customers (id text PRIMARY KEY, name text);
CREATE TABLE app.employees (id int PRIMARY KEY, name text, reports_to int);
CREATE TABLE app.shippers (id int PRIMARY KEY, name text);
CREATE TABLE app.orders (id int PRIMARY KEY, customer text NOT NULL, employee int, shipper int, placed date);
CREATE TABLE app.order_details (order_id int, product int, quantity int, PRIMARY KEY (order_id, product));
CREATE TABLE app.region (id int PRIMARY KEY, name text);
CREATE TABLE app.territories (id text PRIMARY KEY, name text, region int NOT NULL);
CREATE TABLE app.employee_territories (employee int, territory text, PRIMARY KEY (employee, territory));
CREATE TABLE app.us_states (id int PRIMARY KEY, name text, region int, governor int);";

const NORTHWIND_KEYS: &str = "
ALTER TABLE app.products ADD FOREIGN KEY (category) REFERENCES app.categories, ADD FOREIGN KEY (supplier) REFERENCES app.suppliers;
ALTER TABLE app.employees ADD FOREIGN KEY (reports_to) REFERENCES app.employees;
ALTER TABLE app.orders ADD FOREIGN KEY (customer) REFERENCES app.customers, ADD FOREIGN KEY (employee) REFERENCES app.employees,
    ADD FOREIGN KEY (shipper) REFERENCES app.shippers;
ALTER TABLE app.order_details ADD FOREIGN KEY (order_id) REFERENCES app.orders, ADD FOREIGN KEY (product) REFERENCES app.products;
ALTER TABLE app.territories ADD FOREIGN KEY (region) REFERENCES app.region;
ALTER TABLE app.employee_territories ADD FOREIGN KEY (employee) REFERENCES app.employees, ADD FOREIGN KEY (territory) REFERENCES app.territories;
ALTER TABLE app.us_states ADD FOREIGN KEY (region) REFERENCES app.region;";

/// A family of rows in all tables, from top to bottom; or one that goes, from bottom to top.
fn trade(random: &mut Random, next: &mut usize) -> String {
    let n = if random.chance(40) && *next > 20 { 1 + random.below(*next) } else { 0 };
    if n > 0 {
        return format!(
            "BEGIN; DELETE FROM app.order_details WHERE order_id = {n} OR product = {n}; DELETE FROM app.order_details WHERE order_id IN (SELECT id FROM app.orders WHERE customer = 'c{n}' OR employee = {n} OR shipper = {n});
             DELETE FROM app.orders WHERE id = {n} OR customer = 'c{n}' OR employee = {n} OR shipper = {n}; DELETE FROM app.employee_territories WHERE employee = {n} OR territory = 't{n}';
             DELETE FROM app.us_states WHERE region = {n}; DELETE FROM app.employee_territories WHERE territory IN (SELECT id FROM app.territories WHERE region = {n}); DELETE FROM app.territories WHERE region = {n};
             DELETE FROM app.region WHERE id = {n}; UPDATE app.employees SET reports_to = NULL WHERE reports_to = {n}; DELETE FROM app.employees WHERE id = {n};
             DELETE FROM app.customers WHERE id = 'c{n}'; DELETE FROM app.shippers WHERE id = {n}; DELETE FROM app.order_details WHERE product IN (SELECT id FROM app.products WHERE category = {n} OR supplier = {n});
             DELETE FROM app.products WHERE category = {n} OR supplier = {n}; DELETE FROM app.suppliers WHERE id = {n}; DELETE FROM app.categories WHERE id = {n}; COMMIT"
        );
    }
    *next += 1;
    let n = *next;
    format!(
        "BEGIN; INSERT INTO app.categories VALUES ({n}, 'category'); INSERT INTO app.suppliers VALUES ({n}, 'supplier'); INSERT INTO app.products VALUES ({n}, {n}, {n}, 'product', 1.5);
         INSERT INTO app.customers VALUES ('c{n}', 'customer'); INSERT INTO app.employees SELECT {n}, 'employee', (SELECT max(id) FROM app.employees); INSERT INTO app.shippers VALUES ({n}, 'shipper');
         INSERT INTO app.orders VALUES ({n}, 'c{n}', {n}, {n}, now()); INSERT INTO app.order_details SELECT {n}, id, 1 FROM app.products ORDER BY id DESC LIMIT 5;
         INSERT INTO app.region VALUES ({n}, 'region'); INSERT INTO app.territories VALUES ('t{n}', 'territory', {n}); INSERT INTO app.employee_territories VALUES ({n}, 't{n}');
         INSERT INTO app.us_states VALUES ({n}, 'state', {n}, {n}); UPDATE app.products SET price = price + 1 WHERE id % 7 = {n} % 7; COMMIT"
    )
}

/// Twelve tables with keys between them, which the source fills and empties while the group is refreshed.
fn trade_with(database: &str, method: &str, rounds: u32) {
    let scene = Scene::new(database, 1);
    scene
        .owner()
        .batch_execute(&format!(
            "{NORTHWIND_TABLES} {NORTHWIND_KEYS} GRANT SELECT, TRIGGER ON ALL TABLES IN SCHEMA app TO reader"
        ))
        .unwrap();
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    let (mut random, mut next) = (Random(seed() | 1), 0);
    let mut owner = scene.owner();
    for _ in 0..200 {
        owner.batch_execute(&trade(&mut random, &mut next)).unwrap();
    }
    let mut dba = scene.dba();
    for table in NORTHWIND {
        dba.batch_execute(&format!("SELECT mimeo.{method}_maker('app.{table}', 1, p_group := 'northwind')")).unwrap();
    }
    dba.batch_execute(NORTHWIND_KEYS).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let writing = {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut written = 0;
            while !over.load(Ordering::SeqCst) {
                owner.batch_execute(&trade(&mut random, &mut next)).unwrap();
                written += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            written
        })
    };
    for _ in 0..rounds {
        dba.batch_execute("SELECT mimeo.refresh_group('northwind')").unwrap();
    }
    over.store(true, Ordering::SeqCst);
    let written: u32 = writing.join().unwrap();
    dba.batch_execute("SELECT mimeo.refresh_group('northwind')").unwrap();
    for table in NORTHWIND {
        let digest = format!(
            "SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM app.{table} t"
        );
        assert_eq!(one::<String>(&mut dba, &digest), one::<String>(&mut scene.owner(), &digest), "{table}");
    }
    // The keys are all there, and hold.
    let invalid: i64 = one(&mut dba, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated");
    let keys: i64 =
        one(&mut dba, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'app'::regnamespace");
    assert_eq!((invalid, keys), (0, 12));
    dba.batch_execute(
        &NORTHWIND_KEYS
            .replace("ADD FOREIGN KEY", "ADD CONSTRAINT again FOREIGN KEY")
            .replace("again FOREIGN KEY (supplier)", "again2 FOREIGN KEY (supplier)")
            .replace("again FOREIGN KEY (employee)", "again2 FOREIGN KEY (employee)")
            .replace("again FOREIGN KEY (shipper)", "again3 FOREIGN KEY (shipper)")
            .replace("again FOREIGN KEY (product)", "again2 FOREIGN KEY (product)")
            .replace("again FOREIGN KEY (territory)", "again3 FOREIGN KEY (territory)"),
    )
    .unwrap();
    println!("{method}: {} refreshes of twelve tables while {written} transactions were written", rounds + 1);
}

#[test]
fn twelve_tables_with_keys() {
    trade_with("groups_northwind", "table", 25);
}

#[test]
fn twelve_tables_with_keys_by_queues() {
    trade_with("groups_northwind_dml", "dml", 25);
}
