//! The mark of a finished folder: a list of its files and their sizes, written last.
//!
//! A folder without it was left half done; one that does not match it was damaged since. Neither
//! is ever used.

use crate::error::{Result, io_error};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

const FILE_NAME: &str = ".complete";

/// Marks a folder as finished, under a name that says what it is.
pub(crate) fn write(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(FILE_NAME);
    let mut sizes = BTreeMap::new();
    list(folder, "", &mut sizes)?;
    let mut text = format!("{name}\n{} files\n", sizes.len());
    for (file, bytes) in &sizes {
        let _ = writeln!(text, "{bytes} {file}");
    }
    let mut stamp = File::create(&path).map_err(io_error("create", &path))?;
    stamp.write_all(text.as_bytes()).map_err(io_error("write", &path))?;
    stamp.sync_all().map_err(io_error("write", &path))
}

/// Accepts a finished folder; errs with what is wrong with any other.
pub(crate) fn check(folder: &Path, name: &str) -> std::result::Result<(), String> {
    let text = fs::read_to_string(folder.join(FILE_NAME))
        .map_err(|_| "it was left half done".to_owned())?;
    let mut lines = text.lines();
    if lines.next() != Some(name) {
        return Err("it is of another kind".to_owned());
    }
    let promised: Option<usize> =
        lines.next().and_then(|line| line.strip_suffix(" files")).and_then(|n| n.parse().ok());
    let listed: Vec<_> = lines.filter_map(|line| line.split_once(' ')).collect();
    if promised != Some(listed.len()) || listed.is_empty() {
        return Err("its list of files is cut short".to_owned());
    }
    for (bytes, file) in listed {
        match fs::metadata(folder.join(file)) {
            Ok(found) if found.len().to_string() == bytes => {}
            Ok(found) => return Err(format!("`{file}` has {} bytes, not {bytes}", found.len())),
            Err(_) => return Err(format!("`{file}` is missing")),
        }
    }
    Ok(())
}

/// Collects the sizes of all files below a folder, by their paths from the start.
fn list(folder: &Path, prefix: &str, sizes: &mut BTreeMap<String, u64>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().display());
        let kind = entry.file_type().map_err(io_error("look at", &path))?;
        if kind.is_dir() {
            list(&path, &format!("{name}/"), sizes)?;
        } else {
            // Follows links, so that a link that leads nowhere is found here.
            let bytes = fs::metadata(&path).map_err(io_error("look at", &path))?.len();
            sizes.insert(name, bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    fn finished() -> TempDir {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/libc10.so"), "12345").unwrap();
        fs::write(folder.path().join("version"), "2").unwrap();
        write(folder.path(), "cpu").unwrap();
        folder
    }

    #[test]
    fn a_finished_folder_is_accepted() {
        assert_eq!(check(finished().path(), "cpu"), Ok(()));
    }

    #[test]
    fn a_folder_left_half_done_is_refused() {
        let folder = finished();
        fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(check(folder.path(), "cpu").unwrap_err(), "it was left half done");
    }

    #[test]
    fn a_stamp_cut_short_is_refused() {
        let folder = finished();
        let path = folder.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).unwrap();
        let last_line = text.trim_end().rfind('\n').unwrap();
        for kept in [0, "cpu\n".len(), last_line + 1] {
            fs::write(&path, &text[..kept]).unwrap();
            assert!(check(folder.path(), "cpu").is_err(), "accepted {kept} bytes of the stamp");
        }
    }

    #[test]
    fn a_file_of_another_size_is_refused_by_name() {
        let folder = finished();
        fs::write(folder.path().join("lib/libc10.so"), "123").unwrap();
        let reason = check(folder.path(), "cpu").unwrap_err();
        assert_eq!(reason, "`lib/libc10.so` has 3 bytes, not 5");
    }

    #[test]
    fn a_missing_file_is_refused_by_name() {
        let folder = finished();
        fs::remove_file(folder.path().join("version")).unwrap();
        assert_eq!(check(folder.path(), "cpu").unwrap_err(), "`version` is missing");
    }

    #[test]
    fn a_folder_of_another_kind_is_refused() {
        assert_eq!(check(finished().path(), "cuda").unwrap_err(), "it is of another kind");
    }
}
