//! The methods, and how they differ.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Snapshot,
    Table,
    Inserter,
    Updater,
    Dml,
    Logdel,
}

/// What a method is called, and what it needs and keeps. A further method is a row of `METHODS`, and a folder beside those of the others.
pub struct Facts {
    method: Method,
    pub name: &'static str,
    /// The word with which 1.x began its messages.
    pub title: &'static str,
    /// As 1.x named its jobs in pg_jobmon.
    pub jobmon_title: &'static str,
    /// What refresh_config.type holds.
    pub types: &'static [&'static str],
    pub maker: &'static str,
    pub refresher: &'static str,
    pub destroyer: &'static str,
    /// Rows are found by a key.
    pub by_key: bool,
    /// Rows are taken by a control column.
    pub by_control: bool,
    /// There is a queue on the source, with triggers that fill it.
    pub has_queue: bool,
    /// Rows that are gone on the source stay here.
    pub keeps_gone: bool,
}

const METHODS: [Facts; 6] = [
    Facts {
        method: Method::Snapshot,
        name: "snapshot",
        title: "Snapshot",
        jobmon_title: "Snap",
        types: &["snap"],
        maker: "snapshot_maker",
        refresher: "refresh_snapshot",
        destroyer: "snapshot_destroyer",
        by_key: false,
        by_control: false,
        has_queue: false,
        keeps_gone: false,
    },
    Facts {
        method: Method::Table,
        name: "table",
        title: "Table",
        jobmon_title: "Table",
        types: &["table"],
        maker: "table_maker",
        refresher: "refresh_table",
        destroyer: "table_destroyer",
        by_key: false,
        by_control: false,
        has_queue: false,
        keeps_gone: false,
    },
    Facts {
        method: Method::Inserter,
        name: "inserter",
        title: "Inserter",
        jobmon_title: "Inserter",
        types: &["inserter_time", "inserter_serial"],
        maker: "inserter_maker",
        refresher: "refresh_inserter",
        destroyer: "inserter_destroyer",
        by_key: false,
        by_control: true,
        has_queue: false,
        keeps_gone: true,
    },
    Facts {
        method: Method::Updater,
        name: "updater",
        title: "Updater",
        jobmon_title: "Updater",
        types: &["updater_time", "updater_serial"],
        maker: "updater_maker",
        refresher: "refresh_updater",
        destroyer: "updater_destroyer",
        by_key: true,
        by_control: true,
        has_queue: false,
        keeps_gone: true,
    },
    Facts {
        method: Method::Dml,
        name: "dml",
        title: "Dml",
        jobmon_title: "DML",
        types: &["dml"],
        maker: "dml_maker",
        refresher: "refresh_dml",
        destroyer: "dml_destroyer",
        by_key: true,
        by_control: false,
        has_queue: true,
        keeps_gone: false,
    },
    Facts {
        method: Method::Logdel,
        name: "logdel",
        title: "Logdel",
        jobmon_title: "Log Del",
        types: &["logdel"],
        maker: "logdel_maker",
        refresher: "refresh_logdel",
        destroyer: "logdel_destroyer",
        by_key: true,
        by_control: false,
        has_queue: true,
        keeps_gone: true,
    },
];

impl Method {
    pub fn facts(self) -> &'static Facts {
        // In the order of the enum, as a test makes sure.
        &METHODS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Of a type as refresh_config holds it.
    ///
    /// # Errors
    /// Internal.
    pub fn of(job_type: &str) -> Result<Method> {
        let found = METHODS.iter().find(|facts| facts.types.contains(&job_type));
        found
            .map(|facts| facts.method)
            .ok_or_else(|| Error::Internal(format!("refresh_config holds a job of type {job_type}")))
    }
}

/// refresh_config.type: the method, and for some the kind of the control column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobType {
    text: String,
    pub method: Method,
}

impl JobType {
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<'de> Deserialize<'de> for JobType {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<JobType, D::Error> {
        let text = String::deserialize(from)?;
        let method = Method::of(&text).map_err(serde::de::Error::custom)?;
        Ok(JobType { text, method })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_finds_its_own_facts() {
        for facts in &METHODS {
            assert_eq!(facts.method.name(), facts.name);
            for job_type in facts.types {
                assert_eq!(Method::of(job_type).unwrap(), facts.method);
            }
        }
        assert!(Method::of("snapshot").is_err());
    }

    #[test]
    fn a_queue_holds_keys() {
        assert!(METHODS.iter().all(|facts| facts.by_key || !facts.has_queue));
    }
}
