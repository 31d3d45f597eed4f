//! What the sender hears of mail that was taken: one report when it has failed, one when it is late, one where success was
//! asked for, and none to nobody or about a report.

use crate::held::{SHOP, id};
use crate::host::{Host, MODERN, Script, Taken};
use crate::rig::{Client, Logs, Plan, Relay, eventually};

const HASTY: &str = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"50ms\"\ngive_up_after = \"500ms\"\n";
const LATE: &str = "[delivery]\nretry_first = \"50ms\"\nretry_max = \"50ms\"\nreport_delay_after = \"100ms\"\n";
const DSN: &[&str] = &["PIPELINING", "DSN"];

fn script(offer: &'static [&'static str]) -> Script {
    Script::new(offer).always("RCPT TO:<later", "451 4.2.1 mailbox busy").always("RCPT TO:<gone", "550 5.1.1 no such user")
}

async fn start(config: &str, host: &Host) -> (Relay, Client) {
    let relay = Relay::start(Plan { config, list: "", upstream: &host.url() }).await;
    let mut client = relay.client().await;
    client.say("EHLO tool.test").await;
    (relay, client)
}

/// A transaction with parameters; the answer to its end.
async fn mail(client: &mut Client, from: &str, to: &[&str]) -> String {
    client.say(&format!("MAIL FROM:{from}")).await;
    for to in to {
        let answer = client.say(&format!("RCPT TO:{to}")).await;
        assert!(answer.starts_with("250 "), "{answer}");
    }
    client.say("DATA").await;
    client.say("Subject: Your order\r\nMessage-ID: <1@shop.test>\r\n\r\nx\r\n.").await
}

/// For each recipient of a report: action, status.
fn told(report: &Taken) -> Vec<(String, String, String)> {
    let text = report.text();
    let values = |name: &str| {
        let values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.map(str::to_owned).collect::<Vec<_>>().into_iter()
    };
    values("Final-Recipient: rfc822;").zip(values("Action: ")).zip(values("Status: ")).map(|((to, a), s)| (to, a, s)).collect()
}

fn three(rows: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    rows.iter().map(|(to, action, status)| ((*to).into(), (*action).into(), (*status).into())).collect()
}

