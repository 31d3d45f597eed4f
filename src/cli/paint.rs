//! Standard output for people: colours where a terminal shows them and nobody has set NO_COLOR, columns below one another where
//! somebody looks; and for programs neither. Never decides what is said.

use std::io::{self, IsTerminal, Write, stderr, stdout};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// How it is with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Green.
    Good,
    /// Yellow.
    Doubtful,
    /// Red.
    Bad,
}

/// A word, coloured where colours are shown.
pub fn word(tone: Tone, text: &str) -> String {
    if AutoStream::choice(&stdout()) == ColorChoice::Never {
        return text.to_owned();
    }
    let colour = match tone {
        Tone::Good => AnsiColor::Green,
        Tone::Doubtful => AnsiColor::Yellow,
        Tone::Bad => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{text}{style:#}")
}

/// Whether what goes to standard error may be coloured.
pub fn colours_talk() -> bool {
    stderr().is_terminal() && AutoStream::choice(&stderr()) != ColorChoice::Never
}

/// A person looks at standard output.
pub fn is_seen() -> bool {
    stdout().is_terminal()
}

/// A line without what would change the terminal or turn the order of letters around, at most so many characters; letters of all
/// languages stay.
pub fn line(text: &str, max: usize) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().take(max).map(|c| if c.is_control() || turns(c) { '?' } else { c }).collect()
}

/// Rows that are looked at together, to find out how wide their columns are.
const ROWS: usize = 500;

/// A column is no wider; what is longer sticks out.
const WIDEST: usize = 60;

/// Rows of cells: with tabs between them for programs, below one another for people.
pub struct Table<W> {
    out: W,
    is_seen: bool,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl<W: Write> Table<W> {
    /// Of what goes to `out`.
    pub fn new(out: W) -> Self {
        Self::seen(out, is_seen())
    }

    fn seen(out: W, is_seen: bool) -> Self {
        Self { out, is_seen, rows: Vec::new(), widths: Vec::new() }
    }

    /// One more.
    pub fn row(&mut self, cells: &[&str]) -> io::Result<()> {
        if !self.is_seen {
            return writeln!(self.out, "{}", cells.join("\t"));
        }
        self.rows.push(cells.iter().map(|cell| line(cell, 1000)).collect());
        if self.rows.len() >= ROWS { self.lay_out() } else { Ok(()) }
    }

    /// An object for programs, in place of a row.
    pub fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        super::json_line(&mut self.out, object)
    }

    /// That was the last one.
    pub fn end(mut self) -> io::Result<()> {
        self.lay_out()?;
        self.out.flush()
    }

    fn lay_out(&mut self) -> io::Result<()> {
        let width = |cell: &String| Some(cell.chars().count()).filter(|width| *width <= WIDEST).unwrap_or_default();
        for row in &self.rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        for row in self.rows.drain(..) {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(self.out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(is_seen: bool) -> String {
        let (mut out, long) = (Vec::new(), "x".repeat(WIDEST + 1));
        let mut table = Table::seen(&mut out, is_seen);
        for row in [&["a", "bücher", ""][..], &["abc", "b", "c\x1b"], &[&long, "b", "c"]] {
            table.row(row).unwrap();
        }
        table.end().unwrap();
        String::from_utf8(out).unwrap().replace(&long, "LONG")
    }

    #[test]
    fn letters_stay_and_what_acts_on_the_terminal_does_not() {
        assert_eq!(line("jürgen@bücher.example\x1b[2J\u{202e}gpj", 100), "jürgen@bücher.example?[2J?gpj");
        assert_eq!(line("äöü", 2), "äö");
    }

    #[test]
    fn columns_stand_below_one_another_for_people_only() {
        assert_eq!(laid_out(false), "a\tbücher\t\nabc\tb\tc\x1b\nLONG\tb\tc\n");
        assert_eq!(laid_out(true), "a    bücher\nabc  b       c?\nLONG  b       c\n");
    }

    #[test]
    fn rows_are_not_all_kept() {
        let mut out = Vec::new();
        let mut table = Table::seen(&mut out, true);
        for _ in 0..ROWS {
            table.row(&["a"]).unwrap();
        }
        assert!(table.rows.is_empty());
        drop(table);
        assert_eq!(out.len(), 2 * ROWS);
    }
}
