//! What a host offers in its reply to EHLO (RFC 5321 4.1.1.1). Never speaks.

/// The extensions that matter to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// RFC 2920
    pub pipelining: bool,
    /// RFC 6152
    pub eight_bit: bool,
    /// RFC 6531
    pub smtputf8: bool,
    /// RFC 3461
    pub dsn: bool,
    /// RFC 3207
    pub starttls: bool,
    /// RFC 1870; bytes, 0 where no limit is told.
    pub size: Option<u64>,
    /// RFC 4616
    pub auth_plain: bool,
    /// The LOGIN mechanism.
    pub auth_login: bool,
}

impl Offer {
    /// Reads the whole reply, `250-…` lines and all; keywords in any case.
    pub fn parse(reply: &str) -> Self {
        let mut offer = Self::default();
        for line in reply.lines().skip(1).filter_map(|line| line.get(4..)) {
            // `AUTH=LOGIN` is an old spelling.
            let mut words = line.split([' ', '=']);
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => offer.pipelining = true,
                "8BITMIME" => offer.eight_bit = true,
                "SMTPUTF8" => offer.smtputf8 = true,
                "DSN" => offer.dsn = true,
                "STARTTLS" => offer.starttls = true,
                "SIZE" => offer.size = Some(words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)),
                "AUTH" => words.for_each(|mechanism| match mechanism.to_ascii_uppercase().as_str() {
                    "PLAIN" => offer.auth_plain = true,
                    "LOGIN" => offer.auth_login = true,
                    _ => {}
                }),
                _ => {}
            }
        }
        offer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case() {
        let offer = Offer::parse(
            "250-host PIPELINING DSN\r\n250-size 1000\r\n250-dsn\r\n250-8bitmime\r\n250-Auth=LOGIN plain\r\n250 STARTTLS\r\n",
        );
        let expected = Offer {
            size: Some(1000),
            eight_bit: true,
            auth_plain: true,
            auth_login: true,
            starttls: true,
            dsn: true,
            ..Offer::default()
        };
        assert_eq!(offer, expected);
    }
}
