//! While a refresh waits for somebody on the destination, the source has nothing to do with it: no snapshot is open there that
//! would keep VACUUM from its work.

mod support;

use support::{in_background, one, sqlstate, wait_for, Scene};

/// Runs a refresh while somebody on the destination holds what it needs.
fn wait_without_the_source(scene: &Scene, holds: &str, refresh: &str) {
    let mut holder = scene.dba();
    holder.batch_execute(&format!("BEGIN; {holds}")).unwrap();
    let refresh = in_background(scene.dba(), refresh);
    let mut superuser = scene.destination_superuser();
    let waits = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE NOT l.granted AND a.datname = current_database()";
    wait_for("the refresh to wait", || refresh.is_finished() || one(&mut superuser, waits));
    assert!(!refresh.is_finished(), "it has waited for nobody");
    let busy = "SELECT coalesce(string_agg(concat(state, ': ', query), '; '), '') FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'mimeo/%' AND state <> 'idle'";
    assert_eq!(one::<String>(&mut scene.source_superuser(), busy), "");
    holder.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&refresh.join().unwrap().1), "00000");
}

fn scene(name: &str, maker: &str) -> Scene {
    let scene = Scene::new(name, 5000);
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene
        .owner()
        .batch_execute(
            "GRANT TRIGGER ON app.t TO reader;
             CREATE TABLE app.u (id bigserial, k int PRIMARY KEY, v text); GRANT SELECT ON app.u TO reader;
             INSERT INTO app.u (k, v) SELECT i, i FROM generate_series(1, 5000) i",
        )
        .unwrap();
    scene.dba().batch_execute(&format!("SET mimeo.writer_wait = 0; SELECT mimeo.{maker}")).unwrap();
    scene
}

#[test]
fn for_the_form_of_a_table() {
    let scene = scene("free_table_form", "table_maker('app.t', 1)");
    scene.change();
    wait_without_the_source(&scene, "LOCK app.t IN SHARE UPDATE EXCLUSIVE MODE", "SELECT mimeo.refresh_table('app.t')");
    assert_eq!(scene.changed_rows(1), 5000);
}

#[test]
fn for_an_index_that_is_made() {
    let change = "UPDATE app.t SET v = v || '!' WHERE id < 10";
    for (name, maker, refresh) in [
        ("free_dml_index", "dml_maker('app.t', 1)", "refresh_dml('app.t')"),
        ("free_logdel_index", "logdel_maker('app.t', 1)", "refresh_logdel('app.t')"),
        ("free_dml_all_index", "dml_maker('app.t', 1)", "refresh_dml('app.t', p_repull := true)"),
    ] {
        let scene = scene(name, maker);
        scene.owner().batch_execute(change).unwrap();
        wait_without_the_source(&scene, "LOCK app.t IN SHARE MODE", &format!("SELECT mimeo.{refresh}"));
        assert_eq!(scene.changed_rows(1), 9);
    }
    let scene = scene("free_updater_index", "updater_maker('app.u', 'serial', 'id', 1)");
    scene.owner().batch_execute("UPDATE app.u SET v = 'new', id = nextval('app.u_id_seq') WHERE k < 10").unwrap();
    let refresh = "SET mimeo.writer_wait = 0; SELECT mimeo.refresh_updater('app.u')";
    wait_without_the_source(&scene, "LOCK app.u IN SHARE MODE", refresh);
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.u WHERE v = 'new'"), 8);
}

#[test]
fn for_the_form_of_what_is_pulled_again() {
    let scene = scene("free_repull_form", "updater_maker('app.u', 'serial', 'id', 1)");
    let mut dba = scene.dba();
    dba.batch_execute("SET mimeo.writer_wait = 0; SELECT mimeo.dml_maker('app.t', 1)").unwrap();
    scene.change();
    for (table, refresh) in
        [("u", "refresh_updater('app.u', p_repull := true)"), ("t", "refresh_dml('app.t', p_repull := true)")]
    {
        wait_without_the_source(
            &scene,
            &format!("LOCK app.{table} IN SHARE UPDATE EXCLUSIVE MODE"),
            &format!("SET mimeo.writer_wait = 0; SELECT mimeo.{refresh}"),
        );
    }
    assert_eq!(scene.changed_rows(1), 5000);
}

