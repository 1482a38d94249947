//! Reading TOML files with `extends`, overriding single values, knowing who set what.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::decode::closest;
use crate::error::{Error, Result};

/// A merged configuration tree and the origin of every value in it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The tree; tables are objects.
    pub tree: Map<String, Value>,
    /// Who set each value, by dotted path.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read, as messages name it.
    pub(super) file: Option<String>,
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// File or command-line option, as messages name it.
    pub place: String,
    /// Line of the file, counted from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}", self.place),
            None => formatter.write_str(&self.place),
        }
    }
}

impl Source {
    /// Reads `file` on top of everything it extends.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is missing, is not TOML, or extends itself.
    pub fn read(file: &Path) -> Result<Self> {
        let mut source = Self { file: Some(shown(file)), ..Self::default() };
        source.read_onto(file, &mut Vec::new())?;
        Ok(source)
    }

    fn read_onto(&mut self, file: &Path, chain: &mut Vec<PathBuf>) -> Result<()> {
        let at = shown(file);
        let error = |problem: String| Error::Config { at: at.clone(), problem };
        let text = text_of(file).map_err(error)?;
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
            let parent = tidy(file.with_file_name("").join(parent));
            if !parent.is_file() {
                let problem = format!("there is no file `{}`", parent.display());
                return Err(Error::Config { at: format!("{at}: extends"), problem });
            }
            self.read_onto(&parent, chain)?;
        }
        self.merge(tree, &Setter { place: at, lines: Some(lines(&text)) })?;
        chain.pop();
        Ok(())
    }

    /// Applies `key.path=value`; the value is TOML, or else a bare string.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no `=`, the value is no single one, or the path leads to no
    /// element of a list.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        // Messages keep to one line, whatever was typed.
        let at = format!("--set {}", assignment.lines().collect::<Vec<_>>().join(" "));
        let error = |problem: String| Error::Config { at: at.clone(), problem };
        let (path, text) = assignment
            .split_once('=')
            .ok_or_else(|| error("expected `key.path=value`".to_owned()))?;
        let (path, text) = (path.trim(), text.trim());
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err(error("the key before `=` is empty".to_owned()));
        }
        let (first, inner) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
        let value = json(&assigned(text).map_err(error)?, &at)?;
        // Written as a nested table, an assignment merges as a file would.
        let value = inner
            .into_iter()
            .flat_map(|keys| keys.rsplit('.'))
            .fold(value, |value, key| Value::Object(Map::from_iter([(key.to_owned(), value)])));
        let tree = Map::from_iter([(first.to_owned(), value)]);
        self.merge(tree, &Setter { place: at, lines: None })
    }

    fn merge(&mut self, tree: Map<String, Value>, setter: &Setter) -> Result<()> {
        Merge { origins: &mut self.origins, setter }.table(&mut self.tree, tree, "")
    }

    /// Says who set the value at `path`, or the nearest table around it.
    pub fn origin(&self, path: &str) -> Option<&str> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(&origin.place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// What sets values: a file, with the line of every key, or an option of the command line.
struct Setter {
    place: String,
    lines: Option<BTreeMap<String, usize>>,
}

/// Merges a tree into another one and notes who set what.
struct Merge<'a> {
    origins: &'a mut BTreeMap<String, Origin>,
    setter: &'a Setter,
}

