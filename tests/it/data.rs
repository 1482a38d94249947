//! What a run refuses, leaves out and records of its data.

use mie_core::engine::Existing;

use crate::support::{SMALL, Watcher, experiment, finished, only_run, train_in};

/// The error that keeps a run from starting; fails when it left a run directory.
fn refusal(assignments: &[&str]) -> String {
    let runs = tempfile::tempdir().unwrap();
    let resolved = experiment(SMALL, assignments).unwrap();
    let trained = train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default());
    let error = trained.map(|_| ()).unwrap_err().to_string();
    assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 0, "{error}");
    error
}

#[test]
fn mixing_one_of_two_modalities_that_learn_together_is_refused_before_the_run() {
    let one = "data.mixup={ alpha = 1.0, modalities = ['weak'] }";
    let error = refusal(&[one, "strategy={ name = 'joint', epochs = 1 }"]);
    assert!(error.contains("mixes [\"weak\"] and leaves [\"strong\"] out"), "{error}");
    assert!(error.contains("trains one modality at a time"), "{error}");
    // One after the other they may differ.
    let (summary, _, _) = finished(&experiment(SMALL, &[one, "strategy.epochs=[1]"]).unwrap());
    assert_eq!(summary.seed, 0);
}

#[test]
fn a_run_without_excluded_samples_lists_them_and_is_marked() {
    let exclude = "data.exclude=['train-1', 'test-0']";
    let resolved = experiment(SMALL, &[exclude, "strategy.epochs=[1]"]).unwrap();
    let (summary, runs, _) = finished(&resolved);
    assert!(summary.marks.contains(&mie_record::SKIPPED_DATA.to_owned()), "{:?}", summary.marks);
    let manifest = only_run(runs.path()).read_manifest().unwrap();
    assert_eq!(manifest.marks, [mie_record::SKIPPED_DATA]);
    let samples: Vec<u64> = manifest.data.iter().map(|record| record.samples).collect();
    assert_eq!(samples, [119, 40, 39]);
    let skipped: Vec<String> =
        manifest.data.into_iter().flat_map(|record| record.skipped).collect();
    assert_eq!(skipped, ["train-1: excluded by data.exclude", "test-0: excluded by data.exclude"]);
}

#[test]
fn excluding_a_sample_that_does_not_exist_is_refused_with_the_nearest() {
    let error = refusal(&["data.exclude=['trian-1']"]);
    assert!(error.contains("no such sample (did you mean `train-1"), "{error}");
}
