//! Names: how they are read, quoted and cut, against plain readers of SQL's rules.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "stand_in/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../src/backend/name.rs"]
mod name;

use name::{cut_middle, literal, quote, quote_list, readings, split_list, with_suffix, Name, MAX_BYTES};

/// What matters to the readers, so that it comes often.
const LETTERS: &[char] = &[
    'a', 'B', 'z', '0', '_', '$', '.', '"', '\'', '\\', ',', ' ', '\t', '\u{b}', '-', 'Ä', 'ß', 'İ', '\u{a0}',
    '\u{2003}', '€', '😀',
];

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let _ = check(&mut input);
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let (first, second) = (text(input)?, text(input)?);
    check_readings(&first);
    check_quoting(&first, &second);
    check_lists(&first, &second);
    check_literal(&first);
    check_cutting(&first, &second, usize::from(input.arbitrary::<u8>()?));
    Ok(())
}

fn text(input: &mut Unstructured<'_>) -> Result<String> {
    if input.ratio(1, 4)? {
        return input.arbitrary();
    }
    let length = input.int_in_range(0..=90)?;
    (0..length).map(|_| input.choose(LETTERS).copied()).collect()
}

fn check_readings(text: &str) {
    let mut expected: Vec<(Option<String>, String)> = Vec::new();
    let mut add = |schema: Option<&str>, name: &str| {
        let reading = (schema.map(str::to_string), name.to_string());
        if !name.is_empty() && schema != Some("") && !expected.contains(&reading) {
            expected.push(reading);
        }
    };
    let pieces: Vec<&str> = text.split('.').collect();
    for dot in 1..pieces.len() {
        add(Some(&pieces[..dot].join(".")), &pieces[dot..].join("."));
    }
    add(None, text);
    match sql_names(text).as_deref() {
        Some([name]) => add(None, name),
        Some([schema, name]) => add(Some(schema), name),
        _ => {}
    }
    match readings(text) {
        Ok(found) => {
            assert_eq!(found, expected, "readings of {text:?}");
            for (schema, name) in &found {
                assert!(!name.is_empty() && schema.as_deref() != Some(""));
            }
        }
        Err(error) => {
            assert_eq!(error, error::Error::InvalidName(text.to_string()));
            assert!(expected.is_empty());
        }
    }
}

/// Identifiers with dots between them, as SQL reads them, but they may begin with a digit. None if something else is
/// in the way.
fn sql_names(text: &str) -> Option<Vec<String>> {
    let space = |c: &char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}');
    let letter = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii();
    let characters: Vec<char> = text.chars().collect();
    let mut at = 0;
    let mut names = Vec::new();
    loop {
        at += characters[at..].iter().take_while(|c| space(c)).count();
        let mut name = String::new();
        if characters.get(at) == Some(&'"') {
            loop {
                at += 1;
                match (characters.get(at)?, characters.get(at + 1)) {
                    ('"', Some('"')) => at += 1,
                    ('"', _) => break,
                    _ => {}
                }
                name.push(characters[at]);
            }
            at += 1;
        } else {
            while let Some(c) = characters.get(at).filter(|c| letter(c)) {
                name.push(if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { *c });
                at += 1;
            }
        }
        if name.is_empty() {
            return None;
        }
        names.push(name);
        at += characters[at..].iter().take_while(|c| space(c)).count();
        match characters.get(at) {
            None => return Some(names),
            Some('.') => at += 1,
            Some(_) => return None,
        }
    }
}

fn check_quoting(schema: &str, name: &str) {
    assert_eq!(quote_list([schema, name]), format!("{}, {}", quote(schema), quote(name)));
    if !name.is_empty() {
        assert_eq!(sql_names(&quote(name)), Some(vec![name.to_string()]));
        assert!(readings(&quote(name)).is_ok_and(|found| found.contains(&(None, name.to_string()))));
    }
    let both = Name::new(schema, name);
    if !schema.is_empty() && !name.is_empty() {
        let meant = (Some(schema.to_string()), name.to_string());
        assert_eq!(sql_names(&both.to_string()), Some(vec![schema.to_string(), name.to_string()]));
        assert!(readings(&both.to_string()).is_ok_and(|found| found.contains(&meant)));
        assert!(readings(&both.plain()).is_ok_and(|found| found.contains(&meant)));
    }
    assert_eq!(both.sibling(schema), Name::new(schema, schema));
    assert_eq!(both.check_length().is_ok(), schema.len() <= MAX_BYTES && name.len() <= MAX_BYTES);
}

fn check_lists(first: &str, second: &str) {
    let names: Vec<&str> = [first, second, first].into_iter().filter(|name| !name.is_empty()).collect();
    assert_eq!(split_list(&quote_list(names.iter().copied())), names);

    let found = split_list(first);
    assert!(found.iter().all(|name| !name.is_empty()));
    assert_eq!(split_list(&quote_list(found.iter().map(String::as_str))), found);
    if !first.contains('"') {
        let bare = first.split(',').map(|name| name.chars().filter(|c| !c.is_whitespace()).collect::<String>());
        assert_eq!(found, bare.filter(|name| !name.is_empty()).collect::<Vec<_>>());
    }
}

fn check_literal(text: &str) {
    for standard_conforming in [true, false] {
        // The list goes on behind it.
        let sql = format!("{}, 'x'", literal(text));
        let (read, rest) = sql_string(&sql, standard_conforming).expect("a string constant");
        assert_eq!((read.as_str(), rest), (text, ", 'x'"), "standard_conforming_strings = {standard_conforming}");
    }
}

/// The string constant at the beginning, and what comes after it.
fn sql_string(sql: &str, standard_conforming: bool) -> Option<(String, &str)> {
    let escapes = sql.starts_with('E') || !standard_conforming;
    let mut characters = sql.strip_prefix('E').unwrap_or(sql).strip_prefix('\'')?.chars();
    let mut read = String::new();
    loop {
        match characters.next()? {
            '\'' if characters.as_str().starts_with('\'') => read.extend(characters.next()),
            '\'' => return Some((read, characters.as_str())),
            // Any other escape stands for another character.
            '\\' if escapes => read.push(characters.next().filter(|c| matches!(c, '\\' | '\''))?),
            character => read.push(character),
        }
    }
}

fn check_cutting(text: &str, suffix: &str, limit: usize) {
    let cut = cut_middle(text, limit);
    assert!(cut.len() <= limit);
    if text.len() <= limit {
        assert_eq!(cut, text);
    } else {
        // No more goes than has to: a character is four bytes long at most, and two are cut.
        assert!(cut.len() + 6 >= limit);
        assert!((0..=cut.len())
            .any(|at| { cut.is_char_boundary(at) && text.starts_with(&cut[..at]) && text.ends_with(&cut[at..]) }));
    }
    if suffix.len() <= MAX_BYTES {
        let name = with_suffix(text, suffix);
        assert!(name.len() <= MAX_BYTES && name.ends_with(suffix));
        if text.len() + suffix.len() <= MAX_BYTES {
            assert_eq!(name, format!("{text}{suffix}"));
        }
    }
}
