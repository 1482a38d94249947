//! What holds for every plugin of the catalogue.

use std::collections::BTreeSet;

use mie_core::catalogue::{Family, find, plugins, plugins_of};
use mie_core::prelude::*;
use serde_json::json;

#[test]
fn every_plugin_passes_the_checks_that_plugin_authors_run() {
    let rows = plugins();
    assert!(rows.len() >= 29, "only {} plugins are linked in", rows.len());
    mie_conformance::assert_conform("mie_plugins");
}

#[test]
fn plugins_have_the_names_of_their_files() {
    for row in plugins() {
        let name = (row.name)();
        assert_eq!(row.module.rsplit("::").next(), Some(name), "{}", row.module);
    }
}

#[test]
fn what_typetag_knows_and_what_the_catalogue_lists_is_the_same() {
    let unknown = json!({ "name": "no such plugin" });
    macro_rules! refusal {
        ($config:ident) => {
            serde_json::from_value::<Box<dyn $config>>(unknown.clone()).unwrap_err().to_string()
        };
    }
    for family in Family::ALL {
        let error = match family {
            Family::Dataset => refusal!(DatasetConfig),
            Family::Modality => refusal!(ModalityConfig),
            Family::Encoder => refusal!(EncoderConfig),
            Family::Fusion => refusal!(FusionConfig),
            Family::Objective => refusal!(ObjectiveConfig),
            Family::Optimizer => refusal!(OptimizerConfig),
            Family::GradientModifier => refusal!(GradientModifierConfig),
            Family::Controller => refusal!(ControllerConfig),
            Family::Strategy => refusal!(StrategyConfig),
        };
        let known: BTreeSet<&str> = error.split('`').skip(3).step_by(2).collect();
        let listed: BTreeSet<&str> = plugins_of(family).iter().map(|row| (row.name)()).collect();
        // The test's own plugin is not in the catalogue, to stay out of generated files.
        let known: BTreeSet<&str> =
            known.into_iter().filter(|name| !name.starts_with("test_")).collect();
        assert_eq!(known, listed, "{}", family.name());
    }
}

#[test]
fn a_plugin_is_found_by_its_name() {
    assert_eq!(find("svd_flat").len(), 1);
    assert!(find("no such plugin").is_empty());
}
