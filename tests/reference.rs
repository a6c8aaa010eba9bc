//! `docs/reference/` is made of the code, and this holds it to that.
//!
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes the pages anew.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pgsluice::admin::{ACTIONS, SHOWS};
use pgsluice::audit::{Event, Line};
use pgsluice::config::Config;
use pgsluice::route::{Reason, Refusal};
use pgsluice::telemetry::metrics::{
    self, AcceptFailure, CausalOutcome, ClientState, CutCause, HandshakeFailure, LoginOutcome, NodeMetrics, PinCause,
    PollOutcome, PoolMetrics, ProxyMetrics, ReloadOutcome, ServerState, ShardMetrics,
};
use pgsluice::topology::{Admission, EjectReason, Node, Role};

const MADE: &str = "<!-- Made of the code by `UPDATE_REFERENCE=1 cargo test --test reference`. Do not edit. -->\n\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn holds(name: &str, body: &str) {
    let path = root().join("docs/reference").join(name);
    let page = format!("{MADE}{body}");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, page).expect("the page is written");
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).position(|(there, made)| there != made);
    let line = differs.unwrap_or(there.lines().count().min(page.lines().count()));
    assert!(
        there == page,
        "docs/reference/{name} is not what the code makes, from line {} on:\n  there: {:?}\n  made:  {:?}\nUPDATE_REFERENCE=1 cargo test --test reference",
        line + 1,
        there.lines().nth(line),
        page.lines().nth(line)
    );
}

/// For a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What the admin database shows, with the columns of each table.
#[test]
fn show() {
    let mut page = String::from("# The admin database\n\nWhat [it](../admin.md) shows and does.\n");
    for show in SHOWS {
        let name = show.name.to_uppercase();
        write!(page, "\n## `SHOW {name}`\n\n{}\n\n| column | type | |\n| --- | --- | --- |\n", show.meaning).unwrap();
        for column in show.columns {
            let meaning = cell(column.meaning);
            writeln!(page, "| `{}` | {} | {meaning} |", column.name, column.kind.name()).unwrap();
        }
    }
    page.push_str("\n## Commands\n\n| command | |\n| --- | --- |\n");
    for (command, meaning) in ACTIONS {
        writeln!(page, "| `{}` | {} |", cell(command), cell(meaning)).unwrap();
    }
    holds("show.md", &page);
}

/// Every key with its value in the annotated reference, and what that says of it. The file itself is held to the
/// schema by the tests of `config/`.
#[test]
fn config() {
    let text = std::fs::read_to_string(root().join("config/pgsluice.toml")).expect("the annotated config");
    let mut page = String::from(
        "# Config keys\n\nOf [config/pgsluice.toml](../../config/pgsluice.toml): each key with its default, or an \
         example where there is none.\n",
    );
    let (mut comment, mut keys) = (Vec::<String>::new(), 0);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(said) = line.strip_prefix('#') {
            if !said.starts_with(" ----") {
                comment.push(said.strip_prefix(' ').unwrap_or(said).to_owned());
            }
        } else if line.starts_with('[') {
            write!(page, "\n## `{line}`\n\n{}\n", comment.join("\n")).unwrap();
            comment.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let mut value = value.to_owned();
            while value.starts_with('[') && !value.ends_with(']') {
                value.push_str(lines.next().expect("the list's end").trim());
            }
            write!(page, "\n### `{key}`\n\n`{key} = {value}`\n").unwrap();
            if !comment.is_empty() {
                write!(page, "\n```text\n{}\n```\n", comment.join("\n")).unwrap();
            }
            keys += 1;
            // Two keys may share what is said of them.
            comment.clear();
        } else if line.is_empty() && keys == 0 && !page.contains("\n## ") {
            comment.clear();
        }
    }
    assert!(keys > 40, "{keys} keys");
    holds("config.md", &page);
}

