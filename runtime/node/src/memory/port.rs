//! Memory as agents see it.

use async_trait::async_trait;
use colony_agents::{Call, PortError, Recollect};
use colony_core::cycle::{Percept, Recall};

use super::{Memory, TeachError};

/// Memory behind the port of one node.
#[derive(Debug, Clone)]
pub(crate) struct MemoryPort(pub(crate) Memory);

#[async_trait]
impl Recollect for MemoryPort {
    async fn recall(&self, percept: &Percept, call: &Call) -> Result<Recall, PortError> {
        Ok(self.0.recall(&call.tenant, &call.agent_type, percept))
    }

    async fn teach(&self, percept: &Percept, label: &str, call: &Call) -> Result<(), PortError> {
        let taught = self
            .0
            .teach(&call.tenant, &call.agent_type, call.task, percept, label)
            .await;
        taught.map_err(|error| {
            let what = error.to_string();
            match error {
                TeachError::Ledger(error) if error.is_retryable() => PortError::Busy {
                    port: "memory",
                    what,
                },
                TeachError::NoVector | TeachError::WrongLength { .. } | TeachError::Ledger(_) => {
                    PortError::Refused {
                        port: "memory",
                        what,
                    }
                }
            }
        })
    }
}
