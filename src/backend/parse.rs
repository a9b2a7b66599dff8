//! PostgreSQL's own parser, for text that must not be run as it is: what comes out of it is checked, put into a statement's parse
//! tree, and run as that.
//!
//! Whatever walks a tree here does so under one guard: an error that PostgreSQL raises in the middle of a recursion through guards
//! of pgrx would end the whole server.

use crate::backend::compat::{self, unguarded};
use crate::backend::foreign_text::ForeignText;
use crate::backend::subtransaction::{attempt, tried};
use crate::error::{Error, Result};
use pgrx::{pg_sys, PgBox, PgList};
use std::ffi::{CStr, CString};
use std::os::raw::c_void;

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

/// The names in a tree of the parser: schema, if there is one, and name.
#[derive(Debug, Default, serde::Serialize)]
pub struct Named {
    pub functions: Vec<(Option<String>, String)>,
    pub operators: Vec<(Option<String>, String)>,
    pub operator_classes: Vec<(Option<String>, String)>,
    /// OIDs of the types that exist.
    #[serde(skip)]
    pub types: Vec<u32>,
}

impl Named {
    /// Adds the names in an expression.
    ///
    /// # Errors
    /// Definition, if it contains something that no definition of a column or index contains; Postgres if it is too deep after all.
    ///
    /// # Safety
    /// A node of the parser's.
    pub unsafe fn add(&mut self, node: *mut pg_sys::Node) -> Result<()> {
        // SAFETY: as the caller has promised.
        unsafe {
            for node in raw_nodes(node) {
                match (*node).type_ {
                    pg_sys::NodeTag::T_FuncCall => {
                        require_moderate(node.cast())?;
                        self.functions.push(qualified((*node.cast::<pg_sys::FuncCall>()).funcname)?);
                    }
                    pg_sys::NodeTag::T_A_Expr => {
                        self.operators.push(qualified((*node.cast::<pg_sys::A_Expr>()).name)?);
                    }
                    pg_sys::NodeTag::T_TypeName => {
                        require_short((*node.cast::<pg_sys::TypeName>()).typmods)?;
                        self.types.extend(type_oid(node.cast())?);
                    }
                    pg_sys::NodeTag::T_SubLink => return Err(Error::Definition("it holds a subquery".to_string())),
                    pg_sys::NodeTag::T_ParamRef => return Err(Error::Definition("it holds a parameter".to_string())),
                    _ => {}
                }
            }
            Ok(())
        }
    }

    /// Adds the names in a CREATE INDEX.
    ///
    /// # Errors
    /// As `add`.
    ///
    /// # Safety
    /// The parser's.
    pub unsafe fn add_index(&mut self, statement: *mut pg_sys::IndexStmt) -> Result<()> {
        // SAFETY: as the caller has promised.
        unsafe {
            for element in PgList::<pg_sys::IndexElem>::from_pg((*statement).indexParams).iter_ptr() {
                if !(*element).opclass.is_null() {
                    self.operator_classes.push(qualified((*element).opclass)?);
                }
                self.add((*element).expr)?;
            }
            if !(*statement).excludeOpNames.is_null() {
                return Err(Error::Definition("it is the index of an exclusion constraint".to_string()));
            }
            self.add((*statement).whereClause)
        }
    }
}

/// Length of a text that an expression of a source may create by a length argument, at most.
const LONGEST_VALUE: i32 = 10_000;

/// Refuses calls that create a long text by a length argument: nested, they use up all memory when the planner evaluates constant
/// expressions, and most of them cannot be cancelled.
///
/// # Safety
/// A node of the parser's.
unsafe fn require_moderate(call: *mut pg_sys::FuncCall) -> Result<()> {
    // SAFETY: as the caller has promised.
    unsafe {
        let (_, name) = qualified((*call).funcname)?;
        let length = match name.as_str() {
            "repeat" | "lpad" | "rpad" => PgList::<pg_sys::Node>::from_pg((*call).args).get_ptr(1),
            "array_fill" => None,
            _ => return Ok(()),
        };
        match length.and_then(|node| integer(node)) {
            Some(length) if length <= LONGEST_VALUE => Ok(()),
            _ => Err(Error::Definition(format!(
                "it calls function \"{name}\" with a length that is not a number up to {LONGEST_VALUE}"
            ))),
        }
    }
}

