//! What `doctor` asks others: the mail host, our own listeners and pages, the mailbox, each within ten seconds a step. Never sends a
//! mail, never looks at one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::layer::SubscriberExt;

use super::super::caller::{Caller, STEP, reached};
use super::here::{room, silent};
use super::{Finding, said};
use crate::admin::Problems;
use crate::config::{AdminDoor, Config, Encryption, HostRoute, Route};
use crate::daemon::{bind, is_absent_family, listen_hint, mailbox as open_mailbox, settings};
use crate::learn::imap;
use crate::upstream::{Host, Trust, connector};

/// For all steps of one thing together, however many addresses a name has.
const ALL: Duration = Duration::from_secs(60);

const START: &str = "start the relay: systemctl start optout-relay, or optout-relay serve";
const PLACE: &str = "see that the name and port of `upstream.url` are right, and that no firewall stands in the way";
const LOGIN: &str =
    "see that `upstream.user` and `upstream.password` are those that the provider gave you; many want a password for apps";

/// Where mail goes.
pub async fn upstream(config: &Config) -> Vec<Finding> {
    let check = "upstream";
    match &config.route {
        Route::Folder(path) => match room(path) {
            Ok(_) => vec![Finding::ok(check, format_args!("mail goes into the folder {}, which can be written", path.display()))],
            Err(error) => {
                let text = format_args!("the folder {}: {error}", path.display());
                vec![Finding::wrong(check, text).or_hint("let the relay's user write there, or name another folder")]
            }
        },
        Route::Host(route) => vec![host(config, route).await],
    }
}

/// The relay's own way to the host, up to the point at which mail could follow.
async fn host(config: &Config, route: &HostRoute) -> Finding {
    let check = "upstream";
    let mut settings = match settings(config, route) {
        Ok(settings) => settings,
        Err(fault) => return Finding::wrong(check, fault).or_hint("let the relay's user read it"),
    };
    for time in [&mut settings.connect_timeout, &mut settings.timeout, &mut settings.data_timeout] {
        *time = (*time).min(STEP);
    }
    let host = Host::new(settings);
    // What the relay would say of it in its log.
    let problems = Problems::default();
    let heard = tracing_subscriber::registry().with(problems.layer());
    let opened = timeout(ALL, host.open(true)).with_subscriber(heard).await;
    let name = host.name();
    let finding = match opened {
        Ok(Ok(lane)) => {
            drop(lane);
            let how = match route.encryption(config.file.upstream.tls) {
                Encryption::None => "in the clear",
                Encryption::StartTls => "encrypted by STARTTLS",
                Encryption::Tls => "encrypted",
            };
            let login = route.user.as_ref().map_or("no login is wanted".to_owned(), |user| format!("takes the login of {user}"));
            Finding::ok(check, format_args!("{name} answers, {how}; {login}"))
        }
        Ok(Err(status)) if host.refuses_login() => {
            Finding::wrong(check, format_args!("{name}: {}", said(&status.text))).or_hint(LOGIN)
        }
        Ok(Err(status)) => match problems.all().into_iter().next() {
            Some(problem) => {
                let hint = problem.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                let cause = problem.text.strip_prefix("mail host, ").unwrap_or(&problem.text);
                Finding::wrong(check, format_args!("{name}: {cause}{hint}")).or_hint(PLACE)
            }
            None => Finding::wrong(check, format_args!("{name}: {}", said(&status.text))).or_hint(PLACE),
        },
        Err(_) => Finding::wrong(check, format_args!("{name}: no answer within {} s", ALL.as_secs())).or_hint(PLACE),
    };
    host.close().await;
    finding
}

/// Whether the relay listens where it should.
pub async fn listeners(config: &Config) -> Vec<Finding> {
    let listen = &config.file.listen;
    let all = [("listen.smtp", &listen.smtp, false), ("listen.submissions", &listen.submissions, true)];
    let mut found = Vec::new();
    for (key, addresses, encrypted) in all {
        for address in addresses {
            found.push(listener(key, *address, encrypted, addresses.len() > 1).await);
        }
    }
    found
}

async fn listener(key: &str, address: SocketAddr, encrypted: bool, has_others: bool) -> Finding {
    let check = format!("{key} {address}");
    if address.port() == 0 {
        return Finding::ok(check, "the system chooses the port at each start, so nobody can be asked there");
    }
    let refused = match Caller::connect(address, encrypted).await {
        Ok((caller, greeting)) => {
            let text = said(&greeting.to_string());
            caller.quit().await;
            return match greeting.code {
                _ if greeting.greets_as_relay() => Finding::ok(check, format_args!("the relay answers: {text}")),
                421 => Finding::warning(
                    check,
                    format_args!("the relay is busy: {text}"),
                    "see its log; listen.max_sessions is the limit",
                ),
                554 => Finding::warning(
                    check,
                    format_args!("whoever answers there does not want this machine: {text}"),
                    "if it is the relay, name this machine's network in listen.clients",
                ),
                _ => Finding::wrong(check, format_args!("another program answers there: {text}"))
                    .or_hint("end that program, or change the address"),
            };
        }
        Err(error) => error,
    };
    if refused.kind() == io::ErrorKind::ConnectionRefused || is_absent_family(&refused, address) {
        return nobody(check, address, has_others);
    }
    let text = format_args!("connect: {}", said(&refused.to_string()));
    Finding::wrong(check, text)
        .or_hint("if it is the relay that does not answer, its log tells why; a restart does no harm to held mail")
}

