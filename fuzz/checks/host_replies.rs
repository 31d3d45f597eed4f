//! What a mail host says: however odd its bytes and however they come, what the dialogue goes on with is whole and clean, and
//! so is what the tool hears of it. Never opens a socket.

use optout_relay::mail::{Stage, Status};
use optout_relay::smtp::Reply;
use optout_relay::upstream::{Offer, Replies, Secret};

/// More is never read at once.
const ROOM: usize = 2048;

/// All that a host says on one connection.
pub fn check(bytes: &[u8]) {
    let replies = cut(bytes, ROOM);
    if bytes.len() < 60 << 10 {
        assert_eq!(replies, cut(bytes, 1), "byte by byte");
        assert_eq!(replies.len(), reference(bytes).len(), "{replies:?}");
    }
    for (reply, lines) in replies.iter().zip(reference(bytes)) {
        is_clean(reply, &lines);
        offer(reply);
        said(reply);
    }
    hidden(&String::from_utf8_lossy(bytes));
}

/// Until one does not end.
fn cut(bytes: &[u8], room: usize) -> Vec<String> {
    let (mut replies, mut cut) = (Replies::default(), Vec::new());
    for piece in bytes.chunks(room) {
        replies.put(piece);
        loop {
            match replies.cut() {
                Ok(Some(reply)) => cut.push(String::from_utf8(reply.to_vec()).unwrap()),
                Ok(None) => break,
                Err(_) => return cut,
            }
        }
    }
    cut
}

/// The lines of each reply, by the fourth byte of each (RFC 5321 4.2.1); a line may end as it likes.
pub fn reference(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let (mut replies, mut lines) = (Vec::new(), Vec::new());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
        if lines[lines.len() - 1].get(3) != Some(&b'-') {
            replies.push(std::mem::take(&mut lines));
        }
    }
    replies
}

fn is_clean(reply: &str, came: &[&[u8]]) {
    let lines: Vec<_> = reply.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    assert_eq!(lines.len(), came.len(), "{reply:?}");
    for (at, (line, came)) in lines.iter().zip(came).enumerate() {
        let (mark, printable) = (if at + 1 == lines.len() { ' ' } else { '-' }, |byte: u8| matches!(byte, b' '..=b'~'));
        assert!(line.len() >= 2 && line.len() <= 910 && line.bytes().all(printable), "{line:?}");
        let (code, text) = line.split_once(mark).unwrap();
        // A line without a word would make lettre fall over.
        assert!(code.len() <= 3 && !text.trim().is_empty(), "{line:?}");
        if let [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', _, ..] = came {
            assert!(code.as_bytes()[0] == came[0] && code.as_bytes()[1] < b'6', "{line:?} of {came:?}");
            let whole = came.len() <= 900
                && came[4.min(came.len())..].iter().any(|byte| *byte != b' ')
                && came.iter().all(|byte| printable(*byte));
            assert!(!whole || text.as_bytes() == &came[4..], "{line:?} of {came:?}");
        } else {
            // lettre takes it for no reply, and neither do we.
            assert!(code == "???" || came.len() < 4, "{line:?} of {came:?}");
        }
    }
}

/// A keyword counts where it begins a line behind the first, in any case.
fn offer(reply: &str) {
    let offer = Offer::parse(reply);
    assert_eq!(offer, Offer::parse(&reply.to_ascii_uppercase()));
    let keyword =
        |line: &str| line.get(4..).unwrap_or_default().split([' ', '=']).next().unwrap_or_default().to_ascii_uppercase();
    let offers = |word: &str| reply.lines().skip(1).any(|line| keyword(line) == word);
    let told = [
        (offer.pipelining, "PIPELINING"),
        (offer.eight_bit, "8BITMIME"),
        (offer.smtputf8, "SMTPUTF8"),
        (offer.dsn, "DSN"),
        (offer.starttls, "STARTTLS"),
        (offer.size.is_some(), "SIZE"),
    ];
    for (told, word) in told {
        assert_eq!(told, offers(word), "{word} in {reply:?}");
    }
    assert!(offers("AUTH") || !(offer.auth_plain || offer.auth_login), "{reply:?}");
}

/// What becomes of it in a log, in a report and in the tool's ears.
fn said(reply: &str) {
    let text = reply.lines().filter_map(|line| line.get(4..)).collect::<Vec<_>>().join(" ");
    let code = reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or(451);
    let status = Status::said(Stage::Recipient, code, &text);
    assert!(status.text.len() <= 400 && status.text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{status:?}");
    assert!(u16::from(status.enhanced.0) == code / 100 && status.enhanced.1 < 1000 && status.enhanced.2 < 1000, "{status:?}");
    let mut wire = Vec::new();
    Reply::refused(&status).write_to(&mut wire);
    let wire = String::from_utf8(wire).unwrap();
    let line = wire.strip_suffix("\r\n").unwrap();
    assert!(line.len() <= 510 && line.starts_with(&format!("{code} {}.", code / 100)), "{line:?}");
    assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
}

/// A host that repeats our password is not repeated.
fn hidden(text: &str) {
    let secret = Secret::new("seller".into(), "Hunter2+Fox".into());
    let (hidden, bare) = (secret.hide(text), |text: &str| text.replace(' ', "").to_ascii_lowercase());
    // The password, behind `\0seller\0` in base64.
    let traces = ["hunter2+fox", "AHNlbGxlcgBIdW50ZXIyK0ZveA", "SHVudGVyMitGb3g"];
    for trace in traces {
        assert!(!bare(&hidden).contains(&bare(trace)), "{hidden:?}");
    }
    assert_eq!(secret.hide(&hidden), hidden);
    if hidden == text {
        return;
    }
    assert!(hidden.contains("***"), "{hidden:?}");
}
