//! Parsers of file formats that several plugins read.

pub mod idx;
pub mod wav;

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
