//! The log as a whole: from telling to the file.

use std::path::Path;
use std::time::Instant;

use metrics::CounterFn;
use serde_json::Value;

use super::*;
use crate::config::{AuditEvents, AuditStatements, AuditText};

const LIMIT: Duration = Duration::from_secs(30);

fn config(path: &Path) -> config::Audit {
    config::Audit {
        file: Some(path.to_owned()),
        events: vec![AuditEvents::All],
        statements: vec![AuditStatements::All],
        tables: Vec::new(),
        text: AuditText::Normalised,
        rotate_size: 1 << 20,
        rotate_keep: 2,
        queue: 1 << 20,
    }
}

#[derive(Default)]
struct Count(std::sync::atomic::AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

fn started(config: &config::Audit) -> (Audit, Arc<Count>) {
    let count = Arc::new(Count::default());
    (Audit::start(config, Counter::from_arc(Arc::clone(&count))).expect("it starts"), count)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn action(number: usize) -> Event {
    let command = format!("action {number:06}");
    Event::OperatorAction { user: "dba".into(), client: None, command, outcome: Outcome::Done }
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_event_is_a_line() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (audit, lost) = started(&config(&path));
    Event::examples().into_iter().for_each(|event| audit.tell(event));
    assert!(audit.flush(LIMIT).await);
    let lines = lines(&path);
    assert_eq!(lines.len(), Event::examples().len());
    for (line, event) in lines.iter().zip(Event::examples()) {
        let expected = serde_json::to_value(&event).unwrap();
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{line}");
        }
        let time = line["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok() && time.ends_with('Z'), "{time}");
        assert_eq!(line["pid"], std::process::id());
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(lost.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_the_config_does_not_choose_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let chosen = config::Audit { events: vec![AuditEvents::Logins], ..config(&path) };
    let (audit, _) = started(&chosen);
    let events = || Event::examples().into_iter().filter(|event| event.group().is_some());
    events().for_each(|event| audit.tell(event));
    assert!(audit.flush(LIMIT).await);
    assert_eq!(lines(&path).len(), 2);
    // Nothing from now on, and then into another file.
    let other = folder.path().join("other.log");
    audit.adopt(&config::Audit { file: None, ..chosen.clone() });
    events().for_each(|event| audit.tell(event));
    audit.adopt(&config(&other));
    audit.tell(action(1));
    assert!(audit.flush(LIMIT).await);
    assert_eq!((lines(&path).len(), lines(&other).len()), (2, 1));
}

#[tokio::test]
async fn a_long_file_is_put_aside_and_few_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (audit, _) = started(&config::Audit { rotate_size: 4096, ..config(&path) });
    for number in 0..200 {
        audit.tell(action(number));
        if number % 5 == 0 {
            assert!(audit.flush(LIMIT).await);
        }
    }
    assert!(audit.flush(LIMIT).await);
    let aside = |number: usize| folder.path().join(format!("audit.log.{number}"));
    assert!(!aside(3).exists(), "two are kept");
    let kept: Vec<Value> = [aside(2), aside(1), path].iter().flat_map(|path| lines(path)).collect();
    let numbers: Vec<&str> = kept.iter().map(|line| line["command"].as_str().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&"action 000199"));
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.len() > 30, "{numbers:?}");
    for path in [aside(1), aside(2)] {
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size <= 4096 && size > 1024, "{size}");
    }
}

#[tokio::test]
async fn a_file_that_others_put_aside_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("audit.log"), folder.path().join("audit.old"));
    let (audit, _) = started(&config(&path));
    audit.tell(action(1));
    assert!(audit.flush(LIMIT).await);
    std::fs::rename(&path, &aside).unwrap();
    // As SIGHUP does.
    audit.adopt(&config(&path));
    audit.tell(action(2));
    assert!(audit.flush(LIMIT).await);
    assert_eq!((lines(&aside).len(), lines(&path).len()), (1, 1));
    // And without, a little later.
    std::fs::remove_file(&path).unwrap();
    wait_for("the new file", || {
        audit.tell(action(3));
        path.exists()
    })
    .await;
    assert!(audit.flush(LIMIT).await);
    assert!(!lines(&path).is_empty());
}

#[tokio::test]
async fn a_full_disk_loses_what_does_not_fit_and_says_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let full = config::Audit { queue: 64 << 10, ..config(Path::new("/dev/full")) };
    let (audit, lost) = started(&full);
    audit.tell(action(0));
    assert!(!audit.flush(Duration::from_millis(100)).await, "nothing can be written");
    let count = || lost.0.load(Ordering::Relaxed);
    let mut told = 1;
    while count() < 10 {
        audit.tell(action(told));
        told += 1;
        assert!(told < 100_000, "the queue has no end");
    }
    // There is room again.
    audit.adopt(&config(&path));
    assert!(audit.flush(LIMIT).await);
    let lines = lines(&path);
    let (notes, events): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["event"] == "lost");
    let noted: u64 = notes.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(noted, count());
    assert_eq!(events.len() as u64 + noted, told as u64);
    assert_eq!(events[0]["command"], "action 000000");
}

#[tokio::test]
async fn a_line_without_its_end_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    std::fs::write(&path, "{\"cut").unwrap();
    let (audit, _) = started(&config(&path));
    audit.tell(action(1));
    assert!(audit.flush(LIMIT).await);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("{\"cut\n{\"time\""), "{text}");
}

#[test]
fn a_file_that_cannot_be_opened_is_refused() {
    let error = Audit::check(&config(Path::new("/nonexistent/audit.log"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/audit.log"), "{error}");
    assert!(Audit::start(&config(Path::new("/nonexistent/audit.log")), Counter::noop()).is_err());
}

#[test]
fn the_docs_name_each_event_and_each_field() {
    let docs = include_str!("../../docs/audit.md");
    let mut names = std::collections::BTreeSet::new();
    for event in Event::examples() {
        let value = serde_json::to_value(Line::new(SystemTime::now(), &event)).unwrap();
        let name = value["event"].as_str().unwrap().to_owned();
        let start = format!("| `{name}` |");
        let row = docs.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{name} has no row"));
        for field in value.as_object().unwrap().keys() {
            let is_common = ["time", "pid", "event"].contains(&field.as_str());
            assert!(is_common || row.contains(&format!("`{field}`")), "{field} is not in the row of {name}");
        }
        names.insert(name);
    }
    let numbers: Vec<usize> = Event::examples().iter().map(Event::number).collect();
    assert_eq!(numbers, (0..Event::COUNT).collect::<Vec<_>>());
    let rows = docs.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `event` |")).count();
    assert_eq!((names.len(), rows), (Event::COUNT, Event::COUNT));
}
