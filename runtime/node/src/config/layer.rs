//! The layers below the flags: reads file, environment and flags into values and remembers where each
//! key was set.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    util::nest,
    value::{Dict, Map, Value},
};
use toml_edit::{Document, Item, Table, TableLike, Value as TomlValue};

use super::{ConfigError, Origin, Sources};

/// What the names of environment variables begin with.
const ENV_PREFIX: &str = "COLONY__";
/// Longest file read, in bytes: a hundred times the one with every setting. A wrong file must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What was set, and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    file: String,
    /// Key path → value, of the environment and of the flags.
    env: Vec<(String, Value)>,
    flags: Vec<(String, Value)>,
    /// Every leaf that was set, by the strongest layer that set it. Weaker layers are listed too, for the
    /// check of unknown keys, but looked up last.
    pub(super) set: BTreeMap<String, Origin>,
    /// The lines of the elements of the file's lists, by key path and place: `risk.patterns.0`.
    elements: BTreeMap<String, usize>,
}

impl Layers {
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        if let Some(path) = &sources.file {
            layers.read_file(path)?;
        }
        for (name, text) in &sources.env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let key = rest.to_lowercase().replace("__", ".");
            layers.note(&key, Origin::Env(name.clone()));
            layers.env.push((key, value_of(text)));
        }
        for (key, text) in &sources.flags {
            layers.note(key, Origin::Flag);
            layers.flags.push((key.clone(), value_of(text)));
        }
        Ok(layers)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let document = Document::parse(text.as_str()).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(&text, span.start)),
            what: error.message().to_owned(),
        })?;
        self.walk(document.as_table(), "", &text, path);
        self.file = text;
        Ok(())
    }

    /// Remembers the line of every leaf.
    fn walk(&mut self, table: &dyn TableLike, above: &str, text: &str, path: &Path) {
        for (name, item) in table.iter() {
            let key = match above {
                "" => name.to_owned(),
                _ => format!("{above}.{name}"),
            };
            let start = table
                .get_key_value(name)
                .and_then(|(key, item)| key.span().or_else(|| item.span()))
                .map_or(0, |span| span.start);
            let origin = Origin::File {
                path: path.to_owned(),
                line: line_of(text, start),
            };
            match item.as_table_like() {
                Some(inner) if !inner.is_empty() => self.walk(inner, &key, text, path),
                _ if matches!(item, Item::None) => {}
                _ => {
                    self.note_elements(&key, item, text);
                    self.note(&key, origin);
                }
            }
        }
    }

    fn note_elements(&mut self, key: &str, list: &Item, text: &str) {
        let tables = list.as_array_of_tables().into_iter().flatten();
        let values = list.as_array().into_iter().flatten();
        let spans = tables.map(Table::span).chain(values.map(TomlValue::span));
        for (place, span) in spans.enumerate() {
            if let Some(span) = span {
                let line = line_of(text, span.start);
                self.elements.insert(format!("{key}.{place}"), line);
            }
        }
    }

    fn note(&mut self, key: &str, origin: Origin) {
        self.set.insert(key.to_owned(), origin);
    }

    /// Where `key` was set; the key of a table has the origin of the first leaf set below it.
    pub(super) fn origin(&self, key: &str) -> Origin {
        if let Some(origin) = self.set.get(key) {
            return origin.clone();
        }
        let below = format!("{key}.");
        let leaf = self.set.range(below.clone()..).next();
        if let Some((_, origin)) = leaf.filter(|(leaf, _)| leaf.starts_with(&below)) {
            return origin.clone();
        }
        // A list element or an inline value below a leaf.
        let mut above = key;
        while let Some((parent, _)) = above.rsplit_once('.') {
            if let Some(origin) = self.set.get(parent) {
                return match (origin, self.elements.get(above)) {
                    (Origin::File { path, .. }, Some(&line)) => Origin::File {
                        path: path.clone(),
                        line,
                    },
                    _ => origin.clone(),
                };
            }
            above = parent;
        }
        Origin::Default
    }

    pub(super) fn merge_over(&self, defaults: Figment) -> Figment {
        let mut merged = defaults.merge(Toml::string(&self.file));
        for (key, value) in self.env.iter().chain(&self.flags) {
            merged = merged.merge(One { key, value });
        }
        merged
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "longer than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Text that looks like a number, a truth value or a list is one; everything else is text.
fn value_of(text: &str) -> Value {
    match text.parse() {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// One key as a layer of its own.
struct One<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Provider for One<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.key.to_owned())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let dict = nest(self.key, self.value.clone())
            .into_dict()
            .unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}
