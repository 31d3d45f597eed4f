//! The commands as people and scripts meet them: what stands on stdout and stderr, and the exit codes.

use std::process::Stdio;

use crate::process::{Shop, told};

const LIST: &str = "# mine\naddresses = [\n  \"out@example.com\", # asked\n]\ndomains = [\"gone.example\"]\n\n[[opt_out]]\naddress = \"shop-a@example.com\"\nreason = \"no more of shop a\"\nsenders = [\"*@shop-a.example\"]\n";

fn shop() -> Shop {
    Shop::new("", LIST)
}

#[test]
fn serve_says_what_it_does_and_ends_well() {
    let shop = shop();
    for (arguments, signal) in [(&["serve"][..], "TERM"), (&[], "INT")] {
        let mut relay = shop.serve_as(arguments);
        let address = relay.address;
        for line in [
            format!("optout-relay {} reads relay.toml", env!("CARGO_PKG_VERSION")),
            format!("  listens on    {address}"),
            "  mail goes to  file:outbox".to_owned(),
            "  opt-outs      3 in force, from blacklist.toml".to_owned(),
        ] {
            assert!(relay.said.contains(&line), "{line}\nis missing in\n{}", relay.said.join("\n"));
        }
        let try_it = relay.said.last().unwrap();
        assert!(try_it.contains(&format!("| curl -sS smtp://{address} --mail-from ")), "{try_it}");
        relay.signal(signal);
        assert_eq!(relay.end(), (0, String::new()));
        assert_eq!((relay.count(" stopped"), relay.count("ERROR")), (1, 0));
    }
}

#[test]
fn observing_is_said_loudly() {
    let mut relay = Shop::new("[opt_out]\nmode = \"observe\"\n", LIST).serve();
    relay.says(" WARN opt_out.mode is observe: recipients who opted out ARE mailed, and only logged");
    relay.stop();
}

#[test]
fn an_address_or_a_spool_that_is_taken_is_unavailable() {
    let shop = shop();
    let mut first = shop.serve();
    let listen = format!("[\"{}\"]", first.address);
    let (code, out, talk) = told(
        shop.command(&[]).env("OPTOUT_RELAY_LISTEN__SMTP", &listen).env("OPTOUT_RELAY_STATE_DIR", "other").output().unwrap(),
    );
    let expected = format!("optout-relay: listen on {}: ", first.address);
    assert!(talk.contains(&expected) && talk.contains("\nhint: another program, perhaps another relay, has it"), "{talk}");
    assert_eq!((code, out.as_str()), (69, ""));
    let (code, out, talk) = told(shop.command(&[]).env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]").output().unwrap());
    assert!(talk.contains("optout-relay: the spool `var/spool` is in use by another relay\nhint: "), "{talk}");
    assert_eq!((code, out.as_str()), (75, ""));
    first.stop();
}

/// A name says nothing by itself, so it is looked up where the port is one of our own.
#[test]
fn mail_in_a_circle_is_refused_before_anything_starts() {
    // The port is taken, so that a relay which starts all the same ends at once.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = |host: &str, port_there: u16| {
        format!("[listen]\nsmtp = [\"127.0.0.1:{port}\"]\n[upstream]\nurl = \"smtp://{host}:{port_there}\"\n")
    };
    // As old as the Internet: another way to write 127.0.0.1, which only the look-up understands.
    let shop = Shop::new(&config("127.1", port), LIST);
    let told = "optout-relay: relay.toml:4:7: `upstream.url`: leads back to this relay, which listens there itself\n\
                hint: mail would go in a circle; name the host of your mail provider\n";
    for command in ["check", "serve"] {
        assert_eq!(shop.run(&[command]), (78, String::new(), told.to_owned()), "{command}");
    }
    for (host, port_there) in [("127.2", port), ("127.1", port ^ 1)] {
        let shop = Shop::new(&config(host, port_there), LIST);
        assert_eq!(shop.run(&["check"]).0, 0, "{host}:{port_there}");
    }
}

#[test]
fn check_reads_what_the_relay_reads() {
    let shop = shop();
    assert_eq!(shop.run(&["check"]), (0, "relay.toml: sound\nblacklist.toml: sound, 3 opt-outs\n".into(), String::new()));
    std::fs::write(shop.path("blacklist.toml"), format!("{LIST}[[opt_out]]\naddress = \"OUT+x@example.com\"\n")).unwrap();
    let (code, out, _) = shop.run(&["check"]);
    assert!(out.ends_with("\nblacklist.toml:11: names the same as blacklist.toml:3; the stricter of the two decides\n"), "{out}");
    assert_eq!(code, 0);
}

