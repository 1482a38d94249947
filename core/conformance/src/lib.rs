//! Checks that every plugin of mie must pass, for the tests of those who write plugins.
//!
//! In a crate of plugins, one test is enough:
//!
//! ```ignore
//! #[test]
//! fn the_plugins_conform() {
//!     mie_conformance::assert_conform(env!("CARGO_CRATE_NAME"));
//! }
//!
//! #[test]
//! fn an_experiment_repeats_itself_and_can_be_resumed() {
//!     mie_conformance::assert_run_conforms("experiment.toml");
//! }
//! ```
//!
//! Of every plugin it is checked that its name is well formed and its own; that plugin, source
//! and options are documented; that its example is valid, survives reading and writing, and
//! refuses what it does not know; that what it builds keeps shapes, gives finite numbers, the same
//! bits from the same seed, and goes on with the same bits from its saved state; that a setting
//! declared neutral changes nothing; and that a gradient modifier changes something. Panics are
//! findings like others.
//!
//! [`stand_in`] has what a plugin meets in a run, small enough for tests by hand.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a kit for tests: it fails by panicking"
)]

mod behaviour;
mod declaration;
mod run;
pub mod stand_in;

use std::fmt;

use mie_core::catalogue::{Plugin, plugins};

pub use run::{assert_run_conforms, check_run};

/// A rule that a plugin breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Family and name of the plugin: ``encoder `mlp` ``.
    pub plugin: String,
    /// The rule, in words.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, but {}", self.plugin, self.rule, self.found)
    }
}

/// Gathers findings about one plugin.
pub(crate) struct Findings {
    plugin: String,
    list: Vec<Finding>,
}

impl Findings {
    fn of(plugin: &Plugin) -> Self {
        Self { plugin: label(plugin), list: Vec::new() }
    }

    /// Notes that `rule` is broken.
    pub(crate) fn add(&mut self, rule: &'static str, found: impl fmt::Display) {
        self.list.push(Finding { plugin: self.plugin.clone(), rule, found: found.to_string() });
    }

    /// Notes that `rule` is broken unless it `holds`.
    pub(crate) fn expect(
        &mut self,
        rule: &'static str,
        holds: bool,
        found: impl FnOnce() -> String,
    ) {
        if !holds {
            self.add(rule, found());
        }
    }
}

fn label(plugin: &Plugin) -> String {
    format!("{} `{}`", plugin.family.name(), (plugin.name)())
}

/// Checks the plugins whose module is `module`, or lies within it.
pub fn check(module: &str) -> Vec<Finding> {
    let within = |row: &Plugin| {
        row.module.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    plugins().into_iter().filter(|row| within(row)).flat_map(check_plugin).collect()
}

/// Checks one plugin.
pub fn check_plugin(plugin: &Plugin) -> Vec<Finding> {
    let mut findings = Findings::of(plugin);
    declaration::check(plugin, &mut findings);
    behaviour::check(plugin, &mut findings);
    findings.list
}

/// Fails with all findings about the plugins within `module`, and when there is no plugin.
///
/// `module` is `env!("CARGO_CRATE_NAME")` for all plugins of a crate.
pub fn assert_conform(module: &str) {
    let known = plugins().iter().any(|row| row.module.starts_with(module));
    assert!(known, "no plugin is registered in `{module}`: is there a `register!` line?");
    let findings: Vec<String> = check(module).iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
