//! Tests of the whole relay: real sockets on free ports of the loopback, real files, no sleeps that hope.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // a test may fail loudly
mod line;
mod rig;
