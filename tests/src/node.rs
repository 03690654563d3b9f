//! A real node in a process of its own, on a free port, in a temporary folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binary::{self, Finished, command, run_within},
    eventually_some,
};

/// A node opens its ledger and starts its agents within this, also on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The node's drain deadline and some time to exit.
const STOP_WITHIN: Duration = Duration::from_secs(45);
/// For one command against a node.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A temporary folder that stays when its test fails, and says where it is.
#[derive(Debug)]
pub struct Folder {
    inner: Option<TempDir>,
    path: PathBuf,
}

impl Folder {
    /// A new one.
    ///
    /// # Errors
    /// When none can be made.
    pub fn new() -> Result<Self> {
        let inner = tempfile::Builder::new().prefix("colony-test-").tempdir()?;
        let path = inner.path().to_path_buf();
        Ok(Self {
            inner: Some(inner),
            path,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it, written now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(inner) = self.inner.take()
        {
            eprintln!(
                "the folder of the failed test is kept: {}",
                inner.keep().display()
            );
        }
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Node {
    /// Starts one on the data folder `data` of `folder`, with the engine `echo` and what `more` adds, and waits
    /// until it says that it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready in time; the message holds its log.
    pub fn start(folder: &Folder, more: &[&str]) -> Result<Self> {
        Self::start_at(folder, "127.0.0.1:0", more)
    }

    /// Starts one that listens on `address`: the one of a node that was killed.
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub fn start_at(folder: &Folder, address: &str, more: &[&str]) -> Result<Self> {
        Self::start_as(folder, address, more, |command| command)
    }

    /// Starts one by the command that `wrap` makes of the usual one: in another environment, or under a
    /// tracer that leaves the node this process's child.
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub fn start_as(
        folder: &Folder,
        address: &str,
        more: &[&str],
        wrap: impl FnOnce(Command) -> Command,
    ) -> Result<Self> {
        let lives = fs::read_dir(folder.path())?.count();
        let log = folder.path().join(format!("node-{lives}.log"));
        let out = folder.path().join(format!("node-{lives}.out"));
        let data = folder.path().join("data");
        let data = data.to_str().context("a path in UTF-8")?;
        let mut args = vec!["node", "--json", "--data-dir", data, "--listen", address];
        if !more.contains(&"--engine") {
            args.extend(["--engine", "echo"]);
        }
        args.extend(more);
        let mut command = wrap(command(&args)?);
        command.current_dir(folder.path());
        command
            .stdout(File::create(&out)?)
            .stderr(File::create(&log)?);
        let mut node = Self {
            child: command.spawn()?,
            address: String::new(),
            log,
        };
        node.address = eventually_some("a node's ready line", READY_WITHIN, || {
            // A clean answer of try_wait is no reason to wait on: let the loop see it as found.
            if let Some(status) = node.child.try_wait()? {
                return Ok(Err(format!("the node exited with {status}")));
            }
            let said = fs::read_to_string(&out)?;
            let address = said
                .lines()
                .find_map(address_in)
                .context("nothing said yet")?;
            Ok(Ok(address))
        })?
        .map_err(|error| anyhow::anyhow!("{error}: {}", node.log()))?;
        Ok(node)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that its stderr goes to.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What it said on stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs a command against it.
    ///
    /// # Errors
    /// When the command cannot run or takes longer than two minutes.
    pub fn run(&self, args: &[&str]) -> Result<Finished> {
        let mut command = command(args)?;
        command.args(["--address", &self.address]);
        run_within(ANSWER_WITHIN, command)
    }

    /// Runs a command with `--json` that has to end well, and gives its lines.
    ///
    /// # Errors
    /// When it does not end with exit code 0, or prints something else than JSON.
    pub fn json(&self, args: &[&str]) -> Result<Vec<Value>> {
        let mut args = args.to_vec();
        args.push("--json");
        self.run(&args)?.good()?.json()
    }

    /// `kill -9`: what a power cut does to the process.
    ///
    /// # Errors
    /// When it was not running any more.
    pub fn kill(mut self) -> Result<()> {
        ensure!(
            self.child.try_wait()?.is_none(),
            "the node was gone already: {}",
            self.log()
        );
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the exit.
    ///
    /// # Errors
    /// When it has not ended in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        eventually_some("the exit after SIGTERM", STOP_WITHIN, || {
            match self.child.try_wait()? {
                Some(status) => Ok(status),
                None => bail!("still running: {}", self.log()),
            }
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        binary::kill(self.id(), signal)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of node {}\n{}", self.id(), self.log());
        }
    }
}

/// The loopback address in a line, if there is one.
fn address_in(line: &str) -> Option<String> {
    let start = line.find("127.0.0.1:")?;
    let end = line[start..].find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    let address = &line[start..end.map_or(line.len(), |end| start + end)];
    let port: u16 = address.rsplit(':').next()?.parse().ok()?;
    (port != 0).then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_words_and_in_json() {
        for line in [
            "ready on 127.0.0.1:4711",
            r#"{"address":"127.0.0.1:4711","ready":true}"#,
        ] {
            assert_eq!(address_in(line).as_deref(), Some("127.0.0.1:4711"));
        }
        assert_eq!(address_in("listening on 127.0.0.1:0"), None);
    }
}
