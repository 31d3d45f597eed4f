//! The mail host: takes everything, compares every byte with what was sent, and answers as late as a distant host would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};

use crate::mail::{Run, is_opted_out};
use crate::wire::Wire;

const HELLO: &[u8] =
    b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n";

/// A host that stays while run follows run.
pub struct Sink {
    pub address: SocketAddr,
    run: Arc<ArcSwap<Run>>,
}

impl Sink {
    pub async fn start(first: Arc<Run>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let run = Arc::new(ArcSwap::new(first));
        tokio::spawn(accept(listener, run.clone()));
        Ok(Self { address, run })
    }

    /// What comes from here on belongs to this run.
    pub fn begin(&self, run: Arc<Run>) {
        self.run.store(run);
    }
}

async fn accept(listener: TcpListener, run: Arc<ArcSwap<Run>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let run = run.clone();
        tokio::spawn(async move {
            // A relay that hangs up is seen by what is missing.
            let _ = session(stream, &run).await;
        });
    }
}

async fn session(stream: TcpStream, current: &ArcSwap<Run>) -> io::Result<()> {
    let mut wire = Wire::new(stream)?;
    let mut out = b"220 sink.example ESMTP\r\n".to_vec();
    let mut recipients: Vec<String> = Vec::new();
    loop {
        if wire.is_drained() {
            answer(&mut wire, &mut out, current).await?;
        }
        let Some(line) = wire.line().await? else { return Ok(()) };
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match verb.as_slice() {
            b"EHLO" => HELLO,
            b"RCPT" => rcpt(&current.load(), &line, &mut recipients),
            b"DATA" if recipients.is_empty() => b"554 5.5.1 no recipients\r\n",
            b"DATA" => {
                out.extend_from_slice(b"354 go on\r\n");
                answer(&mut wire, &mut out, current).await?;
                let Some(message) = wire.message().await? else { return Ok(()) };
                current.load().arrive(&message, &std::mem::take(&mut recipients));
                b"250 2.0.0 taken\r\n"
            }
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 bye\r\n");
                return answer(&mut wire, &mut out, current).await;
            }
            b"MAIL" | b"RSET" => {
                recipients.clear();
                b"250 2.0.0 ok\r\n"
            }
            _ => b"250 2.0.0 ok\r\n",
        };
        out.extend_from_slice(reply);
    }
}

fn rcpt(run: &Run, line: &[u8], recipients: &mut Vec<String>) -> &'static [u8] {
    let line = String::from_utf8_lossy(line);
    let recipient = line.split(['<', '>']).nth(1).unwrap_or_default();
    run.hear(recipient);
    if !run.relayed && is_opted_out(recipient) {
        return b"550 5.7.1 opted out\r\n";
    }
    recipients.push(recipient.to_owned());
    b"250 2.1.5 ok\r\n"
}

async fn answer(wire: &mut Wire, out: &mut Vec<u8>, current: &ArcSwap<Run>) -> io::Result<()> {
    let late = current.load().plan.round_trip;
    if !late.is_zero() && !out.is_empty() {
        tokio::time::sleep(late).await;
    }
    wire.send(out).await?;
    out.clear();
    Ok(())
}
