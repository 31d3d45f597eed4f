//! A test mail: handed to the relay as any tool's, and told step by step. Never leaves without the judge.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;

use super::{Frame, page};
use crate::admin::changes::NotDone;
use crate::admin::gate::Signed;
use crate::admin::sessions::Session;
use crate::admin::{About, Desk};
use crate::ledger::Act;
use crate::mail::{Address, Client, Envelope, Message, Probe, Recipient, ReversePath, Wish};

#[derive(Template)]
#[template(path = "test.html")]
struct View {
    frame: Frame,
    to: String,
    from: String,
    steps: Vec<Step>,
}

struct Step {
    is_good: bool,
    words: String,
    reply: String,
}

pub async fn show(State(desk): State<Arc<Desk>>, session: Session) -> Response {
    page(&View { frame: frame(&desk, &session), to: String::new(), from: String::new(), steps: Vec::new() })
}

fn frame(desk: &Desk, session: &Session) -> Frame {
    Frame::new(desk, session, "Send a test mail", "/test")
}

pub async fn send(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    let (to, from) = (form.get("to"), form.get("from"));
    let steps = match (Address::parse(to), Address::parse(from)) {
        (Ok(to), Ok(from)) => match desk.note(&form.who, Act::TestSent, About { address: to.as_str(), ..About::default() }).await
        {
            Ok(()) => steps(&desk, &form, to, from).await,
            Err(_) => vec![Step { is_good: false, words: NotDone::Unwritten.sentence(), reply: String::new() }],
        },
        (Err(error), _) => {
            vec![Step { is_good: false, words: format!("The recipient is no address: {error}."), reply: String::new() }]
        }
        (_, Err(error)) => {
            vec![Step { is_good: false, words: format!("The sender is no address: {error}."), reply: String::new() }]
        }
    };
    page(&View { frame: frame(&desk, &form.session), to: to.to_owned(), from: from.to_owned(), steps })
}

async fn steps(desk: &Desk, form: &Signed, to: Address, from: Address) -> Vec<Step> {
    let relay = &desk.relay;
    let text = Probe {
        from: from.as_str(),
        to: to.as_str(),
        message_id: &format!("{}@{}", relay.next_id(), relay.hostname),
        time: Timestamp::now(),
        text: &format!("This is a test, sent from the admin page of optout-relay on {}.", relay.hostname),
    };
    let text = text.mail();
    let smtputf8 = !to.as_str().is_ascii() || !from.as_str().is_ascii();
    let envelope = Envelope {
        id: relay.next_id(),
        client: Client { helo: "admin-page".into(), extended: true, ..Client::new(form.who.ip) },
        sender: ReversePath::Address(from),
        recipients: Vec::new(),
        ret: None,
        envid: None,
        eight_bit: true,
        smtputf8,
    };
    let mut steps = Vec::new();
    let judged = relay.judge(&envelope, &to).await;
    let is_good = judged.is_positive();
    let words =
        if is_good { "The relay takes mail for this recipient." } else { "The relay refuses this recipient: nothing was sent." };
    steps.push(Step { is_good, words: words.into(), reply: judged.to_string() });
    if !is_good {
        return steps;
    }
    let Some(message) = Message::from_wire(Bytes::from(text)) else { return steps };
    let envelope = Envelope { recipients: vec![Recipient { address: to, wish: Wish::default() }], ..envelope };
    let id = envelope.id;
    let reply = relay.take(envelope, message).await;
    let words = if !reply.is_positive() {
        "The relay did not take the mail: nothing was sent."
    } else if relay.spool.holds(id) {
        "The mail host did not take it yet: the mail is held, and tried again."
    } else {
        "The mail was settled. The answer tells how, and the log has a line about it."
    };
    steps.push(Step { is_good: reply.is_positive(), words: words.into(), reply: reply.to_string() });
    steps
}
