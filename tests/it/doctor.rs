//! `doctor`: what it finds where all is well, and at each thing that is not; and that it sends nothing and shows no secret.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::door::certify;
use crate::host::{Act, Host, MODERN, Script, Stage, Tls, say};
use crate::process::{Process, Shop, at_terminal};
use crate::tls::Ca;

const LIST: &str = "addresses = [\"out@example.com\", \"in@example.com\", \"OUT+1@example.com\"]\n";
const PASSWORD: &str = "hunter2-4711";

/// Where nobody listens.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn shop(listen: SocketAddr, config: &str) -> Shop {
    let smtp = format!("[listen]\nsmtp = [\"{listen}\"]\n");
    let config = if config.contains("[listen]\n") { config.replace("[listen]\n", &smtp) } else { smtp + config };
    let shop = Shop::new(&format!("{config}[delivery]\nmin_free = \"1MiB\"\n"), LIST);
    fs::write(shop.path("secret"), format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(shop.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    shop
}

/// Exit code, and each check: its name, status, what was found, what is to be done.
fn findings(shop: &Shop) -> (i32, Vec<[String; 4]>) {
    let (code, out, talk) = shop.run(&["doctor", "--json"]);
    assert_eq!(talk, "");
    assert!(!out.contains(PASSWORD), "{out}");
    let told: Value = serde_json::from_str(&out).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |check: &Value| ["check", "status", "found", "hint"].map(|name| text(&check[name]));
    let checks: Vec<_> = told["checks"].as_array().unwrap().iter().map(of).collect();
    let well = checks.iter().all(|[_, status, ..]| status == "ok" || status == "warning");
    assert_eq!((told["ok"].as_bool(), code), (Some(well), i32::from(!well)));
    for [check, status, found, hint] in &checks {
        assert_eq!(status == "ok", hint.is_empty(), "{check}: {found}");
    }
    (code, checks)
}

/// The same beside a host of this process.
async fn found_beside(shop: Shop) -> (Shop, i32, Vec<[String; 4]>) {
    tokio::task::spawn_blocking(move || {
        let (code, checks) = findings(&shop);
        (shop, code, checks)
    })
    .await
    .unwrap()
}

fn of<'c>(checks: &'c [[String; 4]], name: &str) -> &'c [String; 4] {
    checks.iter().find(|[check, ..]| check.starts_with(name)).unwrap_or_else(|| panic!("{name}: {checks:#?}"))
}

