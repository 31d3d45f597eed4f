//! How long people wait at the desk: an import, a question to the log, an address looked up at the admin page.
//!
//! `cargo bench --bench desk`; the goal: `cargo bench --bench desk -- --entries 10000000 --records 5000000` (6 GB in the folder for
//! temporary files).

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use optout_relay::ledger::Link;

/// Waiting times at the desk.
#[derive(Parser)]
struct Options {
    /// Rows of the table that is imported, and so opt-outs in force.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Lines in the suppression log.
    #[arg(long, default_value_t = 500_000)]
    records: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const CONFIG: &str = "hostname = \"relay.bench.example\"\nstate_dir = \"var\"\n[listen]\nsmtp = [\"127.0.0.1:0\"]\n[upstream]\nurl = \"file:outbox\"\n[opt_out]\nlists = [\"blacklist.toml\", \"imported.csv\"]\n[admin]\nlisten = [\"127.0.0.1:0\"]\nusers = \"admins.toml\"\n";
const PASSWORD: &str = "a long secret";

/// How the id of each record begins.
const ID: &str = "6c4gppx9z";

/// Nothing that is waited for takes so long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lines of one file of the log.
const LINES: u64 = 170_000;

fn main() -> io::Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    fs::write(folder.join("relay.toml"), CONFIG)?;
    fs::write(folder.join("blacklist.toml"), "addresses = []\n")?;
    write_table(&folder.join("table.csv"), options.entries)?;
    write_log(&folder.join("var/log"), options.records)?;

    let (seconds, peak) = timed(folder, &["list", "import", "table.csv"])?;
    println!("import of {} rows: {seconds:.1} s, {peak} MiB at most", options.entries);
    let address = address(options.records / 3);
    let (seconds, peak) = timed(folder, &["log", "--address", &address])?;
    println!("log --address, {} records: {seconds:.2} s, {peak} MiB", options.records);
    let (seconds, peak) = timed(folder, &["log", "verify"])?;
    println!("log verify: {seconds:.2} s, {peak} MiB");

