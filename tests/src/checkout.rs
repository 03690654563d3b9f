//! The checkout as a set of files.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};

/// The project's files as they stand in the working tree.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    files: BTreeSet<String>,
}

impl Checkout {
    /// The checkout that this crate was built from.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate has a parent folder")?
            .to_path_buf();
        let files = listed_by_git(&root).or_else(|_| walked(&root))?;
        ensure!(!files.is_empty(), "no files under {}", root.display());
        Ok(Self { root, files })
    }

    /// Its top folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every file that belongs to the project, as paths with `/`, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Files with one of these endings.
    pub fn ending<'a>(&'a self, endings: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.files()
            .filter(move |file| endings.iter().any(|ending| file.ends_with(ending)))
    }

    /// Whether `path` is a file of the project or a folder that holds one.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.files.contains(path) || self.files().any(|file| file.starts_with(&folder))
    }

    /// The text of a file.
    ///
    /// # Errors
    /// When it cannot be read as UTF-8.
    pub fn text(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.root.join(file)).with_context(|| format!("cannot read {file}"))
    }
}

fn listed_by_git(root: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()?;
    ensure!(output.status.success(), "git ls-files failed");
    let listing = String::from_utf8(output.stdout)?;
    Ok(listing
        .split('\0')
        .filter(|file| !file.is_empty() && root.join(file).is_file())
        .map(str::to_owned)
        .collect())
}

/// For a checkout without git: everything but build output and hidden folders other than `.cargo` and `.ci`.
fn walked(root: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let hidden =
                name.starts_with('.') && name != ".cargo" && name != ".ci" && name != ".gitignore";
            if hidden || name == "target" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Some(file) = path.strip_prefix(root)?.to_str() {
                files.insert(file.to_owned());
            }
        }
    }
    Ok(files)
}

/// A file of the public data sets, or the reason why a test has to skip.
///
/// The folder is named by `COLONY_DATA`; without it, `../shared/data` beside the checkout is looked at.
///
/// # Errors
/// When the file is not there: a line for the skip message.
pub fn data_file(path: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder =
        env::var_os("COLONY_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
    let file = folder.join(path);
    ensure!(
        file.is_file(),
        "{path} is absent; COLONY_DATA names the folder of public data sets"
    );
    Ok(file)
}

/// Whether fetching is forbidden: `COLONY_OFFLINE=1`.
#[must_use]
pub fn offline() -> bool {
    env::var("COLONY_OFFLINE").is_ok_and(|value| value == "1")
}

/// Says that this test was skipped, and why: past the harness, which hides what passing tests print.
pub fn skipped(why: impl fmt::Display) {
    let test = thread::current();
    let name = test.name().unwrap_or("a test");
    // A closed stderr is no reason to fail.
    let _ = writeln!(io::stderr(), "skipped: {name}: {why}");
}
