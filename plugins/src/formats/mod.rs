//! Parsers of file formats that several plugins read.

pub mod ffmpeg;
pub mod flow_files;
pub mod idx;
pub mod lists;
pub mod npy;
pub mod picture;
pub mod python_literal;
pub mod tvl1;
pub mod wav;
pub mod words;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mie_core::prelude::*;

/// Most bytes of a file, packed or unpacked: MNIST has 47 million.
const LARGEST_BYTES: u64 = 1 << 30;

/// Reads a whole file, unless it is too large to be what it should be.
fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut content = Vec::new();
    if size <= LARGEST_BYTES {
        content
            .try_reserve_exact(size as usize)
            .map_err(|error| Error::data(path, format!("has {size} bytes: {error}")))?;
        // A file may grow while it is read.
        file.take(LARGEST_BYTES + 1).read_to_end(&mut content).map_err(Error::io("read", path))?;
    }
    ensure_readable(path, size.max(content.len() as u64))?;
    Ok(content)
}

/// Refuses a file that is too large to be what it should be.
fn ensure_readable(path: &Path, size: u64) -> Result<()> {
    if size > LARGEST_BYTES {
        let problem = format!("has {size} bytes, at most {LARGEST_BYTES} are read");
        return Err(Error::data(path, problem));
    }
    Ok(())
}

/// Real files for tests.
#[cfg(test)]
pub(crate) mod real_data {
    use std::path::{Path, PathBuf};

    /// Finds a folder of real data: in `MIE_TEST_DATA`, or else beside the workspace.
    ///
    /// Without it a test has nothing to look at and is skipped, except where `CI` is `true`.
    #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
    pub(crate) fn folder(name: &str) -> Option<PathBuf> {
        let root = std::env::var_os("MIE_TEST_DATA").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
            PathBuf::from,
        );
        let folder = root.join(name);
        if folder.is_dir() {
            return Some(folder);
        }
        let problem = format!("{} does not exist, set MIE_TEST_DATA", folder.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{problem}");
        eprintln!("skipped: {problem}");
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_any_real_one_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endless.wav");
        // Sparse: it takes no space on the disk.
        File::create(&path).unwrap().set_len(1 << 31).unwrap();
        for error in [wav::read(&path).map(|_| ()), idx::read(&path).map(|_| ())] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("endless.wav: has 2147483648 bytes, at most"), "{error}");
        }
        assert_eq!(read_whole(&path.with_file_name("absent")).unwrap_err().exit_status(), 1);
    }

    #[test]
    fn whole_files_are_read_as_they_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"bytes").unwrap();
        assert_eq!(read_whole(file.path()).unwrap(), b"bytes");
    }
}
