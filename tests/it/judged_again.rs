//! A list that changes while mail waits: whoever has opted out by the time of the attempt is not mailed, whatever the tool
//! was told before.

use crate::held::{SHOP, id};
use crate::host::{Act, Host, MODERN, STEPWISE, Script, Stage};
use crate::rig::{Plan, Relay, eventually};

/// One attempt, and then not for a long time, unless somebody asks.
const PATIENT: &str = "";
const QUICK: &str = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"100ms\"\n";

const WIRE: &str = "To: late@x.example\r\nSubject: x\r\n\r\nx";

fn opted_out(addresses: &[&str], action: &str) -> String {
    addresses.iter().map(|address| format!("[[opt_out]]\naddress = \"{address}\"\naction = \"{action}\"\n")).collect()
}

/// A relay that holds one message because its host is away, and its answer to the tool.
async fn held(config: &str, host: &Host, to: &[&str]) -> (Relay, String) {
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let answer = relay.client().await.mail(SHOP, to, WIRE).await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    (relay, answer)
}

/// Those of whom a report tells, with the status of each.
fn told(report: &str) -> Vec<(&str, &str)> {
    let values = |name: &'static str| report.lines().filter_map(move |line| line.strip_prefix(name));
    values("Final-Recipient: rfc822;").zip(values("Status: ")).collect()
}

#[tokio::test]
async fn whoever_opted_out_while_the_mail_waited_is_suppressed_and_the_others_get_it() {
    for (action, reports) in [("reject", 1), ("bounce", 1), ("drop", 0)] {
        let host = Host::away(Script::new(MODERN));
        let (relay, answer) = held(PATIENT, &host, &["Late+1@x.example", "in@x.example"]).await;
        relay.list(&opted_out(&["late@x.example"], action)).await;
        host.arrive();
        relay.drain().await;
        let kept = host.kept();
        assert_eq!((kept[0].to(), kept.len()), (vec!["in@x.example"], 1 + reports), "{action}: {kept:?}");
        for report in host.reports() {
            assert_eq!((report.to(), told(&report.text())), (vec![SHOP], vec![("Late+1@x.example", "5.7.1")]), "{action}");
        }
        let suppressed = relay.suppressed();
        assert_eq!(suppressed.len(), 1, "{suppressed:?}");
        let field = |name: &str| suppressed[0][name].as_str().unwrap().to_owned();
        let fields = ["event", "action", "recipient", "id"].map(field);
        assert_eq!(fields, ["suppressed", action, "Late+1@x.example", &id(&answer)]);
        // What the tool has heard, not what it would hear now.
        assert_eq!(field("reply"), answer, "{action}");
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn where_all_have_opted_out_the_host_is_not_asked_at_all() {
    for (action, reports) in [("reject", 1), ("bounce", 1), ("drop", 0)] {
        let host = Host::away(Script::new(MODERN));
        let to = ["late@x.example", "later@x.example"];
        let (relay, answer) = held(PATIENT, &host, &to).await;
        relay.list(&opted_out(&to, action)).await;
        host.arrive();
        relay.drain().await;
        let kept = host.kept();
        assert_eq!((kept.len(), host.seen().connections), (reports, reports), "{action}: {kept:?}");
        for report in kept {
            assert_eq!((report.to(), told(&report.text())), (vec![SHOP], to.map(|to| (to, "5.7.1")).to_vec()), "{action}");
        }
        let replies: Vec<_> = relay.suppressed().iter().map(|event| event["reply"].as_str().unwrap().to_owned()).collect();
        assert_eq!(replies, [answer.clone(), answer], "{action}");
        assert!(relay.stop().await);
    }
}

#[tokio::test]
async fn somebody_in_the_header_who_opted_out_meanwhile_stops_it_for_all() {
    let host = Host::away(Script::new(MODERN));
    let to = ["gateway@x.example", "in@x.example"];
    let (relay, answer) = held("[opt_out]\nheaders = \"enforce\"\n", &host, &to).await;
    relay.list(&opted_out(&["late@x.example"], "reject")).await;
    host.arrive();
    relay.drain().await;
    let kept = host.kept();
    assert_eq!((kept.len(), kept[0].is_report()), (1, true), "{kept:?}");
    assert_eq!(told(&kept[0].text()), to.map(|to| (to, "5.7.1")));
    let suppressed = relay.suppressed();
    let fields = ["recipient", "id"].map(|name| suppressed[0][name].as_str().unwrap());
    assert_eq!((suppressed.len(), fields), (1, ["late@x.example", &id(&answer)]));
    assert!(relay.stop().await);
}

/// Mail to somebody who opted out asks the host nothing: it must not count as the one that is asking.
#[tokio::test]
async fn suppressed_mail_does_not_keep_others_from_asking_after_the_host() {
    let host = Host::away(Script::new(MODERN));
    let (relay, _) = held(QUICK, &host, &["late@x.example"]).await;
    let mut client = relay.client().await;
    for _ in 0..3 {
        client.mail(SHOP, &["late@x.example"], WIRE).await;
    }
    client.mail(SHOP, &["in@x.example"], WIRE).await;
    relay.list(&opted_out(&["late@x.example"], "drop")).await;
    crate::rig::eventually("they wait for the host", || relay.held().len() == 1).await;
    host.arrive();
    relay.is_drained().await;
    assert_eq!(host.kept().iter().map(|taken| taken.to()).collect::<Vec<_>>(), [["in@x.example"]]);
    drop(client);
    assert!(relay.stop().await);
}

/// Between the judgement and the message a host may take its time.
#[tokio::test]
async fn whoever_opts_out_while_the_host_thinks_about_data_is_not_mailed() {
    for offer in [MODERN, STEPWISE] {
        let host = Host::start(Script::new(offer).at(Stage::Data, [Act::WhenTold(b"354 go on")])).await;
        let relay = Relay::start(Plan { config: "", list: "", upstream: &host.url() }).await;
        let mut client = relay.client().await;
        let mail = async { client.mail(SHOP, &["late@x.example", "in@x.example"], WIRE).await };
        let change = async {
            eventually("the host is not asked", || host.seen().commands.iter().any(|command| command == "DATA")).await;
            relay.list(&opted_out(&["late@x.example"], "drop")).await;
            host.speak();
        };
        let (answer, ()) = tokio::join!(mail, change);
        assert!(answer.starts_with("250 2.0.0 delivered"), "{answer}");
        let kept = host.kept();
        assert_eq!(kept.iter().map(|taken| taken.to()).collect::<Vec<_>>(), [["in@x.example"]], "{offer:?}");
        assert_eq!(host.seen().messages.len(), 1, "nothing else was begun");
        assert_eq!(relay.suppressed().len(), 1);
        drop(client);
        assert!(relay.stop().await);
    }
}
