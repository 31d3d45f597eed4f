//! Listeners that are handed over as systemd does it, to the real binary: used in place of its own, refused where they are
//! none, and kept open over a restart, so that nobody who connects meanwhile is refused.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::door::certify;
use crate::process::{Process, Shop, told};
use crate::rig::{Client, PATIENCE};

/// `serve` with one socket under so many names; `listen.smtp` is an address that is taken.
fn handed(shop: &Shop, socket: OwnedFd, names: &[&str]) -> Command {
    let relay = shop.command(&["serve"]);
    let copies: String = (0..names.len()).map(|at| format!(" {}<&0", at + 3)).collect();
    let mut shell = Command::new("sh");
    // Only a shell knows its own process id before it becomes the relay.
    shell.args(["-c", &format!("LISTEN_PID=$$ exec \"$0\" \"$@\"{copies} </dev/null")]);
    shell.arg(relay.get_program()).args(relay.get_args()).current_dir(shop.folder.path()).stdin(socket);
    for (name, _) in relay.get_envs() {
        shell.env_remove(name);
    }
    shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    shell.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_UPSTREAM__URL", "file:outbox");
    shell.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:1\"]");
    shell
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_listener_that_is_handed_over_takes_the_place_of_our_own() {
    let shop = Shop::new("", "");
    let (listener, address) = listener();
    for names in [&["smtp"][..], &["unknown"], &["optout-relay.socket", "smtp"]] {
        let mut relay = Process::start(&mut handed(&shop, listener.try_clone().unwrap().into(), names));
        assert_eq!(relay.address, address);
        relay.says(&format!("systemd has handed over {}", vec![address.to_string(); names.len()].join(" and ")));
        relay.says("in place of `listen.smtp`");
        Client::connect(address).await.expect("220 relay.test").await;
        relay.signal("TERM");
        assert_eq!(relay.end().0, 0);
    }
}

/// Ends by itself, as one whose configuration is wrong; what it says.
fn fails(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    let (exit, out, said) = told(child.wait_with_output().unwrap());
    assert_eq!((exit, out), (78, String::new()), "{said}");
    said
}

#[test]
fn what_cannot_be_listened_on_is_refused() {
    let shop = Shop::new("", "");
    let (listener, address) = listener();
    let connection = TcpStream::connect(address).unwrap();
    let file = std::fs::File::open(shop.path("relay.toml")).unwrap();
    let no_listener = "socket 3 (\"smtp\"), which systemd has handed over, is no TCP listener\nhint: ";
    let cases: [(OwnedFd, &[&str], &str); 7] = [
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), &["smtp"], no_listener),
        (UnixListener::bind(shop.path("socket")).unwrap().into(), &["smtp"], no_listener),
        (connection.into(), &["smtp"], no_listener),
        (file.into(), &["smtp"], no_listener),
        (
            listener.try_clone().unwrap().into(),
            &["smtp", "smpt"],
            "socket 4, which systemd has handed over, is called \"smpt\"\nhint: ",
        ),
        (
            listener.try_clone().unwrap().into(),
            &["Submissions"],
            "socket 3, which systemd has handed over, is called \"Submissions\"\nhint: ",
        ),
        (listener.into(), &["submissions"], "`listen.submissions`, as systemd has handed it over: needs a certificate\nhint: "),
    ];
    for (socket, names, error) in cases {
        let said = fails(&mut handed(&shop, socket, names));
        assert!(said.contains(error), "{said:?} is not {error:?}");
    }
}

#[test]
fn a_listener_that_others_reach_wants_the_same_care_as_one_of_our_own() {
    let shop = Shop::new("", "");
    let said = fails(&mut handed(&shop, TcpListener::bind("0.0.0.0:0").unwrap().into(), &["smtp"]));
    assert!(said.contains("`listen.smtp`, as systemd has handed it over: 0.0.0.0:"), "{said}");
    assert!(said.contains("can be reached by other machines, and nothing says which of them may use it\nhint: "), "{said}");
}

