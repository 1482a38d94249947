//! What a run writes down: events, scalars for TensorBoard, the manifest.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use mie_record::{Event, Manifest};

use super::trainer::Trainer;
use super::{Observer, TrainOptions};
use crate::error::{Error, Result};

impl Trainer<'_> {
    /// Holds a run that goes on against what its record says it was made of.
    fn check_record(&self) -> Result<()> {
        let manifest = self.run.read_manifest()?;
        let data = self.source.records();
        if let Some((now, then)) = data.iter().zip(&manifest.data).find(|(now, then)| now != then) {
            return Err(Error::refused(
                format!(
                    "the {} split of `{}` is not what run {} was started with: {} samples of \
                     fingerprint {}, then {} of {}",
                    now.split,
                    now.dataset,
                    self.run.path().display(),
                    now.samples,
                    now.fingerprint,
                    then.samples,
                    then.fingerprint
                ),
                "bring the data back to what they were, or start a new run in another --runs-dir",
            ));
        }
        self.check_input_files(&manifest)?;
        self.check_weights()
    }

    /// Holds the files that inputs read beside the data against those of the run's start.
    fn check_input_files(&self, manifest: &Manifest) -> Result<()> {
        for (modality, files) in &manifest.input_files {
            for (file, then) in files {
                let read = self.source.input_files.get(modality);
                let now = read.and_then(|files| files.get(file));
                if now != Some(then) {
                    return Err(Error::refused(
                        format!(
                            "the file `{file}` that modality `{modality}` reads is not that which \
                             run {} was started with: its SHA-256 is {}, then {then}",
                            self.run.path().display(),
                            now.map_or("none", String::as_str)
                        ),
                        "bring the file back, or start a new run in another --runs-dir",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Holds the published weights, where they were read, against those of the run's start.
    pub(super) fn check_weights(&self) -> Result<()> {
        let then = self.run.read_manifest()?.weights;
        for (modality, now) in &self.loaded.records {
            let before = then.get(modality).map(|then| then.sha256.as_str());
            if before != Some(now.sha256.as_str()) {
                return Err(Error::refused(
                    format!(
                        "the weights `{}` of modality `{modality}` are not those that run {} was \
                         started with: their SHA-256 is {}, then {}",
                        now.file,
                        self.run.path().display(),
                        now.sha256,
                        before.unwrap_or("none")
                    ),
                    "bring the file back, or start a new run in another --runs-dir",
                ));
            }
        }
        Ok(())
    }

    /// Marks a run that goes on where its bits will not be the same.
    pub(super) fn note_place(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let manifest = self.run.read_manifest()?;
        let threads = tch::get_num_threads() as usize;
        let device = crate::device::name(self.device);
        if (threads, &device) != (manifest.threads, &manifest.device) {
            self.cursor.marks.insert("resumed elsewhere".to_owned());
            self.warn(
                &format!(
                    "the run was started on {} (threads: {}) and goes on on {device} (threads: \
                     {threads}): it will not end bit for bit where it would have",
                    manifest.device, manifest.threads
                ),
                observer,
            )?;
        }
        Ok(())
    }

    pub(super) fn start_record(&self, options: &TrainOptions) -> Result<()> {
        if self.run.manifest_path().exists() {
            return self.check_record();
        }
        let experiment = &self.resolved.experiment;
        let mut plugins: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |family: &str, name: &str| {
            plugins.entry(family.to_owned()).or_default().push(name.to_owned());
        };
        add("dataset", experiment.dataset.typetag_name());
        add("fusion", experiment.fusion.typetag_name());
        add("optimizer", experiment.optimizer.typetag_name());
        add("strategy", experiment.strategy.typetag_name());
        for modality in experiment.modalities.values() {
            add("modality", modality.input.typetag_name());
            add("encoder", modality.encoder.typetag_name());
        }
        experiment.also_evaluate.iter().for_each(|p| add("fusion", p.typetag_name()));
        experiment.objectives.iter().for_each(|p| add("objective", p.typetag_name()));
        experiment.controllers.iter().for_each(|p| add("controller", p.typetag_name()));
        experiment
            .gradient_modifiers
            .iter()
            .for_each(|p| add("gradient_modifier", p.typetag_name()));
        let mut deviations = experiment.deviations.clone();
        for (fact, value) in self.source.facts() {
            deviations.insert(format!("dataset.{fact}"), value.to_string());
        }
        deviations.insert("data_dir".to_owned(), options.data_dir.display().to_string());
        self.run.write_config(&self.resolved.to_toml()?)?;
        self.run.write_manifest(&Manifest {
            format: Manifest::FORMAT,
            experiment: experiment.name.clone(),
            fingerprint: self.resolved.fingerprint()?,
            settings: self.resolved.settings()?,
            seed: experiment.seed,
            created_unix_seconds: now(),
            versions: BTreeMap::from([
                ("mie".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
                ("tch".to_owned(), crate::device::TCH_VERSION.to_owned()),
                ("libtorch".to_owned(), crate::device::LIBTORCH_VERSION.to_owned()),
            ]),
            commit: options.commit.clone(),
            device: crate::device::name(self.device),
            threads: tch::get_num_threads() as usize,
            host_os: std::env::consts::OS.to_owned(),
            data: self.source.records(),
            marks: self.cursor.marks.iter().cloned().collect(),
            plugins,
            deviations,
            weights: self.loaded.records.clone(),
            input_files: self.source.input_files.clone(),
        })?;
        Ok(())
    }

    pub(super) fn record(&mut self, event: &Event, observer: &mut dyn Observer) -> Result<()> {
        self.metrics.write(event)?;
        self.draw(event)?;
        observer.event(event);
        Ok(())
    }

    /// Passes the scalars of an event on to TensorBoard.
    fn draw(&mut self, event: &Event) -> Result<()> {
        let (step, scalars): (u64, Vec<(String, f64)>) = match event {
            Event::Step {
                at,
                terms,
                gradient_norm,
                group_gradient_norms,
                head_gradient_cosines,
                learning_rate,
            } => {
                let mut all: Vec<_> =
                    terms.iter().map(|(name, value)| (format!("step/{name}"), *value)).collect();
                all.extend(gradient_norm.map(|norm| ("step/gradient_norm".to_owned(), norm)));
                let named = |prefix: &'static str| {
                    move |(name, value): (&String, &f64)| (format!("{prefix}/{name}"), *value)
                };
                all.extend(group_gradient_norms.iter().map(named("step/gradient_norm")));
                all.extend(head_gradient_cosines.iter().map(named("step/head_gradient_cosine")));
                all.push(("step/learning_rate".to_owned(), *learning_rate));
                (at.step, all)
            }
            Event::Epoch { at, train, .. } => {
                let named = |(name, value): (&String, &f64)| (format!("train/{name}"), *value);
                (at.step, train.iter().map(named).collect())
            }
            // After the last phase the selected weights are scored: no point of a curve.
            Event::Evaluation { .. } if self.cursor.phase.is_none() => return Ok(()),
            Event::Evaluation { at, split, outputs, .. } => {
                let each = |(name, metrics): (&String, &mie_record::OutputMetrics)| {
                    [
                        (format!("{split}/{name}/accuracy"), metrics.accuracy),
                        (format!("{split}/{name}/macro_f1"), metrics.macro_f1),
                        (format!("{split}/{name}/loss"), metrics.loss),
                    ]
                };
                (at.step, outputs.iter().flat_map(each).collect())
            }
            _ => return Ok(()),
        };
        let scalars = scalars.iter().map(|(name, value)| (name.as_str(), *value));
        match &mut self.board {
            Some(board) => Ok(board.scalars(step, scalars)?),
            None => Ok(()),
        }
    }

    pub(super) fn warn(&mut self, message: &str, observer: &mut dyn Observer) -> Result<()> {
        if !self.cursor.warned.insert(message.to_owned()) {
            return Ok(());
        }
        self.record(&Event::Warning { at: self.at(), message: message.to_owned() }, observer)
    }

    pub(super) fn warn_all(
        &mut self,
        messages: Vec<String>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        messages.into_iter().try_for_each(|message| self.warn(&message, observer))
    }
}

/// Seconds since 1970-01-01 UTC.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
