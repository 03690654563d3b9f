//! From the bytes of a terminal to keys.
//!
//! ```text
//!   a letter ─► Char        ESC, then silence ─► Escape
//!   ESC [ … final, ESC O x, ESC x, ESC ] … BEL ─► nothing: an arrow, Delete, Alt-x, an answer of the terminal
//! ```
//! A sequence is read whole, so that none of its letters is taken for a command.

use super::session::Key;

/// The longest letter of UTF-8.
const LETTER_BYTES_MAX: usize = 4;

/// What the next byte belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Within {
    #[default]
    Nothing,
    /// A letter of several bytes: those that have come, and how many there will be.
    Letter { bytes: Vec<u8>, length: usize },
    /// An escape; with Alt one more may follow.
    Escape,
    /// `ESC [`: parameters and a final byte follow.
    Control { empty: bool },
    /// One more byte: `ESC O x`, and `ESC [ [ x` of the Linux console.
    OneMore,
    /// `ESC ]` and its like: text up to BEL or `ESC \`.
    Text { escaped: bool },
    /// A letter behind an escape: so many bytes of it are to come.
    AltLetter { left: usize },
}

/// Takes bytes one after the other.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    within: Within,
}

impl Decoder {
    /// The key that ends with this byte, if one does.
    pub(super) fn push(&mut self, byte: u8) -> Option<Key> {
        match std::mem::take(&mut self.within) {
            Within::Nothing => self.begin(byte),
            Within::Letter { mut bytes, length } => {
                if !is_continuation(byte) {
                    return self.begin(byte);
                }
                bytes.push(byte);
                if bytes.len() < length {
                    self.within = Within::Letter { bytes, length };
                    return None;
                }
                let text = std::str::from_utf8(&bytes).ok()?;
                text.chars().next().map(Key::Char)
            }
            Within::Escape => {
                self.within = match byte {
                    // Alt and an arrow on some terminals.
                    0x1b => Within::Escape,
                    b'[' => Within::Control { empty: true },
                    b'O' => Within::OneMore,
                    b']' | b'P' | b'X' | b'^' | b'_' => Within::Text { escaped: false },
                    // Ctrl-C is never a part of something else.
                    0x03 | 0x04 => return Some(Key::Interrupt),
                    0xc0.. => Within::AltLetter {
                        left: letter_length(byte) - 1,
                    },
                    _ => Within::Nothing,
                };
                None
            }
            Within::Control { empty } => {
                self.within = match byte {
                    b'[' if empty => Within::OneMore,
                    0x20..0x40 => Within::Control { empty: false },
                    0x1b => Within::Escape,
                    0x03 | 0x04 => return Some(Key::Interrupt),
                    _ => Within::Nothing,
                };
                None
            }
            Within::OneMore => None,
            Within::Text { escaped } => {
                self.within = match byte {
                    0x07 => Within::Nothing,
                    b'\\' if escaped => Within::Nothing,
                    0x03 | 0x04 => return Some(Key::Interrupt),
                    _ => Within::Text {
                        escaped: byte == 0x1b,
                    },
                };
                None
            }
            Within::AltLetter { left } => {
                if !is_continuation(byte) {
                    return self.begin(byte);
                }
                if left > 1 {
                    self.within = Within::AltLetter { left: left - 1 };
                }
                None
            }
        }
    }

    /// Nothing more has come: a lone escape is a key, and what else was begun is forgotten.
    pub(super) fn silence(&mut self) -> Option<Key> {
        match std::mem::take(&mut self.within) {
            Within::Escape => Some(Key::Escape),
            Within::Nothing
            | Within::Letter { .. }
            | Within::Control { .. }
            | Within::OneMore
            | Within::Text { .. }
            | Within::AltLetter { .. } => None,
        }
    }

    /// Whether something was begun.
    pub(super) fn is_open(&self) -> bool {
        self.within != Within::Nothing
    }

    fn begin(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'\r' | b'\n' => Some(Key::Enter),
            b'\t' => Some(Key::Tab),
            0x08 | 0x7f => Some(Key::Backspace),
            // Ctrl-C and Ctrl-D.
            0x03 | 0x04 => Some(Key::Interrupt),
            0x1b => {
                self.within = Within::Escape;
                None
            }
            0x20..0x7f => Some(Key::Char(char::from(byte))),
            0xc0.. => {
                self.within = Within::Letter {
                    bytes: vec![byte],
                    length: letter_length(byte),
                };
                None
            }
            0x00..0x20 | 0x80..0xc0 => None,
        }
    }
}

const fn is_continuation(byte: u8) -> bool {
    byte >= 0x80 && byte < 0xc0
}

/// Bytes of a letter of several that begins so.
const fn letter_length(first: u8) -> usize {
    match first {
        0xf0.. => LETTER_BYTES_MAX,
        0xe0..0xf0 => 3,
        0x00..0xe0 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of bytes that come at once, and then silence.
    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys: Vec<Key> = bytes
            .iter()
            .filter_map(|byte| decoder.push(*byte))
            .collect();
        keys.extend(decoder.silence());
        assert!(!decoder.is_open(), "{bytes:?}");
        keys
    }

    #[test]
    fn letters_and_single_keys_are_themselves() {
        let expected = [
            Key::Char('a'),
            Key::Char('é'),
            Key::Char('日'),
            Key::Char('🦀'),
            Key::Enter,
            Key::Tab,
            Key::Backspace,
            Key::Interrupt,
        ];
        assert_eq!(keys("aé日🦀\r\t\u{7f}\u{3}".as_bytes()), expected);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        // What is no letter is nothing, and takes nothing with it.
        assert_eq!(keys(b"\xc3a\xff\x80b"), [Key::Char('a'), Key::Char('b')]);
    }

    #[test]
    fn nothing_of_a_sequence_is_a_key() {
        let sequences: [&[u8]; 16] = [
            b"\x1b[A",
            b"\x1b[a",
            b"\x1b[1;5C",
            b"\x1b[3~",
            b"\x1b[[A",
            b"\x1bOP",
            b"\x1b\x1b[A",
            b"\x1ba",
            b"\x1bq",
            "\u{1b}é".as_bytes(),
            "\u{1b}日".as_bytes(),
            b"\x1b]11;rgb:0000/0000/0000\x07",
            b"\x1b]11;rgb:0000/0000/0000\x1b\\",
            b"\x1bP1$r0m\x1b\\",
            b"\x1b[200~",
            b"\x1b\r",
        ];
        for sequence in sequences {
            assert_eq!(keys(sequence), [], "{sequence:?}");
            let then = [sequence, b"j"].concat();
            assert_eq!(keys(&then), [Key::Char('j')], "{sequence:?}");
        }
        // Unfinished ones end with silence.
        for begun in ["\u{1b}[", "\u{1b}[1;", "\u{1b}O", "\u{1b}]11"] {
            assert_eq!(keys(begun.as_bytes()), [], "{begun:?}");
        }
    }

    #[test]
    fn an_interrupt_is_heard_within_a_sequence() {
        for begun in ["\u{1b}", "\u{1b}[1", "\u{1b}]0;"] {
            let bytes = [begun.as_bytes(), b"\x03"].concat();
            assert_eq!(keys(&bytes), [Key::Interrupt], "{begun:?}");
        }
    }
}
