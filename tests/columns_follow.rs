//! Columns that follow the source, while others read and while a refresh comes to nothing. What is followed is in tests/pgtap/34_columns_follow.sql.

mod support;

use postgres::Client;
use support::{one, pair, sqlstate, stuck, wait_for, Scene};

/// Methods, and the arguments of their makers.
const METHODS: [(&str, &str); 5] = [
    ("table", "'app.t', 1"),
    ("inserter", "'app.t', 'serial', 'id', 1, '0'"),
    ("updater", "'app.t', 'serial', 'id', 1, '0'"),
    ("dml", "'app.t', 1"),
    ("logdel", "'app.t', 1"),
];

/// Whether this transaction has shut out the writers of app.t, as it does to write the table anew beside its rows.
const BESIDE: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'app.t'::regclass AND mode = 'ShareRowExclusiveLock')";

/// A job app.t of that method, and the statement that refreshes it.
fn job(method: &str, maker: &str, name: &str, rows: u32) -> (Scene, String) {
    let scene = Scene::new(&format!("follow_{name}_{method}"), rows);
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene.owner().batch_execute("GRANT TRIGGER ON app.t TO reader").unwrap();
    scene.dba().batch_execute(&format!("SELECT mimeo.{method}_maker({maker})")).unwrap();
    (scene, format!("SELECT mimeo.refresh_{method}('app.t')"))
}

/// The rows of both sides, in these columns. An inserter and an updater have all but the newest.
fn is_equal(scene: &Scene, columns: &str) -> bool {
    let query = format!(
        "SELECT count(*) || md5(string_agg(r::text, '|' ORDER BY r::text COLLATE \"C\")) FROM (SELECT {columns} FROM app.t WHERE id < 1000) r"
    );
    one::<String>(&mut scene.dba(), &query) == one::<String>(&mut scene.owner(), &query)
}

fn columns(client: &mut Client) -> String {
    one(
        client,
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull, ', ' ORDER BY attnum)
           FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'mimeo_source_deleted'",
    )
}

#[test]
fn readers_go_on_while_rows_come_and_nothing_has_changed_if_they_do_not() {
    for (method, maker) in METHODS {
        let (scene, refresh) = job(method, maker, "stuck", 20_000);
        let before = columns(&mut scene.dba());
        let total: i64 = one(&mut scene.dba(), "SELECT sum(id) FROM app.t");
        scene
            .owner()
            .batch_execute("ALTER TABLE app.t ADD COLUMN u uuid NOT NULL DEFAULT gen_random_uuid(), ALTER id TYPE bigint; INSERT INTO app.t VALUES (20001, 'new')")
            .unwrap();
        let (_proxy, pid, call) = stuck(&scene, &refresh);
        let mut reader = scene.dba();
        reader.batch_execute("SET lock_timeout = '200ms'").unwrap();
        assert_eq!(one::<i64>(&mut reader, "SELECT sum(id) FROM app.t"), total, "{method}: readers go on");
        assert_eq!(columns(&mut reader), before, "{method}");
        scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
        assert_eq!(sqlstate(&call.join().unwrap().1), "57014");
        assert_eq!(columns(&mut reader), before, "{method}: nothing has changed");
        assert_eq!(one::<i64>(&mut reader, "SELECT sum(id) FROM app.t"), total, "{method}");

        scene.set_source(pair().source.port);
        scene.dba().batch_execute(&refresh).unwrap();
        assert_eq!(columns(&mut reader), "id biginttrue, v texttrue, u uuidtrue", "{method}");
        assert!(is_equal(&scene, "id, v, u"), "{method}: the next refresh brings all");
    }
}

