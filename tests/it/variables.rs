//! `OPTOUT_RELAY_…` over the file: every kind of value, wrong names, wrong values, who wins.

use std::path::Path;
use std::time::Duration;

use optout_relay::config::Config;
use optout_relay::optout::Action;

const FILE: &str = "hostname = \"file.example\"\n[listen]\nmax_sessions = 5\nmax_errors = 6\n";

fn load(environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| (format!("OPTOUT_RELAY_{name}"), (*value).to_owned()));
    Config::parse(Path::new("relay.toml"), FILE, environment).map_err(|fault| fault.to_string())
}

#[test]
fn a_variable_goes_over_the_file_and_the_rest_stays() {
    let config = load(&[
        ("HOSTNAME", "variable.example"),
        ("SHUTDOWN_GRACE", "1h 30m"),
        ("LISTEN__MAX_SESSIONS", "64"),
        ("LISTEN__MAX_MESSAGE_SIZE", "1MiB"),
        ("LISTEN__SMTP", "[\"127.0.0.1:0\", '[::1]:0']"),
        ("LISTEN__CLIENTS", "[\"10.1.2.3\"]"),
        ("UPSTREAM__URL", "smtp://mail.example.com:2587"),
        ("UPSTREAM__USER", "007"),
        ("UPSTREAM__PASSWORD__ENV", "SMTP_PASSWORD"),
        ("UPSTREAM__TIMEOUT", "\"7s\""),
        ("OPT_OUT__LISTS", "['a.toml', 'b.txt']"),
        ("OPT_OUT__ACTION", "drop"),
        ("OPT_OUT__MAX_SHRINK", "1"),
    ])
    .unwrap_or_else(|told| panic!("{told}"));
    let file = &config.file;
    assert_eq!((config.hostname.as_str(), file.shutdown_grace), ("variable.example", Duration::from_secs(5400)));
    assert_eq!((file.listen.max_sessions, file.listen.max_errors, file.listen.max_recipients), (64, 6, 1000));
    assert_eq!((file.listen.max_message_size.0, file.listen.smtp.len()), (1 << 20, 2));
    assert_eq!(file.listen.clients[0].to_string(), "10.1.2.3/32");
    assert_eq!((file.upstream.user.as_deref(), file.upstream.timeout), (Some("007"), Duration::from_secs(7)));
    assert_eq!(config.lists, [Path::new("a.toml"), Path::new("b.txt")]);
    assert_eq!((config.policy.action, file.opt_out.max_shrink), (Action::Drop, 1.0));
}

#[test]
fn the_password_may_be_placed_by_a_table_too() {
    let url = ("UPSTREAM__URL", "smtps://u@mail.example.com");
    for (name, value) in [("UPSTREAM__PASSWORD", "{ file = '/run/p' }"), ("UPSTREAM__PASSWORD__FILE", "/run/p")] {
        let config = load(&[url, (name, value)]).unwrap_or_else(|told| panic!("{told}"));
        assert_eq!(format!("{:?}", config.file.upstream.password), "Some(File(\"/run/p\"))");
    }
}

#[test]
fn what_is_wrong_with_a_variable_is_told_by_its_name() {
    let names = "the name is OPTOUT_RELAY_<SECTION>__<KEY>, as in OPTOUT_RELAY_LISTEN__MAX_SESSIONS";
    let numbers = "write the number without quotes, unit, sign or fraction, as in 100";
    for (name, value, error, hint) in [
        ("HOSTNAM", "x", "unknown key `hostnam`", format!("did you mean `hostname`? {names}")),
        ("LISTEN_MAX_SESSIONS", "5", "unknown key `listen_max_sessions`", format!("did you mean `listen`? {names}")),
        ("LISTEN__MAX_SESIONS", "5", "unknown key `max_sesions`", format!("did you mean `max_sessions`? {names}")),
        ("LISTN__MAX_SESSIONS", "5", "unknown key `listn`", format!("did you mean `listen`? {names}")),
        ("HOSTNAME__X", "5", "names no section of the configuration", names.to_owned()),
        ("", "5", "unknown key ``", names.to_owned()),
        ("LISTEN__MAX_SESSIONS", "many", "expected a whole number, 0 or more, not a text", numbers.to_owned()),
        ("LISTEN__MAX_SESSIONS", "", "expected a whole number, 0 or more, not a text", numbers.to_owned()),
        ("LISTEN__MAX_SESSIONS", "0", "may not be 0", "delete the line to have the default".to_owned()),
        (
            "LISTEN__SMTP",
            "127.0.0.1:2525",
            "expected a list, not a text",
            "write a list in brackets, as in [\"…\", \"…\"]".to_owned(),
        ),
        ("UPSTREAM__TIMEOUT", "20", "expected a duration, not a number", "as in \"20s\", \"5m\" or \"1h 30m\"".to_owned()),
        ("OPT_OUT__ACTION", "rejct", "expected `drop`, `bounce` or `reject`, not `rejct`", "did you mean `reject`?".to_owned()),
        (
            "UPSTREAM__URL",
            "smtp://u:hunter2@mail.example.com",
            "holds a password",
            "take it out, and set upstream.password = { file = \"...\" }".to_owned(),
        ),
    ] {
        let told = load(&[(name, value)]).err().unwrap_or_else(|| panic!("OPTOUT_RELAY_{name}={value} is taken"));
        assert_eq!(told, format!("OPTOUT_RELAY_{name}: {error}\nhint: {hint}"));
    }
}

#[test]
fn no_secret_in_a_variable_is_told() {
    for value in ["hunter2", "4711", "47.11", "true", "[\"hunter2\"]", "{ value = \"hunter2\" }", "2017-03-27", "{ hunter2"] {
        for name in
            ["UPSTREAM__PASSWORD", "UPSTREAM__PASSWORD__VALUE", "UPSTREAM__PASSWORT", "LISTEN__MAX_SESSIONS", "OPT_OUT__LISTS"]
        {
            let Err(told) = load(&[(name, value)]) else {
                assert!(!name.contains("PASSWOR"), "{name}={value} is taken");
                continue;
            };
            assert!(told.starts_with(&format!("OPTOUT_RELAY_{name}: ")), "{told}");
            let secrets = ["hunter2", "4711", "47.11", "2017"];
            assert!(!secrets.iter().any(|secret| told.contains(secret)), "{name}={value}: {told}");
        }
    }
}
