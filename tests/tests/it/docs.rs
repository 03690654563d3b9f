//! The documents: paths that exist, words that are used, numbers that were measured.

use std::collections::{BTreeMap, BTreeSet};

use colony_tests::Checkout;

/// What a figure of docs/figures.toml has to say.
const FIGURE_KEYS: [&str; 8] = [
    "id", "where", "shown", "command", "field", "value", "date", "machine",
];

/// Spans of `text` in single backticks.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Markdown without its code fences: what is inside them is not prose.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

fn is_path(word: &str, top: &BTreeSet<&str>) -> bool {
    let clean = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    clean
        && word.contains('/')
        && word
            .split('/')
            .next()
            .is_some_and(|first| top.contains(first))
}

/// The folders at the top.
fn top(checkout: &Checkout) -> BTreeSet<&str> {
    checkout
        .files()
        .filter_map(|file| file.split_once('/'))
        .map(|(first, _)| first)
        .collect()
}

#[test]
fn every_path_in_the_documents_exists() {
    let checkout = Checkout::here().unwrap();
    let top = top(&checkout);
    let mut problems = Vec::new();
    for file in checkout.ending(&[".md"]) {
        let text = prose(&checkout.text(file).unwrap());
        for path in ticked(&text).filter(|word| is_path(word, &top)) {
            if !checkout.has(path) {
                problems.push(format!("{file}: `{path}`"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "paths that do not exist:\n{}",
        problems.join("\n")
    );
}

#[test]
fn every_document_named_in_code_exists() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for file in checkout.ending(&[".rs", ".toml", ".md", ".proto", ".ci/run"]) {
        let text = checkout.text(file).unwrap();
        for (start, _) in text.match_indices("docs/") {
            let name: String = text[start..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "._-/".contains(*c))
                .collect();
            let name = name.trim_end_matches('.');
            let is_document = name.ends_with(".md") || name.ends_with(".toml");
            // A link such as ../docs/x.md has its own test; n stands for a digit in templates.
            let inside = text[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
            if is_document && !inside && !name.contains("nnnn") && !checkout.has(name) {
                problems.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "documents that do not exist:\n{}",
        problems.join("\n")
    );
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let checkout = Checkout::here().unwrap();
    let mut problems = Vec::new();
    for file in checkout.ending(&[".md"]) {
        let folder = checkout.root().join(file);
        let folder = folder.parent().unwrap();
        let text = prose(&checkout.text(file).unwrap());
        for (start, _) in text.match_indices("](") {
            let target = text[start + 2..].split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            let outside = target.contains("://") || path.is_empty();
            if !outside && !folder.join(path).exists() {
                problems.push(format!("{file}: {target}"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "links that lead nowhere:\n{}",
        problems.join("\n")
    );
}

#[test]
fn the_walk_of_a_task_names_real_files_in_order() {
    const STEPS: [&str; 13] = [
        "submit",
        "admitted",
        "written",
        "acknowledged",
        "ready",
        "claimed",
        "award",
        "perceive",
        "retrieve",
        "reason",
        "execute",
        "verify",
        "learn",
    ];
    let checkout = Checkout::here().unwrap();
    let text = checkout.text("docs/ARCHITECTURE.md").unwrap();
    let walk = text
        .split("## The walk of one task")
        .nth(1)
        .expect("the walk has a heading");
    let walk = walk.split("\n## ").next().unwrap();
    let rows: Vec<&str> = walk
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(2)
        .collect();
    let mut next = 0;
    for row in &rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if next < STEPS.len() && cells[1].to_lowercase().contains(STEPS[next]) {
            next += 1;
        }
        let paths: Vec<&str> = ticked(cells[cells.len() - 2]).collect();
        assert!(!paths.is_empty(), "a step without a path: {row}");
        for path in paths {
            assert!(
                checkout.has(path) && path.contains('.'),
                "not a file: {path} in {row}"
            );
        }
    }
    assert_eq!(next, STEPS.len(), "the walk lacks {:?}", STEPS.get(next));
}

#[test]
fn the_glossary_is_in_order_and_in_use() {
    let checkout = Checkout::here().unwrap();
    let text = checkout.text("docs/glossary.md").unwrap();
    let words: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(2)
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .collect();
    assert!(words.is_sorted(), "the words are not in order");
    assert!(words.len() > 30, "{} words", words.len());
    let code: String = checkout
        .ending(&[".rs", ".proto"])
        .filter(|file| !file.starts_with("tests/"))
        .map(|file| checkout.text(file).unwrap().to_lowercase())
        .collect();
    // "fair queue" is `FairQueue` in code.
    let is_used = |word: &str| code.contains(word) || code.contains(&word.replace(' ', ""));
    let unused: Vec<_> = words.iter().filter(|word| !is_used(word)).collect();
    assert!(unused.is_empty(), "words that no code uses: {unused:?}");
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let checkout = Checkout::here().unwrap();
    let pages: Vec<&str> = checkout
        .files()
        .filter(|f| f.starts_with("docs/adr/"))
        .collect();
    for (number, page) in pages.iter().enumerate() {
        assert!(
            page.starts_with(&format!("docs/adr/{number:04}-")),
            "{page} is not {number:04}"
        );
        let text = checkout.text(page).unwrap();
        for heading in [
            "- Status: ",
            "## Question",
            "## Decision",
            "## Why",
            "## Considered",
        ] {
            assert!(text.contains(heading), "{page} lacks {heading:?}");
        }
    }
    assert!(pages.len() > 1, "no decisions");
}

/// The figures by id.
fn figures(checkout: &Checkout) -> BTreeMap<String, toml::Table> {
    let table: toml::Table = checkout.text("docs/figures.toml").unwrap().parse().unwrap();
    let list = table["figure"]
        .as_array()
        .expect("docs/figures.toml has [[figure]] tables");
    let mut figures = BTreeMap::new();
    for figure in list {
        let figure = figure.as_table().unwrap();
        for key in FIGURE_KEYS {
            assert!(figure.contains_key(key), "a figure lacks {key}: {figure:?}");
        }
        let id = figure["id"].as_str().unwrap().to_owned();
        assert!(
            figures.insert(id.clone(), figure.clone()).is_none(),
            "figure {id} stands twice"
        );
    }
    figures
}

/// The numbers of a document that carry a figure: `<!--figure id-->number<!--/figure-->`.
fn quoted(text: &str) -> Vec<(String, String)> {
    text.split("<!--figure ")
        .skip(1)
        .map(|rest| {
            let (id, rest) = rest.split_once("-->").expect("a figure mark ends with -->");
            let (shown, _) = rest
                .split_once("<!--/figure-->")
                .expect("a figure ends with its mark");
            (id.trim().to_owned(), shown.trim().to_owned())
        })
        .collect()
}

#[test]
fn every_number_quoted_is_a_figure_and_every_figure_is_quoted() {
    let checkout = Checkout::here().unwrap();
    let figures = figures(&checkout);
    let mut used = BTreeSet::new();
    for file in checkout.ending(&[".md"]) {
        for (id, shown) in quoted(&checkout.text(file).unwrap()) {
            let figure = figures
                .get(&id)
                .unwrap_or_else(|| panic!("{file}: no figure {id:?}"));
            assert_eq!(
                figure["shown"].as_str(),
                Some(shown.as_str()),
                "{file}: figure {id}"
            );
            let places = figure["where"].as_array().unwrap();
            let listed = places.iter().any(|place| place.as_str() == Some(file));
            assert!(listed, "figure {id} does not list {file} under `where`");
            used.insert((id, file.to_owned()));
        }
    }
    for (id, figure) in &figures {
        for place in figure["where"].as_array().unwrap() {
            let place = place.as_str().unwrap().to_owned();
            assert!(
                used.contains(&(id.clone(), place.clone())),
                "{place} does not quote {id}"
            );
        }
    }
}

#[test]
fn no_rate_in_the_readme_goes_without_a_figure() {
    let checkout = Checkout::here().unwrap();
    let readme = checkout.text("README.md").unwrap();
    let mut bare = readme.clone();
    for (id, shown) in quoted(&readme) {
        bare = bare.replace(&format!("<!--figure {id}-->{shown}<!--/figure-->"), "");
    }
    let mut problems = Vec::new();
    for line in bare.lines() {
        for unit in ["tasks/s", "tokens/s", "texts/s", "syncs/s"] {
            for (at, _) in line.match_indices(unit) {
                if line[..at]
                    .trim_end()
                    .ends_with(|c: char| c.is_ascii_digit())
                {
                    problems.push(line.to_owned());
                }
            }
        }
    }
    assert!(
        problems.is_empty(),
        "rates without a figure:\n{}",
        problems.join("\n")
    );
}

#[test]
fn every_figure_shows_the_value_that_was_measured() {
    let checkout = Checkout::here().unwrap();
    for (id, figure) in figures(&checkout) {
        let shown = figure["shown"].as_str().unwrap();
        let number: String = shown
            .chars()
            .filter(|c| c.is_ascii_digit() || *c == '.' || *c == '-')
            .collect();
        let shown: f64 = number
            .parse()
            .unwrap_or_else(|_| panic!("figure {id}: {shown:?}"));
        let value = figure["value"]
            .as_float()
            .unwrap_or_else(|| panic!("figure {id}: not a float"));
        let scale = figure
            .get("scale")
            .and_then(toml::Value::as_float)
            .unwrap_or(1.0);
        let off = (shown - value * scale).abs() / shown.abs().max(f64::MIN_POSITIVE);
        assert!(
            off <= 0.02,
            "figure {id} shows {shown}, but {value} × {scale} was measured"
        );
        let command = figure["command"].as_str().unwrap();
        assert!(
            command.starts_with("colony ") || command.starts_with("cargo "),
            "figure {id}"
        );
    }
}

/// The lines of `source` between the two marks `name`, without their common indentation.
fn marked(source: &str, name: &str) -> String {
    let mark = format!("// --8<-- {name}");
    let part = source
        .lines()
        .skip_while(|line| line.trim() != mark)
        .skip(1)
        .take_while(|line| line.trim() != mark);
    let part: Vec<&str> = part.collect();
    let indented = part.iter().filter(|line| !line.trim().is_empty());
    let indent = indented
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    part.iter()
        .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
        .collect()
}

#[test]
fn the_code_of_a_guide_is_the_code_of_its_example() {
    let checkout = Checkout::here().unwrap();
    for (guide, example) in [("first-agent", "first_kind"), ("own-node", "own_node")] {
        let guide = checkout.text(&format!("docs/guides/{guide}.md")).unwrap();
        let example = format!("runtime/node/examples/{example}.rs");
        let example = checkout.text(&example).unwrap();
        let blocks: Vec<&str> = guide
            .split("```rust\n// ")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        assert_eq!(blocks.len(), 3, "blocks of code in the guide");
        for block in blocks {
            let (name, code) = block.split_once('\n').unwrap();
            assert_eq!(code, marked(&example, name), "snippet {name}");
        }
    }
}

/// The lines that the node logs, as they stand in the code.
fn logged(checkout: &Checkout) -> String {
    let sources = checkout.ending(&[".rs"]);
    let sources = sources.filter(|file| file.starts_with("runtime/"));
    sources.map(|file| checkout.text(file).unwrap()).collect()
}

#[test]
fn what_the_guide_alerts_on_is_there() {
    let checkout = Checkout::here().unwrap();
    let guide = checkout.text("docs/guides/alerts.md").unwrap();
    let (code, settings) = (logged(&checkout), checkout.text("colony.toml").unwrap());
    let cli = checkout.text("docs/reference/cli.md").unwrap();
    let of_status = cli
        .lines()
        .find(|line| line.starts_with("| `colony status` |"));
    let mut seen = (0, 0, 0);
    let rows = guide.lines().filter(|line| line.starts_with("| "));
    for row in rows.skip_while(|row| !row.starts_with("| --- ")) {
        let quotes = row.split('"').skip(1).step_by(2);
        for line in quotes {
            assert!(code.contains(&format!("\"{line}")), "nobody logs {line:?}");
            seen.0 += 1;
        }
        for word in row.split('`').skip(1).step_by(2) {
            if let Some(key) = word.strip_prefix("status.") {
                let key = key.split('.').next().unwrap();
                assert!(of_status.unwrap().contains(&format!("`{key}`")), "{word}");
                seen.1 += 1;
            } else if let Some((_, key)) = word.rsplit_once('.')
                && !word.contains(' ')
            {
                let key = format!("\n{key} = ");
                assert!(settings.contains(&key), "no setting {word:?}");
                seen.2 += 1;
            }
        }
    }
    let (lines, facts, settings) = seen;
    assert!(lines > 8 && facts > 5 && settings > 5, "{seen:?}");
}

#[test]
fn the_guide_to_traces_explains_every_attribute() {
    let checkout = Checkout::here().unwrap();
    let names = checkout
        .text("runtime/node/src/telemetry/names.rs")
        .unwrap();
    let (attributes, _operations) = names.split_once("pub mod operation").unwrap();
    let set: BTreeSet<&str> = attributes
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .map(|constant| constant.split('"').nth(1).unwrap())
        .collect();
    let guide = checkout.text("docs/guides/traces.md").unwrap();
    let rows = guide.lines().filter(|line| line.starts_with("| `"));
    let explained: BTreeSet<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert!(set.len() > 20, "{set:?}");
    assert_eq!(explained, set);
}

#[test]
fn the_readme_begins_with_the_two_commands() {
    let checkout = Checkout::here().unwrap();
    let readme = checkout.text("README.md").unwrap();
    let demo = readme
        .find("cargo run --release -- demo")
        .expect("the first command");
    let test = readme
        .find("cargo test --workspace")
        .expect("the second command");
    assert!(demo < test, "the demo comes first");
    assert!(
        readme[..demo].lines().count() < 25,
        "the first command is on the first screen"
    );
    let gate = checkout.text(".ci/run").unwrap();
    assert!(
        gate.contains("cargo test --workspace\n"),
        ".ci/run calls the README's command"
    );
}
