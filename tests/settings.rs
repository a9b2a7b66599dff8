//! Same here, same there: no setting of a role, a database, a session or a pooler on either side changes what is copied or compared.

mod support;

use postgres::{Client, Config, NoTls};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use support::{one, pair, run_dir, wait_for, Scene};

/// A setting, its least usual value, and on which side it can be set: of a source role (S), of who writes to the source (W), of the destination's
/// roles and their sessions (D). docs/settings.md has the list of all.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("datestyle", "German", "SWD"),
    ("datestyle", "SQL, DMY", "SWD"),
    ("intervalstyle", "iso_8601", "SWD"),
    ("intervalstyle", "sql_standard", "SWD"),
    ("timezone", "Asia/Kathmandu", "SWD"),
    ("timezone_abbreviations", "India", "SWD"),
    ("extra_float_digits", "-15", "SWD"),
    ("bytea_output", "escape", "SWD"),
    ("xmlbinary", "hex", "SWD"),
    ("xmloption", "document", "SWD"),
    ("lc_monetary", "de_DE.utf8", "SWD"),
    ("lc_numeric", "de_DE.utf8", "SWD"),
    ("lc_time", "de_DE.utf8", "SWD"),
    ("quote_all_identifiers", "on", "SWD"),
    ("array_nulls", "off", "SWD"),
    ("transform_null_equals", "on", "SWD"),
    ("standard_conforming_strings", "off", "SWD"),
    ("backslash_quote", "off", "SWD"),
    ("escape_string_warning", "off", "SWD"),
    ("search_path", "hidden", "SWD"),
    ("row_security", "off", "SWD"),
    ("gin_fuzzy_search_limit", "1", "SWD"),
    ("default_transaction_isolation", "serializable", "SWD"),
    ("default_transaction_isolation", "repeatable read", "SW"),
    ("default_transaction_read_only", "on", "S"),
    ("client_encoding", "LATIN1", "SWD"),
    ("plpgsql.variable_conflict", "use_variable", "SWD"),
    ("session_replication_role", "local", "D"),
];

/// Others that cannot matter, but who knows: all at once.
const HARMLESS: &[(&str, &str)] = &[
    ("default_transaction_deferrable", "on"),
    ("default_text_search_config", "german"),
    ("default_toast_compression", "lz4"),
    ("check_function_bodies", "off"),
    ("client_min_messages", "error"),
    ("constraint_exclusion", "on"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_sort", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("work_mem", "64"),
    ("jit", "on"),
    ("synchronous_commit", "off"),
    ("synchronize_seqscans", "off"),
    ("plpgsql.extra_errors", "all"),
    ("default_tablespace", ""),
    ("parallel_setup_cost", "0"),
];

/// All types; with `assigned` ones too, rows travel as text.
fn zoo(name: &str, assigned: bool) -> String {
    let (columns, values) =
        if assigned { (", e app.mood, dm app.pos, c3 app.pair", ", 'ok', 7, ROW(1, 'x')::app.pair") } else { ("", "") };
    format!(
        "CREATE TABLE app.{name} (id int PRIMARY KEY, changed timestamptz NOT NULL DEFAULT clock_timestamp(), m money, f8 float8, f4 real, n numeric, ts timestamptz, ts0 timestamp, d date, tz timetz, i interval, b bytea, c char(5), j jsonb, js json, x xml,
             a float8[], at timestamptz[], ai interval[], am money[], nulls text[], pt point, r tstzrange, tsv tsvector, txt text{columns});
         INSERT INTO app.{name} SELECT g, clock_timestamp(), '1234.56', 0.1 + 0.2, 0.3, 'NaN', '2020-02-01 01:02:03.456+05', '1999-12-31 23:59:59.999999', '2020-02-01', '12:00+05:30', '1 year -3 days 04:05:06.789', '\\x00ff5c27', 'ab', 'null', '{{\"a\":  1}}', '<a>b</a>',
             '{{0.1,NaN,1e-300}}', '{{2020-02-01 01:02:03+05}}', '{{-1 days +02:00}}', '{{1.50}}', '{{NULL,\"NULL\"}}', '(0.1,0.2)', '[2020-01-01,)', 'a:1 b', E'o''k \\\\ \"q\"'{values} FROM generate_series(1, 40) g;
         CREATE INDEX ON app.{name} USING gin (tsv);"
    )
}

