//! Who may log in: `user add|remove|list`, the file behind them, and that a password stands nowhere.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use optout_relay::users::{Login, Users, parse};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::config::{announced, files};
use crate::process::{Shop, told};
use crate::rig::{Logs, PATIENCE};

/// What stands in the place of passwords, and must be repeated nowhere.
const SECRETS: [&str; 2] = ["hunter2", "4711"];

const CONFIG: &str = "[listen]\nusers = \"users.toml\"\n";

fn shop() -> Shop {
    Shop::new(CONFIG, "")
}

/// `user add` with a password on standard input.
fn add(shop: &Shop, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = piped(shop.command(&["user", "add"]).args(arguments));
    // Who has asked for nothing may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    told(child.wait_with_output().unwrap())
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn logs_in(shop: &Shop, name: &str, password: &str) -> bool {
    let users = Users::open(&shop.path("users.toml")).unwrap();
    matches!(users.login(name, password.as_bytes()).await, Login::Ok(_))
}

#[test]
fn every_bad_file_is_told_as_it_announces() {
    let files = files("bad_users");
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let name = Path::new(path.file_name().unwrap());
        let told = parse(name, &text).err().unwrap_or_else(|| panic!("{} is taken", name.display())).to_string();
        assert_eq!(told, announced(&text), "{}", name.display());
        assert!(!SECRETS.iter().any(|secret| told.contains(secret)) && !told.contains("c29tZXNhbHQ"), "{told}");
    }
    assert_eq!(files.len(), 42);
}

#[tokio::test]
async fn a_user_is_added_given_another_password_listed_and_removed() {
    let shop = shop();
    let (code, out, talk) = add(&shop, &["feedback-tool", "--senders", "*@Shop-A.example"], "hunter2\nmore\n");
    assert_eq!((code, out.as_str(), talk.as_str()), (0, "users.toml: added, user feedback-tool\n", ""));
    assert_eq!(add(&shop, &["other", "--senders", "a@b.example", "--senders", "*@c.example"], "hunter4711\r\n").0, 0);
    assert_eq!(add(&shop, &["third one"], "hunter2").0, 0);
    assert!(logs_in(&shop, "feedback-tool", "hunter2").await && logs_in(&shop, "other", "hunter4711").await);
    assert!(!logs_in(&shop, "feedback-tool", "hunter2\n").await && !logs_in(&shop, "other", "hunter2").await);
    let listed = "feedback-tool\t*@shop-a.example\nother\ta@b.example *@c.example\nthird one\t*\n";
    assert_eq!(shop.run(&["user", "list"]), (0, listed.into(), String::new()));

    let before = shop.read("users.toml");
    let (code, out, talk) = add(&shop, &["other"], "4711\n");
    let stands = "users.toml: stands already, user other\nhint: --replace gives another password\n";
    assert_eq!((code, out.as_str(), talk.as_str()), (1, "", stands));
    // And nobody has been asked for a password.
    assert_eq!(shop.run(&["user", "add", "other"]), (1, String::new(), stands.into()));
    assert_eq!(shop.read("users.toml"), before);
    let (code, out, talk) = add(&shop, &["other", "--replace"], "4711\n");
    assert_eq!((code, out.as_str(), talk.as_str()), (0, "users.toml: has another password now, user other\n", ""));
    assert!(logs_in(&shop, "other", "4711").await && !logs_in(&shop, "other", "hunter4711").await);
    assert_eq!(shop.run(&["user", "list"]).1, listed);
    assert_eq!(shop.run(&["check"]).1.lines().last(), Some("users.toml: sound, 3 users"));

    let removed = (0, "users.toml: removed, user other\n".into(), String::new());
    assert_eq!(shop.run(&["user", "remove", "other"]), removed);
    let (code, out, talk) = shop.run(&["user", "remove", "other"]);
    let nobody = "users.toml: `other` is no user\nhint: `optout-relay user list` tells who is\n";
    assert_eq!((code, out.as_str(), talk.as_str()), (1, "", nobody));
    assert_eq!(shop.run(&["user", "list"]).1, "feedback-tool\t*@shop-a.example\nthird one\t*\n");
    assert!(!SECRETS.iter().any(|secret| before.contains(secret) || shop.read("users.toml").contains(secret)));
}

