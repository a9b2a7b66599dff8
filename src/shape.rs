//! The description of a table that both sides share: its columns, their types, its key, its indexes.
//! The queries here ask any PostgreSQL server for them, this one as well as a source.

use crate::backend::foreign_text::ForeignText;
use crate::backend::name::Name;
use crate::error::{quoted, quoted_list, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Columns of relations: one query, one parameter ($1: an array of OIDs), one JSON array whose elements `Shape` reads.
/// Like the other two, it has to run with search_path = pg_catalog, so that every other name comes qualified. `to_jsonb(a)` lets it run on
/// servers whose catalogs lack newer columns.
pub const COLUMNS: &str = r"
SELECT coalesce(json_agg(json_build_object(
    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    'columns', (SELECT coalesce(json_agg(json_build_object(
            'name', a.attname, 'number', a.attnum, 'type', format_type(a.atttypid, NULL),
            'type_oid', a.atttypid::bigint, 'typmod', a.atttypmod, 'not_null', a.attnotnull,
            'binary', t.typsend <> 0 AND t.typreceive <> 0,
            'written', format_type(a.atttypid, a.atttypmod),
            'extension', CASE WHEN a.atttypid >= 10000 THEN
                (SELECT json_build_array(e.extname, x.typname, x.oid <> t.oid) FROM pg_type x
                   JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = x.oid AND d.deptype = 'e'
                   JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
                  WHERE x.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END) END,
            'generated', to_jsonb(a) ->> 'attgenerated', 'identity', to_jsonb(a) ->> 'attidentity',
            'collation', (SELECT json_build_array(cn.nspname, co.collname)
                            FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                           WHERE co.oid = a.attcollation AND a.attcollation <> t.typcollation)
        ) ORDER BY a.attnum), '[]')
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
)), '[]')::pg_catalog.text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)";

/// The types that the columns of a relation ($1) use, also inside other types; a JSON object by OID. Worth asking only if
/// `Shape::uses_assigned_types`.
pub const TYPES: &str = r"
WITH RECURSIVE reach(oid) AS (
    SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT x.oid FROM reach r JOIN pg_type t ON t.oid = r.oid CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT a.atttypid FROM pg_attribute a
                   WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid
        UNION ALL SELECT g.rngtypid FROM pg_range g WHERE t.typtype = 'm' AND to_jsonb(g) ->> 'rngmultitypid' = t.oid::pg_catalog.text
    ) x(oid)
)
SELECT coalesce(json_object_agg(t.oid::bigint, json_build_object(
            'name', format_type(t.oid, NULL), 'kind', t.typtype, 'element', t.typelem::bigint,
            'base', t.typbasetype::bigint, 'typmod', t.typtypmod, 'binary', t.typsend <> 0 AND t.typreceive <> 0,
            'subtype', (SELECT g.rngsubtype::bigint FROM pg_range g WHERE g.rngtypid = t.oid),
            'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
            'attribute_types', (SELECT json_agg(json_build_array(format_type(a.atttypid, NULL), a.atttypmod) ORDER BY a.attnum)
                             FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                              AND a.attnum > 0 AND NOT a.attisdropped),
            'attribute_numbers', (SELECT json_agg(a.attnum ORDER BY a.attnum) FROM pg_attribute a
                             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
            'attributes', (SELECT json_agg(json_build_array(a.attname, a.atttypid::bigint) ORDER BY a.attnum)
                             FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                              AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY t.oid), '{}')::pg_catalog.text
  FROM reach r JOIN pg_type t ON t.oid = r.oid";

/// The valid indexes of a relation ($1), the primary key first; a JSON array. A key WITHOUT OVERLAPS (PostgreSQL 18) is told as two: rows
/// that do not overlap differ, so a B-tree on the same columns is unique, and finds rows by their key; its own GiST index finds what overlaps.
/// Elsewhere it could be no constraint: some methods keep rows that are gone on the source.
pub const INDEXES: &str = r#"
SELECT coalesce(json_agg(json_build_object(
            'name', concat(i.relname, e.suffix), 'primary', x.indisprimary AND e.suffix = '',
            'definition', CASE WHEN x.indisunique AND x.indisexclusion AND e.suffix = '' THEN (
                SELECT format('CREATE UNIQUE INDEX %I ON %I USING btree (%s)', i.relname, i.relname, string_agg(format('%I', a.attname), ', ' ORDER BY k.ordinality))
                  FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(number, ordinality)
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
                 WHERE k.ordinality <= coalesce((to_jsonb(x) ->> 'indnkeyatts')::int, x.indnatts)) ELSE pg_get_indexdef(x.indexrelid) END,
            'unique', x.indisunique AND e.suffix = '', 'immediate', x.indimmediate, 'partial', x.indpred IS NOT NULL,
            'expressions', x.indexprs IS NOT NULL,
            'columns', (SELECT coalesce(json_agg(a.attname ORDER BY k.ordinality), '[]')
                          FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(number, ordinality)
                          JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
                         WHERE k.ordinality <= coalesce((to_jsonb(x) ->> 'indnkeyatts')::int, x.indnatts))
        ) ORDER BY x.indisprimary DESC, x.indexrelid, e.suffix), '[]')::pg_catalog.text
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 CROSS JOIN LATERAL unnest(CASE WHEN x.indisunique AND x.indisexclusion THEN '{"",_gist}'::text[] ELSE '{""}' END) e(suffix)
 WHERE x.indrelid = $1 AND x.indisvalid"#;

/// The operators by which unique indexes compare columns of a relation ($1) with themselves, in the order of their names
/// ($2: an array): that of the default operator class of the type below a column's domains, or of a type that it is binary coercible to. A
/// JSON array that `backend::name::Operator`s read.
pub const KEY_OPERATORS: &str = r"
SELECT json_agg(coalesce((
            SELECT json_build_array(n.nspname, o.oprname)
              FROM pg_opclass c JOIN pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
                                              AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
              JOIN pg_operator o ON o.oid = p.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
             WHERE c.opcdefault AND c.opcmethod = (SELECT m.oid FROM pg_am m WHERE m.amname = 'btree')
               AND (c.opcintype = b.oid OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = b.oid AND k.casttarget = c.opcintype
                                                   AND k.castmethod = 'b' AND k.castcontext = 'i'))
             ORDER BY c.opcintype = b.oid DESC, c.opcintype LIMIT 1), json_build_array('pg_catalog', '=')) ORDER BY k.ordinal)::pg_catalog.text
  FROM unnest($2) WITH ORDINALITY k(name, ordinal)
  JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = k.name::name AND NOT a.attisdropped
 CROSS JOIN LATERAL (WITH RECURSIVE base(oid, depth) AS (
            SELECT a.atttypid, 0
            UNION ALL SELECT d.typbasetype, b.depth + 1 FROM base b JOIN pg_type d ON d.oid = b.oid WHERE d.typtype = 'd' AND b.depth < 64)
        SELECT b.oid FROM base b ORDER BY b.depth DESC LIMIT 1) b";

/// Types with OIDs below this have the same OID and meaning on every PostgreSQL server (FirstGenbkiObjectId).
const FIRST_ASSIGNED_OID: u32 = 10_000;

/// Types that the columns of a table use, at most.
const MOST_TYPES: usize = 10_000;

/// Levels of domains over domains, at most.
const DEEPEST_DOMAIN: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// pg_attribute.attnum: it survives a rename.
    pub number: i16,
    /// As format_type prints it, without length or precision.
    #[serde(rename = "type")]
    pub type_name: ForeignText,
    pub type_oid: u32,
    pub typmod: i32,
    pub not_null: bool,
    /// The type has functions for COPY's binary format.
    #[serde(default)]
    pub binary: bool,
    /// pg_attribute.attgenerated: empty, s or v.
    pub generated: Option<String>,
    /// pg_attribute.attidentity: empty, a or d.
    pub identity: Option<String>,
    /// Schema and name, if it is not the type's own.
    pub collation: Option<(String, String)>,
    /// The type with length or precision, for messages.
    #[serde(default, skip_serializing)]
    pub written: ForeignText,
    /// The extension that the type belongs to, its name there, and whether the column is an array of it: it is the same in any schema.
    #[serde(default, skip_serializing)]
    pub extension: Option<(String, String, bool)>,
}

impl Column {
    /// Whether both have the same type, whatever its length or precision.
    pub fn is_of_type(&self, other: &Column) -> bool {
        self.type_name == other.type_name || self.extension.is_some() && self.extension == other.extension
    }

    /// Whether values and their order mean the same in both, whatever the column's name, number and NOT NULL.
    pub fn same_type(&self, other: &Column) -> bool {
        self.is_of_type(other) && self.typmod == other.typmod && self.collation == other.collation
    }
}

/// A type that a column uses, directly or inside another type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Type {
    pub name: ForeignText,
    /// pg_type.typtype
    pub kind: char,
    pub element: u32,
    pub base: u32,
    /// Of a domain: the length or precision of the type below.
    #[serde(default)]
    pub typmod: i32,
    /// It has functions for COPY's binary format.
    pub binary: bool,
    pub subtype: Option<u32>,
    pub labels: Option<Vec<String>>,
    pub attributes: Option<Vec<(String, u32)>>,
    /// Of these the types' names, and length or precision.
    #[serde(default)]
    pub attribute_types: Option<Vec<(String, i32)>>,
    /// One that is dropped and added anew has another number, and no value in old rows.
    #[serde(default)]
    pub attribute_numbers: Option<Vec<i16>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDefinition {
    pub name: String,
    /// As pg_get_indexdef prints it.
    pub definition: ForeignText,
    pub primary: bool,
    pub unique: bool,
    pub immediate: bool,
    pub partial: bool,
    pub expressions: bool,
    /// The key columns, in order; without expressions.
    pub columns: Vec<String>,
}

/// The default, or the generation expression, of a column of a source.
#[derive(Debug, Clone, Deserialize)]
pub struct ColumnDefault {
    pub column: String,
    /// As pg_get_expr prints it.
    pub expression: ForeignText,
    /// The expression is that of a stored generated column.
    pub generated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// pg_class.relkind
    pub kind: char,
    pub columns: Vec<Column>,
    /// From `TYPES`.
    #[serde(default)]
    pub types: BTreeMap<u32, Type>,
    /// From `INDEXES`.
    #[serde(default)]
    pub indexes: Vec<IndexDefinition>,
}

impl Shape {
    pub fn table(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }

    /// Of a local relation.
    pub fn local_oid(&self) -> pgrx::pg_sys::Oid {
        self.oid.into()
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether a column has a type whose OID is not the same on every server.
    pub fn uses_assigned_types(&self) -> bool {
        self.columns.iter().any(|column| column.type_oid >= FIRST_ASSIGNED_OID)
    }

    /// What identifies a row: the primary key, else the first unique index, neither partial nor on expressions
    /// nor deferrable, whose columns are all NOT NULL.
    pub fn key(&self) -> Option<&IndexDefinition> {
        // A source may name columns that do not exist, and any number of times.
        let required: HashSet<&str> =
            self.columns.iter().filter(|column| column.not_null).map(|column| column.name.as_str()).collect();
        let usable = |index: &&IndexDefinition| {
            index.unique
                && index.immediate
                && !index.partial
                && !index.expressions
                && index.columns.iter().all(|name| required.contains(name.as_str()))
        };
        self.indexes.iter().find(|index| index.primary).or_else(|| self.indexes.iter().find(usable))
    }

    /// Whether no two rows have the same values in these columns. `indexes` is filled.
    pub fn is_unique(&self, columns: &[String]) -> bool {
        self.indexes.iter().any(|index| {
            index.unique
                && index.immediate
                && !index.partial
                && !index.expressions
                && index.columns.iter().all(|column| columns.contains(column))
        })
    }

    /// Refuses more types than any table needs, and endless chains of domains over domains: following them would take very long, or never
    /// end.
    ///
    /// # Errors
    /// UnsupportedSource.
    pub fn require_finite_types(&self, source_label: &str) -> Result<()> {
        let refuse = |reason: String| {
            let (table, source_label) = (self.table().plain(), source_label.to_string());
            Err(Error::UnsupportedSource { table, source_label, reason })
        };
        if self.types.len() > MOST_TYPES {
            return refuse(format!("its columns use {} types, but {MOST_TYPES} are the limit", self.types.len()));
        }
        let base = |oid: u32| self.types.get(&oid).filter(|found| found.kind == 'd').map(|found| found.base);
        for (oid, found) in &self.types {
            if std::iter::successors(Some(*oid), |oid| base(*oid)).nth(DEEPEST_DOMAIN).is_some() {
                let name = found.name.for_message();
                return refuse(format!("type {name} is a domain over {DEEPEST_DOMAIN} other domains or more"));
            }
        }
        Ok(())
    }

    /// The type of a column, or the one below it if that is a domain.
    pub fn base_type<'a>(&'a self, column: &'a Column) -> &'a ForeignText {
        let mut oid = column.type_oid;
        let mut name = &column.type_name;
        for _ in 0..=DEEPEST_DOMAIN {
            let Some(found) = self.types.get(&oid) else { break };
            name = &found.name;
            if found.kind != 'd' {
                break;
            }
            oid = found.base;
        }
        name
    }

    /// Whether a column of ours can take the binary form of a column of `other`: the types are the same, as far
    /// as the binary format shows. Arrays and composites carry the OIDs of what they hold, so there only types with fixed
    /// OIDs will do.
    pub fn takes_binary(&self, own: &Column, other: &Shape, theirs: &Column) -> bool {
        if own.type_oid < FIRST_ASSIGNED_OID {
            return own.type_oid == theirs.type_oid
                && own.binary
                && theirs.binary
                && !holds_local_oids(&own.type_name.for_message());
        }
        self.binary_type(own.type_oid, other, theirs.type_oid, false)
    }

    fn binary_type(&self, own_oid: u32, other: &Shape, their_oid: u32, inside: bool) -> bool {
        let (Some(own), Some(theirs)) = (self.types.get(&own_oid), other.types.get(&their_oid)) else {
            return false;
        };
        if !own.binary || !theirs.binary || own.kind != theirs.kind {
            return false;
        }
        if own_oid < FIRST_ASSIGNED_OID {
            // An OID means another object on the other server; its name does not.
            return own_oid == their_oid && !holds_local_oids(&own.name.for_message());
        }
        if inside {
            return false;
        }
        match own.kind {
            'd' => self.binary_type(own.base, other, theirs.base, false),
            'e' => own.name == theirs.name,
            'c' => match (&own.attributes, &theirs.attributes) {
                (Some(own), Some(theirs)) => {
                    own.len() == theirs.len()
                        && own.iter().zip(theirs).all(|(a, b)| self.binary_type(a.1, other, b.1, true))
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Shape {
    /// Whether values of these columns are names of other things of their server, on any level.
    pub fn names_things(&self, columns: &[Column]) -> bool {
        columns.iter().any(|column| holds_local_oids(&column.type_name.for_message()))
            || self.types.values().any(|found| holds_local_oids(&found.name.for_message()))
    }
}

fn holds_local_oids(type_name: &str) -> bool {
    let element = type_name.strip_suffix("[]").unwrap_or(type_name);
    element.starts_with("reg") || element == "aclitem"
}

/// What changed from one list of source columns to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub added: Vec<String>,
    pub dropped: Vec<String>,
    /// Old and new name of a column that kept its number and type.
    pub renamed: Vec<(String, String)>,
    pub retyped: Vec<String>,
    /// NOT NULL was set or dropped.
    pub nullability: Vec<String>,
    pub reordered: bool,
}

impl Difference {
    pub fn between(old: &[Column], new: &[Column]) -> Difference {
        let mut difference = Difference::default();
        let named = |columns: &[Column], name: &str| columns.iter().find(|c| c.name == name).cloned();
        for column in new {
            match named(old, &column.name) {
                Some(before) => {
                    if !before.same_type(column) {
                        difference.retyped.push(column.name.clone());
                    }
                    if before.not_null != column.not_null {
                        difference.nullability.push(column.name.clone());
                    }
                }
                None => {
                    let before = old.iter().find(|before| {
                        before.number == column.number && before.same_type(column) && named(new, &before.name).is_none()
                    });
                    match before {
                        Some(before) => difference.renamed.push((before.name.clone(), column.name.clone())),
                        None => difference.added.push(column.name.clone()),
                    }
                }
            }
        }
        for column in old {
            let renamed = difference.renamed.iter().any(|(before, _)| *before == column.name);
            if !renamed && named(new, &column.name).is_none() {
                difference.dropped.push(column.name.clone());
            }
        }
        let order = |columns: &[Column], others: &[Column]| -> Vec<String> {
            let known = |c: &&Column| others.iter().any(|o| o.name == c.name);
            columns.iter().filter(known).map(|c| c.name.clone()).collect()
        };
        difference.reordered = order(old, new) != order(new, old);
        difference
    }

    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }

    /// For the history and for notices: `added c; dropped d`.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        let mut list = |verb: &str, names: &[String]| {
            if !names.is_empty() {
                parts.push(format!("{verb} {}", quoted_list(names)));
            }
        };
        list("added", &self.added);
        list("dropped", &self.dropped);
        let renamed: Vec<_> =
            self.renamed.iter().map(|(old, new)| format!("{} to {}", quoted(old), quoted(new))).collect();
        list("renamed", &renamed);
        list("retyped", &self.retyped);
        list("changed NOT NULL of", &self.nullability);
        if self.reordered {
            parts.push("reordered".to_string());
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, number: i16, type_name: &str) -> Column {
        Column {
            name: name.into(),
            number,
            type_name: type_name.into(),
            type_oid: 23,
            typmod: -1,
            not_null: false,
            binary: true,
            generated: None,
            identity: None,
            collation: None,
            written: type_name.into(),
            extension: None,
        }
    }

    #[test]
    fn a_domain_over_itself_is_refused() {
        let domain = |base| Type {
            name: "d".into(),
            kind: 'd',
            element: 0,
            base,
            typmod: -1,
            binary: true,
            subtype: None,
            labels: None,
            attributes: None,
            attribute_types: None,
            attribute_numbers: None,
        };
        let mut shape = Shape {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            kind: 'r',
            columns: Vec::new(),
            types: [(20_000, domain(20_001)), (20_001, domain(23))].into(),
            indexes: Vec::new(),
        };
        assert!(shape.require_finite_types("data source 1").is_ok());
        shape.types.insert(20_001, domain(20_000));
        assert!(shape.require_finite_types("data source 1").is_err());
        shape.types = [(20_000, domain(20_000))].into();
        assert!(shape.require_finite_types("data source 1").is_err());
    }

    #[test]
    fn a_rename_is_not_a_drop_and_an_add() {
        let old = [column("a", 1, "integer"), column("b", 2, "text")];
        let new = [column("a", 1, "integer"), column("c", 2, "text")];
        let difference = Difference::between(&old, &new);
        assert_eq!(difference.renamed, vec![("b".to_string(), "c".to_string())]);
        assert!(difference.added.is_empty() && difference.dropped.is_empty());
    }

    #[test]
    fn a_dropped_and_added_column_of_the_same_name_is_a_new_column_only_if_its_type_differs() {
        let old = [column("a", 1, "integer"), column("b", 2, "text")];
        let new = [column("a", 1, "integer"), column("b", 3, "bigint")];
        assert_eq!(Difference::between(&old, &new).retyped, vec!["b".to_string()]);
    }

    #[test]
    fn an_order_changed_by_hand_is_seen() {
        let old = [column("a", 1, "integer"), column("b", 2, "text")];
        let new = [column("b", 1, "text"), column("a", 2, "integer")];
        assert!(Difference::between(&old, &new).reordered);
        assert!(Difference::between(&old, &old).is_empty());
    }
}
