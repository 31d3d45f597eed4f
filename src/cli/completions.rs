//! `completions`: what a shell needs to complete our command line. Never reads a file.

use std::io::{Write, stdout};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Done, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  optout-relay completions bash > ~/.local/share/bash-completion/completions/optout-relay
  optout-relay completions zsh > ~/.zfunc/_optout-relay
  optout-relay completions fish > ~/.config/fish/completions/optout-relay.fish")]
pub struct Arguments {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Done {
    let mut command = super::Arguments::command();
    let name = command.get_name().to_owned();
    // Into memory first: its writer cannot be told that nobody reads on.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    stdout().lock().write_all(mended(&script).as_bytes())?;
    Ok(Exit::Ok)
}

/// The script for bash writes a name with a hyphen in two ways, and so completes nothing below the first word (clap issue 6421).
fn mended(script: &[u8]) -> String {
    String::from_utf8_lossy(script).replace("optout__subcmd__relay", "optout__relay")
}
