//! Sources made up at random: what their catalogs say of expressions, indexes, types and counters is put together from pieces that mean
//! something to PostgreSQL's parser, in an order that means little. Whatever comes of it, the backend lives on within its time limit,
//! nothing that a source says is run, and no rows are lost.
//!
//! MIMEO_FUZZ_SECONDS makes it longer (20), MIMEO_FUZZ_SEED repeats it. The pieces are lines of tests/fuzz/corpus/definitions.txt; one that
//! has found something is added there.

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::fake::{data_row, Act, Fake};
use support::{one, pair, sqlstate, Scene};

const PIECES: &str = include_str!("fuzz/corpus/definitions.txt");

/// xorshift: good enough to choose by, and the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Pieces, some of them again and again, some within each other, and now and then a byte that stands for nothing.
    fn text(&mut self, pieces: &[&str]) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.below(12) {
            let piece = self.pick(pieces);
            match self.below(12) {
                0 => text = format!("({text}) {piece}"),
                1 => text = format!("{piece} {text}"),
                2 => text.push_str(&piece.repeat(1 + self.below(300))),
                3 => text = format!("{piece}({text})"),
                4 => {
                    let at = (0..=self.below(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    text.insert(at, char::from(b' ' + self.below(95) as u8));
                }
                5 => {
                    let at = (0..=self.below(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    text.truncate(at);
                }
                _ => {
                    text.push(' ');
                    text.push_str(piece);
                }
            }
        }
        text
    }
}

fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' => "\\\"".to_string(),
        '\\' => "\\\\".to_string(),
        c if (c as u32) < 32 => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A part of a statement, and what the source answers to it.
fn lie(random: &mut Random, pieces: &[&str]) -> (&'static str, String) {
    let text = random.text(pieces);
    let boolean = ["true", "false"][random.below(2)];
    match random.below(7) {
        0 | 1 => {
            let definition = match random.below(4) {
                0 => text,
                1 => format!("CREATE INDEX i ON app.t USING btree ({text})"),
                2 => format!("CREATE INDEX i ON app.t USING btree (id) WHERE ({text})"),
                _ => format!("CREATE INDEX i ON app.t USING btree ((({text})))"),
            };
            (
                "pg_get_indexdef(x.indexrelid)",
                format!(
                    "[{{\"name\": \"i\", \"definition\": {}, \"primary\": false, \"unique\": {boolean}, \"immediate\": true, \"partial\": false, \"expressions\": true, \"columns\": []}}]",
                    quoted(&definition)
                ),
            )
        }
        2 | 3 => {
            let second = random.text(pieces);
            (
                "'expression', pg_get_expr(d.adbin",
                format!(
                    "[{{\"column\": \"v\", \"expression\": {}, \"generated\": {boolean}}}, {{\"column\": \"w\", \"expression\": {}, \"generated\": {boolean}}}]",
                    quoted(&text),
                    quoted(&second)
                ),
            )
        }
        4 => (
            "'typmod', a.atttypmod",
            format!(
                "[{{\"oid\": 1, \"schema\": \"app\", \"name\": \"t\", \"kind\": \"r\", \"columns\": [{{\"name\": {}, \"number\": 1, \"type\": {}, \"type_oid\": {}, \"typmod\": {}, \"not_null\": {boolean}, \"generated\": \"\", \"identity\": \"\", \"collation\": null}}]}}]",
                quoted(random.pick(&["id", "v", "tableoid", "new", "\"", ""])),
                quoted(&text),
                [23, 20_000, 0, u32::MAX][random.below(4)],
                [-1, 4, 65_541, i32::MIN, i32::MAX][random.below(5)]
            ),
        ),
        5 => {
            let numbers = [0, 1, -1, i64::MAX, i64::MIN];
            (
                "'changes', pg_catalog.json_build_array",
                format!(
                    "{{\"oid\": {}, \"table\": {}, \"obstacle\": {}, \"files\": [[{}, 1]], \"columns\": \"\", \"assigned_types\": {boolean}, \"changes\": [{}, {}, {}], \"started\": {}, \"resets\": [null, {}]}}",
                    random.below(3),
                    quoted(&text),
                    if random.below(2) == 0 { "null".to_string() } else { quoted(&text) },
                    random.below(1000),
                    numbers[random.below(5)],
                    numbers[random.below(5)],
                    numbers[random.below(5)],
                    quoted(&text),
                    quoted(&text)
                ),
            )
        }
        _ => {
            let cut = (0..=random.below(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            (random.pick(&["pg_get_indexdef", "'typmod'", "'changes'", "has_table_privilege", "pg_get_expr"]), text[..cut].to_string())
        }
    }
}

#[test]
fn nothing_that_a_source_makes_up_is_run_or_ends_the_server() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("MIMEO_FUZZ_SECONDS").unwrap_or(20);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("MIMEO_FUZZ_SEED").unwrap_or(u64::from(now.subsec_nanos()) | 1);
    eprintln!("MIMEO_FUZZ_SEED={seed}");
    let mut random = Random(seed.max(1));
    let pieces: Vec<&str> = PIECES.lines().filter(|line| !line.is_empty()).collect();

    let scene = Scene::new("generated", 5);
    scene.owner().batch_execute("ALTER TABLE app.t ADD COLUMN w int").unwrap();
    let fake = Fake::before(pair().source.port);
    scene.set_source(fake.port);
    let mut dba = scene.dba();
    dba.batch_execute(
        "CREATE TABLE app.canary (); CREATE TABLE app.made (x int); DROP TABLE app.made;
         SELECT mimeo.snapshot_maker('app.t', 1, 'app.snap'); SELECT mimeo.table_maker('app.t', 1, 'app.tab');
         SET client_min_messages = error; SET statement_timeout = '3s'",
    )
    .unwrap();
    let pid: i32 = one(&mut dba, "SELECT pg_backend_pid()");
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut trials, mut errors) = (0, std::collections::BTreeMap::<String, usize>::new());
    while Instant::now() < end {
        let (statement, answer) = lie(&mut random, &pieces);
        let call = random.pick(&[
            "SELECT mimeo.table_maker('app.t', 1, 'app.made')",
            "SELECT mimeo.snapshot_maker('app.t', 1, 'app.made')",
            "SELECT mimeo.updater_maker('app.t', 'serial', 'id', 1, NULL, 'app.made')",
            "SELECT mimeo.refresh_snapshot('app.snap')",
            "SELECT mimeo.refresh_table('app.tab')",
            "SELECT * FROM mimeo.plan_refresh('app.snap')",
        ]);
        let (told, bytes) = (Arc::new(Mutex::new(0)), data_row(&[Some(answer.as_bytes())]));
        fake.play(move |moment| {
            if moment.kind == b'D' && moment.statement.contains(statement) {
                *told.lock().unwrap() += 1;
                return Act::Instead(bytes.clone());
            }
            Act::Pass
        });
        let since = Instant::now();
        let outcome = dba.batch_execute(&format!("BEGIN; {call}; ROLLBACK"));
        let took = since.elapsed();
        let what = || format!("MIMEO_FUZZ_SEED={seed}, trial {trials}: {call} with {statement}: {answer}");
        assert!(took < Duration::from_secs(5), "{took:?}: {}", what());
        if let Err(error) = &outcome {
            assert!(error.as_db_error().is_some(), "the backend is gone: {}", what());
            dba.batch_execute("ROLLBACK").unwrap();
        }
        *errors.entry(sqlstate(&outcome)).or_default() += 1;
        assert_eq!(one::<i32>(&mut dba, "SELECT pg_backend_pid()"), pid, "{}", what());
        let whole: bool = one(
            &mut dba,
            "SELECT to_regclass('app.canary') IS NOT NULL AND to_regclass('app.made') IS NULL
                AND (SELECT count(*) FROM app.snap) = 5 AND (SELECT count(*) FROM app.tab) = 5",
        );
        assert!(whole, "{}", what());
        trials += 1;
    }
    fake.be_honest();
    dba.batch_execute("SET statement_timeout = 0; SELECT mimeo.refresh_snapshot('app.snap', p_check_stats := false); SELECT mimeo.refresh_table('app.tab'); SELECT mimeo.table_maker('app.t', 1, 'app.made')").unwrap();
    println!("{trials} sources, {errors:?}");
    assert!(trials > 20 && errors.len() > 1);
}
