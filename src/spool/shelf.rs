//! What lies where: the files of each message, put down, read, noted in and taken away. Blocks, so it is called where
//! blocking is allowed. Never knows when a message is due.
//!
//! A message that waits is a pair: its bytes (`ID.msg`) and its record, `ID.json`, or `ID.out` as long as an attempt is under
//! way; a new name takes no room on a full disk. A new one whose first attempt begins at once is a single file (`ID.new`), the
//! record as its first line: it costs one sync, and most never become a pair. The record is the message: it is written last
//! and removed first, so a `.msg` alone was never promised to anybody.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::{Buf, Bytes};

use super::files::{Folder, TEMPORARY};
use super::record::{Form, Record, Unreadable};
use crate::mail::{Id, Mail, Message, is_trace};

/// A record is read up to this size, in bytes: tens of thousands of recipients with what the host said to each.
const MAX_RECORD: u64 = 64 << 20;

/// What cannot be read goes into this folder in the spool.
pub const CORRUPT: &str = "corrupt";

/// The folder of a spool.
#[derive(Debug)]
pub struct Shelf {
    folder: Folder,
}

/// Why a held message cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    Record(#[from] Unreadable),
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("its record is that of another message")]
    NotItsOwn,
    #[error("its message was cut")]
    Cut,
    #[error("its message is none: a line does not end in CR LF, or is a lone dot")]
    NoMessage,
}

impl Unusable {
    /// Trouble of the disk or of the system passes, and then it is read after all.
    pub fn passes(&self) -> bool {
        let Self::Disk(error) = self else { return false };
        let is_link = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP);
        !is_link && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
    }
}

impl Shelf {
    /// Makes the folder if it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { folder: Folder::open(path)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes that may still be written here.
    pub fn free(&self) -> io::Result<u64> {
        self.folder.free()
    }

    /// Whether a file can be made here; it is gone again, or swept away at the next start.
    pub fn probe(&self) -> io::Result<()> {
        let name = format!("probe{TEMPORARY}");
        self.folder.probe(&name)?;
        self.folder.remove_if_there(&name)
    }

    /// Bytes of a message on disk, with its record where both are one file.
    pub fn size(&self, id: Id) -> io::Result<usize> {
        let size = |name: String| std::fs::metadata(self.path().join(name)).map(|meta| meta.len() as usize);
        size(message_name(id)).or_else(|_| size(record_name(id, Form::New)))
    }

