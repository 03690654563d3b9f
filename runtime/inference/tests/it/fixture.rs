//! The models and the reference answers that tests share.

use std::io::Write;
use std::path::{Path, PathBuf};

use colony_inference::catalog::{Item, SMOLLM2_GGUF};
use colony_inference::pull::pull;
use colony_inference::{ModelStore, Network, PullError};
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

/// Says so past the test harness, which hides what passing tests print.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test");
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// The model store with `items` in it: fetched on first use by the same code as anywhere else.
/// `None` (said in a line) when `COLONY_OFFLINE` forbids fetching what is missing.
pub(crate) fn store_with(items: &[Item]) -> Option<ModelStore> {
    let store = ModelStore::from_env().expect("a model store");
    match pull(&store, items, Network::from_env(), &mut |_| {}) {
        Ok(_) => Some(store),
        Err(error @ PullError::Offline { .. }) => {
            skipped(&error.to_string());
            None
        }
        Err(error) => {
            let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
                error.source()
            });
            let chain: Vec<String> = chain.map(ToString::to_string).collect();
            panic!("models for this test: {}", chain.join(": "));
        }
    }
}

/// What the generation tests need, or `None` as above.
pub(crate) fn smollm2() -> Option<ModelStore> {
    store_with(&[Item::Runtime, Item::Smollm2])
}

/// The GGUF that `smollm2` was imported from.
pub(crate) fn smollm2_gguf(store: &ModelStore) -> PathBuf {
    store.sources_dir().join(SMOLLM2_GGUF)
}
