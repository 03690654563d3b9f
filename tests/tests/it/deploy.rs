//! deploy/README.md on a machine that has nothing but what it names.

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use colony_tests::{Checkout, Folder, colony, run_within, skipped};

/// For a dozen commands and the start of a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(180);
/// What machine.sh ends with where it may not mount.
const NOT_ALLOWED: i32 = 77;

/// Mounts and processes that go away with their first process.
const NAMESPACE: [&str; 6] = [
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
];

/// A process in a namespace of its own; none where this machine does not allow it.
fn namespace() -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args(NAMESPACE);
    let mut probe = Command::new("unshare");
    let probe = probe.args(NAMESPACE).arg("true");
    let tools = ["/usr/sbin/useradd", "/usr/bin/setpriv", "/usr/sbin/chroot"];
    let allowed = probe.output().is_ok_and(|output| output.status.success());
    (allowed && tools.iter().all(|tool| Path::new(tool).exists())).then_some(command)
}

#[test]
fn the_commands_of_the_deploy_page_work_on_a_clean_machine() {
    let Some(mut machine) = namespace() else {
        skipped("mount namespaces, useradd, setpriv and chroot are needed, and root's rights");
        return;
    };
    let checkout = Checkout::here().unwrap();
    let folder = Folder::new().unwrap();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    machine
        .arg("bash")
        .arg(checkout.root().join("tests/tests/it/deploy/machine.sh"))
        .args([folder.path(), checkout.root(), colony().unwrap()])
        .arg(&port);
    let ended = run_within(SOON, machine).unwrap();
    if ended.code == Some(NOT_ALLOWED) {
        skipped(format!("cannot set a machine up: {}", ended.stderr));
        return;
    }
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let results: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.contains(" rc="))
        .collect();
    assert!(results.len() > 10, "{said}");
    for result in &results {
        // Nothing is fetched in tests: the pull gets as far as that.
        let expected = if result.contains("model pull") {
            " rc=1 "
        } else {
            "rc=0"
        };
        assert!(result.contains(expected), "{result}\n{said}");
    }
    assert!(said.contains("COLONY_OFFLINE is set"), "{said}");
    assert!(
        said.contains("all accounted for"),
        "the status of a node: {said}"
    );
    for private in [
        "700 colony /var/lib/colony",
        "700 colony /var/lib/colony/data",
    ] {
        assert!(
            said.lines().any(|line| line == private),
            "{private}: {said}"
        );
    }
}
