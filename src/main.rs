//! Runs the command line and turns its ending into an exit code (sysexits). Never does anything itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    optout_relay::cli::main()
}
