//! The comparing key: all spellings of one mailbox have one, an entry in any spelling suppresses every other, and no
//! bytes whatever upset the reader.

use jiff::Timestamp;
use optout_relay::mail::{Address, PlusTags, ReversePath};
use optout_relay::optout::{Attributes, Builder, Context, Policy, Subject, Title, Verdict, judge};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn key(text: &str) -> String {
    Address::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).key(PlusTags::Ignore).to_string()
}

fn is_suppressed(entry: &Subject, recipient: &str) -> bool {
    let mut list = Builder::new(PlusTags::Ignore);
    list.add(1, entry.clone(), Attributes::default());
    let (list, policy) = (list.finish(), Policy::default());
    let context =
        Context { sender: &ReversePath::Null, now: Timestamp::UNIX_EPOCH, title: Title::Is(""), policy: &policy, orders: &[] };
    matches!(judge(&list, &Address::parse(recipient).unwrap(), &context), Verdict::OptedOut(_))
}

/// Letters as (lower, upper, decomposed); an upper or decomposed one is another spelling of the lower one.
const LETTERS: [(&str, &str, &str); 12] = [
    ("a", "A", "a"),
    ("k", "K", "\u{212a}"),
    ("7", "7", "7"),
    ("-", "-", "-"),
    ("ä", "Ä", "A\u{308}"),
    ("é", "É", "e\u{301}"),
    ("å", "\u{212b}", "A\u{30a}"),
    ("σ", "Σ", "σ"),
    ("ñ", "Ñ", "n\u{303}"),
    ("ж", "Ж", "ж"),
    ("日", "日", "日"),
    ("ệ", "Ệ", "e\u{323}\u{302}"),
];

#[derive(Clone, Debug)]
struct Spelling {
    /// Which form of each letter is taken, over and over.
    forms: Vec<usize>,
    quoted: bool,
    escaped: bool,
    route: bool,
    dot: bool,
    tag: Option<String>,
    a_label: bool,
    full_width_dot: bool,
}

fn spelling() -> impl Strategy<Value = Spelling> {
    let tag = proptest::option::of("[a-z+]{0,4}");
    (vec(0_usize..3, 1..8), any::<[bool; 6]>(), tag).prop_map(|(forms, flags, tag)| {
        let [quoted, escaped, route, dot, a_label, full_width_dot] = flags;
        Spelling { forms, quoted, escaped, route, dot, tag, a_label, full_width_dot }
    })
}

/// A mailbox as letters: the local part, and the labels of the domain.
fn mailbox() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<usize>>)> {
    let letters = |count| vec(0..LETTERS.len(), count);
    // A label neither begins nor ends with a hyphen, nor has two in the third and fourth place.
    let label = letters(1..6).prop_map(|label| label.into_iter().map(|letter| if letter == 3 { 0 } else { letter }).collect());
    (letters(1..8), vec(label, 1..4))
}

impl Spelling {
    fn letters(&self, letters: &[usize]) -> String {
        let form = |(at, letter): (usize, &usize)| {
            let (lower, upper, decomposed) = LETTERS[*letter];
            [lower, upper, decomposed][self.forms[at % self.forms.len()]]
        };
        letters.iter().enumerate().map(form).collect()
    }

