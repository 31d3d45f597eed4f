//! Configurations: what is wrong is told with its place, its key, and what to do, and never with a secret; the shipped
//! file and the code say the same.

use std::path::{Path, PathBuf};

use optout_relay::config::file::File;
use optout_relay::config::{Config, HostRoute, Route};
use serde_json::Value;

/// Stand wherever a bad configuration holds a password; no error may repeat them.
const SECRETS: [&str; 2] = ["hunter2", "4711"];

/// The files of a folder beside this one, in order.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn shipped() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/relay.toml")).unwrap()
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(Path::new("relay.toml"), text, environment).map_err(|fault| fault.to_string())
}

fn fault(text: &str, environment: &[(&str, &str)]) -> String {
    load(text, environment).err().unwrap_or_else(|| "nothing is wrong".into())
}

/// The fault that a bad file announces in its first two lines.
pub fn announced(text: &str) -> String {
    let line = |at, start| text.lines().nth(at).and_then(|line| line.split_once(start)).map(|(_, rest)| rest);
    let (Some(error), Some(hint)) = (line(0, "error: "), line(1, "hint: ")) else {
        panic!("a bad file without its error: {text}")
    };
    format!("{error}\nhint: {hint}")
}

#[test]
fn every_bad_configuration_is_told_as_it_announces() {
    let files = files("bad");
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let told = fault(&text, &[]);
        assert_eq!(told, announced(&text), "{}", path.display());
        assert!(!SECRETS.iter().any(|secret| told.contains(secret)), "{told}");
    }
    assert_eq!(files.len(), 114);
}

/// Every table of a text, as its line and the keys that lead there; tables of a password are lines with braces.
fn tables(text: &str) -> Vec<(usize, String)> {
    let headers = text.lines().enumerate().filter(|(_, line)| line.starts_with('['));
    headers.map(|(at, line)| (at + 1, line.trim_matches(['[', ']']).to_owned())).collect()
}

#[test]
fn an_unknown_key_in_any_table_of_the_shipped_file_is_refused_at_its_line() {
    let shipped = shipped();
    let mut tables = tables(&shipped);
    tables.insert(0, (0, String::new()));
    assert_eq!(tables.len(), 9, "{tables:?}");
    for (line, table) in &tables {
        let mut lines: Vec<_> = shipped.lines().collect();
        lines.insert(*line, "surprise = 1");
        let key = if table.is_empty() { "surprise".to_owned() } else { format!("{table}.surprise") };
        let told = fault(&lines.join("\n"), &[]);
        assert!(
            told.starts_with(&format!("relay.toml:{}:1: unknown key `{key}`\nhint: the keys here are `", line + 1)),
            "{told}"
        );
    }
    // The one table within a table, in all the ways in which it can be written.
    for (text, place) in [
        ("[upstream]\npassword = { file = \"a\", surprise = 1 }\n", "2:26"),
        ("[upstream]\npassword = { surprise = 1, file = \"a\" }\n", "2:14"),
        ("[upstream.password]\nfile = \"a\"\nsurprise = 1\n", "3:1"),
        ("upstream.password.file = \"a\"\nupstream.password.surprise = 1\n", "2:19"),
    ] {
        let told = fault(text, &[]);
        let expected = format!("relay.toml:{place}: unknown key `upstream.password.surprise`\n");
        assert!(told.starts_with(&expected), "{told}\nwants: {expected}");
    }
}

/// The shipped file with the settings that it only tells as examples.
fn with_examples(text: &str) -> String {
    let is_key = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let example =
        |line: &str| line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).is_some_and(|(name, _)| is_key(name));
    let open = |line: &str| if example(line) { line[2..].to_owned() } else { line.to_owned() };
    text.lines().map(open).collect::<Vec<_>>().join("\n")
}

fn keys(value: &Value, before: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = format!("{before}{key}");
        // The password is one key, however it is told.
        if value.is_object() && !key.ends_with(".password") { keys(value, &format!("{key}."), found) } else { found.push(key) }
    }
}

