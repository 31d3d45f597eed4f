//! Lists that change while the relay runs: every way to save one is noticed, no broken one weakens the last good one,
//! and mail under way is judged by the list of the moment in which it would leave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::{Process, Shop};
use crate::rig::{Client, PATIENCE, Plan, Relay};

const NOT_RELOADED: &str = "opt-out list not reloaded, the last good one stays in force: ";

/// A list of `count` addresses: `0@x.example` and so on; their number tells in the log which list is in force.
fn list(count: usize) -> String {
    (0..count).map(|at| format!("[[opt_out]]\naddress = \"{at}@x.example\"\n")).collect()
}

async fn client(relay: &Process) -> Client {
    let mut client = Client::connect(relay.address).await;
    client.expect("220 ").await;
    client.say("EHLO tool.test").await;
    client
}

/// Whether an address is in force now; in a transaction of its own.
async fn is_opted_out(relay: &Process, address: &str) -> bool {
    let mut client = client(relay).await;
    client.say("MAIL FROM:<shop@example.com>").await;
    client.say(&format!("RCPT TO:<{address}>")).await.starts_with("550 5.7.1 ")
}

/// Waits until the list with so many entries is in force, and nobody else.
async fn in_force(relay: &mut Process, count: usize) {
    relay.line(&format!("opt-out list reloaded entries={count} "));
    assert!(is_opted_out(relay, &format!("{}@x.example", count - 1)).await);
    assert!(!is_opted_out(relay, &format!("{count}@x.example")).await);
}

fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("toml~");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[tokio::test]
async fn every_way_to_save_a_list_is_noticed() {
    let shop = Shop::new("", &list(1));
    let path = shop.path("blacklist.toml");
    let mut relay = shop.serve();
    fs::write(&path, list(2)).unwrap();
    in_force(&mut relay, 2).await;
    rename_over(&path, &list(3));
    in_force(&mut relay, 3).await;
    fs::rename(&path, shop.path("blacklist.toml.bak")).unwrap();
    fs::write(&path, list(4)).unwrap();
    in_force(&mut relay, 4).await;
    fs::remove_file(&path).unwrap();
    relay.line(NOT_RELOADED);
    fs::write(&path, list(5)).unwrap();
    in_force(&mut relay, 5).await;
    // The same size and no newer than before, as after `cp -p` of another list.
    let text = list(5).replace("4@x", "5@x");
    let old = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, text).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    relay.line("opt-out list reloaded entries=5 ");
    assert!(is_opted_out(&relay, "5@x.example").await && !is_opted_out(&relay, "4@x.example").await);
    relay.stop();
}

