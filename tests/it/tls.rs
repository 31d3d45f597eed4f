//! Encryption and login on the way out: what cannot be verified gets no mail, and the password goes to nobody else.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use optout_relay::mail::{Address, Client, Envelope, Id, Mail, Message, ReversePath, Wish};
use optout_relay::optout::{Context, OptOutList, Policy, Title, Verdict, judge};
use optout_relay::upstream::{self, Load, Secret, Security, Sent, Settings, To, Trust, Upstream, connector};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::host::{Act, Host, MODERN, Script, Stage, Tls, say};
use crate::rig::{Logs, PATIENCE, Plan, Relay};

const PASSWORD: &str = "geheim-7391";

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
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn config(&self, more: &str) -> String {
        format!("[upstream]\nca = \"{}\"\n{more}", self.path().display())
    }

    fn login(&self) -> String {
        format!("user = \"seller\"\npassword = {{ file = \"{}\" }}\n", self.folder.path().join("password").display())
    }
}

async fn one_mail(config: &str, upstream: &str) -> String {
    let relay = Relay::start(Plan { config, list: "", upstream }).await;
    let heard = relay.client().await.mail("shop@example.com", &["in@example.com"], "x").await;
    assert!(relay.stop().await);
    heard
}

/// A relay demands STARTTLS of other machines only, and there are none here: so this goes to the seam itself.
async fn over_starttls(ca: &Ca, port: u16) -> String {
    let upstream = Upstream::Host(Box::new(upstream::Host::new(Settings {
        host: "localhost".into(),
        port,
        security: Security::StartTls(connector(Trust::Ca(&ca.path())).unwrap()),
        secret: Some(Secret::new("seller".into(), PASSWORD.into())),
        hostname: "relay.test".into(),
        max_connections: 1,
        idle: PATIENCE,
        connect_timeout: PATIENCE,
        timeout: PATIENCE,
        data_timeout: PATIENCE,
    })));
    let van = match upstream.open(false).await {
        Ok(van) => van,
        Err(status) => return status.to_string(),
    };
    let (list, policy) = (OptOutList::default(), Policy::default());
    let context = Context { sender: &ReversePath::Null, now: Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy };
    let recipient = Address::parse("in@example.com").unwrap();
    let Verdict::Clear(permit) = judge(&list, &recipient, &context) else { panic!("an empty list clears everybody") };
    let client = Client { ip: [127, 0, 0, 1].into(), helo: "".into(), extended: true };
    let (id, sender, recipients) = (Id::new(1, 1), ReversePath::Null, vec![recipient.clone().into()]);
    let envelope = Envelope { id, client, sender, recipients, eight_bit: false, smtputf8: false, ret: None, envid: None };
    let mail = Mail::new(envelope, "".into(), Message::from_wire("x\r\n".into()).unwrap());
    let sent = van.send(&[To { permit, wish: &Wish::default() }], &Load::new(&mail), &|| true).await;
    upstream.close().await;
    let Sent::Done(outcomes) = sent else { panic!("a fresh connection is not stale") };
    outcomes[0].status().to_string()
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

/// What stands in the clear behind the 220, or instead of it, ends the attempt before anything secret is said.
#[tokio::test]
async fn a_starttls_that_somebody_meddles_with_ends_the_attempt() {
    let ca = Ca::new();
    for act in [
        Act::Say(b"220 go\r\n250 injected\r\n"),
        Act::Say(b"220 go\r\n250-host.test\r\n250 AUTH PLAIN\r\n235 in\r\n"),
        say("454 4.7.0 not now"),
        say("554 5.7.0 no"),
        say("250 2.0.0 fine"),
        say("hello"),
        Act::Cut,
    ] {
        let script = Script::new(&["AUTH PLAIN"]).tls(Tls::Upgraded(ca.host("localhost"))).at(Stage::StartTls, [act]);
        let host = Host::start(script).await;
        let heard = over_starttls(&ca, host.port).await;
        assert!(heard.starts_with("451 4.4.1"), "{act:?}: {heard}");
        let said = host.seen().commands;
        assert!(said.iter().all(|command| command.starts_with("EHLO") || command == "STARTTLS"), "{act:?}: {said:?}");
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
