//! Keys that nobody reads, with the nearest that somebody does.

use serde_json::Value;

use super::{AgentType, Config, Model, Problem, Severity, layer::Layers};

/// A suggestion is offered up to this many edits away, or a third of the word if that is more.
const EDITS_MAX: usize = 2;

pub(super) fn keys(layers: &Layers) -> Vec<Problem> {
    let known = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut problems = Vec::new();
    for (key, origin) in &layers.set {
        if let Some((at, what)) = unknown(&known, key) {
            problems.push(Problem {
                severity: Severity::Error,
                key: at,
                origin: origin.clone(),
                what,
            });
        }
    }
    problems
}

/// The first part of `key` that names nothing, and what to say about it.
fn unknown(known: &Value, key: &str) -> Option<(String, String)> {
    let mut table = known.clone();
    let mut above = Vec::new();
    for part in key.split('.') {
        let Value::Object(entries) = &table else {
            // Below a leaf: serde says what type was expected there.
            return None;
        };
        let next = match (above.as_slice(), part) {
            (["models"], _) => serde_json::to_value(Model::default()).ok(),
            (["agents"], _) => serde_json::to_value(AgentType::default()).ok(),
            (["agents", _, "settings", ..], _) => return None,
            _ => entries.get(part).cloned(),
        };
        let Some(next) = next else {
            let path = |name: &str| {
                let mut path = above.clone();
                path.push(name);
                path.join(".")
            };
            let what = match nearest(part, entries.keys().map(String::as_str)) {
                Some(near) => format!("unknown key; did you mean {:?}?", path(near)),
                None => {
                    let names: Vec<_> = entries.keys().map(String::as_str).collect();
                    format!("unknown key; there are: {}", names.join(", "))
                }
            };
            return Some((path(part), what));
        };
        table = next;
        above.push(part);
    }
    None
}

/// The candidate with the fewest edits, if it is near enough to be meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = EDITS_MAX.max(word.chars().count() / 3);
    candidates
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements from `a` to `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("listen", "listen"), 0);
        assert_eq!(edits("lisen", "listen"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn far_away_names_are_not_suggested() {
        let names = ["listen", "id", "data_dir"];
        assert_eq!(nearest("lissten", names.into_iter()), Some("listen"));
        assert_eq!(nearest("colour", names.into_iter()), None);
    }
}
