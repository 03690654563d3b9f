//! `colony model list` and `test`: the models of a running node.

use colony_proto::v1::{ListModelsRequest, TestModelRequest};
use serde_json::json;

use super::{Node, view};
use crate::{
    errors::Failure,
    output::{Output, clean, sheet},
};

pub(crate) async fn list(node: &Node, out: Output) -> Result<(), Failure> {
    let answer = node.models().list(node.ask(ListModelsRequest {})).await;
    let models = node.open(answer)?.models;
    let rows = models
        .iter()
        .map(|model| (view::model(model), view::model_row(model)));
    out.results(&view::MODEL_HEADER, rows, "the node has no models")
}

pub(crate) async fn test(
    node: &Node,
    model: String,
    text: String,
    out: Output,
) -> Result<(), Failure> {
    let ask = TestModelRequest {
        model: model.clone(),
        text,
    };
    let answer = node.open(node.models().test(node.ask(ask)).await)?;
    let said = json!({
        "model": model,
        "elapsed_ms": answer.elapsed_ms,
        "size": answer.size,
        "preview": answer.preview,
    });
    out.result(&said, || {
        sheet([
            ("model", clean(&model)),
            ("took", format!("{:.1} ms", answer.elapsed_ms)),
            ("size", answer.size.to_string()),
            ("begins", clean(&answer.preview)),
        ])
    })
}
