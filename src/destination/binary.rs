//! COPY's binary format, decoded row by row. The most common types are read here without a call of their receive
//! functions, with the checks that these make; all others through them.

use crate::backend::compat::unguarded;
use crate::backend::row_version;
use pgrx::pg_sys;
use std::os::raw::{c_char, c_int};

/// Signature, flags and the length of an extension that is always 0.
const HEADER: usize = 19;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Microseconds and days since 2000: what PostgreSQL's types hold (datatype/timestamp.h).
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DATES: std::ops::Range<i32> = -2_451_545..2_145_031_949;

/// No value has more bytes (MaxAllocSize).
const LONGEST: i32 = 0x3fff_ffff;

/// The result of decoding a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Row,
    /// The data ends before the row does.
    Incomplete,
    /// The stream's trailer.
    End,
    Malformed,
}

/// How a column's values are read.
enum Reading {
    Bool,
    Bytes1,
    Bytes2,
    Bytes4,
    Bytes8,
    Date,
    Timestamp,
    Text,
    Binary,
    Uuid,
    Tid,
    Receive { function: pg_sys::FmgrInfo, parameter: pg_sys::Oid, typmod: i32 },
}

struct Field {
    /// Its index among the table's attributes, from 0.
    attribute: usize,
    reading: Reading,
}

pub struct Decoder {
    fields: Vec<Field>,
    attributes: usize,
    /// For receive functions, which want a buffer that ends with NUL.
    buffer: pg_sys::StringInfo,
    header_seen: bool,
}

impl Decoder {
    /// For a stream of these columns. None if the table has others, which would need their defaults.
    ///
    /// # Safety
    /// An open relation, or a type that exists.
    pub unsafe fn of(relation: pg_sys::Relation, columns: &[String]) -> Option<Decoder> {
        // SAFETY: as the caller has promised.
        unsafe {
            let descriptor = pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att);
            let present = descriptor.iter().filter(|attribute| !attribute.attisdropped).count();
            if present != columns.len() {
                return None;
            }
            let mut fields = Vec::with_capacity(columns.len());
            for column in columns {
                let attribute = descriptor.iter().position(|a| !a.attisdropped && a.name() == column)?;
                let of = descriptor.get(attribute)?;
                fields.push(Field { attribute, reading: Reading::of(of.atttypid, of.atttypmod) });
            }
            Some(Decoder { fields, attributes: descriptor.len(), buffer: pg_sys::makeStringInfo(), header_seen: false })
        }
    }

    /// Decodes the row that begins at `at` in `data`, and moves on behind it. Values that are not passed by value live in
    /// the current memory context. It owns nothing and does not panic, so that an error may jump over it.
    ///
    /// # Safety
    /// Both arrays have room for all attributes; memory for values is the current context's. Without a guard: see `compat::unguarded`.
    pub unsafe fn row(&mut self, data: &[u8], at: &mut usize, values: *mut pg_sys::Datum, nulls: *mut bool) -> Next {
        // SAFETY: as the caller has promised.
        unsafe {
            let mut cursor = Cursor { data, at: *at };
            if !self.header_seen {
                let Some(header) = cursor.take(HEADER) else { return Next::Incomplete };
                if !header.starts_with(SIGNATURE) || header.iter().skip(SIGNATURE.len()).any(|byte| *byte != 0) {
                    return Next::Malformed;
                }
                self.header_seen = true;
                *at = cursor.at;
            }
            let Some(count) = cursor.i16() else { return Next::Incomplete };
            if count == -1 {
                *at = cursor.at;
                return Next::End;
            }
            if count < 0 || count as usize != self.fields.len() {
                return Next::Malformed;
            }
            // First all of it has to be there: no value is decoded twice.
            let begin = cursor.at;
            for _ in 0..count {
                let Some(length) = cursor.i32() else { return Next::Incomplete };
                if !(-1..=LONGEST).contains(&length) {
                    return Next::Malformed;
                }
                if length > 0 && cursor.take(length as usize).is_none() {
                    return Next::Incomplete;
                }
            }
            let end = cursor.at;
            cursor.at = begin;
            for ordinal in 0..self.attributes {
                nulls.add(ordinal).write(true);
                values.add(ordinal).write(pg_sys::Datum::from(0));
            }
            for field in &mut self.fields {
                let Some(length) = cursor.i32() else { return Next::Malformed };
                if length < 0 {
                    if let Reading::Receive { function, parameter, typmod } = &mut field.reading {
                        // A domain may refuse NULL.
                        if !function.fn_strict {
                            unguarded::ReceiveFunctionCall(function, std::ptr::null_mut(), *parameter, *typmod);
                        }
                    }
                    continue;
                }
                let Some(bytes) = cursor.take(length as usize) else { return Next::Malformed };
                let Some(value) = field.reading.read(bytes, self.buffer) else { return Next::Malformed };
                values.add(field.attribute).write(value);
                nulls.add(field.attribute).write(false);
            }
            *at = end;
            Next::Row
        }
    }
}

