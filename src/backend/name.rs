//! Names of tables and other objects: reading them from arguments, quoting them for SQL, cutting them to
//! what PostgreSQL keeps. The only place that quotes.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a name that PostgreSQL keeps (NAMEDATALEN - 1).
pub const MAX_BYTES: usize = 63;

/// A table by schema and name, both as the catalog holds them. Its Display is quoted for SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    pub schema: String,
    pub name: String,
}

impl Name {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Name {
        Name { schema: schema.into(), name: name.into() }
    }

    /// `schema.table` without quotes: how refresh_config holds it and how messages show it.
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Another name in the same schema.
    pub fn sibling(&self, name: impl Into<String>) -> Name {
        Name::new(self.schema.clone(), name)
    }

    /// Refuses what PostgreSQL would silently cut.
    pub fn check_length(&self) -> Result<()> {
        for part in [&self.schema, &self.name] {
            if part.len() > MAX_BYTES {
                return Err(Error::NameTooLong { name: part.clone(), limit: MAX_BYTES });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// An identifier for SQL, always in double quotes.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Identifiers for SQL, in double quotes and separated by commas.
pub fn quote_list<'a>(identifiers: impl IntoIterator<Item = &'a str>) -> String {
    identifiers.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// An operator by schema and name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "(String, String)")]
pub struct Operator {
    schema: String,
    name: String,
}

impl TryFrom<(String, String)> for Operator {
    type Error = String;

    /// A name of any other characters could be anything in SQL.
    fn try_from((schema, name): (String, String)) -> std::result::Result<Operator, String> {
        let is_operator = !name.is_empty()
            && name.len() <= MAX_BYTES
            && name.chars().all(|character| "+-*/<>=~!@#%^&|`?".contains(character))
            && !name.contains("--")
            && !name.contains("/*");
        if is_operator {
            Ok(Operator { schema, name })
        } else {
            Err("the name of an operator is none".to_string())
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schema.as_str() {
            "pg_catalog" => write!(f, "OPERATOR(pg_catalog.{})", self.name),
            schema => write!(f, "OPERATOR({}.{})", quote(schema), self.name),
        }
    }
}

/// A string constant for SQL, for the statements that take no parameters (COMMENT, COPY options). It reads
/// the same whatever standard_conforming_strings says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// What a user may mean by a table name, best reading first: the raw `schema.table` (split at each dot), then
/// the properly quoted form. A schema of None is a bare name, to be found along a search_path.
///
/// # Errors
/// InvalidName if there is no reading.
pub fn readings(text: &str) -> Result<Vec<(Option<String>, String)>> {
    let mut readings: Vec<(Option<String>, String)> = text
        .match_indices('.')
        .filter(|(at, _)| *at > 0 && at + 1 < text.len())
        .map(|(at, _)| (Some(text[..at].to_string()), text[at + 1..].to_string()))
        .collect();
    if !text.is_empty() {
        readings.push((None, text.to_string()));
    }
    match parse_quoted(text).as_deref() {
        Some([schema, name]) => readings.push((Some(schema.clone()), name.clone())),
        Some([name]) => readings.push((None, name.clone())),
        _ => {}
    }
    let mut unique = Vec::with_capacity(readings.len());
    for reading in readings {
        if !unique.contains(&reading) {
            unique.push(reading);
        }
    }
    if unique.is_empty() {
        return Err(Error::InvalidName(text.to_string()));
    }
    Ok(unique)
}

/// The names in a list with commas between them. One that contains a comma, a space or a quote is in double quotes.
pub fn split_list(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.trim().chars().peekable();
    while let Some(character) = characters.next() {
        let name = names.last_mut().expect("there is always one");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            _ if character.is_whitespace() && !quoted => {}
            _ => name.push(character),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// White space in SQL.
const SPACES: [char; 6] = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];

/// `"a.b".C` as SQL reads it: `a.b` and `c`. None if it is not a list of identifiers. Letters that are not
/// ASCII are allowed in identifiers, and are not folded.
fn parse_quoted(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(SPACES);
    loop {
        let part;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = None;
            let mut chars = quoted.char_indices().peekable();
            while let Some((at, c)) = chars.next() {
                if c == '"' {
                    if chars.peek().is_some_and(|(_, next)| *next == '"') {
                        chars.next();
                    } else {
                        end = Some(at);
                        break;
                    }
                }
            }
            let end = end?;
            part = quoted[..end].replace("\"\"", "\"");
            rest = quoted[end + 1..].trim_start_matches(SPACES);
        } else {
            let stands_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
            let end = rest.find(|c| !stands_bare(c)).unwrap_or(rest.len());
            part = rest[..end].to_ascii_lowercase();
            rest = rest[end..].trim_start_matches(SPACES);
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(after) => rest = after.trim_start_matches(SPACES),
            None if rest.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// `base` and `suffix` in 63 bytes: if they are longer, the middle of `base` goes.
pub fn with_suffix(base: &str, suffix: &str) -> String {
    format!("{}{suffix}", cut_middle(base, MAX_BYTES - suffix.len()))
}

/// At most `limit` bytes of a name: its head and its tail.
pub fn cut_middle(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_string();
    }
    let mut head = limit.div_ceil(2);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = text.len() - (limit - head);
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{}", &text[..head], &text[tail..])
}

/// Replaces the first name of each pair by the second, wherever it occurs as a whole word.
pub fn replace_words(text: String, names: &[(String, String)]) -> String {
    names.iter().fold(text, |text, (old, new)| replace_word(&text, old, new))
}

/// Replaces `old` by `new` wherever it occurs as a whole word.
fn replace_word(text: &str, old: &str, new: &str) -> String {
    replace_between(text, old, new, |c| c.is_alphanumeric() || c == '_' || c == '$')
}

/// The same within a name, in which every character that is neither a letter nor a digit separates words.
pub fn replace_part(text: &str, old: &str, new: &str) -> String {
    replace_between(text, old, new, char::is_alphanumeric)
}

/// Replaces `old` by `new` wherever no character next to it belongs to a word.
fn replace_between(text: &str, old: &str, new: &str, belongs: impl Fn(char) -> bool) -> String {
    let belongs = |character: Option<char>| character.is_some_and(&belongs);
    let (mut replaced, mut done) = (String::new(), 0);
    for (at, found) in text.match_indices(old) {
        let end = at + found.len();
        if !belongs(text[..at].chars().next_back()) && !belongs(text[end..].chars().next()) {
            replaced.push_str(&text[done..at]);
            replaced.push_str(new);
            done = end;
        }
    }
    replaced + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_names_are_replaced_whole() {
        assert_eq!(replace_part("t_trgm_t", "t", "x"), "x_trgm_x");
        assert_eq!(replace_part("ix_order_items_order", "order_items", "x"), "ix_x_order");
        assert_eq!(replace_part("items", "item", "x"), "items");
        assert_eq!(replace_part("", "t", "x"), "");
    }

    #[test]
    fn names_are_read_as_sql_reads_them() {
        let last = |text: &str| readings(text).unwrap().pop().unwrap();
        assert_eq!(last("\"A.b\" . C"), (Some("A.b".to_string()), "c".to_string()));
        // PostgreSQL folds ASCII only.
        assert_eq!(last("APP.Ärger"), (Some("app".to_string()), "Ärger".to_string()));
        assert_eq!(last("\"App\".Ünter😀"), (Some("App".to_string()), "Ünter😀".to_string()));
        assert_eq!(last("\"a\"\u{a0}"), (None, "\"a\"\u{a0}".to_string()));
    }

    #[test]
    fn an_operator_is_nothing_else() {
        let operator = |schema: &str, name: &str| Operator::try_from((schema.to_string(), name.to_string()));
        assert_eq!(operator("pg_catalog", "=").unwrap().to_string(), "OPERATOR(pg_catalog.=)");
        assert_eq!(operator("a\"b", "<@>").unwrap().to_string(), "OPERATOR(\"a\"\"b\".<@>)");
        for name in ["", "=)", "= OR true", "--", "=--", "/*", "a", "\"", "=\n"] {
            assert!(operator("pg_catalog", name).is_err(), "{name}");
        }
    }

    #[test]
    fn words_are_replaced_whole() {
        let replace = |text| replace_word(text, "mimeo_16", "tÄ.b");
        assert_eq!(replace("»mimeo_16« und mimeo_16, nicht mimeo_160"), "»tÄ.b« und tÄ.b, nicht mimeo_160");
        assert_eq!(replace("mimeo_16"), "tÄ.b");
        assert_eq!(replace("Ämimeo_16 mimeo_16_a"), "Ämimeo_16 mimeo_16_a");
        assert_eq!(replace(""), "");
    }
}
