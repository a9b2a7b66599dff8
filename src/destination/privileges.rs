//! Grants and comments of a relation, which are no part of its definition, so that they survive when it is created
//! again.

use crate::backend::name::{literal, quote, Name};
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::Result;
use pgrx::pg_sys;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Privileges {
    grants: Vec<Grant>,
    comment: Option<String>,
    /// Column and comment.
    column_comments: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct Grant {
    /// None is PUBLIC.
    grantee: Option<String>,
    privilege: String,
    grantable: bool,
    column: Option<String>,
}

impl Grant {
    fn grantee(&self) -> String {
        self.grantee.as_deref().map_or_else(|| "PUBLIC".to_string(), quote)
    }
}

pub fn read(oid: pg_sys::Oid) -> Result<Privileges> {
    let found = spi::json(
        "SELECT json_build_object(
            'grants', (SELECT coalesce(json_agg(json_build_object(
                    'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
                    'privilege', g.privilege_type, 'grantable', g.is_grantable, 'column', g.attname)), '[]')
                FROM (SELECT a.*, NULL::name AS attname
                        FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
                      UNION ALL
                      SELECT x.*, a.attname FROM pg_attribute a, aclexplode(a.attacl) x
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) g),
            'comment', obj_description(c.oid, 'pg_class'),
            'column_comments', (SELECT coalesce(json_agg(json_build_array(a.attname, d.description)), '[]')
                FROM pg_description d JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
               WHERE d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid > 0))::pg_catalog.text
           FROM pg_class c WHERE c.oid = $1",
        &[oid_arg(oid)],
    )?;
    found.ok_or_else(|| crate::error::Error::Internal(format!("relation {oid:?} is gone")))
}

impl Privileges {
    /// Gives a relation these grants, no others, and these comments. What concerned a column that is gone is left
    /// out. `comment_as` is TABLE, VIEW or MATERIALIZED VIEW. To be run as the relation's owner.
    pub fn apply(&self, relation: &Name, oid: pg_sys::Oid, comment_as: &str) -> Result<()> {
        let mut revoked = Vec::new();
        for grant in read(oid)?.grants.iter().filter(|grant| grant.column.is_none()) {
            if !revoked.contains(&grant.grantee()) {
                spi::run(&format!("REVOKE ALL ON TABLE {relation} FROM {}", grant.grantee()), &[])?;
                revoked.push(grant.grantee());
            }
        }
        let columns = column_names(oid)?;
        for grant in &self.grants {
            let column = match &grant.column {
                Some(column) if columns.contains(column) => format!(" ({})", quote(column)),
                Some(_) => continue,
                None => String::new(),
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            let (privilege, grantee) = (&grant.privilege, grant.grantee());
            spi::run(&format!("GRANT {privilege}{column} ON TABLE {relation} TO {grantee}{option}"), &[])?;
        }
        if let Some(comment) = &self.comment {
            spi::run(&format!("COMMENT ON {comment_as} {relation} IS {}", literal(comment)), &[])?;
        }
        for (column, comment) in self.column_comments.iter().filter(|(column, _)| columns.contains(column)) {
            let column = quote(column);
            spi::run(&format!("COMMENT ON COLUMN {relation}.{column} IS {}", literal(comment)), &[])?;
        }
        Ok(())
    }
}

pub fn column_names(oid: pg_sys::Oid) -> Result<Vec<String>> {
    let names = spi::json(
        "SELECT json_agg(a.attname)::pg_catalog.text FROM pg_attribute a
          WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        &[oid_arg(oid)],
    )?;
    Ok(names.unwrap_or_default())
}
