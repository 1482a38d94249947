//! An experiment setting by setting: its value, who set it and what its documentation says.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Experiment;
use super::source::{Origin, Source, below};
use crate::schema::{Choice, Schemas, description};

/// One value of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Dotted path.
    pub path: String,
    /// The value; null where it is absent.
    pub value: Value,
    /// Who set it; `None` for a default.
    pub set_by: Option<Origin>,
}

/// Lists the values of an experiment's tree with who set them, in the order of the tree.
///
/// A list without tables is one value, and so is an empty table.
pub fn settings(tree: &Value, source: &Source) -> Vec<Setting> {
    fn walk(path: &str, value: &Value, source: &Source, found: &mut Vec<Setting>) {
        match value {
            Value::Object(table) if !table.is_empty() => {
                for (key, value) in table {
                    walk(&below(path, key), value, source, found);
                }
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                for (index, value) in list.iter().enumerate() {
                    walk(&below(path, &index.to_string()), value, source, found);
                }
            }
            value => found.push(Setting {
                path: path.to_owned(),
                value: value.clone(),
                set_by: source.origins.get(path).cloned(),
            }),
        }
    }
    let mut found = Vec::new();
    walk("", tree, source, &mut found);
    found
}

/// Makes the JSON schema of an experiment from the plugins that are linked in.
pub fn schema() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<Experiment>()
}

/// What the documentation says about a setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Entry {
    /// What it does, its unit, range and origin; Markdown.
    pub documentation: String,
    /// Value when nobody sets it, null for absent; `None` where it must be set.
    pub default: Option<Value>,
    /// What it can be, where that is one of several names.
    pub choices: Vec<Choice>,
}

/// The documentation of every setting, as sections and plugins have it.
#[derive(Debug)]
pub struct Manual {
    schema: Value,
    definitions: Map<String, Value>,
}

impl Manual {
    /// Gathers the documentation of experiments.
    pub fn of_experiments() -> Self {
        Self::of(schema().to_value())
    }

    fn of(mut schema: Value) -> Self {
        let definitions = match schema.get_mut("$defs").map(Value::take) {
            Some(Value::Object(definitions)) => definitions,
            _ => Map::new(),
        };
        Self { schema, definitions }
    }

    /// Looks up the setting at `path` of an experiment's `tree`, whose names choose the plugins.
    ///
    /// What has no documentation of its own has that of what surrounds it.
    pub fn entry(&self, tree: &Value, path: &str) -> Entry {
        let mut entry = Entry::default();
        let (mut schema, mut value) = (&self.schema, tree);
        for key in path.split('.') {
            let (Some((owner, property)), Some(inner)) =
                (self.below(schema, value, key), child(value, key))
            else {
                return Entry { documentation: entry.documentation, ..Entry::default() };
            };
            // Beside a reference stands what the option does, behind it what its type is.
            let about = description(property)
                .or_else(|| description(owner).and_then(|text| text.split("\n\n").next()));
            if let Some(about) = about {
                about.clone_into(&mut entry.documentation);
            }
            // The default of a table is that of its options, unless it is one of another plugin.
            let around = entry
                .default
                .take()
                .filter(|default| key == "name" || default.get("name") == value.get("name"));
            entry.default = match property.get("default") {
                Some(default) => Some(default.clone()),
                None => around.and_then(|default| child(&default, key).cloned()),
            };
            (schema, value) = (property, inner);
        }
        entry.choices = self.schemas().choices(schema);
        entry
    }

    /// Finds the schema of `key` within `value`, with the schema of the table or list around it.
    fn below<'a>(
        &'a self,
        schema: &'a Value,
        value: &Value,
        key: &str,
    ) -> Option<(&'a Value, &'a Value)> {
        if let Some(definition) = self.schemas().definition(schema) {
            return self.below(definition, value, key);
        }
        if let Some(branches) = branches(schema) {
            return branches.iter().find_map(|branch| self.below(branch, value, key));
        }
        let properties = schema.get("properties");
        let plugin = properties.and_then(|properties| properties.pointer("/name/const"));
        if plugin.is_some() && plugin != value.get("name") {
            return None;
        }
        let property = match value {
            Value::Array(_) => schema.get("items"),
            _ => properties
                .and_then(|properties| properties.get(key))
                .or_else(|| schema.get("additionalProperties"))
                .filter(|property| property.is_object()),
        };
        Some((schema, property?))
    }

    fn schemas(&self) -> Schemas<'_> {
        Schemas(&self.definitions)
    }
}

fn branches(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()
}

