//! How a client says who it is: SASL PLAIN (RFC 4616) and LOGIN, as far as AUTH carries them (RFC 4954). Never checks a
//! password, never keeps one.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::reply::Reply;

/// The longest line of an exchange, CRLF included (RFC 4954 4).
pub const MAX_LINE: usize = 12_288;

/// The ways that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Name and password in one.
    Plain,
    /// Name, then password; never a standard, and all that some old tools know.
    Login,
}

/// AUTH and what it brought along.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// How.
    pub mechanism: Mechanism,
    /// The initial response as written, in base64.
    pub initial: Option<Box<str>>,
}

/// An exchange that waits for the client's next line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// All of PLAIN.
    Plain,
    /// The name of LOGIN.
    Name,
    /// The password of LOGIN, for this name.
    Password(Name),
}

/// Who somebody says to be: a name, not empty, in UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// What somebody says to be true of itself; to be checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Not cleaned.
    pub name: String,
    /// Any bytes.
    pub password: Vec<u8>,
}

/// What follows from a line of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Say it, and wait for the next line.
    Ask(Exchange, Reply),
    /// The exchange is over.
    Check(Credentials),
    /// The exchange is over without a result.
    End(Reply),
}

impl Exchange {
    /// Begins with AUTH itself. `=` stands for an initial response of no bytes.
    pub fn begin(Auth { mechanism, initial }: Auth) -> Turn {
        let first = match mechanism {
            Mechanism::Plain => Self::Plain,
            Mechanism::Login => Self::Name,
        };
        match initial.as_deref() {
            None => first.ask(),
            Some("=") => first.with(Vec::new()),
            Some(initial) => first.response(initial.as_bytes()),
        }
    }

    /// Goes on with a line of the client, without its CRLF.
    pub fn response(self, line: &[u8]) -> Turn {
        match STANDARD.decode(line) {
            _ if line == b"*" => Turn::End(Reply::LOGIN_CANCELLED),
            Ok(bytes) => self.with(bytes),
            Err(_) => Turn::End(Reply::NO_BASE64),
        }
    }

    fn with(self, bytes: Vec<u8>) -> Turn {
        let credentials = match self {
            Self::Plain => plain(&bytes),
            Self::Name => match name(bytes) {
                Some(name) => return Self::Password(name).ask(),
                None => None,
            },
            Self::Password(Name(name)) => Some(Credentials { name, password: bytes }),
        };
        credentials.map_or(Turn::End(Reply::NO_CREDENTIALS), Turn::Check)
    }

    fn ask(self) -> Turn {
        let question = match self {
            Self::Plain => Reply::GO_ON_PLAIN,
            Self::Name => Reply::ASK_NAME,
            Self::Password(_) => Reply::ASK_PASSWORD,
        };
        Turn::Ask(self, question)
    }
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 2). Nobody may act for somebody else.
fn plain(bytes: &[u8]) -> Option<Credentials> {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    let Name(name) = name(authcid.to_vec())?;
    let own = authzid.is_empty() || authzid == authcid;
    (own && !password.contains(&0)).then(|| Credentials { name, password: password.to_vec() })
}

fn name(bytes: Vec<u8>) -> Option<Name> {
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty()).map(Name)
}

// The initial response holds the password.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(mechanism: Mechanism, initial: Option<&str>) -> Turn {
        Exchange::begin(Auth { mechanism, initial: initial.map(Into::into) })
    }

    fn credentials(turn: &Turn) -> Option<(&str, &[u8])> {
        match turn {
            Turn::Check(Credentials { name, password }) => Some((name, password)),
            _ => None,
        }
    }

    #[test]
    fn plain_is_one_response_early_or_late() {
        let message = STANDARD.encode("\0tool\0s3cret");
        let early = begin(Mechanism::Plain, Some(&message));
        assert_eq!(credentials(&early), Some(("tool", &b"s3cret"[..])));
        let Turn::Ask(exchange, question) = begin(Mechanism::Plain, None) else { panic!("nothing is asked") };
        assert_eq!(question, Reply::GO_ON_PLAIN);
        assert_eq!(exchange.response(message.as_bytes()), early);
    }

    #[test]
    fn login_asks_for_name_and_password() {
        for initial in [None, Some(STANDARD.encode("tool"))] {
            let mut turn = begin(Mechanism::Login, initial.as_deref());
            if initial.is_none() {
                let Turn::Ask(Exchange::Name, question) = turn else { panic!("{turn:?}") };
                assert_eq!(question, Reply::ASK_NAME);
                turn = Exchange::Name.response(STANDARD.encode("tool").as_bytes());
            }
            let Turn::Ask(exchange, question) = turn else { panic!("{turn:?}") };
            assert_eq!(question, Reply::ASK_PASSWORD);
            let checked = exchange.response(STANDARD.encode(b"\xff\0").as_bytes());
            assert_eq!(credentials(&checked), Some(("tool", &b"\xff\0"[..])));
        }
    }

    #[test]
    fn nobody_acts_for_somebody_else() {
        for (message, expected) in [
            ("tool\0tool\0x", Some(("tool", &b"x"[..]))),
            ("\0tool\0", Some(("tool", &b""[..]))),
            ("boss\0tool\0x", None),
            ("\0\0x", None),
            ("\0tool", None),
            ("\0tool\0x\0y", None),
            ("", None),
        ] {
            let turn = Exchange::Plain.response(STANDARD.encode(message).as_bytes());
            assert_eq!(credentials(&turn), expected, "{message:?}");
        }
        assert_eq!(credentials(&Exchange::Plain.response(STANDARD.encode(b"\0\xff\0x").as_bytes())), None);
    }

    #[test]
    fn what_is_no_base64_ends_it() {
        for (line, end) in
            [("*", Reply::LOGIN_CANCELLED), ("a b", Reply::NO_BASE64), ("YQ", Reply::NO_BASE64), ("=", Reply::NO_BASE64)]
        {
            assert_eq!(Exchange::Plain.response(line.as_bytes()), Turn::End(end), "{line}");
        }
        assert_eq!(begin(Mechanism::Plain, Some("=")), Turn::End(Reply::NO_CREDENTIALS));
    }

    #[test]
    fn what_was_said_is_not_printed() {
        let turn = begin(Mechanism::Plain, Some(&STANDARD.encode("\0tool\0s3cret")));
        assert!(!format!("{turn:?}").contains("115"), "{turn:?}");
        let auth = Auth { mechanism: Mechanism::Plain, initial: Some("c2VjcmV0".into()) };
        assert!(!format!("{auth:?}").contains("c2Vj"), "{auth:?}");
    }
}
