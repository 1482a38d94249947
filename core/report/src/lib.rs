//! Tables from run directories, on `mie-record` alone.
//!
//! Nothing here computes with tensors, so this crate builds in seconds and a table needs no more
//! than the directories: not the machine, the data or the libraries the runs were made with.
//!
//! [`compare`] reads runs and groups the finished ones by experiment, over seeds, into a
//! [`Comparison`]: plain data to serialize, or to print as [text](Comparison::text),
//! [Markdown](Comparison::markdown), [CSV](Comparison::csv) or [JSON](Comparison::json).
//!
//! ```
//! # fn main() -> mie_record::Result<()> {
//! # let temporary = tempfile::tempdir().unwrap();
//! # let root = temporary.path();
//! let runs = mie_record::RunDir::list(root)?;
//! let comparison = mie_report::compare(&runs);
//! assert_eq!(comparison.text(None), "no finished runs\n");
//! # Ok(())
//! # }
//! ```
//!
//! [`Overview`] tells where one run stands, finished or not.
//!
//! A table does not hide what weakens it. A mark beside an experiment, explained below the table,
//! says that its weights were selected on the test split, that samples were skipped, that it was
//! tested on other data, or that several of its runs share a seed; runs that have not finished
//! are listed. The number of seeds stands in every cell.

mod comparison;
mod overview;
mod render;
#[cfg(test)]
mod samples;
mod significance;
mod spread;

pub use comparison::{Comparison, Row, Scores, Unfinished, compare};
pub use overview::{Overview, Refresh, State};
pub use significance::{holm, paired_p_value};
pub use spread::Spread;
