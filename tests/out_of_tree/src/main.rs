//! mie, with a plugin from outside.
use mie_plugins as _;
use out_of_tree as _;

fn main() -> std::process::ExitCode {
    mie_cli::main()
}