    /// Takes away what was never promised; the ids of what was.
    pub fn sweep(&self) -> io::Result<Vec<Id>> {
        let (mut held, mut messages): (BTreeMap<Id, Vec<Form>>, _) = (BTreeMap::new(), Vec::new());
        for entry in std::fs::read_dir(self.path())? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if is_temporary(name) {
                self.folder.remove_if_there(name)?;
            } else if let Some((id, form)) = record_of(name) {
                held.entry(id).or_default().push(form);
            } else if let Some(id) = name.strip_suffix(".msg").and_then(Id::parse) {
                messages.push(id);
            }
        }
        for (id, forms) in &mut held {
            // Two names, for the machine died between two steps. Of both the one that rests was written last.
            forms.sort_unstable();
            for form in forms.drain(1..) {
                self.folder.remove_if_there(&record_name(*id, form))?;
            }
        }
        let is_pair = |id: &Id| held.get(id).is_some_and(|forms| forms[0] != Form::New);
        for id in messages.iter().filter(|id| !is_pair(id)) {
            self.folder.remove_if_there(&message_name(*id))?;
        }
        Ok(held.into_keys().collect())
    }

    /// Puts a new message down, in the form of its record. Returns when it is on disk; on failure it is not there.
    pub fn put(&self, mail: &Mail, record: &Record) -> io::Result<()> {
        let id = record.envelope.id;
        let put = self.lay(mail, record).and_then(|()| self.folder.sync());
        if let Err(error) = &put
            && let Err(again) = self.remove(id, record.form)
        {
            // The tool hears that it is not held.
            tracing::error!(%id, possible_duplicate = true, "not held ({error}), and cannot be taken back: {again}");
        }
        put
    }

    fn lay(&self, mail: &Mail, record: &Record) -> io::Result<()> {
        let (id, text, message) = (record.envelope.id, record.to_json(), mail.message.wire());
        let name = record_name(id, record.form);
        if record.form == Form::New {
            return self.folder.replace(&name, &[&text, b"\n", &mail.trace, message]);
        }
        self.folder.create(&message_name(id), &[&mail.trace, message])?;
        self.folder.replace(&name, &[&text])
    }

    /// A record, and for a single file what stands behind it.
    fn open_record(&self, id: Id) -> Result<(Record, Bytes), Unusable> {
        let (form, content) = under_its_name(id, |form, name| {
            let cap = if form == Form::New { u64::MAX } else { MAX_RECORD };
            self.folder.read(name, cap)
        })?;
        let (record, rest) = parted(form, content)?;
        if record.envelope.id == id { Ok((record, rest)) } else { Err(Unusable::NotItsOwn) }
    }

    /// What is known of a message.
    pub fn record(&self, id: Id) -> Result<Record, Unusable> {
        self.open_record(id).map(|(record, _)| record)
    }

    /// The message as it came in, and what is known of it.
    pub fn read(&self, id: Id) -> Result<(Mail, Record), Unusable> {
        let (record, rest) = self.open_record(id)?;
        let bytes = match record.form {
            Form::New => rest,
            Form::Rests | Form::Out => self.folder.read(&message_name(id), record.size)?,
        };
        whole(record, bytes)
    }

    /// Writes a record anew, in the form `to`: a single file becomes a pair. On failure all is as it was.
    pub fn note(&self, mail: &Mail, record: &Record, to: Form) -> io::Result<()> {
        let (id, form) = (record.envelope.id, record.form);
        if form == Form::New {
            let pair = Record { form: to, ..record.clone() };
            // Left over from a note that failed.
            self.folder.remove_if_there(&message_name(id))?;
            let laid = self.lay(mail, &pair).and_then(|()| self.folder.sync());
            if laid.is_err() {
                // The single file holds still.
                let _ = self.remove(id, to);
                return laid;
            }
            return self.folder.remove_if_there(&record_name(id, form));
        }
        self.folder.replace(&record_name(id, form), &[&record.to_json()])?;
        if to != form {
            self.folder.rename(&record_name(id, form), &record_name(id, to))?;
        }
        self.folder.sync()
    }

    /// Writes the record of a pair anew where it stands; the folder is not synced.
    pub fn note_age(&self, record: &Record) -> io::Result<()> {
        self.folder.replace(&record_name(record.envelope.id, record.form), &[&record.to_json()])
    }

    /// Says by its name that a message of a pair is under way, or that it waits. Takes no room on the disk.
    pub fn rename(&self, id: Id, from: Form, to: Form) -> io::Result<()> {
        let (from, to) = (record_name(id, from), record_name(id, to));
        self.folder.rename(&from, &to)?;
        self.folder.sync().inspect_err(|_| {
            // Not known to be on disk, so it did not happen.
            let _ = self.folder.rename(&to, &from);
        })
    }

    /// Takes a message away that is there in this form.
    pub fn erase(&self, id: Id, form: Form) -> io::Result<()> {
        self.remove(id, form)?;
        self.folder.sync()
    }

    /// Takes a message away in whatever form it is there; false where it is in none.
    pub fn erase_any(&self, id: Id) -> io::Result<bool> {
        let forms = [Form::Rests, Form::Out, Form::New];
        let was_there = forms.iter().any(|form| self.path().join(record_name(id, *form)).exists());
        forms.iter().try_for_each(|form| self.remove(id, *form))?;
        self.folder.sync()?;
        Ok(was_there)
    }

    fn remove(&self, id: Id, form: Form) -> io::Result<()> {
        self.folder.remove_if_there(&record_name(id, form))?;
        if form == Form::New { Ok(()) } else { self.folder.remove_if_there(&message_name(id)) }
    }

    /// What cannot be read does not hold up the rest.
    pub fn set_aside(&self, id: Id, error: &Unusable) {
        let place = self.path().join(CORRUPT);
        tracing::error!(%id, "held mail {id} is set aside in {}: {error}\nhint: its record says for whom it was", place.display());
        let records = [Form::Rests, Form::Out, Form::New].map(|form| record_name(id, form));
        // The record goes last: a message without one is swept away at the next start.
        for name in std::iter::once(message_name(id)).chain(records) {
            match self.folder.move_into(CORRUPT, &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%id, "set {name} aside: {error}");
                    return;
                }
                _ => {}
            }
        }
    }
}

/// The ids of all held messages, or of `which`, in the order in which they came, and their records; whether or not a relay
/// runs.
pub fn records(path: &Path, which: Option<Id>) -> io::Result<impl Iterator<Item = (Id, Result<Record, String>)>> {
    records_of(path, move |id| which.is_none_or(|which| which == id))
}

