//! Which columns take which: nothing that the column map lets pass may change on its way.

#[pgrx::pg_schema]
mod tests {
    use crate::backend::spi;
    use crate::backend::subtransaction::attempt;
    use crate::destination::column_map;
    use crate::destination::table::describe;
    use crate::error::Error;
    use pgrx::{pg_sys, prelude::*};

    /// Types, and values that are at the edge of each.
    const TYPES: [(&str, &[&str]); 26] = [
        ("smallint", &["32767", "-32768"]),
        ("integer", &["2147483647", "-2147483648"]),
        ("bigint", &["9223372036854775807"]),
        ("real", &["1.1754944e-38", "16777217", "NaN", "Infinity", "0.1"]),
        ("double precision", &["5e-324", "9007199254740993", "-Infinity", "0.1"]),
        ("numeric", &["123456789012345678901234567890.123456789", "NaN"]),
        ("numeric(6,2)", &["9999.99", "0.01"]),
        ("numeric(8,2)", &["999999.99"]),
        ("numeric(8,4)", &["9999.9999"]),
        ("numeric(6,0)", &["999999"]),
        ("text", &["long long long text ", ""]),
        ("character varying", &["long long long text "]),
        ("character varying(5)", &["abcde", "ab  "]),
        ("character varying(10)", &["abcdefghij"]),
        ("character(5)", &["abcde", "a"]),
        ("character(10)", &["abcdefghij", "a"]),
        ("timestamp without time zone", &["2026-11-30 12:34:56.789012", "infinity"]),
        ("timestamp(3) without time zone", &["2026-11-30 12:34:56.789"]),
        ("timestamp with time zone", &["2026-11-30 12:34:56.789012+00"]),
        ("timestamp(0) with time zone", &["2026-11-30 12:34:56+00"]),
        ("date", &["2026-11-30", "infinity"]),
        ("interval", &["1 year 2 mons 3 days 04:05:06.789012"]),
        ("interval(0)", &["1 year 2 mons 3 days 04:05:06"]),
        ("bit(5)", &["10101"]),
        ("bit varying(10)", &["1010101010", "1"]),
        ("bit varying", &["101010101010101"]),
    ];

    #[pg_test]
    fn a_column_that_is_taken_holds_each_value_of_the_source() {
        let oid = |table: &str| -> pg_sys::Oid {
            let oid = spi::number("SELECT $1::regclass::oid::bigint", &[table.into()]).unwrap();
            u32::try_from(oid).unwrap().into()
        };
        let mut taken = 0;
        for (theirs, values) in TYPES {
            for (own, _) in TYPES {
                spi::run(&format!("CREATE TEMPORARY TABLE theirs (x {theirs})"), &[]).unwrap();
                spi::run(&format!("CREATE TEMPORARY TABLE own (x {own})"), &[]).unwrap();
                let [source, destination] = describe([oid("theirs"), oid("own")]).unwrap();
                let map =
                    attempt(|| column_map::map(&destination, &source, &source.columns, &[]).map(|map| map.binary));
                match map {
                    Ok(binary) => {
                        taken += 1;
                        assert_eq!(
                            binary,
                            source.columns[0].type_oid == destination.columns[0].type_oid,
                            "{theirs} to {own}"
                        );
                        for value in values {
                            let way = format!(
                                "SELECT '{value}'::{theirs}::{own}::{theirs} IS NOT DISTINCT FROM '{value}'::{theirs}"
                            );
                            assert!(spi::is_true(&way, &[]).unwrap(), "{value}, from {theirs} to {own}");
                        }
                    }
                    Err(Error::IncompatibleColumns { .. }) => assert_ne!(theirs, own),
                    Err(error) => panic!("{theirs} to {own}: {}", error.report().message),
                }
                spi::run("DROP TABLE theirs, own", &[]).unwrap();
            }
        }
        assert!(taken > TYPES.len() * 2, "{taken} pairs");
    }

    #[pg_test]
    fn what_is_refused_names_the_statement_that_mends_it() {
        spi::run("CREATE TEMPORARY TABLE theirs (a bigint, \"B b\" numeric(8,2), c text)", &[]).unwrap();
        spi::run("CREATE TEMPORARY TABLE own (a integer, \"B b\" numeric(6,2))", &[]).unwrap();
        let oid = |table: &str| -> pg_sys::Oid {
            let oid = spi::number("SELECT $1::regclass::oid::bigint", &[table.into()]).unwrap();
            u32::try_from(oid).unwrap().into()
        };
        let describe = || describe([oid("theirs"), oid("own")]).unwrap();
        let [source, destination] = describe();
        match column_map::map(&destination, &source, &source.columns, &[]) {
            Err(Error::IncompatibleColumns { fixes, .. }) => {
                assert_eq!(fixes.len(), 3);
                for fix in fixes {
                    spi::run(&fix, &[]).unwrap();
                }
            }
            _ => panic!("it is taken"),
        }
        let [source, destination] = describe();
        assert!(column_map::map(&destination, &source, &source.columns, &[]).is_ok());
    }
}
