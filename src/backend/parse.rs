//! PostgreSQL's own parser, for text that must not be run as it is.

use crate::backend::subtransaction::attempt;
use crate::error::{Error, Result};
use pgrx::{pg_sys, PgBox, PgList};
use std::ffi::{CStr, CString};

/// The one statement that `sql` holds, not analysed.
///
/// # Errors
/// Postgres with a syntax error; Internal if it is not exactly one statement.
pub fn statement(sql: &str) -> Result<*mut pg_sys::Node> {
    let statements = statements(sql)?;
    match (statements.len(), statements.get_ptr(0)) {
        // SAFETY: a node of the parser's.
        (1, Some(raw)) => Ok(unsafe { (*raw).stmt }),
        _ => Err(Error::Internal(format!("not one statement: {sql}"))),
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
    let sql = CString::new(sql).map_err(|_| Error::Internal("a NUL byte in a statement".to_string()))?;
    // SAFETY: the nodes live in the current memory context, not in the string.
    unsafe { Ok(PgList::from_pg(pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT))) }
}

/// Runs a utility statement; `sql` is shown where PostgreSQL shows a statement.
pub fn run(statement: *mut pg_sys::Node, sql: &str) -> Result<()> {
    let sql = CString::new(sql).map_err(|_| Error::Internal("a NUL byte in a statement".to_string()))?;
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

/// Whether a text is one expression, which can stand in parentheses in a statement, and whether that is a constant.
pub enum Expression {
    Constant,
    Other,
}

/// What `text` is; None if it is not one expression.
pub fn expression(text: &str) -> Option<Expression> {
    attempt(|| {
        let select = statement(&format!("SELECT ({text})"))?.cast::<pg_sys::SelectStmt>();
        // SAFETY: the kind of each node is checked before any field of it is read.
        unsafe {
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt || (*select).op != pg_sys::SetOperation::SETOP_NONE {
                return Ok(None);
            }
            let targets = PgList::<pg_sys::ResTarget>::from_pg((*select).targetList);
            let alone = targets.len() == 1
                && (*select).fromClause.is_null()
                && (*select).whereClause.is_null()
                && (*select).sortClause.is_null()
                && (*select).limitCount.is_null()
                && (*select).limitOffset.is_null();
            let Some(target) = targets.get_ptr(0).filter(|_| alone) else { return Ok(None) };
            let mut node = (*target).val;
            while (*node).type_ == pg_sys::NodeTag::T_TypeCast {
                node = (*node.cast::<pg_sys::TypeCast>()).arg;
            }
            let constant = (*node).type_ == pg_sys::NodeTag::T_A_Const;
            Ok(Some(if constant { Expression::Constant } else { Expression::Other }))
        }
    })
    .unwrap_or_default()
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
    let lower = condition.to_lowercase();
    if ["now", "today", "tomorrow", "yesterday"].iter().any(|word| lower.contains(word)) {
        return false;
    }
    let parsed = attempt(|| {
        let select = statement(&format!("SELECT FROM t {condition}"))?.cast::<pg_sys::SelectStmt>();
        // SAFETY: the kind of the node is checked before any field of it is read.
        unsafe {
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
                return Ok(String::new());
            }
            let from = PgList::<pg_sys::Node>::from_pg((*select).fromClause);
            let only_where = from.len() == 1
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
    let tree = parsed.unwrap_or_default();
    let mut nodes = tree.split('{').skip(1).peekable();
    nodes.peek().is_some()
        && nodes.all(|node| {
            let tag: String = node.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            PLAIN.contains(&tag.as_str())
        })
}
