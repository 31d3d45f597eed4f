//! How long one recipient takes: reading the address, and looking it up in lists of a thousand, a million and ten million
//! addresses that hold domains, hashes and patterns as well.
//!
//! `cargo bench --bench judge`; ten million (600 MB of memory) only with `BENCH_TEN_MILLION=1`.
#![allow(missing_docs)] // what the macros of criterion make

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use optout_relay::mail::{Address, PlusTags, ReversePath};
use optout_relay::optout::{Attributes, Builder, Context, OptOutList, Policy, Subject, Title, judge};

/// So many different recipients are asked for in turn that the caches of the processor do not know the answer.
const ASKED: u64 = 1 << 18;

/// What is in a list besides addresses.
#[derive(Clone, Copy)]
enum Others {
    Nothing,
    Domains,
    All,
}

fn look_up(criterion: &mut Criterion) {
    let sizes: &[u64] =
        if std::env::var_os("BENCH_TEN_MILLION").is_some() { &[1_000, 1_000_000, 10_000_000] } else { &[1_000, 1_000_000] };
    let mut group = criterion.benchmark_group("look_up");
    for &size in sizes {
        for (others, named) in
            [(Others::Nothing, "addresses"), (Others::Domains, "and domains"), (Others::All, "and hashes and patterns")]
        {
            let list = list(size, others);
            for (first, hit) in [(0, "present"), (size, "absent")] {
                let recipients: Vec<_> = (0..ASKED).map(|n| buyer(first + n.wrapping_mul(7_919) % size)).collect();
                let mut next = recipients.iter().cycle();
                let policy = Policy::default();
                let context = Context {
                    sender: &ReversePath::Null,
                    now: Timestamp::UNIX_EPOCH,
                    title: Title::NotYet,
                    policy: &policy,
                    orders: &[],
                };
                group.bench_function(BenchmarkId::new(format!("{hit}, {named}"), size), |bencher| {
                    bencher.iter(|| {
                        next.next()
                            .map(|recipient| matches!(judge(&list, recipient, &context), optout_relay::optout::Verdict::Clear(_)))
                    });
                });
            }
        }
    }
    group.finish();
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, text) in [
        ("plain", "0a1b2c3d4e5f6g7@marketplace.amazon.com"),
        ("tagged, capitals", "Buyer.Name+case-17@Example.COM"),
        ("quoted", "\"buyer \\\"b\\\" name\"@example.com"),
        ("international", "käufer@bücher.example"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| Address::parse(black_box(text))));
    }
    group.finish();
}

fn list(size: u64, others: Others) -> OptOutList {
    let mut builder = Builder::new(PlusTags::Ignore);
    let mut add = |subject| builder.add(1, subject, Attributes::default());
    (0..size).for_each(|number| add(Subject::Address(buyer(number))));
    if let Others::Domains | Others::All = others {
        (0..100).for_each(|n| add(Subject::Domain(format!("shop{n}.example"))));
        (0..100).for_each(|n| add(Subject::Subdomains(format!("shop{n}.example"))));
    }
    if let Others::All = others {
        (0..100).for_each(|n| add(Subject::Sha256([n; 32])));
        (0..100).for_each(|n| add(Subject::Md5([n; 16])));
        (0..10).for_each(|n| add(Subject::Pattern(format!("promo{n}-*@example.com"))));
    }
    builder.finish()
}

fn buyer(number: u64) -> Address {
    let text = format!("{:015x}@marketplace.amazon.com", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) << 4 >> 4);
    Address::parse(&text).unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    targets = parse, look_up
}
criterion_main!(benches);
