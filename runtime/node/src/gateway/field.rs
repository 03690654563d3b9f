//! `colony.v1.Field`.

use colony_core::field::{Location, Signal};
use colony_proto::v1::{self, field_server::Field};
use tonic::{Request, Response, Status};

use super::{Door, page_size, refuse, tenant};

#[tonic::async_trait]
impl Field for Door {
    async fn sense(
        &self,
        request: Request<v1::SenseRequest>,
    ) -> Result<Response<v1::SenseResponse>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant, "tenant")?;
        let wanted = signal_in(request.signal)?;
        let places = match request.location_prefix.as_str() {
            "" => {
                let types = self.rooms.types.iter();
                types
                    .filter_map(|t| Location::new(t.name.as_str()).ok())
                    .collect()
            }
            text => {
                let place = Location::new(text);
                vec![place.map_err(|error| refuse::argument("location_prefix", &error))?]
            }
        };
        let mut found: Vec<_> = places
            .iter()
            .flat_map(|place| self.rooms.field.sense_within(&tenant, place))
            .filter(|(cell, _)| wanted.is_none_or(|signal| cell.signal == signal))
            .collect();
        // Strongest first; equal ones in the order of the cells, each once.
        found.sort_by(|a, b| b.1.get().total_cmp(&a.1.get()).then_with(|| a.0.cmp(&b.0)));
        found.dedup_by(|a, b| a.0 == b.0);
        found.truncate(page_size(request.limit) as usize);
        let trails = found.into_iter().map(|(cell, strength)| v1::Trail {
            location: cell.location.as_str().to_owned(),
            signal: signal_out(cell.signal).into(),
            subject: cell.subject.as_str().to_owned(),
            strength: strength.get(),
        });
        Ok(Response::new(v1::SenseResponse {
            trails: trails.collect(),
        }))
    }
}

fn signal_in(number: i32) -> Result<Option<Signal>, Status> {
    let unknown = || refuse::argument("signal", &"is one that this node does not know");
    Ok(
        match v1::SignalType::try_from(number).map_err(|_| unknown())? {
            v1::SignalType::Unspecified => None,
            v1::SignalType::Task => Some(Signal::Task),
            v1::SignalType::Resource => Some(Signal::Resource),
            v1::SignalType::Danger => Some(Signal::Danger),
            v1::SignalType::Success => Some(Signal::Success),
            v1::SignalType::Capability => Some(Signal::Capability),
            v1::SignalType::LoadBalancing => Some(Signal::LoadBalancing),
            v1::SignalType::Coordination => Some(Signal::Coordination),
        },
    )
}

const fn signal_out(signal: Signal) -> v1::SignalType {
    match signal {
        Signal::Task => v1::SignalType::Task,
        Signal::Resource => v1::SignalType::Resource,
        Signal::Danger => v1::SignalType::Danger,
        Signal::Success => v1::SignalType::Success,
        Signal::Capability => v1::SignalType::Capability,
        Signal::LoadBalancing => v1::SignalType::LoadBalancing,
        Signal::Coordination => v1::SignalType::Coordination,
    }
}
