//! The bodies of the trigger functions of a queue.

use super::capture::{Capture, Sensitive};
use super::keys::{key_column, text};
use super::objects::{Objects, STOPPED};
use crate::backend::name::{literal, quote, Name};
use std::collections::BTreeSet;

/// Rows of which fewer bytes than this are stored are certain to be less than 1 GB as text.
const LARGE: u32 = 256 * 1024;

/// The size of a queue is checked for rows whose number has none of these bits: each 1024th, and each 64th of a queue that holds whole rows.
const LOOK: [i64; 2] = [1023, 63];

/// Variables of the functions, declared where they are used.
pub(super) const VARIABLES: [(&str, &str); 7] = [
    ("mimeo_rows", "int8"),
    ("mimeo_place", "int8"),
    ("mimeo_names", "text"),
    ("mimeo_texts", "text"),
    ("mimeo_size", "text"),
    ("mimeo_from", "text"),
    ("mimeo_was", "text[]"),
];

/// The bodies, and the parts that they are built from.
pub(super) struct Bodies {
    queue: String,
    full: Name,
    /// A FROM item with NULL for each column that a statement names, for the case that the table lacks it.
    missing: String,
    /// `mimeo_key1, …`
    list: String,
    /// The same of a FROM item that is called mimeo_k.
    keys: String,
    /// The texts of the key, under these names.
    texts: String,
    /// The sequence of the queue, as a string constant.
    sequence: String,
    /// In row triggers: a reference to the table, so that a cached plan is invalidated when the table changes; NEW and OLD do not cause that.
    follows: String,
    /// The condition that the size of the queue need not be checked for a row's number.
    is_plain: String,
    inserted: String,
    updated: String,
    deleted: String,
    pub truncated: String,
}

impl Bodies {
    pub fn new(objects: &Objects, capture: &Capture<'_>) -> Bodies {
        let ordinals = 0..capture.key.len();
        let named: BTreeSet<&String> = capture
            .key
            .iter()
            .chain(capture.compared.unwrap_or_default())
            .chain(capture.kept.iter().map(|k| &k.0))
            .collect();
        let missing: Vec<_> = named.iter().map(|name| format!("NULL::pg_catalog.text AS {}", quote(name))).collect();
        let list: Vec<_> = ordinals.map(key_column).collect();
        let keys: Vec<_> = list.iter().map(|key| format!("mimeo_k.{key}")).collect();
        let texts: Vec<_> =
            capture.key.iter().zip(&list).map(|(column, key)| format!("{} AS {key}", text(&quote(column)))).collect();
        let sequence = literal(&objects.sequence().to_string());
        let follows = if capture.rows {
            format!(" WHERE {}::pg_catalog.regclass IS NOT NULL", literal(&capture.table.oid.to_string()))
        } else {
            String::new()
        };
        let full = objects.full();
        let look = LOOK[usize::from(capture.keeps_rows)];
        let mut bodies = Bodies {
            queue: objects.queue.to_string(),
            missing: format!("(SELECT {}) mimeo_d", missing.join(", ")),
            list: list.join(", "),
            keys: keys.join(", "),
            texts: texts.join(", "),
            sequence,
            follows,
            is_plain: format!("mimeo_k.mimeo_seq & {look} <> 0 AND mimeo_k.mimeo_seq < {STOPPED}"),
            full,
            inserted: String::new(),
            updated: String::new(),
            deleted: String::new(),
            truncated: String::new(),
        };
        let (new, old) =
            if capture.rows { ("(SELECT NEW.*) mimeo_r", "(SELECT OLD.*) mimeo_r") } else { ("new_rows", "old_rows") };
        bodies.inserted = bodies.insert('I', &bodies.key(new));
        bodies.updated = bodies.update(capture, new, old);
        bodies.deleted = bodies.gone(capture, old, "");
        bodies.truncated = bodies.truncate(capture);
        bodies
    }

    /// A FROM list: the keys of these rows, as mimeo_k.
    fn key(&self, rows: &str) -> String {
        format!("{}, LATERAL (SELECT {} FROM {rows}) mimeo_k", self.missing, self.texts)
    }

    fn insert(&self, operation: char, from: &str) -> String {
        format!("{};", self.insert_of(operation, "", from, &self.follows))
    }