#[tokio::test]
async fn patience_ends_with_one_report_of_all_who_did_not_get_it() {
    let host = Host::start(script(MODERN)).await;
    let (relay, mut client) = start(HASTY, &host).await;
    let to = ["<later1@x.example>", "<in@x.example>", "<gone@x.example>", "<later2@x.example>"];
    let answer = mail(&mut client, "<shop@example.com>", &to).await;
    assert!(answer.starts_with("250 2.0.0 held as "), "{answer}");
    relay.is_drained().await;
    let reports = host.reports();
    assert_eq!((reports.len(), host.kept().len()), (1, 2));
    assert_eq!(reports[0].to(), [SHOP]);
    let failed =
        [("later1@x.example", "failed", "5.4.7"), ("gone@x.example", "failed", "5.1.1"), ("later2@x.example", "failed", "5.4.7")];
    assert_eq!(told(&reports[0]), three(&failed));
    let text = reports[0].text();
    assert!(text.contains("\r\nAuto-Submitted: auto-replied\r\n") && text.contains("last: mailbox busy"), "{text}");
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn nobody_is_told_where_nobody_is_to_be_told() {
    let host = Host::start(script(MODERN)).await;
    let logs = Logs::watch();
    let (relay, mut client) = start(HASTY, &host).await;
    let null = id(&mail(&mut client, "<>", &["<later@x.example>"]).await);
    let never = id(&mail(&mut client, "<shop@example.com>", &["<later@x.example> NOTIFY=NEVER"]).await);
    let delay = id(&mail(&mut client, "<shop@example.com>", &["<later@x.example> NOTIFY=DELAY"]).await);
    // Their reports cannot be delivered either.
    let refused = id(&mail(&mut client, "<gone@x.example>", &["<later@x.example>"]).await);
    let circle = id(&mail(&mut client, "<later@x.example>", &["<later@x.example>"]).await);
    relay.is_drained().await;
    assert_eq!(host.kept(), []);
    for id in [&null, &never, &delay, &refused, &circle] {
        assert_eq!(logs.lines(&["WARN", "given up after ", "status=\"bounced\"", id]).len(), 1, "{id}");
    }
    assert_eq!(logs.lines(&["its sender gets a report"]).len(), 2);
    for id in [&refused, &circle] {
        assert_eq!(logs.lines(&["its sender gets a report", id]).len(), 1);
    }
    assert_eq!(logs.lines(&["there is no sender to tell"]).len(), 3);
    assert_eq!(logs.lines(&["there is no sender to tell", &null]).len(), 1);
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn who_waits_long_hears_so_once() {
    let host = Host::start(script(MODERN)).await;
    let (relay, mut client) = start(LATE, &host).await;
    let to = ["<later1@x.example>", "<in@x.example>", "<later2@x.example> NOTIFY=FAILURE", "<later3@x.example> NOTIFY=DELAY"];
    mail(&mut client, "<shop@example.com>", &to).await;
    eventually("nobody is told", || !host.reports().is_empty()).await;
    let tries = || host.seen().commands.iter().filter(|line| line.starts_with("RCPT TO:<later1@")).count();
    let before = tries();
    eventually("it is not tried again", || tries() > before + 5).await;
    let reports = host.reports();
    assert_eq!((reports.len(), reports[0].to()), (1, vec![SHOP]));
    let late = [("later1@x.example", "delayed", "4.2.1"), ("later3@x.example", "delayed", "4.2.1")];
    assert_eq!(told(&reports[0]), three(&late));
    assert!(reports[0].text().contains("\r\nWill-Retry-Until: "), "{}", reports[0].text());
    // Told on disk as well: the next relay does not say it again.
    drop(client);
    let (folder, _) = relay.leave().await;
    let relay = Relay::start_in(folder, Plan { config: LATE, list: "", upstream: &host.url() }).await;
    let before = tries();
    eventually("it is not tried again", || tries() > before + 5).await;
    assert_eq!(host.reports().len(), 1);
    assert!(relay.stop().await);
}

/// Long before the host is asked so often.
#[tokio::test]
async fn who_waits_for_the_host_hears_so_as_well() {
    let host = Host::away(script(MODERN));
    let config = "[delivery]\nretry_first = \"1h\"\nretry_max = \"1h\"\nreport_delay_after = \"100ms\"\n";
    let (relay, mut client) = start(config, &host).await;
    let logs = Logs::watch();
    let mut ids = Vec::new();
    for to in ["<a@x.example>", "<b@x.example>", "<c@x.example>", "<d@x.example>"] {
        ids.push(id(&mail(&mut client, "<shop@example.com>", &[to]).await));
    }
    let told_of = |id: &String| logs.lines(&["its sender gets a report", id]).len();
    eventually("nobody is told", || ids.iter().all(|id| told_of(id) == 1)).await;
    host.arrive();
    relay.drain().await;
    assert_eq!((host.kept().len(), host.reports().len()), (8, 4));
    assert!(ids.iter().all(|id| told_of(id) == 1));
    drop(client);
    assert!(relay.stop().await);
}

#[tokio::test]
async fn success_is_told_by_us_where_the_host_will_not() {
    for (offer, reports) in [(MODERN, 1), (DSN, 0)] {
        for away in [false, true] {
            let host = Host::away(script(offer));
            if !away {
                host.arrive();
            }
            let (relay, mut client) = start("", &host).await;
            let to = ["<a@x.example> NOTIFY=SUCCESS,FAILURE", "<b@x.example> NOTIFY=FAILURE", "<c@x.example> NOTIFY=SUCCESS"];
            mail(&mut client, "<shop@example.com>", &to).await;
            if away {
                host.arrive();
            }
            relay.drain().await;
            let found = host.reports();
            assert_eq!((found.len(), host.kept().len()), (reports, reports + 1), "{offer:?} {away}");
            for report in found {
                let relayed = [("a@x.example", "relayed", "2.0.0"), ("c@x.example", "relayed", "2.0.0")];
                assert_eq!((report.to(), told(&report)), (vec![SHOP], three(&relayed)));
            }
            if reports == 0 {
                assert_eq!(host.kept()[0].accepted, to.map(|to| format!("RCPT TO:{to}")));
            }
            drop(client);
            assert!(relay.stop().await);
        }
    }
}
