//! A node in this process: the walk of tasks, the APIs, and what its defaults make of the demo's tickets.

mod effects;
mod faulty;
mod gateway;
mod memory;
mod outage;
mod overdue;
mod own_node;
mod races;
mod risk;
mod traces;
mod walk;
