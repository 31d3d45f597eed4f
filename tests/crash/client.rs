//! One SMTP client, as a tool would be: says EHLO, hands in letters, reads what it is told. Never tries again.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::letter::Letter;

/// The sender of every letter.
pub const SENDER: &str = "shop@sender.test";

pub struct Client(BufReader<TcpStream>);

/// What a relay said to one letter.
pub struct Answer {
    /// To the final dot; to an earlier command where it did not come so far.
    pub code: u16,
    /// Who was accepted at RCPT.
    pub accepted: Vec<String>,
    /// Who was not, and why.
    pub refused: Vec<(String, u16)>,
    pub text: String,
}

impl Client {
    /// Connects and says EHLO; no reply may take longer than `patience`.
    pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut client = Self(BufReader::new(stream));
        let greeting = client.reply()?;
        let hello = client.ask("EHLO tool.test")?;
        match (greeting.0, hello.0) {
            (220, 250) => Ok(client),
            _ => Err(io::Error::other(format!("{greeting:?}, {hello:?}"))),
        }
    }

    /// An error is a connection that broke: what became of the letter is not known.
    pub fn send(&mut self, letter: &Letter) -> io::Result<Answer> {
        let body = if letter.eight_bit { " BODY=8BITMIME" } else { "" };
        let mut answer = Answer { code: 0, accepted: Vec::new(), refused: Vec::new(), text: String::new() };
        (answer.code, answer.text) = self.ask(&format!("MAIL FROM:<{SENDER}> SIZE={}{body}", letter.wire.len()))?;
        if answer.code != 250 {
            return Ok(answer);
        }
        for recipient in &letter.recipients {
            match self.ask(&format!("RCPT TO:<{recipient}>"))?.0 {
                250 => answer.accepted.push(recipient.clone()),
                code => answer.refused.push((recipient.clone(), code)),
            }
        }
        if answer.accepted.is_empty() {
            // Nobody is left.
            (answer.code, answer.text) = (answer.refused.first().map_or(0, |(_, code)| *code), String::new());
            self.ask("RSET")?;
            return Ok(answer);
        }
        (answer.code, answer.text) = self.ask("DATA")?;
        if answer.code == 354 {
            self.0.get_mut().write_all(&letter.wire)?;
            (answer.code, answer.text) = self.reply()?;
        } else {
            self.ask("RSET")?;
        }
        Ok(answer)
    }

    pub fn quit(mut self) {
        // It may be gone already.
        let _ = self.ask("QUIT");
    }

    fn ask(&mut self, command: &str) -> io::Result<(u16, String)> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<(u16, String)> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.ok_or_else(|| io::Error::other(format!("no reply: {line:?}")))?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, line.trim_end().to_owned()));
            }
        }
    }
}
