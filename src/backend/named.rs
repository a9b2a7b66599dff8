//! What definitions name, of which the parser has made a tree: functions, operators, operator classes and types.
//!
//! Whatever walks a tree here does so under one guard: an error that PostgreSQL raises in the middle of a recursion through guards
//! of pgrx would end the whole server.

use crate::backend::compat::{self, unguarded};
use crate::error::{Error, Result};
use pgrx::{pg_sys, PgList};
use std::ffi::CStr;
use std::os::raw::c_void;

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

/// What PostgreSQL calls with each node of a tree, and a pointer to the nodes found so far; true ends the walk.
type Visit = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

/// The nodes of a tree, in no order. One guard is around the whole walk, and nothing in it owns anything.
///
/// # Safety
/// A node of the kind of tree that `visit` walks, or null.
unsafe fn walk(node: *mut pg_sys::Node, visit: Visit) -> Vec<*mut pg_sys::Node> {
    let mut found: Vec<*mut pg_sys::Node> = Vec::new();
    let to = (&raw mut found).cast::<c_void>();
    // SAFETY: as the caller has promised.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| visit(node, to)) };
    found
}

/// Notes a node; false if there is none.
///
/// # Safety
/// `found` as `walk` has given it.
unsafe fn note(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if !node.is_null() {
        // SAFETY: as the caller has promised.
        unsafe { (*found.cast::<Vec<*mut pg_sys::Node>>()).push(node) };
    }
    !node.is_null()
}

/// The nodes of a tree of the parser's.
///
/// # Safety
/// A node of the parser's, or null.
unsafe fn raw_nodes(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    /// # Safety
    /// The walker gives a node of its tree, and `found` as it was given.
    unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
        // A subquery is refused, so what is in it need not be visited.
        // SAFETY: as the caller has promised.
        unsafe {
            note(node, found)
                && (*node).type_ != pg_sys::NodeTag::T_SubLink
                && unguarded::raw_expression_tree_walker(node, visit, found)
        }
    }
    // SAFETY: as the caller has promised.
    unsafe { walk(node, visit) }
}

/// The nodes of an analysed expression.
///
/// # Safety
/// An expression, or a list of expressions.
pub unsafe fn nodes(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    /// # Safety
    /// The walker gives a node of its tree, and `found` as it was given.
    unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
        // SAFETY: as the caller has promised.
        unsafe { note(node, found) && unguarded::expression_tree_walker(node, visit, found) }
    }
    // SAFETY: as the caller has promised.
    unsafe { walk(node, visit) }
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
