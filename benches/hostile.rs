//! The relay under attack, run by hand: clients that send one byte every ten seconds, clients whose lines never end, clients
//! that hold large messages back; and beside them one that behaves, which must be greeted and served within a second while
//! memory stays within `listen.max_memory` plus 64 MiB. Ends with an error where that does not hold.
//!
//! `cargo bench --bench hostile -- --seconds 60`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // a benchmark ends at the first surprise

mod process;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use process::{Memory, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// `listen.max_memory` at its default, and what the process may have beside it.
const BOUND: u64 = (256 + 64) << 20;

/// In which the client that behaves is greeted, and its mail taken.
const SOON: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Options {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Clients that send a byte every ten seconds; they come again when they are hung up on
    #[arg(long, default_value_t = 2000)]
    slow: usize,
    /// Clients that send a line of 100 MB, half of them as a command, half as a message
    #[arg(long, default_value_t = 200)]
    endless: usize,
    /// Clients that send 20 MB of a message and then nothing
    #[arg(long, default_value_t = 50)]
    heavy: usize,
    /// What cargo hands to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let _ =
        rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: most, maximum: most });
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("blacklist.toml");
    std::fs::write(&list, "").unwrap();
    let outbox = format!("file:{}", folder.path().join("outbox").display());
    let relay = Relay::start(&list, &outbox, "delivered").unwrap_or_else(|error| panic!("{error}"));
    let (address, end) = (relay.address, Instant::now() + Duration::from_secs(options.seconds));
    let counts = Arc::new(Counts::default());
    let mut attackers = JoinSet::new();
    for number in 0..options.slow {
        attackers.spawn(slow(address, number, end, counts.clone()));
    }
    for number in 0..options.endless {
        attackers.spawn(endless(address, number % 2 == 0, counts.clone()));
    }
    for _ in 0..options.heavy {
        attackers.spawn(heavy(address, end, counts.clone()));
    }
    let (mut served, mut failed, mut greeted, mut worst) = (0, 0, Duration::ZERO, Duration::ZERO);
    while Instant::now() < end {
        match timeout(Duration::from_secs(30), behave(address)).await {
            Ok(Ok((greeting, all))) => {
                served += 1;
                greeted = greeted.max(greeting);
                worst = worst.max(all);
            }
            Ok(Err(error)) => {
                eprintln!("the client that behaves: {error}");
                failed += 1;
            }
            Err(_) => {
                eprintln!("the client that behaves: nothing for 30 s");
                failed += 1;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    let Memory { peak, resident } = relay.memory().unwrap();
    attackers.abort_all();
    let (connections, bytes) = (counts.connections.load(Ordering::Relaxed), counts.bytes.load(Ordering::Relaxed) >> 20);
    println!("attackers: {connections} connections, {bytes} MiB sent");
    println!(
        "the client that behaves: {served} mails taken, {failed} not; greeted after {greeted:?} at most, served after {worst:?}"
    );
    println!("memory at its peak: {} MiB of {} MiB; at the end {} MiB", peak >> 20, BOUND >> 20, resident >> 20);
    if failed == 0 && served > 0 && worst < SOON && peak < BOUND { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How long it took until the greeting, and until mail was taken.
async fn behave(address: SocketAddr) -> std::io::Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    hear(&mut stream, "220").await?;
    let greeted = begun.elapsed();
    let mail = ["EHLO tool\r\n", "MAIL FROM:<shop@example.com>\r\n", "RCPT TO:<buyer@example.com>\r\n", "DATA\r\n"];
    for (line, code) in mail.iter().zip(["250", "250", "250", "354"]) {
        stream.write_all(line.as_bytes()).await?;
        hear(&mut stream, code).await?;
    }
    stream.write_all(b"Subject: x\r\n\r\nx\r\n.\r\n").await?;
    hear(&mut stream, "250").await?;
    Ok((greeted, begun.elapsed()))
}

async fn hear(stream: &mut TcpStream, code: &str) -> std::io::Result<()> {
    let mut heard = Vec::new();
    loop {
        let count = stream.read_buf(&mut heard).await?;
        let text = String::from_utf8_lossy(&heard);
        let last = text.lines().last().unwrap_or_default();
        if count == 0 || !text.is_empty() && !text.starts_with(code) {
            return Err(std::io::Error::other(format!("wants {code}, heard {text:?}")));
        }
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            return Ok(());
        }
    }
}

async fn connect(address: SocketAddr, counts: &Counts) -> Option<TcpStream> {
    counts.connections.fetch_add(1, Ordering::Relaxed);
    timeout(Duration::from_secs(20), TcpStream::connect(address)).await.ok()?.ok()
}

async fn send(stream: &mut TcpStream, bytes: &[u8], counts: &Counts) -> bool {
    let sent = timeout(Duration::from_secs(60), stream.write_all(bytes)).await.is_ok_and(|sent| sent.is_ok());
    counts.bytes.fetch_add(if sent { bytes.len() as u64 } else { 0 }, Ordering::Relaxed);
    sent
}

/// A command byte by byte, without an end; some are quiet in the middle of a message.
async fn slow(address: SocketAddr, number: usize, end: Instant, counts: Arc<Counts>) {
    while Instant::now() < end {
        let Some(mut stream) = connect(address, &counts).await else { continue };
        if number.is_multiple_of(4) {
            let _ = send(&mut stream, b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n", &counts).await;
        }
        loop {
            if !send(&mut stream, b"X", &counts).await {
                break;
            }
            let mut nothing = [0; 512];
            // Whoever is hung up on comes again at once.
            let hung_up = async { while stream.read(&mut nothing).await.is_ok_and(|count| count > 0) {} };
            if timeout(Duration::from_secs(10), hung_up).await.is_ok() {
                break;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn endless(address: SocketAddr, as_command: bool, counts: Arc<Counts>) {
    let Some(mut stream) = connect(address, &counts).await else { return };
    if !as_command {
        let begin = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
        let _ = send(&mut stream, begin, &counts).await;
        sleep(Duration::from_millis(200)).await;
    }
    let piece = vec![b'x'; 100_000];
    for _ in 0..1000 {
        if !send(&mut stream, &piece, &counts).await {
            return;
        }
    }
}

async fn heavy(address: SocketAddr, end: Instant, counts: Arc<Counts>) {
    while Instant::now() < end {
        let Some(mut stream) = connect(address, &counts).await else { continue };
        let begin = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
        let line = [&[b'x'; 98][..], b"\r\n"].concat().repeat(1000);
        let _ = send(&mut stream, begin, &counts).await;
        sleep(Duration::from_millis(200)).await;
        for _ in 0..200 {
            if !send(&mut stream, &line, &counts).await {
                break;
            }
        }
        let mut nothing = [0; 512];
        let hung_up = async { while stream.read(&mut nothing).await.is_ok_and(|count| count > 0) {} };
        let _ = timeout(Duration::from_secs(15), hung_up).await;
    }
}
