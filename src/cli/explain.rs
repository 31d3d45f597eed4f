//! `explain`: the verdict about an address and the rule behind it, by the relay's own judge; and a decision of the past, beside what it
//! would be today. Never sends anything.

use std::io::{self, Write, stdout};
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::paint::{self, Tone};
use super::{Done, Exit, Failure, json_line, log};
use crate::admin::verdict::{Verdict, judged};
use crate::config::Config;
use crate::ledger::{First, Line, Question};
use crate::mail::{Address, Id, ReversePath, clean};
use crate::optout::{Context, OptOutList, Title};
use crate::place::shown;

const EXAMPLES: &str = "Examples:
  optout-relay explain buyer@example.org
  optout-relay explain buyer@example.org --from shop@shop-a.example --json
  optout-relay explain --id 06g5q8w4k0000abcd        what was decided then, and what would be today";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Recipients
    #[arg(required_unless_present = "id", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Envelope sender, for opt-outs that hold for some senders; without it they count
    #[arg(long, value_name = "SENDER")]
    from: Option<String>,
    /// Subject of the mail, for `opt_out.exempt_subjects`
    #[arg(long, value_name = "TEXT", default_value = "")]
    subject: String,
    /// A message of the past, as `log` prints it: what was decided then, and what would be today
    #[arg(long, value_name = "ID", value_parser = id, conflicts_with_all = ["addresses", "from"])]
    id: Option<Id>,
    /// One JSON object a recipient
    #[arg(long)]
    json: bool,
}

fn id(text: &str) -> Result<Id, &'static str> {
    Id::parse(text).ok_or("an id has 17 letters and digits; `optout-relay log` tells them")
}

/// Who judges, and by what.
struct Judge<'a> {
    config: &'a Config,
    list: OptOutList,
    subject: &'a str,
    now: Timestamp,
}

/// Exit 0: all would be forwarded. 1: somebody would not. With an id that stands in no log: 66.
pub fn run(config: &Config, arguments: &Arguments) -> Done {
    let parse =
        |text: &str| Address::parse(text.trim()).map_err(|e| Failure::new(Exit::Data, format_args!("{}: {e}", shown(text))));
    let recipients = arguments.addresses.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let sender = match arguments.from.as_deref() {
        None | Some("" | "<>") => ReversePath::Null,
        Some(text) => ReversePath::Address(parse(text)?),
    };
    let list = super::loaded(config).map_err(|fault| Failure::of_list(&fault))?.list;
    let judge = Judge { config, list, subject: &arguments.subject, now: Timestamp::now() };
    if let Some(id) = arguments.id {
        return replay(&judge, id, arguments.json);
    }
    let (mut out, mut exit) = (stdout().lock(), Exit::Ok);
    for recipient in &recipients {
        let verdict = judge.verdict(recipient, &sender);
        if arguments.json {
            json_line(&mut out, &of_address(recipient.as_str(), &verdict))?;
        } else {
            writeln!(out, "{recipient}: {}", paint::word(tone(&verdict), would(&verdict)))?;
            tell(&mut out, &verdict)?;
        }
        if is_suppressed(&verdict) {
            exit = Exit::No;
        }
    }
    Ok(exit)
}

impl Judge<'_> {
    fn verdict(&self, recipient: &Address, sender: &ReversePath) -> Verdict {
        let Self { config, list, subject, now } = self;
        let context = Context { sender, now: *now, title: Title::Is(subject), policy: &config.policy, orders: &[] };
        judged(list, recipient, &context, &config.learning.letterbox)
    }
}

fn of_address(address: &str, verdict: &Verdict) -> Value {
    let mut object = json!(verdict);
    object["address"] = address.into();
    object
}

fn would(verdict: &Verdict) -> &'static str {
    match verdict.verdict {
        "learned_from" => "would be learned from, and go nowhere (learn.address)",
        "observed" => "would be forwarded and logged, because opt_out.mode is \"observe\"",
        "exempted" => "would be forwarded and logged, because of opt_out.exempt_subjects",
        "suppressed" => "would be suppressed",
        _ => "would be forwarded",
    }
}

