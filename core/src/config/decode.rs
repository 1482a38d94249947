//! Turning a configuration tree into types, with errors that say where and what was meant.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::source::Source;
use crate::error::{Error, Result};

/// Decodes the tree of `source`.
///
/// # Errors
/// [`Error::Config`] with the file, the dotted path, what was found, what was expected and a
/// likely intent.
pub(super) fn decode<T: DeserializeOwned>(source: &Source) -> Result<T> {
    // typetag keeps the path to an error inside a plugin only when `name` comes first.
    let tree = Value::Object(name_first(&source.tree));
    serde_path_to_error::deserialize(&tree).map_err(|error| {
        let path = dotted(error.path());
        let message = error.into_inner().to_string();
        let at = match source.origin(&path) {
            Some(origin) => format!("{origin}: {path}"),
            None if path.is_empty() => "the configuration".to_owned(),
            None => path,
        };
        Error::Config { at, problem: explain(&message) }
    })
}

fn name_first(table: &Map<String, Value>) -> Map<String, Value> {
    fn walk(value: &Value) -> Value {
        match value {
            Value::Object(table) => Value::Object(name_first(table)),
            Value::Array(list) => Value::Array(list.iter().map(walk).collect()),
            other => other.clone(),
        }
    }
    let (named, others): (Vec<_>, Vec<_>) = table.iter().partition(|(key, _)| *key == "name");
    named.into_iter().chain(others).map(|(key, value)| (key.clone(), walk(value))).collect()
}

fn dotted(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segments: Vec<String> = path
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    segments.join(".")
}

/// Rewrites serde's words into those of a configuration.
fn explain(message: &str) -> String {
    if let Some(found) = message.strip_prefix("invalid type: string \"")
        && let Some((found, _)) = found.split_once("\", expected dyn ")
    {
        return format!(
            "found the text \"{found}\", expected a plugin: write {{ name = \"{found}\" }}"
        );
    }
    if let Some(found) = message.strip_prefix("missing field `name`") {
        return format!("no plugin is named here: add `name = \"…\"`{found}");
    }
    let message = message
        .replace("unknown variant", "unknown name")
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("invalid value:", "invalid type:")
        .replace("invalid type: floating point", "found the number")
        .replace("invalid type: integer", "found the number")
        .replace("invalid type: string", "found the text")
        .replace("invalid type: boolean", "found")
        .replace("invalid type: map", "found a table")
        .replace("invalid type: sequence", "found a list")
        .replace("invalid type: unit value", "found nothing")
        .replace("invalid type: null", "found nothing");
    let message = match message.split_once(", expected ") {
        Some((found, expected)) => format!("{found}, expected {}", in_plain_words(expected)),
        None => message,
    };
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((found, known)) = quoted.split_first() else { return message };
    match closest(found, known.iter().copied()) {
        Some(meant) => format!("{message} (did you mean `{meant}`?)"),
        None => message,
    }
}

/// Says what was expected without the names of Rust's types.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "str" => "a text",
        "string or map" => "a text or a table",
        "map with a single key" => "a table with one key",
        other if other.starts_with("dyn ") => "a plugin: a table with a `name`",
        "a sequence" => "a list",
        "a map" => "a table",
        "unit" => "nothing",
        other if other.starts_with("struct ") || other.starts_with("internally tagged") => {
            "a table"
        }
        other if other.starts_with("enum ") => "one of its names",
        other if other.starts_with("an array of") || other.starts_with("a tuple") => "a list",
        other => other,
    }
}

/// Finds the known name that is most like `found`, if any is close.
pub fn closest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance * 3 <= name.len().max(found.len()) + 1)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only decoding is tested")]
    struct Run {
        seed: u64,
        data: Data,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only decoding is tested")]
    struct Data {
        batch_size: usize,
    }

    fn problem(assignments: &[&str]) -> String {
        let mut source = Source::default();
        for assignment in assignments {
            source.set(assignment).unwrap();
        }
        decode::<Run>(&source).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_one_that_was_meant() {
        assert_eq!(
            problem(&["seed=1", "data.batch_sise=3"]),
            "--set data.batch_sise=3: data.batch_sise: unknown key `batch_sise`, expected \
             `batch_size` (did you mean `batch_size`?)"
        );
    }

    #[test]
    fn what_was_expected_is_said_without_the_names_of_types() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[allow(dead_code, reason = "only decoding is tested")]
        struct All {
            flag: bool,
            list: Vec<f64>,
            text: String,
            table: std::collections::BTreeMap<String, i64>,
            optimizer: Option<Box<dyn crate::family::OptimizerConfig>>,
        }
        for (assignment, expected) in [
            ("flag=3", "found the number `3`, expected true or false"),
            ("list=3", "found the number `3`, expected a list"),
            ("list=['a']", "found the text \"a\", expected a number"),
            ("text=[]", "found a list, expected a text"),
            ("table=true", "found `true`, expected a table"),
            ("table.x=0.5", "found the number `0.5`, expected a whole number"),
            ("optimizer=3", "found the number `3`, expected a plugin: a table with a `name`"),
            ("optimizer.x=3", "no plugin is named here: add `name = \"…\"`"),
        ] {
            let mut source = Source::default();
            source.set(assignment).unwrap();
            let error = decode::<All>(&source).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{assignment}: {error}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_named_with_its_place() {
        assert_eq!(
            problem(&["seed=1", "data.batch_size=many"]),
            "--set data.batch_size=many: data.batch_size: found the text \"many\", expected a \
             whole number from 0"
        );
    }

    #[test]
    fn only_close_names_are_suggested() {
        assert_eq!(closest("sdg", ["adam", "sgd"]), Some("sgd"));
        assert_eq!(closest("resnet", ["mlp", "small_cnn"]), None);
    }
}
