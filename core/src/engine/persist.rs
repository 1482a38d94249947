//! Saving a run so that it goes on exactly where it stopped, and going on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mie_record::{Event, RunDir};
use serde_json::Value;

use super::Observer;
use super::checkpoint::{self, Bundle, on_device};
use super::trainer::{Cursor, Trainer};
use crate::error::{Error, Result};
use crate::family::{Persist, State};

impl Trainer<'_> {
    fn weights(&self) -> Result<State> {
        Ok(State { tensors: self.built.parameters.export()?, values: serde_json::Map::new() })
    }

    /// Everything that decides what the model answers: weights, and what the fusion remembers.
    pub(super) fn model_state(&self) -> Result<Bundle> {
        let mut bundle = Bundle::default();
        bundle.put("weights", self.weights()?);
        bundle.put("fusion", self.built.model.fusion.state()?);
        Ok(bundle)
    }

    fn parts(&mut self) -> Vec<(String, &mut dyn Persist)> {
        let mut parts: Vec<(String, &mut dyn Persist)> = vec![
            ("optimizer".to_owned(), self.built.optimizer.plugin.as_mut()),
            ("strategy".to_owned(), self.built.strategy.plugin.as_mut()),
            ("fusion".to_owned(), self.built.model.fusion.as_mut()),
        ];
        for (index, plugged) in self.built.objectives.iter_mut().enumerate() {
            parts.push((format!("objectives.{index}"), plugged.plugin.as_mut()));
        }
        for (index, plugged) in self.built.modifiers.iter_mut().enumerate() {
            parts.push((format!("gradient_modifiers.{index}"), plugged.plugin.as_mut()));
        }
        for (index, plugged) in self.built.controllers.iter_mut().enumerate() {
            parts.push((format!("controllers.{index}"), plugged.plugin.as_mut()));
        }
        parts
    }

    pub(super) fn save(&mut self) -> Result<()> {
        let started = Instant::now();
        self.write()?;
        // In the next checkpoint, as this one is written.
        self.cursor.cost.save_seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.book_wall();
        self.cursor.metrics_position = self.metrics.position()?;
        let mut bundle = Bundle::default();
        bundle.put("weights", self.weights()?);
        for (name, part) in self.parts() {
            bundle.put(name, part.state()?);
        }
        let bug = |e: serde_json::Error| Error::Bug(format!("a cursor cannot be written: {e}"));
        let frozen: Vec<String> = self
            .built
            .parameters
            .groups()
            .filter(|(_, group)| group.frozen)
            .map(|(id, _)| id.to_string())
            .collect();
        let mut cursor = State::default();
        cursor.values.insert("at".to_owned(), serde_json::to_value(&self.cursor).map_err(bug)?);
        cursor.values.insert("frozen".to_owned(), Value::from(frozen));
        bundle.put("cursor", cursor);
        let last = checkpoint::last_path(&self.run);
        if last.exists() {
            let previous = checkpoint::previous_path(&self.run);
            std::fs::rename(&last, &previous).map_err(Error::io("rename", &last))?;
        }
        bundle.write(&last)?;
        self.tidy()
    }

    /// Removes weights and refreshes that neither of the two checkpoints refers to.
    fn tidy(&mut self) -> Result<()> {
        let current = self.files();
        let kept = self.kept.union(&current).cloned().collect();
        checkpoint::keep_only(&self.run.checkpoints_path(), "best-", &kept)?;
        checkpoint::keep_only(&self.run.refresh_path(), "phase", &kept)?;
        self.kept = current;
        Ok(())
    }

    /// Files that the run as it stands needs beside a checkpoint.
    fn files(&self) -> BTreeSet<PathBuf> {
        let best = self.cursor.best.as_ref();
        let refreshed = self.cursor.refreshed.values();
        best.map(|best| checkpoint::best_path(&self.run, best.at.step))
            .into_iter()
            .chain(refreshed.map(|name| checkpoint::refresh_path(&self.run, name)))
            .collect()
    }

    /// Whether there is a checkpoint to go on from, whole or not.
    pub(super) fn has_checkpoint(&self) -> bool {
        checkpoint::last_path(&self.run).exists() || checkpoint::previous_path(&self.run).exists()
    }

    /// Gives encoders the published weights that they start from.
    pub(super) fn load_weights(&mut self) -> Result<()> {
        let (experiment, parameters) = (&self.resolved.experiment, &self.built.parameters);
        self.loaded = crate::weights::load(experiment, parameters, &self.data_dir)?;
        Ok(())
    }

    /// Loads the last checkpoint, or the one before it should that be damaged.
    pub(super) fn resume(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let mut damaged = Vec::new();
        for file in [checkpoint::last_path(&self.run), checkpoint::previous_path(&self.run)] {
            if !file.exists() {
                continue;
            }
            match Checkpoint::read(&self.run, &file) {
                Ok(checkpoint) => {
                    self.load(checkpoint)?;
                    let from = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.record(&Event::Resumed { at: self.at(), from }, observer)?;
                    return self.warn_all(damaged, observer);
                }
                Err(error) => {
                    damaged.push(format!("{error}; falling back to an earlier state"));
                    // Out of the way, or the next save would put it in the place of a whole one.
                    let aside = file.with_extension("damaged");
                    std::fs::rename(&file, &aside).map_err(Error::io("rename", &file))?;
                }
            }
        }
        // No whole checkpoint: the run starts over.
        if !damaged.is_empty() {
            self.load_weights()?;
            self.check_weights()?;
        }
        self.metrics.truncate_to(0)?;
        if !damaged.is_empty() {
            damaged.push("no checkpoint is left: the run starts over".to_owned());
        }
        self.warn_all(damaged, observer)
    }

    fn load(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let Checkpoint { mut bundle, cursor, at, refreshed } = checkpoint;
        self.cursor = at;
        self.built.parameters.import(&bundle.take("weights").tensors)?;
        let frozen: Vec<String> = cursor
            .values
            .get("frozen")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        self.isolate(self.cursor.isolated.clone());
        for id in self.built.parameters.ids() {
            self.set_frozen(&id, frozen.contains(&id.to_string()));
        }
        let device = self.device;
        for (name, part) in self.parts() {
            part.load_state(on_device(bundle.take(&name), device)?)?;
        }
        for (index, state) in refreshed {
            let state = on_device(state, device)?;
            if let Some(modifier) = self.built.modifiers.get_mut(index) {
                modifier.plugin.load_refreshed(state)?;
            }
        }
        self.kept = self.files();
        self.metrics.truncate_to(self.cursor.metrics_position)?;
        Ok(())
    }
}

/// A checkpoint with everything it refers to, read whole before a run takes it over.
struct Checkpoint {
    bundle: Bundle,
    cursor: State,
    at: Cursor,
    /// What modifiers had computed from the data, by their position.
    refreshed: BTreeMap<usize, State>,
}

impl Checkpoint {
    fn read(run: &RunDir, file: &Path) -> Result<Self> {
        let mut bundle = Bundle::read(file)?;
        let cursor = bundle.take("cursor");
        let at = cursor.values.get("at").cloned().unwrap_or(Value::Null);
        let at: Cursor = serde_json::from_value(at).map_err(|e| Error::Checkpoint {
            file: file.to_owned(),
            problem: format!("its cursor cannot be read: {e}"),
        })?;
        let refreshed = at
            .refreshed
            .iter()
            .map(|(index, name)| {
                let file = checkpoint::refresh_path(run, name);
                Ok((*index, Bundle::read(&file)?.take("refreshed")))
            })
            .collect::<Result<_>>()?;
        Ok(Self { bundle, cursor, at, refreshed })
    }
}