#[test]
fn what_is_rolled_back_is_followed_by_the_next_refresh() {
    for (method, maker) in METHODS {
        let (scene, refresh) = job(method, maker, "rollback", 100);
        let config = "SELECT concat_ws(' ', control, pk_name, state ->> 'configured_by') FROM mimeo.refresh_config";
        let mut dba = scene.dba();
        let (before, configured) = (columns(&mut dba), one::<String>(&mut dba, config));
        scene
            .owner()
            .batch_execute("ALTER TABLE app.t RENAME id TO number; ALTER TABLE app.t RENAME v TO id; ALTER TABLE app.t ADD COLUMN v int NOT NULL DEFAULT 7; INSERT INTO app.t VALUES (1000, 'new', 8)")
            .unwrap();
        dba.batch_execute(&format!("BEGIN; {refresh}")).unwrap();
        assert_eq!(columns(&mut dba), "number integertrue, id texttrue, v integertrue", "{method}");
        dba.batch_execute("ROLLBACK").unwrap();
        assert_eq!(columns(&mut dba), before, "{method}");
        assert_eq!(one::<String>(&mut dba, config), configured, "{method}");
        dba.batch_execute(&refresh).unwrap();
        let query = "SELECT count(*) || md5(string_agg(r::text, '|' ORDER BY number)) FROM (SELECT number, id, v FROM app.t WHERE number < 1000) r";
        assert_eq!(one::<String>(&mut dba, query), one::<String>(&mut scene.owner(), query), "{method}");
    }
}

#[test]
fn a_reader_that_stays_delays_it_and_makes_nobody_wait() {
    for (method, maker) in METHODS {
        let (scene, refresh) = job(method, maker, "reader", 100);
        let mut reader = scene.dba();
        reader.batch_execute("BEGIN; SELECT count(*) FROM app.t").unwrap();
        scene
            .owner()
            .batch_execute("ALTER TABLE app.t ADD COLUMN n int DEFAULT 1; INSERT INTO app.t VALUES (1000, 'new')")
            .unwrap();
        let mut dba = scene.dba();
        dba.batch_execute("SET mimeo.swap_max_wait = '1s'; SET mimeo.swap_lock_timeout = '20ms'").unwrap();
        let before = columns(&mut dba);
        assert_eq!(sqlstate(&dba.batch_execute(&refresh)), "55P03", "{method}");
        assert_eq!(columns(&mut dba), before, "{method}: nothing has changed");
        reader.batch_execute("COMMIT").unwrap();
        dba.batch_execute(&refresh).unwrap();
        assert!(is_equal(&scene, "id, v, n"), "{method}");
    }
}

