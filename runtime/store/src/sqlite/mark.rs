//! The high-water mark: how many writes were acknowledged, in a file of its own beside the ledger.
//!
//! SQLite believes its log up to the first page whose checksum does not fit. A log that is damaged, cut or gone is
//! for it one that ends early, and what was acknowledged after that would be as if it had never been. So the
//! number of the last durable write stands here too, and a ledger that has fewer is not opened.
//!
//! ```text
//!   sync ─► mark ─► answers
//! ```
//! Written after the sync and never synced itself: a killed process leaves it exact, a power cut may leave it behind,
//! nothing leaves it ahead of what is durable. One that cannot be read guards nothing, and stops nobody.

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::files::{beside, private};

pub(super) const SUFFIX: &str = ".mark";

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The ledger's id.
    pub(super) ledger: Uuid,
    /// Durable writes of it.
    pub(super) writes: u64,
}

impl Acknowledged {
    /// What the mark beside the ledger at `path` says; none: there is none, or none that can be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let path = beside(path, SUFFIX);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the mark cannot be read");
                return None;
            }
        };
        let read = Self::parse(&text);
        if read.is_none() {
            tracing::warn!(path = %path.display(), "the mark is damaged, and made anew");
        }
        read
    }

    /// Always of one length, so that it is overwritten in place.
    fn line(&self) -> String {
        let content = format!("{} {:020}", self.ledger, self.writes);
        let checksum = crc32fast::hash(content.as_bytes());
        format!("{content} {checksum:08x}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let (ledger, rest) = line.split_once(' ')?;
        let (writes, _) = rest.split_once(' ')?;
        let read = Self {
            ledger: ledger.parse().ok()?,
            writes: writes.parse().ok()?,
        };
        (read.line() == line).then_some(read)
    }
}

/// The mark of an open ledger.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    /// None after it could not be written: it stays where it is, below what is durable.
    file: Option<File>,
    said: Acknowledged,
}

impl Mark {
    /// Sets it to where the ledger at `path` stands.
    pub(super) fn set(path: &Path, stands: Acknowledged) -> io::Result<Self> {
        let path = beside(path, SUFFIX);
        let mut file = private().open(&path)?;
        let line = stands.line();
        file.write_all(line.as_bytes())?;
        file.set_len(line.len() as u64)?;
        file.sync_data()?;
        Ok(Self {
            path,
            file: Some(file),
            said: stands,
        })
    }

    /// Raises it to `writes`, which are durable.
    pub(super) fn raise(&mut self, writes: u64) {
        if self.said.writes == writes {
            return;
        }
        self.said.writes = writes;
        let Some(file) = &mut self.file else { return };
        let written = file
            .rewind()
            .and_then(|()| file.write_all(self.said.line().as_bytes()));
        if let Err(error) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the mark cannot be written: a lost log is not noticed until the next start");
            self.file = None;
        }
    }
}
