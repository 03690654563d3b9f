//! Simpler workloads: what a failure may not need.

use super::{Client, Tasks, Workload, World};

impl Workload {
    /// Every workload that is one step simpler than this one, the boldest steps first. All are legal.
    pub(crate) fn simpler(&self) -> Vec<Self> {
        let mut simpler = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut workload = self.clone();
            change(&mut workload);
            workload.drop_unused();
            if workload != *self && workload.problem().is_none() {
                simpler.push(workload);
            }
        };
        with(&|w| w.faults.clear());
        for fault in &self.faults {
            with(&|w| w.faults = vec![*fault]);
        }
        for client in &self.clients {
            with(&|w| w.clients = vec![client.clone()]);
        }
        with(&|w| w.each_tasks(&|tasks| tasks.count = None));
        with(&|w| w.each_tasks(&|tasks| tasks.count = halved(tasks.count())));
        for place in 0..self.clients.len() {
            with(&|w| drop(w.clients.remove(place)));
        }
        for place in 0..self.faults.len() {
            with(&|w| {
                w.faults.remove(place);
            });
        }
        for (place, client) in self.clients.iter().enumerate() {
            for group in 0..client.tasks.len() {
                with(&|w| drop(w.clients[place].tasks.remove(group)));
            }
        }
        for (place, client) in self.clients.iter().enumerate() {
            with(&|w| w.clients[place].count = halved(client.count()));
            with(&|w| w.clients[place].tenant.clear());
            for (group, tasks) in client.tasks.iter().enumerate() {
                with(&|w| w.clients[place].tasks[group].count = None);
                with(&|w| w.clients[place].tasks[group].count = halved(tasks.count()));
                let less = tasks.count().saturating_sub(1).max(1);
                with(&|w| w.clients[place].tasks[group].count = Some(less));
                for plainer in plainer(tasks) {
                    with(&|w| w.clients[place].tasks[group] = plainer.clone());
                }
            }
        }
        for (name, agents) in &self.agents {
            let mut each = |change: &dyn Fn(&mut super::Agents)| {
                with(&|w| {
                    if let Some(agents) = w.agents.get_mut(name) {
                        change(agents);
                    }
                });
            };
            each(&|a| a.count = 1);
            each(&|a| a.count = agents.count.div_ceil(2));
            each(&|a| a.effects = 0);
            each(&|a| a.effects = agents.effects.min(1));
            each(&|a| a.posts = 0);
            each(&|a| a.step_ms = 0);
            each(&|a| a.turns = 0);
            each(&|a| a.sink = super::SinkKind::default());
            each(&|a| a.learns = false);
            each(&|a| a.learn_fails = false);
        }
        let plain = World::default();
        with(&|w| w.world = plain.clone());
        with(&|w| w.world.claim_max = plain.claim_max);
        with(&|w| w.world.attempts_max = plain.attempts_max);
        with(&|w| w.world.sleep_after_ms = plain.sleep_after_ms);
        with(&|w| w.world.episodes_max = plain.episodes_max);
        with(&|w| w.world.tenant_weights.clear());
        with(&|w| w.reviewer = super::Reviewer::default());
        simpler
    }

    fn each_tasks(&mut self, change: &dyn Fn(&mut Tasks)) {
        let clients = self.clients.iter_mut();
        clients
            .flat_map(|client| &mut client.tasks)
            .for_each(change);
    }

    /// Takes away agent types that nobody asks for, and clients with nothing to ask.
    fn drop_unused(&mut self) {
        self.clients.retain(|client| !client.tasks.is_empty());
        let of = |client: &Client| -> Vec<String> {
            let names = client.tasks.iter().map(|tasks| tasks.agent_type.clone());
            names.collect()
        };
        let named: Vec<String> = self.clients.iter().flat_map(of).collect();
        if named.iter().all(|name| !name.is_empty()) {
            self.agents.retain(|name, _| named.contains(name));
        }
    }
}

fn halved(count: u32) -> Option<u32> {
    Some(count.div_ceil(2)).filter(|half| *half > 1)
}

/// The tasks without one of their peculiarities.
fn plainer(tasks: &Tasks) -> Vec<Tasks> {
    let plain = Tasks::default();
    let changes: [&dyn Fn(&mut Tasks); 10] = [
        &|t| t.matter = plain.matter,
        &|t| t.priority = plain.priority,
        &|t| t.ttl_ms = None,
        &|t| t.deadline_ms = None,
        &|t| t.drop_after_ms = None,
        &|t| t.walks_away = false,
        &|t| t.repeats = false,
        &|t| t.cancel_after_ms = None,
        &|t| t.feedback = false,
        &|t| t.revives = false,
    ];
    let changed = changes.iter().map(|change| {
        let mut plainer = tasks.clone();
        change(&mut plainer);
        plainer
    });
    changed.filter(|plainer| plainer != tasks).collect()
}
