//! What the importer and the puller say to files that are not as they should be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use colony_inference::catalog::Item;
use colony_inference::import::{ImportError, import};
use colony_inference::manifest::Precision;
use colony_inference::pull::{FileState, is_ready, pull, verify};
use colony_inference::{ModelManifest, ModelStore, Network, PullError};

use crate::decoder::{Cache, Ort};
use crate::fixture;

const VOCAB: u32 = 48;
const HIDDEN: u32 = 64;

/// A whole GGUF model of one layer, to be spoiled one thing at a time.
struct Tiny {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Vec<u32>>,
    poison: Option<f32>,
}

impl Tiny {
    fn new() -> Self {
        let text = |text: &str| Value::String(text.to_owned());
        let tokens: Vec<Value> = (0..VOCAB)
            .map(|id| text(&char::from_u32(0x30 + id).unwrap().to_string()))
            .collect();
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(128)),
            ("llama.embedding_length", Value::U32(HIDDEN)),
            ("llama.feed_forward_length", Value::U32(96)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.head_count_kv", Value::U32(2)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("llama.rope.dimension_count", Value::U32(16)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            (
                "tokenizer.ggml.token_type",
                Value::Array(vec![Value::I32(1); VOCAB as usize]),
            ),
            ("tokenizer.ggml.tokens", Value::Array(tokens)),
            ("tokenizer.ggml.merges", Value::Array(vec![])),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ];
        let tensors = [
            ("token_embd.weight", vec![VOCAB, HIDDEN]),
            ("output.weight", vec![VOCAB, HIDDEN]),
            ("output_norm.weight", vec![HIDDEN]),
            ("blk.0.attn_norm.weight", vec![HIDDEN]),
            ("blk.0.attn_q.weight", vec![HIDDEN, HIDDEN]),
            ("blk.0.attn_k.weight", vec![32, HIDDEN]),
            ("blk.0.attn_v.weight", vec![32, HIDDEN]),
            ("blk.0.attn_output.weight", vec![HIDDEN, HIDDEN]),
            ("blk.0.ffn_norm.weight", vec![HIDDEN]),
            ("blk.0.ffn_gate.weight", vec![96, HIDDEN]),
            ("blk.0.ffn_up.weight", vec![96, HIDDEN]),
            ("blk.0.ffn_down.weight", vec![HIDDEN, 96]),
        ];
        Self {
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            tensors: tensors.map(|(name, dims)| (name.to_owned(), dims)).into(),
            poison: None,
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("tiny.gguf");
        let quantised = |name: &String, dims: &Vec<u32>| {
            let dims: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
            let count: usize = dims.iter().product();
            let mut values: Vec<f32> = (0..count)
                .map(|at| ((at * 7919 + name.len()) % 97) as f32 / 97.0 - 0.5)
                .collect();
            if let Some(poison) = self.poison {
                values[5] = poison;
            }
            let tensor = Tensor::from_vec(values, dims.as_slice(), &Device::Cpu).unwrap();
            QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
        };
        let tensors: BTreeMap<&String, QTensor> = self
            .tensors
            .iter()
            .map(|(name, dims)| (name, quantised(name, dims)))
            .collect();
        let metadata: Vec<(&str, &Value)> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<(&str, &QTensor)> = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        gguf_file::write(&mut fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
        path
    }

    fn refusal(&self) -> String {
        let dir = tempfile::tempdir().unwrap();
        refusal(&self.write(dir.path()))
    }
}

/// The importer's words about a file; and nothing may be left of the attempt.
fn refusal(gguf: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error =
        import(gguf, &dir.path().join("out"), Precision::Int8, &mut |_| {}).expect_err("refused");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "left behind after: {error}"
    );
    error.to_string()
}

#[test]
fn a_model_with_its_own_output_layer_imports_and_runs_in_both_precisions() {
    let Some(store) = fixture::store_with(&[Item::Runtime]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let gguf = Tiny::new().write(dir.path());
    let logits = [Precision::Fp32, Precision::Int8].map(|precision| {
        let out = dir.path().join(format!("{precision:?}"));
        import(&gguf, &out, precision, &mut |_| {}).expect("imported");
        let mut model = Ort::load(&store.runtime_library(), &out);
        let step = model.call(&[vec![1, 2, 3], vec![4, 4, 0]], &[3, 2], Cache::default());
        let alone = model.call(&[vec![4, 4]], &[2], Cache::default());
        assert_eq!(step.logits[1], alone.logits[0], "padding is not seen");
        step.logits
    });
    let pairs = logits[0].iter().flatten().zip(logits[1].iter().flatten());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 0.25, "8-bit logits are off by {worst}");
}

