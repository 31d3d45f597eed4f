//! The test mail that people send through the relay, from the admin page or by `try`. Never sends it.

use jiff::Timestamp;

/// Who, to whom, what; all of it written as it is, so it must be clean.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// An address, without angle brackets.
    pub from: &'a str,
    /// An address, without angle brackets.
    pub to: &'a str,
    /// Without angle brackets.
    pub message_id: &'a str,
    /// When it is sent.
    pub time: Timestamp,
    /// What it says, with any line ends.
    pub text: &'a str,
}

impl Probe<'_> {
    /// The whole mail, in lines that end in CR LF; nothing is dot-stuffed.
    pub fn mail(&self) -> String {
        let Self { from, to, message_id, time, text } = self;
        let date = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let mut mail = format!(
            "From: <{from}>\r\nTo: <{to}>\r\nSubject: Test of optout-relay\r\nDate: {date}\r\nMessage-ID: <{message_id}>\r\n"
        );
        if !text.is_ascii() {
            mail += "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
        }
        mail += "\r\n";
        for line in text.lines() {
            // A lone CR ends no line, and no mail holds one.
            mail.extend(line.chars().filter(|c| !matches!(c, '\r' | '\0')));
            mail += "\r\n";
        }
        mail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_those_of_a_mail() {
        let probe = |text| Probe { from: "a@x.example", to: "b@x.example", message_id: "m@x", time: Timestamp::UNIX_EPOCH, text };
        let head = "From: <a@x.example>\r\nTo: <b@x.example>\r\nSubject: Test of optout-relay\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <m@x>\r\n";
        assert_eq!(probe("one\ntwo\r\n.\r\nth\rree\0").mail(), format!("{head}\r\none\r\ntwo\r\n.\r\nthree\r\n"));
        assert!(probe("é").mail().contains("charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\né\r\n"));
    }
}