    let mut user = command(folder, &["user", "--admin", "add", "anna"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    user.stdin.take().map_or(Ok(()), |mut stdin| writeln!(stdin, "{PASSWORD}"))?;
    user.wait()?;
    let relay = Desk::start(folder)?;
    let cookie = relay.log_in()?;
    let (begun, mut history) = (Instant::now(), String::new());
    // The page is there at once; what the logs hold it learns after the start.
    while !history.contains(ID) {
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(history));
        }
        std::thread::sleep(Duration::from_millis(200));
        history = relay.ask(&format!("GET /address?address={address} HTTP/1.1\r\nCookie: {cookie}\r\n"), "")?;
    }
    println!("page: knows the logs {:.1} s after the start", begun.elapsed().as_secs_f64());
    for (name, path) in [
        ("status", "/".to_owned()),
        ("an address with a history", format!("/address?address={address}")),
        ("an address that nobody knows", "/address?address=nobody@nowhere.example".to_owned()),
        ("the log of an address", format!("/log?address={address}")),
    ] {
        let mut times = Vec::new();
        for _ in 0..21 {
            let begun = Instant::now();
            relay.ask(&format!("GET {path} HTTP/1.1\r\nCookie: {cookie}\r\n"), "")?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        println!("page, {name}: {:.1} ms, {:.1} ms at most", millis(times[10]), millis(times[20]));
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn address(number: u64) -> String {
    format!("buyer{number:08}x@marketplace{}.example.com", number % 1000)
}

/// As SendGrid exports it.
fn write_table(path: &Path, entries: u64) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "email,created")?;
    for number in 0..entries {
        writeln!(file, "{},{}", address(number), 1_443_657_641 + number)?;
    }
    file.flush()
}

/// Rotated files and the current one, chained as the relay chains them.
fn write_log(folder: &Path, records: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let (mut link, mut lines) = (Link::START, Vec::new());
    let now = jiff::Timestamp::now().as_second() as u64;
    for number in 0..records {
        // The last half year, in equal steps.
        let second = now - 180 * 86_400 + number * 180 * 86_400 / records;
        let time = jiff::Timestamp::from_second(second as i64).map_err(io::Error::other)?;
        let (to, shop) = (address(number), number % 8);
        let record = format!(
            "{{\"time\":\"{time}\",\"event\":\"suppressed\",\"action\":\"reject\",\"recipient\":\"{to}\",\"sender\":\"feedback@shop-{shop}.example\",\"client\":\"127.0.0.1\",\"helo\":\"tool\",\"message_id\":\"m{number}@tool\",\"id\":\"{ID}{number:08x}\",\"rule\":{{\"file\":\"imported.csv\",\"line\":{},\"kind\":\"address\",\"value\":\"{to}\"}},\"reason\":null,\"source\":\"SendGrid\",\"since\":\"2024-01-01\",\"list\":\"1b03f5b449426f2b\",\"reply\":\"550 5.7.1 recipient has opted out of your mail\"}}",
            number + 2
        );
        link.seal(record.as_bytes(), &mut lines);
        if (number + 1) % LINES == 0 && number + 1 < records {
            let stamp = time.strftime("%Y%m%dT%H%M%S%.6fZ");
            fs::write(folder.join(format!("suppressed-{stamp}.jsonl")), std::mem::take(&mut lines))?;
        }
    }
    fs::write(folder.join("suppressed.jsonl"), lines)?;
    let noted = link.to_string();
    let hash = noted.split_once(':').map_or("", |(_, hash)| hash);
    fs::write(folder.join("suppressed.head"), format!("{:020}:{hash}\n", link.seq))
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_optout-relay"));
    command.current_dir(folder).args(["--config", "relay.toml"]).args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command: seconds, and MiB that it had at most.
fn timed(folder: &Path, arguments: &[&str]) -> io::Result<(f64, u64)> {
    let begun = Instant::now();
    let mut child = command(folder, arguments).stdout(Stdio::null()).spawn()?;
    let mut peak = 0;
    let status = loop {
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            peak = peak.max(kilobytes.unwrap_or_default());
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if !status.success() {
        return Err(io::Error::other(format!("{arguments:?}: {status}")));
    }
    Ok((begun.elapsed().as_secs_f64(), peak / 1024))
}

/// A relay with an admin page.
struct Desk {
    process: Child,
    page: SocketAddr,
}

impl Desk {
    fn start(folder: &Path) -> io::Result<Self> {
        let log = folder.join("said");
        let process = command(folder, &["serve"]).stderr(File::create(&log)?).spawn()?;
        let mut desk = Self { process, page: SocketAddr::from(([0; 4], 0)) };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let said = fs::read_to_string(&log)?;
            let page = said.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
            if let Some(page) = page.filter(|_| said.contains("started listen=")) {
                desk.page = page;
                return Ok(desk);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other(format!("no admin page: {}", fs::read_to_string(&log)?)))
    }

    /// The cookie of a session.
    fn log_in(&self) -> io::Result<String> {
        let form = format!("name=anna&password={}", PASSWORD.replace(' ', "+"));
        let head = format!(
            "POST /login HTTP/1.1\r\nOrigin: http://{}\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            self.page
        );
        let answer = self.ask(&head, &form)?;
        cookie(&answer).ok_or_else(|| io::Error::other(answer))
    }

    fn ask(&self, head: &str, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.page)?;
        write!(stream, "{head}Host: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", self.page, body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // After a login another page is shown; a question is not answered by another page.
        let good = if head.starts_with("POST") { "HTTP/1.1 303 " } else { "HTTP/1.1 200 " };
        if answer.starts_with(good) { Ok(answer) } else { Err(io::Error::other(answer)) }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn cookie(answer: &str) -> Option<String> {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:"))?;
    Some(line.split_once(':')?.1.split(';').next()?.trim().to_owned())
}
