//! From mimeo 1.5.1 by ALTER EXTENSION UPDATE: jobs, values and grants stay, the next refresh of every job does the right
//! thing, and the catalog is the one of a fresh installation.

mod support;

use postgres::{Client, Config, NoTls};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use support::catalog::{assert_same, catalog};
use support::{message, one, pair, Scene};

/// A destination as 1.5.1 leaves it: the extension belongs to a superuser.
struct Old {
    scene: Scene,
}

impl Old {
    fn new(database: &str) -> Old {
        let scene = Scene::new(database, 10);
        scene
            .owner()
            .batch_execute(
                "CREATE TABLE app.s (id serial PRIMARY KEY, changed timestamptz NOT NULL DEFAULT now() - interval '1 day', v text);
                 INSERT INTO app.s (v) SELECT 'v' || i FROM generate_series(1, 100) i;
                 CREATE TABLE app.k (id int, part text, v text, PRIMARY KEY (id, part));
                 INSERT INTO app.k SELECT i, 'p', 'v' || i FROM generate_series(1, 20) i;
                 CREATE TABLE app.l (id int PRIMARY KEY, v text); INSERT INTO app.l SELECT i, 'v' || i FROM generate_series(1, 20) i;
                 GRANT TRIGGER ON ALL TABLES IN SCHEMA app TO reader",
            )
            .unwrap();
        // 1.5.1 does not connect with a password that holds a space.
        scene
            .source_superuser()
            .batch_execute(
                "DO $$ BEGIN CREATE ROLE plain LOGIN PASSWORD 'plain'; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
                 GRANT reader TO plain; CREATE SCHEMA mimeo AUTHORIZATION plain",
            )
            .unwrap();
        scene.dba().batch_execute("DROP EXTENSION mimeo").unwrap();
        let mut superuser = scene.destination_superuser();
        superuser
            .batch_execute(&format!(
                "CREATE EXTENSION dblink; CREATE EXTENSION mimeo VERSION '1.5.1';
                 INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
                 VALUES ('host=127.0.0.1 port={} dbname={}', 'plain', 'plain'),
                        ('host=127.0.0.1 port={} dbname=unused', 'plain', NULL),
                        ('port={} dbname={} host=127.0.0.1', 'plain', 'plain')",
                pair().source.port,
                scene.database,
                pair().source.port,
                pair().source.port,
                scene.database
            ))
            .unwrap();
        Old { scene }
    }

    fn superuser(&self) -> Client {
        self.scene.destination_superuser()
    }

    /// Jobs of all kinds, with what users set.
    fn make_jobs(&self) {
        self.superuser()
            .batch_execute(
                "SELECT mimeo.snapshot_maker('app.s', 1, 'app.snap');
                 SELECT mimeo.snapshot_maker('app.s', 1, 'app.snap_twice', p_filter := '{id,v}', p_condition := 'WHERE id < 50');
                 SELECT mimeo.table_maker('app.s', 3, 'app.tab');
                 SELECT mimeo.inserter_maker('app.s', 'time', 'changed', 1, p_dest_table := 'app.it');
                 SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, '5', 'app.is');
                 SELECT mimeo.updater_maker('app.s', 'time', 'changed', 1, p_dest_table := 'app.ut');
                 SELECT mimeo.updater_maker('app.s', 'serial', 'id', 1, p_dest_table := 'app.us');
                 SELECT mimeo.dml_maker('app.k', 1, 'app.d');
                 SELECT mimeo.dml_maker('app.k', 3, 'app.d2', p_filter := '{id,part}', p_condition := 'WHERE id < 15');
                 SELECT mimeo.logdel_maker('app.l', 1, 'app.l');
                 UPDATE mimeo.refresh_config SET period = '90 minutes', batch_limit = 77;
                 UPDATE mimeo.refresh_config_snap SET post_script = '{\"SELECT 1\"}', check_stats = false WHERE dest_table = 'app.snap';
                 UPDATE mimeo.refresh_config_updater_time SET dst_start = 45;
                 DO $$ BEGIN CREATE ROLE \"cron \"\"job\" LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
                 DO $$ BEGIN CREATE ROLE reporter LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
                 GRANT USAGE ON SCHEMA mimeo TO reporter; GRANT USAGE ON SCHEMA mimeo TO \"cron \"\"job\";
                 GRANT SELECT ON mimeo.refresh_config, mimeo.refresh_config_snap TO reporter;
                 GRANT UPDATE (period) ON mimeo.refresh_config_snap TO reporter;
                 GRANT EXECUTE ON FUNCTION mimeo.snapshot_maker(text,int,text,bool,text[],text,bool,bool,bool) TO reporter",
            )
            .unwrap();
        // One of the two has its first twin live, the other one its second.
        self.superuser().batch_execute("SELECT mimeo.refresh_snap('app.snap_twice', p_check_stats := false)").unwrap();
    }
}

