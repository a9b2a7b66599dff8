//! Every release goes up and down by one step: the catalog is then the one of a fresh installation of that version, and jobs,
//! their values, their data and what users have granted stay, while they are at work.

mod support;

use postgres::Client;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use support::catalog::{assert_same, catalog};
use support::{one, wait_for, Scene};

/// The version that is built, and the release before it.
fn new_version() -> &'static str {
    let line = include_str!("../Cargo.toml").lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    line.trim_matches('"')
}
const OLD: &str = "2.1.0";

/// The first release, from which the last ones differ in what they keep and make.
const FIRST: &str = "2.0.0";

fn go_to(client: &mut Client, version: &str) {
    client.batch_execute(&format!("ALTER EXTENSION mimeo UPDATE TO '{version}'")).unwrap();
}

#[test]
fn up_and_down_is_as_fresh() {
    let fresh = |version: &str| {
        let scene = Scene::new(&format!("fresh_{}", version.replace('.', "_")), 1);
        scene
            .dba()
            .batch_execute(&format!("DROP EXTENSION mimeo; CREATE EXTENSION mimeo VERSION '{version}'"))
            .unwrap();
        catalog(&mut scene.destination_superuser(), "mimeo")
    };
    let (old, new) = (fresh(OLD), fresh(new_version()));
    assert_ne!(old, new);
    let scene = Scene::new("up_and_down", 1);
    let (mut dba, mut superuser) = (scene.dba(), scene.destination_superuser());
    dba.batch_execute(&format!("DROP EXTENSION mimeo; CREATE EXTENSION mimeo VERSION '{OLD}'")).unwrap();
    for _ in 0..2 {
        go_to(&mut dba, new_version());
        assert_same(&catalog(&mut superuser, "mimeo"), &new);
        go_to(&mut dba, OLD);
        assert_same(&catalog(&mut superuser, "mimeo"), &old);
    }
    // The same in a schema of another name.
    superuser.batch_execute("ALTER SCHEMA mimeo RENAME TO \"my replicas\"").unwrap();
    go_to(&mut dba, new_version());
    let renamed = catalog(&mut superuser, "\"my replicas\"");
    assert_same(&renamed, &new);
}

/// Jobs of all methods.
fn make_jobs(scene: &Scene) {
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    scene
        .owner()
        .batch_execute(
            "ALTER TABLE app.t ADD COLUMN changed timestamptz NOT NULL DEFAULT now();
             CREATE TABLE app.log (id bigserial PRIMARY KEY, v text); INSERT INTO app.log (v) SELECT 'x' FROM generate_series(1, 100)",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap', p_filter := '{id,v}', p_condition := 'WHERE id > 0');
             SELECT mimeo.table_maker('app.t', 1, 'app.tab');
             SELECT mimeo.inserter_maker('app.log', 'serial', 'id', 1, p_boundary := '0');
             SELECT mimeo.updater_maker('app.t', 'time', 'changed', 1, p_boundary := '0 seconds', p_dest_table := 'app.upd');
             SELECT mimeo.dml_maker('app.t', 1, 'app.d'); SELECT mimeo.logdel_maker('app.t', 1, 'app.l');
             UPDATE mimeo.refresh_config SET period = '3 hours', batch_limit = 1000000;
             UPDATE mimeo.refresh_config_snap SET post_script = '{\"SELECT 1\"}' WHERE dest_table = 'app.snap'",
        )
        .unwrap();
}

const REFRESHES: [&str; 6] = [
    "SELECT mimeo.refresh_snapshot('app.snap')",
    "SELECT mimeo.refresh_table('app.tab')",
    "SELECT mimeo.refresh_inserter('app.log')",
    "SELECT mimeo.refresh_updater('app.upd')",
    "SELECT mimeo.refresh_dml('app.d')",
    "SELECT mimeo.refresh_logdel('app.l')",
];

/// Repeats `step` until it is told to stop, and counts.
fn repeat(
    stop: &Arc<AtomicBool>,
    mut step: impl FnMut(usize) + Send + 'static,
) -> (Arc<AtomicUsize>, std::thread::JoinHandle<()>) {
    let (stop, count) = (stop.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            step(counted.fetch_add(1, Ordering::Relaxed));
        }
    });
    (count, thread)
}