/// What a table or list holds under a key or position.
fn child<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        value => value.get(key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manual() -> Manual {
        let fast = json!({
            "description": "Goes fast.\n\nAnd far.",
            "properties": {
                "name": { "const": "fast" },
                "speed": { "description": "Speed, at least 0.", "type": "number", "default": 2.0 },
                "gear": { "description": "Gear.", "$ref": "#/$defs/Gear", "default": "low" },
            },
            "required": ["name"],
        });
        let slow = json!({
            "description": "Goes slowly.",
            "properties": {
                "name": { "const": "slow" },
                "speed": { "description": "Share of the speed.", "type": "number" },
            },
            "required": ["name", "speed"],
        });
        Manual::of(json!({
            "properties": {
                "steps": {
                    "description": "Steps, in this order.",
                    "items": { "$ref": "#/$defs/Step" },
                    "default": [],
                },
                "main": {
                    "description": "The main step.",
                    "$ref": "#/$defs/Step",
                    "default": { "name": "fast", "speed": 3.0 },
                },
                "share_by_name": {
                    "description": "Shares.",
                    "additionalProperties": { "type": "number" },
                    "default": {},
                },
                "limit": {
                    "description": "Limit; absent means none.",
                    "anyOf": [{ "$ref": "#/$defs/Limit" }, { "type": "null" }],
                    "default": null,
                },
            },
            "$defs": {
                "Step": { "oneOf": [fast, slow] },
                "Gear": {
                    "description": "A gear.",
                    "oneOf": [
                        { "description": "For hills.", "const": "low" },
                        {
                            "description": "Any other.",
                            "properties": { "number": { "type": "integer" } },
                            "required": ["number"],
                        },
                    ],
                },
                "Limit": {
                    "properties": { "at": { "description": "Where it lies." } },
                    "required": ["at"],
                },
            },
        }))
    }

    fn tree() -> Value {
        json!({
            "steps": [
                { "name": "slow", "speed": 0.5 },
                { "name": "fast", "gear": { "number": 4 } },
            ],
            "main": { "name": "slow", "speed": 0.5 },
            "share_by_name": { "a": 0.1 },
            "limit": { "at": 3 },
        })
    }

    fn about(path: &str) -> (String, Option<Value>) {
        let entry = manual().entry(&tree(), path);
        (entry.documentation, entry.default)
    }

    #[test]
    fn an_option_has_the_words_and_the_default_of_the_plugin_that_is_named() {
        assert_eq!(about("steps.0.speed"), ("Share of the speed.".to_owned(), None));
        assert_eq!(about("steps.1.speed").0, "Steps, in this order.", "it is not in the tree");
        assert_eq!(about("main.speed"), ("Share of the speed.".to_owned(), None));
        let fast = json!({ "main": { "name": "fast", "speed": 1.0 } });
        let entry = manual().entry(&fast, "main.speed");
        assert_eq!(entry.default, Some(json!(2.0)));
        assert_eq!(about("limit.at").0, "Where it lies.");
    }

    #[test]
    fn a_name_has_the_first_words_of_its_plugin_and_an_entry_of_a_map_those_of_the_map() {
        assert_eq!(about("steps.1.name"), ("Goes fast.".to_owned(), None));
        assert_eq!(about("main.name"), ("Goes slowly.".to_owned(), Some(json!("fast"))));
        assert_eq!(about("share_by_name.a"), ("Shares.".to_owned(), None));
        assert_eq!(about("steps.1.gear.number").0, "Any other.");
    }

    #[test]
    fn the_names_of_a_choice_are_listed_with_what_they_mean() {
        let choices = manual().entry(&tree(), "steps.1.gear").choices;
        let found: Vec<_> =
            choices.iter().map(|choice| (&*choice.name, &*choice.documentation)).collect();
        assert_eq!(found, [("low", "For hills."), ("number", "Any other.")]);
        assert_eq!(manual().entry(&tree(), "steps.1.gear").documentation, "Gear.");
        assert!(manual().entry(&json!({ "limit": null }), "limit").choices.is_empty());
    }

    #[test]
    fn every_value_is_listed_with_who_set_it() {
        let mut source = Source::default();
        source.set("seed=3").unwrap();
        source.set("steps=[{ name = 'a' }]").unwrap();
        let tree = json!({
            "seed": 3,
            "steps": [{ "name": "a", "factor": 0.5 }],
            "widths": [256, 64],
            "limit": null,
            "shares": {},
        });
        let found: Vec<_> = settings(&tree, &source)
            .into_iter()
            .map(|setting| {
                let set_by = setting.set_by.map(|origin| origin.to_string());
                (setting.path, setting.value, set_by)
            })
            .collect();
        let row = |path: &str, value: Value, set_by: Option<&str>| {
            (path.to_owned(), value, set_by.map(str::to_owned))
        };
        let steps = "--set steps=[{ name = 'a' }]";
        assert_eq!(
            found,
            [
                row("seed", json!(3), Some("--set seed=3")),
                row("steps.0.name", json!("a"), Some(steps)),
                row("steps.0.factor", json!(0.5), None),
                row("widths", json!([256, 64]), None),
                row("limit", Value::Null, None),
                row("shares", json!({}), None),
            ]
        );
    }
}
