//! The stream below lettre. It holds what is written back until somebody reads, so that a step of the dialogue is one
//! write; it puts a message on the wire without a copy; and it hands lettre one reply at a time, cleaned so that odd
//! bytes cannot break the dialogue. Never knows what the dialogue is about.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::replies::Replies;

/// Plain or encrypted.
#[derive(Debug)]
pub enum Transport {
    /// TCP
    Plain(TcpStream),
    /// TLS over TCP
    Tls(Box<TlsStream<TcpStream>>),
}

/// A handle of the stream: lettre owns one, the transaction another.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Inner>>);

struct Inner {
    transport: Transport,
    peer: SocketAddr,
    /// What waits to be written.
    held: VecDeque<Bytes>,
    /// The last of it, still growing.
    growing: BytesMut,
    /// When a part of it was written last.
    moved: Instant,
    /// Read from the host, and not asked for yet.
    replies: Replies,
    /// One clean reply on its way to lettre.
    reply: Bytes,
    /// The last reply in full, for whoever wants its text.
    last: Bytes,
    /// The host closed its side.
    ended: bool,
}

impl Wire {
    /// Wraps a connected stream. `primed` is handed out as if the host had said it first: the greeting after STARTTLS.
    pub fn new(transport: Transport, primed: &'static [u8]) -> io::Result<Self> {
        let peer = transport.tcp().peer_addr()?;
        let inner = Inner {
            transport,
            peer,
            held: VecDeque::new(),
            growing: BytesMut::with_capacity(512),
            moved: Instant::now(),
            replies: Replies::default(),
            reply: Bytes::from_static(primed),
            last: Bytes::new(),
            ended: false,
        };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Queues bytes as they are, without a copy.
    pub fn hold(&self, bytes: Bytes) {
        let mut inner = self.lock();
        inner.settle();
        inner.held.push_back(bytes);
    }

    /// The last reply, all its lines, cleaned.
    pub fn last_reply(&self) -> Bytes {
        self.lock().last.clone()
    }

    /// Nothing waits to be written.
    pub fn all_is_sent(&self) -> bool {
        let inner = self.lock();
        inner.held.is_empty() && inner.growing.is_empty()
    }

    /// When bytes left last.
    pub fn moved(&self) -> Instant {
        self.lock().moved
    }

    /// Everything was written and every reply was asked for: the dialogue is in step and can go on.
    pub fn in_step(&self) -> bool {
        let inner = self.lock();
        let nothing_held = inner.held.is_empty() && inner.growing.is_empty();
        let nothing_unread = inner.replies.is_empty() && inner.reply.is_empty();
        nothing_held && nothing_unread && !inner.ended
    }

    /// A kept connection on which the host has closed or spoken out of turn is no longer of use.
    pub fn is_quiet(&self) -> bool {
        let mut inner = self.lock();
        let mut context = Context::from_waker(Waker::noop());
        let nothing_came = inner.poll_fill(&mut context).is_pending();
        drop(inner);
        nothing_came && self.in_step()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics with the lock held; and if it did, the state is bytes, not invariants.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn settle(&mut self) {
        if !self.growing.is_empty() {
            let bytes = self.growing.split().freeze();
            self.held.push_back(bytes);
        }
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle();
        while !self.held.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.held.len().min(slices.len());
            for (slice, bytes) in slices.iter_mut().zip(&self.held) {
                *slice = IoSlice::new(bytes);
            }
            let mut written = ready!(Pin::new(&mut self.transport).poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moved = Instant::now();
            while let Some(first) = self.held.front_mut() {
                let part = written.min(first.len());
                first.advance(part);
                written -= part;
                if !first.is_empty() {
                    break;
                }
                self.held.pop_front();
            }
        }
        Pin::new(&mut self.transport).poll_flush(context)
    }

    /// One read; ready with the number of bytes, 0 at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; 2048];
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.transport).poll_read(context, &mut buffer))?;
        self.replies.put(buffer.filled());
        self.ended |= buffer.filled().is_empty();
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Puts the next reply in front of lettre, if it is whole.
    fn cut_reply(&mut self) -> io::Result<()> {
        if let Some(reply) = self.replies.cut()? {
            self.reply = reply.clone();
            self.last = reply;
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        loop {
            if !inner.reply.is_empty() {
                let count = inner.reply.len().min(buffer.remaining());
                buffer.put_slice(&inner.reply[..count]);
                inner.reply.advance(count);
                return Poll::Ready(Ok(()));
            }
            inner.cut_reply()?;
            if !inner.reply.is_empty() {
                continue;
            }
            // The host may refuse before it has read everything: writing and reading wait together.
            let drained = inner.poll_drain(context);
            let broken = match drained {
                Poll::Ready(Err(error)) => Some(error),
                _ => None,
            };
            match inner.poll_fill(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return broken.map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().growing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Nothing leaves before the next read.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_drain(context))?;
        Pin::new(&mut inner.transport).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.lock().peer)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Held bytes may be a password.
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