/// One series of each metric, with all its labels.
#[test]
fn metrics() {
    let handle = metrics::install().expect("the recorder");
    let proxy = ProxyMetrics::new();
    proxy.clients(ClientState::Idle).set(0.0);
    proxy.proxy_overhead.record(0.0);
    proxy.pool_wait.record(0.0);
    let reasons: Vec<_> = Reason::all().map(Reason::name).collect();
    ShardMetrics::new("s", &reasons).duration(Role::Primary).record(0.0);
    PoolMetrics::new("s", "n").connections(ServerState::Idle).set(0.0);
    let node = Node::new("n".into(), 1, 1);
    node.set_admission(Admission::Ejected(EjectReason::Lag), 0);
    NodeMetrics::new("s", &node.name).show(&node, Role::Replica);
    let text = handle.render();

    let mut series: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let (mut types, mut helps) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            types.insert(name, kind);
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, labels)) = line.split_once('{') {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let name = base.filter(|base| types.get(base) == Some(&"histogram")).unwrap_or(name);
            let labels = labels.split('}').next().unwrap_or_default().split(',');
            let names = labels.filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            series.entry(name).or_default().extend(names.filter(|name| *name != "le"));
        }
    }
    let mut page = String::from(
        "# Metrics\n\nWhat each is for is told in [observability.md](../observability.md). `shard` and `node` are names \
         of the config.\n\n| metric | type | labels | |\n| --- | --- | --- | --- |\n",
    );
    for (name, kind) in &types {
        let labels: Vec<String> = series.get(name).into_iter().flatten().map(|label| format!("`{label}`")).collect();
        let help = helps.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(help)).unwrap();
    }
    let all = |names: Vec<&'static str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    page.push_str("\n## Values of labels\n\n| label | of | values |\n| --- | --- | --- |\n");
    let statement_reasons = all(reasons);
    let eject_reasons = all(EjectReason::ALL.iter().map(|reason| reason.name()).collect());
    let roles = all([Role::Unknown, Role::Primary, Role::Replica].map(Role::name).into());
    let client_states = all(ClientState::ALL.iter().map(|state| state.name()).collect());
    let server_states = all(ServerState::ALL.iter().map(|state| state.name()).collect());
    let causal = all(CausalOutcome::ALL.iter().map(|outcome| outcome.name()).collect());
    let reloads = all(ReloadOutcome::ALL.iter().map(|outcome| outcome.name()).collect());
    let logins = all(LoginOutcome::ALL.iter().map(|outcome| outcome.name()).collect());
    let cuts = all(CutCause::ALL.iter().map(|cause| cause.name()).collect());
    let accepts = all(AcceptFailure::ALL.iter().map(|cause| cause.name()).collect());
    let handshakes = all(HandshakeFailure::ALL.iter().map(|cause| cause.name()).collect());
    let pins = all(PinCause::ALL.iter().map(|cause| cause.name()).collect());
    let polls = all(PollOutcome::ALL.iter().map(|outcome| outcome.name()).collect());
    for (label, of, values) in [
        ("role", "all", &roles),
        ("reason", "`pgsluice_statements_total`", &statement_reasons),
        ("reason", "`pgsluice_replica_ejected`, `pgsluice_replica_ejections_total`", &eject_reasons),
        ("state", "`pgsluice_clients`", &client_states),
        ("state", "`pgsluice_server_connections`", &server_states),
        ("cause", "`pgsluice_clients_cut_total`", &cuts),
        ("cause", "`pgsluice_accept_failures_total`", &accepts),
        ("cause", "`pgsluice_tls_handshake_failures_total`", &handshakes),
        ("cause", "`pgsluice_pinned_clients`", &pins),
        ("outcome", "`pgsluice_logins_total`", &logins),
        ("outcome", "`pgsluice_causal_waits_total`", &causal),
        ("outcome", "`pgsluice_config_reloads_total`", &reloads),
        ("outcome", "`pgsluice_monitor_polls_total`", &polls),
    ] {
        writeln!(page, "| `{label}` | {of} | {values} |").unwrap();
    }
    let source = std::fs::read_to_string(root().join("src/telemetry/metrics.rs")).expect("the names");
    for name in source.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1)) {
        assert!(types.contains_key(name), "{name} is not on the page: record it above");
    }
    holds("metrics.md", &page);
}

