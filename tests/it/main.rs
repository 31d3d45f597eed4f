//! Tests of the whole relay: real sockets on free ports of the loopback, real files, no sleeps that hope.

mod line;
mod rig;
