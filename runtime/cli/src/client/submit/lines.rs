//! Tasks out of JSON lines.

use std::{collections::BTreeMap, fmt, io::BufRead, ops::RangeInclusive};

use colony_proto::v1::NewTask;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;

use crate::{args::SubmitArgs, errors::Failure, lines::Lines};

/// What a line may say. Unknown fields are refused: a misspelt `prioirty` must not vanish.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Line {
    text: String,
    r#type: Option<String>,
    priority: Option<u32>,
    key: Option<String>,
    expected: Option<String>,
    #[serde(default, deserialize_with = "attributes")]
    attributes: BTreeMap<String, String>,
}

/// Refuses a key that stands there twice: only one of its values would go along.
fn attributes<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Attributes;

    impl<'de> Visitor<'de> for Attributes {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some((key, value)) = from.next_entry::<String, String>()? {
                if found.contains_key(&key) {
                    return Err(A::Error::custom(format!(
                        "attribute {key:?} is there twice"
                    )));
                }
                found.insert(key, value);
            }
            Ok(found)
        }
    }

    from.deserialize_map(Attributes)
}

/// What a priority can be.
const PRIORITIES: RangeInclusive<u32> = 1..=10;

/// What holds for every task unless its line says otherwise.
#[derive(Debug)]
pub(super) struct Defaults {
    /// The beginning of every key that is not the line's own.
    pub(super) key: String,
    task: NewTask,
}

impl Defaults {
    pub(super) fn from_args(args: &SubmitArgs, run_key: String) -> Result<Self, Failure> {
        let deadline = args.deadline.map(|time| u64::try_from(time.as_millis()));
        let ttl_ms = deadline
            .transpose()
            .map_err(|_| Failure::usage("--deadline is more than 500 million years away"))?;
        let mut attributes = BTreeMap::new();
        for (key, value) in &args.attributes {
            if attributes.insert(key.clone(), value.clone()).is_some() {
                let what = format!("--attribute {key:?} is there twice; give it one value");
                return Err(Failure::usage(what));
            }
        }
        let task = NewTask {
            tenant: args.tenant.clone().unwrap_or_default(),
            agent_type: args.agent_type.clone(),
            attributes,
            priority: args.priority.unwrap_or_default(),
            ttl_ms,
            expected: args.expected.clone(),
            ..NewTask::default()
        };
        Ok(Self {
            key: args.key.clone().unwrap_or(run_key),
            task,
        })
    }

    /// The one task of a command without a file.
    pub(super) fn single(&self, text: String) -> NewTask {
        NewTask {
            input: text,
            dedupe_key: Some(self.key.clone()),
            ..self.task.clone()
        }
    }

    fn line(&self, number: usize, line: Line) -> NewTask {
        let mut attributes = self.task.attributes.clone();
        attributes.extend(line.attributes);
        NewTask {
            input: line.text,
            agent_type: line.r#type.unwrap_or_else(|| self.task.agent_type.clone()),
            attributes,
            priority: line.priority.unwrap_or(self.task.priority),
            dedupe_key: Some(line.key.unwrap_or_else(|| format!("{}/{number}", self.key))),
            expected: line.expected.or_else(|| self.task.expected.clone()),
            ..self.task.clone()
        }
    }
}

/// A line that is no task.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Its number, from 1.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) what: String,
}

/// Reads tasks line by line.
pub(super) struct TaskLines(Lines<Box<dyn BufRead>>);

impl TaskLines {
    pub(super) fn new(from: Box<dyn BufRead>) -> Self {
        Self(Lines::new(from))
    }

    /// The next task with its line number; none at the end.
    pub(super) fn next_task(
        &mut self,
        defaults: &Defaults,
    ) -> Result<Option<(usize, NewTask)>, BadLine> {
        let Some((number, line)) = self.0.next() else {
            return Ok(None);
        };
        let parsed = line.map_err(|fault| fault.to_string());
        match parsed.and_then(|line| parse(&line)) {
            Ok(line) => Ok(Some((number, defaults.line(number, line)))),
            Err(what) => Err(BadLine { line: number, what }),
        }
    }
}

/// Reads one line, or says what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Line, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to() + 1;
        format!("not UTF-8: wrong byte at column {at}")
    })?;
    let text = text.trim();
    // A list would be taken for the fields in their order.
    if text.starts_with('[') {
        return Err("a list where an object is expected; write one object a line, such as {\"text\": \"…\"}".to_owned());
    }
    let line: Line = serde_json::from_str(text).map_err(|error| {
        // The parser counts lines within the one it got.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        let what = what.replace("expected u32", "expected a whole number");
        let field = wrong_field(text).map_or_else(String::new, |field| format!("`{field}`, "));
        format!("{what} ({field}column {})", error.column())
    })?;
    match line.priority {
        Some(priority) if !PRIORITIES.contains(&priority) => Err(format!(
            "`priority` {priority} is not from {} to {}",
            PRIORITIES.start(),
            PRIORITIES.end()
        )),
        Some(_) | None => Ok(line),
    }
}

