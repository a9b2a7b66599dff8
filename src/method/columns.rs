//! Which columns and indexes of a source a job copies.

use crate::error::{Error, Result};
use crate::shape::{Column, IndexDefinition, Shape};

/// The columns that a job copies, in the source's order.
///
/// # Errors
/// UnknownFilterColumns; UnsupportedSource if nothing is left.
pub fn selected_columns(shape: &Shape, filter: Option<&[String]>, source_label: &str) -> Result<Vec<Column>> {
    let columns: Vec<Column> = match filter {
        None => shape.columns.clone(),
        Some(filter) => {
            let unknown: Vec<_> = filter.iter().filter(|name| shape.column(name).is_none()).cloned().collect();
            if !unknown.is_empty() {
                return Err(Error::UnknownFilterColumns { table: shape.table().plain(), columns: unknown });
            }
            shape.columns.iter().filter(|column| filter.contains(&column.name)).cloned().collect()
        }
    };
    if columns.is_empty() {
        return Err(Error::UnsupportedSource {
            table: shape.table().plain(),
            source_label: source_label.to_string(),
            reason: "no column is left to copy".to_string(),
        });
    }
    Ok(columns)
}

/// With a filter only the key's index is copied. `shape` has its indexes.
pub fn copied_indexes<'a>(shape: &'a Shape, filter: Option<&[String]>) -> Vec<&'a IndexDefinition> {
    match filter {
        None => shape.indexes.iter().collect(),
        Some(filter) => {
            shape.key().filter(|key| key.columns.iter().all(|column| filter.contains(column))).into_iter().collect()
        }
    }
}

pub fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.name.clone()).collect()
}
