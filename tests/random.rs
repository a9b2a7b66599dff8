//! Tables, writes, DDL and jobs at random, without any case in mind: after each refresh that is ok, both sides hold the same. What a HINT says is run.
//!
//! MIMEO_RANDOM_SECONDS is how long, 120; MIMEO_RANDOM_SEED begins with that seed. A failure names its own.

mod support;

use postgres::Client;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};
use support::random::Random;
use support::Scene;

/// A type, an expression that gives some value of it (of g, a number), whether it can be in a key, and what it can be widened to.
const TYPES: &[(&str, &str, bool, &str)] = &[
    ("int", "(g * 7919 % 100003)::int", true, "bigint"),
    ("bigint", "g * 1000003", true, "numeric"),
    ("smallint", "(g % 30000)::smallint", false, "int"),
    ("numeric", "g * 1.10", true, ""),
    ("numeric(12,2)", "(g % 1000000) * 1.25", false, "numeric(16,4)"),
    ("text", "'text ' || g", true, ""),
    ("varchar(40)", "'v''\\\"' || g", true, "text"),
    ("char(12)", "'c' || g % 99999", false, ""),
    ("app.ci", "'Ci' || g", true, ""),
    ("app.cidom", "'Dom' || g", true, ""),
    ("uuid", "md5(g::text)::uuid", true, ""),
    ("timestamptz", "timestamptz '2020-01-01' + g * interval '1.001 s'", true, ""),
    ("timestamp(0)", "date_trunc('second', timestamp '2020-01-01' + g * interval '1 min')", false, "timestamp(6)"),
    ("date", "date '2000-01-01' + (g % 10000)::int", false, ""),
    ("interval", "g * interval '1.5 s'", false, ""),
    ("bool", "g % 2 = 0", false, ""),
    ("float8", "g / 7.0", false, ""),
    ("real", "(g / 3.0)::real", false, ""),
    ("bytea", "decode(md5(g::text), 'hex')", true, ""),
    ("jsonb", "CASE g % 3 WHEN 0 THEN 'null' ELSE to_jsonb(g) END", false, ""),
    ("json", "json_build_object('g', g)", false, ""),
    ("int[]", "CASE WHEN g % 5 = 0 THEN '[3:4]={1,2}'::int[] ELSE ARRAY[g, NULL]::int[] END", false, ""),
    ("text[]", "ARRAY['a' || g, NULL, '']", false, ""),
    ("app.ci[]", "ARRAY['A' || g]::app.ci[]", false, ""),
    ("money", "(g % 10000)::money", false, ""),
    ("inet", "'10.0.0.0'::inet + g % 1000000", true, ""),
    ("app.mood", "CASE g % 2 WHEN 0 THEN 'ok' ELSE 'sad' END::app.mood", false, ""),
    ("app.pair", "ROW(g % 100000, 'x' || g)::app.pair", false, ""),
    ("int4range", "int4range((g % 1000)::int, (g % 1000)::int + 5)", true, ""),
    ("xml", "('<a>' || g || '</a>')::xml", false, ""),
    ("tsvector", "to_tsvector('simple', 'w' || g)", false, ""),
    ("oidvector", "(g % 100 || ' 5')::oidvector", false, ""),
    ("bit(8)", "(g % 256)::int::bit(8)", false, ""),
    ("point", "point(g % 1000, 1e-300)", false, ""),
];

const NAMES: &[&str] = &[
    "o",
    "n",
    "old_rows",
    "new_rows",
    "select",
    "Odd \"name\"",
    "mimeo_k",
    "mimeo_row",
    "mimeo_key1",
    "a.b",
    "ü",
    "r",
    "d",
    "k",
    "t",
    "state",
    "xmin_",
    "mimeo_op",
    "q q",
    "id",
    "v",
    "x%1$s",
    "$1",
    "mimeo_seq",
    "p",
    "tg_op",
    "mimeo_size",
    "e'x",
    "back\\slash",
    "value",
    "user",
    "mimeo",
    "c1",
    "c2",
    "c3",
];

#[derive(Clone)]
struct Column {
    name: String,
    kind: usize,
    sql_type: String,
    required: bool,
}

impl Column {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }
}

/// A table on the source, and its jobs.
struct Case {
    table: String,
    key: Vec<Column>,
    rest: Vec<Column>,
    partitioned: bool,
    next: u64,
    names: usize,
    /// Kind of a job, and its destination.
    jobs: Vec<(&'static str, String)>,
    filtered: Vec<String>,
    /// Its jobs follow columns, and none of them stops; else a HINT tells what to run.
    follows: bool,
    log: Vec<String>,
}

impl Case {
    fn columns(&self) -> Vec<Column> {
        self.key.iter().chain(&self.rest).cloned().collect()
    }

