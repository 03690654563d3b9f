//! Every command line in the documents is one that the parser takes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _, error::ErrorKind};

use super::Cli;

/// Flags in the documents that are cargo's, or that are named because they do not exist.
const NOT_OURS: [&str; 3] = ["--workspace", "--release", "--join"];

/// A command line in a document.
#[derive(Debug)]
struct Quoted {
    place: String,
    /// A block is for copying; in a sentence `colony agent get` may stand without its arguments.
    whole: bool,
    words: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs"), root().join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of documents") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|ending| ending != "png") {
                found.push(path);
            }
        }
    }
    found.extend(["README.md", "CONTRIBUTING.md", "colony.toml"].map(|file| root().join(file)));
    found
}

/// The command lines of a text: those of its blocks, and the spans between backticks that begin with `colony`.
fn quoted(name: &str, text: &str) -> Vec<Quoted> {
    let mut found = Vec::new();
    // The language of the block that a line is in; none in prose.
    let (mut block, mut prose) = (None, String::new());
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = match block {
                None => Some(language),
                Some(_) => None,
            };
        } else if let Some(language) = block {
            if !language.is_empty() {
                continue;
            }
            let line = line.split(" #").next().unwrap_or_default();
            let line = line.replace("cargo run --release -- ", "colony ");
            for part in line.split("&&") {
                if let Some(words) = call(part) {
                    found.push(Quoted {
                        place: format!("{name}:{}", number + 1),
                        whole: true,
                        words,
                    });
                }
            }
        } else {
            prose.push_str(line.trim_start_matches("# "));
            prose.push(' ');
        }
    }
    for span in prose.split('`').skip(1).step_by(2) {
        if span.starts_with("colony ") {
            found.push(Quoted {
                place: name.to_owned(),
                whole: false,
                words: span.to_owned(),
            });
        }
    }
    found
}

/// The call of the binary in a line of a shell: `sudo -u colony env A=b colony status` calls `colony status`.
fn call(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let is_call =
        |at: &usize| words[*at] == "colony" && (*at == 0 || !words[at - 1].starts_with('-'));
    let at = (0..words.len().saturating_sub(1)).find(is_call)?;
    Some(words[at..].join(" "))
}

/// Words as a shell would give them, with something that fits in place of what stands for it.
fn arguments(words: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    for (index, part) in words.split('"').enumerate() {
        if index % 2 == 1 {
            arguments.push(part.to_owned());
            continue;
        }
        let part = part.replace(['[', ']', '…'], "");
        arguments.extend(part.split_whitespace().map(|word| {
            match word {
                "SHELL" => "bash",
                "STATE" => "ready",
                "TIME" => "10s",
                "N" => "5",
                "CODE" => "CLY0001",
                "HOST:PORT" => "127.0.0.1:7400",
                other => other,
            }
            .to_owned()
        }));
    }
    arguments
}

/// What the parser says against a command line, if anything.
fn refusal(quoted: &Quoted) -> Option<String> {
    let error = Cli::command()
        .try_get_matches_from(arguments(&quoted.words))
        .err()?;
    let lacks = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let fine = (lacks && !quoted.whole)
        || matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
    (!fine).then(|| format!("{}: {}: {}", quoted.place, quoted.words, error.kind()))
}

fn flags(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long());
    let below = command.get_subcommands().flat_map(flags);
    own.map(|long| format!("--{long}")).chain(below).collect()
}

#[test]
fn every_command_line_in_the_documents_is_taken() {
    let mut count = 0;
    let mut refused = Vec::new();
    for file in documents() {
        let name = file
            .strip_prefix(root())
            .unwrap_or(&file)
            .display()
            .to_string();
        for quoted in quoted(&name, &fs::read_to_string(&file).expect("a document")) {
            count += 1;
            refused.extend(refusal(&quoted));
        }
    }
    assert!(
        refused.is_empty(),
        "command lines that do not work:\n{}",
        refused.join("\n")
    );
    assert!(count > 50, "only {count} command lines were found");
}

#[test]
fn every_flag_in_the_documents_exists() {
    let mut command = Cli::command();
    // Adds what clap adds: --help, --version.
    command.build();
    let known = flags(&command);
    let mut unknown = Vec::new();
    for file in documents() {
        let text = fs::read_to_string(&file).expect("a document");
        let prose: String = text.split("```").step_by(2).collect();
        for span in prose.split('`').skip(1).step_by(2) {
            let flag = span.split([' ', '=']).next().unwrap_or_default();
            if flag.starts_with("--") && !known.contains(flag) && !NOT_OURS.contains(&flag) {
                unknown.push(format!("{}: {flag}", file.display()));
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "flags that do not exist:\n{}",
        unknown.join("\n")
    );
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let text = "Run `colony task get` or `colony model list --catalog`.\n```\nsudo -u colony env A=b colony dance   # never\n```\n";
    let refused: Vec<String> = quoted("x.md", text).iter().filter_map(refusal).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(
        refused[0].starts_with("x.md:3: colony dance"),
        "{refused:?}"
    );
    assert!(refused[1].contains("--catalog"), "{refused:?}");
}
