//! Properties of pulled and imported models.

use colony_inference::import::import;
use colony_inference::manifest::Precision;
use serde_json::Value;

use crate::decoder::Ort;
use crate::fixture;

fn ids(row: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(row[key].clone()).expect("token ids")
}

#[test]
fn an_fp32_import_gives_the_reference_tokens_and_logits() {
    let Some(reference) = fixture::reference("smollm2.json") else { return };
    let home = fixture::home();
    let gguf = home.sources_dir().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let dir = tempfile::tempdir().expect("temporary folder");
    let out = dir.path().join("smollm2-fp32");
    let t = std::time::Instant::now();
    import(&gguf, &out, Precision::Fp32, &mut |_| {}).expect("imported");
    println!("import fp32 {:?}", t.elapsed());
    let mut model = Ort::load(&home.runtime_library(), &out);
    let rows = reference["rows"].as_array().expect("rows");
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "prompt_ids")).collect();
    let together = model.greedy(&prompts, 32);
    for ((row, prompt), batched) in rows.iter().zip(&prompts).zip(&together) {
        let solo = model.greedy(std::slice::from_ref(prompt), 32).remove(0);
        let wanted = ids(row, "greedy_32");
        assert_eq!(solo.tokens[..wanted.len()], wanted, "{row}");
        assert_eq!(solo.tokens, batched.tokens, "batched equals solo");
        for pair in row["top8_last_logits"].as_array().expect("pairs") {
            let at = usize::try_from(pair[0].as_u64().expect("id")).expect("small");
            let difference = f64::from(solo.first_logits[at]) - pair[1].as_f64().expect("logit");
            assert!(difference.abs() < 1e-2, "token {at}: off by {difference}");
        }
    }
    let t = std::time::Instant::now();
    let r=import(&gguf, &dir.path().join("i8"), Precision::Int8, &mut |_| {}).expect("imported");
    println!("import int8 {:?} {}", t.elapsed(), r.bytes);
    let mut model = Ort::load(&home.runtime_library(), &dir.path().join("i8"));
    let q = model.greedy(&prompts, 32);
    for (a,b) in q.iter().zip(&together) { println!("{:?}\n{:?}", a.tokens, b.tokens); }
}
