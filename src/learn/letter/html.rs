//! What people read of an HTML text: lines, and the targets of links that write a mail. Never renders, never fetches.

use html5gum::{DefaultEmitter, HtmlString, Spanned, StartTag, Token, Tokenizer};

use crate::learn::letter::Text;

/// Begins a line, and ends one.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "blockquote",
    "body",
    "br",
    "center",
    "dd",
    "div",
    "dl",
    "dt",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "tr",
    "ul",
];

/// Parts what stands beside it.
const CELLS: &[&str] = &["td", "th", "img", "input", "option", "button"];

/// What they hold is not read.
const HIDDEN: &[&str] =
    &["head", "script", "style", "template", "title", "noembed", "noframes", "noscript", "iframe", "textarea"];

/// Links of one text.
const MAX_LINKS: usize = 1000;

/// The text of a page.
pub fn read(html: &str) -> Text {
    let mut page = Page::default();
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => page.open(&tag),
            Token::EndTag(tag) => page.close(&tag.name),
            Token::String(text) => page.add(&text),
            _ => {}
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: Text,
    /// The element whose content is not read.
    hidden: Option<Vec<u8>>,
    /// How many `pre` are open: line ends are as they are written.
    literal: usize,
    /// A space is due before the next word.
    space: bool,
}

impl Page {
    fn open(&mut self, tag: &StartTag<()>) {
        let name = tag.name.as_slice();
        if self.hidden.as_deref() == Some(b"head") && name == b"body" {
            self.hidden = None;
        }
        if self.hidden.is_some() {
            return;
        }
        if is_in(name, HIDDEN) && !tag.self_closing {
            self.hidden = Some(name.to_vec());
        }
        self.literal += usize::from(name == b"pre");
        self.part(name);
        let target = tag.attributes.get(b"href".as_slice()).map(mailto);
        if let Some(Some(target)) = target.filter(|_| self.text.links.len() < MAX_LINKS) {
            self.text.links.push((self.text.text.len(), target));
        }
    }

    fn close(&mut self, name: &HtmlString) {
        let name = name.as_slice();
        if self.hidden.as_deref() == Some(name) {
            self.hidden = None;
        }
        if self.hidden.is_none() {
            self.literal = self.literal.saturating_sub(usize::from(name == b"pre"));
            self.part(name);
        }
    }

    /// What an element parts, its text does not join: a word in one cell is no part of the word in the next.
    fn part(&mut self, name: &[u8]) {
        if is_in(name, BLOCKS) {
            self.end_line(name == b"br");
        } else if is_in(name, CELLS) {
            self.space = true;
        }
    }

    fn end_line(&mut self, even_empty: bool) {
        self.space = false;
        let text = &mut self.text.text;
        if !text.is_empty() && (even_empty || !text.ends_with('\n')) {
            text.push('\n');
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.hidden.is_some() {
            return;
        }
        for c in String::from_utf8_lossy(bytes).chars() {
            match c {
                '\n' if self.literal > 0 => self.end_line(true),
                c if c.is_whitespace() => self.space = true,
                c => {
                    let text = &mut self.text.text;
                    if std::mem::take(&mut self.space) && !text.is_empty() && !text.ends_with('\n') {
                        text.push(' ');
                    }
                    text.push(c);
                }
            }
        }
    }
}

fn is_in(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| known.as_bytes() == name)
}

/// What stands behind `mailto:`.
fn mailto(target: &Spanned<HtmlString, ()>) -> Option<String> {
    let text = String::from_utf8_lossy(target);
    let text = text.trim();
    text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("mailto:")).map(|_| text[7..].to_owned())
}
