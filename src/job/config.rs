//! The rows of refresh_config and dblink_mapping_mimeo. They are read and written by fixed statements, as the
//! owner of the tables, whoever calls.

use crate::backend::identity::{
    act_as, current_role, keeps_its_snapshot, role_name, role_named, role_of, system, Identity,
};
use crate::backend::moment::Moment;
use crate::backend::name::{readings, Name};
use crate::backend::relation;
use crate::backend::spi;
use crate::error::{Error, Result};
use crate::job::method::{JobType, Method};
use crate::job::renamed::Renamed;
use pgrx::datum::{DatumWithOid, JsonB};
use pgrx::pg_sys::Oid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What every job has, whatever its method.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// `schema.table`, as the row holds it.
    pub dest_table: String,
    /// The same, split into schema and name: the reading for which a relation exists, else the first.
    #[serde(skip, default = "nowhere")]
    pub destination: Name,
    pub source_table: String,
    #[serde(rename = "type")]
    pub kind: JobType,
    #[serde(rename = "dblink")]
    pub data_source_id: i32,
    pub filter: Option<Vec<String>>,
    pub condition: Option<String>,
    pub batch_limit: Option<i32>,
    pub jobmon: bool,
    pub check_stats: Option<bool>,
    pub post_script: Option<Vec<String>>,
    pub truncate_cascade: Option<bool>,
    pub sequences: Option<Vec<String>>,
    pub control: Option<String>,
    pub boundary: Option<String>,
    pub last_value: Option<String>,
    pub dst_active: Option<bool>,
    pub dst_start: Option<i32>,
    pub dst_end: Option<i32>,
    pub pk_name: Option<Vec<String>>,
    pub insert_on_fetch: Option<bool>,
    // A catalog of 2.0 does not have these three.
    #[serde(default)]
    pub keep_previous: bool,
    #[serde(default)]
    pub max_shrink_percent: Option<i32>,
    #[serde(default)]
    pub guard: Option<String>,
    /// Not of snapshots: columns that change on the source are followed here. A catalog of 2.1 does not have it.
    #[serde(default)]
    pub follow_columns: Option<bool>,
    /// Of snapshots: refreshes copy the row versions that have changed. A catalog of 2.1 does not have it.
    #[serde(default)]
    pub delta: Option<bool>,
    /// Jobs that are refreshed together. A catalog of 2.1 does not have it.
    #[serde(default)]
    pub refresh_group: Option<String>,
    /// What columns that the row names are called now, or are gone: written with the run that has found it.
    #[serde(skip)]
    pub renamed: Option<Renamed>,
    /// Of dml and logdel: how large the queue may become, in bytes. A catalog of 2.1 does not have it.
    #[serde(default)]
    pub max_queue_size: Option<i64>,
    /// State that only the method itself reads (see its own types), and who has configured the job (see `configured_by`).
    pub state: serde_json::Value,
}

/// The key of refresh_config.state under which guard_refresh_config records who has configured the job.
const CONFIGURED_BY: &str = "configured_by";

/// The key under which `record_run` stores the moment as of which the data is; job_status shows it.
const AS_OF: &str = "data_as_of";

/// A placeholder until the whole row has been read.
fn nowhere() -> Name {
    Name::new("", "")
}

impl Job {
    /// The job of a row that was read, with its destination filled in.
    fn found(self) -> Result<Job> {
        let destination = destination_name(&self.dest_table)?;
        Ok(Job { destination, ..self })
    }

    pub fn method(&self) -> Method {
        self.kind.method
    }

    /// Columns that change on the source are followed here.
    pub fn follows_columns(&self) -> bool {
        self.follow_columns == Some(true) && self.method() != Method::Snapshot
    }

    /// The same job, whose columns are called as they are now; None if it names none of those. A key stays as it is without a column of it.
    pub fn with_columns(&self, renamed: Renamed) -> Option<Job> {
        let job = Job {
            filter: self.filter.as_deref().map(|filter| renamed.list(filter)),
            pk_name: self.pk_name.as_ref().map(|key| key.iter().map(|name| renamed.name(name)).collect()),
            control: match self.method() {
                // Of the others it is no column.
                Method::Inserter | Method::Updater => self.control.as_deref().map(|name| renamed.name(name)),
                _ => self.control.clone(),
            },
            ..self.clone()
        };
        let changed = (&job.filter, &job.pk_name, &job.control) != (&self.filter, &self.pk_name, &self.control);
        (changed && job.filter.as_ref().is_none_or(|filter| !filter.is_empty()))
            .then_some(Job { renamed: Some(renamed), ..job })
    }