/// A fresh installation by the same kind of role.
fn fresh(database: &str) -> BTreeSet<String> {
    let scene = Scene::new(database, 1);
    scene.dba().batch_execute("DROP EXTENSION mimeo").unwrap();
    let mut superuser = scene.destination_superuser();
    superuser.batch_execute("CREATE EXTENSION mimeo").unwrap();
    catalog(&mut superuser, "mimeo")
}

const UPDATE: &str = "ALTER EXTENSION mimeo UPDATE";

#[test]
fn an_updated_installation_is_a_fresh_one() {
    let old = Old::new("updated");
    let mut superuser = old.superuser();
    superuser.batch_execute(UPDATE).unwrap();
    assert_same(&catalog(&mut superuser, "mimeo"), &fresh("updated_fresh"));
    superuser.batch_execute("DROP EXTENSION dblink; DROP EXTENSION mimeo; DROP SCHEMA mimeo").unwrap();
}

#[test]
fn an_extension_in_another_schema_stays_there() {
    let old = Old::new("elsewhere");
    let mut superuser = old.superuser();
    superuser.batch_execute("ALTER SCHEMA mimeo RENAME TO \"replicas\"").unwrap();
    superuser.batch_execute(UPDATE).unwrap();
    assert_same(&catalog(&mut superuser, "replicas"), &fresh("elsewhere_fresh"));
    superuser
        .batch_execute(
            "SELECT replicas.snapshot_maker('app.s', 1, 'app.snap'); SELECT replicas.refresh_snap('app.snap')",
        )
        .unwrap();
}

#[test]
fn an_update_that_fails_leaves_the_old_version_running() {
    let old = Old::new("update_fails");
    old.make_jobs();
    let mut superuser = old.superuser();
    let before = catalog(&mut superuser, "mimeo");
    superuser.batch_execute("CREATE VIEW public.mine AS SELECT * FROM mimeo.refresh_config_snap").unwrap();
    let outcome = superuser.batch_execute(UPDATE);
    assert!(message(&outcome).contains("other objects depend on it"), "{}", message(&outcome));
    assert_eq!(catalog(&mut superuser, "mimeo"), before);
    superuser.batch_execute("SELECT mimeo.refresh_snap('app.snap'); DROP VIEW public.mine").unwrap();
    superuser.batch_execute(UPDATE).unwrap();
}

