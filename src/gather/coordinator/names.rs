//! What is made on the coordinator is called so, and marked so. Pure.

use ring::digest::{SHA256, digest};

use super::quote::literal;
use crate::config::{Config, Placement};

/// The schema of the views, for the head of `search_path`.
pub const VIEWS: &str = "pgsluice_all";

/// How the comments of all that was made by a setup begin; what has another comment is never touched.
pub const MADE: &str = "made by pgsluice coordinator setup: ";

/// Asks the coordinator what it is ready for: one row, of the comment of [`VIEWS`] (NULL where there is none) and the
/// names of its views.
///
/// Whoever sends statements there must compare the comment with [`ready_mark`], and find the name of every table among
/// the views that is sharded or lies on another shard. Otherwise `search_path` would lead to the coordinator's own part of a
/// table, and the answer would lack rows.
pub const READY: &str = "SELECT pg_catalog.obj_description(n.oid, 'pg_namespace'), ARRAY(SELECT c.relname::text \
    FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'v' ORDER BY 1) \
    FROM (SELECT pg_catalog.to_regnamespace('pgsluice_all') AS oid) AS n";

/// What names may be at most, in bytes (`NAMEDATALEN` - 1); PostgreSQL would cut longer ones off.
pub(super) const NAME_BYTES: usize = 63;

const SERVER: &str = "pgsluice_";
const SCHEMA: &str = "pgsluice_shard_";

/// The foreign server of a shard.
pub(super) fn server(shard: &str) -> String {
    format!("{SERVER}{shard}")
}

/// The schema of a shard's foreign tables.
pub(super) fn schema(shard: &str) -> String {
    format!("{SCHEMA}{shard}")
}

/// Whether PostgreSQL takes the names that are made of this one.
pub(super) fn fits(shard: &str) -> bool {
    schema(shard).len() <= NAME_BYTES
}

/// A condition on `nspname`: schemas that an application's tables can be in.
pub(super) fn is_foreign_to_us(column: &str) -> String {
    let like = |pattern: &str| format!("{column} NOT LIKE {}", literal(pattern));
    [
        like(r"pg\_%"),
        like(r"pgsluice\_shard\_%"),
        format!("{column} NOT IN ('information_schema', 'pgsluice', '{VIEWS}')"),
    ]
    .join(" AND ")
}

/// What says that a thing was made here, from this definition.
pub(super) fn mark(definition: &str) -> String {
    use std::fmt::Write;
    let digest = digest(&SHA256, definition.as_bytes());
    let hex = digest.as_ref().iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    format!("{MADE}{hex}")
}

/// The comment of [`VIEWS`] after a setup with this config: it changes with the shards and with what [[tables]] say.
#[must_use]
pub fn ready_mark(config: &Config) -> String {
    let mut text = config.coordinator.as_ref().map(|coordinator| coordinator.shard.clone()).unwrap_or_default();
    for shard in &config.shards {
        text.push_str(&format!("\nshard {}", shard.name));
    }
    let mut tables: Vec<_> = config.tables.iter().map(|table| (table.name.to_string(), &table.placement)).collect();
    tables.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, placement) in tables {
        let place = match placement {
            Placement::Key(_) => "sharded".to_owned(),
            Placement::Reference => "reference".to_owned(),
            Placement::Shard(shard) => format!("shard {shard}"),
        };
        text.push_str(&format!("\n{name} {place}"));
    }
    mark(&text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(tables: &str) -> Config {
        let text = format!(
            "auth.users = [{{ name = 'u', password = 'p' }}]\ncoordinator.shard = 'a'\n\
             shards = [{{ name = 'a', nodes = ['h:1'] }}, {{ name = 'b', nodes = ['h:2'] }}]\ntables = [{tables}]"
        );
        Config::parse(&text, Path::new("/"), "t").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn the_mark_changes_with_what_is_declared_and_not_with_its_order() {
        let [one, other] = ["{ name = 't', shard_key = 'id' }", "{ name = 'u', reference = true }"];
        let both = ready_mark(&config(&format!("{one}, {other}")));
        assert_eq!(both, ready_mark(&config(&format!("{other}, {one}"))));
        assert_ne!(both, ready_mark(&config(one)));
        assert_ne!(
            ready_mark(&config("{ name = 't', shard = 'a' }")),
            ready_mark(&config("{ name = 't', shard = 'b' }"))
        );
        assert!(both.starts_with(MADE));
    }

    #[test]
    fn names_that_would_be_cut_off_do_not_fit() {
        assert!(fits(&"x".repeat(48)));
        assert!(!fits(&"x".repeat(49)));
    }
}