#[tokio::test]
async fn on_submissions_nothing_is_said_in_the_clear() {
    let shop = Shop::new("[listen]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n", "");
    let trusts = certify(shop.folder.path());
    let (listener, address) = listener();
    let mut command = handed(&shop, listener.into(), &["submissions"]);
    let mut relay = Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"));
    relay.says(&format!("systemd has handed over {address}: that is listened on in place of `listen.submissions`"));
    let mut client = Client::connect(address).await.encrypt(&trusts).await.unwrap();
    client.expect("220 relay.test").await;
    // The other kind is as the configuration says.
    assert!(relay.said.iter().any(|line| line.contains("listens on") && line.contains(&format!("{address} and 127.0.0.1:"))));
}

#[test]
fn a_host_that_is_the_listener_handed_over_is_a_circle() {
    let shop = Shop::new("", "");
    let (listener, address) = listener();
    let mut command = handed(&shop, listener.into(), &["smtp"]);
    let said = fails(command.env("OPTOUT_RELAY_UPSTREAM__URL", format!("smtp://{address}")));
    assert!(said.contains("leads back to this relay"), "{said}");
}

#[test]
fn what_is_meant_for_another_process_is_left_alone() {
    let shop = Shop::new("", "");
    let mut command = shop.command(&["serve"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("OPTOUT_RELAY_UPSTREAM__URL", "file:outbox");
    let mut relay = Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"));
    relay.signal("TERM");
    assert_eq!(relay.end().0, 0);
    assert_eq!(relay.count("handed over"), 0);
}

/// Mails until it is told to end, a connection a message; the messages that were taken. A relay that stops may say goodbye
/// with 421 or hang up, and then the message is mailed again; but whoever connects is let in.
fn mails(address: SocketAddr, tool: usize, over: &AtomicBool) -> usize {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("refused");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut replies = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut reply = || replies.next().map(|line| line.expect("cut off")).unwrap_or_default();
        let greeting = reply();
        assert!(greeting.starts_with("220 "), "{greeting:?}");
        let to = format!("RCPT TO:<{number}@{tool}.example>");
        let commands = ["HELO tool.test", "MAIL FROM:<shop@example.com>", &to, "DATA", "Subject: x\r\n\r\nx\r\n."];
        let last = commands.iter().map(|command| {
            // Where it has hung up there is no reply either.
            let _ = (&stream).write_all(format!("{command}\r\n").as_bytes());
            reply()
        });
        let codes: Vec<String> = last.take_while(|reply| !reply.is_empty() && !reply.starts_with("421")).collect();
        number += usize::from(codes.len() == commands.len() && codes.last().is_some_and(|last| last.starts_with("250 ")));
    }
    number
}

#[test]
fn nobody_is_refused_while_the_relay_is_started_anew() {
    const TOOLS: usize = 8;
    let shop = Shop::new("", "");
    let (listener, address) = listener();
    let start = || Process::start(&mut handed(&shop, listener.try_clone().unwrap().into(), &["smtp"]));
    let (over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let mut relay = start();
        let tools: Vec<_> = (0..TOOLS)
            .map(|tool| {
                scope.spawn({
                    let (over, taken) = (&over, &taken);
                    move || taken.fetch_add(mails(address, tool, over), Ordering::Relaxed)
                })
            })
            .collect();
        for _ in 0..4 {
            // It is under load before it is stopped.
            relay.line("status=");
            relay.signal("TERM");
            assert_eq!(relay.end().0, 0);
            relay = start();
        }
        relay.line("status=");
        over.store(true, Ordering::Relaxed);
        for tool in tools {
            tool.join().unwrap();
        }
        relay.signal("TERM");
        assert_eq!(relay.end().0, 0);
    });
    let delivered: std::collections::BTreeSet<_> = shop.delivered().iter().map(ToString::to_string).collect();
    assert_eq!((delivered.len(), shop.delivered().len()), (taken.load(Ordering::Relaxed), delivered.len()));
    assert!(delivered.len() >= TOOLS, "{delivered:?}");
}
