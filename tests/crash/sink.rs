//! The mail host: takes letters as its mood is, and has them on disk before it says 250. Its port stays its own while
//! it is down.
//!
//! Local parts have a meaning: `no-…` is refused for good, `later-…` is asked once to come again, `busy-…` always, as
//! long as the host is busy.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::arrival::{Arrival, arrivals};
use crate::book::Book;
use crate::clock;

const HELLO: &str = "250-host.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 104857600\r\n250 ENHANCEDSTATUSCODES\r\n";

/// How often a host that waits for clients looks whether its mood has changed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Where in the dialogue something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Hello,
    Mail,
    Recipient,
    Data,
    /// 354 was said, and no byte of the message is read.
    Content,
    /// The final dot is read, and the message forgotten.
    Dot,
    /// The message is on disk, the answer still to be given.
    Kept,
}

pub const STAGES: [Stage; 8] =
    [Stage::Greeting, Stage::Hello, Stage::Mail, Stage::Recipient, Stage::Data, Stage::Content, Stage::Dot, Stage::Kept];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The connection ends.
    Cut,
    /// Nothing is said any more.
    Silence,
    /// These bytes are said instead.
    Say(&'static str),
}

/// What a host does wrong all the time, so that a comparison can be seen to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Forgets,
    Doubles,
    Damages,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    /// Before each reply.
    pub pause: Duration,
    /// Before the reply to the final dot, besides.
    pub pause_at_dot: Duration,
    /// `busy-…` hears 451.
    pub busy: bool,
    /// Something goes wrong at a stage, so many times.
    pub fault: Option<(Stage, Act, usize)>,
    pub flaw: Option<Flaw>,
}

pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
    /// Bound and never listening: nobody else gets the port while the host is down.
    _reserved: Socket,
}

struct Shared {
    up: AtomicBool,
    over: AtomicBool,
    mood: Mutex<Mood>,
    book: Book<Arrival>,
    /// Sessions that were ended by the host in the middle.
    cuts: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    /// Who was asked to come later.
    asked: Mutex<HashSet<String>>,
}

impl Sink {
    /// Is up from the beginning.
    pub fn start(folder: &Path) -> Self {
        let reserved = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        let shared = Arc::new(Shared {
            up: AtomicBool::new(true),
            over: AtomicBool::new(false),
            mood: Mutex::default(),
            book: Book::open(&folder.join("arrived")),
            cuts: AtomicUsize::new(0),
            connections: Mutex::default(),
            asked: Mutex::default(),
        });
        let door = shared.clone();
        let accept = std::thread::spawn(move || accept(address, &door));
        Self { address, shared, accept: Some(accept), _reserved: reserved }
    }

    pub fn up(&self) {
        self.shared.up.store(true, Ordering::SeqCst);
    }

    /// Nobody can connect, and whoever is connected is cut off.
    pub fn down(&self) {
        self.shared.up.store(false, Ordering::SeqCst);
        self.shared.cut_all();
    }

    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub fn arrived(&self) -> Vec<Arrival> {
        self.shared.book.entries()
    }

    /// How often a message was cut off that may have been taken, or was taken and not acknowledged.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// The fault, if there was one, has come up as often as it should.
    pub fn fault_is_over(&self) -> bool {
        !matches!(self.shared.mood.lock().unwrap().fault, Some((_, _, 1..)))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.cut_all();
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({})", self.address)
    }
}

impl Shared {
    fn is_open(&self) -> bool {
        self.up.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst)
    }

    fn cut_all(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    /// What goes wrong here, if it is time for it.
    fn fault(&self, here: Stage) -> Option<Act> {
        match &mut self.mood.lock().unwrap().fault {
            Some((stage, act, left @ 1..)) if *stage == here => {
                *left -= 1;
                Some(*act)
            }
            _ => None,
        }
    }

    fn rcpt(&self, address: &str) -> &'static str {
        match address.split_once('-').map(|(kind, _)| kind) {
            Some("no") => "550 5.1.1 no such user\r\n",
            Some("busy") if self.mood().busy => "451 4.2.1 busy\r\n",
            Some("later") if self.asked.lock().unwrap().insert(address.to_owned()) => "451 4.7.1 come again\r\n",
            _ => "250 2.1.5 ok\r\n",
        }
    }
}

fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = bind(address);
    socket.listen(512).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

