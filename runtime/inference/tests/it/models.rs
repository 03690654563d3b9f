//! Properties of pulled and imported models, held against what other programs computed.

use std::fs;

use colony_inference::import::import;
use colony_inference::manifest::Precision;
use colony_inference::{ChatMessage, ModelManifest, PromptEnd};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::decoder::{Cache, Ort, argmax};
use crate::fixture;

/// Prose, lists, code and numbers: 2,000 tokens and a few more.
const AGREEMENT_TEXT: &str = include_str!("fixtures/agreement.txt");

fn ids(row: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(row[key].clone()).expect("token ids")
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer
        .encode(text, false)
        .expect("any text has tokens")
        .get_ids()
        .to_vec()
}

#[test]
fn token_ids_and_chat_prompts_equal_the_reference() {
    let Some(reference) = fixture::reference("smollm2.json") else {
        return;
    };
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let dir = store.model_dir("smollm2");
    let manifest = ModelManifest::load(&dir).expect("manifest");
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).expect("tokenizer");
    let rows = reference["rows"].as_array().expect("rows");
    for row in rows {
        let text = match row["text"].as_str() {
            Some(text) => text.to_owned(),
            None => {
                let messages: Vec<ChatMessage> =
                    serde_json::from_value(row["messages"].clone()).expect("messages");
                let prompt = manifest
                    .render_chat(&messages, PromptEnd::OpensAnswer)
                    .expect("rendered");
                assert_eq!(prompt, row["rendered"].as_str().expect("rendered"));
                prompt
            }
        };
        assert_eq!(
            encode(&tokenizer, &text),
            ids(row, "prompt_ids"),
            "{text:?}"
        );
        let tokens = encode(&tokenizer, &text);
        assert_eq!(tokenizer.decode(&tokens, false).expect("decoded"), text);
    }
    assert_eq!(
        u64::from(manifest.decoder().expect("decoder").eos_tokens[0]),
        reference["eos"].as_u64().expect("eos")
    );
}

#[test]
fn digits_are_tokens_of_their_own_in_any_script() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let path = store.model_dir("smollm2").join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(path).expect("tokenizer");
    // Byte-level splitting alone keeps the two spaces together here.
    assert_ne!(encode(&tokenizer, "a  1  22"), encode(&tokenizer, "a 1 22"));
    assert_eq!(encode(&tokenizer, "2026").len(), 4);
    for text in [
        "٣٤٥ ½ ² 12a34",
        "x=10;\n\n\t y = 200",
        "",
        "\u{0}\u{FEFF}\u{202E}",
        "🐜🐜",
    ] {
        let tokens = encode(&tokenizer, text);
        assert_eq!(tokenizer.decode(&tokens, false).expect("decoded"), text);
    }
}

#[test]
fn an_fp32_import_gives_the_reference_tokens_and_the_8_bit_one_agrees() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary folder");
    let fp32_dir = dir.path().join("smollm2-fp32");
    import(
        &fixture::smollm2_gguf(&store),
        &fp32_dir,
        Precision::Fp32,
        &mut |_| {},
    )
    .expect("imported");
    let mut fp32 = Ort::load(&store.runtime_library(), &fp32_dir);
    if let Some(reference) = fixture::reference("smollm2.json") {
        equals_reference(&mut fp32, &reference);
    }

    let tokenizer = Tokenizer::from_file(fp32_dir.join("tokenizer.json")).expect("tokenizer");
    let tokens = encode(&tokenizer, AGREEMENT_TEXT);
    assert!(
        tokens.len() >= 2000,
        "the fixed text has {} tokens",
        tokens.len()
    );
    let wanted = teacher_forced(&mut fp32, &tokens[..2000]);
    drop(fp32);
    let mut int8 = Ort::load(&store.runtime_library(), &store.model_dir("smollm2"));
    let found = teacher_forced(&mut int8, &tokens[..2000]);
    let same = wanted.iter().zip(&found).filter(|(a, b)| a == b).count();
    assert_eq!(wanted.len(), 2000);
    assert!(
        same >= 1860,
        "{same} of 2000 tokens agree, the floor is 0.93"
    );
}

