//! A mail taken apart: the fields of its header, its texts decoded, the mails that are attached to it. Capped in depth, number
//! and size, so that no mail takes long or much, and never panics. Never decides what the mail is.
//!
//! Not taken apart by mail-parser, which nests as deep as a mail does, and falls with it; its decoders are used.

mod head;
mod html;
mod transfer;
mod words;

use std::borrow::Cow;
use std::iter;

use memchr::memmem;

pub(super) use head::{Head, date, mailboxes, one_mailbox, sole_mailbox};

use head::Kind;
use transfer::Encoding;

/// Bytes of a mail that are looked at; the rest is as if it were not there.
pub const MAX_MAIL: usize = 64 << 20;

/// How deep multiparts and attached mails may nest.
const MAX_DEPTH: usize = 10;

/// Parts of a mail, those of attached mails among them.
const MAX_PARTS: usize = 1000;

/// Bytes of text of one part, decoded.
const MAX_TEXT: usize = 512 << 10;

/// Bytes that all parts of a mail may come to, decoded.
const MAX_DECODED: usize = 4 << 20;

/// A mail, or one that is attached to another.
#[derive(Debug, Default)]
pub struct Letter {
    /// Its header.
    pub head: Head,
    /// What is there to be read, in order; the forms of one text one by one.
    pub texts: Vec<Text>,
    /// Mails that it brings along, each as if it stood alone.
    pub attached: Vec<Letter>,
    /// What machines say to machines.
    pub papers: Vec<Paper>,
    /// Something was too large, too deep or too much, and is not here.
    pub cut: bool,
}

/// Text to be read, without markup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Line by line.
    pub text: String,
    /// The targets of links that write a mail, and where in the text they stand, in order.
    pub links: Vec<(usize, String)>,
}

/// A part of a report (RFC 6522).
#[derive(Debug)]
pub struct Paper {
    /// What is reported in it.
    pub kind: PaperKind,
    /// Its content.
    pub text: String,
}

/// The kinds of such parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaperKind {
    /// `message/delivery-status` (RFC 3464 2), or its sister for addresses with letters (RFC 6533).
    DeliveryStatus,
    /// `message/feedback-report` (RFC 5965 3).
    Feedback,
    /// The header of the mail that is reported about.
    Headers,
}

impl Letter {
    /// Takes a mail apart. Never fails: what cannot be read is not there.
    pub fn read(mail: &[u8]) -> Self {
        let mut budget = Budget { parts: MAX_PARTS, bytes: MAX_DECODED };
        let whole = mail.len() <= MAX_MAIL;
        let mut letter = Self::within(&mail[..mail.len().min(MAX_MAIL)], 0, &mut budget);
        letter.cut |= !whole;
        letter
    }

    fn within(mail: &[u8], depth: usize, budget: &mut Budget) -> Self {
        let mail = mail.strip_prefix(b"\xef\xbb\xbf").unwrap_or(mail);
        let (head, body) = Head::read(mail);
        let kind = Kind::of(&head, false);
        let mut letter = Self { cut: head.cut, ..Self::default() };
        if !head.cut {
            letter.add(&kind, body, depth, budget);
        }
        Self { head, ..letter }
    }

    fn add(&mut self, kind: &Kind, body: &[u8], depth: usize, budget: &mut Budget) {
        if depth >= MAX_DEPTH || budget.parts == 0 {
            self.cut = true;
            return;
        }
        budget.parts -= 1;
        match (&*kind.main, &*kind.sub) {
            ("multipart", sub) => {
                for part in parts(body, &kind.boundary) {
                    if budget.parts == 0 {
                        self.cut = true;
                        break;
                    }
                    let (head, body) = Head::read(part);
                    self.add(&Kind::of(&head, sub == "digest"), body, depth + 1, budget);
                }
            }
            ("message", "rfc822" | "global") => self.attach(kind, body, depth, budget),
            ("message", "delivery-status" | "global-delivery-status") => self.file(PaperKind::DeliveryStatus, kind, body, budget),
            ("message", "feedback-report") => self.file(PaperKind::Feedback, kind, body, budget),
            ("text", "rfc822-headers") | ("message", "global-headers") => self.file(PaperKind::Headers, kind, body, budget),
            _ if kind.is_mail_file() => self.attach(kind, body, depth, budget),
            ("text", sub @ ("plain" | "html")) if !kind.attached => {
                let text = self.text(kind, body, budget);
                self.texts.push(if sub == "html" { html::read(&text) } else { Text { text, links: Vec::new() } });
            }
            _ => {}
        }
    }