const JOBS: [(&str, &str, &str); 6] = [
    ("snap", "snapshot_maker('app.{z}', 1, 'app.{z}_snap')", "refresh_snapshot"),
    ("tab", "table_maker('app.{z}', 1, 'app.{z}_tab')", "refresh_table"),
    ("ins", "inserter_maker('app.{z}', 'serial', 'id', 1, '0', 'app.{z}_ins')", "refresh_inserter"),
    ("upd", "updater_maker('app.{z}', 'time', 'changed', 1, '0', 'app.{z}_upd')", "refresh_updater"),
    ("dml", "dml_maker('app.{z}', 1, 'app.{z}_dml')", "refresh_dml"),
    ("log", "logdel_maker('app.{z}', 1, 'app.{z}_log')", "refresh_logdel"),
];

const ZOOS: [&str; 2] = ["plain", "typed"];

fn prepare(scene: &Scene) {
    let types = "CREATE TYPE app.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN app.pos AS int CHECK (VALUE > 0); CREATE TYPE app.pair AS (a int, b text);";
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader")
        .unwrap();
    // What a name without a schema must not find.
    for client in [&mut scene.source_superuser(), &mut scene.destination_superuser()] {
        client
            .batch_execute(
                "CREATE SCHEMA hidden; GRANT USAGE ON SCHEMA hidden TO PUBLIC; CREATE FUNCTION hidden.count(anyelement) RETURNS text LANGUAGE sql AS 'SELECT 1/0';
                 CREATE FUNCTION hidden.concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT 1/0'; CREATE FUNCTION hidden.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1/0'",
            )
            .unwrap();
    }
    scene.owner().batch_execute(types).unwrap();
    scene.dba().batch_execute(types).unwrap();
    for (zoo_name, assigned) in [("plain", false), ("typed", true)] {
        scene.owner().batch_execute(&zoo(zoo_name, assigned)).unwrap();
        for (_, maker, _) in JOBS {
            scene.dba().batch_execute(&format!("SELECT mimeo.{}", maker.replace("{z}", zoo_name))).unwrap();
        }
    }
}

/// The rows of a query, as a superuser reads them whatever the settings of others.
fn digest(client: &mut Client, from: &str) -> String {
    client
        .batch_execute(
            "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET timezone = 'UTC'; SET lc_monetary = 'C'; SET bytea_output = 'hex'",
        )
        .unwrap();
    one(client, &format!("SELECT count(*) || ' ' || md5(string_agg(t::text, '|' ORDER BY id)) FROM {from} t"))
}

/// Rows are changed, all jobs refreshed, and both sides compared, by mimeo and by hand. What is not as it should be.
fn round(scene: &Scene, writer: &mut Client, dba: &mut Client, number: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    for zoo in ZOOS {
        let changes = format!(
            "UPDATE app.{zoo} SET n = {number}, changed = pg_catalog.clock_timestamp(), f8 = f8 / 3 WHERE id BETWEEN 1 AND 8; DELETE FROM app.{zoo} WHERE id = {number} + 1000;
             INSERT INTO app.{zoo} SELECT id + {number} + 1000, pg_catalog.clock_timestamp(), m, f8 / 7, f4, n, ts, ts0, d, tz, i, b, c, j, js, x, a, at, ai, am, nulls, pt, r, tsv, txt{} FROM app.{zoo} WHERE id = 1;
             UPDATE app.{zoo} SET id = id + 50000, changed = pg_catalog.clock_timestamp() WHERE id = {number} + 8; SELECT pg_catalog.pg_stat_force_next_flush()",
            if zoo == "typed" { ", e, dm, c3" } else { "" }
        );
        if let Err(error) = writer.batch_execute(&changes) {
            wrong.push(format!("{zoo}: a writer fails: {error:?}"));
        }
        if number % 2 == 0 {
            let gone = writer.batch_execute(&format!("DELETE FROM app.{zoo} WHERE id = {number} + 1001"));
            if let Err(error) = gone {
                wrong.push(format!("{zoo}: a DELETE fails: {error:?}"));
            }
        }
    }
    let (mut source, mut here) = (scene.source_superuser(), scene.destination_superuser());
    for zoo in ZOOS {
        for (job, _, refresh) in JOBS {
            let table = format!("app.{zoo}_{job}");
            if let Err(error) = dba.batch_execute(&format!("SELECT mimeo.{refresh}('{table}')")) {
                wrong.push(format!("{table}: {error:?}"));
                continue;
            }
            match job {
                "snap" | "tab" | "dml" => {
                    let same = digest(&mut source, &format!("app.{zoo}")) == digest(&mut here, &table);
                    wrong.extend((!same).then(|| format!("{table} differs")));
                }
                "log" => {
                    // Deleted rows hold what they held, whatever the settings of who has deleted them.
                    let columns = if zoo == "typed" { ", e, dm, c3" } else { "" };
                    let list = format!("m, f4, ts, ts0, d, tz, i, b, c, j::text, js::text, x::text, a::text, at, ai, am, nulls, pt::text, r, tsv, txt{columns}");
                    let kinds: i64 =
                        one(&mut here, &format!("SELECT count(DISTINCT md5(ROW({list})::text)) FROM {table}"));
                    if kinds != 1 {
                        wrong.push(format!("{table}: {kinds} kinds of rows"));
                    }
                    let live =
                        format!("(SELECT id, changed, {list}, f8, n FROM {table} WHERE mimeo_source_deleted IS NULL)");
                    if digest(&mut source, &format!("(SELECT id, changed, {list}, f8, n FROM app.{zoo})"))
                        != digest(&mut here, &live)
                    {
                        wrong.push(format!("{table} differs"));
                    }
                }
                _ => {}
            }
            match dba.query_one(&format!("SELECT match FROM mimeo.validate_content('{table}')"), &[]) {
                Ok(row) if job == "upd" || job == "ins" || row.get::<_, Option<bool>>(0) == Some(true) => {}
                Ok(_) => wrong.push(format!("{table}: validate_content finds a difference")),
                Err(error) => wrong.push(format!("{table}: validate_content: {error:?}")),
            }
        }
    }
    wrong
}

