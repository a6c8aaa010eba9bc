//! Before anybody has been let in: first packets, and SCRAM.

use std::time::{Duration, Instant};

use pgsluice::wire::backend::tag;

use crate::bystander::Bystander;
use crate::support::unruly::{
    GSS_REQUEST, Raw, SSL_REQUEST, Told, V3, frame, frame_of_length, initial_response, packet, parse, startup,
};
use crate::support::{DEADLINE, Stand};

const LIMIT: Duration = Duration::from_secs(1);
const SECTIONS: &str =
    "[auth]\nfailure_delay = \"0s\"\n\n[limits]\nlogin_timeout = \"1s\"\n\n[[databases]]\nname = \"app\"\n";

async fn told(stand: &Stand, bytes: &[u8]) -> Told {
    let mut raw = Raw::connect(&stand.proxy.address).await;
    raw.send(bytes).await;
    raw.farewell().await
}

#[tokio::test(flavor = "multi_thread")]
async fn first_packets_that_are_none() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let user = stand.cluster.options().app.user.as_str();
    let with = |name, value| startup(V3, &[("user", user), ("database", "app"), (name, value)]);
    let length = |length: i32| [&length.to_be_bytes()[..], &V3.to_be_bytes(), b"user\0app\0\0"].concat();
    let table: &[(&str, Vec<u8>, &str, &str)] = &[
        ("garbage", vec![0xff; 64], "08P01", "invalid length of startup packet"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01", "invalid length"),
        ("2 GiB", length(i32::MAX), "08P01", "invalid length"),
        ("negative", length(-1), "08P01", "invalid length"),
        ("most negative", length(i32::MIN), "08P01", "invalid length"),
        ("zero", length(0), "08P01", "invalid length"),
        ("too short", length(7), "08P01", "invalid length"),
        ("too long", length(10_001), "08P01", "invalid length"),
        ("no terminator", packet(V3, b"user\0app\0"), "08P01", "expected terminator as last byte"),
        ("no terminators", packet(V3, b"user"), "08P01", "expected terminator"),
        ("nothing in it", packet(V3, b""), "08P01", "expected terminator"),
        ("no user", packet(V3, b"\0"), "28000", "no PostgreSQL user name"),
        ("protocol 2", packet(2 << 16, b"user\0app\0\0"), "0A000", "unsupported frontend protocol 2.0"),
        ("protocol 4", packet(4 << 16, b"user\0app\0\0"), "0A000", "unsupported frontend protocol 4.0"),
        (
            "bytes behind SSLRequest",
            [&SSL_REQUEST[..], &startup(V3, &[("user", user)])].concat(),
            "08P01",
            "unencrypted data after SSL request",
        ),
        ("a Query before login", frame(b'Q', b"SELECT 1\0"), "08P01", "invalid length"),
        ("physical replication", with("replication", "true"), "0A000", "replication connections are not passed on"),
        ("logical replication", with("replication", "database"), "0A000", "replication connections are not passed on"),
        (
            "another database",
            startup(V3, &[("user", user), ("database", "nowhere")]),
            "3D000",
            "database \"nowhere\" does not exist",
        ),
        ("the user's database", startup(V3, &[("user", "nobody")]), "3D000", "database \"nobody\" does not exist"),
        ("strange options", with("options", "-x"), "42601", "-x"),
    ];
    for (name, bytes, code, message) in table {
        let told = told(&stand, bytes).await;
        assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", *code), "{name}: {told:?}");
        assert!(told.message.contains(message), "{name}: {told:?}");
    }
    // Who speaks TLS at once, where there is none, understands no answer.
    let mut raw = Raw::connect(&stand.proxy.address).await;
    raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert_eq!(raw.message().await, None);
    // Byte by byte, the answer is the same.
    for (name, bytes, code, _) in &table[..11] {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        for byte in bytes.iter().take(40) {
            raw.send(&[*byte]).await;
        }
        assert_eq!(raw.farewell().await.code, *code, "{name}");
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_told_and_cut_off() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let user = stand.cluster.options().app.user.as_str();
    let whole = startup(V3, &[("user", user), ("database", "app")]);
    let half_answer = &frame(b'p', &[b'x'; 100])[..50];
    // What is sent, and how many bytes are answered first.
    let table: &[(&str, Vec<u8>, usize)] = &[
        ("nothing", Vec::new(), 0),
        ("half a length", whole[..2].to_vec(), 0),
        ("half a packet", whole[..whole.len() / 2].to_vec(), 0),
        ("all but the last byte", whole[..whole.len() - 1].to_vec(), 0),
        ("SSLRequest", SSL_REQUEST.to_vec(), 1),
        ("GSSENCRequest", GSS_REQUEST.to_vec(), 1),
        ("no SCRAM message", whole.clone(), 24),
        ("half a SCRAM message", [&whole[..], half_answer].concat(), 24),
    ];
    let all = table.iter().map(|(name, bytes, answered)| {
        let stand = &stand;
        async move {
            let mut raw = Raw::connect(&stand.proxy.address).await;
            let start = Instant::now();
            raw.send(bytes).await;
            for _ in 0..*answered {
                raw.byte().await.unwrap_or_else(|| panic!("{name}: no answer"));
            }
            let told = raw.farewell().await;
            assert!(start.elapsed() >= LIMIT.mul_f64(0.9), "{name}: cut off after {:?}", start.elapsed());
            assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "57014"), "{name}: {told:?}");
            assert!(told.detail.contains("limits.login_timeout"), "{name}: {told:?}");
        }
    });
    futures_util::future::join_all(all).await;
    // Who hangs up in the middle leaves nothing behind.
    for (_, bytes, _) in table {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        raw.send(bytes).await;
        raw.vanish();
    }
    stand.proxy.wait_for_metric("pgsluice_clients", &["state=\"login\""], |value| value == 0.0).await;
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_before_the_startup_packet() {
    let stand = Stand::start(0, SECTIONS).await;
    let options = stand.cluster.options();
    let parameters = [("user", options.app.user.as_str()), ("database", "app")];

    // Each once is fine, and no is the answer to both.
    let mut raw = Raw::connect(&stand.proxy.address).await;
    for request in [GSS_REQUEST, SSL_REQUEST] {
        raw.send(&request).await;
        assert_eq!(raw.byte().await, Some(b'N'));
    }
    raw.send(&startup(V3, &parameters)).await;
    raw.authenticate(&options.app.password).await;

    // Again and again is not.
    let mut raw = Raw::connect(&stand.proxy.address).await;
    let mut answers = 0;
    let told = loop {
        raw.send(&SSL_REQUEST).await;
        match raw.byte().await {
            Some(b'N') => answers += 1,
            Some(b'E') => break true,
            other => panic!("{other:?}"),
        }
        assert!(answers < 10, "SSLRequests are answered for ever");
    };
    assert!(told);
    raw.drain().await;

    // 3.2 is spoken; of what is newer, and of options, the client is told what is not.
    for (version, further, told) in [
        (V3, None, None),
        (V3 + 2, None, None),
        (V3 + 99, None, Some((V3 + 2, vec![]))),
        (V3, Some("_pq_.nonesuch"), Some((V3, vec!["_pq_.nonesuch"]))),
        (V3 + 99, Some("_pq_.nonesuch"), Some((V3 + 2, vec!["_pq_.nonesuch"]))),
    ] {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        let parameters: Vec<_> = parameters.into_iter().chain(further.map(|name| (name, "1"))).collect();
        raw.send(&startup(version, &parameters)).await;
        if let Some((newest, refused)) = told {
            let body = raw.expect(tag::NEGOTIATE_PROTOCOL_VERSION).await;
            // The whole version number: what PostgreSQL sends and libpq reads, whatever its documentation says.
            assert_eq!(body[..4], newest.to_be_bytes());
            assert_eq!(body[4..8], i32::try_from(refused.len()).unwrap().to_be_bytes());
            assert_eq!(body[8..], refused.iter().flat_map(|name| format!("{name}\0").into_bytes()).collect::<Vec<_>>());
        }
        raw.authenticate(&options.app.password).await;
        let greeting = raw.until(tag::READY_FOR_QUERY).await;
        let key = greeting.iter().find(|(tag, _)| *tag == tag::BACKEND_KEY_DATA).expect("a key");
        assert_eq!(key.1.len(), if version >= V3 + 2 { 4 + 32 } else { 4 + 4 });
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_that_is_none() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let first = |message: &[u8]| initial_response("SCRAM-SHA-256", message);
    let mut wrong: Vec<(String, Vec<u8>, &str)> = [
        ("a Query", frame(b'Q', b"SELECT 1\0")),
        ("a Parse", parse("", "SELECT 1")),
        ("an empty message", frame(b'p', b"")),
        ("a length of 0", frame_of_length(b'p', 0, b"")),
        ("a length of 3", frame_of_length(b'p', 3, b"")),
        ("a negative length", frame_of_length(b'p', -1, b"")),
        ("a length of 2 GiB", frame_of_length(b'p', i32::MAX, b"")),
        ("a gigabyte begun", frame_of_length(b'p', 1 << 29, &[b'x'; 70_000])),
        ("garbage", frame(b'p', &[0xff; 200])),
        ("a password", frame(b'p', b"secret\0")),
        ("another mechanism", initial_response("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc")),
        ("no mechanism", initial_response("", b"n,,n=,r=abc")),
        ("no first message", frame(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff")),
        ("a first message that is longer", frame(b'p', b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=")),
        ("a first message that is shorter", frame(b'p', b"SCRAM-SHA-256\0\0\0\0\x01n,,n=,r=")),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes, "08P01"))
    .collect();
    for message in [
        "",
        ",",
        ",,",
        "n",
        "n,",
        "n,,",
        "n,,n=",
        "n,,r=abc",
        "n,,n=",
        "x,,n=,r=abc",
        "p=tls-unique,,n=,r=abc",
        "n,,m=ext,n=,r=abc",
        "=,=,=",
        "n,,n,r",
        "\u{0}\u{0}\u{0}",
        "é,é,é=é",
    ] {
        wrong.push((format!("first message {message:?}"), first(message.as_bytes()), "08P01"));
    }
    wrong.push(("a first message that is no text".into(), first(b"n,,n=\xff\xfe,r=\xff"), "08P01"));
    for (name, bytes, code) in wrong {
        let mut raw = ask(&stand, "app").await;
        raw.send(&bytes).await;
        let told = raw.farewell().await;
        assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", code), "{name}: {told:?}");
    }
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_that_proves_nothing() {
    let stand = Stand::start(0, SECTIONS).await;
    let bystander = Bystander::start(&stand).await;
    let user = stand.cluster.options().app.user.as_str();
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let forms = [
        "c=biws,r={nonce},p={zeros}",
        "c=biws,r=other,p={zeros}",
        "c=biws,r={nonce}x,p={zeros}",
        "c=biws,r=,p={zeros}",
        "c=AAAA,r={nonce},p={zeros}",
        "c=,r={nonce},p={zeros}",
        "c=biws,r={nonce},p=AAAA",
        "c=biws,r={nonce},p=",
        "c=biws,r={nonce},p={zeros}{zeros}",
        "c=biws,r={nonce},p=!!!!",
        "c=biws,r={nonce}",
        "c=biws",
        "p={zeros}",
        "",
        ",",
        ",p=",
        "\u{0}",
        "é",
    ];
    for who in [user, "nobody-at-all", "", "x'\"\\;é"].into_iter().filter(|name| !name.is_empty()) {
        for form in forms {
            let mut raw = ask(&stand, who).await;
            raw.send(&initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdefgh")).await;
            let challenge = raw.expect(tag::AUTHENTICATION).await;
            let challenge = String::from_utf8(challenge[4..].to_vec()).expect("text");
            let nonce = challenge.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
            assert!(nonce.starts_with("abcdefgh") && nonce.len() >= 8 + 18, "{challenge}");
            raw.send(&frame(b'p', form.replace("{nonce}", nonce).replace("{zeros}", zeros).as_bytes())).await;
            let told = raw.farewell().await;
            assert_eq!(told.severity, "FATAL");
            assert!(["28P01", "08P01"].contains(&told.code.as_str()), "{who} {form}: {told:?}");
            if told.code == "28P01" {
                assert_eq!(told.message, format!("password authentication failed for user \"{who}\""));
            }
        }
    }
    // A user that does not exist is asked in the same way, and with the same salt each time.
    let mut salts = Vec::new();
    for who in [user, user, "nobody", "nobody", "somebody"] {
        let mut raw = ask(&stand, who).await;
        raw.send(&initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdefgh")).await;
        let challenge = raw.expect(tag::AUTHENTICATION).await;
        let challenge = String::from_utf8(challenge[4..].to_vec()).expect("text");
        salts.push(challenge.split_once(',').expect("a salt").1.to_owned());
    }
    assert_eq!((&salts[0], &salts[2]), (&salts[1], &salts[3]));
    assert_ne!(salts[2], salts[4]);
    // A driver is told what PostgreSQL would tell it.
    for url in
        [stand.url().replace(&stand.cluster.options().app.password, "wrong"), stand.url().replace("app:", "nobody:")]
    {
        let error = crate::support::try_connect(&url).await.expect_err("refused");
        assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error:?}");
    }
    assert!(!stand.proxy.log_text().contains(&stand.cluster.options().app.password));
    bystander.leave_undisturbed(&stand).await;
    stand.stop().await;
}

/// A connection that has been asked for its SCRAM message.
async fn ask(stand: &Stand, user: &str) -> Raw {
    let mut raw = Raw::connect(&stand.proxy.address).await;
    raw.send(&startup(V3, &[("user", user), ("database", "app")])).await;
    let body = tokio::time::timeout(DEADLINE, raw.expect(tag::AUTHENTICATION)).await.expect("asked in time");
    assert_eq!(body, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    raw
}
