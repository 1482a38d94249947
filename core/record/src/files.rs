//! Reads and writes whole files; every error names the path and the operation.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Replaces a file in one go: after a crash it holds the old bytes or the new ones.
///
/// The bytes go to a temporary name in the same directory, are synced and renamed; then the
/// directory is synced. Two processes must not write one file at the same time
/// ([`RunDir::lock`](crate::RunDir::lock) sees to that within a run).
///
/// # Errors
/// [`Error::Io`] naming the step that failed; the old file is then untouched, unless only the
/// sync of the directory failed.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_path(path);
    let replaced = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("replace", path)));
    if replaced.is_err() {
        // The error at hand is the one to report; a temporary file left behind does no harm.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    sync_directory_of(path)
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Says whether a file is one that [`atomic_write`] had not finished.
pub(crate) fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".tmp")
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match File::open(directory).and_then(|opened| opened.sync_all()) {
        // Some network file systems cannot sync a directory; the rename has to do there.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result.map_err(Error::io("sync", directory)),
    }
}

/// Does nothing: only Unix can sync a directory.
#[cfg(not(unix))]
fn sync_directory_of(_path: &Path) -> Result<()> {
    Ok(())
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("read", path))
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(Error::json(path))
}

/// Replaces a JSON file, indented for people.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::json(path))?;
    bytes.push(b'\n');
    atomic_write(path, &bytes)
}

/// Says whether something lies at `path`.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io("look for", path))
}

/// Creates a directory and the ones above it.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create directory", path))
}

/// Names this machine, `localhost` when it does not tell.
pub(crate) fn host_name() -> String {
    let told = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    // The name becomes part of a file name.
    let name: String = told.trim().chars().filter(|letter| !r"/\:".contains(*letter)).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names what lies in a directory, sorted.
    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_written_file_replaces_the_old_one_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        atomic_write(&path, b"old").unwrap();
        atomic_write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["summary.json"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        atomic_write(&path, b"old").unwrap();
        // A directory in the way of the temporary name fails the write for any user.
        fs::create_dir(temporary_path(&path)).unwrap();
        let error = atomic_write(&path, b"new").unwrap_err().to_string();
        assert!(error.starts_with("cannot create ") && error.contains("summary.json"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_failed_rename_removes_the_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"").unwrap();
        let error = atomic_write(&path, b"new").unwrap_err().to_string();
        assert!(error.starts_with("cannot replace ") && error.contains("taken"), "{error}");
        assert_eq!(names(directory.path()), ["taken"]);
    }

    #[test]
    fn a_file_without_a_directory_in_its_name_counts_from_the_current_one() {
        assert_eq!(temporary_path(Path::new("a")).parent(), Some(Path::new("")));
        sync_directory_of(Path::new("a")).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = read(&directory.path().join("gone.json")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("gone.json"), "{error}");
    }
}
