//! Everything that needs the whole program: the catalogue, the engine, the commands.

use mie_plugins as _;

mod cli;
mod configs;
mod conformance;
mod engine;
mod generated;
mod layering;
mod real_data;
mod support;
