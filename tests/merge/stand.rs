//! Three shards behind pgsluice, without a coordinator, beside one plain PostgreSQL with the same rows.

use std::time::Instant;

use crate::support::DEADLINE;
use crate::support::raw::{self, Login, Message, Raw};
use crate::support::shards::Shards;

const TABLES: &str = "
[pool]
checkout_timeout = \"2s\"
[[tables]]
name = \"people\"
shard_key = \"id\"
[[tables]]
name = \"notes\"
shard_key = \"person\"
[[tables]]
name = \"pairs\"
shard_key = [\"a\", \"b\"]
[[tables]]
name = \"kinds\"
reference = true
[[tables]]
name = \"moods\"
shard_key = \"id\"
[[tables]]
name = \"empty\"
shard_key = \"id\"
";

const SCHEMA: &[&str] = &[
    "CREATE TABLE people (id int PRIMARY KEY, name text, code text COLLATE \"C\", w numeric, f float8, f4 float4, b boolean,
        day date, at timestamptz, ts timestamp, u uuid, bytes bytea, big bigint, small int2, pad char(5) COLLATE \"C\", j jsonb,
        o oid, ti time)",
    "CREATE TABLE notes (person int, n int, body text, PRIMARY KEY (person, n))",
    "CREATE TABLE pairs (a int, b text COLLATE \"C\", v int, PRIMARY KEY (a, b))",
    "CREATE TABLE kinds (code text PRIMARY KEY, weight int)",
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
    "CREATE TABLE moods (id int PRIMARY KEY, m mood)",
    "CREATE TABLE empty (id int PRIMARY KEY, v int)",
];

/// Rows with all sorts of values in them, NULLs among them.
fn rows() -> Vec<String> {
    let mut all = Vec::new();
    let (codes, names) = (["a", "B", "é", "", "a b", "zz", "Z"], ["Ärger", "apfel", "Zebra", "it''s", "x"]);
    let numbers = ["0", "-0.5", "1e30", "-1e-20", "'NaN'", "123456789.123456789", "10000", "9999.9999", "-10000"];
    let floats = ["0", "-0.0", "'NaN'", "'Infinity'", "'-Infinity'", "1.5", "-2e300", "3e-300"];
    for id in 1..=120i32 {
        let at = usize::try_from(id).unwrap();
        let or_null = |text: String, every: usize| if at.is_multiple_of(every) { "NULL".to_owned() } else { text };
        all.push(format!(
            "INSERT INTO people VALUES ({id}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})",
            or_null(format!("'{}'", names[at % 5]), 9),
            or_null(format!("'{}'", codes[at % 7]), 11),
            or_null(numbers[at % 9].to_owned(), 13),
            or_null(floats[at % 8].to_owned(), 17),
            or_null(["1.5", "'NaN'", "-7", "0"][at % 4].to_owned(), 19),
            or_null((at % 2 == 0).to_string(), 7),
            or_null(format!("date '2024-01-01' + {}", (at * 37) % 50), 10),
            or_null(format!("'2024-03-{:02} 10:00+0{}'", at % 28 + 1, at % 9), 12),
            or_null(["'infinity'", "'-infinity'", "'2001-02-03 04:05:06.789'"][at % 3].to_owned(), 14),
            or_null(format!("'00000000-0000-4000-8000-0000000000{:02x}'", (at * 53) % 256), 15),
            or_null(format!("'\\x{:02x}{:02x}'", (at * 91) % 256, at % 5), 16),
            or_null(format!("{}", i64::from(id) * 7_919_000_000_000 % 1_000_000_007_000 - 500_000_000_000), 18),
            or_null(format!("{}", (at * 31) % 100), 6),
            or_null(format!("'{}'", ["a", "a ", "b  ", "", "Z"][at % 5]), 8),
            or_null(format!("'{{\"k\": {}}}'", at % 4), 5),
            or_null(format!("{}", 4_000_000_000u64 / u64::try_from(at).unwrap()), 20),
            or_null(format!("'{:02}:{:02}:00'", at % 24, at % 60), 21),
        ));
        for n in 0..at % 4 {
            all.push(format!("INSERT INTO notes VALUES ({id}, {n}, '{}')", names[(at + n) % 5]));
        }
        all.push(format!("INSERT INTO pairs VALUES ({}, '{}', {})", at % 10, id, at % 3));
        all.push(format!("INSERT INTO moods VALUES ({id}, '{}')", ["sad", "glad"][at % 2]));
    }
    for (number, code) in codes.iter().enumerate() {
        all.push(format!("INSERT INTO kinds VALUES ('{code}', {number})"));
    }
    all
}