/// Every key of the shipped file, as `section.key`.
pub fn shipped_keys() -> Vec<String> {
    let table: toml::Table = with_examples(&shipped()).parse().unwrap_or_else(|error| panic!("{error}"));
    let mut found = Vec::new();
    keys(&serde_json::to_value(table).unwrap(), "", &mut found);
    found
}

#[test]
fn the_shipped_file_holds_every_key_at_its_default() {
    let shipped = shipped();
    let meant = serde_json::to_value(load(&shipped, &[]).unwrap().file).unwrap();
    let default = serde_json::to_value(File::default()).unwrap();
    assert_eq!(meant, default);
    assert_eq!(serde_json::to_value(load("", &[]).unwrap().file).unwrap(), default);

    let (mut in_code, mut in_file) = (Vec::new(), shipped_keys());
    keys(&default, "", &mut in_code);
    in_code.sort();
    in_file.sort();
    assert_eq!(in_code, in_file);
    assert!(in_code.len() >= 42, "{in_code:?}");
}

#[test]
fn the_examples_of_the_shipped_file_are_sound() {
    let opened = with_examples(&shipped());
    let config = load(&opened.replace("file:var/outbox", "smtp://mail.example.com"), &[]).unwrap_or_else(|told| panic!("{told}"));
    let Route::Host(HostRoute { user, host, port, implicit_tls }) = &config.route else { panic!("{:?}", config.route) };
    assert_eq!(
        (user.as_deref(), host.as_str(), *port, *implicit_tls),
        (Some("seller@example.com"), "mail.example.com", 587, false)
    );
    for url in ["smtps://user@mail.example.com:465", "smtp://user@mail.example.com:587"] {
        assert!(shipped().contains(&format!("\"{url}\"")));
        let text = format!("[upstream]\nurl = \"{url}\"\npassword = {{ env = \"SMTP_PASSWORD\" }}\n");
        assert!(load(&text, &[]).is_ok());
    }
}

/// Only the same door of the same machine is a circle; what else runs here may well be the mail host.
#[test]
fn another_port_or_address_of_this_machine_is_no_circle() {
    let machine = gethostname::gethostname().into_string().unwrap();
    for (listen, url, circle) in [
        ("127.0.0.1:2525", format!("smtp://{machine}:2525"), true),
        ("127.0.0.1:2525", format!("smtp://{machine}:587"), false),
        ("127.0.0.1:2525", "smtp://127.0.0.1:25".into(), false),
        ("127.0.0.1:2525", "smtp://[::1]:2525".into(), false),
        ("127.0.0.1:2525", "smtp://192.0.2.1:2525".into(), false),
        ("127.0.0.1:2525", "smtp://mail.example.com:2525".into(), false),
        ("127.0.0.1:0", "smtp://127.0.0.1:2525".into(), false),
    ] {
        let told = fault(&format!("[listen]\nsmtp = [\"{listen}\"]\n[upstream]\nurl = \"{url}\"\n"), &[]);
        assert_eq!(told.contains("leads back to this relay"), circle, "{listen} {url}: {told}");
    }
    let told = fault("", &[("OPTOUT_RELAY_UPSTREAM__URL", "smtp://127.0.0.1:2525")]);
    assert!(told.starts_with("OPTOUT_RELAY_UPSTREAM__URL: leads back to this relay"), "{told}");
}

#[test]
fn one_address_is_the_network_of_that_address() {
    let config = load("[listen]\nclients = [\"192.168.1.5\", \"10.0.0.0/8\", \"fe80::1\"]\n", &[]).unwrap();
    let clients: Vec<_> = config.file.listen.clients.iter().map(ToString::to_string).collect();
    assert_eq!(clients, ["192.168.1.5/32", "10.0.0.0/8", "fe80::1/128"]);
}

#[test]
fn a_folder_needs_no_password_but_may_keep_the_settings_of_a_host() {
    let text = "[upstream]\nurl = \"file:out\"\nuser = \"seller@example.com\"\n";
    for text in [text.to_owned(), format!("{text}password = {{ env = \"NOT_SET_ANYWHERE\" }}\n")] {
        let config = load(&text, &[]).unwrap_or_else(|told| panic!("{told}"));
        assert!(matches!(config.route, optout_relay::config::Route::Folder(_)));
    }
}
