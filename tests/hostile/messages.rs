//! After login: messages that are none, and pipelines that stop in the middle.

use pgsluice::wire::backend::tag;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bystander::{Bystander, assert_no_defect};
use crate::support::Stand;
use crate::support::unruly::{Raw, bind, errors, execute, first_column, frame, frame_of_length, parse, sync};

/// One server connection: whoever keeps it without need is noticed.
const SECTIONS: &str = "[pool]\nsize = 1\n";

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let table: &[(&str, Vec<u8>, &str)] = &[
        ("an unknown type", frame(b'z', b""), "invalid frontend message type 122"),
        ("type 0", frame(0, b"x"), "invalid frontend message type 0"),
        ("type 255", frame(0xff, b"x"), "invalid frontend message type 255"),
        ("a password", frame(b'p', b"secret\0"), "invalid frontend message type 112"),
        ("a server's message", frame(b'Z', b"I"), "invalid frontend message type 90"),
        ("2 GiB", frame_of_length(b'Q', i32::MAX, b"SELECT"), "invalid message length"),
        ("1 GiB", frame_of_length(b'Q', 0x4000_0000, b"SELECT"), "invalid message length"),
        ("a negative length", frame_of_length(b'Q', -1, b"SELECT"), "invalid message length -1"),
        ("the most negative length", frame_of_length(b'd', i32::MIN, b"SELECT"), "invalid message length"),
        ("a length of 0", frame_of_length(b'P', 0, b""), "invalid message length 0"),
        ("a length of 3", frame_of_length(b'S', 3, b""), "invalid message length 3"),
        ("a startup packet", crate::support::unruly::SSL_REQUEST.to_vec(), "invalid"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "invalid"),
        ("a Query without terminator", frame(b'Q', b"SELECT 1"), "malformed Query message"),
        ("a Query of nothing", frame(b'Q', b""), "malformed Query message"),
        ("a Query with more behind it", frame(b'Q', b"SELECT 1\0SELECT 2\0"), "malformed Query message"),
        ("a Parse of nothing", [frame(b'P', b""), sync()].concat(), "malformed Parse message"),
        ("a Parse without types", [frame(b'P', b"\0SELECT 1\0"), sync()].concat(), "malformed Parse message"),
        (
            "a Parse with half a type",
            [frame(b'P', b"\0SELECT 1\0\0\x01\0\0"), sync()].concat(),
            "malformed Parse message",
        ),
        ("a Bind of nothing", [frame(b'B', b""), sync()].concat(), "malformed Bind message"),
        ("a Bind with one name", [frame(b'B', b"portal\0"), sync()].concat(), "malformed Bind message"),
        ("a Describe of nothing", [frame(b'D', b""), sync()].concat(), "malformed Describe message"),
        ("a Describe of what?", [frame(b'D', b"X\0"), sync()].concat(), "malformed Describe message"),
        ("a Describe without terminator", [frame(b'D', b"Sname"), sync()].concat(), "malformed Describe message"),
        ("a Close of nothing", [frame(b'C', b""), sync()].concat(), "malformed Close message"),
    ];
    for (name, bytes, message) in table {
        let mut raw = Raw::log_in(&stand).await;
        raw.send(bytes).await;
        let told = raw.farewell().await;
        assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "08P01"), "{name}: {told:?}");
        assert!(told.message.contains(message), "{name}: {told:?}");
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_leaves_the_session_usable() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let mut raw = Raw::log_in(&stand).await;
    let begun = parse("", "SELECT $1::text");
    for (name, bytes) in [
        ("a Bind that ends behind its names", [&begun[..], &frame(b'B', b"\0\0"), &execute(), &sync()].concat()),
        (
            "a Bind of half a parameter",
            [&begun[..], &frame(b'B', b"\0\0\0\0\0\x01\0\0\0\x09ab"), &execute(), &sync()].concat(),
        ),
        (
            "a Bind of a negative length",
            [&begun[..], &frame(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe"), &execute(), &sync()].concat(),
        ),
        ("a Bind of 65,535 parameters", [&begun[..], &frame(b'B', b"\0\0\0\0\xff\xff"), &execute(), &sync()].concat()),
        ("an Execute of nothing", [frame(b'E', b""), sync()].concat()),
        ("an Execute of half a portal", [frame(b'E', b"por"), sync()].concat()),
        ("an Execute of no portal", [frame(b'E', b"nonesuch\0\0\0\0\0"), sync()].concat()),
        ("a Bind of no statement", [bind("nonesuch", &[]), execute(), sync()].concat()),
        ("a Describe of no statement", [frame(b'D', b"Snonesuch\0"), sync()].concat()),
        ("an error of syntax", [parse("", "SELEKT"), bind("", &[]), execute(), sync()].concat()),
    ] {
        raw.send(&bytes).await;
        let answers = raw.until(tag::READY_FOR_QUERY).await;
        assert_eq!(errors(&answers).len(), 1, "{name}: {answers:?}");
        assert_eq!(errors(&answers)[0].severity, "ERROR", "{name}");
        assert_eq!(first_column(&raw.query("SELECT 42").await), ["42"], "{name}");
    }
    // COPY messages out of place are ignored, as PostgreSQL does.
    raw.send(&[frame(b'd', &[7; 100_000]), frame(b'c', b""), frame(b'f', b"no\0")].concat()).await;
    assert_eq!(first_column(&raw.query("SELECT 43").await), ["43"]);
    // A goodbye is a goodbye, and nothing behind it counts.
    raw.send(&[frame(b'X', b""), frame_of_length(b'Q', -1, b"")].concat()).await;
    assert_eq!(raw.message().await, None);
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_in_a_pipeline_holds_no_connection() {
    let stand = Stand::start(0, SECTIONS).await;
    let mut silent = Vec::new();
    for bytes in [
        parse("", "SELECT 1"),
        parse("", "SELECT 1")[..7].to_vec(),
        [parse("", "INSERT INTO bystander VALUES (-1)"), bind("", &[]), execute()].concat(),
        frame_of_length(b'Q', 1000, b"INSERT INTO"),
        frame_of_length(b'Q', 0x3fff_0000, b"INSERT INTO"),
        frame_of_length(b'P', 0x3fff_0000, b""),
        vec![b'Q', 0, 0],
    ] {
        let mut raw = Raw::log_in(&stand).await;
        raw.send(&bytes).await;
        silent.push(raw);
    }
    // With one connection for all, nobody would get on if they held it.
    let bystander = Bystander::start(&stand).await;
    bystander.goes_on(20).await;
    drop(silent);
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_just_fill_the_buffer() {
    // What is gathered at most: limits.max_statement_bytes, and what is read ahead.
    const FULL: usize = (1 << 20) + pgsluice::wire::BUFFER_SIZE;
    let stand = Stand::start(0, "").await;
    let mut raw = Raw::log_in(&stand).await;
    for missing in 0..8 {
        let [first, last] = [parse("", "SELECT 1"), [bind("", &[]), execute(), sync()].concat()];
        // Whole messages up to some bytes before the end of the buffer, and more to come.
        let filler = |size: usize| parse("", &"x".repeat(size)[..size - parse("", "").len()]);
        let mut bytes = first.clone();
        while FULL - missing - bytes.len() > 200_000 {
            bytes.extend(parse("", &format!("SELECT 1 /*{}*/", "x".repeat(100_000))));
        }
        let size = FULL - missing - bytes.len();
        bytes.extend(filler(size));
        assert_eq!(bytes.len(), FULL - missing);
        bytes.extend(&last);
        raw.send(&bytes).await;
        // The filler is no SQL; that it is the server that says so is what is wanted here.
        let answers = raw.until(tag::READY_FOR_QUERY).await;
        assert_eq!(errors(&answers).len(), 1, "{missing}");
        assert_eq!(errors(&answers)[0].code, "42601", "{missing}");
        assert_eq!(first_column(&raw.query("SELECT 42").await), ["42"], "{missing}");
    }
    assert_no_defect(&stand);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_at_random() {
    let stand = Stand::start(1, "").await;
    let bystander = Bystander::start(&stand).await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..150 {
        let mut raw = Raw::log_in(&stand).await;
        let mut bytes = Vec::new();
        for _ in 0..rng.random_range(1..8) {
            bytes.extend(some_message(&mut rng));
        }
        if rng.random_bool(0.3) {
            bytes.truncate(rng.random_range(0..=bytes.len()));
        }
        // Ends whatever is under way, if anything still listens: a COPY, a pipeline, half a message.
        bytes.extend([frame(b'c', b""), sync(), frame(b'X', b"")].concat());
        for chunk in bytes.chunks(rng.random_range(1..=bytes.len())) {
            raw.send(chunk).await;
        }
        tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await.ok();
        raw.drain().await;
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

fn some_message(rng: &mut StdRng) -> Vec<u8> {
    const TEXTS: &[&str] = &[
        "SELECT 1",
        "SELECT $1::text",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SELEKT",
        "",
        ";",
        "SET work_mem = '1MB'",
        "COPY bystander FROM STDIN",
        "COPY (SELECT 1) TO STDOUT",
        "SELECT * FROM generate_series(1, 2000)",
        "DISCARD ALL",
        "DEALLOCATE ALL",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "SELECT 1; SELECT 2",
        "BEGIN READ ONLY",
        "SAVEPOINT s",
        "LISTEN l",
        "NOTIFY l",
        "SET pgsluice.route = 'nowhere'",
        "/* pgsluice: */ SELECT 'x",
        "SELECT 1/0",
    ];
    const NAMES: &[&str] = &["", "s1", "s2"];
    let text = TEXTS[rng.random_range(0..TEXTS.len())];
    let name = NAMES[rng.random_range(0..NAMES.len())];
    match rng.random_range(0..14) {
        0 | 1 => frame(b'Q', format!("{text}\0").as_bytes()),
        2 | 3 => parse(name, text),
        4 | 5 => bind(name, &[&b"a"[..], b"b"][..rng.random_range(0..=2)]),
        6 => execute(),
        7 => sync(),
        8 => frame(b'H', b""),
        9 => frame(b'D', format!("{}{name}\0", if rng.random() { 'S' } else { 'P' }).as_bytes()),
        10 => frame(b'C', format!("{}{name}\0", if rng.random() { 'S' } else { 'P' }).as_bytes()),
        11 => frame(b'd', b"1\n"),
        12 => frame(b'F', &(0..rng.random_range(0..20)).map(|_| rng.random()).collect::<Vec<u8>>()),
        _ => {
            let tags = b"QPBEDCSHXFdcfp\x00z";
            let body: Vec<u8> =
                (0..rng.random_range(0..30)).map(|_| if rng.random_bool(0.3) { 0 } else { rng.random() }).collect();
            frame(tags[rng.random_range(0..tags.len())], &body)
        }
    }
}