/// Whoever reads the hashes can guess; whoever has made the file narrower or wider has meant it.
#[test]
fn the_file_is_for_its_owner_and_group() {
    let shop = shop();
    let mode = || fs::metadata(shop.path("users.toml")).unwrap().permissions().mode() & 0o777;
    assert_eq!(add(&shop, &["a"], "hunter2\n").0, 0);
    assert_eq!((mode() & !0o640, mode() & 0o600), (0, 0o600));
    // While it is open nobody else has its number.
    let first = fs::File::open(shop.path("users.toml")).unwrap();
    for meant in [0o600, 0o644] {
        fs::set_permissions(shop.path("users.toml"), fs::Permissions::from_mode(meant)).unwrap();
        assert_eq!((add(&shop, &["a", "--replace"], "hunter2\n").0, mode()), (0, meant));
    }
    assert_ne!(fs::metadata(shop.path("users.toml")).unwrap().ino(), first.metadata().unwrap().ino());
    let told = shop.run(&["check"]).1;
    let open = "users.toml: open to everybody on this machine, who can guess at its passwords; chmod o= it\n";
    assert!(told.ends_with(&format!("users.toml: sound, 1 user\n{open}")), "{told}");
    assert_eq!(fs::read_dir(shop.folder.path()).unwrap().count(), 3);
}

#[test]
fn what_no_tool_can_give_is_refused_and_nothing_is_written() {
    let shop = shop();
    let long = "4711".repeat(257);
    for (arguments, input, expected) in [
        (&["a"][..], "", "the password is empty; nothing was changed\n"),
        (&["a"], "\nhunter2\n", "the password is empty; nothing was changed\n"),
        (&["a"], "hunter2\u{7}\n", "the password holds a control character; nothing was changed\n"),
        (&["a"], &long, "the password is longer than 1024 bytes; nothing was changed\n"),
        (&[""], "hunter2\n", "the name is empty\nhint: as in name = \"feedback-tool\"\n"),
        (&["a\nb"], "hunter2\n", "the name holds a control character\nhint: letters, digits and signs, as in feedback-tool\n"),
        (
            &["a", "--senders", "*@a.example", "--senders", "a.example"],
            "hunter2\n",
            "`a.example` names no sender\nhint: as in *@shop-a.example, or shop@shop-a.example; without senders the user may send as anybody\n",
        ),
    ] {
        let (code, out, talk) = add(&shop, arguments, input);
        assert_eq!((code, out.as_str(), talk), (65, "", format!("optout-relay: {expected}")), "{arguments:?}");
        assert!(!shop.path("users.toml").exists(), "{arguments:?}");
    }
    assert_eq!(shop.command(&["user", "add", "a"]).stdin(Stdio::null()).output().unwrap().status.code(), Some(65));
}

#[test]
fn a_file_that_is_not_named_not_there_or_broken_is_told() {
    let unnamed = Shop::new("", "");
    for command in [&["user", "list"][..], &["user", "add", "a"], &["user", "remove", "a"]] {
        let (code, out, talk) = unnamed.run(command);
        let expected =
            "optout-relay: no file of users is named\nhint: write users = \"users.toml\" under [listen] in relay.toml\n";
        assert_eq!((code, out.as_str(), talk.as_str()), (78, "", expected));
    }
    let shop = shop();
    for command in [&["user", "list"][..], &["user", "remove", "a"], &["check"], &["serve"]] {
        let (code, _, talk) = shop.run(command);
        let expected = "optout-relay: users.toml: cannot be read: No such file or directory (os error 2)\nhint: `optout-relay user add NAME` creates it; that of the admin page, `optout-relay user --admin add NAME`\n";
        assert_eq!((code, talk.as_str()), (66, expected), "{command:?}");
    }
    fs::write(shop.path("users.toml"), "[[user]]\nname = \"a\"\npassword = \"hunter2\"\n").unwrap();
    for command in [&["user", "list"][..], &["user", "add", "b"], &["user", "remove", "a"], &["check"], &["serve"]] {
        let (code, _, talk) = shop.run(command);
        assert!(code == 65 && talk.starts_with("optout-relay: users.toml:3:12: the password is no hash; "), "{command:?} {talk}");
        assert!(!talk.contains("hunter2"), "{talk}");
    }
    assert_eq!(shop.read("users.toml"), "[[user]]\nname = \"a\"\npassword = \"hunter2\"\n");
}

