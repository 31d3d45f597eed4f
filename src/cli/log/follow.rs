//! Lines as they are written: the files in use, read on, also when another takes their place. Never changes one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::Failure;
use crate::config::Config;
use crate::ledger::{Line, Question};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);

/// The ends of logs, from where they were when it was made.
pub struct Tail(Vec<End>);

struct End {
    path: PathBuf,
    file: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Tail {
    pub fn new(config: &Config, names: &[&str]) -> Self {
        let end = |name: &&str| {
            let mut end = End { path: config.logs().join(format!("{name}.jsonl")), file: None, line: Vec::new() };
            end.open(SeekFrom::End(0));
            end
        };
        Self(names.iter().map(end).collect())
    }

    /// Ends only by a signal, or when nobody reads any more.
    pub fn follow(mut self, question: &Question, take: &mut dyn FnMut(&Line, &str) -> io::Result<()>) -> Result<(), Failure> {
        loop {
            for end in &mut self.0 {
                end.read(question, take)?;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl End {
    fn open(&mut self, from: SeekFrom) {
        // A log that is not there yet may come.
        self.file = File::open(&self.path).ok().map(BufReader::new);
        if let Some(file) = &mut self.file {
            let _ = file.seek(from);
        }
    }

    fn read(&mut self, question: &Question, take: &mut dyn FnMut(&Line, &str) -> io::Result<()>) -> io::Result<()> {
        loop {
            while let Some(file) = &mut self.file
                && file.read_until(b'\n', &mut self.line)? > 0
            {
                // Half a line: the rest comes.
                let Some(text) = self.line.strip_suffix(b"\n") else { break };
                if let Ok(Some(line)) = question.fits(text) {
                    take(&line, &String::from_utf8_lossy(text))?;
                }
                self.line.clear();
            }
            let same = |file: &BufReader<File>| {
                let inode = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
                Some(inode(file.get_ref().metadata().ok()?) == inode(std::fs::metadata(&self.path).ok()?))
            };
            if self.file.as_ref().is_some_and(|file| same(file) != Some(false)) || !self.path.exists() {
                return Ok(());
            }
            self.line.clear();
            self.open(SeekFrom::Start(0));
            if self.file.is_none() {
                return Ok(());
            }
        }
    }
}