/// The first field whose value is of another sort than it must be, if that is what is wrong.
fn wrong_field(text: &str) -> Option<&'static str> {
    let line: Value = serde_json::from_str(text).ok()?;
    let is_whole = |value: &Value| value.as_u64().is_some_and(|n| u32::try_from(n).is_ok());
    let is_texts = |value: &Value| {
        value
            .as_object()
            .is_some_and(|fields| fields.values().all(Value::is_string))
    };
    ["text", "type", "priority", "key", "expected", "attributes"]
        .into_iter()
        .find(|field| match (*field, line.get(*field)) {
            (_, None) => false,
            ("text", Some(value)) => !value.is_string(),
            ("priority", Some(value)) => !value.is_null() && !is_whole(value),
            ("attributes", Some(value)) => !is_texts(value),
            (_, Some(value)) => !value.is_null() && !value.is_string(),
        })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn defaults(more: &[&str]) -> Defaults {
        let mut line = vec!["colony", "submit", "--file", "x"];
        line.extend(more);
        let Command::Submit(args) = Cli::parse_from(line).command else {
            panic!("submit was asked for");
        };
        Defaults::from_args(&args, "run".to_owned()).expect("sound arguments")
    }

    fn read(text: &[u8], defaults: &Defaults) -> Result<Vec<(usize, NewTask)>, BadLine> {
        let mut lines = TaskLines::new(Box::new(Cursor::new(text.to_vec())));
        let mut tasks = Vec::new();
        while let Some(task) = lines.next_task(defaults)? {
            tasks.push(task);
        }
        Ok(tasks)
    }

    #[test]
    fn a_line_overrides_the_arguments() {
        let defaults = defaults(&["--type", "echo", "--attribute", "a=1", "--priority", "3"]);
        let text = "{\"text\":\"x\"}\n\n{\"text\":\"y\",\"type\":\"t\",\"key\":\"k\",\"attributes\":{\"a\":\"2\"}}";
        let tasks = read(text.as_bytes(), &defaults).expect("good lines");
        let [(1, first), (3, second)] = tasks.as_slice() else {
            panic!("two tasks with their line numbers: {tasks:?}");
        };
        assert_eq!((first.agent_type.as_str(), first.priority), ("echo", 3));
        assert_eq!(first.dedupe_key.as_deref(), Some("run/1"));
        assert_eq!(
            (second.agent_type.as_str(), second.dedupe_key.as_deref()),
            ("t", Some("k"))
        );
        assert_eq!(second.attributes.get("a").map(String::as_str), Some("2"));
    }

    #[test]
    fn bad_lines_are_named() {
        let defaults = defaults(&[]);
        let cases: [(&[u8], usize, &str); 11] = [
            (
                b"{\"text\":\"x\"}\n[\"y\", \"echo\"]",
                2,
                "a list where an object is expected",
            ),
            (
                b"[\n{\"text\":\"x\"}\n]",
                1,
                "a list where an object is expected",
            ),
            (
                b"{\"text\":\"x\"}\n{\"txt\":\"y\"}",
                2,
                "unknown field `txt`",
            ),
            (b"{}", 1, "missing field `text`"),
            (b"\n\nnonsense", 3, "expected ident"),
            (
                b"{\"text\":\"\xff\"}",
                1,
                "not UTF-8: wrong byte at column 10",
            ),
            (b"{\"text\":7}", 1, "invalid type: integer `7`"),
            (b"7", 1, "invalid type: integer `7`, expected an object"),
            (
                b"{\"text\":\"x\",\"priority\":\"high\"}",
                1,
                "invalid type: string \"high\", expected a whole number (`priority`, column",
            ),
            (
                b"{\"text\":\"x\",\"priority\":0}",
                1,
                "`priority` 0 is not from 1 to 10",
            ),
            (
                b"{\"text\":\"x\",\"attributes\":{\"a\":\"1\",\"a\":\"2\"}}",
                1,
                "attribute \"a\" is there twice",
            ),
        ];
        for (text, line, what) in cases {
            let bad = read(text, &defaults).expect_err("a bad line");
            assert_eq!(bad.line, line, "{bad:?}");
            assert!(bad.what.starts_with(what), "{bad:?}");
        }
    }
}
