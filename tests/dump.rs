//! pg_dump and restore into another cluster: jobs, their settings and their state come along, and the next refresh does not trust
//! what it knew of the old cluster.

mod support;

use std::process::{Command, Stdio};
use support::{one, run_dir, Cluster, Scene};

#[test]
fn a_restored_database_goes_on() {
    let scene = Scene::new("dumped", 100);
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    let mut dba = scene.dba();
    dba.batch_execute(
        "SELECT mimeo.snapshot_maker('app.t', 1); SELECT mimeo.table_maker('app.t', 1, 'app.tab');
         SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.ins');
         SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.upd');
         SELECT mimeo.dml_maker('app.t', 1, 'app.d'); SELECT mimeo.refresh_snapshot('app.t'); SELECT mimeo.refresh_dml('app.d');
         UPDATE mimeo.refresh_config SET period = '1 hour' WHERE dest_table = 'app.t'",
    )
    .unwrap();
    scene
        .owner()
        .batch_execute("UPDATE app.t SET v = 'changed' WHERE id <= 10; INSERT INTO app.t VALUES (101, 'new')")
        .unwrap();

    let text = scene.dump("--blobs");
    assert!(
        !text.contains("CREATE FUNCTION") && !text.contains("CREATE PROCEDURE"),
        "the dump has no functions of ours"
    );

    let new = Cluster::start(&run_dir().join("restored"), "");
    new.superuser("postgres").batch_execute("CREATE ROLE dba LOGIN PASSWORD 'dba secret'").unwrap();
    new.superuser("postgres").batch_execute("CREATE DATABASE dumped OWNER dba").unwrap();
    // A dump does not say who owns an extension: the role that restores it does.
    let mut restore = Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &new.port.to_string(), "-U", "dba", "-Xq", "-v", "ON_ERROR_STOP=1", "dumped"])
        .env("PGPASSWORD", "dba secret")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(restore.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
    assert!(restore.wait().unwrap().success());

    let mut restored = new.connect("dba", "dumped");
    // Whoever restores it answers for the jobs; that role may have another OID there.
    let jobs = "SELECT string_agg((dest_table, type, period, last_value, jsonb_set(state, '{configured_by}', state #> '{configured_by,role}'))::text, '; ' ORDER BY dest_table) FROM mimeo.refresh_config";
    assert_eq!(one::<String>(&mut restored, jobs), one::<String>(&mut dba, jobs));
    let next: i32 = one(&mut restored, "SELECT nextval('mimeo.dblink_mapping_mimeo_data_source_id_seq')::int");
    assert!(next >= 1);
    restored
        .batch_execute(
            "SELECT mimeo.refresh_snapshot('app.t'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.ins'),
                    mimeo.refresh_updater('app.upd'), mimeo.refresh_dml('app.d')",
        )
        .unwrap();
    let reason: String = one(
        &mut restored,
        "SELECT status || ': ' || reason FROM mimeo.run_history WHERE dest_table = 'app.t' ORDER BY run_id DESC LIMIT 1",
    );
    assert_eq!(reason.split("; ").next(), Some("ok: copied: the live twin is not as the last refresh left it"));
    let wanted: String = one(&mut scene.owner(), "SELECT md5(string_agg(t::text, ' ' ORDER BY id)) FROM app.t");
    for table in ["app.t", "app.tab", "app.d"] {
        let held: String =
            one(&mut restored, &format!("SELECT md5(string_agg(t::text, ' ' ORDER BY id)) FROM {table} t"));
        assert_eq!(held, wanted, "{table}");
    }
}
