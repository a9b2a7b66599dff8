//! The settings (GUCs) of mimeo.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::time::Duration;

static SWAP_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(100);
static SWAP_MAX_WAIT: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static WRITER_WAIT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static DELTA_LIMIT_PERCENT: GucSetting<i32> = GucSetting::<i32>::new(30);
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10);
static TCP_USER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static KEEPALIVES_IDLE: GucSetting<i32> = GucSetting::<i32>::new(30);
static HISTORY_KEEP: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 60);
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);

/// None is for ever.
pub fn history_keep() -> Option<Duration> {
    u64::try_from(HISTORY_KEEP.get()).ok().map(|minutes| Duration::from_secs(60 * minutes))
}

/// The databases whose jobs the scheduler runs: names as in a search_path, separated by commas.
pub fn databases() -> String {
    DATABASES.get().map(|names| names.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn naptime() -> Duration {
    Duration::from_secs(NAPTIME.get() as u64)
}

/// Of the scheduler, in one database.
pub fn max_workers() -> usize {
    MAX_WORKERS.get() as usize
}

pub fn swap_lock_timeout() -> Duration {
    Duration::from_millis(SWAP_LOCK_TIMEOUT.get() as u64)
}

pub fn swap_max_wait() -> Duration {
    Duration::from_millis(SWAP_MAX_WAIT.get() as u64)
}

pub fn writer_wait() -> Duration {
    Duration::from_millis(WRITER_WAIT.get() as u64)
}

/// Of a snapshot's rows: when more of them have changed, all are copied.
pub fn delta_limit_percent() -> u64 {
    DELTA_LIMIT_PERCENT.get() as u64
}

pub fn connect_timeout() -> Duration {
    Duration::from_secs(CONNECT_TIMEOUT.get() as u64)
}

pub fn tcp_user_timeout() -> Duration {
    Duration::from_millis(TCP_USER_TIMEOUT.get() as u64)
}

pub fn keepalives_idle() -> Duration {
    Duration::from_secs(KEEPALIVES_IDLE.get() as u64)
}

pub fn register() {
    register_refresh();
    register_schedule();
}

/// Settings that are set in postgresql.conf, or by a superuser only.
fn register_schedule() {
    GucRegistry::define_int_guc(
        c"mimeo.history_keep",
        c"How long the rows of run_history are kept.",
        c"-1 keeps them forever.",
        &HISTORY_KEEP,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_string_guc(
        c"mimeo.databases",
        c"The databases in which the scheduler runs the jobs that are due.",
        c"Names separated by commas. The scheduler needs mimeo in shared_preload_libraries.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    let int = |name, short, long, setting: &'static GucSetting<i32>, max, flags| {
        GucRegistry::define_int_guc(name, short, long, setting, 1, max, GucContext::Sighup, flags);
    };
    int(
        c"mimeo.naptime",
        c"How often the scheduler looks for jobs that are due.",
        c"",
        &NAPTIME,
        i32::MAX / 1000,
        GucFlags::UNIT_S,
    );
    int(
        c"mimeo.max_workers",
        c"How many background workers the scheduler has in one database at most.",
        c"A round that is not over when the next one begins keeps its worker.",
        &MAX_WORKERS,
        1024,
        GucFlags::default(),
    );
}

/// Settings that a refresh uses.
fn register_refresh() {
    let int = |name, short, long, setting: &'static GucSetting<i32>, min, max, flags| {
        GucRegistry::define_int_guc(name, short, long, setting, min, max, GucContext::Userset, flags);
    };
    int(
        c"mimeo.swap_lock_timeout",
        c"How long one attempt to swap a view may wait in the queue of the lock.",
        c"Readers that come meanwhile wait behind it for at most this long.",
        &SWAP_LOCK_TIMEOUT,
        1,
        60_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"mimeo.swap_max_wait",
        c"How long a refresh tries to swap a view, or to get the idle twin, before it fails.",
        c"The old data stays live all the time.",
        &SWAP_MAX_WAIT,
        0,
        i32::MAX,
        GucFlags::UNIT_MS,
    );
    int(
        c"mimeo.writer_wait",
        c"How long an inserter or updater waits for transactions that are writing to the source table.",
        c"After that it goes only as far as it is proven that no row can be missed.",
        &WRITER_WAIT,
        0,
        3_600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"mimeo.delta_limit_percent",
        c"Of a snapshot with delta: when more of its rows than this have changed, in percent, all rows are copied.",
        c"0 copies all rows each time that anything has changed.",
        &DELTA_LIMIT_PERCENT,
        0,
        100,
        GucFlags::default(),
    );
    int(
        c"mimeo.connect_timeout",
        c"How long connecting to a source may take, for each of its hosts.",
        c"connect_timeout in the data source wins.",
        &CONNECT_TIMEOUT,
        1,
        3600,
        GucFlags::UNIT_S,
    );
    int(
        c"mimeo.tcp_user_timeout",
        c"How long data sent to a source may stay unacknowledged before the connection is given up.",
        c"tcp_user_timeout in the data source wins; 0 is the system's default.",
        &TCP_USER_TIMEOUT,
        0,
        i32::MAX,
        GucFlags::UNIT_MS,
    );
    int(
        c"mimeo.keepalives_idle",
        c"How long a connection to a source may be idle before TCP sends a keepalive message.",
        c"keepalives_idle in the data source wins; 0 is the system's default.",
        &KEEPALIVES_IDLE,
        0,
        i32::MAX / 1000,
        GucFlags::UNIT_S,
    );
}