#[test]
fn jobs_go_on_while_the_version_goes_up_and_down() {
    let scene = Scene::new("up_and_down_under_load", 500);
    make_jobs(&scene);
    let mut dba = scene.dba();
    let jobs = "SELECT string_agg(concat_ws('|', dest_table, source_table, type, dblink, filter, condition, period, batch_limit, post_script,
                                            control, boundary, pk_name, insert_on_fetch, check_stats), E'\\n' ORDER BY dest_table)
                  FROM mimeo.refresh_config";
    let before: String = one(&mut dba, jobs);

    let stop = Arc::new(AtomicBool::new(false));
    let mut owner = scene.owner();
    let writer = repeat(&stop, move |n| {
        let id = n * 7 % 600 + 1;
        owner
            .batch_execute(&format!(
                "UPDATE app.t SET v = 'w{n}', changed = clock_timestamp() WHERE id = {id};
                 INSERT INTO app.t VALUES ({}, 'new', clock_timestamp()) ON CONFLICT DO NOTHING; INSERT INTO app.log (v) VALUES ('{n}')",
                n % 1000 + 1
            ))
            .unwrap();
    });
    let mut one_refresher = scene.dba();
    let refresher = repeat(&stop, move |n| one_refresher.batch_execute(REFRESHES[n % 6]).unwrap());
    let mut other_refresher = scene.dba();
    let other = repeat(&stop, move |n| other_refresher.batch_execute(REFRESHES[n * 5 % 6]).unwrap());
    let mut looker = scene.dba();
    let monitor = repeat(&stop, move |_| {
        for view in ["health", "job_status", "refresh_config_snap"] {
            looker.batch_execute(&format!("SELECT * FROM mimeo.{view}")).unwrap();
        }
    });
    let threads = [writer, refresher, other, monitor];
    for round in 0..6 {
        go_to(&mut dba, if round % 2 == 0 { OLD } else { new_version() });
        let seen: Vec<_> = threads.iter().map(|(count, _)| count.load(Ordering::Relaxed)).collect();
        wait_for("every refresher to go round", || {
            threads.iter().zip(&seen).all(|((count, thread), seen)| {
                assert!(!thread.is_finished(), "nobody fails");
                count.load(Ordering::Relaxed) >= seen + 7
            })
        });
    }
    stop.store(true, Ordering::Relaxed);
    for (_, thread) in threads {
        thread.join().unwrap();
    }

    assert_eq!(one::<String>(&mut dba, jobs), before);
    let failed: i64 = one(&mut dba, "SELECT count(*) FROM mimeo.run_history WHERE status = 'critical'");
    assert_eq!(failed, 0);
    for refresh in REFRESHES {
        dba.batch_execute(refresh).unwrap();
    }
    let mut owner = scene.owner();
    for (here, there) in [
        ("app.snap", "SELECT id, v FROM app.t"),
        ("app.tab", "SELECT * FROM app.t"),
        ("app.upd", "SELECT * FROM app.t"),
        ("app.d", "SELECT * FROM app.t"),
        ("(SELECT id, v, changed FROM app.l WHERE mimeo_source_deleted IS NULL)", "SELECT * FROM app.t"),
    ] {
        let digest = |from: &str| format!("SELECT md5(string_agg(t::text, ' ' ORDER BY id)) FROM {from} t");
        let (held, wanted): (String, String) =
            (one(&mut dba, &digest(here)), one(&mut owner, &digest(&format!("({there})"))));
        assert_eq!(held, wanted, "{here}");
    }
    let of_log = "SELECT count(*) || ' ' || count(DISTINCT id) FROM app.log WHERE id < ";
    let last: i64 = one(&mut dba, "SELECT max(id) FROM app.log");
    assert_eq!(
        one::<String>(&mut dba, &format!("{of_log}{last}")),
        one::<String>(&mut owner, &format!("{of_log}{last}"))
    );
}

/// The functions that the triggers of a table on the source call.
fn trigger_functions(scene: &Scene) -> String {
    one(
        &mut scene.source_superuser(),
        "SELECT coalesce(string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname), '') FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
          WHERE g.tgrelid = 'app.t'::regclass AND NOT g.tgisinternal",
    )
}

