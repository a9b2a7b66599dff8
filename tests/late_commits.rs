//! Inserters and updaters under concurrent writers: no row is ever missed because it committed late.

mod support;

use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{in_background, one, sqlstate, wait_for, Scene};

/// A source table app.w with a serial and a time column, an inserter by each, and an updater by each.
fn scene(name: &str) -> Scene {
    let scene = Scene::new(name, 1);
    scene
        .owner()
        .batch_execute(
            "CREATE TABLE app.w (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), writer int, v int DEFAULT 0);
             CREATE INDEX ON app.w (at);
             CREATE SEQUENCE app.revisions;
             CREATE TABLE app.r (id int PRIMARY KEY, rev bigint NOT NULL DEFAULT nextval('app.revisions'),
                                 at timestamptz NOT NULL DEFAULT now(), v int);
             INSERT INTO app.r SELECT i FROM generate_series(1, 200) i",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(
            "SET mimeo.writer_wait = 0;
             SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, '0', 'app.by_id');
             SELECT mimeo.inserter_maker('app.w', 'time', 'at', 1, '0', 'app.by_time');
             SELECT mimeo.updater_maker('app.r', 'serial', 'rev', 1, '0', 'app.by_rev');
             SELECT mimeo.updater_maker('app.r', 'time', 'at', 1, '0', 'app.by_changed')",
        )
        .unwrap();
    scene
}

fn refresh(client: &mut Client) {
    client
        .batch_execute(
            "SELECT mimeo.refresh_inserter('app.by_id'); SELECT mimeo.refresh_inserter('app.by_time');
             SELECT mimeo.refresh_updater('app.by_rev'); SELECT mimeo.refresh_updater('app.by_changed')",
        )
        .unwrap();
}

/// Gives the jobs by time a boundary as if no user had said one, so that it counts only where nothing is proven.
fn of_the_maker(boundary: &str) -> String {
    format!(
        "UPDATE mimeo.refresh_config SET boundary = '{boundary}', state = state || '{{\"default_boundary\": \"{boundary}\"}}'
          WHERE type LIKE '%\\_time'"
    )
}

fn impatient(scene: &Scene) -> Client {
    let mut client = scene.dba();
    client.batch_execute("SET mimeo.writer_wait = '20ms'").unwrap();
    client
}

/// The writers whose rows have arrived.
fn writers(client: &mut Client, table: &str) -> String {
    one(client, &format!("SELECT coalesce(string_agg(writer::text, ' ' ORDER BY id), '') FROM app.{table}"))
}

/// Defect 13 of 1.5.1.
#[test]
fn a_row_that_commits_late_is_found() {
    let scene = scene("late");
    let (mut late, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    late.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (1)").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2); INSERT INTO app.w (writer) VALUES (3)").unwrap();
    refresh(&mut client);
    for table in ["by_id", "by_time"] {
        assert_eq!(writers(&mut client, table), "", "{table}: nothing passes an open writer");
    }
    late.batch_execute("COMMIT").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (4)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1 2 3", "the greatest value waits for the next one");
    assert_eq!(writers(&mut client, "by_time"), "1 2 3 4");
}

#[test]
fn what_was_there_before_a_writer_began_does_not_wait_for_it() {
    let scene = scene("open_writer");
    let (mut open, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (1)").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2)").unwrap();
    refresh(&mut client);
    open.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (3)").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (4)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1", "as far as an earlier run has proven");
    let mut second = scene.owner();
    second.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (5)").unwrap();
    refresh(&mut client);
    open.batch_execute("COMMIT").unwrap();
    refresh(&mut client);
    assert_eq!(
        writers(&mut client, "by_time"),
        "1 2 3 4",
        "a candidate of an earlier run counts once its writers have ended"
    );
    second.batch_execute("ROLLBACK").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (6)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1 2 3 4");
    assert_eq!(writers(&mut client, "by_time"), "1 2 3 4 6");
}

