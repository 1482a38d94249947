//! Datasets: lists that hold together, in an empty folder or a generated one.

use std::collections::BTreeSet;

use mie_core::catalogue::Plugin;
use mie_core::error::guarded;
use mie_core::prelude::*;

use super::{REPEATS, WORKS, config};
use crate::Findings;

/// Samples of each split whose raw things are looked at.
const LOOKED_AT: usize = 8;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let context = OpenContext { base: folder.path().to_owned(), seed: Seed(3) };
    let config: Box<dyn DatasetConfig> = config((plugin.example)())?;
    let dataset = match guarded("the dataset", || config.open(&context)) {
        Ok(dataset) => dataset,
        Err(error) => {
            // Without its files it can only say so.
            let error = error.to_string();
            let names = error.contains(&*folder.path().to_string_lossy());
            findings.expect("a dataset without files names what it looked for", names, || {
                format!("it says {error}")
            });
            return Ok(());
        }
    };
    let count = dataset.classes().len();
    let told = config.class_count().is_none_or(|told| told == count);
    findings.expect("the number of classes is that told without data", told, || {
        format!("it has {count}, and tells {:?}", config.class_count())
    });
    let again = config.open(&context)?;
    let modalities = dataset.modalities();
    findings.expect(WORKS, !modalities.is_empty() && count > 0, || {
        "it has no modalities or no classes".to_owned()
    });
    let mut ids = BTreeSet::new();
    for split in Split::ALL {
        for (index, sample) in dataset.samples(split).iter().enumerate() {
            let known = sample.label < count;
            findings.expect("labels are those of classes", known, || {
                format!("sample `{}` has label {}", sample.id, sample.label)
            });
            findings.expect("a sample stands once", ids.insert(sample.id.clone()), || {
                format!("`{}` stands twice", sample.id)
            });
            if index < LOOKED_AT {
                for name in &modalities {
                    let raw = dataset.raw(split, index, name)?;
                    let same = again.raw(split, index, name)? == raw;
                    findings.expect(REPEATS, same, || {
                        format!("`{name}` of sample `{}` differs", sample.id)
                    });
                }
            }
        }
    }
    let refused = guarded("", || dataset.raw(Split::Train, 0, "no such modality").map(|_| ()));
    findings.expect("an unknown modality is an error", refused.is_err(), || {
        "`no such modality` has a raw thing".to_owned()
    });
    Ok(())
}