#[test]
fn functions_on_the_source_are_those_that_a_release_knows() {
    const APART: &str = "app_t_mimeo_queue app_t_mimeo_queue_delete app_t_mimeo_queue_insert app_t_mimeo_queue_update";
    // What stays of it until an older package makes its own.
    const BARE: &str = "app_t_mimeo_queue";
    let scene = Scene::new("up_and_down_functions", 100);
    let mut dba = scene.dba();
    let mut owner = scene.owner();
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    dba.batch_execute("SELECT mimeo.dml_maker('app.t', 1)").unwrap();
    assert_eq!(trigger_functions(&scene), APART);
    let mut id = 0;
    let mut changes_arrive = |dba: &mut Client, what: &str| {
        id += 1;
        owner
            .batch_execute(&format!(
                "UPDATE app.t SET v = '{what}' WHERE id = {id}; DELETE FROM app.t WHERE id = {id} + 50; INSERT INTO app.t VALUES ({id} + 500, 'new');
                 UPDATE app.t SET id = id + 1000 WHERE id = {id} + 20"
            ))
            .unwrap();
        dba.batch_execute("SELECT mimeo.refresh_dml('app.t')").unwrap();
        let digest = "SELECT md5(string_agg(t::text, ' ' ORDER BY id)) FROM app.t t";
        assert_eq!(one::<String>(dba, digest), one::<String>(&mut owner, digest), "{what}");
        one::<String>(dba, "SELECT status || ': ' || reason FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1")
    };
    let said = changes_arrive(&mut dba, "made");
    assert!(said.starts_with("ok: 6 queued changes"), "{said}");
    for older in [OLD, FIRST] {
        go_to(&mut dba, older);
        // The triggers go that this release would not take away, and so all rows are copied until the older package is put back.
        for _ in 0..2 {
            let said = changes_arrive(&mut dba, "down");
            assert!(said.starts_with("warning: all rows are copied:"), "{said}");
            assert_eq!(trigger_functions(&scene), BARE, "what older releases take away, too");
        }
    }
    go_to(&mut dba, new_version());
    let said = changes_arrive(&mut dba, "up again");
    assert!(said.starts_with("warning: all rows are copied:"), "{said}");
    assert_eq!(trigger_functions(&scene), APART);
    let said = changes_arrive(&mut dba, "after");
    assert!(said.starts_with("ok: ") && !said.contains("all rows"), "{said}");
    let left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mimeo'::regnamespace";
    dba.batch_execute("SELECT mimeo.dml_destroyer('app.t')").unwrap();
    assert_eq!(one::<i64>(&mut scene.source_superuser(), left), 0, "the destroyer takes all of them away");
}

/// Puts what 2.1 had made in the place of a job's queue, functions and triggers: typed keys, values as row_to_json has them, a row trigger for
/// keys that change.
fn as_of_2_1(scene: &Scene, number: &str, logdel: bool) {
    let (queue, function, trigger) =
        (format!("app_t_q{number}"), format!("app_t_mimeo_queue{number}"), format!("app_t_mimeo_trig{number}"));
    let (row, old, of_old) =
        if logdel { (", mimeo_row", ", row_to_json(o)", ", row_to_json(OLD)") } else { ("", "", "") };
    scene
        .source_superuser()
        .batch_execute(&format!(
            "SET ROLE reader; DROP FUNCTION mimeo.{function}(), mimeo.{function}_insert(), mimeo.{function}_update(), mimeo.{function}_delete(), mimeo.app_t_mimeo_full{number}(bigint) CASCADE;
             ALTER TABLE mimeo.{queue} RENAME mimeo_key1 TO id; ALTER TABLE mimeo.{queue} ALTER id TYPE int USING id::int; ALTER SEQUENCE mimeo.{queue}_seq RENAME TO {queue}_mimeo_seq_seq;
             COMMENT ON COLUMN mimeo.{queue}.mimeo_op IS NULL;
             CREATE FUNCTION mimeo.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $f$
             BEGIN
                 IF TG_OP = 'INSERT' THEN INSERT INTO mimeo.{queue} (id, mimeo_op) SELECT n.id, 'I' FROM new_rows n;
                 ELSIF TG_OP = 'DELETE' THEN INSERT INTO mimeo.{queue} (id, mimeo_op{row}) SELECT o.id, 'D'{old} FROM old_rows o;
                 ELSIF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' THEN INSERT INTO mimeo.{queue} (id, mimeo_op{row}) SELECT OLD.id, 'D'{of_old};
                 ELSIF TG_OP = 'UPDATE' THEN INSERT INTO mimeo.{queue} (id, mimeo_op) SELECT n.id, 'U' FROM new_rows n;
                 ELSE INSERT INTO mimeo.{queue} (mimeo_op) VALUES ('T'); END IF;
                 RETURN NEW;
             END $f$;
             COMMENT ON FUNCTION mimeo.{function}() IS '{{\"compared\":null,\"rows\":false}}';
             CREATE TRIGGER {trigger}_insert AFTER INSERT ON app.t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mimeo.{function}();
             CREATE TRIGGER {trigger}_update AFTER UPDATE ON app.t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mimeo.{function}();
             CREATE TRIGGER {trigger}_key AFTER UPDATE ON app.t FOR EACH ROW WHEN (NEW.id <> OLD.id) EXECUTE FUNCTION mimeo.{function}();
             CREATE TRIGGER {trigger}_delete AFTER DELETE ON app.t REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION mimeo.{function}();
             CREATE TRIGGER {trigger}_truncate BEFORE TRUNCATE ON app.t FOR EACH STATEMENT EXECUTE FUNCTION mimeo.{function}()",
        ))
        .unwrap();
}

