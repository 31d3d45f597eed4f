//! A mail taken apart: who it is from, what its fields and its texts say, which mails it brings along. Capped in every
//! direction, for anybody may have written it. Never decides what it is.

use jiff::Timestamp;
use mail_parser::decoders::html::html_to_text;
use mail_parser::{Address as Mailboxes, HeaderName, HeaderValue, Message, MessageParser, MimeHeaders, PartType};

use crate::mail::{Address, clean};

/// What follows is not looked at: notices are short, and in reports the part for machines comes before the original. Bytes.
const LOOKED_AT: usize = 2 << 20;

/// A mail with more parts is built to be slow, or deep.
const MAX_PARTS: usize = 200;

/// Texts are looked at up to here, all together; bytes.
const MAX_TEXT: usize = 512 << 10;

/// Mails that one mail brings along.
const MAX_ATTACHED: usize = 8;

/// A mail that was taken apart.
#[derive(Clone, Copy)]
pub struct Letter<'a>(&'a Message<'a>);

/// Who a mail says it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// One mailbox.
    One(Address),
    /// Nobody.
    Nobody,
    /// Two of them, a group, or something that is no address: whose mail it is cannot be told.
    Unclear,
}

/// Takes a mail apart; `None` where that cannot be done, or had better not be.
pub fn taken_apart(mail: &[u8]) -> Option<Message<'_>> {
    let mail = &mail[..mail.len().min(LOOKED_AT)];
    let named = mail.to_ascii_lowercase();
    if memchr::memmem::find_iter(&named, b"content-type").count() > MAX_PARTS {
        return None;
    }
    // What a mail program or a mailbox file puts in front of a mail.
    let mail = match mail.strip_prefix(b"From ") {
        Some(rest) => memchr::memchr(b'\n', rest).map_or(mail, |end| &rest[end + 1..]),
        None => mail,
    };
    MessageParser::default().parse(mail)
}

impl<'a> Letter<'a> {
    /// Of a mail that was taken apart.
    pub fn of(message: &'a Message<'a>) -> Self {
        Self(message)
    }

    /// From its From field.
    pub fn from(self) -> From {
        let mut fields = self.0.headers().iter().filter(|header| header.name == HeaderName::From);
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return if self.0.from().is_some() { From::Unclear } else { From::Nobody };
        };
        let HeaderValue::Address(Mailboxes::List(mailboxes)) = &field.value else { return From::Unclear };
        let [mailbox] = &mailboxes[..] else { return From::Unclear };
        let address = mailbox.address.as_deref().and_then(|text| Address::parse(text.trim()).ok());
        address.filter(|address| !address.routes_on()).map_or(From::Unclear, From::One)
    }

    /// All fields of a name, unfolded, blanks around them gone.
    pub fn fields(self, name: &str) -> Vec<String> {
        let named = self.0.headers_raw().filter(|(found, _)| found.trim().eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.replace(['\r', '\n'], "").trim().to_owned()).collect()
    }

    /// Decoded.
    pub fn subject(self) -> &'a str {
        self.0.subject().unwrap_or_default()
    }

    /// Without its angle brackets.
    pub fn message_id(self) -> Option<String> {
        self.0.message_id().map(|id| clean(id, 300))
    }

    /// When it was written, as it says.
    pub fn sent(self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.date()?.to_timestamp()).ok()
    }

    /// What a person reads: each text as it is, HTML as text.
    pub fn texts(self) -> Vec<String> {
        let mut left = MAX_TEXT;
        let texts = self.bodies().map(|body| match body {
            PartType::Html(html) => html_to_text(capped(html, &mut left)),
            PartType::Text(text) => capped(text, &mut left).to_owned(),
            _ => String::new(),
        });
        texts.collect()
    }

    /// The HTML itself, for what stands in its links.
    pub fn htmls(self) -> Vec<&'a str> {
        let mut left = MAX_TEXT;
        let htmls = self.bodies().filter_map(|body| if let PartType::Html(html) = body { Some(html) } else { None });
        htmls.map(|html| capped(html, &mut left)).collect()
    }

    fn bodies(self) -> impl Iterator<Item = &'a PartType<'a>> {
        let parts = self.0.parts.iter().filter(|part| part.attachment_name().is_none());
        parts.map(|part| &part.body).filter(|body| matches!(body, PartType::Text(_) | PartType::Html(_)))
    }

    /// Parts of a type, as in `message/delivery-status`.
    pub fn parts(self, of_type: &str) -> Vec<String> {
        let is_type = |part: &&mail_parser::MessagePart<'_>| {
            let kind = part.content_type().map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()));
            kind.is_some_and(|kind| kind.eq_ignore_ascii_case(of_type))
        };
        self.0.parts.iter().filter(is_type).map(|part| String::from_utf8_lossy(part.contents()).into_owned()).collect()
    }

    /// `report-type` of a `multipart/report`, in small letters (RFC 6522 3).
    pub fn report_type(self) -> Option<String> {
        let kind = self.0.content_type()?;
        let is_report = kind.ctype().eq_ignore_ascii_case("multipart") && kind.subtype()?.eq_ignore_ascii_case("report");
        kind.attribute("report-type").filter(|_| is_report).map(str::to_ascii_lowercase)
    }

    /// The mails that it brings along as they were.
    pub fn attached(self) -> impl Iterator<Item = &'a Message<'a>> {
        let mails =
            self.0.parts.iter().filter_map(|part| if let PartType::Message(mail) = &part.body { Some(mail) } else { None });
        mails.take(MAX_ATTACHED)
    }

    /// The same for mails in files, `.eml`; still to be taken apart.
    pub fn attached_files(self) -> impl Iterator<Item = &'a [u8]> {
        let files = self.0.parts.iter().filter(|part| {
            let name = part.attachment_name().unwrap_or_default();
            !part.is_message() && name.get(name.len().saturating_sub(4)..).is_some_and(|end| end.eq_ignore_ascii_case(".eml"))
        });
        files.map(|part| part.contents()).take(MAX_ATTACHED)
    }
}

/// As much of it as may still be looked at.
fn capped<'t>(text: &'t str, left: &mut usize) -> &'t str {
    let end = (0..=text.len().min(*left)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    *left -= end;
    &text[..end]
}
