//! The bytes between two ends: lines and messages in, bytes out. Shared by the tools and by the host of this rig.

use std::io;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Wire {
    stream: TcpStream,
    unread: BytesMut,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: BytesMut::with_capacity(4 << 10) })
    }

    /// Nothing is here that was not looked at.
    pub fn is_drained(&self) -> bool {
        self.unread.is_empty()
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next line, with its line end; none at the end of the connection.
    pub async fn line(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.unread) {
                return Ok(Some(self.unread.split_to(end + 1).freeze()));
            }
            if !self.read(4 << 10).await? {
                return Ok(None);
            }
        }
    }

    /// A message with its final dot; none if the connection ends before.
    pub async fn message(&mut self) -> io::Result<Option<Bytes>> {
        const END: &[u8] = b"\r\n.\r\n";
        let mut searched = 0_usize;
        loop {
            let from = searched.saturating_sub(END.len());
            if let Some(at) = memmem::find(&self.unread[from..], END) {
                return Ok(Some(self.unread.split_to(from + at + END.len()).freeze()));
            }
            searched = self.unread.len();
            if !self.read(64 << 10).await? {
                return Ok(None);
            }
        }
    }

    /// The last line of a reply.
    pub async fn reply(&mut self) -> io::Result<Bytes> {
        loop {
            let line = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    /// Sends one command and waits for its reply.
    pub async fn ask(&mut self, command: &[u8]) -> io::Result<Bytes> {
        self.send(command).await?;
        self.reply().await
    }

    async fn read(&mut self, room: usize) -> io::Result<bool> {
        self.unread.reserve(room);
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }
}
