//! Queues that mimeo 2.0 and 2.1 have made: keys in the types of the table, deleted rows as row_to_json has them.

use super::capture::Capture;
use super::keys::{key_column, text};
use super::objects::Objects;
use super::triggers::limit_script;
use crate::backend::name::{literal, quote};

/// Converts a queue of 2.1 to one of this release. It holds deleted rows as row_to_json wrote them; if these can no longer be read as rows of
/// the table, they count as not kept.
pub(super) fn conversion_script(objects: &Objects, capture: &Capture<'_>) -> String {
    let queue = &objects.queue;
    let mut script = format!(
        "DO {};",
        literal(&format!(
            "BEGIN EXECUTE format('ALTER SEQUENCE %s RENAME TO %I', pg_get_serial_sequence({}, 'mimeo_seq'), {}); END",
            literal(&queue.to_string()),
            literal(&objects.sequence().name)
        ))
    );
    for (ordinal, column) in capture.key.iter().enumerate() {
        let (old, new) = (quote(column), key_column(ordinal));
        script.push_str(&format!(
            "ALTER TABLE {queue} RENAME {old} TO {new};
             ALTER TABLE {queue} ALTER {new} TYPE pg_catalog.text USING {};",
            text(&new)
        ));
    }
    if capture.keeps_rows {
        let list = |each: &dyn Fn(&String) -> String| {
            capture.kept.iter().map(|(name, _)| each(name)).collect::<Vec<_>>().join(", ")
        };
        let names = list(&|name| literal(name));
        let texts = list(&|name| text(&format!("r.{}", quote(name))));
        script.push_str(&format!(
            "DO {};",
            literal(&format!(
                "BEGIN
                     UPDATE {queue} SET mimeo_row = (SELECT json_object(ARRAY[{names}]::pg_catalog.text[], ARRAY[{texts}]::pg_catalog.text[])
                                                       FROM json_populate_record(NULL::{}, mimeo_row) r) WHERE mimeo_row IS NOT NULL;
                 EXCEPTION WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
                     UPDATE {queue} SET mimeo_row = NULL WHERE mimeo_row IS NOT NULL;
                 END",
                capture.table.table()
            ))
        ));
    }
    script.push_str(&limit_script(queue, capture.max_size));
    script
}
