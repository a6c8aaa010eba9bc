//! `pgsluice coordinator` over time: made once, kept up after DDL, and refused where it could give a wrong answer.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

mod support;

use pgsluice::demo::{ClusterOptions, StopMode};
use serde_json::Value;
use support::certificates::Authority;
use support::coordinator::{DATABASE, ON_EVERY_SHARD, ON_THE_COORDINATOR, Shards, lines, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_up() {
    const ONE: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n";
    const TWO: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n[[tables]]\nname = \"u\"\nshard_key = \"id\"\n";
    let shards = Shards::start(&[0, 1]).await;
    shards.everywhere("CREATE TABLE t (id int PRIMARY KEY, note text)").await;

    // What the account may not do is told, with what gives it the right.
    let refused = async |needed: &str| {
        let said = shards.refused(ONE).await;
        assert!(said.contains(needed), "{said}");
        shards.superuser(0, needed).await;
    };
    let wrapper = "GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO \"pgsluice\"";
    assert!(shards.refused(ONE).await.contains(&format!("CREATE EXTENSION postgres_fdw; {wrapper}")));
    refused("GRANT CREATE ON DATABASE \"app\" TO \"pgsluice\"").await;
    assert!(shards.refused(ONE).await.contains("in this database: CREATE EXTENSION postgres_fdw; "));
    shards.superuser(0, "CREATE EXTENSION postgres_fdw").await;
    refused(wrapper).await;
    shards.superuser(1, "REVOKE pg_read_all_data FROM pgsluice").await;
    let said = shards.refused(ONE).await;
    assert_eq!(
        said,
        "pgsluice: app: pgsluice may not read \"public\".\"t\" on shard b: GRANT pg_read_all_data TO pgsluice\n"
    );
    shards.superuser(1, ON_EVERY_SHARD).await;

    // A rehearsal changes nothing; a setup does, once.
    let client = shards.coordinator().await;
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgsluice%'";
    let said = shards.run(ONE, &["setup", "--dry-run"]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("CREATE VIEW \"pgsluice_all\".\"t\" AS SELECT")
            && said.out.contains("(ADD \"password\" '…');"),
        "{}",
        said.out
    );
    assert_eq!(lines(&client, there).await, "0");
    let said = shards.run(ONE, &["check", "--json"]).await;
    let value: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (said.code, &value[0]["database"], &value[0]["differences"][0]["state"]),
        (1, &"app".into(), &"missing".into())
    );
    let said = shards.setup(ONE).await;
    assert_eq!(said.lines().count(), 10, "{said}");
    let oids = "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'pgsluice%'";
    let before = lines(&client, oids).await;
    assert_eq!(shards.setup(ONE).await, "app: up to date, nothing to do\n");
    assert_eq!(lines(&client, oids).await, before);
    let said = shards.run(ONE, &["check"]).await;
    assert_eq!((said.code, &*said.out), (0, "app: up to date, nothing to do\n"), "{}", said.err);
    shards.check_logs();

    // DDL is not held up by the views, and is noticed.
    shards
        .everywhere(
            "ALTER TABLE t DROP COLUMN note; ALTER TABLE t ADD COLUMN amount numeric(5, 1); CREATE TABLE u (id int)",
        )
        .await;
    let said = shards.run(ONE, &["check"]).await;
    let expected = ["view pgsluice_all.t", "foreign table pgsluice_shard_a.t", "foreign table pgsluice_shard_b.t"];
    assert_eq!(
        (said.code, said.out),
        (1, expected.map(|what| format!("app: out of date: {what}\n")).concat()),
        "{}",
        said.err
    );
    let said = shards.setup(TWO).await;
    assert!(
        said.contains("app: changed: view pgsluice_all.t\n") && said.contains("app: created: view pgsluice_all.u\n"),
        "{said}"
    );
    for shard in 0..2 {
        shards.app(shard).await.batch_execute(&format!("INSERT INTO t VALUES ({shard}, 1.5)")).await.unwrap();
    }
    assert_eq!(lines(&client, "SELECT sum(amount) FROM t").await, "3.0");

    // A new primary is found, by the coordinator and by the setup.
    let cluster = &shards.clusters[1];
    cluster.wait_replicated().await.unwrap();
    cluster.primary().stop(StopMode::Immediate).await.unwrap();
    cluster.replicas()[0].sql("SELECT pg_promote(true)").await.unwrap();
    // A connection that has gone is noticed by the first statement; the next one makes another.
    let _ = client.simple_query("SELECT count(*) FROM t").await;
    assert_eq!(lines(&client, "SELECT sum(amount) FROM t").await, "3.0");
    assert_eq!(shards.setup(TWO).await, "app: up to date, nothing to do\n");
    drop(client);

    // A password that is wrong on the coordinator is put right; one that is wrong everywhere is said to be.
    shards.superuser(0, "ALTER USER MAPPING FOR pgsluice SERVER pgsluice_b OPTIONS (SET password 'old')").await;
    let said = shards.setup(TWO).await;
    assert_eq!(said, "app: changed: user mapping for pgsluice on server pgsluice_b\n");

    // Undeclared, and gone.
    let said = shards.setup(ONE).await;
    assert!(said.contains("app: dropped: view pgsluice_all.u\n"), "{said}");
    assert!(said.contains("app: dropped: foreign table pgsluice_shard_b.u\n"), "{said}");
    shards.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused() {
    const TABLE: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n";
    let shards = Shards::start(&[0, 0]).await;
    shards.superuser(0, ON_THE_COORDINATOR).await;
    shards.everywhere("CREATE TABLE t (id int PRIMARY KEY, note text COLLATE \"de-x-icu\")").await;
    shards.setup(TABLE).await;
    let client = shards.app(1).await;

    for (change, undo, expected) in [
        (
            "ALTER TABLE t ADD x int",
            "ALTER TABLE t DROP x",
            "\"public\".\"t\", column 3 differs: none on shard a, \"x\" integer on shard b",
        ),
        (
            "ALTER TABLE t ALTER id TYPE bigint",
            "ALTER TABLE t ALTER id TYPE int",
            "\"public\".\"t\", column 1 differs: \"id\" integer NOT NULL on shard a, \"id\" bigint NOT NULL on shard b",
        ),
        (
            "ALTER TABLE t ALTER note TYPE text COLLATE \"C\"",
            "ALTER TABLE t ALTER note TYPE text COLLATE \"de-x-icu\"",
            "column 2 differs: \"note\" text COLLATE pg_catalog.\"de-x-icu\" on shard a, \"note\" text COLLATE pg_catalog.\"C\" on shard b",
        ),
        ("ALTER TABLE t ALTER note SET NOT NULL", "ALTER TABLE t ALTER note DROP NOT NULL", "column 2 differs"),
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
            "\"public\".\"t\" has row level security on shard b",
        ),
        (
            "ALTER TABLE t RENAME TO t2",
            "ALTER TABLE t2 RENAME TO t",
            "\"public\".\"t\" is on shard a and not on shard b",
        ),
    ] {
        client.batch_execute(change).await.unwrap();
        let said = shards.refused(TABLE).await;
        assert!(said.contains(expected) && said.lines().count() == 1, "{change}: {said}");
        let said = shards.run(TABLE, &["check", "--json"]).await;
        let value: Value = serde_json::from_str(&said.out).expect("JSON");
        assert!(value[0]["errors"][0].as_str().unwrap().contains(expected), "{value}");
        assert_eq!((said.code, &*said.err), (1, ""));
        client.batch_execute(undo).await.unwrap();
    }

    // A name that could mean two tables.
    shards.superuser(0, "CREATE SCHEMA other; CREATE TABLE other.t (id int)").await;
    let said = shards.refused(TABLE).await;
    assert!(said.contains("the name t is declared in several schemas (other, public)"), "{said}");
    let qualified = TABLE.replace("\"t\"", "\"public.t\"");
    assert!(shards.setup(&qualified).await.contains("schema pgsluice_all"), "another declaration");

    // The same name for a collation that is another.
    for (shard, locale) in ["de", "sv"].iter().enumerate() {
        let sql = format!(
            "CREATE COLLATION mine (provider = icu, locale = '{locale}'); ALTER TABLE t ALTER note TYPE text COLLATE mine"
        );
        shards.app(shard).await.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let said = shards.refused(&qualified).await;
    assert!(said.contains("the collation of \"public\".\"t\", column note differs: provider i, locale de"), "{said}");
    shards.everywhere("ALTER TABLE t ALTER note TYPE text COLLATE \"C\"").await;

    // A view in a table's place would run its owner's functions as pgsluice's account, until the next check says so.
    shards.everywhere("ALTER TABLE t DROP COLUMN note").await;
    shards.setup(&qualified).await;
    let client = shards.app(1).await;
    client.batch_execute("ALTER TABLE t RENAME TO t2; CREATE VIEW t AS SELECT id FROM t2").await.unwrap();
    let is_restricted = "SELECT count(*) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'";
    if lines(&client, is_restricted).await == "1" {
        assert_eq!(sqlstate(&shards.coordinator().await, "SELECT count(*) FROM t").await, "55000");
    }
    assert!(
        shards.refused(&qualified).await.contains("\"public\".\"t\" is a view on shard b; only tables can be declared")
    );
    client.batch_execute("DROP VIEW t; ALTER TABLE t2 RENAME TO t").await.unwrap();

    // A shard that the coordinator cannot log in to: nothing is changed.
    shards.everywhere("ALTER TABLE t ADD late int").await;
    let before = "SELECT count(*) FROM pg_attribute WHERE attname = 'late' AND attrelid = 'pgsluice_all.t'::regclass";
    let hba = shards.clusters[1].describe().servers[0].data_dir.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    // pgsluice itself gets in from 127.0.0.1 without its password; postgres_fdw asks that it be used.
    std::fs::write(&hba, rules.replace("scram-sha-256", "trust")).unwrap();
    shards.superuser(1, "SELECT pg_reload_conf()").await;
    let said = shards.refused(&qualified).await;
    assert!(said.contains("the coordinator cannot read shard b"), "{said}");
    assert_eq!(shards.clusters[0].primary().sql_in(DATABASE, before).await.unwrap()[0][0].as_deref(), Some("0"));
    std::fs::write(&hba, rules).unwrap();
    shards.superuser(1, "SELECT pg_reload_conf()").await;

    // Databases are named, or there are none; a shard that is down is named.
    let said = shards.run(&qualified, &["setup", "--database", "nowhere"]).await;
    assert!(said.code == 1 && said.err.contains("database \"nowhere\" does not exist"), "{}", said.err);
    let unnamed = shards.config(&qualified).replace(&format!("[[databases]]\nname = \"{DATABASE}\"\n"), "");
    let said = shards.run_with(&unnamed, &["setup"]).await;
    assert_eq!((said.code, said.err.contains("say --database")), (2, true), "{}", said.err);
    let said = shards.run_with(&unnamed, &["check", "--database", DATABASE]).await;
    assert_eq!(
        (said.code, said.out.contains("out of date: view pgsluice_all.t")),
        (1, true),
        "{}{}",
        said.out,
        said.err
    );
    let none = shards.config(&qualified).replace("[coordinator]\nshard = \"a\"\n", "");
    let said = shards.run_with(&none, &["setup"]).await;
    assert_eq!((said.code, said.err.contains("the config has no [coordinator]")), (1, true), "{}", said.err);
    shards.clusters[1].primary().stop(StopMode::Immediate).await.unwrap();
    let said = shards.refused(&qualified).await;
    assert!(said.starts_with("pgsluice: app: the primary of shard b is not to be reached"), "{said}");
    shards.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified_by_the_coordinator_too() {
    const TABLE: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n";
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    // libpq 14 looks for an address in the common name only.
    let certificate = authority.sign("127.0.0.1", &["127.0.0.1"]).for_servers(Some(&authority));
    let options = || ClusterOptions { certificate: Some(certificate.clone()), ..ClusterOptions::with_replicas(0) };
    let mut shards = Shards::start_with([options(), options()].into_iter()).await;
    shards.superuser(0, ON_THE_COORDINATOR).await;
    shards.everywhere("CREATE TABLE t (id int)").await;

    // Where both pgsluice and the coordinator's server may read it.
    let file = shards.clusters[0].primary().data_dir().join("root.crt");
    shards.lines = format!("sslmode = \"verify-full\"\nsslrootcert = \"{}\"\n", file.display());
    shards.setup(TABLE).await;
    let client = shards.coordinator().await;
    assert_eq!(lines(&client, "SELECT count(*) FROM t").await, "0");
    let sql = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'pgsluice coordinator'";
    let seen = shards.clusters[1].primary().sql(sql).await.unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|row| row[0].as_deref() == Some("t")), "{seen:?}");
    // Read by pgsluice before, and by the coordinator's server when it connects.
    std::fs::write(&file, &other.pem).unwrap();
    let said = shards.refused(TABLE).await;
    assert!(said.contains("is not to be reached"), "{said}");
    let another = shards.coordinator().await;
    assert_eq!(sqlstate(&another, "SELECT count(*) FROM t").await, "08001");
    shards.stop().await;
}