/// Refuses types with a large length.
///
/// # Safety
/// A list of the parser's, or null.
unsafe fn require_short(lengths: *mut pg_sys::List) -> Result<()> {
    // SAFETY: as the caller has promised.
    unsafe {
        let is_long = |node| integer(node).is_some_and(|length| length > LONGEST_VALUE * 10);
        if PgList::<pg_sys::Node>::from_pg(lengths).iter_ptr().any(is_long) {
            return Err(Error::Definition(format!(
                "it names a type with a length of more than {}",
                LONGEST_VALUE * 10
            )));
        }
        Ok(())
    }
}

/// The value of a constant that is an integer.
///
/// # Safety
/// A node of the parser's.
unsafe fn integer(node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: as the caller has promised.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_A_Const {
            return None;
        }
        compat::integer_value(node.cast())
    }
}

/// The nodes of a tree of the parser's, in no order. One guard is around the whole walk, and nothing in it owns anything.
///
/// # Safety
/// A node of the parser's, or null.
unsafe fn raw_nodes(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: as the caller has promised.
    unsafe {
        /// # Safety
        /// The walker gives a node of its tree, and `found` as it was given.
        unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
            // SAFETY: as the caller has promised.
            unsafe {
                if node.is_null() {
                    return false;
                }
                (*found.cast::<Vec<*mut pg_sys::Node>>()).push(node);
                // A subquery is refused, so what is in it need not be visited.
                (*node).type_ != pg_sys::NodeTag::T_SubLink && unguarded::raw_expression_tree_walker(node, visit, found)
            }
        }
        let mut found: Vec<*mut pg_sys::Node> = Vec::new();
        let to = (&raw mut found).cast::<c_void>();
        pg_sys::ffi::pg_guard_ffi_boundary(|| visit(node, to));
        found
    }
}

/// The nodes of an analysed expression, in no order.
///
/// # Safety
/// An expression, or a list of expressions.
pub unsafe fn nodes(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: as the caller has promised.
    unsafe {
        /// # Safety
        /// The walker gives a node of its tree, and `found` as it was given.
        unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
            // SAFETY: as the caller has promised.
            unsafe {
                if node.is_null() {
                    return false;
                }
                (*found.cast::<Vec<*mut pg_sys::Node>>()).push(node);
                unguarded::expression_tree_walker(node, visit, found)
            }
        }
        let mut found: Vec<*mut pg_sys::Node> = Vec::new();
        let to = (&raw mut found).cast::<c_void>();
        pg_sys::ffi::pg_guard_ffi_boundary(|| visit(node, to));
        found
    }
}

/// A list of strings: schema and name, or a name.
///
/// # Safety
/// A list of the parser's.
unsafe fn qualified(list: *mut pg_sys::List) -> Result<(Option<String>, String)> {
    // SAFETY: as the caller has promised.
    unsafe {
        let parts: Vec<String> = PgList::<pg_sys::Node>::from_pg(list)
            .iter_ptr()
            .filter(|node| (**node).type_ == pg_sys::NodeTag::T_String)
            .map(|node| CStr::from_ptr(compat::string_value(node)).to_string_lossy().into_owned())
            .collect();
        match parts.as_slice() {
            [name] => Ok((None, name.clone())),
            [schema, name] => Ok((Some(schema.clone()), name.clone())),
            _ => Err(Error::Definition("a name in it has more than two parts".to_string())),
        }
    }
}

/// The type of that name, if it is there.
///
/// # Safety
/// A node of the parser's.
unsafe fn type_oid(name: *mut pg_sys::TypeName) -> Result<Option<u32>> {
    // SAFETY: as the caller has promised.
    unsafe {
        if (*name).setof || (*name).pct_type {
            return Err(Error::Definition("it names a type in a way that no catalog prints".to_string()));
        }
        if (*name).names.is_null() {
            return Ok(Some((*name).typeOid.to_u32()));
        }
        let oid = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true);
        Ok((oid != pg_sys::InvalidOid).then(|| oid.to_u32()))
    }
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
