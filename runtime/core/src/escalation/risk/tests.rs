#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn pattern(all: &[&[&str]], within: u32) -> Pattern {
    Pattern {
        name: "p".to_owned(),
        why: "w".to_owned(),
        all: all
            .iter()
            .map(|group| group.iter().map(|&phrase| phrase.to_owned()).collect())
            .collect(),
        within,
    }
}

fn patterns(all: &[&[&str]], within: u32) -> Result<Patterns, Error> {
    Patterns::new(vec![pattern(all, within)])
}

fn found(all: &[&[&str]], within: u32, text: &str) -> Option<String> {
    let patterns = patterns(all, within).unwrap();
    patterns.hits(text).pop().map(|hit| hit.found)
}

fn matches(phrase: &str, text: &str) -> bool {
    found(&[&[phrase]], WITHIN_DEFAULT, text).is_some()
}

#[test]
fn case_punctuation_and_spacing_do_not_matter() {
    assert!(matches("delete all", "Please DELETE,\n\t all of it"));
    assert!(matches("delete all", "To delete. All"));
    for apostrophe in ['\'', '’', '‘', 'ʼ', '＇'] {
        let text = format!("my Colleague{apostrophe}s password");
        assert!(matches("colleague's password", &text), "{text}");
        assert!(matches("s password", &text), "{text}");
    }
    assert!(matches("wipe the", "wipe-the-disk"));
    assert!(matches("gehälter", "Alle GEHÄLTER zeigen"));
    assert!(matches("istanbul", "İSTANBUL"));
    assert!(matches("2FA", "my 2fa"));
}

#[test]
fn what_cannot_be_seen_does_not_part_words() {
    assert!(matches("delete all", "de\u{ad}le\u{200b}te\u{feff} all"));
    assert!(matches("de\u{200d}lete", "delete"));
}

#[test]
fn letters_that_look_alike_are_the_same() {
    for text in [
        "d\u{435}l\u{435}te \u{430}ll", // Cyrillic е and а
        "\u{501}elete \u{1d41a}ll",     // Komi de, bold a
        "ｄｅｌｅｔｅ ａｌｌ",
        "de1ete a11",
        "deIete aII",
        "dèléte\u{301} äll",
        "DELETE \u{391}LL", // Greek capital alpha
    ] {
        assert!(matches("delete all", text), "{text}");
    }
    assert!(matches("admin rights", "\u{430}dm\u{456}n r\u{456}ghts"));
    assert!(matches("prod", "pr0d"));
    // Patterns may be written with any of them, too.
    assert!(matches("d\u{435}l\u{435}te*", "deleted"));
    assert!(matches("deleté*", "deletes"));
    assert!(!matches("delete all", "defeat all"));
    let hit = found(&[&["delete"]], 8, "now d\u{435}lete\u{301} it");
    assert_eq!(hit.as_deref(), Some("d\u{435}lete\u{301}"));
}

#[test]
fn whole_words_in_order_are_needed() {
    assert!(!matches("delete all", "delete a ballad"));
    assert!(!matches("delete all", "all delete"));
    assert!(!matches("bypass", "bypasses"));
    assert!(matches("bypass*", "bypassing"));
    assert!(matches("bypass*", "bypass"));
    assert!(!matches("bypass*", "bypas"));
    assert!(matches("delet* data*", "Deleting databases"));
    assert!(!matches("delete all", "delete nearly all"));
    assert!(!matches("delete all", ""));
}

#[test]
fn every_group_is_needed_in_any_order() {
    let all: &[&[&str]] = &[&["delete", "drop"], &["live", "prod"], &["db", "table*"]];
    assert!(found(all, 8, "drop the live tables").is_some());
    assert!(found(all, 8, "our tables in prod: delete them").is_some());
    assert_eq!(found(all, 8, "drop the tables"), None);
    assert_eq!(found(all, 8, "drop drop live"), None);
}

#[test]
fn the_window_counts_its_first_and_last_word() {
    let all: &[&[&str]] = &[&["a"], &["b c"]];
    assert!(found(all, 4, "x a x b c x").is_some());
    assert_eq!(found(all, 3, "x a x b c x"), None);
    assert!(found(all, 3, "a x b c, then b c a").is_some());
    assert!(found(all, 3, "b c a").is_some());
    // The first `a` is too far away, the second is not.
    assert!(found(all, 4, "a x x x a x b c").is_some());
}

