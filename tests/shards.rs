//! Several shards: rows lie where their keys say, whatever the protocol and the type; transactions go over shards; DDL
//! and reference tables are the same everywhere; what cannot be placed is refused.

mod support;

use support::raw::{self, *};
use support::shards::{Shards, code};
use tokio_postgres::error::SqlState;

const TABLES: &str = "
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"entries\"
shard_key = \"account\"
[[tables]]
name = \"names\"
shard_key = \"name\"
[[tables]]
name = \"things\"
shard_key = \"id\"
[[tables]]
name = \"currencies\"
reference = true
[[tables]]
name = \"logs\"
shard = \"b\"
";

const SCHEMA: [&str; 6] = [
    "CREATE TABLE accounts (id bigint PRIMARY KEY, balance numeric NOT NULL DEFAULT 0, note text)",
    "CREATE TABLE entries (account bigint NOT NULL, number int NOT NULL, amount numeric, PRIMARY KEY (account, number))",
    "CREATE TABLE names (name text PRIMARY KEY, born date)",
    "CREATE TABLE things (id uuid PRIMARY KEY, size int)",
    "CREATE TABLE currencies (code char(3) PRIMARY KEY, title text)",
    "CREATE TABLE logs (at timestamptz, line text)",
];

async fn stand() -> Shards {
    stand_with("").await
}

async fn stand_with(sections: &str) -> Shards {
    let stand = Shards::start(3, &format!("{TABLES}{sections}")).await;
    let client = stand.client().await;
    for statement in SCHEMA {
        client.batch_execute(statement).await.expect(statement);
    }
    // What the tables are like is read behind the DDL.
    eventually_placed(&client).await;
    stand
}

