//! `colony.v1.Cluster`.

use colony_proto::v1::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{status_to_wire, verification_to_wire},
    status,
};
use crate::{Health, Problem};

#[tonic::async_trait]
impl Cluster for GrpcServer {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let failed = match &*self.node.health().borrow() {
            Health::Failed(reason) => Some(reason.clone()),
            Health::Starting | Health::Serving | Health::Draining => None,
        };
        match (self.node.status().await, failed) {
            (Ok(status), failed) => {
                let models = self.node.models();
                Ok(Response::new(status_to_wire(&status, &models, failed)))
            }
            // What has failed may be what would have answered.
            (Err(_), Some(reason)) => Err(Problem::Failed { reason }.into()),
            (Err(problem), None) => Err(problem.into()),
        }
    }

    async fn verify_ledger(
        &self,
        _: Request<v1::VerifyLedgerRequest>,
    ) -> Result<Response<v1::VerifyLedgerResponse>, Status> {
        let _permit = self
            .verifications
            .try_acquire()
            .map_err(|_| status::crowded("verifications run", 1))?;
        let found = self.node.verify().await?;
        Ok(Response::new(verification_to_wire(found)))
    }
}
