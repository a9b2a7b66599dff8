//! Who may make, configure and destroy a job, and what a job may do here.

use crate::backend::grant::{self, Right};
use crate::backend::identity::{current_role, has_rights_of, read_the_latest, require_writable, role_name};
use crate::backend::name::literal;
use crate::backend::relation::{self, Relation};
use crate::backend::spi;
use crate::destination;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, ConfiguredBy, Job};

use pgrx::pg_sys;

/// A job runs as the owner of its destination: only if the role that has configured it has the rights of that owner. The table, or
/// its name, may have got another owner since.
///
/// # Errors
/// ConfiguredByOther, OwnerChanged; Unconfirmed, if no role is recorded, because the guards of refresh_config were not active.
pub fn require_configured(catalog: &Catalog, job: &Job, owner: pg_sys::Oid) -> Result<()> {
    let by = match job.configured_by() {
        ConfiguredBy::Role { role, owner: then } if has_rights_of(role, owner) => match then {
            // A superuser has the rights of any role that creates another table under that name.
            Some(then) if then != owner => {
                let (destination, owner) = (job.dest_table.clone(), role_name(owner)?);
                let fix = format!("SELECT {}({});", catalog.table("confirm_job"), literal(&destination));
                return Err(Error::OwnerChanged { destination, owner, fix });
            }
            _ => return Ok(()),
        },
        ConfiguredBy::Role { role, .. } => Some(role_name(role)?),
        ConfiguredBy::Gone(role) => Some(role),
        ConfiguredBy::Nobody => None,
    };
    let (destination, owner) = (job.dest_table.clone(), role_name(owner)?);
    let fix = format!("SELECT {}({});", catalog.table("confirm_job"), literal(&destination));
    Err(match by {
        Some(by) => Error::ConfiguredByOther { destination, owner, by, fix },
        None => Error::Unconfirmed { destination, owner, fix },
    })
}

/// confirm_job: the caller answers for a job from here on.
///
/// # Errors
/// NotOwner, unless the caller has the rights of the destination's owner.
pub fn confirm(destination: &str) -> Result<()> {
    require_writable("confirm_job")?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    require_owner(&destination::table::find(&job.destination)?)?;
    catalog.confirm(&job.dest_table)
}

/// Refuses an argument that does more than the job says to a caller who may only refresh it.
///
/// # Errors
/// OwnerRights.
pub fn require_owner_rights(argument: &'static str, job: &Job, owner: pg_sys::Oid) -> Result<()> {
    if has_rights_of(current_role(), owner) {
        return Ok(());
    }
    Err(Error::OwnerRights { argument, destination: job.dest_table.clone(), owner: role_name(owner)? })
}

/// What the current role needs to make a table in a schema.
pub fn creation_rights(schema: &str) -> Result<Vec<Right>> {
    schema_rights(schema, current_role(), &["USAGE", "CREATE"])
}

pub fn schema_rights(schema: &str, role: pg_sys::Oid, privileges: &[&'static str]) -> Result<Vec<Right>> {
    let name = role_name(role)?;
    let mut rights = Vec::new();
    for privilege in privileges {
        let granted = spi::is_true(
            "SELECT pg_catalog.has_schema_privilege($3, n.oid, $2) FROM pg_catalog.pg_namespace n
              WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[schema.into(), (*privilege).into(), role.into()],
        )?;
        let fix = || grant::on_schema(privilege, schema, &name);
        rights.push(Right::new(format!("schema {schema}"), *privilege, granted, fix));
    }
    Ok(rights)
}

/// # Errors
/// DestinationSchema.
pub fn require_creation(schema: &str) -> Result<()> {
    match grant::fixes(&creation_rights(schema)?) {
        None => Ok(()),
        Some(fix) => Err(schema_refused(schema, fix)?),
    }
}

/// Refuses an owner without USAGE on the schema of the destination, if that exists.
///
/// # Errors
/// DestinationSchema.
pub fn require_usage(job: &Job, owner: pg_sys::Oid) -> Result<()> {
    let schema = job.destination.schema.clone();
    if !relation::schema_exists(&schema)? {
        return Ok(());
    }
    match grant::fixes(&schema_rights(&schema, owner, &["USAGE"])?) {
        None => Ok(()),
        Some(fix) => Err(schema_refused(&schema, fix)?),
    }
}

pub fn schema_refused(schema: &str, fix: String) -> Result<Error> {
    let by = spi::text(
        "SELECT pg_catalog.pg_get_userbyid(n.nspowner)::pg_catalog.text FROM pg_catalog.pg_namespace n
          WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[schema.into()],
    )?;
    Ok(Error::DestinationSchema { schema: schema.to_string(), by: by.unwrap_or_default(), fix })
}

/// # Errors
/// NotOwner.
pub fn require_owner(existing: &Relation) -> Result<()> {
    if has_rights_of(current_role(), existing.owner) {
        return Ok(());
    }
    Err(Error::NotOwner(existing.name().plain()))
}

/// For a job whose destination is gone: refuses all but the role that answers for it, and roles with its rights.
///
/// # Errors
/// NotOwner.
pub fn require_responsible(job: &Job) -> Result<()> {
    match job.configured_by() {
        ConfiguredBy::Role { role, .. } if !has_rights_of(current_role(), role) => {
            Err(Error::NotOwner(job.dest_table.clone()))
        }
        _ => Ok(()),
    }
}
