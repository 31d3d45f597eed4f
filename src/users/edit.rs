//! Changes the users on disk for their owner: adds one, gives one another password, takes one out. Never touches the others.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::file::{Entry, parse};
use super::hash::Hash;
use crate::disk::{EditError, append, cut_tables, edit};

/// The owner writes, the group reads: whoever reads hashes can guess passwords.
const RIGHTS: u32 = 0o640;

/// What became of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// There was none of that name.
    New,
    /// There was one, and this is the password now.
    Replaced,
    /// There is one, who was not to be replaced: nothing has changed.
    Stands,
}

/// Adds a user at the end of the file, which is made where there is none. Of one who is to be replaced the senders stay
/// unless others are given.
pub fn add(path: &Path, name: &str, hash: &Hash, senders: &[String], replace: bool) -> Result<Added, EditError> {
    create(path).map_err(|e| EditError::Write(path.to_owned(), e))?;
    edit(path, parse, |document, known| {
        if !known.iter().any(|user| user.name == name) {
            append(document, "user", table(name, hash, senders));
            return Added::New;
        }
        match find(document, name).filter(|_| replace) {
            Some(table) => {
                put(table, "password", hash.written().into());
                if !senders.is_empty() {
                    put(table, "senders", Value::Array(senders.iter().collect()));
                }
                Added::Replaced
            }
            None => Added::Stands,
        }
    })
}

/// Takes a user out; whether there was one.
pub fn remove(path: &Path, name: &str) -> Result<bool, EditError> {
    edit(path, parse, |document, known: &Vec<Entry>| {
        cut_tables(document, "user", |table| is_named(table, name));
        known.iter().any(|user| user.name == name)
    })
}

/// An empty file for those who may write in its folder, read by the folder's group; one that is there stays as it is.
fn create(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).create_new(true).mode(RIGHTS).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        file => file?,
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Without the right to do so it stays with our group.
    let _ = fchown(&file, None, Some(std::fs::metadata(folder)?.gid()));
    file.sync_all()
}

fn table(name: &str, hash: &Hash, senders: &[String]) -> Table {
    let mut table = Table::new();
    put(&mut table, "name", name.into());
    put(&mut table, "password", hash.written().into());
    if !senders.is_empty() {
        put(&mut table, "senders", Value::Array(senders.iter().collect()));
    }
    table
}

fn is_named(table: &dyn TableLike, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

fn find<'a>(document: &'a mut DocumentMut, name: &str) -> Option<&'a mut dyn TableLike> {
    match document.get_mut("user")? {
        Item::ArrayOfTables(tables) => {
            tables.iter_mut().map(|table| table as &mut dyn TableLike).find(|table| is_named(*table, name))
        }
        Item::Value(Value::Array(array)) => {
            let tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
            tables.map(|table| table as &mut dyn TableLike).find(|table| is_named(*table, name))
        }
        _ => None,
    }
}

/// A comment behind the value stays there.
fn put(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str = "# ours\n\n# of the shop\n[[user]]\nname = \"a\" # the first\npassword = 'HASH' # of 2026\nsenders = [\"*@a.example\"] # only\n\n# by phone\n[[user]]\npassword = \"HASH\"\nname = \"b\"\n\n# the end\n";

    /// One hash for all: what stands in the place of a hash in the texts.
    fn hash() -> Hash {
        Hash::parse("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc").unwrap()
    }

    fn edited<T>(text: &str, edit: impl FnOnce(&Path) -> T) -> (String, T) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let old = "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        fs::write(&path, text.replace("HASH", old)).unwrap();
        let result = edit(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let text = fs::read_to_string(path).unwrap();
        (text.replace(old, "HASH").replace(&hash().written(), "NEW"), result)
    }

    #[test]
    fn a_new_user_stands_at_the_end() {
        let globs = ["*@c.example".to_owned(), "x@d.example".into()];
        let (text, added) = edited(FILE, |path| add(path, "c \"d\"", &hash(), &globs, false).unwrap());
        let user = "\n[[user]]\nname = 'c \"d\"'\npassword = \"NEW\"\nsenders = [\"*@c.example\", \"x@d.example\"]\n";
        assert_eq!((text, added), (FILE.replace("\n# the end\n", &format!("{user}\n# the end\n")), Added::New));
        let (text, added) = edited("# all\n", |path| add(path, "c", &hash(), &[], true).unwrap());
        assert_eq!((text.as_str(), added), ("# all\n\n[[user]]\nname = \"c\"\npassword = \"NEW\"\n", Added::New));
        let (text, _) = edited("user = []\n", |path| add(path, "c", &hash(), &[], false).unwrap());
        assert_eq!(text, "user = [{ name = \"c\", password = \"NEW\" }]\n");
    }

    #[test]
    fn only_who_is_to_be_replaced_is() {
        let (text, added) = edited(FILE, |path| add(path, "a", &hash(), &["x@y.example".into()], false).unwrap());
        assert_eq!((text.as_str(), added), (FILE, Added::Stands));
        let (text, added) = edited(FILE, |path| add(path, "a", &hash(), &[], true).unwrap());
        assert_eq!((text, added), (FILE.replace("'HASH'", "\"NEW\""), Added::Replaced));
        let (text, _) = edited(FILE, |path| add(path, "b", &hash(), &["x@y.example".into()], true).unwrap());
        let b = "\npassword = \"NEW\"\nname = \"b\"\nsenders = [\"x@y.example\"]\n";
        assert_eq!(text, FILE.replace("\npassword = \"HASH\"\nname = \"b\"\n", b));
        let (text, _) = edited(FILE, |path| add(path, "a", &hash(), &["x@y.example".into()], true).unwrap());
        assert_eq!(text, FILE.replace("'HASH'", "\"NEW\"").replace("*@a.example", "x@y.example"));
        let inline = "user = [{ name = \"a\", password = \"HASH\" }, { name = \"b\", password = \"HASH\" }] # x\n";
        let (text, _) = edited(inline, |path| add(path, "b", &hash(), &[], true).unwrap());
        assert_eq!(text, inline.replace("\"b\", password = \"HASH\"", "\"b\", password = \"NEW\""));
    }

    #[test]
    fn who_is_removed_takes_the_comment_along() {
        let (text, removed) = edited(FILE, |path| remove(path, "a").unwrap());
        let a = &FILE[FILE.find("# of the shop").unwrap()..FILE.find("# by phone").unwrap()];
        assert_eq!((text, removed), (FILE.replace(a, ""), true));
        let (text, removed) = edited(FILE, |path| remove(path, "A").unwrap());
        assert_eq!((text.as_str(), removed), (FILE, false));
        let (text, _) = edited("user = [{ name = \"a\", password = \"HASH\" }]\n", |path| remove(path, "a").unwrap());
        assert_eq!(text, "user = []\n");
    }
}