/// Every error that is made in the source, by its SQLSTATE. What a server says is passed on and not listed.
#[test]
fn errors() {
    let mut errors: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for maker in ["ErrorReply::error(", "ErrorReply::fatal(", "told("] {
            for (at, _) in code.match_indices(maker) {
                let rest = code[at + maker.len()..].trim_start();
                let Some((sqlstate, rest)) = literal(rest) else { continue };
                let is_sqlstate =
                    sqlstate.len() == 5 && sqlstate.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
                if !is_sqlstate {
                    // Some `told` take the message alone.
                    assert!(maker == "told(", "{sqlstate:?} in {}", path.display());
                    continue;
                }
                let rest = rest.trim_start().trim_start_matches(',').trim_start();
                let rest = rest.strip_prefix("format!(").unwrap_or(rest).trim_start();
                let message = literal(rest).map_or_else(|| "*(depends on the cause)*".to_owned(), |(text, _)| text);
                errors.entry(sqlstate).or_default().insert(message);
            }
        }
    }
    let mut page = String::from(
        "# Errors\n\nWhat pgsluice itself tells clients. Errors of the servers come through as they are. Words in braces \
         stand for what they name.\n\n| SQLSTATE | message |\n| --- | --- |\n",
    );
    assert!(errors.len() > 10, "{errors:?}");
    for (sqlstate, messages) in &errors {
        for message in messages {
            writeln!(page, "| `{sqlstate}` | {} |", cell(message)).unwrap();
        }
    }
    holds("errors.md", &page);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, files);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// A string literal at the start of the code, and what follows.
fn literal(code: &str) -> Option<(String, &str)> {
    let rest = code.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &rest[at + 1..])),
            '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
            other => text.push(other),
        }
    }
    None
}

/// Every event with its fields, and a line as an example.
#[test]
fn audit() {
    let mut page = String::from("# Audit events\n\nWhat each field means is told in [audit.md](../audit.md).\n");
    for event in Event::examples() {
        let value = serde_json::to_value(Line::new(SystemTime::UNIX_EPOCH, &event)).expect("JSON");
        let mut value = value;
        value["pid"] = 4712.into();
        let fields = value.as_object().expect("an object");
        let names: Vec<String> =
            fields.keys().filter(|field| *field != "event").map(|field| format!("`{field}`")).collect();
        let name = value["event"].as_str().expect("its name");
        write!(page, "\n## `{name}`\n\n{}\n\n```json\n{value}\n```\n", names.join(", ")).unwrap();
    }
    holds("audit.md", &page.replace(&format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"version\":\"…\""));
}

fn pages(folder: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder").map(|entry| entry.unwrap().path());
    let pages = entries.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.clone(), std::fs::read_to_string(path).expect("a page"))).collect()
}

/// Every reason has its line in the page that explains them.
#[test]
fn every_reason_is_explained() {
    let page = std::fs::read_to_string(root().join("docs/why-primary.md")).expect("the page");
    let refusals = [Refusal::NoPrimary, Refusal::NoReplica, Refusal::NoFreshReplica].map(Refusal::name);
    for name in Reason::all().map(Reason::name).chain(refusals) {
        let lines = page.lines().filter(|line| line.starts_with(&format!("| `{name}` |"))).count();
        assert_eq!(lines, 1, "{name} in docs/why-primary.md");
    }
}

/// Links between the pages lead to a file, and to a heading in it.
#[test]
fn links_lead_somewhere() {
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    let mut all = pages("docs");
    all.extend(pages("docs/reference"));
    all.extend(pages("docs/decisions"));
    all.extend(pages(""));
    let mut count = 0;
    for (path, text) in &all {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{target} in {}", path.display());
            if !heading.is_empty() {
                let there = std::fs::read_to_string(&file).expect("a page");
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                let is_there = headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading);
                assert!(is_there, "{target} in {}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count} links");
}

/// The whole configs in the pages of tasks are valid ones.
#[test]
fn configs_in_the_pages_are_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut count = 0;
    for (path, text) in pages("docs") {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            // Others are parts of one.
            if !block.contains("[auth]") || !block.contains("[[shards]]") {
                continue;
            }
            let file = folder.path().join("pgsluice.toml");
            // Secrets are not there.
            std::fs::write(&file, block.replace("\"env:", "\"")).expect("written");
            let loaded = Config::load(&file);
            assert!(loaded.is_ok(), "{}: {}", path.display(), loaded.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 0);
}
