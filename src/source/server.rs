//! What the server of a source can do, by its version: everything that older ones lack is here, or is read from their catalogs by `to_jsonb`.

/// A PostgreSQL server, as PQserverVersion counts: 150004 is 15.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server(pub i32);

impl Server {
    /// The oldest that sources may have: the first with partitioned tables, transition tables and identity columns.
    pub const OLDEST: Server = Server(100_000);

    /// As users know it: 15, or 9.6.
    pub fn major(self) -> String {
        let Server(number) = self;
        if self < Server::OLDEST {
            format!("{}.{}", number / 10_000, number / 100 % 100)
        } else {
            (number / 10_000).to_string()
        }
    }

    /// Row triggers of a partitioned table are those of its partitions, too, also of those to come.
    pub fn clones_row_triggers(self) -> bool {
        self >= Server(110_000)
    }

    /// Type and default of a column that holds the transaction that wrote a row.
    pub fn transaction_column(self) -> &'static str {
        if self.has_xid8() {
            "xid8 DEFAULT pg_current_xact_id()"
        } else {
            "bigint DEFAULT txid_current()"
        }
    }

    /// The snapshot of a query; it is written alike by all versions.
    pub fn current_snapshot(self) -> &'static str {
        if self.has_xid8() {
            "pg_current_snapshot()"
        } else {
            "txid_current_snapshot()"
        }
    }

    fn has_xid8(self) -> bool {
        self >= Server(130_000)
    }

    pub fn hashes_extended(self) -> bool {
        self >= Server(110_000)
    }

    /// What the rows of a table have in a column x of pg_attribute that is younger than they are, as text; NULL if the table keeps no
    /// value for them.
    pub fn missing_value(self) -> &'static str {
        if self >= Server(110_000) {
            "CASE WHEN x.atthasmissing THEN array_to_string(x.attmissingval, '') END"
        } else {
            "NULL::pg_catalog.text"
        }
    }

    /// For many short queries JIT does not pay. Servers before 11 have none.
    pub fn without_jit(self) -> &'static str {
        if self >= Server(110_000) {
            "SET LOCAL jit = off"
        } else {
            ""
        }
    }

    /// What a float is written with so that it reads the same on either side, inside of an array or a record: older servers write
    /// 17 digits where newer ones write as few as are needed, but both round to 15.
    pub fn comparable_float_digits(self) -> &'static str {
        if self >= Server(120_000) {
            "3"
        } else {
            "0"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn versions_are_told_as_users_know_them() {
        assert_eq!(Server(90_624).major(), "9.6");
        assert_eq!(Server(100_023).major(), "10");
        assert_eq!(Server(180_001).major(), "18");
        assert!(Server(90_624) < Server::OLDEST && Server(100_000) >= Server::OLDEST);
    }
}