/// The jobs as users know them, by the columns that 1.5.1 had.
fn jobs(client: &mut Client) -> Vec<String> {
    let view = |name: &str, more: &str| {
        format!(
            "SELECT concat_ws('|', '{name}', dest_table, source_table, type, dblink, last_run, filter, condition, period, batch_limit,
                              jobmon{more}) AS job FROM mimeo.refresh_config_{name}"
        )
    };
    let time = ", control, boundary, last_value, dst_active, dst_start, dst_end";
    let key = ", pk_name, pk_type";
    let queries = [
        view("snap", ", check_stats, post_script"),
        view("table", ", truncate_cascade, sequences"),
        view("inserter_time", time),
        view("inserter_serial", ", control, boundary, last_value"),
        view("updater_time", &format!("{time}{key}")),
        view("updater_serial", &format!(", control, boundary, last_value{key}")),
        view("dml", &format!(", control, insert_on_fetch{key}")),
        view("logdel", &format!(", control, insert_on_fetch{key}")),
    ];
    let query = format!("SELECT job FROM ({}) j ORDER BY job", queries.join(" UNION ALL "));
    client.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn holds(client: &mut Client, query: &str) -> String {
    one(
        client,
        &format!("SELECT coalesce(string_agg(t::text, ' ' ORDER BY t::text COLLATE \"C\"), '') FROM ({query}) t"),
    )
}

fn role(client: &mut Client, role: &str, statement: &str) -> Result<(), postgres::Error> {
    let outcome = client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}; {statement}"));
    client.batch_execute("RESET SESSION AUTHORIZATION").unwrap();
    outcome
}

