//! `colony.v1.Field`.

use colony_core::field::Location;
use colony_proto::v1::{self, field_server::Field};
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{parse_page_size, parse_signal, parse_tenant, pheromone_to_wire},
    status,
};

#[tonic::async_trait]
impl Field for GrpcServer {
    async fn sense(
        &self,
        request: Request<v1::SenseRequest>,
    ) -> Result<Response<v1::SenseResponse>, Status> {
        let request = request.into_inner();
        let tenant = parse_tenant(&request.tenant, "tenant")?;
        let wanted = parse_signal(request.signal)?;
        let locations = match request.location_prefix.as_str() {
            "" => {
                let types = self.node.types().iter();
                types
                    .filter_map(|t| Location::new(t.name.as_str()).ok())
                    .collect()
            }
            text => {
                let location = Location::new(text);
                vec![location.map_err(|error| status::argument("location_prefix", &error))?]
            }
        };
        let mut found: Vec<_> = locations
            .iter()
            .flat_map(|location| self.node.sense_within(&tenant, location))
            .filter(|(cell, _)| wanted.is_none_or(|signal| cell.signal == signal))
            .collect();
        // Strongest first; equal ones in the order of the cells, each once.
        found.sort_by(|a, b| b.1.get().total_cmp(&a.1.get()).then_with(|| a.0.cmp(&b.0)));
        found.dedup_by(|a, b| a.0 == b.0);
        found.truncate(parse_page_size(request.limit) as usize);
        let pheromones = found
            .iter()
            .map(|(cell, strength)| pheromone_to_wire(cell, *strength));
        Ok(Response::new(v1::SenseResponse {
            pheromones: pheromones.collect(),
        }))
    }
}
