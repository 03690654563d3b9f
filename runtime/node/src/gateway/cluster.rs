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
        let health = self.node.health().borrow().clone();
        match (self.node.status().await, health) {
            (Ok(status), health) => {
                let models = self.node.models();
                Ok(Response::new(status_to_wire(&status, &models, health)))
            }
            // What has failed may be what would have answered.
            (Err(_), Health::Failed(reason)) => Err(Problem::Failed { reason }.into()),
            (Err(problem), _) => Err(problem.into()),
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
