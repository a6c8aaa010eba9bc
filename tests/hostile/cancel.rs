//! Cancel requests: the right key stops this client's statement, and nobody else's, ever.

use std::time::{Duration, Instant};

use pgsluice::wire::startup::CANCEL_REQUEST_CODE;
use rand::Rng;
use tokio_postgres::NoTls;

use crate::bystander::{Bystander, assert_no_defect};
use crate::support::unruly::{Raw, V3, packet, startup};
use crate::support::{DEADLINE, Stand};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_key_stops_a_statement() {
    let stand = Stand::start(0, "").await;
    let options = stand.cluster.options();
    let bystander = Bystander::start(&stand).await;
    for version in [V3, V3 + 2] {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        raw.send(&startup(version, &[("user", &options.app.user), ("database", &options.database)])).await;
        raw.authenticate(&options.app.password).await;
        let greeting = raw.until(b'Z').await;
        let key = greeting.into_iter().find(|(tag, _)| *tag == b'K').expect("a key").1;
        let sleeping = tokio::spawn(async move {
            let answers = raw.query("SELECT pg_sleep(600)").await;
            (raw, answers)
        });
        wait_for_sleeper(&stand).await;

        let flipped = |at: usize| {
            let mut key = key.clone();
            key[at] ^= 1;
            key
        };
        let mut wrong = vec![flipped(3), flipped(4), flipped(key.len() - 1), key[..key.len() - 1].to_vec()];
        wrong.extend([
            [&key[..], b"\0"].concat(),
            vec![0; 8],
            vec![0xff; 8],
            key[..4].to_vec(),
            [&key[..4], &[0; 256]].concat(),
            Vec::new(),
        ]);
        for key in wrong {
            let mut canceller = Raw::connect(&stand.proxy.address).await;
            canceller.send(&packet(CANCEL_REQUEST_CODE, &key)).await;
            canceller.drain().await;
        }
        bystander.goes_on(20).await;
        assert!(!sleeping.is_finished(), "a wrong key has stopped the statement");

        let mut canceller = Raw::connect(&stand.proxy.address).await;
        canceller.send(&packet(CANCEL_REQUEST_CODE, &key)).await;
        assert_eq!(canceller.message().await, None, "a cancel request is not answered");
        let (mut raw, answers) = tokio::time::timeout(DEADLINE, sleeping).await.expect("it is stopped").unwrap();
        let told = crate::support::unruly::errors(&answers);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].code, "57014", "{told:?}");

        // With nothing to stop, the right key stops nothing.
        let mut canceller = Raw::connect(&stand.proxy.address).await;
        canceller.send(&packet(CANCEL_REQUEST_CODE, &key)).await;
        canceller.drain().await;
        assert!(crate::support::unruly::errors(&raw.query("SELECT 1").await).is_empty());
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_for_a_connection_is_stopped() {
    let stand = Stand::start(0, "[pool]\nsize = 1\ncheckout_timeout = \"1h\"\n").await;
    let (holder, waiting) = (stand.client().await, stand.client().await);
    holder.batch_execute("BEGIN").await.unwrap();
    let token = waiting.cancel_token();
    let asked = tokio::spawn(async move {
        let result = waiting.simple_query("SELECT 1").await;
        (waiting, result)
    });
    // Before it waits there is nothing to stop, so it is asked for until it has an effect.
    let start = Instant::now();
    while !asked.is_finished() {
        assert!(start.elapsed() < DEADLINE, "it is not stopped");
        token.cancel_query(NoTls).await.expect("the request is taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (waiting, result) = asked.await.unwrap();
    let error = result.unwrap_err();
    let told = error.as_db_error().expect("the proxy's error");
    assert_eq!((told.code().code(), told.message()), ("57014", "canceling statement due to user request"));
    // Neither the holder of the connection nor this client's next statement has noticed anything.
    holder.batch_execute("SELECT 1; COMMIT").await.unwrap();
    waiting.simple_query("SELECT 1").await.unwrap();
    stand.stop().await;
}

async fn wait_for_sleeper(stand: &Stand) {
    let start = Instant::now();
    let sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while stand.cluster.primary().sql(sql).await.expect("the server answers").is_empty() {
        assert!(start.elapsed() < DEADLINE, "nobody sleeps");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_never_hits_the_next_user_of_the_connection() {
    let stand = Stand::start(0, "[pool]\nsize = 1\n").await;
    // Shares the only connection with the one whose statements are cancelled, and must never see 57014.
    let bystander = Bystander::start(&stand).await;
    let client = stand.client().await;
    let token = client.cancel_token();
    let mut cancelled = 0;
    for round in 0..200 {
        // The end of the statement and the request race; who wins is different each time.
        let (sleep, delay) = {
            let mut rng = rand::rng();
            (rng.random_range(0..4000), rng.random_range(0..4000))
        };
        let text = format!("SELECT pg_sleep({})", f64::from(sleep) / 1e6);
        let statement = client.simple_query(&text);
        let cancel = async {
            tokio::time::sleep(Duration::from_micros(delay)).await;
            token.cancel_query(NoTls).await.expect("the request is taken");
        };
        let both = async { tokio::join!(statement, cancel) };
        let (result, ()) = tokio::time::timeout(DEADLINE, both).await.expect("in time");
        if let Err(error) = result {
            assert_eq!(error.code().map(|code| code.code()), Some("57014"), "round {round}: {error:?}");
            cancelled += 1;
        }
    }
    println!("{cancelled} of 200 were cancelled");
    // The last request may still be on its way; after it, none is.
    let start = Instant::now();
    while client.simple_query("SELECT 1").await.is_err() {
        assert!(start.elapsed() < DEADLINE);
    }
    bystander.leave_undisturbed(&stand).await;
    assert_no_defect(&stand);
    stand.stop().await;
}