    fn attach(&mut self, kind: &Kind, body: &[u8], depth: usize, budget: &mut Budget) {
        // What stands there as it is takes no room of its own.
        let mail = match kind.encoding {
            Encoding::Plain => Cow::Borrowed(body),
            _ => self.decode(kind, body, MAX_DECODED, budget),
        };
        self.attached.push(Self::within(&mail, depth + 1, budget));
    }

    fn file(&mut self, paper: PaperKind, kind: &Kind, body: &[u8], budget: &mut Budget) {
        let text = self.text(kind, body, budget);
        self.papers.push(Paper { kind: paper, text });
    }

    fn text(&mut self, kind: &Kind, body: &[u8], budget: &mut Budget) -> String {
        let bytes = self.decode(kind, body, MAX_TEXT, budget);
        transfer::letters(&bytes, &kind.charset).replace('\r', "")
    }

    fn decode<'a>(&mut self, kind: &Kind, body: &'a [u8], cap: usize, budget: &mut Budget) -> Cow<'a, [u8]> {
        let room = cap.min(budget.bytes);
        let decoded = transfer::decode(kind.encoding, body, room);
        budget.bytes -= decoded.len();
        self.cut |= decoded.len() == room;
        decoded
    }
}

/// What may still be taken.
struct Budget {
    parts: usize,
    bytes: usize,
}

/// The parts of a multipart body (RFC 2046 5.1.1), without what stands before the first and behind the last.
fn parts<'a>(body: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = format!("--{boundary}");
    let mut at = (!boundary.is_empty()).then(|| next_delimiter(body, 0, delimiter.as_bytes())).flatten();
    iter::from_fn(move || {
        let Delimiter { end, last, .. } = at.take()?;
        if last {
            return None;
        }
        at = next_delimiter(body, end, delimiter.as_bytes());
        let until = at.as_ref().map_or(body.len(), |next| next.start);
        body.get(end..until)
    })
}

/// A line that parts two parts.
struct Delimiter {
    /// Where the part before it ends.
    start: usize,
    /// Where the part behind it begins.
    end: usize,
    /// There is no part behind it.
    last: bool,
}

