//! Lengths of time as text with a unit: `250ms`, `10s`, `5m`, `12h`, `30d`. For `#[serde(with = "span")]`.

use std::{fmt, time::Duration};

use serde::{Deserializer, Serializer, de};

/// Units, longest first; a value is written in the longest unit that holds it without a remainder.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads text such as `250ms`.
///
/// # Errors
/// One line on what is wrong.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || {
        format!(
            "{text:?} is not a length of time; write a whole number and ms, s, m, h or d, such as \"250ms\""
        )
    };
    let (_, millis) = UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = number.checked_mul(*millis).ok_or_else(wrong)?;
    Ok(Duration::from_millis(millis))
}

/// Writes what [`parse`] reads; below a millisecond is cut off.
#[must_use]
pub fn print(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| millis >= *size && millis.is_multiple_of(*size))
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

/// For `#[serde(with = "span")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print(*span))
}

/// For `#[serde(with = "span")]`.
///
/// # Errors
/// As [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a length of time such as \"250ms\", \"10s\" or \"30d\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        for text in ["1ms", "250ms", "10s", "90s", "5m", "12h", "30d", "0ms"] {
            let span = parse(text).expect(text);
            assert_eq!(print(span), text);
        }
        assert_eq!(print(Duration::from_secs(60)), "1m");
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for bad in [
            "10",
            "",
            "s",
            "1.5s",
            "-1s",
            "10 weeks",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
