//! `try`: a test mail through a relay that runs, to each of its endings, and what people and programs are told.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::door::certify;
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::process::{Process, Shop, told};

const LIST: &str = "[[opt_out]]\naddress = \"out@x.example\"\nreason = \"asked by phone\"\n[[opt_out]]\naddress = \"drop@x.example\"\naction = \"drop\"\n[[opt_out]]\naddress = \"bounce@x.example\"\naction = \"bounce\"\n";

const CONFIG: &str = "[delivery]\nretry_first = \"50m\"\nmin_free = \"1MiB\"\n";

/// Runs `try` against a relay, while the host, which is of this process, goes on.
async fn attempt(shop: &Shop, relay: &Process, arguments: &[&str], input: &'static str) -> (i32, String, String) {
    let mut command = shop.command(&["try"]);
    command.args(arguments).env("OPTOUT_RELAY_HOSTNAME", "relay.test");
    command.env("OPTOUT_RELAY_LISTEN__SMTP", format!("[\"{}\"]", relay.address));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // Who has asked for nothing may be gone.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        told(child.wait_with_output().unwrap())
    })
    .await
    .unwrap()
}

async fn json(shop: &Shop, relay: &Process, arguments: &[&str]) -> (i32, Value) {
    let (code, out, talk) = attempt(shop, relay, &[arguments, &["--json"]].concat(), "").await;
    assert_eq!((talk.as_str(), out.lines().count()), ("", 1), "{out}");
    (code, serde_json::from_str(&out).unwrap())
}

#[tokio::test]
async fn each_ending_is_told_with_its_cause() {
    let host =
        Host::start(Script::new(MODERN).always("refused@", "550 5.1.1 no such user").always("later@", "451 4.2.1 busy")).await;
    let shop = Shop::new(CONFIG, LIST);
    let mut relay = shop.serve_to(&host.url());
    for (to, code, ending, words, reply) in [
        ("in@x.example", 0, "forwarded", "has taken it: 250 ", Some("250 ")),
        (
            "out@x.example",
            1,
            "suppressed",
            "out@x.example has opted out, by address out@x.example in blacklist.toml:1; action reject, because: asked by phone; id=",
            None,
        ),
        (
            "Drop+7@x.example",
            1,
            "suppressed",
            "Drop+7@x.example has opted out, by address drop@x.example in blacklist.toml:4; action drop; id=",
            None,
        ),
        ("bounce@x.example", 1, "suppressed", "by address bounce@x.example in blacklist.toml:7; action bounce; id=", None),
        ("refused@x.example", 1, "refused", "550 5.1.1 no such user", None),
        (
            "later@x.example",
            75,
            "held",
            "451 4.2.1 busy; it is tried again by itself; `optout-relay spool show ",
            Some("451 4.2.1 busy"),
        ),
        ("optout@relay.local", 1, "learned", "it went to learn.address, and nobody is mailed", None),
    ] {
        let (exit, told) = json(&shop, &relay, &[to, "--from", "shop@example.com"]).await;
        let found = |name: &str| told[name].as_str().unwrap_or_default();
        assert_eq!((exit, found("ending")), (code, ending), "{told:#}");
        assert!(found("words").contains(words), "{told:#}");
        assert!(reply.is_none_or(|reply| found("reply").starts_with(reply)), "{told:#}");
        assert_eq!(ending == "suppressed", told["rule"]["line"].is_u64(), "{told:#}");
        assert_eq!(ending == "refused", told["id"].is_null(), "{told:#}");
        let steps = told["steps"].as_array().unwrap();
        assert_eq!((&steps[0]["step"], &steps[0]["ok"]), (&"connect".into(), &true.into()), "{told:#}");
    }
    let to: Vec<_> = host
        .kept()
        .iter()
        .filter(|mail| !mail.is_report())
        .flat_map(|mail| mail.to().iter().map(|to| (*to).to_owned()).collect::<Vec<_>>())
        .collect();
    assert_eq!(to, ["in@x.example"], "nobody else was mailed");
    relay.stop();
}

