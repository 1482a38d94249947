//! What a run directory holds: types with their readers and writers, nothing else.
//!
//! A run is a directory, `runs/<experiment>/<fingerprint>/`. Whoever can read files can follow,
//! compare and continue it; there is no server and no database. This crate knows the layout and
//! the formats, and nothing of tensors or training, so that what only reads runs builds in
//! seconds.
//!
//! | entry | holds | type |
//! |---|---|---|
//! | `config.toml` | the resolved configuration, loadable as it is | text |
//! | `manifest.json` | what it was made of: seed, versions, device, data, plugins | [`Manifest`] |
//! | `metrics.jsonl` | everything that happened, one line an event | [`Event`] |
//! | `events/` | the scalars among it, for `TensorBoard` | [`EventWriter`] |
//! | `checkpoints/`, `refresh/` | what a resumed run continues from | written by the engine |
//! | `summary.json` | final scores and costs; where it lies, the run has finished | [`Summary`] |
//! | `lock` | who writes here now | [`RunLock`] |
//!
//! # From start to end
//!
//! ```
//! use mie_record::{At, Event, Manifest, MetricsWriter, RunDir, read_events};
//!
//! # fn main() -> mie_record::Result<()> {
//! # let temporary = tempfile::tempdir().unwrap();
//! # let root = temporary.path();
//! // A run is named by its experiment and the fingerprint of its configuration, and belongs to
//! // one process while that process holds the lock.
//! let run = RunDir::create(root, "cremad/joint", "5f1d2c")?;
//! let _lock = run.lock()?;
//! run.write_config("seed = 0\n")?;
//! run.write_manifest(&Manifest {
//!     format: Manifest::FORMAT,
//!     experiment: "cremad/joint".to_owned(),
//!     fingerprint: "5f1d2c".to_owned(),
//!     settings: "2c".to_owned(),
//!     seed: 0,
//!     created_unix_seconds: 1_700_000_000,
//!     versions: [("mie".to_owned(), "0.1.0".to_owned())].into(),
//!     commit: None,
//!     device: "cpu".to_owned(),
//!     threads: 2,
//!     host_os: "linux".to_owned(),
//!     data: Vec::new(),
//!     marks: Vec::new(),
//!     plugins: [("optimizer".to_owned(), vec!["sgd".to_owned()])].into(),
//!     deviations: [].into(),
//!     weights: [].into(),
//!     input_files: [].into(),
//! })?;
//!
//! // Events are appended. A checkpoint stores the position, and a resumed run cuts back to it.
//! let mut metrics = MetricsWriter::open(&run.metrics_path())?;
//! let at = |step| At { phase: 0, epoch: 0, step };
//! let warning = |step| Event::Warning { at: at(step), message: "slow disk".to_owned() };
//! metrics.write(&warning(1))?;
//! let checkpoint = metrics.position()?;
//! metrics.write(&warning(2))?;
//! drop(metrics);
//!
//! let mut resumed = MetricsWriter::open(&run.metrics_path())?;
//! resumed.truncate_to(checkpoint)?;
//! assert_eq!(read_events(&run.metrics_path())?.events, [warning(1)]);
//!
//! // Found again later; without a summary it has not finished.
//! let runs = RunDir::list(root)?;
//! assert_eq!(runs[0].read_manifest()?.device, "cpu");
//! assert!(runs[0].read_summary()?.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # What holds everywhere
//!
//! - A file is written under a temporary name, synced and renamed ([`atomic_write`]); the two
//!   kinds that grow (`metrics.jsonl`, `events/`) may end in half a record after a crash, which
//!   their readers leave out.
//! - Every number read is the number written, to the bit. JSON has no NaN and no infinity; they
//!   are written as the strings `"NaN"`, `"inf"` and `"-inf"` ([`number`]).
//! - Every error names its file and, where there is one, the line.
//! - A field added later does not change [`Manifest::FORMAT`]; a changed meaning does, and an
//!   older program then refuses to read the directory.

mod error;
mod files;
mod manifest;
mod metrics;
pub mod number;
mod run_dir;
mod summary;
mod tensorboard;

pub use error::{Error, Result};
pub use files::atomic_write;
pub use manifest::{DataRecord, Manifest, ORACLE, SKIPPED_DATA, WeightsRecord};
pub use metrics::{At, Event, EventLog, MetricsWriter, OutputMetrics, read_events};
pub use run_dir::{RunDir, RunLock};
pub use summary::{Cost, PhaseSummary, Summary};
pub use tensorboard::{EventWriter, Scalar, read_scalars};
