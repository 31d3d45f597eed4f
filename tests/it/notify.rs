//! What systemd is told by the real binary: a datagram socket stands in for it, and every notice is waited for.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::process::{Process, Shop, told};
use crate::rig::{Client, PATIENCE};

/// The end of the line at which systemd sits.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(shop: &Shop) -> Self {
        let socket = UnixDatagram::bind(shop.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// `serve`, as a unit with `Type=notify` runs it.
    fn command(&self, shop: &Shop) -> Command {
        let mut command = shop.command(&["serve"]);
        command.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]");
        command.env("NOTIFY_SOCKET", shop.path("notify")).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command
    }

    /// The next notice, its assignments in order.
    fn hears(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let count = self.0.recv(&mut bytes).expect("nothing is told");
        std::str::from_utf8(&bytes[..count]).unwrap().lines().map(str::to_owned).collect()
    }

    /// The next notice, which says this first; what it says of the relay's state.
    fn hears_that(&self, news: &str) -> String {
        let notice = self.hears();
        assert_eq!(notice[0], news, "{notice:?}");
        notice.last().unwrap().strip_prefix("STATUS=").unwrap_or_else(|| panic!("{notice:?}")).to_owned()
    }

    /// Nothing has been told that was not heard.
    fn hears_nothing(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let heard = self.0.recv(&mut [0; 1]);
        self.0.set_nonblocking(false).unwrap();
        heard.is_err()
    }
}

#[tokio::test]
async fn ready_is_said_when_the_port_answers_and_mail_can_be_judged_and_held() {
    let shop = Shop::new("", "addresses = [\"a@x.example\", \"b@x.example\"]\n");
    let systemd = Systemd::listen(&shop);
    let relay = Process::start(&mut systemd.command(&shop));
    assert_eq!(systemd.hears_that("READY=1"), "2 opt-outs in force, 0 messages held, 0 sessions");
    let mut greeting = [0; 4];
    TcpStream::connect(relay.address).await.unwrap().read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ");
    let lock = std::fs::OpenOptions::new().write(true).open(shop.path("var/spool/lock")).unwrap();
    assert!(lock.try_lock().is_err(), "the spool is not locked");
}

#[test]
fn who_cannot_start_is_never_ready() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("[\"{}\"]", taken.local_addr().unwrap());
    for (key, value, list, exit) in [
        ("OPTOUT_RELAY_LISTEN__SMTP", place.as_str(), "", 69),
        ("OPTOUT_RELAY_LISTEN__MAX_SESSIONS", "8", "addresses = [", 65),
        ("OPTOUT_RELAY_STATE_DIR", "relay.toml", "", 74),
    ] {
        let shop = Shop::new("", list);
        let systemd = Systemd::listen(&shop);
        let (code, _, said) = told(systemd.command(&shop).env(key, value).output().unwrap());
        assert_eq!(code, exit, "{said}");
        assert!(systemd.hears_nothing(), "{said}");
    }
}

#[test]
fn a_reload_begins_and_ends() {
    let shop = Shop::new("", "addresses = [\"a@x.example\"]\n");
    let systemd = Systemd::listen(&shop);
    let relay = Process::start(&mut systemd.command(&shop));
    systemd.hears_that("READY=1");
    std::fs::write(shop.path("blacklist.toml"), "addresses = [\"a@x.example\", \"b@x.example\", \"c@x.example\"]\n").unwrap();
    relay.signal("HUP");
    let notice = systemd.hears();
    assert_eq!(notice[0], "RELOADING=1", "{notice:?}");
    let moment = notice[1].strip_prefix("MONOTONIC_USEC=").map(str::parse::<u64>);
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
    // Of the clock that systemd reads: a time since the machine was started, and not long ago.
    assert!(moment.clone().is_some_and(|at| at.is_ok_and(|at| at / 1_000_000 <= uptime + 1)), "{notice:?} {uptime}");
    // When it is ready again the new list is in force.
    assert_eq!(systemd.hears_that("READY=1"), "3 opt-outs in force, 0 messages held, 0 sessions");
    // A list that is not put in force ends the reload too.
    std::fs::write(shop.path("blacklist.toml"), "addresses = [").unwrap();
    relay.signal("HUP");
    systemd.hears_that("RELOADING=1");
    assert_eq!(systemd.hears_that("READY=1"), "3 opt-outs in force, 0 messages held, 0 sessions");
}

#[tokio::test]
async fn stopping_is_said_while_mail_under_way_is_finished() {
    let shop = Shop::new("shutdown_grace = \"2h\"\n", "");
    let systemd = Systemd::listen(&shop);
    let mut relay = Process::start(&mut systemd.command(&shop));
    systemd.hears_that("READY=1");
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client.say("EHLO tool.test").await;
    client.say("MAIL FROM:<shop@example.com>").await;
    relay.signal("TERM");
    let notice = systemd.hears();
    // As long as it takes, whatever TimeoutStopSec= is; but that is told in 32 bits.
    assert_eq!(notice[..2], ["STOPPING=1", "EXTEND_TIMEOUT_USEC=4294967295"]);
    client.say("RCPT TO:<buyer@example.org>").await;
    client.say("DATA").await;
    assert!(client.say("Subject: x\r\n\r\nx\r\n.").await.starts_with("250 "));
    assert_eq!(relay.end().0, 0);
    assert!(systemd.hears_nothing());
}

#[tokio::test]
async fn a_sign_of_life_comes_when_nothing_is_due_and_tells_how_it_goes() {
    let shop = Shop::new("", "");
    let systemd = Systemd::listen(&shop);
    let mut command = systemd.command(&shop);
    // A host that is away, so that a message is held.
    command.env("WATCHDOG_USEC", "100000").env("OPTOUT_RELAY_UPSTREAM__URL", "smtp://127.0.0.1:1");
    let relay = Process::start(&mut command);
    systemd.hears_that("READY=1");
    systemd.hears_that("WATCHDOG=1");
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    assert!(client.mail("shop@example.com", &["buyer@example.org"], "Subject: x\r\n\r\nx").await.starts_with("250 "));
    let told = "0 opt-outs in force, 1 message held, 1 session";
    let heard = std::iter::repeat_with(|| systemd.hears_that("WATCHDOG=1")).find(|state| state == told || state.is_empty());
    assert_eq!(heard.as_deref(), Some(told));
}

#[test]
fn a_watchdog_that_waits_for_another_process_hears_nothing() {
    let shop = Shop::new("", "");
    let systemd = Systemd::listen(&shop);
    let mut command = systemd.command(&shop);
    let relay = Process::start(command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1"));
    systemd.hears_that("READY=1");
    // The files are looked at twice, which takes longer than many signs of life.
    relay.signal("HUP");
    systemd.hears_that("RELOADING=1");
    systemd.hears_that("READY=1");
}

#[test]
fn where_nobody_listens_the_relay_runs_all_the_same() {
    let shop = Shop::new("", "");
    let mut command = shop.command(&["serve"]);
    command.env("NOTIFY_SOCKET", shop.path("nobody")).env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]");
    let mut relay = Process::start(&mut command);
    relay.says("systemd cannot be told how the relay is: ");
    relay.signal("TERM");
    assert_eq!(relay.end().0, 0);
}
