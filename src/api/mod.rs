//! The SQL surface: one thin function per SQL function. Arguments in, an error report out; no logic.

mod arguments;
mod destroyers;
mod makers;
mod monitors;
mod refreshers;
mod schedule;
