//! Who the client is: SCRAM-SHA-256 against the config's users, or those of the servers (`auth.query`).
//!
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>, RFC 5802, RFC 7677

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Buf;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::messages::Message;
use pgwire::messages::startup::Authentication;
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use rand::RngCore;

use super::binding::{self, Initial};
use crate::config::{Config, Password, Secret, User};
use crate::proxy::Proxy;
use crate::tls::EndPoint;
use crate::wire::frontend::tag;
use crate::wire::scram::{ClientKey, Verifier};
use crate::wire::{ErrorReply, Frames, Link};

/// A message of an authentication exchange is not longer than this, in bytes (`PG_MAX_AUTH_TOKEN_LENGTH`).
const MAX_MESSAGE: usize = 65_535;

/// Salted passwords, made once for each user: 4,096 rounds of a hash are not for every login.
#[derive(Debug)]
pub struct Verifiers {
    salted: Mutex<HashMap<String, Salted>>,
    /// For users that do not exist: they are asked all the same, with a salt that stays the same.
    mock_key: [u8; 32],
}

#[derive(Debug, Clone)]
struct Salted {
    password: Secret,
    salt: Vec<u8>,
    salted_password: Arc<[u8]>,
}

impl Default for Verifiers {
    fn default() -> Self {
        let mut mock_key = [0; 32];
        rand::rng().fill_bytes(&mut mock_key);
        Self { salted: Mutex::default(), mock_key }
    }
}

/// What a client is asked to prove.
enum Expectation {
    /// Of a password that the config has.
    Password(ScramSecret),
    /// Of a verifier: what the client proves, the servers will want to see as well.
    Verifier(Arc<Verifier>),
    /// There is no such user, and nothing proves this.
    Nothing(ScramSecret),
}

/// Why a client is not let in.
pub(super) enum Rejection {
    /// It is told this.
    Told(ErrorReply),
    /// It is gone.
    Gone,
}

impl Verifiers {
    /// What a user of the config's file has to prove that it knows.
    fn expectation(&self, known: &User) -> Expectation {
        match &known.password {
            Password::Verifier(text) => match Verifier::read(text.expose()) {
                Some(verifier) => Expectation::Verifier(Arc::new(verifier)),
                None => Expectation::Nothing(self.mock(&known.name)),
            },
            Password::Plain(password) => {
                let Salted { salt, salted_password, .. } = self.salted(&known.name, password);
                let iterations = SCRAM_ITERATIONS;
                Expectation::Password(ScramSecret::verifier_from_salted_password(
                    salt,
                    salted_password.to_vec(),
                    iterations,
                ))
            }
        }
    }

    fn salted(&self, user: &str, password: &Secret) -> Salted {
        let known = || self.salted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(salted) = known().get(user).filter(|salted| salted.password == *password) {
            return salted.clone();
        }
        let mut salt = vec![0; 16];
        rand::rng().fill_bytes(&mut salt);
        let salted_password = gen_salted_password(password.expose(), &salt, SCRAM_ITERATIONS).into();
        let salted = Salted { password: password.clone(), salt, salted_password };
        known().insert(user.to_owned(), salted.clone());
        salted
    }

    /// For a user that does not exist: nothing proves this.
    fn mock(&self, user: &str) -> ScramSecret {
        use std::hash::Hasher;
        let mut salt = Vec::with_capacity(16);
        for half in 0..2_u8 {
            let mut hasher =
                siphasher::sip::SipHasher13::new_with_key(&std::array::from_fn(|index| self.mock_key[index]));
            hasher.write(&[half]);
            hasher.write(user.as_bytes());
            salt.extend(hasher.finish().to_be_bytes());
        }
        let mut stored_key = vec![0; 32];
        rand::rng().fill_bytes(&mut stored_key);
        ScramSecret::Verifier { salt, iterations: SCRAM_ITERATIONS, server_key: stored_key.clone(), stored_key }
    }
}

