//! What holds for every plugin of the catalogue.

use std::collections::BTreeSet;

use mie_core::catalogue::{Family, OptionPage, Plugin, find, plugins, plugins_of};
use mie_core::prelude::*;
use serde_json::{Value, json};

fn each(check: impl Fn(&Plugin, &str)) {
    let rows = plugins();
    assert!(rows.len() >= 29, "only {} plugins are linked in", rows.len());
    for row in rows {
        check(row, &format!("{} `{}`", row.family.name(), (row.name)()));
    }
}

/// Reads a plugin's configuration as an experiment would; validates it.
fn read(family: Family, table: &Value) -> Result<Value, String> {
    macro_rules! family {
        ($config:ident) => {{
            let config: Box<dyn $config> =
                serde_json::from_value(table.clone()).map_err(|e| e.to_string())?;
            config.validate().map_err(|e| e.to_string())?;
            serde_json::to_value(&config).map_err(|e| e.to_string())
        }};
    }
    match family {
        Family::Dataset => family!(DatasetConfig),
        Family::Modality => family!(ModalityConfig),
        Family::Encoder => family!(EncoderConfig),
        Family::Fusion => family!(FusionConfig),
        Family::Objective => family!(ObjectiveConfig),
        Family::Optimizer => family!(OptimizerConfig),
        Family::GradientModifier => family!(GradientModifierConfig),
        Family::Controller => family!(ControllerConfig),
        Family::Strategy => family!(StrategyConfig),
    }
}

#[test]
fn names_are_snake_case_unique_in_their_family_and_those_of_their_files() {
    let mut seen = BTreeSet::new();
    each(|row, _| {
        let name = (row.name)();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        if !name.starts_with("test_") {
            assert_eq!(row.module.rsplit("::").next(), Some(name), "{}", row.module);
        }
    });
    for row in plugins() {
        assert!(seen.insert((row.family, (row.name)())), "{} is there twice", (row.name)());
    }
}

#[test]
fn every_plugin_says_what_it_does_and_where_its_mathematics_comes_from() {
    each(|row, label| {
        let page = row.page();
        assert!(page.documentation.len() > 40, "{label} has no documentation");
        assert!(!page.source.trim().is_empty(), "{label} has no source");
        let first = page.documentation.lines().next().unwrap_or_default();
        assert!(first.len() <= 110, "{label}: the first line is long: {first}");
    });
}

#[test]
fn every_option_is_documented() {
    fn documented(options: &[OptionPage], label: &str) {
        for OptionPage { key, documentation, choices, keys, .. } in options {
            assert!(documentation.len() > 15, "{label}: `{key}` is not documented");
            for choice in choices {
                let value = &choice.value;
                assert!(!choice.documentation.is_empty(), "{label}: {value} of `{key}` is not");
            }
            documented(keys, label);
        }
    }
    each(|row, label| documented(&row.page().options, label));
}

#[test]
fn examples_are_valid_and_survive_reading_and_writing() {
    each(|row, label| {
        let example = (row.example)();
        assert_eq!(example["name"], (row.name)(), "{label}");
        let again = read(row.family, &example).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert_eq!(again, example, "{label}");
    });
}

#[test]
fn an_unknown_option_is_refused_and_the_known_ones_are_listed() {
    each(|row, label| {
        let mut example = (row.example)();
        example["no_such_option"] = json!(1);
        let error = read(row.family, &example).expect_err(label);
        assert!(error.contains("no_such_option"), "{label}: {error}");
        assert!(!error.contains("trailing"), "{label}: {error}");
    });
}

#[test]
fn what_typetag_knows_and_what_the_catalogue_lists_is_the_same() {
    for family in Family::ALL {
        let error = read(family, &json!({ "name": "no such plugin" })).unwrap_err();
        let known: BTreeSet<&str> = error.split('`').skip(3).step_by(2).collect();
        let listed: BTreeSet<&str> = plugins_of(family).iter().map(|row| (row.name)()).collect();
        // The test's own plugin is not in the catalogue, to stay out of generated files.
        let known: BTreeSet<&str> =
            known.into_iter().filter(|name| !name.starts_with("test_")).collect();
        assert_eq!(known, listed, "{}", family.name());
    }
}

#[test]
fn schemas_name_the_plugin_and_close_the_list_of_options() {
    each(|row, label| {
        let schema = (row.schema)(&mut schemars::SchemaGenerator::default());
        assert_eq!(schema.get("additionalProperties"), Some(&json!(false)), "{label}");
    });
}

#[test]
fn a_plugin_is_found_by_its_name() {
    assert_eq!(find("svd_flat").len(), 1);
    assert!(find("no such plugin").is_empty());
}
