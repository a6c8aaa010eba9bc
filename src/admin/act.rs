//! What an operator's command does.

use std::sync::Arc;
use std::time::Duration;

use super::command::Command;
use crate::proxy::Proxy;
use crate::takeover::NoAnswer;
use crate::topology::{Node, Role};

/// How often a node that is being drained is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A command that cannot be carried out.
#[derive(Debug)]
pub struct Refused {
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

fn refused(sqlstate: &'static str, message: impl Into<String>, hint: &str) -> Refused {
    Refused { sqlstate, message: message.into(), hint: Some(hint.to_owned()) }
}

/// Carries out an action, and returns when it is done.
pub async fn act(proxy: &Proxy, command: &Command) -> Result<(), Refused> {
    match command {
        Command::Reload => proxy.request_reload().await.map_err(|mistakes| Refused {
            sqlstate: "F0000",
            message: format!("the new config is refused, the old one stays: {mistakes}"),
            hint: None,
        }),
        Command::Pause => pause(proxy).await,
        Command::Resume if proxy.gate.open() => Ok(()),
        Command::Resume => Err(refused("55000", "pgsluice is not paused", "PAUSE pauses it.")),
        Command::Drain(name) => drain(&node(proxy, name)?, proxy).await,
        Command::Undrain(name) => {
            let (node, _) = node(proxy, name)?;
            if !node.set_drained(false) {
                return Err(refused("55000", format!("{name} is not drained"), "SHOW NODES tells which nodes are."));
            }
            Ok(())
        }
        Command::Kill(pid) => kill(*pid, proxy).await,
        other => Err(refused("0A000", format!("{} is no action", other.name()), "SHOW HELP lists what there is.")),
    }
}

async fn kill(pid: i32, proxy: &Proxy) -> Result<(), Refused> {
    match proxy.clients.kill(pid).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused("42704", format!("there is no client with pid {pid}"), "SHOW CLIENTS lists them.")),
        Err(NoAnswer { process }) => Err(Refused {
            sqlstate: "55000",
            message: format!(
                "client {pid} is not here, and process {process}, which may still have it, does not answer"
            ),
            hint: Some(format!("Try again; or end all that stayed with that process: kill -TERM {process}.")),
        }),
    }
}

async fn pause(proxy: &Proxy) -> Result<(), Refused> {
    let closed = proxy.gate.close().await;
    closed.map_err(|_| refused("57014", "resumed before all transactions had ended", "PAUSE again."))?;
    proxy.pools.close_idle();
    Ok(())
}

async fn drain((node, role): &(Arc<Node>, Role), proxy: &Proxy) -> Result<(), Refused> {
    if *role == Role::Primary {
        return Err(refused(
            "55000",
            format!("{} is the primary", node.name),
            "Only replicas can be drained. PAUSE holds everything.",
        ));
    }
    if !node.set_drained(true) {
        return Err(refused("55000", format!("{} is drained already", node.name), "UNDRAIN ends that."));
    }
    while node.outstanding() > 0 {
        tokio::time::sleep(LOOK).await;
        if !node.is_drained() {
            return Err(refused("57014", "undrained before all statements had ended", "DRAIN again."));
        }
    }
    proxy.pools.close_idle_of(node);
    Ok(())
}

fn node(proxy: &Proxy, name: &str) -> Result<(Arc<Node>, Role), Refused> {
    let topology = proxy.topology.load();
    let mut members = topology.shards.iter().flat_map(|shard| &shard.nodes);
    let member = members.find(|member| *member.node.name == *name);
    member
        .map(|member| (Arc::clone(&member.node), member.role))
        .ok_or_else(|| refused("42704", format!("there is no node \"{name}\""), "SHOW NODES lists them."))
}
