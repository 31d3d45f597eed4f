//! The address of our own to which notices are mailed, and what is asked of it. Never relays, never writes.

use crate::mail::{Address, Envelope, PlusTags};

/// `learn.address`
#[derive(Clone, Debug, Default)]
pub struct Letterbox(Option<Address>);

/// What a mail to it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To be learned from: it is a notice or a report, or brings one along.
    Notice,
    /// To opt out the other recipients (`optout+buyer@…`).
    Buyers,
    /// To opt out whoever has placed the orders that it names (`optout+order@…`).
    Orders,
}

impl Letterbox {
    /// None: there is no such address.
    pub fn new(address: Option<Address>) -> Self {
        Self(address)
    }

    /// What mail to this recipient asks for; `None` where it is an address like any other.
    pub fn asked(&self, recipient: &Address) -> Option<Asked> {
        let (own, to) = (self.0.as_ref()?.key(PlusTags::Distinct), recipient.key(PlusTags::Distinct));
        if own.domain != to.domain {
            return None;
        }
        match to.local.strip_prefix(own.local)? {
            "" => Some(Asked::Notice),
            "+buyer" | "+buyers" => Some(Asked::Buyers),
            "+order" | "+orders" => Some(Asked::Orders),
            // A tag that means nothing here must not make a recipient of it.
            tag if tag.starts_with('+') => Some(Asked::Notice),
            _ => None,
        }
    }

    /// Takes itself out of the recipients; what is asked, each once.
    pub fn take_from(&self, envelope: &mut Envelope) -> Vec<Asked> {
        let mut all = Vec::new();
        if self.0.is_some() {
            envelope.recipients.retain(|to| match self.asked(&to.address) {
                Some(asked) => {
                    if !all.contains(&asked) {
                        all.push(asked);
                    }
                    false
                }
                None => true,
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_address_asks() {
        let letterbox = Letterbox::new(Some(Address::parse("OptOut@relay.local").unwrap()));
        for (to, asked) in [
            ("optout@Relay.local", Some(Asked::Notice)),
            ("OPTOUT+Buyer@relay.local", Some(Asked::Buyers)),
            ("optout+order@relay.local", Some(Asked::Orders)),
            ("optout+x@relay.local", Some(Asked::Notice)),
            ("optouts@relay.local", None),
            ("optout@relay.local.example", None),
            ("buyer@relay.local", None),
        ] {
            assert_eq!(letterbox.asked(&Address::parse(to).unwrap()), asked, "{to}");
        }
        assert_eq!(Letterbox::default().asked(&Address::parse("optout@relay.local").unwrap()), None);
    }
}
