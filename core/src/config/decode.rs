//! Turning a configuration tree into types, with errors that say where and what was meant.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::source::{Source, below};
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
        let at = place(source, &dotted(error.path()));
        Error::Config { at, problem: explain(&error.into_inner().to_string()) }
    })
}

/// Refuses a list where `decoded` has a table: serde takes it for the options in their order.
///
/// # Errors
/// [`Error::Config`] with the file and the dotted path.
pub(super) fn refuse_lists_for_tables(source: &Source, decoded: &Value) -> Result<()> {
    fn find(path: &str, found: &Value, decoded: &Value) -> Option<String> {
        match (found, decoded) {
            (Value::Array(_), Value::Object(_)) => Some(path.to_owned()),
            (Value::Array(found), Value::Array(decoded)) => {
                found.iter().zip(decoded).enumerate().find_map(|(index, (found, decoded))| {
                    find(&below(path, &index.to_string()), found, decoded)
                })
            }
            (Value::Object(found), Value::Object(decoded)) => found
                .iter()
                .find_map(|(key, found)| find(&below(path, key), found, decoded.get(key)?)),
            _ => None,
        }
    }
    match find("", &Value::Object(source.tree.clone()), decoded) {
        Some(path) => {
            let problem = "found a list, expected a table: write `{ key = value }`".to_owned();
            Err(Error::Config { at: place(source, &path), problem })
        }
        None => Ok(()),
    }
}

/// Names the place of a value: who set it, and its path.
pub(super) fn place(source: &Source, path: &str) -> String {
    match source.origin(path) {
        Some(origin) => format!("{origin}: {path}"),
        None if path.is_empty() => source.file.as_deref().unwrap_or("the configuration").to_owned(),
        None => path.to_owned(),
    }
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
    if let Some(known) = message.strip_prefix("missing field `") {
        return match known.trim_end_matches('`') {
            // Only the table of a plugin cannot do without.
            "name" => "no plugin is named here: add `name = \"…\"`".to_owned(),
            key => format!("`{key}` is missing and has no default: add it"),
        };
    }
    if let Some((found, expected)) = message.rsplit_once(", expected ")
        && let Some(found) = found_in_words(found)
    {
        return match (found.strip_prefix("the text "), expected.strip_prefix("dyn ")) {
            (Some(text), Some(_)) => {
                format!("found {found}, expected a plugin: write {{ name = {text} }}")
            }
            (None, Some(_)) => format!("found {found}, expected a plugin: a table with its `name`"),
            (_, None) if found == "a table" && expected == "a sequence" => {
                "found a table, expected a list: write `[…]` around it".to_owned()
            }
            (_, None) => format!("found {found}, expected {}", expected_in_words(expected)),
        };
    }
    let message = message
        .replace("unknown variant", "unknown name")
        .replace("unknown field", "unknown key")
        .replace(", there are no fields", ": nothing can be set here");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((found, known)) = quoted.split_first() else { return message };
    match closest(found, known.iter().copied()) {
        Some(meant) => format!("{message} (did you mean `{meant}`?)"),
        None => message,
    }
}

/// Says what serde found; `None` when the message is not about a value of another kind.
fn found_in_words(found: &str) -> Option<String> {
    if let Some(length) = found.strip_prefix("invalid length ") {
        return Some(format!("a list of {length}"));
    }
    let found =
        found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: "))?;
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    Some(match kind {
        "integer" => format!("the number {value}"),
        "floating" => format!("the number {}", value.trim_start_matches("point ")),
        "string" => format!("the text {value}"),
        "boolean" => value.to_owned(),
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit" => "a name without a value".to_owned(),
        _ => found.to_owned(),
    })
}

