//! `colony.v1.Models`.

use colony_proto::v1::{self, models_server::Models};
use tonic::{Request, Response, Status};

use super::{Door, refuse};
use crate::view::ModelView;

/// Longest text to try a model with, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

#[tonic::async_trait]
impl Models for Door {
    async fn list(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.rooms.models().iter().map(model_out).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn test(
        &self,
        request: Request<v1::TestModelRequest>,
    ) -> Result<Response<v1::TestModelResponse>, Status> {
        let request = request.into_inner();
        if request.text.trim().is_empty() {
            return Err(refuse::argument("text", &"must not be blank"));
        }
        if request.text.len() > TEXT_BYTES_MAX {
            let why = format!(
                "{} bytes are more than {TEXT_BYTES_MAX} bytes",
                request.text.len()
            );
            return Err(refuse::argument("text", &why));
        }
        let test = self.rooms.workers.test(&request.model, &request.text).await;
        let test = test.map_err(|error| refuse::inference(&error))?;
        Ok(Response::new(v1::TestModelResponse {
            elapsed_ms: test.computed.as_secs_f64() * 1e3,
            size: test.tokens.into(),
            preview: test.preview,
        }))
    }
}

pub(super) fn model_out(model: &ModelView) -> v1::Model {
    let figures = &model.figures;
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let kind = match model.role {
        "embed" => v1::ModelKind::Embed,
        _ => v1::ModelKind::Generate,
    };
    v1::Model {
        name: model.name.clone(),
        kind: kind.into(),
        engine: model.engine.to_owned(),
        source: figures.model.clone(),
        dimensions: size(model.dimensions),
        context_tokens: size(model.tokens_max),
        requests: figures.requests,
        batches: figures.batches,
        rows: figures.rows,
        mean_batch: figures.mean_batch_size(),
        prompt_tokens: figures.prompt_tokens,
        completion_tokens: figures.completion_tokens,
    }
}
