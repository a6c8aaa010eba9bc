//! TLS with a client: how it is asked for, and what a client's certificate is good for.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;
use std::sync::Arc;

use super::auth::Rejection;
use super::serve::GOODBYE_LIMIT;
use crate::config::TlsMode;
use crate::proxy::Proxy;
use crate::telemetry::metrics::HandshakeFailure;
use crate::tls::{ALPN, ClientCertificate, EndPoint, Inbound};
use crate::wire::{ErrorReply, Link};

/// The first byte of a TLS record that holds a handshake, which begins no packet of PostgreSQL's.
const HANDSHAKE: u8 = 0x16;

/// Read of a client whose handshake has failed, in bytes.
const LONGEST_HANDSHAKE: usize = 64 * 1024;

/// What is known of a connection that is encrypted.
#[derive(Debug)]
pub(super) struct Encryption {
    inbound: Arc<Inbound>,
    /// What the client has shown; verified.
    certificate: Option<ClientCertificate>,
}

/// Direct negotiation (libpq's `sslnegotiation=direct`): a client that begins with a handshake. `None` when it does not.
pub(super) async fn negotiate_directly(proxy: &Proxy, link: &mut Link) -> Result<Option<Encryption>, Rejection> {
    if link.peek().await.map_err(|_| Rejection::Gone)? != Some(HANDSHAKE) {
        return Ok(None);
    }
    let Some(inbound) = proxy.config.load().listen.inbound.clone() else {
        proxy.metrics.handshake_failures(HandshakeFailure::NotOffered).increment(1);
        tracing::info!("refused a client that began with a TLS handshake: listen.tls is \"off\"");
        return Err(Rejection::Gone);
    };
    let encryption = Box::pin(shake_hands(proxy, link, inbound)).await?;
    // Without it, a client of another protocol could be led here (as in the ALPACA attack).
    let is_postgresql = link.tls().is_some_and(|stream| stream.get_ref().1.alpn_protocol() == Some(ALPN));
    if !is_postgresql {
        let message = "received direct SSL connection request without ALPN protocol negotiation extension";
        return Err(Rejection::Told(ErrorReply::fatal("08P01", message)));
    }
    Ok(Some(encryption))
}

/// Answers an `SSLRequest`; what the connection is encrypted with from now on, if it is.
pub(super) async fn answer_request(
    proxy: &Proxy,
    link: &mut Link,
    already: Option<Encryption>,
) -> Result<Option<Encryption>, Rejection> {
    // What came before the handshake was not protected by it (CVE-2021-23214).
    if !link.input.is_empty() {
        return Err(Rejection::Told(ErrorReply::fatal("08P01", "received unencrypted data after SSL request")));
    }
    let Some(inbound) = proxy.config.load().listen.inbound.clone().filter(|_| already.is_none()) else {
        link.output.extend_from_slice(b"N");
        link.flush().await.map_err(|_| Rejection::Gone)?;
        return Ok(already);
    };
    link.output.extend_from_slice(b"S");
    link.flush().await.map_err(|_| Rejection::Gone)?;
    // In a box, so that who says nothing takes no room for it.
    Box::pin(shake_hands(proxy, link, inbound)).await.map(Some)
}

async fn shake_hands(proxy: &Proxy, link: &mut Link, inbound: Arc<Inbound>) -> Result<Encryption, Rejection> {
    if let Err(error) = link.encrypt(inbound.acceptor()).await {
        let cause = failure(&error);
        proxy.metrics.handshake_failures(cause).increment(1);
        let address = link.peer_address().map(|address| address.ip());
        tracing::info!(%error, cause = cause.name(), ?address, "TLS handshake failed");
        // What is wrong was said in an alert.
        let _ = tokio::time::timeout(GOODBYE_LIMIT, link.hear_out(LONGEST_HANDSHAKE)).await;
        return Err(Rejection::Gone);
    }
    let shown = link.tls().and_then(|stream| stream.get_ref().1.peer_certificates()?.first());
    let certificate = shown.map(ClientCertificate::read);
    Ok(Encryption { inbound, certificate })
}

/// What a failed handshake counts as.
fn failure(error: &io::Error) -> HandshakeFailure {
    use rustls::Error::{
        AlertReceived, InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented, PeerIncompatible,
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        None => HandshakeFailure::Gone,
        Some(AlertReceived(_)) => HandshakeFailure::RefusedByClient,
        Some(InvalidCertificate(_) | NoCertificatesPresented) => HandshakeFailure::Certificate,
        Some(PeerIncompatible(_) | NoApplicationProtocol) => HandshakeFailure::NothingInCommon,
        Some(_) => HandshakeFailure::Invalid,
    }
}

/// Holds a client to `listen.tls`.
pub(super) fn check_mode(mode: TlsMode, encryption: Option<&Encryption>) -> Result<(), Rejection> {
    match (mode, encryption) {
        (TlsMode::Off | TlsMode::Prefer, _) | (TlsMode::Require, Some(_)) => Ok(()),
        (TlsMode::Require | TlsMode::VerifyClient, None) => {
            let reply = ErrorReply::fatal("28000", "this server takes only encrypted connections");
            Err(Rejection::Told(reply.hint("Connect with sslmode=require.")))
        }
        (TlsMode::VerifyClient, Some(encryption)) => encryption.certificate().map(drop),
    }
}

/// `auth.method = "cert"`: the certificate's common name is the user.
pub(super) fn check_common_name(encryption: Option<&Encryption>, user: &str) -> Result<(), Rejection> {
    let Some(encryption) = encryption else {
        let reply = ErrorReply::fatal("28000", "this server takes only encrypted connections");
        return Err(Rejection::Told(reply.hint("Connect with sslmode=require, sslcert and sslkey.")));
    };
    let name = encryption.certificate()?.common_name.as_deref();
    if name == Some(user) {
        return Ok(());
    }
    tracing::info!(user, common_name = name, "the user is not the one that the client's certificate names");
    let reply = ErrorReply::fatal("28000", format!("certificate authentication failed for user \"{user}\""));
    Err(Rejection::Told(reply.hint("The common name (CN) of the client's certificate has to be the user's name.")))
}

impl Encryption {
    /// What SCRAM can be bound to.
    pub(super) fn end_point(&self) -> Option<&EndPoint> {
        self.inbound.end_point()
    }

    fn certificate(&self) -> Result<&ClientCertificate, Rejection> {
        self.certificate.as_ref().ok_or_else(|| {
            let reply = ErrorReply::fatal("28000", "connection requires a valid client certificate");
            Rejection::Told(reply.hint("Connect with sslcert and sslkey, a certificate of listen.client_ca."))
        })
    }
}
