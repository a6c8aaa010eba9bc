//! What is on the coordinator already: the SQL that asks, and what comes back.
//!
//! Asked under the account that makes it all, with `search_path = pg_catalog`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::catalog::{COLUMNS, Column, Reader};
use super::names::MADE;
use crate::config::Secret;

/// Everything of our names, and everything that is marked as ours.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rights: Rights,
    pub(super) servers: BTreeMap<String, FoundServer>,
    pub(super) schemas: BTreeMap<String, FoundSchema>,
    pub(super) relations: Vec<FoundRelation>,
}

/// What the account may do, and what is installed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Rights {
    /// In the database.
    pub(super) extension: bool,
    /// On the server's disk.
    pub(super) available: bool,
    pub(super) may_use_wrapper: bool,
    pub(super) may_create_schemas: bool,
}

/// A foreign server.
#[derive(Debug)]
pub(super) struct FoundServer {
    pub(super) comment: Option<String>,
    pub(super) options: Vec<(String, String)>,
    /// By user; the empty name is `PUBLIC`. The options of others' mappings are not shown to everybody.
    pub(super) mappings: BTreeMap<String, Vec<(String, Secret)>>,
}

/// A schema.
#[derive(Debug, Deserialize)]
pub(super) struct FoundSchema {
    pub(super) name: String,
    pub(super) comment: Option<String>,
    /// Everybody has USAGE.
    pub(super) is_public: bool,
}

/// A relation in one of these schemas.
#[derive(Debug, Deserialize)]
pub(super) struct FoundRelation {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: char,
    pub(super) comment: Option<String>,
    /// By the account that asks.
    pub(super) is_owned: bool,
    pub(super) columns: Vec<Column>,
    /// Who was granted SELECT, but for the owner.
    pub(super) readers: Vec<Reader>,
}

/// Whether it was made here.
pub(super) fn is_ours(comment: Option<&str>) -> bool {
    comment.is_some_and(|comment| comment.starts_with(MADE))
}

/// `name=value`, as the catalogs keep options.
pub(super) fn option(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// One JSON text.
pub(super) const RIGHTS: &str = "\
SELECT json_build_object(
    'extension', EXISTS (SELECT FROM pg_extension WHERE extname = 'postgres_fdw'),
    'available', EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'),
    'may_use_wrapper', EXISTS (SELECT FROM pg_foreign_data_wrapper w
        WHERE w.fdwname = 'postgres_fdw' AND has_foreign_data_wrapper_privilege(w.oid, 'USAGE')),
    'may_create_schemas', has_database_privilege(current_database(), 'CREATE'))::text";

/// Servers of the names `$1`, and ours: name, comment, options.
pub(super) fn servers_sql() -> String {
    format!(
        "SELECT s.srvname::text, obj_description(s.oid, 'pg_foreign_server'), coalesce(s.srvoptions, '{{}}') \
         FROM pg_foreign_server s WHERE s.srvname = ANY ($1) \
         OR starts_with(obj_description(s.oid, 'pg_foreign_server'), '{MADE}') ORDER BY 1"
    )
}

/// Mappings of the servers `$1`: server, user, options.
pub(super) const MAPPINGS: &str = "\
SELECT srvname::text, CASE WHEN umuser = 0 THEN '' ELSE usename::text END, coalesce(umoptions, '{}')
FROM pg_user_mappings WHERE srvname = ANY ($1)";

/// Schemas of the names `$1`, and ours: one JSON text each.
pub(super) fn schemas_sql() -> String {
    format!(
        "SELECT json_build_object('name', n.nspname, 'comment', obj_description(n.oid, 'pg_namespace'), \
         'is_public', has_schema_privilege('public', n.oid, 'USAGE'))::text FROM pg_namespace n \
         WHERE n.nspname = ANY ($1) OR starts_with(obj_description(n.oid, 'pg_namespace'), '{MADE}')"
    )
}

/// Relations in the schemas `$1`: one JSON text each.
pub(super) fn relations_sql() -> String {
    RELATIONS.replace("{COLUMNS}", COLUMNS)
}

const RELATIONS: &str = "\
SELECT json_build_object('schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    'comment', obj_description(c.oid, 'pg_class'), 'is_owned', pg_get_userbyid(c.relowner) = current_user,
    'columns', coalesce(({COLUMNS}), '[]'), 'readers', coalesce((
        SELECT json_agg(json_build_object('role', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END, 'column', g.col))
        FROM (SELECT x.grantee, NULL::name AS col FROM aclexplode(c.relacl) x WHERE x.privilege_type = 'SELECT'
              UNION SELECT x.grantee, a.attname FROM pg_attribute a, aclexplode(a.attacl) x
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND x.privilege_type = 'SELECT') g
        WHERE g.grantee <> c.relowner), '[]'))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
ORDER BY n.nspname, c.relname";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_the_first_sign() {
        assert_eq!(option("password=a=b"), ("password".to_owned(), "a=b".to_owned()));
        assert_eq!(option("x="), ("x".to_owned(), String::new()));
    }

    #[test]
    fn what_has_another_comment_is_not_ours() {
        assert!(is_ours(Some(&super::super::names::mark("x"))));
        assert!(!is_ours(Some("mine")));
        assert!(!is_ours(None));
    }
}
