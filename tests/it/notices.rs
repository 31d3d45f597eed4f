//! The recogniser of notices against a corpus of made-up mails, `notices/`: every notice is seen, with whom it names, and no
//! other mail is ever taken for one. Prints recall and false learning.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use optout_relay::learn::{Evidence, Forwarded, Notice, Phrases, ReportKind, Seen, recognise, recognise_all};
use serde::Deserialize;

use crate::config::{announced, files};

/// No corpus is smaller; a reader of nothing recognises nothing wrongly.
const MIN_NOTICES: usize = 50;
const MIN_OTHERS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    opted_out: Vec<OptedOut>,
    report: Vec<Report>,
    nothing: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptedOut {
    file: String,
    buyers: Vec<String>,
    orders: Vec<String>,
    by: String,
    marketplace: String,
    forwarded: Option<String>,
    message_id: Option<String>,
    sent: String,
    passed: Option<bool>,
    #[serde(default)]
    more: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    file: String,
    kind: String,
    recipients: BTreeMap<String, String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/notices")
}

fn expected() -> Expected {
    toml::from_str(&std::fs::read_to_string(folder().join("expected.toml")).unwrap()).unwrap()
}

/// A mail as a disk has it, and as it comes by SMTP.
fn mails(file: &str) -> [Vec<u8>; 2] {
    let lf = std::fs::read(folder().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(!lf.contains(&b'\r'), "{file} has CR");
    let crlf = lf.iter().flat_map(|byte| if *byte == b'\n' { b"\r\n".to_vec() } else { vec![*byte] }).collect();
    [lf, crlf]
}

fn differs(expected: &OptedOut, notice: &Notice) -> Option<String> {
    let by = match &notice.evidence {
        Evidence::Header { .. } => "header",
        Evidence::Fingerprint { language } => language,
    };
    let forwarded = notice.forwarded.map(|how| match how {
        Forwarded::Attached => "attached",
        Forwarded::Inline => "inline",
    });
    let found = OptedOut {
        file: expected.file.clone(),
        buyers: notice.addresses.iter().map(ToString::to_string).collect(),
        orders: notice.orders.iter().map(ToString::to_string).collect(),
        by: by.to_owned(),
        marketplace: notice.marketplace.clone(),
        forwarded: forwarded.map(str::to_owned),
        message_id: notice.message_id.clone(),
        sent: notice.sent.map(|sent| sent.to_string()).unwrap_or_default(),
        passed: notice.results.first().map(|result| result.passed),
        more: expected.more,
    };
    let shown = |it: &OptedOut| {
        format!(
            "{:?} {:?} {} {} {:?} {:?} {} {:?}",
            it.buyers, it.orders, it.by, it.marketplace, it.forwarded, it.message_id, it.sent, it.passed
        )
    };
    (shown(expected) != shown(&found)).then(|| format!("{}\n  is {}\n  not {}", expected.file, shown(&found), shown(expected)))
}

#[test]
fn every_notice_is_recognised_and_nothing_else_is() {
    let (expected, phrases) = (expected(), Phrases::compiled());
    let (mut missed, mut wrong) = (Vec::new(), Vec::new());
    for notice in &expected.opted_out {
        for mail in mails(&notice.file) {
            match recognise(&mail, &phrases) {
                Seen::OptedOut(found) => missed.extend(differs(notice, &found)),
                other => missed.push(format!("{}: {other:?}", notice.file)),
            }
            let more = recognise_all(&mail, &phrases).len() - 1;
            assert_eq!(more, notice.more, "{}", notice.file);
        }
    }
    for (file, why) in &expected.nothing {
        for mail in mails(file) {
            match recognise(&mail, &phrases) {
                Seen::OtherNotice(said) | Seen::Unknown(said) if said == *why => {}
                seen => wrong.push(format!("{file}: {seen:?}\n  not {why}")),
            }
        }
    }
    for report in &expected.report {
        for mail in mails(&report.file) {
            wrong.extend(differing(report, recognise(&mail, &phrases)));
        }
    }
    let (notices, others) = (expected.opted_out.len(), expected.nothing.len() + expected.report.len());
    let seen = notices - missed.iter().map(|text| text.split(['\n', ':']).next()).collect::<BTreeSet<_>>().len();
    let recall = 100.0 * seen as f64 / notices as f64;
    let figures =
        format!("recall: {seen} of {notices} notices, {recall:.1} %; false learning: {} of {others} others", wrong.len());
    // Not by `print!`, which is shown of tests that fail only.
    writeln!(std::io::stderr(), "{figures}").unwrap();
    assert!(missed.is_empty() && wrong.is_empty(), "missed:\n{}\nwrong:\n{}", missed.join("\n"), wrong.join("\n"));
    assert!(notices >= MIN_NOTICES && others >= MIN_OTHERS, "a corpus of {notices} notices and {others} others");
}

fn differing(expected: &Report, seen: Seen) -> Option<String> {
    let Seen::Report(report) = seen else { return Some(format!("{}: {seen:?}", expected.file)) };
    let kind = match report.kind {
        ReportKind::Delivery => "delivery",
        ReportKind::Abuse => "abuse",
    };
    let recipients: BTreeMap<_, _> = report.recipients.iter().map(|to| (to.address.to_string(), to.why.clone())).collect();
    let dated = report.message_id.as_deref() == Some("r1@mx.example.net") && report.sent.is_some();
    let same = kind == expected.kind && recipients == expected.recipients && dated;
    (!same).then(|| format!("{}: {report:?}", expected.file))
}

#[test]
fn every_bad_file_is_told_as_it_announces() {
    let files = files("bad_notices");
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let name = Path::new(path.file_name().unwrap());
        let told = Phrases::parse(name, &text).err().unwrap_or_else(|| panic!("{} is taken", name.display())).to_string();
        assert_eq!(told, announced(&text), "{}", name.display());
    }
    assert_eq!(files.len(), 32);
}

#[test]
fn every_mail_of_the_corpus_is_expected_to_be_something() {
    let expected = expected();
    let named = expected.opted_out.iter().map(|notice| &notice.file);
    let named: BTreeSet<_> =
        named.chain(expected.report.iter().map(|report| &report.file)).chain(expected.nothing.keys()).cloned().collect();
    let there = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<_> = there.filter(|name| name != "expected.toml").collect();
    assert_eq!(there, named);
}
