//! A guard against typos in what people teach: a mistyped label is one that memory would learn for ever.

use std::fmt;

use crate::text::nearest;

/// Most labels that the refusal lists.
const LISTED_MAX: usize = 20;

/// A label that memory does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct UnknownLabel {
    /// The label.
    pub label: String,
    /// The known one that is most likely meant.
    pub meant: Option<String>,
    /// The known ones, the first of them.
    pub known: Vec<String>,
    /// How many are known beside these.
    pub more: usize,
}

impl fmt::Display for UnknownLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory knows no label {:?}", self.label)?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean {meant:?}?"),
            None => {
                write!(f, "; it knows {}", self.known.join(", "))?;
                match self.more {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// Whether `label` is among those that memory knows. While it knows none, every label is the first one.
///
/// # Errors
/// [`UnknownLabel`].
pub fn known_label(label: &str, known: &[String]) -> Result<(), UnknownLabel> {
    if known.is_empty() || known.iter().any(|name| name == label) {
        return Ok(());
    }
    Err(UnknownLabel {
        label: label.to_owned(),
        meant: nearest(label, known.iter().map(String::as_str)).map(str::to_owned),
        known: known.iter().take(LISTED_MAX).cloned().collect(),
        more: known.len().saturating_sub(LISTED_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_refused_where_others_are_known_and_it_is_not() {
        let known = ["hardware", "printing"].map(str::to_owned);
        assert_eq!(known_label("printing", &known), Ok(()));
        assert_eq!(known_label("anything", &[]), Ok(()));
        let said = |label: &str| known_label(label, &known).map_err(|error| error.to_string());
        assert_eq!(
            said("hardwear"),
            Err("memory knows no label \"hardwear\"; did you mean \"hardware\"?".to_owned())
        );
        assert_eq!(
            said("network"),
            Err("memory knows no label \"network\"; it knows hardware, printing".to_owned())
        );
        let many: Vec<String> = (0..25).map(|n| format!("queue number {n}")).collect();
        let error = known_label("x", &many).expect_err("unknown");
        assert!(
            error.to_string().ends_with("number 19 and 5 more"),
            "{error}"
        );
    }
}
