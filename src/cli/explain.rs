//! `explain`: the verdict about an address and the rule behind it, by the relay's own judge. Never sends anything.

use std::io::{Write, stdout};

use jiff::Timestamp;

use super::{Done, Exit, Failure};
use crate::config::Config;
use crate::mail::{Address, ReversePath};
use crate::optout::{self, Context, Suppression, Title, Verdict};
use crate::place::shown;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Recipients
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Envelope sender, for opt-outs that hold for some senders; without it they count
    #[arg(long, value_name = "SENDER")]
    from: Option<String>,
    /// Subject of the mail, for `opt_out.exempt_subjects`
    #[arg(long, value_name = "TEXT", default_value = "")]
    subject: String,
}

/// Exit 0: all would be forwarded. 1: somebody would not.
pub fn run(config: &Config, arguments: &Arguments) -> Done {
    let parse =
        |text: &str| Address::parse(text.trim()).map_err(|e| Failure::new(Exit::Data, format_args!("{}: {e}", shown(text))));
    let recipients = arguments.addresses.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let sender = match arguments.from.as_deref() {
        None | Some("" | "<>") => ReversePath::Null,
        Some(text) => ReversePath::Address(parse(text)?),
    };
    let list = optout::load(&config.all_lists(), config.file.opt_out.plus_tags).map_err(|fault| Failure::of_list(&fault))?.list;
    let context = Context {
        sender: &sender,
        now: Timestamp::now(),
        title: Title::Is(&arguments.subject),
        policy: &config.policy,
        orders: &[],
    };
    let (mut out, mut exit) = (stdout().lock(), Exit::Ok);
    for recipient in &recipients {
        if config.learning.letterbox.asked(recipient).is_some() {
            writeln!(out, "{recipient}: would be learned from, and go nowhere (learn.address)")?;
            continue;
        }
        match optout::judge(&list, recipient, &context) {
            Verdict::Clear(_) => writeln!(out, "{recipient}: would be forwarded")?,
            Verdict::Observed(_, suppression) => {
                writeln!(out, "{recipient}: would be forwarded and logged, because opt_out.mode is \"observe\"")?;
                tell(&mut out, &suppression)?;
            }
            Verdict::Exempted(_, suppression) => {
                writeln!(out, "{recipient}: would be forwarded and logged, because of opt_out.exempt_subjects")?;
                tell(&mut out, &suppression)?;
            }
            Verdict::Open(suppression) | Verdict::OptedOut(suppression) => {
                writeln!(out, "{recipient}: would be suppressed")?;
                tell(&mut out, &suppression)?;
                exit = Exit::No;
            }
        }
    }
    Ok(exit)
}

fn tell(out: &mut impl Write, suppression: &Suppression<'_>) -> std::io::Result<()> {
    let Suppression { rule, action } = suppression;
    let about = rule.attributes;
    writeln!(out, "  rule    {}:{}, {} {}", rule.file.display(), rule.line, rule.kind, rule.value())?;
    writeln!(out, "  action  {action}")?;
    let until = about.until.map(|until| until.to_string());
    let senders = (!about.senders.is_empty()).then(|| about.senders.join(" "));
    let texts = [
        ("senders", &senders),
        ("since", &about.since),
        ("until", &until),
        ("reason", &about.reason),
        ("source", &about.source),
        ("note", &about.note),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            // What came with a list of somebody else's may hold anything.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            writeln!(out, "  {name:7} {text}")?;
        }
    }
    Ok(())
}
