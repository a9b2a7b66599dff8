//! The settings (GUCs) of mimeo.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::time::Duration;

static SWAP_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(100);
static SWAP_MAX_WAIT: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static WRITER_WAIT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10);
static TCP_USER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static KEEPALIVES_IDLE: GucSetting<i32> = GucSetting::<i32>::new(30);

pub fn swap_lock_timeout() -> Duration {
    Duration::from_millis(SWAP_LOCK_TIMEOUT.get() as u64)
}

pub fn swap_max_wait() -> Duration {
    Duration::from_millis(SWAP_MAX_WAIT.get() as u64)
}

pub fn writer_wait() -> Duration {
    Duration::from_millis(WRITER_WAIT.get() as u64)
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
    let int = |name, short, long, setting: &'static GucSetting<i32>, min, max, flags| {
        GucRegistry::define_int_guc(name, short, long, setting, min, max, GucContext::Userset, flags);
    };
    int(
        c"mimeo.swap_lock_timeout",
        c"How long one try to swap a view may stand in the lock's queue.",
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
        c"How long a connection to a source may be silent before TCP asks whether it still lives.",
        c"keepalives_idle in the data source wins; 0 is the system's default.",
        &KEEPALIVES_IDLE,
        0,
        i32::MAX / 1000,
        GucFlags::UNIT_S,
    );
}
