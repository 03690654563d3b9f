//! `colony risk eval`: how much of what is risky the patterns and examples of `[risk]` catch, and how often they
//! are wrong, on anybody's texts. It judges as a triage agent does, by the same rules.

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use colony_agents::{normalise, printable};
use colony_core::port::Clock;
use colony_inference::{BatchObserver, EmbedRequest, Embedder, InferenceError, NoObserver};
use colony_node::{
    config::Config,
    ports::SystemClock,
    risk::{self, Examples},
    workers::{self, Workers},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    args::RiskEvalArgs,
    config,
    errors::{Failure, chain},
    lines::Lines,
    model,
    output::{Output, clean, sheet},
    stats::ratio,
};

/// What one way of finding risks made of the texts.
#[derive(Debug, Default)]
struct Confusion {
    caught: u64,
    false_alarms: u64,
}

impl Confusion {
    fn count(&mut self, risky: bool, found: bool) {
        self.caught += u64::from(risky && found);
        self.false_alarms += u64::from(!risky && found);
    }

    fn json(&self, risky: u64, harmless: u64) -> Value {
        json!({
            "caught": self.caught,
            "recall": ratio(self.caught, risky),
            "false_alarms": self.false_alarms,
            "false_alarm_rate": ratio(self.false_alarms, harmless),
        })
    }
}

/// `colony risk eval`.
pub(crate) async fn eval(args: RiskEvalArgs, out: Output) -> Result<(), Failure> {
    let texts = read(&args.file)?;
    let config = config::load(args.sources, Vec::new())?.config;
    let Some(declared) = config.agents.get(&args.agent_type) else {
        let known: Vec<&str> = config.agents.keys().map(String::as_str).collect();
        let what = format!(
            "no agent type {:?}; there are: {}",
            args.agent_type,
            known.join(", ")
        );
        return Err(Failure::usage(what));
    };
    let name = declared.embedder.clone();
    let embedder = match &name {
        Some(name) => Some(open(&config, name).await?),
        None => None,
    };
    let policy = config.risk.policy();
    let policy = policy.map_err(|error| Failure::usage(chain(&error)))?;
    let examples = risk::examples(&config.risk).map_err(|error| Failure::usage(chain(&error)))?;
    let compared =
        embedder.zip(examples.map(|known| Examples::new(known, &config.inference.embed)));
    let (mut phrases, mut similarity, mut both) = (
        Confusion::default(),
        Confusion::default(),
        Confusion::default(),
    );
    let (mut missed, mut alarms) = (Vec::new(), Vec::new());
    for ticket in &texts {
        let text: String = printable(&ticket.text).collect();
        let said = !policy.hits(&text).is_empty();
        let alike = match &compared {
            Some((embedder, examples)) => resembles(&**embedder, examples, &ticket.text)
                .await
                .map_err(|error| Failure::failed(chain(&error)))?,
            None => false,
        };
        phrases.count(ticket.risky, said);
        similarity.count(ticket.risky, alike);
        both.count(ticket.risky, said || alike);
        if ticket.risky && !(said || alike) {
            missed.push(ticket.text.as_str());
        }
        if !ticket.risky && (said || alike) {
            alarms.push(ticket.text.as_str());
        }
    }
    let count = |risky| texts.iter().filter(|t| t.risky == risky).count() as u64;
    let (risky, harmless) = (count(true), count(false));
    let figures = json!({
        "file": args.file.display().to_string(),
        "embedder": name,
        "risky": risky,
        "harmless": harmless,
        "phrases": phrases.json(risky, harmless),
        "similarity": similarity.json(risky, harmless),
        "both": both.json(risky, harmless),
        "missed": args.list.then_some(&missed),
        "alarms": args.list.then_some(&alarms),
    });
    out.result(&figures, || {
        let line = |confusion: &Confusion| {
            format!(
                "{} of {risky} risky texts caught, {} false alarms on {harmless} harmless ones",
                confusion.caught, confusion.false_alarms
            )
        };
        let rows = [
            ("phrases".to_owned(), line(&phrases)),
            ("similarity".to_owned(), line(&similarity)),
            ("both".to_owned(), line(&both)),
        ];
        let listed = |what: &str, texts: &[&str]| -> String {
            texts
                .iter()
                .map(|text| format!("\n{what}: {}", clean(text)))
                .collect()
        };
        let lists = if args.list {
            listed("missed", &missed) + &listed("false alarm", &alarms)
        } else {
            String::new()
        };
        sheet(rows) + &lists
    })
}

/// A line of the file. Whether it is risky must be said: a slip of the pen would count as harmless.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Labelled {
    text: String,
    risky: bool,
}

/// What is said of a line that is none.
const WRITE: &str = "write {\"text\": \"…\", \"risky\": true}";

/// Reads the file; the first line that is wrong ends it.
fn read(path: &Path) -> Result<Vec<Labelled>, Failure> {
    let name = path.display();
    let unreadable = |error| Failure::usage(format!("cannot read {name}: {error}"));
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut texts = Vec::new();
    for (number, line) in Lines::new(file) {
        let wrong = |what: String| Failure::usage(format!("{name}, line {number}: {what}"));
        let line = line.map_err(|fault| wrong(fault.to_string()))?;
        let line = line.trim_ascii();
        // A list would be taken for the fields in their order.
        if line.starts_with(b"[") {
            return Err(wrong(format!(
                "a list where an object is expected; {WRITE}"
            )));
        }
        let text = serde_json::from_slice(line);
        texts.push(text.map_err(|error| wrong(format!("{error}; {WRITE}")))?);
    }
    if texts.is_empty() {
        return Err(Failure::usage(format!("{name} holds no texts")));
    }
    Ok(texts)
}

/// The embedding model of this name, and no other.
async fn open(config: &Config, name: &str) -> Result<Arc<dyn Embedder>, Failure> {
    let mut only = config.clone();
    only.models.retain(|other, _| other == name);
    let home = model::home_of(config)?;
    let opened = tokio::task::spawn_blocking(move || {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let observer: Arc<dyn BatchObserver> = Arc::new(NoObserver);
        workers::open(&only, &home, &clock, &observer)
    })
    .await
    .map_err(|panic| Failure::failed(format!("opening the model broke off: {panic}")))?;
    let Workers { mut embedders, .. } = opened.map_err(|error| Failure::failed(chain(&error)))?;
    let missing = || Failure::usage(format!("[models] has no embedding model {name:?}"));
    embedders.remove(name).ok_or_else(missing)
}

/// Whether a triage agent would find that `text` resembles risky examples.
async fn resembles(
    embedder: &dyn Embedder,
    examples: &Examples,
    text: &str,
) -> Result<bool, InferenceError> {
    let embed = |text: String| async move {
        let embedded = embedder.embed(EmbedRequest::new(text)).await?;
        Ok(embedded.vector)
    };
    let vector = embed(normalise(text)).await?;
    Ok(examples.resembled(&vector, embed).await?.is_some())
}
