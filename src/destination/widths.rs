//! Whether a type with a length or precision takes every value of another without rounding or truncating it.

use crate::shape::{Column, Shape};

/// Length or precision as pg_attribute.atttypmod has it; -1 is none.
type Typmod = i32;

/// Types whose values a destination's type would round, truncate or change, although PostgreSQL casts them implicitly: source,
/// destination.
const LOSSY: [(&str, &str); 14] = [
    ("numeric", "real"),
    ("numeric", "double precision"),
    ("bigint", "real"),
    ("bigint", "double precision"),
    ("integer", "real"),
    ("text", "character"),
    ("text", "name"),
    ("character varying", "character"),
    ("character varying", "name"),
    ("character", "name"),
    ("text", "\"char\""),
    ("character varying", "\"char\""),
    ("character", "\"char\""),
    ("double precision", "real"),
];

/// Whether a column here holds every value of a column of the source as it is, given that PostgreSQL casts the one type to the other.
pub fn holds(own: (&Shape, &Column), source: (&Shape, &Column)) -> bool {
    let (own_type, own_typmod) = below_domains(own.0, own.1);
    let (their_type, their_typmod) = below_domains(source.0, source.1);
    let element = |name: &str| name.strip_suffix("[]").unwrap_or(name).to_string();
    let (own_name, their_name) = (element(&own_type), element(&their_type));
    let same = own_name == their_name || own.1.extension.is_some() && own.1.extension == source.1.extension;
    if same {
        return takes(&own_name, own_typmod, their_typmod) && attributes(own, source);
    }
    !LOSSY.contains(&(their_name.as_str(), own_name.as_str()))
        && takes_other(&own_name, own_typmod, &their_name, their_typmod)
}

/// The name of the type below a column's domains, and its length: that of a domain, where it has one.
fn below_domains(shape: &Shape, column: &Column) -> (String, Typmod) {
    let (mut oid, mut typmod) = (column.type_oid, column.typmod);
    for _ in 0..=64 {
        let Some(found) = shape.types.get(&oid).filter(|found| found.kind == 'd') else { break };
        if typmod < 0 {
            typmod = found.typmod;
        }
        oid = found.base;
    }
    (shape.base_type(column).for_message(), typmod)
}

/// The same for what composite types hold, as far as PostgreSQL's own types are in them.
fn attributes(own: (&Shape, &Column), source: (&Shape, &Column)) -> bool {
    let of = |shape: &Shape, column: &Column| {
        let mut oid = column.type_oid;
        loop {
            match shape.types.get(&oid) {
                Some(found) if found.kind == 'd' => oid = found.base,
                Some(found) if found.element != 0 => oid = found.element,
                found => return found.and_then(|found| found.attribute_types.clone()).unwrap_or_default(),
            }
        }
    };
    let (ours, theirs) = (of(own.0, own.1), of(source.0, source.1));
    ours.len() != theirs.len()
        || ours
            .iter()
            .zip(&theirs)
            .all(|((name, typmod), (other, wanted))| name != other || takes(name, *typmod, *wanted))
}

/// Whether a length of a type takes every value of another length of it.
fn takes(name: &str, own: Typmod, theirs: Typmod) -> bool {
    if own < 0 || own == theirs {
        return true;
    }
    match name {
        "numeric" => {
            let digits = |typmod: Typmod| {
                let (precision, scale) = (((typmod - 4) >> 16) & 0xffff, (typmod - 4) & 0x7ff);
                (precision, (scale ^ 0x400) - 0x400)
            };
            let ((precision, scale), (wanted, wanted_scale)) = (digits(own), digits(theirs));
            theirs >= 0 && scale >= wanted_scale && precision - scale >= wanted - wanted_scale
        }
        "character varying" | "bit varying" | "character" => theirs >= 0 && own >= theirs,
        "timestamp without time zone"
        | "timestamp with time zone"
        | "time without time zone"
        | "time with time zone" => own >= if theirs < 0 { 6 } else { theirs },
        "interval" => {
            let parts = |typmod: Typmod| {
                let (fields, precision) =
                    if typmod < 0 { (0x7fff, 0xffff) } else { ((typmod >> 16) & 0x7fff, typmod & 0xffff) };
                (fields, if precision == 0xffff { 6 } else { precision })
            };
            let ((fields, precision), (wanted, wanted_precision)) = (parts(own), parts(theirs));
            (fields == 0x7fff || fields == wanted) && precision >= wanted_precision
        }
        _ => false,
    }
}

/// The same for two types.
fn takes_other(own_name: &str, own: Typmod, their_name: &str, theirs: Typmod) -> bool {
    if own < 0 {
        return true;
    }
    let whole = |digits: i32| ((own - 4) >> 16 & 0xffff) - ((((own - 4) & 0x7ff) ^ 0x400) - 0x400) >= digits;
    match (own_name, their_name) {
        ("numeric", "smallint") => whole(5),
        ("numeric", "integer") => whole(10),
        ("numeric", "bigint") => whole(19),
        ("timestamp without time zone" | "timestamp with time zone", "date") => true,
        ("timestamp with time zone", "timestamp without time zone")
        | ("timestamp without time zone", "timestamp with time zone") => takes("timestamp with time zone", own, theirs),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{takes, takes_other};

    fn numeric(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn what_is_narrower_is_refused() {
        let interval = |fields: i32, precision: i32| (fields << 16) | precision;
        for (name, own, theirs, fits) in [
            ("numeric", -1, numeric(5, 2), true),
            ("numeric", numeric(5, 2), -1, false),
            ("numeric", numeric(10, 2), numeric(5, 2), true),
            ("numeric", numeric(10, 2), numeric(10, 4), false),
            ("numeric", numeric(10, 4), numeric(10, 2), false),
            ("numeric", numeric(5, -2), numeric(7, 0), false),
            ("numeric", numeric(7, 0), numeric(5, -2), true),
            ("character varying", 14, 24, false),
            ("character varying", 24, 14, true),
            ("character varying", 24, -1, false),
            ("character", 14, 24, false),
            ("bit", 8, 16, false),
            ("timestamp without time zone", 0, -1, false),
            ("timestamp with time zone", 6, -1, true),
            ("time with time zone", 3, 2, true),
            ("interval", interval(0x7fff, 0), -1, false),
            ("interval", interval(0x7fff, 6), -1, true),
            ("interval", interval(4, 0xffff), -1, false),
            ("interval", interval(4, 0xffff), interval(4, 0xffff), true),
            ("vector", 3, 4, false),
        ] {
            assert_eq!(takes(name, own, theirs), fits, "{name} {own} {theirs}");
        }
        assert!(takes_other("numeric", numeric(10, 0), "integer", -1));
        assert!(!takes_other("numeric", numeric(10, 2), "integer", -1));
        assert!(!takes_other("character varying", 14, "text", -1));
        assert!(takes_other("text", -1, "character varying", 14));
    }
}