impl Reading {
    /// # Safety
    /// An open relation, or a type that exists.
    unsafe fn of(type_oid: pg_sys::Oid, typmod: i32) -> Reading {
        // SAFETY: as the caller has promised.
        unsafe {
            // Values of eight bytes are passed by value.
            let native = cfg!(target_pointer_width = "64") && typmod < 0;
            match type_oid {
                pg_sys::BOOLOID => Reading::Bool,
                pg_sys::CHAROID => Reading::Bytes1,
                pg_sys::INT2OID => Reading::Bytes2,
                pg_sys::INT4OID | pg_sys::FLOAT4OID | pg_sys::OIDOID | pg_sys::XIDOID => Reading::Bytes4,
                pg_sys::INT8OID | pg_sys::FLOAT8OID if native => Reading::Bytes8,
                pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID if native => Reading::Timestamp,
                pg_sys::DATEOID => Reading::Date,
                pg_sys::TEXTOID => Reading::Text,
                pg_sys::VARCHAROID if typmod < 0 => Reading::Text,
                pg_sys::BYTEAOID => Reading::Binary,
                pg_sys::UUIDOID => Reading::Uuid,
                pg_sys::TIDOID => Reading::Tid,
                _ => {
                    let (mut receive, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                    let mut function = pg_sys::FmgrInfo::default();
                    pg_sys::getTypeBinaryInputInfo(type_oid, &mut receive, &mut parameter);
                    pg_sys::fmgr_info(receive, &mut function);
                    Reading::Receive { function, parameter, typmod }
                }
            }
        }
    }

    /// None if the bytes are not a value of the type.
    ///
    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    unsafe fn read(&mut self, bytes: &[u8], buffer: pg_sys::StringInfo) -> Option<pg_sys::Datum> {
        // SAFETY: as the caller has promised.
        unsafe {
            let four = || bytes.try_into().map(i32::from_be_bytes).ok();
            let eight = || bytes.try_into().map(i64::from_be_bytes).ok();
            Some(match self {
                Reading::Bool => pg_sys::Datum::from(*bytes.first().filter(|_| bytes.len() == 1)? != 0),
                Reading::Bytes1 => pg_sys::Datum::from(*bytes.first().filter(|_| bytes.len() == 1)? as i8),
                Reading::Bytes2 => pg_sys::Datum::from(bytes.try_into().map(i16::from_be_bytes).ok()?),
                Reading::Bytes4 => pg_sys::Datum::from(four()?),
                Reading::Bytes8 => pg_sys::Datum::from(eight()?),
                Reading::Date => {
                    let days = four().filter(|days| DATES.contains(days) || [i32::MIN, i32::MAX].contains(days))?;
                    pg_sys::Datum::from(days)
                }
                Reading::Timestamp => {
                    let time =
                        eight().filter(|time| TIMESTAMPS.contains(time) || [i64::MIN, i64::MAX].contains(time))?;
                    pg_sys::Datum::from(time)
                }
                Reading::Text => {
                    // It raises the error that the receive function would raise.
                    unguarded::pg_verifymbstr(bytes.as_ptr().cast::<c_char>(), bytes.len() as c_int, false);
                    varlena(bytes)
                }
                Reading::Binary => varlena(bytes),
                Reading::Uuid => {
                    if bytes.len() != 16 {
                        return None;
                    }
                    let copy = unguarded::palloc(16).cast::<u8>();
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, 16);
                    pg_sys::Datum::from(copy)
                }
                Reading::Tid => {
                    let block = bytes.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)?;
                    let offset = bytes.get(4..).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)?;
                    let copy = unguarded::palloc(std::mem::size_of::<pg_sys::ItemPointerData>());
                    copy.cast::<pg_sys::ItemPointerData>().write(row_version::tid(block, offset));
                    pg_sys::Datum::from(copy)
                }
                Reading::Receive { function, parameter, typmod } => {
                    unguarded::resetStringInfo(buffer);
                    unguarded::appendBinaryStringInfo(buffer, bytes.as_ptr().cast(), bytes.len() as c_int);
                    let value = unguarded::ReceiveFunctionCall(function, buffer, *parameter, *typmod);
                    if (*buffer).cursor != (*buffer).len {
                        return None;
                    }
                    value
                }
            })
        }
    }
}

/// A copy with a length word in front; a short one has it in one byte, as the heap stores it.
fn varlena(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: reads and copies bytes.
    unsafe {
        let size = bytes.len() + pg_sys::VARHDRSZ;
        let copy = unguarded::palloc(size).cast::<pg_sys::varlena>();
        pgrx::set_varsize_4b(copy, size as i32);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast::<u8>().add(pg_sys::VARHDRSZ), bytes.len());
        pg_sys::Datum::from(copy)
    }
}

/// A position in a stream, of which some has come.
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.data.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().map(i16::from_be_bytes).ok()
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().map(i32::from_be_bytes).ok()
    }
}
