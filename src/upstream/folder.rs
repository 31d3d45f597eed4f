//! The upstream that needs no host: a folder of `.eml` files, the envelope of each beside it as `.json`. Never
//! answers before both are on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Load, To};
use crate::mail::{Mail, Outcome, Stage, Status};

/// A folder that takes mail.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    name: String,
    last: AtomicU64,
}

impl Folder {
    /// Makes the folder if it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), name: format!("file:{}", path.display()), last: AtomicU64::new(0) })
    }

    /// `file:` and the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes one message for all recipients.
    pub async fn put(&self, to: &[To<'_>], load: &Load<'_>) -> Vec<Outcome> {
        let Mail { envelope, trace, message, .. } = load.mail;
        let recipients: Vec<_> = to.iter().map(|to| to.permit.recipient().as_str()).collect();
        let envelope = serde_json::json!({ "sender": envelope.sender.as_str(), "recipients": recipients });
        let (path, stem) = (self.path.clone(), self.stem());
        let (trace, message) = (trace.clone(), message.clone());
        let written = tokio::task::spawn_blocking(move || {
            place(&path, &format!("{stem}.json"), std::iter::once(format!("{envelope:#}\n").as_bytes()))?;
            let content = std::iter::once(&trace[..]).chain(message.content());
            place(&path, &format!("{stem}.eml"), content)?;
            File::open(&path)?.sync_all()
        });
        let outcome = match written.await {
            Ok(Ok(())) => Outcome::Delivered(Status::new(Stage::Local, 250, "2.0.0 written to the outbox")),
            Ok(Err(error)) => {
                tracing::error!("write {}: {error}\nhint: free space or mend the folder", self.path.display());
                Outcome::Deferred(Status::new(Stage::Local, 451, "4.3.1 the outbox cannot be written"))
            }
            Err(_) => Outcome::Deferred(Status::new(Stage::Local, 451, "4.3.0 the outbox failed")),
        };
        vec![outcome; to.len()]
    }

    /// Names sort by time, and no two are the same while we run.
    fn stem(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        format!("{:017}", now.max(last.unwrap_or_default() + 1))
    }
}

/// A file is there whole or not at all: temporary name, sync, rename.
fn place<'a>(folder: &Path, name: &str, mut content: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.tmp"));
    let mut file = File::create_new(&temporary)?;
    let written = content.try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
    match written.and_then(|()| fs::rename(&temporary, folder.join(name))) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}
