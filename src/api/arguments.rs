//! Arguments of SQL functions: texts, and NULL where it is not allowed.

use crate::backend::encoding;
use crate::error::{Error, Result};
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{pg_sys, FromDatum, PgLogLevel};
use std::ops::Deref;

/// A text. One that this database's encoding does not allow is an ordinary error.
pub struct Text(String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Text> {
        if is_null {
            return None;
        }
        // SAFETY: the caller gives a datum of type text.
        let bytes = unsafe { <&[u8]>::from_polymorphic_datum(datum, false, oid)? };
        match encoding::text(bytes, "an argument") {
            Ok(text) => Some(Text(text)),
            Err(error) => {
                ErrorReport::from(error).report(PgLogLevel::ERROR);
                None
            }
        }
    }
}

// SAFETY: an element of an array of texts, which is copied.
unsafe impl UnboxDatum for Text {
    type As<'src> = Text;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> Text
    where
        Self: 'src,
    {
        // SAFETY: as above.
        let text = unsafe { Text::from_datum(datum.sans_lifetime(), false) };
        text.unwrap_or(Text(String::new()))
    }
}

// SAFETY: the argument is a text, which is copied.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Text {
        // SAFETY: as above. An argument that must not be NULL is not.
        unsafe { arg.unbox_arg_using_from_datum().unwrap_or(Text(String::new())) }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Text> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: `text` is what functions that take it declare.
unsafe impl SqlTranslatable for Text {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Text);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: std::result::Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("TEXT"));
    const RETURN_SQL: std::result::Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("TEXT")));
}

/// An argument that may be left out, and must not be NULL.
pub trait Given<T> {
    /// # Errors
    /// NullArgument, with its name.
    fn given(self, name: &'static str) -> Result<T>;
}

impl<T> Given<T> for Option<T> {
    fn given(self, name: &'static str) -> Result<T> {
        self.ok_or(Error::NullArgument { name, element: false })
    }
}

/// The texts of an array.
pub type Texts = Vec<Option<Text>>;

/// The texts of an array that may be NULL, none of which must be.
///
/// # Errors
/// NullArgument, with its name.
pub fn strings(texts: Option<Texts>, name: &'static str) -> Result<Option<Vec<String>>> {
    let text = |text: Option<Text>| text.map(|text| text.0).ok_or(Error::NullArgument { name, element: true });
    texts.map(|texts| texts.into_iter().map(text).collect()).transpose()
}

/// An argument that a later release has added at the end of the list, by its position.
pub struct Later<const PLACE: usize, T> {
    value: Option<T>,
    /// Whether the catalog is that of a release which has it.
    is_there: bool,
}

impl<const PLACE: usize, T> Later<PLACE, T> {
    pub fn value(self) -> Option<T> {
        self.value
    }

    /// The same where it must not be NULL; `default` where the catalog does not have it.
    ///
    /// # Errors
    /// NullArgument, with its name.
    pub fn given_or(self, default: T, name: &'static str) -> Result<T> {
        if self.is_there {
            self.value.given(name)
        } else {
            Ok(default)
        }
    }
}

// SAFETY: asks for no argument of its own, and reads one that is there, of the type that the function declares.
unsafe impl<'fcx, const PLACE: usize, T: FromDatum> ArgAbi<'fcx> for Later<PLACE, T> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe {
            let call = <pg_sys::FunctionCallInfo as ArgAbi>::unbox_arg_unchecked(arg);
            let is_there = PLACE < usize::try_from((*call).nargs).unwrap_or_default();
            Later { value: if is_there { pgrx::pg_getarg(call, PLACE) } else { None }, is_there }
        }
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

// SAFETY: declared as what it holds.
unsafe impl<const PLACE: usize, T: SqlTranslatable> SqlTranslatable for Later<PLACE, T> {
    const TYPE_IDENT: &'static str = T::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = T::TYPE_ORIGIN;
    const ARGUMENT_SQL: std::result::Result<SqlMappingRef, ArgumentError> = T::ARGUMENT_SQL;
    const RETURN_SQL: std::result::Result<ReturnsRef, ReturnsError> = T::RETURN_SQL;
}