/// What `user` has to prove: a user of the file by the file, any other by the servers.
async fn expectation(proxy: &Proxy, config: &Config, user: &str) -> Result<Expectation, Rejection> {
    if let Some(known) = config.auth.users.iter().find(|known| known.name == user) {
        return Ok(proxy.verifiers.expectation(known));
    }
    let found = proxy.users.find(user).await.map_err(|error| {
        Rejection::Told(
            ErrorReply::fatal("57P03", error.to_string()).hint("Try again when the servers can be reached."),
        )
    })?;
    Ok(found.map_or_else(|| Expectation::Nothing(proxy.verifiers.mock(user)), Expectation::Verifier))
}

/// Asks the client to prove that it knows the password; over TLS, bound to the certificate at its `end_point`.
pub(super) async fn scram(
    client: &mut Link,
    proxy: &Proxy,
    config: &Config,
    user: &str,
    end_point: Option<&EndPoint>,
) -> Result<(), Rejection> {
    let failed =
        || Rejection::Told(ErrorReply::fatal("28P01", format!("password authentication failed for user \"{user}\"")));
    let malformed = || Rejection::Told(ErrorReply::fatal("08P01", "malformed SCRAM message"));
    // The better one first, as PostgreSQL offers them.
    let offered = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256].into_iter().skip(usize::from(end_point.is_none()));
    send(client, &Authentication::SASL(offered.map(str::to_owned).collect())).await?;
    let first = receive(client).await?;
    let initial = Initial::read(&first, end_point)?;
    let (secret, verifier, is_known) = match expectation(proxy, config, user).await? {
        Expectation::Password(secret) => (secret, None, true),
        Expectation::Verifier(verifier) => (secret_of(&verifier), Some(verifier), true),
        Expectation::Nothing(secret) => (secret, None, false),
    };
    let (challenge, waiting) = end_point
        .map_or_else(ScramServerAuth::new, |end_point| end_point.scram.clone())
        .on_client_first_message_with_secret(initial.message, secret)
        .map_err(|_| malformed())?;
    send(client, &Authentication::SASLContinue(challenge.clone().into())).await?;
    let last = receive(client).await?;
    binding::check_final(&initial, &last)?;
    let outcome = waiting.on_client_final_message(&last).map_err(|_| {
        proxy.users.doubt(user);
        failed()
    })?;
    if !is_known {
        return Err(failed());
    }
    if let Some(verifier) = verifier {
        let key = ClientKey::recover(&verifier, initial.message, challenge.as_bytes(), &last).ok_or_else(failed)?;
        proxy.pools.keys().remember(user, key);
    }
    send(client, &Authentication::SASLFinal(outcome.into())).await
}

fn secret_of(verifier: &Verifier) -> ScramSecret {
    ScramSecret::Verifier {
        salt: verifier.salt.to_vec(),
        iterations: usize::try_from(verifier.iterations).unwrap_or(usize::MAX),
        stored_key: verifier.stored_key.to_vec(),
        server_key: verifier.server_key.to_vec(),
    }
}

async fn send(client: &mut Link, message: &Authentication) -> Result<(), Rejection> {
    message.encode(&mut client.output).map_err(|_| Rejection::Gone)?;
    client.flush().await.map_err(|_| Rejection::Gone)
}

async fn receive(client: &mut Link) -> Result<Vec<u8>, Rejection> {
    let told = |message: String| Rejection::Told(ErrorReply::fatal("08P01", message));
    loop {
        match Frames::new(&client.input).next() {
            Some(Ok(frame)) if frame.tag == tag::PASSWORD => {
                let body = frame.body.to_vec();
                let size = frame.bytes.len();
                client.input.advance(size);
                return Ok(body);
            }
            Some(Ok(frame)) => {
                return Err(told(format!("expected password response, got message type {}", frame.tag)));
            }
            Some(Err(error)) => return Err(told(error.to_string())),
            None if client.input.len() >= MAX_MESSAGE => return Err(told("authentication message is too long".into())),
            None => {}
        }
        if !client.fill(MAX_MESSAGE).await.map_err(|_| Rejection::Gone)? {
            return Err(Rejection::Gone);
        }
    }
}
