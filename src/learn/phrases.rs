//! What notices look like, in data: `config/notices.toml`, compiled in or a file of the user's own. Never looks at a mail.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::mail::{Address, PlusTags, domain_key};
use crate::place::{Fault, line_and_column, shown};

const COMPILED_IN: &str = include_str!("../../config/notices.toml");

/// Everything by which a notice is known.
#[derive(Clone, Debug, Default)]
pub struct Phrases {
    pub(super) marketplaces: Vec<Marketplace>,
    /// Names of the lines with which mail programs begin a mail that they forward, folded: From, Subject.
    pub(super) from: Vec<String>,
    pub(super) subject: Vec<String>,
}

/// One marketplace and its notices.
#[derive(Clone, Debug)]
pub(super) struct Marketplace {
    /// Domains in comparing form.
    aliases: Vec<String>,
    /// Addresses in comparing form, or `@domain`.
    senders: Vec<String>,
    /// Domains in comparing form.
    vouched_by: Vec<String>,
    pub header: String,
    pub opted_out: Vec<String>,
    pub phrases: Vec<Language>,
}

/// What a notice says in one language, folded.
#[derive(Clone, Debug)]
pub(super) struct Language {
    pub name: String,
    pub failed: String,
    pub opted_out: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    marketplace: Vec<Table>,
    #[serde(default)]
    forwarded: Forwarded,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    aliases: Vec<Spanned<String>>,
    senders: Vec<Spanned<String>>,
    vouched_by: Vec<Spanned<String>>,
    header: Spanned<String>,
    opted_out: Vec<Spanned<String>>,
    #[serde(default)]
    phrases: Vec<LanguageTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LanguageTable {
    language: Spanned<String>,
    failed: Spanned<String>,
    opted_out: Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Forwarded {
    from: Vec<Spanned<String>>,
    subject: Vec<Spanned<String>>,
}

impl Phrases {
    /// As the relay came.
    pub fn compiled() -> Self {
        // A test reads it; without it nothing would be learned, and all the rest would go on.
        Self::parse(Path::new("notices.toml"), COMPILED_IN).unwrap_or_default()
    }

    /// Reads a file's text; `path` names it in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let document: Document = toml::from_str(text).map_err(|e| Fault::of_toml(path, text, &e))?;
        let reader = Reader { path, text };
        let marketplaces = document.marketplace.into_iter().map(|table| reader.marketplace(table)).collect::<Result<_, _>>()?;
        let Forwarded { from, subject } = document.forwarded;
        Ok(Self { marketplaces, from: reader.folded(&from)?, subject: reader.folded(&subject)? })
    }

    /// Mail to it goes to a buyer of a marketplace.
    pub fn is_buyer(&self, address: &Address) -> bool {
        self.is_alias_domain(address.key(PlusTags::Distinct).domain)
    }

    /// The same for a domain in comparing form.
    pub fn is_alias_domain(&self, domain: &str) -> bool {
        self.marketplaces.iter().any(|marketplace| marketplace.has_alias_domain(domain))
    }

    /// Whose notices come from this sender.
    pub(super) fn of_sender(&self, sender: &Address) -> Option<&Marketplace> {
        let key = sender.key(PlusTags::Distinct);
        let (whole, at_domain) = (key.to_string(), format!("@{}", key.domain));
        self.marketplaces
            .iter()
            .find(|marketplace| marketplace.senders.iter().any(|known| *known == whole || *known == at_domain))
    }
}

impl Marketplace {
    pub fn has_alias_domain(&self, domain: &str) -> bool {
        self.aliases.iter().any(|alias| alias == domain)
    }

