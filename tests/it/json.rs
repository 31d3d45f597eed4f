//! What commands tell programs: one JSON object a line for what is listed, one for a single answer, and the same as people hear.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::held::{SHOP, id};
use crate::host::{Host, MODERN, Script};
use crate::learned::notice;
use crate::process::{Shop, at_terminal, told};
use crate::rig::Client;

const LIST: &str = "addresses = [\"out@x.example\"]\n[[opt_out]]\naddress = \"drop@x.example\"\naction = \"drop\"\nreason = \"by phone\"\nsince = 2026-11-01\n";

/// Exit code, and the objects on standard output.
fn run(shop: &Shop, line: &str) -> (i32, Vec<Value>) {
    let (code, out, talk) = shop.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(talk, "", "{line}");
    (code, objects(&out))
}

fn objects(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn lists_and_verdicts() {
    let shop = Shop::new("", LIST);
    let drop = json!({"kind": "address", "value": "drop@x.example", "file": "blacklist.toml", "line": 2, "since": "2026-11-01",
        "until": null, "reason": "by phone", "source": null, "senders": [], "note": null});
    let forwarded = json!({"address": "in@x.example", "verdict": "forwarded", "suppressed": false, "action": null, "rule": null});
    let out = json!({"file": "blacklist.toml", "line": 1, "kind": "address", "value": "out@x.example"});
    let dropped = json!({"file": "blacklist.toml", "line": 2, "kind": "address", "value": "drop@x.example", "since": "2026-11-01",
        "reason": "by phone", "action": "drop"});
    let done = |value: &str, did: &str| json!({"file": "blacklist.toml", "did": did, "kind": "address", "value": value});
    for (line, code, expected) in [
        (
            "check --json",
            0,
            vec![json!({"configuration": "relay.toml", "lists": [{"file": "blacklist.toml", "opt_outs": 2}], "twins": [],
                "twin_count": 0, "certificate": null, "users": [], "notes": []})],
        ),
        (
            "explain --json in@x.example Drop+1@x.example",
            1,
            vec![
                forwarded.clone(),
                json!({"address": "Drop+1@x.example", "verdict": "suppressed", "suppressed": true, "action": "drop", "rule": drop}),
            ],
        ),
        ("explain --json in@x.example", 0, vec![forwarded]),
        ("list show --json", 0, vec![out.clone(), dropped.clone()]),
        (
            "list add new@x.example out@x.example --json",
            0,
            vec![done("new@x.example", "added"), done("out@x.example", "stands already")],
        ),
        ("list remove new@x.example --json", 0, vec![done("new@x.example", "removed")]),
        ("list show --json", 0, vec![out, dropped]),
    ] {
        assert_eq!(run(&shop, line), (code, expected), "{line}");
    }
}

#[test]
fn users() {
    let shop = Shop::new("[listen]\nusers = \"users.toml\"\n", LIST);
    for (arguments, done) in
        [(&["a", "--senders", "*@x.example"][..], "added"), (&["b"], "added"), (&["b", "--replace"], "replaced")]
    {
        let mut command = shop.command(&["user", "--json", "add"]);
        let mut child =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
        let (code, out, _) = told(child.wait_with_output().unwrap());
        assert_eq!((code, objects(&out)), (0, vec![json!({"file": "users.toml", "user": arguments[0], "done": done})]));
    }
    let all = vec![json!({"user": "a", "senders": ["*@x.example"]}), json!({"user": "b", "senders": null})];
    assert_eq!(run(&shop, "user list --json"), (0, all));
    assert_eq!(run(&shop, "user remove b --json"), (0, vec![json!({"file": "users.toml", "user": "b", "done": "removed"})]));
    let users = run(&shop, "check --json").1[0]["users"].clone();
    assert_eq!(users, json!([{"file": "users.toml", "users": 1, "open_to_everybody": false}]));
}

#[test]
fn lessons() {
    let shop = Shop::new("[learn]\ntrusted_authserv = [\"mx.shop.example\"]\n", LIST);
    let buyer = "k3x9qzr7w2m5p1d@marketplace.amazon.it";
    std::fs::write(shop.path("n.eml"), notice("n1", buyer, "")).unwrap();
    let (code, dry) = run(&shop, "learn --dry-run --json n.eml");
    assert_eq!((code, &dry[0]["file"], &dry[0]["dry_run"]), (0, &"n.eml".into(), &true.into()), "{dry:#?}");
    let settled = &dry[0]["settled"][0];
    assert_eq!((&settled["event"], &settled["entry"], &settled["id"]), (&"quarantined".into(), &buyer.into(), &Value::Null));
    assert!(
        dry[0]["seen"][0].as_str().unwrap().starts_with("a notice from auto-communication@amazon.com, known by "),
        "{dry:#?}"
    );
    assert!(!shop.path("var/quarantine").exists());
    let (_, learned) = run(&shop, "learn --json n.eml");
    let waiting = learned[0]["settled"][0]["id"].as_str().unwrap().to_owned();
    let (code, shown) = run(&shop, "learn quarantine show --json");
    let [one] = &shown[..] else { panic!("{shown:#?}") };
    assert_eq!((code, &one["id"], &one["kind"], &one["entry"]), (0, &waiting.clone().into(), &"address".into(), &buyer.into()));
    assert!(one["why"].as_str().is_some_and(|why| !why.is_empty()) && one["source"] == "notice <n1@amazon.com>", "{one:#}");
    let (code, accepted) = run(&shop, &format!("learn quarantine accept --json {waiting}"));
    assert_eq!((code, &accepted[0]["done"], &accepted[0]["settled"]["event"]), (0, &"accepted".into(), &"learned".into()));
    std::fs::write(shop.path("n.eml"), notice("n2", "zzz9qzr7w2m5p1d@marketplace.amazon.it", "")).unwrap();
    let (_, learned) = run(&shop, "learn --json n.eml");
    let waiting = learned[0]["settled"][0]["id"].as_str().unwrap();
    let rejected = json!({"id": waiting, "done": "rejected", "entry": "zzz9qzr7w2m5p1d@marketplace.amazon.it"});
    assert_eq!(run(&shop, &format!("learn quarantine reject --json {waiting}")), (0, vec![rejected]));
}

#[tokio::test]
async fn held_mail() {
    let host = Host::start(Script::new(MODERN).always("later@", "451 4.2.1 busy")).await;
    let shop = Shop::new("[delivery]\nretry_first = \"50m\"\n", LIST);
    assert_eq!(run(&shop, "spool show --json"), (0, vec![]));
    let mut relay = shop.serve_to(&host.url());
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    let id = id(&client.mail(SHOP, &["later@x.example", "in@x.example"], "Subject: x\r\n\r\nx").await);
    drop(client);
    relay.stop();
    let (code, all) = run(&shop, "spool show --json");
    let [one] = &all[..] else { panic!("{all:#?}") };
    assert_eq!((code, &one["id"], &one["sender"], &one["attempts"]), (0, &id.clone().into(), &SHOP.into(), &1.into()));
    let waits = json!({"address": "later@x.example", "status": "deferred", "reply": "451 4.2.1 busy"});
    assert_eq!((&one["recipients"][0], &one["recipients"][1]["status"]), (&waits, &"sent".into()), "{one:#}");
    assert_eq!(run(&shop, &format!("spool show {id} --json")).1, all);
    assert_eq!(run(&shop, "spool show 00000000000000000 --json"), (1, vec![]));
    std::fs::write(shop.path("var/spool").join(format!("{id}.json")), "{").unwrap();
    let (_, all) = run(&shop, "spool show --json");
    assert!(all[0]["id"] == id.as_str() && all[0]["error"].as_str().unwrap().contains("cannot be read"), "{all:#?}");
}

/// A decision of the past, and what it would be today.
#[tokio::test]
async fn a_decision_is_replayed() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve();
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    let dropped = client.mail(SHOP, &["drop@x.example"], "Subject: x\r\n\r\nx").await;
    let dropped = id(&dropped);
    let sent = id(&client.mail(SHOP, &["In@x.example"], "Subject: x\r\n\r\nx").await);
    drop(client);
    relay.stop();
    let (code, found) = run(&shop, &format!("explain --json --id {dropped}"));
    let [one] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((code, &one["same"], &one["then"]["id"]), (1, &true.into(), &dropped.clone().into()));
    assert_eq!((&one["today"]["verdict"], &one["today"]["address"]), (&"suppressed".into(), &"drop@x.example".into()));
    assert_eq!((one["then"].clone(), one["then"]["rule"]["line"].clone()), (shop.suppressed()[0].clone(), 2.into()));
    let (code, out, talk) = shop.run(&["explain", "--id", &dropped]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, talk.as_str(), lines[1]), (1, "", "today: would be suppressed; the same"), "{out}");
    assert!(
        lines[0]
            .contains("suppressed (drop)  drop@x.example  from shop@example.com  by address drop@x.example in blacklist.toml:2"),
        "{out}"
    );
    assert_eq!(lines[2..4], ["  rule    blacklist.toml:2, address drop@x.example", "  action  drop"]);
    // The lists change, and the entry stands elsewhere.
    let list = format!("domains = [\n\"y.example\"\n]\n{LIST}");
    for (list, then, code, verdict, same) in [
        (list.as_str(), &dropped, 1, "suppressed", true),
        ("", &dropped, 0, "forwarded", false),
        ("[[opt_out]]\naddress = \"drop@x.example\"\naction = \"bounce\"\n", &dropped, 1, "suppressed", false),
        ("domains = [\"x.example\"]\n", &dropped, 1, "suppressed", false),
        ("[[opt_out]]\ndomain = \"x.example\"\naction = \"drop\"\n", &dropped, 1, "suppressed", false),
        ("", &sent, 0, "forwarded", true),
        ("domains = [\"x.example\"]\n", &sent, 1, "suppressed", false),
        ("[[opt_out]]\naddress = \"in@x.example\"\nsenders = [\"*@other.example\"]\n", &sent, 0, "forwarded", true),
        ("[[opt_out]]\naddress = \"in@x.example\"\nsenders = [\"*@example.com\"]\n", &sent, 1, "suppressed", false),
    ] {
        std::fs::write(shop.path("blacklist.toml"), list).unwrap();
        let (exit, found) = run(&shop, &format!("explain --id {then} --json"));
        assert_eq!((exit, &found[0]["today"]["verdict"], &found[0]["same"]), (code, &verdict.into(), &same.into()), "{list}");
    }
    let (code, out, talk) = shop.run(&["explain", "--id", "00000000000000000"]);
    assert_eq!(
        (code, out.as_str(), talk.starts_with("optout-relay: 00000000000000000 stands in no log\nhint: ")),
        (66, "", true),
        "{talk}"
    );
    assert_eq!(shop.run(&["explain", "--id", "x"]).0, 64);
    assert_eq!(shop.run(&["explain", "--id", &dropped, "in@x.example"]).0, 64);
}

