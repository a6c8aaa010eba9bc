//! Waits for what mostly never happens, beside something that happens all the time.
//!
//! A task that is woken for one thing asks again after all else that it waits for. To ask a channel takes a lock, and one
//! that is shared by all clients. So what is waited for here is asked once, and again only after it has woken us itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A future that is polled only when there is something to poll it for.
#[derive(Debug)]
pub(super) struct Seldom<F> {
    awaited: F,
    call: Arc<Call>,
    /// Of `call`.
    waker: Waker,
}

/// What the awaited thing calls.
#[derive(Debug)]
struct Call {
    has_come: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> Seldom<F> {
    pub(super) fn new(awaited: F) -> Self {
        // It has to be asked a first time.
        let call = Arc::new(Call { has_come: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { awaited, waker: Arc::clone(&call).into(), call }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // First this, then the look: whatever calls in between finds us.
        self.call.task.register(cx.waker());
        if !self.call.has_come.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.call.has_come.store(false, Ordering::Relaxed);
        let Self { awaited, waker, .. } = &mut *self;
        Pin::new(awaited).poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_when_it_has_called() {
        let (sender, mut receiver) = watch::channel(0);
        let asked = std::cell::Cell::new(0);
        let mut awaited = pin!(async move { receiver.wait_for(|value| *value == 2).await.is_ok() });
        let mut seldom = Seldom::new(poll_fn(|cx| {
            asked.set(asked.get() + 1);
            awaited.as_mut().poll(cx)
        }));
        let mut poll_once = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut seldom).poll(cx))).await;
        for _ in 0..3 {
            assert!(poll_once().await.is_pending());
        }
        assert_eq!(asked.get(), 1);
        sender.send_replace(1);
        assert!(poll_once().await.is_pending() && poll_once().await.is_pending());
        assert_eq!(asked.get(), 2);
        sender.send_replace(2);
        assert_eq!(poll_once().await, Poll::Ready(true));
    }

    #[tokio::test]
    async fn a_task_that_sleeps_is_woken() {
        let (sender, mut receiver) = watch::channel(false);
        let waiting = tokio::spawn(async move {
            let awaited = pin!(async move { receiver.wait_for(|is_on| *is_on).await.is_ok() });
            Seldom::new(awaited).await
        });
        tokio::task::yield_now().await;
        sender.send_replace(true);
        assert!(timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap());
    }
}
