//! One client's connection: bytes in, session, relay, bytes out, each with a deadline. Never decides what is said.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::auth::Credentials;
use super::command::{Command, says_data};
use super::crowd::Seat;
use super::input::{Data, Input, Line, Space};
use super::reply::Reply;
use super::session::{Access, Session, Step};
use super::stream::Stream;
use super::{Door, Entrance};
use crate::mail::{Envelope, Message, Recipient, WORTHWHILE, clean};
use crate::memory::Share;
use crate::metrics::NoSession;
use crate::users::Login;

/// A client that takes our replies slower than this is gone.
const WRITE: Duration = Duration::from_secs(60);

/// For a client to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How long a client is listened to after it was told goodbye.
const LINGER: Duration = Duration::from_millis(500);

/// Whoever must make room gets so long to hear why.
const LAST_WORD: Duration = Duration::from_millis(20);

/// A wrong password is answered so much later each time.
const WRONG_LOGIN: Duration = Duration::from_secs(1);

/// Room for the next read: a command line, the beginning of a message, a piece of a large one.
const COMMAND_ROOM: usize = 4 << 10;
const DATA_ROOM: usize = 16 << 10;
const LARGE_DATA_ROOM: usize = 64 << 10;

/// A client that sends a message gets on when it has sent so much more of it.
const PROGRESS: usize = 4 << 10;

/// Serves one client to its end. Errors of the socket end it and concern nobody else.
pub async fn run(door: &Door, stream: TcpStream, ip: IpAddr, entrance: Entrance, seat: Seat) {
    let _inside = door.relay.metrics.session();
    let access = door.access(ip);
    let session = Session::new(door.hostname.clone(), ip, door.limits, access);
    let (stream, input, out) = (Stream::Plain(stream), Input::default(), Vec::with_capacity(256));
    let mut connection = Connection { door, seat, access, stream, session, input, data_refused: false, out };
    let End { last, cause } = match connection.serve(ip, entrance).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    if let Some(last) = last {
        last.write_to(&mut connection.out);
    }
    connection.part(cause, ip).await;
}

struct Connection<'a> {
    door: &'a Door,
    seat: Seat,
    access: Access,
    stream: Stream,
    session: Session,
    input: Input,
    /// DATA was the last line, and was refused: what comes may be a message, and its lines are no commands.
    data_refused: bool,
    /// Replies that wait for the end of a pipelined batch (RFC 2920).
    out: Vec<u8>,
}

/// How a connection ends.
struct End {
    /// What is said last.
    last: Option<Reply>,
    cause: Cause,
}

enum Cause {
    /// The client has said QUIT, and has nothing more to say.
    Bye,
    /// We do not want to hear more of it.
    Dismissed,
    /// Others need its place.
    Cut,
    /// The client has hung up, or is to be hung up on without a word.
    Gone,
    /// The socket.
    Lost(io::Error),
}

enum Never {}

impl End {
    fn saying(last: Reply) -> Self {
        Self { last: Some(last), cause: Cause::Dismissed }
    }

    fn silent(cause: Cause) -> Self {
        Self { last: None, cause }
    }
}

