//! A node in this process: the walk of tasks, and the doors.

mod gateway;
mod walk;
