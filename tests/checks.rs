//! What the checks tell in NOTICEs and WARNINGs, how many connections they make, and that they can be cancelled.

mod support;

use postgres::{Client, Config, NoTls};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{in_background, one, pair, sqlstate, wait_for, Scene};

/// A session that keeps what the server tells.
struct Listener {
    client: Client,
    told: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn new(scene: &Scene) -> Listener {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let client = Config::new()
            .host("127.0.0.1")
            .port(pair().destination.port)
            .user("dba")
            .password("dba secret")
            .dbname(&scene.database)
            .notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_string()))
            .connect(NoTls)
            .unwrap();
        Listener { client, told }
    }

    /// What is told while this runs, in alphabetical order.
    fn listen(&mut self, sql: &str) -> Vec<String> {
        self.told.lock().unwrap().clear();
        self.client.batch_execute(sql).unwrap();
        let mut told = std::mem::take(&mut *self.told.lock().unwrap());
        told.sort();
        told
    }
}

#[test]
fn differing_keys_are_shown_with_how_they_differ() {
    let scene = Scene::new("differing_keys", 20_000);
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.t', 1, 'app.copy')").unwrap();
    let mut listener = Listener::new(&scene);
    let show = "SELECT mimeo.validate_content('app.copy', p_show := 10)";
    assert!(listener.listen(show).is_empty(), "nothing differs");

    scene
        .dba()
        .batch_execute(
            "UPDATE app.copy SET v = 'damaged' WHERE id = 7; DELETE FROM app.copy WHERE id = 19999;
             INSERT INTO app.copy VALUES (-5, 'x')",
        )
        .unwrap();
    assert_eq!(
        listener.listen(show),
        [
            "\"app.copy\": key (id)=(-5) is only here",
            "\"app.copy\": key (id)=(19999) is only on the source",
            "\"app.copy\": key (id)=(7) is different"
        ]
    );
    assert_eq!(listener.listen("SELECT mimeo.validate_content('app.copy', p_show := 2)").len(), 2);
    assert!(listener.listen("SELECT mimeo.validate_content('app.copy')").is_empty());

    // A duplicate, which only a destination without a key can hold.
    scene
        .dba()
        .batch_execute(
            "ALTER TABLE app.copy DROP CONSTRAINT IF EXISTS copy_id_pk; DROP INDEX IF EXISTS app.copy_id_pk;
             TRUNCATE app.copy; INSERT INTO app.copy VALUES (3, 'value 3'), (3, 'value 3')",
        )
        .unwrap();
    let told = listener.listen("SELECT mimeo.validate_content('app.copy', p_show := 20000)");
    assert_eq!(told.len(), 20_000, "every key once");
    assert!(told.contains(&"\"app.copy\": key (id)=(3) is 1 times on the source, 2 times here".to_string()));
}