#[test]
fn where_all_is_well_each_line_says_so() {
    let (smtp, page) = (free(), free());
    let shop = shop(
        smtp,
        &format!(
            "[listen]\nusers = \"users.toml\"\n[admin]\nusers = \"users.toml\"\nlisten = [\"{page}\"]\n[upstream]\nurl = \"file:outbox\"\n[learn]\nfolder = \"notices\"\n"
        ),
    );
    fs::create_dir(shop.path("notices")).unwrap();
    fs::write(shop.path("users.toml"), "").unwrap();
    fs::set_permissions(shop.path("users.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = shop.command(&["serve"]);
    let mut relay = Process::start(command.env("OPTOUT_RELAY_HOSTNAME", "relay.test"));
    let (code, out, talk) = shop.run(&["doctor"]);
    let lines: Vec<_> = out.lines().collect();
    let expected = [
        "ok: configuration — relay.toml reads well",
        "ok: lists — 3 opt-outs: blacklist.toml holds 3, var/learned.toml holds 0; 1 named twice, as at blacklist.toml:1 and blacklist.toml:1",
        "ok: listen.users — 0 may log in (users.toml)",
        "ok: admin.users — 0 may log in (users.toml)",
        "ok: state_dir — var can be written",
        "ok: permissions — passwords, keys and held mail are closed to others",
        "ok: disk — ",
        "ok: spool — nothing is held",
        "ok: clock — it is 20",
        "ok: upstream — mail goes into the folder outbox, which can be written",
        &format!("ok: listen.smtp {smtp} — the relay answers: 220 relay.test ESMTP optout-relay"),
        "ok: learn.folder — notices can be read and written",
        &format!("ok: admin.listen {page} — the page answers that it is well"),
    ];
    assert_eq!((code, talk.as_str(), lines.len()), (0, "", expected.len()), "{out}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nwants {expected}");
    }
    let (code, checks) = findings(&shop);
    assert_eq!((code, checks.len()), (0, expected.len()));
    // Nothing was sent, nothing was made, nothing is left behind.
    assert_eq!(fs::read_dir(shop.path("outbox")).unwrap().count(), 0);
    relay.stop();
    let (code, checks) = findings(&shop);
    let [_, status, found, hint] = of(&checks, "listen.smtp");
    assert_eq!((code, status.as_str(), found.as_str()), (1, "wrong", "nobody listens there, and the relay could"));
    assert!(hint.starts_with("start the relay: "), "{hint}");
    assert_eq!(of(&checks, "admin.listen")[1], "wrong");
}

/// What is done to the shop, and the finding: check, status, the beginning of what was found, a part of the hint.
#[test]
fn each_thing_that_is_not_well_is_found() {
    type Break = fn(&Shop);
    let cases: [(&str, Break, [&str; 4]); 15] = [
        ("[opt_out]\nlists = [\"gone.toml\"]\n", |_| {}, ["lists", "wrong", "gone.toml: cannot be read", "create the file"]),
        ("[opt_out]\nmode = \"observe\"\n", |_| {}, ["configuration", "warning", "relay.toml: opt_out.mode is", "enforce"]),
        ("[listen]\nusers = \"gone.toml\"\n", |_| {}, ["listen.users", "wrong", "gone.toml: cannot be read", "user add NAME"]),
        (
            "[upstream]\nurl = \"file:relay.toml\"\n",
            |_| {},
            ["upstream", "wrong", "the folder relay.toml: is no folder", "another folder"],
        ),
        (
            "[upstream]\nurl = \"smtp://u@localhost:9\"\npassword = { file = \"gone\" }\n",
            |_| {},
            ["upstream", "wrong", "gone: cannot be read", "create the file"],
        ),
        (
            "[upstream]\nurl = \"smtp://nobody.invalid:9\"\n",
            |_| {},
            ["upstream", "wrong", "nobody.invalid:9: look up its name: ", "`upstream.url`"],
        ),
        ("[learn]\nfolder = \"gone\"\n", |_| {}, ["learn.folder", "wrong", "gone is not there", "make the folder"]),
        (
            "[learn]\nnotices = \"gone.toml\"\n",
            |_| {},
            ["learn.notices", "wrong", "gone.toml: cannot be read", "create the file"],
        ),
        ("", |shop| fs::write(shop.path("var"), "").unwrap(), ["state_dir", "wrong", "var: ", "another folder"]),
        (
            "[upstream]\nurl = \"smtp://u@localhost:9\"\npassword = { file = \"secret\" }\n",
            |shop| fs::set_permissions(shop.path("secret"), fs::Permissions::from_mode(0o644)).unwrap(),
            ["permissions", "warning", "secret is open to everybody", "chmod o="],
        ),
        (
            "",
            |shop| {
                fs::create_dir_all(shop.path("var/spool")).unwrap();
                fs::set_permissions(shop.path("var/spool"), fs::Permissions::from_mode(0o755)).unwrap();
            },
            ["permissions", "warning", "var/spool is open to everybody", "chmod o="],
        ),
        (
            "",
            |shop| {
                let config = shop.read("relay.toml").replace("1MiB", "9999TiB");
                fs::write(shop.path("relay.toml"), config).unwrap();
            },
            ["disk", "wrong", "", "delivery.min_free"],
        ),
        (
            "",
            |shop| {
                fs::create_dir_all(shop.path("var/log")).unwrap();
                fs::write(shop.path("var/log/sent.jsonl"), "{\"time\":\"2999-01-01T00:00:00Z\",\"event\":\"sent\"}\n").unwrap();
            },
            ["clock", "warning", "it is 2", "timedatectl"],
        ),
        (
            "",
            |shop| {
                fs::create_dir_all(shop.path("var/spool")).unwrap();
                fs::write(shop.path("var/spool/0123456789abcdefg.json"), "{").unwrap();
            },
            ["spool", "wrong", "1 held; 0123456789abcdefg cannot be read: ", "spool show"],
        ),
        (
            "",
            |shop| {
                fs::create_dir_all(shop.path("var/spool/corrupt")).unwrap();
                fs::write(shop.path("var/spool/corrupt/x"), "{").unwrap();
            },
            ["spool", "warning", "0 held; 1 damaged files lie in var/spool/corrupt", "take them away"],
        ),
    ];
    for (config, breaks, [name, status, found, hint]) in cases {
        let shop = shop(free(), config);
        breaks(&shop);
        let (_, checks) = findings(&shop);
        let told = of(&checks, name);
        assert!(told[1] == status && told[2].starts_with(found) && told[3].contains(hint), "{config}\n{told:#?}");
    }
}

/// Another user than the relay's does not see everything, and hears so.
#[test]
fn whose_folder_it_is_counts() {
    for file in ["var", "var/spool/lock"] {
        let shop = shop(free(), "");
        fs::create_dir_all(shop.path("var/spool")).unwrap();
        fs::write(shop.path("var/spool/lock"), "").unwrap();
        if file == "var" {
            fs::remove_file(shop.path("var/spool/lock")).unwrap();
        }
        if std::os::unix::fs::chown(shop.path(file), Some(12345), None).is_err() {
            println!("skipped: only root can give a folder away");
            return;
        }
        let (_, checks) = findings(&shop);
        let [_, status, found, hint] = of(&checks, "state_dir");
        assert!(status == "warning" && found.starts_with("var belongs to user 12345, and this is user "), "{found}");
        assert!(hint.contains("sudo -u optout-relay"), "{hint}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_all_that_is_told() {
    let shop = shop(free(), "");
    fs::write(shop.path("relay.toml"), "[listen]\nmax_sesions = 1\n").unwrap();
    let told = "wrong: configuration — relay.toml:2:1: unknown key `listen.max_sesions`\n\nWhat to do:\n1. configuration: did you mean `max_sessions`?\n";
    assert_eq!(shop.run(&["doctor"]), (1, told.into(), String::new()));
    let (code, checks) = findings(&shop);
    assert_eq!((code, checks.len()), (1, 1));
}

/// Where others come in it is encrypted, and is asked by the same way; `try` finds it too.
#[test]
fn what_is_encrypted_from_the_first_byte_is_met_so() {
    let (smtp, page) = (free(), free().port());
    let config = format!(
        "[listen]\nsubmissions = [\"{smtp}\"]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\nusers = \"users.toml\"\n[admin]\nusers = \"users.toml\"\nlisten = [\"0.0.0.0:{page}\"]\n[upstream]\nurl = \"file:outbox\"\n"
    );
    let shop = shop(free(), &config);
    // No other way in.
    let written = shop.read("relay.toml");
    let plain = written.lines().find(|line| line.starts_with("smtp = ")).unwrap();
    fs::write(shop.path("relay.toml"), written.replace(plain, "smtp = []")).unwrap();
    drop(certify(shop.folder.path()));
    fs::write(shop.path("users.toml"), "").unwrap();
    let mut command = shop.command(&["serve"]);
    let mut relay = Process::start(command.env("OPTOUT_RELAY_HOSTNAME", "relay.test"));
    let (_, checks) = findings(&shop);
    let told = of(&checks, "listen.submissions");
    assert_eq!((told[1].as_str(), told[2].as_str()), ("ok", "the relay answers: 220 relay.test ESMTP optout-relay"));
    let told = of(&checks, "admin.listen 0.0.0.0");
    assert_eq!((told[1].as_str(), told[2].as_str()), ("ok", "the page answers that it is well"));
    let told = of(&checks, "listen.certificate");
    assert_eq!((told[1].as_str(), told[2].as_str()), ("ok", "chain.pem belongs to its key, and its dates are good"));
    let (code, out, talk) = shop.run(&["try", "in2@example.com"]);
    assert!(code == 0 && talk.is_empty() && out.contains("\nforwarded: "), "{out}{talk}");
    relay.stop();
    fs::write(shop.path("key.pem"), "").unwrap();
    let (_, checks) = findings(&shop);
    assert_eq!(
        (of(&checks, "listen.certificate")[1].as_str(), of(&checks, "listen.submissions")[1].as_str()),
        ("wrong", "wrong")
    );
}

#[test]
fn somebody_else_at_our_address_is_not_taken_for_the_relay() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            // Whoever asks may be gone.
            let _ = stream.unwrap().write_all(b"220 mail.example ESMTP Post\x1b[31mfix\r\n");
        }
    });
    let (_, checks) = findings(&shop(address, ""));
    let told = of(&checks, "listen.smtp");
    assert_eq!(
        (told[1].as_str(), told[2].as_str()),
        ("wrong", "another program answers there: 220 mail.example ESMTP Post?[31mfix")
    );
}

