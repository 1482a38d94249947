//! What a run refuses, leaves out and records of its data.

use mie_core::engine::Existing;

use crate::support::{SMALL, Watcher, experiment, finished, train_in};

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
