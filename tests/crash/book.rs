//! A record that a crash cannot take back: a line is on disk before anybody acts on it. Never rewritten.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

pub struct Book<T> {
    pages: Mutex<(File, Vec<T>)>,
}

impl<T: Clone + Display> Book<T> {
    pub fn open(path: &Path) -> Self {
        Self { pages: Mutex::new((File::create(path).unwrap(), Vec::new())) }
    }

    /// Returns when the lines are on disk.
    pub fn write(&self, entries: &[T]) {
        let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        let (file, all) = &mut *self.pages.lock().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file.sync_data().unwrap();
        all.extend_from_slice(entries);
    }

    pub fn entries(&self) -> Vec<T> {
        self.pages.lock().unwrap().1.clone()
    }
}
