//! The chain of the logs: what a relay wrote is unbroken over restarts and rotation, and whatever is cut, changed or moved in it
//! is found, at its place.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use optout_relay::ledger::{self, Broken, Verified};

use crate::process::Shop;
use crate::rig::Client;

const LIST: &str = "addresses = [\"out@example.com\"]\n";

fn verified(log: &Path) -> Verified {
    ledger::verify(log, "suppressed", None, &AtomicU64::new(0)).unwrap()
}

async fn suppress(address: std::net::SocketAddr, count: usize) {
    let mut client = Client::connect(address).await;
    client.expect("220 ").await;
    for _ in 0..count {
        assert!(client.mail("shop@example.com", &["out@example.com"], "x").await.starts_with("550"));
    }
    client.say("QUIT").await;
}

/// A log of some files, as a relay leaves it.
async fn written() -> Shop {
    let config = "[log]\nrotate_size = \"8KiB\"\n[upstream]\nurl = \"file:outbox\"\n";
    let shop = Shop::new(config, LIST);
    for _ in 0..2 {
        let mut relay = shop.serve();
        suppress(relay.address, 25).await;
        relay.stop();
    }
    shop
}

/// The files of the log, the one in use last.
fn files(log: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with("suppressed") && name.ends_with(".jsonl")
    });
    files.sort();
    files
}

#[tokio::test]
async fn what_a_relay_writes_is_unbroken_and_the_command_says_so() {
    let shop = written().await;
    let log = shop.path("var/log");
    let found = verified(&log);
    assert!(found.broken.is_none() && found.records == 50 && found.first == 1 && found.files > 2, "{found:?}");
    let (code, out, talk) = shop.run(&["log", "verify"]);
    assert_eq!((code, talk.as_str()), (0, ""), "{out}");
    assert!(out.contains(&format!("suppressed: unbroken, 50 records in {} files", found.files)), "{out}");
    let noted = found.newest.to_string();
    assert!(out.contains(&noted), "{out}");
    let (code, out, _) = shop.run(&["log", "verify", "--noted", &noted, "--json"]);
    let first: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert!(code == 0 && first["noted"] == true && first["unbroken"] == true, "{out}");
    let (code, _, talk) = shop.run(&["log", "verify", "--noted", &noted.replace("50:", "49:")]);
    assert!(code == 1 && talk.contains("record 49 as it was noted is in no log"), "{talk}");
    // As a logrotate of the machine would do it.
    let old = files(&log).remove(0);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, &std::fs::read(&old).unwrap()).unwrap();
    std::fs::write(log.join("suppressed.jsonl.1.gz"), packed.finish().unwrap()).unwrap();
    std::fs::remove_file(&old).unwrap();
    assert!(verified(&log).broken.is_none());
    let (code, out, talk) = shop.run(&["log", "--address", "OUT+1@example.com"]);
    assert_eq!((code, out.lines().count(), talk.as_str()), (0, 50, ""), "{out}");
}

#[tokio::test]
async fn a_thousand_changes_are_found() {
    let shop = written().await;
    let log = shop.path("var/log");
    let files = files(&log);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    // A generator of numbers, so that what fails can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut any = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut tried, mut missed) = (0, Vec::new());
    while tried < 1000 {
        let at = any(files.len());
        let mut text = whole[at].clone();
        let what = match tried % 4 {
            0 => {
                let byte = any(text.len());
                text[byte] ^= 1 << any(8);
                format!("byte {byte} changed")
            }
            1 => {
                let (from, length) = (any(text.len()), 1 + any(900));
                let to = (from + length).min(text.len());
                text.drain(from..to);
                format!("bytes {from} to {to} cut")
            }
            2 => {
                let mut lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let cut = any(lines.len());
                lines.remove(cut);
                text = lines.concat();
                format!("line {cut} cut")
            }
            _ => {
                let mut lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let (a, b) = (any(lines.len()), any(lines.len()));
                if a == b {
                    continue;
                }
                lines.swap(a, b);
                text = lines.concat();
                format!("lines {a} and {b} swapped")
            }
        };
        tried += 1;
        std::fs::write(&files[at], &text).unwrap();
        if verified(&log).broken.is_none() && verified(&log).first == 1 {
            missed.push(format!("{}: {what}", files[at].display()));
        }
        std::fs::write(&files[at], &whole[at]).unwrap();
    }
    assert!(verified(&log).broken.is_none(), "what was put back is whole");
    assert!(missed.is_empty(), "{} of {tried} not found: {missed:#?}", missed.len());
}

#[tokio::test]
async fn lines_that_were_cut_stay_missing_when_the_relay_goes_on() {
    let shop = Shop::new("[upstream]\nurl = \"file:outbox\"\n", LIST);
    let mut relay = shop.serve();
    suppress(relay.address, 3).await;
    relay.stop();
    let log = shop.path("var/log");
    let text = shop.read("var/log/suppressed.jsonl");
    let kept: String = text.split_inclusive('\n').take(2).collect();
    std::fs::write(log.join("suppressed.jsonl"), &kept).unwrap();
    assert_eq!(verified(&log).broken.unwrap().broken, Broken::CutOff { last: 2, known: 3 });
    let mut relay = shop.serve();
    assert!(relay.said.iter().any(|line| line.contains("ends at record 2, and 3 were written")), "{:?}", relay.said);
    suppress(relay.address, 1).await;
    relay.stop();
    let place = verified(&log).broken.unwrap();
    assert_eq!((place.line, place.broken), (3, Broken::Missing { expected: 3, found: 4 }));
    let (code, out, _) = shop.run(&["log", "verify"]);
    assert!(code == 65 && out.contains("suppressed.jsonl:3: record 3 is missing before record 4"), "{out}");
}

#[tokio::test]
async fn a_killed_relay_goes_on_in_the_chain() {
    let shop = Shop::new("[upstream]\nurl = \"file:outbox\"\n", LIST);
    for _ in 0..4 {
        let mut relay = shop.serve();
        suppress(relay.address, 3).await;
        let mut client = Client::connect(relay.address).await;
        client.expect("220 ").await;
        assert!(client.mail("shop@example.com", &["in@example.com"], "x").await.starts_with("250"));
        relay.die("KILL");
    }
    let log = shop.path("var/log");
    let found = verified(&log);
    assert!(found.broken.is_none() && found.records == 12, "{found:?}");
    assert!(ledger::verify(&log, "sent", None, &AtomicU64::new(0)).unwrap().broken.is_none());
}

#[tokio::test]
async fn without_its_head_a_log_may_have_lost_its_end() {
    let shop = written().await;
    let head = shop.path("var/log/suppressed.head");
    for gone in [true, false] {
        if gone {
            std::fs::remove_file(&head).unwrap()
        } else {
            std::fs::write(&head, "no head").unwrap()
        }
        let (code, out, _) = shop.run(&["log", "verify", "--log", "suppressed"]);
        let told = "  whether newer ones were cut cannot be told: suppressed.head is not there, or damaged\n";
        assert!(code == 0 && out.ends_with(told), "{out}");
    }
}
