//! The manual page of a file that people edit, made of the file itself: its keys, their defaults, and the comments above them.
//! Never adds a word about a key.

use clap_mangen::roff::{Roff, bold, roman};

use super::{MANUAL, NO_DATE, SOURCE, references};

/// A file in which every key stands at its default below a comment that explains it.
pub struct Settings {
    pub name: &'static str,
    /// In a few words.
    pub what: &'static str,
    pub text: &'static str,
}

/// A comment, taken apart: text that runs on, and what is laid out in columns.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Prose(String),
    Term(String, String),
}

/// What one comment is about.
#[derive(Debug, Default, PartialEq, Eq)]
struct Item {
    said: Vec<Said>,
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    name: String,
    value: String,
    /// It stands in a comment: what it says is an example.
    is_example: bool,
}

/// A table of the file; the first one has no name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    name: String,
    is_example: bool,
    items: Vec<Item>,
}

/// Reads a file line by line.
#[derive(Default)]
struct Reader {
    tables: Vec<Table>,
    table: Table,
    item: Item,
}

impl Settings {
    pub fn page(&self) -> String {
        let (preface, tables) = read(self.text);
        let mut roff = Roff::new();
        roff.control("TH", [self.name, "5", NO_DATE, SOURCE, MANUAL]);
        roff.control("SH", ["NAME"]).text([roman(format!("{} - {}", self.name, self.what))]);
        roff.control("SH", ["DESCRIPTION"]);
        say(&mut roff, &preface.said);
        for table in &tables {
            roff.control("SH", [if table.name.is_empty() { "KEYS" } else { &table.name }]);
            for item in &table.items {
                item.write(&mut roff);
            }
        }
        roff.control("SH", ["SEE ALSO"]).text(references(&[("optout-relay", "1")]));
        roff.render()
    }
}

impl Item {
    fn write(&self, roff: &mut Roff) {
        for (at, key) in self.keys.iter().enumerate() {
            roff.control(if at == 0 { "TP" } else { "TQ" }, []);
            let example = if key.is_example { "   (example)" } else { "" };
            roff.text([bold(key.name.as_str()), roman(format!(" = {}{example}", key.value))]);
        }
        say(roff, &self.said);
    }
}

/// Terms that follow one another are one list.
fn say(roff: &mut Roff, said: &[Said]) {
    for run in said.chunk_by(|one, next| matches!((one, next), (Said::Term(..), Said::Term(..)))) {
        let is_list = matches!(run, [Said::Term(..), ..]);
        if is_list {
            roff.control("RS", []);
        }
        for part in run {
            match part {
                Said::Prose(text) => roff.text([roman(text.as_str())]),
                Said::Term(term, meaning) => roff.control("TP", []).text([roman(term.as_str())]).text([roman(meaning.as_str())]),
            };
        }
        if is_list {
            roff.control("RE", []);
        }
    }
}

/// The comment at the head of the file, and its tables.
fn read(text: &str) -> (Item, Vec<Table>) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut reader = Reader::default();
    head.lines().for_each(|line| reader.line(line));
    let preface = std::mem::take(&mut reader.item);
    body.lines().for_each(|line| reader.line(line));
    reader.end_item();
    reader.end_table(String::new(), false);
    reader.tables.retain(|table| !table.items.is_empty());
    (preface, reader.tables)
}

impl Reader {
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.end_item();
        }
        let comment = line.strip_prefix('#').map(|comment| comment.strip_prefix(' ').unwrap_or(comment));
        let bare = comment.unwrap_or(line);
        if comment.is_none() && bare.starts_with('[') || bare.starts_with("[[") {
            self.end_table(bare.to_owned(), comment.is_some());
        } else if let Some(key) = Key::of(bare, comment.is_some() && !self.table.is_example) {
            self.key(key);
        } else if let Some(comment) = comment {
            self.comment(comment);
        } else if let Some(key) = self.item.keys.last_mut() {
            // A value over several lines.
            key.value.push_str(line.trim());
        }
    }

    fn key(&mut self, (key, beside): (Key, Option<String>)) {
        if let Some(beside) = beside {
            if !self.item.keys.is_empty() {
                self.end_item();
            }
            self.item.keys.push(key);
            self.item.said.push(Said::Prose(beside));
            return self.end_item();
        }
        self.item.keys.push(key);
    }

    fn comment(&mut self, comment: &str) {
        if !self.item.keys.is_empty() {
            self.end_item();
        }
        let said = &mut self.item.said;
        let fields: Vec<_> = comment.split("  ").map(str::trim).filter(|field| !field.is_empty()).collect();
        match (&fields[..], said.last_mut()) {
            ([more], Some(Said::Term(_, meaning))) if comment.starts_with(' ') => meaning.extend([" ", *more]),
            ([term, meaning], _) => said.push(Said::Term((*term).to_owned(), (*meaning).to_owned())),
            ([lead, term, meaning], _) => {
                said.push(Said::Prose((*lead).to_owned()));
                said.push(Said::Term((*term).to_owned(), (*meaning).to_owned()));
            }
            _ => said.push(Said::Prose(comment.trim().to_owned())),
        }
    }

    fn end_item(&mut self) {
        let item = std::mem::take(&mut self.item);
        if item != Item::default() {
            self.table.items.push(item);
        }
    }

    /// What was said last of all and names no key belongs to the next table.
    fn end_table(&mut self, name: String, is_example: bool) {
        let intro = if self.item.keys.is_empty() { std::mem::take(&mut self.item) } else { Item::default() };
        self.end_item();
        let next = Table { name, is_example, items: Vec::new() };
        self.tables.push(std::mem::replace(&mut self.table, next));
        if intro != Item::default() {
            self.table.items.push(intro);
        }
    }
}

