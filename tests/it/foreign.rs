//! The whole way to a foreign SMTP host, `mailin-embedded`: what it stores is what the tool sent.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};

use mailin_embedded::response::{INTERNAL_ERROR, NO_MAILBOX, OK};
use mailin_embedded::{Handler, Response, Server, SslConfig};

use crate::rig::{Plan, Relay};

#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    sender: String,
    recipients: Vec<String>,
    content: Vec<u8>,
    messages: usize,
}

impl Handler for Mailbox {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        from.clone_into(&mut self.0.lock().unwrap().sender);
        OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if to.starts_with("nobody") {
            return NO_MAILBOX;
        }
        self.0.lock().unwrap().recipients.push(to.to_owned());
        OK
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().content.extend_from_slice(line);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.0.lock().map_or(INTERNAL_ERROR, |mut stored| {
            stored.messages += 1;
            OK
        })
    }
}

#[tokio::test]
async fn a_foreign_host_stores_what_the_tool_sent_and_nothing_for_those_who_opted_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mailbox = Mailbox::default();
    let mut server = Server::new(mailbox.clone());
    server.with_name("foreign.test").with_ssl(SslConfig::None).unwrap().with_tcp_listener(listener);
    // It serves until the process ends: it cannot be stopped.
    std::thread::spawn(move || drop(server.serve()));

    let list = "addresses = [\"out@example.com\"]\n";
    let relay = Relay::start(Plan { config: "", list, upstream: &format!("smtp://{address}") }).await;
    let mut client = relay.client().await;
    let content = "Subject: order\r\nTo: in@example.com\r\n\r\n.a dot\r\n..two\r\n\r\nend  \r\n\r\n";
    let wire = content.replace("\r\n.", "\r\n..");
    client.say("EHLO tool.test").await;
    client.say("MAIL FROM:<shop@example.com>").await;
    assert!(client.say("RCPT TO:<in@example.com>").await.starts_with("250"));
    assert!(client.say("RCPT TO:<out@example.com>").await.starts_with("550 5.7.1"));
    assert!(client.say("DATA").await.starts_with("354"));
    client.send(format!("{wire}.\r\n")).await;
    client.expect("250 2.0.0 delivered").await;
    let heard = client.mail("shop@example.com", &["nobody@example.com"], "x").await;
    assert!(heard.starts_with("550 5."), "{heard}");
    drop(client);
    assert!(relay.stop().await);

    let stored = mailbox.0.lock().unwrap();
    let text = String::from_utf8(stored.content.clone()).unwrap();
    let (received, rest) = text.split_once("+0000\r\n").unwrap();
    assert!(received.starts_with("Received: from tool.test ([127.0.0.1])\r\n\tby relay.test with ESMTP id "), "{received}");
    assert_eq!(rest, content);
    assert_eq!((stored.sender.as_str(), stored.recipients.as_slice()), ("shop@example.com", &["in@example.com".to_owned()][..]));
    assert_eq!(stored.messages, 1);
}