#[tokio::test]
async fn people_hear_each_step() {
    let host = Host::start(Script::new(MODERN)).await;
    let shop = Shop::new(CONFIG, LIST);
    let mut relay = shop.serve_to(&host.url());
    let (code, out, talk) = attempt(&shop, &relay, &["in@x.example"], "").await;
    let lines: Vec<_> = out.lines().collect();
    let expected = [
        "ok: connect — the relay answers: 220 relay.test ESMTP optout-relay",
        "ok: EHLO — it speaks with us: 250 relay.test SIZE ",
        "ok: MAIL — the sender is taken: 250 2.1.0 sender OK",
        "ok: RCPT — the recipient is taken: 250 2.1.5 recipient OK",
        "ok: DATA — it waits for the mail: 354 ",
        "ok: end of mail — the mail is taken: 250 2.0.0 delivered as ",
        &format!("forwarded: 127.0.0.1:{} has taken it: 250 ", host.port),
    ];
    assert_eq!((code, talk.as_str(), lines.len()), (0, "", expected.len()), "{out}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nwants {expected}");
    }
    let kept = host.kept();
    assert!(kept[0].mail.starts_with("MAIL FROM:<test@relay.test>"), "{}", kept[0].mail);
    assert!(
        kept[0].text().contains("\r\n\r\nThis is a test, sent by `optout-relay try` on relay.test.\r\n"),
        "{}",
        kept[0].text()
    );

    let (code, out, _) = attempt(&shop, &relay, &["out@x.example"], "").await;
    assert!(out.contains("\nno: RCPT — the recipient is not taken, and nothing is sent: 550 5.7.1 "), "{out}");
    assert!(code == 1 && out.lines().last().unwrap().starts_with("suppressed: out@x.example has opted out, by "), "{out}");
    relay.stop();
}

#[tokio::test]
async fn a_letter_goes_as_it_is_written() {
    let host = Host::start(Script::new(MODERN)).await;
    let shop = Shop::new(CONFIG, LIST);
    std::fs::write(shop.path("letter.txt"), "Grüße\n.\n..two\r\nend").unwrap();
    let mut relay = shop.serve_to(&host.url());
    let (code, _) = json(&shop, &relay, &["in@x.example", "--from", "<>", "--body", "letter.txt"]).await;
    assert_eq!(code, 0);
    let kept = host.kept();
    assert!(kept[0].is_report() && kept[0].text().ends_with("\r\n\r\nGrüße\r\n..\r\n...two\r\nend\r\n"), "{}", kept[0].text());
    std::fs::write(shop.path("letter.txt"), b"\xff").unwrap();
    for (arguments, exit, text) in [
        (&["in@x.example", "--body", "letter.txt"][..], 65, "read letter.txt: "),
        (&["in@x.example", "--body", "gone.txt"], 66, "read gone.txt: "),
        (&["in@"], 65, "`in@`: "),
        (&["in@x.example", "--from", "a b@x"], 65, "`a b@x`: "),
    ] {
        let (code, out, talk) = attempt(&shop, &relay, arguments, "").await;
        assert!(code == exit && out.is_empty() && talk.starts_with(&format!("optout-relay: {text}")), "{code} {talk}");
    }
    assert_eq!(host.kept().len(), 1);
    relay.stop();
}