pub struct Stand {
    pub shards: Shards,
    pub plain: Raw,
    pub merged: Raw,
}

impl Stand {
    pub async fn start() -> Self {
        let shards = Shards::start(3, TABLES).await;
        let options = shards.clusters[0].options().clone();
        let app = options.app.user.clone();
        shards.primary(2).sql(&format!("CREATE DATABASE plain OWNER {app}")).await.expect("created");
        let address = shards.primary(2).address();
        let password = &options.app.password;
        let login = Login { address: &address, user: &app, password, database: "plain", minor: 0, settings: &[] };
        let (mut plain, mut merged) = (Raw::connect(&login).await, shards.raw().await);
        for sql in SCHEMA {
            for client in [&mut plain, &mut merged] {
                let messages = client.query(sql).await;
                assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
            }
        }
        let start = Instant::now();
        while !raw::sqlstates(&merged.query("SELECT v FROM empty WHERE id = 0").await).is_empty() {
            assert!(start.elapsed() < DEADLINE, "the tables are not read");
        }
        let rows = rows();
        for client in [&mut plain, &mut merged] {
            for sql in &rows {
                let messages = client.query(sql).await;
                assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
            }
        }
        Self { shards, plain, merged }
    }

    pub async fn stop(self) {
        drop((self.plain, self.merged));
        self.shards.stop().await;
    }
}

/// By the simple protocol, by the extended one with texts, or with binary values.
pub const FORMS: [&str; 3] = ["simple", "text", "binary"];

pub async fn answer(client: &mut Raw, sql: &str, parameters: &[&str], form: &str) -> Vec<Message> {
    let is_binary = form == "binary";
    match form {
        "simple" => client.query(sql).await,
        _ => {
            let messages = [
                raw::parse("", sql),
                raw::bind_as("", "", parameters, is_binary),
                raw::describe_portal(""),
                raw::execute("", 0),
                raw::sync(),
            ];
            client.exchange(&messages.concat()).await
        }
    }
}

/// Of an error the error alone: which rows come before it, and where it is found first, is nobody's to say.
pub fn told(messages: &[Message], is_ordered: bool) -> Vec<String> {
    let errors = messages.iter().filter(|message| message.tag == b'E');
    let errors: Vec<String> =
        errors.map(|message| format!("{:?} {:?}", message.field(b'C'), message.field(b'M'))).collect();
    if errors.is_empty() { seen(messages, is_ordered) } else { errors }
}

/// All but the tables that columns come from, whose OIDs are each database's own.
pub fn seen(messages: &[Message], is_ordered: bool) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let mut rest = Vec::new();
    for message in messages {
        match message.tag {
            b'D' => rows.push(message.body.escape_ascii().to_string()),
            b'T' => rest.push(columns(&message.body)),
            b'E' => rest.push(format!("E {:?}", message.field(b'C'))),
            tag => rest.push(format!("{} {}", char::from(tag), message.body.escape_ascii())),
        }
    }
    if !is_ordered {
        rows.sort();
    }
    rows.extend(rest);
    rows
}

/// Names, types, modifiers and formats.
fn columns(body: &[u8]) -> String {
    let (mut rest, mut all) = (&body[2..], String::from("T"));
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let (name, fixed) = (&rest[..end], &rest[end + 1..end + 19]);
        all.push_str(&format!(" {} {:?}", name.escape_ascii(), &fixed[6..]));
        rest = &rest[end + 19..];
    }
    all
}

pub fn is_refused(messages: &[Message]) -> bool {
    messages.iter().any(|message| {
        message.tag == b'E'
            && message.field(b'M').as_deref() == Some("this statement needs rows of several shards together")
    })
}
