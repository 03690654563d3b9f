//! The frame: what no compiler checks, and what review would forget.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Metadata, MetadataCommand};
use colony_tests::Checkout;

/// Who may know whom, dependencies of tests included.
const EDGES: [(&str, &[&str]); 9] = [
    ("colony-proto", &[]),
    ("colony-core", &[]),
    ("colony-store", &["colony-core", "colony-proto"]),
    ("colony-inference", &["colony-core"]),
    ("colony-agents", &["colony-core"]),
    (
        "colony-node",
        &[
            "colony-agents",
            "colony-core",
            "colony-inference",
            "colony-proto",
            "colony-store",
        ],
    ),
    (
        "colony-sim",
        &[
            "colony-agents",
            "colony-core",
            "colony-inference",
            "colony-node",
            "colony-proto",
            "colony-store",
        ],
    ),
    (
        "colony-cli",
        &[
            "colony-agents",
            "colony-core",
            "colony-inference",
            "colony-node",
            "colony-proto",
            "colony-sim",
            "colony-store",
        ],
    ),
    ("colony-tests", &["colony-proto", "colony-sim"]),
];

/// What a newcomer sees first. A new name here is a decision, not an accident.
const TOP: [&str; 23] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agents",
    "clippy.toml",
    "colony.toml",
    "deny.toml",
    "deploy",
    "docs",
    "proto",
    "runtime",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "sim",
    "tests",
    // Allowed and not needed:
    ".github",
    ".editorconfig",
];

/// Longest source file, in lines: more than a screenful of rooms, less than a floor.
const LINES_MAX: usize = 700;

fn metadata() -> Metadata {
    let checkout = Checkout::here().unwrap();
    MetadataCommand::new()
        .manifest_path(checkout.root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn manifests(checkout: &Checkout) -> Vec<(String, toml::Table)> {
    checkout
        .files()
        .filter(|file| file.ends_with("/Cargo.toml"))
        .map(|file| {
            (
                file.to_owned(),
                checkout.text(file).unwrap().parse().unwrap(),
            )
        })
        .collect()
}

fn is_generated(file: &str) -> bool {
    file.starts_with("proto/src/gen/")
}

fn assert_none(problems: &[String], what: &str) {
    assert!(problems.is_empty(), "{what}:\n{}", problems.join("\n"));
}

#[test]
fn crates_know_only_whom_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata().packages {
        let name = package.name.to_string();
        let Some(friends) = allowed.get(name.as_str()) else {
            problems.push(format!("{name} is a new crate: ADR first, then the table"));
            continue;
        };
        seen.insert(name.clone());
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            if other.starts_with("colony-") && !friends.contains(&other) {
                problems.push(format!("{name} must not know {other}"));
            }
        }
    }
    assert_none(&problems, "edges that docs/ARCHITECTURE.md does not have");
    assert_eq!(seen.len(), EDGES.len(), "crates present: {seen:?}");
}

#[test]
fn the_rules_have_no_runtime() {
    const FORBIDDEN: [&str; 6] = ["tokio", "ractor", "tonic", "rusqlite", "ort", "parking_lot"];
    let core = metadata()
        .packages
        .into_iter()
        .find(|p| *p.name == "colony-core")
        .unwrap();
    let found: Vec<_> = core
        .dependencies
        .iter()
        .map(|d| d.name.as_str())
        .filter(|name| FORBIDDEN.contains(name))
        .collect();
    assert!(
        found.is_empty(),
        "colony-core decides and does nothing else: {found:?}"
    );
}

#[test]
fn every_crate_inherits_lints_and_facts() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for (file, manifest) in manifests(&checkout) {
        let inherits = |table: Option<&toml::Value>| {
            table.and_then(|t| t.get("workspace")) == Some(&true.into())
        };
        if !inherits(manifest.get("lints")) {
            problems.push(format!("{file}: [lints] workspace = true is missing"));
        }
        for fact in ["version", "edition", "rust-version", "license", "publish"] {
            if !inherits(manifest["package"].get(fact)) {
                problems.push(format!("{file}: {fact}.workspace = true is missing"));
            }
        }
        if manifest["package"].get("description").is_none() {
            problems.push(format!("{file}: description is missing"));
        }
    }
    assert_none(&problems, "manifests that do not inherit");
}

