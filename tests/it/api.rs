//! The API as programs use it, and the description of it, which names all that there is.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use optout_relay::users::{self, Hash};
use serde_json::{Value, json};

use crate::http::{Answer, ask};
use crate::rig::{Plan, Relay, eventually};

/// A relay that programs may ask.
pub struct Asked {
    pub relay: Relay,
    pub page: SocketAddr,
}

const LOGIN: (&str, &str) = ("Authorization", "Bearer shop-tool:a long secret");

impl Asked {
    pub async fn open(admin: &str, upstream: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hash = Hash::of(b"a long secret").unwrap();
        users::add(&folder.path().join("admins.toml"), "shop-tool", &hash, &[], false).unwrap();
        let config = format!("[admin]\nlisten = [\"127.0.0.1:0\"]\nusers = \"admins.toml\"\n{admin}");
        let list = "# by hand\naddresses = [\"out@x.example\"]\ndomains = [\"gone.example\"]\n";
        let relay = Relay::start_in(folder, Plan { config: &config, list, upstream }).await;
        let page = relay.pages[0];
        Self { relay, page }
    }

    pub async fn get(&self, path: &str) -> Answer {
        ask(self.page, "GET", path, &[LOGIN], "").await
    }

    async fn say(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [LOGIN, ("Content-Type", "application/json")];
        ask(self.page, method, path, &headers, &body.to_string()).await
    }

    /// The last line of the log of actions.
    fn last_action(&self) -> Value {
        let log = std::fs::read_to_string(self.relay.path("var/log/actions.jsonl")).unwrap();
        serde_json::from_str(log.lines().last().unwrap()).unwrap()
    }
}

