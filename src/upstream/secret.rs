//! User and password towards the host: how they are said, and how they are hidden in whatever comes back. Never printed.

use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine};
use memchr::memmem::Finder;

use super::offer::Offer;

/// What stands where the password stood.
const HIDDEN: &str = "***";

/// A part of the password in base64 that is shorter than this may stand anywhere by chance.
const TELLING: usize = 5;

/// User and password. Never printed.
pub struct Secret {
    user: String,
    password: String,
    /// What shows the password: in ASCII, in lower case, without spaces.
    traces: Vec<Finder<'static>>,
}

impl Secret {
    /// Both as the operator gave them.
    pub fn new(user: String, password: String) -> Self {
        let traces = traces(&user, &password).iter().map(|trace| Finder::new(trace).into_owned()).collect();
        Self { user, password, traces }
    }

    /// The same user with another password; `None` where it is no other.
    pub(super) fn renewed(&self, password: String) -> Option<Self> {
        (password != self.password).then(|| Self::new(self.user.clone(), password))
    }

    /// The ways to log in that the host offers, the best first: PLAIN (RFC 4616) in one step, LOGIN in three. Each step
    /// but the last is to be answered by 334.
    pub(super) fn ways(&self, offer: Offer) -> Vec<Vec<String>> {
        let plain = || vec![format!("AUTH PLAIN {}\r\n", BASE64_STANDARD.encode(plain(&self.user, &self.password)))];
        let word = |word: &str| format!("{}\r\n", BASE64_STANDARD.encode(word));
        let login = || vec!["AUTH LOGIN\r\n".to_owned(), word(&self.user), word(&self.password)];
        [offer.auth_plain.then(plain), offer.auth_login.then(login)].into_iter().flatten().collect()
    }

    /// The text without the password, for hosts that repeat what they were told: as it is or in base64, in any case, also
    /// where it is broken into lines.
    pub fn hide(&self, text: &str) -> String {
        let (places, bare): (Vec<_>, Vec<_>) = text.bytes().enumerate().filter(|(_, byte)| *byte != b' ').unzip();
        let bare = bare.to_ascii_lowercase();
        let mut shows = vec![false; text.len()];
        for trace in &self.traces {
            for at in trace.find_iter(&bare) {
                shows[places[at]..=places[at + trace.needle().len() - 1]].fill(true);
            }
        }
        if !shows.contains(&true) {
            return text.to_owned();
        }
        // The rest of the word: of base64 it may hold a part of the password's first or last byte.
        let word = text.as_bytes();
        for at in 1..word.len() {
            shows[at] |= shows[at - 1] && is_base64(word[at]);
        }
        for at in (1..word.len()).rev() {
            shows[at - 1] |= shows[at] && is_base64(word[at - 1]);
        }
        let mut hidden = String::with_capacity(text.len());
        for (at, letter) in text.char_indices() {
            match shows[at] {
                false => hidden.push(letter),
                true if at > 0 && shows[at - 1] => {}
                true => hidden.push_str(HIDDEN),
            }
        }
        hidden
    }
}

fn plain(user: &str, password: &str) -> String {
    format!("\0{user}\0{password}")
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn traces(user: &str, password: &str) -> Vec<Vec<u8>> {
    // As the wire cleans what the host says.
    let as_said = password.bytes().map(|byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' }).collect();
    let base64 = |bytes: &str| BASE64_STANDARD_NO_PAD.encode(bytes).into_bytes();
    let mut traces = vec![as_said, base64(password), base64(&plain(user, password))];
    // Within any other text there are three ways to fall on the six bits of a letter, the first and last of which hold
    // something else as well.
    for before in 0..3 {
        let all = base64(&format!("{}{password}", "\0".repeat(before)));
        let whole = all.get((before * 8).div_ceil(6)..(before + password.len()) * 8 / 6).unwrap_or_default();
        traces.extend((whole.len() >= TELLING).then(|| whole.to_vec()));
    }
    for trace in &mut traces {
        trace.retain(|byte| *byte != b' ');
        trace.make_ascii_lowercase();
    }
    traces.retain(|trace| !trace.is_empty());
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(password: &str) -> Secret {
        Secret::new("seller".into(), password.into())
    }

    #[test]
    fn a_password_is_hidden_however_it_is_repeated() {
        for (password, said, shown) in [
            ("geheim-7391", "5.7.8 wrong password geheim-7391, go away", "5.7.8 wrong password ***, go away"),
            ("geheim-7391", "5.7.8 GEHEIM-7391 geheim-7391", "5.7.8 *** ***"),
            ("geheim-7391", "you said: geh eim-73 91", "you said: ***"),
            ("geheim-7391", "AUTH PLAIN AHNlbGxlcgBnZWhlaW0tNzM5MQ== is wrong", "AUTH PLAIN *** is wrong"),
            ("geheim-7391", "AUTH PLAIN AHNlbGxlcgBnZWhlaW0tNzM5 MQ== is wrong", "AUTH PLAIN *** is wrong"),
            ("geheim-7391", "<ahnlbgxlcgbnzwhlaw0tnzm5mq>", "<***>"),
            ("geheim-7391", "Z2VoZWltLTczOTE= is wrong", "*** is wrong"),
            // Of "x:geheim-7391", "xy:geheim-7391" and "a b:geheim-7391\n".
            ("geheim-7391", "eDpnZWhlaW0tNzM5MQ==", "***"),
            ("geheim-7391", "eHk6Z2VoZWltLTczOTE=", "***"),
            ("geheim-7391", "YSBiOmdlaGVpbS03MzkxCg==", "***"),
            ("geheim-7391", "5.7.8 seller is not known", "5.7.8 seller is not known"),
            ("geheim-7391", "geheim", "geheim"),
            ("abcd efgh ijkl", "is abcdefghijkl yours?", "is *** yours?"),
            ("abcdefghijkl", "is abcd efgh ijkl yours?", "is *** yours?"),
            ("gehéim", "is geh??im yours?", "is *** yours?"),
            ("gehéim", "é", "é"),
            ("x", "1 x 2", "1 *** 2"),
            ("", "nothing", "nothing"),
        ] {
            assert_eq!(secret(password).hide(said), shown, "{password}: {said}");
        }
    }

    #[test]
    fn the_ways_to_log_in_are_those_of_the_host() {
        let words = |auth_plain, auth_login| secret("geheim").ways(Offer { auth_plain, auth_login, ..Offer::default() });
        let plain = ["AUTH PLAIN AHNlbGxlcgBnZWhlaW0=\r\n"];
        let login = ["AUTH LOGIN\r\n", "c2VsbGVy\r\n", "Z2VoZWlt\r\n"];
        assert_eq!(words(true, true), [&plain[..], &login[..]]);
        assert_eq!(
            (words(true, false), words(false, true)),
            (vec![plain.map(str::to_owned).to_vec()], vec![login.map(str::to_owned).to_vec()])
        );
        assert_eq!(words(false, false), Vec::<Vec<String>>::new());
    }
}