#[test]
fn an_old_transaction_that_writes_later_is_not_passed_within_the_boundary() {
    let scene = scene("old_now");
    let mut client = impatient(&scene);
    client.batch_execute(&of_the_maker("01:00:00")).unwrap();
    let (mut old, mut soon) = (scene.owner(), scene.owner());
    // It has a now(), and has not touched the table.
    old.batch_execute("BEGIN; SELECT now()").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_time"), "");
    old.batch_execute("INSERT INTO app.w (writer) VALUES (1)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_time"), "");
    old.batch_execute("COMMIT").unwrap();
    refresh(&mut client);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM app.by_time"), 2);
    let reason: String = one(
        &mut client,
        "SELECT reason FROM mimeo.run_history WHERE dest_table = 'app.by_time' ORDER BY run_id DESC OFFSET 1 LIMIT 1",
    );
    assert!(reason.contains("older transactions are open"), "{reason}");
}

#[test]
fn a_transaction_that_runs_for_long_without_writing_does_not_stop_replication() {
    let scene = scene("long_runner");
    let (mut dump, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT count(*) FROM app.w").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (1); INSERT INTO app.w (writer) VALUES (2)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1", "a serial column has nothing to fear from it");
    assert_eq!(writers(&mut client, "by_time"), "1 2", "a time column falls back on its boundary, which is 0 here");
    dump.batch_execute("COMMIT").unwrap();
}

#[test]
fn autovacuum_is_no_writer() {
    let scene = scene("autovacuum");
    let mut client = impatient(&scene);
    client.batch_execute(&of_the_maker("01:00:00")).unwrap();
    let mut source = scene.source_superuser();
    // A page a tenth of a second, so that it is there for as long as the test runs.
    source
        .batch_execute(
            "CREATE TABLE app.vacuumed (v text) WITH (fillfactor = 10, autovacuum_vacuum_cost_delay = 100,
                 autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
             INSERT INTO app.vacuumed SELECT repeat('x', 500) FROM generate_series(1, 2000);
             UPDATE app.vacuumed SET v = repeat('y', 500)",
        )
        .unwrap();
    source.batch_execute("ALTER SYSTEM SET autovacuum_naptime = 1").unwrap();
    source.batch_execute("SELECT pg_reload_conf()").unwrap();
    const AT_WORK: &str = "SELECT count(*) > 0 FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid)
                            WHERE a.backend_type = 'autovacuum worker' AND a.datname = current_database()
                              AND p.relid = 'app.vacuumed'::regclass";
    wait_for("autovacuum", || one(&mut source, AT_WORK));
    scene.owner().batch_execute("INSERT INTO app.w (writer) VALUES (1)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_time"), "1");
    assert!(one::<bool>(&mut source, AT_WORK), "it has gone on meanwhile");
}

#[test]
fn a_later_transaction_of_the_same_message_has_an_old_now() {
    let scene = scene("message");
    let (mut holder, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    client.batch_execute(&of_the_maker("01:00:00")).unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)").unwrap();
    let message = in_background(
        scene.owner(),
        "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT;
         BEGIN; SELECT pg_advisory_xact_lock(2); INSERT INTO app.w (writer) VALUES (1); COMMIT",
    );
    let mut looking = scene.source_superuser();
    let mut wait_at = |lock: i32| {
        wait_for("the message to wait", || {
            one(
                &mut looking,
                &format!(
                    "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {lock}"
                ),
            )
        });
    };
    wait_at(1);
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2)").unwrap();
    refresh(&mut client);
    holder.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    wait_at(2);
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_time"), "", "the first transaction has ended, and its now() has not");
    holder.batch_execute("SELECT pg_advisory_unlock(2)").unwrap();
    assert_eq!(sqlstate(&message.join().unwrap().1), "00000");
    refresh(&mut client);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM app.by_time"), 2);
}

