//! What the methods that find rows by their key have in common when they are made.

use crate::backend::name::{quote, quote_list, with_suffix};
use crate::backend::{relation, spi};
use crate::destination::table;
use crate::error::{quoted_list, Error, Result};
use crate::method::making::{Making, Request};
use crate::shape::Column;

/// The key that a user names, in the arguments p_pk_name and p_pk_type.
#[derive(Debug, Default)]
pub struct GivenKey {
    pub names: Option<Vec<String>>,
    pub types: Option<Vec<String>>,
}

impl GivenKey {
    /// For refresh_config.pk_type.
    pub fn types_of(&self, key: &[Column]) -> Vec<String> {
        match &self.types {
            Some(given) => given.clone(),
            None => key.iter().map(|column| column.type_name.for_message()).collect(),
        }
    }
}

/// The columns that identify a row: as the user says, else as the source's indexes do.
///
/// # Errors
/// InvalidArgument, NoKey.
pub(super) fn key(given: &GivenKey, making: &Making) -> Result<Vec<Column>> {
    let invalid = |reason: &str| Err(Error::InvalidArgument(reason.to_string()));
    let names = match (&given.names, &given.types) {
        (None, None) => match making.shape.key() {
            Some(index) => index.columns.clone(),
            None => {
                return Err(Error::NoKey {
                    table: making.table.table().plain(),
                    source_label: making.source.label().to_string(),
                })
            }
        },
        (Some(names), Some(types)) if names.len() == types.len() && !names.is_empty() => names.clone(),
        (Some(_), Some(_)) => return invalid("p_pk_name and p_pk_type must name as many columns as types"),
        _ => return invalid("p_pk_name and p_pk_type must be given both, or neither"),
    };
    let columns: Vec<Column> = names.iter().filter_map(|name| making.shape.column(name)).cloned().collect();
    if columns.len() != names.len() {
        return invalid(&format!(
            "p_pk_name names columns that \"{}\" does not have: {}",
            making.table.table().plain(),
            quoted_list(&names.iter().filter(|name| making.shape.column(name).is_none()).cloned().collect::<Vec<_>>())
        ));
    }
    Ok(columns)
}

/// The destination, with the source's indexes, and one on a key that has none there. `extra` is the definition of one more
/// column. With `kept_by`, rows stay that are gone on the source, and nothing but this key is unique.
pub(super) fn make_table(
    request: &Request<'_>,
    making: &Making,
    key: Option<&[Column]>,
    kept_by: Option<&[String]>,
    extra: Option<&str>,
) -> Result<()> {
    let name = &making.destination;
    let source = making.table.table();
    let local = table::localise(&making.columns, &source)?;
    let comment = format!("Copied from {} by mimeo", source.plain());
    table::create(name, Vec::new(), &local, &comment)?;
    if let Some(extra) = extra {
        spi::run(&format!("ALTER TABLE {name} ADD COLUMN {extra}"), &[])?;
    }
    if !request.indexes {
        return Ok(());
    }
    let made = table::find(name)?;
    making.copy_indexes(request, name, made.oid, "", kept_by)?;
    let Some(key) = key else { return Ok(()) };
    let columns: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
    let has_index = spi::is_true(
        "SELECT true FROM pg_index x WHERE x.indrelid = $1 AND x.indisunique AND x.indpred IS NULL
            AND (SELECT array_agg(a.attname::pg_catalog.text ORDER BY a.attname) FROM pg_attribute a
                  WHERE a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey))
              = (SELECT array_agg(c ORDER BY c::name) FROM unnest($2) c)",
        &[relation::oid_arg(made.oid), columns.clone().into()],
    )?;
    if !has_index {
        let index = with_suffix(&format!("{}_{}", name.name, columns.join("_")), "_pk");
        spi::run(
            &format!(
                "CREATE UNIQUE INDEX {} ON {name} ({})",
                quote(&index),
                quote_list(columns.iter().map(String::as_str))
            ),
            &[],
        )?;
    }
    Ok(())
}
