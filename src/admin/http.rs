//! `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! Reads what the other parts publish and changes nothing. It never asks a server anything, so that it
//! answers at once whatever state they are in.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::telemetry::Exposition;
use crate::topology::{Admission, Shard, SharedTopology, Topology};

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long scrapes under way may go on after the end was called for.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What the pages are made of.
#[derive(Clone)]
pub struct HttpState {
    /// From [`telemetry::metrics::install`](crate::telemetry::metrics::install).
    pub metrics: Exposition,
    /// Published by the monitor.
    pub topology: SharedTopology,
    /// True from SIGTERM on: not ready any more.
    pub draining: watch::Receiver<bool>,
}

/// Serves until `shutdown` resolves and the answers under way are given.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(async move {
        shutdown.await;
        stop.send_replace(true);
    });
    tokio::select! {
        ended = server.into_future() => ended,
        // An idle keep-alive connection does not hold the end up.
        () = last_answers(stopped) => Ok(()),
    }
}

async fn last_answers(mut stopped: watch::Receiver<bool>) {
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        // The server itself has ended, and says so.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(LAST_ANSWERS).await;
}

/// The pages, for a server of one's own.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(state)
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let text = without_gone_nodes(&state.metrics.render(), &state.topology.load());
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

async fn readyz(State(state): State<HttpState>) -> Response {
    let verdict = if *state.draining.borrow() { Err("draining".to_owned()) } else { ready(&state.topology.load()) };
    match verdict {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Ready: every shard can serve something. That is a primary that answers (it takes writes, and reads where no replica is left),
/// or at least one replica that reads may go to.
///
/// # Errors
/// The first shard that cannot, and why.
pub fn ready(topology: &Topology) -> Result<(), String> {
    if topology.shards.is_empty() {
        return Err("no shard is known yet".to_owned());
    }
    topology.shards.iter().try_for_each(|shard| match shard.primary() {
        Some(primary) if primary.is_reachable() => Ok(()),
        _ if has_readable_replica(shard) => Ok(()),
        Some(primary) => {
            Err(format!("shard {}: the primary {} does not answer, and no replica is fresh", shard.name, primary.name))
        }
        None => Err(format!("shard {}: no primary is known, and no replica is fresh", shard.name)),
    })
}

fn has_readable_replica(shard: &Shard) -> bool {
    shard.replicas().any(|node| matches!(node.admission(), Admission::Admitted | Admission::Probation))
}

/// Drops the series of nodes that have left the config; the recorder itself forgets nothing.
fn without_gone_nodes(text: &str, topology: &Topology) -> String {
    const LABEL: &str = "node=\"";
    let is_known = |line: &str| {
        let Some((_, rest)) = line.split_once(LABEL) else { return true };
        let name = rest.split('"').next().unwrap_or_default();
        topology.shards.iter().flat_map(|shard| &shard.nodes).any(|member| &*member.node.name == name)
    };
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| line.starts_with('#') || is_known(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::topology::{EjectReason, Member, Node, Role};

    fn topology(nodes: &[(&str, Role, bool, Admission)]) -> Topology {
        let nodes = nodes.iter().map(|(host, role, reachable, admission)| {
            let node = Arc::new(Node::new((*host).to_owned(), 5432, 1));
            node.set_reachable(*reachable);
            node.set_admission(*admission, 0);
            Member { node, role: *role }
        });
        Topology { shards: vec![Shard { name: "a".into(), nodes: nodes.collect() }] }
    }

    const OUT: Admission = Admission::Ejected(EjectReason::LagUnknown);

    #[test]
    fn ready_is_a_primary_that_answers_or_a_fresh_replica() {
        use Role::{Primary, Replica, Unknown};
        for (nodes, expected) in [
            (vec![("p", Primary, true, OUT)], Ok(())),
            (vec![("p", Primary, false, OUT), ("r", Replica, true, Admission::Admitted)], Ok(())),
            (vec![("r", Replica, true, Admission::Probation)], Ok(())),
            (
                vec![("p", Primary, false, OUT), ("r", Replica, true, OUT)],
                Err("shard a: the primary p:5432 does not answer, and no replica is fresh"),
            ),
            (vec![("u", Unknown, false, OUT)], Err("shard a: no primary is known, and no replica is fresh")),
            (
                vec![("u", Unknown, true, Admission::Admitted)],
                Err("shard a: no primary is known, and no replica is fresh"),
            ),
        ] {
            assert_eq!(ready(&topology(&nodes)), expected.map_err(str::to_owned), "{nodes:?}");
        }
        assert!(ready(&Topology::default()).is_err());
    }

    #[test]
    fn series_of_nodes_that_left_are_dropped() {
        let text = "# HELP x y\nx{node=\"p:5432\"} 1\nx{shard=\"a\",node=\"gone:5432\",role=\"replica\"} 1\ny 2\n";
        let kept = without_gone_nodes(text, &topology(&[("p", Role::Primary, true, OUT)]));
        assert_eq!(kept, "# HELP x y\nx{node=\"p:5432\"} 1\ny 2\n");
    }

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_answer_and_the_server_stops_when_told() {
        let exporter = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let recorder = crate::telemetry::Recorder::new(exporter, &[]);
        ::metrics::with_local_recorder(&recorder, || ::metrics::counter!("pgsluice_test_total").increment(3));
        let shared = Arc::new(ArcSwap::from_pointee(topology(&[("p", Role::Primary, true, OUT)])));
        let (drain, draining) = watch::channel(false);
        let state = HttpState { metrics: recorder.exposition(), topology: shared.clone(), draining };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, state, async { drop(stopped.await) }));

        let page = fetch(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("pgsluice_test_total 3"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        drain.send_replace(true);
        let page = fetch(address, "/readyz").await;
        assert!(page.starts_with("HTTP/1.1 503") && page.ends_with("draining\n"), "{page}");
        drain.send_replace(false);
        shared.store(Arc::default());
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));

        // An idle keep-alive connection must not keep it from stopping.
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), server).await.unwrap().unwrap().unwrap();
    }
}