    /// Adds rows to the queue: keys, and `more` columns, of what is mimeo_k in a FROM list. Each takes a number; one beyond all others means that the
    /// queue takes no more rows, and some mean that the size is to be checked. Numbers are cached by fifty, so that nobody waits for the sequence.
    fn insert_of(&self, operation: char, more: &str, from: &str, selected: &str) -> String {
        let Bodies { queue, list, keys, sequence, full, is_plain, .. } = self;
        let (comma, theirs) = if more.is_empty() { ("", String::new()) } else { (", ", format!(", mimeo_k.{more}")) };
        format!(
            "INSERT INTO {queue} ({list}, mimeo_seq, mimeo_op{comma}{more}) SELECT {keys}, mimeo_k.mimeo_seq, '{operation}'{theirs}
               FROM (SELECT {keys}{theirs}, nextval({sequence}) AS mimeo_seq FROM {from}{selected} OFFSET 0) mimeo_k
              WHERE CASE WHEN {is_plain} THEN true ELSE {full}(mimeo_k.mimeo_seq) END"
        )
    }

    /// The condition that the key of an old row is not that of a new row.
    fn is_moved(&self, new: &str) -> String {
        format!("({}) <> (SELECT {} FROM {})", self.keys, self.keys, self.key(new))
    }

    fn update(&self, capture: &Capture<'_>, new: &str, old: &str) -> String {
        let keys = &self.keys;
        if let (Some(columns), false) = (capture.compared, capture.rows) {
            return self.update_compared(capture, columns);
        }
        let both = |old: &str, new_one: &str| {
            format!(
                "(SELECT {keys} FROM {} UNION ALL SELECT {keys} FROM {} WHERE {}) mimeo_k",
                self.key(new),
                self.key(old),
                self.is_moved(new_one)
            )
        };
        if capture.rows {
            let unchanged = capture.compared.map_or(String::new(), |columns| {
                let row = |rows: &str, name: &str| {
                    format!("LATERAL (SELECT ROW({}) AS mimeo_row FROM {rows}) {name}", list_of(columns))
                };
                format!(
                    "IF (SELECT NOT mimeo_n.mimeo_row *<> mimeo_o.mimeo_row FROM {}, {}, {}{}) THEN RETURN NULL; END IF;",
                    self.missing,
                    row(new, "mimeo_n"),
                    row(old, "mimeo_o"),
                    self.follows
                )
            });
            if !capture.keeps_rows {
                return format!("{unchanged} {}", self.insert('U', &both(old, new)));
            }
            return format!(
                "{unchanged} {}
                 IF EXISTS (SELECT FROM {}{} AND {}) THEN {} END IF;",
                self.insert('U', &self.key(new)),
                self.key(old),
                self.follows,
                self.is_moved(new),
                self.gone(capture, old, "")
            );
        }
        // A single row is the usual case. Of several rows, those whose keys have changed are only searched for if there can be any.
        let first = both(&format!("{old} LIMIT 1"), &format!("{new} LIMIT 1"));
        let moved = format!("SELECT {keys} FROM {} EXCEPT SELECT {keys} FROM {}", self.key(old), self.key(new));
        let differ = self.keys_differ(capture);
        let several = if capture.keeps_rows {
            let absent = self.absent_from_new();
            format!("IF {differ} AND EXISTS ({moved}) THEN {} END IF;", self.gone_by_name(capture, &absent))
        } else {
            format!("{};", self.insert_of('U', "", &format!("({moved}) mimeo_k"), &format!(" WHERE {differ}")))
        };
        format!(
            "{} GET DIAGNOSTICS mimeo_rows = ROW_COUNT; IF mimeo_rows > 1 THEN {several} END IF;",
            self.insert('U', &first)
        )
    }

    /// Whether old and new rows of a statement may have other keys than each other: sums of hashes, in any order.
    fn keys_differ(&self, capture: &Capture<'_>) -> String {
        if !capture.server.hashes_extended() {
            return "true".to_string();
        }
        let hashes = self
            .list
            .split(", ")
            .enumerate()
            .map(|(ordinal, key)| format!("hashtextextended(mimeo_k.{key}, {ordinal})"));
        let hash = hashes.collect::<Vec<_>>().join(" # ");
        let sum = |rows: &str| format!("(SELECT sum({hash}) FROM {})", self.key(rows));
        format!("{} IS DISTINCT FROM {}", sum("old_rows"), sum("new_rows"))
    }

