//! The live terminal: keys, signals, readings, and a terminal that is left as it was found.
//!
//! One task reads pgsluice, one thread reads keys, and this one draws, so that a pgsluice which does not answer holds up
//! no key. When it is gone it is asked again until it is back.

use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::draw::draw;
use super::reading::{Reading, Tables};
use super::view::{Order, View};
use crate::cli::connect::{Desk, Door};

/// How long to wait before pgsluice is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// What `+` and `-` choose from.
const INTERVALS: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// What the task that reads has to say.
enum News {
    Read(Box<Reading>),
    Lost(String),
}

/// Whether to go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// Puts the terminal back, whatever the end is.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows it until `q` is pressed or a signal comes. `desk` is a connection through `door`.
///
/// # Errors
/// The terminal cannot be used.
pub(super) async fn show(door: Door, desk: Desk, interval: Duration) -> anyhow::Result<()> {
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [terminate, interrupt, hangup] = &mut signals;
    let [terminate, interrupt, hangup] = [terminate, interrupt, hangup].map(|signal| signal.as_mut().ok());
    let (Some(terminate), Some(interrupt), Some(hangup)) = (terminate, interrupt, hangup) else {
        anyhow::bail!("signals cannot be caught");
    };
    // Restores it also when there is a panic, before that is told.
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let restored = Restored;
    let mut view = View::new(door.address.clone(), interval);
    let (intervals, chosen) = watch::channel(interval);
    let (tell, mut news) = mpsc::channel(4);
    let reader = tokio::spawn(read_forever(door, desk, chosen, tell));
    let mut keys = keys();
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    let end = loop {
        if let Err(error) = paint(&mut terminal, &view) {
            break Err(error);
        }
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => break Ok(()),
            // How long ago something was changes by itself.
            _ = clock.tick() => {}
            Some(news) = news.recv() => match news {
                News::Read(reading) => view.take(*reading),
                News::Lost(why) => view.lose(why, Instant::now()),
            },
            event = keys.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    if press(&mut view, key) == Next::End {
                        break Ok(());
                    }
                    intervals.send_if_modified(|interval| std::mem::replace(interval, view.interval) != view.interval);
                }
                // A new size is taken up by the next painting.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
        }
    };
    reader.abort();
    drop(restored);
    end.context("the terminal cannot be used")
}

fn paint(terminal: &mut DefaultTerminal, view: &View) -> std::io::Result<()> {
    terminal.draw(|frame| draw(frame, view, Instant::now())).map(drop)
}

/// Keys and changes of the terminal's size. The thread ends with the process.
fn keys() -> mpsc::Receiver<std::io::Result<Event>> {
    let (tell, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if tell.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    keys
}

fn press(view: &mut View, key: KeyEvent) -> Next {
    if key.kind == KeyEventKind::Release {
        return Next::GoOn;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::End,
        KeyCode::Char('q') | KeyCode::Esc => return Next::End,
        KeyCode::Char('s') => view.order = view.order.next(),
        KeyCode::Char('+') => view.interval = step(view.interval, true),
        KeyCode::Char('-') => view.interval = step(view.interval, false),
        KeyCode::Char(' ') => view.is_frozen = !view.is_frozen,
        KeyCode::Char(letter) => {
            view.order = Order::ALL.into_iter().find(|order| order.key() == letter).unwrap_or(view.order);
        }
        _ => {}
    }
    Next::GoOn
}

fn step(interval: Duration, is_longer: bool) -> Duration {
    let other = match is_longer {
        true => INTERVALS.into_iter().find(|other| *other > interval),
        false => INTERVALS.into_iter().rev().find(|other| *other < interval),
    };
    other.unwrap_or(interval)
}

async fn read_forever(door: Door, desk: Desk, mut chosen: watch::Receiver<Duration>, tell: mpsc::Sender<News>) {
    let mut desk = Some(desk);
    while let Err(error) = read(&door, desk.take(), &mut chosen, &tell).await {
        if tell.send(News::Lost(format!("{error:#}"))).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads over one connection until it is lost, which is an error, or nobody listens any more.
async fn read(
    door: &Door,
    desk: Option<Desk>,
    chosen: &mut watch::Receiver<Duration>,
    tell: &mpsc::Sender<News>,
) -> anyhow::Result<()> {
    let desk = match desk {
        Some(desk) => desk,
        None => door.open().await?,
    };
    let mut tables = Tables::begin(&desk).await?;
    loop {
        tables.refresh(&desk).await?;
        let reading = Reading::of(&tables, Instant::now());
        if tell.send(News::Read(Box::new(reading))).await.is_err() {
            return Ok(());
        }
        let interval = *chosen.borrow_and_update();
        // With another interval it is read at once.
        if let Ok(Err(_)) = tokio::time::timeout(interval, chosen.changed()).await {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut view = View::new("x".to_owned(), Duration::from_secs(1));
        let mut pressed = |code| {
            let next = press(&mut view, KeyEvent::new(code, KeyModifiers::NONE));
            (next, view.order, view.interval.as_millis(), view.is_frozen)
        };
        let go_on = |order, interval, is_frozen| (Next::GoOn, order, interval, is_frozen);
        assert_eq!(pressed(KeyCode::Char('s')), go_on(Order::Calls, 1000, false));
        assert_eq!(pressed(KeyCode::Char('t')), go_on(Order::Total, 1000, false));
        assert_eq!(pressed(KeyCode::Char('c')), go_on(Order::Calls, 1000, false));
        assert_eq!(pressed(KeyCode::Char('+')), go_on(Order::Calls, 2000, false));
        assert_eq!(pressed(KeyCode::Char('-')), go_on(Order::Calls, 1000, false));
        assert_eq!(pressed(KeyCode::Char(' ')), go_on(Order::Calls, 1000, true));
        assert_eq!(pressed(KeyCode::Up), go_on(Order::Calls, 1000, true));
        assert_eq!(pressed(KeyCode::Char('q')).0, Next::End);
        assert_eq!(pressed(KeyCode::Esc).0, Next::End);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut view, control_c), Next::End);
    }

    #[test]
    fn intervals_have_ends() {
        let [shortest, .., longest] = INTERVALS;
        assert_eq!((step(shortest, false), step(longest, true)), (shortest, longest));
        assert_eq!(step(Duration::from_millis(1500), true), Duration::from_secs(2));
    }
}
