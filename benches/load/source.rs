//! The tools: so many sessions, each sends one message after the other, command by command as mail libraries do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::mail::Run;
use crate::wire::Wire;

/// Sends everything of the run to `target`; returns when all of it has been answered, or something went wrong.
pub async fn send_all(run: &Arc<Run>, target: SocketAddr) {
    let mut sessions = JoinSet::new();
    for _ in 0..run.plan.sessions {
        let run = run.clone();
        sessions.spawn(async move {
            if let Err(error) = session(&run, target).await {
                run.fail(format!("a tool had trouble: {error}"));
            }
        });
    }
    sessions.join_all().await;
}

async fn session(run: &Run, target: SocketAddr) -> io::Result<()> {
    let mut wire = None;
    while let Some(message) = run.next() {
        let mut connection = match wire.take() {
            Some(wire) => wire,
            None => connect(target).await?,
        };
        transaction(run, &mut connection, message).await?;
        if run.plan.kept {
            wire = Some(connection);
        } else {
            expect(b"221", connection.ask(b"QUIT\r\n").await?)?;
        }
    }
    match wire {
        Some(mut wire) => expect(b"221", wire.ask(b"QUIT\r\n").await?),
        None => Ok(()),
    }
}

async fn connect(target: SocketAddr) -> io::Result<Wire> {
    let mut wire = Wire::new(TcpStream::connect(target).await?)?;
    expect(b"220", wire.reply().await?)?;
    expect(b"250", wire.ask(b"EHLO tool.example\r\n").await?)?;
    Ok(wire)
}

async fn transaction(run: &Run, wire: &mut Wire, message: u64) -> io::Result<()> {
    expect(b"250", wire.ask(b"MAIL FROM:<seller@example.com>\r\n").await?)?;
    let mut accepted = Vec::with_capacity(run.plan.recipients as usize);
    for place in 0..run.plan.recipients {
        let (recipient, opted_out) = run.recipient(message, place);
        let reply = wire.ask(format!("RCPT TO:<{recipient}>\r\n").as_bytes()).await?;
        if opted_out {
            expect(b"550", reply)?;
        } else {
            expect(b"250", reply)?;
            accepted.push(place);
        }
    }
    if accepted.is_empty() {
        return expect(b"250", wire.ask(b"RSET\r\n").await?);
    }
    expect(b"354", wire.ask(b"DATA\r\n").await?)?;
    expect(b"250", wire.ask(&run.wire(message)).await?)?;
    run.acknowledge(message, &accepted);
    Ok(())
}

fn expect(code: &[u8], reply: impl AsRef<[u8]>) -> io::Result<()> {
    let reply = reply.as_ref();
    if reply.starts_with(code) {
        return Ok(());
    }
    Err(io::Error::other(format!("`{}` instead of {}", reply.trim_ascii_end().escape_ascii(), code.escape_ascii())))
}