/// A queue of 2.1 is read as it is, as long as the table is locked; and turned into one of today when it is free, with what waits in it.
#[test]
fn queues_of_2_1_go_on() {
    let scene = Scene::new("up_queues", 200);
    scene
        .source_superuser()
        .batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader; GRANT TRIGGER ON app.t TO reader")
        .unwrap();
    let (mut dba, mut owner) = (scene.dba(), scene.owner());
    owner.batch_execute("ALTER TABLE app.t ADD COLUMN a int[], ADD COLUMN j jsonb; UPDATE app.t SET a = '{1,NULL}', j = '{\"x\": [1]}'").unwrap();
    dba.batch_execute("SELECT mimeo.dml_maker('app.t', 1, 'app.d'), mimeo.logdel_maker('app.t', 1, 'app.l')").unwrap();
    as_of_2_1(&scene, "", false);
    as_of_2_1(&scene, "01", true);
    dba.batch_execute("UPDATE mimeo.refresh_config SET state = state - 'seen', max_queue_size = NULL").unwrap();
    let mut arrive = |dba: &mut Client, first: i32| -> Vec<String> {
        owner
            .batch_execute(&format!(
                "UPDATE app.t SET v = 'w' WHERE id = {first}; DELETE FROM app.t WHERE id IN ({first} + 1, {first} + 2); UPDATE app.t SET id = -id WHERE id = {first} + 3;
                 INSERT INTO app.t VALUES ({first} + 1000, 'new')"
            ))
            .unwrap();
        let mut said = Vec::new();
        for (job, refresh) in [("app.d", "refresh_dml"), ("app.l", "refresh_logdel")] {
            dba.batch_execute(&format!("SELECT mimeo.{refresh}('{job}')")).unwrap();
            assert!(one::<bool>(dba, &format!("SELECT match FROM mimeo.validate_content('{job}')")), "{job} {first}");
            said.push(one::<String>(
                dba,
                "SELECT concat_ws(': ', status, reason) FROM mimeo.run_history ORDER BY run_id DESC LIMIT 1",
            ));
        }
        let kept: i64 = one(
            dba,
            &format!(
                "SELECT count(*) FROM app.l WHERE mimeo_source_deleted IS NOT NULL AND id BETWEEN {first} + 1 AND {first} + 3 AND a = '{{1,NULL}}' AND j = '{{\"x\": [1]}}' AND v LIKE 'value%'"
            ),
        );
        assert_eq!(kept, 3, "deleted rows have their last values");
        said
    };
    let mut reader = scene.owner();
    reader.batch_execute("BEGIN; SELECT FROM app.t LIMIT 1").unwrap();
    for said in arrive(&mut dba, 10) {
        assert!(said.starts_with("ok") && !said.contains("anew"), "{said}");
    }
    assert!(
        trigger_functions(&scene).starts_with("app_t_mimeo_queue app_t_mimeo_queue01"),
        "the table is read: they stay"
    );
    // What waits in the queue is turned into text with it.
    scene
        .owner()
        .batch_execute("DELETE FROM app.t WHERE id IN (50, 51); UPDATE app.t SET v = 'waits' WHERE id = 52")
        .unwrap();
    reader.batch_execute("COMMIT").unwrap();
    for said in arrive(&mut dba, 20) {
        assert!(said.starts_with("ok") && said.contains("made anew") && !said.contains("all rows"), "{said}");
    }
    let kept: i64 = one(&mut dba, "SELECT count(*) FROM app.l WHERE mimeo_source_deleted IS NOT NULL AND id IN (50, 51) AND a = '{1,NULL}' AND j = '{\"x\": [1]}'");
    assert_eq!(kept, 2, "rows that waited in the old form");
    for said in arrive(&mut dba, 30) {
        assert!(said.starts_with("ok") && !said.contains("anew"), "{said}");
    }
    let of_today: i64 = one(
        &mut scene.source_superuser(),
        "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relname IN ('app_t_q', 'app_t_q01') AND a.attname = 'mimeo_key1' AND a.atttypid = 'text'::regtype",
    );
    assert_eq!(of_today, 2);
    dba.batch_execute("SELECT mimeo.dml_destroyer('app.d'), mimeo.logdel_destroyer('app.l')").unwrap();
    let left: i64 = one(&mut scene.source_superuser(), "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'mimeo'::regnamespace) + (SELECT count(*) FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace)");
    assert_eq!(left, 0);
}