    fn run(&mut self, client: &mut Client, sql: String) {
        self.log.push(sql.clone());
        if let Err(error) = client.batch_execute(&sql) {
            panic!("{error:?}\n{}", self.log.join("\n"));
        }
    }

    fn insert(&mut self, owner: &mut Client, rows: u64) {
        let columns = self.columns();
        let list: Vec<_> = columns.iter().map(Column::quoted).collect();
        let values: Vec<_> = columns.iter().map(|column| format!("({})", TYPES[column.kind].1)).collect();
        let first = self.next;
        self.next += rows;
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} FROM (SELECT g::bigint AS g FROM generate_series({first}, {}) g) s ON CONFLICT DO NOTHING",
            self.table,
            list.join(", "),
            values.join(", "),
            self.next - 1
        );
        self.run(owner, sql);
    }
}

fn make(random: &mut Random, owner: &mut Client, dba: &mut Client, number: usize) -> Case {
    let mut names: Vec<&str> = NAMES.to_vec();
    let mut column = |random: &mut Random, for_key: bool| {
        let kind = loop {
            let kind = random.below(TYPES.len());
            if !for_key || TYPES[kind].2 {
                break kind;
            }
        };
        let name = names.remove(random.below(names.len())).to_string();
        Column { name, kind, sql_type: TYPES[kind].0.to_string(), required: false }
    };
    let keys = 1 + random.below(4);
    let key: Vec<_> = (0..keys).map(|_| column(random, true)).collect();
    let rest: Vec<_> = (0..1 + random.below(26)).map(|_| column(random, false)).collect();
    let partitioned = random.chance(20);
    let table = format!("app.r{number}");
    let mut case = Case {
        table: table.clone(),
        key,
        rest,
        partitioned,
        next: 1,
        names: 0,
        jobs: Vec::new(),
        filtered: Vec::new(),
        follows: random.chance(75),
        log: Vec::new(),
    };
    let definitions: Vec<_> = case
        .key
        .iter()
        .map(|column| format!("{} {} NOT NULL", column.quoted(), column.sql_type))
        .chain(case.rest.iter().map(|column| format!("{} {}", column.quoted(), column.sql_type)))
        .collect();
    let key_list: Vec<_> = case.key.iter().map(Column::quoted).collect();
    let key_list = key_list.join(", ");
    let ctl = "ctl bigint NOT NULL DEFAULT nextval('app.ctl'), dropped int";
    let mut script = if partitioned {
        format!(
            "CREATE TABLE {table} (dropped_first int, {}, {ctl}, PRIMARY KEY ({key_list})) PARTITION BY HASH ({key_list}); CREATE TABLE {table}_0 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1); ALTER TABLE {table} DROP COLUMN dropped_first;",
            definitions.join(", ")
        )
    } else {
        format!("CREATE TABLE {table} (dropped_first int, {}, {ctl}, PRIMARY KEY ({key_list})); ALTER TABLE {table} DROP COLUMN dropped_first;", definitions.join(", "))
    };
    script.push_str(&format!("ALTER TABLE {table} DROP COLUMN dropped; CREATE INDEX ON {table} (ctl);"));
    if !partitioned {
        let (one, some) = (case.key[0].quoted(), random.pick(&case.key).quoted());
        script.push_str(&format!(
            "CREATE UNIQUE INDEX ON {table} ({key_list}, ctl); CREATE INDEX ON {table} ({one}) WHERE ctl % 3 = 0; CREATE INDEX ON {table} ((ctl % 10), {some});"
        ));
        if random.chance(30) {
            script.push_str(&format!("CREATE UNIQUE INDEX ON {table} (ctl) WHERE ctl > 0;"));
        }
    }
    case.run(owner, script);
    let first = random.below(300) as u64;
    case.insert(owner, first);
    let jobs = [
        ("snap", "snapshot_maker('{t}', 1, '{d}')"),
        ("table", "table_maker('{t}', 1, '{d}')"),
        ("updater", "updater_maker('{t}', 'serial', 'ctl', 1, '0', '{d}')"),
        ("inserter", "inserter_maker('{t}', 'serial', 'ctl', 1, '0', '{d}', p_index := false)"),
        ("dml", "dml_maker('{t}', 1, '{d}')"),
        ("logdel", "logdel_maker('{t}', 1, '{d}')"),
    ];
    for (kind, maker) in jobs {
        if random.chance(70) || kind == "dml" {
            let destination = format!("{table}_{kind}");
            case.run(dba, format!("SELECT mimeo.{}", maker.replace("{t}", &table).replace("{d}", &destination)));
            case.jobs.push((kind, destination));
        }
    }
    if random.chance(40) {
        let mut filter: Vec<Column> = case.key.clone();
        filter.extend(case.rest.iter().filter(|_| random.chance(50)).cloned());
        case.filtered = filter.iter().map(|column| column.name.clone()).collect();
        let list: Vec<_> = filter.iter().map(|column| format!("'{}'", column.name.replace('\'', "''"))).collect();
        let (kind, destination) =
            if random.chance(50) { ("dml", format!("{table}_fd")) } else { ("logdel", format!("{table}_fl")) };
        case.run(
            dba,
            format!(
                "SELECT mimeo.{kind}_maker('{table}', 1, '{destination}', p_filter := ARRAY[{}]::text[])",
                list.join(", ")
            ),
        );
        case.jobs.push((if kind == "dml" { "filtered dml" } else { "filtered logdel" }, destination));
    }
    if !case.follows {
        let sql = format!("UPDATE mimeo.refresh_config SET follow_columns = NULL WHERE dest_table LIKE '{table}\\_%'");
        case.run(dba, sql);
    }
    case
}