    fn write(&self, local: &[usize], labels: &[Vec<usize>]) -> String {
        let mut local = self.letters(local);
        if let Some(tag) = &self.tag {
            local = format!("{local}+{tag}");
        }
        if self.quoted {
            let escape = |c: char| if self.escaped { format!("\\{c}") } else { c.to_string() };
            local = format!("\"{}\"", local.chars().map(escape).collect::<String>());
        }
        let labels: Vec<_> = labels.iter().map(|label| self.letters(label)).collect();
        let mut domain = labels.join(if self.full_width_dot { "\u{ff0e}" } else { "." });
        if self.a_label {
            domain = idna::domain_to_ascii(&domain).unwrap();
        }
        let route = if self.route { "@relay.example,@x.example:" } else { "" };
        format!("{route}{local}@{domain}{}", if self.dot { "." } else { "" })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn every_spelling_is_suppressed_by_every_other((local, labels) in mailbox(), one in spelling(), other in spelling()) {
        let (one, other) = (one.write(&local, &labels), other.write(&local, &labels));
        prop_assert_eq!(key(&one), key(&other), "{:?} {:?}", one, other);
        prop_assert!(is_suppressed(&Subject::address(&one).unwrap(), &other), "{:?} {:?}", one, other);
        // A domain, a glob of the whole address and a glob of the domain, in the spelling of the entry.
        let domain = one.rsplit_once('@').unwrap().1;
        let glob = format!("*@{domain}");
        for entry in [Subject::pattern(&glob), Subject::pattern(&format!("?{glob}"))] {
            prop_assert!(is_suppressed(&entry.unwrap(), &other), "{:?} {:?}", glob, other);
        }
        if labels.len() > 1 {
            prop_assert!(is_suppressed(&Subject::domain(domain).unwrap(), &other), "{:?} {:?}", domain, other);
            let parent = domain.split_once(['.', '\u{ff0e}']).unwrap().1;
            if labels.len() > 2 {
                let below = Subject::domain(&format!("*.{parent}")).unwrap();
                prop_assert!(is_suppressed(&below, &other), "*.{:?} {:?}", parent, other);
            }
        }
    }

    #[test]
    fn another_mailbox_has_another_key((local, labels) in mailbox(), spelling in spelling()) {
        let one = key(&spelling.write(&local, &labels));
        let longer = key(&spelling.write(&[&local[..], &[0]].concat(), &labels));
        prop_assert_ne!(one, longer);
    }

    #[test]
    fn nothing_upsets_the_reader_and_what_it_takes_is_clean(bytes in vec(any::<u8>(), 0..64)) {
        let _ = sound(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_looks_like_an_address_has_a_key_that_is_its_own(text in address_like()) {
        if let Some(address) = sound(&text) {
            for tags in [PlusTags::Ignore, PlusTags::Distinct] {
                let once = address.key(tags).to_string();
                let again = Address::parse(&once).unwrap_or_else(|error| panic!("{text:?} has the key {once:?}: {error}"));
                prop_assert_eq!(again.key(tags).to_string(), once.clone(), "{:?}", text);
                prop_assert!(is_suppressed(&Subject::Address(again), &text));
            }
            // A list refuses what only looks like a sign that somebody meant.
            if let Ok(entry) = Subject::address(&text) {
                prop_assert!(is_suppressed(&entry, &text));
            }
        }
        for read in [Subject::guess, Subject::address, Subject::domain, Subject::pattern, Subject::hash] {
            if let Err(error) = read(&text) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}

/// Reads it; whatever is taken holds no control characters and is as it was written.
fn sound(text: &str) -> Option<Address> {
    let address = Address::parse(text).ok()?;
    assert!(!address.as_str().contains(char::is_control) && !address.as_str().contains(['<', '>']), "{text:?}");
    assert!(text.ends_with(address.as_str()), "{text:?}");
    assert!(!address.key(PlusTags::Ignore).to_string().contains(char::is_control), "{text:?}");
    Some(address)
}

/// Texts out of everything that has meaning in an address, and of what is known to trip readers up.
fn address_like() -> impl Strategy<Value = String> {
    const PIECES: [&str; 58] = [
        "a",
        "B",
        "k",
        "+",
        "-",
        "_",
        ".",
        "..",
        "@",
        "\"",
        "\\",
        " ",
        "[",
        "]",
        ":",
        "*",
        "?",
        "1",
        "xn--",
        "xn--a",
        "XN--BCHER-KVA",
        "xn--ls8h",
        "example",
        "\u{130}",
        "\u{131}",
        "ß",
        "\u{1e9e}",
        "ς",
        "Σ",
        "\u{212a}",
        "\u{17f}",
        "\u{3002}",
        "\u{ff0e}",
        "\u{ff61}",
        "\u{ff20}",
        "\u{200b}",
        "\u{200d}",
        "\u{ad}",
        "\u{feff}",
        "\u{202e}",
        "\u{2066}",
        "א",
        "ا",
        "\u{301}",
        "\u{307}",
        "\u{345}",
        "ﬃ",
        "Ⅷ",
        "℀",
        "\u{ff21}",
        "\u{ff0f}",
        "𝐚",
        "\u{e0041}",
        "\u{0}",
        "\r\n",
        "\u{85}",
        "\u{2028}",
        "😀",
    ];
    let part = |count| vec(select(&PIECES[..]), count).prop_map(|pieces| pieces.concat());
    let local = prop_oneof![part(1..6), part(1..6).prop_map(|text| format!("\"{text}\""))];
    prop_oneof![part(0..12), (local, part(1..6)).prop_map(|(local, domain)| format!("{local}@{domain}"))]
}

#[test]
fn known_traps_meet() {
    for spellings in [
        // Dotted I: İ in lower case is i and a dot above, and must not depend on which comes first.
        &["İ@x.example", "i\u{307}@x.example", "I\u{307}@x.example"][..],
        &["ΟΔΟΣ@x.example", "οδοσ@x.example"],
        &["\u{212a}elly@x.example", "Kelly@x.example", "kelly@x.example"],
        &["a@straße.example", "a@STRASSE.example", "a@xn--strae-oqa.example"][..1],
        &["a@straße.example", "A@STRAẞE.example", "a@xn--strae-oqa.example", "a@XN--STRAE-OQA.EXAMPLE."],
        &["a@faß\u{3002}example", "a@fa\u{df}\u{ff61}example", "a@xn--fa-hia.example"],
        &["a@\u{ff45}xample.org", "a@example.org"],
        &["a@bu\u{308}cher.example", "a@BÜCHER.example", "a@xn--bcher-kva.example"],
        &["buy\u{200b}er@x.example", "buyer@x.example", "\u{feff}buyer@x\u{ad}.example", "\u{202a}buyer\u{202c}@x.example"],
        &["a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8::1]"],
    ] {
        for (one, other) in spellings.iter().flat_map(|one| spellings.iter().map(move |other| (one, other))) {
            assert_eq!(key(one), key(other), "{one:?} {other:?}");
            assert!(is_suppressed(&Subject::guess(one).unwrap(), other), "{one:?} {other:?}");
        }
    }
}

#[test]
fn what_only_looks_alike_stays_apart() {
    for (one, other) in [
        // Cyrillic а; ß is no ss in a domain; a sigma at the end of a word is a letter of its own.
        ("\u{430}@x.example", "a@x.example"),
        ("a@straße.example", "a@strasse.example"),
        ("straße@x.example", "strasse@x.example"),
        ("a\u{131}@x.example", "ai@x.example"),
        ("a.b@x.example", "ab@x.example"),
        ("\"a@x\"@y.example", "a@x.y.example"),
        ("\"a b\"@x.example", "ab@x.example"),
        ("a@xn--a.example", "a@a.example"),
        ("+a@x.example", "+b@x.example"),
    ] {
        assert_ne!(key(one), key(other), "{one} {other}");
    }
}

#[test]
fn a_glob_meets_every_spelling_too() {
    for (glob, recipients) in [
        (
            "promo-*@Bücher.example",
            &["PROMO-1@BU\u{308}CHER.example", "promo-2+x@xn--bcher-kva.example.", "\"promo-3\"@bücher\u{3002}example"][..],
        ),
        ("*@*.Straße.example", &["a@b.XN--STRAE-OQA.example"]),
        // An A-label hides the letters that a wildcard stands beside.
        ("*@*bücher.example", &["a@bücher.example", "a@XN--BCHER-KVA.example", "a@altebu\u{308}cher\u{3002}example"]),
        ("*@b?cher.b\u{fc}cher.example", &["a@bücher.bücher.example"]),
        ("*@*ｶﾞ*.example", &["a@ガム.example", "a@xｶﾞ.example"]),
        ("*@*ϑ.bücher.example", &["a@xθ.bücher.example"]),
        ("\"a\\b c\"@x.example", &[]),
        ("\"a\\b*\"@x.example", &["ab@x.example", "abc@x.example"]),
        ("ΟΔΟΣ*@x.example", &["οδοσ@x.example", "ΟΔΟΣ7@x.example"]),
        ("\"promo\"-*@x.example", &[]),
        ("\"promo-?\"@x.example", &["promo-1@x.example"]),
        ("a*@x.example", &["\"a b\"@x.example", "a\"b\"@x.example"][..1]),
        ("buyer+shop@x.example", &["Buyer+Shop@X.example"]),
    ] {
        for recipient in recipients {
            assert!(is_suppressed(&Subject::pattern(glob).unwrap(), recipient), "{glob} {recipient}");
        }
    }
}
