//! Python packages that tests use, fetched once with pip and kept in the target folder.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    binary::{Finished, run_within},
    checkout::offline,
};

/// Packages in a folder of their own, apart from the system's and the user's.
#[derive(Debug, Clone)]
pub struct Packages {
    folder: PathBuf,
}

impl Packages {
    /// Those of `requirements`, such as `grpcio==1.85.3`, kept as `name` in the folder `kept`. pip fetches them where they
    /// are not there yet, within `limit`.
    ///
    /// # Errors
    /// When they are not there and `COLONY_OFFLINE` is set, or pip does not fetch them in time.
    pub fn fetch(kept: &Path, name: &str, requirements: &[&str], limit: Duration) -> Result<Self> {
        // Another list is another folder.
        let folder = kept.join(format!(
            "{name}-{}",
            requirements.join("-").replace('=', "")
        ));
        if folder.is_dir() {
            return Ok(Self { folder });
        }
        let wanted = requirements.join(" ");
        ensure!(!offline(), "COLONY_OFFLINE=1 and {wanted} is not there yet");
        fs::create_dir_all(kept)?;
        // Into a folder of its own first: another test process may fetch at the same time.
        let fetched = tempfile::tempdir_in(kept)?;
        let site = fetched.path().join("site");
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args([
            "--no-input",
            "--root-user-action=ignore",
            "--only-binary=:all:",
        ])
        .arg("--target")
        .arg(&site)
        .args(requirements);
        let pip = run_within(limit, pip).with_context(|| format!("pip did not fetch {wanted}"))?;
        ensure!(
            pip.code == Some(0),
            "pip did not fetch {wanted}: {}",
            pip.stderr.trim().lines().last().unwrap_or_default()
        );
        // Fails when the other one was first; its copy is as good.
        let _ = fs::rename(&site, &folder);
        ensure!(folder.is_dir(), "{} is not there", folder.display());
        Ok(Self { folder })
    }

    /// Python with these packages, and the modules of `more`.
    #[must_use]
    pub fn python(&self, more: &[&Path]) -> Command {
        let mut path = OsString::from(&self.folder);
        for folder in more {
            path.push(":");
            path.push(folder);
        }
        let mut python = Command::new("python3");
        // Nothing of the user's, and nothing written into the checkout.
        python
            .env("PYTHONPATH", path)
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        python
    }

    /// Runs Python to its end.
    ///
    /// # Errors
    /// When it does not end in time, or not with 0; the message holds what it said.
    pub fn run(&self, python: Command, limit: Duration) -> Result<Finished> {
        let finished = run_within(limit, python)?;
        ensure!(
            finished.code == Some(0),
            "python ended with {:?}: {}{}",
            finished.code,
            finished.stdout,
            finished.stderr
        );
        Ok(finished)
    }
}
