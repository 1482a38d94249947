//! What a plugin says of itself: name, documentation, example, options.

use mie_core::catalogue::{Family, OptionPage, Plugin, plugins};
use mie_core::prelude::*;
use serde_json::{Value, json};

use crate::Findings;

/// Longest first line of a documentation, so that lists of plugins stay lists.
const FIRST_LINE: usize = 110;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) {
    name(plugin, findings);
    documentation(plugin, findings);
    example(plugin, findings);
}

fn name(plugin: &Plugin, findings: &mut Findings) {
    let name = (plugin.name)();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    findings.expect("names are in snake_case", starts && name.chars().all(plain), || {
        format!("it is `{name}`")
    });
    let same = |row: &&&Plugin| row.family == plugin.family && (row.name)() == name;
    let modules: Vec<&str> = plugins().iter().filter(same).map(|row| row.module).collect();
    findings.expect("a name stands once in its family", modules.len() == 1, || {
        format!("it stands in {}", modules.join(" and "))
    });
}

fn documentation(plugin: &Plugin, findings: &mut Findings) {
    let page = plugin.page();
    let words = page.documentation.as_str();
    findings.expect("a plugin's doc comment says what it does", words.len() > 40, || {
        format!("it is {words:?}")
    });
    let first = words.lines().next().unwrap_or_default();
    findings.expect("the first line is a short sentence", first.len() <= FIRST_LINE, || {
        format!("it has {} characters: {first}", first.len())
    });
    let said = !page.source.trim().is_empty();
    findings
        .expect("the source of the mathematics is named", said, || "`source` is empty".to_owned());
    options(&page.options, findings);
}

fn options(options: &[OptionPage], findings: &mut Findings) {
    for OptionPage { key, documentation, choices, keys, .. } in options {
        findings.expect("every option is documented", documentation.len() > 15, || {
            format!("`{key}` says {documentation:?}")
        });
        for choice in choices {
            let said = !choice.documentation.is_empty();
            findings.expect("every choice of an option is documented", said, || {
                format!("{} of `{key}` is not", choice.value)
            });
        }
        self::options(keys, findings);
    }
}

fn example(plugin: &Plugin, findings: &mut Findings) {
    let example = (plugin.example)();
    match read(plugin.family, &example) {
        Ok(again) => {
            let same = again == example;
            findings.expect("an example survives reading and writing", same, || {
                format!("{example} becomes {again}")
            });
        }
        Err(error) => findings.add("the example is valid", error),
    }
    let mut unknown = example;
    unknown["no_such_option"] = json!(1);
    match read(plugin.family, &unknown) {
        Ok(_) => findings.add(
            "unknown options are refused",
            "`no_such_option` is taken: `#[serde(deny_unknown_fields)]` is missing",
        ),
        Err(error) => {
            let clear = error.contains("no_such_option") && !error.contains("trailing");
            findings.expect("a refusal names the unknown option", clear, || {
                format!("it says {error}; a struct without options needs braces")
            });
        }
    }
    let schema = (plugin.schema)(&mut schemars::SchemaGenerator::default());
    let closed = schema.get("additionalProperties") == Some(&json!(false));
    findings.expect("the schema closes the list of options", closed, || {
        "it allows more: `#[serde(deny_unknown_fields)]` is missing".to_owned()
    });
}

/// Reads a plugin's configuration as an experiment would, validates it and writes it again.
fn read(family: Family, table: &Value) -> std::result::Result<Value, String> {
    macro_rules! family {
        ($config:ident) => {{
            let config: Box<dyn $config> =
                serde_json::from_value(table.clone()).map_err(|error| error.to_string())?;
            config.validate().map_err(|error| error.to_string())?;
            serde_json::to_value(&config).map_err(|error| error.to_string())
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
