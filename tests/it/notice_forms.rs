//! Notices in every form that mail takes, made here: each language in each of its character sets, encoded and broken in every
//! way, alone and in parts, forwarded; and mails that were built to be deep, endless or slow.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoding_rs::Encoding;
use optout_relay::learn::{Forwarded, Notice, Phrases, Seen, recognise, recognise_all};

const BUYER: &str = "k3jx81qd0vmz7yt@marketplace.amazon.it";
const ORDER: &str = "405-1234567-7654321";

/// A language, its character sets, and what it says.
const LANGUAGES: [(&str, &[&str], &str, &str); 4] = [
    (
        "en",
        &["us-ascii", "utf-8", "iso-8859-15", "windows-1252", "utf-16"],
        "Your message could not be delivered",
        "The buyer of [405-1234567-7654321] has chosen to opt out of receiving unsolicited messages.",
    ),
    (
        "it",
        &["utf-8", "iso-8859-1", "windows-1252"],
        "Il tuo messaggio non è stato consegnato",
        "L'acquirente di [405-1234567-7654321] ha scelto di non ricevere messaggi non richiesti.",
    ),
    (
        "fr",
        &["utf-8", "iso-8859-1", "windows-1252"],
        "Votre message n’a pas pu être transmis",
        "L'acheteur de [405-1234567-7654321] a choisi de ne pas recevoir de messages non sollicités.",
    ),
    (
        "ja",
        &["utf-8", "iso-2022-jp", "shift_jis", "euc-jp"],
        "購入者へのメッセージを送信できませんでした",
        "[405-1234567-7654321] の購入者は未承諾広告メールを受信しないように設定しているためです。",
    ),
];

fn encoded(text: &str, charset: &str) -> Vec<u8> {
    match charset {
        "us-ascii" => text.as_bytes().to_vec(),
        // The standard for the web writes it as UTF-8.
        "utf-16" => [0xfe, 0xff].into_iter().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect(),
        // Its apostrophe is no letter of Latin 1.
        "iso-8859-1" => encoded(&text.replace('’', "'"), "windows-1252"),
        charset => Encoding::for_label(charset.as_bytes()).unwrap().encode(text).0.into_owned(),
    }
}

fn quoted_printable(bytes: &[u8], width: usize) -> String {
    let (mut text, mut line) = (String::new(), 0);
    for byte in bytes {
        let token = match byte {
            b'=' | 0..=32 | 127.. => format!("={byte:02X}"),
            byte => char::from(*byte).to_string(),
        };
        if line + token.len() >= width {
            text.push_str("=\r\n");
            line = 0;
        }
        line += token.len();
        text.push_str(&token);
    }
    text
}

fn base64(bytes: &[u8], width: usize) -> String {
    let text = STANDARD.encode(bytes);
    text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\r\n")
}

/// A part with its fields.
fn part(kind: &str, charset: &str, text: &str, encoding: &str, width: usize) -> String {
    let bytes = encoded(text, charset);
    let content = match encoding {
        "base64" => base64(&bytes, width),
        _ => quoted_printable(&bytes, width),
    };
    format!("Content-Type: {kind}; charset=\"{charset}\"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{content}\r\n")
}

fn multipart(kind: &str, boundary: &str, parts: &[String]) -> String {
    let parts: String = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect();
    format!(
        "Content-Type: multipart/{kind};\r\n\tboundary=\"{boundary}\"\r\n\r\npreamble\r\n{parts}--{boundary}--\r\nepilogue\r\n"
    )
}

/// Encoded words of so many bytes, parted wherever that is, also within a letter.
fn words(text: &str, charset: &str, size: usize, kind: char) -> String {
    if charset == "us-ascii" {
        return text.to_owned();
    }
    let bytes = encoded(text, charset);
    // A character set that switches does so within a word.
    let size = if matches!(charset, "iso-2022-jp" | "utf-16") { bytes.len() } else { size };
    let word = |bytes: &[u8]| match kind {
        'B' => format!("=?{charset}?B?{}?=", STANDARD.encode(bytes)),
        _ => format!("=?{charset}?Q?{}?=", bytes.iter().map(|byte| format!("={byte:02X}")).collect::<String>()),
    };
    bytes.chunks(size).map(word).collect::<Vec<_>>().join("\r\n ")
}