#[tokio::test]
async fn it_logs_in_where_that_is_wanted_and_never_in_the_clear() {
    let host = Host::start(Script::new(MODERN)).await;
    let config = format!(
        "[listen]\nclients = []\nrequire_tls = true\nusers = \"users.toml\"\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n{CONFIG}"
    );
    let shop = Shop::new(&config, LIST);
    drop(certify(shop.folder.path()));
    let mut add = shop.command(&["user", "add", "tool"]);
    let mut child = add.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2-4711\n").unwrap();
    assert!(child.wait().unwrap().success());
    let mut relay = shop.serve_to(&host.url());
    for (arguments, input, code, step, words) in [
        (&["in@x.example"][..], "", 1, "no: MAIL — it wants a login: say --user NAME: 530 ", "refused: 530 "),
        (&["in@x.example", "--user", "tool"], "wrong\n", 1, "no: AUTH — the login is not taken: 535 ", "refused: 535 "),
        (
            &["in@x.example", "--user", "tool"],
            "hunter2-4711\n",
            0,
            "ok: STARTTLS — from here on it is encrypted: 220 ",
            "forwarded: ",
        ),
    ] {
        let (exit, out, talk) = attempt(&shop, &relay, arguments, input).await;
        assert_eq!((exit, talk.as_str()), (code, ""), "{out}");
        assert!(out.contains(step) && out.lines().last().unwrap().starts_with(words), "{out}");
        assert!(!out.contains("hunter2") && !out.contains("AHRvb2w"), "{out}");
    }
    relay.stop();
}

#[tokio::test]
async fn without_a_relay_nothing_is_sent() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 mail.example ESMTP Postfix\r\n").unwrap();
        std::io::read_to_string(stream).unwrap_or_default()
    });
    let shop = Shop::new(&format!("[listen]\nsmtp = [\"{free}\", \"{address}\"]\n"), LIST);
    let (code, out, talk) = tokio::task::spawn_blocking(move || shop.run(&["try", "in@x.example"])).await.unwrap();
    let expected = format!(
        "optout-relay: no relay answers ({free}: Connection refused (os error 111); {address}: another program, which says 220 mail.example ESMTP Postfix)\nhint: start it: "
    );
    assert!(talk.starts_with(&expected), "{talk}");
    assert_eq!((code, out.as_str(), heard.join().unwrap().as_str()), (69, "", ""));
}

/// A user who may not read the logs learns from the answer what there is to learn.
#[tokio::test]
async fn where_the_logs_cannot_be_read_the_answer_must_do() {
    let host = Host::start(Script::new(MODERN).always("later@", "451 4.2.1 busy")).await;
    let shop = Shop::new(CONFIG, LIST);
    let mut relay = shop.serve_to(&host.url());
    for (to, code, words) in [
        ("in@x.example", 0, "forwarded: 250 2.0.0 delivered as "),
        ("drop@x.example", 1, "suppressed: 250 2.0.0 taken as "),
        ("later@x.example", 75, "held: 250 2.0.0 held as "),
    ] {
        let mut command: Command = shop.command(&["try", to]);
        // As good as closed: it is not there.
        command.env("OPTOUT_RELAY_STATE_DIR", "elsewhere").env("OPTOUT_RELAY_LISTEN__SMTP", format!("[\"{}\"]", relay.address));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (exit, out, talk) = told(output);
        assert_eq!((exit, talk.as_str()), (code, ""), "{out}");
        let last = out.lines().last().unwrap();
        assert!(last.starts_with(words) && last.contains("(this user cannot read elsewhere/log: "), "{out}");
    }
    assert!(!shop.path("elsewhere").exists());
    relay.stop();
}

/// What is put down first and delivered then is followed to its end.
#[tokio::test]
async fn mail_that_is_stored_first_is_followed() {
    let host =
        Host::start(Script::new(MODERN).always("refused@", "550 5.1.1 no such user").at(Stage::Rcpt, [say("250 2.1.5 fine")]))
            .await;
    let shop = Shop::new(&CONFIG.replace("[delivery]\n", "[delivery]\nanswer = \"stored\"\n"), LIST);
    let mut relay = shop.serve_to(&host.url());
    let (code, told) = json(&shop, &relay, &["in@x.example"]).await;
    assert_eq!((code, &told["ending"]), (0, &"forwarded".into()), "{told:#}");
    relay.stop();
}
