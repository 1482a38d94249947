//! Reading TOML files with `extends`, overriding single values, knowing who set what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A merged configuration tree and the origin of every value in it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The tree; tables are objects.
    pub tree: Map<String, Value>,
    /// File or command-line option that set each value, by dotted path.
    pub origins: BTreeMap<String, String>,
}

impl Source {
    /// Reads `file` on top of everything it extends.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is missing, is not TOML, or extends itself.
    pub fn read(file: &Path) -> Result<Self> {
        let mut source = Self::default();
        source.read_onto(file, &mut Vec::new())?;
        Ok(source)
    }

    fn read_onto(&mut self, file: &Path, chain: &mut Vec<PathBuf>) -> Result<()> {
        let at = file.display().to_string();
        let error = |problem: String| Error::Config { at: at.clone(), problem };
        let text = std::fs::read_to_string(file)
            .map_err(|e| error(format!("cannot read this configuration: {e}")))?;
        let identity = file.canonicalize().map_err(Error::io("find", file))?;
        if chain.contains(&identity) {
            return Err(error("this file extends itself".to_owned()));
        }
        chain.push(identity);
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            error(format!("not valid TOML: {}", e.to_string().trim_end().replace('\n', "\n  ")))
        })?;
        let mut tree = json_table(&table, &at)?;
        for parent in parents(tree.remove("extends"), &at)? {
            let parent = file.with_file_name("").join(parent);
            if !parent.is_file() {
                let problem = format!("there is no file {}", parent.display());
                return Err(Error::Config { at: format!("{at}: extends"), problem });
            }
            self.read_onto(&parent, chain)?;
        }
        self.merge(tree, &at);
        chain.pop();
        Ok(())
    }

    /// Applies `key.path=value`; the value is TOML, or else a bare string.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no `=` or the path leads through something that is no table.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let at = format!("--set {assignment}");
        let error = |problem: String| Error::Config { at: at.clone(), problem };
        let (path, text) = assignment
            .split_once('=')
            .ok_or_else(|| error("expected `key.path=value`".to_owned()))?;
        let (path, text) = (path.trim(), text.trim());
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err(error("the key before `=` is empty".to_owned()));
        }
        let value = value_of(text).map_err(error)?;
        let keys: Vec<&str> = path.split('.').collect();
        let mut root = Value::Object(std::mem::take(&mut self.tree));
        let done = self.place(&mut root, &keys, value, "", &at);
        if let Value::Object(tree) = root {
            self.tree = tree;
        }
        done.map_err(error)
    }

    /// Puts `value` where `keys` lead from `node`, which lies at `path`.
    ///
    /// Elements of lists are reached by position; what is no table on the way becomes one.
    fn place(
        &mut self,
        node: &mut Value,
        keys: &[&str],
        value: Value,
        path: &str,
        origin: &str,
    ) -> Result<(), String> {
        let Some((key, rest)) = keys.split_first() else {
            match (node, value) {
                (Value::Object(_), Value::Object(new)) if new.is_empty() => {
                    return Err(format!(
                        "an empty table changes nothing; name an option: `{path}.KEY=value`"
                    ));
                }
                (Value::Object(old), Value::Object(new)) => {
                    self.merge_table(old, new, path, origin);
                }
                (node, value) => {
                    self.forget(path);
                    self.note(path, &value, origin);
                    *node = value;
                }
            }
            return Ok(());
        };
        let below = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
        if let Value::Array(list) = node {
            let count = list.len();
            let index: usize = key.parse().map_err(|_| {
                format!("`{key}` is not a position in a list of {count} (0 is the first)")
            })?;
            let element = list
                .get_mut(index)
                .ok_or_else(|| format!("there is no element {index} in a list of {count}"))?;
            return self.place(element, rest, value, &below, origin);
        }
        if !node.is_object() {
            self.forget(path);
            self.origins.insert(path.to_owned(), origin.to_owned());
            *node = Value::Object(Map::new());
        }
        let Value::Object(table) = node else { return Ok(()) };
        if rest.is_empty() && *key == "name" {
            // Another plugin, perhaps: as a file would say it.
            self.merge_table(table, Map::from_iter([((*key).to_owned(), value)]), path, origin);
            return Ok(());
        }
        let next = table.entry(*key).or_insert(Value::Null);
        self.place(next, rest, value, &below, origin)
    }

    fn merge(&mut self, tree: Map<String, Value>, origin: &str) {
        let mut root = std::mem::take(&mut self.tree);
        self.merge_table(&mut root, tree, "", origin);
        self.tree = root;
    }

    fn merge_table(
        &mut self,
        into: &mut Map<String, Value>,
        from: Map<String, Value>,
        path: &str,
        origin: &str,
    ) {
        // Another plugin takes none of the options of the one it replaces.
        let name = |table: &Map<String, Value>| table.get("name")?.as_str().map(str::to_owned);
        if let (Some(old), Some(new)) = (name(into), name(&from))
            && old != new
            && !path.is_empty()
        {
            into.clear();
            self.forget(path);
            self.origins.insert(path.to_owned(), origin.to_owned());
        }
        for (key, value) in from {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match (into.get_mut(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let mut table = std::mem::take(old);
                    self.merge_table(&mut table, new, &path, origin);
                    into.insert(key, Value::Object(table));
                }
                (_, value) => {
                    self.forget(&path);
                    self.note(&path, &value, origin);
                    into.insert(key, value);
                }
            }
        }
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}.");
        self.origins.retain(|key, _| key != path && !key.starts_with(&below));
    }

    fn note(&mut self, path: &str, value: &Value, origin: &str) {
        self.origins.insert(path.to_owned(), origin.to_owned());
        let children: Vec<(String, &Value)> = match value {
            Value::Object(table) => table.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(list) => {
                list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect()
            }
            _ => Vec::new(),
        };
        for (key, child) in children {
            self.note(&format!("{path}.{key}"), child, origin);
        }
    }

    /// Says who set the value at `path`, or the nearest table around it.
    pub fn origin(&self, path: &str) -> Option<&str> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(origin);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// Reads the value of an assignment: TOML, or else a bare text.
