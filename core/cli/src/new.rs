//! `mie new`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mie_core::catalogue::{Family, plugins_of};
use mie_core::{Error, Result};

use crate::format::{count, shell_path};
use crate::plugins::family;
use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum New {
    Plugin(NewPlugin),
}

impl New {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Plugin(command) => command.run(shell),
        }
    }
}

/// Writes a plugin that works, to be made yours
///
/// It goes into a package of its own, with a program that has it beside all plugins of mie, an
/// experiment that trains with it, and tests that hold it to what every plugin must be. `cargo
/// test` passes as it stands.
#[derive(Debug, Args)]
pub(crate) struct NewPlugin {
    /// dataset, modality, encoder, fusion, objective, optimizer, `gradient_modifier`, controller
    /// or strategy
    #[arg(value_name = "FAMILY", value_parser = family)]
    family: Family,
    /// Its name in experiments, and that of its file: `snake_case`
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder of the package; one that exists gets a further plugin [default: NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "in_tree")]
    package: Option<PathBuf>,
    /// Writes it into the sources of mie instead
    #[arg(long)]
    in_tree: bool,
    /// Folder of the sources of mie [default: that which this program was built from]
    #[arg(long, value_name = "DIR")]
    mie: Option<PathBuf>,
}

/// Words that Rust keeps for itself or that name what every package uses.
const TAKEN: &str = "\
    abstract as async await become box break const continue crate do dyn else enum extern false \
    final fn for gen if impl in let loop macro match mod move mut override priv pub ref self \
    static struct super test alloc core std mie mie_cli mie_conformance mie_core mie_plugins \
    serde template_name";

/// Files of a new package: where each goes, and its text.
const PACKAGE: [(&str, &str); 8] = [
    ("Cargo.toml", include_str!("../templates/package/Cargo.toml")),
    ("README.md", include_str!("../templates/package/README.md")),
    ("build.rs", include_str!("../templates/package/build.rs")),
    (".cargo/config.toml", include_str!("../templates/package/config.toml")),
    ("base.toml", include_str!("../templates/package/base.toml")),
    ("src/main.rs", include_str!("../templates/package/main.rs")),
    ("src/lib.rs", include_str!("../templates/package/lib.rs")),
    ("tests/conformance.rs", include_str!("../templates/package/conformance.rs")),
];

/// Source and experiment of a family's template.
fn template(family: Family) -> (&'static str, &'static str) {
    macro_rules! files {
        ($name:literal) => {
            (
                include_str!(concat!("../templates/", $name, ".rs")),
                include_str!(concat!("../templates/", $name, ".toml")),
            )
        };
    }
    match family {
        Family::Dataset => files!("dataset"),
        Family::Modality => files!("modality"),
        Family::Encoder => files!("encoder"),
        Family::Fusion => files!("fusion"),
        Family::Objective => files!("objective"),
        Family::Optimizer => files!("optimizer"),
        Family::GradientModifier => files!("gradient_modifier"),
        Family::Controller => files!("controller"),
        Family::Strategy => files!("strategy"),
    }
}