#[test]
fn for_a_row_of_a_range_that_is_pulled_again() {
    let scene = scene("free_range_row", "updater_maker('app.u', 'serial', 'id', 1)");
    scene.owner().batch_execute("UPDATE app.u SET v = 'new' WHERE k < 10; DELETE FROM app.u WHERE k = 7").unwrap();
    wait_without_the_source(
        &scene,
        "SELECT FROM app.u WHERE k = 7 FOR UPDATE",
        "SET mimeo.writer_wait = 0; SELECT mimeo.refresh_updater('app.u', p_repull := true, p_repull_start := '0', p_repull_end := '100')",
    );
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.u WHERE v = 'new' OR k = 7"), 8);
}

#[test]
fn for_the_readers_of_a_table() {
    let scene = scene("free_table_readers", "table_maker('app.t', 1)");
    scene.change();
    wait_without_the_source(&scene, "SELECT count(*) FROM app.t", "SELECT mimeo.refresh_table('app.t')");
    assert_eq!(scene.changed_rows(1), 5000);
}

#[test]
fn for_a_row_of_an_updater() {
    let scene = scene("free_updater_row", "updater_maker('app.u', 'serial', 'id', 1)");
    scene.owner().batch_execute("UPDATE app.u SET v = 'new', id = nextval('app.u_id_seq') WHERE k IN (7, 8)").unwrap();
    wait_without_the_source(
        &scene,
        "SELECT FROM app.u WHERE k IN (7, 8) FOR UPDATE",
        "SET mimeo.writer_wait = 0; SELECT mimeo.refresh_updater('app.u')",
    );
    assert_eq!(
        one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.u WHERE v = 'new'"),
        1,
        "the last is not safe yet"
    );
}

#[test]
fn for_the_readers_of_an_updater_that_is_written_anew() {
    let scene = scene("free_updater_readers", "updater_maker('app.u', 'serial', 'id', 1)");
    let mut owner = scene.owner();
    owner.batch_execute("INSERT INTO app.u (k, v) SELECT i, i FROM generate_series(5001, 60000) i").unwrap();
    scene
        .dba()
        .batch_execute("SET mimeo.writer_wait = 0; SELECT mimeo.refresh_updater('app.u'); ANALYZE app.u")
        .unwrap();
    owner.batch_execute("UPDATE app.u SET v = 'new', id = nextval('app.u_id_seq')").unwrap();
    wait_without_the_source(
        &scene,
        "SELECT count(*) FROM app.u",
        "SET mimeo.writer_wait = 0; SELECT mimeo.refresh_updater('app.u')",
    );
    assert_eq!(one::<i64>(&mut scene.dba(), "SELECT count(*) FROM app.u WHERE v = 'new'"), 59_999);
}

#[test]
fn for_the_readers_of_a_dml_job_that_is_pulled_again() {
    let scene = scene("free_dml_readers", "dml_maker('app.t', 1)");
    scene.change();
    wait_without_the_source(
        &scene,
        "SELECT count(*) FROM app.t",
        "SELECT mimeo.refresh_dml('app.t', p_repull := true)",
    );
    assert_eq!(scene.changed_rows(1), 5000);
}

#[test]
fn for_a_row_of_a_dml_job() {
    let scene = scene("free_dml_row", "dml_maker('app.t', 1)");
    scene.owner().batch_execute("UPDATE app.t SET v = v || '!' WHERE id < 10").unwrap();
    wait_without_the_source(
        &scene,
        "SELECT FROM app.t WHERE id = 7 FOR UPDATE",
        "SELECT mimeo.refresh_dml('app.t', p_insert_on_fetch := false)",
    );
    assert_eq!(scene.changed_rows(1), 9);
}

#[test]
fn for_a_row_of_a_logdel_job() {
    let scene = scene("free_logdel_row", "logdel_maker('app.t', 1)");
    scene.owner().batch_execute("UPDATE app.t SET v = v || '!' WHERE id < 10").unwrap();
    wait_without_the_source(
        &scene,
        "SELECT FROM app.t WHERE id = 7 FOR UPDATE",
        "SELECT mimeo.refresh_logdel('app.t')",
    );
    assert_eq!(scene.changed_rows(1), 9);
}
