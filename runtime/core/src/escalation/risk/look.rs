//! What a word looks like: letters that a reader cannot tell apart are one letter here.
//!
//! ```text
//!   dеlеtе (Cyrillic е), DELETE, de1ete, deIete, délete, de<soft hyphen>lete  ─►  delete
//! ```
//! It is the skeleton of Unicode's [security mechanisms](https://www.unicode.org/reports/tr39/#Confusable_Detection),
//! in lower case and without marks; `i` becomes `l` as well, because `I` looks like one. Nobody reads skeletons
//! (`admin` is `adrnln`): they are compared with each other, those of a policy with those of a text.

use unicode_normalization::char::is_combining_mark;
use unicode_security::skeleton;

/// Whether `c` neither is seen nor parts words: soft hyphens, joiners, marks on a letter.
pub(super) fn is_unseen(c: char) -> bool {
    !c.is_ascii() && (is_combining_mark(c) || skeleton(c.encode_utf8(&mut [0; 4])).next().is_none())
}

/// Appends what the letter or digit `c` looks like to `word`; `c` itself where it looks like neither.
pub(super) fn push(word: &mut String, c: char) {
    let before = word.len();
    // Once as typed and once in lower case: `M` looks like itself, `m` like `rn`.
    for typed in skeleton(c.encode_utf8(&mut [0; 4])) {
        for lower in typed.to_lowercase() {
            for seen in skeleton(lower.encode_utf8(&mut [0; 4])).filter(|c| c.is_alphanumeric()) {
                word.push(if seen == 'i' { 'l' } else { seen });
            }
        }
    }
    if word.len() == before {
        word.extend(c.to_lowercase());
    }
}
