//! COPY into tables whose rows are on several shards: each row where its key says, all or none, told as one server would.

mod support;

use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use support::raw::{self, Raw, frame};
use support::shards::{Shards, code};
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

const TABLES: &str = "
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"names\"
shard_key = \"name\"
[[tables]]
name = \"currencies\"
reference = true
";

const SCHEMA: [&str; 3] = [
    "CREATE TABLE accounts (id bigint PRIMARY KEY, balance numeric NOT NULL DEFAULT 0, note text)",
    "CREATE TABLE currencies (code char(3) PRIMARY KEY, title text, since timestamptz DEFAULT now())",
    "CREATE TABLE names (born date, name text PRIMARY KEY, twice int GENERATED ALWAYS AS (length(name) * 2) STORED)",
];

async fn stand() -> Shards {
    let stand = Shards::start(3, TABLES).await;
    let client = stand.client().await;
    for statement in SCHEMA {
        client.batch_execute(statement).await.expect(statement);
    }
    // The proxy reads a new table's columns a moment after it was made.
    let start = Instant::now();
    while let Err(error) = client.batch_execute("DELETE FROM names WHERE name = ''").await {
        assert!(start.elapsed() < support::DEADLINE, "{error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stand
}

/// By the extended protocol, in pieces of this size.
async fn copy_in(client: &Client, sql: &str, data: &[u8], piece: usize) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(sql).await?;
    pin_mut!(sink);
    for piece in data.chunks(piece) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_formats_lie_where_their_keys_say() {
    let stand = stand().await;
    let client = stand.client().await;
    let text: String = (0..1000).map(|id| format!("{id}\t{}.5\tnote\\t{id}\\n\n", id * 2)).collect();
    for piece in [1000, 7] {
        assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", text.as_bytes(), piece).await.unwrap(), 1000);
        assert_eq!(stand.count("accounts", "id").await, 1000);
        let row = client.query_one("SELECT balance::float8, note FROM accounts WHERE id = 7", &[]).await.unwrap();
        assert_eq!((row.get::<_, f64>(0), row.get::<_, String>(1)), (14.5, "note\t7\n".to_owned()));
        client.batch_execute("TRUNCATE accounts").await.unwrap();
    }
    let csv: String = (0..500).map(|id| format!("\"name\n\"\"{id}\"\"\",2000-01-01\r\n")).collect();
    let sql = "COPY names (name, born) FROM STDIN WITH (FORMAT csv, HEADER)";
    let csv = format!("name,born\r\n{csv}");
    assert_eq!(copy_in(&client, sql, csv.as_bytes(), 100).await.unwrap(), 500);
    assert_eq!(stand.count("names", "name").await, 500);
    let named = client.query("SELECT born FROM names WHERE name = $1", &[&"name\n\"7\""]).await.unwrap();
    assert_eq!(named.len(), 1);
    let sink = client.copy_in("COPY accounts (note, id) FROM STDIN BINARY").await.unwrap();
    let writer = BinaryCopyInWriter::new(sink, &[Type::TEXT, Type::INT8]);
    pin_mut!(writer);
    for id in 0i64..500 {
        writer.as_mut().write(&[&format!("n{id}"), &id]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 500);
    assert_eq!(stand.count("accounts", "id").await, 500);
    // No rows at all, and a generated column that is in no data.
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", b"", 1).await.unwrap(), 0);
    let messages = stand.raw().await.query("COPY names FROM STDIN").await;
    assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
    stand.stop().await;
}

/// `scripts/bench-copy` says how many, and reads what is printed.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_pass_in_bounded_memory() {
    let rows: u64 = std::env::var("PGSLUICE_COPY_ROWS").map_or(100_000, |rows| rows.parse().expect("a number of rows"));
    let stand = stand().await;
    let (client, direct) = (stand.client().await, stand.direct(0).await);
    direct.batch_execute("CREATE TABLE plain (LIKE accounts INCLUDING ALL)").await.unwrap();
    let data: String = (0..rows).map(|id| format!("{id}\t{id}\t{id:0>100}\n")).collect();
    let start = Instant::now();
    assert_eq!(copy_in(&direct, "COPY plain FROM STDIN", data.as_bytes(), 1 << 16).await.unwrap(), rows);
    let directly = start.elapsed().as_secs_f64();
    stand.proxy.reset_peak_memory();
    let before = stand.proxy.memory();
    let start = Instant::now();
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", data.as_bytes(), 1 << 16).await.unwrap(), rows);
    let through = start.elapsed().as_secs_f64();
    let peak = stand.proxy.peak_memory();
    println!("COPY of {rows} rows, {} MiB of text", data.len() >> 20);
    println!("into one PostgreSQL, directly:        {directly:.2} s");
    println!("into three shards, through pgsluice:  {through:.2} s, {:.2} times as long", through / directly);
    println!("pgsluice's peak of resident memory:   {:.1} MiB, {:.1} MiB before", mib(peak), mib(before));
    let grown = peak.saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for {} bytes of data", data.len());
    assert_eq!(u64::try_from(stand.count("accounts", "id").await).unwrap(), rows);
    stand.stop().await;
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).expect("less than 4 TiB")) / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing_anywhere() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("INSERT INTO accounts (id) VALUES (50)").await.unwrap();
    let rows = |ids: std::ops::Range<i32>| -> String { ids.map(|id| format!("{id}\t1\tx\n")).collect() };
    let good = rows(0..40);
    for (last, expected) in [
        ("50\t1\tx\n", "23505"),
        ("60\tx\tx\n", "22P02"),
        ("\\N\t1\tx\n", "23502"),
        ("x\t1\tx\n", "0A000"),
        ("61\n", "22P04"),
        ("62\t1\tx\ty\n", "22P04"),
        ("63\t1\tx\r\n", "22P04"),
    ] {
        let data = format!("{good}{last}{}", rows(1000..5000));
        let error = copy_in(&client, "COPY accounts FROM STDIN", data.as_bytes(), 50).await.unwrap_err();
        assert_eq!(code(&error), expected, "{last:?}: {error:?}");
        assert_eq!(stand.count("accounts", "id").await, 1, "{last:?}");
    }
    let error = copy_in(&client, "COPY accounts FROM STDIN", b"1\t1\tx\n\\N\t1\tx\n", 5).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("\"id\""), "{error:?}");
    assert_eq!(error.detail(), Some("COPY accounts, line 2"));
    let mut refused = stand.raw().await;
    for (sql, expected) in [
        ("COPY accounts (note) FROM STDIN", "0A000"),
        ("COPY accounts FROM STDIN (FORMAT csv, DELIMITER '||')", "0A000"),
        ("COPY accounts FROM STDIN (ENCODING 'LATIN1')", "0A000"),
        ("COPY accounts FROM '/etc/passwd'", "0A000"),
        ("COPY accounts (id, nothing) FROM STDIN", "42703"),
        ("COPY nowhere FROM STDIN", "0A000"),
    ] {
        let messages = refused.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), [expected], "{sql}: {messages:?}");
        let messages = refused.exchange(&[raw::run(sql, &[]), raw::sync()].concat()).await;
        assert_eq!(raw::sqlstates(&messages), [expected], "{sql}: {messages:?}");
    }
    // The client gives up.
    let sink = client.copy_in::<_, Bytes>("COPY accounts FROM STDIN").await.unwrap();
    {
        pin_mut!(sink);
        sink.send(Bytes::copy_from_slice(good.as_bytes())).await.unwrap();
    }
    assert_eq!(stand.count("accounts", "id").await, 1);
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", good.as_bytes(), 50).await.unwrap(), 40);
    assert_eq!(stand.count("accounts", "id").await, 41);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_transaction_block() {
    let stand = stand().await;
    let mut client = stand.client().await;
    let rows = |from: i32| -> String { (from..from + 30).map(|id| format!("{id}\t1\tx\n")).collect() };
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO accounts (id) VALUES (1000)", &[]).await.unwrap();
    for from in [0, 100] {
        let sink = transaction.copy_in::<_, Bytes>("COPY accounts FROM STDIN").await.unwrap();
        pin_mut!(sink);
        sink.send(Bytes::from(rows(from))).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 30);
    }
    let row = transaction.query_one("SELECT note FROM accounts WHERE id = 101", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "x");
    assert_eq!(stand.count("accounts", "id").await, 0);
    transaction.commit().await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 61);
    let transaction = client.transaction().await.unwrap();
    let sink = transaction.copy_in::<_, Bytes>("COPY accounts FROM STDIN").await.unwrap();
    {
        pin_mut!(sink);
        sink.send(Bytes::from(rows(15))).await.unwrap();
        assert_eq!(code(&sink.finish().await.unwrap_err()), "23505");
    }
    assert_eq!(code(&transaction.execute("SELECT 1", &[]).await.unwrap_err()), "25P02");
    transaction.rollback().await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 61);
    // To a savepoint it goes back on all shards.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", rows(200).as_bytes(), 9).await.unwrap(), 30);
    copy_in(&client, "COPY accounts FROM STDIN", rows(15).as_bytes(), 9).await.unwrap_err();
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", rows(300).as_bytes(), 9).await.unwrap(), 30);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.count("accounts", "id").await, 91);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_table_gets_every_row_everywhere() {
    let stand = stand().await;
    let client = stand.client().await;
    let sql = "COPY currencies FROM STDIN (FORMAT csv)";
    let data = b"EUR,Euro,2000-01-01\nUSD,\"Dol\nlar\",2000-01-01\n";
    assert_eq!(copy_in(&client, sql, data, 3).await.unwrap(), 2);
    let all = "SELECT string_agg(code || title, ',' ORDER BY code) FROM currencies";
    assert_eq!(stand.on_each(all).await, ["EUREuro,USDDol\nlar"; 3]);
    assert_eq!(code(&copy_in(&client, sql, b"GBP,Pound,\nEUR,again,\n", 3).await.unwrap_err()), "23505");
    assert_eq!(stand.on_each(all).await, ["EUREuro,USDDol\nlar"; 3]);
    // What each shard would make up for itself is refused.
    let messages = stand.raw().await.query("COPY currencies (code, title) FROM STDIN").await;
    assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
    stand.stop().await;
}