fn tone(verdict: &Verdict) -> Tone {
    match verdict.verdict {
        "forwarded" => Tone::Good,
        "suppressed" => Tone::Bad,
        _ => Tone::Doubtful,
    }
}

/// By an opt-out: our own address is no recipient.
fn is_suppressed(verdict: &Verdict) -> bool {
    verdict.suppressed && verdict.rule.is_some()
}

fn tell(out: &mut impl Write, verdict: &Verdict) -> io::Result<()> {
    let Some(rule) = &verdict.rule else { return Ok(()) };
    writeln!(out, "  rule    {}:{}, {} {}", rule.file, rule.line, rule.kind, rule.value)?;
    if let Some(action) = verdict.action {
        writeln!(out, "  action  {action}")?;
    }
    let senders = (!rule.senders.is_empty()).then(|| rule.senders.join(" "));
    let texts = [
        ("senders", &senders),
        ("since", &rule.since),
        ("until", &rule.until),
        ("reason", &rule.reason),
        ("source", &rule.source),
        ("note", &rule.note),
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

/// What the logs say of a message, and the same recipient and sender judged by the lists of today.
fn replay(judge: &Judge<'_>, id: Id, json: bool) -> Done {
    let question = Question { id: Some(id.to_string()), ..Question::default() };
    let (mut past, mut exit) = (Vec::new(), Exit::Ok);
    let damaged = log::search(judge.config, &["suppressed", "sent"], &question, First::Oldest, &mut |line, text| {
        past.push((line.clone(), text.to_owned()));
        Ok(ControlFlow::Continue(()))
    })?;
    if past.is_empty() {
        let hint = "see that log.keep and log.sent leave it there; a message that is held stands in `optout-relay spool show`";
        return Err(Failure::new(Exit::NoInput, format_args!("{id} stands in no log\nhint: {hint}")));
    }
    let mut out = stdout().lock();
    for (line, text) in past {
        let Some((recipient, sender)) = parties(&line) else {
            super::talk(&format!("{}: cannot be judged again: it names nobody that can be mailed", clean(&line.id, 40)));
            exit = Exit::Data;
            continue;
        };
        let verdict = judge.verdict(&recipient, &sender);
        let is_same = is_same(&line, &verdict);
        if json {
            let then: Value = serde_json::from_str(&text).unwrap_or_default();
            json_line(&mut out, &json!({ "then": then, "today": of_address(recipient.as_str(), &verdict), "same": is_same }))?;
        } else {
            writeln!(out, "{}", log::told(&line))?;
            writeln!(
                out,
                "today: {}; {}",
                paint::word(tone(&verdict), would(&verdict)),
                if is_same { "the same" } else { "not the same" }
            )?;
            tell(&mut out, &verdict)?;
            if line.event == "exempted" && judge.subject.is_empty() {
                writeln!(out, "  note    the subject that exempted it is not in the log: say --subject TEXT")?;
            }
        }
        if is_suppressed(&verdict) && exit == Exit::Ok {
            exit = Exit::No;
        }
    }
    Ok(if damaged { Exit::Data } else { exit })
}

fn parties(line: &Line) -> Option<(Address, ReversePath)> {
    let sender = match line.sender.as_str() {
        "" => ReversePath::Null,
        text => ReversePath::Address(Address::parse(text).ok()?),
    };
    Some((Address::parse(line.about()?).ok()?, sender))
}

/// The same ending, and where it was by an opt-out, by the same entry, wherever that stands now.
fn is_same(then: &Line, today: &Verdict) -> bool {
    if then.event == "sent" {
        return !today.suppressed;
    }
    let then_by = then.rule.as_ref().map(|rule| (rule.kind.as_str(), rule.value.as_str()));
    let by = today.rule.as_ref().map(|rule| (rule.kind.as_str(), rule.value.as_str()));
    let action = today.action.map(|action| action.to_string()).unwrap_or_default();
    then.event == today.verdict && then_by == by && then.action == action
}
