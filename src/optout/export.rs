//! Entries written down: as a list of our own (CSV), and as other programs take them. Never chooses which ones.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::entry::{Action, Attributes, Subject, hex};
use super::file::without_comment;
use super::foreign::{Provider, short};
use crate::mail::PlusTags;

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A list that can be named in `opt_out.lists`, with all that stands beside each entry but its evidence.
    Csv,
    /// One entry a line: who, and nothing beside it.
    Text,
    /// The same with `sha256:…` in the place of each address, for those who are to compare and not to read.
    Hashes,
    /// An access(5) table of Postfix.
    Postfix,
    /// What a mail provider imports: addresses.
    For(Provider),
}

/// The columns of a list of our own. An entry of any kind stands under `address`.
pub const COLUMNS: [&str; 8] = ["address", "since", "until", "reason", "source", "action", "senders", "note"];

/// Writes entries one after another.
pub struct Writer<W: Write> {
    out: csv::Writer<W>,
    written: Written,
    tags: PlusTags,
}

impl<W: Write> Writer<W> {
    /// Begins with the row of names, where the form has one.
    pub fn new(out: W, written: Written, tags: PlusTags) -> io::Result<Self> {
        let mut writer = Self::going_on(out, written, tags);
        let names: &[&str] = match written {
            Written::Csv => &COLUMNS,
            Written::Text | Written::Hashes | Written::Postfix | Written::For(Provider::Ses) => return Ok(writer),
            Written::For(Provider::SendGrid) => &["email"],
            Written::For(Provider::Mailgun) => &["address", "tags"],
            Written::For(Provider::Postmark) => &["EmailAddress"],
            Written::For(Provider::Mailchimp) => &["Email Address"],
        };
        writer.row(names)?;
        Ok(writer)
    }

    /// Without that row: what is written goes on with what stands there.
    pub fn going_on(out: W, written: Written, tags: PlusTags) -> Self {
        let mut form = csv::WriterBuilder::new();
        if matches!(written, Written::Text | Written::Hashes | Written::Postfix) {
            form.quote_style(csv::QuoteStyle::Never).delimiter(b'\t');
        }
        Self { out: form.buffer_capacity(1 << 16).from_writer(out), written, tags }
    }

    /// Writes one entry; `false` where the form has no place for it.
    pub fn write(&mut self, subject: &Subject, attributes: &Attributes) -> io::Result<bool> {
        match self.written {
            Written::Csv => match as_written(subject) {
                Some(entry) => self.whole(entry, attributes)?,
                None => return Ok(false),
            },
            // There it would begin a comment.
            Written::Text => match as_written(subject).filter(|entry| without_comment(entry) == entry) {
                Some(entry) => self.row(&[&entry])?,
                None => return Ok(false),
            },
            Written::Hashes => self.row(&[&hashed(subject, self.tags)])?,
            Written::Postfix => match access(subject) {
                Some(pattern) => self.row(&[&pattern, &answer(attributes)])?,
                None => return Ok(false),
            },
            Written::For(provider) => {
                let Subject::Address(address) = subject else { return Ok(false) };
                match provider {
                    Provider::Ses => self.row(&[address.as_str(), "COMPLAINT"])?,
                    Provider::Mailgun => self.row(&[address.as_str(), "*"])?,
                    _ => self.row(&[address.as_str()])?,
                }
            }
        }
        Ok(true)
    }

    /// What it was written to, with everything that was written.
    pub fn finish(self) -> io::Result<W> {
        self.out.into_inner().map_err(|e| io::Error::new(e.error().kind(), e.error().to_string()))
    }

    fn row(&mut self, cells: &[&str]) -> io::Result<()> {
        self.out.write_record(cells).map_err(io::Error::from)
    }

    fn whole(&mut self, entry: String, attributes: &Attributes) -> io::Result<()> {
        let Attributes { since, until, reason, source, action, senders, note, .. } = attributes;
        let text = |text: &Option<String>| text.as_deref().map(short).unwrap_or_default();
        let (until, action) = (until.map(|until| until.to_string()), action.map(|action| action.to_string()));
        let cells = [entry, text(since), text(&until), text(reason), text(source), text(&action), senders.join(" "), text(note)];
        self.out.write_record(cells).map_err(io::Error::from)
    }
}

