//! What one shard's catalogs say of the declared tables: the SQL that asks, and what comes back.
//!
//! One row a table, as JSON, so that lists in it are read by name. The session's `search_path` must be `pg_catalog`:
//! then every other type is written with its schema.

use serde::Deserialize;

use super::names::is_foreign_to_us;
use super::quote::{identifier, qualified};

/// All that is asked of one shard, for one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardCatalog {
    /// The shard's name.
    pub(super) shard: String,
    /// The account that asked.
    pub(super) account: String,
    /// What decides on the order of texts: what it is called, and what it is here.
    pub(super) locale: Vec<(String, Option<String>)>,
    /// Relations of the declared names, in whatever schema.
    pub(super) relations: Vec<Relation>,
}

/// A table, or what stands under the name of one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
    /// `pg_class.relkind`
    pub(super) kind: char,
    pub(super) row_security: bool,
    /// By the account that asks.
    pub(super) readable: bool,
    pub(super) columns: Vec<Column>,
    pub(super) readers: Vec<Reader>,
}

/// A column that is not dropped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    /// `format_type()`: with its modifier.
    #[serde(rename = "type")]
    pub(super) type_name: String,
    /// Where it is not the type's own: quoted, with its schema.
    pub(super) collation: Option<String>,
    /// What that collation is on this shard, where it is not the database's.
    pub(super) collation_is: Option<String>,
    pub(super) not_null: bool,
}

/// Who may read a table: of those who may enter its schema as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub(super) struct Reader {
    /// None: everybody (`PUBLIC`).
    pub(super) role: Option<String>,
    /// None: the whole table.
    pub(super) column: Option<String>,
}

impl Relation {
    pub(super) fn sql(&self) -> String {
        qualified(&self.schema, &self.name)
    }
}

impl Column {
    /// As a definition has it, without what it may not be.
    pub(super) fn typed(&self) -> String {
        let collation = self.collation.as_ref().map(|collation| format!(" COLLATE {collation}")).unwrap_or_default();
        format!("{} {}{collation}", identifier(&self.name), self.type_name)
    }

    /// As `CREATE FOREIGN TABLE` has it.
    pub(super) fn definition(&self) -> String {
        format!("{}{}", self.typed(), if self.not_null { " NOT NULL" } else { "" })
    }
}

/// Relations of the names `$1`, one JSON text each.
pub(super) fn relations_sql() -> String {
    RELATIONS
        .replace("{COLUMNS}", COLUMNS)
        .replace("{READERS}", READERS)
        .replace("{OTHERS}", &is_foreign_to_us("n.nspname"))
}

const RELATIONS: &str = "\
SELECT json_build_object('schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'row_security', c.relrowsecurity,
    'readable', has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
    'columns', coalesce(({COLUMNS}), '[]'), 'readers', coalesce(({READERS}), '[]'))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {OTHERS}
ORDER BY n.nspname, c.relname";

/// The definition of a collation has another column for ICU's locale in each of 14, 15 and 17.
pub(super) const COLUMNS: &str = "\
    SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
        'collation', CASE WHEN a.attcollation <> t.typcollation THEN format('%I.%I', cn.nspname, co.collname) END,
        'collation_is', CASE WHEN a.attcollation NOT IN (0, 100) THEN concat_ws(', ',
            'provider ' || co.collprovider::text,
            'locale ' || coalesce(to_jsonb(co) ->> 'colllocale', to_jsonb(co) ->> 'colliculocale', co.collcollate::text),
            'ctype ' || CASE WHEN co.collprovider = 'c' THEN co.collctype::text END,
            'version ' || pg_collation_actual_version(co.oid),
            CASE WHEN NOT co.collisdeterministic THEN 'not deterministic' END) END,
        'not_null', a.attnotnull) ORDER BY a.attnum)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped";

/// Who may SELECT, and enter the schema. Where everybody may SELECT and only some may enter, it is these.
const READERS: &str = "\
    SELECT json_agg(DISTINCT jsonb_build_object('role', CASE WHEN r.role <> 0 THEN pg_get_userbyid(r.role) END, 'column', r.col))
    FROM (SELECT x.grantee, NULL::name AS col FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
            WHERE x.privilege_type = 'SELECT'
          UNION SELECT x.grantee, a.attname FROM pg_attribute a, aclexplode(a.attacl) x
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND x.privilege_type = 'SELECT') s
    CROSS JOIN LATERAL (
        SELECT s.grantee AS role, s.col WHERE CASE WHEN s.grantee = 0 THEN has_schema_privilege('public', n.oid, 'USAGE')
            ELSE has_schema_privilege(s.grantee, n.oid, 'USAGE') END
        UNION SELECT x.grantee, s.col FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
            WHERE s.grantee = 0 AND x.privilege_type = 'USAGE' AND x.grantee <> 0) r";

/// One row: what the database's locale is called in columns, and is. `version`: `server_version_num`.
pub(super) fn locale_sql(version: i32) -> String {
    // Before 15 only what `pg_collation` has of the same name tells the version of the operating system's.
    let actual = if version >= 150_000 {
        "pg_database_collation_actual_version(d.oid)"
    } else {
        "(SELECT max(pg_collation_actual_version(c.oid)) FROM pg_collation c WHERE c.collprovider = 'c' \
         AND c.collcollate = d.datcollate)"
    };
    format!(
        "SELECT pg_encoding_to_char(d.encoding) AS \"encoding\", coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS \"locale provider\", \
         d.datcollate::text AS \"LC_COLLATE\", d.datctype::text AS \"LC_CTYPE\", \
         coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS \"locale\", \
         {actual} AS \"collation version\" FROM pg_database d WHERE d.datname = current_database()"
    )
}
