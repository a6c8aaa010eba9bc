//! The screen, drawn from a [`View`].

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::reading::{Node, Pool, Reading};
use super::view::{Connection, Hot, Order, Seen, View};

/// Parts of the minute: two seconds each.
const SPARKS: usize = 30;

/// From nothing to `lag.eject_above`.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const HEADER: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().fg(Color::DarkGray);
const GOOD: Style = Style::new().fg(Color::Green);
const DOUBTFUL: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red);

/// Draws all of it. What does not fit is left out, the lower parts first.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now: Instant) {
    let (nodes, pools) = view.reading.as_ref().map_or((0, 0), |reading| (reading.nodes.len(), reading.pools.len()));
    let area = frame.area();
    let lines = |count: usize, most: u16| u16::try_from(count).unwrap_or(most).min(most) + 2;
    let [head, nodes, pools, statements, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(lines(nodes, area.height / 3)),
        Constraint::Length(lines(pools, area.height / 5)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(view, now)), head);
    if let Some(reading) = &view.reading {
        draw_nodes(frame, nodes, view, reading, now);
        draw_pools(frame, pools, reading);
        draw_statements(frame, statements, view);
    }
    frame.render_widget(Paragraph::new(keys(view)), foot);
}

fn header(view: &View, now: Instant) -> Vec<Line<'static>> {
    let version = view.reading.as_ref().map_or("pgsluice", |reading| &reading.version).to_owned();
    let mut first = vec![Span::styled(version, HEADER), Span::raw(format!(" at {}", view.address))];
    match &view.connection {
        Connection::Up if view.is_frozen => first.push(Span::styled("  frozen", DOUBTFUL)),
        Connection::Up => {}
        Connection::Connecting => first.push(Span::styled("  connecting", DOUBTFUL)),
        Connection::Lost(why) => first.push(Span::styled(format!("  reconnecting: {why}"), BAD)),
    }
    let Some(reading) = &view.reading else { return vec![Line::from(first)] };
    if view.connection != Connection::Up {
        let age = now.saturating_duration_since(reading.at).as_secs();
        first.push(Span::styled(format!(" (below: as it was {age} s ago)"), DIM));
    }
    let states: Vec<String> =
        reading.clients.by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let clients = format!(
        "clients    {}{}{}{}",
        reading.clients.all(),
        if states.is_empty() { "" } else { ": " },
        states.join(", "),
        if reading.clients.pinned > 0 { format!("; {} pinned", reading.clients.pinned) } else { String::new() },
    );
    let statements = match view.rates() {
        Some([primary, replica]) => {
            let all = primary + replica;
            let share = if all > 0.0 { replica / all * 100.0 } else { 0.0 };
            format!("statements {all:.0}/s: {primary:.0}/s on the primary, {replica:.0}/s on replicas ({share:.0} %)")
        }
        None => {
            let [primary, replica] = reading.routes;
            format!("statements {} so far: {primary} on the primary, {replica} on replicas", primary + replica)
        }
    };
    vec![Line::from(first), Line::from(clients), Line::from(statements)]
}

fn keys(view: &View) -> Line<'static> {
    let mut spans = vec![Span::raw("q quit  s sort: ")];
    for order in Order::ALL {
        let style = if order == view.order { HEADER } else { DIM };
        spans.push(Span::styled(format!("{} ", order.name()), style));
    }
    let interval = humantime::format_duration(view.interval);
    spans.push(Span::raw(format!(" +/- every {interval}  space {}", if view.is_frozen { "go on" } else { "freeze" })));
    Line::from(spans)
}

