//! The file that says what notices look like, read. Never writes, never reads a mail.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::learn::phrases::{Belief, Company, Fingerprint, Label, Marketplace, Phrases, Place, Quoting, Sender, fold};
use crate::mail::{Address, domain_key};
use crate::place::{Fault, line_and_column, shown};

/// What the relay has built in.
const COMPILED: &str = include_str!("../../../config/notices.toml");

/// Letters of a clause, without spaces. A shorter one stands in many a mail.
const SHORTEST: usize = 8;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    company: Vec<Spanned<CompanyTable>>,
    fingerprint: Vec<Spanned<FingerprintTable>>,
    forwarded: ForwardedTable,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CompanyTable {
    name: Option<Spanned<String>>,
    senders: Vec<Spanned<String>>,
    sender_domains: Vec<Spanned<String>>,
    vouched_by: Vec<Spanned<String>>,
    header: Option<Spanned<String>>,
    opted_out: Vec<Spanned<String>>,
    marketplace_header: Option<Spanned<String>>,
    marketplaces: Vec<Spanned<MarketplaceTable>>,
    others: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MarketplaceTable {
    name: Option<Spanned<String>>,
    buyers: Option<Spanned<String>>,
    id: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FingerprintTable {
    language: Option<Spanned<String>>,
    subject: Option<Spanned<String>>,
    text: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ForwardedTable {
    begins: Vec<Spanned<String>>,
    from: Vec<Spanned<String>>,
    subject: Vec<Spanned<String>>,
    date: Vec<Spanned<String>>,
    others: Vec<Spanned<String>>,
}

impl Phrases {
    /// Those that are built in.
    pub fn compiled() -> Self {
        // A test holds the file to being one; without it nothing would be recognised, which harms nobody.
        Self::parse(Path::new("config/notices.toml"), COMPILED).unwrap_or_else(|_| Self::none())
    }

    /// Those of a file, in the place of what is built in.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let document: Document = toml::from_str(text).map_err(|e| Fault::of_toml(path, text, &e))?;
        let mut reader = Reader { path, text, phrases: Self::none() };
        for company in document.company {
            reader.company(company)?;
        }
        for fingerprint in document.fingerprint {
            reader.fingerprint(fingerprint)?;
        }
        reader.forwarded(document.forwarded)?;
        if reader.phrases.companies.is_empty() {
            let hint = "begin one with [[company]]; to have what is built in, take learn.notices out of the configuration";
            return Err(Fault::of_file(path, "names no company whose notices are known").hint(hint));
        }
        Ok(reader.phrases)
    }

    fn none() -> Self {
        Self {
            companies: Vec::new(),
            senders: HashMap::new(),
            marketplaces: HashMap::new(),
            fingerprints: Vec::new(),
            quoting: Quoting { begins: Vec::new(), labels: HashMap::new() },
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    phrases: Phrases,
}

impl Reader<'_> {
    fn fault(&self, place: &Range<usize>, message: impl std::fmt::Display) -> Fault {
        let (line, column) = line_and_column(self.text, place);
        Fault { line, column, ..Fault::of_file(self.path, message) }
    }

    /// The text of a key that a table must have.
    fn wanted(
        &self,
        whole: &Range<usize>,
        key: &str,
        text: Option<Spanned<String>>,
        example: &str,
    ) -> Result<Spanned<String>, Fault> {
        let missing = || Fault { column: 0, ..self.fault(whole, format_args!("`{key}` is missing")) };
        let text = text.ok_or_else(|| missing().hint(format!("add it, as in {key} = \"{example}\"")))?;
        if text.as_ref().trim().is_empty() {
            return Err(self.fault(&text.span(), format_args!("`{key}` is empty")).hint(format!("as in {key} = \"{example}\"")));
        }
        Ok(text)
    }

    fn company(&mut self, table: Spanned<CompanyTable>) -> Result<(), Fault> {
        let (whole, table) = (table.span(), table.into_inner());
        let name = self.wanted(&whole, "name", table.name, "Amazon")?.into_inner();
        self.senders(&whole, table.senders, table.sender_domains)?;
        let header = table.header.map(|header| self.field_name(header)).transpose()?;
        let marketplace_header = table.marketplace_header.map(|header| self.field_name(header)).transpose()?;
        let marketplaces = self.marketplaces(table.marketplaces)?;
        for value in &table.opted_out {
            if table.others.contains_key(value.as_ref()) {
                let message = format_args!("{} cannot mean an opt-out and something else", shown(value.as_ref()));
                return Err(self.fault(&value.span(), message).hint("take it out of `opted_out` or of `others`"));
            }
        }
        if header.is_some() && table.opted_out.is_empty() {
            let fault = Fault { column: 0, ..self.fault(&whole, "`header` is there, but nothing that it says of an opt-out") };
            return Err(fault.hint("add `opted_out`, as in opted_out = [\"BUYER_OPTED_OUT\"]"));
        }
        let vouched_by = table.vouched_by.into_iter().map(|domain| self.domain(domain)).collect::<Result<_, _>>()?;
        let opted_out = table.opted_out.into_iter().map(|value| value.into_inner().trim().to_owned()).collect();
        let others = table.others;
        self.phrases.companies.push(Company { name, header, opted_out, others, marketplace_header, marketplaces, vouched_by });
        Ok(())
    }

    fn senders(
        &mut self,
        whole: &Range<usize>,
        senders: Vec<Spanned<String>>,
        domains: Vec<Spanned<String>>,
    ) -> Result<(), Fault> {
        if senders.is_empty() && domains.is_empty() {
            let fault = Fault { column: 0, ..self.fault(whole, "the company sends from nowhere") };
            return Err(fault.hint("add `senders`, as in senders = [\"auto-communication@amazon.com\"]"));
        }
        let company = self.phrases.companies.len();
        for text in senders {
            let address = Address::parse(text.as_ref()).ok();
            let Some(address) = address.filter(|address| address.as_str().is_ascii() && !address.domain().is_empty()) else {
                let fault = self.fault(&text.span(), format_args!("{} is not an address", shown(text.as_ref())));
                return Err(fault.hint("as in \"auto-communication@amazon.com\"; whole domains go into `sender_domains`"));
            };
            let sender = Sender { company, belief: Belief::Wholly };
            self.sender(address.as_str().to_ascii_lowercase(), sender, &text.span())?;
        }
        for text in domains {
            let place = text.span();
            let domain = self.domain(text)?;
            self.sender(domain, Sender { company, belief: Belief::ByHeader }, &place)?;
        }
        Ok(())
    }

    /// Whoever buys must not be believed as a company is.
    fn sender(&mut self, name: String, sender: Sender, place: &Range<usize>) -> Result<(), Fault> {
        let domain = name.rsplit('@').next().unwrap_or_default();
        if self.phrases.marketplaces.contains_key(domain) {
            return Err(self.of_both(domain, place));
        }
        self.phrases.senders.insert(name, sender);
        Ok(())
    }

    fn of_both(&self, domain: &str, place: &Range<usize>) -> Fault {
        self.fault(place, format_args!("{} is a domain of buyers, and of a sender", shown(domain)))
            .hint("a buyer writes from there too, and must not be believed: take the sender out")
    }

    fn marketplaces(&mut self, tables: Vec<Spanned<MarketplaceTable>>) -> Result<Vec<Marketplace>, Fault> {
        let company = self.phrases.companies.len();
        let mut marketplaces = Vec::with_capacity(tables.len());
        for (marketplace, table) in tables.into_iter().enumerate() {
            let (whole, table) = (table.span(), table.into_inner());
            let name = self.wanted(&whole, "name", table.name, "amazon.it")?.into_inner();
            let buyers = self.wanted(&whole, "buyers", table.buyers, "marketplace.amazon.it")?;
            let place = buyers.span();
            let domain = self.domain(buyers)?;
            if self.phrases.senders.keys().any(|sender| sender.rsplit('@').next() == Some(&*domain)) {
                return Err(self.of_both(&domain, &place));
            }
            if self.phrases.marketplaces.insert(domain.clone(), Place { company, marketplace }).is_some() {
                let fault = self.fault(&place, format_args!("{} stands here for the second time", shown(&domain)));
                return Err(fault.hint("delete one of the two"));
            }
            marketplaces.push(Marketplace { name, id: table.id.map(Spanned::into_inner) });
        }
        Ok(marketplaces)
    }

    fn fingerprint(&mut self, table: Spanned<FingerprintTable>) -> Result<(), Fault> {
        let (whole, table) = (table.span(), table.into_inner());
        let language = self.wanted(&whole, "language", table.language, "de")?.into_inner();
        let subject = self.wanted(&whole, "subject", table.subject, "could not be delivered")?;
        let text = self.wanted(&whole, "text", table.text, "has chosen to opt out of receiving unsolicited messages")?;
        let clause = |text: Spanned<String>| {
            let folded = fold(text.as_ref());
            let short = || self.fault(&text.span(), format_args!("{} is too short to know a notice by", shown(text.as_ref())));
            let letters = folded.chars().count();
            (letters >= SHORTEST)
                .then_some(folded)
                .ok_or_else(|| short().hint("copy a whole clause, which stands in no other mail"))
        };
        let fingerprint = Fingerprint { language, subject: clause(subject)?, text: clause(text)? };
        self.phrases.fingerprints.push(fingerprint);
        Ok(())
    }

    fn forwarded(&mut self, table: ForwardedTable) -> Result<(), Fault> {
        for line in table.begins {
            let folded = self.words(&line)?;
            self.phrases.quoting.begins.push(folded);
        }
        let labels =
            [(Label::From, table.from), (Label::Subject, table.subject), (Label::Date, table.date), (Label::Other, table.others)];
        for (label, texts) in labels {
            for text in texts {
                let folded = self.words(&text)?;
                if self.phrases.quoting.labels.insert(folded, label).is_some_and(|before| before != label) {
                    let fault = self.fault(&text.span(), format_args!("{} stands here for two things", shown(text.as_ref())));
                    return Err(fault.hint("leave it in one of `from`, `subject`, `date` and `others`"));
                }
            }
        }
        Ok(())
    }

    /// A line or a label of a quoted mail, folded.
    fn words(&self, text: &Spanned<String>) -> Result<String, Fault> {
        let folded = fold(text.as_ref().trim_matches(|c: char| !c.is_alphanumeric()));
        let none = || self.fault(&text.span(), format_args!("{} holds no word", shown(text.as_ref())));
        (!folded.is_empty()).then_some(folded).ok_or_else(|| none().hint("as mail programs write it, without dashes and colon"))
    }

    /// A domain in comparing form.
    fn domain(&self, text: Spanned<String>) -> Result<String, Fault> {
        let domain = text.as_ref().trim();
        let is_domain = domain.contains('.') && !domain.contains('[') && Address::parse(&format!("x@{domain}")).is_ok();
        let none = || self.fault(&text.span(), format_args!("{} is not a domain", shown(text.as_ref())));
        is_domain
            .then(|| domain_key(domain).into_owned())
            .ok_or_else(|| none().hint("as in \"amazon.it\", without @ and without *"))
    }

    /// The name of a field (RFC 5322 2.2).
    fn field_name(&self, text: Spanned<String>) -> Result<String, Fault> {
        let name = text.as_ref().trim().trim_end_matches(':');
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        let none = || self.fault(&text.span(), format_args!("{} is not the name of a field", shown(text.as_ref())));
        is_name.then(|| name.to_owned()).ok_or_else(|| none().hint("what stands before the colon in a mail's header"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_what_the_file_says() {
        let phrases = Phrases::parse(Path::new("config/notices.toml"), COMPILED).unwrap();
        let company = &phrases.companies[0];
        assert_eq!((phrases.companies.len(), company.marketplaces.len(), phrases.marketplaces.len()), (1, 22, 22));
        assert_eq!((phrases.senders.len(), company.vouched_by.len()), (44, 22));
        let languages: Vec<_> = phrases.fingerprints.iter().map(|known| known.language.as_str()).collect();
        assert_eq!(languages, ["en", "it", "fr", "ja"]);
        assert_eq!(Phrases::compiled().companies.len(), 1);
    }

    #[test]
    fn a_language_and_a_marketplace_are_added_without_a_build() {
        let text = "[[company]]\nname = \"Other\"\nsenders = [\"News@Other.example\"]\n\
            marketplaces = [{ name = \"other\", buyers = \"Buyers.Other.example\" }]\n\
            [[fingerprint]]\nlanguage = \"de\"\nsubject = \"nicht zugestellt\"\ntext = \"keine unverlangten Nachrichten\"\n";
        let phrases = Phrases::parse(Path::new("n.toml"), text).unwrap();
        assert_eq!(phrases.marketplace_of("buyers.other.example"), Some("other"));
        assert_eq!(
            phrases.language_of(&fold("wurde nicht  zugestellt"), &fold("wünscht keine unverlangten\nNachrichten.")),
            Some("de")
        );
        assert_eq!(phrases.company_of(&Address::parse("news@other.example").unwrap()).unwrap().0.name, "Other");
    }
}
