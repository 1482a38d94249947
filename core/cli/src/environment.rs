//! Variables that libraries read before `main`, given by starting the program once more.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Marks the second start.
const MARK: &str = "MIE_ENVIRONMENT_SET";

/// What is set where the user has set nothing, and why.
///
/// - `GOMP_SPINCOUNT`: libgomp's threads otherwise spin at every barrier. With another process on
///   the same cores a step then takes up to 50 times as long; alone, nothing is lost.
/// - `MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_`: glibc otherwise gives the memory of every large
///   tensor back to the system and has it cleared again for the next one, which takes a tenth of a
///   step of a convolutional network. Memory that was used once stays with the process instead.
/// - `CUBLAS_WORKSPACE_CONFIG`, `NVIDIA_TF32_OVERRIDE`: the same bits every time on CUDA, and
///   32-bit products that are.
const DEFAULTS: [(&str, &str); 5] = [
    ("GOMP_SPINCOUNT", "1000"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "8589934592"),
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    ("NVIDIA_TF32_OVERRIDE", "0"),
];

/// Starts the program again, in place, if a variable is missing; returns when none is, or when
/// the system refuses (then the run is merely slower or less exact).
pub(crate) fn complete() {
    let set = |name: &str| std::env::var_os(name).is_some();
    let missing: Vec<_> = DEFAULTS
        .into_iter()
        // A wish about waiting covers the spin count.
        .filter(|(name, _)| *name != "GOMP_SPINCOUNT" || !set("OMP_WAIT_POLICY"))
        .filter(|(name, _)| !set(name))
        .collect();
    if missing.is_empty() || set(MARK) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into_os_string());
    // On success this does not return.
    let _refusal = Command::new(&program)
        .arg0(AsRef::<OsStr>::as_ref(&name))
        .args(arguments)
        .env(MARK, "1")
        .envs(missing)
        .exec();
}