impl NewPlugin {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        check_name("plugin", &self.name)?;
        let listed = plugins_of(self.family);
        if listed.iter().any(|row| (row.name)() == self.name) {
            return Err(Error::refused(
                format!("family {} has a plugin `{}` already", self.family.name(), self.name),
                format!("choose another name; `mie plugins {}` describes that one", self.name),
            ));
        }
        let mie = self.sources()?;
        if self.in_tree { self.write_in_tree(&mie, shell) } else { self.write_package(&mie, shell) }
    }

    /// Folder of the sources of mie.
    fn sources(&self) -> Result<PathBuf> {
        let built_from = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = self.mie.clone().unwrap_or_else(built_from);
        if !folder.join("core/conformance/Cargo.toml").is_file() {
            let problem = match &self.mie {
                Some(_) => format!("{} does not hold the sources of mie", folder.display()),
                None => "the sources that this program was built from are gone".to_owned(),
            };
            return Err(Error::refused(problem, "name the folder of a clone: `--mie DIR`"));
        }
        folder.canonicalize().map_err(Error::io("find", &folder))
    }

    fn text(&self, template: &str) -> String {
        template
            .replace("TemplateName", &camel_case(&self.name))
            .replace("template_name", &self.name)
    }

    /// Adds the plugin to a package, which is made where there is none.
    fn write_package(&self, mie: &Path, shell: &mut Shell) -> Result<ExitCode> {
        let folder = self.package.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        let absolute = std::path::absolute(&folder).map_err(Error::io("find", &folder))?;
        let package = absolute.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
        let mut files = Vec::new();
        if folder.join("Cargo.toml").exists() {
            for name in ["base.toml", "src/lib.rs"] {
                if !folder.join(name).is_file() {
                    return Err(Error::refused(
                        format!(
                            "{} is no package that `mie new plugin` wrote: it has no {name}",
                            folder.display()
                        ),
                        "name another folder, and bring the file of the plugin over by hand",
                    ));
                }
            }
        } else {
            check_name("package", &package)?;
            let mie = mie.display().to_string();
            for (path, text) in PACKAGE {
                files.push((
                    path.to_owned(),
                    text.replace("PACKAGE", &package).replace("MIE", &mie),
                ));
            }
        }
        let (source, experiment) = template(self.family);
        files.push((format!("src/{}.rs", self.name), self.text(source)));
        files.push((format!("experiments/{}.toml", self.name), self.text(experiment)));
        let created = files.len() > 2;
        write_all(&folder, &files)?;
        if created {
            // The versions that mie is tested with, of which most are built already, and its style.
            for name in ["Cargo.lock", "rust-toolchain.toml", "rustfmt.toml"] {
                if mie.join(name).is_file() {
                    let to = folder.join(name);
                    std::fs::copy(mie.join(name), &to).map_err(Error::io("write", &to))?;
                }
            }
        }
        add_module(&folder.join("src/lib.rs"), &self.name)?;
        shell.line(&format!("wrote {} in {}", count(files.len(), "file"), folder.display()));
        shell.line(&format!(
            "next  cd {}\n      cargo test\n      cargo run -- plugins {name}\n      cargo run -- \
             train experiments/{name}.toml",
            shell_path(&folder),
            name = self.name
        ));
        Ok(ExitCode::SUCCESS)
    }

    /// Adds the plugin to mie itself.
    fn write_in_tree(&self, mie: &Path, shell: &mut Shell) -> Result<ExitCode> {
        let folder = match self.family {
            Family::GradientModifier => "gradient",
            other => other.name(),
        };
        let folder = mie.join("plugins/src").join(folder);
        let (source, _) = template(self.family);
        let file = format!("{}.rs", self.name);
        write_all(&folder, &[(file.clone(), self.text(source))])?;
        add_module(&folder.join("mod.rs"), &self.name)?;
        shell.line(&format!(
            "wrote {}\nnext  cargo xtask gen    its example and the schema\n      a line in \
             CHANGELOG.md\n      cargo xtask test",
            folder.join(file).display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses what cannot name a module of Rust.
fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain);
    if fits && !TAKEN.split(' ').any(|word| word == name) {
        return Ok(());
    }
    Err(Error::refused(
        format!("`{name}` cannot name a {what}"),
        "take small letters, digits and `_`, a letter first, and no word that Rust or mie keeps, \
         e.g. `my_method`",
    ))
}

/// `my_method` as `MyMethod`.
fn camel_case(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    };
    name.split('_').map(capital).collect()
}

/// Writes new files below a folder, or none where one of them exists.
fn write_all(folder: &Path, files: &[(String, String)]) -> Result<()> {
    if let Some((taken, _)) = files.iter().find(|(path, _)| folder.join(path).exists()) {
        return Err(Error::refused(
            format!("{} exists already", folder.join(taken).display()),
            "choose another name or folder",
        ));
    }
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// Adds a `pub mod` line among those of a file, in alphabetical order.
fn add_module(file: &Path, name: &str) -> Result<()> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    std::fs::write(file, with_module(&text, name)).map_err(Error::io("write", file))
}

fn with_module(text: &str, name: &str) -> String {
    let declares = |line: &&str| line.starts_with("pub mod ") && line.ends_with(';');
    let mut modules: BTreeSet<String> = text.lines().filter(declares).map(str::to_owned).collect();
    let first = text.lines().position(|line| declares(&line)).unwrap_or(text.lines().count());
    modules.insert(format!("pub mod {name};"));
    let others: Vec<&str> = text.lines().filter(|line| !declares(line)).collect();
    let (before, after) = others.split_at(first.min(others.len()));
    let lines = before.iter().copied().chain(modules.iter().map(String::as_str));
    lines.chain(after.iter().copied()).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_rust_cannot_take_are_refused() {
        for name in ["", "Sam", "3d", "my-method", "a b", "fn", "self", "core", "mie_core", "é"] {
            let error = check_name("plugin", name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}` cannot name a plugin")), "{error}");
        }
        for name in ["my_method", "i3d", "a"] {
            check_name("plugin", name).unwrap();
        }
    }

    #[test]
    fn types_are_named_in_camel_case() {
        assert_eq!(camel_case("my_3d_method"), "My3dMethod");
    }

    #[test]
    fn modules_are_declared_in_alphabetical_order_and_once() {
        let text = "//! Words.\n\npub mod a;\npub mod c;\n\n#[cfg(test)]\nmod fixture;\n";
        let expected = text.replace("pub mod c", "pub mod b;\npub mod c");
        assert_eq!(with_module(text, "b"), expected);
        assert_eq!(with_module(text, "a"), text);
        assert_eq!(with_module("//! Words.\n\n", "a"), "//! Words.\n\npub mod a;\n");
    }

    #[test]
    fn every_family_has_a_template_that_is_named_by_placeholders_alone() {
        for family in Family::ALL {
            let (source, experiment) = template(family);
            let registered = format!("register!({}::<TemplateNameConfig>", family.name());
            let registered = source.replace(char::is_whitespace, "").contains(&registered);
            assert!(registered, "{}", family.name());
            assert!(source.contains("#[typetag::serde(name = \"template_name\")]"));
            assert!(experiment.contains("\nname = \"template_name\"\n"), "{}", family.name());
        }
    }
}
