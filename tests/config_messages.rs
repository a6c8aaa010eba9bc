//! Broken configs and what is said about them: `tests/config/*.toml`, each with its `.expected`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test config_messages` writes the expectations anew; read them aloud.

#![allow(clippy::expect_used, reason = "a test's helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use pgsluice::config::Config;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn broken_configs() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).expect("tests/config");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let mut configs: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    configs.sort();
    configs
}

#[test]
fn every_broken_config_gets_its_messages() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let configs = broken_configs();
    assert!(configs.len() >= 24, "{} broken configs", configs.len());
    let mut differing = Vec::new();
    for path in configs {
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("config");
        let found = match Config::parse(&text, &directory(), &name) {
            Ok(_) => panic!("{name} is meant to be broken, and is accepted"),
            Err(errors) => format!("{errors}\n").replace(&*directory().to_string_lossy(), "FOLDER"),
        };
        let expected_path = path.with_extension("expected");
        if update {
            fs::write(&expected_path, &found).expect("write");
        } else if fs::read_to_string(&expected_path).ok().as_deref() != Some(&found) {
            differing.push(format!("{}:\n{found}", expected_path.display()));
        }
    }
    assert!(differing.is_empty(), "these say something else now:\n{}", differing.join("\n"));
}

#[test]
fn no_expectation_is_left_without_its_config() {
    for entry in fs::read_dir(directory()).expect("tests/config") {
        let path = entry.expect("entry").path();
        assert!(path.with_extension("toml").exists(), "{} belongs to no config", path.display());
    }
}
