//! mimeo copies single tables from other PostgreSQL databases, by pulling.
//!
//! Floors, top to bottom: api → check, schedule → method → source | destination | job → shape, backend → error, settings.
//! Nothing imports upward, and source and destination do not know each other.

mod api;
mod backend;
mod check;
mod destination;
mod error;
mod job;
mod method;
#[cfg(feature = "pg_test")]
mod pg_tests;
mod schedule;
mod settings;
mod shape;
mod source;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
pgrx::extension_sql_file!("../sql/views.sql", name = "views", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    go_without_backtraces();
    settings::register();
    backend::compat::reserve_settings();
    // SAFETY: reads a variable.
    if unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress } {
        schedule::register();
    }
}

/// If the environment asks for a Rust backtrace, pgrx puts it into the DETAIL of every error, and so to clients, into the history and
/// to other backends. The standard library reads the environment once, in each library that has it built in.
fn go_without_backtraces() {
    const WANTED: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(WANTED);
    std::env::set_var(WANTED, "0");
    let _ = std::backtrace::Backtrace::capture();
    match before {
        Some(before) => std::env::set_var(WANTED, before),
        None => std::env::remove_var(WANTED),
    }
}

/// What `cargo pgrx test` asks for.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        Vec::new()
    }
}
