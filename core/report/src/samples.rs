//! Run directories for the tests of this crate.

use mie_record::{At, Cost, DataRecord, Manifest, OutputMetrics, RunDir, Summary};
use tempfile::TempDir;

/// Describes a run to be written; its wall time is 100 seconds for seed 0, 200 for seed 1, ...
pub(crate) struct Sample {
    manifest: Manifest,
    summary: Summary,
}

impl Sample {
    pub(crate) fn new(experiment: &str, seed: u64) -> Self {
        let fingerprint = format!("seed{seed}");
        let manifest = Manifest {
            format: Manifest::FORMAT,
            experiment: experiment.to_owned(),
            fingerprint: fingerprint.clone(),
            settings: String::new(),
            seed,
            created_unix_seconds: 1_700_000_000,
            versions: [].into(),
            commit: None,
            device: "cpu".to_owned(),
            threads: 1,
            host_os: "linux".to_owned(),
            data: ["train", "test"].map(|split| data(split, "5a5a")).into(),
            marks: Vec::new(),
            plugins: [].into(),
            deviations: [].into(),
            weights: [].into(),
            input_files: [].into(),
        };
        let summary = Summary {
            experiment: experiment.to_owned(),
            fingerprint,
            seed,
            finished_unix_seconds: 1_700_000_600,
            selection: "valid accuracy fused".to_owned(),
            marks: Vec::new(),
            best: At::default(),
            outputs: [].into(),
            confusion: [].into(),
            phases: Vec::new(),
            cost: Cost { wall_seconds: 100.0 * (seed + 1) as f64, ..Cost::default() },
        };
        Self { manifest, summary }
    }

    /// Scores one output on the test split: macro-F1 is half, the precision a quarter of it.
    pub(crate) fn scored(mut self, output: &str, accuracy: f64) -> Self {
        let metrics = OutputMetrics {
            accuracy,
            macro_f1: accuracy / 2.0,
            mean_average_precision: accuracy / 4.0,
            loss: 1.0,
            samples: 100,
        };
        let test = self.summary.outputs.entry("test".to_owned()).or_default();
        test.insert(output.to_owned(), metrics);
        self
    }

    pub(crate) fn marked(mut self, mark: &str) -> Self {
        self.summary.marks.push(mark.to_owned());
        self
    }

    pub(crate) fn tested_on(mut self, data_fingerprint: &str) -> Self {
        self.manifest.data = vec![data("train", "5a5a"), data("test", data_fingerprint)];
        self
    }

    pub(crate) fn with_settings(mut self, settings: &str) -> Self {
        self.manifest.fingerprint = format!("{}-{settings}", self.manifest.fingerprint);
        settings.clone_into(&mut self.manifest.settings);
        self
    }

    pub(crate) fn with_fingerprint(mut self, fingerprint: &str) -> Self {
        fingerprint.clone_into(&mut self.manifest.fingerprint);
        fingerprint.clone_into(&mut self.summary.fingerprint);
        self
    }

    /// Writes a run that has not finished.
    pub(crate) fn start(&self, root: &TempDir) -> RunDir {
        let Manifest { experiment, fingerprint, .. } = &self.manifest;
        let run = RunDir::create(root.path(), experiment, fingerprint).unwrap();
        run.write_manifest(&self.manifest).unwrap();
        run
    }

    /// Writes a finished run.
    pub(crate) fn finish(&self, root: &TempDir) -> RunDir {
        let run = self.start(root);
        run.write_summary(&self.summary).unwrap();
        run
    }
}

fn data(split: &str, fingerprint: &str) -> DataRecord {
    DataRecord {
        dataset: "voices".to_owned(),
        split: split.to_owned(),
        samples: 100,
        fingerprint: fingerprint.to_owned(),
        skipped: Vec::new(),
        classes: Vec::new(),
    }
}