#[tokio::test]
async fn the_host_is_met_as_the_relay_meets_it_and_gets_no_mail() {
    let ca = Ca::new();
    let offer: &[&str] = &["PIPELINING", "AUTH PLAIN"];
    let refusal = say("535 5.7.8 hunter2-4711 is wrong");
    for (script, status, found, hint) in [
        (Script::new(offer), "ok", "answers, in the clear; takes the login of u", ""),
        (Script::new(offer).tls(Tls::FirstByte(ca.host("localhost"))), "ok", "answers, encrypted; takes the login of u", ""),
        (
            Script::new(offer).tls(Tls::FirstByte(ca.host("other.test"))),
            "wrong",
            "TLS: its certificate is for other.test, not for localhost",
            "upstream.url",
        ),
        (
            Script::new(offer).at(Stage::Auth, [refusal]),
            "wrong",
            "the mail host does not take our login: 535 5.7.8 *** is wrong",
            "upstream.password",
        ),
        (Script::new(MODERN), "wrong", "the mail host offers neither of the logins PLAIN and LOGIN", "upstream.password"),
        (Script::new(offer).at(Stage::Greeting, [Act::Silence]), "wrong", "greeting: took too long", "firewall"),
        (Script::new(offer).at(Stage::Greeting, [say("554 5.7.1 go away")]), "wrong", "greeting: 554 5.7.1 go away", "firewall"),
    ] {
        let scheme = if matches!(script.tls, Tls::Never) { "smtp" } else { "smtps" };
        let host = Host::start(script).await;
        let config = format!(
            "[upstream]\nurl = \"{scheme}://u@localhost:{}\"\npassword = {{ file = \"secret\" }}\n{}ca = {:?}\n",
            host.port,
            if found.ends_with("took too long") { "timeout = \"500ms\"\n" } else { "" },
            ca.path()
        );
        let (_shop, _, checks) = found_beside(shop(free(), &config)).await;
        let told = of(&checks, "upstream");
        let name = format!("localhost:{}", host.port);
        assert!(
            told[1] == status && told[2].starts_with(&name) && told[2].ends_with(found) && told[3].contains(hint),
            "{told:#?}"
        );
        let commands = host.seen().commands;
        assert!(!commands.iter().any(|line| line.starts_with("MAIL")), "{commands:?}");
    }
}

