//! How large a workload may be. What is beyond would fill the memory or never end.

use colony_core::id::{Tenant, TypeName};

use super::Workload;

/// Most of one thing: agents of a type, clients, tasks of a client.
const COUNT_MAX: u64 = 100_000;
/// Most tasks over all clients.
const TASKS_MAX: u64 = 1_000_000;
/// Most of what one task does: calls, messages, turns of the scheduler.
const EACH_MAX: u64 = 10_000;
/// Longest simulated time, in seconds: a year.
const SECONDS_MAX: u64 = 365 * 86_400;

/// The first number or name that is out of its bounds.
pub(super) fn problem(workload: &Workload) -> Option<String> {
    let mut numbers = vec![
        (
            "seconds_max".to_owned(),
            workload.seconds_max,
            1..=SECONDS_MAX,
        ),
        (
            "world.claim_max".to_owned(),
            workload.world.claim_max.into(),
            1..=4_096,
        ),
        (
            "world.attempts_max".to_owned(),
            workload.world.attempts_max.into(),
            1..=1_000,
        ),
        (
            "world.episodes_max".to_owned(),
            workload.world.episodes_max as u64,
            1..=10_000_000,
        ),
    ];
    for (name, agents) in &workload.agents {
        let own = [
            ("count", agents.count, COUNT_MAX),
            ("effects", agents.effects, EACH_MAX),
            ("posts", agents.posts, EACH_MAX),
            ("turns", agents.turns, EACH_MAX),
        ];
        numbers.extend(
            own.map(|(key, value, max)| (format!("agents.{name}.{key}"), value.into(), 0..=max)),
        );
    }
    for client in &workload.clients {
        numbers.push((
            "clients.count".to_owned(),
            client.count().into(),
            1..=COUNT_MAX,
        ));
        for tasks in &client.tasks {
            numbers.push((
                "clients.tasks.count".to_owned(),
                tasks.count().into(),
                1..=COUNT_MAX,
            ));
            numbers.push((
                "clients.tasks.priority".to_owned(),
                tasks.priority.into(),
                0..=10,
            ));
        }
    }
    let out = numbers
        .into_iter()
        .find(|(_, value, range)| !range.contains(value));
    if let Some((key, value, range)) = out {
        let (min, max) = range.into_inner();
        return Some(format!("{key}: {value} is not between {min} and {max}"));
    }
    let tasks = workload.tasks();
    if tasks > TASKS_MAX {
        return Some(format!("{tasks} tasks are more than {TASKS_MAX}"));
    }
    let types = workload.agents.keys().filter_map(|name| {
        let error = TypeName::new(name).err()?;
        Some(format!("agents.{name}: {error}"))
    });
    let named = workload.clients.iter().map(|client| client.tenant.as_str());
    let weighed = workload.world.tenant_weights.keys().map(String::as_str);
    let tenants = named.chain(weighed).filter(|name| !name.is_empty());
    let tenants = tenants.filter_map(|name| {
        let error = Tenant::new(name).err()?;
        Some(format!("tenant: {error}"))
    });
    types.chain(tenants).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let legal = "seconds_max = 60\n[agents.a]\nkind = \"echo\"\ncount = 1\n[[clients]]\ntenant = \"acme\"\npause_ms_max = 1\n[[clients.tasks]]\npriority = 5\n";
        let problem = |from: &str, to: &str| {
            assert!(legal.contains(from), "{from}");
            let read: Workload = toml::from_str(&legal.replace(from, to)).expect("legal TOML");
            read.problem()
        };
        assert_eq!(problem("acme", "acme"), None);
        for (from, to, named) in [
            ("seconds_max = 60", "seconds_max = 0", "seconds_max: 0"),
            ("count = 1", "count = 4294967295", "agents.a.count"),
            (
                "count = 1",
                "count = 1\nposts = 4294967295",
                "agents.a.posts",
            ),
            (
                "count = 1",
                "count = 1\nturns = 4294967295",
                "agents.a.turns",
            ),
            ("priority = 5", "priority = 99", "clients.tasks.priority"),
            ("priority = 5", "count = 100001", "clients.tasks.count"),
            ("acme", "A\\u001b[31m", "tenant"),
            ("agents.a]", "agents.\"A b\"]", "agents.A b"),
            (
                "seconds_max = 60",
                "seconds_max = 60\nworld.attempts_max = 0",
                "world.attempts_max",
            ),
        ] {
            let said = problem(from, to).unwrap_or_default();
            assert!(said.contains(named), "{to}: {said}");
        }
    }
}
