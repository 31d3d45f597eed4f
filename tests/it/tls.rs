//! Encryption and login on the way out: what cannot be verified gets no mail, and the password goes to nobody else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use optout_relay::mail::{Address, Client, Envelope, Id, Mail, Message, ReversePath, Wish};
use optout_relay::optout::{Context, OptOutList, Policy, Title, Verdict, judge};
use optout_relay::upstream::{self, Load, Secret, Security, Sent, Settings, To, Trust, Upstream, connector};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ALL_VERSIONS, ServerConfig, SupportedProtocolVersion};

use crate::host::{Act, Host, MODERN, Script, Stage, Tls, say};
use crate::process::{Shop, told};
use crate::rig::{self, Logs, PATIENCE, Plan, Relay};

pub const PASSWORD: &str = "geheim-7391";

/// A CA of the test's own, in a file.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = Self { issuer, folder: tempfile::tempdir().unwrap() };
        std::fs::write(ca.path(), ca.issuer.pem()).unwrap();
        std::fs::write(ca.folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        ca
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// TLS of a host that has a certificate for this name.
    pub fn host(&self, name: &str) -> TlsAcceptor {
        self.host_with(name, |_| ())
    }

    /// With a certificate that is to be a little different.
    fn host_with(&self, name: &str, change: fn(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, change).signed_by(&key, &self.issuer).unwrap();
        acceptor(ALL_VERSIONS, &certificate, &key)
    }

    pub fn config(&self, more: &str) -> String {
        format!("[upstream]\nca = \"{}\"\n{more}", self.path().display())
    }

    pub fn login(&self) -> String {
        format!("user = \"seller\"\npassword = {{ file = \"{}\" }}\n", self.folder.path().join("password").display())
    }
}

async fn one_mail(config: &str, upstream: &str) -> String {
    let relay = Relay::start(Plan { config, list: "", upstream }).await;
    let heard = relay.client().await.mail("shop@example.com", &["in@example.com"], "x").await;
    assert!(relay.stop().await);
    heard
}

fn params(name: &str, change: fn(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut params);
    params
}

/// A certificate that is its own authority.
fn self_signed(name: &str, change: fn(&mut CertificateParams)) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    acceptor(ALL_VERSIONS, &params(name, change).self_signed(&key).unwrap(), &key)
}

