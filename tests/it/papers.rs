//! What is printed of the commands themselves: completions and manual pages. They need no configuration.

use std::path::Path;
use std::process::{Command, Output};

use crate::process::told;

/// In a folder in which there is nothing.
fn run(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    told(Command::new(env!("CARGO_BIN_EXE_optout-relay")).args(arguments).current_dir(folder).output().unwrap())
}

/// The commands that help names: the first word of each line below `Commands:`.
fn commands(arguments: &[&str], folder: &Path) -> Vec<String> {
    let (_, help, _) = run(&[arguments, &["--help"]].concat(), folder);
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_shell_is_told_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let names = commands(&[], folder.path());
    assert!(names.len() >= 10 && names.contains(&"completions".to_owned()), "{names:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, talk) = run(&["completions", shell], folder.path());
        assert_eq!((code, talk.as_str()), (0, ""), "{shell}");
        for name in &names {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    let (code, script, talk) = run(&["completions", "sh"], folder.path());
    assert!(talk.contains("bash"), "{talk}");
    assert_eq!((code, script.as_str()), (64, ""));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn bash_completes_a_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let ask = "eval \"$(\"$0\" completions bash)\" && COMP_WORDS=(optout-relay list a) COMP_CWORD=2 && \
               _optout__relay optout-relay a list && echo \"${COMPREPLY[*]}\"";
    let mut bash = Command::new("bash");
    let found = told(bash.args(["-c", ask, env!("CARGO_BIN_EXE_optout-relay")]).current_dir(&folder).output().unwrap());
    assert_eq!(found, (0, "add\n".to_owned(), String::new()));
}

#[test]
fn every_command_has_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, talk) = run(&["man", "pages"], folder.path());
    assert!(talk.ends_with(" pages written into pages\n"), "{talk}");
    assert_eq!((code, out.as_str()), (0, ""));
    let pages = folder.path().join("pages");
    let read = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (mut todo, mut seen) = (vec![Vec::new()], 0);
    while let Some(command) = todo.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let page = read(&format!("man1/{}.1", [&["optout-relay"], &arguments[..]].concat().join("-")));
        seen += 1;
        for below in commands(&arguments, folder.path()) {
            assert!(page.contains(&format!("\\-{}(1)", below.replace('-', "\\-"))), "{command:?}: {below}");
            todo.push([command.clone(), vec![below]].concat());
        }
    }
    assert!(seen >= 25, "{seen}");
    assert_eq!(std::fs::read_dir(pages.join("man1")).unwrap().count(), seen);
    assert!(read("man5/relay.toml.5").contains("\\fBmax_sessions\\fR = 512"));
    assert!(read("man5/blacklist.toml.5").contains("\\fBaddresses\\fR = "));
    let (code, out, talk) = run(&["man"], folder.path());
    assert_eq!((code, out, talk), (0, read("man1/optout-relay.1"), String::new()));
    assert_no_error(&lint(&pages));
}

/// What mandoc has to say; `None` where it is not there.
fn lint(pages: &Path) -> Option<Output> {
    let all = "mandoc -T lint -W error man1/* man5/*";
    let found = Command::new("sh").args(["-c", all]).current_dir(pages).output().unwrap();
    (found.status.code() != Some(127)).then_some(found)
}

fn assert_no_error(found: &Option<Output>) {
    match found {
        None => eprintln!("mandoc is not there: the pages are not examined"),
        Some(found) => assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout)),
    }
}

#[test]
fn pages_that_cannot_be_written_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    std::fs::create_dir_all(folder.path().join("taken/man1/optout-relay.1")).unwrap();
    for place in ["file", "taken"] {
        let (code, out, talk) = run(&["man", place], folder.path());
        assert!(talk.starts_with(&format!("optout-relay: write `{place}/man1/optout-relay.1`: ")), "{talk}");
        assert_eq!((code, out.as_str()), (74, ""));
    }
}
