//! What each method costs beside plain joint training on the same model.
//!
//! `cargo bench --bench methods`. Two modalities of 256 numbers, encoders of two hidden layers of
//! 1024, batches of 64, one epoch of 32 steps without evaluation: the time of the steps alone, as
//! a run books it, with what happens between epochs (prototypes, trials) added in the second
//! table. Before the timings, for each method, its forward and backward passes for each of the
//! steps of joint training, by which its time is to be judged: a backward pass costs about twice
//! a forward one.

#![allow(missing_docs, reason = "criterion's macros write functions without documentation")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mie_core::config::Resolved;
use mie_core::engine::{Existing, Observer, Outcome, TrainOptions, train};
use mie_plugins as _;
use mie_record::Cost;
use tch::Device;

const DATA: &str = r#"
[dataset]
name = "synthetic"
samples = { train = 2048, valid = 64, test = 64 }
[dataset.modalities.strong]
dimensions = 256
[dataset.modalities.weak]
dimensions = 256
separation = 3.0
[data]
batch_size = 64
[modalities.strong]
input = { name = "vector", dimensions = 256 }
encoder = { name = "mlp", hidden = [1024, 1024], width = 512 }
[modalities.weak]
input = { name = "vector", dimensions = 256 }
encoder = { name = "mlp", hidden = [1024, 1024], width = 512 }
[run]
workers = 1
"#;

/// What the others are measured against.
const PLAIN: &str = "joint_concat";

/// Steps of joint training in the epoch.
const STEPS: u32 = 32;

struct Silent;

impl Observer for Silent {}

fn methods() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/base/methods");
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), path)
        })
        .collect();
    found.sort();
    found
}

fn small(method: &Path) -> Resolved {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    let text = format!("name = \"bench\"\nextends = [\"{}\"]\n{DATA}", method.display());
    std::fs::write(&file, text).unwrap();
    let strategy = Resolved::read(&file, &[]).unwrap();
    let epochs: &[&str] = match strategy.experiment.strategy.typetag_name() {
        // The second phase is the one that is new; the first trains heads alone.
        "phased" => &["strategy.parts.0.strategy.epochs=1", "strategy.parts.1.strategy.epochs=1"],
        "staged" => &["strategy.epochs=[1, 1]", "strategy.repeat=1"],
        _ => &["strategy.epochs=1"],
    };
    let epochs: Vec<String> = epochs.iter().map(|&text| text.to_owned()).collect();
    Resolved::read(&file, &epochs).unwrap()
}

fn cost(resolved: &Resolved) -> Cost {
    let runs = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        runs_dir: runs.path().to_owned(),
        data_dir: runs.path().to_owned(),
        device: Device::Cpu,
        existing: Existing::Refuse,
        commit: None,
    };
    match train(resolved, &options, &mut Silent).unwrap() {
        Outcome::Finished(summary) => summary.cost,
        Outcome::Interrupted => unreachable!("nothing breaks the run off"),
    }
}

fn steps(c: &mut Criterion) {
    tch::set_num_threads(1);
    println!(
        "passes for each step of joint training (forward, backward), and what each epoch adds"
    );
    let methods: Vec<(String, Resolved)> =
        methods().into_iter().map(|(name, file)| (name, small(&file))).collect();
    let plain = cost(&methods.iter().find(|(name, _)| name == PLAIN).unwrap().1);
    for (name, resolved) in &methods {
        let cost = cost(resolved);
        let each = |count: u64| count as f64 / f64::from(STEPS);
        println!(
            "{name:28} {:5.2} {:5.2}   {:5.2} times the step of {PLAIN}, {:6.2} s between epochs",
            each(cost.forward_passes),
            each(cost.backward_passes),
            cost.train_seconds / plain.train_seconds,
            cost.refresh_seconds,
        );
    }
    let mut group = c.benchmark_group("epoch_of_32_steps");
    group.sample_size(10);
    for (name, resolved) in &methods {
        group.bench_with_input(BenchmarkId::from_parameter(name), resolved, |b, resolved| {
            b.iter_custom(|times| {
                (0..times).map(|_| Duration::from_secs_f64(cost(resolved).train_seconds)).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
