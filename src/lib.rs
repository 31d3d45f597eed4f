//! optout-relay: an SMTP relay proxy that enforces one opt-out list for every tool that mails through it.
//!
//! **A message is accepted, becomes an envelope, is judged recipient by recipient, is delivered or held, and
//! every ending is logged.**
//!
//! ```text
//!  tool ──bytes──▶ smtp ──Envelope──▶ optout::judge ──Cleared──▶ upstream ──▶ real SMTP host, or a folder
//!                                        ▲     │                    │
//!                            delivery ───┘     ▼                    ▼
//!                               ▲            ledger              Outcome ──▶ dsn (a report, mail like any other)
//!                               └───────── spool ◀──── what could not go now
//! ```
//!
//! # Code map, in reading order
//!
//! | floor | file | what it is |
//! |---|---|---|
//! | 3 the line | [`relay`] | judge, take, attempt: the way of a message. Read it first; `judged`: one message's recipients and their log lines; `answer`: what the tool hears; `held`: the same line for mail that waits; `lessons`: where it meets what is learned; `words`: the operational log; `postfix`: the same in Postfix's form |
//! | 0 words | [`mail`] | address and its comparing key, envelope, message and how broken line ends `mend`, the `piece` of mail that both make, the `probe` that people send, heading, status, trace (our `Received:`), `xtext`; `pages` (room for large messages) |
//! | 1 decider | [`optout`] | `judge`, `Verdict`, the permit `Cleared`; `entry`, `list` (the index), `table` |
//! | 1b reader | `optout/file`, `optout/edit`, `optout/strike` | lists on disk, read (`text`, `csv`, `toml`); `blacklist.toml`, edited; an opt-out taken out of all lists |
//! | 1b reader | `optout/foreign`, `optout/export`, `optout/conceal` | lists as other programs write them, by `columns`, as `rows`, `json`, `lines` or a `postfix` table, and whose (`provider`); written down for others; hashes in the place of old addresses; `optout/rows`: a table, written anew with some rows changed |
//! | 1 decider | `optout/known` | which of millions of entries are known already |
//! | 1 decider | [`dsn`] | reports to the sender: `words` for people, `status` for machines, the header of the `original`, `form` |
//! | 2 holder | `optout/watch` | the list in force, hot-reloaded |
//! | 2 holder | [`upstream`] | the way out, the only place that names lettre: `host` and the `login` to it, the `road` there (`tls`), `connection`, `transaction`, `wire` and the `replies` that come by it; `secret` hides the password |
//! | 1 decider | [`learn`] | `notice` (what a mail is: a notice, a report, neither), by the `letter` taken apart (`head`, `words`, `transfer`, `html`), whom it names (`names`), what it quotes (`quoted`), who vouches (`results`), and the `phrases` of marketplaces; `report`, `letterbox` (our own address); `lesson`: what follows |
//! | 1b reader | `learn/phrases/file` | `config/notices.toml`, or a file in its place |
//! | 1b reader | `learn/book`, `learn/quarantine` | what was learned, appended to a list of its own; what waits for a person |
//! | 2b learner | `learn/mod`, `learn/scribe` | a notice in, an opt-out in force out; one writer |
//! | 4 loop | `learn/folder`, `learn/imap` | notices as files, and in a mailbox (`visit`: one connection to it, `place`: how far it was looked through) |
//! | 2 holder | [`orders`] | whose orders are whose, from the mail that leaves |
//! | 2 holder | [`ledger`] | who was suppressed, what was learned, who was mailed; `lines`: the writer of such a log |
//! | 1 decider | `ledger/chain`, `ledger/question` | what ties each line to the one before; which lines a question means |
//! | 1b reader | `ledger/past`, `ledger/together`, `ledger/verify`, `ledger/index` | what a log said, over its rotated and compressed files; several logs by time; whether a line was changed, cut or moved; where somebody may stand in it, and what each day had |
//! | 2 holder | [`spool`] | mail that waits: hold, lend, settle; `shelf` (what lies where), `files` (written, synced, renamed), `requests` (what people want of it) |
//! | 1b reader | `spool/record` | what the disk knows of a held message, versioned |
//! | 1 decider | `spool/schedule` | what is due, and how the host is; pure |
//! | 4 loop | [`delivery`] | the runner: held mail that is due goes out again |
//! | 1 decider | [`smtp`] | `command` and its `parameters`, `auth` (how a client says who it is), `reply`, `session` (state machine, no sockets), `input` (bytes to lines) |
//! | 4 loop | `smtp/mod`, `smtp/connection` | accept loop, one client's connection; `stream` (in the clear or TLS), `crowd` (who is inside, and who makes room), `seldom` (what must not fill the log) |
//! | 1 decider | [`metrics`] | what is counted while mail goes by: `histogram` (how long it took), `text` (as Prometheus reads it) |
//! | 2 holder | [`memory`] | room for messages, over all sessions and attempts |
//! | 2 holder | [`certificate`] | who we are, for TLS with tools and browsers |
//! | 2 holder | [`users`] | who may log in, hot-reloaded; `user` (whom a session knows), `file` (read), `edit` (changed), `hash` (what is kept of a password) |
//! | 4 loop | [`admin`] | the admin page: `door` (connections), `gate` (what every request must pass), `sessions` (who is logged in), `pages` (one file a page, with `html`), `chart`, `problems` (what the relay said last); `verdict` and `changes` (asked and made there and by programs), `api` (JSON), `machines` (health and numbers) |
//! | 1b reader | [`config`] | `file` and `value` as written, `overlay` by the environment, `route` (the url), `circle` (back to us), `access` (who can reach us, and who may use us), `admin` (the admin page), `learning`, `mod` as meant |
//! | 1b reader | [`disk`] | what several rooms ask of a disk; `followed`: files that change while the relay runs; `counted`: what is read, so that somebody sees how far it is; `draft`: a file that grows beside the one that it is to replace; `document`: TOML that people write and commands change; `replaced`: a file, whole or not at all |
//! | 0 words | [`place`] | where in a file something is wrong, and what to do; `toml`: the TOML reader's errors in plain words |
//! | 5 the door | [`daemon`] | composition root: open everything, run, drain; `sockets`: listeners, handed over or our own; `descriptors`: sessions within the limit of open files; `follow`: files that change meanwhile; `desk`: the admin page; `systemd`: what it is told; `question`: to a loop, answered by it; `password`: looks whether it was changed |
//! | 5 the door | [`cli`] | one file a command; the only place that prints. `man`: the manual pages, of files that people edit by `man/settings`; `doctor`: what is `here`, and what others say (`reach`); `trial`: the command `try`, and its `ending`; `caller`: a client of the relay that runs; `paint`: colours |
//!
//! A file uses its own room and the floors below it, never above; `tests/it/house.rs` holds it to that.
//!
//! # Invariants
//!
//! - Only [`optout::judge`] makes a [`optout::Cleared`], and [`upstream::Van::send`] takes nothing else: code that
//!   would mail an unjudged recipient does not compile. The permit borrows the list that it was judged by, so it cannot be
//!   kept until later.
//! - A suppression is on disk before the tool is answered; if that fails the answer is 451 and nothing leaves.
//! - 250 after DATA means that the host has the message, that it is on disk (file synced, renamed, folder synced), or that
//!   every recipient is suppressed and logged.
//! - Mail read back from the spool has no permit: it is judged again at every attempt, reports too.
//! - A held message is a value, [`spool::Lent`] or [`spool::InFlight`]: what fails hands it back, and one that is dropped
//!   on the way waits again.
//! - A message stays as it came, dot-stuffed, in one buffer: what goes on is what came in, with `Received:` in front.

pub mod mail;
pub mod relay;

pub mod dsn;
pub mod optout;

pub mod learn;

pub mod ledger;
pub mod memory;
pub mod metrics;
pub mod orders;
pub mod spool;
pub mod upstream;

pub mod delivery;
pub mod smtp;
pub mod users;

pub mod config;
pub mod disk;
pub mod place;

pub mod admin;
pub mod certificate;

pub mod cli;
pub mod daemon;
