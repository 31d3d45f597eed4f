//! What the disk knows of a held message besides its bytes: one small JSON text, versioned. Never touches a file, never
//! trusts what it reads: an address that could not have come by RCPT makes the whole record unreadable.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mail::{
    Address, Client, Enhanced, Envelope, Id, Mail, Notify, Outcome, Recipient, Ret, ReversePath, Stage, Status, Wish, clean,
    envelope_id, original_recipient,
};

/// The only version so far.
const VERSION: u32 = 1;

/// A held message: whom it goes to, what came of it so far, when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// With all recipients, also those that are settled.
    pub envelope: Envelope,
    /// When the tool handed it in.
    pub arrived: Timestamp,
    /// For each recipient what came of the last attempt, `None` before the first.
    pub outcomes: Vec<Option<Outcome>>,
    /// Attempts that reached the host.
    pub attempts: u32,
    /// How long it had waited when the record was written.
    pub age: Duration,
    /// The wall clock at that moment.
    pub written: Timestamp,
    /// When it is tried again.
    pub next: Timestamp,
    /// How it lies on disk. Not in the text: the name of the file tells it.
    pub form: Form,
    /// The sender was told that it is late.
    pub delay_told: bool,
    /// Bytes of the message's file.
    pub size: u64,
    /// So many of them are our own trace field, in front.
    pub trace: u64,
}

/// How a message lies on disk, and whether an attempt is under way, or was when the relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// A pair that waits.
    Rests,
    /// A pair that is under way.
    Out,
    /// A single file that is under way for the first time.
    New,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the record cannot be read: {0}")]
pub struct Unreadable(String);

impl Record {
    /// Of a message that came just now, and that nobody has tried to deliver yet.
    pub fn of(mail: &Mail, arrived: Timestamp) -> Self {
        Self {
            envelope: mail.envelope.clone(),
            outcomes: vec![None; mail.envelope.recipients.len()],
            arrived,
            attempts: 0,
            age: Duration::ZERO,
            written: arrived,
            next: arrived,
            form: Form::Rests,
            delay_told: false,
            size: mail.len() as u64,
            trace: mail.trace.len() as u64,
        }
    }

    /// It is a report, or was sent as one: nobody is told when it fails (RFC 5321 4.5.5).
    pub fn is_report(&self) -> bool {
        self.envelope.sender == ReversePath::Null
    }

    /// An attempt is under way, or was when the relay ended.
    pub fn in_flight(&self) -> bool {
        self.form != Form::Rests
    }

    /// The places of those who still wait.
    pub fn waiting(&self) -> Vec<usize> {
        self.outcomes.iter().enumerate().filter(|(_, outcome)| waits(outcome)).map(|(place, _)| place).collect()
    }

    /// Nobody waits any more.
    pub fn is_settled(&self) -> bool {
        !self.outcomes.iter().any(waits)
    }

    /// Notes what an attempt came to.
    pub fn note(&mut self, outcomes: impl IntoIterator<Item = (usize, Outcome)>) {
        for (place, outcome) in outcomes {
            self.outcomes[place] = Some(outcome);
        }
    }

    /// Whoever waits, waits no more: refused, with what was said last.
    pub fn give_up(&mut self, after: Duration) {
        for outcome in &mut self.outcomes {
            let last = match outcome {
                None => "never tried".to_owned(),
                Some(Outcome::Deferred(status)) => status.text.clone(),
                Some(_) => continue,
            };
            let text = clean(&format!("given up after {}; last: {last}", readable(after)), 400);
            // RFC 3463 3.5: delivery time expired.
            *outcome = Some(Outcome::Refused(Status {
                code: 554,
                enhanced: Enhanced(5, 4, 7),
                text,
                stage: Stage::Local,
                by_host: false,
            }));
        }
    }