impl Merge<'_> {
    fn table(
        &mut self,
        into: &mut Map<String, Value>,
        from: Map<String, Value>,
        path: &str,
    ) -> Result<()> {
        if from.is_empty() && !into.is_empty() && self.setter.lines.is_none() {
            let key = if into.contains_key("name") { "name" } else { "KEY" };
            let problem =
                format!("an empty table changes nothing: say what to set, e.g. `{path}.{key}=…`");
            return Err(self.refused(path, problem));
        }
        // Another plugin takes none of the options of the one it replaces.
        if let (Some(Value::String(old)), Some(Value::String(new))) =
            (into.get("name"), from.get("name"))
            && old != new
            && !path.is_empty()
        {
            into.clear();
            self.forget(path);
            self.set_by(path);
        }
        for (key, value) in from {
            let path = below(path, &key);
            if let Some(old) = into.get_mut(&key) {
                self.value(old, value, &path)?;
            } else {
                self.note(&path, &value);
                into.insert(key, value);
            }
        }
        Ok(())
    }

    fn value(&mut self, into: &mut Value, from: Value, path: &str) -> Result<()> {
        match (into, from) {
            (Value::Object(old), Value::Object(new)) => self.table(old, new, path),
            // A table whose keys are positions changes elements of a list.
            (Value::Array(old), Value::Object(new)) if !new.is_empty() => self.list(old, new, path),
            (old, new) => {
                self.forget(path);
                self.note(path, &new);
                *old = new;
                Ok(())
            }
        }
    }

    fn list(&mut self, into: &mut [Value], from: Map<String, Value>, path: &str) -> Result<()> {
        let count = into.len();
        self.set_by(path);
        for (key, value) in from {
            let old = match key.parse::<usize>() {
                Ok(index) => into.get_mut(index).ok_or(format!("there is no element {key}")),
                Err(_) => Err(format!("`{key}` is not a position")),
            };
            let old = old.map_err(|problem| {
                let all = "to replace the whole list, write it in `[…]`";
                self.refused(
                    path,
                    format!("{problem} in a list of {count} (0 is the first); {all}"),
                )
            })?;
            self.value(old, value, &below(path, &key))?;
        }
        Ok(())
    }

    fn refused(&self, path: &str, problem: String) -> Error {
        Error::Config { at: format!("{}: {path}", self.setter.place), problem }
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}.");
        self.origins.retain(|key, _| key != path && !key.starts_with(&below));
    }

    fn set_by(&mut self, path: &str) {
        let line = self.setter.lines.as_ref().and_then(|lines| lines.get(path).copied());
        self.origins.insert(path.to_owned(), Origin { place: self.setter.place.clone(), line });
    }

    fn note(&mut self, path: &str, value: &Value) {
        self.set_by(path);
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    self.note(&below(path, key), value);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.note(&below(path, &index.to_string()), value);
                }
            }
            _ => {}
        }
    }
}

/// Appends a key to a dotted path.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Writes a path for a message: in back-ticks where it would run into the words around it.
pub fn shown(path: &Path) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_-./+,@%~=".contains(letter);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) => format!("`{text}`"),
        None => format!("`{}`", path.as_os_str().as_encoded_bytes().escape_ascii()),
    }
}

/// Reads the text of a configuration, or says why it cannot be one.
fn text_of(file: &Path) -> Result<String, String> {
    let meant = |path: PathBuf| format!(" (did you mean `{}`?)", path.display());
    let problem = if file.is_dir() {
        let inside = file.join("config.toml");
        let meant = if inside.is_file() { meant(inside) } else { String::new() };
        format!("it is a folder, expected a TOML file{meant}")
    } else {
        match std::fs::read_to_string(file) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let meant = neighbour(file).map_or_else(String::new, meant);
                format!("there is no such file{meant}")
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                "it is not UTF-8 text, expected a TOML file".to_owned()
            }
            Err(error) => error.to_string(),
        }
    };
    Err(format!("cannot read this configuration: {problem}"))
}

/// Finds the configuration in the same folder whose name is most like that of `file`.
fn neighbour(file: &Path) -> Option<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut stems: Vec<String> = std::fs::read_dir(folder.unwrap_or(Path::new(".")))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    stems.sort();
    let meant = closest(file.file_stem()?.to_str()?, stems.iter().map(String::as_str))?;
    Some(file.with_file_name(format!("{meant}.toml")))
}

/// Takes `folder/..` out of a path where that leaves it the same file.
fn tidy(path: PathBuf) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        let after_folder = matches!(short.components().next_back(), Some(Component::Normal(_)));
        if part == Component::ParentDir && after_folder {
            short.pop();
        } else {
            short.push(part);
        }
    }
    // The parent of a folder that is a link lies elsewhere.
    match (short.canonicalize(), path.canonicalize()) {
        (Ok(found), Ok(expected)) if found == expected => short,
        _ => path,
    }
}

