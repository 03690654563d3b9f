//! What happened, in order: the lines whose hash tells two runs apart.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// The history of one run.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Vec<String>>);

impl History {
    /// Notes what happens at a moment of simulated time.
    pub(crate) fn note(&self, at: Duration, what: fmt::Arguments<'_>) {
        self.0.lock().push(format!("{} {what}", at.as_micros()));
    }

    /// Takes the lines out.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// SHA-256 over lines, in hexadecimal.
pub(crate) fn hash(lines: &[String]) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
