//! The index of orders: how fast it takes them in, how fast it finds them, how large its file is.
//!
//! `cargo bench --bench orders -- [--entries N]` (1,000,000)
#![allow(clippy::expect_used)] // a benchmark that cannot begin ends

use std::time::{Duration, Instant};

use jiff::Timestamp;
use optout_relay::mail::{Address, Order};
use optout_relay::orders::{Caps, Orders};

/// Spread over the whole range, as the marketplace's are.
fn order(number: u64) -> Order {
    let digits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 100_000_000_000_000_000;
    let text = format!("{digits:017}");
    Order::parse(&format!("{}-{}-{}", &text[..3], &text[3..10], &text[10..])).expect("an order")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--entries").skip(1);
    let entries: u64 = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("orders.redb");
    let caps = Caps { entries: 2 * entries, age: Duration::from_secs(1000 * 86_400) };
    let (orders, writer) = Orders::open(&path, caps).expect("an index");
    let begun = Instant::now();
    for number in 0..entries {
        let buyer = Address::parse(&format!("b{number:014}@marketplace.amazon.it")).expect("an address");
        while orders.note(&[order(number)], &[&buyer], Timestamp::now()).is_err() {
            // More than may wait: as fast as the disk.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(orders);
    writer.await.expect("the writer");
    let took = begun.elapsed();
    println!("{entries} noted and written in {took:.1?}: {:.0} a second", entries as f64 / took.as_secs_f64());
    println!("the file has {} MiB", std::fs::metadata(&path).expect("a file").len() >> 20);
    let begun = Instant::now();
    let (orders, _writer) = Orders::open(&path, caps).expect("an index");
    println!("opened in {:.1?}", begun.elapsed());
    for (what, known) in [("known", true), ("unknown", false)] {
        let mut times: Vec<_> = (0..100_000_u64)
            .map(|at| {
                let wanted = order(at.wrapping_mul(7919) % entries + if known { 0 } else { 10 * entries });
                let begun = Instant::now();
                let found = orders.recipients(wanted);
                assert_eq!(found.len(), usize::from(known));
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!(
            "look-up of {what} ones: median {:.1?}, 99 of 100 under {:.1?}, at most {:.1?}",
            times[50_000], times[99_000], times[99_999]
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
