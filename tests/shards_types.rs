//! Users' types, whose OIDs differ between shards: clients know them by one number, wherever a row lies.

mod support;

use std::time::{Duration, Instant};

use support::DEADLINE;
use support::raw::{self, Message};
use support::shards::Shards;
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

const TABLES: &str = "
[[tables]]
name = \"moods\"
shard_key = \"id\"
";

/// By name; it does not know the type before the server has told it.
#[derive(Debug, PartialEq)]
struct Mood(String);

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(known: &Type) -> bool {
        known.name() == "mood" && matches!(known.kind(), Kind::Enum(words) if *words == ["sad", "glad"])
    }
}

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(known: &Type) -> bool {
        <Self as FromSql>::accepts(known)
    }

    to_sql_checked!();
}

fn types_of(messages: &[Message], tag: u8) -> Vec<u32> {
    let body = &messages.iter().find(|message| message.tag == tag).expect("it is told").body;
    match tag {
        b't' => body[2..].as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect(),
        _ => {
            let (mut rest, mut oids) = (&body[2..], Vec::new());
            while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                oids.push(u32::from_be_bytes(*rest[end + 7..].first_chunk().expect("a field")));
                rest = &rest[end + 19..];
            }
            oids
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_types_have_one_number_for_clients() {
    let stand = Shards::start(3, TABLES).await;
    // Each shard counts from elsewhere.
    for (shard, before) in [(0, 3), (1, 0), (2, 7)] {
        for number in 0..before {
            stand
                .direct(shard)
                .await
                .batch_execute(&format!("CREATE TYPE before_{number} AS ENUM ()"))
                .await
                .expect("made");
        }
    }
    let mut client = stand.client().await;
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'glad')").await.expect("made");
    client.batch_execute("CREATE TABLE moods (id int PRIMARY KEY, m mood, all_of mood[])").await.expect("made");
    let own = stand.on_each("SELECT 'mood'::regtype::oid::text").await;
    assert!(own[0] != own[1] && own[1] != own[2], "{own:?}");
    let mut raw = stand.raw().await;
    let start = Instant::now();
    let expected: Vec<u32> = loop {
        let messages = raw.query("SELECT m, all_of FROM moods WHERE id = 0").await;
        if raw::sqlstates(&messages).is_empty() && types_of(&messages, b'T')[0].to_string() == own[0] {
            break types_of(&messages, b'T');
        }
        assert!(start.elapsed() < DEADLINE, "the types are not read");
    };
    for id in 0..30i32 {
        for sql in [
            format!("INSERT INTO moods VALUES ({id}, 'glad', '{{sad,glad}}') RETURNING m, all_of"),
            format!("SELECT m, all_of FROM moods WHERE id = {id}"),
        ] {
            assert_eq!(types_of(&raw.query(&sql).await, b'T'), expected, "{id}");
        }
        let described = [
            raw::parse("", "UPDATE moods SET m = $2, all_of = $3 WHERE id = $1 RETURNING m, all_of"),
            raw::describe_statement(""),
            raw::bind("", "", &[&id.to_string(), "sad", "{glad}"]),
            raw::describe_portal(""),
            raw::execute("", 0),
            raw::sync(),
        ];
        let messages = raw.exchange(&described.concat()).await;
        assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{id}: {messages:?}");
        assert_eq!(types_of(&messages, b't'), [&[23], &expected[..]].concat(), "{id}");
        assert_eq!(types_of(&messages, b'T'), expected, "{id}");
        let messages = raw.query(&format!("/* pgsluice: shard=c */ SELECT 'sad'::mood, {id}")).await;
        assert_eq!(types_of(&messages, b'T'), [expected[0], 23], "{id}");
    }
    // A driver that asks what an OID means, and then says it: outside of a transaction and in one, on all shards.
    let read = client.prepare("SELECT m FROM moods WHERE id = $1").await.expect("prepared");
    for id in 0..30i32 {
        assert_eq!(client.query_one(&read, &[&id]).await.expect("read").get::<_, Mood>(0), Mood("sad".into()));
    }
    let mood = read.columns()[0].type_().clone();
    let write =
        client.prepare_typed("UPDATE moods SET m = $2 WHERE id = $1", &[Type::INT4, mood]).await.expect("prepared");
    let transaction = client.transaction().await.expect("begun");
    for id in 0..30i32 {
        assert_eq!(transaction.execute(&write, &[&id, &Mood("glad".into())]).await.expect("written"), 1);
    }
    transaction.commit().await.expect("committed");
    let other = stand.client().await;
    other.batch_execute("BEGIN").await.expect("begun");
    for id in (0..30i32).rev() {
        let row = other.query_one("SELECT m FROM moods WHERE id = $1", &[&id]).await.expect("read");
        assert_eq!(row.get::<_, Mood>(0), Mood("glad".into()));
    }
    other.batch_execute("COMMIT").await.expect("committed");
    // What only one of the others has is of no type that a client could take for another one.
    stand.direct(1).await.batch_execute("CREATE TYPE alone AS ENUM ('x')").await.expect("made");
    let messages = raw.query("/* pgsluice: shard=b */ SELECT 'x'::alone").await;
    assert_eq!(types_of(&messages, b'T'), [705]);
    // A shard that did not answer when the types were read is asked again when it is back.
    let read = || stand.proxy.log_text().matches("catalog read").count();
    let before = read();
    stand.primary(2).kill().await.expect("killed");
    let change = "CREATE FUNCTION one_more() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    stand.direct(0).await.batch_execute(change).await.expect("changed");
    let start = Instant::now();
    while read() == before {
        assert!(start.elapsed() < DEADLINE, "the catalog is not read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stand.primary(2).start().await.expect("started");
    let start = Instant::now();
    loop {
        let messages = raw.query("/* pgsluice: shard=c */ SELECT 'sad'::mood").await;
        if raw::sqlstates(&messages).is_empty() && types_of(&messages, b'T') == expected[..1] {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "its types are not read: {messages:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stand.stop().await;
}