fn next_delimiter(body: &[u8], from: usize, delimiter: &[u8]) -> Option<Delimiter> {
    let begins_line = |at: &usize| *at == 0 || body[at - 1] == b'\n';
    memmem::find_iter(&body[from..], delimiter).map(|found| from + found).filter(begins_line).find_map(|at| {
        let (before, behind) = (&body[..at], &body[at + delimiter.len()..]);
        let line = &behind[..memchr::memchr(b'\n', behind).unwrap_or(behind.len())];
        let last = line.starts_with(b"--");
        let end = body.len() - behind.len() + (line.len() + 1).min(behind.len());
        let line_end = if before.ends_with(b"\r\n") { 2 } else { before.len().min(1) };
        (last || line.trim_ascii().is_empty()).then_some(Delimiter { start: (at - line_end).max(from), end, last })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<'a>(letter: &'a Letter, found: &mut Vec<&'a Letter>) {
        found.push(letter);
        letter.attached.iter().for_each(|attached| all(attached, found));
    }

    fn depth(letter: &Letter) -> usize {
        1 + letter.attached.iter().map(depth).max().unwrap_or(0)
    }

    #[test]
    fn no_mail_is_deeper_or_larger_than_is_good() {
        let mails = Letter::read("Content-Type: message/rfc822\n\n".repeat(50_000).as_bytes());
        assert_eq!((depth(&mails), mails.attached[0].head.cut), (MAX_DEPTH + 1, false));

        let part = format!("--b\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n{}\n", "QUJD".repeat(1 << 18));
        let large = Letter::read(format!("Content-Type: multipart/mixed; boundary=b\n\n{}", part.repeat(20)).as_bytes());
        let sizes: Vec<_> = large.texts.iter().map(|text| text.text.len()).collect();
        assert!(large.cut && sizes.iter().all(|size| *size <= MAX_TEXT), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), MAX_DECODED);

        let many =
            Letter::read(format!("Content-Type: multipart/digest; boundary=b\n\n{}", "--b\n\nA: b\n\n".repeat(5000)).as_bytes());
        let mut letters = Vec::new();
        all(&many, &mut letters);
        // Each of them is a part, and so is its text.
        assert_eq!((many.cut, letters.len()), (true, 1 + MAX_PARTS / 2));
    }

    #[test]
    fn parts_end_where_their_boundary_says() {
        let found = |body: &'static str, boundary| {
            parts(body.as_bytes(), boundary).map(|part| std::str::from_utf8(part).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found("x\r\n--b\r\n1\r\n--b \r\n2\r\n--b--\r\n3\r\n--b\r\n4", "b"), ["1", "2"]);
        assert_eq!(found("--b\n1\n--bc\n2\n--b\n\n--b", "b"), ["1\n--bc\n2", "", ""]);
        assert_eq!(found("--b\n--b\n--b--", "b"), ["", ""]);
        assert_eq!(found("x --b\n1\n--b--", "b"), [""; 0]);
        assert_eq!(found("--\n1\n----\n", ""), [""; 0]);
        assert_eq!(found("--b\n1", "b"), ["1"]);
    }

    #[test]
    fn what_is_read_of_a_page_is_what_a_person_sees() {
        for (page, text, links) in [
            ("<p>a</p><p>b  c</p>\n d", "a\nb c\nd", &[][..]),
            ("a<wbr>b<b>c</b><span>d</span>", "abcd", &[]),
            ("<tr><td>a</td><td>b@c</td></tr>", "a b@c", &[]),
            ("<title>t</title><style>s</style><!-- c -->x<script>'</b>'</script>y", "xy", &[]),
            ("<head><meta>h<body>x", "x", &[]),
            ("<pre>a\n b</pre>c\nd", "a\nb\nc d", &[]),
            ("x <a href='MAILTO:a&#64;b?c'>y</a>", "x y", &[(1, "a@b?c")]),
            ("<a href=https://x>y</a><a href=\"mailto:z", "y", &[]),
            ("&lt;p&gt;&eacute;&#8217;&amp", "<p>é’&", &[]),
        ] {
            let found = html::read(page);
            let found_links: Vec<_> = found.links.iter().map(|(at, link)| (*at, link.as_str())).collect();
            assert_eq!((found.text.trim_end(), &found_links[..]), (text, links), "{page}");
        }
    }

    #[test]
    fn encoded_words_are_decoded_as_they_were_meant() {
        for (value, text) in [
            ("=?utf-8?q?a=C3?= =?UTF-8?b?qWI=?= c", "aéb c"),
            ("=?utf-8?Q?a_b?=  =?iso-8859-1?Q?=E9?=", "a bé"),
            ("x =?utf-8?Q?a?= y =?utf-8*de?Q?b?=", "x a y b"),
            ("=?iso-2022-jp?B?GyRCOVgbKEI=?=\t=?iso-2022-jp?B?GyRCRn4bKEI=?=", "購入"),
            ("\u{1b}$B9XF~\u{1b}(B", "購入"),
            ("=?utf-8?x?a?= =?utf-8?Q?a", "=?utf-8?x?a?= =?utf-8?Q?a"),
            ("=?=?utf-8?Q?a?=", "=?a"),
            ("=??Q?a?= =?utf-8?B?*?=", "=??Q?a?= =?utf-8?B?*?="),
        ] {
            assert_eq!(words::decoded_words(value), text, "{value}");
        }
    }

    #[test]
    fn a_sender_is_one_mailbox_and_no_doubt_about_it() {
        for (value, mailbox) in [
            ("a@b.example", Some("a@b.example")),
            ("\"A, B: c;\" <a@b.example>", Some("a@b.example")),
            ("a@b.example (A)", Some("a@b.example")),
            ("<a@b.example>, <a@b.example>", None),
            ("<a@b.example> <a@b.example>", None),
            ("G: a@b.example;", None),
            ("a@b.example <c@b.example>", None),
            ("\"a@b.example\" <c@b.example>", None),
            ("(a@b.example) c@b.example", None),
            ("\"\\\"\" <c@b.example>", Some("c@b.example")),
            ("\"x <c@b.example>", None),
            ("<@x.example:a@b.example>", None),
            ("a@b.example\u{0}", None),
            ("nobody", None),
        ] {
            assert_eq!(sole_mailbox(value).as_ref().map(crate::mail::Address::as_str), mailbox, "{value}");
        }
    }
}