#[tokio::test]
async fn many_hands_at_once_lose_nobody() {
    let shop = shop();
    let hands: Vec<_> = (0..6).map(|at| piped(&mut shop.command(&["user", "add", &format!("user {at}")]))).collect();
    for (at, mut hand) in hands.into_iter().enumerate() {
        writeln!(hand.stdin.take().unwrap(), "password {at}").unwrap();
        assert!(hand.wait_with_output().unwrap().status.success());
    }
    for at in 0..6 {
        assert!(logs_in(&shop, &format!("user {at}"), &format!("password {at}")).await);
    }
    assert_eq!(fs::read_dir(shop.folder.path()).unwrap().count(), 3);
}

#[test]
fn users_that_change_are_in_force_in_the_relay_that_runs() {
    let shop = Shop::new(&format!("{CONFIG}[log]\nlevel = \"debug\"\n"), "");
    assert_eq!(add(&shop, &["a"], "hunter2\n").0, 0);
    let mut relay = shop.serve();
    assert_eq!(add(&shop, &["b"], "hunter4711\n").0, 0);
    relay.line("users reloaded users=2");
    assert_eq!(shop.run(&["user", "remove", "a"]).0, 0);
    relay.line("users reloaded users=1");
    let sound = shop.read("users.toml");
    for (text, expected) in [
        ("[[user]]\nname = \"a\"\npassword = \"hunter2\"\n", "users.toml:3:12: the password is no hash; "),
        ("", "users.toml: is empty, and had 1 user"),
        ("[[user]]\nname = \"a\"\npassword = hunter4711\n", "users.toml:3:12: string values must be quoted"),
    ] {
        fs::write(shop.path("users.toml"), text).unwrap();
        relay.line(&format!("users not reloaded, the last good ones stay in force: {expected}"));
    }
    fs::write(shop.path("users.toml"), sound).unwrap();
    relay.line("users reloaded users=1");
    relay.signal("HUP");
    relay.line("users reloaded users=1");
    relay.stop();
    let said = relay.said.join("\n");
    assert!(!SECRETS.iter().any(|secret| said.contains(secret)) && !said.contains("argon2"), "{said}");
}

#[tokio::test]
async fn a_login_leaves_no_password_in_the_log() {
    let shop = shop();
    assert_eq!(add(&shop, &["a"], "hunter2\n").0, 0);
    let logs = Logs::watch();
    tracing::debug!("the log is watched");
    let users = Users::open(&shop.path("users.toml")).unwrap();
    for (name, password, gets_in) in
        [("a", "hunter2", true), ("a", "hunter2", true), ("a", "4711", false), ("4711", "hunter2", false), ("hunter2", "", false)]
    {
        let login = users.login(name, password.as_bytes()).await;
        assert_eq!(matches!(login, Login::Ok(_)), gets_in);
        assert!(!SECRETS.iter().any(|secret| format!("{login:?} {users:?}").contains(secret)));
    }
    assert_eq!((logs.lines(&["hunter2"]), logs.lines(&["4711"]), logs.lines(&[]).len()), (vec![], vec![], 1));
}

/// `user add a` at a terminal of its own.
struct Typist {
    child: Child,
    keys: fs::File,
    /// Our end of what the command has for standard input.
    terminal: fs::File,
    said: String,
    /// Goes when the command has ended; until then its patience runs.
    ended: Sender<()>,
}

