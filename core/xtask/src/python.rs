//! What is asked of Python: to fetch wheels, and which torch it has.

use crate::error::{Error, Result};
use crate::shell;
use crate::wheel::Wheel;
use std::env;
use std::path::Path;
use std::process::Command;

/// Fetches a wheel into a folder with pip, which knows the user's proxy and index.
pub(crate) fn fetch(wheel: &Wheel, into: &Path) -> Result<()> {
    require_pip()?;
    let mut pip = pip();
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]);
    pip.args(["--disable-pip-version-check", "--python-version", "3.11"]);
    for platform in wheel.platforms() {
        pip.args(["--platform", platform]);
    }
    // pip keeps a second copy while it works: on the disk that was checked for room, and removed
    // with the folder if pip is cut short.
    pip.arg("--dest").arg(into).arg(wheel.requirement()).env("TMPDIR", into);
    shell::run(&mut pip)
}

/// Asks Python which torch it has; errs with the last line of what it says if it has none.
pub(crate) fn torch_version() -> Result<std::result::Result<String, String>> {
    let program = "import torch; print(torch.__version__)";
    let output = shell::capture(Command::new(interpreter()).args(["-c", program]))?;
    let last_line = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.trim_end().lines().next_back().unwrap_or_default().to_owned()
    };
    Ok(if output.status.success() {
        Ok(last_line(&output.stdout))
    } else {
        Err(last_line(&output.stderr))
    })
}

/// Names the interpreter that the bindings ask too when they are built.
pub(crate) fn interpreter() -> &'static str {
    if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" }
}

fn pip() -> Command {
    let mut command = Command::new(interpreter());
    command.args(["-m", "pip"]);
    command
}

fn require_pip() -> Result<()> {
    match shell::capture(pip().arg("--version")) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => Err(Error::Missing {
            tool: format!("pip (`{} -m pip`)", interpreter()),
            help: "install it with `apt install python3-pip`, `dnf install python3-pip` or \
                   `python3 -m ensurepip`",
        }),
        Err(_) => Err(Error::Missing {
            tool: format!("`{}`", interpreter()),
            help: "install Python 3 and its pip with `apt install python3 python3-pip` or \
                   `dnf install python3 python3-pip`",
        }),
    }
}