/// Faults of the configuration and of lists: the same words and codes whatever is to be done.
#[test]
fn what_cannot_be_read_has_its_code() {
    let shop = shop();
    let write = |name: &str, text: &str| std::fs::write(shop.path(name), text).unwrap();
    let commands: [&[&str]; 4] = [&["serve"], &["check"], &["explain", "a@example.com"], &["list", "show"]];
    let all = |expected: (i32, &str)| {
        for arguments in commands {
            let (code, _, talk) = shop.run(arguments);
            assert_eq!((code, talk.as_str()), (expected.0, expected.1), "{arguments:?}");
        }
    };
    write("blacklist.toml", "addresses = [\"info@\"]\n");
    all((
        65,
        "optout-relay: blacklist.toml:1:14: `info@` is not an address: the part after the @ is not a domain\nhint: correct the entry or delete it; until then no change of this list is in force\n",
    ));
    std::fs::remove_file(shop.path("blacklist.toml")).unwrap();
    all((
        66,
        "optout-relay: blacklist.toml: cannot be read: No such file or directory (os error 2)\nhint: create the file, or take it out of the configuration\n",
    ));
    write("relay.toml", "[listen]\nmax_sesions = 1\n");
    all((78, "optout-relay: relay.toml:2:1: unknown key `listen.max_sesions`\nhint: did you mean `max_sessions`?\n"));
    std::fs::remove_file(shop.path("relay.toml")).unwrap();
    let (code, _, talk) = shop.run(&["check"]);
    assert_eq!((code, talk.starts_with("optout-relay: relay.toml: cannot be read: ")), (78, true), "{talk}");
    let mut bare = shop.command(&["check"]);
    let (code, _, talk) = told(bare.env("OPTOUT_RELAY_HOSTNAM", "x").output().unwrap());
    assert_eq!((code, talk.starts_with("optout-relay: relay.toml: cannot be read: ")), (78, true), "{talk}");
}

#[test]
fn a_command_line_that_makes_no_sense_has_its_code() {
    let shop = shop();
    for arguments in
        [&["sreve"][..], &["explain"], &["list"], &["list", "add"], &["list", "add", "--action", "block", "a@b.example"]]
    {
        let (code, out, talk) = shop.run(arguments);
        assert_eq!((code, out.as_str(), talk.is_empty()), (64, "", false), "{arguments:?}");
    }
    let (code, out, talk) = shop.run(&["--help"]);
    assert_eq!((code, talk.as_str(), out.contains("explain")), (0, "", true), "{out}");
    assert_eq!(shop.run(&["--version"]), (0, format!("optout-relay {}\n", env!("CARGO_PKG_VERSION")), String::new()));
}

#[test]
fn what_cannot_be_written_has_its_code() {
    let shop = shop();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, _, talk) = told(shop.command(&["check"]).stdout(full).output().unwrap());
    assert!(talk.starts_with("optout-relay: write to standard output: "), "{talk}");
    assert_eq!(code, 74);
    let (code, _, talk) = told(shop.command(&[]).env("OPTOUT_RELAY_STATE_DIR", "relay.toml").output().unwrap());
    assert!(talk.contains("optout-relay: open `relay.toml/learned.toml`: ") && talk.contains("\nhint: "), "{talk}");
    assert_eq!(code, 74);
}

