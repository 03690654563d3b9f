//! The `colony` binary: built once, run as a user would.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::eventually_some;

/// How long a command that answers at once may take on a machine that builds at the same time.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The binary's path. The first call builds it with the profile and target folder of this test, unless
/// `COLONY_BIN` names one; `cargo test --workspace` has it built already.
///
/// # Errors
/// When it cannot be built.
pub fn colony() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match built {
        Ok(path) => Ok(path),
        Err(error) => bail!("no colony binary: {error}"),
    }
}

fn build() -> Result<PathBuf> {
    if let Some(path) = env::var_os("COLONY_BIN").map(PathBuf::from) {
        ensure!(
            path.is_file(),
            "COLONY_BIN names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    // target/debug/deps/it-0123: the profile's folder is two up.
    let test = env::current_exe()?;
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("the test lies in a target folder")?;
    let target = profile
        .parent()
        .context("the profile lies in a target folder")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--package",
        "colony-cli",
        "--bin",
        "colony",
        "--target-dir",
    ]);
    cargo.arg(target).current_dir(root);
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some(name) => {
            cargo.args(["--profile", name]);
        }
        None => bail!("{} has no profile name", profile.display()),
    }
    // Cargo's own variables of this crate must not reach the other build.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(profile.join("colony"))
}

/// A command of the binary, in a clean environment: no setting of the developer's shell reaches it.
///
/// # Errors
/// When the binary cannot be built.
pub fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(colony()?);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let ours = name.starts_with("COLONY_") && name != "COLONY_HOME" && name != "COLONY_OFFLINE";
        if ours || name.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    // A test's working folder is its crate: no colony.toml lies there.
    command
        .args(args)
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "1");
    Ok(command)
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Finished {
    /// Its standard output as JSON lines.
    ///
    /// # Errors
    /// When a line is not JSON.
    pub fn json(&self) -> Result<Vec<Value>> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}")))
            .collect()
    }

    /// This command, if it ended well.
    ///
    /// # Errors
    /// When its exit code is not 0; the message holds everything it said.
    pub fn good(self) -> Result<Self> {
        ensure!(
            self.code == Some(0),
            "exit {:?}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }
}

/// Runs a command that answers at once.
///
/// # Errors
/// When it cannot be started or takes longer than a minute.
pub fn run(args: &[&str]) -> Result<Finished> {
    run_within(ANSWER_WITHIN, command(args)?)
}

/// Runs a command to its end, at most for `limit`; kills it then.
///
/// # Errors
/// When it cannot be started or has not ended in time.
pub fn run_within(limit: Duration, mut command: Command) -> Result<Finished> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.with_context(|| format!("cannot start {command:?}"))?;
    let id = child.id();
    // The pipes are drained by this thread's end of the channel, so that a talkative command cannot block.
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    let waiter = std::thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    let output: Output = match ended.recv_timeout(limit) {
        Ok(output) => output?,
        Err(_) => {
            kill(id, "KILL")?;
            let output = eventually_some("a killed command's end", ANSWER_WITHIN, || {
                Ok(ended.try_recv()??)
            })?;
            bail!(
                "{command:?} had not ended after {limit:?}: {}",
                text(&output.stderr)
            );
        }
    };
    let _ = waiter.join();
    Ok(Finished {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// Sends a signal to a process of ours.
pub(crate) fn kill(id: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill")
        .args(["-s", signal, &id.to_string()])
        .status()?;
    ensure!(status.success(), "cannot send {signal} to {id}");
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
