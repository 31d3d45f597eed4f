//! Tests of the whole relay: real sockets on free ports of the loopback, real files, no sleeps that hope.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in a test they are the finding

mod bytes;
mod cli;
mod config;
mod damaged;
mod descriptors;
mod dialogue;
mod dsn;
mod edits;
mod faults;
mod foreign;
mod held;
mod host;
mod house;
mod judged_again;
mod keys;
mod line;
mod lists;
mod logs;
mod process;
mod queue;
mod records;
mod reload;
mod reports;
mod rig;
mod slow_hosts;
mod smuggling;
mod spool_cli;
mod spool_wishes;
mod suppression_lines;
mod tls;
mod untold;
mod upstream;
mod variables;
