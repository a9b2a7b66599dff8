//! Connections that the jobs of one call share, so that many small jobs of one source do not each have to connect. Nothing is
//! kept beyond the call.

use crate::source::libpq::Link;
use std::cell::RefCell;

/// More are closed: each has a descriptor.
const MOST: usize = 8;

/// A connection between two jobs: no transaction is open on it.
struct Kept {
    /// What it was opened with: keywords and values.
    parameters: Vec<(String, String)>,
    link: Link,
}

thread_local! {
    static KEPT: RefCell<Option<Vec<Kept>>> = const { RefCell::new(None) };
}

/// Connections that `body` opens are used again as long as it runs.
pub fn sharing<T>(body: impl FnOnce() -> T) -> T {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            for mut kept in KEPT.take().into_iter().flatten() {
                kept.link.expect_nothing();
            }
        }
    }
    KEPT.set(Some(Vec::new()));
    let _end = End;
    body()
}

/// One that was opened with these parameters, its last transaction being rolled back: the answer to that is still to be read.
pub(super) fn take(parameters: &[(String, String)]) -> Option<Link> {
    KEPT.with_borrow_mut(|kept| {
        let kept = kept.as_mut()?;
        let position = kept.iter().position(|kept| kept.parameters == parameters)?;
        Some(kept.swap_remove(position).link)
    })
}

/// Keeps a connection for the next job, or closes it.
pub(super) fn give(parameters: &[(String, String)], mut link: Link) {
    KEPT.with_borrow_mut(|kept| {
        if let Some(kept) = kept.as_mut().filter(|kept| kept.len() < MOST) {
            if link.begin_rollback() {
                kept.push(Kept { parameters: parameters.to_vec(), link });
            }
        }
    });
}