fn value_of(text: &str) -> Result<Value, String> {
    let line = "one value in one line; repeat `--set` for another option";
    if text.contains('\n') {
        return Err(format!("found several lines, expected {line}"));
    }
    match format!("value = {text}").parse::<toml::Table>() {
        Ok(table) => match table.get("value") {
            Some(value) => json(value, "").map_err(|error| match error {
                Error::Config { problem, .. } => problem,
                other => other.to_string(),
            }),
            None => Err(format!("found no value, expected {line}")),
        },
        // What is meant as a list, table or quoted text is no bare one.
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => {
            Err(format!("not a TOML value: {}", error.message()))
        }
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

fn parents(extends: Option<Value>, at: &str) -> Result<Vec<String>> {
    let problem = || Error::Config {
        at: format!("{at}: extends"),
        problem: "expected a list of file names relative to this file".to_owned(),
    };
    match extends {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(problem))
            .collect(),
        Some(_) => Err(problem()),
    }
}

fn json_table(table: &toml::Table, at: &str) -> Result<Map<String, Value>> {
    table
        .iter()
        .map(|(key, value)| {
            // The first key follows the file's name, the others their table's.
            let dot = if at.contains(": ") { "." } else { ": " };
            Ok((key.clone(), json(value, &format!("{at}{dot}{key}"))?))
        })
        .collect()
}

fn json(value: &toml::Value, at: &str) -> Result<Value> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Boolean(flag) => Value::Bool(*flag),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(*number).map(Value::Number).ok_or_else(|| {
                Error::Config { at: at.to_owned(), problem: format!("{number} is not finite") }
            })?
        }
        toml::Value::Datetime(date) => {
            return Err(Error::Config {
                at: at.to_owned(),
                problem: format!("{date} is a date; write it in quotes if it is a name"),
            });
        }
        toml::Value::Array(list) => {
            Value::Array(list.iter().map(|item| json(item, at)).collect::<Result<_>>()?)
        }
        toml::Value::Table(table) => Value::Object(json_table(table, at)?),
    })
}

