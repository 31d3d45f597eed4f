//! The SMTP state machine of one connection (RFC 5321 4.1.4): commands in, steps out. Never touches a socket, never
//! asks the judge itself, never reads the clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{self, Auth, Credentials, Exchange, Turn};
use super::command::{Command, Mail};
use super::input;
use super::reply::Reply;
use crate::mail::{Client, Envelope, Id, Recipient, Wish};
use crate::users::{Login, User};

/// Bounds of a session, from `[listen]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message on the wire.
    pub message_size: u64,
    /// Bytes of its header section.
    pub header_size: u64,
    /// Accepted recipients of a message.
    pub recipients: usize,
    /// Bad commands before the session is ended.
    pub errors: usize,
    /// Commands in a row that carry no mail, before each counts as a bad one.
    pub idle_commands: usize,
}

/// What a client may do before it has said anything: where it comes from, and what the relay has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It may relay without a password: it is in `listen.clients`.
    pub trusted: bool,
    /// The relay has a certificate.
    pub tls: bool,
    /// It must encrypt before it may send mail.
    pub tls_first: bool,
    /// The relay has users.
    pub login: bool,
    /// It is on this machine, so nobody can listen in.
    pub local: bool,
}

/// How long we wait for a client (RFC 5321 4.5.3.2), from `[listen]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a whole command, from the reply before it.
    pub command: Duration,
    /// For the next bytes of a message.
    pub data: Duration,
    /// For a whole message.
    pub message: Duration,
}

/// After so many wrong passwords a client is told goodbye.
const MAX_FAILED_LOGINS: u32 = 3;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Say it and read on.
    Say(Reply),
    /// Ask the judge about this recipient, give the answer to [`Session::judged`], and say that.
    Judge(Recipient),
    /// Say 354, receive a message, take the envelope.
    Receive,
    /// Check this, give the result to [`Session::logged_in`], and go on with its step.
    LogIn(Credentials),
    /// Say 220, shake hands, tell [`Session::encrypted`].
    Encrypt,
    /// Say it and hang up.
    Close(Reply),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    hostname: Arc<str>,
    limits: Limits,
    access: Access,
    client: Client,
    user: Option<Arc<User>>,
    exchange: Option<Exchange>,
    failed_logins: u32,
    transaction: Option<Transaction>,
    errors: usize,
    idle_commands: usize,
}

#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    /// Some RCPT came, accepted or not: it decides between 503 and 554 at DATA.
    tried: bool,
}

impl Session {
    /// A session of a client that has said nothing yet.
    pub fn new(hostname: Arc<str>, ip: IpAddr, limits: Limits, access: Access) -> Self {
        Self {
            hostname,
            limits,
            access,
            client: Client::new(ip),
            user: None,
            exchange: None,
            failed_logins: 0,
            transaction: None,
            errors: 0,
            idle_commands: 0,
        }
    }

    /// A transaction is under way: it has a sender and no end yet. One whose recipients were all refused so far has
    /// nothing that could be lost.
    pub fn in_transaction(&self) -> bool {
        self.transaction.as_ref().is_some_and(|Transaction { envelope, tried }| !tried || !envelope.recipients.is_empty())
    }

    /// An AUTH exchange is under way: the next line is a response and no command.
    pub fn in_exchange(&self) -> bool {
        self.exchange.is_some()
    }

    /// How often a login has failed.
    pub fn failed_logins(&self) -> u32 {
        self.failed_logins
    }

    /// The longest line that may come next, in bytes, CRLF included.
    pub fn max_line(&self) -> usize {
        if self.may_log_in() { auth::MAX_LINE } else { input::MAX_LINE }
    }

    /// What the judge is told about the mail so far.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// One command line, or the reply to a line that is none. `id` names the transaction if this begins one.
    pub fn command(&mut self, command: Result<Command, Reply>, id: impl FnOnce() -> Id) -> Step {
        let step = match command {
            Ok(command) => self.step(command, id),
            Err(reply) => Step::Say(reply),
        };
        self.counted(step)
    }