    /// A signature of this domain vouches for a notice.
    pub fn is_vouched_by(&self, domain: &str) -> bool {
        let domain = domain_key(domain);
        self.vouched_by
            .iter()
            .any(|known| domain.strip_suffix(known.as_str()).is_some_and(|below| below.is_empty() || below.ends_with('.')))
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn fault(&self, entry: &Spanned<String>, message: &str, hint: &str) -> Fault {
        let (line, column) = line_and_column(self.text, &entry.span());
        let message = format!("{} {message}", shown(entry.as_ref()));
        Fault { line, column, ..Fault::of_file(self.path, message) }.hint(hint)
    }

    fn marketplace(&self, table: Table) -> Result<Marketplace, Fault> {
        let Table { aliases, senders, vouched_by, header, opted_out, phrases } = table;
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_name(header.as_ref()) {
            return Err(self.fault(&header, "is no name of a header field", "as in X-Space-Notification-Type"));
        }
        Ok(Marketplace {
            aliases: aliases.iter().map(|entry| self.domain(entry)).collect::<Result<_, _>>()?,
            senders: senders.iter().map(|entry| self.sender(entry)).collect::<Result<_, _>>()?,
            vouched_by: vouched_by.iter().map(|entry| self.domain(entry)).collect::<Result<_, _>>()?,
            header: header.into_inner(),
            opted_out: opted_out.into_iter().map(Spanned::into_inner).collect(),
            phrases: phrases.iter().map(|table| self.language(table)).collect::<Result<_, _>>()?,
        })
    }

    fn language(&self, table: &LanguageTable) -> Result<Language, Fault> {
        let LanguageTable { language, failed, opted_out } = table;
        let phrase = |entry: &Spanned<String>| {
            let folded = fold(entry.as_ref());
            // A phrase that stands everywhere would make a notice of everything.
            let long = folded.chars().count() >= 8;
            long.then_some(folded)
                .ok_or_else(|| self.fault(entry, "is too short to be told from other texts", "take a whole clause"))
        };
        Ok(Language { name: language.as_ref().clone(), failed: phrase(failed)?, opted_out: phrase(opted_out)? })
    }

    fn folded(&self, entries: &[Spanned<String>]) -> Result<Vec<String>, Fault> {
        let name = |entry: &Spanned<String>| {
            let folded = fold(entry.as_ref());
            (!folded.is_empty()).then_some(folded).ok_or_else(|| self.fault(entry, "is empty", "take it away"))
        };
        entries.iter().map(name).collect()
    }

    fn domain(&self, entry: &Spanned<String>) -> Result<String, Fault> {
        let text = entry.as_ref().trim();
        let known = Address::parse(&format!("x@{text}")).is_ok() && text.contains('.');
        known.then(|| domain_key(text).into_owned()).ok_or_else(|| self.fault(entry, "is not a domain", "as in amazon.com"))
    }

    fn sender(&self, entry: &Spanned<String>) -> Result<String, Fault> {
        let text = entry.as_ref().trim();
        if let Some(domain) = text.strip_prefix('@') {
            let known = Address::parse(&format!("x@{domain}")).is_ok() && domain.contains('.');
            return known
                .then(|| format!("@{}", domain_key(domain)))
                .ok_or_else(|| self.fault(entry, "is not a domain", "as in @amazon.com"));
        }
        let address = Address::parse(text).ok().filter(|address| !address.routes_on() && !address.domain().is_empty());
        address
            .map(|address| address.key(PlusTags::Distinct).to_string())
            .ok_or_else(|| self.fault(entry, "is not an address", "as in auto-communication@amazon.com, or @amazon.com"))
    }
}

/// A text as it is compared: small letters, one kind of apostrophe and hyphen, nothing that is not seen, no blanks: lines
/// may be broken anywhere.
pub(super) fn fold(text: &str) -> String {
    let normal = icu_normalizer::ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    let hidden = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    let seen = normal.chars().filter(|c| !c.is_whitespace() && !c.is_control() && !hidden(*c));
    seen.flat_map(char::to_lowercase).map(plain).collect()
}

fn plain(c: char) -> char {
    match c {
        '’' | '‘' | 'ʼ' | '`' | '´' => '\'',
        '‐' | '‑' | '–' | '—' => '-',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_in_can_be_read() {
        let phrases = Phrases::parse(Path::new("notices.toml"), COMPILED_IN).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((phrases.marketplaces.len(), phrases.marketplaces[0].aliases.len()), (1, 22));
        for (address, is_buyer) in [
            ("a@marketplace.amazon.co.jp", true),
            ("a+b@Marketplace.Amazon.IT.", true),
            ("a@marketplace.amazon.com.evil.example", false),
            ("a@xmarketplace.amazon.com", false),
            ("a@amazon.com", false),
        ] {
            assert_eq!(phrases.is_buyer(&Address::parse(address).unwrap()), is_buyer, "{address}");
        }
        let amazon = &phrases.marketplaces[0];
        assert!(amazon.is_vouched_by("Amazon.com") && amazon.is_vouched_by("mail.amazon.de"));
        assert!(!amazon.is_vouched_by("notamazon.com") && !amazon.is_vouched_by("amazon.com.evil.example"));
    }

    #[test]
    fn texts_compare_without_blanks_and_capitals() {
        assert_eq!(fold("N’a pas\r\n pu e\u{302}tre\u{a0}TRANSMIS\u{ad}"), fold("n'a pas pu être transmis"));
    }

    #[test]
    fn a_fault_says_where() {
        let with = |from: &str, to: &str| {
            let text = COMPILED_IN.replacen(from, to, 1);
            Phrases::parse(Path::new("n.toml"), &text).err().map(|fault| fault.to_string()).unwrap_or_default()
        };
        for (from, to, expected) in [
            ("\"marketplace.amazon.com\"", "\"amazon\"", "n.toml:7:5: `amazon` is not a domain"),
            ("\"auto-communication@amazon.com\"", "\"info@\"", "`info@` is not an address"),
            ("\"has chosen to opt out of receiving unsolicited messages\"", "\"opt out\"", "is too short"),
            ("header = \"X-", "header = \"X :", "is no name of a header field"),
            ("senders = [", "sender = [", "unknown key"),
        ] {
            assert!(with(from, to).contains(expected), "{expected}: {}", with(from, to));
        }
    }
}