    /// As a text for the disk.
    pub fn to_json(&self) -> Vec<u8> {
        let Envelope { id, client, sender, recipients, eight_bit, smtputf8, ret, envid } = &self.envelope;
        let written = Written {
            version: VERSION,
            id: id.to_string(),
            arrived: self.arrived,
            size: self.size,
            trace: self.trace,
            sender: sender.to_string(),
            recipients: recipients.iter().zip(&self.outcomes).map(|(who, outcome)| written_recipient(who, outcome)).collect(),
            attempts: self.attempts,
            waited_ms: u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX),
            written: self.written,
            next: self.next,
            delay_told: self.delay_told,
            client: client.ip,
            helo: client.helo.to_string(),
            extended: client.extended,
            encrypted: client.encrypted,
            user: client.user.as_deref().map(Into::into),
            eight_bit: *eight_bit,
            smtputf8: *smtputf8,
            ret: ret.map(|ret| ret.to_string()),
            envid: envid.clone(),
        };
        // Texts and numbers always make JSON.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) has written.
    pub fn from_json(text: &[u8]) -> Result<Self, Unreadable> {
        let wrong = |what: &str| Unreadable(what.to_owned());
        let Version { version } = serde_json::from_slice(text).map_err(|e| Unreadable(e.to_string()))?;
        if version != VERSION {
            return Err(Unreadable(format!("it is of version {version}, this relay knows {VERSION}")));
        }
        let written: Written = serde_json::from_slice(text).map_err(|e| Unreadable(e.to_string()))?;
        let sender = match written.sender.as_str() {
            "" => ReversePath::Null,
            text => ReversePath::Address(Address::parse(text).map_err(|_| wrong("the sender is no address"))?),
        };
        let (mut recipients, mut outcomes) = (Vec::new(), Vec::new());
        for recipient in written.recipients {
            let address = Address::parse(&recipient.address).map_err(|_| wrong("a recipient is no address"))?;
            let notify = recipient.notify.as_deref().map_or(Some(Notify::Unsaid), Notify::parse);
            let notify = notify.ok_or_else(|| wrong("NOTIFY has an unknown word"))?;
            let original = parameter(recipient.orcpt, |text| original_recipient(text).is_some())?;
            recipients.push(Recipient { address, wish: Wish { notify, original } });
            outcomes.push(outcome_of(recipient.state, recipient.status)?);
        }
        if recipients.is_empty() {
            return Err(wrong("there are no recipients"));
        }
        let client = Client {
            ip: written.client,
            helo: clean(&written.helo, 255).into(),
            extended: written.extended,
            encrypted: written.encrypted,
            user: written.user.map(|name| clean(&name, 255).into()),
        };
        let ret = written.ret.map(|word| Ret::parse(&word).ok_or_else(|| wrong("RET has an unknown word"))).transpose()?;
        let id = Id::parse(&written.id).ok_or_else(|| wrong("the id is none"))?;
        let (eight_bit, smtputf8, envid) =
            (written.eight_bit, written.smtputf8, parameter(written.envid, |text| envelope_id(text).is_some())?);
        Ok(Self {
            envelope: Envelope { id, client, sender, recipients, eight_bit, smtputf8, ret, envid },
            arrived: written.arrived,
            outcomes,
            attempts: written.attempts,
            age: Duration::from_millis(written.waited_ms),
            written: written.written,
            next: written.next,
            form: Form::Rests,
            delay_told: written.delay_told,
            size: written.size,
            trace: written.trace,
        })
    }
}

/// This recipient still waits.
pub fn waits(outcome: &Option<Outcome>) -> bool {
    matches!(outcome, None | Some(Outcome::Deferred(_)))
}

