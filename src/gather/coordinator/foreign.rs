//! What there is to be on the coordinator: servers, schemas, foreign tables, views. Pure.

use super::catalog::{Column, Reader};
use super::compare::Table;
use super::names::{self, VIEWS, mark, ready_mark};
use super::quote::{identifier, literal, options, qualified};
use crate::config::{Config, Secret, Shard};

/// Everything, for one database.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Who makes it, owns it, and has the user mappings.
    pub(super) account: String,
    pub(super) servers: Vec<Server>,
    pub(super) schemas: Vec<Schema>,
    /// Foreign tables first, then the views on them.
    pub(super) relations: Vec<Made>,
}

/// A foreign server: all nodes of a shard.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) options: Vec<(String, String)>,
    /// Whom the coordinator logs in as there.
    pub(super) user: String,
    pub(super) password: Option<Secret>,
}

/// A schema of ours.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) mark: String,
    /// Whether everybody may look names up in it.
    pub(super) is_public: bool,
}

/// What a relation of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Dropped after the views, made before them.
    ForeignTable,
    /// Over foreign tables.
    View,
}

/// A foreign table or a view.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) kind: Kind,
    pub(super) schema: String,
    pub(super) name: String,
    /// One for each column, as the catalog is to show it.
    pub(super) columns: Vec<String>,
    /// The whole statement.
    pub(super) create: String,
    /// Changes whenever the statement does, and for a view whenever one of its tables does.
    pub(super) mark: String,
    /// Who is granted SELECT.
    pub(super) readers: Vec<Reader>,
}

impl Kind {
    /// As DROP and COMMENT have it.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::ForeignTable => "FOREIGN TABLE",
            Self::View => "VIEW",
        }
    }

    /// For people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::ForeignTable => "foreign table",
            Self::View => "view",
        }
    }
}

impl Wanted {
    /// `account`: whom the coordinator's shard is set up as.
    pub(super) fn new(config: &Config, account: &str, database: &str, tables: &[Table]) -> Self {
        let server = |shard: &Shard| Server {
            name: names::server(&shard.name),
            options: server_options(shard, database, config.pool.connect_timeout.as_secs_f64()),
            user: shard.user.clone(),
            password: shard.password.clone(),
        };
        let own = |shard: &Shard| Schema { name: names::schema(&shard.name), mark: mark("schema"), is_public: false };
        let views = Schema { name: VIEWS.to_owned(), mark: ready_mark(config), is_public: true };
        let mut relations: Vec<Made> =
            tables.iter().flat_map(|table| table.shards.iter().map(|shard| foreign_table(table, shard))).collect();
        relations.extend(tables.iter().map(view));
        Self {
            account: account.to_owned(),
            servers: config.shards.iter().map(server).collect(),
            schemas: config.shards.iter().map(own).chain([views]).collect(),
            relations,
        }
    }
}

/// All of these are known to postgres_fdw of 14 to 18. `read-write` finds the primary among the nodes, and finds the new one
/// after a failover.
fn server_options(shard: &Shard, database: &str, connect_timeout: f64) -> Vec<(String, String)> {
    let list = |of: fn(&crate::config::Node) -> String| shard.nodes.iter().map(of).collect::<Vec<_>>().join(",");
    // libpq counts whole seconds, and takes 1 for 2.
    let seconds = connect_timeout.ceil().max(2.0);
    let mut options = vec![
        ("host", list(|node| node.host.clone())),
        ("port", list(|node| node.port.to_string())),
        ("dbname", database.to_owned()),
        ("target_session_attrs", "read-write".to_owned()),
        ("connect_timeout", format!("{seconds:.0}")),
        ("application_name", "pgsluice coordinator".to_owned()),
        ("sslmode", shard.sslmode_name().to_owned()),
        ("async_capable", "true".to_owned()),
        ("fetch_size", "1000".to_owned()),
        ("use_remote_estimate", "false".to_owned()),
        // Writes go through pgsluice alone, which knows the shard of each row.
        ("updatable", "false".to_owned()),
        ("truncatable", "false".to_owned()),
    ];
    if shard.sslmode.reads_files() {
        let files = [("sslrootcert", &shard.sslrootcert), ("sslcert", &shard.sslcert), ("sslkey", &shard.sslkey)];
        let named = files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?.display().to_string())));
        options.extend(named);
    }
    options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn foreign_table(table: &Table, shard: &str) -> Made {
    let (schema, server) = (names::schema(shard), names::server(shard));
    let columns: Vec<String> = table.columns.iter().map(Column::definition).collect();
    let create = format!(
        "CREATE FOREIGN TABLE {} ({}) SERVER {} OPTIONS ({})",
        qualified(&schema, &table.name),
        columns.join(", "),
        identifier(&server),
        options([("schema_name", &*table.schema), ("table_name", &*table.name)])
    );
    let mark = mark(&create);
    Made { kind: Kind::ForeignTable, schema, name: table.name.clone(), columns, create, mark, readers: Vec::new() }
}

/// UNION ALL of plain columns: the planner takes it apart, so that each shard gets the statement's own conditions, and
/// reads from all of them at once (`Async Foreign Scan`).
fn view(table: &Table) -> Made {
    let list: Vec<String> = table.columns.iter().map(|column| format!("f.{}", identifier(&column.name))).collect();
    let part = |shard: &String| {
        format!("SELECT {} FROM {} AS f", list.join(", "), qualified(&names::schema(shard), &table.name))
    };
    let parts: Vec<String> = table.shards.iter().map(part).collect();
    let create = format!("CREATE VIEW {} AS {}", qualified(VIEWS, &table.name), parts.join(" UNION ALL "));
    let tables: Vec<String> = table.shards.iter().map(|shard| foreign_table(table, shard).create).collect();
    Made {
        kind: Kind::View,
        schema: VIEWS.to_owned(),
        name: table.name.clone(),
        columns: table.columns.iter().map(Column::typed).collect(),
        mark: mark(&format!("{create}\n{}", tables.join("\n"))),
        create,
        readers: table.readers.clone(),
    }
}