#[test]
fn every_job_and_grant_is_kept_and_every_refresh_goes_on() {
    let old = Old::new("kept");
    old.make_jobs();
    let mut superuser = old.superuser();
    // The same everywhere: what a user sees depends on the session's zone.
    superuser.batch_execute("SET timezone = 'Asia/Kolkata'").unwrap();
    let before = jobs(&mut superuser);
    let live = |client: &mut Client| {
        holds(
            client,
            "SELECT v::regclass, pg_get_viewdef(v::regclass) FROM unnest('{app.snap,app.snap_twice}'::text[]) v",
        )
    };
    let twins = live(&mut superuser);

    // What waits in the queues of 1.5.1 when the update comes.
    let mut owner = old.scene.owner();
    owner.batch_execute("SET timezone = 'Asia/Kolkata'").unwrap();
    owner
        .batch_execute(
            "UPDATE app.k SET v = 'x' WHERE id = 3; UPDATE app.k SET part = 'q' WHERE id = 4; DELETE FROM app.k WHERE id = 5;
             INSERT INTO app.k VALUES (21, 'p', 'new'); DELETE FROM app.l WHERE id = 2; UPDATE app.l SET v = 'y' WHERE id = 3;
             DELETE FROM app.l WHERE id = 4; INSERT INTO app.l VALUES (4, 'again'); INSERT INTO app.s (v, changed) VALUES ('late', now() - interval '1 hour')",
        )
        .unwrap();
    superuser.batch_execute(UPDATE).unwrap();
    assert_eq!(jobs(&mut superuser), before, "every value is kept");
    assert_eq!(live(&mut superuser), twins, "and which twin is live");
    let sources = holds(
        &mut superuser,
        "SELECT data_source_id, username, pwd IS NULL, password_required FROM mimeo.dblink_mapping_mimeo",
    );
    assert_eq!(sources, "(1,plain,f,t) (2,plain,t,f) (3,plain,f,t)", "a source without a password goes on without one");
    let next: i64 = one(&mut superuser, "SELECT nextval('mimeo.dblink_mapping_mimeo_data_source_id_seq')");
    assert_eq!(next, 4);

    // Changes behind the update, still through the trigger of 1.5.1.
    owner.batch_execute("UPDATE app.k SET v = 'z' WHERE id = 6; DELETE FROM app.l WHERE id = 6").unwrap();
    let cron = "\"cron \"\"job\"";
    role(&mut superuser, cron, "SELECT mimeo.refresh_snap('app.snap', p_check_stats := true)").unwrap();
    role(&mut superuser, cron, "SELECT mimeo.refresh_dml(p_destination := 'app.d', p_limit := 1000)").unwrap();
    role(&mut superuser, cron, "SELECT mimeo.concurrent_lock_check('app.d')").unwrap();
    let denied = role(&mut superuser, cron, "SELECT mimeo.table_maker('app.s', 1, 'app.no')").unwrap_err();
    assert_eq!(denied.code().unwrap().code(), "42501", "what 1.5.1 left open but useless is closed");
    role(
        &mut superuser,
        "reporter",
        "SELECT dest_table FROM mimeo.refresh_config; UPDATE mimeo.refresh_config_snap SET period = '1 day'",
    )
    .unwrap();
    let dump = old.scene.dump("--schema-only");
    for grant in [
        "GRANT SELECT ON TABLE mimeo.refresh_config TO reporter",
        "GRANT UPDATE(period) ON TABLE mimeo.refresh_config_snap TO reporter",
        "GRANT ALL ON FUNCTION mimeo.refresh_snap(p_destination text",
    ] {
        assert!(dump.contains(grant), "pg_dump keeps them too: {grant}\n{dump}");
    }
    let granted: bool = one(
        &mut superuser,
        "SELECT has_function_privilege('reporter', p.oid, 'EXECUTE') FROM pg_proc p WHERE proname = 'snapshot_maker'",
    );
    assert!(granted, "an EXECUTE that was granted is kept");

    superuser
        .batch_execute(
            "SELECT mimeo.refresh_snap('app.snap_twice'), mimeo.refresh_table('app.tab'), mimeo.refresh_inserter('app.it'),
                    mimeo.refresh_inserter('app.is'), mimeo.refresh_updater('app.ut'), mimeo.refresh_updater('app.us'),
                    mimeo.refresh_dml('app.d2'), mimeo.refresh_logdel('app.l')",
        )
        .unwrap();
    let failed = holds(
        &mut superuser,
        "SELECT dest_table, status, error FROM mimeo.run_history WHERE status NOT IN ('ok', 'skipped')",
    );
    assert_eq!(failed, "");
    for (here, there) in [
        ("SELECT * FROM app.snap", "SELECT * FROM app.s"),
        ("SELECT * FROM app.snap_twice", "SELECT id, v FROM app.s WHERE id < 50"),
        ("SELECT * FROM app.tab", "SELECT * FROM app.s"),
        ("SELECT * FROM app.it", "SELECT * FROM app.s"),
        ("SELECT * FROM app.ut", "SELECT * FROM app.s"),
        ("SELECT * FROM app.d", "SELECT * FROM app.k"),
        ("SELECT * FROM app.d2", "SELECT id, part FROM app.k WHERE id < 15"),
        ("SELECT id, v FROM app.l WHERE mimeo_source_deleted IS NULL", "SELECT * FROM app.l"),
    ] {
        assert_eq!(holds(&mut superuser, here), holds(&mut owner, there), "{here}");
    }
    assert_eq!(
        holds(&mut superuser, "SELECT id, v FROM app.l WHERE mimeo_source_deleted IS NOT NULL"),
        "(2,v2) (6,v6)",
        "deleted rows keep their last values"
    );
    // The queues are ours now, and go on.
    let left = holds(
        &mut old.scene.source_superuser(),
        "SELECT relname FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relkind = 'r'
         UNION ALL SELECT tgname || ' ' || count(*) FROM pg_trigger WHERE NOT tgisinternal GROUP BY tgname",
    );
    assert!(
        left.contains("(app_k_q) (app_k_q01) (app_l_q)")
            && !left.contains("_1x")
            && !left.contains("(\"app_k_mimeo_trig 1\")"),
        "{left}"
    );
    owner.batch_execute("UPDATE app.k SET v = 'after'; DELETE FROM app.l WHERE id = 7; TRUNCATE app.s").unwrap();
    superuser
        .batch_execute(
            "SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l'), mimeo.refresh_snap('app.snap')",
        )
        .unwrap();
    assert_eq!(holds(&mut superuser, "SELECT * FROM app.d"), holds(&mut owner, "SELECT * FROM app.k"));
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.l WHERE mimeo_source_deleted IS NOT NULL"), 3);
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.snap"), 0);
    superuser.batch_execute("DROP EXTENSION dblink").unwrap();
}