/// Nobody listens; could we?
fn nobody(check: String, address: SocketAddr, has_others: bool) -> Finding {
    match bind(address) {
        Ok(_) => Finding::wrong(check, "nobody listens there, and the relay could").or_hint(START),
        Err(error) if has_others && is_absent_family(&error, address) => {
            Finding::ok(check, format_args!("this machine has no such addresses ({error}), so the relay passes it over"))
        }
        Err(error) => Finding::wrong(check, format_args!("nobody answers there, and it cannot be listened on: {error}"))
            .or_hint(listen_hint(&error)),
    }
}

/// The ways by which notices come in.
pub async fn mailbox(config: &Arc<Config>) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(folder) = &config.folder {
        let check = "learn.folder";
        let hint = "make the folder, and let the relay's user read and write in it";
        found.push(match room(folder) {
            Ok(true) => Finding::ok(check, format_args!("{} can be read and written", folder.display())),
            Ok(false) => Finding::wrong(check, format_args!("{} is not there", folder.display())).or_hint(hint),
            Err(error) => Finding::wrong(check, format_args!("{}: {error}", folder.display())).or_hint(hint),
        });
    }
    if config.learning.imap.is_some() {
        found.push(logged_in(config).await);
    }
    found.extend(silent(config));
    found
}

async fn logged_in(config: &Arc<Config>) -> Finding {
    let check = "learn.imap";
    let mailbox = match open_mailbox(config) {
        Ok(Some(mailbox)) => mailbox,
        Ok(None) => return Finding::ok(check, "none is named"),
        Err(fault) => return Finding::wrong(check, fault).or_hint("let the relay's user read it"),
    };
    let name = format!("{} at {}:{}", mailbox.user, mailbox.host, mailbox.port);
    match timeout(STEP, imap::look_in(&mailbox)).await {
        Ok(Ok(())) => Finding::ok(check, format_args!("{name}: logged in, and {} is there", mailbox.folder)),
        Ok(Err(trouble)) => {
            let hint = trouble.hint.unwrap_or("see that learn.imap.url names the server and its port");
            Finding::wrong(check, format_args!("{name}: {}", trouble.cause)).or_hint(hint)
        }
        Err(_) => Finding::wrong(check, format_args!("{name}: not logged in within {} s", STEP.as_secs()))
            .or_hint("see that learn.imap.url names the server and its port"),
    }
}

/// Whether the admin page answers.
pub async fn admin_pages(config: &Config) -> Vec<Finding> {
    let Some(page) = &config.admin else { return Vec::new() };
    let mut found = Vec::new();
    for address in &page.listen {
        found.push(admin_page(config, page, *address).await);
    }
    found
}

async fn admin_page(config: &Config, page: &AdminDoor, address: SocketAddr) -> Finding {
    let check = format!("admin.listen {address}");
    if address.port() == 0 {
        return Finding::ok(check, "the system chooses the port at each start, so nobody can be asked there");
    }
    let encrypted = config.certificate.is_some() && !address.ip().to_canonical().is_loopback();
    let answer = timeout(STEP, health(address, encrypted)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match answer {
        Ok(status) if status.starts_with("HTTP/1.1 200 ") => Finding::ok(check, "the page answers that it is well"),
        Ok(status) => {
            Finding::wrong(check, format_args!("whoever answers there does not say that it is well: {}", said(&status)))
                .or_hint("another program may have the address; change `admin.listen`")
        }
        Err(error) if page.listen.len() > 1 && is_absent_family(&error, address) => {
            Finding::ok(check, format_args!("this machine has no such addresses ({error}), so the relay passes it over"))
        }
        Err(error) => Finding::wrong(check, format_args!("the page does not answer: {error}")).or_hint(START),
    }
}

/// The first line of the answer.
async fn health(address: SocketAddr, encrypted: bool) -> io::Result<String> {
    let place = reached(address);
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
    let mut tcp = TcpStream::connect(place).await?;
    let mut answer = Vec::new();
    if encrypted {
        let connector = connector(Trust::Anybody).map_err(io::Error::other)?;
        let mut tls = connector.connect(ServerName::from(place.ip()), tcp).await?;
        tls.write_all(request.as_bytes()).await?;
        tls.take(4096).read_to_end(&mut answer).await?;
    } else {
        tcp.write_all(request.as_bytes()).await?;
        tcp.take(4096).read_to_end(&mut answer).await?;
    }
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