#[test]
fn groups_may_share_words() {
    let all: &[&[&str]] = &[&["gift card", "gift cards"], &["card", "cards"]];
    assert_eq!(found(all, 2, "Gift  cards!").unwrap(), "Gift  cards");
}

#[test]
fn what_was_found_is_quoted_as_it_was_typed() {
    let all: &[&[&str]] = &[&["database*"], &["delete"], &["prod", "production"]];
    let text = "Please Delete our old Production-DATABASES today";
    assert_eq!(
        found(all, 8, text).unwrap(),
        "Delete … Production-DATABASES"
    );
    let long = format!("{} all", "delete".repeat(40));
    let quoted = found(&[&["delete*"], &["all"]], 8, &long).unwrap();
    assert_eq!(quoted.chars().count(), FOUND_CHARS_MAX + 1);
    assert!(quoted.ends_with('…'));
    let hit = Hit {
        name: "n",
        why: "final",
        found: "wipe\nit".to_owned(),
    };
    assert_eq!(hit.to_string(), "final (\"wipe\\nit\")");
}

#[test]
fn each_pattern_is_reported_once_in_the_order_declared() {
    let named = |name: &str, phrases: &[&str]| Pattern {
        name: name.to_owned(),
        why: format!("{name}!"),
        ..pattern(&[phrases], 8)
    };
    let patterns = Patterns::new(vec![
        named("destruction", &["wipe the", "drop the database"]),
        named("money", &["gift cards"]),
        named("other", &["never said"]),
    ])
    .unwrap();
    let hits = patterns.hits("buy gift cards, drop the database and wipe the disk");
    let seen: Vec<_> = hits
        .iter()
        .map(|hit| (hit.name, hit.found.as_str(), hit.why))
        .collect();
    let drop = ("destruction", "drop the database", "destruction!");
    assert_eq!(seen, [drop, ("money", "gift cards", "money!")]);
}

#[test]
fn phrases_that_make_no_sense_are_refused() {
    for bad in ["", " ", "!?", "*", "\u{feff}"] {
        let refused = patterns(&[&["ok", bad]], 8);
        assert!(matches!(refused, Err(Error::NoWords { .. })), "{bad:?}");
    }
    for bad in ["de*lete", "delete *", "*delete", "delete**", "* delete*"] {
        let refused = patterns(&[&[bad]], 8);
        assert!(matches!(refused, Err(Error::Star { .. })), "{bad:?}");
    }
    for bad in ["a ... b", "a…b", "..."] {
        let refused = patterns(&[&[bad]], 8);
        assert!(matches!(refused, Err(Error::Dots { .. })), "{bad:?}");
    }
    assert!(matches!(
        patterns(&[&["a b c"]], 2),
        Err(Error::Long {
            words: 3,
            within: 2,
            ..
        })
    ));
    assert!(patterns(&[&["50%", "(delete*)", "'s mailbox", "a b c"]], 3).is_ok());
}

#[test]
fn patterns_that_match_nothing_or_everything_are_refused() {
    assert!(matches!(patterns(&[], 8), Err(Error::NoGroups { .. })));
    let empty = patterns(&[&["a"], &[]], 8);
    assert!(matches!(empty, Err(Error::NoPhrases { group: 2, .. })));
    for within in [0, WITHIN_MAX + 1, u32::MAX] {
        let refused = patterns(&[&["a"]], within);
        assert!(matches!(refused, Err(Error::Within { .. })), "{within}");
    }
    assert_eq!(Patterns::new(Vec::new()).unwrap().hits("delete all"), []);
}