    /// The condition that mimeo_k is not the key of a new row.
    fn absent_from_new(&self) -> String {
        let same: Vec<_> = self.list.split(", ").map(|key| format!("mimeo_n.{key} = mimeo_k.{key}")).collect();
        let new = format!("SELECT {} FROM {}", self.keys, self.key("new_rows"));
        format!(" AND NOT EXISTS (SELECT FROM ({new}) mimeo_n WHERE {})", same.join(" AND "))
    }

    /// Queues only rows in which one of these columns has changed, and keys that have changed.
    fn update_compared(&self, capture: &Capture<'_>, columns: &[String]) -> String {
        let row = |rows: &str, name: &str| {
            format!(
                "(SELECT mimeo_k.* FROM {}, LATERAL (SELECT {}, ROW({}) AS mimeo_row FROM {rows}) mimeo_k) {name}",
                self.missing,
                self.texts,
                list_of(columns)
            )
        };
        let same: Vec<_> = self.list.split(", ").map(|key| format!("mimeo_o.{key} = mimeo_k.{key}")).collect();
        let same = same.join(" AND ");
        let changed = format!(
            "(SELECT {} FROM {} WHERE NOT EXISTS (SELECT FROM {} WHERE {same} AND NOT mimeo_o.mimeo_row *<> mimeo_k.mimeo_row)) mimeo_k",
            self.keys,
            row("new_rows", "mimeo_k"),
            row("old_rows", "mimeo_o")
        );
        let changed = self.insert('U', &changed);
        let absent = self.absent_from_new();
        let old = self.key("old_rows");
        if capture.keeps_rows {
            return format!(
                "{changed} IF EXISTS (SELECT FROM {old} WHERE true{absent}) THEN {} END IF;",
                self.gone_by_name(capture, &absent)
            );
        }
        let moved = format!("(SELECT {} FROM {old} WHERE true{absent}) mimeo_k", self.keys);
        format!("{changed} {}", self.insert('U', &moved))
    }

