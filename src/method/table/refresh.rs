//! refresh_table.

use crate::backend::identity::act_as;
use crate::backend::relation::Relation;
use crate::destination::column_map::{self, ColumnMap};
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::{sequences, shadow, table};
use crate::error::{quoted_list, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::connecting::connect_job;
use crate::method::follow;
use crate::method::load::{load_all, lock_destination, patience, Everything, How, Loaded};
use crate::method::plan::{self, volume, Plan};
use crate::method::rights::require_owner_rights;
use crate::method::running::{refresh_job, Call};
use crate::method::steps::{self, Manner, Opening, Steps};
use crate::shape::{Column, Shape};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use crate::source::seen::Seen;
use pgrx::{pg_sys, warning};
use serde::{Deserialize, Serialize};

/// The arguments of refresh_table.
pub struct Options<'a> {
    pub call: Call<'a>,
    /// None is what the job says.
    pub truncate_cascade: Option<bool>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, truncate_cascade: None }
    }
}

/// Replaces all rows of a table job's destination.
pub fn refresh(options: &Options<'_>) -> Result<()> {
    refresh_job(Method::Table, &options.call, |catalog, job, run| {
        run.phase("connect");
        steps::refresh(opening(options, catalog, job)?, catalog, job, run)
    })
}

/// A refresh that is about to begin.
pub fn opening<'a>(options: &Options<'_>, catalog: &'a Catalog, job: &'a Job) -> Result<Refresh<'a>> {
    let destination = table::find(&job.destination)?;
    let cascade = options.truncate_cascade.or(job.truncate_cascade).unwrap_or(false);
    if cascade && !job.truncate_cascade.unwrap_or(false) {
        require_owner_rights("p_truncate_cascade", job, destination.owner)?;
    }
    Ok(Refresh { catalog, job, destination, cascade, in_place: false, known: None, status: Status::Ok })
}

/// What it would do.
pub fn plan(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let destination = table::find(&job.destination)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let _identity = act_as(destination.owner, true)?;
    let cascade = job.truncate_cascade.unwrap_or(false);
    let refresh = Refresh { catalog, job, destination, cascade, in_place: false, known: None, status: Status::Ok };
    let decision = refresh.look(&mut source)?;
    refresh.tell(&decision, &mut source, plan)
}

pub struct Refresh<'a> {
    catalog: &'a Catalog,
    job: &'a Job,
    destination: Relation,
    /// Tables that refer to it are emptied with it.
    cascade: bool,
    in_place: bool,
    /// In a group: what its name meant before the snapshot.
    known: Option<SourceTable>,
    status: Status,
}

/// All rows are copied, always; this is how.
pub struct Decision {
    source_table: SourceTable,
    query: String,
    local: Shape,
    column_map: ColumnMap,
    following: Following,
    /// Of a job that follows columns.
    seen: Option<Seen>,
    /// Why the rows come as text.
    text: Option<String>,
    /// Those that follow the rows.
    sequences: Vec<pg_sys::Oid>,
    /// Sequences of the job that do not exist.
    missing: Vec<String>,
}

/// What a job that follows columns remembers from run to run, in refresh_config.state.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    #[serde(default)]
    seen: Option<Seen>,
}

impl Refresh<'_> {
    /// The source's columns, and what follows from them.
    fn follow(
        &self,
        source: &mut Connection,
        table: &SourceTable,
        (local, shape, columns): (&Shape, &Shape, &[Column]),
    ) -> Result<(Option<Seen>, Following)> {
        if !self.job.follows_columns() {
            return Ok((None, Following::default()));
        }
        let now = Seen::of(shape);
        let state: State = serde_json::from_value(self.job.state.clone()).unwrap_or_default();
        let (job, destination, before) = (self.job, &self.destination, state.seen.as_ref());
        let sides = follow::Sides { job, destination, local, shape, columns, before, now: &now, anew: true };
        let following = follow::following(source, table, &sides)?;
        Ok((Some(now.after(before)), following))
    }

    fn look(&self, source: &mut Connection) -> Result<Decision> {
        let [local] = table::describe([self.destination.oid])?;
        column_map::require_loadable(&local)?;
        let source_table = match &self.known {
            Some(table) => table.clone(),
            None => source.find_table(&self.job.source_table)?,
        };
        let shape = source.locked_snapshot_of(&source_table, self.job.condition.as_deref())?;
        let columns = selected_columns(&shape, self.job.filter.as_deref(), source.label())?;
        source.require_readable(&source_table, &names(&columns), self.job.filter.is_some())?;
        let (seen, following) = self.follow(source, &source_table, (&local, &shape, &columns))?;
        let local = following.project(&local);
        let column_map = column_map::map(&local, &shape, &columns, &[])?;
        let text = column_map::obstacle_to_binary(&local, &shape, &columns);
        let (mut sequences, missing) = sequences::find(self.job.sequences.as_deref().unwrap_or_default())?;
        sequences.extend(sequences::of_identity(self.destination.oid)?);
        source.use_own_search_path()?;
        let query = rows_query(&source_table.table(), (&column_map.columns, &[]), self.job.condition.as_deref())?;
        Ok(Decision { source_table, query, local, column_map, following, seen, text, sequences, missing })
    }

    fn tell(&self, decision: &Decision, source: &mut Connection, plan: &mut Plan) -> Result<()> {
        let Decision { source_table, query, local, text, sequences, missing, .. } = decision;
        plan.follow(&decision.following, &self.destination);
        let volume = volume(source, query)?;
        let into = plan::shadow(local, &self.job.destination)?;
        plan.copy(self.job, query, &source_table.table(), &into, volume, text.clone());
        plan.replace_all(&self.destination, local, self.cascade)?;
        if !sequences.is_empty() {
            plan.here(format!("set sequences ({}) behind the greatest values", sequences.len()), None, None);
        }
        if !missing.is_empty() {
            plan.here(format!("warn of sequences that do not exist: {}", quoted_list(missing)), None, None);
        }
        Ok(())
    }
}

