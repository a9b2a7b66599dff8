//! PostgreSQL's own parser, for text that must not be run as it is: what comes out of it is checked, put into a statement's parse
//! tree, and run as that.

use crate::backend::foreign_text::ForeignText;
use crate::backend::subtransaction::{attempt, tried};
use crate::error::{Error, Result};
use pgrx::{pg_sys, PgBox, PgList};
use std::ffi::{CStr, CString};

/// Bytes of a definition of an index or a column that is accepted from a source, at most.
const LONGEST: usize = 64 * 1024;

/// Parentheses and brackets within each other, at most: PostgreSQL prints a pair for each operator.
const DEEPEST: usize = 200;

/// Why a text from a source is not parsed: it is too long, or nested too deeply.
fn excess(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return Some(format!("it is {} bytes long, but {LONGEST} bytes are the limit", text.len()));
    }
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    (deepest > DEEPEST).then(|| format!("it is nested {deepest} levels deep, but {DEEPEST} levels are the limit"))
}

fn c(sql: &str) -> Result<CString> {
    CString::new(sql).map_err(|_| Error::InvalidArgument("a statement holds a NUL byte".to_string()))
}

/// The one statement that `sql` holds, not analysed.
///
/// # Errors
/// Postgres with a syntax error; Internal if it is not exactly one statement.
pub fn statement(sql: &str) -> Result<*mut pg_sys::Node> {
    let statements = statements(sql)?;
    match (statements.len(), statements.get_ptr(0)) {
        // SAFETY: a node of the parser's.
        (1, Some(raw)) => Ok(unsafe { (*raw).stmt }),
        _ => Err(Error::Internal("not one statement".to_string())),
    }
}

/// The one statement in a definition of a source, not analysed.
///
/// # Errors
/// Postgres with a syntax error; Definition if it is not exactly one statement, or too long, or too deep.
pub fn definition(text: &ForeignText) -> Result<*mut pg_sys::Node> {
    let text = text.for_parser();
    if let Some(reason) = excess(text) {
        return Err(Error::Definition(reason));
    }
    let statements = statements(text)?;
    match (statements.len(), statements.get_ptr(0)) {
        // SAFETY: a node of the parser's.
        (1, Some(raw)) => Ok(unsafe { (*raw).stmt }),
        _ => Err(Error::Definition("it is not one statement".to_string())),
    }
}

/// Whether `sql` holds one statement, and not several or none.
///
/// # Errors
/// Postgres with a syntax error.
pub fn is_one_statement(sql: &str) -> Result<bool> {
    Ok(statements(sql)?.len() == 1)
}

fn statements(sql: &str) -> Result<PgList<pg_sys::RawStmt>> {
    let sql = c(sql)?;
    // SAFETY: the nodes live in the current memory context, not in the string.
    unsafe { Ok(PgList::from_pg(pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT))) }
}

