//! `mie doctor`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use mie_core::catalogue::{Family, Plugin, plugins};
use mie_core::device::{self, CudaLibrary, LIBTORCH_VERSION};
use mie_core::error::guarded;
use mie_core::prelude::no_grad_guard;
use mie_core::{Result, data};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::arguments::runs_dir;
use crate::format::count;
use crate::plugins::NONE_LINKED;
use crate::terminal::Shell;

/// Largest deviation allowed in the test of a device, in f64; usual is 1e-14.
const TOLERANCE: f64 = 1e-10;

/// Shows what mie runs on, and what to do about what is wrong with it
///
/// The exit status is 1 when runs on the CPU cannot work.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(&self, shell: &mut Shell) -> ExitCode {
        let findings = examine();
        if self.json {
            shell.json_page(&findings.iter().map(Finding::json).collect::<Vec<_>>());
        } else {
            for finding in &findings {
                shell.line(&finding.text());
            }
        }
        let wrong = findings.iter().any(|finding| finding.state == State::Wrong);
        if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn examine() -> Vec<Finding> {
    // CUDA first: what it brings belongs among the loaded libraries.
    let cuda = cuda(device::load_cuda());
    let mut findings = vec![versions(), libraries(&device::loaded_libraries()), cuda];
    findings.extend(devices().into_iter().map(tested));
    findings.push(threads());
    findings.push(folder("data", &data::data_dir(), "--data-dir or MIE_DATA_DIR names another"));
    findings.push(folder("runs", &runs_dir(None), "--runs-dir or MIE_RUNS_DIR names another"));
    findings.push(folder("cache", &data::cache::cache_dir(), "MIE_CACHE_DIR names another"));
    findings.push(environment());
    findings.push(linked(&plugins()));
    findings
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fine,
    /// Worth knowing; the CPU works all the same.
    Notable,
    Wrong,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Notable => "note",
            Self::Wrong => "wrong",
        }
    }
}

/// Something looked at, and what came of it.
#[derive(Debug)]
struct Finding {
    topic: &'static str,
    state: State,
    /// What was found, a line a thing.
    found: Vec<String>,
    remedy: Option<String>,
}

impl Finding {
    fn new(topic: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { topic, state, found: vec![found.into()], remedy: None }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn text(&self) -> String {
        let remedy = self.remedy.iter().map(|remedy| format!("what to do: {remedy}"));
        let mut lines = self.found.iter().cloned().chain(remedy);
        let first = lines.next().unwrap_or_default();
        let mut text = vec![format!("{:5}  {:11}  {first}", self.state.name(), self.topic)];
        text.extend(lines.map(|line| format!("{:20}{line}", "")));
        text.join("\n")
    }

    fn json(&self) -> Value {
        json!({
            "topic": self.topic,
            "state": self.state.name(),
            "found": self.found,
            "remedy": self.remedy,
        })
    }
}

fn versions() -> Finding {
    let version = env!("CARGO_PKG_VERSION");
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let found =
        format!("mie {version}, made for libtorch {LIBTORCH_VERSION}, on {system} {machine}");
    Finding::new("version", State::Fine, found)
}

/// Lists the libraries of libtorch and CUDA that are loaded, with the version they tell.
fn libraries(loaded: &[PathBuf]) -> Finding {
    if loaded.is_empty() {
        let found = "this system does not tell which libraries are loaded";
        return Finding::new("libtorch", State::Notable, found);
    }
    let mut found: Vec<String> = loaded.iter().map(|path| path.display().to_string()).collect();
    let own = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libtorch") || name.starts_with("libc10")
    };
    let folders: BTreeSet<&Path> = loaded.iter().filter(own).filter_map(|p| p.parent()).collect();
    let versions: BTreeSet<String> = folders.iter().filter_map(|f| version_beside(f)).collect();
    found.extend(versions.iter().map(|version| format!("version {version}")));
    let finding = Finding { topic: "libtorch", state: State::Fine, found, remedy: None };
    // A build may be named behind a plus sign: 2.11.0+cu130.
    let wanted = |version: &String| version.split('+').next() == Some(LIBTORCH_VERSION);
    if !versions.iter().all(wanted) {
        let remedy = format!(
            "this program needs libtorch {LIBTORCH_VERSION}: run `cargo xtask setup` and build again, \
             with LIBTORCH and LD_LIBRARY_PATH unset"
        );
        return Finding { state: State::Wrong, ..finding }.remedy(remedy);
    }
    if folders.len() > 1 {
        let remedy = "libraries of libtorch come from several folders, which works only if they \
                      are of one release; see LD_LIBRARY_PATH";
        return Finding { state: State::Notable, ..finding }.remedy(remedy);
    }
    finding
}

