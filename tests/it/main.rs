//! Everything that needs the whole program: the catalogue, the engine, the commands.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and says aloud what it skips"
)]

use mie_plugins as _;

mod bench;
mod cli;
mod configs;
mod conformance;
mod data;
mod datasets;
mod desk;
mod engine;
mod faults;
mod generated;
mod layering;
mod messages;
mod methods;
mod new_plugin;
mod operations;
mod predict;
mod real_data;
mod runs;
mod stand_in_data;
mod support;
