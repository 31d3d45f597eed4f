//! The password towards the host: in no log, no answer, no report, no file, no list of processes and no core, also where
//! the host repeats it in whatever it says.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::host::{Act, Host, Script, Stage, Tls, say};
use crate::process::Shop;
use crate::rig::{Client, Logs, eventually};
use crate::tls::{Ca, over_starttls};

/// As in `tls::PASSWORD`: itself, and as AUTH PLAIN and AUTH LOGIN say it, without the ends.
const SECRETS: [&str; 3] = ["geheim-7391", "AHNlbGxlcgBnZWhlaW0tNzM5M", "Z2VoZWltLTczOT"];

/// Says all of them, at any stage.
macro_rules! echo {
    ($start:literal) => {
        say(concat!($start, " you said geheim-7391 or AHNlbGxlcgBnZWhlaW0tNzM5MQ== or Z2VoZWltLTczOTE= or GEHEIM-7391"))
    };
}

fn shop(more: &str) -> Shop {
    let config = format!(
        "[upstream]\nuser = \"seller\"\npassword = {{ file = \"secret\" }}\n[log]\nlevel = \"debug\"\n[delivery]\n{more}"
    );
    let shop = Shop::new(&config, "");
    std::fs::write(shop.path("secret"), "geheim-7391\n").unwrap();
    shop
}

/// Every file below, but for the password's own.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.filter(|path| path.file_name().is_none_or(|name| name != "secret")).collect()
}

fn is_clean(place: &str, text: &str) {
    let text = text.to_ascii_lowercase();
    for secret in SECRETS {
        assert!(!text.contains(&secret.to_ascii_lowercase()), "{place}: {secret} stands in {text}");
    }
}