/// Reads the version of the libtorch whose libraries lie in `folder`, where a file tells.
fn version_beside(folder: &Path) -> Option<String> {
    let root = folder.parent()?;
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    let of_python = || {
        let text = read("version.py")?;
        let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(value.trim().trim_matches(['\'', '"']).to_owned())
    };
    read("build-version").map(|text| text.trim().to_owned()).or_else(of_python)
}

fn cuda(library: &CudaLibrary) -> Finding {
    match library {
        CudaLibrary::Absent(reason) => {
            let found = format!("not loaded: {reason}");
            Finding::new("CUDA", State::Notable, found).remedy(
                "nothing, to compute on the CPU; else install it with `cargo xtask setup \
                 --cuda`, or put the `torch/lib` folder of PyTorch 2.11.0 into LD_LIBRARY_PATH",
            )
        }
        CudaLibrary::Loaded if tch::Cuda::is_available() => {
            let number = usize::try_from(tch::Cuda::device_count()).unwrap_or_default();
            Finding::new("CUDA", State::Fine, format!("loaded, {}", count(number, "device")))
        }
        CudaLibrary::Loaded => {
            Finding::new("CUDA", State::Notable, "loaded, but there is no device to use")
                .remedy("check the driver with `nvidia-smi`, and CUDA_VISIBLE_DEVICES")
        }
    }
}

/// Lists the devices that can be computed on.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if *device::load_cuda() == CudaLibrary::Loaded && tch::Cuda::is_available() {
        let number = usize::try_from(tch::Cuda::device_count()).unwrap_or_default();
        devices.extend((0..number).map(Device::Cuda));
    }
    devices
}

/// Says whether a device computes what it should.
fn tested(device: Device) -> Finding {
    let name = device::name(device);
    // Runs on the CPU do not need the others.
    let failed = if device == Device::Cpu { State::Wrong } else { State::Notable };
    match deviation(device) {
        Ok(deviation) if deviation <= TOLERANCE => {
            Finding::new("device", State::Fine, format!("{name} multiplies and decomposes"))
        }
        Ok(deviation) => {
            let found = format!("{name} computes wrongly: a matrix comes back {deviation:e} off");
            Finding::new("device", failed, found).remedy("look for mixed versions of libraries")
        }
        Err(error) => Finding::new("device", failed, format!("{name} does not work: {error}"))
            .remedy("look for missing libraries, or ones of several versions, above"),
    }
}

/// Takes a small symmetric matrix apart into its eigenvectors and puts it together again.
///
/// Returns the largest deviation; the entries are of the size of 1.
fn deviation(device: Device) -> Result<f64> {
    const SIDE: i64 = 8;
    guarded("the test of a device", || {
        let _guard = no_grad_guard();
        let numbers = Tensor::f_arange(SIDE * SIDE, (Kind::Double, device))?;
        let square = numbers.f_sin()?.f_reshape([SIDE, SIDE])?;
        let symmetric = square.f_matmul(&square.f_transpose(0, 1)?)?;
        let (values, vectors) = symmetric.f_linalg_eigh("L")?;
        let again = vectors.f_mul(&values)?.f_matmul(&vectors.f_transpose(0, 1)?)?;
        Ok(again.f_sub(&symmetric)?.f_abs()?.f_max()?.f_double_value(&[])?)
    })
}

fn threads() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or_default();
    let found = format!(
        "{} for one operation, {} available; --threads sets another number",
        count(threads, "thread"),
        count(cores, "core")
    );
    Finding::new("threads", State::Fine, found)
}