    /// A line of an AUTH exchange, or the reply to a line that is none.
    pub fn response(&mut self, line: Result<&[u8], Reply>) -> Step {
        let step = match (self.exchange.take(), line) {
            (Some(exchange), Ok(line)) => self.turn(exchange.response(line)),
            (_, Err(reply)) => Step::Say(reply),
            (None, Ok(_)) => Step::Say(Reply::UNKNOWN_COMMAND),
        };
        self.counted(step)
    }

    /// What came of a login.
    pub fn logged_in(&mut self, login: Login) -> Step {
        match login {
            Login::Ok(user) => {
                self.client.user = Some(user.name().into());
                self.user = Some(user);
                Step::Say(Reply::LOGGED_IN)
            }
            Login::Busy => Step::Say(Reply::LOGIN_BUSY),
            Login::Wrong => {
                self.failed_logins += 1;
                if self.failed_logins < MAX_FAILED_LOGINS {
                    Step::Say(Reply::WRONG_LOGIN)
                } else {
                    Step::Close(Reply::TOO_MANY_LOGINS)
                }
            }
        }
    }

    /// Who has logged in.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Whoever has logged in is no user any more.
    pub fn log_out(&mut self) {
        self.user = None;
        self.client.user = None;
    }

    /// The handshake is done: whatever was said before counts no more (RFC 3207 4.2).
    pub fn encrypted(&mut self) {
        self.transaction = None;
        self.user = None;
        self.client = Client { encrypted: true, ..Client::new(self.client.ip) };
    }

    /// The judge's answer about a recipient: if positive, the mail goes to it.
    pub fn judged(&mut self, recipient: Recipient, reply: &Reply) {
        if let Some(transaction) = &mut self.transaction
            && reply.is_positive()
        {
            transaction.envelope.recipients.push(recipient);
        }
    }

    /// The final dot, or the end of a message that was not taken: the transaction is over, whatever the answer.
    pub fn end_of_data(&mut self) -> Option<Envelope> {
        self.transaction.take().map(|transaction| transaction.envelope)
    }

    fn step(&mut self, command: Command, id: impl FnOnce() -> Id) -> Step {
        let idle = !matches!(command, Command::Mail(_) | Command::Rcpt(_) | Command::Data | Command::Quit);
        self.idle_commands = if idle { self.idle_commands + 1 } else { 0 };
        if self.idle_commands > self.limits.idle_commands {
            self.errors += 1;
            if self.errors >= self.limits.errors {
                return Step::Close(Reply::TOO_MANY_ERRORS);
            }
        }
        match command {
            Command::Ehlo(name) => Step::Say(self.hello(&name, true)),
            Command::Helo(name) => Step::Say(self.hello(&name, false)),
            Command::Mail(mail) => Step::Say(self.mail(mail, id)),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Data => self.data(),
            Command::Rset => {
                self.transaction = None;
                Step::Say(Reply::OK)
            }
            Command::Noop => Step::Say(Reply::OK),
            Command::Vrfy => Step::Say(Reply::UNVERIFIED),
            Command::Help => Step::Say(Reply::HELP),
            Command::StartTls => self.start_tls(),
            Command::Auth(auth) => self.auth(auth),
            Command::Quit => Step::Close(Reply::BYE),
            Command::Bdat => Step::Close(Reply::NOT_IMPLEMENTED),
            Command::Http => Step::Close(Reply::NOT_HTTP),
        }
    }

    fn hello(&mut self, name: &str, extended: bool) -> Reply {
        self.transaction = None;
        self.client.helo = name.into();
        self.client.extended = extended;
        if !extended {
            return Reply::hello(&self.hostname);
        }
        let start_tls = self.access.tls && !self.client.encrypted;
        Reply::extended_hello(&self.hostname, self.limits.message_size, start_tls, self.may_log_in())
    }

    fn start_tls(&self) -> Step {
        if !self.access.tls {
            return Step::Say(Reply::NOT_IMPLEMENTED);
        }
        if self.client.encrypted { Step::Say(Reply::ENCRYPTED_ALREADY) } else { Step::Encrypt }
    }

    /// A password goes over an encrypted connection, or stays on this machine.
    fn may_log_in(&self) -> bool {
        self.access.login && self.user.is_none() && (self.client.encrypted || self.access.local)
    }

