//! Devices, and loading libtorch's CUDA part when it is there.

use std::path::PathBuf;
use std::sync::OnceLock;

use tch::Device;

use crate::error::{Error, Result};
use crate::system;

/// Release of libtorch that the program is made for.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// Release of tch that binds it.
pub const TCH_VERSION: &str = "0.24.0";

/// What came of looking for CUDA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaLibrary {
    /// The library is loaded; there may still be no device or driver.
    Loaded,
    /// The loader's reason why not.
    Absent(String),
}

/// Loads `libtorch_cuda.so` if the loader finds it; does so once.
///
/// The program is linked to the CPU part alone, so that one binary runs with and without CUDA.
/// Must run before anything asks libtorch about CUDA.
pub fn load_cuda() -> &'static CudaLibrary {
    static STATE: OnceLock<CudaLibrary> = OnceLock::new();
    STATE.get_or_init(|| match system::load_for_good("libtorch_cuda.so") {
        Ok(()) => CudaLibrary::Loaded,
        Err(reason) => CudaLibrary::Absent(reason),
    })
}

/// Reads `cpu`, `cuda` or `cuda:N`, and checks that the device is there.
///
/// # Errors
/// [`Error::Refused`] with what is missing and how to get it.
pub fn parse(text: &str) -> Result<Device> {
    let index = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => index,
            None => {
                return Err(Error::refused(
                    format!("`{text}` is no device"),
                    "write `cpu`, `cuda` or `cuda:N`",
                ));
            }
        },
    };
    if let CudaLibrary::Absent(reason) = load_cuda() {
        return Err(Error::refused(
            format!("libtorch's CUDA part cannot be loaded ({reason})"),
            "install it with `cargo xtask setup --cuda`, or put the `torch/lib` folder of \
             PyTorch 2.11.0 into LD_LIBRARY_PATH; `mie doctor` shows what was found",
        ));
    }
    let count = tch::Cuda::device_count();
    if !tch::Cuda::is_available() || index as i64 >= count {
        return Err(Error::refused(
            format!("there is no device `{text}`: {count} CUDA devices are visible"),
            "check the driver with `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use `--device cpu`",
        ));
    }
    Ok(Device::Cuda(index))
}

/// The first CUDA device if there is one, else the CPU.
pub fn best() -> Device {
    match load_cuda() {
        CudaLibrary::Loaded if tch::Cuda::is_available() => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

/// Name of a device as [`parse`] reads it.
pub fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Libraries of libtorch and CUDA that this process has really loaded.
pub fn loaded_libraries() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let known = ["libtorch", "libc10", "libcud", "libnccl", "libgomp"];
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            known.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Largest memory this process has held, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nonsense_is_refused_with_the_choices() {
        assert_eq!(parse("cpu").unwrap(), Device::Cpu);
        assert_eq!(name(Device::Cuda(1)), "cuda:1");
        let error = parse("gpu").unwrap_err().to_string();
        assert!(error.contains("`gpu` is no device") && error.contains("cuda:N"), "{error}");
    }

    #[test]
    fn libtorch_is_among_the_loaded_libraries() {
        tch::manual_seed(0);
        let found = loaded_libraries();
        assert!(found.iter().any(|path| path.ends_with("libtorch_cpu.so")), "{found:?}");
    }
}
