//! The comparing key: whatever spelling of a mailbox is taken, all others of it meet it, and a list that holds one keeps
//! mail from all. Never looks at how a key is made.

use jiff::Timestamp;
use optout_relay::mail::{Address, AddressError, PlusTags, ReversePath, domain_key};
use optout_relay::optout::{Attributes, Builder, Context, Kind, OptOutList, Policy, Subject, Title, Verdict, hex, judge};
use sha2::{Digest, Sha256};

const TAGS: [PlusTags; 2] = [PlusTags::Ignore, PlusTags::Distinct];

/// A text as it may stand in a path, a list or a header field.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for read in [Subject::guess, Subject::address, Subject::domain, Subject::pattern, Subject::hash] {
        match read(text) {
            Ok(subject) => entry(&subject),
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
        }
    }
    if let Ok(address) = Address::parse(text) {
        mailbox(text, &address);
    }
}

fn key(address: &Address) -> String {
    address.key(PlusTags::Ignore).to_string()
}

fn mailbox(text: &str, address: &Address) {
    assert!(!address.as_str().contains(char::is_control), "{text:?}");
    assert!(text.ends_with(address.as_str()), "kept as written");
    assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(address), "{text:?} is read as it is written");
    for tags in TAGS {
        let once = address.key(tags).to_string();
        let again = match Address::parse(&once) {
            Ok(again) => again,
            // In another form a letter may take more bytes.
            Err(AddressError::TooLong) if !text.is_ascii() && once.len() > 320 => continue,
            Err(error) => panic!("{text:?} has the key {once:?}: {error}"),
        };
        assert_eq!(again.key(tags), address.key(tags), "{text:?}");
        assert!(tags == PlusTags::Ignore || again.routes_on() == address.routes_on(), "{text:?}");
    }
    assert_eq!(domain_key(address.domain()), address.key(PlusTags::Ignore).domain, "{text:?}");
    for other in spellings(address) {
        // One byte more may be one too many.
        let Ok(other) = Address::parse(&other) else { continue };
        assert_eq!(key(&other), key(address), "{other:?} is {address:?}");
    }
    suppressed_by_its_own(address);
}

/// Other spellings of the same mailbox.
fn spellings(address: &Address) -> Vec<String> {
    let written = address.as_str();
    let mut found = vec![written.to_ascii_uppercase(), written.to_ascii_lowercase(), swapped(written)];
    if address.domain().is_empty() {
        return found;
    }
    let local = &written[..written.len() - address.domain().len() - 1];
    let domain = address.domain();
    if !domain.ends_with(['.', ']', '\u{3002}', '\u{ff0e}', '\u{ff61}']) {
        found.push(format!("{written}."));
    }
    found.push(format!("@relay.example,@b.example:{written}"));
    found.push(format!("{local}@{}", domain_key(domain)));
    // What cannot be seen is a local part only where it is all of it.
    let is_seen = local.is_ascii() || local.contains(char::is_alphanumeric);
    match local.strip_suffix('"') {
        None => {
            let escaped: String = local.chars().flat_map(|c| ['\\', c]).collect();
            found.extend([format!("\"{local}\"@{domain}"), format!("\"{escaped}\"@{domain}")]);
            found.extend(is_seen.then(|| format!("{local}+x@{domain}")));
        }
        Some(open) => found.extend(is_seen.then(|| format!("{open}+x y\"@{domain}"))),
    }
    found
}

/// Upper case for lower and the other way round, for letters of which the one is the other's and no third is near.
fn swapped(text: &str) -> String {
    let one = |mut letters: Box<dyn Iterator<Item = char>>| letters.next().filter(|_| letters.next().is_none());
    let (upper, lower) = (|c: char| one(Box::new(c.to_uppercase())), |c: char| one(Box::new(c.to_lowercase())));
    let swap = |c: char| match (upper(c), lower(c)) {
        (Some(up), _) if up != c && lower(up) == Some(c) => up,
        (_, Some(low)) if low != c && upper(low) == Some(c) => low,
        _ => c,
    };
    text.chars().map(swap).collect()
}

/// A list that names the mailbox in any way keeps mail from it.
fn suppressed_by_its_own(address: &Address) {
    let mut entries = vec![Subject::Address(address.clone())];
    for tags in TAGS {
        entries.push(Subject::hash(&format!("sha256:{}", hex(&Sha256::digest(address.key(tags).to_string())))).unwrap());
        entries.extend(Address::parse(&address.key(tags).to_string()).map(Subject::Address));
    }
    // A list refuses what only looks like a sign that somebody meant.
    entries.extend(Subject::address(address.as_str()));
    entries.extend(Subject::domain(address.domain()));
    if let Some((_, parent)) = address.key(PlusTags::Ignore).domain.split_once('.') {
        entries.extend(Subject::domain(&format!("*.{parent}")));
    }
    for entry in entries {
        assert!(is_opted_out(&list_of(&entry), address), "{entry} keeps mail from {address:?}");
    }
}

fn list_of(entry: &Subject) -> OptOutList {
    let mut list = Builder::new(PlusTags::Ignore);
    list.add(1, entry.clone(), Attributes::default());
    list.finish()
}

/// By the judge, at a moment at which no entry has run out, for mail that could be of any sender.
pub fn is_opted_out(list: &OptOutList, recipient: &Address) -> bool {
    let policy = Policy::default();
    let context = Context { sender: &ReversePath::Null, now: Timestamp::MIN, title: Title::Is(""), policy: &policy, orders: &[] };
    matches!(judge(list, recipient, &context), Verdict::OptedOut(_))
}

/// What an entry is shown as is the same entry.
fn entry(subject: &Subject) {
    let shown = subject.to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
    if let Subject::Address(address) = subject {
        let again = Subject::guess(&shown).or_else(|_| Subject::address(&shown));
        // A key may look like a pattern, or like a slip of an office program.
        if let Ok(Subject::Address(again)) = again {
            assert_eq!(key(&again), key(address), "{shown:?}");
        }
        return;
    }
    let read = match subject.kind() {
        Kind::Pattern => Subject::pattern,
        _ => Subject::guess,
    };
    // Letters may take more bytes than the A-label that was written, and be signs only.
    if shown.len() <= 320 && shown.contains(char::is_alphanumeric) {
        assert_eq!(read(&shown).as_ref(), Ok(subject), "{shown:?}");
    }
    for address in named_by(subject) {
        assert!(is_opted_out(&list_of(subject), &address), "{subject} keeps mail from {address:?}");
    }
}

/// Mailboxes that an entry plainly names.
pub fn named_by(subject: &Subject) -> Vec<Address> {
    let texts = match subject {
        Subject::Address(address) => vec![address.to_string()],
        Subject::Domain(domain) => vec![format!("x@{domain}"), format!("X+y@{domain}")],
        Subject::Subdomains(domain) => vec![format!("x@a.{domain}"), format!("x@b.a.{domain}")],
        // Of half an A-label nobody can tell what it would stand for.
        Subject::Pattern(glob) if !glob.is_ascii() && glob.contains("xn--") => vec![],
        // A digit makes no other letter of a mark that follows it.
        Subject::Pattern(glob) => vec![glob.replace(['*', '?'], "7"), glob.replace('*', "77").replace('?', "7")],
        Subject::Sha256(_) | Subject::Md5(_) | Subject::Order(_) => vec![],
    };
    // What is read as a route in front of a mailbox is not the glob's.
    texts.iter().filter_map(|text| Address::parse(text).ok().filter(|address| address.as_str() == text)).collect()
}
