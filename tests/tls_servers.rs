//! TLS between the proxy and the servers: `sslmode` for the pool's connections, the monitor's, and cancel requests.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgsluice::demo::{Cluster, ClusterOptions, proxy_config};
use pgsluice::tls::{Inbound, Outbound, SslMode};
use support::certificates::{Authority, Signed, write};
use support::{DEADLINE, ProxyProcess, connect, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SSL_REQUEST: [u8; 8] = support::unruly::SSL_REQUEST;

/// Servers with TLS, whose clients' certificates come from `clients`.
async fn cluster(certificate: &Signed, clients: &Authority, replicas: usize) -> Cluster {
    let certificate = Some(certificate.for_servers(Some(clients)));
    Cluster::start(ClusterOptions { certificate, ..ClusterOptions::with_replicas(replicas) })
        .await
        .expect("the cluster")
}

/// What every line of `pg_hba.conf` for TCP begins and ends with.
async fn allow(cluster: &Cluster, kind: &str, options: &str) {
    let text = format!("local all all trust\n{kind} all all 127.0.0.1/32 scram-sha-256 {options}\n");
    for server in cluster.servers() {
        std::fs::write(server.data_dir().join("pg_hba.conf"), &text).expect("written");
        server.sql("SELECT pg_reload_conf()").await.expect("reloaded");
    }
}

fn url(cluster: &Cluster, proxy: &ProxyProcess) -> String {
    let options = cluster.options();
    format!("postgresql://{}:{}@{}/{}", options.app.user, options.app.password, proxy.address, options.database)
}

/// Changes the shard's lines that begin with `ssl`, and waits until the config holds.
async fn set(proxy: &ProxyProcess, lines: &str) {
    let applied = ["outcome=\"applied\""];
    let before = proxy.metric("pgsluice_config_reloads_total", &applied).await.unwrap_or(0.0);
    proxy.rewrite_config(|text| {
        let kept = text.lines().filter(|line| !line.starts_with("ssl")).collect::<Vec<_>>().join("\n");
        format!("{kept}\n{lines}\n")
    });
    proxy.wait_for_metric("pgsluice_config_reloads_total", &applied, |count| count > before).await;
}

/// Waits until the monitor sees the primary, or does not; a new connection is needed for that.
async fn wait_up(cluster: &Cluster, proxy: &ProxyProcess, up: bool) {
    // Whatever was connected before the change is gone.
    cluster
        .primary()
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        .await
        .expect("terminated");
    let node = format!("node=\"{}\"", cluster.primary().address());
    proxy.wait_for_metric("pgsluice_node_up", &[&node], |value| (value > 0.0) == up).await;
}

/// Whether the statement's connection is encrypted, once there is one.
async fn is_encrypted(url: &str) -> bool {
    let start = std::time::Instant::now();
    let client = loop {
        match try_connect(url).await {
            Ok(client) => break client,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.expect("a row");
    row.get(0)
}

/// Waits until all of the monitor's connections are encrypted, or none, and there are some.
async fn wait_monitor(cluster: &Cluster, encrypted: bool) {
    let sql = format!(
        "SELECT bool_and(ssl = {encrypted}) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'pgsluice_monitor'"
    );
    let start = std::time::Instant::now();
    while cluster.primary().sql(&sql).await.expect("rows")[0][0].as_deref() != Some("t") {
        assert!(start.elapsed() < DEADLINE, "the monitor is not encrypted as it should be ({encrypted})");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn logged(proxy: &ProxyProcess, text: &str) {
    let start = std::time::Instant::now();
    while !proxy.log_text().contains(text) {
        assert!(start.elapsed() < DEADLINE, "{text:?} is not in:\n{}", proxy.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lines(folder: &Path, mode: &str, files: &[&str]) -> String {
    let file = |name: &&str| format!("{name} = {:?}\n", folder.join(name));
    format!("sslmode = \"{mode}\"\n{}", files.iter().map(file).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_means_what_it_means_to_libpq() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let cluster = cluster(&authority.sign("db", &["127.0.0.1"]), &authority, 0).await;
    write(&folder.path().join("sslrootcert"), &authority.pem);
    let proxy = ProxyProcess::start_with_config(&proxy_config(&cluster, "")).await;
    let url = url(&cluster, &proxy);
    // The default is `prefer`: what can be encrypted is.
    wait_up(&cluster, &proxy, true).await;
    assert!(is_encrypted(&url).await);
    wait_monitor(&cluster, true).await;

    for (mode, expected) in [("disable", false), ("require", true), ("verify-ca", true), ("verify-full", true)] {
        let files: &[&str] = if mode.starts_with("verify") { &["sslrootcert"] } else { &[] };
        set(&proxy, &lines(folder.path(), mode, files)).await;
        // What was connected before is not used again.
        assert_eq!(is_encrypted(&url).await, expected, "{mode}");
        wait_up(&cluster, &proxy, true).await;
        wait_monitor(&cluster, expected).await;
    }

    // Not an authority that is believed, by the change of the file alone.
    write(&folder.path().join("sslrootcert"), &stranger.pem);
    logged(&proxy, "shards[main]: what the certificate files hold: changed").await;
    wait_up(&cluster, &proxy, false).await;
    logged(&proxy, "UnknownIssuer").await;
    // `require` verifies as well where there is something to verify with.
    set(&proxy, &lines(folder.path(), "require", &["sslrootcert"])).await;
    wait_up(&cluster, &proxy, false).await;
    // `prefer` does not, and what the server will not have encrypted goes without.
    set(&proxy, &lines(folder.path(), "prefer", &["sslrootcert"])).await;
    wait_up(&cluster, &proxy, true).await;
    assert!(is_encrypted(&url).await);
    allow(&cluster, "hostnossl", "").await;
    wait_up(&cluster, &proxy, true).await;
    assert!(!is_encrypted(&url).await);
    // A server that wants TLS is not served by `disable`.
    allow(&cluster, "hostssl", "").await;
    set(&proxy, &lines(folder.path(), "disable", &[])).await;
    wait_up(&cluster, &proxy, false).await;
    logged(&proxy, "no encryption").await;
    proxy.stop().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_counts_in_verify_full_alone() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let cluster = cluster(&authority.sign("db", &["db.example"]), &authority, 0).await;
    write(&folder.path().join("sslrootcert"), &authority.pem);
    let config = proxy_config(&cluster, &lines(folder.path(), "verify-ca", &["sslrootcert"]));
    let proxy = ProxyProcess::start_with_config(&config).await;
    wait_up(&cluster, &proxy, true).await;
    assert!(is_encrypted(&url(&cluster, &proxy)).await);
    set(&proxy, &lines(folder.path(), "verify-full", &["sslrootcert"])).await;
    wait_up(&cluster, &proxy, false).await;
    logged(&proxy, "not valid for name").await;

    // A server's certificate that has run out is believed by nobody who looks.
    set(&proxy, &lines(folder.path(), "verify-ca", &["sslrootcert"])).await;
    wait_up(&cluster, &proxy, true).await;
    let expired = authority.sign_expired("db", &["127.0.0.1"]);
    std::fs::write(cluster.primary().data_dir().join("server.crt"), &expired.cert).unwrap();
    std::fs::write(cluster.primary().data_dir().join("server.key"), &expired.key).unwrap();
    cluster.primary().sql("SELECT pg_reload_conf()").await.unwrap();
    wait_up(&cluster, &proxy, false).await;
    logged(&proxy, "expired").await;
    proxy.stop().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_ask_for_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let cluster = cluster(&authority.sign("db", &["127.0.0.1"]), &authority, 0).await;
    allow(&cluster, "hostssl", "clientcert=verify-ca").await;
    let ours = authority.sign("pgsluice", &[]);
    write(&folder.path().join("sslcert"), &ours.cert);
    write(&folder.path().join("sslkey"), &ours.key);
    let proxy = ProxyProcess::start_with_config(&proxy_config(&cluster, "sslmode = \"require\"")).await;
    logged(&proxy, "connection requires a valid client certificate").await;
    set(&proxy, &lines(folder.path(), "require", &["sslcert", "sslkey"])).await;
    wait_up(&cluster, &proxy, true).await;
    assert!(is_encrypted(&url(&cluster, &proxy)).await);
    proxy.stop().await;
    cluster.shutdown().await.unwrap();
}

/// Stands between the proxy and a server: passes everything on, and remembers how each connection began.
async fn eavesdropper(server: String) -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, all) = (server.clone(), Arc::clone(&all));
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let mut first = [0; 8];
                client.read_exact(&mut first).await.unwrap();
                server.write_all(&first).await.unwrap();
                server.read_exact(&mut first[..1]).await.unwrap();
                client.write_all(&first[..1]).await.unwrap();
                let mut then = [0; 8];
                client.read_exact(&mut then).await.unwrap();
                let began = [&[first[0]], &then[..]].concat();
                all.lock().unwrap().push(began);
                server.write_all(&then).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_requests_are_encrypted_too() {
    let authority = Authority::new("authority");
    let cluster = cluster(&authority.sign("db", &["127.0.0.1"]), &authority, 0).await;
    let (address, heard) = eavesdropper(cluster.primary().address()).await;
    let config = proxy_config(&cluster, "sslmode = \"require\"").replace(&cluster.primary().address(), &address);
    let proxy = ProxyProcess::start_with_config(&config).await;
    proxy.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;
    let client = connect(&url(&cluster, &proxy)).await;
    let token = client.cancel_token();
    let sleeping =
        tokio::spawn(async move { client.batch_execute("CREATE TEMP TABLE t (); SELECT pg_sleep(600)").await });
    let is_running = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()";
    while cluster.primary().sql(is_running).await.unwrap()[0][0].as_deref() != Some("t") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = heard.lock().unwrap().len();
    token.cancel_query(tokio_postgres::NoTls).await.expect("the request is taken");
    let error = tokio::time::timeout(DEADLINE, sleeping).await.expect("it ends").unwrap().expect_err("it is cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error}");
    let heard = heard.lock().unwrap().clone();
    assert!(heard.len() > before, "the request went another way");
    for began in heard.iter() {
        // The server said yes, and a handshake began.
        assert_eq!(began[..2], [b'S', 0x16], "{began:?}");
    }
    proxy.stop().await;
    cluster.shutdown().await.unwrap();
}

/// Poses as the server, with a certificate of its own, and passes on what it then reads in plain text.
async fn impostor(server: String, folder: &Path) -> String {
    let (cert, key) = Authority::new("impostor").sign("db", &["127.0.0.1"]).write(folder, "impostor");
    let inbound = Inbound::load(&cert, &key, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, acceptor) = (server.clone(), inbound.acceptor().clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                assert_eq!(request, SSL_REQUEST);
                client.write_all(b"S").await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut tcp = TcpStream::connect(server).await.unwrap();
                tcp.write_all(&SSL_REQUEST).await.unwrap();
                assert_eq!(tcp.read_u8().await.unwrap(), b'S');
                let outbound = Outbound::load(SslMode::Require, None, None).unwrap();
                let mut server = outbound.encrypt("127.0.0.1", tcp).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_finds_out_who_is_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let cluster = cluster(&authority.sign("db", &["127.0.0.1"]), &authority, 0).await;
    let (server, impostor) = (cluster.primary().address(), impostor(cluster.primary().address(), folder.path()).await);
    let proxy = ProxyProcess::start_with_config(&proxy_config(&cluster, "sslmode = \"require\"")).await;
    wait_up(&cluster, &proxy, true).await;
    assert!(is_encrypted(&url(&cluster, &proxy)).await);
    // `require` verifies nothing, and yet the passwords are of no use to whoever poses as the server: not to the
    // monitor ...
    let other =
        ProxyProcess::start_with_config(&proxy_config(&cluster, "sslmode = \"require\"").replace(&server, &impostor))
            .await;
    logged(&other, "SCRAM channel binding check failed").await;
    other.stop().await;
    // ... nor to the pool: its login goes wherever the monitor, which needs no password here, has found a server.
    std::fs::write(
        cluster.primary().data_dir().join("pg_hba.conf"),
        format!(
            "local all all trust\nhost all {} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
            cluster.options().monitor.user
        ),
    )
    .unwrap();
    cluster.primary().sql("SELECT pg_reload_conf()").await.unwrap();
    let other =
        ProxyProcess::start_with_config(&proxy_config(&cluster, "sslmode = \"require\"").replace(&server, &impostor))
            .await;
    other.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;
    let error = try_connect(&url(&cluster, &other)).await.expect_err("it is refused");
    let told = error.as_db_error().expect("told why");
    assert_eq!((told.code().code(), told.message()), ("28000", "SCRAM channel binding check failed"));
    other.stop().await;
    proxy.stop().await;
    cluster.shutdown().await.unwrap();
}
