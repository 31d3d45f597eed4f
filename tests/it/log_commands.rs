//! `log`: questions to logs that lie there as relays and logrotate leave them.

use crate::process::Shop;

fn line(log: &str, time: &str, whom: &str, sender: &str, id: &str) -> String {
    let rest = match log {
        "sent" => "\"upstream\":\"smtp.example.com:587\",\"reply\":\"250 2.0.0 queued\"".to_owned(),
        _ => format!(
            "\"action\":\"drop\",\"rule\":{{\"file\":\"l.toml\",\"line\":3,\"kind\":\"address\",\"value\":\"{whom}\"}},\"source\":\"phone\",\"reply\":\"250\""
        ),
    };
    format!(
        "{{\"time\":\"{time}\",\"event\":\"{log}\",\"recipient\":\"{whom}\",\"sender\":\"{sender}\",\"id\":\"{id}\",{rest}}}\n"
    )
}

fn shop() -> Shop {
    let shop = Shop::new("", "");
    let log = shop.path("var/log");
    std::fs::create_dir_all(&log).unwrap();
    let write = |name: &str, text: String| std::fs::write(log.join(name), text).unwrap();
    write(
        "suppressed-20261120T000000.000000Z.jsonl",
        line("suppressed", "2026-11-19T08:00:00.5Z", "a@x.example", "s@shop-a.example", "i1")
            + &line("suppressed", "2026-11-19T09:00:00Z", "b@x.example", "s@shop-b.example", "i2"),
    );
    write("suppressed.jsonl", line("suppressed", "2026-11-21T08:00:00Z", "A+1@X.example", "S@shop-a.example", "i3"));
    write("sent.jsonl", line("sent", "2026-11-20T08:00:00Z", "a@x.example", "s@shop-a.example", "i4"));
    write("learned.jsonl", String::new());
    shop
}

/// Each command line, its exit code, and the ids of the lines in their order.
#[test]
fn questions_and_their_answers() {
    let shop = shop();
    for (arguments, code, ids) in [
        ("", 0, "i1 i2 i3"),
        ("--last 1", 0, "i3"),
        ("--address a@x.example", 0, "i1 i3"),
        ("--address a@x.example --log all", 0, "i1 i4 i3"),
        ("--log all --last 2", 0, "i4 i3"),
        ("--sender *@SHOP-b.example", 0, "i2"),
        ("--rule l.toml:3 --since 2026-11-20", 0, "i3"),
        ("--until 2026-11-19T09:00:00Z", 0, "i1"),
        ("--action reject", 1, ""),
        ("--action drop --sender s@shop-a.example", 0, "i1 i3"),
        ("--log learned", 1, ""),
    ] {
        let mut all = vec!["log", "--json"];
        all.extend(arguments.split_whitespace());
        let (exit, out, talk) = shop.run(&all);
        let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        let found: Vec<_> = out.lines().map(id).collect();
        assert_eq!((exit, found.join(" ").as_str(), talk.as_str()), (code, ids, ""), "{arguments}");
    }
    let (code, _, talk) = shop.run(&["log", "--since", "soon"]);
    assert!(code == 65 && talk.contains("`soon` is not a date\nhint: write 2026-11-25"), "{talk}");
    let (code, _, talk) = shop.run(&["log", "--address", "a@b@c"]);
    assert!(code == 65 && talk.contains("`a@b@c`"), "{talk}");
}

#[test]
fn lines_for_people_say_who_why_and_where() {
    let shop = shop();
    let (code, out, talk) = shop.run(&["log", "--address", "a@x.example", "--log", "all"]);
    assert_eq!((code, talk.as_str()), (0, ""));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(
        lines[0],
        "2026-11-19T08:00:00Z  suppressed (drop)  a@x.example  from s@shop-a.example  by address a@x.example in l.toml:3  source: phone  id=i1"
    );
    assert_eq!(
        lines[1],
        "2026-11-20T08:00:00Z  sent  a@x.example  from s@shop-a.example  smtp.example.com:587: 250 2.0.0 queued  id=i4"
    );
    let (code, _, talk) = shop.run(&["log", "--address", "nobody@x.example"]);
    assert_eq!((code, talk.as_str()), (1, "nothing is in the log that answers this\n"));
}

/// What people did at the admin page is often about no message.
#[test]
fn lines_without_a_message_are_sound() {
    let shop = shop();
    let text = "{\"time\":\"2026-11-22T08:00:00Z\",\"event\":\"opt_out_added\",\"who\":\"anna\",\"client\":\"127.0.0.1\",\"address\":\"c@x.example\",\"id\":null,\"reason\":\"telephone\"}\n";
    std::fs::write(shop.path("var/log/actions.jsonl"), text).unwrap();
    let told = "2026-11-22T08:00:00Z  opt_out_added  c@x.example  by anna from 127.0.0.1  because: telephone\n";
    assert_eq!(shop.run(&["log", "--log", "actions"]), (0, told.into(), String::new()));
    assert_eq!(shop.run(&["log", "--log", "all", "--last", "1"]), (0, told.into(), String::new()));
}

