//! Connecting, step by step, each in a thread of its own that can be abandoned: libpq computes as many iterations of SCRAM as the server
//! asks for, which can take many minutes, and it does not check for a cancel meanwhile.

use pq_sys as pq;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::raw::c_int;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

/// A value that PQconnectPoll never returns.
const RUNNING: i32 = -1;
const LEFT_ALONE: i32 = -2;

/// Threads that have not ended.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// What a thread shares with the backend that waits for it.
struct Step {
    state: AtomicI32,
    /// Can be read when the step is done.
    done: File,
}

/// Starts a thread that runs no handler of a signal: these stay with the backend's own thread.
pub(super) fn spawn(body: impl FnOnce() + Send + 'static) -> bool {
    // SAFETY: plain libc calls on local sets. A new thread inherits the mask, which blocks all there.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let started = std::thread::Builder::new().stack_size(1024 * 1024).spawn(body).is_ok();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        started
    }
}

/// PQconnectPoll, while `wait` waits until the descriptor that it is given can be read. If that returns false, or raises an error, the
/// thread is abandoned with the connection, which is null from then on, and closes it in the end. None then, and if there is no thread.
pub(super) fn connect_poll(
    connection: &mut *mut pq::PGconn,
    mut wait: impl FnMut(c_int) -> bool,
) -> Option<pq::PostgresPollingStatusType> {
    struct Connection(*mut pq::PGconn);
    // SAFETY: libpq lets any thread use a connection that no other one uses meanwhile.
    unsafe impl Send for Connection {}
    struct Waiting<'a>(&'a Step, &'a mut *mut pq::PGconn);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            // SAFETY: asks an existing connection, and shuts its socket, so that no step goes on with the server.
            unsafe {
                let socket = pq::PQsocket(*self.1);
                let state = &self.0.state;
                if state.compare_exchange(RUNNING, LEFT_ALONE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    libc::shutdown(socket, libc::SHUT_RDWR);
                    *self.1 = std::ptr::null_mut();
                }
            }
        }
    }

    end_without_libraries();
    // SAFETY: a new descriptor, which the file owns.
    let done = unsafe {
        let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if descriptor < 0 {
            return None;
        }
        File::from_raw_fd(descriptor)
    };
    let step = Arc::new(Step { state: AtomicI32::new(RUNNING), done });
    let (of_thread, shared) = (Connection(*connection), step.clone());
    THREADS.fetch_add(1, Ordering::AcqRel);
    let started = spawn(move || {
        let of_thread = of_thread;
        // SAFETY: nobody else uses the connection until this reports that it is done; after the thread was abandoned, nobody does.
        unsafe {
            let result = pq::PQconnectPoll(of_thread.0) as i32;
            let state = &shared.state;
            if state.compare_exchange(RUNNING, result, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let _ = (&shared.done).write_all(&1u64.to_ne_bytes());
            } else {
                pq::PQfinish(of_thread.0);
            }
        }
        THREADS.fetch_sub(1, Ordering::AcqRel);
    });
    if !started {
        THREADS.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    let descriptor = step.done.as_raw_fd();
    let waiting = Waiting(&step, connection);
    while step.state.load(Ordering::Acquire) == RUNNING {
        if !wait(descriptor) && step.state.load(Ordering::Acquire) == RUNNING {
            break;
        }
    }
    drop(waiting);
    use pq::PostgresPollingStatusType as Polling;
    let state = step.state.load(Ordering::Acquire);
    [
        Polling::PGRES_POLLING_FAILED,
        Polling::PGRES_POLLING_READING,
        Polling::PGRES_POLLING_WRITING,
        Polling::PGRES_POLLING_OK,
    ]
    .into_iter()
    .find(|polling| *polling as i32 == state)
}

/// exit() takes libraries down, OpenSSL among them, while a thread may still be in them: the backend would crash, and take all others
/// with it. All that PostgreSQL does at the end of a backend in shared memory has been done when this comes.
fn end_without_libraries() {
    /// # Safety
    /// PostgreSQL calls it when the backend exits.
    unsafe extern "C-unwind" fn at_exit(code: c_int, _: pgrx::pg_sys::Datum) {
        // SAFETY: as the caller has promised.
        unsafe {
            if THREADS.load(Ordering::Acquire) > 0 {
                libc::_exit(code);
            }
        }
    }
    static REGISTERED: Once = Once::new();
    // SAFETY: registers a function, once.
    REGISTERED.call_once(|| unsafe { pgrx::pg_sys::on_proc_exit(Some(at_exit), pgrx::pg_sys::Datum::from(0)) });
}
