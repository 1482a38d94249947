//! mie, with the plugins of this package.

use mie_plugins as _;
use PACKAGE as _;

fn main() -> std::process::ExitCode {
    mie_cli::main()
}
