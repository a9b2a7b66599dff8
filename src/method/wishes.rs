//! What the columns of both sides ask for: what was added, renamed or dropped on the source, by names and attribute numbers alone.

use crate::shape::{Column, Shape};
use crate::source::seen::Known;
use std::collections::HashMap;

/// What might have to be done about a column, as far as the names and numbers say.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    Rename {
        own: String,
        to: String,
    },
    Add {
        column: Column,
    },
    /// A column here has the name of one that has come.
    Share {
        column: Column,
    },
    /// A column that was kept here has the name that another one has on the source now.
    Aside {
        own: String,
    },
    /// Their types may differ.
    Compare {
        own: String,
        column: Column,
    },
    Leave {
        own: String,
    },
    Relax {
        own: String,
    },
    Require {
        name: String,
    },
}

/// What both sides' columns, and those that the source had before, ask for. Without `before` nothing is known of renames and drops.
/// `kept` are names of columns that the source had earlier; `copied` says of a name whether a filter holds it.
pub fn wishes(
    columns: &[Column],
    local: &Shape,
    shape: &Shape,
    (before, kept): (Option<&[Known<'_>]>, &[String]),
    copied: Option<&dyn Fn(&str) -> bool>,
) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let history = before.unwrap_or_default();
    let numbered: HashMap<i16, &Known<'_>> = history.iter().map(|known| (known.number, known)).collect();
    let was_there = |name: &str| history.iter().any(|known| known.name == name);
    // Old and new names, where the destination still has the old one: else somebody has renamed it there already.
    let renamed: Vec<(&str, &str)> = columns
        .iter()
        .filter_map(|column| {
            let old = numbered.get(&column.number).filter(|old| old.name != column.name)?;
            local.column(old.name).is_some().then_some((old.name, column.name.as_str()))
        })
        .collect();
    let leaves = |name: &str| renamed.iter().any(|(old, _)| *old == name);
    for column in columns {
        let old = numbered.get(&column.number);
        let own = match renamed.iter().find(|(_, new)| *new == column.name) {
            Some((old, new)) => {
                if local.column(new).is_some() && !leaves(new) {
                    // With a filter it may never have been copied.
                    if copied.is_some() || !(was_there(new) || kept.iter().any(|kept| kept == new)) {
                        wishes.push(Wish::Share { column: column.clone() });
                        continue;
                    }
                    wishes.push(Wish::Leave { own: (*new).to_string() });
                    wishes.push(Wish::Aside { own: (*new).to_string() });
                }
                wishes.push(Wish::Rename { own: (*old).to_string(), to: (*new).to_string() });
                (*old).to_string()
            }
            None if local.column(&column.name).is_none() || leaves(&column.name) => {
                // What was there last time, and is gone here, is for whoever has dropped it to say.
                let is_new = old.is_none() && (!was_there(&column.name) || leaves(&column.name));
                if is_new && copied.is_none() {
                    wishes.push(Wish::Add { column: column.clone() });
                }
                continue;
            }
            None => {
                // A column that the source had before goes on under its name.
                if before.is_some() && old.is_none() && !was_there(&column.name) && !kept.contains(&column.name) {
                    wishes.push(Wish::Share { column: column.clone() });
                }
                column.name.clone()
            }
        };
        wishes.push(Wish::Compare { own: own.clone(), column: column.clone() });
        let before_not_null = old.and_then(|old| old.not_null);
        let own_not_null = local.column(&own).is_some_and(|own| own.not_null);
        if own_not_null && !column.not_null && before_not_null != Some(false) {
            wishes.push(Wish::Relax { own });
        } else if !own_not_null && column.not_null && before_not_null == Some(false) {
            wishes.push(Wish::Require { name: column.name.clone() });
        }
    }
    for known in history {
        let is_there = shape.columns.iter().any(|column| column.number == known.number || column.name == known.name);
        let was_copied = copied.is_none_or(|copied| copied(known.name));
        if !is_there && was_copied && local.column(known.name).is_some() && !leaves(known.name) {
            wishes.push(Wish::Leave { own: known.name.to_string() });
        }
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::{wishes, Wish};
    use crate::shape::{Column, Shape};
    use crate::source::seen::Known;

    /// `name:number`, with ! behind it if it is NOT NULL.
    fn column(text: &str) -> Column {
        let (text, not_null) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
        let (name, number) = text.split_once(':').unwrap();
        serde_json::from_value(serde_json::json!({
            "name": name, "number": number.parse::<i16>().unwrap(), "type": "integer", "type_oid": 23, "typmod": -1, "not_null": not_null,
            "generated": "", "identity": "", "collation": null, "binary": true, "written": "integer", "extension": null,
        }))
        .unwrap()
    }

    fn shape(columns: &str) -> Shape {
        let columns = columns.split_whitespace().map(column).collect();
        Shape {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            kind: 'r',
            columns,
            types: std::collections::BTreeMap::new(),
            indexes: Vec::new(),
        }
    }

    /// What both sides and the columns before ask for, in short; comparisons of types left out.
    fn asked(before: &str, source: &str, local: &str, filtered: bool) -> String {
        let old = shape(before);
        let known: Vec<_> = old
            .columns
            .iter()
            .map(|column| Known { name: &column.name, number: column.number, not_null: Some(column.not_null) })
            .collect();
        let known = (!before.is_empty()).then_some(known.as_slice());
        let source = shape(source);
        let all = |_: &str| true;
        wishes(&source.columns, &shape(local), &source, (known, &["kept".to_string()]), filtered.then_some(&all))
            .iter()
            .filter_map(|wish| match wish {
                Wish::Rename { own, to } => Some(format!("{own}>{to}")),
                Wish::Add { column } => Some(format!("+{}", column.name)),
                Wish::Share { column } => Some(format!("?{}", column.name)),
                Wish::Aside { own } => Some(format!("{own} aside")),
                Wish::Compare { .. } => None,
                Wish::Leave { own } => Some(format!("-{own}")),
                Wish::Relax { own } => Some(format!("{own} null")),
                Wish::Require { name } => Some(format!("{name} not null")),
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn what_names_and_numbers_ask_for() {
        for (before, source, local, wanted) in [
            ("a:1! b:2", "a:1! b:2", "a:1! b:2", ""),
            ("a:1! b:2", "a:1! b:2 c:3", "a:1! b:2", "+c"),
            ("a:1! b:2", "a:1! c:2", "a:1! b:2", "b>c"),
            ("a:1! b:2", "a:1!", "a:1! b:2", "-b"),
            ("a:1 b:2", "b:1 a:2", "a:1 b:2", "a>b, b>a"),
            // A new column takes the name of one that has been renamed.
            ("a:1 b:2", "a:1 old:2 b:3", "a:1 b:2", "b>old, +b"),
            // Dropped, and added anew: it is the same here.
            ("a:1 b:2", "a:1 b:3", "a:1 b:2", ""),
            // Somebody has added or renamed it here already.
            ("a:1 b:2", "a:1 b:2 c:3", "a:1 b:2 c:9", "?c"),
            ("a:1 b:2", "a:1 c:2", "a:1 c:2", ""),
            // A name that the destination has for a column of its own.
            ("a:1 b:2", "a:1 own:2", "a:1 b:2 own:9", "?own"),
            ("a:1", "a:1 kept:3", "a:1 kept:9", ""),
            ("a:1", "a:1 kept:3", "a:1", "+kept"),
            // Prepared beside the old one, which is dropped: in one step, or after a refresh.
            ("a:1 b:2 b2:3", "a:1 b:3", "a:1 b:2 b2:3", "-b, b aside, b2>b"),
            ("a:1 b2:3", "a:1 kept:3", "a:1 kept:2 b2:3", "-kept, kept aside, b2>kept"),
            // Dropped here: that is for whoever has dropped it to mend.
            ("a:1 b:2", "a:1 b:2", "a:1", ""),
            ("a:1 b:2!", "a:1 b:2", "a:1 b:2!", "b null"),
            ("a:1 b:2", "a:1 b:2!", "a:1 b:2", "b not null"),
            // NOT NULL here is the destination's own.
            ("a:1 b:2", "a:1 b:2", "a:1 b:2!", ""),
            ("a:1 b:2!", "a:1 b:2!", "a:1 b:2", ""),
            // Nothing is known of before.
            ("", "a:1 b:2 c:3", "a:1 b:2", "+c"),
            ("", "a:1 b:2", "a:1 b:2!", "b null"),
        ] {
            assert_eq!(asked(before, source, local, false), wanted, "{before} | {source} | {local}");
        }
        assert_eq!(asked("a:1 b:2", "a:1 b:2 c:3", "a:1 b:2", true), "", "with a filter nothing is added");
    }
}