/// Runs a utility statement; `sql` is shown where PostgreSQL shows a statement.
pub fn run(statement: *mut pg_sys::Node, sql: &str) -> Result<()> {
    let sql = c(sql)?;
    // SAFETY: a planned statement that only wraps a utility statement, as SPI makes it.
    unsafe {
        let mut planned = PgBox::<pg_sys::PlannedStmt>::alloc_node(pg_sys::NodeTag::T_PlannedStmt);
        planned.commandType = pg_sys::CmdType::CMD_UTILITY;
        planned.utilityStmt = statement;
        planned.stmt_location = -1;
        pg_sys::ProcessUtility(
            planned.into_pg(),
            sql.as_ptr(),
            false,
            pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::None_Receiver,
            std::ptr::null_mut(),
        );
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// An expression as the parser gives it.
#[derive(Clone, Copy)]
pub struct Expression {
    pub node: *mut pg_sys::Node,
    /// A constant, maybe with a cast.
    pub constant: bool,
}

/// The one expression in a text; None if it is not exactly one, or too long, or nested too deeply.
///
/// # Errors
/// Cancelled.
pub fn expression(text: &ForeignText) -> Result<Option<Expression>> {
    let text = text.for_parser();
    if excess(text).is_some() {
        return Ok(None);
    }
    let parsed = tried(|| {
        let sql = c(text)?;
        // SAFETY: in this mode the parser takes what could stand behind SELECT, and gives a SelectStmt; the kind of each node is
        // checked before any field of it is read.
        unsafe {
            let mode = pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR;
            let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(sql.as_ptr(), mode));
            let Some(raw) = statements.get_ptr(0).filter(|_| statements.len() == 1) else { return Ok(None) };
            let select = (*raw).stmt.cast::<pg_sys::SelectStmt>();
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
                return Ok(None);
            }
            let s = &*select;
            let alone = s.op == pg_sys::SetOperation::SETOP_NONE
                && [
                    s.distinctClause,
                    s.fromClause,
                    s.groupClause,
                    s.windowClause,
                    s.valuesLists,
                    s.sortClause,
                    s.lockingClause,
                ]
                .iter()
                .all(|list| list.is_null())
                && [s.whereClause, s.havingClause, s.limitOffset, s.limitCount].iter().all(|node| node.is_null())
                && s.intoClause.is_null()
                && s.withClause.is_null();
            let targets = PgList::<pg_sys::ResTarget>::from_pg(s.targetList);
            let Some(target) = targets.get_ptr(0).filter(|_| alone && targets.len() == 1) else { return Ok(None) };
            if (*target).type_ != pg_sys::NodeTag::T_ResTarget || !(*target).name.is_null() || (*target).val.is_null() {
                return Ok(None);
            }
            let mut node = (*target).val;
            while (*node).type_ == pg_sys::NodeTag::T_TypeCast {
                node = (*node.cast::<pg_sys::TypeCast>()).arg;
            }
            Ok(Some(Expression { node: (*target).val, constant: (*node).type_ == pg_sys::NodeTag::T_A_Const }))
        }
    })?;
    Ok(parsed.unwrap_or_default())
}

/// The text, if it is one SELECT whatever its condition contains; without a final semicolon and what follows that.
///
/// # Errors
/// Condition, if it is something else.
pub fn select(sql: &str) -> Result<&str> {
    let refused = |reason: String| Err(Error::Condition(reason));
    let parsed = attempt(|| {
        let statements = statements(sql)?;
        let Some(raw) = statements.get_ptr(0).filter(|_| statements.len() == 1) else { return Ok(None) };
        // SAFETY: the kind of the node is checked before any field of it is read.
        unsafe {
            let select = (*raw).stmt.cast::<pg_sys::SelectStmt>();
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt || !(*select).intoClause.is_null() {
                return Ok(None);
            }
            let tree = CStr::from_ptr(pg_sys::nodeToString((*raw).stmt.cast())).to_string_lossy().into_owned();
            if tree.contains("{PARAMREF") {
                return Err(Error::Condition("it has a parameter, for which there is no value".to_string()));
            }
            Ok(Some(usize::try_from((*raw).stmt_len).unwrap_or_default()))
        }
    });
    match parsed {
        // A length of 0 is all of it.
        Ok(Some(length)) => Ok(if length == 0 { sql } else { sql.get(..length).unwrap_or(sql) }),
        Ok(None) => refused("with it, the query is more than one SELECT".to_string()),
        Err(error) if error.is_cancel() || matches!(error, Error::Condition(_)) => Err(error),
        Err(error) => refused(error.report().message),
    }
}

/// Whether a condition may contain operators other than those of comparison and arithmetic, which could call any function. Unusual
/// spelling counts as if it did.
fn may_have_other_operators(condition: &str) -> bool {
    if condition.to_lowercase().contains("operator") {
        return true;
    }
    let mut quote = None;
    let mut characters = condition.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (_, '\\' | '$') => return true,
            (Some(end), _) if character == end => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '!') if characters.peek() != Some(&'=') => return true,
            (None, '|' | '~' | '@' | '#' | '&' | '?' | '^' | '`') => return true,
            _ => {}
        }
    }
    false
}