#[test]
fn destroyers_end_jobs_that_nobody_has_refreshed_since() {
    let old = Old::new("update_destroyed");
    superuser_only(&old);
    let mut superuser = old.superuser();
    superuser.batch_execute(UPDATE).unwrap();
    superuser
        .batch_execute(
            "SELECT mimeo.dml_destroyer('app.d'), mimeo.dml_destroyer('app.d2'), mimeo.logdel_destroyer('app.l')",
        )
        .unwrap();
    let left = holds(
        &mut old.scene.source_superuser(),
        "SELECT relname FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace
         UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'mimeo'::regnamespace
         UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
    );
    assert_eq!(left, "", "nothing is left on the source");
    assert_eq!(one::<i64>(&mut superuser, "SELECT count(*) FROM app.d"), 20);
}

/// The jobs with queues only.
fn superuser_only(old: &Old) {
    old.superuser()
        .batch_execute(
            "SELECT mimeo.dml_maker('app.k', 1, 'app.d'); SELECT mimeo.dml_maker('app.k', 1, 'app.d2');
             SELECT mimeo.logdel_maker('app.l', 1, 'app.l')",
        )
        .unwrap();
}

#[test]
fn a_rollback_around_the_first_refresh_loses_nothing() {
    let old = Old::new("update_rollback");
    superuser_only(&old);
    let mut superuser = old.superuser();
    let mut owner = old.scene.owner();
    owner.batch_execute("UPDATE app.k SET v = 'x' WHERE id = 3; DELETE FROM app.l WHERE id = 2").unwrap();
    superuser.batch_execute(UPDATE).unwrap();
    superuser
        .batch_execute("BEGIN; SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l'); ROLLBACK")
        .unwrap();
    owner.batch_execute("UPDATE app.k SET v = 'y' WHERE id = 5; DELETE FROM app.l WHERE id = 3").unwrap();
    superuser.batch_execute("SELECT mimeo.refresh_dml('app.d'), mimeo.refresh_logdel('app.l')").unwrap();
    assert_eq!(holds(&mut superuser, "SELECT * FROM app.d"), holds(&mut owner, "SELECT * FROM app.k"));
    assert_eq!(
        holds(&mut superuser, "SELECT id, v FROM app.l WHERE mimeo_source_deleted IS NOT NULL"),
        "(2,v2) (3,v3)"
    );
    let history = holds(&mut superuser, "SELECT status, rows FROM mimeo.run_history");
    assert_eq!(history, "(ok,2) (ok,2)", "only the queued keys were read");
}

#[test]
fn two_jobs_of_one_destination_become_one_with_a_warning() {
    let old = Old::new("update_twice");
    let mut superuser = old.superuser();
    superuser
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.s', 1, 'app.snap');
             INSERT INTO mimeo.refresh_config_table (dest_table, source_table, dblink, last_run) VALUES ('app.snap', 'app.s', 1, '2001-01-01')",
        )
        .unwrap();
    superuser.batch_execute(UPDATE).unwrap();
    assert_eq!(holds(&mut superuser, "SELECT dest_table, type FROM mimeo.refresh_config"), "(app.snap,snap)");
}

/// A refresh of each job, by its type.
fn refresh_all(client: &mut Client) -> Vec<(String, String)> {
    let jobs =
        client.query("SELECT dest_table, split_part(type, '_', 1) FROM mimeo.refresh_config ORDER BY 1", &[]).unwrap();
    let run = |client: &mut Client, dest_table: &str, kind: &str| {
        let refresher = if kind == "snap" { "snapshot" } else { kind };
        client.batch_execute(&format!("SELECT mimeo.refresh_{refresher}('{dest_table}')"))
    };
    let mut told = Vec::new();
    for job in jobs {
        let (dest_table, kind): (String, String) = (job.get(0), job.get(1));
        let said = match run(client, &dest_table, &kind) {
            Ok(()) => one(client, &format!("SELECT status FROM mimeo.run_history WHERE dest_table = '{dest_table}' ORDER BY run_id DESC LIMIT 1")),
            Err(error) => {
                let error = error.as_db_error().unwrap();
                format!("{} {} | {}", error.code().code(), error.message(), error.hint().unwrap_or_default())
            }
        };
        told.push((dest_table, said));
    }
    told
}

