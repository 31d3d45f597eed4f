//! `list show|add|remove`: what an owner has written stays, what is added is in force, and no hand undoes another's.

use std::os::unix::fs::MetadataExt;

use crate::process::Shop;

const LIST: &str = "# mine\naddresses = [\n  \"Out@example.com\", # asked\n  \"b@example.com\",\n]\n\n# by phone\n[[opt_out]]\ndomain = \"gone.example\"\nsince = 2020-02-02\nnote = \"a \\\"b\\\"\"\n\n# the end\n";

/// The day stands in every entry that is added.
fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

#[test]
fn show_prints_every_entry_with_its_place() {
    let shop = Shop::new("[opt_out]\nlists = [\"blacklist.toml\", \"more.csv\"]\n", LIST);
    std::fs::write(shop.path("more.csv"), "email,until,senders\nc@example.com,2030-01-01,*@x.example\n").unwrap();
    let expected = "blacklist.toml:3\taddress\tout@example.com\t\nblacklist.toml:4\taddress\tb@example.com\t\nblacklist.toml:8\tdomain\tgone.example\tsince=\"2020-02-02\" note=\"a \\\"b\\\"\"\nmore.csv:2\taddress\tc@example.com\tuntil=\"2030-01-01T23:59:59.999999999Z\" senders=\"*@x.example\"\n";
    assert_eq!(shop.run(&["list", "show"]), (0, expected.into(), String::new()));
}

