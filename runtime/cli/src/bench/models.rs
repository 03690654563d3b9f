//! What the benches of models share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use colony_inference::{BatchKind, BatchObserver, BatchReport, Item, ModelStore, pull::is_ready};
use tokio::task::JoinSet;

use crate::{
    errors::{Failure, chain},
    model,
};

/// Requests at once in the batched half of a run.
pub(super) const COMPANY: usize = 16;

/// The home folder, when everything in `items` is there. Nothing is fetched: a bench surprises nobody.
pub(super) fn home_with(items: &[Item]) -> Result<ModelStore, Failure> {
    let home = model::home()?;
    let missing: Vec<&str> = items
        .iter()
        .filter(|item| !is_ready(&home, **item))
        .map(|item| item.name())
        .collect();
    if missing.is_empty() {
        return Ok(home);
    }
    let what = format!(
        "{} missing in {}",
        missing.join(" and "),
        home.root().display()
    );
    Err(Failure::failed(what).with_hint("`colony model pull` fetches the models"))
}

/// Opens a model away from the async threads: it reads files for seconds.
pub(super) async fn open<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, colony_inference::InferenceError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened.map_err(|error| Failure::failed(chain(&error))),
        Err(panic) => Err(Failure::failed(format!(
            "opening the model broke off: {panic}"
        ))),
    }
}

/// Awaits all of `asked`; the first error ends it.
pub(super) async fn all<T: 'static>(
    mut asked: JoinSet<Result<T, colony_inference::InferenceError>>,
) -> Result<Vec<T>, Failure> {
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(answer) => answers.push(answer.map_err(|error| Failure::failed(chain(&error)))?),
            Err(panic) => return Err(Failure::failed(format!("a request broke off: {panic}"))),
        }
    }
    Ok(answers)
}

/// Adds up the decode steps of one batch size.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    rows: AtomicU64,
    tokens: AtomicU64,
    nanos: AtomicU64,
}

impl Decoded {
    /// Begins to count stretches of `rows` rows.
    pub(super) fn begin(&self, rows: usize) {
        self.rows.store(rows as u64, Ordering::Relaxed);
        self.tokens.store(0, Ordering::Relaxed);
        self.nanos.store(0, Ordering::Relaxed);
    }

    /// Tokens written so far, and the time it took.
    pub(super) fn so_far(&self) -> (u64, std::time::Duration) {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let tokens = self.tokens.load(Ordering::Relaxed);
        (tokens, std::time::Duration::from_nanos(nanos))
    }
}

impl BatchObserver for Decoded {
    fn batch_ran(&self, report: &BatchReport) {
        let wanted = report.rows as u64 == self.rows.load(Ordering::Relaxed);
        if report.kind == BatchKind::Decode && wanted {
            let nanos = u64::try_from(report.computed.as_nanos()).unwrap_or(u64::MAX);
            self.tokens
                .fetch_add(report.tokens as u64, Ordering::Relaxed);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

/// As the workers want it.
pub(super) fn observer(decoded: &Arc<Decoded>) -> Arc<dyn BatchObserver> {
    Arc::clone(decoded) as Arc<dyn BatchObserver>
}