    /// The role that has configured this job. It is found by its OID, which no other role gets; in a cluster into which the row was
    /// restored, by its name.
    pub fn configured_by(&self) -> ConfiguredBy {
        #[derive(Deserialize)]
        struct Role {
            role: String,
            oid: u32,
            #[serde(default)]
            system: Option<String>,
            /// The owner of the destination at that time.
            #[serde(default)]
            owner: Option<u32>,
        }
        let said = self.state.get(CONFIGURED_BY).cloned().unwrap_or_default();
        let Ok(Role { role, oid, system: of, owner }) = serde_json::from_value(said) else {
            return ConfiguredBy::Nobody;
        };
        let is_here = of == Some(system());
        let found = if is_here { role_of(oid.into()) } else { role_named(&role) };
        let owner = owner.filter(|_| is_here).map(Oid::from);
        found.map_or(ConfiguredBy::Gone(role), |role| ConfiguredBy::Role { role, owner })
    }

    /// Goes on with a state of its method. What is not the method's stays.
    pub fn remember(&mut self, state: Option<&serde_json::Value>) {
        if let (Some(state), Some(own)) = (state.and_then(serde_json::Value::as_object), self.state.as_object_mut()) {
            own.extend(state.clone());
        }
    }

    /// Whether the state holds nothing else.
    pub fn remembers_nothing(&self) -> bool {
        self.state
            .as_object()
            .is_some_and(|state| state.keys().all(|key| [CONFIGURED_BY, AS_OF].contains(&key.as_str())))
    }
}

/// The role that answers for a job.
pub enum ConfiguredBy {
    Role {
        role: Oid,
        /// The owner of the destination at that time, where that is known.
        owner: Option<Oid>,
    },
    /// A role of that name, which no longer exists.
    Gone(String),
    Nobody,
}

/// How `Job::configured_by` finds a role again.
fn configured_by(role: Oid, dest_table: &str) -> Result<serde_json::Value> {
    let owner = relation::find(&destination_name(dest_table)?)?.map(|destination| destination.owner.to_u32());
    Ok(serde_json::json!({ "role": role_name(role)?, "oid": role.to_u32(), "system": system(), "owner": owner }))
}

/// A job to be written; None is the column's default.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NewJob<'a> {
    pub dest_table: String,
    pub source_table: String,
    #[serde(rename = "type")]
    pub kind: &'a str,
    #[serde(rename = "dblink")]
    pub data_source_id: i32,
    pub filter: Option<&'a [String]>,
    pub condition: Option<&'a str>,
    pub period: Option<String>,
    pub jobmon: bool,
    pub check_stats: Option<bool>,
    pub truncate_cascade: Option<bool>,
    pub sequences: Option<&'a [String]>,
    pub control: Option<&'a str>,
    pub boundary: Option<String>,
    pub last_value: Option<String>,
    pub dst_active: Option<bool>,
    pub dst_start: Option<i32>,
    pub dst_end: Option<i32>,
    pub pk_name: Option<Vec<String>>,
    pub pk_type: Option<Vec<String>>,
    pub insert_on_fetch: Option<bool>,
    pub keep_previous: bool,
    pub max_queue_size: Option<i64>,
    pub follow_columns: Option<bool>,
    pub delta: Option<bool>,
    pub refresh_group: Option<&'a str>,
    /// The state of the method for the first run; a JSON object.
    pub state: serde_json::Value,
}

/// The extension's own tables, and who they belong to.
pub struct Catalog {
    schema: String,
    version: String,
    owner: Oid,
    created_by: Oid,
}

impl Catalog {
    pub fn find() -> Result<Catalog> {
        Catalog::look()?.ok_or_else(|| Error::Internal("the extension mimeo is not created here".to_string()))
    }

    /// None if the extension is not created in this database.
    pub fn look() -> Result<Option<Catalog>> {
        #[derive(Deserialize)]
        struct Extension {
            schema: String,
            version: String,
            #[serde(deserialize_with = "relation::oid")]
            owner: Oid,
        }
        let extension: Option<Extension> = spi::json(
            "SELECT pg_catalog.json_build_object('schema', n.nspname, 'version', e.extversion, 'owner', e.extowner::bigint)::pg_catalog.text
               FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n
                 ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
              WHERE e.extname OPERATOR(pg_catalog.=) 'mimeo'",
            &[],
        )?;
        let Some(Extension { schema, version, owner: created_by }) = extension else { return Ok(None) };
        let table = relation::find(&Name::new(&schema, "refresh_config"))?
            .ok_or_else(|| Error::Internal("refresh_config is missing".to_string()))?;
        Ok(Some(Catalog { schema, version, owner: table.owner, created_by }))
    }

