//! The one ONNX Runtime of this process.
//!
//! The library is loaded at run time from the file that `pull` fetched, so that building Colony
//! needs no network. It can be loaded once per process: the first path wins, and a second path
//! is an error instead of a silent no.
//!
//! From 1.29 on the library reports to its maker: once loaded it looks up a host, and keeps a device
//! number in the user's cache folder. Its call that disables this comes too late, since it needs
//! the environment whose creation has reported already. Only [`TELEMETRY_OFF`] in the process's
//! environment keeps it silent, and without it nothing is loaded here.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use parking_lot::Mutex;

/// Why ONNX Runtime is not there.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The file does not exist.
    #[error("no ONNX Runtime library at {}; `colony model pull` fetches it", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The loader or the library refused.
    #[error("cannot load the ONNX Runtime library {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The library would report to its maker.
    #[error("ONNX Runtime is not loaded: {} must be {} in the environment, or it reports to its maker", TELEMETRY_OFF.0, TELEMETRY_OFF.1)]
    Telemetry,
    /// Another copy is in use already.
    #[error("ONNX Runtime is loaded from {} already, not from {}", loaded.display(), wanted.display())]
    Other {
        /// What this process uses.
        loaded: PathBuf,
        /// What was asked for.
        wanted: PathBuf,
    },
}

/// The variable, and its value, that has to be in the environment before the library is loaded. A
/// program sets it as the first thing in `main`, before there is another thread; under `cargo
/// test` the workspace's `.cargo/config.toml` does.
pub const TELEMETRY_OFF: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Loads the library, or returns what the first call loaded. Cheap from the second call on and
/// safe from any thread; the environment lives as long as the process.
///
/// # Errors
/// [`RuntimeError`]; after a failed load another path may be tried.
pub fn onnx_runtime(library: &Path) -> Result<Environment, RuntimeError> {
    let mut loaded = LOADED.lock();
    if let Some((path, environment)) = &*loaded {
        return if path == library {
            Ok(environment.clone())
        } else {
            Err(RuntimeError::Other {
                loaded: path.clone(),
                wanted: library.into(),
            })
        };
    }
    let (variable, off) = TELEMETRY_OFF;
    if std::env::var_os(variable).is_none_or(|value| value != off) {
        return Err(RuntimeError::Telemetry);
    }
    if !library.is_file() {
        return Err(RuntimeError::Missing {
            path: library.into(),
        });
    }
    let unloadable = |source: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Load {
        path: library.into(),
        source,
    };
    let environment = ort::init_from(library)
        .map_err(|source| unloadable(Box::new(source)))?
        .with_telemetry(false)
        .build()
        .map_err(|source| unloadable(Box::new(source)))?;
    *loaded = Some((library.into(), environment.clone()));
    Ok(environment)
}
