//! Mails that somebody forwards in the text of his own: what the lines above each say, and its text. Never judges whether it
//! is a notice.

use crate::learn::letter::Text;
use crate::learn::phrases::{Label, Phrases};

/// Lines above a quoted mail.
const MAX_LINES: usize = 20;

/// Lines over which one of them may be broken.
const MAX_CONTINUED: usize = 3;

/// Bytes of what stands before the colon of such a line.
const MAX_NAME: usize = 40;

/// A mail in the text of another.
#[derive(Debug, Default)]
pub struct Quoted {
    pub from: String,
    pub subject: String,
    pub date: String,
    /// Without the signs of quoting, up to the next quoted mail.
    pub text: Text,
}

/// What stands in a text.
pub enum Piece {
    /// The words above the first quoted mail, or above one whose lines are not all there.
    Own(String),
    /// A quoted mail.
    Quoted(Quoted),
}

/// A text taken apart, in order.
pub fn pieces(text: &Text, phrases: &Phrases) -> Vec<Piece> {
    let lines = lines(&text.text);
    let mut cuts: Vec<(usize, Option<(Quoted, usize)>)> = vec![(0, None)];
    let (mut at, mut announced) = (0, None);
    while at < lines.len() {
        let begin = at;
        match Block::read(&lines[at..], phrases) {
            Some(block) if block.is_whole(announced.is_some()) => {
                at += block.lines;
                cuts.push((announced.unwrap_or(begin), Some((block.quoted, at))));
                announced = None;
            }
            // No part of it is whole either.
            Some(block) => (at, announced) = (at + block.lines, None),
            None => {
                if phrases.begins_quote(lines[at].bare) {
                    announced = Some(at);
                } else if !lines[at].bare.is_empty() {
                    announced = None;
                }
                at += 1;
            }
        }
    }
    let ends: Vec<_> = cuts.iter().skip(1).map(|(start, _)| *start).chain([lines.len()]).collect();
    cuts.into_iter().zip(ends).map(|((_, block), end)| piece(block, end, &lines, text)).collect()
}

fn piece(block: Option<(Quoted, usize)>, end: usize, lines: &[Line<'_>], text: &Text) -> Piece {
    let begin = block.as_ref().map_or(0, |(_, begin)| *begin);
    let words = lines[begin..end].iter().map(|line| line.bare).collect::<Vec<_>>().join("\n");
    let Some((quoted, _)) = block else { return Piece::Own(words) };
    let offset = |at: usize| lines.get(at).map_or(text.text.len() + 1, |line| line.offset);
    let inside = |(at, _): &&(usize, String)| (offset(begin)..offset(end)).contains(at);
    let links = text.links.iter().filter(inside).cloned().collect();
    Piece::Quoted(Quoted { text: Text { text: words, links }, ..quoted })
}

/// A line about something that no list knows, as in `Pour : …`.
fn looks_like_label(line: &str) -> bool {
    line.split_once([':', '：']).is_some_and(|(name, _)| name.len() <= MAX_NAME && !name.contains(['@', '<']))
}

#[derive(Clone, Copy)]
struct Line<'a> {
    offset: usize,
    /// Without signs of quoting.
    bare: &'a str,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut offset = 0;
    let line = |line| {
        let at = offset;
        offset += str::len(line);
        Line { offset: at, bare: line.trim_start_matches(|c: char| c == '>' || c.is_whitespace()).trim_end() }
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The lines above a quoted mail.
#[derive(Default)]
struct Block {
    quoted: Quoted,
    seen: Vec<Label>,
    lines: usize,
}

impl Block {
    /// At the start of the lines, if it begins there.
    fn read(lines: &[Line<'_>], phrases: &Phrases) -> Option<Self> {
        phrases.label_of(lines[0].bare)?;
        let mut block = Self::default();
        let (mut last, mut continued) = (Label::Other, MAX_CONTINUED);
        for (at, line) in lines.iter().enumerate().take(MAX_LINES) {
            if let Some((label, value)) = phrases.label_of(line.bare) {
                // A second sender is another mail.
                if label == Label::From && block.seen.contains(&label) {
                    break;
                }
                if !block.seen.contains(&label) {
                    block.add(label, value);
                }
                block.seen.push(label);
                (last, continued) = (label, 0);
                block.lines = at + 1;
            } else if line.bare.is_empty() {
                // Where each line is a paragraph, an empty one stands between two.
                let goes_on = lines.get(at + 1).is_some_and(|next| phrases.label_of(next.bare).is_some());
                if !goes_on {
                    break;
                }
                continued = MAX_CONTINUED;
            } else if looks_like_label(line.bare) {
                (last, continued) = (Label::Other, MAX_CONTINUED);
            } else if continued < MAX_CONTINUED {
                continued += 1;
                block.add(last, line.bare);
            } else {
                break;
            }
        }
        Some(block)
    }

    fn add(&mut self, label: Label, value: &str) {
        let field = match label {
            Label::From => &mut self.quoted.from,
            Label::Subject => &mut self.quoted.subject,
            Label::Date => &mut self.quoted.date,
            Label::Other => return,
        };
        if !field.is_empty() {
            field.push(' ');
        }
        field.push_str(value);
    }

    /// It says what the lines above a mail say.
    fn is_whole(&self, announced: bool) -> bool {
        let says = |label| self.seen.contains(&label);
        says(Label::From) && says(Label::Subject) && (announced || says(Label::Date) || says(Label::Other))
    }
}
