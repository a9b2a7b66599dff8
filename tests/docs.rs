//! What the pages say is so: reference.md names every function with its exact signature; what monitoring.md and howto.md tell
//! users to paste works.

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use support::{pair, Scene};

const REFERENCE: &str = include_str!("../docs/reference.md");

/// `name(arguments) → result` of each heading; one heading may name several functions.
fn documented() -> BTreeSet<String> {
    REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .flat_map(|heading| {
            let (names, rest) = heading.split_once('(').unwrap_or_else(|| panic!("no arguments: {heading}"));
            names.split(", ").map(move |name| format!("{name}({rest}"))
        })
        .collect()
}

#[test]
fn every_function_is_there_with_its_signature() {
    let scene = Scene::new("reference", 1);
    let rows = scene
        .dba()
        .query(
            "SELECT p.proname::text, pg_get_function_arguments(p.oid), coalesce(pg_get_function_result(p.oid), 'procedure')
               FROM pg_proc p WHERE p.pronamespace = 'mimeo'::regnamespace AND p.prorettype <> 'trigger'::regtype",
            &[],
        )
        .unwrap();
    let mut there = BTreeSet::new();
    for row in rows {
        let (name, arguments, result): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let short = |text: &str| {
            text.replace(" DEFAULT ", " = ").replace("integer", "int").replace("boolean", "bool").replace("IN ", "")
        };
        // pg_get_function_arguments writes the type of each NULL.
        let arguments = ["::text[]", "::text", "::integer", "::bigint", "::boolean", "::interval"]
            .iter()
            .fold(arguments, |text, cast| text.replace(cast, ""));
        let result = short(&result).replace("SETOF", "setof").replace("TABLE(", "table(");
        there.insert(format!("{name}({}) → {result}", short(&arguments)));
    }
    let documented = documented();
    let missing: Vec<_> = there.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&there).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "not in docs/reference.md: {missing:#?}\nonly there: {wrong:#?}");
}

#[test]
fn every_setting_table_and_view_is_named() {
    let scene = Scene::new("reference_names", 1);
    let mut dba = scene.dba();
    dba.batch_execute("SELECT mimeo.concurrent_lock_check('loads the library')").unwrap();
    let rows = dba
        .query(
            "SELECT name FROM pg_settings WHERE name LIKE 'mimeo.%'
             UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'mimeo'::regnamespace AND relkind IN ('r', 'v')",
            &[],
        )
        .unwrap();
    assert!(rows.len() > 15, "{}", rows.len());
    for row in rows {
        let name: String = row.get(0);
        let short = name.trim_start_matches("refresh_config");
        assert!(
            REFERENCE.contains(&format!("`{name}`"))
                || REFERENCE.contains(&format!("| {name} |"))
                || REFERENCE.contains(&format!("`{short}`")),
            "{name} is not in docs/reference.md"
        );
    }
}

const MONITORING: &str = include_str!("../docs/monitoring.md");
const HOWTO: &str = include_str!("../docs/howto.md");

/// The blocks of a page that are marked as this language.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    page.split("\n```").filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// Runs a command as a user of the destination would.
fn shell(scene: &Scene, role: &str, password: &str, command: &str) -> Output {
    Command::new("sh")
        .args(["-c", &command.replace("d reports", &format!("d {}", scene.database))])
        .envs([("PGHOST", "127.0.0.1"), ("PGPORT", &pair().destination.port.to_string())])
        .envs([("PGUSER", role), ("PGPASSWORD", password)])
        .output()
        .unwrap()
}

#[test]
fn what_monitoring_md_says_works() {
    let scene = Scene::with_snapshot("monitoring", 10);
    let mut superuser = scene.destination_superuser();
    for block in blocks(MONITORING, "sql") {
        superuser.batch_execute(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
    let check = blocks(MONITORING, "sh").next().unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).to_string();
    let output = shell(&scene, "probe", "…", check);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        said(&output).starts_with("MIMEO OK - 1 jobs, 0 late, 0 failing, 1 without a period, oldest data 00:00:"),
        "{}",
        said(&output)
    );

    scene.dba().batch_execute("UPDATE mimeo.refresh_config SET period = '1 microsecond'").unwrap();
    let output = shell(&scene, "probe", "…", check);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    scene.owner().batch_execute("DROP TABLE app.t").unwrap();
    scene.dba().batch_execute("CALL mimeo.run_refresh()").unwrap_err();
    let output = shell(&scene, "probe", "…", check);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = shell(&scene, "probe", "wrong", check);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let denied = superuser.batch_execute("SET ROLE probe; SELECT * FROM mimeo.run_history").unwrap_err();
    assert_eq!(denied.code().unwrap().code(), "42501");
}

#[test]
fn the_crontab_lines_of_howto_md_work() {
    let scene = Scene::new("crontab", 10);
    scene
        .dba()
        .batch_execute(
            "SELECT mimeo.snapshot_maker('app.t', 1, 'public.orders');
             UPDATE mimeo.refresh_config SET period = '10 minutes', last_run = NULL; DELETE FROM mimeo.run_history",
        )
        .unwrap();
    let lines: Vec<_> = HOWTO.lines().filter(|line| line.starts_with('*') && line.contains("psql")).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let command = &line[line.find("psql").unwrap()..];
        let output = shell(&scene, "dba", "dba secret", command);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let runs: i64 = support::one(&mut scene.dba(), "SELECT count(*) FROM mimeo.run_history");
    assert_eq!(runs, 2, "each has run the job");
    scene.owner().batch_execute("DROP TABLE app.t").unwrap();
    scene.dba().batch_execute("UPDATE mimeo.refresh_config SET last_run = NULL").unwrap();
    let output = shell(&scene, "dba", "dba secret", "psql -qXd reports -c \"CALL mimeo.run_refresh(p_jobs := 4)\"");
    assert!(!output.status.success(), "cron notices a failure");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 1 jobs failed: \"public.orders\""), "{output:?}");
}
