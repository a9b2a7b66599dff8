//! Changes that bring a destination's columns in line with those of its source, while its rows stay.

use crate::backend::name::{quote, Name};
use crate::backend::relation::{lock_exclusively, oid_arg, Patience, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::tried;
use crate::destination::alter::{add, describe, require, Clause};
use crate::destination::change::Change;
use crate::destination::table::LocalColumn;
use crate::error::{Error, Result};
use crate::shape::{Column, Shape};
use pgrx::{pg_sys, PgSqlErrorCode};

/// Tables of more bytes are not rewritten while readers wait.
const LARGE: i64 = 8 * 1024 * 1024;

/// Tables of more bytes are not searched for a NULL while readers wait.
const SCANNED: i64 = 256 * 1024 * 1024;

/// More rows than these are not written while readers wait.
const MANY: u64 = 20_000;

/// All changes of one refresh, in the order in which the source has its columns.
#[derive(Debug, Clone, Default)]
pub struct Following {
    pub changes: Vec<Change>,
    /// As `set_incomplete` has set it.
    pub incomplete: bool,
    /// Columns that the job finds its rows by, whose names other columns of the source have now.
    pub moved: Vec<String>,
}

impl Following {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// `columns followed: …`
    pub fn summary(&self) -> String {
        format!("columns followed: {}", self.changes.iter().map(Change::summary).collect::<Vec<_>>().join("; "))
    }

    /// Columns that are gone on the source.
    pub fn left(&self) -> Vec<&str> {
        self.changes
            .iter()
            .filter_map(|change| if let Change::Leave { own, .. } = change { Some(own.as_str()) } else { None })
            .collect()
    }

    /// Columns whose values the old rows get by the change itself, and by which no rows are found.
    pub fn given(&self) -> Vec<&str> {
        self.changes
            .iter()
            .filter_map(|change| match change {
                Change::Add { column, given: Some(_), .. } => Some(column.source.name.as_str()),
                Change::Rename { to, .. } => Some(to.as_str()),
                _ => None,
            })
            .filter(|name| !self.moved.iter().any(|moved| moved == name))
            .collect()
    }

    /// The columns that get another type, by their names before.
    pub fn widened(&self) -> Vec<String> {
        let own = |change: &Change| if let Change::Widen { own, .. } = change { Some(own.clone()) } else { None };
        self.changes.iter().filter_map(own).collect()
    }

    /// Readers would wait while PostgreSQL writes rows anew.
    pub fn rewrites(&self) -> bool {
        self.changes.iter().any(Change::rewrites)
    }

    /// What the destination looks like once it is changed.
    pub fn project(&self, local: &Shape) -> Shape {
        let mut shape = local.clone();
        let was = |shape: &Shape, name: &str| {
            local.columns.iter().position(|column| column.name == name).filter(|at| *at < shape.columns.len())
        };
        for change in &self.changes {
            match change {
                Change::Rename { own, to } => {
                    if let Some(at) = was(&shape, own) {
                        shape.columns[at].name.clone_from(to);
                    }
                }
                Change::Add { column, clause, .. } => shape.columns.push(Column {
                    type_oid: column.type_oid,
                    not_null: false,
                    generated: matches!(clause, Clause::Generated(_)).then(|| "s".to_string()),
                    identity: None,
                    ..column.source.clone()
                }),
                Change::Widen { own, column, .. } => {
                    if let Some(at) = was(&shape, own) {
                        let before = &shape.columns[at];
                        shape.columns[at] = Column {
                            name: before.name.clone(),
                            number: before.number,
                            not_null: before.not_null,
                            generated: before.generated.clone(),
                            identity: before.identity.clone(),
                            type_oid: column.type_oid,
                            ..column.source.clone()
                        };
                    }
                }
                Change::Leave { own, .. } | Change::Relax { own } => {
                    if let Some(at) = was(&shape, own) {
                        shape.columns[at].not_null = false;
                    }
                }
                Change::Require { .. } => {}
            }
        }
        shape
    }

    /// The name here before of a column that is called `name` now; None if it is added.
    pub fn before<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let renamed = self.changes.iter().find_map(|change| match change {
            Change::Rename { own, to } if to == name => Some(own.as_str()),
            _ => None,
        });
        renamed.or_else(|| self.added(name).is_none().then_some(name))
    }

    /// The name now of a column that was called `own`.
    pub fn after<'a>(&'a self, own: &'a str) -> &'a str {
        let renamed = self.changes.iter().find_map(|change| match change {
            Change::Rename { own: before, to } if before == own => Some(to.as_str()),
            _ => None,
        });
        renamed.unwrap_or(own)
    }

    fn added(&self, name: &str) -> Option<(usize, &LocalColumn)> {
        self.changes.iter().enumerate().find_map(|(at, change)| match change {
            Change::Add { column, .. } if column.source.name == name => Some((at, column)),
            _ => None,
        })
    }

    /// What a column is called in a shadow table, where nothing is renamed.
    pub fn in_shadow(&self, name: &str) -> String {
        match self.added(name) {
            Some((at, _)) => self.added_in_shadow(at, name),
            None => self.before(name).unwrap_or(name).to_string(),
        }
    }

    /// The `at`th change adds it to a shadow table under a name that no other column has: one that is renamed still has its own there.
    fn added_in_shadow(&self, at: usize, name: &str) -> String {
        if self.after(name) == name {
            name.to_string()
        } else {
            format!("mimeo_added_{at}")
        }
    }

    /// A column of an empty table like the destination once it is changed, as an expression over the destination before; `name` is the
    /// column's name now.
    pub fn model(&self, name: &str) -> String {
        if let Some((_, column)) = self.added(name) {
            return format!("CAST(NULL AS {}){} AS {}", column.sql_type, column.collate(), quote(name));
        }
        let own = self.before(name).unwrap_or(name);
        format!("{} AS {}", self.old_value("d", own), quote(name))
    }

    /// What a row of the destination before, seen as `alias`, has in the column that was called `own`, in the type that it has now.
    pub fn old_value(&self, alias: &str, own: &str) -> String {
        let widened = self.changes.iter().find_map(|change| match change {
            Change::Widen { own: before, column, .. } if before == own => Some(column),
            _ => None,
        });
        let value = format!("{alias}.{}", quote(own));
        match widened {
            Some(column) => format!("CAST({value} AS {}){}", column.sql_type, column.collate()),
            None => value,
        }
    }

    /// The columns that are added, and what a row that has no value for one has: its type's NULL.
    pub fn added_columns(&self) -> Vec<(&str, String)> {
        self.changes
            .iter()
            .filter_map(|change| match change {
                Change::Add { column, .. } => Some((
                    column.source.name.as_str(),
                    format!("CAST(NULL AS {}){}", column.sql_type, column.collate()),
                )),
                _ => None,
            })
            .collect()
    }

    /// Alters a table: the destination (`renames`), or a shadow table of it.
    ///
    /// # Errors
    /// What PostgreSQL says of it.
    pub fn alter(&self, table: &Name, renames: bool) -> Result<()> {
        let run = |action: String| spi::run(&format!("ALTER TABLE {table} {action}"), &[]).map(|_| ());
        for change in &self.changes {
            match change {
                Change::Leave { own, not_null, default } => {
                    if *not_null {
                        run(format!("ALTER COLUMN {} DROP NOT NULL", quote(own)))?;
                    }
                    if *default {
                        run(format!("ALTER COLUMN {} DROP DEFAULT", quote(own)))?;
                    }
                }
                Change::Relax { own } => run(format!("ALTER COLUMN {} DROP NOT NULL", quote(own)))?,
                _ => {}
            }
        }
        if renames {
            self.rename(table)?;
        }
        // All at once: the rows are written anew once.
        let widened = self.changes.iter().filter_map(|change| match change {
            Change::Widen { own, column, .. } => {
                let name = if renames { self.after(own) } else { own };
                Some(format!("ALTER COLUMN {} TYPE {}", quote(name), column.typed()))
            }
            _ => None,
        });
        let widened: Vec<_> = widened.collect();
        if !widened.is_empty() {
            run(widened.join(", "))?;
        }
        for (at, change) in self.changes.iter().enumerate() {
            if let Change::Add { column, given, comment, at_once, clause, .. } = change {
                let name =
                    if renames { column.source.name.clone() } else { self.added_in_shadow(at, &column.source.name) };
                let given = given.as_deref().map(|given| (given, *at_once));
                add(table, &name, column, given, clause)?;
                if let Some(comment) = comment.as_ref().filter(|_| renames) {
                    describe(table, &name, comment)?;
                }
            }
        }
        Ok(())
    }

    /// Of columns that change places each goes by way of a name that nobody has.
    fn rename(&self, table: &Name) -> Result<()> {
        let pairs: Vec<(&str, &str)> = self
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Rename { own, to } => Some((own.as_str(), to.as_str())),
                _ => None,
            })
            .collect();
        let crossed = pairs.iter().any(|(_, to)| pairs.iter().any(|(own, _)| own == to));
        let between = |at: usize| format!("mimeo_renamed_{at}");
        let run = |own: &str, to: &str| {
            spi::run(&format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", quote(own), quote(to)), &[])
        };
        for (at, (own, to)) in pairs.iter().enumerate() {
            run(own, if crossed { between(at) } else { (*to).to_string() }.as_str())?;
        }
        for (at, (_, to)) in pairs.iter().enumerate().filter(|_| crossed) {
            run(&between(at), to)?;
        }
        Ok(())
    }

    /// The columns that are to be NOT NULL, and in which no row of a shadow table has a NULL, by their names now.
    pub fn filled(&self, shadow: &Name) -> Result<Vec<String>> {
        let mut filled = Vec::new();
        for name in self.later() {
            let column = quote(&self.in_shadow(name));
            if !spi::is_true(&format!("SELECT true FROM {shadow} WHERE {column} IS NULL LIMIT 1"), &[])? {
                filled.push(name.to_string());
            }
        }
        Ok(filled)
    }

    /// The columns that are to become NOT NULL once the rows are there, by their names now.
    fn later(&self) -> Vec<&str> {
        if self.incomplete {
            return Vec::new();
        }
        let at_once = self.required_at_once();
        self.requirable().into_iter().filter(|name| !at_once.contains(name)).collect()
    }

    /// With these columns, by their names now, without NOT NULL: rows are going to come that have none.
    pub fn relaxing(&self, columns: &[String]) -> Following {
        let relax = |name: &String| self.before(name).map(|own| Change::Relax { own: own.to_string() });
        let changes = self.changes.iter().cloned().map(|change| match change {
            Change::Add { column, given, comment, rewrites, at_once, clause } => {
                let at_once = at_once && !columns.contains(&column.source.name);
                Change::Add { column, given, comment, rewrites, at_once, clause }
            }
            change => change,
        });
        Following { changes: columns.iter().filter_map(relax).chain(changes).collect(), ..self.clone() }
    }

    /// Rows are still to come that may be NULL where the source has become NOT NULL.
    pub fn set_incomplete(&mut self) {
        self.incomplete = true;
        for change in &mut self.changes {
            if let Change::Add { at_once, .. } = change {
                *at_once = false;
            }
        }
    }

    /// The columns that are to become NOT NULL, by their names now.
    pub fn requirable(&self) -> Vec<&str> {
        self.changes
            .iter()
            .filter_map(|change| match change {
                Change::Require { name, .. } => Some(name.as_str()),
                Change::Add { column, .. } if column.source.not_null => Some(column.source.name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The columns that are NOT NULL from the moment they are added, by name.
    pub fn required_at_once(&self) -> Vec<&str> {
        self.changes
            .iter()
            .filter_map(|change| match change {
                Change::Add { column, given: Some(_), at_once: true, .. } if column.source.not_null => {
                    Some(column.source.name.as_str())
                }
                _ => None,
            })
            .collect()
    }

    /// Before rows are written to the destination: locks it exclusively, with what PostgreSQL locks for it, and alters it.
    ///
    /// # Errors
    /// InUse.
    pub fn apply(&self, destination: &Relation, patience: Patience) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let name = destination.name();
        lock_exclusively(&self.locked(destination)?, &name, patience, "altered")?;
        self.alter(&name, true)
    }

    /// What is locked exclusively when the destination is altered: itself, its partitions and children, and tables that it refers to by columns whose
    /// types change, for the foreign keys are made anew.
    pub fn locked(&self, destination: &Relation) -> Result<Vec<pg_sys::Oid>> {
        let others: Vec<u32> = spi::json(
            "WITH RECURSIVE tree (oid) AS (
                 SELECT $1 UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid)
             SELECT json_agg(DISTINCT o.oid::bigint)::pg_catalog.text FROM (
                 SELECT t.oid FROM tree t
                 UNION SELECT k.confrelid FROM pg_constraint k JOIN tree t ON t.oid = k.conrelid
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND a.attname = ANY ($2::name[])
                  WHERE k.contype = 'f') o",
            &[oid_arg(destination.oid), self.widened().into()],
        )?
        .unwrap_or_default();
        Ok(others.into_iter().map(pg_sys::Oid::from).collect())
    }

    /// Once the rows are there, in a table that is not large: readers wait while PostgreSQL looks for a NULL.
    pub fn finish(&self, destination: &Relation) -> Result<()> {
        let name = destination.name();
        let later = self.later();
        if later.is_empty() || is_larger(destination.oid, SCANNED)? {
            return Ok(());
        }
        for column in later {
            match tried(|| require(&name, column))? {
                Err(error) if error.sqlstate() != PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the destination is better written anew beside the rows that are read meanwhile, with `rows` that are merged. Before that,
    /// statements look for rows by `key`, if any, under today's names.
    pub fn goes_beside(&self, destination: &Relation, rows: u64, key: &[String]) -> Result<bool> {
        let renamed = key.iter().any(|column| self.before(column) != Some(column.as_str()));
        if self.is_empty() || renamed || self.is_referenced(destination)? {
            return Ok(false);
        }
        let given = self.changes.iter().any(|change| matches!(change, Change::Add { given: Some(_), .. }));
        let written = self.changes.iter().any(|change| matches!(change, Change::Add { rewrites: true, .. }));
        Ok(rows >= MANY && !given || written || self.rewrites() && is_larger(destination.oid, LARGE)?)
    }

    /// Whether a foreign key refers to a column whose type changes.
    pub fn is_referenced(&self, destination: &Relation) -> Result<bool> {
        let widened = self.widened();
        if widened.is_empty() {
            return Ok(false);
        }
        spi::is_true(
            "SELECT true FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)
              WHERE k.contype = 'f' AND k.confrelid = $1 AND a.attname = ANY ($2::name[]) LIMIT 1",
            &[oid_arg(destination.oid), widened.into()],
        )
    }

    /// Refuses a change of type that something here does not survive.
    ///
    /// # Errors
    /// ColumnInUse.
    pub fn require_free(&self, destination: &Relation) -> Result<()> {
        for change in &self.changes {
            let Change::Widen { own, column, from } = change else { continue };
            let users: Option<Vec<String>> = spi::json(
                "SELECT json_agg(DISTINCT u.name ORDER BY u.name)::pg_catalog.text FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  CROSS JOIN LATERAL (
                      SELECT format('%s \"%s.%s\"', CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' ELSE 'rule on table' END, n.nspname, c.relname) AS name
                        FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
                      UNION ALL SELECT format('policy \"%s\"', p.polname) FROM pg_policy p WHERE d.classid = 'pg_policy'::regclass AND p.oid = d.objid
                      UNION ALL SELECT format('trigger \"%s\"', g.tgname) FROM pg_trigger g WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
                      UNION ALL SELECT format('function \"%s\"', f.proname) FROM pg_proc f WHERE d.classid = 'pg_proc'::regclass AND f.oid = d.objid
                      UNION ALL SELECT 'a publication' FROM pg_publication_rel r WHERE d.classid = 'pg_publication_rel'::regclass AND r.oid = d.objid
                      UNION ALL SELECT format('generated column \"%s\"', x.attname) FROM pg_attrdef f JOIN pg_attribute x ON x.attrelid = f.adrelid AND x.attnum = f.adnum
                       WHERE d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid AND x.attgenerated <> '') u
                  WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND a.attname = $2::name",
                &[oid_arg(destination.oid), own.as_str().into()],
            )?;
            if let Some(users) = users {
                return Err(Error::ColumnInUse {
                    destination: destination.name().plain(),
                    column: own.clone(),
                    from: from.clone(),
                    to: column.sql_type.clone(),
                    users,
                });
            }
        }
        Ok(())
    }
}

fn is_larger(table: pg_sys::Oid, bytes: i64) -> Result<bool> {
    spi::is_true("SELECT pg_relation_size($1) > $2", &[oid_arg(table), bytes.into()])
}
