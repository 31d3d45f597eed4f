//! How single values are written: durations, sizes, addresses, networks. Each says in one phrase what it wants.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime;
use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

/// A value that is read from a text in quotes.
trait Written: Sized {
    /// Goes on from "expected …".
    const WANTED: &'static str;

    fn read(text: &str) -> Option<Self>;
}

struct Text<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn read<'de, T: Written, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text(PhantomData))
}

/// Longer is meant as "never"; sums of times with it must not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Written for Duration {
    const WANTED: &'static str = "a duration, as in \"20s\", \"5m\" or \"1h 30m\"";

    fn read(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST)
    }
}

impl Written for ByteSize {
    const WANTED: &'static str = "a size, as in \"25MiB\"";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Written for SocketAddr {
    const WANTED: &'static str = "an address in numbers and a port, as in \"127.0.0.1:2525\" or \"[::1]:2525\"";

    fn read(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
}

impl Written for IpNet {
    const WANTED: &'static str = "an address or a network, as in \"192.168.1.5\" or \"192.168.1.0/24\"";

    /// One address is the network of that address.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(Self::from))
    }
}

/// Reads a duration; writes it as `humantime` does.
pub mod duration {
    use super::{Deserializer, Duration};

    pub use humantime_serde::serialize;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::read(deserializer)
    }
}

pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    read(deserializer)
}

pub fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    list(deserializer)
}

pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    list(deserializer)
}

struct Element<T>(T);

impl<'de, T: Written> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer).map(Self)
    }
}

fn list<'de, T: Written, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Vec::<Element<T>>::deserialize(deserializer).map(|elements| elements.into_iter().map(|element| element.0).collect())
}
