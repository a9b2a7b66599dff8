//! Values of 16 bytes in the order of their bytes, of which there may be more than memory holds: PostgreSQL's sort, which continues in
//! temporary files.

use crate::backend::compat::{self, unguarded};
use pgrx::pg_sys;

/// As many values are read before what they have taken of memory is given back.
const READ: u32 = 4096;

pub struct Sorter {
    sort: *mut pg_sys::Tuplesortstate,
    /// Where values live that are read.
    memory: pg_sys::MemoryContext,
    read: u32,
    count: u64,
}

impl Sorter {
    /// With so many kB of memory.
    pub fn new(memory: i32) -> Sorter {
        // SAFETY: it is dropped in the (sub)transaction that has made it, whose end takes the rest if an error jumps over that.
        unsafe {
            Sorter {
                sort: compat::begin_uuid_sort(memory),
                memory: pg_sys::AllocSetContextCreateInternal(
                    pg_sys::CurrentMemoryContext,
                    c"mimeo sorted values".as_ptr(),
                    0,
                    8 * 1024,
                    8 * 1024 * 1024,
                ),
                read: 0,
                count: 0,
            }
        }
    }

    /// How many values were put in.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn put(&mut self, value: &[u8; 16]) {
        // SAFETY: the guard is around it.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| self.put_unguarded(value)) }
    }

    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    pub unsafe fn put_unguarded(&mut self, value: &[u8; 16]) {
        // SAFETY: as the caller has promised; the value is copied.
        unsafe { unguarded::tuplesort_putdatum(self.sort, pg_sys::Datum::from(value.as_ptr()), false) };
        self.count += 1;
    }

    /// When all values are in.
    pub fn sort(&mut self) {
        // SAFETY: sorts what was put in.
        unsafe { pg_sys::tuplesort_performsort(self.sort) };
    }

    /// The next value, once they are sorted.
    pub fn next(&mut self) -> Option<[u8; 16]> {
        // SAFETY: the values are sorted; each is copied before the next is read.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            let found = compat::next_uuid(self.sort).map(|value| value.cast_mut_ptr::<[u8; 16]>().read());
            pg_sys::MemoryContextSwitchTo(outer);
            self.read += 1;
            if self.read == READ {
                self.read = 0;
                pg_sys::MemoryContextReset(self.memory);
            }
            found
        }
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nothing of it is used after this.
            unsafe {
                pg_sys::tuplesort_end(self.sort);
                pg_sys::MemoryContextDelete(self.memory);
            }
        }
    }
}
