//! Placement: rows are spread evenly, and PostgreSQL itself says the same of each as pgsluice does.
//!
//! By default 50,000 keys of each type are compared; `scripts/check-placement` does it with a million.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

use pgsluice::demo::{Cluster, ClusterOptions};
use pgsluice::shard::{
    BUCKETS, Bucket, BucketMap, Charset, KeyColumn, KeyDigest, KeyType, KeyValue, MapParts, PinParts, SqlType, sql,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ring::digest::{SHA256, digest};
use tokio_postgres::{Client, NoTls};

const SECOND: i64 = 1_000_000;

/// The `n`-th key of a type, and the SQL that makes the same of a column `n`.
fn key(key_type: KeyType, n: u32, text: &mut String) -> KeyValue<'_> {
    let number = i64::from(n);
    match key_type {
        KeyType::Integer => KeyValue::Integer(number),
        KeyType::Text => {
            use std::fmt::Write;
            text.clear();
            write!(text, "customer-{n}").unwrap();
            KeyValue::Text((&**text).into())
        }
        KeyType::Uuid => {
            let mut uuid = [0; 16];
            uuid.copy_from_slice(&digest(&SHA256, n.to_string().as_bytes()).as_ref()[..16]);
            KeyValue::Uuid(uuid)
        }
        KeyType::Date => KeyValue::Date(i32::try_from(number - 500_000).unwrap()),
        KeyType::Timestamptz => KeyValue::Timestamptz(number * 61 * SECOND),
        KeyType::Bytea => KeyValue::Bytea(n.to_be_bytes().to_vec().into()),
    }
}

fn sql_of(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Integer => "n::int8",
        KeyType::Text => "'customer-' || n",
        KeyType::Uuid => "encode(substring(sha256(convert_to(n::text, 'UTF8')) FOR 16), 'hex')::uuid",
        KeyType::Date => "DATE '2000-01-01' + (n - 500000)",
        KeyType::Timestamptz => "TIMESTAMPTZ '2000-01-01 00:00:00+00' + n * INTERVAL '61 seconds'",
        KeyType::Bytea => "int4send(n)",
    }
}

