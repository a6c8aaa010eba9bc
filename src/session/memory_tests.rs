//! What a client costs while it is idle: its session, and its task's state. Ten thousand of them are usual.

use super::Session;
use super::serve::Work;

fn size_of_future<F>(_: impl FnOnce() -> F) -> usize {
    size_of::<F>()
}

/// Never called: its type is what counts.
fn nobody() -> Box<Session> {
    unreachable!()
}

/// With what the runtime keeps of its task and socket, and its entry among the clients, that is 4 KiB. Allocators have pieces of
/// these sizes.
#[test]
fn an_idle_client_takes_less_than_a_page() {
    let task = size_of_future(|| nobody().run());
    let session = size_of::<Session>();
    assert!(session <= 1328 && task <= 672, "the session takes {session} bytes, its task {task}");
}

fn size_of_serving<'s, F>(_: impl FnOnce(&'s mut Session, &'s Work) -> F) -> usize {
    size_of::<F>()
}

/// It comes and goes with each statement, and of more than this glibc has no pieces at hand (`MAX_TCACHE_SIZE`).
#[test]
fn a_statement_under_way_takes_a_short_piece_of_memory() {
    let size = size_of_serving(Session::serve);
    assert!(size <= 1032, "{size}");
}