#[test]
fn what_users_have_granted_and_set_stays() {
    let scene = Scene::with_snapshot("up_and_down_granted", 10);
    let (mut dba, mut superuser) = (scene.dba(), scene.destination_superuser());
    superuser
        .batch_execute("DO $$ BEGIN CREATE ROLE \"a \"\"watcher\"; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$")
        .unwrap();
    dba.batch_execute(
        "GRANT SELECT ON mimeo.refresh_config_snap TO \"a \"\"watcher\"; GRANT UPDATE (period) ON mimeo.refresh_config_snap TO \"a \"\"watcher\";
         GRANT EXECUTE ON FUNCTION mimeo.refresh_snapshot, mimeo.table_maker, mimeo.check_permissions TO \"a \"\"watcher\"; GRANT SELECT ON mimeo.health TO \"a \"\"watcher\";
         UPDATE mimeo.refresh_config_snap SET keep_previous = true, max_shrink_percent = 7, guard = 'SELECT true'",
    )
    .unwrap();
    scene.change();
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t'); SELECT mimeo.rollback_snapshot('app.t')").unwrap();
    let grants = "SELECT c.relacl::text || (SELECT attacl::text FROM pg_attribute WHERE attrelid = c.oid AND attname = 'period')
                         || (SELECT string_agg(p.proacl::text, ' ' ORDER BY p.proname) FROM pg_proc p WHERE p.pronamespace = 'mimeo'::regnamespace
                                AND p.proname IN ('refresh_snapshot', 'table_maker', 'check_permissions', 'dml_maker'))
                         || (SELECT h.relacl::text FROM pg_class h WHERE h.oid = 'mimeo.health'::regclass)
                    FROM pg_class c WHERE c.oid = 'mimeo.refresh_config_snap'::regclass";
    let before: String = one(&mut dba, grants);
    go_to(&mut dba, FIRST);
    assert_eq!(one::<String>(&mut dba, grants), before, "who granted what to whom");
    let dump = scene.dump("--schema-only");
    for grant in
        ["GRANT SELECT ON TABLE mimeo.refresh_config_snap", "GRANT UPDATE(period) ON TABLE mimeo.refresh_config_snap"]
    {
        assert!(dump.contains(&format!("{grant} TO \"a \"\"watcher\"")), "pg_dump knows it: {grant}\n{dump}");
    }
    let role = "SELECT count(*) FROM pg_shdepend WHERE refobjid = '\"a \"\"watcher\"'::regrole AND deptype = 'a' AND objid = 'mimeo.refresh_config_snap'::regclass";
    assert!(one::<i64>(&mut superuser, role) > 0, "the role cannot be dropped behind it");

    // The library is the new one, the catalog the old one.
    assert_eq!(scene.rows(), 10);
    scene.change();
    dba.batch_execute("SELECT mimeo.refresh_snapshot('app.t')").unwrap();
    assert_eq!(scene.changed_rows(2), 10);
    let left: i64 = one(
        &mut dba,
        "SELECT count(*) FROM mimeo.run_history WHERE status = 'rolled_back' OR (SELECT state ? 'previous' FROM mimeo.refresh_config)",
    );
    assert_eq!(left, 0);
    go_to(&mut dba, new_version());
    assert_eq!(one::<String>(&mut dba, grants), before);
    dba.batch_execute(
        "UPDATE mimeo.refresh_config_snap SET keep_previous = true; SELECT mimeo.refresh_snapshot('app.t', p_check_stats := false);
         SELECT mimeo.rollback_snapshot('app.t'); SELECT * FROM mimeo.plan_refresh('app.t')",
    )
    .unwrap();
}