/// A million keys of each type over 2 to 64 shards.
#[test]
fn keys_are_spread_evenly() {
    const KEYS: u32 = 1_000_000;
    let mut maps = vec![BucketMap::new([("shard-1", 1), ("shard-2", 1)]).unwrap()];
    for shards in 3..=64 {
        let map = maps.last().unwrap();
        let plan = map.plan_add(&format!("shard-{shards}"), 1).unwrap();
        maps.push(map.apply(&plan).unwrap());
    }
    let mut worst = Vec::new();
    for key_type in KeyType::ALL {
        let mut counts = vec![0u32; BUCKETS];
        let mut text = String::new();
        for n in 1..=KEYS {
            counts[KeyDigest::of(&[key(key_type, n, &mut text)]).bucket().index()] += 1;
        }
        for map in &maps {
            let shards = map.shards().len();
            let mut keys = vec![0u32; shards];
            for bucket in Bucket::all() {
                keys[map.owner(bucket)] += counts[bucket.index()];
            }
            let even = f64::from(KEYS) / shards as f64;
            let off = keys.iter().map(|keys| (f64::from(*keys) / even - 1.0).abs()).fold(0.0, f64::max);
            worst.push((off, key_type, shards));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("the furthest from even: {:?}", &worst[..10]);
    assert!(worst[0].0 <= 0.03, "{:?}", &worst[..10]);
}

/// A server with the functions, and clients of it.
struct Shard {
    cluster: Cluster,
    owner: Client,
}

impl Shard {
    async fn start() -> Self {
        let cluster = Cluster::start(ClusterOptions::with_replicas(0)).await.expect("the cluster starts");
        let owner = Self::login(&cluster, true).await;
        owner.batch_execute(sql::INSTALL).await.expect("the functions are made");
        Self { cluster, owner }
    }

    async fn login(cluster: &Cluster, superuser: bool) -> Client {
        let options = cluster.options();
        let account = if superuser { &options.superuser } else { &options.app };
        let url = format!(
            "postgresql://{}:{}@{}/{}",
            account.user,
            account.password,
            cluster.primary().address(),
            options.database
        );
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the client connects");
        tokio::spawn(connection);
        client
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        self.owner.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }
}

/// How sessions differ in what they make of texts.
const SESSIONS: [&str; 3] = [
    "SET TimeZone = 'America/St_Johns'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = -15; \
     SET bytea_output = 'escape'; SET standard_conforming_strings = off",
    "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'; SET timezone_abbreviations = 'India'; \
     SET lc_time = 'C'; SET IntervalStyle = 'iso_8601'",
    "RESET ALL; SET DateStyle = 'Postgres, MDY'",
];

#[tokio::test]
async fn postgresql_places_keys_likewise() {
    let keys: u32 = std::env::var("PGSLUICE_PLACEMENT_KEYS").map_or(50_000, |keys| keys.parse().unwrap());
    let shard = Shard::start().await;
    let mut text = String::new();
    for (key_type, session) in KeyType::ALL.into_iter().zip(SESSIONS.iter().cycle()) {
        shard.owner.batch_execute(session).await.unwrap();
        let value = sql_of(key_type);
        let bucket = match key_type {
            KeyType::Bytea => sql::bucket_expression(&[value]),
            _ => format!("pgsluice.bucket({value})"),
        };
        let query = format!("SELECT array_agg({bucket}::int2 ORDER BY n) FROM generate_series(1, {keys}) AS n");
        let began = std::time::Instant::now();
        let theirs: Vec<i16> = shard.one(&query).await;
        println!("{key_type:?}: {keys} keys in {:?}", began.elapsed());
        let ours: Vec<_> = (1..=keys)
            .map(|n| i16::try_from(KeyDigest::of(&[key(key_type, n, &mut text)]).bucket().number()).unwrap())
            .collect();
        assert_eq!(theirs.len(), ours.len());
        let differs = theirs.iter().zip(&ours).position(|(theirs, ours)| theirs != ours);
        assert_eq!(differs, None, "{key_type:?}");
    }
    let widths: i64 = shard
        .one(
            "SELECT count(*) FROM generate_series(-32768, 32767) AS n
             WHERE (pgsluice.bucket(n) = ALL (ARRAY[pgsluice.bucket(n::int2), pgsluice.bucket(n::int8),
                 pgsluice.bucket(n::numeric), pgsluice.bucket(n::numeric(20, 5)),
                 pgsluice.key_bucket(pgsluice.shard_key(n))]))
                 AND pgsluice.bucket(n::text) = pgsluice.bucket((n || '  ')::char(12))
                 AND pgsluice.bucket(n::text) = pgsluice.bucket(n::varchar)
                 AND pgsluice.bucket(n::text) <> pgsluice.bucket(n || ' ')",
        )
        .await;
    // A text and its neighbour with a blank share a bucket now and then.
    assert!((65_500..=65_536).contains(&widths), "{widths}");
    shard.cluster.shutdown().await.expect("the cluster stops");
}

/// Texts that are decided mean the same to every session of the server.
#[tokio::test]
async fn texts_are_read_as_postgresql_reads_them() {
    const TEXTS: usize = 4_000;
    let shard = Shard::start().await;
    let mut random = StdRng::seed_from_u64(7);
    for (session, column_type) in SESSIONS.iter().flat_map(|session| TYPES.map(|name| (session, name))) {
        shard.owner.batch_execute(session).await.unwrap();
        let column = KeyColumn::of(column_type);
        let mut texts: Vec<String> = known(column_type).iter().map(|text| (*text).to_owned()).collect();
        texts.extend((0..TEXTS).map(|_| any(column_type, &mut random)));
        let name = column_type.name();
        let query = format!(
            "SELECT array_agg(pgsluice.key_digest(pgsluice.shard_key(value::{name})) ORDER BY place)
             FROM unnest($1::text[]) WITH ORDINALITY AS given (value, place)"
        );
        let theirs: Vec<Vec<u8>> = shard.owner.query_one(&query, &[&texts]).await.unwrap().get(0);
        assert_eq!(theirs.len(), texts.len());
        for (text, theirs) in texts.iter().zip(theirs) {
            let value = column.from_text(0, text.as_bytes(), Charset::Utf8);
            let value = value.unwrap_or_else(|reason| panic!("{name} {text:?}: {reason}"));
            assert_eq!(KeyDigest::of(&[value]).as_bytes()[..], theirs, "{session}: {name} {text:?}");
        }
    }
    binary_formats(&shard, &mut random).await;
    shard.cluster.shutdown().await.expect("the cluster stops");
}

const TYPES: [SqlType; 9] = [
    SqlType::Int8,
    SqlType::Numeric,
    SqlType::Text,
    SqlType::Varchar,
    SqlType::Bpchar,
    SqlType::Uuid,
    SqlType::Date,
    SqlType::Timestamptz,
    SqlType::Bytea,
];

/// At the ends of ranges and of what is decided.
fn known(column_type: SqlType) -> &'static [&'static str] {
    match column_type {
        SqlType::Int8 => &[
            "0",
            "-0",
            "+7",
            " 42 ",
            "\t\n\r\x0b\x0c42",
            "0042",
            "9223372036854775807",
            "-9223372036854775808",
            "00000000000000000000000000000000000000001",
        ],
        SqlType::Numeric => &[
            "1e3",
            "-1.50e1",
            "4200e-2",
            "42.",
            ".0",
            "0e-99",
            "9223372036854775808",
            "-9223372036854775809",
            "1e999",
            "-1E+20",
            " 42.000 ",
        ],
        SqlType::Text | SqlType::Varchar | SqlType::Bpchar => {
            &["", " ", "  a  ", "a\t ", "Zoë", "e\u{301}", "😀", "\\", "\\x41", "'", "a\u{a0} ", "\u{3000}", "42"]
        }
        SqlType::Uuid => &[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ],
        SqlType::Date => &[
            "infinity",
            "-infinity",
            "-Infinity",
            "4714-11-24 BC",
            "5874897-12-31",
            "0001-01-01",
            "0001-02-29 BC",
            "0001-12-31 BC",
            "10000-01-01",
            "2024-02-29",
            " 2024-01-31\n",
            "2024-01-31 +05:30",
            "2024-01-31 -11",
            "2024-01-31 +0100 BC",
        ],
        SqlType::Timestamptz => &[
            "infinity",
            "-infinity",
            "294276-12-30 23:59:59.999999+00",
            "4714-11-26 00:00:00+00 BC",
            "0044-03-15 12:00:00+00 BC",
            "0001-12-31 23:59:59.999999-15:59:59 BC",
            "10000-01-01 00:00:00+00",
            "2024-01-31T10:00:00Z",
            "2024-01-31T10:00Z",
            " 2024-01-31 10:00:00 +01 ",
            "2024-01-31 10:00:00.1+0530",
            "1890-01-01 00:00:00+00:53:28",
        ],
        _ => &["", "\\x", "\\xDEADbeef", "\\x de\tad\nbe\r", "abc", " abc ", "\\000\\377\\\\", "Zoë"],
    }
}

/// A value at random, in one of the forms that are decided.
fn any(column_type: SqlType, random: &mut StdRng) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match column_type {
        SqlType::Int8 => {
            let number = random.random::<i64>() >> random.random_range(0..64);
            match random.random_range(0..3) {
                0 => format!(" {number}"),
                1 if number >= 0 => format!("+00{number}\n"),
                _ => number.to_string(),
            }
        }
        SqlType::Numeric => {
            let (number, zeros) = (random.random::<i64>() >> random.random_range(0..64), random.random_range(0..30));
            match random.random_range(0..4) {
                0 => format!("{number}.{}", "0".repeat(zeros)),
                1 => format!("{number}e{zeros}"),
                2 => format!("{number}{0}.{0}e-{zeros}", "0".repeat(zeros)),
                _ => format!("{number}{}", random.random::<u64>()),
            }
        }
        SqlType::Uuid => {
            let digits = hex(&random.random::<[u8; 16]>());
            let hyphens = random.random::<u8>();
            let mut text = String::new();
            for (group, digits) in digits.as_bytes().chunks(4).enumerate() {
                if group > 0 && hyphens >> group & 1 == 1 {
                    text.push('-');
                }
                text.push_str(std::str::from_utf8(digits).unwrap());
            }
            match random.random_range(0..3) {
                0 => format!("{{{text}}}"),
                1 => text.to_uppercase(),
                _ => text,
            }
        }
        SqlType::Date => day(random, 5_874_000),
        SqlType::Timestamptz => {
            let day = day(random, 294_000);
            let (day, era) = day.split_once(' ').map_or((day.as_str(), ""), |(day, _)| (day, " BC"));
            let (hour, minute, second) =
                (random.random_range(0..24), random.random_range(0..60), random.random_range(0..60));
            let fraction = match random.random_range(0..7usize) {
                0 => String::new(),
                size => format!(".{:0size$}", random.random_range(0..10u32.pow(u32::try_from(size).unwrap()))),
            };
            let sign = if random.random() { '+' } else { '-' };
            let (east, quarter) = (random.random_range(0..16), random.random_range(0..60));
            let offset = match random.random_range(0..5) {
                0 => format!("{sign}{east:02}"),
                1 => format!("{sign}{east:02}{quarter:02}"),
                2 => format!("{sign}{east:02}:{quarter:02}"),
                3 => format!(" {sign}{east:02}:{quarter:02}:{second:02}"),
                _ => "Z".to_owned(),
            };
            let between = if random.random() { 'T' } else { ' ' };
            format!("{day}{between}{hour:02}:{minute:02}:{second:02}{fraction}{offset}{era}")
        }
        SqlType::Bytea => {
            let bytes: Vec<u8> = (0..random.random_range(0..20)).map(|_| random.random()).collect();
            match random.random() {
                true => format!("\\x{}", hex(&bytes)),
                false => bytes
                    .iter()
                    .map(|byte| match byte {
                        b'\\' => "\\\\".to_owned(),
                        b' '..=b'~' => char::from(*byte).to_string(),
                        _ => format!("\\{byte:03o}"),
                    })
                    .collect(),
            }
        }
        _ => {
            let length = random.random_range(0..12);
            (0..length)
                .map(|_| match random.random_range(0..4) {
                    0 => ' ',
                    1 => char::from(random.random_range(b'!'..=b'~')),
                    2 => random.random_range('\u{a0}'..'\u{2ff}'),
                    _ => random.random_range('\u{1}'..char::MAX),
                })
                .collect()
        }
    }
}