/// S11. A value of a sequence may be taken long before its row is inserted, and nothing on the source tells of that.
#[test]
fn a_boundary_that_a_user_has_chosen_always_counts() {
    let scene = scene("taken_before");
    let (mut early, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    client
        .batch_execute(
            "SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, '10', 'app.asked'); SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, NULL, 'app.unasked');
             SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, NULL, 'app.changed'); UPDATE mimeo.refresh_config SET boundary = '20' WHERE dest_table = 'app.changed';
             SELECT mimeo.updater_maker('app.w', 'serial', 'id', 1, '10', 'app.updated'); SELECT mimeo.inserter_maker('app.w', 'time', 'at', 1, '1 hour', 'app.timed');
             SELECT mimeo.inserter_maker('app.w', 'time', 'at', 1, NULL, 'app.untimed')",
        )
        .unwrap();
    let taken: i64 = one(&mut early, "SELECT nextval('app.w_id_seq')");
    let at: String = one(&mut early, "SELECT now()::text");
    soon.batch_execute("INSERT INTO app.w (writer) SELECT 2 FROM generate_series(1, 5)").unwrap();
    let mut refresh = || {
        for (method, name) in [
            ("inserter", "asked"),
            ("inserter", "unasked"),
            ("inserter", "changed"),
            ("updater", "updated"),
            ("inserter", "timed"),
            ("inserter", "untimed"),
        ] {
            client.batch_execute(&format!("SELECT mimeo.refresh_{method}('app.{name}')")).unwrap();
        }
        let arrived =
            |client: &mut Client, name: &str| -> i64 { one(client, &format!("SELECT count(*) FROM app.{name}")) };
        ["asked", "unasked", "changed", "updated", "timed", "untimed"].map(|name| arrived(&mut client, name))
    };
    assert_eq!(refresh(), [0, 4, 0, 0, 0, 5], "what nobody has asked to stay behind comes as far as it is proven");
    early.batch_execute(&format!("INSERT INTO app.w (id, at, writer) VALUES ({taken}, '{at}', 1)")).unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) SELECT 2 FROM generate_series(1, 40)").unwrap();
    let [asked, _, changed, updated, timed, _] = refresh();
    assert_eq!([asked, changed, updated, timed], [35, 25, 35, 0]);
    let reason = |client: &mut Client, name: &str| -> String {
        one(
            client,
            &format!(
                "SELECT reason FROM mimeo.run_history WHERE dest_table = 'app.{name}' ORDER BY run_id DESC LIMIT 1"
            ),
        )
    };
    let mut client = scene.dba();
    for table in ["asked", "changed", "updated"] {
        assert!(writers(&mut client, table).starts_with("1 2"), "{table}: the row that came late is there");
        assert!(reason(&mut client, table).contains(", as configured"), "{}", reason(&mut client, table));
    }
    let said = reason(&mut client, "unasked");
    assert!(
        said.contains("proven, for values of the sequence that are inserted by the transaction that took them"),
        "{said}"
    );
}

#[test]
fn a_prepared_transaction_is_a_writer() {
    let scene = scene("prepared");
    let (mut late, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    late.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (1); PREPARE TRANSACTION 'late'").unwrap();
    drop(late);
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2); INSERT INTO app.w (writer) VALUES (3)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "");
    assert_eq!(writers(&mut client, "by_time"), "");
    soon.batch_execute("COMMIT PREPARED 'late'").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (4)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1 2 3");
    assert_eq!(writers(&mut client, "by_time"), "1 2 3 4");
}

#[test]
fn an_id_that_was_taken_before_its_insert_is_waited_for() {
    let scene = scene("nextval_first");
    let (mut late, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    late.batch_execute("BEGIN; SELECT nextval('app.w_id_seq')").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2); INSERT INTO app.w (writer) VALUES (3)").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "");
    late.batch_execute("INSERT INTO app.w (id, writer) VALUES (currval('app.w_id_seq'), 1); COMMIT").unwrap();
    refresh(&mut client);
    assert_eq!(writers(&mut client, "by_id"), "1 2");
}