#[test]
fn a_second_import_replaces_the_first_and_a_failed_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (gguf, out) = (Tiny::new().write(dir.path()), dir.path().join("model"));
    // What a killed import leaves behind; no process has this number.
    let leftover = dir.path().join(".model.partial-99999999");
    fs::create_dir(&leftover).unwrap();
    import(&gguf, &out, Precision::Fp32, &mut |_| {}).expect("imported");
    assert!(!leftover.exists());
    import(&gguf, &out, Precision::Int8, &mut |_| {}).expect("imported again");
    let spoiled = Tiny::new()
        .with("llama.rope.freq_base", Value::F32(f32::NAN))
        .write(dir.path());
    import(&spoiled, &out, Precision::Fp32, &mut |_| {}).expect_err("refused");
    let manifest = ModelManifest::load(&out).expect("still there");
    assert_eq!(manifest.decoder().unwrap().precision, Precision::Int8);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let text = |text: &str| Value::String(text.to_owned());
    let cases = [
        (
            Tiny::new().with("general.architecture", text("mamba")),
            "architecture \"mamba\" is not supported, only \"llama\"",
        ),
        (
            Tiny::new().with("tokenizer.ggml.pre", text("llama-bpe")),
            "tokenizer \"gpt2\" with splitting \"llama-bpe\" is not supported, only \"gpt2\" with \"smollm\"",
        ),
        (
            Tiny::new().with("llama.rope.scaling.type", text("linear")),
            "rope scaling \"linear\" is not supported, only \"none\"",
        ),
        (
            Tiny::new().with("llama.rope.dimension_count", Value::U32(8)),
            "unsupported dimensions: rotary width 8 must be the head width 16, a multiple of 8",
        ),
        (
            Tiny::new().with("llama.feed_forward_length", Value::U32(90)),
            "unsupported dimensions: widths 64 and 90 must be multiples of the block of 32 weights",
        ),
        (
            Tiny::new().with("llama.block_count", Value::U32(4_000_000_000)),
            "metadata key llama.block_count holds U32(4000000000)",
        ),
        (
            Tiny::new().with("llama.context_length", text("long")),
            "metadata key llama.context_length holds String(\"long\")",
        ),
        (
            Tiny::new().with("tokenizer.ggml.eos_token_id", Value::U32(48)),
            "metadata key tokenizer.ggml.eos_token_id holds U32(48)",
        ),
        (
            Tiny::new().with(
                "tokenizer.ggml.tokens",
                Value::Array(vec![text("a"), text("a")]),
            ),
            "tensor token_embd.weight has shape [48, 64], expected [2, 64]",
        ),
    ];
    for (tiny, wanted) in cases {
        assert_eq!(tiny.refusal(), wanted);
    }
}

#[test]
fn missing_strange_and_damaged_tensors_are_refused_by_name() {
    let mut tiny = Tiny::new();
    tiny.tensors.remove("blk.0.ffn_up.weight");
    assert_eq!(tiny.refusal(), "tensor blk.0.ffn_up.weight is missing");

    let mut tiny = Tiny::new();
    tiny.tensors
        .insert("blk.0.attn_q.bias".to_owned(), vec![HIDDEN]);
    assert_eq!(
        tiny.refusal(),
        "tensor blk.0.attn_q.bias has no place in this architecture"
    );

    let tiny = Tiny {
        poison: Some(f32::INFINITY),
        ..Tiny::new()
    };
    let words = "tensor token_embd.weight holds a value that is not finite, at index 5";
    assert_eq!(tiny.refusal(), words);

    let mut tiny = Tiny::new();
    tiny.metadata.remove("llama.rope.freq_base");
    assert_eq!(
        tiny.refusal(),
        "metadata key llama.rope.freq_base is missing"
    );
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_cut_or_bent() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = Tiny::new().write(dir.path());
    let whole = fs::read(&gguf).unwrap();
    let spoiled = dir.path().join("spoiled.gguf");

    fs::write(&spoiled, &whole[..whole.len() - 64]).unwrap();
    let out = dir.path().join("out");
    let error = import(&spoiled, &out, Precision::Int8, &mut |_| {}).expect_err("truncated");
    assert!(matches!(error, ImportError::Truncated { .. }), "{error}");

    for cut in [0, 3, 4, 20, 100, 1000] {
        fs::write(&spoiled, &whole[..cut]).unwrap();
        assert!(
            refusal(&spoiled).ends_with("is not a readable GGUF file"),
            "cut at {cut}"
        );
    }
    let zero_alignment = Tiny::new()
        .with("general.alignment", Value::U32(0))
        .write(dir.path());
    assert!(refusal(&zero_alignment).ends_with("is not a readable GGUF file"));
    assert!(refusal(&dir.path().join("none.gguf")).starts_with("cannot read "));
    // A bent byte anywhere in the header must not panic, whatever it means.
    for at in (0..2000).step_by(7) {
        let mut bent = whole.clone();
        bent[at] ^= 0x81;
        fs::write(&spoiled, &bent).unwrap();
        let _ = import(&spoiled, &out, Precision::Int8, &mut |_| {});
    }
}

#[test]
fn a_damaged_library_is_found_by_hashing_and_not_used_again() {
    let Some(shared) = fixture::store_with(&[Item::Runtime]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    let library = store.runtime_library();
    fs::create_dir_all(store.runtime_dir()).unwrap();
    fs::copy(shared.runtime_library(), &library).unwrap();
    assert!(
        !is_ready(&store, Item::Runtime),
        "nothing is trusted before it was hashed"
    );

    let offline = || pull(&store, &[Item::Runtime], Network::Forbidden, &mut |_| {});
    assert_eq!(offline().expect("adopted by its hash").fetched_bytes, 0);
    assert!(is_ready(&store, Item::Runtime));

    let mut bytes = fs::read(&library).unwrap();
    bytes[1000] ^= 1;
    fs::write(&library, bytes).unwrap();
    let checks = verify(&store, &[Item::Runtime]).expect("hashed");
    assert!(
        matches!(checks[0].state, FileState::Damaged { .. }),
        "{checks:?}"
    );
    assert!(!is_ready(&store, Item::Runtime));
    let error = offline().expect_err("would have to fetch");
    assert!(matches!(error, PullError::Offline { .. }));
    assert_eq!(
        error.to_string(),
        "COLONY_OFFLINE is set and package onnxruntime 1.31.1 is not here yet"
    );
}
