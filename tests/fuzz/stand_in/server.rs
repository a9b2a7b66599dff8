//! What the decoder calls in a server. Memory is what the address sanitizer watches: each piece has just the bytes that
//! were asked for.

use pgrx::pg_sys::{self, Datum, FmgrInfo, MemoryContext, Oid, StringInfo, StringInfoData, TupleDesc};
use std::cell::RefCell;
use std::os::raw::{c_char, c_int, c_void};

/// Types whose receive functions are told below. Those of all other types take any bytes.
pub const COUNTED: u32 = 50_001;
pub const NOT_NULL: u32 = 50_002;

/// An error that PostgreSQL would raise.
pub struct Raised;

fn raise() -> ! {
    std::panic::resume_unwind(Box::new(Raised))
}

thread_local! {
    /// The current memory context.
    static MEMORY: RefCell<Vec<*mut c_void>> = const { RefCell::new(Vec::new()) };
    /// A memory context that lasts as long as a decoder.
    static BUFFERS: RefCell<Vec<StringInfo>> = const { RefCell::new(Vec::new()) };
}

/// Ends what the values of a row live in.
pub fn reset_memory() {
    // SAFETY: they come from malloc, and are forgotten.
    MEMORY.with_borrow_mut(|memory| memory.drain(..).for_each(|piece| unsafe { libc::free(piece) }));
}

/// Ends what a decoder lives in.
pub fn reset_all() {
    reset_memory();
    BUFFERS.with_borrow_mut(|buffers| {
        for buffer in buffers.drain(..) {
            // SAFETY: makeStringInfo made it.
            unsafe {
                libc::free((*buffer).data.cast());
                drop(Box::from_raw(buffer));
            }
        }
    });
}

#[no_mangle]
pub static mut CurrentMemoryContext: MemoryContext = std::ptr::null_mut();
#[no_mangle]
pub static mut PG_exception_stack: *mut c_void = std::ptr::null_mut();
#[no_mangle]
pub static mut error_context_stack: *mut c_void = std::ptr::null_mut();

#[no_mangle]
unsafe extern "C-unwind" fn palloc(size: usize) -> *mut c_void {
    let piece = libc::malloc(size);
    MEMORY.with_borrow_mut(|memory| memory.push(piece));
    piece
}

#[no_mangle]
unsafe extern "C-unwind" fn pfree(piece: *mut c_void) {
    MEMORY.with_borrow_mut(|memory| memory.retain(|known| *known != piece));
    libc::free(piece);
}

#[no_mangle]
unsafe extern "C-unwind" fn CreateTupleDescCopyConstr(descriptor: TupleDesc) -> TupleDesc {
    let size = tuple_descriptor_size((*descriptor).natts as usize);
    let copy = palloc(size);
    std::ptr::copy_nonoverlapping(descriptor.cast::<u8>(), copy.cast::<u8>(), size);
    copy.cast()
}

pub fn tuple_descriptor_size(attributes: usize) -> usize {
    std::mem::offset_of!(pg_sys::TupleDescData, attrs)
        + attributes * std::mem::size_of::<pg_sys::FormData_pg_attribute>()
}

#[no_mangle]
unsafe extern "C-unwind" fn makeStringInfo() -> StringInfo {
    let buffer =
        Box::into_raw(Box::new(StringInfoData { data: libc::calloc(1, 1).cast(), len: 0, maxlen: 1, cursor: 0 }));
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    buffer
}

#[no_mangle]
unsafe extern "C-unwind" fn resetStringInfo(buffer: StringInfo) {
    ((*buffer).len, (*buffer).cursor) = (0, 0);
    (*buffer).data.write(0);
}

#[no_mangle]
unsafe extern "C-unwind" fn appendBinaryStringInfo(buffer: StringInfo, data: *const c_char, length: c_int) {
    let before = (*buffer).len as usize;
    let after = before + length as usize;
    (*buffer).data = libc::realloc((*buffer).data.cast(), after + 1).cast();
    std::ptr::copy_nonoverlapping(data, (*buffer).data.add(before), length as usize);
    (*buffer).data.add(after).write(0);
    ((*buffer).len, (*buffer).maxlen) = (after as c_int, after as c_int + 1);
}

#[no_mangle]
unsafe extern "C-unwind" fn pg_verifymbstr(text: *const c_char, length: c_int, no_error: bool) -> bool {
    let bytes = std::slice::from_raw_parts(text.cast::<u8>(), length as usize);
    let valid = std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
    if !valid && !no_error {
        raise();
    }
    valid
}

#[no_mangle]
unsafe extern "C-unwind" fn getTypeBinaryInputInfo(type_oid: Oid, function: *mut Oid, parameter: *mut Oid) {
    function.write(Oid::from(type_oid.to_u32() + 1));
    parameter.write(type_oid);
}

#[no_mangle]
unsafe extern "C-unwind" fn fmgr_info(function: Oid, info: *mut FmgrInfo) {
    (*info).fn_oid = function;
    (*info).fn_strict = function.to_u32() != NOT_NULL + 1;
}

/// The value is what was read, and the type's modifier behind it.
#[no_mangle]
unsafe extern "C-unwind" fn ReceiveFunctionCall(
    function: *mut FmgrInfo,
    buffer: StringInfo,
    parameter: Oid,
    typmod: i32,
) -> Datum {
    assert_eq!((*function).fn_oid.to_u32(), parameter.to_u32() + 1);
    if buffer.is_null() {
        assert!(!(*function).fn_strict);
        raise();
    }
    let (length, cursor) = ((*buffer).len as usize, (*buffer).cursor as usize);
    assert_eq!((cursor, (*buffer).data.add(length).read()), (0, 0));
    let bytes = std::slice::from_raw_parts((*buffer).data.cast::<u8>(), length);
    let read = if parameter.to_u32() == COUNTED {
        let Some((count, rest)) = bytes.split_first() else { raise() };
        let Some(read) = rest.get(..usize::from(*count)) else { raise() };
        (*buffer).cursor = c_int::from(*count) + 1;
        read
    } else {
        (*buffer).cursor = length as c_int;
        bytes
    };
    let size = read.len() + 8;
    let value = palloc(size).cast::<u8>();
    value.cast::<u32>().write((size as u32) << 2);
    std::ptr::copy_nonoverlapping(read.as_ptr(), value.add(4), read.len());
    value.add(4 + read.len()).cast::<i32>().write_unaligned(typmod);
    Datum::from(value)
}

/// What is linked, and not called: errors do not go through pgrx's guard.
macro_rules! not_called {
    ($($function:ident)*) => { $(
        #[no_mangle]
        extern "C" fn $function() {
            unreachable!(stringify!($function));
        }
    )* };
}

not_called!(CopyErrorData FreeErrorData FlushErrorState DecrTupleDescRefCount);