    fn auth(&mut self, auth: Auth) -> Step {
        if !self.access.login {
            return Step::Say(Reply::NOT_IMPLEMENTED);
        }
        if self.user.is_some() {
            return Step::Say(Reply::LOGGED_IN_ALREADY);
        }
        if !self.may_log_in() {
            return Step::Say(Reply::LOGIN_NEEDS_TLS);
        }
        if !self.client.extended || self.transaction.is_some() {
            return Step::Say(Reply::NO_LOGIN_HERE);
        }
        self.turn(Exchange::begin(auth))
    }

    fn turn(&mut self, turn: Turn) -> Step {
        match turn {
            Turn::Ask(exchange, question) => {
                self.exchange = Some(exchange);
                Step::Say(question)
            }
            Turn::Check(credentials) => Step::LogIn(credentials),
            Turn::End(reply) => Step::Say(reply),
        }
    }

    /// Why this client may not send mail now.
    fn kept_out(&self) -> Option<Reply> {
        if self.access.tls_first && !self.client.encrypted {
            return Some(Reply::ENCRYPT_FIRST);
        }
        (!self.access.trusted && self.user.is_none()).then_some(Reply::LOGIN_FIRST)
    }

    fn mail(&mut self, mail: Mail, id: impl FnOnce() -> Id) -> Reply {
        if let Some(reply) = self.kept_out() {
            return reply;
        }
        if self.transaction.is_some() {
            return Reply::NESTED_MAIL;
        }
        if !self.client.extended && (mail.ret.is_some() || mail.envid.is_some()) {
            return Reply::UNKNOWN_PARAMETER;
        }
        if mail.size > self.limits.message_size {
            return Reply::TOO_LARGE;
        }
        if self.user.as_ref().is_some_and(|user| !user.may_send_as(&mail.sender)) {
            return Reply::NOT_YOUR_SENDER;
        }
        let Mail { sender, eight_bit, smtputf8, ret, envid, .. } = mail;
        let client = self.client.clone();
        let envelope = Envelope { id: id(), client, sender, recipients: Vec::new(), eight_bit, smtputf8, ret, envid };
        self.transaction = Some(Transaction { envelope, tried: false });
        Reply::SENDER_OK
    }

    fn rcpt(&mut self, recipient: Recipient) -> Step {
        let Some(transaction) = &mut self.transaction else {
            return Step::Say(Reply::MAIL_FIRST);
        };
        transaction.tried = true;
        if !self.client.extended && recipient.wish != Wish::default() {
            return Step::Say(Reply::UNKNOWN_PARAMETER);
        }
        if transaction.envelope.recipients.len() >= self.limits.recipients {
            return Step::Say(Reply::TOO_MANY_RECIPIENTS);
        }
        let international =
            !recipient.address.as_str().is_ascii() || !recipient.wish.original.as_deref().is_none_or(str::is_ascii);
        if international && !transaction.envelope.smtputf8 {
            return Step::Say(Reply::NEEDS_SMTPUTF8);
        }
        Step::Judge(recipient)
    }

    fn data(&self) -> Step {
        match &self.transaction {
            None => Step::Say(Reply::MAIL_FIRST),
            Some(transaction) if !transaction.envelope.recipients.is_empty() => Step::Receive,
            Some(transaction) if transaction.tried => Step::Say(Reply::NO_VALID_RECIPIENTS),
            Some(_) => Step::Say(Reply::RCPT_FIRST),
        }
    }

    /// What is wrong with an address or a message is an answer; what is wrong with the dialogue counts.
    fn counted(&mut self, step: Step) -> Step {
        match step {
            Step::Say(reply) if matches!(reply.code, 500..=509 | 530 | 538 | 555) => self.count_error(reply),
            other => other,
        }
    }

