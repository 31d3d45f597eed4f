//! The parameters of MAIL and RCPT that must stay as they were written, or that smtp-proto reads in its own way: taken out
//! of the others here. Never decodes what is passed on.

use super::reply::Reply;
use crate::mail::{Notify, Ret, Wish, envelope_id, original_recipient};

/// Those of MAIL, and the words that are none of them.
#[derive(Debug, Default)]
pub struct OfMail {
    /// `SIZE=` in bytes, 0 where none was declared (RFC 1870).
    pub size: u64,
    /// `RET=` (RFC 3461 4.3)
    pub ret: Option<Ret>,
    /// `ENVID=` as written (RFC 3461 4.4).
    pub envid: Option<Box<str>>,
    /// For smtp-proto.
    pub others: String,
}

/// Reads what follows the path of MAIL.
///
/// `SIZE=`: smtp-proto starts anew at the digits that no longer fit, and here they are just too many bytes (RFC 1870 6.1).
pub fn of_mail(text: &str) -> Result<OfMail, Reply> {
    let mut found = OfMail::default();
    for Word { written, keyword, value } in words(text)? {
        match keyword.as_str() {
            "SIZE" => found.size = size(value).ok_or(Reply::BAD_PARAMETER)?,
            "RET" => found.ret = Some(Ret::parse(&value.to_ascii_uppercase()).ok_or(Reply::BAD_PARAMETER)?),
            "ENVID" if envelope_id(value).is_some() => found.envid = Some(value.into()),
            "ENVID" => return Err(Reply::BAD_PARAMETER),
            _ => found.others.extend([written, " "]),
        }
    }
    Ok(found)
}

/// Reads what follows the path of RCPT; the second value is for smtp-proto.
pub fn of_rcpt(text: &str) -> Result<(Wish, String), Reply> {
    let (mut wish, mut others) = (Wish::default(), String::new());
    for Word { written, keyword, value } in words(text)? {
        match keyword.as_str() {
            "NOTIFY" => wish.notify = Notify::parse(&value.to_ascii_uppercase()).ok_or(Reply::BAD_PARAMETER)?,
            "ORCPT" if original_recipient(value).is_some() => wish.original = Some(value.into()),
            "ORCPT" => return Err(Reply::BAD_PARAMETER),
            _ => others.extend([written, " "]),
        }
    }
    Ok((wish, others))
}

struct Word<'t> {
    written: &'t str,
    /// In upper case.
    keyword: String,
    /// Empty where there is none.
    value: &'t str,
}

/// The words, none of whose keywords stands twice: which of the two would be meant?
fn words(text: &str) -> Result<Vec<Word<'_>>, Reply> {
    let mut words: Vec<Word<'_>> = Vec::new();
    for written in text.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = written.split_once('=').unwrap_or((written, ""));
        let keyword = keyword.to_ascii_uppercase();
        if words.iter().any(|word| word.keyword == keyword) {
            return Err(Reply::BAD_PARAMETER);
        }
        words.push(Word { written, keyword, value });
    }
    Ok(words)
}

fn size(digits: &str) -> Option<u64> {
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_stays_as_it_was_written() {
        let found = of_mail(" body=8BITMIME ret=hdrs  EnvId=a+2Bb SIZE=5").unwrap();
        assert_eq!((found.size, found.ret, found.others.as_str()), (5, Some(Ret::Headers), "body=8BITMIME "));
        assert_eq!(found.envid.as_deref(), Some("a+2Bb"));
        let (wish, others) = of_rcpt("orcpt=rfc822;A+2Bb@C.example Notify=delay,SUCCESS X=Y").unwrap();
        let notify = Notify::When { success: true, failure: false, delay: true };
        assert_eq!(wish, Wish { notify, original: Some("rfc822;A+2Bb@C.example".into()) });
        assert_eq!(others, "X=Y ");
        assert_eq!(of_rcpt("NOTIFY=never").unwrap().0.notify, Notify::Never);
    }

    #[test]
    fn what_is_wrong_or_stands_twice_is_refused() {
        for wrong in ["SIZE", "SIZE=", "SIZE=-1", "RET", "RET=ALL", "RET=FULL ret=FULL", "ENVID=", "ENVID=a ENVID=a", "ENVID=+0D"]
        {
            assert_eq!(of_mail(wrong).unwrap_err(), Reply::BAD_PARAMETER, "{wrong}");
        }
        for wrong in [
            "NOTIFY",
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,",
            "NOTIFY=SUCCESS,,DELAY",
            "NOTIFY=MAYBE",
            "NOTIFY=NEVER notify=DELAY",
            "ORCPT=a@b.example",
            "ORCPT=rfc822;a@b.example ORCPT=rfc822;a@b.example",
        ] {
            assert_eq!(of_rcpt(wrong).unwrap_err(), Reply::BAD_PARAMETER, "{wrong}");
        }
    }
}
