//! Databases in other encodings than UTF-8 (S13): rows of any letters are copied as they are; a name, a condition or a definition with
//! letters that this database writes otherwise is a plain error, before anything is made.

mod support;

use postgres::{Client, SimpleQueryMessage};
use support::{message, pair, sqlstate};

fn database(cluster: &support::Cluster, name: &str, owner: &str, encoding: &str) -> Client {
    cluster
        .superuser("postgres")
        .batch_execute(&format!(
            "CREATE DATABASE {name} OWNER {owner} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ))
        .unwrap();
    cluster.superuser(name)
}

fn ask(client: &mut Client, sql: &str) -> String {
    let answer = client.simple_query(sql).unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_string()),
        _ => None,
    });
    row.unwrap_or_default()
}

/// A source and a destination in these encodings, the destination's superuser, and the source's.
fn sides(name: &str, there: &str, here: &str) -> (Client, Client) {
    let pair = pair();
    let mut source = database(&pair.source, name, "owner", there);
    let mut destination = database(&pair.destination, name, "dba", here);
    source
        .batch_execute(
            "CREATE SCHEMA app AUTHORIZATION owner; CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT USAGE ON SCHEMA app TO reader;
             SET ROLE owner; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader;
             CREATE TABLE app.t (id int PRIMARY KEY, v text, c char(5), a text[]); INSERT INTO app.t VALUES (1, 'Müller', 'ä', '{ö,ü}'), (2, 'plain', 'b', NULL);
             CREATE INDEX t_plain ON app.t (lower(v)) WHERE v <> 'x'",
        )
        .unwrap();
    destination
        .batch_execute(&format!(
            "CREATE EXTENSION mimeo; CREATE SCHEMA app;
             INSERT INTO mimeo.dblink_mapping_mimeo VALUES (1, 'host=127.0.0.1 port={} dbname={name}', 'reader', 'reader secret')",
            pair.source.port
        ))
        .unwrap();
    (source, destination)
}

const JOBS: [(&str, &str); 6] = [
    ("SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap')", "SELECT mimeo.refresh_snapshot('app.snap')"),
    ("SELECT mimeo.table_maker('app.t', 1, 'app.tab')", "SELECT mimeo.refresh_table('app.tab')"),
    (
        "SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, '0', 'app.ins')",
        "SELECT mimeo.refresh_inserter('app.ins')",
    ),
    (
        "SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, '0', 'app.upd')",
        "SELECT mimeo.refresh_updater('app.upd')",
    ),
    ("SELECT mimeo.dml_maker('app.t', 1, 'app.dm')", "SELECT mimeo.refresh_dml('app.dm')"),
    ("SELECT mimeo.logdel_maker('app.t', 1, 'app.ld')", "SELECT mimeo.refresh_logdel('app.ld')"),
];

fn rows_arrive(source: &mut Client, destination: &mut Client) {
    for (make, _) in JOBS {
        destination.batch_execute(make).unwrap();
    }
    source.batch_execute("INSERT INTO app.t VALUES (3, 'Größe', 'é', '{ñ}'), (4, 'x', 'x', NULL); UPDATE app.t SET v = v || ' ß' WHERE id = 2; SELECT pg_stat_force_next_flush()").unwrap();
    for (_, refresh) in JOBS {
        destination.batch_execute(refresh).unwrap();
    }
    let rows = |table: &str, columns: &str| {
        format!("SELECT string_agg(concat_ws(' ', {columns}), ', ' ORDER BY id) FROM app.{table} WHERE id <> 2")
    };
    for table in ["snap", "tab", "dm", "ld"] {
        assert_eq!(ask(destination, &rows(table, "id, v, c, a")), ask(source, &rows("t", "id, v, c, a")), "{table}");
        assert_eq!(ask(destination, &format!("SELECT v FROM app.{table} WHERE id = 2")), "plain ß", "{table}");
    }
    assert_eq!(ask(destination, "SELECT v FROM app.ins WHERE id = 3"), "Größe");
    assert_eq!(ask(destination, "SELECT v FROM app.upd WHERE id = 3"), "Größe");
    assert_eq!(ask(destination, "SELECT match::text FROM mimeo.validate_content('app.tab')"), "true");
}

