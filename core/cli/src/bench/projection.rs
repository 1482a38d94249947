//! `mie bench projection`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use mie_core::device::{self, LIBTORCH_VERSION};
use mie_core::engine::{self, CovarianceRequest};
use mie_core::error::ensure_range;
use mie_core::projection::{Covariance, CovarianceKind, Solving};
use mie_core::weights::{Numbers, WeightsFile};
use mie_core::{Error, Result};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::chart;
use super::ensure_writable;
use super::findings::{Case, Group, Key, actual, csv, groups};
use super::measure::{Dtype, Input, Reference, Source, Summed, Task, Way};
use super::spectra::Spectrum;
use crate::arguments::DataDir;
use crate::format::grouped;
use crate::interrupt;
use crate::progress::bar;
use crate::terminal::Shell;

/// Measures how the flat-gradient projection scales with the width of a layer
///
/// For each input and solver: the time of a refresh (from the covariance to `P`), of adding a batch
/// to the covariance and of applying `P` to a gradient, and the error of `P` against an
/// eigendecomposition in f64. Times are medians of several runs. `released` is what the paper's
/// released code does, in f32: dense rank-1 sums, a full SVD, a dense product.
///
/// Inputs are made-up features or spectra, which are the same on every machine, or covariances of a
/// real run: `--run` collects them from its training data, by its selected weights, and `--save`
/// keeps them for `--covariances`.
///
/// Ctrl-C ends it after the case at hand, with what was measured until then.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Projection {
    /// Widths of the layer, from 64 to 8192
    #[arg(
        long, value_name = "WIDTHS", value_delimiter = ',',
        default_value = "64,128,256,512,1024,2048",
        value_parser = clap::value_parser!(i64).range(64..=8192)
    )]
    sizes: Vec<i64>,
    /// Batches that `features` are summed over; 0 stands for twice the width. CREMA-D has 558
    #[arg(
        long, value_name = "BATCHES", value_delimiter = ',', default_value = "558",
        value_parser = clap::value_parser!(u64).range(..=1_000_000)
    )]
    rows: Vec<u64>,
    /// Ways to compute it
    #[arg(
        long,
        value_enum,
        value_name = "SOLVERS",
        value_delimiter = ',',
        default_value = "released,svd,eigh,gram,chebyshev,auto"
    )]
    solvers: Vec<Way>,
    /// What covariances are made of; `all` has those other than `features` up to a width of 2048
    #[arg(
        long,
        value_enum,
        value_name = "SPECTRA",
        value_delimiter = ',',
        default_value = "features"
    )]
    spectra: Vec<Wanted>,
    /// Run directory whose covariances are measured instead
    #[arg(
        long,
        value_name = "RUN",
        conflicts_with_all = ["covariances", "sizes", "rows", "spectra"]
    )]
    run: Option<PathBuf>,
    /// File of covariances that are measured instead: safetensors, a square matrix for each layer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sizes", "rows", "spectra"])]
    covariances: Option<PathBuf>,
    /// Layers of the run, by name, `*` standing for anything [default: those of the heads]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', requires = "run")]
    layers: Vec<String>,
    /// Batches of the run's training data that are summed [default: all]
    #[arg(
        long,
        value_name = "N",
        requires = "run",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    batches: Option<u32>,
    /// File that gets the covariances of the run, in the widest of the formats
    #[arg(long, value_name = "FILE", requires = "run")]
    save: Option<PathBuf>,
    #[command(flatten)]
    data_dir: DataDir,
    /// Devices; one that is not there is left out, and the reason said
    #[arg(long, value_name = "DEVICES", value_delimiter = ',', default_value = "cpu,cuda:0")]
    devices: Vec<String>,
    /// Formats that covariances are summed in
    #[arg(
        long,
        value_enum,
        value_name = "FORMATS",
        value_delimiter = ',',
        default_value = "f32,f64"
    )]
    dtypes: Vec<Dtype>,
    /// Error of `P` that solvers may make, in the spectral norm, in (0, 0.01]
    #[arg(long, value_name = "ERROR", default_value_t = Solving::TOLERANCE)]
    tolerance: f64,
    /// Scaling factor of the projection, at least 0. Released code: 0.4
    #[arg(long, value_name = "ALPHA", default_value_t = 0.4)]
    alpha: f64,
    /// Rows of the gradient that `P` is applied to: outputs of the layer
    #[arg(
        long, value_name = "N", default_value_t = 256,
        value_parser = clap::value_parser!(i64).range(1..=65_536)
    )]
    gradient_rows: i64,
    /// Runs of each measurement, after one that does not count; what takes over 10 s is not
    /// repeated, and what takes over 20 s has no run before it
    #[arg(
        long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    repeats: u32,
    /// Threads of one tensor operation
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
    /// File that gets everything as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// File that gets time and error over the width, as SVG
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Folder that gets `projection.json`, `projection.svg` and `projection.csv`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  mie bench projection --threads 2 --out measured
  mie bench projection --sizes 256,512 --spectra all --solvers eigh,chebyshev
  mie bench projection --run runs/cremad/mie/seed0-5f --save head.safetensors
  mie bench projection --covariances head.safetensors --chart head.svg";