fn equals_reference(model: &mut Ort, reference: &Value) {
    let rows = reference["rows"].as_array().expect("rows");
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "prompt_ids")).collect();
    // All rows in one batch: equal to a reference computed one by one, padding or not.
    let answers = model.greedy(&prompts, 32);
    for (row, answer) in rows.iter().zip(&answers) {
        let wanted = ids(row, "greedy_32");
        assert_eq!(answer.tokens[..wanted.len()], wanted, "{row}");
        for pair in row["top8_last_logits"].as_array().expect("pairs") {
            let at = usize::try_from(pair[0].as_u64().expect("id")).expect("small");
            let difference = f64::from(answer.first_logits[at]) - pair[1].as_f64().expect("logit");
            assert!(difference.abs() < 1e-2, "token {at}: off by {difference}");
        }
    }
}

/// The most likely next token at every position, in eight windows side by side.
fn teacher_forced(model: &mut Ort, tokens: &[u32]) -> Vec<u32> {
    let windows: Vec<&[u32]> = tokens.chunks(tokens.len() / 8).collect();
    let mut cache = Cache::default();
    let mut best = Vec::new();
    for at in 0..windows[0].len() {
        let next: Vec<Vec<u32>> = windows.iter().map(|window| vec![window[at]]).collect();
        let step = model.call(&next, &vec![at + 1; windows.len()], cache);
        best.extend(step.logits.iter().map(|logits| argmax(logits)));
        cache = step.cache;
    }
    best
}

#[test]
fn rows_of_different_length_joined_in_one_cache_decode_as_if_alone() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let dir = store.model_dir("smollm2");
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).expect("tokenizer");
    let mut model = Ort::load(&store.runtime_library(), &dir);
    let texts = [
        "The capital of France is",
        "Ants",
        "def fibonacci(n):\n    if n < 2:\n",
    ];
    let prompts = texts.map(|text| encode(&tokenizer, text));
    let solo: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| {
            model
                .greedy(std::slice::from_ref(prompt), 12)
                .remove(0)
                .tokens
        })
        .collect();

    let mut caches = Vec::new();
    let mut answers: Vec<Vec<u32>> = Vec::new();
    for prompt in &prompts {
        let step = model.call(
            std::slice::from_ref(prompt),
            &[prompt.len()],
            Cache::default(),
        );
        answers.push(vec![argmax(&step.logits[0])]);
        caches.push(step.cache);
    }
    let mut cache = model.join(&caches);
    for _ in 1..12 {
        let next: Vec<Vec<u32>> = answers
            .iter()
            .map(|answer| answer[answer.len() - 1..].to_vec())
            .collect();
        let valid: Vec<usize> = prompts
            .iter()
            .zip(&answers)
            .map(|(prompt, answer)| prompt.len() + answer.len())
            .collect();
        let step = model.call(&next, &valid, cache);
        for (answer, logits) in answers.iter_mut().zip(&step.logits) {
            answer.push(argmax(logits));
        }
        cache = step.cache;
    }
    assert_eq!(answers, solo);
}

#[test]
fn a_prompt_after_a_cached_prefix_continues_as_one_prompt() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let dir = store.model_dir("smollm2");
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).expect("tokenizer");
    let mut model = Ort::load(&store.runtime_library(), &dir);
    let tokens = encode(
        &tokenizer,
        "A ticket about a broken printer belongs to the group called",
    );
    let whole = model.call(
        std::slice::from_ref(&tokens),
        &[tokens.len()],
        Cache::default(),
    );
    let (prefix, rest) = tokens.split_at(7);
    let before = model.call(&[prefix.to_vec()], &[prefix.len()], Cache::default());
    let after = model.call(&[rest.to_vec()], &[tokens.len()], before.cache);
    assert_eq!(argmax(&whole.logits[0]), argmax(&after.logits[0]));
    let differences = whole.logits[0]
        .iter()
        .zip(&after.logits[0])
        .map(|(a, b)| (a - b).abs());
    assert!(differences.fold(0.0, f32::max) < 1e-2);
}

#[test]
fn the_8_bit_model_is_small() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let dir = store.model_dir("smollm2");
    let manifest = ModelManifest::load(&dir).expect("manifest");
    let on_disk = |name: &String| fs::metadata(dir.join(name)).expect("listed").len();
    let bytes: u64 = manifest.files.keys().map(on_disk).sum();
    assert_eq!(
        bytes,
        manifest.files.values().map(|file| file.bytes).sum::<u64>()
    );
    assert!(bytes <= 170_000_000, "{bytes} bytes");
}
