//! What this server's parser makes of texts that a source or a user may have written to be taken for something else.

#[pgrx::pg_schema]
mod tests {
    use crate::backend::foreign_text::ForeignText;
    use crate::backend::parse;
    use crate::backend::subtransaction::attempt;
    use pgrx::prelude::*;

    fn foreign(text: &str) -> ForeignText {
        serde_json::from_value(text.into()).unwrap()
    }

    #[pg_test]
    fn an_expression_is_one_expression_and_nothing_else() {
        for text in [
            "1",
            "now()",
            "(a + b)::bigint",
            "'x'::text || $$;$$",
            "CASE WHEN a THEN 1 END",
            "ROW(1, 2)",
            "nextval('s'::regclass)",
        ] {
            assert!(parse::expression(&foreign(text)).unwrap().is_some(), "{text}");
        }
        let others = [
            "",
            ";",
            "1;",
            "1; SELECT 2",
            "1, 2",
            "1 AS a",
            "1 a",
            "1 FROM t",
            "1 WHERE true",
            "1 UNION SELECT 2",
            "1 ORDER BY 1",
            "1 LIMIT 1",
            "1 INTO t",
            "DISTINCT 1",
            "1 GROUP BY 1",
            "1 HAVING true",
            "1 FOR UPDATE",
            "1) + (2",
            "'",
            "/*",
            "1 -- \n; DROP TABLE t",
        ];
        for text in others {
            assert!(parse::expression(&foreign(text)).unwrap().is_none(), "{text}");
        }
    }

    #[pg_test]
    fn a_constant_is_known_through_its_casts() {
        let constant = |text| parse::expression(&foreign(text)).unwrap().unwrap().constant;
        assert!(["1", "'x'", "'{}'::jsonb", "NULL::text", "('1'::text)::int", "true"]
            .map(constant)
            .iter()
            .all(|is| *is));
        assert!(!["now()", "a", "1 + 1", "'a' || 'b'", "ARRAY[1]"].map(constant).iter().any(|is| *is));
    }

    #[pg_test]
    fn a_definition_is_one_statement() {
        let refused = |text: &str| attempt(|| parse::definition(&foreign(text)).map(|_| ())).is_err();
        assert!(!refused("CREATE INDEX i ON s.t USING btree (lower(a)) WHERE (a <> ';'::text)"));
        for text in ["", "CREATE INDEX i ON t (a); DROP TABLE t", "CREATE INDEX i ON t (a", "\u{1}"] {
            assert!(refused(text), "{text}");
        }
        assert!(
            refused(&format!("CREATE INDEX i ON t (({}a{}))", "(".repeat(5000), ")".repeat(5000))),
            "nested too deep"
        );
    }

    #[pg_test]
    fn a_condition_leaves_one_select() {
        assert_eq!(parse::select("SELECT 1 FROM t WHERE a; -- b").unwrap(), "SELECT 1 FROM t WHERE a");
        for text in
            ["SELECT 1; SELECT 2", "DELETE FROM t", "SELECT 1 INTO x", "SELECT $1", "SELECT", "SELECT 1 WHERE '"]
        {
            let only_select = attempt(|| parse::select(text).map(str::to_string));
            assert!(only_select.is_err() || text == "SELECT", "{text}");
        }
    }

    #[pg_test]
    fn a_plain_condition_selects_the_same_rows_of_the_same_table() {
        for text in [
            "WHERE a = 1",
            "WHERE (a = 1 AND b <> 2.5) OR c IS NULL",
            "WHERE a IN (1, 2)",
            "WHERE a::text <> 'x' AND NOT b",
        ] {
            assert!(parse::is_plain_condition(text), "{text}");
        }
        let others = [
            "",
            "a = 1",
            "WHERE a < now()",
            "WHERE a < 'now'",
            "WHERE f(a)",
            "WHERE EXISTS (SELECT 1)",
            ", u WHERE t.a = u.a",
            "WHERE a ~ 'x'",
            "WHERE a = U&'n\\006fw'",
            "WHERE a = 1 LIMIT 1",
            "WHERE a OPERATOR(s.=) 1",
            "WHERE a < CURRENT_DATE",
            "WHERE true ORDER BY 1",
        ];
        for text in others {
            assert!(!parse::is_plain_condition(text), "{text}");
        }
    }
}
