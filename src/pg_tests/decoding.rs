//! COPY's binary format: what `destination::binary` decodes by itself has to be what PostgreSQL's receive functions make of it, and what they
//! refuse has to be refused.

#[pgrx::pg_schema]
mod tests {
    use crate::backend::spi;
    use crate::backend::subtransaction::attempt;
    use crate::destination::binary::{Decoder, Next};
    use crate::error::Error;
    use crate::pg_tests::Random;
    use pgrx::{pg_sys, prelude::*};

    /// Types, and an expression for values of theirs: i is 1 to 200.
    const TYPES: [(&str, &str); 32] = [
        ("bool", "i % 2 = 0"),
        ("\"char\"", "chr(i % 127 + 1)::\"char\""),
        ("int2", "(i * 163 - 16384)::int2"),
        ("int4", "i * 10000019 - 1000000000"),
        ("int8", "i * 46116860184273879 - 4611686018427387904"),
        ("oid", "i::oid"),
        ("float4", "(i - 100) / 7.0"),
        ("float8", "exp(i - 100)"),
        ("date", "'2026-11-30'::date - i * 3650"),
        ("timestamp", "'2026-11-30'::timestamp - i * interval '1 year 1 us'"),
        ("timestamp(3)", "'2026-11-30'::timestamp - i * interval '1 year 1 ms'"),
        ("timestamptz", "'2026-11-30'::timestamptz - i * interval '1 year 1 us'"),
        ("time", "'00:00'::time + i * interval '7 minutes 1 us'"),
        ("timetz", "'00:00+01'::timetz + i * interval '7 minutes'"),
        ("interval", "i * interval '1 month 2 days 3.000004 s'"),
        ("text", "repeat('ä' || i, i)"),
        ("varchar", "repeat('😀', i)"),
        ("varchar(5)", "left(i || 'abcde', 5)"),
        ("char(5)", "i::text"),
        ("bytea", "decode(repeat(to_hex(i % 16 + 16), i), 'hex')"),
        ("uuid", "md5(i::text)::uuid"),
        ("tid", "format('(%s,%s)', i * 20000003::bigint, i * 300)::tid"),
        ("xid", "(i * 20000003::bigint)::text::xid"),
        ("numeric", "i ^ 20 / 7.0"),
        ("numeric(8,3)", "i / 7.0"),
        ("jsonb", "jsonb_build_object(i::text, ARRAY[i, NULL], 'ä', i / 7.0)"),
        ("inet", "'10.0.0.0'::inet + i"),
        ("int4[]", "ARRAY[i, NULL, -i]"),
        ("text[]", "ARRAY[ARRAY['a', i::text], ARRAY[NULL, 'ä']]"),
        ("int4range", "int4range(-i, i)"),
        ("bit(8)", "i::bit(8)"),
        ("point", "point(i, -i)"),
    ];

    /// A column of that type in a table of its own.
    struct Column {
        relation: pg_sys::Relation,
        type_oid: pg_sys::Oid,
        typmod: i32,
    }

    impl Column {
        fn of(sql_type: &str) -> Column {
            spi::run("DROP TABLE IF EXISTS pg_temp.v", &[]).unwrap();
            spi::run(&format!("CREATE TEMPORARY TABLE v (x {sql_type})"), &[]).unwrap();
            let number = |sql| spi::number(sql, &[]).unwrap();
            let attribute = "FROM pg_attribute WHERE attrelid = 'pg_temp.v'::regclass AND attname = 'x'";
            let oid = |number: i64| pg_sys::Oid::from(u32::try_from(number).unwrap());
            let table = oid(number("SELECT 'pg_temp.v'::regclass::oid::bigint"));
            Column {
                // SAFETY: it has just been made by this transaction.
                relation: unsafe { pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) },
                type_oid: oid(number(&format!("SELECT atttypid::bigint {attribute}"))),
                typmod: number(&format!("SELECT atttypmod::bigint {attribute}")) as i32,
            }
        }

        fn close(self) {
            // SAFETY: opened above.
            unsafe { pg_sys::table_close(self.relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        }

        /// What the receive function makes of these bytes, as text; None if it, or what calls it, refuses them.
        fn received(&self, bytes: &[u8]) -> Option<String> {
            let received = attempt(|| {
                // SAFETY: a buffer of our own, and the type's own function.
                unsafe {
                    let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                    pg_sys::getTypeBinaryInputInfo(self.type_oid, &raw mut function, &raw mut parameter);
                    let buffer = pg_sys::makeStringInfo();
                    pg_sys::appendBinaryStringInfo(buffer, bytes.as_ptr().cast(), bytes.len() as i32);
                    let value = pg_sys::OidReceiveFunctionCall(function, buffer, parameter, self.typmod);
                    Ok(((*buffer).cursor == (*buffer).len).then(|| self.shown(value)))
                }
            });
            received.unwrap_or_default()
        }

        /// What the decoder makes of a row of these bytes.
        fn decoded(&self, bytes: &[u8]) -> Option<String> {
            let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01".to_vec();
            stream.extend((bytes.len() as i32).to_be_bytes());
            stream.extend(bytes);
            let decoded = attempt(|| {
                // SAFETY: the relation is open, there is room for its one column, and a guard around what has none.
                unsafe {
                    let mut decoder = Decoder::of(self.relation, &["x".to_string()]).unwrap();
                    let (mut at, mut value, mut null) = (0, pg_sys::Datum::from(0), true);
                    let next = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                        decoder.row(&stream, &mut at, &raw mut value, &raw mut null)
                    });
                    match next {
                        Next::Row => {
                            assert!(!null && at == stream.len());
                            Ok(Some(self.shown(value)))
                        }
                        Next::Malformed => Ok(None),
                        other => panic!("{other:?}"),
                    }
                }
            });
            match decoded {
                Ok(decoded) => decoded,
                Err(error @ Error::Internal(_)) => panic!("{}", error.report().message),
                Err(_) => None,
            }
        }