fn value(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A refusal: its status, and words of it.
fn assert_refused(answer: &Answer, status: u16, words: &str) {
    let said = value(answer);
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(said["error"].as_str().unwrap().contains(words), "{said}");
}

#[tokio::test]
async fn an_opt_out_is_in_force_when_the_answer_comes_and_so_is_its_end() {
    let asked = Asked::open("", "").await;
    let answer = value(&asked.get("/api/v1/check?address=Out%2B1%40X.example").await);
    assert_eq!(
        (&answer["verdict"], &answer["action"], &answer["rule"]["line"]),
        (&json!("suppressed"), &json!("reject"), &json!(2))
    );
    let new = json!({"entries": ["New@x.example", "out@x.example"], "reason": "asked\nby phone", "action": "drop",
        "until": "2090-01-01", "senders": ["*@shop-a.example"], "note": "n"});
    let answer = asked.say("POST", "/api/v1/opt-outs", &new).await;
    assert_eq!((answer.status, value(&answer)["added"].clone()), (201, json!(["new@x.example"])));
    assert_eq!(value(&answer)["known"], 1);
    let action = asked.last_action();
    assert_eq!(
        (&action["event"], &action["who"], &action["address"]),
        (&json!("opt_out_added"), &json!("shop-tool"), &json!("out@x.example"))
    );
    let check = |from: &str| format!("/api/v1/check?address=new%40x.example&from={from}");
    let for_shop = value(&asked.get(&check("a%40shop-a.example")).await);
    assert_eq!(
        (&for_shop["verdict"], &for_shop["rule"]["reason"], &for_shop["rule"]["source"]),
        (&json!("suppressed"), &json!("asked by phone"), &json!("API, shop-tool"))
    );
    assert_eq!(value(&asked.get(&check("a%40shop-b.example")).await)["verdict"], "forwarded");
    assert_refused(&asked.say("DELETE", "/api/v1/opt-outs/new%40x.example", &Value::Null).await, 400, "say why");
    let gone = asked.say("DELETE", "/api/v1/opt-outs/NEW%2B2%40x.example?reason=came+back", &Value::Null).await;
    assert_eq!((gone.status, value(&gone)["still_suppressed"].clone()), (200, json!(false)));
    assert_eq!(asked.last_action()["reason"], "came back");
    assert_eq!(value(&asked.get(&check("a%40shop-a.example")).await)["verdict"], "forwarded");
    let again = asked.say("DELETE", "/api/v1/opt-outs/new%40x.example?reason=x", &Value::Null).await;
    assert_refused(&again, 404, "stands in no list");
    // A domain keeps mail from its mailboxes, whatever becomes of one of them.
    let other = asked.say("DELETE", "/api/v1/opt-outs/a%40gone.example?reason=x", &Value::Null).await;
    assert_refused(&other, 404, "stands in no list");
    assert!(value(&other)["hint"].as_str().unwrap().contains("/api/v1/check"), "{other:?}");
    assert!(std::fs::read_to_string(asked.relay.path("blacklist.toml")).unwrap().starts_with("# by hand\n"));
    asked.relay.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_plain_words_and_nothing_is_done() {
    let asked = Asked::open("", "").await;
    let before = std::fs::read_to_string(asked.relay.path("blacklist.toml")).unwrap();
    let kind = |kind| [LOGIN, ("Content-Type", kind)];
    for (body, status, words) in [
        ("{", 400, "the body cannot be used: EOF"),
        ("[]", 400, "the body cannot be used"),
        (r#"{"entries": []}"#, 400, "names 0, and may name 1 to 100"),
        (r#"{"entries": ["a@x.example"], "untl": "2027-01-01"}"#, 400, "unknown field `untl`"),
        (r#"{"entries": ["a@x.example", "info@"]}"#, 400, "is not an address"),
        (r#"{"entries": ["a@x.example"], "action": "burn"}"#, 400, "unknown variant `burn`"),
        (r#"{"entries": ["a@x.example"], "until": "soon"}"#, 400, "is not a date"),
        (r#"{"entries": ["a@x.example"], "senders": ["nobody"]}"#, 400, "names no sender"),
    ] {
        let answer = ask(asked.page, "POST", "/api/v1/opt-outs", &kind("application/json"), body).await;
        assert_refused(&answer, status, words);
    }
    let many = json!({"entries": vec!["a@x.example"; 101]});
    assert_refused(&asked.say("POST", "/api/v1/opt-outs", &many).await, 400, "101");
    let large = json!({"entries": ["a@x.example"], "note": "n".repeat(2 << 20)});
    assert_eq!(asked.say("POST", "/api/v1/opt-outs", &large).await.status, 413);
    let form = ask(asked.page, "POST", "/api/v1/opt-outs", &kind("text/plain"), r#"{"entries": ["a@x.example"]}"#).await;
    assert_refused(&form, 415, "must be JSON");
    for (path, status, words) in [
        ("/api/v1/check", 400, "missing field `address`"),
        ("/api/v1/check?address=info", 400, "`address` is no address"),
        ("/api/v1/check?address=a%40x.example&from=b", 400, "`from` is no address"),
        ("/api/v1/check?address=a%40x.example&form=b", 400, "unknown field `form`"),
        ("/api/v1/log?since=soon", 400, "`since` is no time"),
        ("/api/v1/log?action=burn", 400, "unknown variant `burn`"),
        ("/api/v1/log?limit=-1", 400, "invalid digit"),
        ("/api/v1/opt-outs?limit=x", 400, "invalid digit"),
        ("/api/v1/spool?after=..%2F..", 400, "no id of a message"),
        ("/api/v1/nothing", 404, "no such address"),
        ("/api/v2/status", 404, "no such address"),
    ] {
        assert_refused(&asked.get(path).await, status, words);
    }
    assert_refused(&asked.say("PUT", "/api/v1/opt-outs", &Value::Null).await, 405, "method not allowed");
    for id in ["..%2F..%2Fetc", "x", "%00"] {
        assert_refused(&asked.say("DELETE", &format!("/api/v1/spool/{id}"), &Value::Null).await, 400, "no id of a message");
    }
    assert_eq!(std::fs::read_to_string(asked.relay.path("blacklist.toml")).unwrap(), before);
    asked.relay.stop().await;
}

#[tokio::test]
async fn only_programs_with_a_login_of_their_own_are_answered() {
    let asked = Asked::open("", "").await;
    let status = "/api/v1/status";
    let basic = ("Authorization", "Basic c2hvcC10b29sOmEgbG9uZyBzZWNyZXQ=");
    assert_eq!(ask(asked.page, "GET", status, &[basic], "").await.status, 200);
    for headers in [&[][..], &[("Authorization", "Bearer shop-tool")], &[("Authorization", "Bearer shop-tool:wrong")]] {
        let answer = ask(asked.page, "GET", status, headers, "").await;
        assert_eq!((answer.status, answer.header("www-authenticate").is_empty()), (401, false), "{answer:?}");
        assert!(value(&answer)["error"].is_string());
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let login = ask(asked.page, "POST", "/login", &form, "name=shop-tool&password=a+long+secret").await;
    let cookie = login.header("set-cookie").split(';').next().unwrap();
    assert_eq!(ask(asked.page, "GET", "/api", &[("Cookie", cookie)], "").await.status, 200);
    assert_eq!(ask(asked.page, "GET", status, &[("Cookie", cookie)], "").await.status, 401);
    // A browser that was once asked for the password sends it for whoever has it do so.
    let foreign = [LOGIN, ("Origin", "https://evil.example"), ("Content-Type", "text/plain")];
    let answer = ask(asked.page, "POST", "/api/v1/spool/0123456789abcdefg/retry", &foreign, "").await;
    assert_refused(&answer, 403, "another site");
    asked.relay.stop().await;
    let asked = Asked::open("read_only = true\n", "").await;
    assert_eq!(value(&asked.get(status).await)["read_only"], true);
    let answer = asked.say("POST", "/api/v1/opt-outs", &json!({"entries": ["a@x.example"]})).await;
    assert_refused(&answer, 403, "read-only");
    asked.relay.stop().await;
}

#[tokio::test]
async fn the_log_is_told_page_by_page() {
    let asked = Asked::open("", "").await;
    let mut client = asked.relay.client().await;
    for n in 0..5 {
        client.mail("shop@a.example", &[&format!("out+{n}@x.example")], "Subject: x\r\n\r\nx").await;
        client.say("RSET").await;
    }
    client.mail("shop@a.example", &["in@x.example"], "Subject: x\r\n\r\nx").await;
    let mut page = value(&asked.get("/api/v1/log?limit=2").await);
    while page["error"].is_string() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        page = value(&asked.get("/api/v1/log?limit=2").await);
    }
    // Nobody waits for this log.
    let sent = asked.relay.path("var/log/sent.jsonl");
    eventually("nobody was mailed", || std::fs::read_to_string(&sent).unwrap().contains("in@x.example")).await;
    let (mut seen, mut pages) = (Vec::new(), 1);
    loop {
        let records = page["records"].as_array().unwrap();
        seen.extend(records.iter().map(|record| record["address"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_u64() else { break };
        pages += 1;
        page = value(&asked.get(&format!("/api/v1/log?limit=2&before={next}")).await);
    }
    assert_eq!(seen, ["out+4@x.example", "out+3@x.example", "out+2@x.example", "out+1@x.example", "out+0@x.example"]);
    assert_eq!(pages, 3);
    for (question, count) in [
        ("address=OUT%40x.example", 5),
        ("address=in%40x.example", 0),
        ("log=sent&address=in%40x.example", 1),
        ("action=drop", 0),
        ("rule=blacklist.toml:2&sender=*%40A.example", 5),
        ("since=1d", 5),
        ("until=1d", 0),
    ] {
        let page = value(&asked.get(&format!("/api/v1/log?{question}")).await);
        assert_eq!(page["records"].as_array().unwrap().len(), count, "{question}: {page}");
    }
    let record = value(&asked.get("/api/v1/log?limit=1").await)["records"][0].clone();
    assert_eq!(
        (&record["rule"]["kind"], &record["sender"], &record["seq"]),
        (&json!("address"), &json!("shop@a.example"), &json!(5))
    );
    asked.relay.stop().await;
}

#[tokio::test]
async fn held_mail_is_seen_tried_and_dropped() {
    // Nobody listens there.
    let asked = Asked::open("", "smtp://127.0.0.1:1").await;
    let mut client = asked.relay.client().await;
    for to in ["a@y.example", "b@y.example", "c@y.example"] {
        let reply = client.mail("shop@a.example", &[to], "Subject: x\r\n\r\nx").await;
        assert!(reply.starts_with("250"), "{reply}");
        client.say("RSET").await;
    }
    let first = value(&asked.get("/api/v1/spool?limit=2").await);
    let told: Vec<_> = first["messages"].as_array().unwrap().iter().map(|held| &held["recipients"][0]["address"]).collect();
    assert_eq!(told, ["a@y.example", "b@y.example"]);
    let rest = value(&asked.get(&format!("/api/v1/spool?after={}", first["next"].as_str().unwrap())).await);
    assert_eq!((rest["messages"].as_array().unwrap().len(), rest["next"].clone()), (1, Value::Null));
    let id = first["messages"][0]["id"].as_str().unwrap();
    let gone = asked.say("DELETE", &format!("/api/v1/spool/{id}?reason=wrong"), &Value::Null).await;
    assert!([200, 202].contains(&gone.status), "{gone:?}");
    eventually("it is still held", || asked.relay.held().len() == 2).await;
    assert_eq!((&asked.last_action()["event"], &asked.last_action()["reason"]), (&json!("held_dropped"), &json!("wrong")));
    assert_refused(&asked.say("DELETE", &format!("/api/v1/spool/{id}"), &Value::Null).await, 404, "not held");
    assert_refused(&asked.say("POST", &format!("/api/v1/spool/{id}/retry"), &Value::Null).await, 404, "does not wait");
    let other = rest["messages"][0]["id"].as_str().unwrap();
    let retried = asked.say("POST", &format!("/api/v1/spool/{other}/retry"), &Value::Null).await;
    assert!([202, 404].contains(&retried.status), "{retried:?}");
    let status = value(&asked.get("/api/v1/status").await);
    assert_eq!(
        (&status["host"]["state"], &status["spool"]["messages"], &status["list"]["entries"]),
        (&json!("away"), &json!(2), &json!(2))
    );
    asked.relay.stop().await;
}

#[tokio::test]
async fn entries_are_told_page_by_page() {
    let asked = Asked::open("", "").await;
    let page = value(&asked.get("/api/v1/opt-outs?limit=1").await);
    assert_eq!((&page["entries"][0]["entry"], &page["next"]), (&json!("out@x.example"), &json!(1)));
    let page = value(&asked.get("/api/v1/opt-outs?limit=1&after=1").await);
    assert_eq!((&page["entries"][0]["kind"], &page["next"]), (&json!("domain"), &Value::Null));
    asked.relay.stop().await;
}

/// Method and path of every route in the sources.
fn routes() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for source in [include_str!("../../src/admin/api/mod.rs"), include_str!("../../src/admin/machines.rs")] {
        for route in source.split(".route(\"").skip(1) {
            let (path, methods) = route.split_once("\", ").unwrap();
            let methods = &methods[..methods.find("))\n").or_else(|| methods.find("))")).unwrap()];
            let methods = methods.split(".route(").next().unwrap();
            let named = ["get(", "post(", "delete("].into_iter().filter(|method| methods.contains(method));
            found.extend(named.map(|method| (method.trim_end_matches('(').to_owned(), path.to_owned())));
        }
    }
    // The page for people.
    assert!(found.remove(&("get".to_owned(), "/api".to_owned())));
    found
}

#[tokio::test]
async fn the_description_names_every_address_and_each_of_them_answers() {
    let asked = Asked::open("", "").await;
    let described = value(&ask(asked.page, "GET", "/api/openapi.json", &[], "").await);
    assert!(described["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut named = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            named.insert((method.clone(), path.clone()));
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{path}");
            let real = path.replace("{entry}", "nobody%40x.example").replace("{id}", "00000000000000000");
            let answer = asked.say(&method.to_uppercase(), &real, &Value::Null).await;
            let told = &operation["responses"][answer.status.to_string()];
            assert!(told.is_object(), "{method} {path} answers {}, which is not described: {answer:?}", answer.status);
            if answer.status == 404 {
                assert!(!answer.body.contains("no such address"), "{method} {path} is not there");
            }
        }
    }
    assert_eq!(named, routes());
    assert!(named.len() >= 13, "{named:?}");
    // Every name that is referred to is there.
    let text = described.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(described.pointer(name).is_some(), "{name}");
    }
    asked.relay.stop().await;
}

/// Whether a value has the shape that the description gives it: every field is described, and every required one is there.
fn assert_shaped(described: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return assert_shaped(described, described.pointer(&name[1..]).unwrap(), value, place);
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let some = all.iter().find(|one| (one["type"] == "null") == value.is_null()).unwrap();
        return assert_shaped(described, some, value, place);
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let schema = &schema["properties"][name];
                assert!(schema.is_object(), "{place}.{name} is not described");
                assert_shaped(described, schema, field, &format!("{place}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{place} lacks {name}");
            }
        }
        Value::Array(items) => items.iter().for_each(|item| assert_shaped(described, &schema["items"], item, place)),
        plain => {
            let kind = match plain {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "integer",
                _ => "string",
            };
            let types = &schema["type"];
            let fits = types == kind || types.as_array().is_some_and(|types| types.iter().any(|one| one == kind));
            assert!(fits, "{place} is {kind}, and described as {types}");
        }
    }
}

#[tokio::test]
async fn answers_have_the_shape_that_is_described() {
    let asked = Asked::open("", "smtp://127.0.0.1:1").await;
    let described = value(&asked.get("/api/openapi.json").await);
    let mut client = asked.relay.client().await;
    client.mail("shop@a.example", &["out@x.example", "in@x.example"], "Subject: x\r\n\r\nx").await;
    eventually("nothing is held", || asked.relay.held().len() == 1).await;
    let shapes = [
        ("Status", "/api/v1/status"),
        ("Verdict", "/api/v1/check?address=out%40x.example"),
        ("Verdict", "/api/v1/check?address=in%40x.example"),
        ("Entries", "/api/v1/opt-outs?limit=1"),
        ("Held", "/api/v1/spool"),
        ("Refusal", "/api/v1/check"),
    ];
    let mut log = asked.get("/api/v1/log").await;
    while log.status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        log = asked.get("/api/v1/log").await;
    }
    assert_shaped(&described, &json!({"$ref": "#/components/schemas/Records"}), &value(&log), "Records");
    assert_eq!(value(&log)["records"].as_array().unwrap().len(), 1);
    for (name, path) in shapes {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        assert_shaped(&described, &schema, &value(&asked.get(path).await), name);
    }
    asked.relay.stop().await;
}
