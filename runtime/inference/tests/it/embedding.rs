//! The embedding model behind its worker, against vectors that another program computed.

use std::sync::Arc;

use colony_core::{port::Clock, unit::Timestamp};
use colony_inference::{
    EmbedLimits, EmbedRequest, EmbedWorker, Embedder, Item, ModelStore, NoObserver, OrtEncoder,
};
use serde_json::Value;

use crate::fixture;

/// Time does not matter to these tests.
#[derive(Debug)]
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1)
    }
}

fn worker(store: &ModelStore) -> Arc<EmbedWorker> {
    let limits = EmbedLimits::default();
    let (store, threads) = (store.clone(), limits.threads);
    EmbedWorker::start(
        move || OrtEncoder::open(&store, "minilm", threads),
        &limits,
        Arc::new(StoppedClock),
        Arc::new(NoObserver),
    )
    .unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_agree_with_the_reference_and_do_not_depend_on_company() {
    let Some(reference) = fixture::reference("minilm.json") else {
        return;
    };
    let Some(store) = fixture::store_with(&[Item::Runtime, Item::Minilm]) else {
        return;
    };
    let worker = worker(&store);
    let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(reference["token_ids"].clone()).unwrap();
    let mut solo = Vec::new();
    for text in &texts {
        solo.push(
            worker
                .embed(EmbedRequest::new(text.as_str()))
                .await
                .unwrap(),
        );
    }
    let heads: Vec<Vec<f32>> =
        serde_json::from_value(reference["embedding_first16"].clone()).unwrap();
    for (row, answer) in solo.iter().enumerate() {
        assert_eq!(
            answer.tokens as usize,
            ids[row].len(),
            "tokens of {:?}",
            texts[row]
        );
        assert!((cosine(&answer.vector, &answer.vector) - 1.0).abs() < 1e-5);
        let head = cosine(&answer.vector[..16], &heads[row]);
        assert!(
            head >= 0.97,
            "first numbers of {:?}: cosine {head}",
            texts[row]
        );
        for (column, other) in solo.iter().enumerate() {
            let expected = matrix(&reference, row, column);
            let found = cosine(&answer.vector, &other.vector);
            assert!(
                (found - expected).abs() < 0.03,
                "{row}, {column}: {found} for {expected}"
            );
        }
    }
    let together: Vec<_> = texts
        .iter()
        .map(|text| {
            let (worker, text) = (Arc::clone(&worker), text.clone());
            tokio::runtime::Handle::current()
                .spawn(async move { worker.embed(EmbedRequest::new(text)).await })
        })
        .collect();
    for (task, solo) in together.into_iter().zip(&solo) {
        let batched = task.await.unwrap().unwrap();
        let far = batched.vector.iter().zip(solo.vector.iter());
        let far = far.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(
            far < 1e-4,
            "a number moved by {far} in a batch of {}",
            batched.stats.batch_size
        );
    }
    let seen = worker.observe();
    assert_eq!((seen.answered, seen.waiting), (14, 0));
}

fn matrix(reference: &Value, row: usize, column: usize) -> f32 {
    serde_json::from_value(reference["cosine_matrix"][row][column].clone()).unwrap()
}