#[test]
fn a_reader_that_hangs_up_is_no_trouble() {
    let many: String = (0..20_000).map(|at| format!("[[opt_out]]\naddress = \"{at}@x.example\"\n")).collect();
    let shop = Shop::new("", &many);
    let mut child = shop.command(&["list", "show"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(told(child.wait_with_output().unwrap()), (0, String::new(), String::new()));
}

#[test]
fn explain_tells_the_verdict_and_its_rule() {
    let shop = Shop::new("[opt_out]\nexempt_subjects = [\"[Important]\"]\n", LIST);
    let out = "Out+7@EXAMPLE.com: would be suppressed\n  rule    blacklist.toml:3, address out@example.com\n  action  reject\n";
    let inside = "in@example.com: would be forwarded\n";
    let by_shop = "shop-a@example.com: would be suppressed\n  rule    blacklist.toml:7, address shop-a@example.com\n  action  reject\n  senders *@shop-a.example\n  reason  no more of shop a\n";
    for (arguments, code, text) in [
        (&["in@example.com"][..], 0, inside.to_owned()),
        (&["Out+7@EXAMPLE.com"], 1, out.to_owned()),
        (&["in@example.com", "Out+7@EXAMPLE.com"], 1, format!("{inside}{out}")),
        (
            &["Out+7@EXAMPLE.com", "--subject", "Re: [important] x"],
            0,
            out.replace("suppressed", "forwarded and logged, because of opt_out.exempt_subjects"),
        ),
        (&["shop-a@example.com"], 1, by_shop.to_owned()),
        (&["shop-a@example.com", "--from", "<>"], 1, by_shop.to_owned()),
        (&["shop-a@example.com", "--from", "Me@Shop-A.example"], 1, by_shop.to_owned()),
        (&["shop-a@example.com", "--from", "me@shop-b.example"], 0, "shop-a@example.com: would be forwarded\n".to_owned()),
        (
            &["x@gone.example"],
            1,
            "x@gone.example: would be suppressed\n  rule    blacklist.toml:5, domain gone.example\n  action  reject\n".to_owned(),
        ),
    ] {
        assert_eq!(shop.run(&[&["explain"], arguments].concat()), (code, text, String::new()), "{arguments:?}");
    }
    let (code, out, talk) = shop.run(&["explain", "info@"]);
    assert_eq!((code, out.as_str()), (65, ""));
    assert!(talk.starts_with("optout-relay: `info@`: the part after the @ is not a domain"), "{talk}");
}

#[test]
fn explain_agrees_with_the_mode() {
    let shop = Shop::new("[opt_out]\nmode = \"observe\"\n", LIST);
    let (code, out, _) = shop.run(&["explain", "out@example.com"]);
    assert!(
        out.starts_with("out@example.com: would be forwarded and logged, because opt_out.mode is \"observe\"\n  rule "),
        "{out}"
    );
    assert_eq!(code, 0);
}

/// A relay that is asked for something by its command line does not need the default configuration to be there.
#[test]
fn without_a_configuration_it_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_optout-relay"));
    let (code, _, talk) = told(command.current_dir(folder.path()).arg("check").output().unwrap());
    // Unless this machine has one of its own in /etc.
    if !std::path::Path::new("/etc/optout-relay/relay.toml").exists() {
        let expected = "optout-relay: config/relay.toml: there is no configuration, here or in /etc/optout-relay\nhint: name it: optout-relay --config FILE\n";
        assert_eq!((code, talk.as_str()), (78, expected));
    }
    std::fs::create_dir(folder.path().join("config")).unwrap();
    std::fs::write(folder.path().join("config/relay.toml"), "").unwrap();
    std::fs::write(folder.path().join("config/blacklist.toml"), LIST).unwrap();
    let (code, out, _) = told(command.output().unwrap());
    assert_eq!((code, out.as_str()), (0, "config/relay.toml: sound\nconfig/blacklist.toml: sound, 3 opt-outs\n"));
}

#[test]
fn a_secret_that_is_missing_is_told_at_the_start() {
    let shop = Shop::new("[upstream]\nurl = \"smtp://u@127.0.0.1:9\"\npassword = { file = \"secret\" }\n", LIST);
    assert_eq!(shop.run(&["check"]).0, 0);
    let serve = || told(shop.command(&[]).env("OPTOUT_RELAY_LISTEN__SMTP", "['127.0.0.1:0']").output().unwrap());
    let (code, _, talk) = serve();
    assert_eq!((code, talk.contains("secret: cannot be read: ")), (78, true), "{talk}");
    std::fs::write(shop.path("secret"), "\nhunter2\n").unwrap();
    let (code, _, talk) = serve();
    assert_eq!((code, talk.contains("upstream.password: is empty"), talk.contains("hunter2")), (78, true, false), "{talk}");
}

#[test]
fn nothing_runs_on_without_its_list() {
    let shop = shop();
    std::fs::remove_file(shop.path("blacklist.toml")).unwrap();
    assert_eq!(shop.run(&["serve"]).0, 66);
    assert!(!shop.path("var").exists() && !shop.path("outbox").exists());
}

#[test]
fn what_stands_beside_an_entry_cannot_steer_a_terminal() {
    let shop = Shop::new("", "[[opt_out]]\naddress = \"a@x.example\"\nreason = \"\\u001b[31mKäufer\\r\"\n");
    let (code, out, _) = shop.run(&["explain", "a@x.example"]);
    assert!(code == 1 && out.ends_with("  reason   [31mKäufer \n"), "{out:?}");
    let (code, _, talk) = shop.run(&["explain", "\u{1b}[31m@x.example"]);
    assert!(code == 65 && talk.contains("`\\u{1b}[31m@x.example`"), "{talk:?}");
}