/// Largest width of spectra that are not asked for by name: making them takes a decomposition.
const LARGEST_MADE: i64 = 2048;

/// What the memory columns are.
const MEMORY: &str = "covariance_bytes and projection_bytes: the numbers that are kept, by their \
                      count. refresh_memory_rise_bytes: the most memory that the process had held \
                      after the refreshes, less what it held before them; where the most did not \
                      change, the true rise is no more than that. Not told for CUDA devices.";

/// A spectrum, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One(Spectrum),
    All,
}

impl ValueEnum for Wanted {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::One(Spectrum::Features),
            Self::One(Spectrum::Flat),
            Self::One(Spectrum::Dominant),
            Self::One(Spectrum::Deficient),
            Self::One(Spectrum::Clustered),
            Self::One(Spectrum::IllConditioned),
            Self::All,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(spectrum) => spectrum.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("All of these")),
        }
    }
}

/// An input that is to be measured.
struct Planned {
    spectrum: String,
    layer: Option<String>,
    rows: Option<u64>,
    width: i64,
    making: Making,
}

/// How an input comes to be.
enum Making {
    Made(Spectrum),
    Given(Input),
}

impl Planned {
    fn title(&self) -> String {
        let what = self.layer.as_ref().unwrap_or(&self.spectrum);
        let batches = match self.rows.map(|rows| actual(rows, self.width)) {
            None => String::new(),
            Some(1) => ", 1 batch".to_owned(),
            Some(batches) => format!(", {} batches", grouped(batches)),
        };
        format!("{what}{batches}, {} wide", self.width)
    }
}