/// Says whether a folder is there and can be written.
fn folder(topic: &'static str, path: &Path, choice: &str) -> Finding {
    let shown = path.display();
    if !path.exists() {
        let found = format!("{shown} (not there yet; {choice})");
        return Finding::new(topic, State::Fine, found);
    }
    let probe = path.join(format!(".mie-doctor-{}", std::process::id()));
    match fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)) {
        Ok(()) => Finding::new(topic, State::Fine, format!("{shown} ({choice})")),
        Err(error) => {
            Finding::new(topic, State::Notable, format!("{shown} cannot be written: {error}"))
                .remedy(format!("if something is to be written there: {choice}"))
        }
    }
}

/// Lists the variables that bear on a run.
fn environment() -> Finding {
    let known = ["LIBTORCH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"];
    let concerns = |name: &str| {
        known.contains(&name)
            || ["MIE_", "LIBTORCH_", "CUDA_", "CUBLAS_", "NVIDIA_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
    };
    let mut found: Vec<String> = std::env::vars_os()
        .map(|(name, value)| (name.display().to_string(), value.display().to_string()))
        .filter(|(name, _)| concerns(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    found.sort();
    if found.is_empty() {
        found.push("no variable that bears on mie is set".to_owned());
    }
    Finding { topic: "environment", state: State::Fine, found, remedy: None }
}

/// Counts the plugins and looks for names that stand twice in a family.
fn linked(rows: &[&Plugin]) -> Finding {
    if rows.is_empty() {
        return Finding::new("plugins", State::Wrong, NONE_LINKED);
    }
    let of = |family: Family| rows.iter().filter(move |row| row.family == family);
    let by_family = Family::ALL.map(|family| format!("{} {}", of(family).count(), family.name()));
    let found = format!("{}: {}", count(rows.len(), "plugin"), by_family.join(", "));
    // The rows are sorted, so equal names of a family are neighbours.
    let twice: Vec<String> = rows
        .windows(2)
        .filter(|pair| pair[0].family == pair[1].family && (pair[0].name)() == (pair[1].name)())
        .map(|pair| {
            let (family, name) = (pair[0].family.name(), (pair[0].name)());
            format!("{family} `{name}` is in {} and in {}", pair[0].module, pair[1].module)
        })
        .collect();
    if twice.is_empty() {
        return Finding::new("plugins", State::Fine, found);
    }
    let found = [found].into_iter().chain(twice).collect();
    Finding { topic: "plugins", state: State::Wrong, found, remedy: None }
        .remedy("rename one of the two, in its `typetag::serde` attribute and its file name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_what_it_should() {
        let deviation = deviation(Device::Cpu).unwrap();
        assert!(deviation <= TOLERANCE, "{deviation:e}");
        assert_eq!(tested(Device::Cpu).state, State::Fine);
    }

    #[test]
    fn a_finding_is_one_line_and_more_below_its_text() {
        let finding = Finding {
            topic: "CUDA",
            state: State::Notable,
            found: vec!["not loaded".to_owned(), "again".to_owned()],
            remedy: Some("nothing".to_owned()),
        };
        assert_eq!(
            finding.text(),
            "note   CUDA         not loaded\n                    again\n                    \
             what to do: nothing"
        );
    }

    #[test]
    fn the_loaded_libtorch_is_found_and_its_version_fits() {
        // Anything of libtorch, so that it is loaded.
        tch::manual_seed(0);
        let finding = libraries(&device::loaded_libraries());
        assert!(finding.found.iter().any(|line| line.contains("libtorch_cpu")), "{finding:?}");
        assert_ne!(finding.state, State::Wrong, "{finding:?}");
    }

    #[test]
    fn a_folder_may_be_absent_but_not_a_file() {
        let absent = folder("runs", Path::new("no/such/folder"), "choose another");
        assert_eq!(absent.state, State::Fine);
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert_eq!(folder("runs", file, "choose another").state, State::Notable);
    }

    #[test]
    fn a_program_without_plugins_is_wrong() {
        let finding = linked(&[]);
        assert_eq!(finding.state, State::Wrong);
        assert!(finding.found[0].contains("use my_plugins as _;"));
    }
}