#[test]
fn rows_of_any_letters_are_copied_between_encodings() {
    for (number, (there, here)) in
        [("UTF8", "LATIN1"), ("LATIN1", "UTF8"), ("LATIN1", "LATIN1"), ("UTF8", "LATIN9")].into_iter().enumerate()
    {
        let (mut source, mut destination) = sides(&format!("rows_{number}"), there, here);
        rows_arrive(&mut source, &mut destination);
    }
}

#[test]
fn names_and_definitions_with_other_letters_are_refused_plainly_where_they_cannot_be_written() {
    let (mut source, mut destination) = sides("names_there", "UTF8", "LATIN1");
    source
        .batch_execute(
            "SET ROLE owner; CREATE TABLE app.\"straße\" (id int PRIMARY KEY); CREATE TABLE app.col (id int PRIMARY KEY, \"größe\" int);
             CREATE TABLE app.\"Ã¤\" (id int PRIMARY KEY);
             CREATE TABLE app.idx (id int PRIMARY KEY, v text); CREATE INDEX idx_x ON app.idx (v) WHERE v <> 'ä';
             CREATE TABLE app.def (id int PRIMARY KEY, v text DEFAULT 'ä', w int GENERATED ALWAYS AS (CASE WHEN v = 'ö' THEN id END) STORED)",
        )
        .unwrap();
    for statement in [
        "SELECT mimeo.snapshot_maker('app.straße', 1)",
        // In LATIN1 its bytes are those of another name in UTF-8.
        "SELECT mimeo.snapshot_maker('app.Ã¤', 1)",
        "SELECT mimeo.table_maker('app.t', 1, 'app.Ã¤')",
        "SELECT mimeo.table_maker('app.col', 1)",
        "SELECT mimeo.table_maker('app.idx', 1)",
        "SELECT mimeo.table_maker('app.def', 1)",
        "SELECT mimeo.table_maker('app.t', 1, 'app.größe')",
        "SELECT mimeo.table_maker('app.t', 1, p_filter := '{id,größe}')",
        "SELECT mimeo.table_maker('app.t', 1, p_condition := 'WHERE v = ''Müller''')",
        "SELECT mimeo.refresh_table('app.größe')",
        "SELECT * FROM mimeo.check_permissions(1, 'app.größe')",
    ] {
        let outcome = destination.batch_execute(statement);
        let error = outcome.as_ref().unwrap_err().as_db_error().unwrap();
        assert_eq!(sqlstate(&outcome), "22P05", "{statement}: {error}");
        assert!(
            message(&outcome)
                .ends_with("contains characters that are not ASCII, and the encoding of this database is \"LATIN1\""),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("panick") && !format!("{error:?}").contains("backtrace"), "{error:?}");
    }
    assert_eq!(
        ask(&mut destination, "SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace"),
        "0",
        "nothing was made"
    );
    destination.batch_execute("SELECT mimeo.table_maker('app.idx', 1, p_index := false)").unwrap_or_default();

    // A database in UTF-8 writes all of them, whatever its source does.
    let (mut source, mut destination) = sides("names_here", "LATIN1", "UTF8");
    source.batch_execute("SET ROLE owner; CREATE TABLE app.\"straße\" (id int PRIMARY KEY, \"größe\" text DEFAULT 'ä'); INSERT INTO app.\"straße\" VALUES (1, 'ö'); CREATE INDEX \"straße_x\" ON app.\"straße\" (\"größe\") WHERE \"größe\" <> 'ü'").unwrap();
    destination
        .batch_execute("SELECT mimeo.table_maker('app.straße', 1, p_condition := 'WHERE \"größe\" = ''ö''')")
        .unwrap();
    assert_eq!(ask(&mut destination, "SELECT \"größe\" FROM app.\"straße\""), "ö");
    assert!(ask(&mut destination, "SELECT pg_get_indexdef('app.\"straße_x\"'::regclass)").contains("'ü'"));
    assert!(ask(
        &mut destination,
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'app.\"straße\"'::regclass"
    )
    .contains("'ä'"));
}
