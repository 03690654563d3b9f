//! Who is next: by priority, then tenants in turn, then by arrival.

use std::{cmp::Reverse, collections::BTreeMap};

use colony_core::id::Tenant;

use super::intake::Ticket;

/// Remembers how often each tenant with waiting requests was served, so that a tenant with a
/// thousand requests delays another one's single request by one turn and not by a thousand.
#[derive(Debug, Default)]
pub(super) struct Turns {
    served: BTreeMap<Tenant, usize>,
}

impl Turns {
    /// The numbers of `tickets` (which stand in order of arrival) in the order in which they
    /// should be served.
    pub(super) fn order<'a>(
        &mut self,
        tickets: impl Iterator<Item = &'a Ticket> + Clone,
    ) -> Vec<usize> {
        // A tenant that returns starts level with the one served least: no credit for absence.
        let present: BTreeMap<&Tenant, ()> = tickets.clone().map(|it| (&it.tenant, ())).collect();
        self.served.retain(|tenant, _| present.contains_key(tenant));
        let least = self.served.values().min().copied().unwrap_or(0);
        let mut turns: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for tenant in present.keys() {
            turns.insert(
                tenant,
                *self.served.entry((*tenant).clone()).or_insert(least),
            );
        }
        let mut keys: Vec<_> = tickets
            .enumerate()
            .map(|(number, ticket)| {
                let turn = turns
                    .get_mut(&ticket.tenant)
                    .expect("every tenant was entered above");
                *turn += 1;
                (Reverse(ticket.priority), *turn, number)
            })
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, _, number)| number).collect()
    }

    /// Notes that one of `tenant`'s requests was taken.
    pub(super) fn took(&mut self, tenant: &Tenant) {
        if let Some(served) = self.served.get_mut(tenant) {
            *served += 1;
        }
    }
}
