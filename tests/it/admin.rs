//! The admin page under attack, and as programs see it; what people see is tried in a browser.

use std::net::SocketAddr;

use optout_relay::users::{self, Hash};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::http::{Answer, ask, raw};
use crate::rig::{Client, PATIENCE, Plan, Relay};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// A relay with a page, and somebody who may log in.
struct Shop {
    relay: Relay,
    page: SocketAddr,
}

impl Shop {
    async fn open(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        add(&folder, "anna", "a long secret");
        let config = format!("[admin]\nlisten = [\"127.0.0.1:0\"]\nusers = \"admins.toml\"\n{more}");
        let plan = Plan { config: &config, list: "addresses = [\"out@x.example\"]\n", upstream: "" };
        let relay = Relay::start_in(folder, plan).await;
        let page = relay.pages[0];
        Self { relay, page }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        ask(self.page, "GET", path, &[("Cookie", cookie)], "").await
    }

    async fn post(&self, path: &str, cookie: &str, body: &str) -> Answer {
        ask(self.page, "POST", path, &[FORM, ("Cookie", cookie)], body).await
    }

    /// The cookie, and what every form must hold.
    async fn login(&self) -> (String, String) {
        let answer = self.post("/login", "", "name=anna&password=a+long+secret").await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(answer.header("set-cookie").ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{answer:?}");
        let page = self.get("/", &cookie).await;
        let form = page.body.split("name=\"form\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!((page.status, form.len()), (200, 43), "{page:?}");
        (cookie, form)
    }

    fn list(&self) -> String {
        std::fs::read_to_string(self.relay.path("blacklist.toml")).unwrap()
    }
}

fn add(folder: &TempDir, name: &str, password: &str) {
    let hash = Hash::of(password.as_bytes()).unwrap();
    users::add(&folder.path().join("admins.toml"), name, &hash, &[], false).unwrap();
}

/// All that somebody could ask for: method, path.
const PAGES: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/address?address=out%40x.example"),
    ("GET", "/log"),
    ("GET", "/held"),
    ("GET", "/learned"),
    ("GET", "/test"),
    ("GET", "/nothing"),
    ("POST", "/address/add"),
    ("POST", "/address/remove"),
    ("POST", "/held/retry"),
    ("POST", "/held/drop"),
    ("POST", "/learned/accept"),
    ("POST", "/learned/reject"),
    ("POST", "/test"),
    ("POST", "/logout"),
    ("PUT", "/address/add"),
    ("DELETE", "/"),
];

#[tokio::test]
async fn without_a_session_nothing_is_shown_or_done() {
    let shop = Shop::open("").await;
    let (cookie, form) = shop.login().await;
    let forged = format!("optout-relay={}", "A".repeat(43));
    for cookie in ["", "optout-relay=", forged.as_str(), &cookie.replace("optout-relay", "__Host-optout-relay")] {
        for (method, path) in PAGES {
            let body = format!("form={form}&address=new%40x.example&id=all&to=a%40b.example&from=c%40d.example");
            let answer = ask(shop.page, method, path, &[FORM, ("Cookie", cookie)], &body).await;
            let refused = if *method == "GET" {
                answer.status == 303 && answer.header("location").starts_with("/login?next=")
            } else {
                answer.status == 401
            };
            assert!(refused && !answer.body.contains("out@x.example"), "{method} {path} {cookie}: {answer:?}");
        }
    }
    assert!(!shop.list().contains("new@x.example"));
    shop.relay.stop().await;
}

#[tokio::test]
async fn a_form_of_another_session_or_another_site_does_nothing() {
    let shop = Shop::open("").await;
    let ((cookie, form), (_, other)) = (shop.login().await, shop.login().await);
    for (_, path) in PAGES.iter().filter(|(method, path)| *method == "POST" && *path != "/nothing") {
        for wrong in ["", "form=", &format!("form={other}"), "form=%00", &format!("form={form}x")] {
            let answer = shop.post(path, &cookie, &format!("{wrong}&address=new%40x.example&reason=x")).await;
            assert_eq!(answer.status, 403, "{path} {wrong}: {answer:?}");
        }
        let host = shop.page.to_string();
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Origin", "http://127.0.0.1:1"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            let body = format!("form={form}&address=new%40x.example&reason=x");
            let answer = ask(shop.page, "POST", path, &[FORM, ("Cookie", &cookie), ("Host", &host), (name, value)], &body).await;
            assert_eq!(answer.status, 403, "{path} {name}: {value}: {answer:?}");
        }
    }
    // Nor does a link, however it is followed.
    for (_, path) in PAGES.iter().filter(|(method, path)| *method == "POST" && *path != "/test") {
        let answer = shop.get(&format!("{path}?form={form}&address=new%40x.example&reason=x"), &cookie).await;
        assert_eq!(answer.status, 405, "{path}: {answer:?}");
    }
    let login =
        ask(shop.page, "POST", "/login", &[FORM, ("Origin", "https://evil.example")], "name=anna&password=a+long+secret").await;
    assert_eq!((login.status, login.header("set-cookie")), (403, ""));
    assert!(!shop.list().contains("new@x.example"));
    let answer = shop.post("/address/add", &cookie, &format!("form={form}&address=new%40x.example&reason=x")).await;
    assert!(answer.status == 303 && shop.list().contains("new@x.example"), "{answer:?}");
    shop.relay.stop().await;
}

