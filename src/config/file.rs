//! The configuration as it is written: one struct a table, one field a key, each with its default. Never checks what
//! a value means.
#![allow(missing_docs)] // each key is explained where users read it: in config/relay.toml

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::value;
use crate::mail::PlusTags;
use crate::optout::{Action, Mode};

/// `relay.toml`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub hostname: String,
    pub state_dir: PathBuf,
    #[serde(with = "value::duration")]
    pub shutdown_grace: Duration,
    pub listen: Listen,
    pub upstream: Upstream,
    pub opt_out: OptOut,
    pub delivery: Delivery,
    pub learn: Learn,
    pub log: Log,
    pub admin: Admin,
}

/// `[listen]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    #[serde(deserialize_with = "value::addresses")]
    pub smtp: Vec<SocketAddr>,
    #[serde(deserialize_with = "value::addresses")]
    pub submissions: Vec<SocketAddr>,
    #[serde(deserialize_with = "value::networks")]
    pub clients: Vec<IpNet>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub require_tls: bool,
    pub users: Option<PathBuf>,
    #[serde(deserialize_with = "value::size")]
    pub max_message_size: ByteSize,
    #[serde(deserialize_with = "value::size")]
    pub max_header_size: ByteSize,
    #[serde(deserialize_with = "value::size")]
    pub max_memory: ByteSize,
    pub line_endings: LineEndings,
    pub max_recipients: usize,
    pub max_sessions: usize,
    pub max_sessions_per_client: usize,
    pub max_errors: usize,
    pub max_idle_commands: usize,
    #[serde(with = "value::duration")]
    pub command_timeout: Duration,
    #[serde(with = "value::duration")]
    pub data_timeout: Duration,
    #[serde(with = "value::duration")]
    pub message_timeout: Duration,
}

impl Listen {
    /// All addresses, of either kind.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.smtp.iter().chain(&self.submissions).copied().collect()
    }
}

/// `[upstream]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    pub url: Url,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub tls: Tls,
    pub ca: Option<PathBuf>,
    pub tls_verify: bool,
    pub max_connections: usize,
    #[serde(with = "value::duration")]
    pub idle_timeout: Duration,
    #[serde(with = "value::duration")]
    pub connect_timeout: Duration,
    #[serde(with = "value::duration")]
    pub timeout: Duration,
    #[serde(with = "value::duration")]
    pub data_timeout: Duration,
}

/// `[opt_out]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptOut {
    pub lists: Vec<PathBuf>,
    pub action: Action,
    pub mode: Mode,
    pub headers: Headers,
    pub plus_tags: PlusTags,
    pub exempt_subjects: Vec<String>,
    pub max_shrink: f64,
}

/// `[delivery]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    pub answer: Answer,
    #[serde(with = "value::duration")]
    pub patience: Duration,
    #[serde(with = "value::duration")]
    pub retry_first: Duration,
    #[serde(with = "value::duration")]
    pub retry_max: Duration,
    #[serde(with = "value::duration")]
    pub give_up_after: Duration,
    #[serde(with = "value::duration")]
    pub report_delay_after: Duration,
    #[serde(deserialize_with = "value::size")]
    pub min_free: ByteSize,
}

/// `[learn]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Learn {
    pub address: String,
    pub folder: Option<PathBuf>,
    pub notices: Option<PathBuf>,
    pub trusted_authserv: Vec<String>,
    pub never_learn: Vec<String>,
    pub max_per_day: usize,
    pub reports: bool,
    pub refusals: Vec<Refusal>,
    pub max_orders: u64,
    #[serde(with = "value::duration")]
    pub max_order_age: Duration,
    pub imap: Imap,
}

/// `[learn.imap]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Imap {
    pub url: Url,
    pub password: Option<Password>,
    pub ca: Option<PathBuf>,
    pub folder: String,
    pub senders: Vec<String>,
    pub move_to: String,
    #[serde(with = "value::duration")]
    pub poll: Duration,
}

/// One of `learn.refusals`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub code: u16,
    pub text: String,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Level,
    pub format: Format,
    pub sent: bool,
    #[serde(deserialize_with = "value::size")]
    pub rotate_size: ByteSize,
    #[serde(with = "value::duration")]
    pub rotate_age: Duration,
    pub keep: usize,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    #[serde(deserialize_with = "value::addresses")]
    pub listen: Vec<SocketAddr>,
    pub users: Option<PathBuf>,
    pub hosts: Vec<String>,
    pub read_only: bool,
    pub plain_http: bool,
    #[serde(with = "value::duration")]
    pub session: Duration,
}

/// `listen.line_endings`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEndings {
    /// A message with a bare CR, a bare LF or NUL is refused.
    #[default]
    Reject,
    /// It is mended.
    Fix,
}

/// `upstream.tls`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// As the url says.
    #[default]
    Auto,
    /// `smtp://` stays in the clear.
    Never,
}

/// `delivery.answer`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// After an attempt to deliver.
    #[default]
    Delivered,
    /// When the message is in the spool.
    Stored,
}