impl Typist {
    fn sits_down(shop: &Shop) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).and_then(|()| unlockpt(&keys)).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap().into_string().unwrap();
        const NOCTTY: i32 = 0o400;
        let terminal = fs::OpenOptions::new().read(true).write(true).custom_flags(NOCTTY).open(name).unwrap();
        let mut command = shop.command(&["user", "add", "a"]);
        let child = command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (ended, hears) = channel();
        let pid = Pid::from_child(&child);
        std::thread::spawn(move || {
            if hears.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self { child, keys: fs::File::from(keys), terminal, said: String::new(), ended }
    }

    /// Waits for a prompt, then types.
    fn types(&mut self, prompt: &str, keys: &str) {
        let stderr = self.child.stderr.as_mut().unwrap();
        while !self.said.ends_with(prompt) {
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap_or_else(|_| panic!("{prompt:?} was not said, but {:?}", self.said));
            self.said.push(char::from(byte[0]));
        }
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Exit code, everything said, and what the terminal has shown of the keys; it shows them again at the end.
    fn ends(self) -> (i32, String, String) {
        let Self { child, mut keys, terminal, mut said, ended } = self;
        let output = child.wait_with_output().unwrap();
        drop(ended);
        said.extend([output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()));
        let modes = tcgetattr(&terminal).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        drop(terminal);
        let mut shown = Vec::new();
        // Its end is told as an error.
        let _ = keys.read_to_end(&mut shown);
        (output.status.code().expect("it did not end by itself"), said, String::from_utf8(shown).unwrap())
    }
}

#[tokio::test]
async fn at_a_terminal_a_password_is_typed_twice_and_never_shown() {
    let shop = shop();
    let mut typist = Typist::sits_down(&shop);
    typist.types("Password for a: ", "hunter3\u{7f}2\n");
    typist.types("Again: ", "hunter2\n");
    let said = "Password for a: Again: users.toml: added, user a\n".to_owned();
    assert_eq!(typist.ends(), (0, said, "\r\n\r\n".into()));
    assert!(logs_in(&shop, "a", "hunter2").await);
    assert_eq!(shop.run(&["user", "remove", "a"]).0, 0);
    let before = shop.read("users.toml");

    let mut typist = Typist::sits_down(&shop);
    typist.types("Password for a: ", "hunter2\n");
    typist.types("Again: ", "hunter4711\n");
    let (code, said, shown) = typist.ends();
    assert!(said.ends_with("optout-relay: the two are not the same\nhint: try again; nothing was changed\n"), "{said}");
    assert_eq!((code, shown.as_str()), (65, "\r\n\r\n"));

    // The key that breaks off, in the middle of it.
    let mut typist = Typist::sits_down(&shop);
    typist.types("Password for a: ", "hunter\u{3}");
    let (code, said, shown) = typist.ends();
    assert!(said.ends_with("Password for a: \noptout-relay: broken off; nothing was changed\n"), "{said}");
    assert_eq!((code, shown.as_str()), (1, ""));
    assert_eq!(shop.read("users.toml"), before);
}

#[tokio::test]
async fn those_of_the_admin_page_have_a_file_of_their_own() {
    let shop = shop();
    let (code, _, talk) = shop.run(&["user", "--admin", "list"]);
    let place = "relay.toml";
    assert_eq!(code, 78, "{talk}");
    assert!(talk.ends_with(&format!("hint: write users = \"admins.toml\" under [admin] in {place}\n")), "{talk}");

    fs::write(shop.path("relay.toml"), format!("{CONFIG}[admin]\nusers = \"admins.toml\"\n")).unwrap();
    assert_eq!(add(&shop, &["--admin", "anna"], "a long secret\n").0, 0);
    assert_eq!(shop.run(&["user", "--admin", "list"]).1, "anna\t*\n");
    assert!(!shop.path("users.toml").exists(), "the tools' file is another");
    let admins = Users::open(&shop.path("admins.toml")).unwrap();
    assert!(matches!(admins.login("anna", b"a long secret").await, Login::Ok(_)));
    assert_eq!(add(&shop, &["tool"], "another secret\n").0, 0);
    assert_eq!(shop.run(&["check"]).1.lines().last(), Some("admins.toml: sound, 1 user"));
    fs::write(shop.path("admins.toml"), "[[user]]\nname = 1\n").unwrap();
    for command in ["check", "serve"] {
        let (code, _, talk) = shop.run(&[command]);
        assert!(code == 65 && talk.starts_with("optout-relay: admins.toml:2:8: "), "{command}: {talk}");
    }
}