fn accept(address: SocketAddr, shared: &Arc<Shared>) {
    let mut listener = None;
    while !shared.over.load(Ordering::SeqCst) {
        if !shared.is_open() {
            listener = None;
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        match listener.get_or_insert_with(|| listen(address)).accept() {
            Ok((stream, _)) => begin(stream, shared),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn begin(stream: TcpStream, shared: &Arc<Shared>) {
    let Ok(handle) = stream.try_clone() else { return };
    let mut connections = shared.connections.lock().unwrap();
    // A host that went down meanwhile has cut all that stand in the list, and will not look again.
    if !shared.is_open() {
        return;
    }
    connections.push(handle);
    drop(connections);
    let shared = shared.clone();
    std::thread::spawn(move || {
        let setup = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
        let session = Session { wire: BufReader::new(stream), shared: &shared, sender: String::new(), to: Vec::new(), since: 0 };
        // A relay that hangs up, or was killed, is what these tests are about.
        let _ = setup.and_then(|()| session.run());
    });
}

struct Session<'s> {
    wire: BufReader<TcpStream>,
    shared: &'s Shared,
    sender: String,
    to: Vec<String>,
    /// When MAIL came.
    since: u64,
}

impl Session<'_> {
    fn run(mut self) -> io::Result<()> {
        self.say(Stage::Greeting, "220 host.test ESMTP\r\n")?;
        loop {
            let mut line = String::new();
            if self.wire.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            let path = || line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path).to_owned();
            match line.get(..4).unwrap_or_default() {
                "EHLO" => self.say(Stage::Hello, HELLO)?,
                "MAIL" => {
                    (self.sender, self.since) = (path(), clock::now());
                    self.to.clear();
                    self.say(Stage::Mail, "250 2.1.0 ok\r\n")?;
                }
                "RCPT" => {
                    let (recipient, fault) = (path(), self.shared.fault(Stage::Recipient));
                    let reply = self.shared.rcpt(&recipient);
                    if reply.starts_with("250") && fault.is_none() {
                        self.to.push(recipient);
                    }
                    self.act(fault, reply)?;
                }
                "DATA" if self.to.is_empty() => self.act(None, "554 5.5.1 no recipients\r\n")?,
                "DATA" => match self.shared.fault(Stage::Data) {
                    None => self.content()?,
                    fault => self.act(fault, "")?,
                },
                "RSET" => {
                    self.to.clear();
                    self.act(None, "250 2.0.0 ok\r\n")?;
                }
                "QUIT" => return self.act(None, "221 2.0.0 bye\r\n"),
                _ => self.act(None, "500 5.5.1 what?\r\n")?,
            }
        }
    }

    fn say(&mut self, stage: Stage, reply: &str) -> io::Result<()> {
        let fault = self.shared.fault(stage);
        self.act(fault, reply)
    }

    /// The reply, or what happens instead of it.
    fn act(&mut self, fault: Option<Act>, reply: &str) -> io::Result<()> {
        std::thread::sleep(self.shared.mood().pause);
        match fault {
            None => self.wire.get_mut().write_all(reply.as_bytes()),
            Some(Act::Say(other)) => self.wire.get_mut().write_all(other.as_bytes()),
            Some(Act::Cut) => {
                self.wire.get_mut().shutdown(Shutdown::Both)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Act::Silence) => {
                // Until the relay has had enough of it.
                self.wire.read_to_end(&mut Vec::new())?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    fn content(&mut self) -> io::Result<()> {
        self.act(None, "354 go on\r\n")?;
        let mut refused = false;
        match self.shared.fault(Stage::Content) {
            // Its end is not seen while the message is not read; a relay does not wait longer than this in these tests.
            Some(Act::Silence) => {
                std::thread::sleep(Duration::from_secs(3));
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => {}
            // It speaks out of turn and takes the message all the same, which a relay cannot know; or it says that it does
            // not, and keeps to that.
            fault => {
                refused = matches!(fault, Some(Act::Say(reply)) if reply.starts_with('4'));
                self.shared.cuts.fetch_add(1, Ordering::SeqCst);
                self.act(fault, "")?;
            }
        }
        let mut wire = Vec::new();
        loop {
            let begin = wire.len();
            if self.wire.read_until(b'\n', &mut wire)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if &wire[begin..] == b".\r\n" {
                wire.truncate(begin);
                break;
            }
        }
        let mood = self.shared.mood();
        let to = std::mem::take(&mut self.to);
        if refused {
            return Ok(());
        }
        std::thread::sleep(mood.pause_at_dot);
        let fault = self.shared.fault(Stage::Dot);
        if fault.is_some() {
            return self.act(fault, "");
        }
        let mut arrived = arrivals(&self.sender, &to, &wire, self.since);
        match mood.flaw {
            Some(Flaw::Forgets) => arrived.clear(),
            Some(Flaw::Doubles) => arrived.extend(arrived.clone()),
            Some(Flaw::Damages) => arrived.iter_mut().for_each(|arrival| arrival.hash ^= 1),
            None => {}
        }
        self.shared.book.write(&arrived);
        let fault = self.shared.fault(Stage::Kept);
        let said = self.act(fault, "250 2.0.0 taken\r\n");
        // A host that goes down just now may have cut the answer off.
        if fault.is_some() || said.is_err() || !self.shared.is_open() {
            self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        }
        said
    }
}
