//! Clients that are sent away. Each is counted by its cause, and told of in the audit log, at the moment when that is
//! decided and nowhere else; who leaves of itself is neither.

use super::{Fault, Session, who};
use crate::audit::{Event, Who};
use crate::proxy::Proxy;
use crate::telemetry::metrics::CutCause;
use crate::wire::ErrorReply;

impl Session {
    /// Ends the session: what its client is told.
    pub(super) fn cut(&self, cause: CutCause, reply: ErrorReply) -> Fault {
        note_cut(&self.proxy, self.who(), cause, &reply);
        Fault::Cut(reply)
    }
}

/// Takes note of a client that is sent away with these words, or would be if there were a place for them.
pub(super) fn note_cut(proxy: &Proxy, who: Who, cause: CutCause, reply: &ErrorReply) {
    proxy.metrics.clients_cut(cause).increment(1);
    proxy.audit.tell(Event::ClientCut {
        who,
        cause: cause.name(),
        sqlstate: reply.sqlstate,
        message: reply.message.clone(),
    });
}

/// An operator has ended the session, or the process ends.
pub(super) fn terminated() -> ErrorReply {
    ErrorReply::fatal("57P01", "terminating connection due to administrator command")
}

impl Proxy {
    /// Takes note of all clients that are here: their connections are about to be closed without a word.
    pub(crate) fn note_all_cut(&self) {
        for client in self.clients.view() {
            note_cut(self, who(&client.who.identity, client.who.address), CutCause::DrainTimeout, &terminated());
        }
    }
}
