//! What is counted, as Prometheus sees it; whether the relay says that it is well; and that the files for Grafana and Prometheus name
//! nothing that there is not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::api::Asked;
use crate::host::{Host, MODERN, Script};
use crate::http::ask;
use crate::rig::{Client, eventually};

/// As Prometheus asks.
const OPEN_METRICS: (&str, &str) = ("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3");

/// Every sample: name and labels as they stand there, and the value.
async fn scrape(asked: &Asked) -> BTreeMap<String, f64> {
    let answer = ask(asked.page, "GET", "/metrics", &[OPEN_METRICS], "").await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8", "{answer:?}");
    assert!(answer.status == 200 && answer.body.ends_with("# EOF\n"), "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// What has grown, or is not 0, since `before`, but for what time alone changes.
fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let is_time = |name: &str| {
        name.contains("_seconds") || name.contains("free_bytes") || name.contains("memory") || name.contains("sessions_active")
    };
    let changed = after.iter().filter(|(name, value)| !is_time(name) && before.get(*name) != Some(value));
    changed.map(|(name, value)| (name.trim_start_matches("optout_relay_").to_owned(), value - before[name])).collect()
}

#[tokio::test]
async fn every_ending_of_a_mail_is_counted_once() {
    let asked = Asked::open("", "").await;
    asked.relay.list("addresses = [\"out@x.example\"]\n[[opt_out]]\naddress = \"drop@x.example\"\naction = \"drop\"\n").await;
    let before = scrape(&asked).await;
    assert!(before.len() >= 90, "{}", before.len());
    let mut client = asked.relay.client().await;
    client
        .mail("shop@a.example", &["out@x.example", "drop@x.example", "in@x.example", "b@x.example"], "Subject: x\r\n\r\nx")
        .await;
    client.expect_to("QUIT", "221").await;
    let after = scrape(&asked).await;
    let expected = [
        ("messages_accepted_total", 1.0),
        ("outcomes_total{outcome=\"delivered\"}", 2.0),
        ("recipients_accepted_total", 3.0),
        ("sessions_total", 1.0),
        ("suppressed_total{action=\"drop\",source=\"list\"}", 1.0),
        ("suppressed_total{action=\"reject\",source=\"list\"}", 1.0),
    ];
    assert_eq!(grown(&before, &after), expected.map(|(name, count)| (name.to_owned(), count)).into());
    for name in ["answer_seconds_count", "attempt_seconds_count", "answer_seconds_bucket{le=\"+Inf\"}"] {
        let name = format!("optout_relay_{name}");
        assert_eq!(after[&name] - before[&name], 1.0, "{name}");
    }
    assert_eq!((after["optout_relay_list_entries{part=\"written\"}"], after["optout_relay_listeners"]), (2.0, 1.0));
    asked.relay.stop().await;
}

#[tokio::test]
async fn what_waits_and_what_is_broken_is_told_and_mail_is_taken_all_the_same() {
    // Nobody listens there.
    let asked = Asked::open("", "smtp://127.0.0.1:1").await;
    let before = scrape(&asked).await;
    assert_eq!(before["optout_relay_upstream_up"], 1.0);
    let mut client = asked.relay.client().await;
    assert!(client.mail("shop@a.example", &["in@x.example"], "Subject: x\r\n\r\nx").await.starts_with("250"));
    std::fs::write(asked.relay.path("blacklist.toml"), "addresses = [\n").unwrap();
    asked.relay.control.reload();
    eventually("the list is not looked at", || asked.relay.line.lists.is_stale()).await;
    let after = scrape(&asked).await;
    let is = |name: &str| after[&format!("optout_relay_{name}")];
    assert_eq!((is("spool_messages"), is("upstream_up"), is("upstream_connections_max")), (1.0, 0.0, 20.0));
    assert_eq!((is("list_stale"), is("outcomes_total{outcome=\"deferred\"}")), (1.0, 1.0));
    assert!(is("list_reload_failures_total") >= 1.0 && is("spool_oldest_seconds") > 0.0);
    let ready = ask(asked.page, "GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    for words in ["ready\n", "note: the mail host cannot be reached; mail is taken and held", "note: a list on disk is broken"] {
        assert!(ready.body.contains(words), "{ready:?}");
    }
    asked.relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_takes_no_mail_is_not_ready_and_lives() {
    let asked = Asked::open("[delivery]\nmin_free = \"1000PiB\"\n", "").await;
    let ready = ask(asked.page, "GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.starts_with("not ready: less than delivery.min_free is free"), "{ready:?}");
    let health = ask(asked.page, "GET", "/healthz", &[], "").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    asked.relay.stop().await;
    let asked = Asked::open("", "").await;
    assert_eq!(ask(asked.page, "GET", "/readyz", &[], "").await.body, "ready\n");
    std::fs::remove_dir_all(asked.relay.path("var/spool")).unwrap();
    let ready = ask(asked.page, "GET", "/readyz", &[], "").await;
    assert!(ready.status == 503 && ready.body.contains("the spool cannot be written"), "{ready:?}");
    asked.relay.stop().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_counted_and_what_is_refused() {
    let asked = Asked::open("", "").await;
    asked.relay.break_log().await;
    let before = scrape(&asked).await;
    let mut client = asked.relay.client().await;
    let reply = client.mail("shop@a.example", &["out@x.example"], "Subject: x\r\n\r\nx").await;
    assert!(reply.starts_with("451"), "{reply}");
    let after = scrape(&asked).await;
    assert_eq!(grown(&before, &after)["log_write_failures_total{log=\"suppressed\"}"], 1.0);
    let suppressed: f64 = after.iter().filter(|(name, _)| name.contains("suppressed_total{")).map(|(_, count)| count).sum();
    assert_eq!(suppressed, 0.0, "nobody is counted as suppressed who is not in the log");
    asked.relay.stop().await;
}

#[tokio::test]
async fn sessions_are_counted_in_and_out_and_strangers_too() {
    let asked = Asked::open("", "").await;
    let (one, two) = (asked.relay.client().await, asked.relay.client().await);
    let inside = scrape(&asked).await;
    assert_eq!(inside["optout_relay_sessions_active"], 2.0);
    drop((one, two));
    let mut left = 2.0;
    while left > 0.0 {
        left = scrape(&asked).await["optout_relay_sessions_active"];
    }
    asked.relay.stop().await;
    let asked = Asked::open("[listen]\nclients = [\"192.0.2.1/32\"]\n", "").await;
    let mut stranger = Client::connect(asked.relay.address).await;
    stranger.expect("554 5.7.1").await;
    assert_eq!(scrape(&asked).await["optout_relay_sessions_refused_total{reason=\"unknown_client\"}"], 1.0);
    asked.relay.stop().await;
}

#[tokio::test]
async fn a_whole_scrape_follows_the_conventions() {
    let asked = Asked::open("", "").await;
    let body = ask(asked.page, "GET", "/metrics", &[OPEN_METRICS], "").await.body;
    let (mut named, mut described) = (BTreeSet::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.len() > 10 && !help.ends_with('.'), "{line}");
            assert!(named.insert(name.to_owned()), "{name} is told twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(name.starts_with("optout_relay_") && named.contains(name), "{line}");
            described.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let endings = ["_total", "_bucket", "_sum", "_count"];
            let base = endings.iter().find_map(|ending| name.strip_suffix(ending)).filter(|base| described.contains_key(*base));
            let kind = &described[base.unwrap_or(name)];
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        }
    }
    assert!(named.len() >= 25, "{named:?}");
    // One value a class, however many scrapes and mails there are.
    let samples = body.lines().filter(|line| !line.starts_with('#')).count();
    assert!(samples < 200, "{samples}");
    asked.relay.stop().await;
}

#[tokio::test]
async fn whoever_does_not_know_openmetrics_gets_the_older_text() {
    let asked = Asked::open("", "").await;
    let old = ask(asked.page, "GET", "/metrics", &[], "").await;
    assert_eq!(old.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(old.body.contains("# TYPE optout_relay_messages_accepted_total counter\n") && !old.body.contains("# EOF"));
    // promtool is Prometheus's own reader, where it is there.
    let mut promtool = Command::new("promtool");
    if let Ok(mut child) =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    {
        child.stdin.take().unwrap().write_all(old.body.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said, "");
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring/alerts.yml");
        let checked = Command::new("promtool").args(["check", "rules"]).arg(rules).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    } else {
        eprintln!("promtool is not there: metrics and alerts are not examined by it");
    }
    asked.relay.stop().await;
}

#[tokio::test]
async fn what_was_learned_is_counted_and_then_suppresses_by_that_source() {
    let asked = Asked::open("", "").await;
    let before = scrape(&asked).await;
    let mut client = asked.relay.client().await;
    client.mail("shop@a.example", &["new@x.example", "optout+buyer@relay.local"], "Subject: x\r\n\r\nx").await;
    client.say("RSET").await;
    client.mail("shop@a.example", &["new@x.example"], "Subject: x\r\n\r\nx").await;
    let after = grown(&before, &scrape(&asked).await);
    assert_eq!(after["learned_total{event=\"learned\"}"], 1.0, "{after:?}");
    assert_eq!(after["suppressed_total{action=\"reject\",source=\"address\"}"], 2.0, "{after:?}");
    assert_eq!(after["list_entries{part=\"learned\"}"], 1.0, "{after:?}");
    asked.relay.stop().await;
}

#[tokio::test]
async fn connections_to_the_host_are_seen_at_work_and_idle() {
    let host = Host::start(Script::new(MODERN)).await;
    let asked = Asked::open("", &host.url()).await;
    let mut client = asked.relay.client().await;
    assert!(client.mail("shop@a.example", &["in@x.example"], "Subject: x\r\n\r\nx").await.starts_with("250"));
    let samples = scrape(&asked).await;
    let connections = |state: &str| samples[&format!("optout_relay_upstream_connections{{state=\"{state}\"}}")];
    assert_eq!((connections("busy"), connections("idle")), (0.0, 1.0));
    asked.relay.stop().await;
}

/// A proxy on this machine hands on what others ask; they call the page by its name.
#[tokio::test]
async fn numbers_are_for_this_machine_and_for_programs_that_log_in() {
    let asked = Asked::open("hosts = [\"Mail.Shop.example\"]\n", "").await;
    let login = ("Authorization", "Bearer shop-tool:a long secret");
    for (host, headers, status) in [
        ("localhost:8025", None, 200),
        ("127.0.0.1", None, 200),
        ("mail.shop.example", None, 401),
        ("MAIL.shop.example:443", None, 401),
        ("mail.shop.example", Some(login), 200),
        ("other.example", Some(login), 421),
    ] {
        let headers: Vec<_> = headers.into_iter().chain([("Host", host)]).collect();
        assert_eq!(ask(asked.page, "GET", "/metrics", &headers, "").await.status, status, "{host}");
    }
    asked.relay.stop().await;
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("optout_relay_").map(|(at, _)| &text[at..]);
    let name = |text: &str| text[..text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())].to_owned();
    starts.map(name).collect()
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_name_nothing_that_there_is_not() {
    let asked = Asked::open("", "").await;
    let there = names(&scrape(&asked).await.into_keys().collect::<Vec<_>>().join(" "));
    for (file, text, least) in [
        ("grafana.json", include_str!("../../monitoring/grafana.json"), 20),
        ("alerts.yml", include_str!("../../monitoring/alerts.yml"), 10),
    ] {
        let named = names(text);
        assert!(named.len() >= least, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&there).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../monitoring/grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 10);
    asked.relay.stop().await;
}
