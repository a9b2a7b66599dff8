//! check_permissions: what a job of some method needs, on both sides, and what of it is granted. Makers and refreshers ask the same
//! questions through the same functions.

use super::each::is_of_source;
use crate::backend::grant::{self, Right};
use crate::backend::identity::{current_role, has_rights_of, pin_settings, read_the_latest, role_name};
use crate::backend::name::{quote, readings, Name};
use crate::backend::relation::{self, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::destination::indexes::{copy_all, IndexTarget};
use crate::destination::{table, twins};
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use crate::job::method::Method;
use crate::method::columns::{copied_indexes, names, selected_columns};
use crate::method::connecting::connect;
use crate::method::making::new_destination;
use crate::method::rights::creation_rights;
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::{Connection, Mapping};

mod refused;

/// All that a job of this type needs, side by side: `source` or `destination`, and the right. A source that cannot be reached is a
/// row, too.
///
/// # Errors
/// InvalidArgument, UnknownSource; InvalidName, NameTooLong.
pub fn permissions(
    data_source_id: i32,
    source_table: &str,
    p_type: &str,
    destination: Option<&str>,
    filter: Option<Vec<String>>,
) -> Result<Vec<(&'static str, Right)>> {
    let method = method(p_type)?;
    read_the_latest();
    let catalog = Catalog::find()?;
    // The filter of an existing job.
    let filter = match filter {
        Some(filter) => Some(filter),
        None => catalog.job(destination.unwrap_or(source_table)).ok().and_then(|job| job.filter),
    };
    let mut unmade = Vec::new();
    let mapping: Mapping = catalog.mapping(data_source_id)?;
    let mut rights = Vec::new();
    let mut found = None;
    let outcome = attempt(|| connect(&catalog, data_source_id, current_role(), "check_permissions"));
    let outcome = outcome.and_then(|mut source| {
        rights.push(Right::new(source.label(), "connection", true, String::new));
        let wanted = Wanted { written: source_table, method, schema: catalog.schema(), filter: filter.as_deref() };
        if let Some(shape) = on_source(&mut source, &wanted, &mut rights, &mut found)? {
            unmade = unmade_indexes(&shape, filter.as_deref())?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(error) if is_of_source(&error) => rights.push(refused::right(&error, &mapping, &catalog)?),
        Err(error) => return Err(error),
    }
    let named = found.map(|table| table.table());
    let mut both: Vec<_> = rights.into_iter().map(|right| ("source", right)).collect();
    let mut here = on_destination(&catalog, destination, source_table, named, method)?;
    here.extend(unmade);
    both.extend(here.into_iter().map(|right| ("destination", right)));
    Ok(both)
}

/// # Errors
/// InvalidArgument.
fn method(p_type: &str) -> Result<Method> {
    Ok(match p_type {
        "inserter" => Method::Inserter,
        "updater" => Method::Updater,
        other => Method::of(other).map_err(|_| {
            Error::InvalidArgument(format!(
                "p_type is '{other}', it must be 'snap', 'table', 'inserter', 'updater', 'dml' or 'logdel'"
            ))
        })?,
    })
}

/// What is to be copied.
struct Wanted<'a> {
    /// The source table.
    written: &'a str,
    method: Method,
    /// The extension's.
    schema: &'a str,
    filter: Option<&'a [String]>,
}

/// Indexes of the source that a maker would leave out, with the statement that makes each of them later. Tried on a temporary table, which
/// is dropped at once; where none can be created, nothing is reported.
fn unmade_indexes(shape: &Shape, filter: Option<&[String]>) -> Result<Vec<Right>> {
    let mut rights = Vec::new();
    let tried = attempt(|| {
        let _pinned = pin_settings()?;
        let (columns, source) = (selected_columns(shape, filter, "the source")?, shape.table());
        spi::run(&format!("CREATE TEMPORARY TABLE {} ()", quote("mimeo_try")), &[])?;
        let schema = spi::text("SELECT pg_my_temp_schema()::regnamespace::pg_catalog.text", &[])?.unwrap_or_default();
        let table = Name::new(schema, source.name.clone());
        spi::run(&format!("DROP TABLE {}", table.sibling("mimeo_try")), &[])?;
        table::create(&table, Vec::new(), &table::localise(&columns, &source)?, "tried")?;
        let target =
            IndexTarget { source_table: &source.name, table: &table, oid: table::find(&table)?.oid, prefix: "" };
        for left_out in copy_all(copied_indexes(shape, filter), shape.key(), &target, None)?.0 {
            rights.push(Right::new(format!("index {}", left_out.index), "can be made", false, || left_out.text()));
        }
        Err::<(), _>(Error::Internal("nothing stays".to_string()))
    });
    match tried {
        Err(error) if error.is_cancel() => Err(error),
        _ => Ok(rights),
    }
}

/// 1. The table, and whether this method takes it.
/// 2. Reading it.
/// 3. dml and logdel: a queue and triggers.
///
/// The table's shape with its indexes, if it is there.
fn on_source(
    source: &mut Connection,
    wanted: &Wanted<'_>,
    rights: &mut Vec<Right>,
    found: &mut Option<SourceTable>,
) -> Result<Option<Shape>> {
    let Wanted { written, method, schema, filter } = *wanted;
    let table = match source.find_table(written) {
        Ok(table) => table,
        Err(Error::SourceTableMissing { .. }) => {
            rights.push(Right::new(written, "exists", false, || {
                "-- there is no such table: give it as schema.table, exactly as it is spelled on the source".to_string()
            }));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let name = found.insert(table.clone()).table();
    let captures = method.facts().has_queue;
    let fits = !captures || ['r', 'p'].contains(&table.kind);
    rights.push(Right::new(name.plain(), "kind", fits, || {
        "-- dml and logdel need a plain or partitioned table: choose snap, table, inserter or updater".to_string()
    }));
    let mut shape = source.snapshot_of(table.oid)?;
    rights.extend(source.reading_rights(
        &table,
        &names(&selected_columns(&shape, filter, source.label())?),
        filter.is_some(),
    ));
    shape.indexes = source.indexes(&table)?;
    if method.facts().by_key {
        rights.push(Right::new(name.plain(), "key", shape.key().is_some(), || {
            format!(
                "ALTER TABLE {name} ADD PRIMARY KEY (…); -- or name a key of it with p_pk_name and p_pk_type in the maker"
            )
        }));
    }
    if captures {
        let standby = source.is_standby()?;
        rights.push(Right::new(source.label(), "writing", !standby, || {
            "-- it is a standby: point the data source to the primary, or choose snap, table, inserter or updater"
                .to_string()
        }));
    }
    if captures && fits {
        let members = source.members(&table, None)?;
        rights.extend(source.capture_rights(schema, &members, source.clones_triggers(&shape))?);
    }
    Ok(Some(shape))
}

/// 1. The functions.
/// 2. The schema, and making a table in it.
/// 3. The name: free, or its owner's.
fn on_destination(
    catalog: &Catalog,
    written: Option<&str>,
    source_table: &str,
    source: Option<Name>,
    method: Method,
) -> Result<Vec<Right>> {
    let role = role_name(current_role())?;
    let mut rights = Vec::new();
    for function in [format!("{}_maker", method.name()), format!("refresh_{}", method.name())] {
        let function = catalog.table(&function);
        let granted = spi::is_true(
            "SELECT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
               FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
              WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name
                AND p.proname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
            &[function.schema.as_str().into(), function.name.as_str().into()],
        )?;
        let fix = || grant::on_function(&function, &role);
        rights.push(Right::new(format!("function {}", function.plain()), "EXECUTE", granted, fix));
    }
    if method.facts().by_key {
        rights.push(temporary(&role)?);
    }
    let name = match destination(written, source_table, source) {
        Ok(name) => name,
        Err(Error::SchemaMissing { schema, .. }) => {
            let fix = || grant::create_schema(&schema, &role);
            rights.push(Right::new(format!("schema {schema}"), "exists", false, fix));
            return Ok(rights);
        }
        Err(error) => return Err(error),
    };
    rights.push(Right::new(format!("schema {}", name.schema), "exists", true, String::new));
    rights.extend(creation_rights(&name.schema)?);
    rights.extend(destination_rights(catalog, &name, method, &role)?);
    Ok(rights)
}

/// Updater, dml and logdel collect what has come before they apply it.
fn temporary(role: &str) -> Result<Right> {
    let database = spi::text("SELECT pg_catalog.current_database()::pg_catalog.text", &[])?.unwrap_or_default();
    let granted =
        spi::is_true("SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')", &[])?;
    let fix = || grant::on_database("TEMPORARY", &database, role);
    Ok(Right::new(format!("database {database}"), "TEMPORARY", granted, fix))
}

/// As the maker would name it; if the source could not be asked, by the best reading of what was given.
fn destination(written: Option<&str>, source_table: &str, source: Option<Name>) -> Result<Name> {
    if let (None, Some(source)) = (written, source) {
        return new_destination(None, &source);
    }
    let text = written.unwrap_or(source_table);
    let nowhere = readings(text)?.pop().map(|(_, name)| Name::new("", name));
    new_destination(Some(text), &nowhere.ok_or_else(|| Error::InvalidName(text.to_string()))?)
}

/// A snapshot's view and twins must not exist; another destination may, if it is the caller's. So may those of an existing
/// job.
fn destination_rights(catalog: &Catalog, name: &Name, method: Method, role: &str) -> Result<Vec<Right>> {
    let mut names = vec![name.clone()];
    if method == Method::Snapshot {
        names.extend(twins::names(name));
    }
    let is_job = match catalog.row(&name.plain())? {
        Some(job) => job.method() == method,
        None => false,
    };
    let mut rights = Vec::new();
    for name in names {
        let Some(existing) = relation::find(&name)? else {
            if rights.is_empty() {
                rights.push(Right::new(name.plain(), "free or owned", true, String::new));
            }
            continue;
        };
        let taken = method == Method::Snapshot && !is_job;
        let granted = !taken && is_owned(&existing);
        rights.push(Right::new(name.plain(), "free or owned", granted, || {
            if taken {
                format!("-- \"{}\" exists: drop it, rename it, or choose another p_dest_table", name.plain())
            } else {
                let what = if existing.kind == 'v' { "VIEW" } else { "TABLE" };
                format!("ALTER {what} {name} OWNER TO {};", quote(role))
            }
        }));
    }
    Ok(rights)
}

fn is_owned(existing: &Relation) -> bool {
    has_rights_of(current_role(), existing.owner)
}
