//! Refreshes of tables, inserters and updaters that are cancelled, or whose backends die by kill -9 on either side: data
//! and last_value stay together, and the next refresh works. It crashes whole clusters, so it is the only test of its
//! file.

mod support;

use support::{crash, one, pair, sqlstate, stuck, wait_for, Scene};

const METHODS: [(&str, &str); 3] = [
    ("table", "SELECT mimeo.table_maker('app.t', 1)"),
    ("inserter", "SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1)"),
    ("updater", "SELECT mimeo.updater_maker('app.t', 'serial', 'rev', 1)"),
];

/// What the destination holds, and the job's last_value.
fn held(scene: &Scene) -> String {
    one(
        &mut scene.dba(),
        "SELECT concat((SELECT md5(string_agg(t::text, ' ' ORDER BY id)) FROM app.t t), ' ',
                       (SELECT last_value FROM mimeo.refresh_config), ' ',
                       (SELECT count(*) FROM pg_class WHERE relname LIKE 'mimeo\\_%'))",
    )
}

/// The rows are new to each of the methods.
fn change(scene: &Scene) {
    scene
        .owner()
        .batch_execute(
            "UPDATE app.t SET v = v || '!', rev = DEFAULT;
             INSERT INTO app.t (id, v) SELECT i, repeat('x', 20) FROM generate_series((SELECT max(id) + 1 FROM app.t), (SELECT max(id) + 400000 FROM app.t)) i",
        )
        .unwrap();
}

#[test]
fn whatever_ends_a_refresh_data_and_last_value_stay_together() {
    for (method, make) in METHODS {
        let scene = Scene::new(&format!("crash_{method}"), 200_000);
        scene.owner().batch_execute("ALTER TABLE app.t ADD rev bigserial").unwrap();
        scene.dba().batch_execute(make).unwrap();
        let refresh = format!("SELECT mimeo.refresh_{method}('app.t')");
        let before = held(&scene);
        change(&scene);

        let (proxy, pid, running) = stuck(&scene, &refresh);
        scene.destination_superuser().execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
        assert_eq!(sqlstate(&running.join().unwrap().1), "57014");
        assert_eq!(held(&scene), before, "{method}: after a cancel");
        wait_for("the session on the source to end", || scene.source_sessions() == 0);
        drop(proxy);

        let (_proxy, pid, running) = stuck(&scene, &refresh);
        crash(&pair().destination, pid);
        assert!(running.join().unwrap().1.is_err());
        assert_eq!(held(&scene), before, "{method}: after kill -9 of the refreshing backend");
        wait_for("the session on the source to end", || scene.source_sessions() == 0);

        let (proxy, _, running) = stuck(&scene, &refresh);
        let source_pid: i32 = one(
            &mut scene.source_superuser(),
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'mimeo/app.t' AND datname = current_database()
            AND backend_type = 'client backend'",
        );
        crash(&pair().source, source_pid);
        proxy.allow(u64::MAX);
        assert_eq!(sqlstate(&running.join().unwrap().1), "08006");
        assert_eq!(held(&scene), before, "{method}: after kill -9 of the source's backend");

        scene.set_source(pair().source.port);
        // Beyond the boundary of the greatest value.
        scene.owner().batch_execute("INSERT INTO app.t (id, v) SELECT max(id) + 1000, 'last' FROM app.t").unwrap();
        scene.dba().batch_execute(&refresh).unwrap();
        let digest = "SELECT count(*) || md5(string_agg(t::text, ' ' ORDER BY id)) FROM app.t t WHERE v <> 'last'";
        // An inserter does not see what has changed below its last_value.
        let digest =
            if method == "inserter" { digest.replace("WHERE", "WHERE id > 200000 AND") } else { digest.to_string() };
        assert_eq!(one::<String>(&mut scene.dba(), &digest), one::<String>(&mut scene.owner(), &digest), "{method}");
    }
}
