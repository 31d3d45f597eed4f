//! The users in force: who may log in with a password, and as whom each of them may send. Hot-reloaded. Never tells whether
//! it was the name or the password that was wrong, never keeps a password.

mod edit;
mod file;
mod hash;
mod user;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::password_hash::try_generate_salt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::disk::Followed;
use crate::mail::some;
use crate::place::Fault;

pub use edit::{Added, add, remove};
pub use file::{Entry, SENDERS_HINT, name_fault, parse, sender_glob};
pub use hash::Hash;
pub use user::{Login, User};

/// How long a login waits for its turn and its proof: proofs are slow on purpose, and there is one at a time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A user, and what proves it.
#[derive(Debug)]
struct Account {
    entry: Entry,
    user: Arc<User>,
    /// The mark of the password once it was proved: the next time costs microseconds. See [`Users::mark`].
    proved: OnceLock<Mark>,
}

/// A password under a key that only this process has.
struct Mark([u8; 32]);

/// It is nobody's business.
impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

impl Account {
    fn new(entry: Entry) -> Self {
        let user = Arc::new(User::new(&entry.name, entry.senders.as_deref()));
        Self { entry, user, proved: OnceLock::new() }
    }

    fn is_known_by(&self, mark: &Mark) -> bool {
        self.proved.get().is_some_and(|proved| proved.0.ct_eq(&mark.0).into())
    }
}

/// The users in force.
pub struct Users {
    path: PathBuf,
    current: ArcSwap<Vec<Arc<Account>>>,
    /// Before it was first read.
    opened: Followed,
    /// One proof at a time: each takes its memory, and nobody is to take more by asking more often.
    seat: Arc<Semaphore>,
    /// Proofs that were begun.
    proofs: AtomicU64,
    /// Of this process, never stored.
    key: [u8; 16],
}

/// Without the key.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("path", &self.path).field("count", &self.len()).finish_non_exhaustive()
    }
}

