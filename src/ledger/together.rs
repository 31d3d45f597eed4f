//! Several logs as one, in the order of time. Never changes one. Blocks on the disk.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, sync_channel};

use super::past::{First, Found, Past};
use super::question::{Line, Question};

/// Lines of one log that may wait for those of another.
const WAITING: usize = 256;

struct Kept {
    path: PathBuf,
    line: Option<Line>,
    text: String,
    number: u64,
}

impl Kept {
    fn time(&self) -> &str {
        self.line.as_ref().map_or("", |line| &line.time)
    }
}

/// Bytes of all these logs that may answer the question.
pub fn length_of(folder: &Path, names: &[&str], question: &Question) -> io::Result<u64> {
    names.iter().map(|name| Past::of(folder, name, question).map(|past| past.length())).sum()
}

/// Hands over what is wanted from several logs, each in its order and all by time; see [`Past::search`].
pub fn search(
    folder: &Path,
    names: &[&str],
    question: &Question,
    first: First,
    passed: &AtomicU64,
    take: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    let pasts = names.iter().map(|name| Past::of(folder, name, question)).collect::<io::Result<Vec<_>>>()?;
    if let [past] = &pasts[..] {
        return past.search(question, first, passed, take);
    }
    std::thread::scope(|scope| {
        let (mut lines, mut readers) = (Vec::new(), Vec::new());
        for past in &pasts {
            let (sender, receiver) = sync_channel(WAITING);
            lines.push(receiver);
            readers.push(scope.spawn(move || {
                past.search(question, first, passed, &mut |found| {
                    let Found { path, line, text, number } = found;
                    let kept = Kept { path: path.to_owned(), line, text: text.to_owned(), number };
                    if sender.send(kept).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })
            }));
        }
        merge(&lines, first, take);
        drop(lines);
        let ended =
            readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader has died"))));
        ended.collect::<io::Result<Vec<()>>>().map(drop)
    })
}

fn merge(lines: &[Receiver<Kept>], first: First, take: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>) {
    let mut next: Vec<Option<Kept>> = lines.iter().map(|lines| lines.recv().ok()).collect();
    loop {
        let waiting = next.iter().enumerate().filter_map(|(at, kept)| Some((at, kept.as_ref()?.time())));
        let chosen = match first {
            First::Oldest => waiting.min_by(|(_, a), (_, b)| a.cmp(b)),
            First::Newest => waiting.max_by(|(_, a), (_, b)| a.cmp(b)),
        };
        let Some(at) = chosen.map(|(at, _)| at) else { return };
        let Some(Kept { path, line, text, number }) = std::mem::replace(&mut next[at], lines[at].recv().ok()) else { return };
        if take(Found { path: &path, line, text: &text, number }).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_logs_come_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, days: &[u32]| {
            let line = |day: &u32| format!("{{\"time\":\"2026-11-{day:02}T00:00:00Z\",\"id\":\"{name}{day}\"}}\n");
            std::fs::write(folder.path().join(format!("{name}.jsonl")), days.iter().map(line).collect::<String>()).unwrap();
        };
        write("sent", &[1, 4, 5]);
        write("suppressed", &[2, 3, 6]);
        let found = |first, count| {
            let mut ids = Vec::new();
            search(folder.path(), &["sent", "suppressed"], &Question::default(), first, &AtomicU64::new(0), &mut |found| {
                ids.push(found.line.unwrap().id);
                if ids.len() == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            ids
        };
        assert_eq!(found(First::Oldest, 9), ["sent1", "suppressed2", "suppressed3", "sent4", "sent5", "suppressed6"]);
        assert_eq!(found(First::Newest, 2), ["suppressed6", "sent5"]);
    }
}