#[test]
fn keys_of_several_columns_and_tables_without_a_key() {
    let scene = Scene::new("odd_keys", 5);
    scene
        .owner()
        .batch_execute(
            r#"CREATE TABLE app.odd (a int, "b c" text, v int, PRIMARY KEY (a, "b c")); INSERT INTO app.odd VALUES (1, 'x "y", z', 1), (1, '', 2);
               CREATE TABLE app.nokey (v int); INSERT INTO app.nokey VALUES (1)"#,
        )
        .unwrap();
    let mut listener = Listener::new(&scene);
    listener.listen(
        "SELECT mimeo.snapshot_maker('app.odd', 1), mimeo.table_maker('app.nokey', 1),
                mimeo.updater_maker('app.odd', 'serial', 'a', 1, '0', 'app.up', p_pk_name := '{v}', p_pk_type := '{int}')",
    );
    scene.owner().batch_execute("UPDATE app.odd SET v = 3 WHERE v = 1; DELETE FROM app.nokey").unwrap();
    assert_eq!(
        listener.listen("SELECT mimeo.validate_content('app.odd', p_show := 9)"),
        [r#""app.odd": key (a, b c)=(1,"x ""y"", z") is different"#]
    );
    assert_eq!(
        listener.listen("SELECT mimeo.validate_content('app.up', p_show := 9)"),
        ["\"app.up\": key (v)=(1) is only here", "\"app.up\": key (v)=(3) is only on the source"],
        "the job's own key goes first"
    );
    assert_eq!(
        listener.listen("SELECT mimeo.validate_content('app.nokey', p_show := 9)"),
        ["\"app.nokey\": there is no key by which rows that differ could be named"]
    );
    scene.owner().batch_execute("ALTER TABLE app.odd ADD COLUMN late int").unwrap();
    assert_eq!(
        listener.listen("SELECT mimeo.validate_content('app.odd')"),
        ["\"app.odd\": columns are not compared, because the destination does not have them: \"late\""]
    );
}

#[test]
fn what_is_left_out_is_told_and_each_source_is_connected_to_once() {
    let scene = Scene::with_snapshot("left_out", 5);
    scene.owner().batch_execute("CREATE TABLE app.gone (id int PRIMARY KEY)").unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.gone', 1), mimeo.table_maker('app.t', 1, 'app.dropped'), mimeo.table_maker('app.t', 1, 'app.copy');
             DROP TABLE app.dropped;
             INSERT INTO mimeo.dblink_mapping_mimeo (data_source_id, data_source, username, pwd) VALUES (2, 'host=127.0.0.1 port=1', 'reader', 'x');
             CREATE TABLE app.far (id int);
             INSERT INTO mimeo.refresh_config (dest_table, source_table, type, dblink) VALUES ('app.far', 'app.t', 'snap', 2)",
        )
        .unwrap();
    scene.owner().batch_execute("DROP TABLE app.gone; REVOKE SELECT ON app.t FROM reader").unwrap();
    let mut listener = Listener::new(&scene);
    let told = listener.listen("SELECT * FROM mimeo.check_source_columns()");
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], "\"app.dropped\" is left out: it does not exist on the destination");
    assert!(
        told[1].starts_with("\"app.gone\" is left out: table \"app.gone\" does not exist on data source 1"),
        "{told:?}"
    );
    assert!(told[2].starts_with("data source 2 is left out: could not connect to data source 2"), "{told:?}");
    assert!(!told[2].contains("pwd") && told[2].contains("Connection refused"), "{told:?}");

    let told = listener.listen("SELECT * FROM mimeo.snapshot_monitor()");
    assert!(told.iter().any(|line| line == "\"app.t\" is left out: permission denied for table t"), "{told:?}");
    assert_eq!(listener.listen("SELECT * FROM mimeo.check_missing_source_tables()").len(), 1);

    // With log_connections the source's log would tell; its counter of sessions tells, too.
    let made = || -> i64 {
        let mut superuser = pair().source.superuser("postgres");
        let sql = "SELECT pg_stat_force_next_flush(), sessions FROM pg_stat_database WHERE datname = 'left_out'";
        superuser.query_one(sql, &[]).unwrap().get(1)
    };
    wait_for("earlier sessions to be counted", || {
        let before = made();
        std::thread::sleep(Duration::from_millis(500));
        before == made()
    });
    let before = made();
    listener.listen("SELECT * FROM mimeo.check_source_columns(1)");
    wait_for("the session to be counted", || made() > before);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(made() - before, 1, "one connection for the three jobs of a source");
}