/// The same of those that came after this one.
pub fn records_after(path: &Path, after: Option<Id>) -> io::Result<impl Iterator<Item = (Id, Result<Record, String>)>> {
    records_of(path, move |id| after.is_none_or(|after| id > after))
}

fn records_of(path: &Path, wanted: impl Fn(Id) -> bool) -> io::Result<impl Iterator<Item = (Id, Result<Record, String>)>> {
    let mut ids: Vec<_> = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(record_of(entry.ok()?.file_name().to_str()?)?.0)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    ids.retain(|id| wanted(*id));
    ids.sort_unstable();
    ids.dedup();
    let path = path.to_owned();
    Ok(ids.into_iter().filter_map(move |id| {
        match under_its_name(id, |_, name| std::fs::read(path.join(name)).map(Bytes::from)) {
            // It left in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some((id, Err(error.to_string()))),
            Ok((form, content)) => Some((id, parted(form, content).map(|(record, _)| record).map_err(|error| error.to_string()))),
        }
    }))
}

/// What a single file holds, or why it cannot be used.
pub fn single(content: Bytes) -> Result<(Mail, Record), String> {
    let read = parted(Form::New, content).map_err(Unusable::from).and_then(|(record, rest)| whole(record, rest));
    read.map_err(|error| error.to_string())
}

/// The message of a record, out of the bytes that are held with it.
fn whole(record: Record, mut bytes: Bytes) -> Result<(Mail, Record), Unusable> {
    if bytes.len() as u64 != record.size || record.trace > record.size {
        return Err(Unusable::Cut);
    }
    let sound = |wire| Message::from_wire(wire).filter(|message| !message.ends_early()).ok_or(Unusable::NoMessage);
    let trace = Some(bytes.split_to(record.trace as usize)).filter(|trace| is_trace(trace)).ok_or(Unusable::NoMessage)?;
    let message = sound(bytes)?;
    Ok((Mail::new(record.envelope.clone(), trace, message), record))
}

/// The record, and what stands behind it in a single file.
fn parted(form: Form, mut content: Bytes) -> Result<(Record, Bytes), Unreadable> {
    let text = match memchr::memchr(b'\n', &content) {
        Some(end) if form == Form::New => {
            let text = content.split_to(end);
            content.advance(1);
            text
        }
        _ => content.split_to(content.len()),
    };
    Ok((Record { form, ..Record::from_json(&text)? }, content))
}

fn message_name(id: Id) -> String {
    format!("{id}.msg")
}

fn record_name(id: Id, form: Form) -> String {
    let ending = match form {
        Form::Rests => "json",
        Form::Out => "out",
        Form::New => "new",
    };
    format!("{id}.{ending}")
}

fn record_of(name: &str) -> Option<(Id, Form)> {
    let (id, ending) = name.split_once('.')?;
    let form = match ending {
        "json" => Form::Rests,
        "out" => Form::Out,
        "new" => Form::New,
        _ => return None,
    };
    Some((Id::parse(id)?, form))
}