    fn count_error(&mut self, reply: Reply) -> Step {
        self.errors += 1;
        if self.errors >= self.limits.errors { Step::Close(Reply::TOO_MANY_ERRORS) } else { Step::Say(reply) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth::Mechanism;
    use super::*;

    fn session(access: Access) -> Session {
        let limits = Limits { message_size: 1000, header_size: 1000, recipients: 10, errors: 20, idle_commands: 100 };
        Session::new("relay.test".into(), [192, 168, 1, 7].into(), limits, access)
    }

    fn say(session: &mut Session, line: &str) -> Step {
        session.command(Command::parse(line.as_bytes()), || Id::new(1, 2))
    }

    fn code(step: &Step) -> u16 {
        match step {
            Step::Say(reply) | Step::Close(reply) => reply.code,
            other => panic!("{other:?}"),
        }
    }

    /// What a client hears that comes from another machine, by what the relay has; dialogues come from this one.
    #[test]
    fn another_machine_encrypts_and_logs_in_before_it_sends() {
        let trusted = Access { trusted: true, ..Access::default() };
        let login = Access { login: true, tls: true, ..Access::default() };
        let tls_first = Access { tls_first: true, tls: true, ..trusted };
        for (access, encrypted, mail, auth) in [
            (trusted, false, 250, 502),
            (tls_first, false, 530, 502),
            (tls_first, true, 250, 502),
            (login, false, 530, 538),
            (login, true, 530, 334),
            (Access { tls_first: true, ..login }, false, 530, 538),
            (Access { tls_first: true, trusted: true, ..login }, true, 250, 334),
            (Access { local: true, tls: false, ..login }, false, 530, 334),
        ] {
            let mut session = session(access);
            if encrypted {
                session.encrypted();
            }
            say(&mut session, "EHLO tool");
            assert_eq!(code(&say(&mut session, "AUTH PLAIN")), auth, "{access:?} {encrypted}");
            let _ = session.response(Ok(b"*"));
            assert_eq!(code(&say(&mut session, "MAIL FROM:<a@b.example>")), mail, "{access:?} {encrypted}");
        }
    }

    #[test]
    fn nothing_that_was_said_in_the_clear_counts_as_encrypted() {
        let mut session = session(Access { login: true, tls: true, local: true, ..Access::default() });
        say(&mut session, "EHLO in-the-clear");
        let user = Arc::new(User::new("tool", None));
        assert_eq!(code(&session.logged_in(Login::Ok(user.clone()))), 235);
        say(&mut session, "MAIL FROM:<a@b.example>");
        assert_eq!(say(&mut session, "STARTTLS"), Step::Encrypt);
        session.encrypted();
        assert!(session.envelope().is_none());
        // No name, no EHLO, no login.
        assert_eq!(code(&say(&mut session, "AUTH PLAIN")), 503);
        say(&mut session, "EHLO tool");
        assert_eq!(code(&say(&mut session, "MAIL FROM:<a@b.example>")), 530);
        assert_eq!(code(&say(&mut session, "STARTTLS")), 503);
        assert_eq!(code(&session.logged_in(Login::Ok(user))), 235);
        say(&mut session, "MAIL FROM:<a@b.example>");
        let client = &session.envelope().unwrap().client;
        assert_eq!((client.encrypted, client.user.as_deref(), &*client.helo), (true, Some("tool"), "tool"));
    }

    #[test]
    fn a_password_that_is_wrong_again_and_again_ends_the_session() {
        let mut session = session(Access { login: true, local: true, ..Access::default() });
        say(&mut session, "EHLO tool");
        let auth = Auth { mechanism: Mechanism::Login, initial: Some("dG9vbA==".into()) };
        let step = session.command(Ok(Command::Auth(auth)), || Id::new(1, 2));
        assert_eq!(step, Step::Say(Reply::ASK_PASSWORD));
        assert!(session.in_exchange());
        let Step::LogIn(Credentials { name, password }) = session.response(Ok(b"d3Jvbmc=")) else { panic!("no login") };
        assert_eq!((name.as_str(), &password[..]), ("tool", &b"wrong"[..]));
        assert!(!session.in_exchange());
        let heard: Vec<_> = (0..3).map(|_| session.logged_in(Login::Wrong)).collect();
        assert_eq!(heard, [Step::Say(Reply::WRONG_LOGIN), Step::Say(Reply::WRONG_LOGIN), Step::Close(Reply::TOO_MANY_LOGINS)]);
    }
}