/// `opt_out.headers`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Headers {
    /// The envelope decides.
    #[default]
    Ignore,
    /// To, Cc and Bcc too.
    Enforce,
}

/// `log.level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
    Postfix,
}

/// `upstream.url`: a text that may hold a password by mistake, so it is never printed in an error.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Url(pub String);

/// Where the password is found; the password itself never stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Password {
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A credential that systemd hands in (`LoadCredential=`).
    Credential(String),
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url(…)")
    }
}

const URL_HINT: &str = "a url, as in \"smtps://user@mail.example.com:465\"";
const PASSWORD_HINT: &str = "the place of the password, as in { file = \"/etc/optout-relay/password\" }, { env = \"NAME\" } or { credential = \"NAME\" }; the password itself never stands here";

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Url;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(URL_HINT)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Url, E> {
                Ok(Url(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Source)
    }
}

struct Source;

impl<'de> Visitor<'de> for Source {
    type Value = Password;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(PASSWORD_HINT)
    }

    // serde would repeat what it was given, and that may be the password.
    fn visit_str<E: de::Error>(self, _: &str) -> Result<Password, E> {
        Err(E::custom(format!("expected {PASSWORD_HINT}")))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Password, E> {
        self.visit_str("")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Password, E> {
        self.visit_str("")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Password, A::Error> {
        let wrong = || de::Error::custom(format!("expected {PASSWORD_HINT}"));
        let password = match map.next_key()?.ok_or_else(wrong)? {
            Kind::File => Password::File(map.next_value()?),
            Kind::Env => Password::Env(map.next_value()?),
            Kind::Credential => Password::Credential(map.next_value()?),
            Kind::Date => return Err(wrong()),
        };
        if map.next_key::<Kind>()?.is_some() { Err(wrong()) } else { Ok(password) }
    }
}

/// The key in the password's table.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Kind {
    File,
    Env,
    Credential,
    /// So the TOML reader hands on a date; a password may look like one.
    #[serde(rename = "$__toml_private_datetime")]
    Date,
}

impl Default for File {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            state_dir: "var".into(),
            shutdown_grace: Duration::from_secs(30),
            listen: Listen::default(),
            upstream: Upstream::default(),
            opt_out: OptOut::default(),
            delivery: Delivery::default(),
            learn: Learn::default(),
            log: Log::default(),
            admin: Admin::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            smtp: vec![SocketAddr::from(([127, 0, 0, 1], 2525)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 2525))],
            clients: vec![IpNet::new_assert([127, 0, 0, 0].into(), 8), IpNet::new_assert([0, 0, 0, 0, 0, 0, 0, 1].into(), 128)],
            submissions: Vec::new(),
            certificate: None,
            key: None,
            require_tls: false,
            users: None,
            max_message_size: ByteSize::mib(25),
            max_header_size: ByteSize::mib(1),
            max_memory: ByteSize::mib(256),
            line_endings: LineEndings::default(),
            max_recipients: 1000,
            max_sessions: 512,
            max_sessions_per_client: 256,
            max_errors: 20,
            max_idle_commands: 100,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            message_timeout: Duration::from_secs(1800),
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: Url("file:var/outbox".into()),
            user: None,
            password: None,
            tls: Tls::default(),
            ca: None,
            tls_verify: true,
            max_connections: 20,
            idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(600),
        }
    }
}

impl Default for OptOut {
    fn default() -> Self {
        Self {
            lists: vec!["blacklist.toml".into()],
            action: Action::default(),
            mode: Mode::default(),
            headers: Headers::default(),
            plus_tags: PlusTags::default(),
            exempt_subjects: Vec::new(),
            max_shrink: 0.5,
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            answer: Answer::default(),
            patience: Duration::from_secs(20),
            retry_first: Duration::from_secs(5 * 60),
            retry_max: Duration::from_secs(67 * 60),
            give_up_after: Duration::from_secs(5 * 86_400),
            report_delay_after: Duration::from_secs(4 * 3600),
            min_free: ByteSize::mib(256),
        }
    }
}

impl Default for Learn {
    fn default() -> Self {
        Self {
            address: "optout@relay.local".into(),
            folder: None,
            notices: None,
            trusted_authserv: Vec::new(),
            never_learn: vec!["no-reply-*@marketplace.amazon.*".into()],
            max_per_day: 500,
            reports: true,
            refusals: Vec::new(),
            max_orders: 5_000_000,
            max_order_age: Duration::from_secs(1100 * 86_400),
            imap: Imap::default(),
        }
    }
}

impl Default for Imap {
    fn default() -> Self {
        Self {
            url: Url(String::new()),
            password: None,
            ca: None,
            folder: "INBOX".into(),
            senders: vec!["auto-communication@amazon".into()],
            move_to: String::new(),
            poll: Duration::from_secs(60),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8025))],
            users: None,
            hosts: Vec::new(),
            read_only: false,
            plain_http: false,
            session: Duration::from_secs(8 * 3600),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::default(),
            format: Format::default(),
            sent: true,
            rotate_size: ByteSize::mib(100),
            rotate_age: Duration::from_secs(365 * 86_400),
            keep: 0,
        }
    }
}