fn day(random: &mut StdRng, last_year: u32) -> String {
    let digits = random.random_range(1..8);
    let year = random.random_range(1..=last_year) % 10u32.pow(digits);
    let year = year.max(1);
    let (month, day) = (random.random_range(1..13), random.random_range(1..29));
    let era = if year < 4713 && random.random() { " BC" } else { "" };
    format!("{year:04}-{month:02}-{day:02}{era}")
}

/// What the server sends in binary format is read as the same key as what it sends as text.
async fn binary_formats(shard: &Shard, random: &mut StdRng) {
    for column_type in TYPES {
        let name = column_type.name();
        let (send, column) = (format!("{name}_send").replace("int8_send", "int8send"), KeyColumn::of(column_type));
        let send = send.replace("text_send", "textsend").replace("varchar_send", "varcharsend");
        let send = send.replace("bpchar_send", "bpcharsend").replace("bytea_send", "byteasend");
        let mut texts: Vec<String> = known(column_type).iter().map(|text| (*text).to_owned()).collect();
        texts.extend((0..1000).map(|_| any(column_type, random)));
        let query = format!(
            "SELECT array_agg({send}(value::{name}) ORDER BY place) FROM unnest($1::text[])
             WITH ORDINALITY AS given (value, place)"
        );
        let sent: Vec<Vec<u8>> = shard.owner.query_one(&query, &[&texts]).await.unwrap().get(0);
        for (text, sent) in texts.iter().zip(&sent) {
            let binary = column.from_binary(0, sent, Charset::Utf8);
            assert_eq!(binary, column.from_text(0, text.as_bytes(), Charset::Utf8), "{name} {text:?}");
            assert!(binary.is_ok(), "{name} {text:?}");
        }
    }
}

