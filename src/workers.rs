//! The threads that serve clients, each with a runtime of its own.
//!
//! A client is served by one thread from its first byte to its last, so that nothing of it goes from one processor to
//! another, and no thread wakes another one where neither has anything to wait for: with a runtime that shares its tasks
//! among its threads that was every sixth statement ([0015](../docs/decisions/0015-a-thread-serves-its-clients.md)). Server
//! connections go from thread to thread where they are needed ([`crate::wire::Stream::register_here`]).
//!
//! Whoever is not a client's, such as the monitor, runs elsewhere.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::wire::outbox;

/// A stack on which the parser can go as deep as it is allowed to, in bytes.
pub const STACK_SIZE: usize = 8 << 20;

/// Threads that each of them may have for what takes long: parsing long texts, and looking up the names of hosts.
const MOST_BLOCKING: usize = 8;

/// Which thread something is served by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerId(u16);

impl WorkerId {
    /// Of all threads that serve no clients.
    const NONE: Self = Self(u16::MAX);

    /// The one that asks.
    pub fn here() -> Self {
        HERE.get()
    }

    /// Which of so many things of a kind it uses, so that others mostly use others.
    pub fn one_of(self, count: usize) -> usize {
        usize::from(self.0) % count
    }
}

thread_local! {
    static HERE: Cell<WorkerId> = const { Cell::new(WorkerId::NONE) };
}

/// All of them. When this goes they end, and whoever is still served is cut off.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// How many it serves.
    clients: Arc<AtomicUsize>,
    /// It ends when this goes.
    _end: oneshot::Sender<()>,
}

/// A client's place with the thread that serves it.
#[derive(Debug)]
pub struct Seat {
    /// Where its task is to run.
    pub handle: Handle,
    clients: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// So many; 0: as many as there are processors for this process.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start(count: u16) -> io::Result<Self> {
        let processors = || std::thread::available_parallelism().ok().and_then(|count| u16::try_from(count.get()).ok());
        let count = if count == 0 { processors().unwrap_or(1) } else { count };
        (0..count).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// With the one that serves the fewest clients.
    pub fn seat(&self) -> Option<Seat> {
        let worker = self.0.iter().min_by_key(|worker| worker.clients.load(Ordering::Relaxed))?;
        worker.clients.fetch_add(1, Ordering::Relaxed);
        Some(Seat { handle: worker.handle.clone(), clients: Arc::clone(&worker.clients) })
    }
}

impl Worker {
    fn start(number: u16) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Texts are parsed there too.
            .thread_stack_size(STACK_SIZE)
            .max_blocking_threads(MOST_BLOCKING)
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK_SIZE).spawn(move || {
            HERE.set(WorkerId(number));
            runtime.spawn(async move {
                if let Err(error) = outbox::serve().await
                    && number == 0
                {
                    tracing::info!(%error, "io_uring is not available: each message is sent by a system call of its own");
                }
            });
            // Without a sender it is over as well.
            let _ = runtime.block_on(ended);
            // What still runs in threads of its own is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, clients: Arc::default(), _end: end })
    }
}