/// Writes a JSON tree as TOML; absent values are left out.
pub fn to_toml(tree: &Value) -> Result<String> {
    fn convert(value: &Value) -> Option<toml::Value> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(flag) => toml::Value::Boolean(*flag),
            Value::String(text) => toml::Value::String(text.clone()),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => toml::Value::Integer(integer),
                None => toml::Value::Float(number.as_f64()?),
            },
            Value::Array(list) => toml::Value::Array(list.iter().filter_map(convert).collect()),
            Value::Object(table) => toml::Value::Table(
                table.iter().filter_map(|(k, v)| Some((k.clone(), convert(v)?))).collect(),
            ),
        })
    }
    let table = convert(tree).unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    toml::to_string(&table).map_err(|e| Error::Bug(format!("a configuration is not TOML: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn later_files_and_assignments_win_and_are_named_as_origin() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "base/a.toml", "[optimizer]\nname = 'sgd'\nmomentum = 0.9\n");
        let file = write(
            folder.path(),
            "b.toml",
            "extends = ['base/a.toml']\nseed = 3\n[optimizer]\nmomentum = 0.5\n",
        );
        let mut source = Source::read(&file).unwrap();
        source.set("optimizer.weight_decay = 1e-4").unwrap();
        source.set("label=two words").unwrap();
        let tree = Value::Object(source.tree.clone());
        assert_eq!(tree["optimizer"]["momentum"], 0.5);
        assert_eq!(tree["optimizer"]["name"], "sgd");
        assert_eq!(tree["optimizer"]["weight_decay"], 1e-4);
        assert_eq!(tree["label"], "two words");
        assert!(source.origin("optimizer.name").unwrap().ends_with("a.toml"));
        assert!(source.origin("optimizer.momentum").unwrap().ends_with("b.toml"));
        assert_eq!(
            source.origin("optimizer.weight_decay"),
            Some("--set optimizer.weight_decay = 1e-4")
        );
    }

    #[test]
    fn another_plugin_takes_none_of_the_options_of_the_one_it_replaces() {
        let mut source = Source::default();
        source.set("optimizer={ name = 'sgd', momentum = 0.9 }").unwrap();
        source.set("optimizer.name=adam").unwrap();
        assert_eq!(Value::Object(source.tree)["optimizer"], serde_json::json!({"name": "adam"}));
    }

    #[test]
    fn elements_of_lists_are_set_by_position() {
        let mut source = Source::default();
        source
            .set("controllers=[{ name = 'warmup' }, { name = 'plateau', factor = 0.1 }]")
            .unwrap();
        source.set("controllers.1.factor=0.5").unwrap();
        assert_eq!(Value::Object(source.tree.clone())["controllers"][1]["factor"], 0.5);
        source.set("controllers.1.name=step_lr").unwrap();
        let element = Value::Object(source.tree.clone())["controllers"][1].clone();
        assert_eq!(element, serde_json::json!({ "name": "step_lr" }));
        assert_eq!(source.origin("controllers.1.name"), Some("--set controllers.1.name=step_lr"));
        source.set("controllers.0.scope.share=0.5").unwrap();
        source.set("controllers.1.scope=head").unwrap();
        source.set("controllers.1.scope.share=0.3").unwrap();
        let tree = Value::Object(source.tree.clone());
        assert_eq!(tree["controllers"][0]["scope"], serde_json::json!({ "share": 0.5 }));
        assert_eq!(tree["controllers"][1]["scope"], serde_json::json!({ "share": 0.3 }));
        let error = source.set("controllers.2.factor=1").unwrap_err().to_string();
        assert!(error.ends_with("there is no element 2 in a list of 2"), "{error}");
    }

    #[test]
    fn assignments_that_say_nothing_or_half_are_refused() {
        let mut source = Source::default();
        source.set("optimizer={ name = 'sgd' }").unwrap();
        for (assignment, problem) in [
            ("optimizer={}", "name an option: `optimizer.KEY=value`"),
            ("seed=1\nlabel=2", "found several lines"),
            ("optimizer={ name = 'sgd'", "not a TOML value"),
            ("hidden=[1, 2", "not a TOML value"),
            ("seed", "expected `key.path=value`"),
            ("a..b=1", "is empty"),
        ] {
            let error = source.set(assignment).unwrap_err().to_string();
            assert!(error.contains(problem), "{assignment}: {error}");
        }
        assert_eq!(Value::Object(source.tree), serde_json::json!({"optimizer": {"name": "sgd"}}));
    }

    #[test]
    fn a_modality_may_be_called_name() {
        let mut source = Source::default();
        source.set("modalities.name={ projection = 1 }").unwrap();
        source.set("modalities.audio={ projection = 3 }").unwrap();
        source.set("modalities.name={ projection = 2 }").unwrap();
        let expected =
            serde_json::json!({ "name": { "projection": 2 }, "audio": { "projection": 3 } });
        assert_eq!(Value::Object(source.tree)["modalities"], expected);
    }

    #[test]
    fn a_file_that_extends_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.toml", "extends = ['b.toml']");
        let file = write(folder.path(), "b.toml", "extends = ['a.toml']");
        assert!(Source::read(&file).unwrap_err().to_string().contains("extends itself"));
    }

    #[test]
    fn a_tree_survives_the_way_to_toml_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let text = "seed = 1\nlist = [1, 2]\nx = 1e-10\n[a]\nname = \"n\"\n[[b]]\nc = true\n";
        let file = write(folder.path(), "a.toml", text);
        let tree = Value::Object(Source::read(&file).unwrap().tree);
        let again = write(folder.path(), "b.toml", &to_toml(&tree).unwrap());
        assert_eq!(tree, Value::Object(Source::read(&again).unwrap().tree));
    }
}