#[tokio::test]
async fn a_host_that_repeats_the_password_gets_it_into_nothing() {
    let rows = [
        // The one that nobody hears of.
        (Stage::Auth, echo!("235 2.7.0"), 250),
        (Stage::Auth, echo!("535 5.7.8"), 250),
        (Stage::Auth, echo!("454 4.7.0"), 250),
        (Stage::Auth, Act::Say(b"535-5.7.8 geheim\r\n535 5.7.8 -7391"), 250),
        (Stage::Auth, say("geheim-7391 is no reply"), 250),
        (Stage::Greeting, echo!("554 5.7.1"), 250),
        (Stage::Ehlo, echo!("550 5.7.1"), 250),
        (Stage::Mail, echo!("450 4.2.0"), 250),
        (Stage::Mail, echo!("550 5.1.8"), 550),
        (Stage::Mail, echo!("530 5.7.0"), 250),
        (Stage::Mail, echo!("421 4.3.2"), 250),
        (Stage::Mail, say("geheim-7391 is no reply"), 250),
        (Stage::Rcpt, echo!("450 4.2.1"), 250),
        (Stage::Rcpt, echo!("550 5.1.1"), 550),
        (Stage::Data, echo!("451 4.3.0"), 250),
        (Stage::Data, echo!("554 5.6.0"), 554),
        (Stage::Dot, echo!("250 2.0.0"), 250),
        (Stage::Dot, echo!("452 4.3.1"), 250),
        (Stage::Dot, echo!("554 5.7.1"), 554),
    ];
    for (stage, act, code) in rows {
        let place = format!("{stage:?} {act:?}");
        let host = Host::start(Script::new(&["PIPELINING", "AUTH PLAIN LOGIN"]).at(stage, [act])).await;
        let shop = shop("");
        let mut relay = shop.serve_to(&host.url());
        let mut client = Client::connect(relay.address).await;
        client.expect("220 ").await;
        let answer = client.mail("shop@example.com", &["in@example.com"], "Subject: x\r\n\r\nx").await;
        assert!(answer.starts_with(&code.to_string()), "{place}: {answer}");
        is_clean(&place, &answer);
        drop(client);
        is_clean(&place, &shop.run(&["spool", "show"]).1);
        relay.stop();
        is_clean(&place, &relay.said.join("\n"));
        let (shown, taken) = (relay.count("***") > 0, host.seen().messages.len() == 1);
        assert!(shown || (stage == Stage::Auth && taken), "{place}: was it said at all? {:#?}", relay.said);
        for file in files(shop.folder.path()) {
            is_clean(&format!("{place}, {}", file.display()), &String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
        }
    }
}

/// What the host says before there is encryption goes another way.
#[tokio::test]
async fn nor_does_one_that_repeats_it_at_starttls() {
    let ca = Ca::new();
    for (stage, act) in [
        (Stage::Greeting, echo!("554 5.7.1")),
        (Stage::Ehlo, echo!("550 5.7.1")),
        (Stage::StartTls, echo!("454 4.7.0")),
        (Stage::StartTls, echo!("")),
    ] {
        let logs = Logs::watch();
        let host = Host::start(Script::new(&[]).tls(Tls::Upgraded(ca.host("localhost"))).at(stage, [act])).await;
        is_clean("heard", &over_starttls(&ca, host.port).await);
        assert_eq!(logs.lines(&["ERROR", "STARTTLS", "***"]).len(), 1, "{stage:?}: {:?}", logs.lines(&[]));
        is_clean("logs", &logs.lines(&[]).join("\n"));
    }
}

/// A report about mail that failed repeats what the host said.
#[tokio::test]
async fn a_report_does_not_repeat_it() {
    let acts = [say("250 2.1.5 fine"), echo!("550 5.1.1")];
    let host = Host::start(Script::new(&["PIPELINING", "AUTH PLAIN LOGIN"]).at(Stage::Rcpt, acts)).await;
    let shop = shop("");
    let mut relay = shop.serve_to(&host.url());
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client.mail("shop@example.com", &["a@example.com", "b@example.com"], "Subject: x\r\n\r\nx").await;
    drop(client);
    eventually("there is no report", || host.reports().len() == 1).await;
    let report = host.reports()[0].text();
    assert!(report.contains("***"), "{report}");
    is_clean("report", &report);
    relay.stop();
}

#[tokio::test]
async fn it_stands_in_no_list_of_processes() {
    let host = Host::start(Script::new(&["AUTH PLAIN LOGIN"])).await;
    let shop = shop("");
    let mut relay = shop.serve_to(&host.url());
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    let answer = client.mail("shop@example.com", &["in@example.com"], "Subject: x\r\n\r\nx").await;
    assert!(answer.starts_with("250 2.0.0 delivered"), "{answer}");
    for name in ["cmdline", "environ", "status", "comm"] {
        match std::fs::read(format!("/proc/{}/{name}", relay.id())) {
            Ok(bytes) => is_clean(name, &String::from_utf8_lossy(&bytes)),
            // A process that is not dumpable is closed to all but root.
            Err(error) => assert_eq!((name, error.kind()), ("environ", std::io::ErrorKind::PermissionDenied)),
        }
    }
    drop(client);
    relay.stop();
}

/// The end of a process that may leave a core, by a signal that makes one.
fn killed(mut process: impl FnMut() -> ExitStatus) -> Option<bool> {
    let status = process();
    status.signal().map(|_| status.core_dumped())
}

#[tokio::test]
async fn a_relay_that_dies_leaves_no_core() {
    for signal in ["ABRT", "SEGV", "QUIT"] {
        // One that is like it but for this: does the machine make cores at all?
        let folder = tempfile::tempdir().unwrap();
        let dies = format!("ulimit -c unlimited && kill -{signal} $$");
        let control = killed(|| Command::new("sh").args(["-c", &dies]).current_dir(folder.path()).status().unwrap());
        if control != Some(true) {
            println!("skipped {signal}: this machine makes no cores ({control:?})");
            continue;
        }
        let shop = shop("");
        let mut relay = shop.serve_within("-c unlimited");
        let dumped = killed(|| relay.die(signal));
        assert_eq!(dumped, Some(false), "{signal}");
        let cores: Vec<_> =
            files(shop.folder.path()).into_iter().filter(|file| file.to_string_lossy().contains("core")).collect();
        assert_eq!(cores, Vec::<PathBuf>::new());
    }
}
