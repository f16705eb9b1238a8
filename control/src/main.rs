//! The binary; [`control`] is what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::main()
}
