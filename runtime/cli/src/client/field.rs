//! `colony field`: the trails.

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
            let trails = node.open(node.field().sense(node.ask(ask)).await)?.trails;
            let rows = trails.iter().map(|trail| {
                let cells = vec![
                    format!("{:.3}", trail.strength),
                    view::signal(trail.signal).to_owned(),
                    cell(&trail.location),
                    cell(&trail.subject),
                ];
                (view::trail(trail), cells)
            });
            out.results(
                &["strength", "signal", "location", "subject"],
                rows,
                "no trails here",
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
