//! Groups whose backends die by kill -9 on either side, at any moment: all members show the same moment, that of before or that of after. It crashes whole
//! clusters, so it is the only test of its file.

mod support;

use support::random::Random;
use support::{crash, in_background, one, pair, wait_for, Scene};

/// The moments that members show: each row of a table, but for the inserter's, is of the last one.
const SHOWN: &str = "
SELECT string_agg(DISTINCT m::text, ' ') FROM (
    SELECT v FROM app.a UNION ALL SELECT v FROM app.b UNION ALL SELECT v FROM app.c UNION ALL SELECT v FROM app.d
    UNION ALL SELECT v FROM app.e WHERE mimeo_source_deleted IS NULL UNION ALL SELECT max(v) FROM app.f) x (m)";

fn change(scene: &Scene, moment: u32) {
    scene
        .owner()
        .batch_execute(&format!(
            "BEGIN; UPDATE app.a SET v = {moment}; UPDATE app.b SET v = {moment}; UPDATE app.c SET v = {moment};
             UPDATE app.d SET v = {moment}, n = DEFAULT; UPDATE app.e SET v = {moment};
             INSERT INTO app.f (v) SELECT {moment} FROM generate_series(1, 500); COMMIT"
        ))
        .unwrap();
}

#[test]
fn members_of_a_group_are_of_one_moment_whoever_dies() {
    let scene = Scene::new("crash_groups", 1);
    let tables: String = ["a", "b", "c", "d", "e"]
        .map(|name| {
            format!(
                "CREATE TABLE app.{name} (id int PRIMARY KEY, n serial, v int, w text);
                 INSERT INTO app.{name} (id, v, w) SELECT i, 0, repeat('x', 50) FROM generate_series(1, 4000) i;"
            )
        })
        .concat();
    scene
        .owner()
        .batch_execute(&format!(
            "{tables} CREATE TABLE app.f (id serial PRIMARY KEY, v int); INSERT INTO app.f (v) VALUES (0);
             GRANT SELECT, TRIGGER ON ALL TABLES IN SCHEMA app TO reader"
        ))
        .unwrap();
    scene.source_superuser().batch_execute("CREATE SCHEMA mimeo AUTHORIZATION reader").unwrap();
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.a', 1, p_group := 'g'), mimeo.table_maker('app.b', 1, p_group := 'g'),
                    mimeo.dml_maker('app.c', 1, p_group := 'g'), mimeo.updater_maker('app.d', 'serial', 'n', 1, p_group := 'g'),
                    mimeo.logdel_maker('app.e', 1, p_group := 'g'), mimeo.inserter_maker('app.f', 'serial', 'id', 1, p_group := 'g')",
        )
        .unwrap();
    let mut random = Random(std::process::id().into());
    let (mut shown, mut died) = (0, 0);
    for moment in 1..=10 {
        change(&scene, moment);
        let mut dba = scene.dba();
        let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
        let refresh = in_background(dba, "SELECT mimeo.refresh_group('g')");
        wait_for("the group to begin", || {
            let begun = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query LIKE 'mimeo.refresh_group(%'"
            );
            refresh.is_finished() || one::<i64>(&mut scene.destination_superuser(), &begun) == 1
        });
        // At whatever it is then.
        std::thread::sleep(std::time::Duration::from_millis(random.below(220) as u64));
        if moment % 2 == 0 {
            crash(&pair().destination, pid);
        } else {
            let source: Option<i32> = scene
                .source_superuser()
                .query_opt("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mimeo/%' LIMIT 1", &[])
                .unwrap()
                .map(|row| row.get(0));
            if let Some(pid) = source {
                crash(&pair().source, pid);
            }
        }
        let failed = refresh.join().unwrap().1.is_err();
        died += u32::from(failed);
        let seen: String = one(&mut scene.dba(), SHOWN);
        assert!([shown.to_string(), moment.to_string()].contains(&seen), "moment {moment}: {seen}, after {shown}");
        if !failed {
            assert_eq!(seen, moment.to_string());
        }
        shown = seen.parse().unwrap();
    }
    println!("{died} of 10 refreshes ended by a crash");
    assert!(died > 2, "the crashes came too late: {died}");
    scene.dba().batch_execute("SELECT mimeo.refresh_group('g')").unwrap();
    assert_eq!(one::<String>(&mut scene.dba(), SHOWN), "10");
    let (here, there): (i64, i64) =
        (one(&mut scene.dba(), "SELECT count(*) FROM app.f"), one(&mut scene.owner(), "SELECT count(*) FROM app.f"));
    assert_eq!(here, there);
}