impl Connection<'_> {
    async fn serve(&mut self, ip: IpAddr, entrance: Entrance) -> Result<Never, End> {
        if let Stream::Plain(tcp) = &self.stream {
            tcp.set_nodelay(true).map_err(|error| End::silent(Cause::Lost(error)))?;
        }
        if !self.access.trusted && !self.access.login {
            self.door.relay.metrics.no_session(NoSession::Unknown);
            self.door.told.strangers.tell(|times| {
                tracing::warn!(client = %ip, times, "refused: not in `listen.clients`, and there are no `listen.users`");
            });
            return Err(End::saying(Reply::CLIENT_UNKNOWN));
        }
        if entrance == Entrance::Encrypted {
            self.encrypt(ip).await?;
        }
        if self.talks_first().await {
            return Err(End::saying(Reply::TALKED_FIRST));
        }
        Reply::greeting(&self.door.hostname).write_to(&mut self.out);
        loop {
            let line = self.next_line().await?;
            self.seat.works();
            if self.session.in_exchange() {
                let step = self.session.response(text(&line));
                self.step(step, ip).await?;
            } else {
                self.command(&line, ip).await?;
            }
        }
    }

    /// A client that sends before it was greeted does not speak SMTP; a browser, mostly.
    async fn talks_first(&mut self) -> bool {
        match self.stream {
            Stream::Tls(_) => timeout(Duration::ZERO, read(&mut self.stream, &mut self.input, COMMAND_ROOM)).await.is_ok(),
            _ => self.stream.is_waiting(),
        }
    }

    /// The next line that has an end.
    async fn next_line(&mut self) -> Result<Line, End> {
        let deadline = Instant::now() + self.door.timeouts.command;
        self.seat.waits();
        loop {
            match self.input.line(self.session.max_line()) {
                Line::Partial => {}
                Line::Endless => return Err(End::saying(Reply::ENDLESS_LINE)),
                line => return Ok(line),
            }
            self.flush().await?;
            // Between transactions a shutdown ends the session; a transaction under way is finished.
            let may_leave = !self.session.in_transaction();
            let read = read(&mut self.stream, &mut self.input, COMMAND_ROOM);
            if outside(self.door, &self.seat, may_leave, deadline, read).await? == 0 {
                return Err(End::silent(Cause::Gone));
            }
        }
    }

    async fn command(&mut self, line: &Line, ip: IpAddr) -> Result<(), End> {
        let command = text(line).and_then(Command::parse);
        let is_data = matches!(line, Line::Whole(line) | Line::Bare(line) if says_data(line));
        let after_refused_data = std::mem::take(&mut self.data_refused);
        if matches!(command, Ok(Command::Mail(_))) {
            self.log_out_the_removed();
        }
        let command = match command {
            Ok(Command::Mail(_)) if !self.door.relay.spool.has_room() => Err(Reply::NO_ROOM),
            other => other,
        };
        let step = self.session.command(command, || self.door.relay.next_id());
        if let Step::Say(reply) = &step {
            let refused = (500..600).contains(&reply.code);
            self.data_refused = is_data && refused;
            if (is_data && self.input.is_waiting()) || (after_refused_data && refused) {
                return Err(End::saying(reply.clone()));
            }
        }
        self.step(step, ip).await
    }

    async fn step(&mut self, step: Step, ip: IpAddr) -> Result<(), End> {
        match step {
            Step::Say(reply) => reply.write_to(&mut self.out),
            Step::Judge(recipient) => self.recipient(recipient).await,
            Step::Receive => self.message(ip).await?,
            Step::LogIn(credentials) => return self.log_in(credentials, ip).await,
            Step::Encrypt => return self.start_tls(ip).await,
            Step::Close(reply) => {
                let cause = if reply == Reply::BYE { Cause::Bye } else { Cause::Dismissed };
                return Err(End { last: Some(reply), cause });
            }
        }
        Ok(())
    }

    async fn recipient(&mut self, recipient: Recipient) {
        if let Some(envelope) = self.session.envelope() {
            let reply = self.door.relay.judge(envelope, &recipient.address).await;
            reply.write_to(&mut self.out);
            self.session.judged(recipient, &reply);
        }
    }

    async fn message(&mut self, ip: IpAddr) -> Result<(), End> {
        Reply::GO_ON.write_to(&mut self.out);
        let received = self.content(ip).await?;
        self.seat.works();
        let reply = match (received, self.session.end_of_data()) {
            (Ok(message), Some(envelope)) => self.take(envelope, message).await,
            (Err(reply), _) => reply,
            (Ok(_), None) => Reply::RCPT_FIRST,
        };
        reply.write_to(&mut self.out);
        Ok(())
    }

    async fn take(&self, envelope: Envelope, message: Message) -> Reply {
        if message.header_len() as u64 > self.door.limits.header_size {
            return Reply::HEADER_TOO_LARGE;
        }
        let reply = self.door.relay.take(envelope, message).await;
        if reply.is_positive() {
            self.seat.proves();
        }
        reply
    }

    /// Everything up to the final dot; or the reply to what was read to its end and thrown away.
    async fn content(&mut self, ip: IpAddr) -> Result<Result<Message, Reply>, End> {
        self.seat.waits();
        self.flush().await?;
        let end = Instant::now() + self.door.timeouts.message;
        let limit = usize::try_from(self.door.limits.message_size).unwrap_or(usize::MAX);
        let (mut share, mut too_much, mut seen) = (Share::default(), Reply::TOO_LARGE, 0);
        loop {
            match self.input.data(limit) {
                Data::Whole(wire) => {
                    self.seat.works();
                    return Ok(self.door.message(wire, share, limit, self.session.envelope()).await);
                }
                Data::TooLarge => return Ok(Err(too_much)),
                Data::Partial => {}
            }
            if self.input.waiting() >= seen + PROGRESS {
                seen = self.input.waiting();
                self.seat.waits();
            }
            if self.input.is_drained() {
                share = Share::default();
            } else if !share.covers(self.input.waiting()) {
                self.seat.works();
                let grown = self.door.memory.grow(&mut share, self.input.waiting()).await.is_ok();
                let spread = self.input.waiting() < WORTHWHILE || (grown && self.input.spread(limit).is_ok());
                if !grown || !spread {
                    too_much = self.door.no_memory(ip);
                    self.input.drain();
                    share = Share::default();
                }
                self.seat.waits();
            }
            let deadline = end.min(Instant::now() + self.door.timeouts.data);
            let room = if share.bytes() == 0 { DATA_ROOM } else { LARGE_DATA_ROOM };
            let read = read(&mut self.stream, &mut self.input, room);
            if outside(self.door, &self.seat, false, deadline, read).await? == 0 {
                return Err(End::silent(Cause::Gone));
            }
        }
    }

    /// A user who was taken out of the file, or changed, logs in anew before the next mail.
    fn log_out_the_removed(&mut self) {
        let users = self.door.users.as_ref();
        if self.session.user().is_some_and(|user| users.is_none_or(|users| !users.still_has(user))) {
            self.session.log_out();
        }
    }

    async fn log_in(&mut self, credentials: Credentials, ip: IpAddr) -> Result<(), End> {
        let Credentials { name, password } = credentials;
        let Some(users) = &self.door.users else { return Err(End::silent(Cause::Gone)) };
        // Whoever has not proved anything yet makes room for others also while its password is looked at.
        self.seat.waits();
        let deadline = Instant::now() + self.door.timeouts.command;
        let check = async { Ok(users.login(&name, &password).await) };
        let login = outside(self.door, &self.seat, true, deadline, check).await?;
        let late = match &login {
            Login::Ok(_) => {
                self.seat.proves();
                Duration::ZERO
            }
            // Whoever comes in crowds waits as well.
            Login::Busy => WRONG_LOGIN,
            Login::Wrong => {
                // What is no name here may be a password in the wrong field.
                let user = if users.has(&name) { clean(&name, 100) } else { "(unknown)".into() };
                tracing::warn!(client = %ip, user, "login failed: user name or password is wrong");
                WRONG_LOGIN * (self.session.failed_logins() + 1)
            }
        };
        if !late.is_zero() {
            let wait = async {
                sleep(late).await;
                Ok(())
            };
            outside(self.door, &self.seat, true, Instant::now() + 2 * late, wait).await?;
        }
        match self.session.logged_in(login) {
            Step::Close(reply) => Err(End::saying(reply)),
            Step::Say(reply) => {
                reply.write_to(&mut self.out);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What was said behind STARTTLS was said in the clear, by anybody: it must never count as encrypted (RFC 3207 5).
    async fn start_tls(&mut self, ip: IpAddr) -> Result<(), End> {
        if self.input.is_waiting() || self.stream.is_waiting() {
            tracing::warn!(client = %ip, "hung up: something was sent behind STARTTLS before encryption began");
            return Err(End::silent(Cause::Gone));
        }
        Reply::GO_AHEAD.write_to(&mut self.out);
        self.flush().await?;
        self.encrypt(ip).await
    }

    async fn encrypt(&mut self, ip: IpAddr) -> Result<(), End> {
        let Some(certificate) = &self.door.certificate else { return Err(End::silent(Cause::Gone)) };
        let (acceptor, deadline) = (certificate.acceptor(), Instant::now() + HANDSHAKE);
        self.seat.waits();
        let shaken = outside(self.door, &self.seat, true, deadline, self.stream.encrypt(&acceptor)).await;
        shaken.map_err(|end| match end.cause {
            Cause::Lost(error) => {
                self.door.told.handshakes.tell(|times| tracing::warn!(client = %ip, times, "no TLS with a client: {error}"));
                End::silent(Cause::Gone)
            }
            // There is no way to say it.
            cause => End::silent(cause),
        })?;
        self.session.encrypted();
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + WRITE;
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        let written = outside(self.door, &self.seat, false, deadline, write).await;
        written.map_err(|end| match end.cause {
            // Whoever does not take our replies is not told so.
            Cause::Dismissed => End::silent(Cause::Gone),
            _ => end,
        })?;
        self.out.clear();
        Ok(())
    }

    /// The last reply, and the end of the connection.
    async fn part(mut self, cause: Cause, ip: IpAddr) {
        self.seat.waits();
        match cause {
            Cause::Bye => drop(self.hang_up().await),
            Cause::Dismissed => {
                if self.hang_up().await.is_ok() {
                    self.linger().await;
                }
            }
            Cause::Cut => {
                self.door.told.cuts.tell(|times| {
                    tracing::warn!(client = %ip, times, "hung up on a silent client, for others needed its place");
                });
                let _ = timeout(LAST_WORD, self.stream.write_all(&self.out)).await;
            }
            Cause::Gone => {}
            Cause::Lost(error) => tracing::debug!(client = %ip, "connection ended: {error}"),
        }
    }

    async fn hang_up(&mut self) -> Result<(), End> {
        self.flush().await?;
        let deadline = Instant::now() + WRITE;
        outside(self.door, &self.seat, false, deadline, self.stream.shutdown()).await
    }

    /// Bytes that nobody reads would make the system take the last reply back: they are read for a moment.
    async fn linger(&mut self) {
        let (end, mut nothing) = (Instant::now() + LINGER, [0; 4096]);
        while let Ok(1..) = outside(self.door, &self.seat, false, end, self.stream.read(&mut nothing)).await {}
    }
}

/// The line, or the reply to what is none.
fn text(line: &Line) -> Result<&[u8], Reply> {
    match line {
        Line::Whole(line) => Ok(line),
        Line::TooLong => Err(Reply::LINE_TOO_LONG),
        _ => Err(Reply::BAD_BYTES),
    }
}

/// Reads what has come, as far as there is room for it.
async fn read(stream: &mut Stream, input: &mut Input, room: usize) -> io::Result<usize> {
    let count = match input.space(room) {
        Space::Grows(buffer) => return stream.read_buf(buffer).await,
        Space::Stays(room) => stream.read(room).await?,
    };
    input.filled(count);
    Ok(count)
}

/// Waits for the client, until `deadline`, or until others need its place, or until the relay stops where it `may_leave`.
async fn outside<T>(
    door: &Door,
    seat: &Seat,
    may_leave: bool,
    deadline: Instant,
    act: impl Future<Output = io::Result<T>>,
) -> Result<T, End> {
    let mut act = pin!(timeout_at(deadline, act));
    loop {
        if may_leave && door.stop.is_cancelled() {
            return Err(End::saying(Reply::SHUTTING_DOWN));
        }
        if seat.is_cut() {
            return Err(End { last: Some(Reply::NEEDED_ELSEWHERE), cause: Cause::Cut });
        }
        tokio::select! {
            biased;
            done = &mut act => return match done {
                Ok(done) => done.map_err(|error| End::silent(Cause::Lost(error))),
                Err(_) => Err(End::saying(Reply::TOO_SLOW)),
            },
            () = seat.called() => {}
        }
    }
}