fn mail(subject: &str, body: &str) -> String {
    format!(
        "From: \"Amazon\" <auto-communication@amazon.it>\r\nTo: seller@shop.example\r\nSubject: {subject}\r\n\
         Message-ID: <1@x.test>\r\nMIME-Version: 1.0\r\n{body}"
    )
}

fn page(text: &str) -> String {
    format!("<html><body><p>{text}</p><p><a href=\"mailto:{BUYER}?subject=x\">.</a></p></body></html>")
}

fn opted_out(mail: &str, about: &str) -> Notice {
    match recognise(mail.as_bytes(), &Phrases::compiled()) {
        Seen::OptedOut(notice) => notice,
        other => panic!("{about}: {other:?}\n{mail}"),
    }
}

#[test]
fn every_language_is_read_in_every_character_set_and_structure() {
    let mut seen = 0;
    for (language, charsets, subject, text) in LANGUAGES {
        for (charset, encoding) in charsets.iter().flat_map(|charset| [(*charset, "quoted-printable"), (*charset, "base64")]) {
            let html = part("text/html", charset, &page(text), encoding, 60);
            let plain = part("text/plain", charset, &format!("{text}\n\nmailto:{BUYER}?subject=x\n"), encoding, 60);
            let bodies = [
                html.clone(),
                plain.clone(),
                multipart("alternative", "=_a", std::slice::from_ref(&html)),
                multipart("alternative", "=_a", &[plain, html.clone()]),
                multipart("mixed", "=_m", &[multipart("related", "=_m2", &[multipart("alternative", "=_m22", &[html])])]),
            ];
            for (body, (size, kind)) in bodies.iter().zip([(7, 'B'), (10, 'Q'), (30, 'B'), (1, 'Q'), (400, 'B')]) {
                let about = format!("{language} in {charset}, {encoding}");
                let notice = opted_out(&mail(&words(subject, charset, size, kind), body), &about);
                assert_eq!(notice.addresses[0].as_str(), BUYER, "{about}");
                assert_eq!((notice.addresses.len(), notice.orders[0].to_string().as_str()), (1, ORDER), "{about}");
                assert!(notice.evidence.to_string().contains(language), "{about}: {}", notice.evidence);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 150);
}

#[test]
fn a_line_may_be_broken_anywhere() {
    let (_, _, subject, text) = LANGUAGES[1];
    for width in 5..120 {
        let html = part("text/html", "utf-8", &page(text), "quoted-printable", width);
        let notice = opted_out(&mail(&words(subject, "utf-8", width, 'Q'), &html), &format!("broken at {width}"));
        assert_eq!((notice.addresses[0].as_str(), notice.orders.len()), (BUYER, 1), "{width}");
    }
}

#[test]
fn a_forwarded_mail_is_read_however_it_is_attached() {
    let (_, _, subject, text) = LANGUAGES[0];
    let notice =
        mail(subject, &multipart("alternative", "in", &[part("text/html", "utf-8", &page(text), "quoted-printable", 40)]));
    let attachments = [
        format!("Content-Type: message/rfc822\r\n\r\n{notice}"),
        format!("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{}", base64(notice.as_bytes(), 76)),
        format!(
            "Content-Type: message/global; name=x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{}",
            quoted_printable(notice.as_bytes(), 70)
        ),
        format!(
            "Content-Type: application/octet-stream; name=\"x.EML\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}",
            base64(notice.as_bytes(), 76)
        ),
        format!(
            "Content-Type: text/plain\r\nContent-Disposition: attachment;\r\n filename*0=\"x.\";\r\n filename*1=eml\r\n\r\n{notice}"
        ),
        format!(
            "Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A9.eml\r\n\r\n{notice}"
        ),
    ];
    for attachment in attachments {
        let outer = multipart("mixed", "out", &["Content-Type: text/plain\r\n\r\nsee\r\n".into(), attachment]);
        let outer = format!("From: sam@shop.example\r\nSubject: Fwd\r\nMessage-ID: <2@x.test>\r\n{outer}");
        let notice = opted_out(&outer, "attached");
        assert_eq!((notice.forwarded, notice.message_id.as_deref()), (Some(Forwarded::Attached), Some("1@x.test")), "{outer}");
        assert_eq!(notice.forwarder.unwrap().as_str(), "sam@shop.example");
        assert_eq!((notice.addresses[0].as_str(), notice.results.len()), (BUYER, 0));
    }
}

#[test]
fn each_notice_that_one_mail_forwards_is_seen() {
    let one = |number: usize| {
        let text = format!("Order [111-1111111-{number:07}]");
        let html = part("text/html", "utf-8", &text, "quoted-printable", 40);
        format!(
            "Content-Type: message/rfc822\r\n\r\n{}",
            mail("x", &format!("X-Space-Notification-Type: BUYER_OPTED_OUT_BSM_MESSAGES\r\n{html}"))
        )
    };
    let outer = multipart("mixed", "out", &(0..40).map(one).collect::<Vec<_>>());
    let all = recognise_all(format!("From: sam@shop.example\r\n{outer}").as_bytes(), &Phrases::compiled());
    let orders: Vec<_> =
        all.iter().map(|seen| if let Seen::OptedOut(notice) = seen { notice.orders[0].number() % 100 } else { 99 }).collect();
    assert_eq!(orders, (0..40).collect::<Vec<_>>());
}

/// No clock: what takes more than linear time takes minutes here.
#[test]
fn mail_that_was_built_to_hurt_is_looked_at_and_that_is_all() {
    let from = "From: auto-communication@amazon.com\r\nSubject: x\r\n";
    let repeated = |text: &str, size: usize| text.repeat(size / text.len());
    const SIZE: usize = 4 << 20;
    let nested: String =
        (0..100_000).map(|level| format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n")).collect();
    let hostile = [
        ("multiparts in multiparts", format!("{from}{nested}")),
        ("mails in mails", format!("{from}{}", repeated("Content-Type: message/rfc822\r\n\r\n", SIZE))),
        (
            "digests in digests",
            format!("{from}{}", repeated("Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n", SIZE)),
        ),
        ("a million parts", format!("{from}Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", repeated("--b\r\n\r\n", SIZE))),
        ("one line of boundaries", format!("{from}Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", repeated("--b", SIZE))),
        ("a boundary of hyphens", format!("{from}Content-Type: multipart/mixed; boundary=\"-\"\r\n\r\n{}", repeated("-", SIZE))),
        ("an endless header", format!("{from}{}", repeated("X: y\r\n", SIZE))),
        ("an endless field", format!("{from}X:{}", repeated(" y\r\n", SIZE))),
        ("half encoded words", format!("Subject: {}\r\n{from}\r\n", repeated("=?a?q?", SIZE))),
        ("an endless From", format!("From: {}\r\n\r\n", repeated("a@b, ", SIZE))),
        ("parameters", format!("{from}Content-Type: text/plain; {}\r\n\r\n", repeated("a*0*=x'y'z;", 15 << 10))),
        ("tags", format!("{from}Content-Type: text/html\r\n\r\n{}", repeated("<a href=mailto:", SIZE))),
        ("attributes", format!("{from}Content-Type: text/html\r\n\r\n<a {}", repeated("b c=d e ", SIZE))),
        ("open elements", format!("{from}Content-Type: text/html\r\n\r\n{}", repeated("<div><style>", SIZE))),
        ("entities", format!("{from}Content-Type: text/html\r\n\r\n{}", repeated("&amp;&#0;&#x110000;&notit;", SIZE))),
        ("base64 of nothing", format!("{from}Content-Transfer-Encoding: base64\r\n\r\n{}", repeated("=", SIZE))),
        ("equals signs", format!("{from}Content-Transfer-Encoding: quoted-printable\r\n\r\n{}", repeated("=", SIZE))),
        (
            "lines that look forwarded",
            format!("From: a@b.example\r\n\r\n{}", repeated("> From: a\r\n> Subject:\r\n> Date: x\r\n", SIZE)),
        ),
        ("brackets", format!("{from}\r\n{}", repeated("[111-2345678-9012345", SIZE))),
        ("addresses", format!("{from}\r\n{}", repeated("mailto:a@marketplace.amazon.com,", SIZE))),
        ("combining letters", format!("{from}\r\n{}", repeated("\u{301}\u{345}", SIZE))),
        (
            "groups of a report",
            format!(
                "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n{}",
                repeated("Status: 5.1.1\n\n", SIZE)
            ),
        ),
    ];
    for (what, mail) in &hostile {
        for mail in [mail.as_bytes(), &mail.as_bytes()[..mail.len() - 1], mail.replace('\r', "").as_bytes()] {
            assert!(!recognise_all(mail, &Phrases::compiled()).is_empty(), "{what}");
        }
    }
}
