//! Mail providers whose exports are known by their columns. Never reads.

use std::fmt;

/// A provider that keeps a suppression list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The account-level suppression list: `aws sesv2 list-suppressed-destinations`, or the CSV without a header that its import takes.
    Ses,
    /// Unsubscribes, spam reports and bounces: CSV of the pages, JSON of `/v3/suppression`.
    SendGrid,
    /// Unsubscribes, complaints and bounces: CSV of the pages, JSON of `/v3/DOMAIN/unsubscribes`.
    Mailgun,
    /// Suppressions: CSV of the pages, JSON of `/message-streams/STREAM/suppressions/dump`.
    Postmark,
    /// `unsubscribed_….csv` and `cleaned_….csv` of an audience export.
    Mailchimp,
}

const ALL: [Provider; 5] = [Provider::Postmark, Provider::Ses, Provider::SendGrid, Provider::Mailgun, Provider::Mailchimp];

impl Provider {
    /// The columns, in comparing form, of which one set must be there.
    fn marks(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Ses => &[&["emailaddress", "lastupdatetime"], &["emailaddress", "reason"]],
            Self::SendGrid => &[&["email", "created"]],
            Self::Mailgun => &[&["address", "createdat"]],
            Self::Postmark => &[&["emailaddress", "suppressionreason"]],
            Self::Mailchimp => &[&["emailaddress", "leid", "euid"]],
        }
    }

    /// Whose export has these columns, in comparing form.
    pub(super) fn by_columns(names: &[String]) -> Option<Self> {
        ALL.into_iter().find(|provider| provider.has_marks(names))
    }

    pub(super) fn has_marks(self, names: &[String]) -> bool {
        self.marks().iter().any(|marks| marks.iter().all(|mark| names.iter().any(|name| name == mark)))
    }

    /// An export that lists people who did not opt out, and what to take instead.
    pub(super) fn not_opt_outs(self, names: &[String]) -> Option<&'static str> {
        let has = |name: &str| names.iter().any(|known| known == name);
        (self == Self::Mailchimp && !has("unsubtime") && !has("cleantime")).then_some(
            "take unsubscribed_….csv and cleaned_….csv of the export; to opt all of these out nevertheless: --format csv",
        )
    }

    /// What must be there, for people.
    pub(super) fn wants(self) -> String {
        self.marks().iter().map(|marks| marks.join(", ")).collect::<Vec<_>>().join(" or ")
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ses => "Amazon SES",
            Self::SendGrid => "SendGrid",
            Self::Mailgun => "Mailgun",
            Self::Postmark => "Postmark",
            Self::Mailchimp => "Mailchimp",
        })
    }
}
