//! Every command tells how it is used, and what it tells can be typed as it stands.

use std::collections::BTreeSet;

use clap::Command;
use optout_relay::cli;

/// The words of a line as a shell splits them, up to what is no argument any more; quotes of both kinds hold together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "{line}: a quote is not closed");
    let end = words.iter().position(|word| matches!(word.as_str(), "|" | ">" | "<" | "&&" | ";"));
    words.truncate(end.unwrap_or(words.len()));
    words
}

/// Lines that begin with the program's name, without the remark behind two spaces or more.
fn examples(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let text = text.strip_prefix("Examples:\n").map(|lines| lines.split("\n\n").next().unwrap_or_default().to_owned());
    let lines = text.unwrap_or_default();
    let lines = lines.lines().map(|line| line.trim().split("  ").next().unwrap_or_default().to_owned());
    lines.filter(|line| line == "optout-relay" || line.starts_with("optout-relay ")).collect()
}

/// The names of the commands that a line has come to.
fn path(matches: &clap::ArgMatches) -> Vec<String> {
    match matches.subcommand() {
        Some((name, below)) => [vec![name.to_owned()], path(below)].concat(),
        None => Vec::new(),
    }
}

#[test]
fn every_command_has_examples_that_parse() {
    let mut root = cli::command().disable_help_subcommand(true);
    root.build();
    let (mut todo, mut seen, mut lines) = (vec![(Vec::new(), root)], BTreeSet::new(), 0);
    while let Some((name, command)) = todo.pop() {
        let examples = examples(&command);
        let is_leaf = command.get_subcommands().next().is_none();
        assert!(!is_leaf || !examples.is_empty(), "{name:?} has no examples");
        let mut reached = false;
        for line in &examples {
            let parsed =
                cli::command().try_get_matches_from(words(line)).unwrap_or_else(|error| panic!("{name:?}: {line}\n{error}"));
            reached |= path(&parsed) == name;
            lines += 1;
        }
        assert!(!is_leaf || reached, "{name:?}: no example of it runs it");
        let below = command.get_subcommands().filter(|below| !below.is_hide_set());
        todo.extend(below.map(|below| ([name.clone(), vec![below.get_name().to_owned()]].concat(), below.clone())));
        seen.insert(name.join(" "));
    }
    // Whoever walks past all of them finds nothing wrong.
    assert!(seen.len() >= 25 && lines >= 55, "{} commands with {lines} examples: {seen:#?}", seen.len());
}

/// What prints no data, or data that have a form of their own.
const NO_JSON: [&str; 7] = ["serve", "completions", "man", "spool retry", "spool drop", "log export", "list export"];

#[test]
fn every_command_that_prints_data_prints_json() {
    let mut root = cli::command().disable_help_subcommand(true);
    root.build();
    let (mut todo, mut without) = (vec![(Vec::new(), root)], BTreeSet::new());
    while let Some((name, command)) = todo.pop() {
        let is_leaf = command.get_subcommands().next().is_none();
        if is_leaf && !command.get_arguments().any(|argument| argument.get_id() == "json") {
            without.insert(name.join(" "));
        }
        todo.extend(
            command.get_subcommands().map(|below| ([name.clone(), vec![below.get_name().to_owned()]].concat(), below.clone())),
        );
    }
    assert_eq!(without, NO_JSON.map(str::to_owned).into());
}

#[test]
fn a_line_is_split_as_by_a_shell() {
    assert_eq!(words("a 'b c'  \"d'e\" f'g'h '' | i"), ["a", "b c", "d'e", "fgh", ""]);
    assert_eq!(words("a < b"), ["a"]);
}
