//! Whose code may run: the check of owners, object by object. What runs by itself in a refresh is in tests/strangers.rs.

#[pgrx::pg_schema]
mod tests {
    use crate::backend::ownership;
    use crate::backend::relation::oid_arg;
    use crate::backend::spi;
    use crate::error::{Error, Result};
    use pgrx::{pg_sys, prelude::*};

    fn oid(sql: &str) -> pg_sys::Oid {
        u32::try_from(spi::number(sql, &[]).unwrap()).unwrap().into()
    }

    fn is_refused(checked: Result<()>) -> bool {
        match checked {
            Ok(()) => false,
            Err(Error::UntrustedOwner { owner, .. }) => {
                assert_eq!(owner, "stranger");
                true
            }
            Err(error) => panic!("{}", error.report().message),
        }
    }

    fn run(statements: &[&str]) {
        for statement in statements {
            spi::run(statement, &[]).unwrap();
        }
    }

    #[pg_test]
    fn a_function_counts_by_its_owner() {
        run(&["CREATE ROLE stranger", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"]);
        let function = [oid("SELECT 'f'::regproc::oid::bigint").to_u32()];
        assert!(!is_refused(ownership::require_functions(&function)), "the caller's own");
        run(&["ALTER FUNCTION f() OWNER TO stranger"]);
        assert!(is_refused(ownership::require_functions(&function)));
        assert!(!is_refused(ownership::require_functions(&[
            oid("SELECT 'lower(text)'::regprocedure::oid::bigint").to_u32()
        ])));
    }

    /// Each of these makes table t reach a function of the stranger's.
    const WAYS: [(&str, &[&str]); 8] = [
        ("an index on an expression", &["CREATE INDEX ON t (f(a))"]),
        ("a partial index", &["CREATE INDEX ON t (a) WHERE f(a) > 0"]),
        ("a check", &["ALTER TABLE t ADD CHECK (f(a) > 0)"]),
        ("a generated column", &["ALTER TABLE t ADD g int GENERATED ALWAYS AS (f(a)) STORED"]),
        ("a default", &["ALTER TABLE t ALTER a SET DEFAULT f(1)"]),
        ("a domain", &["CREATE DOMAIN d AS int CHECK (f(VALUE) > 0)", "ALTER TABLE t ADD x d"]),
        (
            "a domain in an array in a composite",
            &["CREATE DOMAIN d AS int CHECK (f(VALUE) > 0)", "CREATE TYPE c AS (x d[])", "ALTER TABLE t ADD x c"],
        ),
        ("extended statistics", &["CREATE STATISTICS s ON (f(a)), a FROM t"]),
    ];

    #[pg_test]
    fn whatever_a_table_reaches_is_asked_for() {
        run(&["CREATE ROLE stranger"]);
        for (way, statements) in WAYS {
            run(&[
                "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
                "CREATE TABLE t (a int)",
            ]);
            run(statements);
            let table = || ownership::require_tables(&[oid("SELECT 't'::regclass::oid::bigint")]);
            assert!(!is_refused(table()), "{way}, all of it the caller's");
            run(&["ALTER FUNCTION f(int) OWNER TO stranger"]);
            assert!(is_refused(table()), "{way}");
            run(&["DROP TABLE t", "DROP FUNCTION f(int) CASCADE", "DROP TYPE IF EXISTS c", "DROP DOMAIN IF EXISTS d"]);
        }
    }

    #[pg_test]
    fn a_trigger_and_its_function_count() {
        run(&[
            "CREATE ROLE stranger",
            "CREATE TABLE t (a int)",
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        ]);
        let table = oid("SELECT 't'::regclass::oid::bigint");
        assert!(!is_refused(ownership::require_tables(&[table])));
        run(&["ALTER FUNCTION f() OWNER TO stranger"]);
        assert!(is_refused(ownership::require_tables(&[table])));
        assert!(is_refused(ownership::require_others(&[table], true)), "when it is emptied");
        assert!(!is_refused(ownership::require_others(&[table], false)), "when it is only read");
    }

    #[pg_test]
    fn a_view_that_is_made_anew_counts_with_its_types_and_a_query_with_all_that_it_calls() {
        run(&[
            "CREATE ROLE stranger",
            "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
            "CREATE MATERIALIZED VIEW m AS SELECT f(1) AS a",
        ]);
        let view = oid("SELECT 'm'::regclass::oid::bigint");
        assert!(ownership::trusts_query(view).unwrap());
        run(&["ALTER FUNCTION f(int) OWNER TO stranger"]);
        assert!(!ownership::trusts_query(view).unwrap());
        assert!(!is_refused(ownership::require_view(view)), "without data, nothing of its query runs");
        assert!(spi::is_true("SELECT $1 = 'm'::regclass", &[oid_arg(view)]).unwrap());
    }

    #[pg_test]
    fn types_count_by_name() {
        run(&["CREATE ROLE stranger", "CREATE DOMAIN d AS int CHECK (VALUE > 0)"]);
        assert!(!is_refused(ownership::require_types(&["public.d", "integer", "no.such_type"])));
        run(&["ALTER DOMAIN d OWNER TO stranger"]);
        assert!(is_refused(ownership::require_types(&["integer", "public.d"])));
    }
}
