//! Shell completions and manual pages, made from the definitions of the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;
use std::path::Path;

use super::Cli;
use crate::error::{Error, Result};

/// The completion script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hyperlift", &mut script);
    script
}

/// The page of the program itself, in roff.
pub fn man() -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

/// Writes the pages of the program and of all its commands.
pub fn write_man(folder: &Path) -> Result<()> {
    let write = || std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    write().map_err(|e| Error::usage(format!("cannot write manual pages into {}: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_and_pages_know_every_command() {
        let folder = tempfile::tempdir().unwrap();
        write_man(&folder.path().join("man1")).unwrap();
        let (script, page) = (String::from_utf8(completions(Shell::Bash)).unwrap(), String::from_utf8(man().unwrap()).unwrap());
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(script.contains(name), "{name} is not completed");
            assert!(page.contains(&format!("hyperlift\\-{name}(1)")), "{name} is not in the page");
            assert!(folder.path().join(format!("man1/hyperlift-{name}.1")).exists(), "{name} has no page");
        }
        assert!(page.contains("cutover\\-when\\-ready"), "{page}");
    }
}
