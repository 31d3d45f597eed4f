//! One client's connection: bytes in, session, relay, bytes out, each with a deadline. Never decides what is said.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Door;
use super::command::Command;
use super::input::{Data, Input, Line};
use super::reply::Reply;
use super::session::{Session, Step};

/// A client that takes our replies slower than this is gone.
const WRITE: Duration = Duration::from_secs(60);

/// How long a client is listened to after it was told goodbye.
const LINGER: Duration = Duration::from_millis(500);

/// Room for the next read: a command line, and a piece of a message.
const COMMAND_ROOM: usize = 4 << 10;
const DATA_ROOM: usize = 64 << 10;

/// Serves one client to its end. Errors of the socket end it and concern nobody else.
pub async fn run(door: &Door, stream: TcpStream, ip: IpAddr) {
    let session = Session::new(door.hostname.clone(), ip.to_canonical(), door.limits);
    let mut connection =
        Connection { door, stream, session, input: Input::default(), data_refused: false, out: Vec::with_capacity(256) };
    if let Err(error) = connection.serve(ip).await {
        tracing::debug!(client = %ip, "connection ended: {error}");
    }
}

struct Connection<'a> {
    door: &'a Door,
    stream: TcpStream,
    session: Session,
    input: Input,
    /// DATA was the last command, and was refused: what comes may be a message, and its lines are no commands.
    data_refused: bool,
    /// Replies that wait for the end of a pipelined batch (RFC 2920).
    out: Vec<u8>,
}

/// Whether the session goes on.
enum Next {
    More,
    End,
}

impl Connection<'_> {
    async fn serve(&mut self, ip: IpAddr) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        if !self.door.admits(ip) {
            tracing::warn!(client = %ip, "refused: not in `listen.clients`");
            return self.close(&Reply::CLIENT_UNKNOWN).await;
        }
        if self.talks_first() {
            return self.close(&Reply::TALKED_FIRST).await;
        }
        Reply::greeting(&self.door.hostname).write_to(&mut self.out);
        loop {
            match self.next_line().await? {
                Some(line) => {
                    if let Next::End = self.command(line).await? {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// A client that sends before it was greeted does not speak SMTP; a browser, mostly.
    fn talks_first(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        SockRef::from(&self.stream).peek(&mut byte).is_ok_and(|count| count > 0)
    }

    /// The next command, or the reply to what is none; `None` at the end of the connection.
    async fn next_line(&mut self) -> io::Result<Option<Result<Bytes, Reply>>> {
        let deadline = Instant::now() + self.door.timeouts.command;
        loop {
            match self.input.line() {
                Line::Whole(line) => return Ok(Some(Ok(line))),
                Line::Bare => return Ok(Some(Err(Reply::BAD_BYTES))),
                Line::TooLong => return Ok(Some(Err(Reply::LINE_TOO_LONG))),
                Line::Endless => return self.close(&Reply::ENDLESS_LINE).await.map(|()| None),
                Line::Partial => {}
            }
            self.flush().await?;
            // Between transactions a shutdown ends the session; a transaction under way is finished.
            let may_leave = !self.session.in_transaction();
            let read = self.stream.read_buf(self.input.space(COMMAND_ROOM));
            let count = tokio::select! {
                biased;
                () = self.door.stop.cancelled(), if may_leave => {
                    return self.close(&Reply::SHUTTING_DOWN).await.map(|()| None);
                }
                read = timeout_at(deadline, read) => match read {
                    Ok(count) => count?,
                    Err(_) => return self.close(&Reply::TOO_SLOW).await.map(|()| None),
                },
            };
            if count == 0 {
                return Ok(None);
            }
        }
    }

    async fn command(&mut self, line: Result<Bytes, Reply>) -> io::Result<Next> {
        let command = line.and_then(|line| Command::parse(&line));
        let is_data = command == Ok(Command::Data);
        let after_refused_data = std::mem::take(&mut self.data_refused);
        let command = match command {
            Ok(Command::Mail(_)) if !self.door.relay.spool.has_room() => Err(Reply::NO_ROOM),
            other => other,
        };
        match self.session.command(command, || self.door.relay.next_id()) {
            Step::Say(reply) => {
                reply.write_to(&mut self.out);
                let refused = (500..600).contains(&reply.code);
                self.data_refused = is_data && refused;
                if (is_data && self.input.is_waiting()) || (after_refused_data && refused) {
                    return self.leave().await.map(|()| Next::End);
                }
            }
            Step::Judge(recipient) => self.recipient(recipient).await,
            Step::Receive => return self.message().await,
            // Whoever says QUIT has nothing more to say.
            Step::Close(reply) if reply == Reply::BYE => {
                reply.write_to(&mut self.out);
                return self.hang_up().await.map(|()| Next::End);
            }
            Step::Close(reply) => return self.close(&reply).await.map(|()| Next::End),
        }
        Ok(Next::More)
    }

    async fn recipient(&mut self, recipient: crate::mail::Recipient) {
        if let Some(envelope) = self.session.envelope() {
            let reply = self.door.relay.judge(envelope, &recipient.address).await;
            reply.write_to(&mut self.out);
            self.session.judged(recipient, &reply);
        }
    }

    async fn message(&mut self) -> io::Result<Next> {
        Reply::GO_ON.write_to(&mut self.out);
        self.flush().await?;
        let end = Instant::now() + self.door.timeouts.message;
        let limit = usize::try_from(self.door.limits.message_size).unwrap_or(usize::MAX);
        let received = loop {
            match self.input.data(limit) {
                Data::Whole(wire) => break self.door.message(wire, limit, self.session.envelope()).await,
                Data::TooLarge => break Err(Reply::TOO_LARGE),
                Data::Partial => {}
            }
            let deadline = end.min(Instant::now() + self.door.timeouts.data);
            match timeout_at(deadline, self.stream.read_buf(self.input.space(DATA_ROOM))).await {
                Ok(Ok(0)) => return Ok(Next::End),
                Ok(count) => drop(count?),
                Err(_) => return self.close(&Reply::TOO_SLOW).await.map(|()| Next::End),
            }
        };
        let reply = match (received, self.session.end_of_data()) {
            (Ok(message), Some(envelope)) => self.door.relay.take(envelope, message).await,
            (Err(reply), _) => reply,
            (Ok(_), None) => Reply::RCPT_FIRST,
        };
        reply.write_to(&mut self.out);
        Ok(Next::More)
    }

    async fn close(&mut self, reply: &Reply) -> io::Result<()> {
        reply.write_to(&mut self.out);
        self.leave().await
    }

    async fn leave(&mut self) -> io::Result<()> {
        self.hang_up().await?;
        self.linger().await;
        Ok(())
    }

    /// Bytes that nobody reads would make the system take the last reply back: they are read for a moment.
    async fn linger(&mut self) {
        let (end, mut nothing) = (Instant::now() + LINGER, [0; 4096]);
        while let Ok(Ok(1..)) = timeout_at(end, self.stream.read(&mut nothing)).await {}
    }

    async fn hang_up(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout_at(Instant::now() + WRITE, self.stream.write_all(&self.out)).await??;
        self.out.clear();
        Ok(())
    }
}
