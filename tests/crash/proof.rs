//! The account itself is tried: evidence in which something is wrong, and hosts that do wrong, must be found out.

use std::time::Duration;

use crate::arrival::{Arrival, Kind};
use crate::compare::{Evidence, Tally};
use crate::driver::{Driver, Mix, Offer, Told};
use crate::ground::{Ground, Play};
use crate::scene::Scene;
use crate::sink::{Flaw, Mood};

pub fn run(ground: &Ground) {
    ground.one("proof evidence", |_| evidence());
    let flaw = |flaw, finds: &'static str| -> Play<'_> {
        (format!("{flaw:?}"), Box::new(move |scene: &mut Scene| flawed(scene, flaw, finds)))
    };
    ground.play(
        "proof",
        vec![
            flaw(Flaw::Forgets, "lost: "),
            flaw(Flaw::Doubles, "twice, and no possible_duplicate"),
            flaw(Flaw::Damages, "damaged: "),
        ],
    );
}

/// A real relay before a host that does wrong: the account must say so, and nothing else. Nothing of it counts.
fn flawed(scene: &mut Scene, flaw: Flaw, finds: &str) -> Tally {
    let site = scene.site(&scene.keys("delivered"));
    let relay = site.start();
    scene.sink.set(Mood { flaw: Some(flaw), ..Mood::default() });
    let mix = Mix { size: 100 << 10, trouble: false, pause: Duration::from_millis(1) };
    let driver = Driver::start(2, mix, &site.door, &scene.offers, &mut scene.chance);
    std::thread::sleep(Duration::from_millis(200));
    driver.stop();
    relay.stop();
    let mut found = scene.evidence(&site, 1).tally();
    // As many as can have been under way are allowed to come twice; the load is larger.
    found.wrong.retain(|line| !line.starts_with(finds) && !line.contains("letters came twice"));
    let as_it_should = found.acked > 0
        && match flaw {
            Flaw::Forgets => found.lost == found.acked && found.damaged + found.duplicates == 0,
            Flaw::Doubles => found.duplicates == found.acked && found.lost + found.damaged + found.explained == 0,
            Flaw::Damages => found.damaged == found.acked && found.lost + found.duplicates == 0,
        };
    if !as_it_should {
        found.wrong.push(format!("the account does not see what the host did: {found}"));
    }
    Tally { wrong: found.wrong, ..Tally::default() }
}

fn offer(told: Told) -> Offer {
    Offer { name: "m1".into(), hash: 7, recipients: vec!["a@host.test".into()], told }
}

fn letter() -> Arrival {
    let (name, id, recipient) = ("m1".into(), "0id".into(), "a@host.test".into());
    Arrival { name, id, recipient, hash: 7, since: 1_000_000, kind: Kind::Letter }
}

/// One letter to one recipient in every way in which it can go wrong, and in those in which it cannot.
fn evidence() -> Tally {
    let taken = || Evidence { offers: vec![offer(Told::Nothing), offer(Told::Taken)], in_flight: 1, ..Evidence::default() };
    let arrived = || Evidence { arrived: vec![letter()], ..taken() };
    let twice = || Evidence { arrived: vec![letter(), letter()], kills: 1, ..taken() };
    let said = |line: &str| vec![(0, line.to_owned())];
    let failure = || Arrival { kind: Kind::Failure, ..letter() };
    let opted_out = |since| [("a@host.test".to_owned(), since)].into();
    let word = "WARN tried again id=0id possible_duplicate=true";
    let refused = || vec![offer(Told::Nothing), offer(Told::Refused(451))];
    let cases = [
        ("", arrived()),
        ("lost", taken()),
        ("", Evidence { suppressed: vec![("0id".into(), "a@host.test".into())], ..taken() }),
        ("", Evidence { arrived: vec![failure()], ..taken() }),
        ("lost", Evidence { arrived: vec![Arrival { kind: Kind::Note, ..letter() }], ..taken() }),
        ("damaged", Evidence { arrived: vec![Arrival { hash: 8, ..letter() }], ..taken() }),
        ("damaged", Evidence { arrived: vec![letter(), Arrival { name: String::new(), ..letter() }], ..taken() }),
        (
            "to a stranger",
            Evidence { arrived: vec![letter(), Arrival { recipient: "b@host.test".into(), ..letter() }], ..taken() },
        ),
        ("delivered and reported", Evidence { arrived: vec![letter(), failure()], ..taken() }),
        ("reported 2 times", Evidence { arrived: vec![failure(), failure()], ..taken() }),
        ("twice", twice()),
        ("twice", Evidence { said: said("id=0idx possible_duplicate=true"), ..twice() }),
        ("twice", Evidence { said: said("id=0id possible_duplicate=false"), ..twice() }),
        ("", Evidence { said: said(word), ..twice() }),
        ("1 letters came twice", Evidence { said: said(word), kills: 0, ..twice() }),
        ("", Evidence { opted_out: opted_out(None), ..arrived() }),
        ("", Evidence { opted_out: opted_out(Some(1_000_000)), ..arrived() }),
        ("mailed 200 ms after", Evidence { opted_out: opted_out(Some(800_000)), ..arrived() }),
        ("delivered, and the tool was told 451", Evidence { offers: refused(), ..arrived() }),
        ("", Evidence { offers: refused(), said: said(word), ..arrived() }),
        ("", Evidence { offers: vec![offer(Told::Nothing)], ..arrived() }),
        ("a panic", Evidence { said: said("thread 'x' panicked at src/x.rs:1:1:"), ..arrived() }),
    ];
    let mut wrong = Vec::new();
    for (place, (finds, evidence)) in cases.iter().enumerate() {
        let found = evidence.tally().wrong;
        let fits = if finds.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].starts_with(finds) };
        if !fits {
            wrong.push(format!("case {place}: looked for {finds:?}, found {found:?}"));
        }
    }
    Tally { wrong, ..Tally::default() }
}