#[test]
fn a_summary_counts_by_day_and_cause() {
    let shop = shop();
    let (code, out, _) = shop.run(&["log", "summary", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["total"], &found["days"]["2026-11-19"]), (0, &3.into(), &2.into()), "{out}");
    assert_eq!(found["senders"][0], serde_json::json!({"sender": "s@shop-a.example", "count": 2}));
    assert_eq!(found["actions"][0], serde_json::json!({"action": "suppressed (drop)", "count": 3}));
    let (_, out, _) = shop.run(&["log", "summary", "--since", "2026-11-20"]);
    assert!(out.starts_with("day\n  2026-11-21         1\n") && out.ends_with("1 in all\n"), "{out}");
}

#[test]
fn an_export_is_a_table_that_no_spreadsheet_runs() {
    let shop = shop();
    std::fs::write(
        shop.path("var/log/suppressed.jsonl"),
        line("suppressed", "2026-11-21T08:00:00Z", "a@x.example", "=cmd()@x.example", "i3"),
    )
    .unwrap();
    let (code, _, talk) = shop.run(&["log", "export", "--output", shop.path("out.csv").to_str().unwrap()]);
    assert!(code == 0 && talk.ends_with("out.csv: 3 lines\n"), "{talk}");
    let text = shop.read("out.csv");
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), &rows[0][3], &rows[2][4]), (3, "a@x.example", "'=cmd()@x.example"));
    let (code, _, talk) = shop.run(&["log", "export", "--output", shop.path("out.csv").to_str().unwrap()]);
    assert!(code == 74 && talk.contains("exists"), "{talk}");
}

#[test]
fn what_is_written_meanwhile_is_followed_into_the_next_file() {
    use std::io::{BufRead, Write};
    let shop = shop();
    let log = shop.path("var/log");
    let mut command = shop.command(&["log", "--follow", "--json", "--sender", "*@shop-a.example"]);
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(running.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("\"i1\"") && next().contains("\"i3\""));
    let mut file = std::fs::OpenOptions::new().append(true).open(log.join("suppressed.jsonl")).unwrap();
    let fresh = |id: &str, sender: &str| line("suppressed", "2026-11-25T08:00:00Z", "c@x.example", sender, id);
    let text = fresh("i5", "s@shop-b.example") + &fresh("i6", "s@shop-a.example");
    let (half, rest) = text.split_at(text.len() - 20);
    file.write_all(half.as_bytes()).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
    assert!(next().contains("\"i6\""));
    std::fs::rename(log.join("suppressed.jsonl"), log.join("suppressed-20261125T090000.000000Z.jsonl")).unwrap();
    std::fs::write(log.join("suppressed.jsonl"), fresh("i7", "s@shop-a.example")).unwrap();
    assert!(next().contains("\"i7\""));
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn what_cannot_be_read_hides_nothing_else() {
    use std::io::Write;
    let shop = shop();
    let log = shop.path("var/log");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for number in 0..2000 {
        let line =
            line("suppressed", "2026-11-18T08:00:00Z", &format!("{number}@x.example"), "s@shop-a.example", &format!("p{number}"));
        packed.write_all(line.as_bytes()).unwrap();
    }
    let packed = packed.finish().unwrap();
    std::fs::write(log.join("suppressed.jsonl.2.gz"), &packed[..packed.len() / 2]).unwrap();
    std::fs::create_dir(log.join("suppressed.jsonl.old")).unwrap();
    std::os::unix::fs::symlink("nowhere", log.join("suppressed.jsonl.1")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(log.join("suppressed.jsonl-pipe")).status().unwrap().success());

    let (code, out, talk) = shop.run(&["log", "--json", "--last", "0"]);
    let ids = ["\"p0\"", "\"i1\"", "\"i2\"", "\"i3\""];
    assert!(code == 65 && ids.iter().all(|id| out.contains(id)) && !out.contains("\"p1999\""), "{out}");
    assert!(talk.starts_with("var/log/suppressed.jsonl.2.gz:") && talk.ends_with(": this line is damaged\n"), "{talk}");
    let (code, out, _) = shop.run(&["log", "verify", "--log", "suppressed"]);
    assert!(
        code == 65 && out.contains("suppressed.jsonl.2.gz:") && out.contains("from here on the file cannot be unpacked"),
        "{out}"
    );
    let mut index = optout_relay::ledger::Index::new(log.clone());
    index.refresh().unwrap();
    let found = index.search(&["suppressed"], &optout_relay::ledger::Question::default(), 3, 1 << 30).unwrap();
    assert_eq!(found.lines.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["i3", "i2", "i1"]);

    // A log on another disk is as long as the file there.
    std::fs::rename(log.join("sent.jsonl"), shop.path("elsewhere.jsonl")).unwrap();
    let length = optout_relay::ledger::length(&log, "sent").unwrap();
    std::os::unix::fs::symlink(shop.path("elsewhere.jsonl"), log.join("sent.jsonl")).unwrap();
    let linked = optout_relay::ledger::length(&log, "sent").unwrap();
    assert_eq!((length, linked), (0, shop.read("elsewhere.jsonl").len() as u64));
}

#[test]
fn an_export_that_fails_leaves_nothing_behind() {
    let shop = Shop::new("", "");
    let (code, _, talk) = shop.run(&["log", "export", "--output", "all.csv"]);
    assert!(code == 66 && talk.contains("hint: has the relay run with this configuration"), "{talk}");
    assert!(!shop.path("all.csv").exists());
}
