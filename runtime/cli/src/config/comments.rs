//! The comments of colony.toml, by the keys they are about. The file is in the binary: its words are the reference.
//!
//! ```text
//!   # How tasks meet agents.                          the comment of the section
//!   [market]
//!   # Free agents compared for one task. 1 to 1,024.  the comment of market.sample
//!   sample = 8                                        and its default
//!   # home = "/var/lib/colony"                        a key without a default
//! ```

/// The file at the root of the repository.
pub(super) const FILE: &str = include_str!("../../../../colony.toml");

/// What the file says about a key or a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment {
    /// The key path: `market`, `market.sample`.
    pub(super) key: String,
    /// The comment above it, in one line; the section's where the key has none of its own.
    pub(super) text: String,
    /// Its default as TOML; none for sections and for keys that are not set.
    pub(super) default: Option<String>,
}

/// All comments, in the file's order.
pub(super) fn all() -> Vec<Comment> {
    let mut found: Vec<Comment> = Vec::new();
    let (mut section, mut above) = (Comment::section("", ""), Vec::new());
    // Of a list of tables the first one speaks for all, and what it holds is no default.
    let (mut in_list, mut told) = (false, false);
    for line in FILE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            let key = header.trim_matches(['[', ']']);
            in_list = header.starts_with('[');
            told = in_list && found.iter().any(|comment| comment.key == key);
            section = Comment::section(key, &above.join(" "));
            above.clear();
            if !found.iter().any(|comment| comment.key == key) {
                found.push(section.clone());
            }
        } else if let Some((key, value)) = setting(line) {
            if told {
                above.clear();
                continue;
            }
            let text = if above.is_empty() {
                section.text.clone()
            } else {
                above.join(" ")
            };
            above.clear();
            found.push(Comment {
                key: format!("{}.{key}", section.key),
                text,
                default: (!line.starts_with('#') && !in_list).then(|| value.to_owned()),
            });
        } else if let Some(comment) = line.strip_prefix('#') {
            above.push(comment.trim());
        } else {
            above.clear();
        }
    }
    found
}

/// The key of `comments` that speaks for `key`: types and models of any name are like the ready-made ones.
pub(super) fn stands_for(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["agents", _, rest @ ..] => [&["agents", "triage"], rest].concat().join("."),
        ["models", _, rest @ ..] => [&["models", "minilm"], rest].concat().join("."),
        ["risk", "patterns", _, rest @ ..] => [&["risk", "patterns"], rest].concat().join("."),
        _ => key.to_owned(),
    }
}

impl Comment {
    fn section(key: &str, text: &str) -> Self {
        Self {
            key: key.to_owned(),
            text: text.to_owned(),
            default: None,
        }
    }
}

/// The key and value of a line, also of one that is commented out.
fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    let (key, value) = line.split_once(" = ")?;
    let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_key.then_some((key, value))
}

#[cfg(test)]
mod tests {
    use colony_node::config::{Config, Sources};

    use super::*;

    fn comment(key: &str) -> Comment {
        let found = all()
            .into_iter()
            .find(|comment| comment.key == stands_for(key));
        found.unwrap_or_else(|| panic!("nothing is said about {key}"))
    }

    #[test]
    fn something_is_said_about_every_key() {
        for setting in Config::load(&Sources::default())
            .expect("the defaults")
            .show()
        {
            assert!(comment(&setting.key).text.len() > 10, "{}", setting.key);
        }
    }

    #[test]
    fn a_list_of_tables_is_explained_once() {
        let found = all();
        let within: Vec<_> = found
            .iter()
            .filter(|comment| comment.key.starts_with("risk.patterns"))
            .collect();
        let keys: Vec<&str> = within.iter().map(|comment| comment.key.as_str()).collect();
        let expected =
            ["", ".name", ".why", ".all", ".within"].map(|key| format!("risk.patterns{key}"));
        assert_eq!(keys, expected);
        assert!(
            within
                .iter()
                .all(|comment| comment.default.is_none() && !comment.text.is_empty())
        );
    }

    #[test]
    fn a_comment_belongs_to_the_key_below_it() {
        let sample = comment("market.sample");
        assert!(
            sample.text.starts_with("Free agents compared"),
            "{sample:?}"
        );
        assert_eq!(sample.default.as_deref(), Some("8"));
        let home = comment("inference.home");
        assert!(home.text.starts_with("Folder of models"), "{home:?}");
        assert_eq!(home.default, None);
        assert!(
            comment("market").text.starts_with("How tasks meet"),
            "the section"
        );
        assert_eq!(
            comment("agents.mine.count").text,
            comment("agents.triage.count").text
        );
        assert!(
            comment("risk.patterns.within")
                .text
                .contains("within  Most words")
        );
    }
}
