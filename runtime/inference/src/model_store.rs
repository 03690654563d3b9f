//! Where models and the ONNX Runtime library live on this machine.
//!
//! `pull` fills this folder, engines read it, nothing else writes there:
//!
//! ```text
//! $COLONY_HOME               default: $XDG_CACHE_HOME/colony, else ~/.cache/colony
//! ├── pull.lock              one pull at a time, over all processes
//! ├── wheels/                packages on their way in; empty between pulls
//! ├── runtime/               libonnxruntime.so.<version>
//! ├── sources/               GGUF files, kept so that an import can be repeated offline
//! └── models/<name>/         model.json, model.onnx, model.onnx.data, tokenizer.json
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::catalog;

/// The folder that holds everything fetched from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStore {
    root: PathBuf,
}

/// Why there is no model store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModelStoreError {
    /// None of the three variables names a folder.
    #[error("no folder for models: set COLONY_HOME (XDG_CACHE_HOME and HOME are unset too)")]
    Unknown,
    /// A relative path would mean another folder in every working directory.
    #[error("{variable} must be an absolute path, not {}", value.display())]
    Relative {
        /// The environment variable.
        variable: &'static str,
        /// What it holds.
        value: PathBuf,
    },
}

impl ModelStore {
    /// A store at `root`; nothing is created yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store this process's environment asks for.
    ///
    /// # Errors
    /// [`ModelStoreError`] when no variable is set or the one that decides is relative.
    pub fn from_env() -> Result<Self, ModelStoreError> {
        let var = |name| std::env::var_os(name);
        Self::from_vars(var("COLONY_HOME"), var("XDG_CACHE_HOME"), var("HOME"))
    }

    /// The same from given values: `COLONY_HOME` wins over `XDG_CACHE_HOME` over `HOME`; an
    /// empty value counts as unset.
    ///
    /// # Errors
    /// As [`ModelStore::from_env`].
    pub fn from_vars(
        colony_home: Option<OsString>,
        xdg_cache_home: Option<OsString>,
        home: Option<OsString>,
    ) -> Result<Self, ModelStoreError> {
        let candidates = [
            ("COLONY_HOME", colony_home, ""),
            ("XDG_CACHE_HOME", xdg_cache_home, "colony"),
            ("HOME", home, ".cache/colony"),
        ];
        for (variable, value, below) in candidates {
            let Some(value) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else {
                continue;
            };
            if value.is_relative() {
                return Err(ModelStoreError::Relative { variable, value });
            }
            let root = if below.is_empty() {
                value
            } else {
                value.join(below)
            };
            return Ok(Self { root });
        }
        Err(ModelStoreError::Unknown)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the ONNX Runtime library.
    pub fn runtime_dir(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// The ONNX Runtime library of the pinned version.
    pub fn runtime_library(&self) -> PathBuf {
        self.runtime_dir().join(catalog::ONNX_RUNTIME_LIBRARY)
    }

    /// Folder of one model, with its `model.json`.
    pub fn model_dir(&self, name: &str) -> PathBuf {
        self.root.join("models").join(name)
    }

    /// Folder of the GGUF files that imports start from.
    pub fn sources_dir(&self) -> PathBuf {
        self.root.join("sources")
    }

    /// Folder of half-fetched packages; only the holder of the lock may touch it.
    pub(crate) fn wheels_dir(&self) -> PathBuf {
        self.root.join("wheels")
    }

    /// The file whose lock serialises pulls.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join("pull.lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(values: [Option<&str>; 3]) -> Result<ModelStore, ModelStoreError> {
        let [a, b, c] = values.map(|value| value.map(OsString::from));
        ModelStore::from_vars(a, b, c)
    }

    #[test]
    fn the_first_variable_that_is_set_decides() {
        assert_eq!(
            store([Some("/a"), Some("/b"), Some("/c")]),
            Ok(ModelStore::new("/a"))
        );
        assert_eq!(
            store([Some(""), Some("/b"), Some("/c")]),
            Ok(ModelStore::new("/b/colony"))
        );
        assert_eq!(
            store([None, None, Some("/c")]),
            Ok(ModelStore::new("/c/.cache/colony"))
        );
        assert_eq!(store([None, None, None]), Err(ModelStoreError::Unknown));
    }

    #[test]
    fn a_relative_home_is_refused_by_name() {
        let error = store([Some("models"), None, None]).expect_err("relative");
        assert_eq!(
            error.to_string(),
            "COLONY_HOME must be an absolute path, not models"
        );
    }
}
