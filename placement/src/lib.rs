//! Many bricks as one volume: where names belong, and the protocol that keeps their copies equal.
//!
//! Everything here is pure: no I/O, no clock, no thread, no async. What is decided here is
//! carried out by whoever owns disks and wires, and by the simulator.

#![forbid(unsafe_code)]

pub mod assignment;
pub mod group;
pub mod keeper;
pub mod layout;
pub mod merge;
pub mod rebalance;
pub mod replica;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
