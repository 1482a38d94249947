//! A libtorch of the user's own, checked and then used as it is.

use crate::error::{Error, Result};
use crate::python;
use crate::recipe::TORCH_VERSION;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The link in the repository that `.cargo/config.toml` names as `LIBTORCH`.
pub(crate) const PROJECT_LINK: &str = ".libtorch";

/// Where the user wants libtorch taken from.
#[derive(Debug)]
pub(crate) enum Existing {
    Folder(PathBuf),
    Python,
}

impl Existing {
    /// Finds out whether the environment asks for a libtorch other than the project's.
    pub(crate) fn requested(root: &Path) -> Option<Self> {
        // In the order of the bindings' own build script, which looks at the mere presence of
        // LIBTORCH_USE_PYTORCH, whatever its value.
        if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
            return Some(Self::Python);
        }
        let folder = PathBuf::from(env::var_os("LIBTORCH")?);
        (!is_project_link(root, &folder)).then_some(Self::Folder(folder))
    }

    /// Errs unless it is complete and of the one version that the bindings accept.
    pub(crate) fn verify(&self) -> Result<()> {
        let found = match self {
            Self::Folder(folder) => folder_version(folder),
            Self::Python => python::torch_version()?,
        };
        let (place, variable) = (self.place(), self.variable());
        match found {
            Ok(version) if is_wanted(&version) => Ok(()),
            Ok(found) => Err(Error::OwnVersion { place, variable, found }),
            Err(reason) => Err(Error::OwnUnusable { place, variable, reason }),
        }
    }

    /// Says where it is and who asked for it.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Folder(folder) => format!("`{}` (LIBTORCH)", folder.display()),
            Self::Python => {
                format!("the torch of `{}` (LIBTORCH_USE_PYTORCH)", python::interpreter())
            }
        }
    }

    fn variable(&self) -> &'static str {
        match self {
            Self::Folder(_) => "LIBTORCH",
            Self::Python => "LIBTORCH_USE_PYTORCH",
        }
    }
}

/// Tells whether a value of `LIBTORCH` is the project's own, which cargo sets by itself.
pub(crate) fn is_project_link(root: &Path, value: &Path) -> bool {
    let folder = value.parent().and_then(|folder| folder.canonicalize().ok());
    value.file_name() == Some(OsStr::new(PROJECT_LINK)) && folder.as_deref() == Some(root)
}

/// Reads the version of a libtorch; errs with what the folder lacks.
fn folder_version(folder: &Path) -> std::result::Result<String, String> {
    for needed in ["include/torch/csrc/api/include/torch/torch.h", "lib/libtorch_cpu.so"] {
        if !folder.join(needed).exists() {
            return Err(format!("it holds no `{needed}`"));
        }
    }
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    // The first is what the downloads of libtorch carry, the second what Python packages do, and
    // the last two the headers of newer and older releases.
    let versions = [
        read("build-version").lines().next().map(str::to_owned),
        version_in_python(&read("version.py")),
        version_in_header(&read("include/torch/headeronly/version.h")),
        version_in_header(&read("include/torch/csrc/api/include/torch/version.h")),
    ];
    let found = versions.into_iter().flatten().next();
    found.ok_or_else(|| "neither `build-version` nor its headers tell its version".to_owned())
}

/// Reads the line `__version__ = '2.11.0+cu130'`.
fn version_in_python(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim().trim_matches(['\'', '"']).to_owned())
}

/// Puts the version together from `TORCH_VERSION_MAJOR` and its kin.
fn version_in_header(text: &str) -> Option<String> {
    let part = |name: &str| {
        let definitions = text.lines().filter_map(|line| line.strip_prefix("#define "));
        let mut words = definitions.map(str::split_whitespace);
        words.find_map(|mut words| if words.next() == Some(name) { words.next() } else { None })
    };
    let major = part("TORCH_VERSION_MAJOR")?;
    let minor = part("TORCH_VERSION_MINOR")?;
    let patch = part("TORCH_VERSION_PATCH")?;
    Some(format!("{major}.{minor}.{patch}"))
}

/// Compares versions without the suffix that names the build, such as `+cu130`.
fn is_wanted(version: &str) -> bool {
    version.trim().split('+').next() == Some(TORCH_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    fn libtorch(version_file: &str, text: &str) -> TempDir {
        let folder = tempdir().unwrap();
        for file in ["include/torch/csrc/api/include/torch/torch.h", "lib/libtorch_cpu.so"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let path = folder.path().join(version_file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        folder
    }

    fn verify(folder: &TempDir) -> Result<()> {
        Existing::Folder(folder.path().to_owned()).verify()
    }

    #[test]
    fn the_wanted_version_is_accepted_whatever_the_build() {
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n\
                      #define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        for (file, text) in [
            ("build-version", "2.11.0+cpu\n"),
            ("version.py", "from typing import Optional\n__version__ = '2.11.0+cu130'\n"),
            ("include/torch/headeronly/version.h", header),
            ("include/torch/csrc/api/include/torch/version.h", header),
        ] {
            verify(&libtorch(file, text)).unwrap();
        }
    }

    #[test]
    fn another_version_is_refused_and_the_wanted_one_named() {
        for version in ["2.10.0", "2.11.1+cpu", "2.11.0.dev1", "12.11.0"] {
            let message = verify(&libtorch("build-version", version)).unwrap_err().to_string();
            assert!(message.contains(version) && message.contains("2.11.0 exactly"), "{message}");
            assert!(message.contains("unset LIBTORCH"), "{message}");
        }
    }

    #[test]
    fn a_folder_without_libraries_or_version_is_refused_with_the_reason() {
        let empty = tempdir().unwrap();
        let message = verify(&empty).unwrap_err().to_string();
        assert!(message.contains("it holds no `include/"), "{message}");
        let message = verify(&libtorch("notes", "2.11.0")).unwrap_err().to_string();
        assert!(message.contains("tell its version"), "{message}");
    }

    #[test]
    fn only_the_link_in_the_repository_is_the_projects_own() {
        let folder = tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert!(is_project_link(&root, &root.join(".libtorch")));
        assert!(!is_project_link(&root, &root.join("libtorch")));
        assert!(!is_project_link(&root, Path::new("/.libtorch")));
        assert!(!is_project_link(&root, Path::new("")));
    }
}