/// Says what serde expected, without the types of Rust.
fn expected_in_words(expected: &str) -> String {
    let from_zero = |most: u64| format!("a whole number from 0 to {most}");
    let (kind, rest) = expected.rsplit_once(' ').unwrap_or((expected, ""));
    match expected {
        "u8" => from_zero(u8::MAX.into()),
        "u16" => from_zero(u16::MAX.into()),
        "u32" => from_zero(u32::MAX.into()),
        "u64" | "u128" | "usize" => "a whole number from 0".to_owned(),
        "i8" => format!("a whole number from {} to {}", i8::MIN, i8::MAX),
        "i16" => format!("a whole number from {} to {}", i16::MIN, i16::MAX),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "a borrowed string" | "path string" => "text".to_owned(),
        "a character" => "one letter".to_owned(),
        "string or map" => "the name of a choice, as text".to_owned(),
        "map with a single key" => "a table with one key".to_owned(),
        "newtype variant" | "struct variant" | "tuple variant" => {
            "a table that gives it one, `{ NAME = VALUE }`".to_owned()
        }
        "unit" => "the name alone, as text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "fewer elements in array" => "fewer values".to_owned(),
        "a map" => "a table".to_owned(),
        _ if kind == "an array of length" || kind == "a tuple of size" => {
            format!("a list of {rest}")
        }
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ => expected.to_owned(),
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
    use std::path::PathBuf;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Run {
        seed: u64,
        data: Data,
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Data {
        batch_size: usize,
        share: f64,
        offset: i64,
        level: u8,
        shuffle: bool,
        root: PathBuf,
        order: Vec<String>,
        grid: [i64; 2],
        rates: Vec<f64>,
        scope: Option<Scope>,
        empty: Option<Empty>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Scope {
        Head,
        Share(f64),
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}

    fn source(assignments: &[&str]) -> Source {
        let mut source = Source::default();
        for assignment in assignments {
            source.set(assignment).unwrap();
        }
        source
    }

    fn problem(assignments: &[&str]) -> String {
        decode::<Run>(&source(assignments)).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_one_that_was_meant() {
        let error = problem(&["seed=1", "data.batch_sise=3"]);
        let start = "--set data.batch_sise=3: data.batch_sise: unknown key `batch_sise`, \
                     expected one of `batch_size`, ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with(" (did you mean `batch_size`?)"), "{error}");
        let error = problem(&["seed=1", "data.empty.key=3"]);
        assert!(error.ends_with("unknown key `key`: nothing can be set here"), "{error}");
    }

    #[test]
    fn a_value_of_another_kind_is_described_without_words_of_rust() {
        for (assignment, found, expected) in [
            ("data.batch_size=many", "the text \"many\"", "a whole number from 0"),
            ("data.batch_size=-1", "the number `-1`", "a whole number from 0"),
            ("data.batch_size=1.5", "the number `1.5`", "a whole number from 0"),
            ("data.batch_size=[1, 2]", "a list", "a whole number from 0"),
            ("data.level=256", "the number `256`", "a whole number from 0 to 255"),
            ("data.offset=x, y", "the text \"x, y\"", "a whole number"),
            ("data.share={ of = 1 }", "a table", "a number"),
            ("data.rates=[0.1, 'x']", "the text \"x\"", "a number"),
            ("data.shuffle=1", "the number `1`", "true or false"),
            ("data.root=true", "`true`", "text"),
            ("data.order=audio", "the text \"audio\"", "a list"),
            ("data.order.0=audio", "a table", "a list: write `[…]` around it"),
            ("data.order=[1]", "the number `1`", "text"),
            ("data.grid=[1]", "a list of 1", "a list of 2"),
            ("data.grid=[1, 2, 3]", "a list of 3", "fewer values"),
            ("data.scope=3", "the number `3`", "the name of a choice, as text"),
            ("data.scope={ head = 3 }", "the number `3`", "the name alone, as text"),
            ("data.scope={ share = 1, head = 2 }", "a table", "a table with one key"),
            (
                "data.scope=share",
                "a name without a value",
                "a table that gives it one, `{ NAME = VALUE }`",
            ),
            ("data=12", "the number `12`", "a table"),
            (
                "data='struct Data, expected f64'",
                "the text \"struct Data, expected f64\"",
                "a table",
            ),
        ] {
            let error = problem(&["seed=1", assignment]);
            assert!(error.starts_with(&format!("--set {assignment}: data")), "{error}");
            let end = format!(": found {found}, expected {expected}");
            assert!(error.ends_with(&end), "{assignment}: {error}");
        }
    }

    #[test]
    fn a_plugin_is_a_table_with_its_name() {
        let found = |kind: &str| format!("invalid type: {kind}, expected dyn OptimizerConfig");
        assert_eq!(
            explain(&found("string \"fast\"")),
            "found the text \"fast\", expected a plugin: write { name = \"fast\" }"
        );
        assert_eq!(
            explain(&found("integer `3`")),
            "found the number `3`, expected a plugin: a table with its `name`"
        );
        assert_eq!(explain("missing field `name`"), "no plugin is named here: add `name = \"…\"`");
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_belongs() {
        let problem = "`seed` is missing and has no default: add it";
        let mut source = source(&["data.batch_size=1"]);
        let error = decode::<Run>(&source).unwrap_err().to_string();
        assert_eq!(error, format!("the configuration: {problem}"));
        source.file = Some("run.toml".to_owned());
        let error = decode::<Run>(&source).unwrap_err().to_string();
        assert_eq!(error, format!("run.toml: {problem}"));
    }

    #[test]
    fn a_list_is_no_table() {
        let source = source(&["seed=1", "data=[7]"]);
        let decoded = serde_json::to_value(decode::<Run>(&source).unwrap()).unwrap();
        assert_eq!(
            refuse_lists_for_tables(&source, &decoded).unwrap_err().to_string(),
            "--set data=[7]: data: found a list, expected a table: write `{ key = value }`"
        );
        let source = self::source(&["seed=1", "data={ order = ['a'], grid = [1, 2] }"]);
        let decoded = serde_json::to_value(decode::<Run>(&source).unwrap()).unwrap();
        refuse_lists_for_tables(&source, &decoded).unwrap();
    }

    #[test]
    fn only_close_names_are_suggested() {
        assert_eq!(closest("sdg", ["adam", "sgd"]), Some("sgd"));
        assert_eq!(closest("resnet", ["mlp", "small_cnn"]), None);
    }
}
