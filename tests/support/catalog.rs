//! What an installation of mimeo consists of, for comparing one with another.

use postgres::Client;
use std::collections::BTreeSet;

/// What an installation consists of, one line each.
pub fn catalog(client: &mut Client, schema: &str) -> BTreeSet<String> {
    let query = "
        WITH mine AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                       WHERE e.extname = 'mimeo' AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
        SELECT 'function ' || p.oid::regprocedure::text || ' ' || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || p.proowner::regrole::text
          FROM mine JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
        UNION ALL SELECT 'relation ' || c.oid::regclass::text || ' ' || c.relkind::text || coalesce(c.relacl::text, '') || c.relowner::regrole::text
                || coalesce(c.reloptions::text, '')
          FROM mine JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
        UNION ALL SELECT 'column ' || c.oid::regclass::text || ' ' || rank() OVER (PARTITION BY c.oid ORDER BY a.attnum) || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                || a.attnotnull::text || a.attidentity::text || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || coalesce(a.attacl::text, '')
                || coalesce(col_description(c.oid, a.attnum), '')
          FROM mine JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid JOIN pg_attribute a ON a.attrelid = c.oid
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT 'constraint ' || c.conrelid::regclass::text || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid)
          FROM mine JOIN pg_constraint c ON classid = 'pg_class'::regclass AND c.conrelid = objid
        UNION ALL SELECT 'index ' || pg_get_indexdef(i.indexrelid)
          FROM mine JOIN pg_index i ON classid = 'pg_class'::regclass AND i.indrelid = objid
        UNION ALL SELECT 'trigger ' || g.tgenabled::text || ' ' || pg_get_triggerdef(g.oid)
          FROM mine JOIN pg_trigger g ON classid = 'pg_class'::regclass AND g.tgrelid = objid AND NOT g.tgisinternal
        UNION ALL SELECT 'view ' || c.oid::regclass::text || ' ' || pg_get_viewdef(c.oid)
          FROM mine JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid AND c.relkind = 'v'
        UNION ALL SELECT 'comment ' || pg_describe_object(m.classid, m.objid, 0) || ' ' || obj_description(m.objid, c.relname)
          FROM mine m JOIN pg_class c ON c.oid = m.classid WHERE obj_description(m.objid, c.relname) IS NOT NULL
        UNION ALL SELECT 'granted at first ' || pg_describe_object(p.classoid, p.objoid, p.objsubid) || ' ' || p.initprivs::text
          FROM mine JOIN pg_init_privs p ON p.classoid = classid AND p.objoid = objid
        UNION ALL SELECT 'member ' || pg_describe_object(m.classid, m.objid, 0) FROM mine m
        UNION ALL SELECT 'dumped ' || t::regclass::text || ' ' || extcondition[n] FROM pg_extension, unnest(extconfig) WITH ORDINALITY u(t, n)
                   WHERE extname = 'mimeo'
        UNION ALL SELECT 'version ' || extversion || ' ' || extrelocatable::text FROM pg_extension WHERE extname = 'mimeo'";
    let rows = client.query(query, &[]).unwrap();
    rows.iter().map(|row| row.get::<_, String>(0).replace(&format!("{schema}."), "mimeo.")).collect()
}

pub fn assert_same(updated: &BTreeSet<String>, fresh: &BTreeSet<String>) {
    let more: Vec<_> = updated.difference(fresh).collect();
    let less: Vec<_> = fresh.difference(updated).collect();
    assert!(more.is_empty() && less.is_empty(), "only in the updated one: {more:#?}\nonly in the fresh one: {less:#?}");
}
