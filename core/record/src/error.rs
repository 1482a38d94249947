//! The one error type of this crate: every message names its file and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in a run directory, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Reason given by the system.
        source: io::Error,
    },
    /// A JSON file does not hold what belongs there.
    #[error("{path}: {source}; was it edited, or written by another version of mie?")]
    Json {
        /// The file.
        path: PathBuf,
        /// What was found and expected, with line and column where known.
        source: serde_json::Error,
    },
    /// A complete line of `metrics.jsonl` is not an event.
    #[error("{path}: line {line} is not an event: {source}; remove the line to read the rest")]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, counted from 1.
        line: usize,
        /// What was found and expected.
        source: serde_json::Error,
    },
    /// A newer program wrote the run directory.
    #[error("{path}: format {found}, expected at most {known}; read it with a newer mie")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Format number found.
        found: u32,
        /// Highest format number this version reads.
        known: u32,
    },
    /// A directory is not a run.
    #[error("{path}: no `manifest.json` here, so not a run; name a directory that holds one")]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// A run with this experiment and fingerprint is already there.
    #[error(
        "{path}: this run exists already; resume it, or change its seed, a setting or the root"
    )]
    Exists {
        /// The run directory.
        path: PathBuf,
    },
    /// Another process writes to the run directory.
    #[error("{path}: in use by {holder}; wait until it ends, or stop it")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Process and host that hold the lock, as far as the lock file tells.
        holder: String,
    },
    /// A name cannot become a directory below the root of all runs.
    #[error("{what} `{found}`, expected {expected}")]
    Name {
        /// Which name.
        what: &'static str,
        /// The name found.
        found: String,
        /// Names allowed.
        expected: &'static str,
    },
    /// `metrics.jsonl` cannot be cut at the offset a checkpoint recorded.
    #[error(
        "{path}: cannot cut at byte {offset} of {length}, expected the end of a line; \
         the file and the checkpoint are not of the same run"
    )]
    Offset {
        /// The file.
        path: PathBuf,
        /// Offset asked for.
        offset: u64,
        /// Length of the file.
        length: u64,
    },
    /// A `TensorBoard` event file is damaged.
    #[error("{path}: record at byte {offset}: {problem}")]
    Record {
        /// The event file.
        path: PathBuf,
        /// Where the damaged record starts.
        offset: usize,
        /// What was found and expected.
        problem: &'static str,
    },
}

impl Error {
    /// Wraps an input/output error with the operation and path it belongs to.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }

    /// Wraps a JSON error with the file it belongs to.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { path: path.to_owned(), source }
    }
}