/// Up to `ReadyForQuery`.
async fn answers(client: &mut Raw) -> Vec<raw::Message> {
    let mut messages = Vec::new();
    loop {
        let message = client.read().await;
        let is_last = message.tag == b'Z';
        messages.push(message);
        if is_last {
            return messages;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_simple_protocol() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    let copy = frame(b'Q', b"COPY accounts FROM STDIN\0");
    let (done, data) = (frame(b'c', b""), |rows: &[u8]| frame(b'd', rows));
    client.send(&copy).await;
    assert_eq!(client.read().await.tag, b'G');
    client.send(&[data(b"1\t1\tx\n2\t2"), data(b"\ty\n3\t3\tz\n"), done.clone()].concat()).await;
    let said = answers(&mut client).await;
    assert_eq!(raw::tags(&said), "CZ", "{said:?}");
    assert_eq!(said[0].body, b"COPY 3\0");
    assert_eq!(stand.count("accounts", "id").await, 3);
    // It gives up, in its own words; an error, behind which its data is nothing; a message that has no place there.
    let fail = frame(b'f', b"had enough\0");
    for (messages, sqlstate) in [
        ([data(b"4\t1\tx\n"), fail].concat(), "57014"),
        ([data(b"4\t1\tx\n"), data(b"\\N\t1\tx\n"), data(b"5\t1\tx\n"), done.clone()].concat(), "23502"),
        ([data(b"4\t1\tx\n"), data(b"1\t1\tx\n"), data(b"5\t1\tx\n"), done.clone()].concat(), "23505"),
        ([data(b"4\t1\tx\n"), frame(b'Q', b"SELECT 1\0")].concat(), "08P01"),
    ] {
        client.send(&copy).await;
        assert_eq!(client.read().await.tag, b'G');
        client.send(&messages).await;
        let said = answers(&mut client).await;
        assert_eq!(raw::sqlstates(&said), [sqlstate], "{said:?}");
        assert_eq!(raw::tags(&said), "EZ", "{said:?}");
        if sqlstate == "57014" {
            assert!(said[0].field(b'M').unwrap().contains("had enough"), "{said:?}");
        }
        assert_eq!(raw::sqlstates(&client.query("SELECT 1").await), Vec::<String>::new());
        assert_eq!(stand.count("accounts", "id").await, 3);
    }
    // A client that vanishes leaves nothing.
    client.send(&[copy, data(b"7\t1\tx\n8\t1\tx\n9\t1\tx\n")].concat()).await;
    assert_eq!(client.read().await.tag, b'G');
    drop(client);
    let client = stand.client().await;
    assert_eq!(copy_in(&client, "COPY accounts FROM STDIN", b"7\t1\tx\n8\t1\tx\n9\t1\tx\n", 9).await.unwrap(), 3);
    assert_eq!(stand.count("accounts", "id").await, 6);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_copies() {
    let stand = stand().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names.csv");
    std::fs::write(&file, "born,name\n2000-01-01,\"one\ntwo\"\n,\"say \"\"hi\"\"\"\n2001-01-01,three\n").unwrap();
    let copy = format!("\\copy names (born, name) from '{}' with csv header", file.display());
    let psql = async |command: &str| {
        let output = tokio::process::Command::new("psql")
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-c", command, &stand.url()])
            .output()
            .await
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(psql(&copy).await, (true, "COPY 3\n".to_owned()));
    assert_eq!(stand.count("names", "name").await, 3);
    let names = "SELECT coalesce(string_agg(name, ','), '') FROM names WHERE name = E'one\\ntwo'";
    assert_eq!(stand.on_each(names).await.concat(), "one\ntwo");
    let (is_done, said) = psql(&copy).await;
    assert!(!is_done && said.contains("duplicate key"), "{said}");
    assert_eq!(stand.count("names", "name").await, 3);
    stand.stop().await;
}
