//! What JSON schemas, made of types and their doc comments, say in words.

use serde::Serialize;
use serde_json::{Map, Value};

/// One of the few things that an option can be.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Choice {
    /// Its name, the key of a table with one.
    pub name: String,
    /// As it is written in a configuration: `"head"`, `{ share = a number }`.
    pub value: String,
    /// What it means.
    pub documentation: String,
}

/// The schemas that others refer to, by name.
pub(crate) struct Schemas<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Schemas<'a> {
    /// Follows a reference by one step.
    pub(crate) fn definition(&self, schema: &Value) -> Option<&'a Value> {
        self.0.get(schema.get("$ref")?.as_str()?.rsplit('/').next()?)
    }

    /// Follows a reference, and an optional value to what it is when it is there.
    pub(crate) fn resolve<'v>(&self, schema: &'v Value) -> &'v Value
    where
        'a: 'v,
    {
        if let Some(definition) = self.definition(schema) {
            return self.resolve(definition);
        }
        let null = |schema: &&Value| schema.get("type").is_some_and(|kind| kind == "null");
        match schema.get("anyOf").and_then(Value::as_array) {
            Some(both) => {
                both.iter().find(|one| !null(one)).map_or(schema, |one| self.resolve(one))
            }
            None => schema,
        }
    }

    /// Says what is written there: `a number`, `a list, each a text`, `a table` …
    pub(crate) fn kind(&self, schema: &Value) -> String {
        let schema = self.resolve(schema);
        if schema.get("oneOf").is_some() {
            return if is_plugin(schema) { "a plugin" } else { "one of" }.to_owned();
        }
        // An optional value has the kind `null` beside its own.
        let kinds = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(kind)) => vec![kind.as_str()],
            _ => Vec::new(),
        };
        match kinds.first().copied().unwrap_or_default() {
            "number" => "a number".to_owned(),
            "integer" if schema.get("minimum").is_some_and(|least| least == 0) => {
                "a whole number from 0".to_owned()
            }
            "integer" => "a whole number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "string" => "a text".to_owned(),
            "array" => match schema.get("items") {
                Some(items) => format!("a list, each {}", self.kind(items)),
                None => "a list".to_owned(),
            },
            _ => "a table".to_owned(),
        }
    }

    /// Lists what a value can be, where that is one of a few things and no plugin.
    pub(crate) fn choices(&self, schema: &Value) -> Vec<Choice> {
        let schema = self.resolve(schema);
        let branches = match schema.get("oneOf").and_then(Value::as_array) {
            Some(branches) if !is_plugin(schema) => branches.as_slice(),
            None if schema.get("enum").is_some() => std::slice::from_ref(schema),
            _ => &[],
        };
        branches.iter().flat_map(|branch| self.branch(branch)).collect()
    }

    fn branch(&self, branch: &Value) -> Vec<Choice> {
        let documentation = description(branch).unwrap_or_default();
        let choice = |name: &str, value: String| Choice {
            name: name.to_owned(),
            value,
            documentation: documentation.to_owned(),
        };
        let text = |value: &Value| choice(value.as_str().unwrap_or_default(), value.to_string());
        if let Some(value) = branch.get("const") {
            return vec![text(value)];
        }
        // Names without documentation share a branch.
        if let Some(values) = branch.get("enum").and_then(Value::as_array) {
            return values.iter().map(text).collect();
        }
        // A choice with a value of its own is a table with one key, which it must have.
        match branch.get("properties").and_then(Value::as_object) {
            Some(keys) if keys.len() == 1 => keys
                .iter()
                .map(|(key, of)| choice(key, format!("{{ {key} = {} }}", self.kind(of))))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Whether a schema is that of any plugin of a family: tables told apart by their `name`.
fn is_plugin(schema: &Value) -> bool {
    let named = |choice: &Value| choice.pointer("/properties/name/const").is_some();
    schema.get("oneOf").and_then(Value::as_array).is_some_and(|all| all.iter().any(named))
}

/// What a doc comment says about a schema.
pub(crate) fn description(schema: &Value) -> Option<&str> {
    schema.get("description")?.as_str()
}
