//! The models and the reference answers that tests share.

use std::path::{Path, PathBuf};

use colony_inference::Home;
use serde_json::Value;

/// `smollm2.json` or `minilm.json`: what other programs computed with the same models. Absent
/// outside the project's own machines; then the test that asks prints why and passes.
pub(crate) fn reference(name: &str) -> Option<Value> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    let dir = std::env::var_os("COLONY_REFERENCE").map_or(default, PathBuf::from);
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(text) => Some(serde_json::from_slice(&text).expect("reference files are JSON")),
        Err(_) => {
            skipped(&format!("no reference answers at {}", path.display()));
            None
        }
    }
}

pub(crate) fn skipped(why: &str) {
    println!("skipped: {why}");
}

pub(crate) fn home() -> Home {
    Home::from_env().expect("a home folder")
}