fn acceptor(versions: &[&'static SupportedProtocolVersion], certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let key = ring::sign::any_supported_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    // Shown without a look at whether they belong together: whoever stands in the way does the same.
    let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    TlsAcceptor::from(Arc::new(config))
}

/// A relay demands STARTTLS of other machines only, and there are none here: so this goes to the seam itself.
pub async fn over_starttls(ca: &Ca, port: u16) -> String {
    over(Security::StartTls(connector(Trust::Ca(&ca.path())).unwrap()), "localhost", port).await
}

pub async fn over(security: Security, host: &str, port: u16) -> String {
    let upstream = Upstream::Host(Box::new(upstream::Host::new(Settings {
        host: host.into(),
        port,
        security,
        secret: Some(Secret::new("seller".into(), PASSWORD.into())),
        hostname: "relay.test".into(),
        max_connections: 1,
        idle: PATIENCE,
        connect_timeout: PATIENCE,
        timeout: Duration::from_secs(3),
        data_timeout: PATIENCE,
    })));
    let van = match upstream.open(false).await {
        Ok(van) => van,
        Err(status) => return status.to_string(),
    };
    let (list, policy) = (OptOutList::default(), Policy::default());
    let context =
        Context { sender: &ReversePath::Null, now: Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy, orders: &[] };
    let recipient = Address::parse("in@example.com").unwrap();
    let Verdict::Clear(permit) = judge(&list, &recipient, &context) else { panic!("an empty list clears everybody") };
    let client = Client { helo: "".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
    let (id, sender, recipients) = (Id::new(1, 1), ReversePath::Null, vec![recipient.clone().into()]);
    let envelope = Envelope { id, client, sender, recipients, eight_bit: false, smtputf8: false, ret: None, envid: None };
    let mail = Mail::new(envelope, "".into(), Message::from_wire("x\r\n".into()).unwrap());
    let sent = van.send(&[To { permit, wish: &Wish::default() }], &Load::new(&mail), &|| true).await;
    upstream.close().await;
    let Sent::Done(outcomes) = sent else { panic!("a fresh connection is not stale") };
    outcomes[0].status().to_string()
}

/// Everything that can be wrong with a certificate, by both ways to TLS: nothing secret is said, and the log tells in plain
/// words what is wrong and what to do.
#[tokio::test]
async fn a_certificate_that_proves_nothing_ends_the_attempt_and_is_told_in_plain_words() {
    let (ours, other) = (Ca::new(), Ca::new());
    for (name, host, shown, words, hint) in [
        (
            "expired",
            "localhost",
            ours.host_with("localhost", |params| {
                (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 2, 3));
            }),
            "its certificate has expired on 2021-02-03",
            "the clock of this machine",
        ),
        (
            "not valid yet",
            "localhost",
            ours.host_with("localhost", |params| params.not_before = date_time_ymd(2999, 4, 5)),
            "its certificate is not valid before 2999-04-05",
            "the clock of this machine",
        ),
        (
            "another's name",
            "localhost",
            ours.host("other.example"),
            "its certificate is for other.example, not for localhost",
            "the host's name in `upstream.url`",
        ),
        (
            "a name, and an address is asked for",
            "127.0.0.1",
            ours.host("localhost"),
            "its certificate is for localhost, not for 127.0.0.1",
            "the host's name in `upstream.url`",
        ),
        (
            "another address",
            "127.0.0.1",
            ours.host("127.0.0.2"),
            "its certificate is for 127.0.0.2, not for 127.0.0.1",
            "the host's name in `upstream.url`",
        ),
        (
            "another's CA",
            "localhost",
            other.host("localhost"),
            "the signature on its certificate, or the host's own, is wrong",
            "set `upstream.ca`",
        ),
        (
            "self-signed",
            "localhost",
            self_signed("localhost", |params| params.distinguished_name.push(DnType::CommonName, "mail")),
            "nobody who is trusted here has signed its certificate",
            "set `upstream.ca`",
        ),
        (
            "self-signed, as an authority",
            "localhost",
            self_signed("localhost", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "its certificate is that of an authority, not of a host",
            "set `upstream.ca`",
        ),
        (
            "for another use",
            "localhost",
            ours.host_with("localhost", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "its certificate is not one for servers",
            "for TLS servers",
        ),
        (
            "without its key",
            "localhost",
            {
                let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
                acceptor(ALL_VERSIONS, &params("localhost", |_| ()).signed_by(&key, &ours.issuer).unwrap(), &stranger)
            },
            "the signature on its certificate, or the host's own, is wrong",
            "set `upstream.ca`",
        ),
    ] {
        for (way, tls) in [("TLS", Tls::FirstByte(shown.clone())), ("STARTTLS", Tls::Upgraded(shown.clone()))] {
            let logs = Logs::watch();
            let connector = connector(Trust::Ca(&ours.path())).unwrap();
            let security = if way == "TLS" { Security::Tls(connector) } else { Security::StartTls(connector) };
            let there = Host::start(Script::new(&["AUTH PLAIN"]).tls(tls)).await;
            let heard = over(security, host, there.port).await;
            assert_eq!(heard, "451 4.4.1 the mail host cannot be used now (TLS)", "{name}, {way}");
            assert_eq!(logs.lines(&["ERROR", "mail host, TLS: ", words]).len(), 1, "{name}, {way}: {:?}", logs.lines(&[]));
            assert_eq!(logs.lines(&["hint: ", hint]).len(), 1, "{name}, {way}: {:?}", logs.lines(&[]));
            let said = there.seen().commands;
            assert!(said.iter().all(|command| command.starts_with("EHLO") || command == "STARTTLS"), "{name}: {said:?}");
            assert!(way == "STARTTLS" || said.is_empty(), "{name}: {said:?}");
        }
    }
}

/// What is no TLS, or none of today.
#[tokio::test]
async fn a_host_without_tls_that_is_safe_is_told_in_plain_words() {
    let ca = Ca::new();
    for (act, words, hint) in [
        (say("220 host.test ESMTP"), "the host does not speak TLS here", "smtp:// begins it by STARTTLS"),
        (say("HTTP/1.1 400 Bad Request"), "the host does not speak TLS here", "smtp:// begins it by STARTTLS"),
        // The alerts of one that knows no TLS after 1.1, and of one with old ciphers only.
        (Act::Say(b"\x15\x03\x01\x00\x02\x02\x46"), "the host speaks no TLS that is safe", "TLS 1.2 and 1.3"),
        (Act::Say(b"\x15\x03\x03\x00\x02\x02\x28"), "the host speaks no TLS that is safe", "TLS 1.2 and 1.3"),
        (Act::Cut, "the host has hung up", "smtp:// begins it by STARTTLS"),
        (Act::Silence, "took too long", ""),
    ] {
        let logs = Logs::watch();
        let host = Host::start(Script::new(&["AUTH PLAIN"]).at(Stage::Greeting, [act])).await;
        let heard = over(Security::Tls(connector(Trust::Ca(&ca.path())).unwrap()), "localhost", host.port).await;
        assert_eq!(heard, "451 4.4.1 the mail host cannot be used now (TLS)", "{act:?}");
        assert_eq!(logs.lines(&["ERROR", "mail host, TLS: ", words]).len(), 1, "{act:?}: {:?}", logs.lines(&[]));
        assert_eq!(logs.lines(&["hint: ", hint]).len(), usize::from(!hint.is_empty()), "{act:?}: {:?}", logs.lines(&[]));
        assert!(host.seen().commands.iter().all(|command| !command.contains("AUTH")), "{:?}", host.seen());
    }
}

#[tokio::test]
async fn both_versions_of_tls_that_are_safe_are_spoken() {
    let ca = Ca::new();
    for version in [&TLS12, &TLS13] {
        let key = KeyPair::generate().unwrap();
        let certificate = params("localhost", |_| ()).signed_by(&key, &ca.issuer).unwrap();
        let host = Host::start(Script::new(MODERN).tls(Tls::FirstByte(acceptor(&[version], &certificate, &key)))).await;
        let heard = one_mail(&ca.config(""), &format!("smtps://localhost:{}", host.port)).await;
        assert!(heard.starts_with("250 2.0.0 delivered"), "{version:?}: {heard}");
    }
}

/// `upstream.tls_verify = false`: any certificate will do, but none whose key the host does not have.
#[tokio::test]
async fn without_verification_any_certificate_will_do_if_the_host_has_its_key() {
    let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let old: fn(&mut CertificateParams) = |params| params.not_after = date_time_ymd(2021, 2, 3);
    let certificate = params("other.example", old).self_signed(&key).unwrap();
    for version in [&TLS12, &TLS13] {
        for (has_key, key) in [(true, &key), (false, &stranger)] {
            let host = Host::start(Script::new(MODERN).tls(Tls::FirstByte(acceptor(&[version], &certificate, key)))).await;
            let config = "[upstream]\ntls_verify = false\ntimeout = \"3s\"\n";
            let heard = one_mail(config, &format!("smtps://localhost:{}", host.port)).await;
            let hears = if has_key { "250 2.0.0 delivered" } else { "250 2.0.0 held" };
            assert!(heard.starts_with(hears), "{version:?}, {has_key}: {heard}");
        }
    }
}

/// Where `upstream.ca` is not set the system's roots decide, and without any the relay does not start.
#[tokio::test]
async fn the_systems_roots_are_asked_where_no_ca_is_named() {
    let (ours, other) = (Ca::new(), Ca::new());
    for (roots, hears) in [(&ours, "250 2.0.0 delivered"), (&other, "250 2.0.0 held")] {
        let host = Host::start(Script::new(MODERN).tls(Tls::FirstByte(ours.host("localhost")))).await;
        let shop = Shop::new("", "");
        let mut relay = shop.serve_to_with(&format!("smtps://localhost:{}", host.port), "SSL_CERT_FILE", &roots.path());
        let mut client = rig::Client::connect(relay.address).await;
        client.expect("220 ").await;
        let heard = client.mail("shop@example.com", &["in@example.com"], "x").await;
        assert!(heard.starts_with(hears), "{heard}");
        drop(client);
        relay.stop();
    }
    let shop = Shop::new("[upstream]\nurl = \"smtps://localhost\"\n", "");
    std::fs::write(shop.path("none.pem"), "").unwrap();
    let mut serve = shop.command(&["serve"]);
    let (code, _, said) = told(serve.env("SSL_CERT_FILE", shop.path("none.pem")).env_remove("SSL_CERT_DIR").output().unwrap());
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("find the system's root certificates: "), "{said}");
    assert!(said.contains("\nhint: install the package `ca-certificates`, or set `upstream.ca`"), "{said}");
}

/// Said at each start, and by `check`; not where nothing is encrypted anyway.
#[test]
fn a_host_that_need_not_prove_itself_is_warned_of() {
    const WARNED: &str = "upstream.tls_verify is false: the mail host need not prove who it is";
    for (url, verify, warned) in [
        ("smtps://mail.example.com", false, 1),
        ("smtp://mail.example.com", false, 1),
        ("smtps://mail.example.com", true, 0),
        ("smtp://localhost", false, 0),
        ("file:outbox", false, 0),
    ] {
        let shop = Shop::new(&format!("[upstream]\nurl = \"{url}\"\ntls_verify = {verify}\n"), "");
        for _ in 0..2 {
            let mut relay = shop.serve_to(url);
            relay.stop();
            assert_eq!(relay.count(&format!(" WARN {WARNED}")), warned, "{url} {verify}: {:?}", relay.said);
            assert_eq!(relay.count("hint: set upstream.ca to "), warned, "{url} {verify}: {:?}", relay.said);
        }
        let (code, out, _) = shop.run(&["check"]);
        assert_eq!((code, out.matches(WARNED).count()), (0, warned), "{url} {verify}: {out}");
    }
}

#[tokio::test]
async fn only_a_host_that_proves_its_name_gets_mail() {
    let (ours, other) = (Ca::new(), Ca::new());
    for (name, scheme, host, tls, taken) in [
        ("TLS, by address", "smtps", "127.0.0.1", Tls::FirstByte(ours.host("127.0.0.1")), true),
        ("TLS, by name", "smtps", "localhost", Tls::FirstByte(ours.host("localhost")), true),
        ("TLS, another's name", "smtps", "localhost", Tls::FirstByte(ours.host("other.example")), false),
        ("TLS, another's CA", "smtps", "localhost", Tls::FirstByte(other.host("localhost")), false),
        ("TLS, none there", "smtps", "localhost", Tls::Never, false),
    ] {
        let host_there = Host::start(Script::new(MODERN).tls(tls)).await;
        // A host that waits for TLS says nothing to one that waits for a greeting, and the other way round.
        let config = ours.config("timeout = \"3s\"\n");
        let heard = one_mail(&config, &format!("{scheme}://{host}:{}", host_there.port)).await;
        let hears = if taken { "250 2.0.0 delivered" } else { "250 2.0.0 held" };
        assert!(heard.starts_with(hears), "{name}: {heard}");
        let seen = host_there.seen();
        assert_eq!(seen.messages.len(), usize::from(taken), "{name}");
        let mails = seen.commands.iter().filter(|command| command.starts_with("MAIL")).count();
        assert_eq!(mails, usize::from(taken), "{name}: {:?}", seen.commands);
    }
}

#[tokio::test]
async fn starttls_is_demanded_and_verified() {
    let (ours, other) = (Ca::new(), Ca::new());
    for (name, tls, hears) in [
        ("as it should be", Tls::Upgraded(ours.host("localhost")), "250 2.0.0"),
        ("another's name", Tls::Upgraded(ours.host("other.example")), "451 4.4.1"),
        ("another's CA", Tls::Upgraded(other.host("localhost")), "451 4.4.1"),
        ("not offered", Tls::Never, "451 4.4.1"),
    ] {
        let host = Host::start(Script::new(&["PIPELINING", "AUTH PLAIN"]).tls(tls)).await;
        let heard = over_starttls(&ours, host.port).await;
        assert!(heard.starts_with(hears), "{name}: {heard}");
        let seen = host.seen();
        assert_eq!(seen.messages.len(), usize::from(hears.starts_with('2')), "{name}");
        let auth = seen.commands.iter().any(|command| command.starts_with("AUTH"));
        assert_eq!(auth, hears.starts_with('2'), "{name}: {:?}", seen.commands);
    }
}

/// STARTTLS that is cut out, answered by somebody else, or followed by what was not asked for ends the attempt before
/// anything secret is said, and the log tells at which step.
#[tokio::test]
async fn a_starttls_that_somebody_meddles_with_ends_the_attempt() {
    let ca = Ca::new();
    for (stage, act, words) in [
        (Stage::Greeting, say("554 5.7.1 go away"), "the host says: 554 5.7.1 go away"),
        (Stage::Greeting, say("hello"), "the host says: hello"),
        (Stage::Greeting, Act::Say(b"220 host.test\r\n250-host.test\r\n250 STARTTLS\r\n"), "before it was its turn"),
        (Stage::Greeting, Act::Cut, "the host has hung up"),
        (Stage::Greeting, Act::Silence, "took too long"),
        // Cut out by whoever stands in the way, or written over so that the length stays.
        (Stage::Ehlo, Act::Say(b"250-host.test\r\n250 AUTH PLAIN\r\n"), "the host does not offer it"),
        (Stage::Ehlo, Act::Say(b"250-host.test\r\n250-XXXXXXXA\r\n250 AUTH PLAIN\r\n"), "the host does not offer it"),
        (Stage::Ehlo, Act::Say(b"250 STARTTLS\r\n"), "the host does not offer it"),
        (Stage::Ehlo, Act::Say(b"250-host.test\r\n250 STARTTLS\r\n220 go\r\n"), "before it was its turn"),
        (Stage::Ehlo, say("502 5.5.1 no"), "the host says: 502 5.5.1 no"),
        (Stage::Ehlo, say("2500 what"), "the host says: 2500 what"),
        (Stage::Ehlo, Act::Endless(b"250-and another thing\r\n"), "the reply does not end"),
        (Stage::Ehlo, Act::Endless(b"x"), "the reply does not end"),
        (Stage::StartTls, Act::Say(b"220 go\r\n250 injected\r\n"), "before it was its turn"),
        (Stage::StartTls, Act::Say(b"220 go\r\n250-host.test\r\n250 AUTH PLAIN\r\n235 in\r\n"), "before it was its turn"),
        (Stage::StartTls, Act::Say(b"220 go\r\n\x16"), ""),
        (Stage::StartTls, Act::Say(b"220-go\r\n220 \xff\x1b[31m\r\n\n"), "before it was its turn"),
        (Stage::StartTls, say("454 4.7.0 not now"), "the host says: 454 4.7.0 not now"),
        (Stage::StartTls, say("554 5.7.0 no"), "the host says: 554 5.7.0 no"),
        (Stage::StartTls, say("501 5.5.4 \x1b[31mred"), "the host says: 501 5.5.4 ?[31mred"),
        (Stage::StartTls, say("250 2.0.0 fine"), "the host says: 250 2.0.0 fine"),
        (Stage::StartTls, say("hello"), "the host says: hello"),
        (Stage::StartTls, Act::Cut, "the host has hung up"),
        (Stage::StartTls, Act::Silence, "took too long"),
    ] {
        let logs = Logs::watch();
        let script = Script::new(&["AUTH PLAIN"]).tls(Tls::Upgraded(ca.host("localhost"))).at(stage, [act]);
        let host = Host::start(script).await;
        let heard = over_starttls(&ca, host.port).await;
        assert!(heard.starts_with("451 4.4.1"), "{stage:?} {act:?}: {heard}");
        let said = host.seen().commands;
        let harmless = |command: &String| command.starts_with("EHLO") || command == "STARTTLS" && stage == Stage::StartTls;
        assert!(said.iter().all(harmless), "{stage:?} {act:?}: {said:?}");
        assert_eq!(logs.lines(&["ERROR", "mail host, ", words]).len(), 1, "{stage:?} {act:?}: {:?}", logs.lines(&[]));
    }
}

/// `AUTH` as the host offers it, and the password in nothing that people or tools read.
#[tokio::test]
async fn the_login_is_the_hosts_choice_and_the_password_is_told_to_nobody_else() {
    let ca = Ca::new();
    let logs = Logs::watch();
    let plain = "AUTH PLAIN AHNlbGxlcgBnZWhlaW0tNzM5MQ==";
    for (offer, acts, said, hears) in [
        (&["AUTH PLAIN LOGIN"][..], &[][..], Some(plain), "250 2.0.0 delivered"),
        (&["auth=plain"], &[], Some(plain), "250 2.0.0 delivered"),
        (&["AUTH LOGIN"], &[], Some("AUTH LOGIN"), "250 2.0.0 delivered"),
        // It is our configuration and not the mail: deferred, whatever the host says.
        (&["AUTH PLAIN"], &[say("535 5.7.8 wrong password geheim-no")], Some(plain), "250 2.0.0 held"),
        (&["AUTH LOGIN"], &[say("454 4.7.0 later")], Some("AUTH LOGIN"), "250 2.0.0 held"),
        (&["AUTH PLAIN"], &[say("hello")], Some(plain), "250 2.0.0 held"),
        (&["AUTH PLAIN"], &[Act::Cut], Some(plain), "250 2.0.0 held"),
        (&["AUTH PLAIN"], &[say("334 ")], Some(plain), "250 2.0.0 held"),
        (&["AUTH CRAM-MD5"], &[], None, "250 2.0.0 held"),
        (&[], &[], None, "250 2.0.0 held"),
    ] {
        let script = Script::new(offer).tls(Tls::FirstByte(ca.host("localhost"))).at(Stage::Auth, acts.iter().copied());
        let host = Host::start(script).await;
        let config = ca.config(&format!("timeout = \"3s\"\n{}", ca.login()));
        let heard = one_mail(&config, &format!("smtps://localhost:{}", host.port)).await;
        assert!(heard.starts_with(hears), "{offer:?} {acts:?}: {heard}");
        let seen = host.seen();
        let auth = seen.commands.iter().find(|command| command.starts_with("AUTH"));
        assert_eq!(auth.map(String::as_str), said, "{offer:?}");
        assert_eq!(seen.messages.len(), usize::from(hears.ends_with("delivered")), "{offer:?} {acts:?}");
        assert!(!heard.contains(PASSWORD), "{heard}");
    }
    assert!(!logs.lines(&["ERROR", "AUTH"]).is_empty());
    for secret in [PASSWORD, "AHNlbGxlcgBnZWhlaW0tNzM5MQ", "Z2VoZWltLTczOTE"] {
        assert_eq!(logs.lines(&[secret]), Vec::<String>::new());
    }
}