/// Finds the line of every key of a TOML text, by dotted path.
fn lines(text: &str) -> BTreeMap<String, usize> {
    fn note(
        text: &str,
        value: &DeValue<'_>,
        path: &str,
        start: usize,
        found: &mut BTreeMap<String, usize>,
    ) {
        let before = text.get(..start).unwrap_or_default();
        found.insert(path.to_owned(), 1 + before.matches('\n').count());
        match value {
            DeValue::Table(table) => {
                for (key, value) in table {
                    let path = below(path, key.get_ref());
                    note(text, value.get_ref(), &path, key.span().start, found);
                }
            }
            DeValue::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    let path = below(path, &index.to_string());
                    note(text, value.get_ref(), &path, value.span().start, found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(document) = DeTable::parse(text) {
        note(text, &DeValue::Table(document.into_inner()), "", 0, &mut found);
    }
    found
}

/// Reads the value of an assignment, or says why it is none.
fn assigned(text: &str) -> Result<toml::Value, String> {
    let several = || {
        "found several lines that are not one value: give each setting a `--set` of its own"
            .to_owned()
    };
    match format!("value = {text}").parse::<toml::Table>() {
        Ok(mut table) => match table.remove("value") {
            Some(value) if table.is_empty() => Ok(value),
            _ => Err(several()),
        },
        Err(error) if text.starts_with(['{', '[', '"', '\'']) => Err(format!(
            "not valid TOML: {}; tables are written `{{ key = 1 }}`, lists `[\"a\", \"b\"]`",
            error.message().trim().replace('\n', " ")
        )),
        Err(_) if text.contains('\n') => Err(several()),
        Err(_) => Ok(toml::Value::String(text.to_owned())),
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
    use serde_json::json;

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
        assert_eq!(source.origin("optimizer"), Some("--set optimizer.name=adam"));
        assert_eq!(Value::Object(source.tree)["optimizer"], json!({ "name": "adam" }));
    }

    #[test]
    fn another_plugin_in_a_list_takes_none_of_the_options_of_the_one_it_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let base = "[[steps]]\nname = 'a'\nfactor = 1\n[[steps]]\nname = 'b'\nfactor = 2\n";
        write(folder.path(), "base.toml", base);
        let changes = "extends = ['base.toml']\n[steps.0]\nname = 'c'\nscale = 3\n";
        let file = write(folder.path(), "changes.toml", changes);
        let mut source = Source::read(&file).unwrap();
        source.set("steps.1.name=d").unwrap();
        source.set("steps.1.scale=4").unwrap();
        assert_eq!(
            Value::Object(source.tree.clone())["steps"],
            json!([{ "name": "c", "scale": 3 }, { "name": "d", "scale": 4 }])
        );
        assert_eq!(source.origins.get("steps.0.factor"), None);
        assert_eq!(source.origins["steps.0.scale"].line, Some(4));
        assert_eq!(source.origin("steps.1.name"), Some("--set steps.1.name=d"));
    }

    #[test]
    fn elements_of_lists_are_set_by_position() {
        let mut source = Source::default();
        source
            .set("controllers=[{ name = 'warmup' }, { name = 'plateau', factor = 0.1 }]")
            .unwrap();
        source.set("controllers.1.factor=0.5").unwrap();
        source.set("controllers.0.scope.share=0.3").unwrap();
        source.set("widths=[1, 2]").unwrap();
        source.set("widths.1=3").unwrap();
        let tree = Value::Object(source.tree.clone());
        assert_eq!(tree["controllers"][1]["factor"], 0.5);
        assert_eq!(tree["controllers"][0]["scope"], json!({ "share": 0.3 }));
        assert_eq!(tree["widths"], json!([1, 3]));
        assert_eq!(source.origin("widths"), Some("--set widths.1=3"));
        for (assignment, problem) in [
            ("controllers.2.factor=1", "there is no element 2 in a list of 2"),
            ("controllers.last.factor=1", "`last` is not a position in a list of 2"),
        ] {
            let error = source.set(assignment).unwrap_err().to_string();
            let start = format!("--set {assignment}: controllers: {problem} (0 is the first); ");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn an_assignment_that_changes_nothing_is_refused() {
        let mut source = Source::default();
        source.set("optimizer={ rho = 1, name = 'a', base = { name = 'b' } }").unwrap();
        assert_eq!(
            source.set("optimizer={}").unwrap_err().to_string(),
            "--set optimizer={}: optimizer: an empty table changes nothing: say what to set, e.g. \
             `optimizer.name=…`"
        );
        assert!(source.set("optimizer={ base = {} }").is_err());
        source.set("deviations={}").unwrap();
    }

    #[test]
    fn a_value_of_several_lines_is_read_whole_or_refused() {
        let mut source = Source::default();
        source.set("list=[\n  1,\n  2,\n]").unwrap();
        source.set("text=\"\"\"one\ntwo\"\"\"").unwrap();
        let tree = Value::Object(source.tree.clone());
        assert_eq!(tree["list"], json!([1, 2]));
        assert_eq!(tree["text"], "one\ntwo");
        for assignment in ["seed=1\nlabel=2", "seed=1\n[label]", "label=one\ntwo"] {
            let error = source.set(assignment).unwrap_err().to_string();
            assert!(error.contains("found several lines that are not one value"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn half_a_table_or_list_is_no_text() {
        for assignment in ["optimizer={ name = 'sgd'", "order=[audio, image]", "label=\"a"] {
            let error = Source::default().set(assignment).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--set {assignment}: not valid TOML: ")), "{error}");
        }
    }

    #[test]
    fn a_key_called_name_that_holds_a_table_names_no_plugin() {
        let mut source = Source::default();
        source.set("modalities={ name = { width = 1 }, audio = { width = 2 } }").unwrap();
        source.set("modalities.name.width=3").unwrap();
        assert_eq!(
            Value::Object(source.tree)["modalities"],
            json!({ "name": { "width": 3 }, "audio": { "width": 2 } })
        );
    }

    #[test]
    fn every_value_knows_its_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let text = "seed = 1\n\n[a]\nb.c = 2\nd = { e = 3 }\n[[f]]\ng = 4\n[[f]]\ng = 5\n";
        let file = write(folder.path(), "a.toml", text);
        let source = Source::read(&file).unwrap();
        for (path, line) in
            [("seed", 1), ("a", 3), ("a.b.c", 4), ("a.d.e", 5), ("f.0.g", 7), ("f.1.g", 9)]
        {
            assert_eq!(source.origins[path].to_string(), format!("{}:{line}", shown(&file)));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_reason() {
        use std::os::unix::ffi::OsStrExt as _;

        let folder = tempfile::tempdir().unwrap();
        let problem = |file: &Path| Source::read(file).unwrap_err().to_string();
        let there = write(folder.path(), "my run/baseline.toml", "seed = 1");
        let absent = there.with_file_name("basline.toml");
        assert_eq!(
            problem(&absent),
            format!(
                "`{}`: cannot read this configuration: there is no such file (did you mean `{}`?)",
                absent.display(),
                there.display()
            )
        );
        let config = write(folder.path(), "run/config.toml", "seed = 1");
        let meant = format!("expected a TOML file (did you mean `{}`?)", config.display());
        let refused = problem(&folder.path().join("run"));
        assert!(refused.contains("it is a folder, ") && refused.ends_with(&meant), "{refused}");
        let binary = folder.path().join("binary.toml");
        std::fs::write(&binary, b"name = '\xff'").unwrap();
        assert!(problem(&binary).ends_with("it is not UTF-8 text, expected a TOML file"));
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"a\xffb.toml"));
        assert!(problem(&odd).contains("/a\\xffb.toml`: cannot read"), "{}", problem(&odd));
    }

    #[test]
    fn paths_go_into_no_folder_only_to_leave_it() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "base/a.toml", "seed = 1");
        let file = write(folder.path(), "sets/b/c.toml", "extends = ['../../base/a.toml']");
        let source = Source::read(&file).unwrap();
        assert_eq!(source.origin("seed"), Some(&*shown(&folder.path().join("base/a.toml"))));
        let file = write(folder.path(), "d.toml", "extends = ['none.toml']");
        let error = Source::read(&file).unwrap_err().to_string();
        let absent = folder.path().join("none.toml");
        assert!(error.ends_with(&format!(": there is no file `{}`", absent.display())), "{error}");
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