impl Projection {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let stop = interrupt::listen()?;
        self.run_until(&stop, shell)
    }

    fn run_until(&self, stop: &AtomicBool, shell: &mut Shell) -> Result<ExitCode> {
        let task = self.task()?;
        self.check_files()?;
        let mut skipped = Vec::new();
        let devices = self.devices(&mut skipped)?;
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        let plan = self.plan(devices[0], &mut skipped)?;
        for remark in &skipped {
            shell.note(remark);
        }
        let mut cases = Vec::new();
        let finished = self.measure(&plan, &devices, &task, stop, shell, &mut cases);
        let groups = groups(&cases);
        for group in &groups {
            shell.line(&format!("{}\n", group.text()));
        }
        if !finished {
            shell.note("interrupted: these are the cases measured until then");
        }
        let page = json!({
            "command": "mie bench projection",
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("MIE_COMMIT"),
            "libtorch": LIBTORCH_VERSION,
            "threads": tch::get_num_threads(),
            "alpha": task.alpha,
            "tolerance": task.tolerance,
            "gradient_rows": task.gradient_rows,
            "repeats": task.repeats,
            "memory": MEMORY,
            "interrupted": !finished,
            "skipped": skipped,
            "cases": cases.iter().map(Case::json).collect::<Vec<Value>>(),
            "groups": groups.iter().map(Group::json).collect::<Vec<Value>>(),
        });
        let page = serde_json::to_string_pretty(&page)
            .map_err(|error| Error::Bug(format!("measurements are not JSON: {error}")))?;
        let panels: Vec<_> = groups.iter().map(Group::panels).collect();
        let drawn = chart::svg("The flat-gradient projection by the width of a layer", &panels);
        let mut files = Vec::new();
        files.extend(self.json.clone().map(|file| (file, page.clone() + "\n")));
        files.extend(self.chart.clone().map(|file| (file, drawn.clone())));
        if let Some(folder) = &self.out {
            files.push((folder.join("projection.json"), page + "\n"));
            files.push((folder.join("projection.svg"), drawn));
            files.push((folder.join("projection.csv"), csv(&cases)?));
        }
        for (file, text) in &files {
            std::fs::write(file, text).map_err(Error::io("write", file))?;
            shell.line(&format!("wrote {}", file.display()));
        }
        let whole = finished && cases.iter().any(|case| case.found.is_ok());
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn task(&self) -> Result<Task> {
        let alpha = self.alpha;
        ensure_range("--alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())?;
        Solving { tolerance: self.tolerance, ..Solving::default() }.validate()?;
        Ok(Task {
            alpha,
            tolerance: self.tolerance,
            gradient_rows: self.gradient_rows,
            repeats: self.repeats as usize,
        })
    }

    /// Refuses files that could not be written, before anything is measured; makes the folder.
    fn check_files(&self) -> Result<()> {
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        }
        let files: Vec<&Path> =
            [&self.json, &self.chart, &self.save].into_iter().flatten().map(|f| &**f).collect();
        files.iter().try_for_each(|file| ensure_writable(file))?;
        for (index, file) in files.iter().enumerate() {
            if files[..index].contains(file) {
                return Err(Error::refused(
                    format!("{} is to be written twice", file.display()),
                    "name another file for each of --json, --chart and --save",
                ));
            }
        }
        Ok(())
    }

    /// Finds the devices; says of those that are not there why.
    fn devices(&self, skipped: &mut Vec<String>) -> Result<Vec<Device>> {
        let mut devices = Vec::new();
        for text in &self.devices {
            match device::parse(text) {
                Ok(device) if !devices.contains(&device) => devices.push(device),
                Ok(_) => {}
                Err(error) if is_device(text) => {
                    skipped.push(format!("left out {text}: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        if devices.is_empty() {
            return Err(Error::refused(
                format!("none of the devices is there: {}", skipped.join("; ")),
                "name others with --devices, or `cpu`",
            ));
        }
        Ok(devices)
    }

    /// Lists the inputs, narrow ones first, so that the mark of the most memory moves.
    fn plan(&self, device: Device, skipped: &mut Vec<String>) -> Result<Vec<Planned>> {
        let mut plan = if let Some(run) = &self.run {
            let found = engine::covariances(
                run,
                &self.data_dir.folder_of(run),
                device,
                &CovarianceRequest {
                    layers: self.layers.clone(),
                    kind: CovarianceKind::default(),
                    precision: self.widest().precision(),
                    batches: self.batches.map(|batches| batches as usize),
                },
            )?;
            if let Some(file) = &self.save {
                save(file, &found)?;
            }
            let mut inputs = Vec::new();
            for (layer, sum) in &found {
                inputs.push((layer.clone(), Input::of(sum)?));
            }
            given(inputs)
        } else if let Some(file) = &self.covariances {
            given(load(file)?)
        } else {
            self.made(skipped)
        };
        // The order of equal widths stays.
        plan.sort_by_key(|planned| planned.width);
        Ok(plan)
    }

    fn widest(&self) -> Dtype {
        self.dtypes.iter().copied().max().unwrap_or(Dtype::F64)
    }

    fn made(&self, skipped: &mut Vec<String>) -> Vec<Planned> {
        let mut spectra: Vec<Spectrum> = Vec::new();
        for wanted in &self.spectra {
            match wanted {
                Wanted::One(spectrum) => spectra.push(*spectrum),
                Wanted::All => {
                    spectra.push(Spectrum::Features);
                    spectra.extend(Spectrum::MADE);
                }
            }
        }
        let mut plan = Vec::new();
        for width in sorted(&self.sizes) {
            for spectrum in sorted(&spectra) {
                let named = self.spectra.contains(&Wanted::One(spectrum));
                if spectrum != Spectrum::Features && width > LARGEST_MADE && !named {
                    let name = spectrum.name();
                    skipped.push(format!("left out {name}, {width} wide: --spectra {name} has it"));
                    continue;
                }
                let rows: Vec<Option<u64>> = match spectrum {
                    Spectrum::Features => sorted(&self.rows).into_iter().map(Some).collect(),
                    _ => vec![None],
                };
                plan.extend(rows.into_iter().map(|rows| Planned {
                    spectrum: spectrum.name().to_owned(),
                    layer: None,
                    rows,
                    width,
                    making: Making::Made(spectrum),
                }));
            }
        }
        plan
    }

    /// Measures all cases; false when it was asked to stop before.
    fn measure(
        &self,
        plan: &[Planned],
        devices: &[Device],
        task: &Task,
        stop: &AtomicBool,
        shell: &mut Shell,
        cases: &mut Vec<Case>,
    ) -> bool {
        let sums = self.sums();
        let each: usize = sums.iter().map(|(_, _, ways)| ways.len()).sum();
        let total = (plan.len() * devices.len() * each) as u64;
        let shown = shell
            .shows_bars()
            .then(|| bar("cases  {bar:24}  {pos}/{len}  {msg}  eta {eta}", total));
        let say = |words: String| {
            if let Some(shown) = &shown {
                shown.set_message(words);
                shown.tick();
            }
        };
        let asked_to_stop = || stop.load(Ordering::SeqCst);
        let mut finished = true;
        'all: for planned in plan {
            if asked_to_stop() {
                finished = false;
                break;
            }
            let title = planned.title();
            say(format!("{title}, reference"));
            if shown.is_none() {
                shell.note(&title);
            }
            let made;
            let input = match &planned.making {
                Making::Given(input) => Ok(input),
                Making::Made(spectrum) => {
                    let batches = actual(planned.rows.unwrap_or(1), planned.width);
                    made = Input::made(*spectrum, planned.width, batches);
                    made.as_ref()
                }
            };
            let ready = input.map_err(ToString::to_string).and_then(|input| {
                let reference = Reference::of(input, task.alpha).map_err(|e| e.to_string())?;
                Ok((input, reference))
            });
            for device in devices {
                let on = device::name(*device);
                for (dtype, released, ways) in &sums {
                    say(format!("{title}, {on} {}, summing", dtype.name()));
                    let summed = ready.as_ref().map_err(Clone::clone).and_then(|(input, _)| {
                        let summed = if *released {
                            Summed::released(input, *device, task)
                        } else {
                            Summed::of(input, *dtype, *device, task)
                        };
                        summed.map_err(|error| error.to_string())
                    });
                    for way in ways {
                        if asked_to_stop() {
                            finished = false;
                            break 'all;
                        }
                        say(format!("{title}, {on} {}, {}", dtype.name(), way.name()));
                        let found = match (&ready, &summed) {
                            (Ok((_, reference)), Ok(summed)) => summed
                                .measure(*way, reference, task)
                                .map_err(|error| error.to_string()),
                            (Err(problem), _) | (_, Err(problem)) => Err(problem.clone()),
                        };
                        let seconds = ready.as_ref().map_or(f64::NAN, |(_, r)| r.seconds);
                        cases.push(Case {
                            key: Key {
                                spectrum: planned.spectrum.clone(),
                                rows: planned.rows,
                                device: on.clone(),
                            },
                            dtype: *dtype,
                            layer: planned.layer.clone(),
                            width: planned.width,
                            way: *way,
                            reference_seconds: seconds,
                            found,
                        });
                        if let Some(shown) = &shown {
                            shown.inc(1);
                        }
                    }
                }
            }
        }
        if let Some(shown) = shown {
            shown.finish_and_clear();
        }
        finished
    }

    /// Covariances to be summed of each input: format, whether as the released code does, and the
    /// ways that start from it.
    fn sums(&self) -> Vec<(Dtype, bool, Vec<Way>)> {
        let (released, own): (Vec<Way>, Vec<Way>) =
            sorted(&self.solvers).into_iter().partition(|way| *way == Way::Released);
        let mut sums = Vec::new();
        if !released.is_empty() {
            sums.push((Dtype::F32, true, released));
        }
        if !own.is_empty() {
            sums.extend(sorted(&self.dtypes).into_iter().map(|dtype| (dtype, false, own.clone())));
        }
        sums
    }
}

/// Whether text has the form of a device, there or not.
fn is_device(text: &str) -> bool {
    let numbered = |index: &str| index.parse::<usize>().is_ok();
    matches!(text, "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(numbered)
}

fn sorted<T: Copy + Ord>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.dedup();
    values
}

fn given(inputs: Vec<(String, Input)>) -> Vec<Planned> {
    let planned = |(layer, input): (String, Input)| Planned {
        spectrum: "training".to_owned(),
        layer: Some(layer),
        rows: None,
        width: input.width,
        making: Making::Given(input),
    };
    inputs.into_iter().map(planned).collect()
}

/// Writes covariance matrices under the names of their layers; the file is there whole or not.
fn save(file: &Path, covariances: &[(String, Covariance)]) -> Result<()> {
    let matrix = |(layer, sum): &(String, Covariance)| -> Result<(String, Tensor)> {
        // A factor is what a run computes with as long as it is kept.
        let tensor = match sum.factor()? {
            Some(factor) if factor.size()[0] > 0 => factor,
            _ => sum.matrix()?,
        };
        Ok((layer.clone(), tensor.f_to_device(Device::Cpu)?.f_contiguous()?))
    };
    let matrices = covariances.iter().map(matrix).collect::<Result<Vec<_>>>()?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    Tensor::write_safetensors(&matrices, &part)?;
    std::fs::rename(&part, file).map_err(Error::io("write", file))
}

/// Reads covariances, in alphabetical order of their names: matrices, or factors with fewer rows
/// than columns.
fn load(file: &Path) -> Result<Vec<(String, Input)>> {
    let listed = WeightsFile::open(file, None)?;
    if listed.format() != "safetensors" {
        let problem = format!("is a {}, expected safetensors", listed.format());
        return Err(Error::data(file, problem));
    }
    for (name, described) in listed.tensors() {
        let fits = matches!(described.shape[..], [rows, width] if rows <= width && rows > 0);
        if !fits || !matches!(described.numbers, Numbers::F32 | Numbers::F64) {
            return Err(Error::data(
                file,
                format!(
                    "tensor `{name}` has the shape {:?} of {}, expected a square matrix of f32 or \
                     f64, or a factor with fewer rows than columns; `mie bench projection --run \
                     RUN --save FILE` writes such a file",
                    described.shape,
                    described.numbers.name()
                ),
            ));
        }
    }
    let mut inputs: Vec<(String, Input)> = Tensor::read_safetensors(file)?
        .into_iter()
        .map(|(name, tensor)| {
            let size = tensor.size();
            if size[0] < size[1] {
                return Ok((name, Input { width: size[1], source: Source::Factor(tensor) }));
            }
            let fault = fault_of(&tensor)?;
            if let Some(fault) = fault {
                return Err(Error::data(file, format!("tensor `{name}` {fault}")));
            }
            Ok((name, Input { width: size[0], source: Source::Matrix(tensor) }))
        })
        .collect::<Result<_>>()?;
    if inputs.is_empty() {
        return Err(Error::data(file, "holds no covariance"));
    }
    inputs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(inputs)
}

/// What keeps a square matrix from being a covariance.
fn fault_of(matrix: &Tensor) -> Result<Option<&'static str>> {
    let number = |tensor: Tensor| tensor.double_value(&[]);
    let largest = number(matrix.f_abs()?.f_max()?);
    if !largest.is_finite() {
        return Ok(Some("has numbers that are not finite"));
    }
    if number(matrix.f_sub(&matrix.f_tr()?)?.f_abs()?.f_max()?) > 1e-5 * largest {
        return Ok(Some("is not symmetric, as covariances are"));
    }
    let diagonal = number(matrix.f_diagonal(0, 0, 1)?.f_min()?);
    Ok((diagonal < 0.0).then_some("has a negative diagonal, which covariances never have"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mie_core::layers::LayerKind;
    use mie_core::projection::Precision;
    use tch::Kind;

    use super::*;
    use crate::terminal::tests::paper;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        projection: Projection,
    }

    fn command(arguments: &[&str]) -> Projection {
        Line::try_parse_from([&["bench"][..], arguments].concat()).unwrap().projection
    }

    fn run(command: &Projection, stop: bool) -> (ExitCode, String, String) {
        let (mut shell, out, err) = paper();
        let code = command.run_until(&AtomicBool::new(stop), &mut shell).unwrap();
        (code, out.text(), err.text())
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let command = command(&[]);
        assert_eq!(command.sizes, [64, 128, 256, 512, 1024, 2048]);
        assert_eq!(command.solvers, Way::value_variants());
        assert_eq!(command.dtypes, [Dtype::F32, Dtype::F64]);
        assert_eq!(command.spectra, [Wanted::One(Spectrum::Features)]);
        assert_eq!(command.sums().len(), 3);
        assert!(Line::try_parse_from(["bench", "--sizes", "32"]).is_err());
        assert!(Line::try_parse_from(["bench", "--run", "a", "--spectra", "flat"]).is_err());
    }

    #[test]
    fn wide_spectra_are_made_only_when_they_are_named() {
        let plan = |spectra: &str| {
            let mut skipped = Vec::new();
            let plan = command(&["--sizes", "4096", "--rows", "0,7", "--spectra", spectra])
                .plan(Device::Cpu, &mut skipped)
                .unwrap();
            let names: Vec<String> = plan.iter().map(Planned::title).collect();
            (names, skipped.len())
        };
        let features = ["features, 8,192 batches, 4096 wide", "features, 7 batches, 4096 wide"];
        assert_eq!(plan("all"), (features.map(str::to_owned).to_vec(), 5));
        let (names, skipped) = plan("all,flat");
        assert_eq!((names.last().unwrap().as_str(), skipped), ("flat, 4096 wide", 4));
    }

    #[test]
    fn a_small_measurement_prints_tables_and_writes_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        let out = out.to_str().unwrap();
        let small = ["--sizes", "64,96", "--rows", "20", "--repeats", "1", "--devices", "cpu"];
        let (code, text, _) = run(&command(&[&small[..], &["--out", out][..]].concat()), false);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(text.contains("features, 20 batches, cpu, summed in f32\n"), "{text}");
        let page = std::fs::read_to_string(format!("{out}/projection.json")).unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let cases = page["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 2 * (1 + 2 * 5));
        assert!(cases.iter().all(|case| case["relative_error"].as_f64().unwrap() < 1e-5));
        let chart = std::fs::read_to_string(format!("{out}/projection.svg")).unwrap();
        assert_eq!(chart.matches("<polyline").count(), 2 * 2 * 6);
        let lines = std::fs::read_to_string(format!("{out}/projection.csv")).unwrap();
        assert_eq!(lines.lines().count(), 1 + cases.len());
    }

    #[test]
    fn an_interrupted_measurement_fails_and_says_so() {
        let (code, _, err) = run(&command(&["--sizes", "64", "--devices", "cpu"]), true);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(err.contains("interrupted"), "{err}");
    }

    #[test]
    fn a_device_that_is_not_there_is_left_out_with_the_reason_and_nonsense_is_refused() {
        let mut skipped = Vec::new();
        let found = command(&["--devices", "cpu,cuda:999"]).devices(&mut skipped).unwrap();
        assert_eq!(found, [Device::Cpu]);
        assert!(skipped[0].starts_with("left out cuda:999: "), "{skipped:?}");
        let error = command(&["--devices", "gpu"]).devices(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("`gpu` is no device"), "{error}");
        assert!(command(&["--devices", "cuda:999"]).devices(&mut Vec::new()).is_err());
    }

    #[test]
    fn saved_covariances_come_back_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        let kind = CovarianceKind::SecondMoment;
        let mut sum = Covariance::new(3, kind, Precision::F64, Device::Cpu);
        let rows = Tensor::from_slice(&[1.0, 2.0, 1.0 / 3.0]).view([1, 3]);
        sum.add(&LayerKind::Linear, &rows).unwrap();
        let expected = sum.matrix().unwrap();
        save(&file, &[("head.audio.fc1".to_owned(), sum)]).unwrap();
        let loaded = load(&file).unwrap();
        assert_eq!((loaded[0].0.as_str(), loaded[0].1.width), ("head.audio.fc1", 3));
        let Source::Factor(factor) = &loaded[0].1.source else { panic!("the factor was kept") };
        assert_eq!(factor.tr().matmul(factor), expected);
        let matrix = |values: [f64; 4]| Tensor::from_slice(&values).view([2, 2]);
        for (tensor, part) in [
            (Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)), "a square matrix"),
            (matrix([1.0, 0.5, 0.4, 1.0]), "not symmetric"),
            (matrix([1.0, 0.0, 0.0, -1.0]), "negative diagonal"),
            (matrix([1.0, f64::NAN, f64::NAN, 1.0]), "not finite"),
        ] {
            Tensor::write_safetensors(&[("a", tensor)], &file).unwrap();
            let error = load(&file).unwrap_err().to_string();
            assert!(error.contains("`a`") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn files_that_cannot_be_written_are_refused_before_anything_is_measured() {
        let command = command(&["--json", "no-such-folder/a.json"]);
        let (mut shell, ..) = paper();
        let error = command.run_until(&AtomicBool::new(false), &mut shell).unwrap_err();
        assert!(error.to_string().contains("no-such-folder"), "{error}");
    }
}