#[test]
fn c2_the_update_tells_which_owners_lack_rights_on_their_schema() {
    let old = Old::new("owners_without_rights");
    old.make_jobs();
    let mut superuser = old.superuser();
    superuser
        .batch_execute(
            "SELECT mimeo.table_maker('app.s', 1, 'app.tab_later', p_sequences := '{app.later}');
             CREATE ROLE keeper_of_few;
             DO $$ DECLARE r regclass; BEGIN
                 FOR r IN SELECT oid FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'v') LOOP
                     EXECUTE format('ALTER TABLE %s OWNER TO keeper_of_few', r);
                 END LOOP;
             END $$;
             UPDATE mimeo.refresh_config SET batch_limit = NULL",
        )
        .unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let mut updater = Config::new()
        .host_path(pair().destination.dir())
        .port(pair().destination.port)
        .user("postgres")
        .dbname(&old.scene.database)
        .notice_callback(move |notice| {
            heard.lock().unwrap().push(format!("{} | {}", notice.message(), notice.hint().unwrap_or_default()));
        })
        .connect(NoTls)
        .unwrap();
    updater.batch_execute(UPDATE).unwrap();
    let told = told.lock().unwrap();
    let jobs = superuser.query("SELECT dest_table FROM mimeo.refresh_config", &[]).unwrap();
    assert_eq!(jobs.len(), 11);
    for job in jobs {
        let start = format!(
            "{}: its owner lacks rights on its schema | GRANT USAGE, CREATE ON SCHEMA app TO keeper_of_few;",
            job.get::<_, String>(0)
        );
        assert_eq!(told.iter().filter(|said| said.starts_with(&start)).count(), 1, "{start}\n{told:#?}");
    }

    for (dest_table, said) in refresh_all(&mut superuser) {
        assert!(
            said.starts_with("42501 permission denied for schema app | Its owner, role \"dba\", or a superuser can run: GRANT USAGE ON SCHEMA \"app\" TO \"keeper_of_few\";"),
            "{dest_table}: {said}"
        );
    }
    // With the least of it, as in 1.5.1 each job goes on.
    superuser.batch_execute("GRANT USAGE ON SCHEMA app TO keeper_of_few").unwrap();
    for round in 0..2 {
        old.scene
            .owner()
            .batch_execute("UPDATE app.s SET v = v || '!'; INSERT INTO app.s (v, changed) VALUES ('new', now() - interval '20 minutes'); UPDATE app.k SET v = v || '!'; DELETE FROM app.l WHERE id < 3")
            .unwrap();
        for (dest_table, said) in refresh_all(&mut superuser) {
            let wanted: &[&str] = if dest_table == "app.tab_later" { &["warning"] } else { &["ok", "skipped"] };
            assert!(wanted.contains(&said.as_str()), "round {round}, {dest_table}: {said}");
        }
    }
    superuser.batch_execute("CREATE SEQUENCE app.later; SELECT mimeo.refresh_table('app.tab_later')").unwrap();
    let last = "SELECT status FROM mimeo.run_history WHERE dest_table = 'app.tab_later' ORDER BY run_id DESC LIMIT 1";
    assert_eq!(one::<String>(&mut superuser, last), "ok", "once the sequence is there");
    let different: Option<String> = one(
        &mut superuser,
        "SELECT string_agg(dest_table, ' ') FROM mimeo.refresh_config c, mimeo.validate_content(c.dest_table) v WHERE c.type IN ('snap', 'table', 'dml', 'logdel') AND NOT v.match",
    );
    assert_eq!(different, None);
}