#[tokio::test]
async fn a_link_that_is_swapped_is_noticed() {
    let shop = Shop::new("", "");
    let path = |name: &str| shop.path(name);
    for (folder, count) in [("..first", 1), ("..second", 2)] {
        fs::create_dir(path(folder)).unwrap();
        fs::write(path(folder).join("blacklist.toml"), list(count)).unwrap();
    }
    fs::remove_file(path("blacklist.toml")).unwrap();
    symlink("..first", path("..data")).unwrap();
    symlink("..data/blacklist.toml", path("blacklist.toml")).unwrap();
    let mut relay = shop.serve();
    assert!(is_opted_out(&relay, "0@x.example").await && !is_opted_out(&relay, "1@x.example").await);
    symlink("..second", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    in_force(&mut relay, 2).await;
    relay.stop();
}

#[tokio::test]
async fn a_broken_list_leaves_the_last_good_one_in_force() {
    let shop = Shop::new("[opt_out]\nlists = [\"blacklist.toml\", \"more.txt\"]\n", &list(2));
    fs::write(shop.path("more.txt"), "").unwrap();
    let path = shop.path("blacklist.toml");
    let mut relay = shop.serve();
    let whole = list(9);
    let half = &whole[..whole.len() - 20];
    for (at, (name, text, place)) in [
        ("blacklist.toml", half, "blacklist.toml:18:5: "),
        ("blacklist.toml", "addresses = [\n\"a@x.example\",\n\"info@\"]\n", "blacklist.toml:3:1: `info@` is not an address"),
        ("blacklist.toml", "adresses = []\n", "blacklist.toml:1:1: unknown key `adresses`"),
        ("blacklist.toml", "", "blacklist.toml: is empty, and had 5 entries"),
        ("more.txt", "1@y.example\nnobody\n", "more.txt:2: `nobody` is neither an address nor a domain"),
    ]
    .into_iter()
    .enumerate()
    {
        rename_over(&shop.path(name), text);
        let told = relay.line(NOT_RELOADED);
        assert!(told.contains(place), "{told}\nwants: {place}");
        relay.line("hint: ");
        assert!(is_opted_out(&relay, &format!("{}@x.example", at + 1)).await, "{name}: {text}");
        fs::write(shop.path("more.txt"), "").unwrap();
        rename_over(&path, &list(at + 3));
        in_force(&mut relay, at + 3).await;
    }
    relay.stop();
}

#[tokio::test]
async fn a_broken_list_is_told_once() {
    let shop = Shop::new("", &list(1));
    let mut relay = shop.serve();
    fs::remove_file(shop.path("blacklist.toml")).unwrap();
    let told = relay.line(NOT_RELOADED);
    assert!(told.contains("blacklist.toml: cannot be read: "), "{told}");
    relay.line("hint: ");
    // Some looks later.
    assert!(relay.is_silent(Duration::from_millis(700)), "{:?}", relay.said.last());
    assert!(is_opted_out(&relay, "0@x.example").await);
    relay.signal("HUP");
    relay.line(NOT_RELOADED);
    assert!(is_opted_out(&relay, "0@x.example").await);
    relay.stop();
}

#[tokio::test]
async fn a_list_that_lost_most_of_its_entries_is_refused() {
    let shop = Shop::new("", &list(200));
    let path = shop.path("blacklist.toml");
    let mut relay = shop.serve();
    for count in [99, 0] {
        rename_over(&path, &format!("# the rest is gone\n{}", list(count)));
        let told = relay.line(NOT_RELOADED);
        assert!(told.contains(&format!("blacklist.toml: would shrink from 200 to {count} entries")), "{told}");
        relay.line("hint: if that is meant, restart the relay, or raise `opt_out.max_shrink`");
        assert!(is_opted_out(&relay, "199@x.example").await);
    }
    relay.signal("HUP");
    relay.line(NOT_RELOADED);
    rename_over(&path, &list(100));
    in_force(&mut relay, 100).await;
    relay.stop();

    let shop = Shop::new("[opt_out]\nmax_shrink = 1\n", &list(200));
    let mut relay = shop.serve();
    rename_over(&shop.path("blacklist.toml"), &list(1));
    in_force(&mut relay, 1).await;
    relay.stop();
}

#[tokio::test]
async fn a_hangup_reloads_at_once() {
    let shop = Shop::new("", &list(1));
    let mut relay = shop.serve();
    relay.signal("HUP");
    in_force(&mut relay, 1).await;
    rename_over(&shop.path("blacklist.toml"), &list(2));
    relay.signal("HUP");
    in_force(&mut relay, 2).await;
    relay.stop();
}

#[tokio::test]
async fn a_control_reloads_too() {
    let relay = Relay::start(Plan { config: "", list: "", upstream: "" }).await;
    rename_over(&relay.path("blacklist.toml"), &list(1));
    relay.control.reload();
    let begun = Instant::now();
    loop {
        let mut client = relay.client().await;
        let reply = client.mail("shop@example.com", &["0@x.example"], "\r\nx").await;
        if reply.starts_with("550 5.7.1 ") || reply.starts_with("554 5.5.1 ") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{reply}");
    }
    assert!(relay.stop().await);
}

#[tokio::test]
async fn mail_under_way_is_judged_when_it_would_leave() {
    let shop = Shop::new("", &list(1));
    let mut relay = shop.serve();
    let mut alone = client(&relay).await;
    let mut among = client(&relay).await;
    for client in [&mut alone, &mut among] {
        client.say("MAIL FROM:<shop@example.com>").await;
        assert!(client.say("RCPT TO:<1@x.example>").await.starts_with("250 "));
    }
    assert!(among.say("RCPT TO:<in@x.example>").await.starts_with("250 "));
    rename_over(&shop.path("blacklist.toml"), &list(2));
    in_force(&mut relay, 2).await;
    for client in [&mut alone, &mut among] {
        client.send("DATA\r\n").await;
        client.expect("354 ").await;
    }
    let refused = alone.say("Message-ID: <alone@shop>\r\n\r\nx\r\n.").await;
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
    let taken = among.say("Message-ID: <among@shop>\r\n\r\nx\r\n.").await;
    assert!(taken.starts_with("250 2.0.0 "), "{taken}");
    relay.line("its sender gets a report");
    relay.line("written to the outbox");
    assert_eq!(shop.delivered(), [serde_json::json!(["in@x.example"]), serde_json::json!(["shop@example.com"])]);
    let logged: Vec<_> =
        shop.suppressed().iter().map(|event| format!("{} {}", event["recipient"], event["message_id"])).collect();
    let late = ["\"1@x.example\" \"alone@shop\"", "\"1@x.example\" \"among@shop\""];
    assert!(late.iter().all(|event| logged.iter().filter(|line| line == event).count() == 1), "{logged:?}");
    relay.stop();
}

#[tokio::test]
async fn who_is_taken_off_the_list_in_time_is_mailed() {
    let shop = Shop::new("[opt_out]\naction = \"drop\"\n", &list(2));
    let mut relay = shop.serve();
    let mut client = client(&relay).await;
    client.say("MAIL FROM:<shop@example.com>").await;
    assert!(client.say("RCPT TO:<1@x.example>").await.starts_with("250 "));
    rename_over(&shop.path("blacklist.toml"), &list(1));
    relay.line("opt-out list reloaded entries=1 ");
    client.send("DATA\r\n").await;
    client.expect("354 ").await;
    assert!(client.say("\r\nx\r\n.").await.starts_with("250 2.0.0 delivered"));
    assert_eq!(shop.delivered(), [serde_json::json!(["1@x.example"])]);
    assert!(shop.suppressed().is_empty());
    relay.stop();
}

/// A program that writes a list anew begins with less than there was. Nobody on it may be mailed meanwhile, also where a
/// reload is asked for.
#[tokio::test]
async fn a_list_that_is_being_written_does_not_come_into_force() {
    let relay = Relay::start(Plan { config: "", list: &list(100), upstream: "" }).await;
    let path = relay.path("blacklist.toml");
    for count in 60..100 {
        fs::write(&path, list(count)).unwrap();
        relay.control.reload();
        let mut client = relay.client().await;
        assert!(client.mail("shop@example.com", &["99@x.example"], "").await.starts_with("550"), "{count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::write(&path, list(100)).unwrap();
    assert!(relay.outbox().is_empty());
    assert!(relay.stop().await);
}