/// A mailbox that knows one answer to LOGIN.
fn mailbox(login: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"* OK hello\r\n").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            let (tag, command) = (words.next().unwrap(), words.next().unwrap());
            let answer = match command {
                "LOGIN" => format!("{tag} {login}\r\n"),
                "CAPABILITY" => format!("* CAPABILITY IMAP4rev1\r\n{tag} OK\r\n"),
                "SELECT" => format!("* 0 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n{tag} OK done\r\n"),
                "LOGOUT" => format!("* BYE x\r\n{tag} OK done\r\n"),
                other => panic!("{other} is not for a doctor"),
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    port
}

#[test]
fn the_mailbox_is_logged_into_and_left_alone() {
    for (login, status, found) in [
        ("OK fine", "ok", "logged in, and INBOX is there"),
        ("NO hunter2-4711 is wrong", "wrong", "the server refuses user and password"),
    ] {
        let port = mailbox(login);
        let config = format!("[learn.imap]\nurl = \"imap://u@127.0.0.1:{port}\"\npassword = {{ file = \"secret\" }}\n");
        let shop = shop(free(), &config);
        fs::create_dir(shop.path("var")).unwrap();
        let (_, checks) = findings(&shop);
        let told = of(&checks, "learn.imap");
        assert_eq!((told[1].as_str(), told[2].as_str()), (status, format!("u at 127.0.0.1:{port}: {found}").as_str()));
        assert_eq!(fs::read_dir(shop.path("var")).unwrap().count(), 0, "a look makes no file");
    }
}

/// Colours are for people who look, and have not said that they want none.
#[test]
fn colours_are_shown_at_a_terminal_only() {
    let shop = shop(free(), "");
    assert!(!shop.run(&["doctor"]).1.contains('\x1b'));
    for (set, wants) in [("NO_COLOR_NOT", true), ("NO_COLOR", false)] {
        let mut command = shop.command(&["doctor"]);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let out = at_terminal(command.env("TERM", "xterm").env(set, "1"));
        assert_eq!(out.contains("\x1b[32mok\x1b[0m:      lists"), wants, "{out:?}");
        assert!(out.contains(":      lists — "), "{out:?}");
    }
}
