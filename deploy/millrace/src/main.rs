//! The binary `millrace`, with the built-in transforms.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace::main(&millrace_transform::Registry::default())
}