#[test]
fn a_large_table_is_written_anew_beside_its_rows() {
    // 8 MB and more: a rewrite in place would have readers wait for it.
    for (method, maker) in METHODS {
        let (scene, refresh) = job(method, maker, "large", 1);
        scene
            .owner()
            .batch_execute("INSERT INTO app.t SELECT i, repeat('v', 400) || i FROM generate_series(2, 30000) i")
            .unwrap();
        let mut dba = scene.dba();
        dba.batch_execute(&refresh).unwrap();
        dba.batch_execute("ANALYZE app.t; CREATE STATISTICS app.s (ndistinct) ON id, v FROM app.t; CREATE INDEX extra ON app.t (v) WHERE id % 2 = 0").unwrap();
        let oid: u32 = one(&mut dba, "SELECT 'app.t'::regclass::oid");
        scene.owner().batch_execute("ALTER TABLE app.t ALTER id TYPE bigint; DELETE FROM app.t WHERE id = 7; INSERT INTO app.t VALUES (5000000000, 'far')").unwrap();
        dba.batch_execute(&format!("BEGIN; {refresh}")).unwrap();
        // Rows that are merged beside the table shut out its writers before; all rows that are copied come beside it unless the reason tells.
        let beside: bool = match method {
            "updater" | "logdel" => one(&mut dba, BESIDE),
            _ => {
                one(&mut dba, "SELECT reason NOT LIKE '%in place%' FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")
            }
        };
        assert!(beside, "{method}");
        dba.batch_execute("COMMIT").unwrap();
        assert_eq!(columns(&mut dba), "id biginttrue, v texttrue", "{method}");
        assert_eq!(one::<u32>(&mut dba, "SELECT 'app.t'::regclass::oid"), oid, "{method}: it is the same table");
        let gone = match method {
            "inserter" | "updater" => "WHERE id <> 7",
            "logdel" => "WHERE mimeo_source_deleted IS NULL",
            _ => "",
        };
        let sum = |from: &str| format!("SELECT sum(id % 100000)::bigint FROM app.t {from}");
        let there: i64 = one(&mut scene.owner(), &sum("WHERE id < 30000"));
        let here: i64 = one(
            &mut dba,
            &sum(&format!("{} id < 30000", if gone.is_empty() { "WHERE".to_string() } else { format!("{gone} AND") })),
        );
        assert_eq!(here, there, "{method}");
        let valid: bool = one(
            &mut dba,
            "SELECT bool_and(indisvalid) AND count(*) >= 2 AND (SELECT count(*) = 1 FROM pg_statistic_ext WHERE stxname = 's' AND stxrelid = 'app.t'::regclass)
               FROM pg_index WHERE indrelid = 'app.t'::regclass",
        );
        assert!(valid, "{method}: its indexes and statistics are there");
        let toast: String =
            one(&mut dba, "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'app.t'::regclass");
        assert_eq!(toast, format!("pg_toast.pg_toast_{oid}"), "{method}");
        wait_for("no shadow table to be left", || {
            one::<i64>(&mut dba, "SELECT count(*) FROM pg_class WHERE relname LIKE 'mimeo\\_%' AND relkind = 'r'") == 0
        });
    }
}

#[test]
fn a_large_table_to_which_no_row_comes_is_written_anew_beside_them_too() {
    // Rows are gone on the source, so an inserter copies none of the others again.
    let (scene, refresh) = job("inserter", "'app.t', 'serial', 'id', 1, '0'", "archive", 1);
    scene
        .owner()
        .batch_execute("INSERT INTO app.t SELECT i, repeat('v', 400) || i FROM generate_series(2, 30000) i")
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(&refresh).unwrap();
    let before: i64 = one(&mut dba, "SELECT count(*) FROM app.t");
    scene.owner().batch_execute("DELETE FROM app.t WHERE id < 10; ALTER TABLE app.t ALTER id TYPE bigint").unwrap();
    dba.batch_execute(&format!("BEGIN; {refresh}")).unwrap();
    assert!(one::<bool>(&mut dba, BESIDE));
    dba.batch_execute("COMMIT").unwrap();
    assert_eq!(columns(&mut dba), "id biginttrue, v texttrue");
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.t"), before, "what is gone on the source stays");
}

#[test]
fn what_a_foreign_key_refers_to_is_locked_with_patience_too() {
    let (scene, refresh) = job("dml", "'app.t', 1", "referenced", 100);
    let mut dba = scene.dba();
    dba.batch_execute("CREATE TABLE app.kinds AS SELECT generate_series(1, 100) AS id; ALTER TABLE app.kinds ADD PRIMARY KEY (id); ALTER TABLE app.t ADD FOREIGN KEY (id) REFERENCES app.kinds").unwrap();
    scene.owner().batch_execute("ALTER TABLE app.t ALTER id TYPE bigint").unwrap();
    let mut reader = scene.dba();
    reader.batch_execute("BEGIN; SELECT count(*) FROM app.kinds").unwrap();
    dba.batch_execute(
        "SET mimeo.swap_max_wait = '1s'; SET mimeo.swap_lock_timeout = '20ms'; SET statement_timeout = '30s'",
    )
    .unwrap();
    assert_eq!(sqlstate(&dba.batch_execute(&refresh)), "55P03");
    reader.batch_execute("COMMIT").unwrap();
    dba.batch_execute(&refresh).unwrap();
    assert_eq!(columns(&mut dba), "id biginttrue, v texttrue");
}