/// Operators and functions for whatever the scripts could look up, with arguments that fit better than those of pg_catalog. Each
/// writes down who called it.
const PLANT: &str = "
    CREATE TABLE public.called (by text, what text);
    GRANT ALL ON public.called TO PUBLIC;
    GRANT USAGE ON SCHEMA public, mimeo TO PUBLIC;
    DO $do$
    DECLARE
        v_types text[] := '{oid,regclass,regprocedure,regtype,regrole,regnamespace,name,text,\"char\",integer,bigint,interval,timestamptz,jsonb,boolean,numeric,text[],name[]}';
        v_body text := 'BEGIN INSERT INTO public.called VALUES (current_user, %L); RETURN %s; END';
        v_one record;
    BEGIN
        FOR v_one IN SELECT l, r FROM unnest(v_types) l, unnest(v_types) r LOOP
            EXECUTE format('CREATE FUNCTION mimeo.planted(a %s, b %s) RETURNS boolean LANGUAGE plpgsql AS %L', v_one.l, v_one.r,
                           format(v_body, v_one.l || ' ' || v_one.r, 'true'));
        END LOOP;
        FOR v_one IN SELECT o, l, r FROM unnest('{=,<>,<,>,<=,>=,||,-,+,*,/,?,->,->>,#>>,~~}'::text[]) o, unnest(v_types) l, unnest(v_types) r
                      WHERE to_regoperator(format('pg_catalog.%s(%s,%s)', o, l, r)) IS NULL LOOP
            EXECUTE format('CREATE OPERATOR mimeo.%s (FUNCTION = mimeo.planted, LEFTARG = %s, RIGHTARG = %s)', v_one.o, v_one.l, v_one.r);
        END LOOP;
        FOR v_one IN
            SELECT f FROM unnest(ARRAY['format(text, text)', 'format(text, name)', 'format(text, regprocedure)', 'format(text, regclass)',
                'format(text, text, text)', 'format(text, text, name)', 'format(text, name, text)', 'format(text, regprocedure, text)',
                'format(text, text, text, text)', 'concat(name, text, name)', 'length(name)', 'substr(name, integer)', 'quote_ident(name)',
                'string_agg(name, text)', 'to_jsonb(text)', 'nextval(text)', 'setval(text, bigint, boolean)', 'count(text)']) f
        LOOP
            EXECUTE format('CREATE FUNCTION mimeo.%s RETURNS text LANGUAGE plpgsql AS %L', v_one.f, format(v_body, v_one.f, '''x'''));
        END LOOP;
    END
    $do$";

#[test]
fn what_is_planted_in_the_schema_is_not_called() {
    let scene = Scene::new("planted", 10);
    let (mut dba, mut superuser) = (scene.dba(), scene.destination_superuser());
    superuser.batch_execute("GRANT CREATE ON SCHEMA public TO dba").unwrap();
    let schema = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'mimeo'";
    dba.batch_execute("DROP EXTENSION mimeo").unwrap();
    assert_eq!(one::<String>(&mut dba, schema), "dba", "the schema is not a superuser's");
    dba.batch_execute(PLANT).unwrap();
    assert!(one::<bool>(&mut dba, "SELECT 1::oid OPERATOR(mimeo.=) 'pg_class'::regclass"));
    assert_eq!(one::<String>(&mut dba, "DELETE FROM public.called RETURNING by"), "dba", "it would be seen");

    dba.batch_execute(&format!("CREATE EXTENSION mimeo VERSION '{}'", new_version())).unwrap();
    scene.set_source(support::pair().source.port);
    dba.batch_execute("SELECT mimeo.table_maker('app.t', 1)").unwrap();
    for version in [OLD, new_version(), OLD] {
        superuser
            .batch_execute(
                "UPDATE mimeo.refresh_config SET period = '1 hour', condition = 'WHERE true';
                 SELECT * FROM mimeo.job_status; SELECT * FROM mimeo.health; SELECT * FROM mimeo.refresh_config_snap",
            )
            .unwrap();
        go_to(&mut dba, version);
    }
    dba.batch_execute(&format!("DROP EXTENSION mimeo; CREATE EXTENSION mimeo VERSION '{OLD}'")).unwrap();
    let called = "SELECT coalesce(string_agg(DISTINCT by || ': ' || what, ', '), '') FROM public.called";
    assert_eq!(one::<String>(&mut dba, called), "");
}
