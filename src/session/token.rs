//! `pgsluice.session_token`: what a session has seen, as a text that it takes to another connection, or to another pgsluice.
//!
//! Of each shard a position, `shard:timeline:LSN`; of several with commas between. With one shard its server says it. With
//! several, each primary is asked for its own by the monitor, after the client has asked for the token and after what this
//! session has committed has been carried out: so it covers all that the session has written or read there. Of a shard of
//! which it has seen nothing there is nothing in it. A token that is not whole is none.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::understand::Understood;
use super::{Attached, Session};
use crate::sql::{Kind, Statement};
use crate::topology::{Lsn, Position};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// A shard's part of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) shard: Box<str>,
    pub(super) position: Position,
}

/// Reads a token; `None` where it is none. An empty one is that of a session that has seen nothing.
pub(super) fn tokens(value: &str) -> Option<Box<[Token]>> {
    if value.is_empty() {
        return Some(Box::default());
    }
    value.split(',').map(token).collect()
}

fn token(value: &str) -> Option<Token> {
    let (rest, lsn) = value.rsplit_once(':')?;
    let (shard, timeline) = rest.rsplit_once(':')?;
    let lsn: Lsn = lsn.parse().ok()?;
    Some(Token { shard: shard.trim().into(), position: Position { timeline: timeline.parse().ok()?, lsn } })
}

/// Whether they ask for the session's own.
pub(super) fn asks_for_token(understood: &Understood) -> bool {
    let is_it = |statement: &Statement| matches!(&statement.kind, Kind::ShowOwn { name } if **name == *"session_token");
    understood.analyses.iter().any(|analysis| analysis.is_own()) && understood.statements().any(is_it)
}

impl Session {
    /// What comes next must show what others have seen.
    pub(super) fn see_tokens(&mut self, tokens: &[Token]) {
        let topology = self.proxy.topology.load_full();
        for token in tokens {
            // Of another shard the client is told that there is none.
            let Some(shard) = topology.shards.iter().find(|shard| *shard.name == *token.shard) else { continue };
            let layout = shard.primary().and_then(|primary| primary.position_at(token.position.lsn));
            let lsn = layout.map_or(token.position.lsn, |at| at.lsn);
            self.horizons.of(&shard.name).must_see(Position { lsn, ..token.position });
        }
    }

    /// Makes the token of this session, of several shards, for [`Session::show_own`].
    pub(super) async fn make_token(&mut self, understood: &Understood) -> Result<(), ErrorReply> {
        if understood.runs == 0 {
            // It is made when it is asked for.
            return Ok(());
        }
        if understood.runs > 1 || self.in_batch {
            return Err(ErrorReply::error(
                "0A000",
                "a session token of several shards cannot be asked for in this way",
            )
            .detail("It came in a pipeline with other statements, and has to cover what they do.")
            .hint("Send it alone."));
        }
        for shard in self.unsettled_shards() {
            self.await_settled(&shard).await?;
        }
        let topology = self.proxy.topology.load_full();
        let seen = topology.shards.iter().map(|shard| &shard.name).filter(|shard| self.has_seen(shard));
        let (this, since) = (&*self, Instant::now());
        let asked = try_join_all(seen.map(|shard| async move {
            let Position { timeline, lsn } = this.position_since(shard, since).await?;
            Ok::<_, ErrorReply>(format!("{shard}:{timeline}:{lsn}"))
        }));
        let parts = this.registration.unless_cancelled(asked).await.map_err(super::attach::cancelled)??;
        self.across.token = parts.join(",");
        Ok(())
    }

    fn has_seen(&self, shard: &str) -> bool {
        let is_here = |server: &Attached| *server.shard == *shard;
        let is_open = self.status != TransactionStatus::Idle;
        let of_key = || self.shared.is_some_and(|key| self.proxy.session_keys.horizon(key, shard).has_seen());
        self.horizons.has_seen(shard)
            || is_open && self.server.iter().chain(&self.across.others).any(is_here)
            || of_key()
    }

    /// What the shard's primary says of its position, asked after that moment.
    async fn position_since(&self, shard: &Arc<str>, since: Instant) -> Result<Position, ErrorReply> {
        let asked = async {
            loop {
                let topology = self.proxy.topology.load_full();
                let at = topology.shards.iter().position(|known| known.name == *shard)?;
                let mut rounds = self.proxy.monitor.rounds(at)?;
                rounds.mark_unchanged();
                let sample = topology.shards.get(at).and_then(|shard| shard.primary()?.sample());
                if let Some(sample) = sample.filter(|sample| sample.asked_at > since) {
                    return Some(sample.position);
                }
                self.proxy.monitor.kick(at);
                rounds.changed().await.ok()?;
            }
        };
        let limit = self.proxy.config.load().pool.checkout_timeout;
        tokio::time::timeout(limit, asked).await.ok().flatten().ok_or_else(|| {
            ErrorReply::error("57P03", format!("what this session has seen of shard \"{shard}\" cannot be told"))
                .detail("The shard's primary has not said its position within pool.checkout_timeout.")
                .hint("Ask again when it answers.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(shard: &str, timeline: u32, lsn: u64) -> Token {
        Token { shard: shard.into(), position: Position { timeline, lsn: Lsn(lsn) } }
    }

    #[test]
    fn tokens_are_read() {
        assert_eq!(tokens("main:3:16/B374D848"), Some([part("main", 3, 0x16_B374_D848)].into()));
        assert_eq!(tokens("a:1:0/10,b-2:4:0/F"), Some([part("a", 1, 16), part("b-2", 4, 15)].into()));
        assert_eq!(tokens("a:1:0/10, b:4:0/F"), Some([part("a", 1, 16), part("b", 4, 15)].into()));
        assert_eq!(tokens(""), Some([].into()));
        for bad in ["main:0/1", "main:x:0/1", ",", "a:1:0/1,", "a:1:0/1;", "0/1"] {
            assert_eq!(tokens(bad), None, "{bad}");
        }
    }
}
