//! `mie bench step`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Args;
use mie_core::config::Resolved;
use mie_core::engine::{StepMeasurement, StepRequest, measure_steps};
use mie_core::{Error, Result};

use super::ensure_writable;
use crate::arguments::{DataDir, DeviceChoice, Overrides};
use crate::format::count;
use crate::interrupt::listen;
use crate::progress::bar;
use crate::tables::{percent, table};
use crate::terminal::Shell;

/// Measures training steps of an experiment: their speed, and where the time goes
///
/// The steps are those of a run, on its data; what comes before a phase is done as well: modifiers
/// learn from their pass over the data. Nothing is evaluated, and no run directory is written.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Step {
    /// Experiment: a TOML file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Steps to measure
    #[arg(
        long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    steps: u32,
    /// Steps before them, which count for nothing
    #[arg(long, value_name = "N", default_value_t = 3)]
    warm_up: u32,
    /// Phase to measure, the first being 1 [default: the first that has a source for gradient
    /// modifiers, or else the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    phase: Option<u32>,
    /// Modality that the phase must train [default: any]
    #[arg(long, value_name = "NAME")]
    modality: Option<String>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    data_dir: DataDir,
    /// Threads of one tensor operation
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
    /// File that gets the measurement as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  mie bench step experiment.toml --threads 2
  mie bench step experiment.toml --set gradient_modifiers=[] --json without.json
  mie bench step experiment.toml --modality audio --device cuda --steps 100";

impl Step {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let resolved = Resolved::read(&self.config, &self.overrides.set)?;
        self.json.iter().try_for_each(|file| ensure_writable(file))?;
        let stop = listen()?;
        let device = self.device.find()?;
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        let request = StepRequest {
            phase: self.phase.map(|number| number as usize - 1),
            modality: self.modality.clone(),
            warm_up: self.warm_up as usize,
            steps: self.steps as usize,
        };
        let shown = shell.shows_bars().then(|| {
            let steps = u64::from(self.warm_up) + u64::from(self.steps);
            let shown = bar("step  {bar:24}  {pos}/{len}  {msg}", steps);
            shown.with_message("getting ready")
        });
        if let Some(shown) = &shown {
            shown.tick();
        }
        let folder = self.data_dir.folder();
        let measured = measure_steps(&resolved, &folder, device, &request, &mut |done| {
            if let Some(shown) = &shown {
                shown.set_message("");
                shown.set_position(done as u64);
            }
            if stop.load(Ordering::SeqCst) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Some(shown) = shown {
            shown.finish_and_clear();
        }
        let measured = measured?;
        shell.line(&describe(&measured));
        if let Some(file) = &self.json {
            write(file, &measured)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(file: &Path, measured: &StepMeasurement) -> Result<()> {
    let text = serde_json::to_string_pretty(measured)
        .map_err(|error| Error::Bug(format!("a measurement is not JSON: {error}")))?;
    std::fs::write(file, text + "\n").map_err(Error::io("write", file))
}

fn describe(measured: &StepMeasurement) -> String {
    let shares = &measured.shares;
    let rows: Vec<Vec<String>> = [
        ("data", shares.data),
        ("forward", shares.forward),
        ("backward", shares.backward),
        ("at displaced weights", shares.displaced),
        ("gradient modifiers", shares.modifiers),
        ("optimizer", shares.optimizer),
        ("rest", shares.rest),
    ]
    .into_iter()
    .map(|(part, share)| vec![part.to_owned(), percent(share)])
    .collect();
    let header = ["part of a step", "share %"].map(str::to_owned);
    let milliseconds = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
    let spread = &measured.seconds_per_step;
    let memory = measured.peak_memory_bytes.map_or_else(
        || "not told by the system".to_owned(),
        |bytes| format!("at most {:.1} GB", bytes as f64 / 1e9),
    );
    [
        format!("phase     {}", measured.phase),
        format!(
            "device    {}, {}, {}",
            measured.device,
            count(measured.threads, "thread"),
            count(measured.loader_workers, "loader worker")
        ),
        format!(
            "speed     {:.2} samples/s: the median of {}, batches of {}",
            measured.samples_per_second,
            count(measured.steps, "step"),
            measured.batch_size
        ),
        format!(
            "step      median {}, least {}, most {}",
            milliseconds(spread.median),
            milliseconds(spread.minimum),
            milliseconds(spread.maximum)
        ),
        format!("memory    {memory}"),
        table(&header, &rows, 1),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use mie_core::engine::{Shares, Spread};

    use super::*;

    #[test]
    fn a_measurement_is_speed_memory_and_a_share_for_every_part() {
        let measured = StepMeasurement {
            experiment: "cremad/mie".to_owned(),
            phase: "stage 2: video (source audio)".to_owned(),
            modalities: vec!["video".to_owned()],
            source: vec!["audio".to_owned()],
            device: "cpu".to_owned(),
            threads: 2,
            loader_workers: 1,
            batch_size: 12,
            steps: 20,
            samples_per_second: 6.7642,
            seconds_per_step: Spread { median: 1.774_22, minimum: 1.72, maximum: 1.9 },
            shares: Shares {
                data: 0.01,
                forward: 0.18,
                backward: 0.3,
                displaced: 0.5,
                modifiers: 0.002,
                optimizer: 0.007,
                rest: 0.001,
            },
            peak_memory_bytes: Some(1_422_610_432),
        };
        let text = describe(&measured);
        let start = "phase     stage 2: video (source audio)\n\
                     device    cpu, 2 threads, 1 loader worker\n\
                     speed     6.76 samples/s: the median of 20 steps, batches of 12\n\
                     step      median 1774.2 ms, least 1720.0 ms, most 1900.0 ms\n\
                     memory    at most 1.4 GB\n";
        assert!(text.starts_with(start), "{text}");
        let cells: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [
            &["at", "displaced", "weights", "50.00"][..],
            &["gradient", "modifiers", "0.20"],
            &["rest", "0.10"],
        ] {
            assert!(cells.iter().any(|cells| cells == row), "{row:?} is not in\n{text}");
        }
    }
}
