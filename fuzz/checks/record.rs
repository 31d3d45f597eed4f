//! What lies in the spool: read or refused whatever the disk has made of it, and what is read could have come by SMTP and is
//! written again so that it reads the same. Never touches a disk.

use optout_relay::mail::{Mail, Outcome, envelope_id, original_recipient};
use optout_relay::spool::{Form, Record, single};

use super::{is_canonical, message::ends_early};

/// A record by itself, and a single file.
pub fn check(bytes: &[u8]) {
    if let Ok(record) = Record::from_json(bytes) {
        is_sound(&record);
    }
    if let Ok((mail, record)) = single(bytes.to_vec().into()) {
        is_sound(&record);
        is_sound_mail(&mail, &record);
    }
}

fn is_sound(record: &Record) {
    let again = Record::from_json(&record.to_json());
    let expected = Record { form: Form::Rests, ..record.clone() };
    assert_eq!(again.as_ref().ok(), Some(&expected), "{again:?}");
    could_have_come(record);
    assert_eq!(record.is_settled(), record.waiting().is_empty());
    let mut given_up = record.clone();
    given_up.give_up(record.age);
    assert!(given_up.is_settled());
    could_have_come(&given_up);
    let again = Record::from_json(&given_up.to_json()).unwrap();
    assert_eq!(again.outcomes, given_up.outcomes);
}

/// All that goes to the host, into a log or into a report is clean.
fn could_have_come(record: &Record) {
    let printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let envelope = &record.envelope;
    assert!(!envelope.recipients.is_empty() && envelope.recipients.len() == record.outcomes.len());
    assert!(!envelope.sender.as_str().contains(char::is_control), "{:?}", envelope.sender);
    assert!(printable(&envelope.client.helo) && envelope.client.user.as_deref().is_none_or(printable), "{:?}", envelope.client);
    assert!(envelope.envid.as_deref().is_none_or(|id| envelope_id(id).is_some()));
    for recipient in &envelope.recipients {
        assert!(!recipient.address.as_str().contains(char::is_control), "{:?}", recipient.address);
        assert!(recipient.wish.original.as_deref().is_none_or(|original| original_recipient(original).is_some()));
    }
    for status in record.outcomes.iter().flatten().map(Outcome::status) {
        assert!(printable(&status.text) && status.text.len() <= 400, "{status:?}");
    }
}

fn is_sound_mail(mail: &Mail, record: &Record) {
    assert_eq!(mail.envelope, record.envelope);
    assert_eq!((mail.len() as u64, mail.trace.len() as u64), (record.size, record.trace));
    for wire in [&mail.trace, mail.message.wire()] {
        assert!(is_canonical(wire) && !ends_early(wire), "{wire:?}");
    }
    let written = [&record.to_json(), &b"\n"[..], &mail.trace, mail.message.wire()].concat();
    let (again, _) = single(written.into()).unwrap();
    assert_eq!((&again.envelope, &again.trace, &again.message), (&mail.envelope, &mail.trace, &mail.message));
}
