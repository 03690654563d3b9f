//! `colony config`: which settings hold, where they come from, and what is wrong with them.

mod comments;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use colony_agents::Kinds;
use colony_core::text::nearest;
use colony_inference::{Item, ModelManifest, ModelStore};
use colony_node::config::{
    Config, ConfigError, Engine, Finding, Loaded, Model, ModelRole, Origin, Problem, Severity,
    Sources,
};
use serde_json::{Value, json};

use self::comments::Comment;
use crate::{
    args::{ConfigCommand, ConfigSources},
    errors::{Failure, chain},
    model,
    node::logging,
    output::{Output, cell, page, sheet},
};

/// Read when no file is named and it is there.
const FILE_DEFAULT: &str = "colony.toml";

pub(crate) fn run(command: ConfigCommand, out: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { sources, prefix } => show(sources, &prefix.unwrap_or_default(), out),
        ConfigCommand::Check { sources } => check(sources, out),
        ConfigCommand::Explain { key } => explain(&key, out),
        ConfigCommand::Init { file } => init(&file, out),
    }
}

fn show(sources: ConfigSources, prefix: &str, out: Output) -> Result<(), Failure> {
    let loaded = load(sources, Vec::new())?;
    let settings = loaded.show();
    let mut shown = settings
        .iter()
        .filter(|setting| setting.key.starts_with(prefix))
        .peekable();
    if shown.peek().is_none() {
        let sections: BTreeSet<&str> = settings
            .iter()
            .filter_map(|setting| setting.key.split('.').next())
            .collect();
        let sections: Vec<&str> = sections.into_iter().collect();
        return Err(Failure::not_found(format!("no key begins with {prefix:?}"))
            .with_details([format!("there are: {}", sections.join(", "))]));
    }
    let rows = shown.map(|setting| {
        let cells = vec![
            setting.key.clone(),
            cell(&setting.value.to_string()),
            setting.origin.to_string(),
        ];
        let json = json!({
            "key": setting.key,
            "value": setting.value,
            "origin": setting.origin.to_string(),
        });
        (json, cells)
    });
    out.results(&["key", "value", "origin"], rows, "no settings")
}

/// What colony.toml says about a key, or about all keys of a section.
fn explain(key: &str, out: Output) -> Result<(), Failure> {
    let wanted = comments::stands_for(key.trim_end_matches('.'));
    let below = format!("{wanted}.");
    let all = comments::all();
    let about = |comment: &&Comment| comment.key == wanted || comment.key.starts_with(&below);
    let mut about = all.iter().filter(about).peekable();
    if about.peek().is_none() {
        let sections = all.iter().filter(|comment| !comment.key.contains('.'));
        let sections: Vec<&str> = sections.map(|comment| comment.key.as_str()).collect();
        let known = all.iter().map(|comment| comment.key.as_str());
        let hint = match nearest(&wanted, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are sections: {}", sections.join(", ")),
        };
        return Err(Failure::not_found(format!("there is no setting {key:?}")).with_details([hint]));
    }
    for comment in about {
        let Comment { key, text, default } = comment;
        let said = json!({ "key": key, "default": default, "text": text });
        out.result(&said, || {
            let default = default
                .as_ref()
                .map_or_else(String::new, |d| format!(" = {d}"));
            let text = match text.as_str() {
                "" => String::new(),
                text => format!("\n  {text}"),
            };
            page(&format!("{key}{default}{text}"))
        })?;
    }
    Ok(())
}

/// Writes a colony.toml that holds every setting with its default.
fn init(file: &Path, out: Output) -> Result<(), Failure> {
    let name = file.display().to_string();
    let written =
        fs::File::create_new(file).and_then(|mut file| file.write_all(comments::FILE.as_bytes()));
    written.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Failure::usage(format!("{name} is there already, and stays as it is"))
        } else {
            Failure::failed(format!("cannot write {name}: {error}"))
        }
    })?;
    out.result(&json!({ "file": name }), || {
        format!("{name}: every setting with its default; `colony config check` checks your changes")
    })
}

