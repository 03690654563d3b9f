//! The values of arguments: what is read, and what is said of one that cannot be.

use std::{env, time::Duration};

use super::ADDRESS;

/// Most agents of a type, as `agents.NAME.count` has it.
const AGENTS_MAX: u32 = 100_000;

/// Text such as `250ms` or `10s`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number and ms, s, m, h or d, such as 10s".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let parsed = number.parse::<u64>().ok();
    match parsed.and_then(|number| number.checked_mul(millis)) {
        Some(0) => Err("it has to be above 0; the shortest is 1ms".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(format!("it has to be at most {}ms", u64::MAX)),
    }
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// The name of a tenant. An empty one would stand for the default one.
pub(super) fn tenant(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty; leave it out for the tenant `default`".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Where the node is unless the command says so.
pub(super) fn address() -> String {
    env::var_os("COLONY_ADDRESS").map_or_else(
        || ADDRESS.to_owned(),
        |set| set.to_string_lossy().into_owned(),
    )
}

/// Who decides unless the command says so.
pub(super) fn user() -> String {
    env::var_os("USER").map_or_else(
        || "unknown".to_owned(),
        |set| set.to_string_lossy().into_owned(),
    )
}

/// Agents of one type; that there are none is said where they are needed.
pub(super) fn agents(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if number <= AGENTS_MAX => Ok(number),
        _ => Err("a whole number from 1 to 100000".to_owned()),
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("a whole number from 1".to_owned()),
    }
}

pub(super) fn window(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=10_000).contains(&number) => Ok(number),
        _ => Err("a whole number from 1 to 10000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        for bad in ["10", "s", "", "1.5s", "-1s", "0s", "99999999999999999999s"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_span_is_said() {
        for (bad, said) in [
            ("0s", "above 0"),
            ("0d", "above 0"),
            ("999999999999d", "at most"),
            ("99999999999999999999s", "at most"),
            ("10", "such as 10s"),
            ("s", "such as 10s"),
        ] {
            let error = span(bad).expect_err(bad);
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    #[test]
    fn agents_are_bounded_and_a_tenant_has_a_name() {
        assert_eq!(agents("100000"), Ok(100_000));
        for bad in ["100001", "4294967296", "-1", "x"] {
            assert!(agents(bad).is_err(), "{bad}");
        }
        assert!(tenant("").is_err());
        assert_eq!(tenant("acme"), Ok("acme".to_owned()));
    }
}