    /// Queues the keys of rows that are gone, of a logdel job with what they held; `also` is a further condition on mimeo_k.
    fn gone(&self, capture: &Capture<'_>, rows: &str, also: &str) -> String {
        if !capture.keeps_rows {
            return self.insert('D', &self.key(rows));
        }
        let names: Vec<_> = capture.kept.iter().map(|(name, _)| literal(name)).collect();
        let texts: Vec<_> = capture.kept.iter().map(|(name, _)| text(&quote(name))).collect();
        let types: Vec<_> = capture.kept.iter().map(|(name, oid)| literal(&format!("{name} {oid}"))).collect();
        let count = names.len();
        let others = if capture.all { format!("count(*) = {count} AND ") } else { String::new() };
        let as_known = format!(
            "(SELECT {others}count(*) FILTER (WHERE concat(a.attname, ' ', a.atttypid) = ANY (ARRAY[{}]::pg_catalog.text[])) = {count}
                FROM pg_catalog.pg_attribute a WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped)",
            types.join(", ")
        );
        let long: Vec<_> = capture
            .kept
            .iter()
            .filter(|(_, oid)| !has_fixed_length(*oid))
            .map(|(name, _)| format!("coalesce(pg_column_size({}), 0)", quote(name)))
            .collect();
        let small = if long.is_empty() {
            String::new()
        } else {
            format!(
                " AND (SELECT coalesce(max(mimeo_k.mimeo_size), 0) < {LARGE} FROM {}, LATERAL (SELECT {} AS mimeo_size FROM {rows}) mimeo_k)",
                self.missing,
                long.join(" + ")
            )
        };
        // The texts of the key and of the row come from one FROM item, in which the columns' names are found.
        let from = format!(
            "{}, LATERAL (SELECT {}, json_object(ARRAY[{}]::pg_catalog.text[], ARRAY[{}]::pg_catalog.text[]) AS mimeo_row FROM {rows}) mimeo_k",
            self.missing,
            self.texts,
            names.join(", "),
            texts.join(", ")
        );
        let selected =
            if self.follows.is_empty() { format!(" WHERE true{also}") } else { format!("{}{also}", self.follows) };
        let plain = self.insert_of('D', "mimeo_row", &from, &selected);
        format!("IF {as_known}{small} THEN {plain}; ELSE {} END IF;", self.gone_by_name(capture, also))
    }

    /// The same for whatever columns the table has. It pins settings by itself.
    fn gone_by_name(&self, capture: &Capture<'_>, also: &str) -> String {
        let (from, using) = if capture.rows { ("'(SELECT ($1).*) mimeo_r'", " USING OLD") } else { ("'old_rows'", "") };
        format!("mimeo_from := {from}; {}", self.gone_slowly(capture, using, also))
    }

    /// The same for any columns and any length, from the FROM item in mimeo_from. A row that is too large as text is queued
    /// without its values.
    fn gone_slowly(&self, capture: &Capture<'_>, using: &str, also: &str) -> String {
        let filter = if capture.all {
            String::new()
        } else {
            let names: Vec<_> = capture.kept.iter().map(|(name, _)| literal(name)).collect();
            format!(" AND a.attname = ANY (ARRAY[{}]::pg_catalog.name[])", names.join(", "))
        };
        let all = Sensitive::ALL;
        let was: Vec<_> = all.iter().map(|setting| format!("current_setting('{}')", setting.name())).collect();
        let set: Vec<_> = all
            .iter()
            .map(|setting| format!("PERFORM set_config('{}', {}, true);", setting.name(), literal(setting.value())))
            .collect();
        let reset: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(ordinal, setting)| {
                format!("PERFORM set_config('{}', mimeo_was[{}], true);", setting.name(), ordinal + 1)
            })
            .collect();
        // What is between the parts is known at run time only.
        let split = |more: &str, item: &str| {
            let from = format!("{}, LATERAL (SELECT {}{item} FROM \u{1} mimeo_x) mimeo_k", self.missing, self.texts);
            let whole = self.insert_of('D', more, &from, &format!(" WHERE true{also}"));
            let (head, tail) =
                whole.split_once('\u{1}').map(|(head, tail)| (head.to_string(), tail.to_string())).unwrap_or_default();
            (head, literal(&tail))
        };
        let (head, tail) = split(
            "mimeo_row",
            ", json_object(ARRAY[\u{2}]::pg_catalog.text[], ARRAY[\u{3}]::pg_catalog.text[]) AS mimeo_row",
        );
        let parts: Vec<_> = head.split(['\u{2}', '\u{3}']).map(literal).collect();
        let row = match parts.as_slice() {
            [first, second, third] => format!("{first} || mimeo_names || {second} || mimeo_texts || {third}"),
            _ => literal(&head),
        };
        let (without, without_tail) = split("", "");
        let without = literal(&without);
        let one = format!("{} || mimeo_from || ' OFFSET ' || mimeo_place || ' LIMIT 1)'", literal("(SELECT * FROM "));
        let small = format!(
            "{} || mimeo_from || {} || mimeo_size || {}",
            literal("(SELECT * FROM "),
            literal(" WHERE "),
            literal(&format!(" < {LARGE})"))
        );
        format!(
            "mimeo_was := ARRAY[{was}]; {set}
             SELECT coalesce(string_agg(quote_literal(a.attname), ', ' ORDER BY a.attnum), ''),
                    coalesce(string_agg(format('CASE WHEN num_nulls(%1$I) = 0 THEN concat(%1$I) END', a.attname), ', ' ORDER BY a.attnum), ''),
                    coalesce(string_agg(format('coalesce(pg_column_size(%I), 0)', a.attname), ' + ' ORDER BY a.attnum), '0')
               INTO mimeo_names, mimeo_texts, mimeo_size
               FROM pg_catalog.pg_attribute a WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped{filter};
             EXECUTE {row} || {small} || {tail}{using};
             FOR mimeo_place IN EXECUTE 'SELECT x.ordinal FROM (SELECT row_number() OVER () - 1 AS ordinal, ' || mimeo_size || ' AS size FROM '
                 || mimeo_from || ') x WHERE x.size >= {LARGE}'{using}
             LOOP
                 BEGIN
                     EXECUTE {row} || {one} || {tail}{using};
                 EXCEPTION WHEN OTHERS THEN
                     EXECUTE {without} || {one} || {without_tail}{using};
                 END;
             END LOOP;
             {reset}",
            was = was.join(", "),
            set = set.join(" "),
            reset = reset.join(" "),
        )
    }

    /// A TRUNCATE of one table of a hierarchy does not empty all of it, so the keys of the table are queued, if the transaction sees
    /// them all; that of a partitioned table does. Where the keys cannot be queued, all rows will be copied.
    fn truncate(&self, capture: &Capture<'_>) -> String {
        let whole = format!("INSERT INTO {} (mimeo_op) VALUES ('T');", self.queue);
        if capture.cloned {
            return whole;
        }
        let part = if capture.keeps_rows {
            self.gone_slowly(capture, "", "")
        } else {
            let from = format!("{}, LATERAL (SELECT {} FROM \u{1}) mimeo_k", self.missing, self.texts);
            let whole = self.insert_of('D', "", &from, "");
            let (head, tail) = whole.split_once('\u{1}').unwrap_or_default();
            format!("EXECUTE {} || mimeo_from || {};", literal(head), literal(tail))
        };
        format!(
            "IF current_setting('transaction_isolation') = 'read committed'
                 AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE TG_RELID IN (i.inhparent, i.inhrelid)) THEN
                 mimeo_from := 'ONLY ' || TG_RELID::pg_catalog.regclass;
                 BEGIN
                     {part}
                 EXCEPTION WHEN OTHERS THEN
                     {whole}
                 END;
             ELSE
                 {whole}
             END IF;"
        )
    }

    /// The body of the function for one event.
    pub fn of(&self, event: &str) -> &str {
        match event {
            "insert" => &self.inserted,
            "update" => &self.updated,
            _ => &self.deleted,
        }
    }

    /// The body of one function for all events. Events that usually come a row at a time are tested first.
    pub fn together(&self) -> String {
        format!(
            "IF TG_OP = 'INSERT' THEN {} ELSIF TG_OP = 'UPDATE' THEN {} ELSIF TG_OP = 'DELETE' THEN {} ELSE {} END IF;",
            self.inserted, self.updated, self.deleted, self.truncated
        )
    }

    /// The function that checks the size of the queue, and returns whether it takes more rows. A queue that has become too large is stopped by
    /// its sequence: everybody sees that at once, nobody waits for it, and a rollback does not undo it. A number that a session has cached before
    /// that says nothing any more.
    pub fn full_script(&self) -> String {
        let (queue, sequence) = (literal(&self.queue), &self.sequence);
        let body = format!(
            "BEGIN
                 IF coalesce(pg_sequence_last_value({sequence}), 0) >= {STOPPED} THEN
                     RETURN false;
                 END IF;
                 IF pg_table_size({queue}::pg_catalog.regclass) > (
                        SELECT substring(col_description(a.attrelid, a.attnum) FROM '^[0-9]{{1,18}}$')::pg_catalog.int8
                          FROM pg_catalog.pg_attribute a WHERE a.attrelid = {queue}::pg_catalog.regclass AND a.attname = 'mimeo_op') THEN
                     PERFORM setval({sequence}, {STOPPED});
                     RAISE LOG 'queue % has reached the max_queue_size of its job: it takes no more changes until the next refresh, which will copy all rows', {queue};
                     RETURN false;
                 END IF;
                 RETURN true;
             END"
        );
        format!(
            "CREATE FUNCTION {0}(bigint) RETURNS boolean LANGUAGE plpgsql SET search_path = '' AS {1};
             REVOKE ALL ON FUNCTION {0}(bigint) FROM PUBLIC;\n",
            self.full,
            literal(&body)
        )
    }
}

fn list_of(columns: &[String]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

/// Built-in types of a fixed length of some bytes.
fn has_fixed_length(oid: u32) -> bool {
    const FIXED: [u32; 20] =
        [16, 18, 19, 20, 21, 23, 26, 600, 700, 701, 790, 829, 774, 1082, 1083, 1114, 1184, 1186, 1266, 2950];
    FIXED.contains(&oid)
}
