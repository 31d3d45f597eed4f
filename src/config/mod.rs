//! The configuration as it is meant: read, overlaid by the environment, checked, secrets fetched. Never prints one.

mod access;
mod admin;
mod circle;
pub mod file;
mod learning;
mod overlay;
mod route;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::optout::Policy;
use crate::place::Fault;
use crate::place::toml::place_of;
use crate::smtp::{Limits, Timeouts};
use crate::spool::Rhythm;
use access::Wrong;
use file::{File, Headers, LineEndings, Password};
use overlay::{Overlaid, overlay};

pub use admin::AdminDoor;
pub use learning::{ImapRoute, Learning};
pub use route::{Encryption, HostRoute, Route};

/// Looked for where no `--config` is given, in this order.
pub const PLACES: [&str; 2] = ["config/relay.toml", "/etc/optout-relay/relay.toml"];

/// Each session has a place in memory from the start.
const MOST_SESSIONS: usize = 100_000;

/// What the relay runs by.
#[derive(Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Everything that needs no second thought.
    pub file: File,
    /// Our own name; never empty.
    pub hostname: String,
    /// The lists, found from the place of the configuration.
    pub lists: Vec<PathBuf>,
    /// The users, found likewise; none: nobody has a password.
    pub users: Option<PathBuf>,
    /// Certificate and key for TLS with tools, found from the same place.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The operator's decisions about opt-outs.
    pub policy: Policy,
    /// What notices look like, found likewise; none: as compiled in.
    pub notices: Option<PathBuf>,
    /// Where notices are put as files, found likewise.
    pub folder: Option<PathBuf>,
    /// What is learned from, and from what never.
    pub learning: Learning,
    /// The admin page, if there is one.
    pub admin: Option<AdminDoor>,
    /// Where mail goes.
    pub route: Route,
    /// What is wrong where that turns out to be ourselves.
    circle: Fault,
}