#[test]
fn add_keeps_what_stands_and_replaces_the_file_whole() {
    let shop = Shop::new("", LIST);
    let before = std::fs::metadata(shop.path("blacklist.toml")).unwrap().ino();
    let day = today();
    let (code, out, talk) = shop.run(&[
        "list",
        "add",
        "New@example.com",
        "OUT@example.com",
        "*.x.example",
        "promo-*@y.example",
        "md5:D41D8CD98F00B204E9800998ECF8427E",
        "--reason",
        "said \"no\"",
        "--action",
        "drop",
    ]);
    let expected = "blacklist.toml: added, address new@example.com\nblacklist.toml: stands already, address out@example.com\nblacklist.toml: added, subdomains *.x.example\nblacklist.toml: added, pattern promo-*@y.example\nblacklist.toml: added, md5 md5:d41d8cd98f00b204e9800998ecf8427e\n";
    assert_eq!((code, out.as_str(), talk.as_str()), (0, expected, ""));
    // It may be another day by now.
    let text = shop.read("blacklist.toml").replace(&today(), &day);
    let entry = |name: &str| format!("[[opt_out]]\n{name}\nsince = {day}\nreason = 'said \"no\"'\naction = \"drop\"\n");
    let entries = [
        "address = \"New@example.com\"",
        "domain = \"*.x.example\"",
        "pattern = \"promo-*@y.example\"",
        "hash = \"md5:d41d8cd98f00b204e9800998ecf8427e\"",
    ];
    let added = entries.map(entry).join("\n");
    let kept = LIST.strip_suffix("\n# the end\n").unwrap();
    assert!(text.starts_with(kept) && text.contains("# the end\n"), "{text}");
    assert!(text.contains(&added), "{text}\nwants:\n{added}");
    assert_ne!(std::fs::metadata(shop.path("blacklist.toml")).unwrap().ino(), before);
    let files: Vec<_> = std::fs::read_dir(shop.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(shop.run(&["explain", "a@b.x.example"]).0, 1);
}

#[test]
fn a_bad_entry_adds_nothing() {
    let shop = Shop::new("", LIST);
    for (entry, expected) in [
        ("info@", "optout-relay: `info@` is not an address: the part after the @ is not a domain\n"),
        ("buyer", "optout-relay: `buyer` is neither an address nor a domain\n"),
        (
            "Buyer <b@x.example>",
            "optout-relay: `Buyer <b@x.example>` is not an address: the part before the @ is not a local part\nhint: write the bare",
        ),
    ] {
        let (code, out, talk) = shop.run(&["list", "add", "good@example.com", entry]);
        assert_eq!((code, out.as_str(), talk.starts_with(expected)), (65, "", true), "{talk}");
    }
    assert_eq!(shop.read("blacklist.toml"), LIST);
    std::fs::write(shop.path("blacklist.toml"), "addresses = [\"info@\"]\n").unwrap();
    let (code, _, talk) = shop.run(&["list", "add", "good@example.com"]);
    assert_eq!((code, talk.starts_with("optout-relay: blacklist.toml:1:14: `info@`")), (65, true), "{talk}");
    assert_eq!(shop.read("blacklist.toml"), "addresses = [\"info@\"]\n");
}

#[test]
fn an_entry_goes_into_the_list_that_is_meant() {
    let shop = Shop::new("[opt_out]\nlists = [\"plain.txt\", \"blacklist.toml\"]\n", "");
    std::fs::write(shop.path("plain.txt"), "plain@example.com\n").unwrap();
    std::fs::write(shop.path("other.toml"), "").unwrap();
    assert_eq!(shop.run(&["list", "add", "a@example.com"]).1, "blacklist.toml: added, address a@example.com\n");
    let (code, out, talk) = shop.run(&["list", "add", "a@example.com", "--list", "other.toml"]);
    assert_eq!((code, out.as_str()), (0, "other.toml: added, address a@example.com\n"));
    assert_eq!(talk, "other.toml is not among `opt_out.lists`, so the relay does not read it\n");
    let (code, _, talk) = shop.run(&["list", "add", "a@example.com", "--list", "plain.txt"]);
    assert_eq!((code, shop.read("plain.txt").as_str()), (65, "plain@example.com\n"), "{talk}");
    let (code, _, talk) = shop.run(&["list", "add", "a@example.com", "--list", "nowhere.toml"]);
    assert_eq!((code, talk.contains("nowhere.toml: cannot be read: ")), (66, true), "{talk}");
    let shop = Shop::new("[opt_out]\nlists = [\"plain.txt\"]\n", "");
    std::fs::write(shop.path("plain.txt"), "").unwrap();
    let (code, _, talk) = shop.run(&["list", "add", "a@example.com"]);
    assert_eq!((code, talk.contains("no list of `opt_out.lists` is a .toml file\nhint: ")), (78, true), "{talk}");
}

#[test]
fn remove_takes_every_spelling_and_tells_what_stays() {
    let shop = Shop::new("[opt_out]\nlists = [\"blacklist.toml\", \"plain.txt\"]\n", LIST);
    std::fs::write(shop.path("plain.txt"), "\nB@example.com\n").unwrap();
    let (code, out, talk) = shop.run(&["list", "remove", "out+7@EXAMPLE.com", "gone.example"]);
    assert_eq!((code, talk.as_str()), (0, ""));
    assert_eq!(out, "blacklist.toml: removed, address out+7@example.com\nblacklist.toml: removed, domain gone.example\n");
    assert_eq!(shop.read("blacklist.toml"), "# mine\naddresses = [\n  \"b@example.com\",\n]\n\n# the end\n");
    let (code, out, talk) = shop.run(&["list", "remove", "b@example.com"]);
    assert_eq!((code, out.as_str()), (1, "blacklist.toml: removed, address b@example.com\n"));
    assert_eq!(
        talk,
        "plain.txt:2: b@example.com still stands here\nhint: delete the line by hand; only .toml and .csv lists are edited\n"
    );
    let (code, out, talk) = shop.run(&["list", "remove", "nobody@example.com"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(talk.starts_with("nobody@example.com stands in no list\nhint: "), "{talk}");
}

#[test]
fn many_hands_at_once_lose_nothing() {
    let shop = Shop::new("", LIST);
    let add = |at: usize| {
        shop.command(&["list", "add", &format!("{at}@many.example")]).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let hands: Vec<_> = (0..12).map(add).collect();
    for hand in hands {
        assert!(hand.wait_with_output().unwrap().status.success());
    }
    let text = shop.read("blacklist.toml");
    for at in 0..12 {
        assert_eq!(text.matches(&format!("address = \"{at}@many.example\"")).count(), 1, "{text}");
    }
    assert_eq!(shop.run(&["check"]).1.lines().last(), Some("blacklist.toml: sound, 15 opt-outs"));
    assert_eq!(std::fs::read_dir(shop.folder.path()).unwrap().count(), 2);
}

#[test]
fn a_link_to_a_list_stays_a_link() {
    let shop = Shop::new("", "");
    std::fs::rename(shop.path("blacklist.toml"), shop.path("real.toml")).unwrap();
    std::os::unix::fs::symlink("real.toml", shop.path("blacklist.toml")).unwrap();
    assert_eq!(shop.run(&["list", "add", "a@example.com"]).0, 0);
    assert!(std::fs::symlink_metadata(shop.path("blacklist.toml")).unwrap().is_symlink());
    assert!(shop.read("real.toml").contains("a@example.com"));
}

#[tokio::test]
async fn what_is_added_is_in_force_in_the_relay_that_runs() {
    let shop = Shop::new("", LIST);
    let mut relay = shop.serve();
    assert_eq!(shop.run(&["list", "add", "late@example.com"]).0, 0);
    relay.line("opt-out list reloaded entries=4 ");
    let mut client = crate::rig::Client::connect(relay.address).await;
    client.expect("220 ").await;
    let reply = client.mail("shop@example.com", &["Late@example.com"], "\r\nx").await;
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
    client.say("QUIT").await;
    relay.stop();
}