/// Reads a record under whichever name it has. It may get another one meanwhile.
fn under_its_name<T>(id: Id, read: impl Fn(Form, &str) -> io::Result<T>) -> io::Result<(Form, T)> {
    let mut last = Err(io::ErrorKind::NotFound.into());
    for form in [Form::Rests, Form::Out, Form::New, Form::Rests] {
        last = read(form, &record_name(id, form)).map(|found| (form, found));
        if !matches!(&last, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    last
}

/// A record that was never finished; other programs' files stay.
fn is_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY).and_then(record_of).is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::mail::{Address, Client, Envelope, Outcome, Recipient, ReversePath, Stage, Status};

    fn message(number: u64) -> (Mail, Record) {
        let client = Client { helo: "tool".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let recipients = vec![Recipient::from(Address::parse("in@x.example").unwrap())];
        let (id, sender) = (Id::new(number, 1), ReversePath::Null);
        let envelope = Envelope { id, client, sender, recipients, eight_bit: false, smtputf8: false, ret: None, envid: None };
        let message = Message::from_wire("Subject: {\"version\":1}\r\n\r\n\n".replace('\n', "\r\n").replace("\r\r", "\r").into());
        let mail = Mail::new(envelope, "Received: by us\r\n".into(), message.unwrap());
        let record = Record::of(&mail, Timestamp::UNIX_EPOCH);
        (mail, record)
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let entries = std::fs::read_dir(shelf.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let home = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&home.path().join("spool")).unwrap();
        (home, shelf)
    }

    #[test]
    fn what_is_put_down_is_read_again_in_every_form_and_becomes_a_pair_when_it_must_wait() {
        for form in [Form::Rests, Form::Out, Form::New] {
            let (_home, shelf) = shelf();
            let (mail, record) = message(1);
            let record = Record { form, ..record };
            shelf.put(&mail, &record).unwrap();
            assert_eq!(names(&shelf).len(), if form == Form::New { 1 } else { 2 });
            let (found, mut noted) = shelf.read(mail.envelope.id).unwrap();
            assert_eq!((&found.trace, &found.message, &noted), (&mail.trace, &mail.message, &record), "{form:?}");
            noted.note([(0, Outcome::Deferred(Status::new(Stage::Dot, 451, "later")))]);
            noted.age = Duration::from_secs(7);
            shelf.note(&found, &noted, Form::Rests).unwrap();
            let expected = Record { form: Form::Rests, ..noted };
            let (found, noted) = shelf.read(mail.envelope.id).unwrap();
            assert_eq!((found.message, noted), (mail.message.clone(), expected), "{form:?}");
            assert_eq!(names(&shelf), ["00000000004000001.json", "00000000004000001.msg"], "{form:?}");
            assert!(shelf.erase_any(mail.envelope.id).unwrap() && !shelf.erase_any(mail.envelope.id).unwrap());
            assert!(names(&shelf).is_empty());
        }
    }

    #[test]
    fn of_two_names_the_later_one_stays() {
        let (_home, shelf) = shelf();
        for (number, forms) in [(1, &[Form::New, Form::Rests][..]), (2, &[Form::Out, Form::Rests]), (3, &[Form::New, Form::Out])]
        {
            for (at, form) in forms.iter().enumerate() {
                let (mail, record) = message(number);
                let _ = shelf.folder.remove_if_there(&message_name(mail.envelope.id));
                shelf.put(&mail, &Record { form: *form, attempts: at as u32, ..record }).unwrap();
            }
        }
        // The note of a single file that was cut short before its record.
        let (mail, record) = message(4);
        shelf.put(&mail, &Record { form: Form::New, ..record }).unwrap();
        shelf.folder.create(&message_name(mail.envelope.id), &[b"x\r\n"]).unwrap();
        let ids = shelf.sweep().unwrap();
        let found: Vec<_> =
            ids.iter().map(|id| shelf.record(*id).unwrap()).map(|record| (record.form, record.attempts)).collect();
        assert_eq!(found, [(Form::Rests, 1), (Form::Rests, 1), (Form::Out, 1), (Form::New, 0)]);
        assert_eq!(names(&shelf).len(), 7, "{:?}", names(&shelf));
    }

    #[test]
    fn a_damaged_single_file_is_set_aside_whole() {
        for damage in [&b""[..], b"torn", b"{}\nx\r\n", b"\n"] {
            let (_home, shelf) = shelf();
            let (mail, record) = message(1);
            let id = mail.envelope.id;
            shelf.put(&mail, &Record { form: Form::New, ..record }).unwrap();
            shelf.folder.replace(&record_name(id, Form::New), &[damage]).unwrap();
            let error = shelf.read(id).map(drop).unwrap_err();
            assert!(!error.passes(), "{error}");
            shelf.set_aside(id, &error);
            assert_eq!((shelf.sweep().unwrap(), names(&shelf)), (vec![], vec![CORRUPT.to_owned()]));
            assert!(shelf.path().join(CORRUPT).join(record_name(id, Form::New)).exists());
        }
        // Its message was cut, its record is sound.
        let (_home, shelf) = shelf();
        let (mail, record) = message(1);
        shelf.put(&mail, &Record { form: Form::New, size: record.size + 1, ..record }).unwrap();
        assert!(matches!(shelf.read(mail.envelope.id), Err(Unusable::Cut)));
    }

    #[test]
    fn what_can_only_half_be_set_aside_is_not_swept_away() {
        let (_home, shelf) = shelf();
        let (mail, record) = message(1);
        let id = mail.envelope.id;
        shelf.put(&mail, &record).unwrap();
        let (record, message) = (record_name(id, Form::Rests), message_name(id));
        shelf.folder.replace(&record, &[b"torn"]).unwrap();
        std::fs::create_dir_all(shelf.path().join(CORRUPT).join(&message)).unwrap();
        shelf.set_aside(id, &shelf.read(id).map(drop).unwrap_err());
        assert_eq!(shelf.sweep().unwrap(), [id]);
        assert_eq!(names(&shelf), [record, message, CORRUPT.to_owned()]);
    }
}
