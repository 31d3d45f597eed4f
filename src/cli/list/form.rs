//! The forms of lists, as options of a command line.

use crate::optout::{self, Column, Provider, Written};

/// How a list that is read is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// As it looks
    Auto,
    /// One entry a line
    Text,
    /// A table, by the names of its columns
    Csv,
    /// Objects with the address under a name like that of a column
    Json,
    /// As config/blacklist.toml
    Toml,
    /// An access table
    Postfix,
    /// The suppression list of Amazon SES: JSON, or CSV without names
    Ses,
    /// Unsubscribes, spam reports or bounces of SendGrid: CSV or JSON
    Sendgrid,
    /// Unsubscribes, complaints or bounces of Mailgun: CSV or JSON
    Mailgun,
    /// Suppressions of Postmark: CSV or JSON
    Postmark,
    /// unsubscribed_….csv or cleaned_….csv of an audience export of Mailchimp
    Mailchimp,
}

impl Form {
    pub fn meant(self) -> optout::Form {
        match self {
            Self::Auto => optout::Form::Auto,
            Self::Text => optout::Form::Text,
            Self::Csv => optout::Form::Csv,
            Self::Json => optout::Form::Json,
            Self::Toml => optout::Form::Toml,
            Self::Postfix => optout::Form::Postfix,
            Self::Ses => optout::Form::Of(Provider::Ses),
            Self::Sendgrid => optout::Form::Of(Provider::SendGrid),
            Self::Mailgun => optout::Form::Of(Provider::Mailgun),
            Self::Postmark => optout::Form::Of(Provider::Postmark),
            Self::Mailchimp => optout::Form::Of(Provider::Mailchimp),
        }
    }
}

pub fn column(text: &str) -> Result<Column, String> {
    Column::parse(text)
}

/// How a list is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// With all that stands beside the entries; can be named in `opt_out.lists` again
    Csv,
    /// One entry a line
    Text,
    /// sha256:… in the place of each address
    Hashes,
    /// One JSON object a line
    Json,
    /// An access table for Postfix
    Postfix,
    /// For the import of Amazon SES
    Ses,
    /// For the import of SendGrid
    Sendgrid,
    /// For the import of Mailgun
    Mailgun,
    /// For the import of Postmark
    Postmark,
    /// For the import of Mailchimp
    Mailchimp,
}

impl Target {
    /// `None`: JSON, which is no form of a list.
    pub fn meant(self) -> Option<Written> {
        Some(match self {
            Self::Csv => Written::Csv,
            Self::Text => Written::Text,
            Self::Hashes => Written::Hashes,
            Self::Json => return None,
            Self::Postfix => Written::Postfix,
            Self::Ses => Written::For(Provider::Ses),
            Self::Sendgrid => Written::For(Provider::SendGrid),
            Self::Mailgun => Written::For(Provider::Mailgun),
            Self::Postmark => Written::For(Provider::Postmark),
            Self::Mailchimp => Written::For(Provider::Mailchimp),
        })
    }
}