impl Server {
    pub(super) fn create(&self) -> String {
        let options = options(self.options.iter().map(|(name, value)| (&**name, &**value)));
        format!("CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options})", identifier(&self.name))
    }

    /// What makes it of one with these options; none if it is like that.
    pub(super) fn alter(&self, there: &[(String, String)]) -> Option<String> {
        let value = |list: &[(String, String)], name: &str| {
            list.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
        };
        let set = self.options.iter().filter_map(|(name, wanted)| {
            let verb = match value(there, name) {
                None => "ADD",
                Some(is) if is == *wanted => return None,
                Some(_) => "SET",
            };
            Some(format!("{verb} {} {}", identifier(name), literal(wanted)))
        });
        let dropped = there.iter().filter(|(name, _)| value(&self.options, name).is_none());
        let changes: Vec<String> = set.chain(dropped.map(|(name, _)| format!("DROP {}", identifier(name)))).collect();
        (!changes.is_empty())
            .then(|| format!("ALTER SERVER {} OPTIONS ({})", identifier(&self.name), changes.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = "\
        auth.users = [{ name = 'u', password = 'p' }]\npool.connect_timeout = '2500ms'\ncoordinator.shard = 'a'\n\
        [[shards]]\nname = 'a'\nnodes = ['h1:1', '[::1]:2']\npassword = 'hunter2'\n\
        [[shards]]\nname = 'b.x'\nnodes = ['h3:3']\nsslmode = 'require'\nuser = 'other'\n";

    fn wanted() -> Wanted {
        let config = Config::parse(CONFIG, Path::new("/"), "t").unwrap_or_else(|errors| panic!("{errors}"));
        let column = |name: &str, type_name: &str, collation: Option<&str>, not_null| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            collation: collation.map(str::to_owned),
            collation_is: None,
            not_null,
        };
        let columns = vec![column("id", "integer", None, true), column("a \"b\"", "text", Some("public.de"), false)];
        let (schema, name) = ("Shop".to_owned(), "t".to_owned());
        let table =
            Table { schema, name, columns, shards: vec!["a".to_owned(), "b.x".to_owned()], readers: Vec::new() };
        Wanted::new(&config, "pgsluice", "it's", &[table])
    }

    #[test]
    fn a_server_names_all_nodes_and_finds_the_primary() {
        let wanted = wanted();
        assert_eq!(
            wanted.servers[0].create(),
            "CREATE SERVER \"pgsluice_a\" FOREIGN DATA WRAPPER postgres_fdw OPTIONS (\"host\" 'h1,::1', \"port\" '1,2', \
             \"dbname\" 'it''s', \"target_session_attrs\" 'read-write', \"connect_timeout\" '3', \"application_name\" \
             'pgsluice coordinator', \"sslmode\" 'prefer', \"async_capable\" 'true', \"fetch_size\" '1000', \
             \"use_remote_estimate\" 'false', \"updatable\" 'false', \"truncatable\" 'false')"
        );
        assert_eq!((&*wanted.servers[1].name, &*wanted.servers[1].user), ("pgsluice_b.x", "other"));
        assert!(wanted.servers[1].create().contains("\"sslmode\" 'require'"));
        assert!(!format!("{wanted:?}").contains("hunter2"));
    }

    #[test]
    fn only_options_that_differ_are_altered() {
        let server = &wanted().servers[0];
        assert_eq!(server.alter(&server.options), None);
        let mut there = server.options.clone();
        there[0].1 = "old".to_owned();
        there.remove(1);
        there.push(("keep_connections".to_owned(), "off".to_owned()));
        let expected = "ALTER SERVER \"pgsluice_a\" OPTIONS (SET \"host\" 'h1,::1', ADD \"port\" '1,2', DROP \"keep_connections\")";
        assert_eq!(server.alter(&there).as_deref(), Some(expected));
    }

    #[test]
    fn a_view_is_over_the_tables_of_all_shards() {
        let wanted = wanted();
        let sql: Vec<&str> = wanted.relations.iter().map(|made| &*made.create).collect();
        let table = |schema: &str, server: &str| {
            format!(
                "CREATE FOREIGN TABLE \"{schema}\".\"t\" (\"id\" integer NOT NULL, \"a \"\"b\"\"\" text COLLATE public.de) \
                 SERVER \"{server}\" OPTIONS (\"schema_name\" 'Shop', \"table_name\" 't')"
            )
        };
        let view = "CREATE VIEW \"pgsluice_all\".\"t\" AS SELECT f.\"id\", f.\"a \"\"b\"\"\" FROM \"pgsluice_shard_a\".\"t\" AS f \
                    UNION ALL SELECT f.\"id\", f.\"a \"\"b\"\"\" FROM \"pgsluice_shard_b.x\".\"t\" AS f";
        let (a, b) = (table("pgsluice_shard_a", "pgsluice_a"), table("pgsluice_shard_b.x", "pgsluice_b.x"));
        assert_eq!(sql, [a.as_str(), b.as_str(), view]);
    }
}
