//! The one error type of the project, its variants named after who must act.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, what was expected and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration cannot be read or does not describe a run.
    #[error("{at}: {problem}")]
    Config {
        /// File and dotted path, or the command-line option, that holds the value.
        at: String,
        /// What was found, what was expected and, where known, the likely intent.
        problem: String,
    },
    /// A number lies outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    Range {
        /// Field of the plugin's own table.
        field: String,
        /// Value found.
        found: String,
        /// Interval or set of values allowed.
        expected: String,
    },
    /// The parts of an experiment do not fit together; refused before the first step.
    #[error("{reason}\n  what to do: {remedy}")]
    Refused {
        /// Which parts and why they cannot be combined.
        reason: String,
        /// The change that makes the experiment possible.
        remedy: String,
    },
    /// A file of a dataset is missing, broken or not what its format says.
    #[error("{}: {problem}", file.display())]
    Data {
        /// The file.
        file: PathBuf,
        /// What was found and what was expected, with the position where it has one.
        problem: String,
    },
    /// Tensors or tables have sizes that do not fit.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Tensor, layer or table concerned.
        what: String,
        /// Size or values expected.
        expected: String,
        /// Size or values found.
        found: String,
    },
    /// A loss, gradient or score is not a finite number.
    #[error("{what} is not finite at step {step}: {detail}")]
    NonFinite {
        /// Loss term or tensor.
        what: String,
        /// Global step at which it was computed.
        step: u64,
        /// Value found and what usually helps.
        detail: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A plugin failed; names it and keeps its own error.
    #[error("in {plugin}: {source}")]
    Plugin {
        /// Family and name of the plugin.
        plugin: String,
        /// Its error.
        source: Box<Error>,
    },
    /// The operating system refused a file operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Reason given by the system.
        source: std::io::Error,
    },
    /// A run directory cannot be read or written.
    #[error(transparent)]
    Record(#[from] mie_record::Error),
    /// A checkpoint does not belong to this experiment or is damaged.
    #[error("{}: {problem}", file.display())]
    Checkpoint {
        /// The checkpoint file.
        file: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// Something that must not happen whatever the user does.
    #[error("internal error: {0}; please report it with the command that shows it")]
    Bug(String),
}

impl Error {
    /// Wraps an input/output error with the operation and path it belongs to.
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    /// Makes a data error about `file`.
    pub fn data(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Data { file: file.into(), problem: problem.into() }
    }

    /// Makes a refusal with the change that would lift it.
    pub fn refused(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), remedy: remedy.into() }
    }

    /// Makes a shape error.
    pub fn shape(
        what: impl Into<String>,
        expected: impl std::fmt::Debug,
        found: impl std::fmt::Debug,
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        }
    }

    /// Names the plugin in which the error arose, once.
    pub fn in_plugin(self, plugin: &str) -> Self {
        match self {
            Self::Plugin { .. } => self,
            source => Self::Plugin { plugin: plugin.to_owned(), source: Box::new(source) },
        }
    }

    /// Process exit status: 2 when the user's configuration is at fault, 1 for a failed run.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config { .. }
            | Self::Range { .. }
            | Self::Refused { .. }
            | Self::Record(mie_record::Error::NotARun { .. }) => 2,
            Self::Plugin { source, .. } => source.exit_status(),
            _ => 1,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(first_line(&error.to_string()))
    }
}

/// Keeps the message of a libtorch error and drops its C++ stack trace.
fn first_line(message: &str) -> String {
    let message = message.strip_prefix("Internal torch error: ").unwrap_or(message);
    message.lines().next().unwrap_or_default().trim().to_owned()
}

/// Refuses a number outside its range.
///
/// # Errors
/// [`Error::Range`] with `field`, `value` and `expected` when `holds` is false.
pub fn ensure_range(
    field: &str,
    expected: &str,
    value: impl std::fmt::Display,
    holds: bool,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Range {
        field: field.to_owned(),
        found: value.to_string(),
        expected: expected.to_owned(),
    })
}

/// Runs code of a plugin, turning a panic (tch's operators panic) into a named error.
///
/// # Errors
/// The closure's own error, or the first line of its panic message, inside [`Error::Plugin`].
pub fn guarded<T>(plugin: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.in_plugin(plugin)),
        Err(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            // tch's operators unwrap a `TchError`: its debug form carries the C++ message.
            let message = message.split("Torch(\"").last().unwrap_or(message);
            let message = message.split("\\n").next().unwrap_or(message);
            Err(Error::Torch(first_line(message)).in_plugin(plugin))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_operator_becomes_an_error_that_names_the_plugin() {
        let error = guarded("fusion `made_up`", || {
            let left = tch::Tensor::zeros([2], tch::kind::FLOAT_CPU);
            let right = tch::Tensor::zeros([3], tch::kind::FLOAT_CPU);
            Ok(left + right)
        })
        .unwrap_err()
        .to_string();
        assert!(error.starts_with("in fusion `made_up`: libtorch: "), "{error}");
        assert!(error.contains("size of tensor"), "{error}");
        assert!(!error.contains('\n') && !error.contains("\\n"), "{error}");
    }

    #[test]
    fn a_range_error_says_field_value_and_range() {
        let error = ensure_range("rho", "(0, inf)", -1.0, false).unwrap_err().to_string();
        assert_eq!(error, "`rho` is -1, expected (0, inf)");
    }
}