/// Columns and colours are for people who look.
#[test]
fn at_a_terminal_columns_stand_below_one_another() {
    let shop = Shop::new("[listen]\nusers = \"users.toml\"\n", LIST);
    let plain = shop.run(&["list", "show"]).1;
    assert_eq!(plain.lines().next(), Some("blacklist.toml:1\taddress\tout@x.example\t"));
    let shown = |arguments: &[&str], set: &str| {
        let mut command = shop.command(arguments);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        at_terminal(command.env("TERM", "xterm").env(set, "1")).replace("\r\n", "\n")
    };
    let listed = "blacklist.toml:1  address  out@x.example\nblacklist.toml:2  address  drop@x.example  since=\"2026-11-01\" action=\"drop\" reason=\"by phone\"\n";
    assert_eq!(shown(&["list", "show"], "X"), listed);
    let explained = |yes: &str, no: &str| format!("in@x.example: {yes}would be forwarded{no}\n");
    assert_eq!(shown(&["explain", "in@x.example"], "X"), explained("\x1b[32m", "\x1b[0m"));
    assert_eq!(shown(&["explain", "in@x.example"], "NO_COLOR"), explained("", ""));
    let line = "{\"time\":\"2026-11-25T08:00:00Z\",\"event\":\"sent\",\"recipient\":\"a@x.example\",\"upstream\":\"h\",\"reply\":\"250 ok\"}\n";
    std::fs::create_dir_all(shop.path("var/log")).unwrap();
    std::fs::write(shop.path("var/log/sent.jsonl"), line).unwrap();
    assert_eq!(shown(&["log", "--log", "sent"], "X"), "2026-11-25T08:00:00Z  \x1b[32msent\x1b[0m  a@x.example  h: 250 ok\n");
    // What programs ask for is never painted.
    assert!(
        !shown(&["log", "--log", "sent", "--json"], "X").contains('\x1b')
            && !shown(&["explain", "--json", "in@x.example"], "X").contains('\x1b')
    );
}