/// What a DBA types, what they must not, and what is nobody's to change.
#[tokio::test]
async fn functions_as_they_are_called() {
    let shard = Shard::start().await;
    let bucket = |value: KeyValue<'_>| i32::from(KeyDigest::of(&[value]).bucket().number());
    for (call, value) in [
        ("42", KeyValue::Integer(42)),
        ("42::smallint", KeyValue::Integer(42)),
        ("42.00", KeyValue::Integer(42)),
        ("-9223372036854775808", KeyValue::Integer(i64::MIN)),
        ("'abc'", KeyValue::Text("abc".into())),
        ("'abc  '::char(9)", KeyValue::Text("abc".into())),
        ("'abc  '::varchar", KeyValue::Text("abc  ".into())),
        ("'abc  '::varchar(3)", KeyValue::Text("abc".into())),
        ("'abc'::name", KeyValue::Text("abc".into())),
        ("DATE 'infinity'", KeyValue::Date(i32::MAX)),
        ("TIMESTAMPTZ '-infinity'", KeyValue::Timestamptz(i64::MIN)),
    ] {
        assert_eq!(shard.one::<i32>(&format!("SELECT pgsluice.bucket({call})")).await, bucket(value), "{call}");
    }
    for call in ["NULL::int8", "NULL::text", "1.5", "'NaN'::numeric", "'NaN'::numeric(5)", "1e1000", "-1e1000"] {
        assert_eq!(shard.one::<Option<i32>>(&format!("SELECT pgsluice.bucket({call})")).await, None, "{call}");
    }
    for call in ["'\\x00'::bytea", "pgsluice.shard_key(42)", "1.5::float8", "true", "'{}'::json"] {
        let answer = shard.owner.query_one(&format!("SELECT pgsluice.bucket({call})"), &[]).await;
        let refused = answer.err().unwrap_or_else(|| panic!("{call} has a bucket"));
        // undefined_function, and ambiguous_function where a type turns into several.
        assert!(matches!(refused.code().map(|code| code.code()), Some("42883" | "42725")), "{call}: {refused:?}");
    }

    let key = [KeyValue::Integer(42), KeyValue::Text("abc".into()), KeyValue::Date(0)];
    let several = "pgsluice.shard_key(42), pgsluice.shard_key('abc'), pgsluice.shard_key(DATE '2000-01-01')";
    let digest: Vec<u8> = shard.one(&format!("SELECT pgsluice.key_digest({several})")).await;
    assert_eq!(digest, KeyDigest::of(&key).as_bytes());
    assert_eq!(
        shard.one::<i32>(&format!("SELECT pgsluice.key_bucket({several})")).await,
        i32::from(KeyDigest::of(&key).bucket().number())
    );
    let none: Option<i32> = shard.one(&format!("SELECT pgsluice.key_bucket({several}, NULL)")).await;
    assert_eq!(none, None);
    let inlined = sql::bucket_expression(&["n", "'abc'", "day"]);
    let row = "(VALUES (42, DATE '2000-01-01'), (NULL, '2000-01-01'), (42, NULL)) AS key (n, day)";
    let buckets: Vec<Option<i32>> = shard.one(&format!("SELECT array_agg({inlined}) FROM {row}")).await;
    assert_eq!(buckets, [Some(i32::from(KeyDigest::of(&key).bucket().number())), None, None]);

    // With functions and operators of the same names in front of the search path; then in another client's encoding.
    shard
        .owner
        .batch_execute(
            "CREATE SCHEMA evil; SET search_path = evil, pg_catalog;
             CREATE FUNCTION evil.decode(text, text) RETURNS bytea LANGUAGE sql AS $$ SELECT 'evil'::bytea $$;
             CREATE FUNCTION evil.glue(bytea, bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT 'evil'::bytea $$;
             CREATE FUNCTION evil.right(int, int) RETURNS int LANGUAGE sql AS $$ SELECT 0 $$;
             CREATE OPERATOR evil.|| (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.glue);
             CREATE OPERATOR evil.>> (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.right)",
        )
        .await
        .unwrap();
    shard.owner.batch_execute(sql::INSTALL).await.expect("once more");
    assert_eq!(shard.one::<i32>("SELECT pgsluice.bucket(42)").await, bucket(KeyValue::Integer(42)));
    shard.owner.batch_execute("RESET search_path; SET client_encoding = 'LATIN1'").await.unwrap();
    let umlaut: i32 = shard.one("SELECT pgsluice.bucket(chr(228))").await;
    assert_eq!(umlaut, bucket(KeyValue::Text("ä".into())));

    // Why a char next to a varchar key is not decided: it is equal to texts of several hashes.
    assert!(shard.one::<bool>("SELECT 'abc  '::varchar = 'abc'::bpchar").await);
    shard.cluster.shutdown().await.expect("the cluster stops");
}

/// A map there and back, and what the functions say of it to an ordinary user.
#[tokio::test]
async fn the_map_in_the_database() {
    let shard = Shard::start().await;
    let none = shard.owner.query_opt(sql::NEWEST_MAP, &[]).await.unwrap();
    assert!(none.is_none());
    let pinned = KeyDigest::of(&[KeyValue::Integer(42)]);
    let first = BucketMap::new([("a", 1), ("b", 2), ("c", 1)]).unwrap();
    let home = first.placement(&pinned).shard;
    let elsewhere = if &*home == "a" { "b" } else { "a" };
    let second = first.with_pin(pinned, elsewhere, Some("the big one".to_owned())).unwrap();
    for map in [&first, &second] {
        store(&shard.owner, map).await.expect("stored");
        assert_eq!(&load(&shard.owner).await, map);
    }
    let twice = store(&shard.owner, &second).await.unwrap_err();
    assert_eq!(twice.code().map(|code| code.code()), Some("23505"));

    let app = Shard::login(&shard.cluster, false).await;
    let owners: Vec<String> = app
        .query_one("SELECT array_agg(pgsluice.shard_of(n) ORDER BY n) FROM generate_series(0, 16383) AS n", &[])
        .await
        .unwrap()
        .get(0);
    for bucket in Bucket::all() {
        assert_eq!(owners[bucket.index()], *second.shards()[second.owner(bucket)].name);
    }
    let row = app
        .query_one(
            "SELECT pgsluice.shard_of_key(pgsluice.shard_key(42)), pgsluice.shard_of(pgsluice.bucket(42)),
                 pgsluice.shard_of_key(pgsluice.shard_key(43))",
            &[],
        )
        .await
        .unwrap();
    let next = second.placement(&KeyDigest::of(&[KeyValue::Integer(43)]));
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)),
        (elsewhere, &*home, &*next.shard)
    );
    let label = app.query("SELECT label FROM pgsluice.pinned_key", &[]).await.unwrap_err();
    assert_eq!(label.code().map(|code| code.code()), Some("42501"));
    assert!(app.execute("DELETE FROM pgsluice.bucket_map", &[]).await.is_err());
    shard.cluster.shutdown().await.expect("the cluster stops");
}