/// Everything that is wrong, in one go.
fn check(sources: ConfigSources, out: Output) -> Result<(), Failure> {
    let file = file_of(&sources);
    let file = file.map_or_else(|| "the defaults".to_owned(), |f| f.display().to_string());
    let everything = |config: &Config| {
        let mut found = startable(config);
        found.extend(files(config));
        found
    };
    let (settings, problems) = match Config::load_checked(&layers(sources, Vec::new()), everything)
    {
        Ok(loaded) => (Some(loaded.show().len()), loaded.warnings),
        Err(ConfigError::Problems { problems }) => (None, problems),
        Err(error) => (None, vec![unreadable(&error)]),
    };
    let problems: Vec<Problem> = problems.into_iter().map(in_words).collect();
    let errors = errors(&problems);
    let warnings = problems.len() - errors;
    let said = json!({
        "ok": errors == 0,
        "file": file,
        "settings": settings,
        "problems": problems.iter().map(to_json).collect::<Vec<_>>(),
    });
    let sum = match (errors, warnings) {
        (0, 0) => "nothing wrong".to_owned(),
        _ => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    out.result(&said, || {
        let mut text = sheet(problems.iter().map(to_row));
        if !text.is_empty() {
            text.push('\n');
        }
        let settings = settings.map_or_else(String::new, |n| format!("{n} settings, "));
        text + &format!("{file}: {settings}{sum}")
    })?;
    if errors > 0 {
        return Err(Failure::usage(format!("no node starts with {file}: {sum}")));
    }
    Ok(())
}

/// A problem without the names of Rust's types: who writes a configuration knows numbers and texts.
fn in_words(mut problem: Problem) -> Problem {
    let names = [
        ("expected u8", "expected a whole number"),
        ("expected u16", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected string", "expected a text"),
        ("``", "`"),
    ];
    for (name, words) in names {
        problem.what = problem.what.replace(name, words);
    }
    problem
}

fn errors(problems: &[Problem]) -> usize {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    errors.count()
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn unreadable(error: &ConfigError) -> Problem {
    let (path, line) = match error {
        ConfigError::Read { path, .. } => (path.clone(), 0),
        ConfigError::Syntax { path, line, .. } => (path.clone(), *line),
        ConfigError::Problems { .. } => (PathBuf::new(), 0),
    };
    Problem {
        severity: Severity::Error,
        key: String::new(),
        origin: Origin::File { path, line },
        what: chain(error),
    }
}

fn to_json(problem: &Problem) -> Value {
    let (file, line) = match &problem.origin {
        Origin::File { path, line } => (Some(path.display().to_string()), Some(*line)),
        Origin::Default | Origin::Env(_) | Origin::Flag => (None, None),
    };
    json!({
        "severity": severity(problem),
        "key": Some(&problem.key).filter(|key| !key.is_empty()),
        "message": problem.what,
        "origin": problem.origin.to_string(),
        "file": file,
        "line": line.filter(|line| *line > 0),
    })
}

fn to_row(problem: &Problem) -> (&'static str, String) {
    let what = match problem.key.as_str() {
        "" => problem.what.clone(),
        key => format!("{key}: {} ({})", problem.what, problem.origin),
    };
    (severity(problem), what)
}

fn severity(problem: &Problem) -> &'static str {
    match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// All layers, checked as far as a node needs it to start; `flags` are those of the command, weaker than `--set`.
pub(crate) fn load(
    sources: ConfigSources,
    flags: Vec<(String, String)>,
) -> Result<Loaded, Failure> {
    Config::load_checked(&layers(sources, flags), startable).map_err(|error| match &error {
        ConfigError::Problems { problems } => {
            let sum = count(errors(problems), "problem");
            Failure::usage(format!("{sum} in the configuration"))
                .with_details(problems.iter().cloned().map(|problem| in_words(problem).to_string()))
                .with_hint("`colony config explain KEY` says what a setting means, `colony config show` what holds")
        }
        ConfigError::Read { .. } | ConfigError::Syntax { .. } => Failure::usage(chain(&error)),
    })
}

fn layers(sources: ConfigSources, flags: Vec<(String, String)>) -> Sources {
    let file = file_of(&sources);
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let flags = flags.into_iter().chain(sources.set).collect();
    Sources { file, env, flags }
}

fn file_of(sources: &ConfigSources) -> Option<PathBuf> {
    let default = Path::new(FILE_DEFAULT);
    match &sources.config {
        Some(file) => Some(file.clone()),
        None => default.is_file().then(|| default.to_owned()),
    }
}

/// What the kinds, the examples of harm and the log say of a configuration.
fn startable(config: &Config) -> Vec<Finding> {
    let mut found = colony_node::check_agents(config, &Kinds::builtin());
    found.extend(colony_node::risk::check(&config.risk));
    let log = logging::problem(&config.telemetry.log);
    found.extend(log.map(|what| Finding::error("telemetry.log", what)));
    found
}

/// What the files on this machine say of it.
fn files(config: &Config) -> Vec<Finding> {
    if config.inference.engine == Engine::Echo {
        return Vec::new();
    }
    let home = match model::home_of(config) {
        Ok(home) => home,
        Err(failure) => return vec![Finding::error("inference.home", failure.message())],
    };
    let mut found = Vec::new();
    let library = home.runtime_library();
    if !library.is_file() {
        let what = format!(
            "{} is not there yet; `colony model pull` fetches it",
            library.display()
        );
        found.push(Finding::warning("inference.home", what));
    }
    let models = config.models.iter();
    found.extend(models.filter_map(|(name, model)| model_files(&home, name, model)));
    found
}

/// What is wrong with the files of a model, if anything.
fn model_files(home: &ModelStore, name: &str, model: &Model) -> Option<Finding> {
    let key = format!("models.{name}.source");
    let folder = home.model_dir(&model.source);
    let manifest = match ModelManifest::load(&folder) {
        Ok(manifest) => manifest,
        Err(_) if catalog().any(|name| name == model.source) => {
            let folder = folder.display();
            let what = format!("{folder} has no model yet; `colony model pull` fetches it");
            return Some(Finding::warning(key, what));
        }
        Err(error) => {
            let what = format!(
                "{}; name a model of the catalog ({}) or the absolute path of a folder that holds model.json",
                chain(&error),
                catalog().collect::<Vec<_>>().join(", ")
            );
            return Some(Finding::error(key, what));
        }
    };
    let fits = match model.kind {
        ModelRole::Embed => manifest.encoder().map(drop),
        ModelRole::Generate => manifest.decoder().map(drop),
    };
    if let Err(error) = fits {
        return Some(Finding::error(format!("models.{name}.kind"), chain(&error)));
    }
    let missing = manifest
        .files
        .keys()
        .find(|file| !folder.join(file).is_file())?;
    let missing = folder.join(missing);
    Some(Finding::error(
        key,
        format!("{} is missing", missing.display()),
    ))
}

/// The names of the models that `colony model pull` can fetch.
fn catalog() -> impl Iterator<Item = &'static str> {
    let items = Item::ALL.into_iter();
    items.filter(|item| *item != Item::Runtime).map(Item::name)
}
