//! What a shell offers at Tab.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};
use colony_tests::{Folder, Node, colony, eventually, run_within};

/// For a command against a node of this machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

/// What bash would offer at Tab behind `words`, the last of which is being typed.
fn offered(node: &Node, words: &str) -> Result<String> {
    let script = format!(
        "source <(colony completions bash)
         COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMP_TYPE=9
         _clap_complete_colony colony \"${{COMP_WORDS[-1]}}\"
         printf '%s\n' \"${{COMPREPLY[@]}}\""
    );
    let folder = colony()?.parent().context("the binary lies in a folder")?;
    let path = std::env::var("PATH")?;
    let mut bash = Command::new("bash");
    bash.args(["-c", &script])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("COLONY_ADDRESS", node.address());
    Ok(run_within(SOON, bash)?.good()?.stdout)
}

#[test]
fn tab_completes_what_there_is() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let id = node.run(&["submit", "my badge is lost"]).unwrap();
    let id = id.good().unwrap().stdout;
    let mut question = String::new();
    eventually("a question", SOON, || {
        let open = node.json(&["approve", "list"])?;
        let first = open.first().and_then(|open| open["id"].as_str());
        question = first.unwrap_or_default().to_owned();
        Ok(!question.is_empty())
    })
    .unwrap();
    for (words, wanted) in [
        ("colony task list --state wa", "waiting"),
        ("colony field sense --signal load", "load_balancing"),
        ("colony model pull smol", "smollm2"),
        ("colony explain CLY000", "CLY0003"),
        ("colony task get 0", id.trim()),
        ("colony approve show 0", &question),
        ("colony submit --type tri", "triage"),
        ("colony agent get triage/1", "triage/17"),
    ] {
        // The node has half a second to answer: on a machine that builds at the same time that may be too little.
        eventually(words, SOON, || {
            Ok(offered(&node, words)?.lines().any(|offer| offer == wanted))
        })
        .unwrap();
    }
    let none = offered(&node, "colony --address 127.0.0.1:1 task get 0").unwrap();
    assert_eq!(none.trim(), "", "a node that is away offers nothing");
}
