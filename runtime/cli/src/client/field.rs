//! `colony field`: the pheromones.

use colony_proto::v1::{SenseRequest, SignalType};

use super::{Node, view};
use crate::{
    args::{FieldCommand, Signal},
    errors::Failure,
    output::{Output, cell},
};

pub(crate) async fn run(node: &Node, command: FieldCommand, out: Output) -> Result<(), Failure> {
    match command {
        FieldCommand::Sense {
            location,
            signal,
            tenant,
            limit,
        } => {
            let ask = SenseRequest {
                tenant: tenant.unwrap_or_default(),
                location_prefix: location.unwrap_or_default(),
                signal: signal.map_or(SignalType::Unspecified, wire_signal).into(),
                limit,
            };
            let pheromones = node
                .open(node.field().sense(node.ask(ask)).await)?
                .pheromones;
            let rows = pheromones.iter().map(|pheromone| {
                let cells = vec![
                    format!("{:.3}", pheromone.strength),
                    view::signal(pheromone.signal).to_owned(),
                    cell(&pheromone.location),
                    cell(&pheromone.subject),
                ];
                (view::pheromone(pheromone), cells)
            });
            out.results(
                &["strength", "signal", "location", "subject"],
                rows,
                "no pheromones here",
            )
        }
    }
}

fn wire_signal(signal: Signal) -> SignalType {
    match signal {
        Signal::Task => SignalType::Task,
        Signal::Resource => SignalType::Resource,
        Signal::Danger => SignalType::Danger,
        Signal::Success => SignalType::Success,
        Signal::Capability => SignalType::Capability,
        Signal::LoadBalancing => SignalType::LoadBalancing,
        Signal::Coordination => SignalType::Coordination,
    }
}
