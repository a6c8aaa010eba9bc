//! What a client costs while it is idle: its session, and its task's state. Ten thousand of them are usual.

use super::Session;

fn size_of_future<F>(_: impl FnOnce() -> F) -> usize {
    size_of::<F>()
}

/// Never called: its type is what counts.
fn nobody() -> Box<Session> {
    unreachable!()
}

#[test]
fn an_idle_client_takes_less_than_a_page() {
    let task = size_of_future(|| nobody().run());
    let session = size_of::<Session>();
    assert!(session + task < 4096, "the session takes {session} bytes, its task {task}");
}
