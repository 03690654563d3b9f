//! `colony.v1.Models`.

use colony_proto::v1::{self, models_server::Models};
use tonic::{Request, Response, Status};

use super::{GrpcServer, convert::model_to_wire, status};

/// Longest text to try a model with, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

#[tonic::async_trait]
impl Models for GrpcServer {
    async fn list(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.node.models().iter().map(model_to_wire).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn test(
        &self,
        request: Request<v1::TestModelRequest>,
    ) -> Result<Response<v1::TestModelResponse>, Status> {
        let request = request.into_inner();
        if request.text.trim().is_empty() {
            return Err(status::argument("text", &"must not be blank"));
        }
        if request.text.len() > TEXT_BYTES_MAX {
            let why = format!(
                "{} bytes are more than {TEXT_BYTES_MAX} bytes",
                request.text.len()
            );
            return Err(status::argument("text", &why));
        }
        let test = self.node.test_model(&request.model, &request.text).await?;
        Ok(Response::new(v1::TestModelResponse {
            elapsed_ms: test.computed.as_secs_f64() * 1e3,
            size: test.tokens.into(),
            preview: test.preview,
        }))
    }
}