/// The proxy reads a new table's columns a moment after it was made.
async fn eventually_placed(client: &tokio_postgres::Client) {
    let start = std::time::Instant::now();
    while let Err(error) =
        client.batch_execute("DELETE FROM things WHERE id = '00000000-0000-0000-0000-000000000000'").await
    {
        assert!(start.elapsed() < support::DEADLINE, "{error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

type Parameter<'a> = [&'a (dyn tokio_postgres::types::ToSql + Sync); 1];

/// Nothing is prepared any more, and each row lies where PostgreSQL's own functions say.
async fn assert_in_order(stand: &Shards) {
    for (table, key) in [("accounts", "id"), ("entries", "account"), ("names", "name"), ("things", "id")] {
        stand.count(table, key).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_lie_where_their_keys_say() {
    let stand = stand().await;
    let client = stand.client().await;
    for id in 0i64..60 {
        if id % 2 == 0 {
            client.execute("INSERT INTO accounts (id, note) VALUES ($1, $2)", &[&id, &format!("n{id}")]).await.unwrap();
        } else {
            client.batch_execute(&format!("INSERT INTO accounts (note, id) VALUES ('n{id}', {id})")).await.unwrap();
        }
        client.execute("INSERT INTO entries VALUES ($1, 1, 10)", &[&id]).await.unwrap();
        client.batch_execute(&format!("INSERT INTO names VALUES ('it''s {id}', '2000-01-01')")).await.unwrap();
    }
    for id in 0i64..60 {
        let row = client.query_one("SELECT note FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!("n{id}"));
        let joined = "SELECT a.note, e.amount::int FROM accounts a JOIN entries e ON e.account = a.id WHERE a.id = $1";
        let row = client.query_one(joined, &[&id]).await.unwrap();
        assert_eq!((row.get::<_, String>(0), row.get::<_, i32>(1)), (format!("n{id}"), 10));
        let name = format!("it's {id}");
        assert_eq!(client.query("SELECT born FROM names WHERE name = $1", &[&name]).await.unwrap().len(), 1);
        let simple = client.simple_query(&format!("SELECT * FROM accounts WHERE id IN ({id}) AND note <> ''")).await;
        assert_eq!(simple.unwrap().len(), 3, "description, one row, completion");
    }
    let spread = stand.on_each("SELECT count(*) FROM accounts").await;
    assert_eq!(spread.iter().map(|count| count.parse::<i64>().unwrap()).sum::<i64>(), 60);
    assert!(spread.iter().all(|count| count != "0"), "{spread:?}");
    let updated = client.execute("UPDATE accounts SET note = 'x' WHERE id = $1 AND balance = 0", &[&7i64]).await;
    assert_eq!(updated.unwrap(), 1);
    assert_eq!(client.execute("DELETE FROM accounts WHERE id = ANY ($1)", &[&vec![7i64]]).await.unwrap(), 1);
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_is_everywhere_or_nowhere() {
    let stand = stand().await;
    let client = stand.client().await;
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'more' AND relkind = 'r'";
    client.batch_execute("CREATE TABLE more (id int)").await.unwrap();
    assert_eq!(stand.on_each(tables).await, ["1", "1", "1"]);
    client.execute("DROP TABLE more", &[]).await.unwrap();
    assert_eq!(stand.on_each(tables).await, ["0", "0", "0"]);
    // One shard cannot: then none does, and the client is told what that one has said.
    for shard in 0..3 {
        stand.direct(shard).await.batch_execute("CREATE TABLE more (id int)").await.unwrap();
        let error = client.batch_execute("CREATE TABLE more (id bigint)").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::DUPLICATE_TABLE), "{error:?}");
        stand.direct(shard).await.batch_execute("DROP TABLE more").await.unwrap();
        assert_eq!(stand.on_each(tables).await, ["0", "0", "0"], "shard {shard}");
    }
    // In a transaction block, with other things.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE more (id int)").await.unwrap();
    client.batch_execute("INSERT INTO accounts VALUES (1), (1)").await.unwrap_err();
    assert_eq!(code(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.on_each(tables).await, ["0", "0", "0"]);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE more (id int)").await.unwrap();
    client.execute("INSERT INTO accounts VALUES ($1)", &[&1i64]).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stand.on_each(tables).await, ["1", "1", "1"]);
    assert_in_order(&stand).await;
    stand.stop().await;
}

/// Of all accounts.
async fn sum(stand: &Shards) -> i64 {
    let each = stand.on_each("SELECT coalesce(sum(balance), 0)::bigint FROM accounts").await;
    each.iter().map(|part| part.parse::<i64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_over_shards() {
    let stand = stand().await;
    let mut client = stand.client().await;
    for id in 0i64..20 {
        client.execute("INSERT INTO accounts VALUES ($1, 100)", &[&id]).await.unwrap();
    }
    let add = "UPDATE accounts SET balance = balance + $2::int WHERE id = $1";
    for id in 1i64..20 {
        let transaction = client.transaction().await.unwrap();
        transaction.execute(add, &[&0i64, &-1]).await.unwrap();
        transaction.execute(add, &[&id, &1]).await.unwrap();
        let seen = transaction.query_one("SELECT balance::int FROM accounts WHERE id = $1", &[&0i64]).await.unwrap();
        assert_eq!(seen.get::<_, i32>(0), 100 - i32::try_from(id).unwrap(), "its own write, back on the first shard");
        transaction.commit().await.unwrap();
        let seen = client.query_one("SELECT balance::int FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(seen.get::<_, i32>(0), 101);
    }
    assert_eq!(sum(&stand).await, 2000);
    // Rolled back, by the client or by an error on one shard.
    let transaction = client.transaction().await.unwrap();
    for id in 0i64..20 {
        transaction.execute(add, &[&id, &5]).await.unwrap();
    }
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    for id in 0i64..20 {
        transaction.execute(add, &[&id, &5]).await.unwrap();
    }
    let error = transaction.execute("UPDATE accounts SET balance = balance / 0 WHERE id = 3", &[]).await.unwrap_err();
    assert_eq!(code(&error), "22012");
    assert_eq!(code(&transaction.execute(add, &[&8i64, &5]).await.unwrap_err()), "25P02");
    transaction.commit().await.unwrap();
    assert_eq!(sum(&stand).await, 2000);
    // Savepoints are on all shards, also on those that the transaction comes to later.
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute(add, &[&0i64, &1]).await.unwrap();
    let savepoint = transaction.savepoint("s").await.unwrap();
    for id in 0i64..20 {
        savepoint.execute(add, &[&id, &1000]).await.unwrap();
    }
    let error = savepoint.execute("UPDATE accounts SET balance = 1 / 0 WHERE id = 4", &[]).await.unwrap_err();
    assert_eq!(code(&error), "22012");
    savepoint.rollback().await.unwrap();
    transaction.execute(add, &[&1i64, &-1]).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(sum(&stand).await, 2000);
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_tables_are_the_same_everywhere() {
    let stand = stand().await;
    let client = stand.client().await;
    let all = "SELECT string_agg(code || title, ',' ORDER BY code) FROM currencies";
    assert_eq!(
        client.execute("INSERT INTO currencies VALUES ('EUR', 'Euro'), ('USD', $1)", &[&"Dollar"]).await.unwrap(),
        2
    );
    assert_eq!(stand.on_each(all).await, ["EUREuro,USDDollar"; 3]);
    client.batch_execute("UPDATE currencies SET title = upper(title) WHERE code = 'EUR'").await.unwrap();
    assert_eq!(stand.on_each(all).await, ["EUREURO,USDDollar"; 3]);
    let row = client.query_one("DELETE FROM currencies WHERE code = 'USD' RETURNING title", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "Dollar");
    assert_eq!(stand.on_each(all).await, ["EUREURO"; 3]);
    let error = client.batch_execute("INSERT INTO currencies VALUES ('EUR', 'again')").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    // What would differ from shard to shard is refused.
    let error = client.batch_execute("UPDATE currencies SET title = random()::text").await.unwrap_err();
    assert_eq!(code(&error), "0A000", "{error:?}");
    // Joined with a sharded table it is at hand.
    client.execute("INSERT INTO accounts (id, note) VALUES (5, 'EUR')", &[]).await.unwrap();
    let joined = "SELECT title FROM accounts JOIN currencies ON code = note WHERE id = $1";
    assert_eq!(client.query_one(joined, &[&5i64]).await.unwrap().get::<_, String>(0), "EURO");
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_shards_are_changed_at_once() {
    let stand = stand().await;
    let client = stand.client().await;
    for id in 0i64..30 {
        client.execute("INSERT INTO accounts VALUES ($1, 100)", &[&id]).await.unwrap();
    }
    assert_eq!(client.execute("UPDATE accounts SET balance = balance + 1 WHERE balance > 0", &[]).await.unwrap(), 30);
    let messages = client.simple_query("DELETE FROM accounts WHERE id < 10").await.unwrap();
    let tokio_postgres::SimpleQueryMessage::CommandComplete(rows) = messages[0] else { panic!("{messages:?}") };
    assert_eq!(rows, 10);
    let error = client.batch_execute("UPDATE accounts SET balance = balance / (id - 29)").await.unwrap_err();
    assert_eq!(code(&error), "22012");
    assert_eq!(sum(&stand).await, 20 * 101);
    client.batch_execute("TRUNCATE accounts").await.unwrap();
    assert_eq!(stand.on_each("SELECT count(*) FROM accounts").await, ["0", "0", "0"]);
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_an_insert_go_each_to_its_shard() {
    let stand = stand().await;
    let mut client = stand.client().await;
    let values: Vec<String> = (0..50).map(|id| format!("({id}, {id}, 'it''s, ({id})')")).collect();
    let messages = client.simple_query(&format!("INSERT INTO accounts VALUES {}", values.join(", "))).await.unwrap();
    assert!(matches!(messages[..], [tokio_postgres::SimpleQueryMessage::CommandComplete(50)]), "{messages:?}");
    let notes: Vec<String> = (50..60).map(|id| format!("n{id}")).collect();
    let ids: Vec<i64> = (50..60).collect();
    let values: Vec<String> = (0..10).map(|row| format!("(${}, 1, ${})", 2 * row + 1, 2 * row + 2)).collect();
    let sql =
        format!("INSERT INTO accounts (id, balance, note) VALUES {} ON CONFLICT (id) DO NOTHING", values.join(","));
    let statement = client.prepare(&sql).await.unwrap();
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        ids.iter().zip(&notes).flat_map(|(id, note)| [id as _, note as _]).collect();
    assert_eq!(client.execute(&statement, &parameters).await.unwrap(), 10);
    assert_eq!(client.execute(&statement, &parameters).await.unwrap(), 0, "all of them are there");
    for id in 0i64..60 {
        let row = client.query_one("SELECT note FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), if id < 50 { format!("it's, ({id})") } else { format!("n{id}") });
    }
    // One row is refused: none is there.
    let error = client.batch_execute("INSERT INTO accounts VALUES (100), (101), (102), (103), (7)").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    let error = client.batch_execute("INSERT INTO accounts VALUES (100, 1), (101, 'x'), (102, 2), (103, 3)").await;
    let error = error.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code(), &SqlState::INVALID_TEXT_REPRESENTATION);
    assert_eq!(error.position(), Some(&tokio_postgres::error::ErrorPosition::Original(45)), "its place in the whole");
    let transaction = client.transaction().await.unwrap();
    assert_eq!(transaction.execute("INSERT INTO accounts VALUES (100), (101), (102), (103)", &[]).await.unwrap(), 4);
    transaction.rollback().await.unwrap();
    assert_eq!(stand.on_each("SELECT count(*) FROM accounts WHERE id >= 100").await, ["0", "0", "0"]);
    assert_in_order(&stand).await;
    stand.stop().await;
}

/// How many statements have completed with this tag.
fn completed(messages: &[Message], tag: &str) -> usize {
    let body = format!("{tag}\0");
    messages.iter().filter(|message| message.tag == b'C' && message.body == body.as_bytes()).count()
}

/// What the last message says of the transaction.
fn status(messages: &[Message]) -> String {
    messages.last().map(|message| String::from_utf8_lossy(&message.body).into_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_a_pipeline_are_run_in_turn() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    // As JDBC does it: BEGIN in the same pipeline; and without a transaction block, as asyncpg's executemany.
    for (round, begins) in [(0, false), (1, true)] {
        let mut pipeline = if begins { vec![parse("", "BEGIN"), bind("", "", &[]), execute("", 0)] } else { vec![] };
        pipeline.push(parse("s", "INSERT INTO accounts (id, note) VALUES ($1, 'x')"));
        for id in 0..20 {
            let id = (100 * round + id).to_string();
            pipeline.extend([bind("", "s", &[&id]), describe_portal(""), execute("", 0)]);
        }
        pipeline.extend([close_statement("s"), sync()]);
        let messages = client.exchange(&pipeline.concat()).await;
        assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{messages:?}");
        assert_eq!(completed(&messages, "INSERT 0 1"), 20, "{messages:?}");
        assert_eq!(status(&messages), if begins { "T" } else { "I" }, "{messages:?}");
        if begins {
            assert_eq!(stand.on_each("SELECT count(*) FROM accounts WHERE id >= 100").await, ["0", "0", "0"]);
            client.query("COMMIT").await;
        }
    }
    let counts = stand.on_each("SELECT count(*) FROM accounts").await;
    assert_eq!(counts.iter().map(|count| count.parse::<i64>().unwrap()).sum::<i64>(), 40);
    // An error in the middle: nothing of it stays, and what follows is passed over.
    let mut pipeline = vec![parse("", "INSERT INTO accounts (id, note) VALUES ($1, 'y')")];
    for id in [200, 201, 202, 203, 7, 204, 205] {
        pipeline.extend([bind("", "", &[&id.to_string()]), execute("", 0)]);
    }
    pipeline.push(sync());
    let messages = client.exchange(&pipeline.concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["23505"], "{messages:?}");
    assert_eq!(completed(&messages, "INSERT 0 1"), 4, "{messages:?}");
    assert_eq!(status(&messages), "I");
    assert_eq!(stand.on_each("SELECT count(*) FROM accounts WHERE id >= 200").await, ["0", "0", "0"]);
    // Reads of several shards.
    let mut pipeline = vec![parse("", "SELECT note FROM accounts WHERE id = $1")];
    for id in 0..10 {
        pipeline.extend([bind("", "", &[&id.to_string()]), execute("", 0)]);
    }
    pipeline.push(sync());
    let messages = client.exchange(&pipeline.concat()).await;
    assert_eq!(completed(&messages, "SELECT 1"), 10, "{messages:?}");
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_give_each_shard_values_of_its_own() {
    let stand = stand().await;
    let client = stand.client().await;
    client.batch_execute("DROP TABLE entries; CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY, account bigint, n serial)").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    client.batch_execute("CREATE SEQUENCE tickets").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let insert = async || {
        let start = std::time::Instant::now();
        for account in 0i64..30 {
            while let Err(error) = client.execute("INSERT INTO entries (account) VALUES ($1)", &[&account]).await {
                assert!(start.elapsed() < support::DEADLINE, "{error:?}");
            }
        }
    };
    insert().await;
    client.batch_execute("ALTER TABLE entries ALTER COLUMN id RESTART WITH 5000").await.unwrap();
    insert().await;
    let (mut ids, mut numbers, mut tickets) = (Vec::new(), Vec::new(), Vec::new());
    for shard in 0..3 {
        let direct = stand.direct(shard).await;
        for row in direct.query("SELECT id, n FROM entries", &[]).await.unwrap() {
            ids.push(row.get::<_, i64>(0));
            numbers.push(row.get::<_, i32>(1));
        }
        for _ in 0..3 {
            tickets.push(direct.query_one("SELECT nextval('tickets')", &[]).await.unwrap().get::<_, i64>(0));
        }
    }
    assert_eq!((ids.len(), numbers.len(), tickets.len()), (60, 60, 9));
    ids.sort_unstable();
    ids.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    tickets.sort_unstable();
    tickets.dedup();
    assert_eq!((ids.len(), numbers.len(), tickets.len()), (60, 60, 9), "{ids:?} {numbers:?} {tickets:?}");
    let error = client.batch_execute("CREATE TABLE more (id smallserial)").await.unwrap_err();
    assert_eq!(code(&error), "0A000", "{error:?}");
    assert_eq!(code(&client.batch_execute("SELECT setval('tickets', 1)").await.unwrap_err()), "0A000");
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_each_other_on_two_shards_is_told() {
    let stand = stand().await;
    let client = stand.client().await;
    for id in 0i64..20 {
        client.execute("INSERT INTO accounts VALUES ($1, 100)", &[&id]).await.unwrap();
    }
    let on = |shard: &[String], id: i64| shard.contains(&id.to_string());
    let there = stand.on_each("SELECT string_agg(id::text, ',') FROM accounts").await;
    let there: Vec<Vec<String>> = there.iter().map(|ids| ids.split(',').map(str::to_owned).collect()).collect();
    let [one, other] = [0, 1].map(|shard| (0..20).find(|id| on(&there[shard], *id)).expect("an account there"));
    let [mut first, mut second] = [stand.client().await, stand.client().await];
    let [first, second] = [first.transaction().await.unwrap(), second.transaction().await.unwrap()];
    let lock = "UPDATE accounts SET balance = 1 WHERE id = $1";
    first.execute(lock, &[&one]).await.unwrap();
    second.execute(lock, &[&other]).await.unwrap();
    let (for_other, for_one): (Parameter<'_>, Parameter<'_>) = ([&other], [&one]);
    let (one_told, other_told) = tokio::join!(first.execute(lock, &for_other), second.execute(lock, &for_one));
    let told: Vec<_> =
        [&one_told, &other_told].into_iter().filter_map(|result| result.as_ref().err().map(code)).collect();
    assert!(!told.is_empty() && told.iter().all(|code| code == "40P01"), "{told:?}");
    first.rollback().await.unwrap();
    second.rollback().await.unwrap();
    // NOWAIT is told what PostgreSQL says.
    let mut holder = stand.client().await;
    let holder = holder.transaction().await.unwrap();
    holder.execute(lock, &[&one]).await.unwrap();
    let mut asker = stand.client().await;
    let asker = asker.transaction().await.unwrap();
    asker.execute(lock, &[&other]).await.unwrap();
    let error = asker.query("SELECT * FROM accounts WHERE id = $1 FOR UPDATE NOWAIT", &[&one]).await.unwrap_err();
    assert_eq!(code(&error), "55P03");
    assert_in_order(&stand).await;
    drop((asker, holder));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_is_never_joined_with_a_part_of_another() {
    let stand = stand().await;
    let client = stand.client().await;
    let mut raw = stand.raw().await;
    for id in 0i64..20 {
        client.execute("INSERT INTO accounts VALUES ($1, 100)", &[&id]).await.unwrap();
    }
    for (sql, sqlstates) in [
        ("CREATE TEMP TABLE mine (id bigint)", &[][..]),
        ("INSERT INTO mine VALUES (1), (2)", &[]),
        ("SELECT * FROM mine", &[]),
        ("INSERT INTO mine SELECT id FROM accounts", &["0A000"]),
        ("SELECT * FROM mine JOIN accounts USING (id)", &["0A000"]),
        ("CREATE TEMP TABLE copied AS SELECT * FROM accounts", &["0A000"]),
        ("SELECT * FROM elsewhere", &["42P01"]),
        ("DROP TABLE mine", &["0A000"]),
        ("/* pgsluice: shard=a */ DROP TABLE mine", &[]),
        ("SELECT * FROM elsewhere", &["0A000"]),
    ] {
        let messages = raw.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), sqlstates, "{sql}: {messages:?}");
    }
    // A shard that is named in a transaction is named there alone.
    for (sql, sqlstates) in [
        ("BEGIN", &[][..]),
        ("SET LOCAL pgsluice.shard = 'c'", &[]),
        ("SELECT count(*) FROM accounts", &[]),
        ("COMMIT", &[]),
        ("SELECT rank() OVER (ORDER BY id) FROM accounts", &["0A000"]),
    ] {
        let messages = raw.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), sqlstates, "{sql}: {messages:?}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_advisory_locks_meet_on_one_shard() {
    let stand = stand().await;
    let client = stand.client().await;
    for id in 0i64..20 {
        client.execute("INSERT INTO accounts VALUES ($1, 100)", &[&id]).await.unwrap();
    }
    let mut listener = stand.raw().await;
    assert_eq!(raw::sqlstates(&listener.query("LISTEN news").await), Vec::<String>::new());
    // In a transaction on all shards, wherever it stands.
    let mut notifier = stand.client().await;
    let transaction = notifier.transaction().await.unwrap();
    for id in 0i64..20 {
        transaction.execute("UPDATE accounts SET balance = 1 WHERE id = $1", &[&id]).await.unwrap();
    }
    transaction.query_one("SELECT pg_notify('news', 'one')::text", &[]).await.unwrap();
    transaction.execute("UPDATE accounts SET balance = 2 WHERE id = 3", &[]).await.unwrap();
    transaction.batch_execute("NOTIFY news, 'two'").await.unwrap();
    transaction.commit().await.unwrap();
    let mut heard = 0;
    while heard < 2 {
        heard += usize::from(listener.read().await.tag == b'A');
    }
    let mut locker = stand.client().await;
    let transaction = locker.transaction().await.unwrap();
    transaction.execute("UPDATE accounts SET balance = 3 WHERE id = 5", &[]).await.unwrap();
    transaction.batch_execute("SELECT pg_advisory_xact_lock(42)").await.unwrap();
    for id in 0i64..20 {
        let other = notifier.transaction().await.unwrap();
        other.query_one("SELECT balance FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        let is_free: bool = other.query_one("SELECT pg_try_advisory_xact_lock(42)", &[]).await.unwrap().get(0);
        assert!(!is_free, "from the shard of account {id}");
        other.rollback().await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert_in_order(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_placed_is_refused() {
    let stand = stand().await;
    let mut client = stand.raw().await;
    for (sql, sqlstate) in [
        ("INSERT INTO accounts (note) VALUES ('no key')", "0A000"),
        ("INSERT INTO accounts (id) VALUES (NULL)", "23502"),
        ("INSERT INTO accounts (id) VALUES (1 + 1)", "0A000"),
        ("UPDATE accounts SET id = 2 WHERE id = 1", "0A000"),
        ("SELECT rank() OVER (ORDER BY id) FROM accounts", "0A000"),
        ("SELECT * FROM accounts WHERE id = 1 OR note = 'x' FOR UPDATE", "0A000"),
        ("SELECT * FROM elsewhere", "0A000"),
        ("SELECT * FROM accounts a JOIN logs ON true WHERE a.id IN (1, 2, 3, 4, 5, 6, 7, 8)", "0A000"),
        ("LOCK accounts", "0A000"),
        ("CREATE DATABASE more", "0A000"),
        ("DO $$ BEGIN END $$", "0A000"),
        ("SELECT FROM WHERE", "42601"),
        ("SET pgsluice.shard = 'x'", "22023"),
    ] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), [sqlstate], "{sql}: {messages:?}");
    }
    // A row without columns.
    assert_eq!(raw::tags(&client.query("SELECT").await), "TDCZ");
    // Where it is refused in a transaction, the transaction has failed.
    for (sql, expected) in [
        ("BEGIN", vec![]),
        ("INSERT INTO accounts VALUES (1)", vec![]),
        ("SELECT rank() OVER (ORDER BY id) FROM accounts", vec!["0A000"]),
        ("SELECT 1", vec!["25P02"]),
        ("ROLLBACK", vec![]),
        ("SELECT 1", vec![]),
    ] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), expected, "{sql}: {messages:?}");
    }
    // By hand it goes.
    for sql in [
        "SET pgsluice.shard = 'b'",
        "SELECT count(*) FROM accounts",
        "VACUUM accounts",
        "SET pgsluice.shard = ''",
        "/* pgsluice: shard=c */ SELECT count(*) FROM accounts",
        "SELECT 1",
        "INSERT INTO logs VALUES (now(), 'line')",
    ] {
        let messages = client.query(sql).await;
        assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
    }
    assert_eq!(stand.on_each("SELECT count(*) FROM logs").await, ["0", "1", "0"]);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_reads_over_shards() {
    let stand = stand_with("[coordinator]\nshard = \"a\"\n").await;
    let mut client = stand.client().await;
    // The sub-query is what pgsluice does not put together itself.
    let count = "SELECT count(*), sum(balance)::int FROM accounts WHERE balance > (SELECT -1)";
    let error = client.query(count, &[]).await.unwrap_err();
    assert_eq!(code(&error), "55000", "before the setup: {error:?}");
    stand.coordinate().await;
    for id in 0i64..40 {
        let note = ["x", "Y", "é", "z"][usize::try_from(id % 4).unwrap()];
        client.execute("INSERT INTO accounts VALUES ($1, $2::int, $3)", &[&id, &(id as i32 % 7), &note]).await.unwrap();
        client.execute("INSERT INTO entries VALUES ($1, 1, 10)", &[&(id * 3 % 40)]).await.unwrap();
    }
    let row = client.query_one(count, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (40, (0..40).map(|id| id % 7).sum::<i32>()));
    let joined = "SELECT a.id FROM accounts a JOIN entries e ON e.account = a.id + 1 WHERE a.balance > $1::int \
                  ORDER BY a.note COLLATE \"C\", a.id LIMIT 3";
    assert_eq!(client.query(joined, &[&2i32]).await.unwrap().len(), 3);
    let windows = "SELECT id, rank() OVER (ORDER BY balance DESC, id) FROM accounts WHERE id = ANY ($1)";
    assert_eq!(client.query(windows, &[&vec![1i64, 2, 3, 4, 5, 6]]).await.unwrap().len(), 6);
    // Names mean the session's own tables again, on whichever connection.
    for id in 0i64..10 {
        let row = client.query_one("SELECT count(*) FROM accounts WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1);
        assert_eq!(client.query_one("SHOW search_path", &[]).await.unwrap().get::<_, String>(0), "\"$user\", public");
    }
    // Its own write is seen, as soon as it is committed; and a transaction that has written is not shown half of it.
    client.execute("UPDATE accounts SET balance = 1000 WHERE id = 11", &[]).await.unwrap();
    let most = "SELECT max(balance)::int FROM accounts WHERE balance > (SELECT -1)";
    assert_eq!(client.query_one(most, &[]).await.unwrap().get::<_, i32>(0), 1000);
    let transaction = client.transaction().await.unwrap();
    assert_eq!(transaction.query_one(most, &[]).await.unwrap().get::<_, i32>(0), 1000);
    let path: String = transaction.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert_eq!(path, "\"$user\", public");
    transaction.execute("UPDATE accounts SET balance = 2000 WHERE id = 12", &[]).await.unwrap();
    assert_eq!(code(&transaction.query_one(most, &[]).await.unwrap_err()), "0A000");
    transaction.rollback().await.unwrap();
    assert_eq!(client.query_one(most, &[]).await.unwrap().get::<_, i32>(0), 1000);
    // What was refused has written nothing; what a transaction begins with may have.
    assert_eq!(code(&client.batch_execute("LOCK accounts").await.unwrap_err()), "0A000");
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SET LOCAL work_mem = '8MB'").await.unwrap();
    assert_eq!(client.query_one(most, &[]).await.unwrap().get::<_, i32>(0), 1000);
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("BEGIN; UPDATE accounts SET balance = 3000 WHERE id = 13").await.unwrap();
    assert_eq!(code(&client.query_one(most, &[]).await.unwrap_err()), "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    // A table of another shard, and one that is named with its schema.
    client.execute("INSERT INTO logs VALUES (now(), 'line')", &[]).await.unwrap();
    let logged = "SELECT count(*) FROM accounts, logs WHERE accounts.id < 5";
    assert_eq!(client.query_one(logged, &[]).await.unwrap().get::<_, i64>(0), 5);
    assert_eq!(
        code(&client.query_one("SELECT rank() OVER (ORDER BY id) FROM public.accounts", &[]).await.unwrap_err()),
        "0A000"
    );
    let route = client.query_one("EXPLAIN ROUTE SELECT rank() OVER (ORDER BY id) FROM accounts", &[]).await.unwrap();
    assert_eq!((route.get::<_, &str>("shard"), route.get::<_, &str>("reason")), ("a", "coordinator"));
    // What can be put together without it does not wait for it: the coordinator's own schemas hide no table.
    let routes = client.query("EXPLAIN ROUTE SELECT note, count(*) FROM accounts GROUP BY note", &[]).await.unwrap();
    assert!(
        routes.iter().filter(|row| row.get::<_, Option<&str>>("reason") == Some("merged")).count() == 3,
        "{routes:?}"
    );
    stand.stop().await;
}
