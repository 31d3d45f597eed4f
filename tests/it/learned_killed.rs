//! A folder of notices, and a relay that is killed again and again while it learns from them: each is learned once, and has one line.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::learned::notice;
use crate::process::Shop;
use crate::rig::eventually;

const NOTICES: usize = 300;

#[tokio::test]
async fn each_notice_is_learned_once_whenever_the_relay_dies() {
    let shop = Shop::new("[learn]\nfolder = \"notices\"\n", "");
    std::fs::create_dir(shop.path("notices")).unwrap();
    for number in 0..NOTICES {
        let text = notice(&format!("n{number}"), &format!("b{number:014}@marketplace.amazon.it"), "");
        std::fs::write(shop.path(&format!("notices/{number}.eml")), text).unwrap();
    }
    let count = |folder: &str| std::fs::read_dir(shop.path(folder)).map_or(0, Iterator::count);
    let learned = || std::fs::read_to_string(shop.path("var/learned.toml")).unwrap_or_default().matches("\naddress").count();
    for kill in 1..=4 {
        let mut relay = shop.serve();
        // At another point of the way each time.
        eventually("nothing is learned", || learned() >= (kill * NOTICES / 6).min(NOTICES)).await;
        tokio::time::sleep(Duration::from_millis(7 * kill as u64)).await;
        relay.die("KILL");
    }
    let mut relay = shop.serve();
    eventually("the notices are not put away", || count("notices/learned") == NOTICES).await;
    relay.stop();
    assert_eq!(learned(), NOTICES);
    let log = shop.read("var/log/learned.jsonl");
    let told: Vec<_> =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["address"].to_string()).collect();
    assert_eq!((told.len(), told.iter().collect::<BTreeSet<_>>().len()), (NOTICES, NOTICES));
}
