//! SIGKILL at random under load, with every answer and every kind of host. Part of those who wait for mail opt out
//! meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::chance::Chance;
use crate::compare::Tally;
use crate::driver::{Driver, Mix, Told};
use crate::ground::{Ground, Play};
use crate::relay::Site;
use crate::scene::Scene;
use crate::sink::{Mood, Sink};

const TOOLS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Host {
    Up,
    Down,
    Flapping,
    Slow,
}

const HOSTS: [Host; 4] = [Host::Up, Host::Down, Host::Flapping, Host::Slow];

pub fn run(ground: &Ground) {
    let mut plays: Vec<Play<'_>> = Vec::new();
    for (place, (answer, host)) in ["stored", "delivered"].iter().flat_map(|answer| HOSTS.map(|host| (*answer, host))).enumerate()
    {
        // As many in all as were asked for.
        let kills = (ground.kills + place) / (2 * HOSTS.len());
        plays.push((format!("{answer} {host:?}"), Box::new(move |scene| campaign(scene, answer, host, kills))));
    }
    ground.play("kills", plays);
}

fn campaign(scene: &mut Scene, answer: &'static str, host: Host, kills: usize) -> Tally {
    let site = scene.site(&scene.keys(answer));
    let mut chance = scene.chance.fork();
    match host {
        Host::Up | Host::Flapping => {}
        Host::Down => scene.sink.down(),
        Host::Slow => {
            scene.sink.set(Mood { pause: Duration::from_millis(20), pause_at_dot: Duration::from_millis(150), ..Mood::default() })
        }
    }
    let mut relay = site.start();
    let mix = Mix { size: 100 << 10, trouble: true, pause: Duration::from_millis(10) };
    let driver = Driver::start(TOOLS, mix, &site.door, &scene.offers, &mut scene.chance);
    let (over, sink) = (AtomicBool::new(false), &scene.sink);
    let mut weather = chance.fork();
    let relay = std::thread::scope(|scope| {
        if let Host::Flapping = host {
            scope.spawn(|| flap(sink, &over, &mut weather));
        }
        for _ in 0..kills {
            std::thread::sleep(chance.millis(100..700));
            opt_out(scene, &site, &mut chance);
            std::thread::sleep(chance.millis(0..400));
            relay.kill();
            relay = site.spawn(site.command());
            if chance.one_in(4) {
                // In the middle of its start.
                std::thread::sleep(chance.millis(0..60));
                relay.kill();
                relay = site.spawn(site.command());
            }
            relay.wait_until_it_serves();
        }
        std::thread::sleep(chance.millis(100..300));
        over.store(true, Ordering::Relaxed);
        relay
    });
    driver.stop();
    scene.close(&site, relay, kills)
}

/// Some to whom mail was accepted of late, and some who will be written to.
fn opt_out(scene: &Scene, site: &Site, chance: &mut Chance) {
    let offers = scene.offers.entries();
    let mut chosen = Vec::new();
    for offer in offers.iter().rev().filter(|offer| offer.told == Told::Taken).take(40) {
        if chance.one_in(4) {
            chosen.extend(offer.recipients.first().cloned());
        }
    }
    let number = |name: &str| name.split_once('n').and_then(|(_, number)| number.parse::<usize>().ok());
    if let Some(latest) = offers.iter().rev().find_map(|offer| number(&offer.name)) {
        chosen.extend((0..TOOLS).map(|tool| format!("t{tool}n{}r0@host.test", latest + chance.within(5..30))));
    }
    site.opt_out(chosen);
}

fn flap(sink: &Sink, over: &AtomicBool, chance: &mut Chance) {
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(chance.millis(50..400));
        sink.down();
        std::thread::sleep(chance.millis(50..400));
        sink.up();
    }
}