    /// The version of the catalog; the library may be newer.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether jobs can belong to groups; not in a catalog of an older release.
    pub fn has_groups(&self) -> bool {
        !["2.0.0", "2.1.0"].contains(&self.version.as_str())
    }

    /// The role that created the extension; the tables may belong to another one.
    pub fn created_by(&self) -> Oid {
        self.created_by
    }

    /// The extension's schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    pub fn table(&self, name: &str) -> Name {
        Name::new(&self.schema, name)
    }

    pub fn act_as_owner(&self) -> Result<Identity> {
        act_as(self.owner, false)
    }

    /// The job that a user names: `schema.table` exactly or properly quoted, or a bare name along the search_path
    /// that is in force.
    ///
    /// # Errors
    /// UnknownJob.
    pub fn job(&self, written: &str) -> Result<Job> {
        let visible = relation::find_as_written(written)?.map(|relation| relation.name());
        let mut candidates = vec![written.to_string()];
        candidates.extend(visible.as_ref().map(Name::plain));
        for (schema, name) in readings(written)? {
            candidates.extend(schema.map(|schema| Name::new(schema, name).plain()));
        }
        for dest_table in candidates {
            if let Some(job) = self.row(&dest_table)? {
                return Ok(match visible {
                    Some(visible) if visible.plain() == dest_table => Job { destination: visible, ..job },
                    _ => job,
                });
            }
        }
        Err(Error::UnknownJob(written.to_string()))
    }

    pub fn row(&self, dest_table: &str) -> Result<Option<Job>> {
        self.read_row(dest_table, "")
    }

    /// The job as the last commit left it. A transaction that keeps one snapshot cannot see that, but finds out whether its
    /// snapshot is older, and keeps the job as it is until its end.
    ///
    /// # Errors
    /// 40001 of PostgreSQL, if it is.
    pub fn latest_row(&self, dest_table: &str) -> Result<Option<Job>> {
        self.read_row(dest_table, if keeps_its_snapshot() { "FOR NO KEY UPDATE" } else { "" })
    }

    fn read_row(&self, dest_table: &str, lock: &str) -> Result<Option<Job>> {
        let identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let sql = format!("SELECT to_jsonb(c)::pg_catalog.text FROM {table} c WHERE c.dest_table = $1 {lock}");
        let job: Option<Job> = spi::json(&sql, &[dest_table.into()])?;
        drop(identity);
        job.map(Job::found).transpose()
    }

    /// The jobs of a group, in the order of their destinations.
    pub fn group(&self, group: &str) -> Result<Vec<Job>> {
        self.read_group(group, "")
    }

    /// The same as the last commit left them: see `latest_row`.
    pub fn latest_group(&self, group: &str) -> Result<Vec<Job>> {
        self.read_group(group, if keeps_its_snapshot() { "FOR NO KEY UPDATE" } else { "" })
    }

    fn read_group(&self, group: &str, lock: &str) -> Result<Vec<Job>> {
        let identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let jobs: Option<Vec<Job>> = spi::json(
            &format!(
                "SELECT json_agg(g.job ORDER BY g.dest_table COLLATE \"C\")::pg_catalog.text FROM (
                     SELECT to_jsonb(c) AS job, c.dest_table FROM {table} c WHERE to_jsonb(c) ->> 'refresh_group' = $1 {lock}) g"
            ),
            &[group.into()],
        )?;
        drop(identity);
        jobs.unwrap_or_default().into_iter().map(Job::found).collect()
    }

    /// Takes the locks that `record_run` and the history need, before readers are made to wait for anything: otherwise a role that may
    /// write to the configuration could hold them meanwhile.
    pub fn lock_to_record(&self, dest_tables: &[&str]) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let (config, history) = (self.table("refresh_config"), self.table("run_history"));
        spi::run(&format!("LOCK TABLE {config}, {history} IN ROW EXCLUSIVE MODE"), &[])?;
        let names: Vec<_> = dest_tables.iter().map(|name| name.to_string()).collect();
        spi::number(
            &format!(
                "SELECT count(*) FROM (SELECT FROM {config} c WHERE c.dest_table = ANY ($1)
                                        ORDER BY c.dest_table COLLATE \"C\" FOR NO KEY UPDATE) locked"
            ),
            &[names.into()],
        )?;
        Ok(())
    }

    /// The row of dblink_mapping_mimeo, as the type that knows how to connect.
    ///
    /// # Errors
    /// UnknownSource.
    pub fn mapping<T: DeserializeOwned>(&self, data_source_id: i32) -> Result<T> {
        let _identity = self.act_as_owner()?;
        let table = self.table("dblink_mapping_mimeo");
        spi::json(
            &format!("SELECT to_json(m)::pg_catalog.text FROM {table} m WHERE m.data_source_id = $1"),
            &[data_source_id.into()],
        )?
        .ok_or(Error::UnknownSource(data_source_id))
    }

    /// All jobs, in the order of their destinations.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let jobs: Option<Vec<Job>> = spi::json(
            &format!(
                "SELECT json_agg(to_jsonb(c) ORDER BY c.dest_table COLLATE \"C\")::pg_catalog.text FROM {table} c"
            ),
            &[],
        )?;
        drop(identity);
        jobs.unwrap_or_default().into_iter().map(Job::found).collect()
    }

    /// The ids of all data sources.
    pub fn sources(&self) -> Result<Vec<i32>> {
        let _identity = self.act_as_owner()?;
        let table = self.table("dblink_mapping_mimeo");
        let ids = spi::json(
            &format!("SELECT json_agg(m.data_source_id ORDER BY m.data_source_id)::pg_catalog.text FROM {table} m"),
            &[],
        )?;
        Ok(ids.unwrap_or_default())
    }

    /// # Errors
    /// UnknownSource.
    pub fn require_source(&self, data_source_id: i32) -> Result<()> {
        if self.sources()?.contains(&data_source_id) {
            return Ok(());
        }
        Err(Error::UnknownSource(data_source_id))
    }

    /// Refuses a second job for a destination.
    ///
    /// # Errors
    /// JobExists.
    pub fn require_no_job(&self, dest_table: &str, method: &'static str) -> Result<()> {
        match self.row(dest_table)? {
            Some(_) => Err(Error::JobExists { method, destination: dest_table.to_string() }),
            None => Ok(()),
        }
    }

    /// The caller is the one who configures the job.
    pub fn insert(&self, job: &NewJob<'_>) -> Result<()> {
        let caller = configured_by(current_role(), &job.dest_table)?;
        let mut job = serde_json::to_value(job)?;
        job["state"][CONFIGURED_BY] = caller;
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::run(
            &format!("INSERT INTO {table} SELECT (jsonb_populate_record(NULL::{table}, $1)).*"),
            &[JsonB(job).into()],
        )?;
        Ok(())
    }

    /// Records that a job has run, since `started` (microseconds since 2000-01-01 UTC), the state of its method for the
    /// next run, and the moment as of which the data is. None keeps the present value.
    pub fn record_run(
        &self,
        dest_table: &str,
        started: i64,
        state: Option<&serde_json::Value>,
        last_value: Option<&str>,
        as_of: Option<i64>,
    ) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let moment =
            |parameter: &str| format!("timestamptz '2000-01-01 00:00:00+00' + {parameter} * interval '1 microsecond'");
        let state: DatumWithOid<'_> = match state {
            Some(state) => JsonB(state.clone()).into(),
            None => DatumWithOid::null::<JsonB>(),
        };
        spi::run(
            &format!(
                "UPDATE {table} SET last_run = {}, last_value = coalesce($3, last_value),
                        state = coalesce({}, state) || CASE WHEN $5 IS NULL THEN '{{}}' ELSE jsonb_build_object('{AS_OF}', {}) END
                  WHERE dest_table = $1",
                moment("$4"),
                new_state("$2"),
                moment("$5")
            ),
            &[dest_table.into(), state, last_value.map(str::to_string).into(), started.into(), as_of.into()],
        )?;
        Ok(())
    }

    /// Records that jobs were skipped, as `record_run` does for one.
    pub fn record_skipped(&self, dest_tables: &[String], started: i64) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let moment = "timestamptz '2000-01-01 00:00:00+00' + $2 * interval '1 microsecond'";
        spi::run(
            &format!(
                "UPDATE {table} SET last_run = {moment}, state = state || jsonb_build_object('{AS_OF}', {moment}) WHERE dest_table = ANY ($1)"
            ),
            &[dest_tables.to_vec().into(), started.into()],
        )?;
        Ok(())
    }

    /// Those of these jobs that are still as they were read, and have not run since.
    pub fn unchanged_rows(&self, jobs: &[Job]) -> Result<Vec<String>> {
        let names: Vec<_> = jobs.iter().map(|job| job.dest_table.clone()).collect();
        let now: HashMap<String, Job> =
            self.named(&names)?.into_iter().map(|job| (job.dest_table.clone(), job)).collect();
        let same = |job: &&Job| {
            now.get(&job.dest_table).is_some_and(|now| {
                (&now.state, &now.source_table, now.data_source_id)
                    == (&job.state, &job.source_table, job.data_source_id)
                    && (&now.filter, &now.condition, now.check_stats) == (&job.filter, &job.condition, job.check_stats)
                    && (now.jobmon, &now.refresh_group) == (job.jobmon, &job.refresh_group)
            })
        };
        Ok(jobs.iter().filter(same).map(|job| job.dest_table.clone()).collect())
    }

    /// The jobs of these destinations.
    pub fn named(&self, dest_tables: &[String]) -> Result<Vec<Job>> {
        let identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        let jobs: Option<Vec<Job>> = spi::json(
            &format!("SELECT json_agg(to_jsonb(c))::pg_catalog.text FROM {table} c WHERE c.dest_table = ANY ($1)"),
            &[dest_tables.to_vec().into()],
        )?;
        drop(identity);
        jobs.unwrap_or_default().into_iter().map(Job::found).collect()
    }

    /// Stores the state of a job's method for the next run.
    pub fn set_state(&self, dest_table: &str, state: &serde_json::Value) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::run(
            &format!("UPDATE {table} SET state = {} WHERE dest_table = $1", new_state("$2")),
            &[dest_table.into(), JsonB(state.clone()).into()],
        )?;
        Ok(())
    }

    /// What the columns of a job are called now.
    pub fn set_columns(&self, job: &Job) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::run(
            &format!("UPDATE {table} SET filter = $2, pk_name = $3, control = $4 WHERE dest_table = $1"),
            &[
                job.dest_table.as_str().into(),
                job.filter.clone().into(),
                job.pk_name.clone().into(),
                job.control.clone().into(),
            ],
        )?;
        // Who has configured the job stays responsible: guard_refresh_config takes the first statement for another configuration.
        if let Some(configured_by) = job.state.get(CONFIGURED_BY) {
            spi::run(
                &format!(
                    "UPDATE {table} SET state = jsonb_set(state, '{{{CONFIGURED_BY}}}', $2) WHERE dest_table = $1"
                ),
                &[job.dest_table.as_str().into(), JsonB(configured_by.clone()).into()],
            )?;
        }
        Ok(())
    }

    /// Whether a moment is longer ago than two periods of a job; of one without a period, than an hour.
    pub fn is_late(&self, dest_table: &str, moment: Moment) -> Result<bool> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::is_true(
            &format!(
                "SELECT clock_timestamp() - (timestamptz '2000-01-01 00:00:00+00' + $2 * interval '1 microsecond') > coalesce(2 * c.period, interval '1 hour') FROM {table} c WHERE c.dest_table = $1"
            ),
            &[dest_table.into(), moment.microseconds().into()],
        )
    }

    /// From here on the caller answers for what a job does.
    pub fn confirm(&self, dest_table: &str) -> Result<()> {
        let caller = configured_by(current_role(), dest_table)?;
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::run(
            &format!(
                "UPDATE {table} SET state = jsonb_set(CASE WHEN jsonb_typeof(state) = 'object' THEN state ELSE '{{}}' END,
                        '{{{CONFIGURED_BY}}}', $2) WHERE dest_table = $1"
            ),
            &[dest_table.into(), JsonB(caller).into()],
        )?;
        Ok(())
    }

    pub fn delete(&self, dest_table: &str) -> Result<()> {
        let _identity = self.act_as_owner()?;
        let table = self.table("refresh_config");
        spi::run(&format!("DELETE FROM {table} WHERE dest_table = $1"), &[dest_table.into()])?;
        Ok(())
    }
}

/// The new state in SQL: that of the method, with the keys that are not the method's kept as they are.
fn new_state(parameter: &str) -> String {
    format!(
        "{parameter} || CASE WHEN state ? '{CONFIGURED_BY}' THEN \
             jsonb_build_object('{CONFIGURED_BY}', state -> '{CONFIGURED_BY}') ELSE '{{}}' END \
             || CASE WHEN state ? '{AS_OF}' THEN jsonb_build_object('{AS_OF}', state -> '{AS_OF}') ELSE '{{}}' END"
    )
}

/// The schema and the name in a row's `schema.table`: the reading for which a relation exists, else the first.
fn destination_name(dest_table: &str) -> Result<Name> {
    let names: Vec<Name> = readings(dest_table)?
        .into_iter()
        .filter_map(|(schema, name)| schema.map(|schema| Name::new(schema, name)))
        .collect();
    if let [name] = names.as_slice() {
        return Ok(name.clone());
    }
    for name in &names {
        if relation::find(name)?.is_some() {
            return Ok(name.clone());
        }
    }
    names.into_iter().next().ok_or_else(|| Error::InvalidName(dest_table.to_string()))
}
