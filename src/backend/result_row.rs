//! Returning one record from a function with OUT parameters.

use crate::error::{Error, Result};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

/// The record that a call returns.
pub struct ResultRow(pg_sys::Datum);

impl ResultRow {
    /// A value for each OUT parameter, in their order and of their types.
    pub fn of(call: pg_sys::FunctionCallInfo, values: Vec<Option<pg_sys::Datum>>) -> Result<ResultRow> {
        let mut description: pg_sys::TupleDesc = std::ptr::null_mut();
        // SAFETY: `call` is the call that is under way; on success the description is made in the current memory context.
        let class = unsafe { pg_sys::get_call_result_type(call, std::ptr::null_mut(), &mut description) };
        // SAFETY: on success it is there.
        let fits = || values.len() == unsafe { (*description).natts } as usize;
        if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || !fits() {
            return Err(Error::Internal("the function is not declared to return this record".to_string()));
        }
        let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let mut values: Vec<_> = values.into_iter().map(|value| value.unwrap_or(pg_sys::Datum::null())).collect();
        // SAFETY: both arrays are as long as the description says, and the values were made from the types of the parameters.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr());
            Ok(ResultRow(pg_sys::heap_copy_tuple_as_datum(tuple, description)))
        }
    }
}

// SAFETY: the datum is a composite one in the memory context of the call.
unsafe impl BoxRet for ResultRow {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: `record` is what functions that return it declare.
unsafe impl SqlTranslatable for ResultRow {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(ResultRow);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: std::result::Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("record"));
    const RETURN_SQL: std::result::Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}