fn can_be_set(client: &mut Client, name: &str, value: &str) -> bool {
    client.batch_execute(&format!("BEGIN; SET LOCAL {name} = '{value}'; ROLLBACK")).is_ok() || {
        let _ = client.batch_execute("ROLLBACK");
        false
    }
}

#[test]
fn each_setting_by_itself() {
    let scene = Scene::new("settings_each", 1);
    prepare(&scene);
    let (mut source, mut here) = (scene.source_superuser(), scene.destination_superuser());
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (number, (name, value, sides)) in SETTINGS.iter().enumerate() {
        if sides.is_empty() || !can_be_set(&mut source, name, value) {
            println!("{name} = {value}: not tried");
            continue;
        }
        tried += 1;
        let set = |client: &mut Client, roles: &[&str], clause: &str| {
            for role in roles {
                client.batch_execute(&format!("ALTER ROLE {role} IN DATABASE {} {clause}", scene.database)).unwrap();
            }
        };
        let to = format!("SET {name} = '{value}'");
        let mut there = Vec::new();
        if sides.contains('S') {
            there.push("reader");
        }
        if sides.contains('W') {
            there.push("owner");
        }
        set(&mut source, &there, &to);
        if sides.contains('D') {
            set(&mut here, &["dba"], &to);
        }
        let (mut writer, mut dba) = (scene.owner(), scene.dba());
        if *name == "client_encoding" {
            dba.batch_execute(&to).unwrap();
        }
        wrong.extend(
            round(&scene, &mut writer, &mut dba, number as i64 + 1)
                .into_iter()
                .map(|what| format!("{name} = {value}: {what}")),
        );
        set(&mut source, &there, &format!("RESET {name}"));
        if sides.contains('D') {
            set(&mut here, &["dba"], &format!("RESET {name}"));
        }
    }
    let settings: Vec<_> = HARMLESS.iter().filter(|(name, value)| can_be_set(&mut source, name, value)).collect();
    tried += settings.len();
    for (client, roles) in [(&mut source, ["reader", "owner"].as_slice()), (&mut here, ["dba"].as_slice())] {
        for role in roles {
            for (name, value) in &settings {
                client
                    .batch_execute(&format!("ALTER ROLE {role} IN DATABASE {} SET {name} = '{value}'", scene.database))
                    .unwrap();
            }
        }
    }
    for number in 101..103 {
        wrong.extend(round(&scene, &mut scene.owner(), &mut scene.dba(), number));
    }
    println!("{tried} settings");
    assert!(tried > 35 && wrong.is_empty(), "{tried} settings: {}", wrong.join("\n"));
}

