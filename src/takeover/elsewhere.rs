//! Clients that are still with the process that was taken over from, for the operators of this one.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::message::{Line, Message};
use super::offer::own_pid;
use crate::session::{ClientView, Clients};
use crate::wire::startup::CancelKey;

/// How long the other process may take for an answer.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Requests that wait to be passed on.
pub(super) const MAX_WAITING: usize = 64;

/// Of a name that is passed on, in bytes: a message has to stay short.
const MAX_NAME: usize = 256;

/// A client as `SHOW CLIENTS` has it, in whichever process it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownClient {
    /// The process that serves it.
    pub process: i32,
    /// The process ID that it was told.
    pub pid: i32,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Where it connected from.
    pub address: Option<String>,
    /// With TLS.
    pub tls: bool,
    /// What it is doing.
    pub state: String,
    /// The node that it has a connection to.
    pub node: Option<String>,
    /// The process ID of the backend there.
    pub backend_pid: Option<i32>,
    /// What keeps it on that connection.
    pub pinned: Option<String>,
    /// Since it logged in.
    pub age_seconds: f64,
}

impl From<ClientView> for ShownClient {
    fn from(client: ClientView) -> Self {
        let pins: Vec<&str> = client.pins.iter().map(|pin| pin.name()).collect();
        let (node, backend_pid) = client.server.map(|(node, pid)| (node.to_string(), pid)).unzip();
        Self {
            process: own_pid(),
            pid: client.pid,
            user: short(&client.who.identity.user),
            database: short(&client.who.identity.database),
            address: client.who.address.map(|address| address.to_string()),
            tls: client.who.is_encrypted,
            state: client.activity.name().to_owned(),
            node,
            backend_pid,
            pinned: (!pins.is_empty()).then(|| pins.join(", ")),
            age_seconds: client.since.elapsed().unwrap_or_default().as_secs_f64(),
        }
    }
}

fn short(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME)].to_owned()
}

/// What the other process is asked, and where its answer goes.
#[derive(Debug)]
pub(super) enum Request {
    Cancel(CancelKey, oneshot::Sender<()>),
    Kill(i32, oneshot::Sender<Result<bool, NoAnswer>>),
    List(oneshot::Sender<Vec<ShownClient>>),
}

/// The process that was taken over from. It has clients still, whose cancel requests come here, and whom operators mean.
#[derive(Debug, Clone)]
pub struct Predecessor {
    /// Its process ID.
    pub pid: i32,
    requests: mpsc::Sender<Request>,
}

/// It is still there, and did not answer in time.
#[derive(Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// Its process ID.
    pub process: i32,
}

impl Predecessor {
    pub(super) fn new(pid: i32, line: Line) -> Self {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        tokio::spawn(pass_on(line, receiver));
        Self { pid, requests }
    }

    /// Passes a cancel request on; returns when it was dealt with, or cannot be.
    pub async fn cancel(&self, key: &CancelKey) {
        let _ = self.ask(|answer| Request::Cancel(key.clone(), answer)).await;
    }

    /// Ends a client's session there, or where that process has taken over from; false when there is none.
    ///
    /// # Errors
    /// It does not answer; or the one before it does not.
    pub async fn kill(&self, pid: i32) -> Result<bool, NoAnswer> {
        self.ask(|answer| Request::Kill(pid, answer)).await?.unwrap_or(Ok(false))
    }

    /// Its clients, and those of the process that it has taken over from.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn list(&self) -> Result<Vec<ShownClient>, NoAnswer> {
        Ok(self.ask(Request::List).await?.unwrap_or_default())
    }

    /// Returns when it has ended.
    pub async fn gone(&self) {
        self.requests.closed().await;
    }

    /// `None`: it has ended, and with it all clients that could be meant.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<Option<T>, NoAnswer> {
        let (sender, answer) = oneshot::channel();
        let no_answer = || NoAnswer { process: self.pid };
        match self.requests.try_send(request(sender)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(None),
            Err(mpsc::error::TrySendError::Full(_)) => return Err(no_answer()),
        }
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(answer) => Ok(answer.ok()),
            Err(_) => Err(no_answer()),
        }
    }
}

/// The new process's side: one request at a time, until the other process is gone.
async fn pass_on(mut line: Line, mut requests: mpsc::Receiver<Request>) {
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            // It says nothing unasked: this is its end.
            _ = line.receive() => None,
        };
        let Some(request) = request else { return };
        if answer(&mut line, request).await.is_none() {
            return;
        }
    }
}

/// `None` when the other process is gone. Where nobody waits for the answer any more it is read all the same.
async fn answer(line: &mut Line, request: Request) -> Option<()> {
    match request {
        Request::Cancel(key, answer) => {
            let message = Message::Cancel { pid: key.pid, secret: key.secret.to_vec() };
            line.send(&message, &[]).await.ok()?;
            line.receive().await.ok()?;
            let _ = answer.send(());
        }
        Request::Kill(pid, answer) => {
            line.send(&Message::Kill { pid }, &[]).await.ok()?;
            let (Message::Killed { found, silent }, _) = line.receive().await.ok()? else { return None };
            let _ = answer.send(silent.map_or(Ok(found), |process| Err(NoAnswer { process })));
        }
        Request::List(answer) => {
            line.send(&Message::List, &[]).await.ok()?;
            let mut clients = Vec::new();
            loop {
                match line.receive().await.ok()? {
                    (Message::Client(client), _) => clients.push(*client),
                    (Message::Listed, _) => break,
                    _ => return None,
                }
            }
            let _ = answer.send(clients);
        }
    }
    Some(())
}

/// The old process's side: the new one is asked by clients and operators about clients of this one; until it ends, or is
/// taken over from and drains.
pub(super) async fn answer_all(mut line: Line, clients: &Clients) {
    while let Ok((message, _)) = line.receive().await {
        let answered = match message {
            Message::Cancel { pid, secret } => {
                clients.cancel(&CancelKey { pid, secret: secret.into() }).await;
                line.send(&Message::Cancelled, &[]).await
            }
            Message::Kill { pid } => {
                let killed = clients.kill(pid).await;
                let (found, silent) = killed.map_or_else(|silent| (false, Some(silent.process)), |found| (found, None));
                line.send(&Message::Killed { found, silent }, &[]).await
            }
            Message::List => list(&line, clients).await,
            _ => return,
        };
        if answered.is_err() {
            return;
        }
    }
}

async fn list(line: &Line, clients: &Clients) -> std::io::Result<()> {
    for client in clients.shown().await {
        line.send(&Message::Client(Box::new(client)), &[]).await?;
    }
    line.send(&Message::Listed, &[]).await
}