/// One statement, or some, of an application or of its owner.
fn write(case: &mut Case, random: &mut Random, owner: &mut Client) {
    let table = case.table.clone();
    let some = [
        "ctl % 3 = 0",
        "ctl % 7 < 2",
        "ctl = (SELECT max(ctl) FROM {t})",
        "ctl > (SELECT avg(ctl) FROM {t})",
        "true",
        "ctl % 11 = 5",
    ];
    let some = random.pick(&some).replace("{t}", &table);
    let set = |case: &Case, random: &mut Random| {
        let mut parts = vec!["ctl = nextval('app.ctl')".to_string()];
        for column in &case.rest {
            if random.chance(30) {
                let value = if random.chance(15) && !column.required {
                    "NULL".to_string()
                } else {
                    format!(
                        "(SELECT {} FROM (SELECT {table}.ctl + {} AS g) s)",
                        TYPES[column.kind].1,
                        random.below(1000)
                    )
                };
                parts.push(format!("{} = {value}", column.quoted()));
            }
        }
        parts.join(", ")
    };
    match random.below(16) {
        0..=2 => {
            let rows = 1 + random.below(80) as u64;
            case.insert(owner, rows);
        }
        3..=5 => {
            let set = set(case, random);
            case.run(owner, format!("UPDATE {table} SET {set} WHERE {some}"));
        }
        6 => {
            // A key of one column goes on by its own generator.
            let column = random.pick(&case.key).clone();
            let first = case.next;
            case.next += 100_000;
            let sql = format!(
                "DO $do$ BEGIN UPDATE {table} SET ctl = nextval('app.ctl'), {} = (SELECT {} FROM (SELECT {table}.ctl + {first} AS g) s) WHERE {some}; EXCEPTION WHEN unique_violation THEN NULL; END $do$",
                column.quoted(),
                TYPES[column.kind].1
            );
            case.run(owner, sql);
        }
        7 | 8 => {
            case.run(
                owner,
                format!("DELETE FROM {table} WHERE {}", if some == "true" { "ctl % 2 = 0" } else { &some }),
            );
        }
        9 if random.chance(40) => {
            case.run(owner, format!("TRUNCATE {table}"));
            let rows = random.below(50) as u64;
            case.insert(owner, rows);
        }
        10 => {
            let (one, other) = (set(case, random), set(case, random));
            case.run(owner, format!("BEGIN; UPDATE {table} SET {one} WHERE ctl % 2 = 0; SAVEPOINT s; DELETE FROM {table} WHERE {some}; ROLLBACK TO s; UPDATE {table} SET {other} WHERE {some}; COMMIT"));
        }
        11 => case.run(owner, format!("BEGIN; DELETE FROM {table}; ROLLBACK")),
        12 if !case.partitioned => case.run(owner, format!("VACUUM FULL {table}")),
        _ => {
            let list: Vec<_> = case.columns().iter().map(Column::quoted).collect();
            let list = list.join(", ");
            case.run(owner, format!("WITH gone AS (DELETE FROM {table} WHERE {some} RETURNING *) INSERT INTO {table} ({list}) SELECT {list} FROM gone WHERE ctl % 5 > 0"));
        }
    }
}