#[test]
fn every_dependency_is_declared_once() {
    const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let checkout = Checkout::here().unwrap();
    let root: toml::Table = checkout.text("Cargo.toml").unwrap().parse().unwrap();
    let declared = root["workspace"]["dependencies"].as_table().unwrap();
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for (file, manifest) in manifests(&checkout) {
        let targets = manifest.get("target").and_then(toml::Value::as_table);
        let of_targets = targets.into_iter().flat_map(toml::Table::values);
        let of_all = of_targets
            .filter_map(toml::Value::as_table)
            .chain([&manifest]);
        let tables = of_all.flat_map(|table| SECTIONS.map(|section| table.get(section)));
        let entries = tables.filter_map(|table| table?.as_table());
        for (name, entry) in entries.flatten() {
            used.insert(name.clone());
            if entry.get("workspace") != Some(&true.into()) {
                problems.push(format!("{file}: {name} is not declared in the workspace"));
            }
        }
    }
    for (name, entry) in declared {
        if !used.contains(name) {
            problems.push(format!("Cargo.toml: {name} is declared and nobody uses it"));
        }
        if entry.get("git").is_some() {
            problems.push(format!("Cargo.toml: {name} comes from git"));
        }
    }
    if checkout.text("Cargo.lock").unwrap().contains("\"git+") {
        problems.push("Cargo.lock: a package comes from git".to_owned());
    }
    assert_none(&problems, "dependencies");
}

#[test]
fn the_top_folder_stays_small() {
    let checkout = Checkout::here().unwrap();
    let present: BTreeSet<&str> = checkout
        .files()
        .map(|file| file.split('/').next().unwrap())
        .collect();
    let strangers: Vec<_> = present.iter().filter(|name| !TOP.contains(name)).collect();
    assert!(
        strangers.is_empty(),
        "not in the list of the top folder: {strangers:?}"
    );
    let missing: Vec<_> = TOP[..21]
        .iter()
        .filter(|name| !present.contains(**name))
        .collect();
    assert!(
        missing.is_empty(),
        "missing from the top folder: {missing:?}"
    );
}

#[test]
fn files_are_small_and_modules_have_names() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for file in checkout.ending(&[".rs"]).filter(|file| !is_generated(file)) {
        let lines = checkout.text(file).unwrap().lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{file}: {lines} lines; the limit is {LINES_MAX}"));
        }
        if file.ends_with("/mod.rs") {
            problems.push(format!("{file}: write it as foo.rs beside foo/"));
        }
    }
    assert_none(&problems, "files to be parted");
}

#[test]
fn every_file_says_what_it_is_for() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for file in checkout.ending(&[".rs"]).filter(|file| !is_generated(file)) {
        let text = checkout.text(file).unwrap();
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        if !text.starts_with("//!") && !is_test {
            problems.push(format!("{file}: does not open with what it is for"));
        }
    }
    assert_none(&problems, "files without an opening");
}

#[test]
fn nothing_is_left_for_later_without_a_number() {
    let checkout = Checkout::here().unwrap();
    // Put together here so that this file does not find itself.
    let later = concat!("TO", "DO");
    let stubs = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("not yet ", "implemented"),
    ];
    let mut problems = Vec::new();
    for file in checkout.ending(&[".rs", ".proto", ".toml", ".sh", ".ci/run"]) {
        for (number, line) in checkout.text(file).unwrap().lines().enumerate() {
            let at = format!("{file}:{}: {}", number + 1, line.trim());
            if stubs.iter().any(|stub| line.contains(stub)) {
                problems.push(at);
            } else if let Some((_, rest)) = line.split_once(later) {
                let issue = rest
                    .strip_prefix("(#")
                    .and_then(|rest| rest.split_once(')'));
                if issue.is_none_or(|(n, _)| n.parse::<u32>().is_err()) {
                    problems.push(at);
                }
            }
        }
    }
    assert_none(&problems, "unfinished work");
}

#[test]
fn lints_are_silenced_with_reasons() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for file in checkout.ending(&[".rs"]).filter(|file| !is_generated(file)) {
        if file.ends_with("it/tidy.rs") {
            continue;
        }
        let text = checkout.text(file).unwrap();
        for (start, _) in text
            .match_indices("#[allow(")
            .chain(text.match_indices("#![allow("))
        {
            let attribute = text[start..].split(']').next().unwrap();
            if !attribute.contains("reason") {
                problems.push(format!("{file}: {attribute}]"));
            }
        }
    }
    assert_none(&problems, "lints allowed without a reason");
}

#[test]
fn the_version_has_a_page_in_the_changelog() {
    let checkout = Checkout::here().unwrap();
    let root: toml::Table = checkout.text("Cargo.toml").unwrap().parse().unwrap();
    let version = root["workspace"]["package"]["version"].as_str().unwrap();
    let changelog = checkout.text("CHANGELOG.md").unwrap();
    assert!(
        changelog.contains(&format!("## [{version}]")),
        "CHANGELOG.md lacks {version}"
    );
}
