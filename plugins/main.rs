//! The program: all plugins that come with mie, and the commands.

use mie_plugins as _;

fn main() -> std::process::ExitCode {
    mie_cli::main()
}