/// Changes of columns that only a job that follows them goes along with.
fn migrate_further(case: &mut Case, random: &mut Random, owner: &mut Client) {
    let table = case.table.clone();
    match random.below(5) {
        0 if !case.rest.is_empty() => {
            let ordinal = random.below(case.rest.len());
            let column = &mut case.rest[ordinal];
            let name = column.quoted();
            column.required = !column.required;
            let sql = if column.required {
                format!(
                    "UPDATE {table} SET ctl = nextval('app.ctl'), {name} = (SELECT {} FROM (SELECT {table}.ctl AS g) s) WHERE {name} IS NULL; ALTER TABLE {table} ALTER {name} SET NOT NULL",
                    TYPES[column.kind].1
                )
            } else {
                format!("ALTER TABLE {table} ALTER {name} DROP NOT NULL")
            };
            case.run(owner, sql);
        }
        1 => {
            // The key, under another name.
            let ordinal = random.below(case.key.len());
            case.names += 1;
            let old = case.key[ordinal].clone();
            case.key[ordinal].name = format!("key{}", case.names);
            let new = case.key[ordinal].clone();
            case.run(owner, format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", old.quoted(), new.quoted()));
            case.filtered.iter_mut().filter(|name| **name == old.name).for_each(|name| name.clone_from(&new.name));
        }
        2 if case.rest.len() > 1 => {
            // Two change their names.
            let (one, other) = (random.below(case.rest.len()), random.below(case.rest.len()));
            if one != other && case.filtered.is_empty() {
                let (a, b) = (case.rest[one].clone(), case.rest[other].clone());
                let sql = format!(
                    "ALTER TABLE {table} RENAME COLUMN {} TO between; ALTER TABLE {table} RENAME COLUMN {} TO {}; ALTER TABLE {table} RENAME COLUMN between TO {}",
                    a.quoted(), b.quoted(), a.quoted(), b.quoted()
                );
                case.run(owner, sql);
                case.rest[one].name = b.name;
                case.rest[other].name = a.name;
            }
        }
        3 if !case.rest.is_empty() => {
            // Renamed or dropped, whether a filter names it or not.
            let ordinal = random.below(case.rest.len());
            let column = case.rest[ordinal].clone();
            if random.chance(50) && case.rest.len() > 1 {
                case.rest.remove(ordinal);
                case.filtered.retain(|name| *name != column.name);
                case.run(owner, format!("ALTER TABLE {table} DROP COLUMN {}", column.quoted()));
            } else {
                case.names += 1;
                case.rest[ordinal].name = format!("renamed{}", case.names);
                let new = case.rest[ordinal].clone();
                case.run(owner, format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", column.quoted(), new.quoted()));
                case.filtered
                    .iter_mut()
                    .filter(|name| **name == column.name)
                    .for_each(|name| name.clone_from(&new.name));
            }
        }
        _ => {
            let kind = random.below(TYPES.len());
            case.names += 1;
            let column = Column {
                name: format!("given{}", case.names),
                kind,
                sql_type: TYPES[kind].0.to_string(),
                required: true,
            };
            // Any value of the type, as a constant.
            let sql = format!(
                "DO $do$ BEGIN EXECUTE format('ALTER TABLE {table} ADD COLUMN {} {} NOT NULL DEFAULT %L', (SELECT ({})::text FROM (SELECT {}::bigint AS g) s)); END $do$; ALTER TABLE {table} ALTER {} DROP DEFAULT",
                column.quoted(),
                column.sql_type,
                TYPES[kind].1,
                random.below(1000),
                column.quoted()
            );
            case.run(owner, sql);
            case.rest.push(column);
        }
    }
}

fn migrate(case: &mut Case, random: &mut Random, owner: &mut Client) {
    let table = case.table.clone();
    let is_free = |case: &Case, name: &str| !case.filtered.iter().any(|filtered| filtered == name);
    if case.follows && random.chance(60) {
        return migrate_further(case, random, owner);
    }
    match random.below(5) {
        0 => {
            let kind = random.below(TYPES.len());
            case.names += 1;
            let column = Column {
                name: format!("added{}", case.names),
                kind,
                sql_type: TYPES[kind].0.to_string(),
                required: false,
            };
            let default = match (random.below(2), TYPES[kind].0) {
                (0, _) => "",
                (_, "int" | "bigint" | "numeric") => " DEFAULT 7",
                (_, "text") => " DEFAULT 'd'",
                (_, "float8") => " DEFAULT random()",
                (_, "timestamptz") => " DEFAULT clock_timestamp()",
                (_, "jsonb") => " DEFAULT 'null'",
                _ => "",
            };
            case.run(owner, format!("ALTER TABLE {table} ADD COLUMN {} {}{default}", column.quoted(), column.sql_type));
            case.rest.push(column);
        }
        1 if case.rest.len() > 1 => {
            let place = random.below(case.rest.len());
            if is_free(case, &case.rest[place].name) {
                let column = case.rest.remove(place);
                case.run(owner, format!("ALTER TABLE {table} DROP COLUMN {}", column.quoted()));
            }
        }
        2 if !case.rest.is_empty() => {
            let place = random.below(case.rest.len());
            if is_free(case, &case.rest[place].name) {
                case.names += 1;
                let old = case.rest[place].quoted();
                case.rest[place].name = format!("renamed{}", case.names);
                let new = case.rest[place].quoted();
                case.run(owner, format!("ALTER TABLE {table} RENAME COLUMN {old} TO {new}"));
            }
        }
        _ => {
            let wide =
                |column: &&mut Column| !TYPES[column.kind].3.is_empty() && column.sql_type == TYPES[column.kind].0;
            let partitioned = case.partitioned;
            let keys = case.key.iter_mut().filter(|_| !partitioned);
            let candidates: Vec<&mut Column> = keys.chain(case.rest.iter_mut()).filter(wide).collect();
            if candidates.is_empty() {
                return;
            }
            let place = random.below(candidates.len());
            let column = candidates.into_iter().nth(place).unwrap();
            column.sql_type = TYPES[column.kind].3.to_string();
            let sql = format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {}", column.quoted(), column.sql_type);
            case.run(owner, sql);
        }
    }
}

/// Refreshes a job; what a HINT says is to be run here is run.
fn refresh(case: &mut Case, dba: &mut Client, kind: &str, destination: &str) {
    let method = match kind {
        "snap" => "snapshot",
        other => other.rsplit(' ').next().unwrap(),
    };
    let call = format!("SELECT mimeo.refresh_{method}('{destination}')");
    for _ in 0..4 {
        let Err(error) = dba.batch_execute(&call) else { return };
        assert!(!case.follows || kind == "snap", "{destination}: {error:?}\n{}", case.log.join("\n"));
        let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default().to_string();
        let Some(fix) = hint.strip_prefix("Run on the destination: ") else {
            panic!("{destination}: {error:?}\n{}", case.log.join("\n"));
        };
        case.run(dba, format!("/* {destination} */ {fix}"));
    }
    panic!("{destination}: its HINTs do not help\n{}", case.log.join("\n"));
}

fn rows(client: &mut Client, from: &str, columns: &[String]) -> BTreeSet<String> {
    let list = columns.join(", ");
    let query = format!("SELECT ROW(all_of_it.*)::text FROM (SELECT {list} FROM {from}) all_of_it");
    client.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn check(case: &mut Case, owner: &mut Client, dba: &mut Client) {
    for (kind, destination) in case.jobs.clone() {
        refresh(case, dba, kind, &destination);
        let mut columns: Vec<String> = case
            .columns()
            .iter()
            .filter(|column| !kind.starts_with("filtered") || case.filtered.contains(&column.name))
            .map(Column::quoted)
            .collect();
        if !kind.starts_with("filtered") {
            columns.push("ctl".to_string());
        }
        let status: String = dba
            .query_one("SELECT concat_ws(': ', status, reason) FROM mimeo.run_history WHERE dest_table = $1 ORDER BY run_id DESC LIMIT 1", &[&destination])
            .unwrap()
            .get(0);
        let fail = |what: &str| -> ! { panic!("{destination}: {what} ({status})\n{}", case.log.join("\n")) };
        match kind {
            "updater" => {
                // All but the newest, and beside them rows that are gone.
                let there = rows(owner, &format!("{} WHERE ctl < (SELECT max(ctl) FROM {0})", case.table), &columns);
                let here = rows(dba, &destination, &columns);
                if let Some(row) = there.difference(&here).next() {
                    fail(&format!("lacks {row}"));
                }
            }
            "inserter" => {
                if status.starts_with("ok") {
                    let there: BTreeSet<String> = rows(
                        owner,
                        &format!("{} WHERE ctl < (SELECT max(ctl) FROM {0})", case.table),
                        &["ctl".to_string()],
                    );
                    let here = rows(dba, &destination, &["ctl".to_string()]);
                    if let Some(row) = there.difference(&here).next() {
                        fail(&format!("lacks {row}"));
                    }
                    // Whoever changes a row gives it another control value.
                    let whole = |client: &mut Client, from: &str, others: &BTreeSet<String>| {
                        rows(client, from, &[vec!["ctl".to_string()], columns.clone()].concat())
                            .into_iter()
                            .filter(|row| {
                                others.iter().any(|ctl| row.starts_with(&format!("{},", ctl.trim_end_matches(')'))))
                            })
                            .collect::<BTreeSet<_>>()
                    };
                    let common: BTreeSet<String> = there.intersection(&here).cloned().collect();
                    let (theirs, ours) = (whole(owner, &case.table, &common), whole(dba, &destination, &common));
                    if let Some(row) = theirs.symmetric_difference(&ours).next() {
                        fail(&format!("holds other values: {row}"));
                    }
                }
            }
            _ => {
                let live = if kind.contains("logdel") {
                    format!("{destination} WHERE mimeo_source_deleted IS NULL")
                } else {
                    destination.clone()
                };
                let (there, here) = (rows(owner, &case.table, &columns), rows(dba, &live, &columns));
                if there != here {
                    let (lacks, more) = (there.difference(&here).next(), here.difference(&there).next());
                    fail(&format!("lacks {lacks:?}, has {more:?} too"));
                }
                let matches: Option<bool> =
                    dba.query_one("SELECT match FROM mimeo.validate_content($1)", &[&destination]).unwrap().get(0);
                if matches != Some(true) {
                    fail("validate_content finds a difference");
                }
            }
        }
    }
}

#[test]
fn whatever_happens_both_sides_are_equal() {
    let seconds = std::env::var("MIMEO_RANDOM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let given = std::env::var("MIMEO_RANDOM_SEED").ok().and_then(|text| text.parse().ok());
    let mut seed: u64 = given
        .unwrap_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1);
    let scene = Scene::new("random", 1);
    scene
        .source_superuser()
        .batch_execute(
            "CREATE SCHEMA mimeo AUTHORIZATION reader; CREATE EXTENSION citext SCHEMA public; CREATE DOMAIN app.ci AS public.citext; CREATE DOMAIN app.cidom AS app.ci; CREATE SEQUENCE app.ctl; ALTER SEQUENCE app.ctl OWNER TO owner;
             ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT SELECT, TRIGGER ON TABLES TO reader;",
        )
        .unwrap();
    let types = "CREATE TYPE app.mood AS ENUM ('sad', 'ok'); CREATE TYPE app.pair AS (a int, b text);";
    scene.owner().batch_execute(types).unwrap();
    scene
        .destination_superuser()
        .batch_execute(
            "CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO dba; CREATE EXTENSION citext SCHEMA elsewhere",
        )
        .unwrap();
    scene
        .dba()
        .batch_execute(&format!("{types} CREATE DOMAIN app.ci AS elsewhere.citext; CREATE DOMAIN app.cidom AS app.ci"))
        .unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut cases, mut checks) = (0, 0);
    while Instant::now() < end {
        cases += 1;
        println!("seed {seed}");
        let mut random = Random(seed);
        let (mut owner, mut dba) = (scene.owner(), scene.dba());
        for client in [&mut owner, &mut dba] {
            client.batch_execute("SET datestyle = 'ISO'; SET extra_float_digits = 3; SET timezone = 'UTC'; SET client_min_messages = error; SET mimeo.writer_wait = 100").unwrap();
        }
        let mut case = make(&mut random, &mut owner, &mut dba, cases);
        for _ in 0..3 + random.below(5) {
            for _ in 0..1 + random.below(5) {
                write(&mut case, &mut random, &mut owner);
                if random.chance(if case.follows { 35 } else { 15 }) {
                    migrate(&mut case, &mut random, &mut owner);
                }
            }
            owner.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
            check(&mut case, &mut owner, &mut dba);
            checks += case.jobs.len();
        }
        for (kind, destination) in &case.jobs {
            let method = if *kind == "snap" { "snapshot" } else { kind.rsplit(' ').next().unwrap() };
            dba.batch_execute(&format!("SELECT mimeo.{method}_destroyer('{destination}', false)")).unwrap();
        }
        owner.batch_execute(&format!("DROP TABLE {}", case.table)).unwrap();
        seed = random.next() | 1;
    }
    println!("{cases} tables, {checks} refreshes compared");
}