/// Whole days, hours or minutes, for people.
fn readable(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    match minutes {
        0..120 => format!("{minutes} minutes"),
        120..2880 => format!("{} hours", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    id: String,
    arrived: Timestamp,
    size: u64,
    trace: u64,
    sender: String,
    recipients: Vec<WrittenRecipient>,
    attempts: u32,
    waited_ms: u64,
    written: Timestamp,
    next: Timestamp,
    delay_told: bool,
    client: IpAddr,
    helo: String,
    extended: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    encrypted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    eight_bit: bool,
    smtputf8: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envid: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenRecipient {
    address: String,
    state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<WrittenStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    orcpt: Option<Box<str>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Waiting,
    Delivered,
    Refused,
    /// The sender is told.
    Suppressed,
    /// The sender is not told.
    Dropped,
}

#[derive(Serialize, Deserialize)]
struct WrittenStatus {
    code: u16,
    enhanced: (u8, u16, u16),
    text: String,
    stage: String,
    by_host: bool,
}

/// The stages by the names that they have in the record.
const STAGES: [(&str, Stage); 9] = [
    ("connect", Stage::Connect),
    ("login", Stage::Login),
    ("mail", Stage::Mail),
    ("rcpt", Stage::Recipient),
    ("data", Stage::Data),
    ("dot", Stage::Dot),
    ("unanswered", Stage::Unanswered),
    ("local", Stage::Local),
    ("opt_out", Stage::OptOut),
];

fn written_recipient(Recipient { address, wish }: &Recipient, outcome: &Option<Outcome>) -> WrittenRecipient {
    let state = match outcome {
        None | Some(Outcome::Deferred(_)) => State::Waiting,
        Some(Outcome::Delivered(_)) => State::Delivered,
        Some(Outcome::Refused(_)) => State::Refused,
        Some(Outcome::Suppressed { silent: false, .. }) => State::Suppressed,
        Some(Outcome::Suppressed { silent: true, .. }) => State::Dropped,
    };
    let status = outcome.as_ref().map(Outcome::status).map(|Status { code, enhanced, text, stage, by_host }| WrittenStatus {
        code: *code,
        enhanced: (enhanced.0, enhanced.1, enhanced.2),
        text: text.clone(),
        by_host: *by_host,
        stage: STAGES.iter().find(|(_, known)| known == stage).map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
    });
    WrittenRecipient {
        address: address.to_string(),
        state,
        status,
        notify: (wish.notify != Notify::Unsaid).then(|| wish.notify.to_string()),
        orcpt: wish.original.clone(),
    }
}

fn outcome_of(state: State, status: Option<WrittenStatus>) -> Result<Option<Outcome>, Unreadable> {
    let Some(WrittenStatus { code, enhanced, text, stage, by_host }) = status else {
        return match state {
            State::Waiting => Ok(None),
            _ => Err(Unreadable("a recipient is settled without a status".into())),
        };
    };
    let known = STAGES.iter().find(|(name, _)| *name == stage).map(|(_, stage)| *stage);
    let stage = known.ok_or_else(|| Unreadable("a status is of an unknown stage".into()))?;
    let status = Status { code, enhanced: Enhanced(enhanced.0, enhanced.1, enhanced.2), text: clean(&text, 400), stage, by_host };
    Ok(Some(match state {
        State::Waiting => Outcome::Deferred(status),
        State::Delivered => Outcome::Delivered(status),
        State::Refused => Outcome::Refused(status),
        State::Suppressed => Outcome::Suppressed { status, silent: false },
        State::Dropped => Outcome::Suppressed { status, silent: true },
    }))
}

/// A parameter is said to the host as it stands here, so it must be one.
fn parameter(text: Option<Box<str>>, is_sound: fn(&str) -> bool) -> Result<Option<Box<str>>, Unreadable> {
    match text {
        Some(text) if !is_sound(&text) => Err(Unreadable("a parameter is none".into())),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Message;

    fn record() -> Record {
        let client = Client { helo: "tool".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let when = Notify::When { success: true, failure: false, delay: true };
        let recipients = ["a@x.example", "b@x.example", "c@x.example", "d@x.example", "ü@x.example"].map(|to| Recipient {
            address: Address::parse(to).unwrap(),
            wish: Wish { notify: when, original: Some("rfc822;a+2Bb@x.example".into()) },
        });
        let envelope = Envelope {
            id: Id::new(7, 7),
            client,
            sender: ReversePath::Address(Address::parse("\"a b\"@shop.example").unwrap()),
            recipients: recipients.into(),
            eight_bit: true,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ314159".into()),
        };
        let mail = Mail::new(envelope, "".into(), Message::from_wire("x\r\n".into()).unwrap());
        let mut record = Record::of(&mail, "2026-11-24T10:00:00.25Z".parse().unwrap());
        let status = |stage, code| Status::new(stage, code, "as \"it\" was said");
        record.note([
            (0, Outcome::Delivered(status(Stage::Dot, 250))),
            (1, Outcome::Refused(Status::said(Stage::Recipient, 550, "as \"it\" was said"))),
            (2, Outcome::Deferred(status(Stage::Unanswered, 451))),
            (3, Outcome::Suppressed { status: status(Stage::OptOut, 550), silent: true }),
        ]);
        Record { attempts: 3, age: Duration::from_millis(1500), ..record }
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(Record::from_json(&record().to_json()).unwrap(), record());
        assert_eq!(record().waiting(), [2, 4]);
    }

    #[test]
    fn what_could_not_have_come_by_smtp_makes_it_unreadable() {
        let text = String::from_utf8(record().to_json()).unwrap();
        for (right, wrong) in [
            ("\"version\":1", "\"version\":2"),
            ("a@x.example", "a@x.example>\\r\\nRCPT TO:<z@x.example"),
            ("\\\"a b\\\"@shop.example", "a b@shop.example"),
            ("rfc822;a+2Bb@x.example", "rfc822;a\\r\\nDATA"),
            ("QQ314159", "QQ 314159"),
            ("SUCCESS,DELAY", "SUCCESS,PERHAPS"),
            ("HDRS", "BODY"),
            ("\"unanswered\"", "\"later\""),
            ("ü@x.example\",\"state\":\"waiting\"", "ü@x.example\",\"state\":\"refused\""),
            ("\"attempts\":3,", ""),
        ] {
            assert!(text.contains(right), "{right}");
            let changed = text.replace(right, wrong);
            assert!(Record::from_json(changed.as_bytes()).is_err(), "{changed}");
        }
        for cut in 0..text.len() {
            assert!(Record::from_json(&text.as_bytes()[..cut]).is_err());
        }
    }

    #[test]
    fn giving_up_settles_whoever_waits() {
        let mut record = record();
        record.give_up(Duration::from_secs(5 * 86_400));
        assert!(record.is_settled());
        let last = record.outcomes[2].as_ref().unwrap().status();
        assert_eq!(last.to_string(), "554 5.4.7 given up after 5 days; last: as \"it\" was said");
        assert_eq!(record.outcomes[1].as_ref().unwrap().status().code, 550);
    }
}
