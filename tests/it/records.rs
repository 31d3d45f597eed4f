//! The record of a held message as a reader of anything: whatever stands on the disk, it does not fall over, and what it
//! takes it writes again so that it reads the same.

use optout_relay::spool::Record;
use proptest::prelude::*;
use serde_json::{Value, json};

fn sound() -> Value {
    let status = |stage: &str| json!({"code": 451, "enhanced": [4, 2, 1], "text": "later", "stage": stage, "by_host": true});
    json!({
        "version": 1, "id": "6c4783kzkrbvese95", "arrived": "2026-11-24T10:00:00.25Z", "size": 1000, "trace": 100,
        "sender": "\"a b\"@shop.example", "recipients": [
            {"address": "a@x.example", "state": "waiting"},
            {"address": "\u{fc}+b@b\u{fc}cher.example", "state": "waiting", "status": status("rcpt"), "notify": "SUCCESS,DELAY"},
            {"address": "c@x.example", "state": "delivered", "status": status("dot"), "orcpt": "rfc822;c+2B@x.example"},
            {"address": "d@x.example", "state": "dropped", "status": status("opt_out"), "notify": "NEVER"},
        ],
        "attempts": 3, "waited_ms": 1500, "written": "2026-11-24T10:00:01Z", "next": "2026-11-24T10:05:00Z",
        "delay_told": false, "client": "::1", "helo": "tool", "extended": true, "eight_bit": true, "smtputf8": true,
        "ret": "HDRS", "envid": "QQ+2B1",
    })
}

/// Values that are of the right kind, nearly so, or of none.
fn values() -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "",
        "<>",
        "a@x.example",
        "@a,@b:c@x.example",
        "\"\\\"\"@x.example",
        "a@[127.0.0.1]",
        "postmaster",
        "\u{202e}\r\n",
        "a b",
        "NEVER",
        "SUCCESS,SUCCESS",
        "FULL",
        "utf-8;\\x{20AC}@x",
        "rfc822;+00",
        "1970-01-01T00:00:00+23:59",
        "9999-12-31T23:59:60Z",
        "-009999-01-02T01:59:59Z",
        "2026-02-30T00:00:00Z",
        "waiting",
        "refused",
        "unanswered",
        "\u{0}",
        "0.0.0.0",
        "::ffff:1.2.3.4",
        "0000000000000000z",
        "1970-01-01T00:00:00.123456789Z",
    ]);
    let numbers =
        prop::sample::select(vec![json!(0), json!(-1), json!(u64::MAX), json!(1.5), json!(65536), json!(1e300), json!(255)]);
    prop_oneof![
        4 => texts.prop_map(Value::from),
        2 => ".{0,40}".prop_map(Value::from),
        2 => numbers,
        1 => prop::sample::select(vec![json!(null), json!(true), json!([]), json!({}), json!([[[]]])]),
    ]
}

/// Puts a value where `at` leads to, taken as a way through the tree.
fn put(tree: &mut Value, at: &[usize], value: Value) {
    let below = match tree {
        Value::Object(map) if !map.is_empty() => {
            let place = at.first().map(|at| at % map.len());
            place.and_then(|place| map.values_mut().nth(place))
        }
        Value::Array(list) if !list.is_empty() => {
            let place = at.first().map(|at| at % list.len());
            place.and_then(|place| list.get_mut(place))
        }
        _ => None,
    };
    match below {
        Some(below) => put(below, &at[1..], value),
        None => *tree = value,
    }
}

/// Whether it was taken.
fn reads_the_same(text: &[u8]) -> bool {
    let Ok(record) = Record::from_json(text) else { return false };
    let again = Record::from_json(&record.to_json());
    assert_eq!(again.as_ref().ok(), Some(&record), "{again:?}");
    // Nothing of it is beyond sums and words.
    let mut given_up = record.clone();
    given_up.give_up(record.age);
    assert!(given_up.is_settled() && Record::from_json(&given_up.to_json()).is_ok_and(|read| read == given_up));
    true
}

#[test]
fn a_sound_record_is_taken() {
    assert!(reads_the_same(&serde_json::to_vec(&sound()).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        reads_the_same(&bytes);
    }

    #[test]
    fn a_record_with_flipped_bytes_is_read_or_refused(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut text = serde_json::to_vec(&sound()).unwrap();
        for (at, byte) in flips {
            let at = at.index(text.len());
            text[at] = byte;
        }
        reads_the_same(&text);
    }

    #[test]
    fn a_record_with_other_values_is_read_or_refused(
        changes in prop::collection::vec((prop::collection::vec(any::<usize>(), 1..4), values()), 1..3),
    ) {
        let mut tree = sound();
        for (at, value) in changes {
            put(&mut tree, &at, value);
        }
        reads_the_same(&serde_json::to_vec(&tree).unwrap());
    }
}
