//! A spool as crashes, full disks, other programs and other clocks leave it: what is sound goes on, what is not is set
//! aside and told, and nothing else is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use optout_relay::mail::{Address, Client, Envelope, Id, Mail, Message, Outcome, ReversePath, Stage as At, Status, received};
use optout_relay::spool::{Form, Record};

use crate::held::{SHOP, id};
use crate::host::{Host, MODERN, Script, Stage, say};
use crate::process::{Process, Shop, told};
use crate::rig::{Logs, PATIENCE, Plan, Relay, eventually};

const QUICK: &str = "[delivery]\nretry_first = \"100ms\"\nretry_max = \"200ms\"\n";
const YEARS: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// A shop in whose spool messages are laid, as if a relay had held them.
struct Laid {
    shop: Shop,
    count: u64,
}

impl Laid {
    fn new(config: &str) -> Self {
        let laid = Self { shop: Shop::new(config, ""), count: 0 };
        fs::create_dir_all(laid.path("corrupt")).unwrap();
        laid
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shop.path("var/spool").join(name)
    }

    /// A sound message, but for what is done to its record.
    fn lay(&mut self, to: &[&str], change: impl FnOnce(&mut Record)) -> String {
        self.count += 1;
        let client = Client { helo: "tool.test".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let envelope = Envelope {
            id: Id::new(self.count, 7),
            client,
            sender: ReversePath::Address(Address::parse(SHOP).unwrap()),
            recipients: to.iter().map(|to| Address::parse(to).unwrap().into()).collect(),
            eight_bit: false,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        let (id, now) = (envelope.id.to_string(), Timestamp::now());
        let trace = received("relay.test", &envelope, now);
        let mail = Mail::new(envelope, trace, Message::from_wire("Subject: x\r\n\r\nx.....y\r\n".into()).unwrap());
        let mut record = Record::of(&mail, now);
        change(&mut record);
        fs::write(self.path(&format!("{id}.msg")), [&mail.trace[..], mail.message.wire()].concat()).unwrap();
        let ending = if record.in_flight() { "out" } else { "json" };
        fs::write(self.path(&format!("{id}.{ending}")), record.to_json()).unwrap();
        id
    }

    /// Changes one of a message's files.
    fn damage(&self, id: &str, ending: &str, change: impl FnOnce(String) -> String) {
        let path = self.path(&format!("{id}.{ending}"));
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts a relay, which sends all that is sound.
    async fn drain(&self, host: &Host) -> Process {
        let relay = self.shop.serve_to(&host.url());
        let held = |name: &String| [".json", ".out", ".new", ".msg"].iter().any(|ending| name.ends_with(ending));
        eventually("the spool is not empty", || !self.names("").iter().any(held)).await;
        relay
    }
}

fn to(host: &Host) -> Vec<String> {
    let mut to: Vec<_> = host.kept().iter().flat_map(|taken| taken.to().into_iter().map(str::to_owned)).collect();
    to.sort();
    to
}

#[tokio::test]
async fn what_is_damaged_is_set_aside_and_told_and_the_rest_is_delivered() {
    let (host, mut laid) = (Host::start(Script::new(MODERN)).await, Laid::new(""));
    let mut damaged = Vec::new();
    laid.lay(&["first@x.example"], |_| {});
    let mut lay = |laid: &mut Laid, ending: &str, change: fn(String) -> String| {
        let id = laid.lay(&["damaged@x.example"], |_| {});
        laid.damage(&id, ending, change);
        damaged.push(id);
    };
    lay(&mut laid, "json", |_| "no record".into());
    lay(&mut laid, "json", |_| String::new());
    lay(&mut laid, "json", |text| text.replace("\"version\":1", "\"version\":2"));
    lay(&mut laid, "json", |text| text.replace("damaged@", "dam aged@"));
    // That of another message.
    lay(&mut laid, "json", |text| text.replace("\"id\":\"0", "\"id\":\"1"));
    lay(&mut laid, "msg", |text| text[1..].into());
    lay(&mut laid, "msg", |text| text + "\r\n");
    lay(&mut laid, "msg", |text| text.replace("x\r\n", "xx\n"));
    // What the host would take for the end, and the rest for commands.
    lay(&mut laid, "msg", |text| text.replace("x.....y", "x\r\n.\r\ny"));
    lay(&mut laid, "json", |text| text.replace("\"trace\":", "\"trace\":9"));
    // Our own field has become two.
    lay(&mut laid, "msg", |text| text.replacen("\r\n\tby", "\r\nXby", 1));
    let (gone, linked) = (laid.lay(&["damaged@x.example"], |_| {}), laid.lay(&["damaged@x.example"], |_| {}));
    fs::remove_file(laid.path(&format!("{gone}.msg"))).unwrap();
    let (record, elsewhere) = (laid.path(&format!("{linked}.json")), laid.shop.path("elsewhere.json"));
    fs::rename(&record, &elsewhere).unwrap();
    symlink(&elsewhere, &record).unwrap();
    laid.lay(&["last@x.example"], |_| {});
    let mut relay = laid.drain(&host).await;
    assert_eq!(to(&host), ["first@x.example", "last@x.example"]);
    let both = |id: &String| [format!("{id}.json"), format!("{id}.msg")];
    let aside: Vec<_> = damaged.iter().flat_map(both).chain([format!("{gone}.json")]).chain(both(&linked)).collect();
    assert_eq!(laid.names("corrupt"), aside);
    assert!(elsewhere.exists());
    relay.stop();
    for id in damaged.iter().chain([&gone, &linked]) {
        assert_eq!(relay.count(&format!("ERROR held mail {id} is set aside in var/spool/corrupt: ")), 1, "{id}");
    }
    assert_eq!(relay.count("ERROR"), damaged.len() + 2);
}

#[tokio::test]
async fn what_was_never_promised_is_swept_away_and_what_is_foreign_stays() {
    let (host, mut laid) = (Host::start(Script::new(MODERN)).await, Laid::new(""));
    laid.lay(&["sound@x.example"], |_| {});
    for ending in ["json", "json.tmp"] {
        let id = laid.lay(&["orphan@x.example"], |_| {});
        fs::rename(laid.path(&format!("{id}.json")), laid.path(&format!("{id}.{ending}"))).unwrap();
        if ending == "json" {
            fs::remove_file(laid.path(&format!("{id}.json"))).unwrap();
        }
    }
    let foreign = ["notes.txt", "notes.json", "notes.msg", "notes.tmp", "0000000000000000.msg", "0000000000000000i.json"];
    for name in foreign {
        fs::write(laid.path(name), "foreign").unwrap();
    }
    for name in ["old.tmp", "old"] {
        fs::create_dir(laid.path(name)).unwrap();
    }
    let mut relay = laid.shop.serve_to(&host.url());
    eventually("it is not sent", || to(&host) == ["sound@x.example"]).await;
    relay.stop();
    let mut stays = [&foreign[..], &["old.tmp", "old", "lock", "requests", "corrupt"]].concat();
    stays.sort();
    assert_eq!(laid.names(""), stays);
    assert_eq!((relay.count("ERROR"), laid.names("corrupt")), (0, vec![]));
}

#[tokio::test]
async fn what_was_under_way_when_the_relay_ended_is_tried_again_and_told_once() {
    let later = || say("451 4.2.1 later");
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, [later(), later()])).await;
    let mut laid = Laid::new(QUICK);
    let has_it = |record: &mut Record| {
        record.form = Form::Out;
        record.note([(0, Outcome::Delivered(Status::new(At::Dot, 250, "2.0.0 taken")))]);
    };
    let id = laid.lay(&["a@x.example", "b@x.example", "c@x.example"], has_it);
    let mut relay = laid.drain(&host).await;
    assert_eq!(to(&host), ["b@x.example", "c@x.example"]);
    relay.stop();
    let warned: Vec<_> = relay.said.iter().filter(|line| line.contains("possible_duplicate=true")).collect();
    assert_eq!(warned.len(), 2, "{warned:?}");
    for (line, to) in warned.iter().zip(["b@x.example", "c@x.example"]) {
        assert!(line.contains(" WARN ") && line.contains(&format!("id={id} to={to} ")), "{line}");
    }
}

#[tokio::test]
async fn no_clock_makes_mail_old_or_puts_it_off() {
    let (host, mut laid) = (Host::start(Script::new(MODERN)).await, Laid::new(QUICK));
    laid.lay(&["next@x.example"], |record| record.next += YEARS);
    laid.lay(&["never@x.example"], |record| record.next = Timestamp::MAX);
    laid.lay(&["past@x.example"], |record| record.next = Timestamp::MIN);
    laid.lay(&["old@x.example"], |record| record.written -= YEARS);
    laid.lay(&["oldest@x.example"], |record| (record.written, record.arrived) = (Timestamp::MIN, Timestamp::MIN));
    laid.lay(&["future@x.example"], |record| record.written += YEARS);
    laid.lay(&["latest@x.example"], |record| (record.written, record.arrived) = (Timestamp::MAX, Timestamp::MAX));
    laid.lay(&["often@x.example"], |record| record.attempts = u32::MAX);
    laid.lay(&["waited@x.example"], |record| record.age = Duration::from_millis(u64::MAX));
    let mut relay = laid.drain(&host).await;
    let mut expected =
        ["next", "never", "past", "old", "oldest", "future", "latest", "often", "waited"].map(|name| format!("{name}@x.example"));
    expected.sort();
    assert_eq!(to(&host), expected);
    relay.stop();
    assert_eq!(relay.count("panicked"), 0);
}

/// The sender is told, but not before it was tried.
#[tokio::test]
async fn mail_that_seems_to_have_waited_for_ever_is_tried_once_more() {
    let host = Host::start(Script::new(MODERN).at(Stage::Rcpt, [say("451 4.2.1 later"), say("451 4.2.1 later")])).await;
    let mut laid = Laid::new(&format!("{QUICK}report_delay_after = \"0s\"\n"));
    laid.lay(&["waited@x.example"], |record| record.age = Duration::from_millis(u64::MAX));
    // A day of being switched off is no reason to give up.
    laid.lay(&["old@x.example"], |record| record.written -= YEARS);
    let mut relay = laid.drain(&host).await;
    assert_eq!(to(&host), ["old@x.example", SHOP]);
    let report = host.reports()[0].text();
    assert!(report.contains("rfc822;waited@x.example\r\n") && report.contains("last: later"), "{report}");
    relay.stop();
}

/// Whoever allows so many has them accepted, so what is written of them must be read again.
#[tokio::test]
async fn the_record_of_very_many_recipients_is_read_again() {
    let (host, mut laid) = (Host::away(Script::new(MODERN)), Laid::new(""));
    let to: Vec<_> = (0..30_000).map(|number| format!("{number}-{}@x.example", "x".repeat(150))).collect();
    laid.lay(&to.iter().map(String::as_str).collect::<Vec<_>>(), |_| {});
    let mut relay = laid.shop.serve_to(&host.url());
    relay.says("WARN the mail host is out of reach");
    relay.stop();
    assert_eq!((laid.names("corrupt"), relay.count("is set aside")), (vec![], 0));
}

/// Trouble with the disk passes; until then it is not asked all the time.
#[tokio::test]
async fn what_cannot_be_read_now_rests_also_when_its_sender_is_to_be_told() {
    let (host, logs) = (Host::away(Script::new(MODERN)), Logs::watch());
    let config = "[delivery]\nretry_first = \"1h\"\nretry_max = \"1h\"\nreport_delay_after = \"300ms\"\n";
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let answer = relay.client().await.mail(SHOP, &["a@x.example"], "Subject: x\r\n\r\nx").await;
    let record = relay.path("var/spool").join(id(&answer) + ".json");
    let text = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    // No file that can be opened, and not for good.
    let socket = UnixListener::bind(&record).unwrap();
    let troubles = || logs.lines(&["ERROR", "read held mail: ", "; it is tried again later", &id(&answer)]).len();
    eventually("nobody has noticed", || troubles() > 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(troubles(), 1);
    drop(socket);
    fs::remove_file(&record).unwrap();
    fs::write(&record, text).unwrap();
    host.arrive();
    relay.drain().await;
    assert_eq!(to(&host)[0], "a@x.example");
    assert!(relay.stop().await);
}

#[test]
fn a_link_is_no_spool() {
    let shop = Shop::new("", "");
    fs::create_dir_all(shop.path("var")).unwrap();
    fs::create_dir(shop.path("elsewhere")).unwrap();
    symlink(shop.path("elsewhere"), shop.path("var/spool")).unwrap();
    let mut relay = shop.command(&["serve"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while relay.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            relay.kill().unwrap();
            panic!("it runs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (code, out, talk) = told(relay.wait_with_output().unwrap());
    let hint = "hint: it must be a folder of its own, no link, that the relay's user may write\n";
    assert!(talk.starts_with("optout-relay: open the spool `var/spool`: ") && talk.ends_with(hint), "{talk}");
    assert_eq!((code, out.as_str()), (74, ""));
    assert_eq!(fs::read_dir(shop.path("elsewhere")).unwrap().count(), 0);
}