        /// A value as its output function prints it, with its size and bytes where it has some.
        ///
        /// # Safety
        /// A value of the type.
        unsafe fn shown(&self, value: pg_sys::Datum) -> String {
            // SAFETY: as the caller has promised.
            unsafe {
                let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(self.type_oid, &raw mut function, &raw mut varlena);
                let text = std::ffi::CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, value));
                let size = if varlena { pgrx::varsize_any(value.cast_mut_ptr()) } else { 0 };
                format!("{} {size}", text.to_string_lossy())
            }
        }
    }

    #[pg_test]
    fn values_of_each_type_come_out_as_they_went_in() {
        spi::run("SET LOCAL extra_float_digits = 3", &[]).unwrap();
        for (sql_type, expression) in TYPES {
            let column = Column::of(sql_type);
            let send = "SELECT typsend::regproc::text FROM pg_type WHERE oid = $1";
            let send = spi::text(send, &[crate::backend::relation::oid_arg(column.type_oid)]).unwrap().unwrap();
            let mut rows = 0;
            for i in 1..=200 {
                let value = format!("SELECT encode({send}(({expression})::{sql_type}), 'hex') FROM (SELECT {i}) v (i)");
                let hex = spi::text(&value, &[]).unwrap().unwrap();
                let bytes: Vec<u8> =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
                let received = column.received(&bytes);
                assert!(received.is_some(), "{sql_type} {i}: {hex}");
                assert_eq!(column.decoded(&bytes), received, "{sql_type} {i}: {hex}");
                rows += 1;
            }
            assert_eq!(rows, 200);
            column.close();
        }
    }

    #[pg_test]
    fn bytes_that_are_no_value_are_refused_as_postgresql_refuses_them() {
        let mut random = Random(3);
        let (mut taken, mut refused) = (0, 0);
        for (sql_type, _) in TYPES {
            let column = Column::of(sql_type);
            for _ in 0..400 {
                let length = [0, 1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 24][random.below(12)];
                let bytes: Vec<u8> = (0..length)
                    .map(|_| match random.below(4) {
                        0 => [0, 0x7f, 0x80, 0xff][random.below(4)],
                        1 => 0,
                        2 => b'a' + random.below(26) as u8,
                        _ => random.next() as u8,
                    })
                    .collect();
                let received = column.received(&bytes);
                assert_eq!(column.decoded(&bytes), received, "{sql_type}: {bytes:02x?}");
                *(if received.is_some() { &mut taken } else { &mut refused }) += 1;
            }
            column.close();
        }
        assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
    }

    #[pg_test]
    fn a_row_that_has_not_all_come_is_waited_for_and_no_other_count_of_columns_is_taken() {
        let column = Column::of("text");
        let whole = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x03abc\xff\xff";
        // SAFETY: as above.
        unsafe {
            let next = |decoder: &mut Decoder, data: &[u8], at: &mut usize| {
                let (mut value, mut null) = (pg_sys::Datum::from(0), true);
                pg_sys::ffi::pg_guard_ffi_boundary(|| decoder.row(data, at, &raw mut value, &raw mut null))
            };
            let end = whole.len() - 2;
            for length in 0..end {
                let mut decoder = Decoder::of(column.relation, &["x".to_string()]).unwrap();
                assert_eq!(next(&mut decoder, &whole[..length], &mut 0), Next::Incomplete, "{length}");
            }
            let mut decoder = Decoder::of(column.relation, &["x".to_string()]).unwrap();
            let mut at = 0;
            assert_eq!(next(&mut decoder, whole, &mut at), Next::Row);
            assert_eq!((at, next(&mut decoder, whole, &mut at)), (end, Next::End));
            for count in [0u8, 2, 0x7f] {
                let mut other = whole.to_vec();
                other[20] = count;
                let mut decoder = Decoder::of(column.relation, &["x".to_string()]).unwrap();
                assert_eq!(next(&mut decoder, &other, &mut 0), Next::Malformed, "{count} columns");
            }
            assert!(Decoder::of(column.relation, &["y".to_string()]).is_none());
        }
        column.close();
    }
}
