//! The words of the trade as values: address, envelope, message, status. Never touches a socket, a file or the clock.

mod address;
mod envelope;
mod heading;
mod mend;
mod message;
mod order;
mod pages;
mod piece;
mod probe;
mod status;
mod trace;
mod xtext;

pub use address::{Address, AddressError, Key, PlusTags, domain_key, domain_letters, glob_key};
pub use envelope::{Client, Envelope, Id, Notify, Recipient, Ret, ReversePath, Wish};
pub use heading::Heading;
pub use mend::{Mending, NotMended};
pub use message::{HeaderSection, Message};
pub use order::{Order, orders_in};
pub use pages::{Pages, WORTHWHILE};
pub use piece::Mail;
pub use probe::Probe;
pub use status::{Enhanced, OPTED_OUT, Outcome, Stage, Status, clean, some};
pub use trace::{is_trace, received};
pub use xtext::{embedded, envelope_id, original_recipient};
