//! Tables in the transaction that makes or changes them: placed as that transaction sees them, by it alone, and until it ends.

mod support;

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use support::raw::{self, *};
use support::shards::{Shards, code};
use tokio_postgres::Client;

const TABLES: &str = "
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"entries\"
shard_key = \"account\"
[[tables]]
name = \"events\"
shard_key = \"id\"
[[tables]]
name = \"currencies\"
reference = true
[[tables]]
name = \"logs\"
shard = \"b\"
";

async fn stand() -> Shards {
    Shards::start(3, TABLES).await
}

async fn refused(client: &Client, sql: &str, words: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let told = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(code(&error) == "0A000" && told.contains(words), "{sql}: {error:?}");
}

async fn copy_in(client: &Client, sql: &str, data: &str) -> u64 {
    let sink = client.copy_in::<_, Bytes>(sql).await.expect(sql);
    pin_mut!(sink);
    sink.send(Bytes::copy_from_slice(data.as_bytes())).await.unwrap();
    sink.finish().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_uses_what_it_makes() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE accounts (id bigint PRIMARY KEY, note text)").await.unwrap();
    // One row, rows over shards, with values in the text and with parameters.
    client.batch_execute("INSERT INTO accounts VALUES (1, 'one')").await.unwrap();
    let many: Vec<String> = (2..30).map(|id| format!("({id}, 'n')")).collect();
    client.batch_execute(&format!("INSERT INTO accounts VALUES {}", many.join(", "))).await.unwrap();
    let insert = client.prepare("INSERT INTO accounts (note, id) VALUES ($1, $2)").await.unwrap();
    for id in 30..40i64 {
        assert_eq!(client.execute(&insert, &[&"bound", &id]).await.unwrap(), 1);
    }
    for id in 1..40i64 {
        let row = client.query_one("SELECT note FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(
            row.get::<_, &str>(0).len(),
            if id == 1 {
                3
            } else if id < 30 {
                1
            } else {
                5
            }
        );
    }
    assert_eq!(client.query_one("SELECT count(*) FROM accounts", &[]).await.unwrap().get::<_, i64>(0), 39);
    // A column that is added, by the text that was prepared before, and by others.
    client.batch_execute("ALTER TABLE accounts ADD COLUMN since date").await.unwrap();
    client.batch_execute("CREATE INDEX ON accounts (since)").await.unwrap();
    assert_eq!(client.execute(&insert, &[&"later", &40i64]).await.unwrap(), 1);
    client.batch_execute("INSERT INTO accounts VALUES (41, 'new', '2024-01-31')").await.unwrap();
    assert_eq!(client.execute("UPDATE accounts SET since = '2024-02-01' WHERE id = $1", &[&40i64]).await.unwrap(), 1);
    assert_eq!(client.execute("UPDATE accounts SET note = 'all' WHERE since IS NULL", &[]).await.unwrap(), 39);
    let rows = client.query("SELECT id FROM accounts WHERE since IS NOT NULL ORDER BY since DESC", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [40, 41]);
    assert_eq!(client.execute("DELETE FROM accounts WHERE id = $1", &[&41i64]).await.unwrap(), 1);
    // A reference table; no shard may make up a value of its own.
    client
        .batch_execute("CREATE TABLE currencies (code text PRIMARY KEY, since timestamptz DEFAULT now())")
        .await
        .unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    refused(&client, "INSERT INTO currencies (code) VALUES ('CHF')", "another value on each shard").await;
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    client.batch_execute("INSERT INTO currencies VALUES ('CHF', '2024-01-31')").await.unwrap();
    // A key that a sequence makes.
    client.batch_execute("CREATE TABLE events (id bigserial PRIMARY KEY, what text)").await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let row = client.query_one("INSERT INTO events (what) VALUES ($1) RETURNING id", &[&"made"]).await.unwrap();
        ids.push(row.get::<_, i64>(0));
    }
    for id in ids {
        assert_eq!(client.execute("UPDATE events SET what = 'seen' WHERE id = $1", &[&id]).await.unwrap(), 1);
    }
    // One that is on one shard, and COPY into both kinds.
    client.batch_execute("CREATE TABLE logs (line text); INSERT INTO logs VALUES ('x')").await.unwrap_err();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(stand.on_each("SELECT count(*) FROM pg_class WHERE relname = 'accounts'").await, ["0"; 3]);

    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE logs (line text)").await.unwrap();
    client.batch_execute("INSERT INTO logs VALUES ('x')").await.unwrap();
    client.batch_execute("CREATE TABLE accounts (id text PRIMARY KEY, note text)").await.unwrap();
    client.batch_execute("INSERT INTO accounts VALUES ('1', 'text')").await.unwrap();
    client.batch_execute("DROP TABLE accounts").await.unwrap();
    client.batch_execute("CREATE TABLE accounts (note text, id bigint PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE TABLE currencies (code text PRIMARY KEY)").await.unwrap();
    let data: String = (0..300).map(|id| format!("n\t{id}\n")).collect();
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", &data).await, 300);
    assert_eq!(copy_in(&client, "COPY currencies FROM STDIN", "CHF\nEUR\n").await, 2);
    client.batch_execute("INSERT INTO accounts VALUES ('by place', 300), ('in the text', 301)").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 302);
    assert_eq!(stand.on_each("SELECT count(*) FROM currencies").await, ["2"; 3]);
    assert_eq!(stand.on_each("SELECT count(*) FROM logs").await, ["0", "1", "0"]);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_sequence_are_where_they_belong() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, what text)").await.unwrap();
    for number in 0..20 {
        client.execute("INSERT INTO events (what) VALUES ($1)", &[&number.to_string()]).await.unwrap();
    }
    client.batch_execute("INSERT INTO events (what) VALUES ('x'), ('y'), ('z')").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("events", "id").await, 23);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_goes_by_it_and_nobody_does_when_it_is_undone() {
    let stand = stand().await;
    let (client, other) = (stand.client().await, stand.client().await);
    let insert = "INSERT INTO accounts (id) VALUES (1)";
    for end in ["ROLLBACK", "ROLLBACK AND CHAIN"] {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("CREATE TABLE accounts (id bigint)").await.unwrap();
        client.batch_execute(insert).await.unwrap();
        refused(&other, insert, "cannot be placed").await;
        refused(&other, "SELECT FROM accounts WHERE id = 1", "cannot be placed").await;
        client.batch_execute(insert).await.unwrap();
        client.batch_execute(end).await.unwrap();
        refused(&client, insert, "cannot be placed").await;
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // Of what a savepoint takes back.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE entries (account bigint)").await.unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    client.batch_execute("CREATE TABLE accounts (id bigint)").await.unwrap();
    client.batch_execute(insert).await.unwrap();
    client.batch_execute("ROLLBACK TO SAVEPOINT s").await.unwrap();
    refused(&client, insert, "cannot be placed").await;
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    client.batch_execute("INSERT INTO entries VALUES (1), (2), (3), (4), (5)").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("entries", "account").await, 5);
    assert_eq!(stand.on_each("SELECT count(*) FROM pg_class WHERE relname = 'accounts'").await, ["0"; 3]);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_placed_as_it_is_now() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE accounts (id bigint, note text)").await.unwrap();
    client.batch_execute("INSERT INTO accounts VALUES (1)").await.unwrap();
    client.batch_execute("DELETE FROM accounts").await.unwrap();
    let retype = "ALTER TABLE accounts ALTER COLUMN id TYPE text";
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    client.batch_execute(retype).await.unwrap();
    for id in 0..20 {
        client.batch_execute(&format!("INSERT INTO accounts VALUES ('{id}')")).await.unwrap();
        let found = client.query(&format!("SELECT note FROM accounts WHERE id = '{id}'"), &[]).await.unwrap();
        assert_eq!(found.len(), 1);
    }
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    // In one message the second is understood before the first is run.
    client.batch_execute(retype).await.unwrap();
    client.batch_execute("SELECT FROM accounts WHERE id = '1'").await.unwrap();
    refused(&client, "ROLLBACK TO s; INSERT INTO accounts VALUES ('1')", "not known here").await;
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    for id in 0..20 {
        client.batch_execute(&format!("INSERT INTO accounts VALUES ('{id}')")).await.unwrap();
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 20);
    // And committed so.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("TRUNCATE accounts").await.unwrap();
    client.batch_execute(retype).await.unwrap();
    for id in 0..20 {
        client.batch_execute(&format!("INSERT INTO accounts VALUES ('{id}')")).await.unwrap();
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 20);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_go_by_what_was_made_before_them() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    for sql in ["BEGIN", "CREATE TABLE accounts (id bigint, note text)"] {
        assert_eq!(raw::sqlstates(&client.query(sql).await), Vec::<String>::new(), "{sql}");
    }
    // For several shards in turn.
    let mut pipeline = vec![parse("s", "INSERT INTO accounts VALUES ($1, 'x')")];
    for id in 0..12 {
        pipeline.extend([bind("", "s", &[&id.to_string()]), execute("", 0)]);
    }
    pipeline.push(sync());
    let messages = client.exchange(&pipeline.concat()).await;
    assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{messages:?}");
    // Described first, as some drivers do, and run in what follows; another table in the same pipeline.
    assert_eq!(raw::sqlstates(&client.query("CREATE TABLE entries (account bigint)").await), Vec::<String>::new());
    client.send(&[parse("", "SELECT 1"), describe_statement(""), flush()].concat()).await;
    let messages = client.exchange(&[run("INSERT INTO entries VALUES (7)", &[]), sync()].concat()).await;
    let errors = raw::sqlstates(&messages);
    // It may be for another shard than the pipeline has begun on.
    assert!(errors.is_empty() || errors == ["0A000"], "{messages:?}");
    if errors.is_empty() {
        client.query("COMMIT").await;
        assert_eq!(stand.count("accounts", "id").await, 12);
        assert_eq!(stand.count("entries", "account").await, 1);
    } else {
        let words = messages.iter().find_map(|message| message.field(b'M').filter(|_| message.tag == b'E')).unwrap();
        assert_eq!(words, "one pipeline cannot be for several shards");
        client.query("ROLLBACK").await;
    }
    // Behind ROLLBACK TO nothing that was read counts.
    let retype = "ALTER TABLE events ALTER COLUMN id TYPE text";
    for sql in ["CREATE TABLE events (id bigint)", "BEGIN", "SAVEPOINT s", retype, "INSERT INTO events VALUES ('1')"] {
        assert_eq!(raw::sqlstates(&client.query(sql).await), Vec::<String>::new(), "{sql}");
    }
    client.send(&[run("ROLLBACK TO s", &[]), flush()].concat()).await;
    let messages = client.exchange(&[run("INSERT INTO events VALUES ('1')", &[]), sync()].concat()).await;
    let words = messages.iter().find_map(|message| message.field(b'M').filter(|_| message.tag == b'E')).unwrap();
    assert_eq!(words, "what this transaction has made of its tables is not known here", "{messages:?}");
    client.query("ROLLBACK").await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_on_one_shard_by_hand_is_not_known() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE accounts (id bigint, note text)").await.unwrap();
    client.batch_execute("CREATE TABLE logs (line text)").await.unwrap();
    client.batch_execute("INSERT INTO accounts VALUES (1)").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("/* pgsluice: shard=b */ ALTER TABLE accounts ALTER COLUMN id TYPE text").await.unwrap();
    client.batch_execute("/* pgsluice: shard=b */ ALTER TABLE logs ADD COLUMN at date").await.unwrap();
    client.batch_execute("INSERT INTO logs (at) VALUES ('2024-01-31')").await.unwrap();
    client.batch_execute("/* pgsluice: shard=b */ SELECT FROM accounts WHERE id = '1'").await.unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    refused(&client, "INSERT INTO accounts VALUES ('1')", "is not the same on all shards").await;
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    for shard in ["a", "c"] {
        let sql = format!("/* pgsluice: shard={shard} */ ALTER TABLE accounts ALTER COLUMN id TYPE text");
        client.batch_execute(&sql).await.unwrap();
    }
    client.batch_execute("DELETE FROM accounts").await.unwrap();
    for id in 0..20 {
        client.batch_execute(&format!("INSERT INTO accounts VALUES ('{id}')")).await.unwrap();
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 20);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_its_own_ddl_a_session_goes_by_what_is_committed() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE accounts (id bigint, note text)").await.unwrap();
    client.batch_execute("CREATE TABLE entries (account text)").await.unwrap();
    // Each time the key's type is another one, and the next statement follows at once.
    let mut rows = 0;
    for round in 0..12 {
        let into = if round % 2 == 0 { "text" } else { "bigint USING id::bigint" };
        let retype = format!("ALTER TABLE accounts ALTER COLUMN id TYPE {into}");
        client.batch_execute("DELETE FROM accounts").await.unwrap();
        if round % 3 == 0 {
            for sql in ["BEGIN", &retype, "COMMIT"] {
                client.batch_execute(sql).await.unwrap();
            }
        } else {
            client.batch_execute(&retype).await.unwrap();
        }
        if round % 4 == 0 {
            client.batch_execute("BEGIN").await.unwrap();
        }
        for id in 0..8 {
            client.execute(&format!("INSERT INTO accounts (id, note) VALUES ('{id}', $1)"), &[&"n"]).await.unwrap();
        }
        if round % 4 == 0 {
            client.batch_execute("COMMIT").await.unwrap();
        }
        client.batch_execute(&format!("INSERT INTO entries VALUES ('{round}')")).await.unwrap();
        rows += 1;
        assert_eq!(stand.count("accounts", "id").await, 8, "round {round}");
    }
    assert_eq!(stand.count("entries", "account").await, rows);
    stand.stop().await;
}