#[tokio::test]
async fn by_another_name_nobody_comes_in() {
    let shop = Shop::open("hosts = [\"Mail.Shop.example\"]\n").await;
    let (cookie, _) = shop.login().await;
    let port = shop.page.port();
    for (host, status) in [
        ("evil.example", 421),
        (&format!("evil.example:{port}"), 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost", 200),
        (&format!("LOCALHOST:{port}"), 200),
        (&format!("127.0.0.1:{port}"), 200),
        (&format!("[::1]:{port}"), 200),
        ("mail.shop.example", 200),
    ] {
        let answer = ask(shop.page, "GET", "/", &[("Host", host), ("Cookie", &cookie)], "").await;
        assert_eq!(answer.status, status, "{host}: {answer:?}");
        let login = ask(shop.page, "GET", "/login", &[("Host", host)], "").await;
        assert_eq!(login.status, status, "{host}: {login:?}");
    }
    let twice =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    assert_ne!(raw(shop.page, twice.as_bytes()).await.status, 200);
    let none = format!("GET / HTTP/1.0\r\nCookie: {cookie}\r\n\r\n");
    assert_eq!(raw(shop.page, none.as_bytes()).await.status, 421);
    let absolute =
        format!("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    assert_eq!(raw(shop.page, absolute.as_bytes()).await.status, 421);
    shop.relay.stop().await;
}

#[tokio::test]
async fn what_comes_from_mail_is_text() {
    let shop = Shop::open("[opt_out]\naction = \"drop\"\n").await;
    let (cookie, form) = shop.login().await;
    let evil = "\"<script>alert(1)</script>\"@x.example";
    let encoded = "%22%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%40x.example";
    let reason = "%3Cimg+src%3Dx+onerror%3Dalert(1)%3E%0D%0AX";
    let added = shop.post("/address/add", &cookie, &format!("form={form}&address={encoded}&reason={reason}")).await;
    assert!(added.status == 303 && !added.header("location").contains('<'), "{added:?}");
    let mut client = Client::connect(shop.relay.address).await;
    client.expect("220 ").await;
    client.expect_to("EHLO <script>alert(2)</script>", "250").await;
    client.expect_to("MAIL FROM:<\"<script>alert(3)</script>\"@y.example>", "250 ").await;
    client.expect_to(&format!("RCPT TO:<{evil}>"), "250 ").await;
    client.expect_to("DATA", "354 ").await;
    client
        .expect_to(
            "Message-ID: <<script>alert(4)</script>@z.example>\r\nSubject: <script>alert(5)</script>\r\n\r\nx\r\n.",
            "250 ",
        )
        .await;
    for path in [
        "/log".to_owned(),
        format!("/address?address={encoded}&from={encoded}"),
        format!("/log?rule={encoded}&since={encoded}"),
        "/".into(),
    ] {
        let page = shop.get(&path, &cookie).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        assert!(!page.body.contains("<script>alert") && !page.body.contains("<img"), "{path}: {}", page.body);
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"), "{page:?}");
    }
    let log = shop.get("/log", &cookie).await;
    assert!(log.body.contains("&#60;script&#62;alert(1)") && log.body.contains("alert(3)"), "{}", log.body);
    shop.relay.stop().await;
}

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let shop = Shop::open("").await;
    let (cookie, form) = shop.login().await;
    for path in [
        "/static/../../../etc/passwd",
        "/static/..%2f..%2fetc%2fpasswd",
        "/static/style.css/..",
        "/static/",
        "//etc/passwd",
        "/%2e%2e/etc/passwd",
        "/login/../held",
        "/static/%00",
        "/HELD",
        "/held/",
    ] {
        for cookie in ["", &cookie] {
            let answer = shop.get(path, cookie).await;
            assert!([303, 404].contains(&answer.status) && !answer.body.contains("root:"), "{path}: {answer:?}");
        }
    }
    // Ids that would be names of files elsewhere.
    std::fs::write(shop.relay.path("victim.toml"), "[[opt_out]]\naddress = \"v@x.example\"\n").unwrap();
    for id in ["..%2F..%2Fvictim", "%2Fetc%2Fpasswd", "..%2F..%2F..%2Fvictim", "", "x%00y"] {
        for path in ["/learned/accept", "/learned/reject", "/held/drop", "/held/retry"] {
            let answer = shop.post(path, &cookie, &format!("form={form}&id={id}")).await;
            assert_eq!(answer.status, 303, "{path} {id}: {answer:?}");
        }
    }
    assert!(shop.relay.path("victim.toml").exists());
    let learned = std::fs::read_to_string(shop.relay.path("var/learned.toml")).unwrap_or_default();
    assert!(!learned.contains("v@x.example"));
    for next in ["https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2F%5Cevil.example", "javascript%3Aalert(1)"] {
        let answer = shop.post("/login", "", &format!("name=anna&password=a+long+secret&next={next}")).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{next}");
    }
    shop.relay.stop().await;
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_the_page_goes_on() {
    let shop = Shop::open("").await;
    let (cookie, form) = shop.login().await;
    let large = format!("form={form}&address={}", "a".repeat(100_000));
    assert_eq!(shop.post("/address/add", &cookie, &large).await.status, 413);
    let header = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    assert_eq!(raw(shop.page, header.as_bytes()).await.status, 431);
    for junk in [
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        assert!(raw(shop.page, junk.as_bytes()).await.status >= 400);
    }
    assert_eq!(shop.get("/", &cookie).await.status, 200);
    shop.relay.stop().await;
}

/// A connection from an address of this machine, on which a request is begun and not ended.
async fn half_open(page: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut tcp = socket.connect(page).await.unwrap();
    // One that is closed at once may not take it any more.
    let _ = tcp.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await;
    tcp
}

/// What comes on the rest of it; nothing where it was closed.
async fn ended(mut tcp: TcpStream, page: SocketAddr) -> String {
    let rest = format!("y\r\nHost: {page}\r\nConnection: close\r\n\r\n");
    let _ = tcp.write_all(rest.as_bytes()).await;
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut bytes)).await.expect("neither answered nor closed");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn nobody_takes_all_places() {
    let shop = Shop::open("").await;
    let mut greedy = Vec::new();
    for _ in 0..100 {
        greedy.push(half_open(shop.page, [127, 0, 0, 2]).await);
    }
    let other = ended(half_open(shop.page, [127, 0, 0, 3]).await, shop.page).await;
    assert!(other.starts_with("HTTP/1.1 200 "), "{other:?}");
    // The first ones are served, the others were closed.
    let last = greedy.split_off(99).remove(0);
    assert_eq!(ended(last, shop.page).await, "");
    let first = greedy.swap_remove(0);
    assert!(ended(first, shop.page).await.starts_with("HTTP/1.1 200 "));
    // Who has gone makes room for the next, as soon as the relay has noticed.
    let next = async { while ended(half_open(shop.page, [127, 0, 0, 2]).await, shop.page).await.is_empty() {} };
    timeout(PATIENCE, next).await.expect("no room again");
    drop(greedy);
    shop.relay.stop().await;
}

#[tokio::test]
async fn in_read_only_mode_everything_is_seen_and_nothing_done() {
    let shop = Shop::open("read_only = true\n").await;
    let (cookie, form) = shop.login().await;
    for (method, path) in PAGES.iter().filter(|(method, path)| *method != "GET" && *path != "/logout") {
        let answer = ask(
            shop.page,
            method,
            path,
            &[FORM, ("Cookie", &cookie)],
            &format!("form={form}&address=new%40x.example&reason=x&id=all"),
        )
        .await;
        assert!(answer.status == 403 && answer.body.contains("read-only"), "{method} {path}: {answer:?}");
    }
    for (_, path) in PAGES.iter().filter(|(method, path)| *method == "GET" && *path != "/nothing") {
        let answer = shop.get(path, &cookie).await;
        let forms = answer.body.matches("<form method=\"post\"").count();
        assert_eq!((answer.status, forms), (200, 1), "{path}: only the way out is a form");
    }
    assert!(!shop.list().contains("new@x.example"));
    assert_eq!(shop.post("/logout", &cookie, &format!("form={form}")).await.status, 303);
    assert_eq!(shop.get("/", &cookie).await.status, 303);
    shop.relay.stop().await;
}

#[tokio::test]
async fn who_is_taken_out_of_the_users_is_out_at_once() {
    let shop = Shop::open("").await;
    let (cookie, _) = shop.login().await;
    users::remove(&shop.relay.path("admins.toml"), "anna").unwrap();
    std::fs::write(shop.relay.path("admins.toml"), "# nobody\n").unwrap();
    shop.relay.control.reload();
    let mut status = 200;
    for _ in 0..200 {
        status = shop.get("/", &cookie).await.status;
        if status == 303 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status, 303);
    let login = shop.post("/login", "", "name=anna&password=a+long+secret").await;
    assert_eq!((login.status, login.header("set-cookie")), (401, ""));
    shop.relay.stop().await;
}

#[tokio::test]
async fn without_a_record_nothing_is_done() {
    let shop = Shop::open("").await;
    let (cookie, form) = shop.login().await;
    let log = shop.relay.path("var/log/actions.jsonl");
    std::fs::rename(&log, shop.relay.path("var/log/before.jsonl")).unwrap();
    std::fs::create_dir(&log).unwrap();
    shop.relay.control.reload();
    let mut told = String::new();
    for _ in 0..200 {
        shop.post("/address/remove", &cookie, &format!("form={form}&address=out%40x.example&reason=x")).await;
        told = shop.get("/address?address=out%40x.example", &cookie).await.body;
        if told.contains("actions.jsonl cannot be written") {
            break;
        }
        std::fs::write(shop.relay.path("blacklist.toml"), "addresses = [\"out@x.example\"]\n").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(told.contains("actions.jsonl cannot be written"), "{told}");
    assert!(shop.list().contains("out@x.example"));
    assert_eq!(shop.post("/login", "", "name=anna&password=a+long+secret").await.status, 503);
    shop.relay.stop().await;
}
