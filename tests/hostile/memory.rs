//! However much is asked for, sent, or left unread: the proxy's memory stays where it is.

use std::time::Duration;

use pgsluice::wire::backend::tag;
use tokio::io::AsyncWriteExt;

use crate::bystander::Bystander;
use crate::support::unruly::{Message, Raw, bind, errors, execute, first_column, frame, parse, sync};
use crate::support::{DEADLINE, Stand};

const MIB: u64 = 1 << 20;
/// What twenty of them may add in all.
const BOUND: u64 = 64 * MIB;
const LARGE: usize = 200_000_000;

/// How much the peak of the proxy's memory rose above what it was.
struct Growth<'a> {
    stand: &'a Stand,
    before: u64,
}

impl<'a> Growth<'a> {
    async fn from(stand: &'a Stand) -> Self {
        stand.proxy.reset_peak_memory();
        Self { stand, before: stand.proxy.memory() }
    }

    fn is_bounded(&self, what: &str) {
        let grown = self.stand.proxy.peak_memory().saturating_sub(self.before);
        println!("{what}: {} MiB above {} MiB", grown / MIB, self.before / MIB);
        assert!(grown < BOUND, "{what}: {} MiB", grown / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_nobody_reads() {
    let stand = Stand::start(1, "[pool]\nsize = 40\n").await;
    let bystander = Bystander::start(&stand).await;
    let growth = Growth::from(&stand).await;
    let texts = [
        "SELECT repeat('x', 1024) FROM generate_series(1, 1048576)",
        "SELECT repeat('x', 500000000)",
        "COPY (SELECT repeat('x', 1024) FROM generate_series(1, 1048576)) TO STDOUT",
    ];
    let mut clients = Vec::new();
    for round in 0..20 {
        let mut raw = Raw::log_in(&stand).await;
        // The server makes the second's wide row whole before it sends it: once is enough.
        let text = texts[if round == 1 { 1 } else { round % 2 * 2 }];
        raw.send(&frame(b'Q', format!("{text}\0").as_bytes())).await;
        clients.push(raw);
    }
    // All of them have begun to receive.
    for raw in &mut clients {
        tokio::time::timeout(DEADLINE, raw.stream.readable()).await.expect("something to read").expect("readable");
    }
    bystander.goes_on(200).await;
    growth.is_bounded("20 clients that do not read a gigabyte each");
    drop(clients);
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_through() {
    let stand = Stand::start(0, "").await;
    let bystander = Bystander::start(&stand).await;
    let growth = Growth::from(&stand).await;
    let mut raw = Raw::log_in(&stand).await;
    let literal = "x".repeat(LARGE);
    let answers = raw.query(&format!("SELECT length('{literal}')")).await;
    assert_eq!(first_column(&answers), [LARGE.to_string()], "{:?}", errors(&answers));
    growth.is_bounded("a statement of 200 MB");

    raw.send(&parse("", "SELECT length($1)")).await;
    raw.send(&bind("", &[literal.as_bytes()])).await;
    raw.send(&[execute(), sync()].concat()).await;
    let answers = raw.until(tag::READY_FOR_QUERY).await;
    assert_eq!(first_column(&answers), [LARGE.to_string()], "{:?}", errors(&answers));
    growth.is_bounded("a parameter of 200 MB");

    raw.send(&parse("", &format!("SELECT length('{literal}')"))).await;
    raw.send(&[bind("", &[]), execute(), sync()].concat()).await;
    let answers = raw.until(tag::READY_FOR_QUERY).await;
    assert_eq!(first_column(&answers), [LARGE.to_string()], "{:?}", errors(&answers));
    growth.is_bounded("a Parse of 200 MB");

    // In the skipped part of a pipeline, and where nothing may be sent on, they pass just as well.
    raw.send(&[parse("", "SELEKT"), bind("", &[literal.as_bytes()]), execute(), sync()].concat()).await;
    assert_eq!(errors(&raw.until(tag::READY_FOR_QUERY).await).len(), 1);
    raw.send(&frame(b'd', literal.as_bytes())).await;
    assert_eq!(first_column(&raw.query("SELECT 44").await), ["44"]);
    raw.query("CREATE TABLE large (v text)").await;
    raw.send(&[frame(b'Q', b"COPY large FROM STDIN\0"), frame(b'd', literal.as_bytes()), frame(b'c', b"")].concat())
        .await;
    let answers = raw.until(tag::READY_FOR_QUERY).await;
    assert!(errors(&answers).is_empty(), "{:?}", errors(&answers));
    growth.is_bounded("a COPY of 200 MB in one message");
    assert_eq!(first_column(&raw.query("SELECT length(v) FROM large").await), [LARGE.to_string()]);
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_nobody_reads() {
    const COUNT: usize = 100_000;
    let stand = Stand::start(1, "").await;
    let bystander = Bystander::start(&stand).await;
    let one = [bind("s", &[b"1"]), execute()].concat();
    let table: [(&str, Vec<u8>, usize); 4] = [
        ("a Sync each", [&one[..], &sync()].concat().repeat(COUNT), COUNT),
        ("one Sync in all", [one.repeat(COUNT), sync()].concat(), 1),
        ("a Flush each", [[&one[..], &frame(b'H', b"")].concat().repeat(COUNT), sync()].concat(), 1),
        ("simple queries", frame(b'Q', b"SELECT 1\0").repeat(COUNT), COUNT),
    ];
    for (name, bytes, ready) in table {
        let growth = Growth::from(&stand).await;
        let mut raw = Raw::log_in(&stand).await;
        raw.send(&[parse("s", "SELECT $1::int"), sync()].concat()).await;
        raw.until(tag::READY_FOR_QUERY).await;
        let (mut reader, mut writer) = raw.split();
        let writing = tokio::spawn(async move {
            writer.write_all(&bytes).await.expect("all of it is taken");
            writer
        });
        // Nothing is read while it is sent, or until it cannot be sent any more.
        tokio::time::sleep(Duration::from_millis(500)).await;
        bystander.goes_on(20).await;
        growth.is_bounded(name);
        let (mut rows, mut seen) = (0, 0);
        while seen < ready {
            let (tag, body): Message =
                reader.message().await.unwrap_or_else(|| panic!("{name}: cut off after {rows} rows"));
            assert_ne!(tag, tag::ERROR_RESPONSE, "{name}: {}", String::from_utf8_lossy(&body));
            rows += usize::from(tag == tag::DATA_ROW);
            seen += usize::from(tag == tag::READY_FOR_QUERY);
        }
        assert_eq!(rows, COUNT, "{name}");
        writing.await.expect("written");
        growth.is_bounded(name);
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}
