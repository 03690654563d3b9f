//! A decoder driven by bare `ort` calls: what an engine does, without its scheduling.

use std::borrow::Cow;
use std::path::Path;

use colony_inference::manifest::Decoder;
use colony_inference::{ModelManifest, onnx_runtime};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;

/// The keys and values of one row, [layers × 2] each [kv_heads, length, head_dim].
pub(crate) type RowCache = Vec<Vec<f32>>;

pub(crate) struct Ort {
    pub(crate) session: Session,
    pub(crate) facts: Decoder,
}

/// The answer of one call.
pub(crate) struct Step {
    /// Per row, one number a token of the vocabulary.
    pub(crate) logits: Vec<Vec<f32>>,
    /// [layers × 2] each [rows, kv_heads, width, head_dim].
    pub(crate) present: Vec<Vec<f32>>,
    /// Positions in `present`.
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
        Self { session, facts: manifest.decoder().expect("decoder").clone() }
    }

    /// One call; `tokens` must have equal lengths (pad right), `valid` counts old and new ones.
    pub(crate) fn call(
        &mut self,
        tokens: &[Vec<u32>],
        valid: &[usize],
        past: Vec<Vec<f32>>,
        past_width: usize,
    ) -> Step {
        let (rows, new) = (tokens.len(), tokens[0].len());
        let width = past_width + new;
        let Decoder { layers, kv_heads, head_dim, .. } = self.facts;
        let ids: Vec<i64> = tokens.iter().flatten().map(|id| i64::from(*id)).collect();
        let mask: Vec<i64> = valid
            .iter()
            .flat_map(|valid| (0..width).map(move |at| i64::from(at < *valid)))
            .collect();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            ("input_ids".into(), Tensor::from_array(([rows, new], ids)).expect("ids").into()),
            ("attention_mask".into(), Tensor::from_array(([rows, width], mask)).expect("mask").into()),
        ];
        let mut past = past.into_iter();
        for layer in 0..layers {
            for part in ["key", "value"] {
                let shape = [rows, kv_heads, past_width, head_dim];
                let tensor = if past_width == 0 {
                    Tensor::<f32>::new(self.session.allocator(), shape).expect("empty")
                } else {
                    Tensor::from_array((shape, past.next().expect("past"))).expect("past")
                };
                inputs.push((format!("past_key_values.{layer}.{part}").into(), tensor.into()));
            }
        }
        let outputs = self.session.run(inputs).expect("the model runs");
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().expect("logits");
        let vocab = self.facts.vocab;
        assert_eq!(shape.as_ref(), [rows as i64, vocab as i64], "last positions only");
        let logits = logits.chunks(vocab).map(<[f32]>::to_vec).collect();
        let mut present = Vec::new();
        for layer in 0..layers {
            for part in ["key", "value"] {
                let name = format!("present.{layer}.{part}");
                let (shape, values) = outputs[name.as_str()].try_extract_tensor::<f32>().expect("kv");
                assert_eq!(shape[2], width as i64, "{name}");
                present.push(values.to_vec());
            }
        }
        Step { logits, present, width }
    }

    /// Greedy continuations of prompts that are prefilled and decoded together.
    pub(crate) fn greedy(&mut self, prompts: &[Vec<u32>], tokens_max: usize) -> Vec<Greedy> {
        let longest = prompts.iter().map(Vec::len).max().expect("a prompt");
        let mut valid: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let padded: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| [prompt.clone(), vec![self.facts.pad_token; longest - prompt.len()]].concat())
            .collect();
        let mut step = self.call(&padded, &valid, vec![], 0);
        let mut answers: Vec<Greedy> = step
            .logits
            .iter()
            .map(|logits| Greedy { first_logits: logits.clone(), tokens: vec![] })
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
            step = self.call(&tokens, &valid, step.present, step.width);
        }
    }
}

pub(crate) struct Greedy {
    pub(crate) first_logits: Vec<f32>,
    pub(crate) tokens: Vec<u32>,
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    u32::try_from(best.expect("a vocabulary").0).expect("small")
}
