//! TLS between clients and the proxy: `listen.tls` in every mode, certificates of clients, channel binding, direct
//! negotiation, and files that change.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use pgsluice::tls::{DriverTls, Outbound, SslMode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use support::certificates::{Authority, write};
use support::{DEADLINE, Stand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

/// A proxy whose certificate and whose clients' certificates come from one authority.
struct Tls {
    folder: tempfile::TempDir,
    authority: Authority,
    stand: Stand,
}

impl Tls {
    async fn start(mode: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("authority");
        authority.sign("proxy", &["localhost", "127.0.0.1"]).write(folder.path(), "server");
        write(&folder.path().join("root.crt"), &authority.pem);
        let file = |name: &str| folder.path().join(name);
        let listen = format!(
            "tls = \"{mode}\"\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
            file("server.crt"),
            file("server.key"),
            file("root.crt")
        );
        let stand = Stand::start_listening(0, &listen, "[auth]\nmethod = \"scram-sha-256\"").await;
        Self { folder, authority, stand }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Changes the config, and waits until it holds.
    async fn change(&self, from: &str, to: &str) {
        self.reload(|| self.stand.proxy.rewrite_config(|text| text.replace(from, to))).await;
    }

    /// Waits until a change of the files has been taken up.
    async fn reload(&self, change: impl FnOnce()) {
        self.look_at_files("applied", change).await;
    }

    /// Waits until a change of the files has been refused.
    async fn refused(&self, change: impl FnOnce()) {
        self.look_at_files("refused", change).await;
    }

    async fn look_at_files(&self, outcome: &str, change: impl FnOnce()) {
        let (name, label) = ("pgsluice_config_reloads_total", format!("outcome=\"{outcome}\""));
        let before = self.stand.proxy.metric(name, &[&label]).await.unwrap_or(0.0);
        change();
        self.stand.proxy.wait_for_metric(name, &[&label], |count| count > before).await;
    }

    /// `sslmode` and what goes with it, in a connection string.
    fn url(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.stand.url())
    }

    fn with(&self, (cert, key): &(PathBuf, PathBuf)) -> String {
        self.url(&format!("sslmode=require&sslcert={}&sslkey={}", cert.display(), key.display()))
    }

    /// The driver, which believes this authority.
    fn driver(&self, root: &Path) -> DriverTls {
        DriverTls(Arc::new(Outbound::load(SslMode::VerifyFull, Some(root), None).expect("TLS")))
    }

    async fn connect(
        &self,
        change: impl FnOnce(&mut tokio_postgres::Config),
    ) -> Result<tokio_postgres::Client, String> {
        let mut config: tokio_postgres::Config = self.stand.url().parse().expect("a URL");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        change(&mut config);
        let connected = config.connect(self.driver(&self.path().join("root.crt"))).await;
        let (client, connection) = connected.map_err(|error| text(&error))?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// An error with its sources.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What psql prints, and whether it succeeded.
async fn psql(url: &str) -> (bool, String) {
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-A", "-t", "-c", "SELECT 40 + 2", url]).env("LC_ALL", "C").env("HOME", "/nonexistent");
    let output = tokio::time::timeout(DEADLINE, command.stdin(Stdio::null()).output()).await;
    let output = output.expect("psql ends").expect("psql runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

async fn succeeds(url: &str) {
    assert_eq!(psql(url).await, (true, "42\n".to_owned()), "{url}");
}

async fn fails(url: &str, with: &str) {
    let (ok, text) = psql(url).await;
    assert!(!ok && text.contains(with), "{url}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_takes_whom_it_should() {
    let tls = Tls::start("off").await;
    let good = tls.authority.sign("app", &[]).write(tls.path(), "good");
    let stranger = Authority::new("stranger").sign("app", &[]).write(tls.path(), "stranger");
    let expired = tls.authority.sign_expired("app", &[]).write(tls.path(), "expired");

    fails(&tls.url("sslmode=require"), "server does not support SSL").await;
    succeeds(&tls.url("sslmode=prefer")).await;
    let mut now = "off";
    for (mode, without_tls, without_certificate) in
        [("prefer", true, true), ("require", false, true), ("verify-client", false, false)]
    {
        tls.change(&format!("tls = \"{now}\""), &format!("tls = \"{mode}\"")).await;
        now = mode;
        let plain = tls.url("sslmode=disable");
        if without_tls {
            succeeds(&plain).await;
        } else {
            fails(&plain, "this server takes only encrypted connections").await;
        }
        if without_certificate {
            succeeds(&tls.url("sslmode=require")).await;
        } else {
            fails(&tls.url("sslmode=require"), "connection requires a valid client certificate").await;
        }
        let root = tls.path().join("root.crt");
        let (cert, key) = (good.0.display(), good.1.display());
        succeeds(&tls.url(&format!("sslmode=verify-full&sslrootcert={}&sslcert={cert}&sslkey={key}", root.display())))
            .await;
        // A certificate that does not hold is worse than none.
        fails(&tls.with(&stranger), "unknown ca").await;
        fails(&tls.with(&expired), "certificate expired").await;
    }
    tls.stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_proves_who_the_user_is() {
    let tls = Tls::start("verify-client").await;
    let app = tls.authority.sign("app", &[]).write(tls.path(), "app");
    let other = tls.authority.sign("other", &[]).write(tls.path(), "other");
    // With SCRAM, any certificate of the authority will do, and the password must be right all the same.
    succeeds(&tls.with(&other)).await;
    let wrong = tls.with(&other).replace(&tls.stand.cluster.options().app.password, "wrong");
    fails(&wrong, "password authentication failed for user \"app\"").await;

    tls.change("method = \"scram-sha-256\"", "method = \"cert\"").await;
    succeeds(&tls.with(&app).replace(&tls.stand.cluster.options().app.password, "any")).await;
    fails(&tls.with(&other), "certificate authentication failed for user \"app\"").await;
    fails(&tls.url("sslmode=require"), "connection requires a valid client certificate").await;
    tls.change("tls = \"verify-client\"", "tls = \"prefer\"").await;
    succeeds(&tls.with(&app)).await;
    fails(&tls.url("sslmode=require"), "connection requires a valid client certificate").await;
    fails(&tls.url("sslmode=disable"), "this server takes only encrypted connections").await;
    tls.stand.stop().await;
}

/// The stages of a SCRAM login over TLS by hand: the mechanisms that are offered, and what comes of one message.
async fn first_message(tls: &Tls, mechanism: &str, message: &str) -> (Vec<String>, Vec<u8>) {
    let mut tcp = TcpStream::connect(&tls.stand.proxy.address).await.unwrap();
    tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'S');
    let outbound = Outbound::load(SslMode::Require, None, None).unwrap();
    let mut stream = outbound.encrypt("localhost", tcp).await.unwrap();
    stream.write_all(&support::unruly::startup(support::unruly::V3, &[("user", "app")])).await.unwrap();
    let body = read_message(&mut stream).await;
    let offered = body[5 + 4..].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let offered = offered.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [mechanism.as_bytes(), b"\0", &length, message.as_bytes()].concat();
    stream.write_all(&support::raw::frame(b'p', &body)).await.unwrap();
    (offered, read_message(&mut stream).await)
}

async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut header = [0; 5];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut header)).await.expect("a message").expect("a message");
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.unwrap();
    [&header[..], &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_bound_to_the_certificate() {
    let tls = Tls::start("prefer").await;
    succeeds(&tls.url("sslmode=require&channel_binding=require")).await;
    succeeds(&tls.url("sslmode=require&channel_binding=disable")).await;
    fails(&tls.url("sslmode=disable&channel_binding=require"), "channel binding").await;
    let client = tls
        .connect(|config| {
            config.channel_binding(ChannelBinding::Require);
        })
        .await
        .expect("it is let in");
    assert_eq!(client.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);

    // Somebody in between has told the client that there is no channel binding.
    let (offered, told) = first_message(&tls, "SCRAM-SHA-256", "y,,n=,r=abcdefgh").await;
    assert_eq!(offered, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("C28000") && told.contains("SCRAM channel binding negotiation error"), "{told}");
    let (_, told) = first_message(&tls, "SCRAM-SHA-256", "n,,n=,r=abcdefgh").await;
    assert_eq!(told[..9], [&b"R"[..], &told[1..5], &[0, 0, 0, 11]].concat(), "a challenge");
    let (_, told) = first_message(&tls, "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=abcdefgh").await;
    assert!(String::from_utf8_lossy(&told).contains("unsupported SCRAM channel-binding type"));

    // A certificate with a signature that RFC 5929 has no hash for: no binding, and no trouble for who can do without.
    tls.reload(|| drop(tls.authority.sign_ed25519("proxy", &["localhost", "127.0.0.1"]).write(tls.path(), "server")))
        .await;
    let (offered, _) = first_message(&tls, "SCRAM-SHA-256", "y,,n=,r=abcdefgh").await;
    assert_eq!(offered, ["SCRAM-SHA-256"]);
    succeeds(&tls.url("sslmode=require")).await;
    fails(&tls.url("sslmode=require&channel_binding=require"), "channel binding").await;
    tls.stand.stop().await;
}

/// Of a client that believes this authority and shows no certificate.
fn rustls_config(tls: &Tls) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(tls.authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// What a client hears that begins with a handshake, with this protocol by ALPN.
async fn begin_directly(tls: &Tls, alpn: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut config = rustls_config(tls);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(&tls.stand.proxy.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let connected = tokio::time::timeout(DEADLINE, connector.connect(name, tcp)).await.expect("an answer");
    let mut stream = connected.map_err(|error| error.to_string())?;
    stream.write_all(&support::unruly::startup(support::unruly::V3, &[("user", "app")])).await.ok();
    Ok(read_message(&mut stream).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_begin_with_the_handshake() {
    let tls = Tls::start("require").await;
    let client = tls
        .connect(|config| {
            config.ssl_negotiation(SslNegotiation::Direct);
        })
        .await
        .expect("it is let in");
    assert_eq!(client.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
    let asked_for_password = begin_directly(&tls, &[b"h2", b"postgresql"]).await.unwrap();
    assert_eq!(asked_for_password[0], b'R');

    let told = begin_directly(&tls, &[]).await.unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("C08P01") && told.contains("without ALPN"), "{told}");
    let error = begin_directly(&tls, &[b"h2"]).await.unwrap_err();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    tls.change("tls = \"require\"", "tls = \"off\"").await;
    begin_directly(&tls, &[b"postgresql"]).await.unwrap_err();
    succeeds(&tls.url("sslmode=disable")).await;
    tls.stand.stop().await;
}

/// The certificate that the proxy shows; some tests' authority must have signed it.
async fn shown(tls: &Tls) -> Vec<u8> {
    let mut config = rustls_config(tls);
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let tcp = TcpStream::connect(&tls.stand.proxy.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), tcp);
    let stream = tokio::time::timeout(DEADLINE, connecting).await.expect("an answer").expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_on_sighup_and_when_they_change() {
    let tls = Tls::start("prefer").await;
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name);
    let made: Vec<_> = (0..4).map(|n| tls.authority.sign(&format!("proxy {n}"), &["localhost"])).collect();
    let der = |n: usize| CertificateDer::from_pem_slice(made[n].cert.as_bytes()).unwrap().to_vec();
    for (version, n) in [("a", 0), ("b", 1), ("c", 2)] {
        std::fs::create_dir(at(version)).unwrap();
        made[n].write(&at(version), "server");
    }
    // Turning a link in the middle of the path is nothing that a watch on the files' directory sees.
    let turn = |version: &str| {
        std::os::unix::fs::symlink(version, at("new")).unwrap();
        std::fs::rename(at("new"), at("live")).unwrap();
    };
    turn("a");
    let (from, to) = (tls.path().join("server.").display().to_string(), at("live/server.").display().to_string());
    tls.change(&from, &to).await;
    assert_eq!(shown(&tls).await, der(0));

    tls.reload(|| {
        turn("b");
        tls.stand.proxy.signal(nix::sys::signal::Signal::SIGHUP);
    })
    .await;
    assert_eq!(shown(&tls).await, der(1));
    let log = tls.stand.proxy.log_text();
    assert!(log.contains("the config was reloaded cause=\"SIGHUP\""), "{log}");

    // Without a signal: first one that is none, then one that is.
    tls.refused(|| write(&at("b/server.crt"), "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")).await;
    assert_eq!(shown(&tls).await, der(1));
    let log = tls.stand.proxy.log_text();
    assert!(log.contains("the new config is refused, the old one stays") && log.contains("server.crt"), "{log}");
    assert!(log.contains("cause=\"a file has changed\""), "{log}");
    tls.reload(|| drop(made[3].write(&at("b"), "server"))).await;
    assert_eq!(shown(&tls).await, der(3));

    // The same with a signal: a key of another certificate.
    write(&at("c/server.key"), &made[0].key);
    tls.refused(|| {
        turn("c");
        tls.stand.proxy.signal(nix::sys::signal::Signal::SIGHUP);
    })
    .await;
    assert_eq!(shown(&tls).await, der(3));
    assert!(tls.stand.proxy.log_text().contains("does not hold the private key of the certificate in"));
    tls.reload(|| write(&at("c/server.key"), &made[2].key)).await;
    assert_eq!(shown(&tls).await, der(2));
    tls.stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_handshakes_are_counted_by_cause() {
    let tls = Tls::start("verify-client").await;
    let address = tls.stand.proxy.address.clone();
    let asking = async || {
        let mut raw = support::unruly::Raw::connect(&address).await;
        raw.send(&support::unruly::SSL_REQUEST).await;
        assert_eq!(raw.byte().await, Some(b'S'));
        raw
    };
    drop(asking().await);
    let mut raw = asking().await;
    raw.send(b"GET / HTTP/1.1\r\n\r\n").await;
    raw.drain().await;
    let stranger = Authority::new("stranger");
    fails(&tls.with(&stranger.sign("app", &[]).write(tls.path(), "stranger")), "unknown ca").await;
    let root = tls.path().join("stranger-root.crt");
    write(&root, &stranger.pem);
    fails(&tls.url(&format!("sslmode=verify-ca&sslrootcert={}", root.display())), "certificate verify failed").await;
    begin_directly(&tls, &[b"h2"]).await.unwrap_err();
    let counts = [
        ("gone", 1.0),
        ("invalid", 1.0),
        ("certificate", 1.0),
        ("refused_by_client", 1.0),
        ("nothing_in_common", 1.0),
        ("not_offered", 0.0),
    ];
    for (cause, count) in counts {
        let label = format!("cause=\"{cause}\"");
        let name = "pgsluice_tls_handshake_failures_total";
        tls.stand.proxy.wait_for_metric(name, &[&label], |now| now == count).await;
    }
    tls.change("tls = \"verify-client\"", "tls = \"off\"").await;
    begin_directly(&tls, &[b"postgresql"]).await.unwrap_err();
    let label = ["cause=\"not_offered\""];
    tls.stand.proxy.wait_for_metric("pgsluice_tls_handshake_failures_total", &label, |now| now == 1.0).await;
    tls.stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_hold_for_new_connections() {
    let tls = Tls::start("verify-client").await;
    let app = tls.authority.sign("app", &[]).write(tls.path(), "app");
    tls.change("tls = \"verify-client\"", "tls = \"prefer\"").await;
    let client = tls.connect(|_| {}).await.expect("it is let in");
    tls.change("tls = \"prefer\"", "tls = \"verify-client\"").await;
    succeeds(&tls.with(&app)).await;

    // A key that is not the certificate's: the old pair stays, and it is said what is wrong.
    let refused = ["outcome=\"refused\""];
    let stranger = tls.authority.sign("stranger", &["127.0.0.1"]);
    let key = std::fs::read_to_string(tls.path().join("server.key")).unwrap();
    write(&tls.path().join("server.key"), &stranger.key);
    tls.stand.proxy.wait_for_metric("pgsluice_config_reloads_total", &refused, |count| count > 0.0).await;
    succeeds(&tls.with(&app)).await;
    let log = tls.stand.proxy.log_text();
    assert!(log.contains("does not hold the private key of the certificate in"), "{log}");
    assert!(!log.contains("PRIVATE KEY") && key.lines().nth(1).is_some_and(|line| !log.contains(line)));
    // Its certificate comes a moment later.
    let root = tls.path().join("root.crt");
    let verified = |app: &(PathBuf, PathBuf)| {
        let (cert, key) = (app.0.display(), app.1.display());
        tls.url(&format!("sslmode=verify-full&sslrootcert={}&sslcert={cert}&sslkey={key}", root.display()))
    };
    tls.reload(|| write(&tls.path().join("server.crt"), &stranger.cert)).await;
    succeeds(&verified(&app)).await;
    fails(&verified(&app).replace("127.0.0.1", "localhost"), "does not match host name").await;

    // The authority is replaced: who was trusted is so no more, and whoever is there already stays.
    let new = Authority::new("new");
    tls.reload(|| write(&root, &new.pem)).await;
    fails(&tls.with(&app), "unknown ca").await;
    succeeds(&tls.with(&new.sign("app", &[]).write(tls.path(), "new"))).await;
    assert_eq!(client.query_one("SELECT 7", &[]).await.expect("it stays").get::<_, i32>(0), 7);
    tls.stand.stop().await;
}