/// Whether a condition that a user wrote is a plain comparison of columns with constants: then it selects the same
/// rows as long as the rows are the same. Calls, subqueries, further tables and words like 'now' are not.
pub fn is_plain_condition(condition: &str) -> bool {
    // The tags of nodeToString; some have changed with the versions of PostgreSQL.
    const PLAIN: [&str; 14] = [
        "A_EXPR",
        "AEXPR",
        "BOOLEXPR",
        "NULLTEST",
        "BOOLEANTEST",
        "COLUMNREF",
        "A_CONST",
        "TYPECAST",
        "TYPENAME",
        "A_ARRAYEXPR",
        "CASEEXPR",
        "CASE",
        "CASEWHEN",
        "WHEN",
    ];
    let is_of_time = |text: &str| {
        let lower = text.to_lowercase();
        ["now", "today", "tomorrow", "yesterday"].iter().any(|word| lower.contains(word))
    };
    if is_of_time(condition) || may_have_other_operators(condition) {
        return false;
    }
    let tree = where_clause(condition);
    // Once more, without escapes.
    if is_of_time(&tree) {
        return false;
    }
    let mut nodes = tree.split('{').skip(1).peekable();
    nodes.peek().is_some()
        && nodes.all(|node| {
            let tag: String = node.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            PLAIN.contains(&tag.as_str())
        })
}

/// Whether a plain condition names nothing but these columns, and each by its name alone: anything else (the row as a whole, for one)
/// means something else where the rows are read from a partition. Unusual names count as if they were none of them.
pub fn names_only(condition: &str, columns: &[&str]) -> bool {
    let tree = where_clause(condition);
    let usual = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    tree.split("{COLUMNREF :fields (").skip(1).all(|rest| {
        let name = rest.split(')').next().and_then(|fields| fields.strip_prefix('"')?.strip_suffix('"'));
        name.is_some_and(|name| usual(name) && columns.contains(&name))
    })
}

/// The condition as nodeToString writes it; empty if it is more than a WHERE, or none.
fn where_clause(condition: &str) -> String {
    let parsed = attempt(|| {
        let select = statement(&format!("SELECT FROM t {condition}"))?.cast::<pg_sys::SelectStmt>();
        // SAFETY: the kind of the node is checked before any field of it is read.
        unsafe {
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
                return Ok(String::new());
            }
            let from = PgList::<pg_sys::Node>::from_pg((*select).fromClause);
            let only_where = from.len() == 1
                // No join, no sample of the table.
                && from.get_ptr(0).is_some_and(|node| (*node).type_ == pg_sys::NodeTag::T_RangeVar)
                && (*select).op == pg_sys::SetOperation::SETOP_NONE
                && (*select).sortClause.is_null()
                && (*select).groupClause.is_null()
                && (*select).limitCount.is_null()
                && (*select).limitOffset.is_null();
            if !only_where || (*select).whereClause.is_null() {
                return Ok(String::new());
            }
            let tree = pg_sys::nodeToString((*select).whereClause.cast());
            Ok(CStr::from_ptr(tree).to_string_lossy().to_string())
        }
    });
    parsed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{excess, DEEPEST, LONGEST};

    #[test]
    fn what_is_too_deep_or_too_long_is_not_parsed() {
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(excess(&nested(DEEPEST)).is_none());
        assert!(excess(&nested(DEEPEST + 1)).is_some());
        assert!(excess(&"(1) + ".repeat(1000)).is_none(), "one beside the other");
        assert!(excess(&"x".repeat(LONGEST + 1)).is_some());
        assert!(excess("))))").is_none());
    }
}