impl Config {
    /// Reads the file, or the first of [`PLACES`] that exists, and lays `OPTOUT_RELAY_…` over it.
    pub fn load(path: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Fault> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
                Fault::of_file(Path::new(PLACES[0]), "there is no configuration, here or in /etc/optout-relay")
                    .hint("name it: optout-relay --config FILE")
            })?,
        };
        let text = std::fs::read_to_string(&path).map_err(|e| Fault::unreadable(&path, &e))?;
        Self::parse(&path, &text, environment)
    }

    /// The same for a text that is there already.
    pub fn parse(path: &Path, text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Fault> {
        let written: File = toml::from_str(text).map_err(|e| Fault::of_toml(path, text, &e))?;
        Self::mean(path, text, overlay(text, written, environment)?)
    }

    fn mean(path: &Path, text: &str, written: Overlaid) -> Result<Self, Fault> {
        let wrong = |key: &str, message: &str| match written.variable(key) {
            Some(variable) => Fault::of_file(Path::new(variable), message),
            None => {
                let (line, column) = place_of(text, key).unwrap_or_default();
                Fault { line, column, ..Fault::of_file(path, format_args!("`{key}`: {message}")) }
            }
        };
        let file = &written.file;
        let route = Route::parse(&file.upstream.url.0, file.upstream.user.clone())
            .map_err(|(m, hint)| wrong("upstream.url", m).hint(hint))?;
        let (listen, upstream) = (&file.listen, &file.upstream);
        for (key, is_zero) in [
            ("listen.command_timeout", listen.command_timeout.is_zero()),
            ("listen.data_timeout", listen.data_timeout.is_zero()),
            ("listen.message_timeout", listen.message_timeout.is_zero()),
            ("upstream.connect_timeout", upstream.connect_timeout.is_zero()),
            ("upstream.timeout", upstream.timeout.is_zero()),
            ("upstream.data_timeout", upstream.data_timeout.is_zero()),
            ("delivery.patience", file.delivery.patience.is_zero()),
            ("delivery.retry_first", file.delivery.retry_first.is_zero()),
            ("delivery.give_up_after", file.delivery.give_up_after.is_zero()),
            ("log.rotate_age", file.log.rotate_age.is_zero()),
            ("listen.max_recipients", listen.max_recipients == 0),
            ("listen.max_sessions", listen.max_sessions == 0),
            ("listen.max_sessions_per_client", listen.max_sessions_per_client == 0),
            ("listen.max_errors", listen.max_errors == 0),
            ("listen.max_message_size", listen.max_message_size.0 == 0),
            ("listen.max_header_size", listen.max_header_size.0 == 0),
            ("upstream.max_connections", upstream.max_connections == 0),
            ("log.rotate_size", file.log.rotate_size.0 == 0),
        ] {
            if is_zero {
                return Err(wrong(key, "may not be 0").hint("delete the line to have the default"));
            }
        }
        if listen.max_sessions > MOST_SESSIONS {
            return Err(wrong("listen.max_sessions", "is more than 100,000").hint("512 serve thousands of tools that take turns"));
        }
        if listen.smtp.is_empty() && listen.submissions.is_empty() {
            return Err(wrong("listen.smtp", "names no address").hint("smtp = [\"127.0.0.1:2525\"]"));
        }
        // One that comes in, or two while it is mended; and one that is held and goes out.
        let (messages, times) = if listen.line_endings == LineEndings::Fix { (3, "three times") } else { (2, "twice") };
        if listen.max_memory.0 / messages < listen.max_message_size.0 {
            return Err(wrong("listen.max_memory", &format!("is less than {times} listen.max_message_size"))
                .hint("no message of that size could ever be taken; \"256MiB\" is room for ten large ones at a time"));
        }
        if file.opt_out.lists.is_empty() {
            return Err(wrong("opt_out.lists", "names no list").hint("lists = [\"blacklist.toml\"]; a list may be empty"));
        }
        if file.delivery.retry_max < file.delivery.retry_first {
            return Err(wrong("delivery.retry_max", "is shorter than delivery.retry_first")
                .hint("waits grow from the first to the longest"));
        }
        if !(0.0..=1.0).contains(&file.opt_out.max_shrink) {
            return Err(wrong("opt_out.max_shrink", "is not between 0 and 1").hint("0.5 is one half"));
        }
        if file.opt_out.exempt_subjects.iter().any(|mark| mark.trim().is_empty()) {
            return Err(wrong("opt_out.exempt_subjects", "holds an empty text, which stands in every subject").hint("delete it"));
        }
        match (&route, &upstream.password) {
            (Route::Host(HostRoute { user: Some(_), .. }), None) => {
                let key = if upstream.user.is_some() { "upstream.user" } else { "upstream.url" };
                return Err(wrong(key, "names a user, but there is no password")
                    .hint("set upstream.password = { file = \"/etc/optout-relay/password\" }"));
            }
            (Route::Host(HostRoute { user: None, .. }), Some(_)) => {
                return Err(wrong("upstream.password", "there is no user to this password")
                    .hint("set upstream.user = \"seller@example.com\""));
            }
            _ => {}
        }
        if let Route::Host(route) = &route
            && let Some((key, message, hint)) = route.reckless(upstream)
        {
            return Err(wrong(key, message).hint(hint));
        }
        if !upstream.tls_verify && upstream.ca.is_some() {
            return Err(wrong("upstream.tls_verify", "cannot be false beside upstream.ca")
                .hint("choose one: with upstream.ca the host must prove who it is, without verification anybody will do"));
        }
        let circle = wrong("upstream.url", circle::MESSAGE).hint(circle::HINT);
        if let Route::Host(route) = &route
            && circle::is_circle(&listen.addresses(), route, &machine_name())
        {
            return Err(circle);
        }
        access::examine(listen).map_err(|Wrong { key, message, hint }| wrong(key, &message).hint(hint))?;
        let hostname = if file.hostname.is_empty() { machine_name() } else { file.hostname.clone() };
        let user = if let Route::Host(route) = &route { route.user.as_deref() } else { None };
        let learning = Learning::mean(&file.learn, [user.unwrap_or_default(), &hostname])
            .map_err(|Wrong { key, message, hint }| wrong(key, &message).hint(hint))?;
        if !file.hostname.is_empty() && !is_host_name(&file.hostname) {
            return Err(wrong("hostname", "is no host name").hint("letters, digits, dots and hyphens, as in relay.example.com"));
        }
        let base = path.parent().unwrap_or(Path::new(""));
        let admin =
            AdminDoor::mean(&file.admin, listen, base).map_err(|Wrong { key, message, hint }| wrong(key, &message).hint(hint))?;
        Ok(Self {
            path: path.to_owned(),
            hostname,
            learning,
            admin,
            notices: file.learn.notices.as_ref().map(|notices| base.join(notices)),
            folder: file.learn.folder.as_ref().map(|folder| base.join(folder)),
            lists: file.opt_out.lists.iter().map(|list| base.join(list)).collect(),
            users: file.listen.users.as_ref().map(|users| base.join(users)),
            certificate: listen.certificate.iter().zip(&listen.key).map(|(chain, key)| (base.join(chain), base.join(key))).next(),
            policy: Policy {
                action: file.opt_out.action,
                mode: file.opt_out.mode,
                exempt_subjects: file.opt_out.exempt_subjects.iter().map(|mark| mark.to_lowercase()).collect(),
            },
            route,
            circle,
            file: written.file,
        })
    }

    /// Host and port of the upstream where the port is one of our own, so that only its addresses tell who listens there.
    pub fn own_port(&self) -> Option<(&str, u16)> {
        match &self.route {
            Route::Host(HostRoute { host, port, .. }) if circle::has_port(&self.file.listen.addresses(), *port) => {
                Some((host, *port))
            }
            _ => None,
        }
    }

    /// The fault that mail would come back to us, if one of the upstream's addresses is a listener's; `is_own` tells
    /// whether this machine has an address.
    pub fn circle(&self, upstream: &[SocketAddr], is_own: impl Fn(IpAddr) -> bool) -> Option<Fault> {
        let listen = self.file.listen.addresses();
        let ours = upstream.iter().any(|to| circle::takes(&listen, *to, &is_own));
        ours.then(|| self.circle.clone())
    }

    /// The same with listeners that are open already in place of `listen.smtp` and `listen.submissions`: what holds for
    /// addresses that are written here holds for theirs.
    pub fn listening_on(mut self, [smtp, submissions]: [Vec<SocketAddr>; 2]) -> Result<Self, Fault> {
        let listen = &mut self.file.listen;
        for (place, open) in [(&mut listen.smtp, smtp), (&mut listen.submissions, submissions)] {
            if !open.is_empty() {
                *place = open;
            }
        }
        access::examine(listen).map_err(|Wrong { key, message, hint }| {
            Fault::of_file(&self.path, format_args!("`{key}`, as systemd has handed it over: {message}")).hint(hint)
        })?;
        match &self.route {
            Route::Host(route) if circle::is_circle(&self.file.listen.addresses(), route, &machine_name()) => Err(self.circle),
            _ => Ok(self),
        }
    }

    /// Bounds of a session.
    pub fn limits(&self) -> Limits {
        let listen = &self.file.listen;
        Limits {
            message_size: listen.max_message_size.0,
            header_size: listen.max_header_size.0,
            recipients: listen.max_recipients,
            errors: listen.max_errors,
            idle_commands: listen.max_idle_commands,
        }
    }

    /// How long to wait for a client.
    pub fn timeouts(&self) -> Timeouts {
        let listen = &self.file.listen;
        Timeouts { command: listen.command_timeout, data: listen.data_timeout, message: listen.message_timeout }
    }

    /// The list of what the relay has learned by itself.
    pub fn learned(&self) -> PathBuf {
        self.file.state_dir.join("learned.toml")
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.file.state_dir.join("log")
    }

    /// What waits for a person before it is learned.
    pub fn quarantine(&self) -> PathBuf {
        self.file.state_dir.join("quarantine")
    }

    /// Whose orders are whose.
    pub fn orders(&self) -> PathBuf {
        self.file.state_dir.join("orders.redb")
    }

    /// All lists in force: those that people write, and what was learned, if anything was.
    pub fn all_lists(&self) -> Vec<PathBuf> {
        let learned = Some(self.learned()).filter(|path| path.exists());
        self.lists.iter().cloned().chain(learned).collect()
    }

    /// Where held mail is kept.
    pub fn spool(&self) -> PathBuf {
        self.file.state_dir.join("spool")
    }

    /// When held mail is tried again.
    pub fn rhythm(&self) -> Rhythm {
        let delivery = &self.file.delivery;
        Rhythm {
            first: delivery.retry_first,
            max: delivery.retry_max,
            give_up: delivery.give_up_after,
            tell_delay: delivery.report_delay_after,
            at_once: self.file.upstream.max_connections,
        }
    }

    /// To, Cc and Bcc are judged too.
    pub fn judge_headers(&self) -> bool {
        self.file.opt_out.headers == Headers::Enforce
    }

    /// Mail is encrypted for whoever answers at the host's address.
    pub fn trusts_anybody(&self) -> bool {
        let upstream = &self.file.upstream;
        let encrypted = |route: &HostRoute| route.encryption(upstream.tls) != Encryption::None;
        !upstream.tls_verify && matches!(&self.route, Route::Host(route) if encrypted(route))
    }

    /// The password towards the host, fetched from where the configuration says; `None` where none is wanted.
    pub fn password(&self) -> Result<Option<String>, Fault> {
        self.file.upstream.password.as_ref().map(|password| fetch(&self.path, "upstream.password", password)).transpose()
    }

    /// The password of the mailbox with notices, fetched likewise.
    pub fn imap_password(&self) -> Result<Option<String>, Fault> {
        self.file.learn.imap.password.as_ref().map(|password| fetch(&self.path, "learn.imap.password", password)).transpose()
    }

    /// How far that mailbox was looked through.
    pub fn imap_place(&self) -> PathBuf {
        self.file.state_dir.join("imap.json")
    }
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn machine_name() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    if is_host_name(&name) { name } else { "localhost".into() }
}

fn fetch(config: &Path, key: &str, password: &Password) -> Result<String, Fault> {
    let from_file = |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(|e| Fault::unreadable(path, &e))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let found = match password {
        Password::File(path) => from_file(&config.parent().unwrap_or(Path::new("")).join(path))?,
        Password::Env(name) => std::env::var(name).map_err(|_| {
            Fault::of_file(config, format_args!("{key}: the environment variable {name} is not set"))
                .hint("set it for the relay's process")
        })?,
        Password::Credential(name) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Fault::of_file(config, format_args!("{key}: there are no credentials"))
                    .hint("systemd hands them in: LoadCredential= in the unit")
            })?;
            from_file(&Path::new(&folder).join(name))?
        }
    };
    if found.is_empty() { Err(Fault::of_file(config, format_args!("{key}: is empty"))) } else { Ok(found) }
}