impl<'a> Opening for Refresh<'a> {
    type Steps = Refresh<'a>;

    fn owner(&self) -> pg_sys::Oid {
        self.destination.owner
    }

    fn open(self, _: &mut Connection, _: &mut Run) -> Result<Refresh<'a>> {
        Ok(self)
    }
}

impl Steps for Refresh<'_> {
    type Decision = Decision;
    type Loaded = (Loaded, Decision);
    type Ready = (Option<Box<Exchange>>, Decision);

    fn repair(&mut self, source: &mut Connection, _: &mut Run) -> Result<()> {
        let table = source.find_table(&self.job.source_table)?;
        source.will_read(&table, self.job.condition.as_deref())?;
        self.known = Some(table);
        Ok(())
    }

    /// The destination, before the source is kept busy.
    fn lock(&mut self, run: &mut Run) -> Result<()> {
        run.phase("look");
        lock_destination(&self.destination, true)?;
        table::check_at_once(self.destination.oid)
    }

    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Decision> {
        let decision = self.look(source)?;
        run.reads_parent(decision.source_table.as_parent());
        if follow::tell(&decision.following, &self.destination, run) {
            self.status = Status::Warning;
        }
        Ok(decision)
    }

    fn manner(&self, decision: &Decision) -> Result<Manner> {
        Ok(match shadow::obstacle(decision.local.local_oid())? {
            Some(_) => Manner::InPlace,
            None => Manner::AtOnce,
        })
    }

    fn stay_in_place(&mut self) {
        self.in_place = true;
    }

    /// Beside the rows that are there, which are read meanwhile.
    fn load(&mut self, source: &mut Connection, decision: Decision, run: &mut Run) -> Result<(Loaded, Decision)> {
        if source.shares_snapshot() {
            source.use_own_search_path()?;
        }
        run.phase("copy");
        let rows = Everything { source, query: &decision.query, flush: false };
        let how = How { cascade: self.cascade, in_place: self.in_place, following: &decision.following };
        let loaded = load_all(rows, &self.destination, &decision.local, &decision.column_map, how, run)?;
        Ok((loaded, decision))
    }

    fn ready(&mut self, (loaded, decision): Self::Loaded, _: &[pg_sys::Oid], run: &mut Run) -> Result<Self::Ready> {
        let how = (self.cascade, &decision.following);
        let exchange = loaded.ready(&self.destination, how, run)?;
        Ok((exchange, decision))
    }

    fn exchange<'b>(&self, (exchange, _): &'b mut Self::Ready) -> Option<&'b mut Exchange> {
        exchange.as_deref_mut()
    }

    fn locks(&self, (exchange, _): &Self::Ready) -> Result<Vec<pg_sys::Oid>> {
        exchange.as_ref().map_or(Ok(Vec::new()), |exchange| exchange.locks())
    }

    /// All of them become visible at once; the sequences follow.
    fn publish(&mut self, (exchange, decision): Self::Ready, run: &mut Run) -> Result<Status> {
        if let Some(exchange) = exchange {
            exchange.carry_out(patience())?;
        }
        run.phase("sequences");
        // A column that was added may have brought one.
        let added = sequences::of_identity(self.destination.oid)?;
        let added = added.into_iter().filter(|sequence| !decision.sequences.contains(sequence));
        for sequence in decision.sequences.iter().copied().chain(added) {
            sequences::reset(sequence)?;
        }
        let state = decision.seen.map(|seen| serde_json::to_value(State { seen: Some(seen) })).transpose()?;
        // What is remembered already is not written again.
        let state = state.filter(|state| state.get("seen") != self.job.state.get("seen"));
        self.catalog.record_run(&self.job.dest_table, run.started(), state.as_ref(), None, Some(run.started()))?;
        if decision.missing.is_empty() {
            return Ok(self.status);
        }
        let missing = quoted_list(&decision.missing);
        warning!("\"{}\": sequences of the job do not exist: {missing}", self.job.dest_table);
        run.note(format!("sequences that do not exist: {missing}"));
        Ok(Status::Warning)
    }
}