#[test]
fn a_comparison_can_be_cancelled_while_the_source_is_at_work() {
    let scene = Scene::new("cancelled_check", 5);
    scene.owner().batch_execute("CREATE VIEW app.slow AS SELECT id, v, pg_sleep(60)::text AS s FROM app.t").unwrap();
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.slow', 1, p_pulldata := false)").unwrap();
    // A count alone would not call the function.
    scene.dba().batch_execute("UPDATE mimeo.refresh_config SET condition = 'WHERE s IS NOT NULL'").unwrap();
    let mut superuser = scene.destination_superuser();
    for check in ["SELECT mimeo.validate_rowcount('app.slow')", "SELECT mimeo.validate_content('app.slow')"] {
        let background = in_background(scene.dba(), check);
        wait_for("the source to be asked", || scene.source_sessions() == 1);
        std::thread::sleep(Duration::from_millis(300));
        let cancel =
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = $1";
        superuser.execute(cancel, &[&check]).unwrap();
        let (_, outcome) = background.join().unwrap();
        assert_eq!(sqlstate(&outcome), "57014", "{check}");
        wait_for("the source to be left alone", || scene.source_sessions() == 0);
    }
}

#[test]
fn a_column_may_be_dropped_when_its_rows_are_about_to_be_compared() {
    let scene = Scene::new("dropped_column", 5);
    scene.dba().batch_execute("SELECT mimeo.table_maker('app.t', 1, 'app.copy')").unwrap();
    let mut alterer = scene.dba();
    alterer.batch_execute("BEGIN; ALTER TABLE app.copy DROP COLUMN v").unwrap();
    let check = "SELECT mimeo.validate_content('app.copy')";
    let background = in_background(scene.dba(), check);
    let mut superuser = scene.destination_superuser();
    wait_for("the comparison to wait for the table", || {
        one(&mut superuser, "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'app.copy'::regclass AND NOT granted")
    });
    alterer.batch_execute("COMMIT").unwrap();
    let (_, outcome) = background.join().unwrap();
    assert_eq!(sqlstate(&outcome), "00000");
}

#[test]
fn the_hash_does_not_depend_on_the_encoding_of_a_database() {
    let scene = Scene::new("encodings", 5);
    pair()
        .source
        .superuser("postgres")
        .batch_execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 OWNER owner")
        .unwrap();
    pair()
        .source
        .connect("owner", "latin")
        .batch_execute(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO reader;
             CREATE TABLE app.t (id int PRIMARY KEY, v text); GRANT SELECT ON app.t TO reader;
             INSERT INTO app.t VALUES (1, 'é'), (2, 'ß')",
        )
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(
        "UPDATE mimeo.dblink_mapping_mimeo SET data_source = replace(data_source, 'dbname=encodings', 'dbname=latin');
         SELECT mimeo.table_maker('app.t', 1)",
    )
    .unwrap();
    let matches = "SELECT match FROM mimeo.validate_content('app.t')";
    assert!(one::<bool>(&mut dba, matches));
    dba.batch_execute("UPDATE app.t SET v = 'è' WHERE id = 1").unwrap();
    assert!(!one::<bool>(&mut dba, matches));
}

#[test]
fn what_follows_is_told_before_and_what_is_gone_is_told_once() {
    let scene = Scene::new("told_columns", 10);
    let mut dba = Listener::new(&scene);
    dba.listen("SELECT mimeo.table_maker('app.t', 1, 'app.follows'), mimeo.table_maker('app.t', 1, 'app.stays'); UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table = 'app.stays'");
    scene.owner().batch_execute("ALTER TABLE app.t ADD COLUMN n int; ALTER TABLE app.t DROP COLUMN v").unwrap();
    let told = dba.listen("SELECT * FROM mimeo.check_source_columns()");
    assert_eq!(told, ["the next refresh follows the columns of these jobs: \"app.follows\""]);
    let gone =
        "column \"v\" of \"app.follows\" is gone on the source: it keeps its values here, and is NULL in new rows";
    assert_eq!(dba.listen("SELECT mimeo.refresh_table('app.follows')"), [gone]);
    assert!(dba.listen("SELECT mimeo.refresh_table('app.follows')").is_empty(), "once");
    assert!(!dba
        .listen("SELECT * FROM mimeo.check_source_columns()")
        .iter()
        .any(|told| told.contains("follows the columns")));
}
