//! `listen.tls`: who is taken in with TLS, and who without.

use std::path::Path;
use std::process::Stdio;

use crate::bystander::assert_no_defect;
use crate::support::unruly::{Raw, SSL_REQUEST, V3, startup};
use crate::support::{Stand, has_program};

/// A certificate for the loopback, and the lines of `[listen]` that use it.
fn certificate(folder: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.join("server.crt"), folder.join("server.key"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    format!("cert = {cert:?}\nkey = {key:?}\n")
}

async fn stand(folder: &Path, mode: &str) -> Stand {
    let files = certificate(folder);
    Stand::start_listening(0, &format!("tls = \"{mode}\"\n{files}"), "").await
}

/// What psql prints, and whether it succeeded.
async fn psql(url: &str) -> (bool, String) {
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-A", "-t", "-c", "SELECT 40 + 2", url]).env("LC_ALL", "C").stdin(Stdio::null());
    let output =
        tokio::time::timeout(crate::support::DEADLINE, command.output()).await.expect("psql ends").expect("psql runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn require_takes_nobody_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let stand = stand(folder.path(), "require").await;
    let mut raw = Raw::connect(&stand.proxy.address).await;
    raw.send(&startup(V3, &[("user", "app"), ("database", "app")])).await;
    let told = raw.farewell().await;
    assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "28000"), "{told:?}");
    assert!(told.message.contains("encrypted") && told.hint.contains("sslmode=require"), "{told:?}");
    if has_program("psql") {
        let (ok, text) = psql(&format!("{}?sslmode=disable", stand.url())).await;
        assert!(!ok && text.contains("takes only encrypted connections"), "{text}");
        for mode in ["require", "prefer", "allow"] {
            assert_eq!(psql(&format!("{}?sslmode={mode}", stand.url())).await, (true, "42\n".into()), "{mode}");
        }
        // And it is the certificate of the config that is shown.
        let root = folder.path().join("server.crt");
        let url = format!(
            "{}?sslmode=verify-full&sslrootcert={}",
            stand.url().replace("127.0.0.1", "localhost"),
            root.display()
        );
        assert_eq!(psql(&url).await, (true, "42\n".into()));
    }
    garbage_instead_of_a_handshake(&stand).await;
    assert_no_defect(&stand);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_takes_both() {
    let folder = tempfile::tempdir().unwrap();
    let stand = stand(folder.path(), "prefer").await;
    if has_program("psql") {
        for mode in ["require", "prefer", "allow", "disable"] {
            assert_eq!(psql(&format!("{}?sslmode={mode}", stand.url())).await, (true, "42\n".into()), "{mode}");
        }
    }
    // What was sent in plain text does not become part of what is said under TLS (CVE-2021-23214).
    let mut raw = Raw::connect(&stand.proxy.address).await;
    raw.send(&[&SSL_REQUEST[..], &startup(V3, &[("user", "app")])].concat()).await;
    let told = raw.farewell().await;
    assert_eq!(told.code, "08P01");
    assert!(told.message.contains("unencrypted data after SSL request"), "{told:?}");
    garbage_instead_of_a_handshake(&stand).await;
    assert_no_defect(&stand);
    stand.stop().await;
}

async fn garbage_instead_of_a_handshake(stand: &Stand) {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 20_000], &startup(V3, &[("user", "app")]), b"\x16\x03\x01\xff\xff\x01"]
    {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        raw.send(&SSL_REQUEST).await;
        assert_eq!(raw.byte().await, Some(b'S'));
        raw.send(bytes).await;
        tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await.ok();
        raw.drain().await;
    }
}

/// Clients that begin a handshake, either way, and go silent in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stalls_ends_with_the_login_limit() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path());
    let listen = format!("tls = \"prefer\"\n{files}");
    let stand = Stand::start_listening(0, &listen, "[limits]\nlogin_timeout = \"2s\"").await;
    let before = stand.proxy.memory();
    let mut silent = Vec::new();
    // The beginning of a ClientHello that says that it is long.
    let begun = [&b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03"[..], &[7; 4000]].concat();
    for number in 0..300 {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        if number % 2 == 0 {
            raw.send(&SSL_REQUEST).await;
            assert_eq!(raw.byte().await, Some(b'S'));
        }
        raw.send(&begun).await;
        silent.push(raw);
    }
    stand.proxy.wait_for_metric("pgsluice_clients", &["state=\"login\""], |count| count > 0.0).await;
    // Others are served meanwhile.
    assert_eq!(stand.client().await.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
    let grown = stand.proxy.memory().saturating_sub(before);
    assert!(grown < 300 * 128 * 1024, "{grown} bytes for 300 clients");
    for mut raw in silent {
        raw.drain().await;
    }
    stand.proxy.wait_for_metric("pgsluice_clients", &["state=\"login\""], |count| count == 0.0).await;
    assert_no_defect(&stand);
    stand.stop().await;
}