async fn store(client: &Client, map: &BucketMap) -> Result<(), tokio_postgres::Error> {
    let MapParts { version, hash_version, shards, weights, owners, pins } = map.to_parts();
    let (digests, pinned): (Vec<_>, Vec<_>) =
        pins.into_iter().map(|PinParts { digest, shard, label }| (digest, (shard, label))).unzip();
    let (names, labels): (Vec<_>, Vec<_>) = pinned.into_iter().unzip();
    client.execute(sql::STORE_MAP, &[&version, &hash_version, &shards, &weights, &owners]).await?;
    client.execute(sql::STORE_PINS, &[&version, &digests, &names, &labels]).await?;
    Ok(())
}

async fn load(client: &Client) -> BucketMap {
    let row = client.query_one(sql::NEWEST_MAP, &[]).await.unwrap();
    let version: i64 = row.get(0);
    let pins = client.query(sql::PINS, &[&version]).await.unwrap();
    let pins = pins.iter().map(|row| PinParts { digest: row.get(0), shard: row.get(1), label: row.get(2) }).collect();
    let (hash_version, shards) = (row.get(1), row.get(2));
    let parts = MapParts { version, hash_version, shards, weights: row.get(3), owners: row.get(4), pins };
    BucketMap::from_parts(parts).unwrap()
}
