//! The whole relay under load: tools in front of it, a mail host behind it, and an account of every message and every
//! recipient. Each row is measured without a relay, with the release binary of this one, and with Postfix where it is
//! installed, in turn, three times; a row shows medians. The machine's mood changes all figures; ratios stay.
//!
//! `cargo bench --bench load` for the table; a run of your own: `cargo bench --bench load -- --kept --messages 200000`.
//! Exit code 1 if anything was lost, doubled, damaged or leaked.
#![allow(clippy::unwrap_used)] // a poisoned lock ends the benchmark, and so it should

mod mail;
mod postfix;
#[path = "../process.rs"]
mod process;
mod sink;
mod source;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use mail::{Account, Plan, Run};
use postfix::Postfix;
use process::{Memory, Relay};
use sink::Sink;
use tempfile::NamedTempFile;

/// What was acknowledged arrives within this time, or counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the relay between tools and a mail host. With one of the first seven options: one run of that kind.
#[derive(Parser)]
struct Options {
    /// Messages of one run.
    #[arg(long)]
    messages: Option<u64>,
    /// Tools at work at once.
    #[arg(long)]
    sessions: Option<usize>,
    /// Bytes of a message.
    #[arg(long)]
    size: Option<usize>,
    /// Recipients of a message.
    #[arg(long)]
    recipients: Option<u64>,
    /// Of a hundred recipients so many are on the list.
    #[arg(long, value_name = "PERCENT")]
    opted_out: Option<u64>,
    /// Milliseconds by which the host answers later.
    #[arg(long, value_name = "MS")]
    rtt: Option<u64>,
    /// A session sends all its messages over one connection.
    #[arg(long)]
    kept: bool,
    /// The relay stores every message before it answers, as Postfix does.
    #[arg(long)]
    stored: bool,
    /// Runs of each kind; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the relay only.
    #[arg(long)]
    alone: bool,
    /// Leave Postfix out.
    #[arg(long)]
    no_postfix: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A line of the table.
struct Row {
    name: &'static str,
    plan: Plan,
    /// Postfix is slower, so it gets fewer messages.
    for_postfix: u64,
}

impl Options {
    fn rows(&self) -> Vec<Row> {
        let base = Plan {
            messages: self.messages.unwrap_or(8_000),
            sessions: self.sessions.unwrap_or(20),
            size: self.size.unwrap_or(4 << 10),
            recipients: self.recipients.unwrap_or(1),
            opted_out: self.opted_out.unwrap_or(0),
            round_trip: Duration::from_millis(self.rtt.unwrap_or(0)),
            kept: self.kept,
        };
        let counts = [self.messages, self.recipients, self.opted_out, self.rtt].iter().any(Option::is_some);
        if counts || self.sessions.is_some() || self.size.is_some() || self.kept {
            return vec![Row { name: "as asked", plan: base, for_postfix: base.messages }];
        }
        let far = Plan { round_trip: Duration::from_millis(20), messages: 800, kept: true, ..base };
        vec![
            Row { name: "a connection each", plan: base, for_postfix: 800 },
            Row { name: "kept", plan: Plan { messages: 16_000, kept: true, ..base }, for_postfix: 800 },
            Row { name: "kept, host 20 ms away", plan: far, for_postfix: 400 },
            Row { name: "kept, 2 MB each", plan: Plan { size: 2_000_000, messages: 200, kept: true, ..base }, for_postfix: 100 },
            Row {
                name: "kept, 10 % opted out",
                plan: Plan { opted_out: 10, messages: 8_000, kept: true, ..base },
                for_postfix: 800,
            },
        ]
    }
}

/// Both ends, and what stands between them.
struct Rig {
    sink: Sink,
    relay: Relay,
    /// The relay watches it.
    _list: NamedTempFile,
    postfix: Option<Postfix>,
    runs: u64,
    account: Account,
    /// After a tenth of the last run: memory that grows with the number of messages shows.
    early: Memory,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let options = Options::parse();
    assert!(options.rows().iter().all(|row| mail::prove_account(row.plan)), "the account finds nothing wrong where all is");
    let mut rig = Rig::open(&options).await?;
    println!(
        "{:<24}{:>12}{:>14}{:>12}{:>12}{:>12}",
        "messages a second", "no relay", "optout-relay", "of no relay", "Postfix", "x Postfix"
    );
    for row in options.rows() {
        rig.measure(&row, &options).await?;
    }
    let memory = rig.relay.memory()?;
    println!(
        "memory of the relay: {} KiB after a tenth of the last run, {} KiB at its end, {} KiB at most",
        rig.early.resident >> 10,
        memory.resident >> 10,
        memory.peak >> 10
    );
    let Account { lost, doubled, damaged, leaked } = rig.account;
    println!("lost {lost}, doubled {doubled}, damaged {damaged}, leaked {leaked}");
    Ok(if rig.account == Account::default() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Rig {
    async fn open(options: &Options) -> io::Result<Self> {
        let list = tempfile::Builder::new().suffix(".txt").tempfile()?;
        let opted_out: Vec<_> = (0..mail::OPTED_OUT).map(mail::opted_out_address).collect();
        std::fs::write(list.path(), opted_out.join("\n"))?;
        let nothing =
            Plan { messages: 0, sessions: 0, size: 0, recipients: 0, opted_out: 0, round_trip: Duration::ZERO, kept: false };
        let sink = Sink::start(Arc::new(Run::new(0, nothing, true))).await?;
        let relay =
            Relay::start(list.path(), &format!("smtp://{}", sink.address), if options.stored { "stored" } else { "delivered" })?;
        let postfix = if options.alone || options.no_postfix {
            Err("not asked for".into())
        } else {
            Postfix::start(sink.address, &opted_out)
        };
        let postfix = postfix.inspect_err(|why| println!("Postfix is left out: {why}")).ok();
        let early = relay.memory()?;
        Ok(Self { sink, relay, _list: list, postfix, runs: 0, account: Account::default(), early })
    }

    async fn measure(&mut self, row: &Row, options: &Options) -> io::Result<()> {
        let (mut none, mut relay, mut postfix) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            if !options.alone {
                none.push(self.run(row.plan, self.sink.address, false).await?);
            }
            relay.push(self.run(row.plan, self.relay.address, true).await?);
            if let Some(address) = self.postfix.as_ref().map(|postfix| postfix.address) {
                postfix.push(self.run(Plan { messages: row.for_postfix, ..row.plan }, address, true).await?);
            }
        }
        let (none, relay, postfix) = (median(none), median(relay), median(postfix));
        let rate = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.0}"));
        let ratio = |to: Option<f64>| to.zip(relay).map_or("-".into(), |(to, relay)| format!("{:.2}", relay / to));
        println!(
            "{:<24}{:>12}{:>14}{:>12}{:>12}{:>12}",
            row.name,
            rate(none),
            rate(relay),
            ratio(none),
            rate(postfix),
            ratio(postfix)
        );
        Ok(())
    }

    /// Messages a second, from the first command to the arrival of the last message.
    async fn run(&mut self, plan: Plan, target: SocketAddr, relayed: bool) -> io::Result<f64> {
        self.runs += 1;
        let run = Arc::new(Run::new(self.runs, plan, relayed));
        self.sink.begin(run.clone());
        let begun = Instant::now();
        let early = tokio::join!(source::send_all(&run, target), self.memory_early_in(&run)).1?;
        if let Some(trouble) = run.trouble() {
            return Err(io::Error::other(trouble));
        }
        while !run.is_complete() && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.account += run.account();
        self.early = early;
        Ok(plan.messages as f64 / seconds)
    }

    async fn memory_early_in(&self, run: &Run) -> io::Result<Memory> {
        while run.begun() < run.plan.messages / 10 && run.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.relay.memory()
    }
}

fn median(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}