impl Key {
    /// `name = value`, and what stands beside it in a comment of its own.
    fn of(line: &str, is_example: bool) -> Option<(Self, Option<String>)> {
        let (name, value) = line.split_once('=')?;
        let name = name.trim_end();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let (value, beside) = match value.split_once("  #") {
            Some((value, beside)) => (value.trim(), Some(beside.trim().to_owned())),
            None => (value.trim(), None),
        };
        is_name.then(|| (Self { name: name.to_owned(), value: value.to_owned(), is_example }, beside))
    }
}

#[cfg(test)]
mod tests {
    use super::super::FILES;
    use super::*;

    /// As the page is read: without what is there for the typesetter only.
    fn plain(page: &str) -> String {
        let bare = page.replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\&", "");
        bare.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\")
    }

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| c.is_whitespace() || c == '#').filter(|word| !word.is_empty())
    }

    #[test]
    fn no_word_of_the_file_is_missing_on_its_page() {
        let mut seen = 0;
        for file in &FILES {
            let page = plain(&file.page());
            for word in words(file.text) {
                // A value over several lines is written on one.
                let is_there =
                    words(&page).filter(|there| *there == word).count() >= words(file.text).filter(|w| *w == word).count();
                assert!(is_there || page.contains(&format!("[{word}")) || word == "]" || word == "[", "{}: {word}", file.name);
                seen += 1;
            }
        }
        assert!(seen > 1000, "{seen}");
    }

    #[test]
    fn every_key_has_a_place_of_its_own() {
        let mut seen = 0;
        for file in &FILES {
            let page = file.page();
            let shipped: toml::Table = file.text.parse().unwrap();
            let mut tables = vec![("KEYS".to_owned(), shipped)];
            while let Some((name, table)) = tables.pop() {
                let section = page.split(&format!("\n.SH {name}\n")).nth(1).unwrap_or_else(|| panic!("{}: {name}", file.name));
                let section = section.split("\n.SH ").next().unwrap();
                for (key, value) in table {
                    match value {
                        toml::Value::Table(below) => {
                            let name = name.trim_matches(['[', ']']).replace("KEYS", "");
                            let below_name = format!("[{name}{}{key}]", if name.is_empty() { "" } else { "." });
                            tables.push((below_name, below));
                        }
                        _ => {
                            let tag = format!("\n\\fB{key}\\fR = ");
                            assert_eq!(section.matches(&tag).count(), 1, "{}: {name}: {key}", file.name);
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn a_comment_is_taken_apart() {
        let text = "# Head.\n\n# One:\n#   \"a\"  first, and\n#        on\n#   \"b\"  second\none = \"a\"\n# two = 2\n\n[table]\n# Two.\nthree = [\n  3,\n]\nfour = 4\n\n# Form.\n# [[entry]]\n# five = 5   # beside\n";
        let (preface, tables) = read(text);
        let prose = |text: &str| Said::Prose(text.to_owned());
        let term = |term: &str, meaning: &str| Said::Term(term.to_owned(), meaning.to_owned());
        let key = |name: &str, value: &str, is_example| Key { name: name.to_owned(), value: value.to_owned(), is_example };
        let table = |name: &str, is_example, items| Table { name: name.to_owned(), is_example, items };
        assert_eq!(preface.said, [prose("Head.")]);
        let one = Item {
            said: vec![prose("One:"), term("\"a\"", "first, and on"), term("\"b\"", "second")],
            keys: vec![key("one", "\"a\"", false), key("two", "2", true)],
        };
        let two = Item { said: vec![prose("Two.")], keys: vec![key("three", "[3,]", false), key("four", "4", false)] };
        let form = Item { said: vec![prose("Form.")], keys: vec![] };
        let five = Item { said: vec![prose("beside")], keys: vec![key("five", "5", false)] };
        assert_eq!(
            tables,
            [table("", false, vec![one]), table("[table]", false, vec![two]), table("[[entry]]", true, vec![form, five])]
        );
    }
}
