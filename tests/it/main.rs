//! Tests of the whole relay: real sockets on free ports of the loopback, real files, no sleeps that hope.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in a test they are the finding

mod bytes;
mod config;
mod dialogue;
mod foreign;
mod host;
mod house;
mod line;
mod lists;
mod rig;
mod upstream;
mod variables;
