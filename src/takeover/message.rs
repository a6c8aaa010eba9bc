//! What the two processes say: one JSON object a line, with descriptors beside the one that gives them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::elsewhere::ShownClient;

/// No message is longer, in bytes.
const MAX_MESSAGE: usize = 4096;

/// The PostgreSQL listener, and the HTTP listener.
const DESCRIPTORS: usize = 2;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// New to old: I would like to take over.
    Take { pid: i32 },
    /// Old to new, with the descriptors.
    Give { pid: i32, address: SocketAddr, http: SocketAddr },
    /// New to old: clients are served here from now on.
    Serving,
    /// Old to new: nobody is accepted here any more.
    Done,
    /// New to old: a client of yours wants its statement cancelled.
    Cancel { pid: i32, secret: Vec<u8> },
    /// Old to new: that is done, or there was nothing to do.
    Cancelled,
    /// New to old: an operator wants this client ended.
    Kill { pid: i32 },
    /// Old to new: whether it was there, or which process could not be asked.
    Killed { found: bool, silent: Option<i32> },
    /// New to old: an operator wants to see your clients.
    List,
    /// Old to new: one of them.
    Client(Box<ShownClient>),
    /// Old to new: that was all.
    Listed,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    pub(super) async fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(b'\n');
        // A message is far smaller than the socket's buffer, but nobody promises that it goes at once.
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let descriptors = if sent == 0 { descriptors } else { &[] };
            let write = || send_some(&self.stream, rest, descriptors);
            sent += self.stream.async_io(Interest::WRITABLE, write).await?;
        }
        Ok(())
    }

    /// The next message, and what descriptors came with it; an error at the end of the conversation.
    pub(super) async fn receive(&mut self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Ok((serde_json::from_slice(&line)?, descriptors));
            }
            if self.input.len() > MAX_MESSAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
            }
            let read = || receive_some(&self.stream);
            let (bytes, more) = self.stream.async_io(Interest::READABLE, read).await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend(bytes);
            descriptors.extend(more);
        }
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let sent = rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

fn receive_some(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_and_descriptors_arrive() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, mut other) = (Line::new(one), Line::new(other));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let give = Message::Give { pid: 7, address, http: address };
        one.send(&give, &[listener.as_fd(), listener.as_fd()]).await.unwrap();
        one.send(&Message::Done, &[]).await.unwrap();
        let (message, descriptors) = other.receive().await.unwrap();
        assert_eq!((message, descriptors.len()), (give, 2));
        for descriptor in descriptors {
            assert_eq!(std::net::TcpListener::from(descriptor).local_addr().unwrap(), address);
        }
        assert_eq!(other.receive().await.unwrap().0, Message::Done);
        drop(one);
        assert!(other.receive().await.is_err());
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_not_kept_for_ever() {
        for nonsense in [b"nonsense\n".to_vec(), vec![b'x'; 3 * MAX_MESSAGE]] {
            let (one, other) = UnixStream::pair().unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut { one }, &nonsense).await;
            });
            assert_eq!(Line::new(other).receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
