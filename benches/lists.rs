//! How long it takes until a list is in force and how much memory that takes, of the whole process: at the start, and
//! when the list is saved again while the former one is still in force.
//!
//! `cargo bench --bench lists`; the goal of ten million: `cargo bench --bench lists -- --entries 10000000`
//! (400 MB in the folder for temporary files).

mod process;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use process::Relay;

/// Time and memory until an opt-out list is in force.
#[derive(Parser)]
struct Options {
    /// Addresses in the .txt list.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Addresses in the .csv and .toml lists.
    #[arg(long, default_value_t = 1_000_000)]
    others: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    println!(
        "{:<6}{:>12}{:>11}{:>13}{:>12}{:>10}{:>11}{:>10}",
        "list", "entries", "in force", "entries/s", "resident", "peak", "reloaded", "peak"
    );
    for (name, entries) in [("x.txt", options.entries), ("x.csv", options.others), ("x.toml", options.others)] {
        measure(name, entries)?;
    }
    Ok(())
}

fn measure(name: &str, entries: u64) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    write_list(&path, entries)?;
    let mut relay = Relay::start(&path, &format!("file:{}", folder.path().join("outbox").display()), "delivered")?;
    let first = relay.memory()?;
    let saved = Instant::now();
    let comment = if name.ends_with("csv") { "one-more@example.com\n" } else { "# saved again\n" };
    OpenOptions::new().append(true).open(&path)?.write_all(comment.as_bytes())?;
    relay.wait_for("opt-out list reloaded")?;
    let (reloaded_in, second) = (saved.elapsed().as_secs_f64(), relay.memory()?);
    let seconds = relay.started_in.as_secs_f64();
    println!(
        "{:<6}{entries:>12}{seconds:>9.2} s{:>13.0}{:>8} MiB{:>6} MiB{reloaded_in:>9.2} s{:>6} MiB",
        name.trim_start_matches("x."),
        entries as f64 / seconds,
        first.resident >> 20,
        first.peak >> 20,
        second.peak >> 20
    );
    Ok(())
}

fn write_list(path: &Path, entries: u64) -> io::Result<()> {
    // A day of ten years each, in no order, as a list that was imported has them.
    let day = |number: u64| match path.extension().is_some_and(|ending| ending == "csv") {
        true => format!("{}-{:02}-{:02}", 2015 + number * 7 % 10, 1 + number * 5 % 12, 1 + number * 11 % 28),
        false => String::new(),
    };
    let (head, before, after, tail) = match path.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => ("addresses = [\n", "  \"", "\",", "]\n"),
        Some("csv") => ("address,since\n", "", ",", ""),
        _ => ("", "", "", ""),
    };
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(head.as_bytes())?;
    for number in 0..entries {
        writeln!(file, "{before}{}{after}{}", alias(number), day(number))?;
    }
    file.write_all(tail.as_bytes())?;
    file.flush()
}

/// An address as marketplaces give them to buyers: fifteen characters without meaning, one domain.
fn alias(number: u64) -> String {
    // An odd factor keeps numbers apart (modulo 2⁶⁰) and leaves no order that a table could profit from.
    format!("{:015x}@marketplace.amazon.com", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) << 4 >> 4)
}
