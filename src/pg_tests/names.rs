//! Names and constants, as this server reads what `backend::name` writes.

#[pgrx::pg_schema]
mod tests {
    use crate::backend::identity::set_local;
    use crate::backend::name::{literal, quote, readings};
    use crate::backend::spi;
    use crate::pg_tests::Random;
    use pgrx::prelude::*;

    const PIECES: [&str; 24] = [
        "a", "Z", "_", "$", "$$", "1", " ", "\t", "\n", ".", ",", ";", "--", "/*", "*/", "'", "\"", "\\", "\\'", "%",
        "{", "ä", "😀", "\u{a0}",
    ];

    /// Texts of everything that SQL could take for something else, of at most 63 bytes.
    fn texts() -> Vec<String> {
        let mut random = Random(1);
        (0..2000).map(|_| (0..=random.below(12)).map(|_| random.pick(&PIECES)).collect()).collect()
    }

    #[pg_test]
    fn a_quoted_name_is_read_as_the_name_that_it_was() {
        for name in texts() {
            let column =
                "SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = 'pg_temp.t'::regclass AND a.attnum = 1";
            spi::run(&format!("CREATE TEMPORARY TABLE t ({} int)", quote(&name)), &[]).unwrap();
            assert_eq!(spi::text(column, &[]).unwrap().as_deref(), Some(name.as_str()));
            spi::run("DROP TABLE pg_temp.t", &[]).unwrap();
        }
    }

    #[pg_test]
    fn a_quoted_constant_is_read_as_the_text_that_it_was() {
        // From PostgreSQL 19 on there is only one of them.
        let both = "SELECT (current_setting('server_version_num')::int < 190000)::text";
        let settings: &[&str] =
            if spi::text(both, &[]).unwrap().as_deref() == Some("true") { &["on", "off"] } else { &["on"] };
        for conforming in settings {
            set_local("standard_conforming_strings", conforming).unwrap();
            for text in texts() {
                let read = spi::text(&format!("SELECT {}::text", literal(&text)), &[]).unwrap();
                assert_eq!(read.as_deref(), Some(text.as_str()), "standard_conforming_strings = {conforming}");
            }
        }
    }

    #[pg_test]
    fn a_name_as_postgresql_quotes_it_is_among_its_readings() {
        let mut random = Random(2);
        let texts = texts();
        for _ in 0..2000 {
            let (schema, name) = (&texts[random.below(texts.len())], &texts[random.below(texts.len())]);
            let written = spi::text("SELECT format('%I.%I', $1, $2)", &[schema.as_str().into(), name.as_str().into()]);
            let written = written.unwrap().unwrap();
            let found = readings(&written).unwrap();
            assert!(found.contains(&(Some(schema.clone()), name.clone())), "{written}: {found:?}");
        }
    }
}