/// A pgbouncer in front of the source, ended with the test.
struct Pooler {
    process: Child,
    port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pooler {
    /// In transaction mode, with two connections to the server.
    fn start() -> Pooler {
        let dir: PathBuf = run_dir().join("pooler");
        std::fs::create_dir_all(&dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(dir.join("users"), "\"reader\" \"reader secret\"\n\"owner\" \"owner secret\"\n").unwrap();
        let (dir_name, source) = (dir.display(), pair().source.port);
        std::fs::write(
            dir.join("ini"),
            format!(
                "[databases]\n* = host=127.0.0.1 port={source} user=reader\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {dir_name}/users\n\
                 pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 50\nlogfile = {dir_name}/log\nserver_idle_timeout = 3600\n"
            ),
        )
        .unwrap();
        // SAFETY: asks the kernel.
        let is_root = unsafe { libc::geteuid() } == 0;
        if is_root {
            Command::new("chown").args(["-R", "postgres", dir.to_str().unwrap()]).status().unwrap();
        }
        // One process, which ends with this one, however that ends.
        let (program, first): (&str, &[&str]) = if is_root {
            (
                "setpriv",
                &["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=TERM", "/usr/sbin/pgbouncer"],
            )
        } else {
            ("/usr/sbin/pgbouncer", &[])
        };
        let process = Command::new(program)
            .args(first)
            .arg(dir.join("ini"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is installed by tests/support/install.sh");
        let pooler = Pooler { process, port };
        wait_for("pgbouncer to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        pooler
    }

    fn connect(&self, database: &str) -> Client {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("reader").password("reader secret").dbname(database);
        config.connect(NoTls).unwrap()
    }
}

#[test]
fn behind_a_pooler_in_transaction_mode() {
    let pooler = Pooler::start();
    let scene = Scene::new("settings_pooler", 1);
    scene
        .source_superuser()
        .batch_execute(
            "ALTER ROLE reader IN DATABASE settings_pooler SET intervalstyle = 'iso_8601'; ALTER ROLE reader IN DATABASE settings_pooler SET quote_all_identifiers = on;
             ALTER ROLE reader IN DATABASE settings_pooler SET xmlbinary = hex",
        )
        .unwrap();
    scene.set_source(pooler.port);
    prepare(&scene);
    // Two other clients leave both connections of the pool as nobody would want them.
    let spoil = "SET extra_float_digits = -15; SET bytea_output = 'escape'; SET search_path = hidden; SET array_nulls = off; SET xmloption = document; SET synchronous_commit = off; SET gin_fuzzy_search_limit = 1;
                 SET backslash_quote = off; SET transform_null_equals = on; SET lc_monetary = 'C'; SET statement_timeout = '1min'";
    let shown = "SELECT concat_ws(' ', current_setting('extra_float_digits'), current_setting('bytea_output'), current_setting('search_path'), current_setting('synchronous_commit'), current_setting('xmloption'),
                        current_setting('gin_fuzzy_search_limit'), current_setting('statement_timeout'))";
    let on_both = |statement: &str| -> Vec<String> {
        let [mut one_client, mut other] = [0, 1].map(|_| pooler.connect(&scene.database));
        for client in [&mut one_client, &mut other] {
            client.batch_execute("BEGIN").unwrap();
        }
        let said = [&mut one_client, &mut other].map(|client| {
            client.batch_execute(statement).unwrap();
            one::<String>(client, shown)
        });
        for client in [&mut one_client, &mut other] {
            client.batch_execute("COMMIT").unwrap();
        }
        said.to_vec()
    };
    let spoiled = on_both(spoil);
    let (mut writer, mut dba) = (scene.owner(), scene.dba());
    for number in 1..=4 {
        let wrong = round(&scene, &mut writer, &mut dba, number);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    dba.batch_execute("UPDATE mimeo.refresh_config SET period = '1 minute', last_run = NULL").unwrap();
    dba.batch_execute("CALL mimeo.run_refresh()").unwrap();
    // What others have set, or a session of its own anew; nothing of ours.
    let fresh = "1 hex \"$user\", public on content 0 0";
    for left in on_both("SELECT 1") {
        assert!(left == fresh || spoiled.contains(&left), "{left}");
    }
    let mut source = scene.source_superuser();
    let servers: i64 = one(
        &mut source,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'reader'",
    );
    assert!(servers <= 2, "{servers}");
    for (job, _, _) in JOBS.iter().filter(|(job, ..)| ["dml", "log"].contains(job)) {
        let destroyer = if *job == "dml" { "dml_destroyer" } else { "logdel_destroyer" };
        dba.batch_execute(&format!("SELECT mimeo.{destroyer}('app.plain_{job}')")).unwrap();
    }
}