#[test]
fn everything_wrong_is_listed_and_says_what_to_do() {
    let good = pattern(&[&["a"]], 8);
    let nameless = Pattern {
        name: " ".to_owned(),
        ..good.clone()
    };
    let bad = Pattern {
        why: String::new(),
        ..pattern(&[&["de*lete"], &["a ... b"]], 8)
    };
    let listed: Vec<String> = problems(&[good, nameless, bad])
        .iter()
        .map(|(at, error)| format!("{at}: {error}"))
        .collect();
    let want = [
        "1: pattern number 2 has no name; give it one that says what the harm is",
        "2: pattern \"p\" is there twice; rename one, or join their groups",
        "2: pattern \"p\" has no why; write one line for the human who decides",
        "2: pattern \"p\": phrase \"de*lete\" has a `*` that is not at the end of a word; write it like `delet*`",
        "2: pattern \"p\": phrase \"a ... b\" has dots for other words; make each side a group of its own, \
         like all = [[\"delete\"], [\"database\"]]",
    ];
    assert_eq!(listed, want);
}

/// A walk that is not linear does not come back from this: in each text every word ends phrases of several
/// groups, and the pattern is never complete.
#[test]
fn the_longest_text_is_read_in_one_walk() {
    let all: &[&[&str]] = &[
        &["a", "a a", "a*"],
        &["a a a", "a b"],
        &["b a*"],
        &["a", "b"],
        &["never"],
    ];
    let patterns = patterns(all, WITHIN_MAX).unwrap();
    for piece in ["a ", "a b ", "a,b,a ", "ab"] {
        let text = piece.repeat(64 * 1_024 / piece.len());
        assert_eq!(patterns.hits(&text), [], "{piece:?}");
        let end = format!("{text} b a a a never");
        assert_eq!(patterns.hits(&end).len(), 1, "{piece:?}");
    }
}

/// The rule word for word: tries every choice of one place for each group.
fn plainly(pattern: &Pattern, text: &str) -> bool {
    fn fits(groups: &[Vec<Stretch>], window: Option<Stretch>, within: usize) -> bool {
        let Some((group, rest)) = groups.split_first() else {
            return true;
        };
        group.iter().any(|place| {
            let window = window.map_or(*place, |w| Stretch {
                first: w.first.min(place.first),
                last: w.last.max(place.last),
            });
            window.last - window.first < within && fits(rest, Some(window), within)
        })
    }
    let text = words(text);
    let places = |phrase: &String| {
        let phrase = parse(pattern, phrase).unwrap();
        let starts = (0..text.len()).filter(|&start| {
            let end = start + phrase.len();
            end <= text.len()
                && iter::zip(&phrase, &text[start..end]).all(|(word, spoken)| word.is(&spoken.text))
        });
        starts
            .map(|first| Stretch {
                first,
                last: first + phrase.len() - 1,
            })
            .collect::<Vec<_>>()
    };
    let groups: Vec<Vec<Stretch>> = pattern
        .all
        .iter()
        .map(|group| group.iter().flat_map(places).collect())
        .collect();
    fits(&groups, None, pattern.within as usize)
}

proptest! {
    #[test]
    fn any_text_can_be_read(text in any::<String>(), phrase in any::<String>()) {
        if let Ok(patterns) = patterns(&[&[&phrase]], WITHIN_MAX) {
            let _ = patterns.hits(&text);
            if !phrase.contains('*') {
                let around = format!("{text} {phrase} {text}");
                prop_assert!(!patterns.hits(&around).is_empty());
            }
        }
    }

    #[test]
    fn any_pattern_is_taken_or_refused(
        all in prop::collection::vec(prop::collection::vec("[a*. …é'-]{0,8}", 0..3), 0..3),
        within in any::<u32>(),
    ) {
        let pattern = Pattern { all, within, ..pattern(&[], 1) };
        let problems = problems(std::slice::from_ref(&pattern));
        let refused = Patterns::new(vec![pattern]).err();
        prop_assert_eq!(refused, problems.into_iter().next().map(|(_, error)| error));
    }

    #[test]
    fn the_walk_finds_what_the_plain_rule_finds(
        all in prop::collection::vec(prop::collection::vec("[abc]{1,2}[*]?( [ab][*]?)?", 1..3), 1..4),
        within in 2_u32..7,
        text in "([abc]{1,2}[ .]){0,24}",
    ) {
        let pattern = Pattern { all, within, ..pattern(&[], 1) };
        let plain = plainly(&pattern, &text);
        let patterns = Patterns::new(vec![pattern]).unwrap();
        prop_assert_eq!(!patterns.hits(&text).is_empty(), plain);
    }
}
