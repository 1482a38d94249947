//! Options that several commands share.

use std::path::{Path, PathBuf};

use clap::Args;
use mie_core::{Result, data, device};
use mie_record::RunDir;
use tch::Device;

// Doc comments here are the help that users read.

#[derive(Debug, Args)]
pub(crate) struct Overrides {
    /// Sets one value of the configuration, e.g. `--set data.batch_size=32`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub(crate) struct DataDir {
    /// Folder of the datasets [default: `MIE_DATA_DIR`, or else `~/.local/share/mie`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    /// The folder given on the command line.
    pub(crate) fn given(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The folder to use.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(data::data_dir)
    }

    /// The folder to use for a run: the one given or set, or else the one it was trained with.
    pub(crate) fn folder_of(&self, run: &Path) -> PathBuf {
        let recorded = || {
            let manifest = RunDir::open(run).and_then(|run| run.read_manifest()).ok()?;
            let folder = PathBuf::from(manifest.deviations.get("data_dir")?);
            folder.is_dir().then_some(folder)
        };
        if self.data_dir.is_some() || std::env::var_os("MIE_DATA_DIR").is_some() {
            return self.folder();
        }
        recorded().unwrap_or_else(|| self.folder())
    }
}

#[derive(Debug, Args)]
pub(crate) struct DeviceChoice {
    /// Device: cpu, cuda or cuda:N [default: the first CUDA device if there is one, else cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

impl DeviceChoice {
    /// Finds the device.
    ///
    /// # Errors
    /// When the one asked for is not there.
    pub(crate) fn find(&self) -> Result<Device> {
        self.device.as_deref().map_or_else(|| Ok(device::best()), device::parse)
    }
}

/// Folder of the runs: the one given, or else `MIE_RUNS_DIR`, or else `runs`.
pub(crate) fn runs_dir(given: Option<&Path>) -> PathBuf {
    let from_environment =
        || std::env::var_os("MIE_RUNS_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(from_environment).unwrap_or_else(|| PathBuf::from("runs"))
}
