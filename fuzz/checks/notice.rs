//! Mail to be learned from: whatever comes, a notice is one of the marketplace's own and names somebody, and a buyer's mail is
//! none. Read by a reader of its own where it decides whose a mail is. Never learns.

use std::sync::LazyLock;

use optout_relay::learn::{Forwarded, Notice, Phrases, Seen, recognise, recognise_all};
use optout_relay::mail::{Address, PlusTags};

static PHRASES: LazyLock<Phrases> = LazyLock::new(Phrases::compiled);

const MARKETPLACES: [&str; 22] = [
    "com", "ca", "com.mx", "com.br", "co.uk", "de", "fr", "it", "es", "nl", "se", "pl", "com.be", "ie", "com.tr", "ae", "sa",
    "eg", "in", "sg", "co.jp", "com.au",
];

/// The most that is said of one mail, in bytes.
const MAX_SAID: usize = 2000;

/// The most that one mail may name.
const MAX_BUYERS: usize = 100;
const MAX_ORDERS: usize = 100;
const MAX_REPORTED: usize = 1000;

pub fn check(bytes: &[u8]) {
    let all = recognise_all(bytes, &PHRASES);
    assert!(all.contains(&recognise(bytes, &PHRASES)), "the first opt-out is one of all");
    for seen in &all {
        match seen {
            Seen::OptedOut(notice) => is_of_the_marketplace(notice, bytes),
            Seen::Report(report) => {
                assert!(report.recipients.len() <= MAX_REPORTED);
                for reported in &report.recipients {
                    is_clean(&reported.why);
                    assert!(!reported.address.domain().is_empty());
                }
            }
            Seen::OtherNotice(said) | Seen::Unknown(said) => is_clean(said),
        }
    }
    for kind in ["text/plain", "text/html", "multipart/mixed; boundary=b", "message/rfc822", "multipart/report; boundary=b"] {
        let from = |who: &str| [format!("From: {who}\r\nContent-Type: {kind}\r\n\r\n").as_bytes(), bytes].concat();
        let buyer = recognise_all(&from("Pat <k3jx81qd0vmz7yt@marketplace.amazon.it>"), &PHRASES);
        assert!(!buyer.iter().any(|seen| matches!(seen, Seen::OptedOut(_))), "a buyer is believed: {buyer:?}");
        for seen in recognise_all(&from("x@evil.example"), &PHRASES) {
            if let Seen::OptedOut(notice) = seen {
                assert_eq!(notice.forwarder.as_ref().map(Address::as_str), Some("x@evil.example"), "{notice:?}");
            }
        }
    }
}

fn is_of_the_marketplace(notice: &Notice, bytes: &[u8]) {
    assert!(!notice.addresses.is_empty() || !notice.orders.is_empty(), "it names somebody: {notice:?}");
    assert!(notice.addresses.len() <= MAX_BUYERS && notice.orders.len() <= MAX_ORDERS, "{notice:?}");
    for address in &notice.addresses {
        let domain = address.key(PlusTags::Ignore).domain.to_owned();
        assert!(MARKETPLACES.iter().any(|tld| domain == format!("marketplace.amazon.{tld}")), "{notice:?}");
    }
    let sender = notice.sender.as_str();
    let (_, domain) = sender.split_once('@').unwrap();
    assert!(MARKETPLACES.iter().any(|tld| domain.eq_ignore_ascii_case(&format!("amazon.{tld}"))), "{notice:?}");
    assert!(MARKETPLACES.iter().any(|tld| notice.marketplace == format!("amazon.{tld}")), "{notice:?}");
    assert_eq!(notice.forwarder.is_some(), notice.forwarded.is_some());
    assert!(notice.results.is_empty() || notice.forwarded.is_none(), "the forwarder vouches: {notice:?}");
    assert!(notice.message_id.is_none() || notice.forwarded != Some(Forwarded::Inline), "{notice:?}");
    is_clean(&notice.evidence.to_string());
    is_clean(notice.message_id.as_deref().unwrap_or_default());
    notice.results.iter().for_each(|result| is_clean(&result.authserv));
    if notice.forwarded.is_none() {
        assert_eq!(senders(bytes), [sender.to_ascii_lowercase()], "{notice:?}");
    }
}

/// What the From fields of a mail's own header name, slowly: everything between spaces and brackets that has an `@`.
fn senders(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            break;
        }
        inside = if line.starts_with([' ', '\t']) { inside } else { line.split(':').next().unwrap().trim() == "from" };
        if inside {
            let parts = line.split(|c: char| c.is_whitespace() || "<>()[]\",;:'".contains(c));
            found.extend(parts.filter(|part| part.contains('@')).map(str::to_owned));
        }
    }
    found.dedup();
    found
}

fn is_clean(text: &str) {
    assert!(text.len() <= MAX_SAID && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
}