#[test]
fn a_statement_that_began_before_another_refresh_copies_nothing_twice() {
    let scene = scene("stale");
    let (mut first, mut owner) = (scene.dba(), scene.owner());
    owner.batch_execute("INSERT INTO app.w (writer) SELECT i FROM generate_series(1, 3) i").unwrap();
    first.batch_execute("SELECT mimeo.refresh_inserter('app.by_id')").unwrap();
    owner.batch_execute("INSERT INTO app.w (writer) SELECT i FROM generate_series(1, 9) i").unwrap();
    // Its snapshot is taken, and then it waits for the lock that the first one holds.
    first.batch_execute("SELECT pg_advisory_lock(77)").unwrap();
    let second = in_background(
        scene.dba(),
        "SELECT mimeo.refresh_inserter('app.by_id') FROM (SELECT pg_advisory_lock(77) OFFSET 0) l",
    );
    let mut looking = scene.destination_superuser();
    wait_for("the second refresh to wait", || {
        one(&mut looking, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    });
    first.batch_execute("SELECT mimeo.refresh_inserter('app.by_id')").unwrap();
    first.batch_execute("SELECT pg_advisory_unlock(77)").unwrap();
    assert_eq!(sqlstate(&second.join().unwrap().1), "00000");
    assert_eq!(one::<i64>(&mut first, "SELECT count(*) FROM app.by_id"), 11);
}

#[test]
fn a_maker_that_finds_an_open_writer_takes_its_rows_later() {
    let scene = scene("maker");
    let (mut late, mut soon, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    late.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (1)").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (2)").unwrap();
    client
        .batch_execute("SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, p_dest_table := 'app.made')")
        .unwrap();
    assert_eq!(writers(&mut client, "made"), "2", "a maker copies all that is there");
    late.batch_execute("COMMIT").unwrap();
    soon.batch_execute("INSERT INTO app.w (writer) VALUES (3)").unwrap();
    for _ in 0..2 {
        client.batch_execute("SELECT mimeo.refresh_inserter('app.made')").unwrap();
        assert_eq!(writers(&mut client, "made"), "1 2", "each row once");
    }
}

/// Several writers of every kind for a while, with refreshes all the time: at the end source and destination are equal.
/// MIMEO_LOAD_SECONDS makes it longer.
#[test]
fn under_load_nothing_is_missed_and_nothing_comes_twice() {
    let seconds = std::env::var("MIMEO_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let scene = scene("load");
    // What is proven comes at once; the boundary counts where it is not.
    scene.dba().batch_execute(&of_the_maker("00:10:00")).unwrap();
    let stop = AtomicBool::new(false);
    let mut refreshes = 0;
    std::thread::scope(|threads| {
        for writer in 1..=6 {
            let (stop, mut client) = (&stop, scene.owner());
            threads.spawn(move || {
                let mut number: u32 = writer;
                while !stop.load(Ordering::Relaxed) {
                    number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let end = ["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"][(number >> 20) as usize % 4];
                    let pause = [0.0, 0.0, 0.001, 0.03][(number >> 24) as usize % 4];
                    let row = (number >> 8) % 200 + 1;
                    client
                        .batch_execute(&format!(
                            "BEGIN; SELECT pg_sleep({pause} / 2); INSERT INTO app.w (writer) VALUES ({writer});
                             SAVEPOINT s; INSERT INTO app.w (writer) VALUES ({writer});
                             UPDATE app.r SET v = {row}, rev = DEFAULT, at = now() WHERE id = {row};
                             SELECT pg_sleep({pause}); {end}"
                        ))
                        .unwrap();
                }
            });
        }
        let mut client = scene.dba();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            refresh(&mut client);
            refreshes += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (mut owner, mut client) = (scene.owner(), scene.dba());
    // The greatest value of a serial column waits for a greater one.
    owner.batch_execute("INSERT INTO app.w (writer) VALUES (0); INSERT INTO app.r VALUES (1000)").unwrap();
    refresh(&mut client);
    let digest = |client: &mut Client, table: &str, filter: &str| -> String {
        one(client, &format!("SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ' ' ORDER BY id)), '') FROM app.{table} t {filter}"))
    };
    owner.batch_execute("SET timezone = 'UTC'").unwrap();
    client.batch_execute("SET timezone = 'UTC'").unwrap();
    let source = digest(&mut owner, "w", "WHERE writer > 0");
    eprintln!("{refreshes} rounds of refreshes, rows and digest {source}");
    assert_eq!(digest(&mut client, "by_id", "WHERE writer > 0"), source);
    assert_eq!(digest(&mut client, "by_time", "WHERE writer > 0"), source);
    let source = digest(&mut owner, "r", "WHERE id < 1000");
    assert_eq!(digest(&mut client, "by_rev", "WHERE id < 1000"), source);
    assert_eq!(digest(&mut client, "by_changed", "WHERE id < 1000"), source);
    assert!(refreshes > 3);
}

#[test]
fn rows_of_a_repull_stay_while_nothing_is_known_to_be_complete() {
    let scene = scene("repull_unsafe");
    let (mut late, mut owner, mut client) = (scene.owner(), scene.owner(), impatient(&scene));
    owner.batch_execute("INSERT INTO app.w (writer) SELECT 1 FROM generate_series(1, 50)").unwrap();
    // Open since before the first bound was taken.
    late.batch_execute("BEGIN; INSERT INTO app.w (writer) VALUES (2)").unwrap();
    client
        .batch_execute("SELECT mimeo.inserter_maker('app.w', 'serial', 'id', 1, '0', 'app.again', p_pulldata := false)")
        .unwrap();
    client.batch_execute("SELECT mimeo.refresh_inserter('app.again', p_repull := true)").unwrap();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM app.again"), 50);
    for _ in 0..3 {
        client.batch_execute("SELECT mimeo.refresh_inserter('app.again')").unwrap();
        assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM app.again"), 50, "the old rows stay");
    }
    late.batch_execute("COMMIT").unwrap();
    owner.batch_execute("INSERT INTO app.w (writer) VALUES (3)").unwrap();
    client
        .batch_execute("SELECT mimeo.refresh_inserter('app.again'); SELECT mimeo.refresh_inserter('app.again')")
        .unwrap();
    let missing = "SELECT 52 - count(DISTINCT id) FROM app.again";
    assert!(one::<i64>(&mut client, missing) <= 1);
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) - count(DISTINCT id) FROM app.again"), 0);
    assert!(writers(&mut client, "again").contains(" 2"));
}

/// U3: a job whose runs bring nothing, because somebody on the source has a transaction open, says so, and how old its data is.
#[test]
fn a_bound_that_stands_still_is_a_warning() {
    let scene = Scene::new("late_still", 1);
    let (mut owner, mut dba) = (scene.owner(), scene.dba());
    owner
        .batch_execute(
            "CREATE TABLE app.s (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); GRANT SELECT ON app.s TO reader;
             INSERT INTO app.s SELECT FROM generate_series(1, 10)",
        )
        .unwrap();
    dba.batch_execute(
        "SET mimeo.writer_wait = 0; SELECT mimeo.inserter_maker('app.s', 'serial', 'id', 1, '0', 'app.ins'), mimeo.updater_maker('app.s', 'time', 'at', 1, '0', 'app.upd');
         UPDATE mimeo.refresh_config SET period = '10 milliseconds'",
    )
    .unwrap();
    let mut stuck = scene.owner();
    stuck.batch_execute("SET application_name = 'the stuck one'; BEGIN; INSERT INTO app.s DEFAULT VALUES").unwrap();
    let pid: i32 = one(&mut stuck, "SELECT pg_backend_pid()");
    owner.batch_execute("INSERT INTO app.s SELECT FROM generate_series(1, 10)").unwrap();
    for (job, refresh) in [("app.ins", "refresh_inserter"), ("app.upd", "refresh_updater")] {
        let said = format!(
            "SELECT concat_ws(' | ', status, reason) FROM mimeo.run_history WHERE dest_table = '{job}' ORDER BY run_id DESC LIMIT 1"
        );
        wait_for("the bound to stand for two periods", || {
            dba.batch_execute(&format!("SELECT mimeo.{refresh}('{job}')")).unwrap();
            let said: String = one(&mut dba, &said);
            said.starts_with("warning")
                && said.contains("the bound stands still")
                && said.contains(&format!("pid {pid}, application_name the stuck one"))
        });
        let late: bool = one(
            &mut dba,
            &format!("SELECT lag > 2 * period AND data_as_of < now() FROM mimeo.job_status WHERE dest_table = '{job}'"),
        );
        assert!(late, "job_status tells how old it is");
    }
    assert!(one::<i64>(&mut dba, "SELECT late FROM mimeo.health") == 2);
    stuck.batch_execute("COMMIT").unwrap();
    for (job, refresh) in [("app.ins", "refresh_inserter"), ("app.upd", "refresh_updater")] {
        wait_for("the rows to come, and nothing to warn of", || {
            dba.batch_execute(&format!("SELECT mimeo.{refresh}('{job}')")).unwrap();
            let ok: bool = one(
                &mut dba,
                &format!(
                    "SELECT status = 'ok' FROM mimeo.run_history WHERE dest_table = '{job}' ORDER BY run_id DESC LIMIT 1"
                ),
            );
            ok && one::<i64>(&mut dba, &format!("SELECT count(*) FROM {job}")) >= 20
        });
    }
}