fn titles(names: &[&'static str]) -> Row<'static> {
    Row::new(names.to_vec()).style(HEADER)
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, view: &View, reading: &Reading, now: Instant) {
    let rows = reading.nodes.iter().map(|node| {
        let style = match (node.role.as_str(), node.state.as_str()) {
            (_, "down") | ("unknown", _) => BAD,
            (_, "ejected") => BAD,
            (_, "probation" | "drained") => DOUBTFUL,
            _ => GOOD,
        };
        let state =
            if node.reason.is_empty() { node.state.clone() } else { format!("{}: {}", node.state, node.reason) };
        Row::new([
            Cell::from(node.shard.clone()),
            Cell::from(node.name.clone()),
            Cell::from(node.role.clone()),
            Cell::from(Span::styled(state, style)),
            right(lag(node)),
            right(node.lag_bytes.map_or_else(String::new, bytes)),
            Cell::from(sparkline(&view.minute(&node.name, SPARKS, now), reading.eject_above, style)),
            right(node.outstanding.to_string()),
        ])
    });
    let widths = [
        Constraint::Max(12),
        Constraint::Fill(2),
        Constraint::Length(7),
        Constraint::Fill(2),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(u16::try_from(SPARKS).unwrap_or(u16::MAX)),
        Constraint::Length(7),
    ];
    let header = ["SHARD", "NODE", "ROLE", "STATE", "LAG", "BEHIND", "LAG OF THE LAST MINUTE", "RUNNING"];
    frame.render_widget(Table::new(rows, widths).header(titles(&header)), area);
}

fn lag(node: &Node) -> String {
    match (node.role.as_str(), node.lag) {
        ("replica", Some(lag)) => seconds(lag),
        ("replica", None) => "unknown".to_owned(),
        _ => String::new(),
    }
}

/// A bar for each part; a full one is `full` seconds or more, a question mark is unknown.
fn sparkline(minute: &[Seen], full: Option<f64>, style: Style) -> Span<'static> {
    let highest = minute.iter().filter_map(|seen| if let Seen::Lag(lag) = seen { Some(*lag) } else { None });
    let full = full.filter(|full| *full > 0.0).unwrap_or_else(|| highest.fold(f64::MIN_POSITIVE, f64::max));
    let bar = |seen: &Seen| match seen {
        Seen::Nothing => ' ',
        Seen::Unknown => '?',
        Seen::Lag(lag) => BARS[((lag / full * BARS.len() as f64) as usize).min(BARS.len() - 1)],
    };
    Span::styled(minute.iter().map(bar).collect::<String>(), style)
}

fn draw_pools(frame: &mut Frame<'_>, area: Rect, reading: &Reading) {
    let rows = reading.pools.iter().map(|pool: &Pool| {
        let style = match pool {
            pool if pool.waiting > 0 => BAD,
            pool if pool.used >= pool.size => DOUBTFUL,
            _ => Style::new(),
        };
        Row::new([
            Cell::from(pool.node.clone()),
            Cell::from(pool.database.clone()),
            Cell::from(pool.user.clone()),
            right(pool.used.to_string()),
            right(pool.connections.to_string()),
            right(pool.size.to_string()),
            right(pool.waiting.to_string()),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(8),
    ];
    let header = ["POOL", "DATABASE", "USER", "  USED", "  OPEN", "  SIZE", " WAITING"];
    frame.render_widget(Table::new(rows, widths).header(titles(&header)), area);
}

fn draw_statements(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let hottest = view.hottest();
    let rows = hottest.iter().take(area.height.into()).map(|hot: &Hot<'_>| {
        let statement = hot.statement;
        let rate =
            |rate: Option<f64>, digits: usize| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.digits$}"));
        Row::new([
            right(rate(hot.load, 2)),
            right(rate(hot.calls, 0)),
            right(statement.calls.to_string()),
            right(seconds(statement.mean)),
            right(seconds(statement.total)),
            right(format!("{:.0} %", statement.replica_share * 100.0)),
            right(statement.failures.to_string()),
            Cell::from(one_line(&statement.text)),
        ])
    });
    let widths = [
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    let header = ["  LOAD", " CALLS/S", "     CALLS", "     MEAN", "    TOTAL", "REPLICAS", "FAILED", "STATEMENT"];
    frame.render_widget(Table::new(rows, widths).header(titles(&header)), area);
}

/// Three digits, and a unit.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0 s".to_owned();
    }
    let (value, unit) = match seconds {
        s if s < 0.001 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s if s < 3600.0 => (s, "s"),
        s => (s / 3600.0, "h"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Without line ends, and without what a terminal would take for a command.
pub(super) fn one_line(text: &str) -> String {
    let plain = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    plain.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::reading::tests::example;
    use super::*;

    fn screen(view: &View, now: Instant, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view, now)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn view() -> (View, Instant) {
        let start = Instant::now();
        let mut view = View::new("127.0.0.1:6432".to_owned(), Duration::from_secs(1));
        view.take(Reading::of(&example(10), start));
        view.take(Reading::of(&example(510), start + Duration::from_secs(1)));
        (view, start + Duration::from_secs(1))
    }

    #[test]
    fn a_screen() {
        let (view, now) = view();
        let shown = screen(&view, now, 130, 24);
        for line in &shown {
            eprintln!("{line}");
        }
        assert_eq!(shown[0], "pgsluice 1.2.3 at 127.0.0.1:6432");
        assert_eq!(shown[1], "clients    3: 1 active, 2 idle; 1 pinned");
        assert_eq!(shown[2], "statements 500/s: 0/s on the primary, 500/s on replicas (100 %)");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&shown[4]), "main 10.0.0.1:5432 primary up 2");
        // An eighth of lag.eject_above is the second bar.
        assert_eq!(words(&shown[5]), "main 10.0.0.2:5432 replica up 12.5 ms 2.0 KiB ▂ 1");
        assert_eq!(words(&shown[6]), "main 10.0.0.3:5432 replica ejected: lag unknown ? 0");
        assert_eq!(words(&shown[9]), "10.0.0.2:5432 app app 20 20 20 4");
        assert_eq!(words(&shown[13]), "1.00 500 510 2.00 ms 1.02 s 75 % 0 SELECT * FROM accounts WHERE id = $1");
        assert!(shown[23].starts_with("q quit  s sort: load calls"), "{}", shown[23]);
    }

    #[test]
    fn a_lost_connection_is_said() {
        let (mut view, now) = view();
        view.lose("connection closed".to_owned(), now);
        let shown = screen(&view, now + Duration::from_secs(7), 130, 24);
        assert_eq!(
            shown[0],
            "pgsluice 1.2.3 at 127.0.0.1:6432  reconnecting: connection closed (below: as it was 7 s ago)"
        );
    }

    #[test]
    fn no_size_is_too_small() {
        let (view, now) = view();
        for (width, height) in [(1, 1), (10, 3), (40, 8), (80, 24), (300, 100)] {
            assert_eq!(screen(&view, now, width, height).len(), usize::from(height));
        }
        let empty = View::new("x:1".to_owned(), Duration::from_secs(1));
        assert_eq!(screen(&empty, now, 40, 5)[0], "pgsluice at x:1  connecting");
    }

    #[test]
    fn numbers_and_texts() {
        for (value, shown) in [
            (0.0, "0 s"),
            (0.000_004, "4.00 µs"),
            (0.0125, "12.5 ms"),
            (1.5, "1.50 s"),
            (120.0, "120 s"),
            (7200.0, "2.00 h"),
        ] {
            assert_eq!(seconds(value), shown);
        }
        for (value, shown) in [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (1 << 40, "1.0 TiB")] {
            assert_eq!(bytes(value), shown);
        }
        assert_eq!(one_line("SELECT\n\t1 \u{1b}[2J --x"), "SELECT 1 [2J --x");
    }

    #[test]
    fn bars() {
        let bars = |lags: &[f64], full| {
            let minute: Vec<Seen> = lags.iter().map(|lag| Seen::Lag(*lag)).collect();
            sparkline(&minute, full, GOOD).content.into_owned()
        };
        assert_eq!(bars(&[0.0, 0.05, 0.1, 9.0], Some(0.1)), "▁▅██");
        assert_eq!(bars(&[0.0, 1.0], None), "▁█");
        assert_eq!(bars(&[0.0], None), "▁");
    }
}