/// As somebody would write it, so that it is taken for the same again where nothing tells its kind; comparing forms only where
/// there is no other. `None`: it would be taken for another one.
fn as_written(subject: &Subject) -> Option<String> {
    let text = match subject {
        Subject::Address(address) => address.to_string(),
        other => other.to_string(),
    };
    // In quotes `?` is a letter.
    let quoted = || text.rsplit_once('@').map(|(local, domain)| format!("\"{local}\"@{domain}"));
    let is_same = |text: &String| Subject::guess(text).is_ok_and(|read| read.names_the_same(subject, PlusTags::Distinct));
    Some(text.clone()).filter(is_same).or_else(|| quoted().filter(is_same))
}

/// The hash that holds for whomever the address holds for.
pub fn hashed(subject: &Subject, tags: PlusTags) -> String {
    match subject {
        Subject::Address(address) => format!("sha256:{}", hex(&Sha256::digest(address.key(tags).to_string()))),
        other => other.to_string(),
    }
}

/// The pattern of access(5), where there is one.
fn access(subject: &Subject) -> Option<String> {
    let key = match subject {
        Subject::Address(address) => Some(address.to_string()),
        Subject::Domain(name) => Some(name.clone()),
        Subject::Subdomains(name) => Some(format!(".{name}")),
        Subject::Pattern(glob) => {
            glob.strip_suffix('*').filter(|user| user.ends_with('@') && !user.contains(['*', '?'])).map(str::to_owned)
        }
        Subject::Sha256(_) | Subject::Md5(_) | Subject::Order(_) => None,
    }?;
    // Its lines are taken apart at spaces, and quotes have a meaning of their own.
    (!key.contains([' ', '\t', '"', '#'])).then_some(key)
}

fn answer(attributes: &Attributes) -> String {
    match attributes.action {
        Some(Action::Drop) => "DISCARD".into(),
        _ => format!("REJECT {}", attributes.reason.as_deref().map(short).unwrap_or_default()).trim_end().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Written, entries: &[&str]) -> (String, Vec<bool>) {
        let attributes = Attributes { reason: Some("said \"no\",\nthen left".into()), ..Attributes::default() };
        let mut writer = Writer::new(Vec::new(), form, PlusTags::Ignore).unwrap();
        let fits = entries.iter().map(|text| writer.write(&Subject::guess(text).unwrap(), &attributes).unwrap()).collect();
        (String::from_utf8(writer.finish().unwrap()).unwrap(), fits)
    }

    const ALL: [&str; 5] = ["Buyer+7@Example.org", "example.org", "*.example.net", "promo-*@x.example", "user@*"];

    #[test]
    fn every_form_has_a_place_for_addresses_and_says_for_what_it_has_none() {
        let (text, fits) = written(Written::Csv, &ALL);
        assert!(text.starts_with("address,since,until,reason,source,action,senders,note\nBuyer+7@Example.org,,,\"said \"\"no\"\", then left\",,,,\n"), "{text}");
        assert_eq!(fits, [true; 5]);
        assert_eq!(
            written(Written::Text, &ALL).0,
            "Buyer+7@Example.org\nexample.org\n*.example.net\npromo-*@x.example\nuser@*\n"
        );
        let (text, fits) = written(Written::Postfix, &ALL);
        let no = "REJECT said \"no\", then left";
        assert_eq!(text, format!("Buyer+7@Example.org\t{no}\nexample.org\t{no}\n.example.net\t{no}\nuser@\t{no}\n"));
        assert_eq!(fits, [true, true, true, false, true]);
        let only_addresses = [true, false, false, false, false];
        for (provider, expected) in [
            (Provider::Ses, "Buyer+7@Example.org,COMPLAINT\n"),
            (Provider::SendGrid, "email\nBuyer+7@Example.org\n"),
            (Provider::Mailgun, "address,tags\nBuyer+7@Example.org,*\n"),
            (Provider::Postmark, "EmailAddress\nBuyer+7@Example.org\n"),
            (Provider::Mailchimp, "Email Address\nBuyer+7@Example.org\n"),
        ] {
            assert_eq!(written(Written::For(provider), &ALL), (expected.into(), only_addresses.into()));
        }
        // printf buyer@example.org | sha256sum
        let hash = "sha256:d1cfbef9e411da5f82963d902ba8b65dd940a74c9328561c1211083b9b967cc1";
        assert_eq!(written(Written::Hashes, &ALL[..2]).0, format!("{hash}\nexample.org\n"));
    }
}
