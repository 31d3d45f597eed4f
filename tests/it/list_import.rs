//! Lists from elsewhere and for others: `list import`, `export`, `diff` and `hash`. All of a list comes in or nothing, and the relay
//! knows it at once.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Shop, told};
use crate::rig::{Client, PATIENCE};

const LIST: &str = "addresses = [\"known@x.example\"]\n\n[[opt_out]]\naddress = \"ended@x.example\"\nuntil = 2020-01-01\n";
const SENDGRID: &str =
    "email,created\nnew@x.example,1443657641\nKnown@x.example,1443657641\nended@x.example,1443657641\nNEW@x.example,1443657642\n";

fn shop() -> Shop {
    Shop::new("[opt_out]\nlists = [\"blacklist.toml\", \"imported.csv\"]\n[upstream]\nurl = \"file:outbox\"\n", LIST)
}

fn files(shop: &Shop) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(shop.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_new_comes_in_and_what_has_ended_comes_in_again() {
    let shop = shop();
    fs::write(shop.path("sg.csv"), SENDGRID).unwrap();
    fs::set_permissions(shop.path("blacklist.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    let counts = "sg.csv, of SendGrid: 2 new, 2 known, 0 invalid\n";
    let before = files(&shop);
    assert_eq!(shop.run(&["list", "import", "sg.csv", "--dry-run"]), (0, counts.into(), String::new()));
    assert_eq!(files(&shop), before);

    let (code, out, talk) = shop.run(&["list", "import", "sg.csv", "--source", "the old tool", "--action", "drop"]);
    assert_eq!(
        (code, out, talk.as_str()),
        (0, format!("{}imported.csv: 3 opt-outs added\n", counts.replace("2 new, 2", "3 new, 1")), "")
    );
    let names = "address,since,until,reason,source,action,senders,note\n";
    let row = |name: &str| format!("{name}@x.example,2015-10-01,,,the old tool,drop,,\n");
    assert_eq!(shop.read("imported.csv"), format!("{names}{}{}{}", row("new"), row("Known"), row("ended")));
    assert_eq!(
        fs::metadata(shop.path("imported.csv")).unwrap().permissions().mode() & 0o777,
        0o640,
        "the relay reads it as the others"
    );
    let (code, out, _) = shop.run(&["explain", "ended@x.example"]);
    assert!(code == 1 && out.contains("imported.csv:4"), "{out}");

    // Again, and with one more at the end of a file that somebody has opened in an editor that ends no line.
    fs::write(shop.path("imported.csv"), shop.read("imported.csv").trim_end()).unwrap();
    let (code, out, _) = shop.run(&["list", "import", "sg.csv", "--action", "drop", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["new"], &told["known"], &told["imported"]), (0, &0.into(), &4.into(), &false.into()), "{out}");
    assert_eq!(told["in_force"], true);
    fs::write(shop.path("one.txt"), "one@x.example\n").unwrap();
    assert_eq!(shop.run(&["list", "import", "one.txt"]).0, 0);
    let text = shop.read("imported.csv");
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    assert!(text.ends_with(&format!("{}one@x.example,,,,\"one.txt, imported {today}\",,,\n", row("ended"))), "{text}");
    assert_eq!(files(&shop), ["blacklist.toml", "imported.csv", "one.txt", "relay.toml", "sg.csv"]);
    assert_eq!(shop.run(&["check"]).0, 0);
}

#[test]
fn an_invalid_entry_keeps_all_out_until_somebody_says_otherwise() {
    let shop = shop();
    fs::write(shop.path("l.txt"), "a@x.example\ninfo@\nb@x.example\n").unwrap();
    let before = files(&shop);
    let place = "l.txt:2: `info@` is not an address: the part after the @ is not a domain\n";
    let (code, out, talk) = shop.run(&["list", "import", "l.txt"]);
    assert_eq!((code, out), (65, format!("{place}l.txt: 2 new, 0 known, 1 invalid\n")));
    let refused = "optout-relay: nothing was imported, for some entries are invalid\nhint: correct them, or leave them out with --skip-invalid\n";
    assert_eq!(talk, refused);
    assert_eq!(files(&shop), before);
    assert_eq!(shop.run(&["list", "import", "l.txt", "--dry-run"]).0, 65);
    let (code, out, _) = shop.run(&["list", "import", "l.txt", "--skip-invalid"]);
    assert_eq!((code, out), (0, format!("{place}l.txt: 2 new, 0 known, 1 invalid\nimported.csv: 2 opt-outs added\n")));
}

#[test]
fn what_is_not_in_force_is_said_and_what_is_not_ours_stays() {
    let shop = Shop::new("", LIST);
    fs::write(shop.path("l.txt"), "a@x.example\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "import", "l.txt"]);
    let expected = "imported.csv is not among `opt_out.lists`, so the relay does not read it\nhint: write lists = [\"blacklist.toml\", \"imported.csv\"] under [opt_out] in relay.toml, and restart the relay\n";
    assert_eq!((code, talk.as_str()), (0, expected));

    fs::write(shop.path("own.csv"), "Email;Shop\nb@x.example;c\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "import", "l.txt", "--into", "own.csv"]);
    assert!(code == 65 && talk.contains("own.csv has columns of its own, so it stays as it is"), "{talk}");
    assert_eq!(shop.read("own.csv"), "Email;Shop\nb@x.example;c\n");
    let (code, _, talk) = shop.run(&["list", "import", "l.txt", "--into", "blacklist.toml"]);
    assert!(code == 64 && talk.contains("blacklist.toml is not a .csv file"), "{talk}");
    let (code, _, talk) = shop.run(&["list", "import", "nowhere.csv"]);
    assert!(code == 66 && talk.contains("nowhere.csv: cannot be read"), "{talk}");
    fs::write(shop.path("empty.csv"), "email,created\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "import", "empty.csv"]);
    assert!(code == 65 && talk.contains("empty.csv: holds no entries"), "{talk}");
    assert!(files(&shop).iter().all(|name| !name.starts_with('.')), "{:?}", files(&shop));
}

/// `list import -`, which is still reading.
fn importing(shop: &Shop, text: &str) -> Child {
    let mut command = shop.command(&["list", "import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    child
}

/// `count` addresses from `first` on.
fn many(first: usize, count: usize) -> String {
    (first..first + count).map(|at| format!("{at}@many.example\n")).collect()
}

#[test]
fn an_import_that_is_killed_changes_nothing_and_the_next_one_goes_through() {
    let shop = shop();
    fs::write(shop.path("l.txt"), "first@x.example\n").unwrap();
    assert_eq!(shop.run(&["list", "import", "l.txt"]).0, 0);
    let before = shop.read("imported.csv");
    let draft = shop.path(".imported.csv.new");
    let mut child = importing(&shop, &many(0, 100_000));
    let begun = Instant::now();
    while fs::metadata(&draft).map_or(0, |meta| meta.len()) < 100_000 {
        assert!(begun.elapsed() < PATIENCE, "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(draft.exists() && shop.read("imported.csv") == before);
    assert_eq!(shop.run(&["check"]).0, 0);
    fs::write(shop.path("l.txt"), many(0, 3)).unwrap();
    assert_eq!(shop.run(&["list", "import", "l.txt"]).1, "l.txt: 3 new, 0 known, 0 invalid\nimported.csv: 3 opt-outs added\n");
    assert!(!draft.exists() && shop.read("imported.csv").starts_with(&before));
}

#[test]
fn imports_at_the_same_time_wait_for_each_other_and_an_edit_meanwhile_is_not_undone() {
    let shop = shop();
    fs::write(shop.path("imported.csv"), "").unwrap();
    let mut children: Vec<_> = (0..4).map(|at| importing(&shop, &many(at * 1000, 1500))).collect();
    // Whichever is first waits for the end of its input, the others for the first.
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    for child in children {
        assert_eq!(told(child.wait_with_output().unwrap()).0, 0);
    }
    let text = shop.read("imported.csv");
    let names: HashSet<_> = text.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!((text.lines().count(), names.len()), (4501, 4500), "each once");

    let mut child = importing(&shop, &many(9000, 100_000));
    let begun = Instant::now();
    while fs::metadata(shop.path(".imported.csv.new")).map_or(0, |meta| meta.len()) < 500_000 {
        assert!(begun.elapsed() < PATIENCE, "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(shop.path("imported.csv"), format!("{text}by-hand@x.example,,,,,,,\n")).unwrap();
    drop(child.stdin.take());
    let (code, _, talk) = told(child.wait_with_output().unwrap());
    assert_eq!(
        (code, talk.as_str()),
        (75, "optout-relay: imported.csv was changed meanwhile, so nothing was imported\nhint: try it again\n")
    );
    assert!(shop.read("imported.csv").ends_with("by-hand@x.example,,,,,,,\n"));
}

#[tokio::test]
async fn the_running_relay_knows_at_once() {
    let shop = shop();
    fs::write(shop.path("l.txt"), "first@x.example\n").unwrap();
    assert_eq!(shop.run(&["list", "import", "l.txt"]).0, 0);
    let mut relay = shop.serve();
    let mut child = importing(
        &shop,
        "{\"SuppressedDestinationSummaries\":[{\"EmailAddress\":\"Late+1@x.example\",\"Reason\":\"COMPLAINT\"}]}",
    );
    drop(child.stdin.take());
    let (code, out, talk) = told(child.wait_with_output().unwrap());
    let expected = "standard input, of Amazon SES: 1 new, 0 known, 0 invalid\nimported.csv: 1 opt-out added\n";
    assert_eq!((code, out.as_str(), talk.as_str()), (0, expected, ""));
    relay.line("opt-out list reloaded entries=4 ");
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client.say("EHLO tool.test").await;
    client.say("MAIL FROM:<shop@example.com>").await;
    let reply = client.say("RCPT TO:<late@x.example>").await;
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
}

#[test]
fn what_is_exported_comes_in_again() {
    let shop = shop();
    let list = "addresses = [\"Plain@x.example\"]\ndomains = [\"x.example\", \"*.y.example\"]\npatterns = [\"promo-*@z.example\"]\nhashes = [\"md5:d41d8cd98f00b204e9800998ecf8427e\"]\norders = [\"123-1234567-1234567\"]\n\n[[opt_out]]\naddress = \"\\\"odd, one\\\"@x.example\"\nsince = 2020-01-02\nuntil = 2099-01-01\nreason = \"said \\\"no\\\", twice\"\naction = \"drop\"\nsenders = [\"*@a.example\", \"*@b.example\"]\nnote = \"x\\ny\"\n";
    fs::write(shop.path("blacklist.toml"), list).unwrap();
    fs::write(shop.path("imported.csv"), "address\n").unwrap();
    assert_eq!(shop.run(&["list", "export", "--output", "all.csv"]), (0, String::new(), "all.csv: entries written: 7\n".into()));
    assert_eq!(shop.run(&["list", "diff", "all.csv"]), (0, String::new(), "no difference\n".into()));
    assert!(shop.read("all.csv").contains("\n\"\"\"odd, one\"\"@x.example\",2020-01-02,2099-01-01T23:59:59.999999999Z,\"said \"\"no\"\", twice\",,drop,*@a.example *@b.example,x y\n"), "{}", shop.read("all.csv"));
    let (code, _, talk) = shop.run(&["list", "export", "--output", "all.csv"]);
    assert!(code == 74 && talk.contains("write all.csv: File exists"), "{talk}");

    let (code, out, talk) = shop.run(&["list", "export", "--format", "ses"]);
    assert_eq!((code, out.as_str()), (0, "Plain@x.example,COMPLAINT\n\"\"\"odd, one\"\"@x.example\",COMPLAINT\n"));
    assert_eq!(
        talk,
        "left out, for this format has no place for their kind: 5\nwritten without their senders or their end, for this format cannot say so; there they hold for all mail and for good: 1\n"
    );
    let (_, out, _) = shop.run(&["list", "export", "--format", "json"]);
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(out, shop.run(&["list", "show", "--json"]).1);
    assert_eq!((told.len(), &told[6]["senders"][1], &told[6]["line"]), (7, &"*@b.example".into(), &7.into()));
}

#[test]
fn a_difference_is_told_from_both_sides() {
    let shop = shop();
    fs::write(shop.path("imported.csv"), "address\nhere@x.example\n").unwrap();
    fs::write(shop.path("sg.csv"), SENDGRID).unwrap();
    let expected = [
        "- blacklist.toml:3\taddress\tended@x.example\tuntil=\"2020-01-01T23:59:59.999999999Z\"",
        "- imported.csv:2\taddress\there@x.example\t",
        "+ sg.csv:2\taddress\tnew@x.example\tsince=\"2015-10-01\"",
        "+ sg.csv:4\taddress\tended@x.example\tsince=\"2015-10-01\"",
    ];
    let (code, out, talk) = shop.run(&["list", "diff", "sg.csv"]);
    assert_eq!((code, out.lines().collect::<Vec<_>>(), talk.as_str()), (1, expected.into(), ""));
    let (_, out, _) = shop.run(&["list", "diff", "sg.csv", "--names-only", "--only-new", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["difference"], &told["value"], out.lines().count()), (&"only_in_list".into(), &"new@x.example".into(), 1));
    let (code, _, talk) = shop.run(&["list", "diff", "sg.csv", "sg.csv"]);
    assert_eq!((code, talk.as_str()), (0, "no difference\n"));
    fs::write(shop.path("bad.txt"), "info@\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "diff", "bad.txt"]);
    assert!(code == 65 && talk.contains("invalid entries, which were not compared: 1"), "{talk}");
}

#[test]
fn a_hash_holds_for_whom_the_address_held_and_is_taken_out_by_the_address() {
    let shop = shop();
    fs::write(shop.path("imported.csv"), "address,since\nOld+7@x.example,2020-01-01\n").unwrap();
    assert_eq!(shop.run(&["list", "add", "young@x.example"]).0, 0);
    let (code, out, _) = shop.run(&["list", "hash", "--older-than", "30d", "--dry-run"]);
    let expected = "blacklist.toml: 0 addresses would be hashed, 1 are younger, 2 have no date\nimported.csv: 1 addresses would be hashed, 0 are younger, 0 have no date\n";
    assert_eq!((code, out.as_str()), (0, expected));
    assert!(shop.read("imported.csv").contains("Old+7"));
    assert_eq!(shop.run(&["list", "hash", "--older-than", "30d"]).0, 0);
    assert!(!shop.read("imported.csv").contains("Old"));
    assert_eq!(shop.run(&["list", "hash", "--older-than", "30d"]).0, 1, "nothing is left to do");
    for address in ["old@x.example", "OLD+other@x.example"] {
        let (code, out, _) = shop.run(&["explain", address]);
        assert!(code == 1 && out.contains("imported.csv:2"), "{out}");
    }
    assert_eq!(shop.run(&["list", "hash", "--older-than", "0d", "--undated", "--list", "blacklist.toml"]).0, 0);
    let text = shop.read("blacklist.toml");
    assert!(!text.contains('@') && text.matches("sha256:").count() == 3, "{text}");
    let (code, out, talk) = shop.run(&["list", "add", "Young@x.example"]);
    assert!(code == 0 && out.contains("stands already"), "{out}{talk}");
    assert_eq!(shop.run(&["list", "remove", "young@x.example"]).0, 0);
    assert_eq!(shop.run(&["explain", "young@x.example"]).0, 0);
    assert_eq!(shop.run(&["explain", "known@x.example"]).0, 1);
    let (code, _, talk) = shop.run(&["list", "hash", "--older-than", "soon"]);
    assert!(code == 64 && talk.contains("write a number of days, as in 365d"), "{talk}");
}

#[test]
fn what_was_imported_is_taken_out_by_command_too() {
    let shop = shop();
    fs::write(shop.path("sg.csv"), SENDGRID).unwrap();
    assert_eq!(shop.run(&["list", "import", "sg.csv"]).0, 0);
    let before = shop.read("imported.csv");
    let (code, out, talk) = shop.run(&["list", "remove", "New+1@X.example"]);
    assert_eq!((code, out.as_str(), talk.as_str()), (0, "imported.csv: removed, address new+1@x.example\n", ""));
    let kept: String = before.split_inclusive('\n').filter(|row| !row.starts_with("new@")).collect();
    assert_eq!(shop.read("imported.csv"), kept);
    assert_eq!(shop.run(&["explain", "new@x.example"]).0, 0);
    // Also from a table of somebody's own, from under any of its columns.
    let own = "Domain;Email;Shop\nx.example;;\"a; b\"\n;b@y.example;c\n";
    fs::write(shop.path("imported.csv"), own).unwrap();
    assert_eq!(shop.run(&["list", "remove", "x.example"]).1, "imported.csv: removed, domain x.example\n");
    assert_eq!(shop.read("imported.csv"), "Domain;Email;Shop\n;b@y.example;c\n");
    assert_eq!(shop.run(&["list", "remove", "x.example"]).0, 1, "it stands nowhere any more");
}

#[test]
fn an_entry_is_added_with_an_end_senders_and_orders() {
    let shop = Shop::new("", "");
    let (code, _, talk) =
        shop.run(&["list", "add", "x.example", "--until", "2099-03-31", "--sender", "*@A.example", "--sender", "b@b.example"]);
    assert_eq!((code, talk.as_str()), (0, ""));
    let (code, out, _) = shop.run(&["list", "add", "--order", "123-1234567-1234567", "--json"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "{\"did\":\"added\",\"file\":\"blacklist.toml\",\"kind\":\"order\",\"value\":\"123-1234567-1234567\"}\n")
    );
    let text = shop.read("blacklist.toml");
    assert!(
        text.contains("until = 2099-03-31T23:59:59.999999999Z\n")
            && text.contains("senders = [\"*@a.example\", \"b@b.example\"]"),
        "{text}"
    );
    assert_eq!(shop.run(&["explain", "a@x.example", "--from", "s@a.example"]).0, 1);
    assert_eq!(shop.run(&["explain", "a@x.example", "--from", "s@c.example"]).0, 0);
    let (code, _, talk) = shop.run(&["list", "add", "x.example", "--until", "soon"]);
    assert!(code == 64 && talk.contains("`soon` is not a date"), "{talk}");
    let (code, _, talk) = shop.run(&["list", "add", "--order", "123"]);
    assert!(code == 65 && talk.contains("`123` is not an order"), "{talk}");
}

#[test]
fn a_row_that_takes_in_others_is_never_read_past() {
    let shop = shop();
    let swallowing = "address,\"note\na@x.example,x\nb@x.example,\"y\nc@x.example,z\n";
    for (text, place) in [
        ("address\na@x.example,b@x.example\n", "imported.csv:2: the entry names two"),
        (swallowing, "imported.csv:1: a quote that is not closed takes in the rows after it"),
    ] {
        fs::write(shop.path("imported.csv"), text).unwrap();
        let (code, _, talk) = shop.run(&["check"]);
        assert!(code == 65 && talk.contains(place), "{talk}");
    }
}

#[test]
fn only_a_file_is_taken_for_a_list_that_grows() {
    let shop = Shop::new("", LIST);
    fs::write(shop.path("l.txt"), "a@x.example\n").unwrap();
    // Opened, it would wait for somebody who writes into it.
    assert!(std::process::Command::new("mkfifo").arg(shop.path("pipe.csv")).status().unwrap().success());
    let (code, _, talk) = shop.run(&["list", "import", "l.txt", "--into", "pipe.csv"]);
    assert!(code == 74 && talk.contains("write pipe.csv: it is no file; nothing was imported"), "{talk}");
    assert!(files(&shop).iter().all(|name| !name.starts_with('.')), "{:?}", files(&shop));
}

#[test]
fn what_is_not_in_force_is_said_each_time_and_another_way_to_the_file_is_none() {
    let shop = Shop::new("", LIST);
    fs::write(shop.path("l.txt"), "a@x.example\n").unwrap();
    for counts in ["1 new, 0 known", "0 new, 1 known"] {
        let (code, out, talk) = shop.run(&["list", "import", "l.txt"]);
        assert!(code == 0 && out.contains(counts) && talk.contains("is not among `opt_out.lists`"), "{out}{talk}");
    }
    let shop = self::shop();
    fs::write(shop.path("l.txt"), "a@x.example\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "import", "l.txt", "--into", shop.path("imported.csv").to_str().unwrap()]);
    assert_eq!((code, talk.as_str()), (0, ""));
    assert_eq!(shop.run(&["check"]).0, 0);
}

#[test]
fn an_export_that_fails_leaves_nothing_behind_that_looks_whole() {
    let shop = Shop::new("", "addresses = [");
    assert_eq!(shop.run(&["list", "export", "--output", "all.csv"]).0, 65);
    assert!(!shop.path("all.csv").exists());
}

#[test]
fn an_address_that_looks_like_another_entry_comes_back_as_what_it_was() {
    let shop =
        Shop::new("", "addresses = [\"a?b@x.example\", \"#c@x.example\", \"postmaster\"]\npatterns = ['\"d(*\"@x.example']\n");
    let without = "left out, for this format has no place for their kind: 2\n";
    assert_eq!(
        shop.run(&["list", "export"]),
        (
            0,
            "address,since,until,reason,source,action,senders,note\n\"\"\"a?b\"\"@x.example\",,,,,,,\n#c@x.example,,,,,,,\n"
                .into(),
            without.into()
        )
    );
    let (_, out, talk) = shop.run(&["list", "export", "--format", "text"]);
    assert_eq!((out.as_str(), talk.as_str()), ("\"a?b\"@x.example\n", without.replace('2', "3").as_str()));
}

#[test]
fn a_pipe_is_not_compared_twice() {
    let shop = shop();
    fs::write(shop.path("imported.csv"), "address\n").unwrap();
    let piped = |arguments: &[&str]| {
        let mut command = shop.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"new@x.example\n").unwrap();
        told(child.wait_with_output().unwrap())
    };
    let (code, out, talk) = piped(&["list", "diff", "/dev/stdin"]);
    assert!(code == 64 && out.is_empty() && talk.contains("/dev/stdin can be read only once"), "{out}{talk}");
    let (code, out, _) = piped(&["list", "diff", "/dev/stdin", "--only-new"]);
    assert_eq!((code, out.as_str()), (1, "+ /dev/stdin:1\taddress\tnew@x.example\t\n"));
}

#[test]
fn a_list_is_hashed_by_the_rows_by_which_it_is_read() {
    let shop = shop();
    fs::write(
        shop.path("imported.csv"),
        "address,since,note\na@x.example,2020-01-01,on\rthe telephone\nb@x.example,2020-01-01,\n",
    )
    .unwrap();
    let entries = || shop.run(&["list", "show"]).1.matches("imported.csv:").count();
    assert_eq!((shop.run(&["check"]).0, entries()), (0, 2));
    assert_eq!(shop.run(&["list", "hash", "--older-than", "30d"]).0, 0);
    assert_eq!((shop.run(&["check"]).0, entries()), (0, 2), "{}", shop.read("imported.csv"));
    assert_eq!(shop.run(&["explain", "a@x.example"]).0, 1);
}
