//! A decoder driven by bare `ort` calls: what an engine does, without its scheduling.

use std::borrow::Cow;
use std::path::Path;

use colony_inference::manifest::Decoder;
use colony_inference::{ModelManifest, onnx_runtime};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

pub(crate) struct Ort {
    pub(crate) session: Session,
    pub(crate) facts: Decoder,
}

/// The answer of one call.
pub(crate) struct Step {
    /// Per row, one number a token of the vocabulary.
    pub(crate) logits: Vec<Vec<f32>>,
    pub(crate) cache: Cache,
}

/// Keys and values: [layers × 2] tensors of [rows, kv_heads, width, head_dim].
#[derive(Default)]
pub(crate) struct Cache {
    tensors: Vec<DynValue>,
    pub(crate) width: usize,
}

impl Ort {
    pub(crate) fn load(library: &Path, model_dir: &Path) -> Self {
        let environment = onnx_runtime(library).expect("runtime");
        let manifest = ModelManifest::load(model_dir).expect("manifest");
        let session = Session::builder(&environment)
            .expect("builder")
            .with_intra_threads(2)
            .expect("threads")
            .commit_from_file(model_dir.join("model.onnx"))
            .expect("model loads");
        Self {
            session,
            facts: manifest.decoder().expect("decoder").clone(),
        }
    }

    /// One call; `tokens` must have equal lengths (pad right), `valid` counts old and new ones.
    pub(crate) fn call(&mut self, tokens: &[Vec<u32>], valid: &[usize], past: Cache) -> Step {
        let (rows, new) = (tokens.len(), tokens[0].len());
        let width = past.width + new;
        let ids: Vec<i64> = tokens.iter().flatten().map(|id| i64::from(*id)).collect();
        let at = |valid: usize| (0..width).map(move |at| i64::from(at < valid));
        let mask: Vec<i64> = valid.iter().flat_map(|valid| at(*valid)).collect();
        let ids = Tensor::from_array(([rows, new], ids)).expect("ids");
        let mask = Tensor::from_array(([rows, width], mask)).expect("mask");
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            ("input_ids".into(), ids.into()),
            ("attention_mask".into(), mask.into()),
        ];
        let mut past = if past.width == 0 {
            self.empty(rows)
        } else {
            past
        }
        .tensors
        .into_iter();
        for name in self.names("past_key_values") {
            inputs.push((name.into(), past.next().expect("one a name").into()));
        }
        let names = self.names("present");
        let mut outputs = self.session.run(inputs).expect("the model runs");
        let (shape, logits) = outputs["logits"]
            .try_extract_tensor::<f32>()
            .expect("logits");
        let vocab = self.facts.vocab;
        assert_eq!(
            shape.as_ref(),
            [rows as i64, vocab as i64],
            "last positions only"
        );
        let logits = logits.chunks(vocab).map(<[f32]>::to_vec).collect();
        let present = names
            .iter()
            .map(|name| outputs.remove(name.as_str()).expect("output"));
        Step {
            logits,
            cache: Cache {
                tensors: present.collect(),
                width,
            },
        }
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let parts = |layer| ["key", "value"].map(|part| format!("{prefix}.{layer}.{part}"));
        (0..self.facts.layers).flat_map(parts).collect()
    }

    fn empty(&self, rows: usize) -> Cache {
        let shape = [rows, self.facts.kv_heads, 0, self.facts.head_dim];
        let tensor = || Tensor::<f32>::new(self.session.allocator(), shape).expect("empty");
        let tensors = (0..2 * self.facts.layers)
            .map(|_| tensor().into_dyn())
            .collect();
        Cache { tensors, width: 0 }
    }

    /// One-row caches as one cache, as wide as the widest; what is past a row's end is garbage.
    pub(crate) fn join(&self, caches: &[Cache]) -> Cache {
        const GARBAGE: f32 = 1e3;
        let width = caches
            .iter()
            .map(|cache| cache.width)
            .max()
            .expect("a cache");
        let (heads, head_dim) = (self.facts.kv_heads, self.facts.head_dim);
        let joined = |at: usize| {
            let mut values = Vec::with_capacity(caches.len() * heads * width * head_dim);
            for cache in caches {
                let (_, row) = cache.tensors[at]
                    .try_extract_tensor::<f32>()
                    .expect("floats");
                for head in row.chunks(cache.width * head_dim) {
                    values.extend_from_slice(head);
                    values.resize(values.len() + (width - cache.width) * head_dim, GARBAGE);
                }
            }
            let shape = [caches.len(), heads, width, head_dim];
            Tensor::from_array((shape, values))
                .expect("joined")
                .into_dyn()
        };
        Cache {
            tensors: (0..2 * self.facts.layers).map(joined).collect(),
            width,
        }
    }

    /// Greedy continuations of prompts that are prefilled and decoded together.
    pub(crate) fn greedy(&mut self, prompts: &[Vec<u32>], tokens_max: usize) -> Vec<Greedy> {
        let longest = prompts.iter().map(Vec::len).max().expect("a prompt");
        let mut valid: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let padded: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| {
                [
                    prompt.clone(),
                    vec![self.facts.pad_token; longest - prompt.len()],
                ]
                .concat()
            })
            .collect();
        let mut step = self.call(&padded, &valid, Cache::default());
        let mut answers: Vec<Greedy> = step
            .logits
            .iter()
            .map(|logits| Greedy {
                first_logits: logits.clone(),
                tokens: vec![],
            })
            .collect();
        loop {
            let next: Vec<u32> = step.logits.iter().map(|logits| argmax(logits)).collect();
            for (answer, next) in answers.iter_mut().zip(&next) {
                answer.tokens.push(*next);
            }
            if answers[0].tokens.len() == tokens_max {
                return answers;
            }
            valid.iter_mut().for_each(|valid| *valid += 1);
            let tokens: Vec<Vec<u32>> = next.into_iter().map(|id| vec![id]).collect();
            step = self.call(&tokens, &valid, step.cache);
        }
    }
}

pub(crate) struct Greedy {
    pub(crate) first_logits: Vec<f32>,
    pub(crate) tokens: Vec<u32>,
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    u32::try_from(best.expect("a vocabulary").0).expect("small")
}