impl Users {
    /// Reads the users for the first time. A fault here means: do not start. Blocks on the disk.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let opened = Followed::begin(&[path.to_owned()]);
        let users = read(path)?.into_iter().map(|entry| Arc::new(Account::new(entry))).collect();
        let no_chance = |e| Fault::of_file(path, format_args!("the system gives no random numbers: {e}"));
        Ok(Self {
            path: path.to_owned(),
            current: ArcSwap::from_pointee(users),
            opened,
            seat: Arc::new(Semaphore::new(1)),
            proofs: AtomicU64::new(0),
            key: try_generate_salt().map_err(no_chance)?,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.current.load().len()
    }

    /// Nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is this password. An unknown name takes the work of a known one; a wrong password is proved wrong each
    /// time, a right one only the first time. Waits at most ten seconds.
    pub async fn login(&self, name: &str, password: &[u8]) -> Login {
        let accounts = self.current.load_full();
        let mark = self.mark(name, password);
        let known = accounts.iter().find(|account| account.user.name() == name);
        if let Some(account) = known.filter(|account| account.is_known_by(&mark)) {
            return Login::Ok(account.user.clone());
        }
        // The password of an unknown name is held against the hash of somebody else, always the same one for that name, and
        // the answer is thrown away: so it costs what it costs with any user of this file.
        let Some(account) = known.cloned().or_else(|| self.stranger(name, &accounts)) else { return Login::Wrong };
        match (timeout(PATIENCE, self.prove(account, mark, password)).await, known) {
            (Ok(Some(true)), Some(account)) => Login::Ok(account.user.clone()),
            (Ok(Some(_)), _) => Login::Wrong,
            (Ok(None) | Err(_), _) => Login::Busy,
        }
    }

    /// It stands in the file still, as it did when it logged in.
    pub fn still_has(&self, user: &Arc<User>) -> bool {
        self.current.load().iter().any(|account| Arc::ptr_eq(&account.user, user))
    }

    /// There is somebody of this name.
    pub fn has(&self, name: &str) -> bool {
        self.current.load().iter().any(|account| account.user.name() == name)
    }

    fn stranger(&self, name: &str, accounts: &[Arc<Account>]) -> Option<Arc<Account>> {
        let number = u16::from_le_bytes(self.mark(name, b"").0.first_chunk().copied()?);
        let hash = accounts.get(usize::from(number).checked_rem(accounts.len())?)?.entry.hash.clone();
        Some(Arc::new(Account::new(Entry { name: String::new(), hash, senders: None })))
    }

    /// Waits for its turn. `None` where the proof did not end.
    async fn prove(&self, account: Arc<Account>, mark: Mark, password: &[u8]) -> Option<bool> {
        let seat = self.seat.clone().acquire_owned().await.ok()?;
        // Proved by another connection of the same tool, meanwhile.
        if account.is_known_by(&mark) {
            return Some(true);
        }
        self.proofs.fetch_add(1, Ordering::Relaxed);
        let password = password.to_vec();
        let proof = tokio::task::spawn_blocking(move || {
            let is_right = account.entry.hash.is_of(&password);
            if is_right {
                account.proved.get_or_init(|| mark);
            }
            // Only now is it the next one's turn, also where nobody waits for this answer any more.
            drop(seat);
            is_right
        });
        proof.await.ok()
    }

    /// What tells one password of a user from another, without being one: nobody can compute it without our key.
    fn mark(&self, name: &str, password: &[u8]) -> Mark {
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes();
        let all = Sha256::new().chain_update(self.key).chain_update(length).chain_update(name).chain_update(password);
        Mark(all.finalize().into())
    }

    /// The file, as it was before it was first read: a change since then is not missed.
    pub fn followed(&self) -> Followed {
        self.opened.clone()
    }

    /// Reads the file again, and says in the log what came of it.
    pub async fn renew(self: Arc<Self>) {
        match tokio::task::spawn_blocking(move || self.reload()).await {
            Ok(Ok(count)) => tracing::info!(users = count, "users reloaded"),
            Ok(Err(fault)) => tracing::error!("users not reloaded, the last good ones stay in force: {fault}"),
            Err(_) => tracing::error!("users not reloaded, the last good ones stay in force: the reader failed"),
        }
    }

    /// Reads the file again and puts its users in force, unless something is wrong with it. Who has not changed need not
    /// prove the password again. Blocks on the disk.
    pub fn reload(&self) -> Result<usize, Fault> {
        let entries = read(&self.path)?;
        let before = self.current.load();
        if entries.is_empty() && !before.is_empty() && std::fs::metadata(&self.path).is_ok_and(|file| file.len() == 0) {
            return Err(Fault::of_file(&self.path, format_args!("is empty, and had {}", some(before.len() as u64, "user"))).hint(
                "a full disk empties files; if it is meant, write a comment into it; until then the former users are in force",
            ));
        }
        let mut proved: HashMap<_, _> = before.iter().map(|account| (account.user.name(), account)).collect();
        let renew = |entry: Entry| {
            let former = proved.remove(entry.name.as_str()).filter(|account| account.entry.hash == entry.hash);
            if let Some(former) = former.filter(|account| account.entry == entry) {
                return former.clone();
            }
            let account = Account::new(entry);
            if let Some(mark) = former.and_then(|former| former.proved.get()) {
                let _ = account.proved.set(Mark(mark.0));
            }
            Arc::new(account)
        };
        let accounts: Vec<_> = entries.into_iter().map(renew).collect();
        let count = accounts.len();
        self.current.store(Arc::new(accounts));
        Ok(count)
    }
}

/// The users of a file, as the relay reads them.
pub fn read(path: &Path) -> Result<Vec<Entry>, Fault> {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Fault::unreadable(path, &e)
            .hint("`optout-relay user add NAME` creates it; that of the admin page, `optout-relay user --admin add NAME`"),
        _ => Fault::unreadable(path, &e),
    };
    parse(path, &std::fs::read_to_string(path).map_err(unreadable)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::mail::Address;
    use crate::mail::ReversePath;

    /// The cheapest that is taken.
    fn hash_of(password: &str) -> String {
        use argon2::{Argon2, CustomizedPasswordHasher, Params};
        let salt = try_generate_salt().unwrap();
        let params = Params::new(4096, 2, 1, None).unwrap();
        Argon2::default().hash_password_with_params(password.as_bytes(), &salt, params).unwrap().to_string()
    }

    fn user(name: &str, hash: &str) -> String {
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\n")
    }

    fn open(text: &str) -> (TempDir, Users) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("users.toml"), text).unwrap();
        let users = Users::open(&folder.path().join("users.toml")).unwrap();
        (folder, users)
    }

    impl Users {
        /// The name of who is in; how many proofs it took.
        async fn try_login(&self, name: &str, password: &str) -> (Option<String>, u64) {
            let before = self.proofs.load(Ordering::Relaxed);
            let found = match self.login(name, password.as_bytes()).await {
                Login::Ok(user) => Some(user.name().to_owned()),
                Login::Wrong => None,
                Login::Busy => panic!("busy"),
            };
            (found, self.proofs.load(Ordering::Relaxed) - before)
        }
    }

    #[tokio::test]
    async fn a_right_password_is_proved_once_and_a_wrong_one_each_time() {
        let (_folder, users) = open(&[user("a", &hash_of("one")), user("b", &hash_of("two"))].concat());
        for (name, password, found, proofs) in [
            ("a", "two", None, 1),
            ("a", "two", None, 1),
            ("a", "one", Some("a"), 1),
            ("a", "one", Some("a"), 0),
            ("a", "two", None, 1),
            ("a", "one\0", None, 1),
            ("a", "", None, 1),
            ("b", "one", None, 1),
            ("b", "two", Some("b"), 1),
            ("b", "two", Some("b"), 0),
            ("a", "one", Some("a"), 0),
        ] {
            assert_eq!(users.try_login(name, password).await, (found.map(str::to_owned), proofs), "{name} {password}");
        }
    }

    /// Also not with the password of the one whose hash stands in, proved or not.
    #[tokio::test]
    async fn an_unknown_name_takes_the_work_of_a_known_one_and_never_gets_in() {
        let (_folder, users) = open(&user("a", &hash_of("one")));
        for name in ["b", "A", "a ", "", "\0", "b"] {
            assert_eq!(users.try_login(name, "one").await, (None, 1), "{name:?}");
        }
        assert_eq!(users.try_login("a", "one").await, (Some("a".into()), 1));
        assert_eq!(users.try_login("b", "one").await, (None, 1));
        let (_folder, nobody) = open("");
        assert_eq!((nobody.try_login("a", "one").await, nobody.is_empty()), ((None, 0), true));
    }

    #[tokio::test]
    async fn a_changed_entry_is_proved_again_and_an_unchanged_one_is_not() {
        let (folder, users) = open("");
        let (one, two) = (hash_of("one"), hash_of("two"));
        let write = |text: String| {
            fs::write(folder.path().join("users.toml"), text).unwrap();
            users.reload()
        };
        assert_eq!(write([user("a", &one), user("b", &two)].concat()), Ok(2));
        assert_eq!(users.try_login("a", "one").await, (Some("a".into()), 1));
        assert_eq!(users.try_login("b", "two").await, (Some("b".into()), 1));
        // The same password with another salt; and somebody who may send less than before.
        assert_eq!(write([user("a", &hash_of("one")), user("b", &two), "senders = [\"b@x.example\"]\n".into()].concat()), Ok(2));
        assert_eq!(users.try_login("a", "one").await, (Some("a".into()), 1));
        assert_eq!(users.try_login("b", "two").await, (Some("b".into()), 0));
        let Login::Ok(b) = users.login("b", b"two").await else { panic!("b is out") };
        assert!(!b.may_send_as(&ReversePath::Null));
        assert_eq!(write(user("a", &two)), Ok(1));
        assert_eq!(users.try_login("a", "one").await, (None, 1));
        assert_eq!(users.try_login("b", "two").await, (None, 1));
        for wrong in [String::new(), "[[user]]\n".into(), user("a", "two")] {
            assert!(write(wrong).is_err());
            assert_eq!(users.len(), 1);
        }
        assert_eq!(write("# nobody\n".into()), Ok(0));
        assert_eq!(users.try_login("a", "two").await, (None, 0));
    }

    #[tokio::test]
    async fn one_proof_serves_all_who_wait_with_the_same_password() {
        let (_folder, users) = open(&user("a", &hash_of("one")));
        let (one, other) = tokio::join!(users.login("a", b"one"), users.login("a", b"one"));
        assert!(matches!((one, other), (Login::Ok(_), Login::Ok(_))));
        assert_eq!(users.proofs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_so() {
        let (_folder, users) = open(&user("a", &hash_of("one")));
        let seat = users.seat.clone().acquire_owned().await.unwrap();
        assert!(matches!(users.login("a", b"one").await, Login::Busy));
        assert!(matches!(users.login("b", b"one").await, Login::Busy));
        drop(seat);
        assert_eq!(users.proofs.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_user_sends_as_its_senders_only() {
        let hash = hash_of("one");
        let sender = |text: &str| match text {
            "" => ReversePath::Null,
            text => ReversePath::Address(Address::parse(text).unwrap()),
        };
        for (senders, may, may_not) in [
            ("", &["", "a@b.example", "\"a b\"@[127.0.0.1]"][..], &[][..]),
            ("senders = [\"*\"]", &["", "a@b.example"], &[]),
            (
                "senders = [\"*@Shop-A.example\"]",
                &["a@shop-a.example", "A+1@SHOP-A.example", "\"a@b\"@shop-a.example"],
                &[
                    "",
                    "a@shop-b.example",
                    "a@shop-a.example.evil.example",
                    "a@x.shop-a.example",
                    "\"a@shop-a.example\"@evil.example",
                ],
            ),
            (
                "senders = [\"shop@a.example\", \"*@*.b.example\"]",
                &["Shop@a.example", "\"shop\"@a.example", "x@y.b.example"],
                &["shop2@a.example", "shop+1@a.example", "x@b.example", ""],
            ),
            ("senders = [\"*@bücher.example\"]", &["a@xn--bcher-kva.example", "a@BÜCHER.example"], &["a@bucher.example"]),
            ("senders = [\"order-?@a.example\"]", &["order-1@a.example"], &["order-12@a.example", "order-@a.example"]),
        ] {
            let (_folder, users) = open(&format!("{}{senders}\n", user("a", &hash)));
            let account = users.current.load()[0].clone();
            for text in may {
                assert!(account.user.may_send_as(&sender(text)), "{senders}: {text}");
            }
            for text in may_not {
                assert!(!account.user.may_send_as(&sender(text)), "{senders}: {text}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_secret_is_shown_for_debugging() {
        let hash = hash_of("hunter2");
        let (_folder, users) = open(&user("a", &hash));
        let login = users.login("a", b"hunter2").await;
        let shown = format!("{users:?} {login:?}");
        assert!(shown.contains("\"a\"") && !shown.contains("argon2") && !shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains('['), "the mark is no one's business: {shown}");
    }
}
