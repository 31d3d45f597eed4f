//! What `doctor` sees on this machine: configuration, lists, users, folders, disk, held mail, clock. Never asks the network, but for
//! the name that may lead back to us; never makes a file.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime::format_duration;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Access, access, statvfs};

use super::super::check::{self, Lists, Named, is_open};
use super::super::{TRUSTS_ANYBODY, circle, log};
use super::{Finding, said};
use crate::config::Config;
use crate::config::file::Password;
use crate::learn::Phrases;
use crate::ledger::{Line, ends_of};
use crate::mail::some;
use crate::optout::Mode;
use crate::place::Fault;
use crate::spool::{self, CORRUPT};

/// No clock of a machine that runs this is before it.
const RELEASED: Timestamp = Timestamp::constant(1_767_225_600, 0); // 2026-01-01

/// A clock that is put right by so little says nothing.
const STEP: SignedDuration = SignedDuration::from_mins(1);

const AS_RELAY: &str = "run this as the relay's user: sudo -u optout-relay optout-relay doctor";
const CLOSE: &str = "chmod o= it: it is for the relay's user and group";

/// Everything, in the order in which it is needed.
pub fn all(config: &Config) -> Vec<Finding> {
    let mut found = vec![configuration(config), lists(config)];
    found.extend(config.certificate.as_ref().map(certificate));
    found.extend(config.notices.as_deref().map(notices));
    found.extend(config.users.as_deref().map(|path| users("listen.users", path)));
    found.extend(config.admin.as_ref().map(|page| users("admin.users", &page.users)));
    found.extend([state_dir(config), permissions(config), disk(config), held(config), clock(config)]);
    found
}

fn configuration(config: &Config) -> Finding {
    let (check, path) = ("configuration", config.path.display());
    if let Err(failure) = circle::refuse(config) {
        return Finding::wrong(check, failure.message);
    }
    if config.trusts_anybody() {
        return Finding::new(super::Status::Warning, check, format_args!("{path}: {TRUSTS_ANYBODY}"));
    }
    if config.policy.mode == Mode::Observe {
        let text = format_args!("{path}: opt_out.mode is \"observe\": those who opted out ARE mailed, and only logged");
        return Finding::warning(check, text, "set opt_out.mode to \"enforce\" when you have seen enough");
    }
    Finding::ok(check, format_args!("{path} reads well"))
}

fn lists(config: &Config) -> Finding {
    let Lists { files, twins, twin_count } = match check::lists(config) {
        Ok(lists) => lists,
        Err(fault) => return Finding::wrong("lists", fault).or_hint("mend the list; `optout-relay check` reads it again"),
    };
    let each = files.iter().map(|(path, count)| format!("{} holds {count}", path.display())).collect::<Vec<_>>().join(", ");
    let total: usize = files.iter().map(|(_, count)| count).sum();
    let text = format!("{}: {each}", some(total as u64, "opt-out"));
    match twins.first() {
        // It does no harm: the stricter one holds.
        Some((second, first)) => {
            Finding::ok("lists", format_args!("{text}; {twin_count} named twice, as at {first} and {second}"))
        }
        None => Finding::ok("lists", text),
    }
}

fn certificate(pair: &(PathBuf, PathBuf)) -> Finding {
    let (check, chain) = ("listen.certificate", pair.0.display());
    match check::certificate(pair) {
        Err(fault) => Finding::wrong(check, fault).or_hint("name a certificate and its key, or neither"),
        Ok(Some(lapse)) => Finding::warning(check, format_args!("{chain} {lapse}"), "renew it; a new one is in force by itself"),
        Ok(None) => Finding::ok(check, format_args!("{chain} belongs to its key, and its dates are good")),
    }
}

fn notices(path: &Path) -> Finding {
    let read = std::fs::read_to_string(path).map_err(|e| Fault::unreadable(path, &e));
    match read.and_then(|text| Phrases::parse(path, &text)) {
        Err(fault) => Finding::wrong("learn.notices", fault).or_hint("mend the file; the shipped one is an example"),
        Ok(_) => Finding::ok("learn.notices", format_args!("{} reads well", path.display())),
    }
}

fn users(check: &str, path: &Path) -> Finding {
    match check::users(path) {
        Err(fault) => Finding::wrong(check, fault).or_hint("`optout-relay user list` reads it"),
        Ok(Named { is_open: true, .. }) => {
            let text = format!("{} is open to everybody on this machine, who can guess at its passwords", path.display());
            Finding::warning(check, text, CLOSE)
        }
        Ok(Named { count, .. }) => Finding::ok(check, format_args!("{count} may log in ({})", path.display())),
    }
}

fn state_dir(config: &Config) -> Finding {
    let (check, path) = ("state_dir", &config.file.state_dir);
    let there = match room(path) {
        Ok(there) => there,
        Err(error) => {
            let text = format_args!("{}: {error}", path.display());
            return Finding::wrong(check, text).or_hint("let the relay's user write there, or name another folder");
        }
    };
    if !there {
        return Finding::ok(check, format_args!("{} is not there yet, and can be made", path.display()));
    }
    let we = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(path).map(|meta| meta.uid()).unwrap_or(we);
    let owner = spool::owner(&config.spool()).unwrap_or(owner);
    if owner != we {
        let text =
            format_args!("{} belongs to user {owner}, and this is user {we}: some of this cannot be known", path.display());
        return Finding::warning(check, text, AS_RELAY);
    }
    Finding::ok(check, format_args!("{} can be written", path.display()))
}

/// A folder that can be written; false where it is not there, and can be made.
pub fn room(path: &Path) -> io::Result<bool> {
    let mut place = path;
    loop {
        match std::fs::metadata(place) {
            Ok(meta) if !meta.is_dir() => return Err(io::Error::new(io::ErrorKind::NotADirectory, "is no folder")),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        place = place
            .parent()
            .map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above })
            .unwrap_or(Path::new("/"));
    }
    access(place, Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(place == path)
}

/// Passwords and mail are nobody else's.
fn permissions(config: &Config) -> Finding {
    let base = config.path.parent().unwrap_or(Path::new(""));
    let passwords = [&config.file.upstream.password, &config.file.learn.imap.password];
    let passwords = passwords.into_iter().flatten().filter_map(|password| match password {
        Password::File(path) => Some(base.join(path)),
        Password::Env(_) | Password::Credential(_) => None,
    });
    let key = config.certificate.iter().map(|(_, key)| key.clone());
    let closed: Vec<_> = passwords.chain(key).chain([config.spool()]).filter(|path| path.exists()).collect();
    match closed.iter().find(|path| is_open(path)) {
        Some(path) => {
            Finding::warning("permissions", format_args!("{} is open to everybody on this machine", path.display()), CLOSE)
        }
        None => Finding::ok("permissions", "passwords, keys and held mail are closed to others"),
    }
}

fn disk(config: &Config) -> Finding {
    let (check, spool) = ("disk", config.spool());
    let place = spool.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let (free, reserve) = match statvfs(place) {
        Ok(found) => (found.f_bavail.saturating_mul(found.f_frsize), config.file.delivery.min_free.0),
        Err(error) => return Finding::wrong(check, format_args!("{}: {error}", place.display())).or_hint(AS_RELAY),
    };
    let text = format!("{} free at {}, {} are the relay's reserve", ByteSize(free), place.display(), ByteSize(reserve));
    let hint = "free some space, or lower delivery.min_free";
    if free < reserve {
        return Finding::wrong(check, format_args!("{text}: no mail is taken")).or_hint(hint);
    }
    if free / 2 < reserve {
        return Finding::warning(check, format_args!("{text}: soon no mail will be taken"), hint);
    }
    Finding::ok(check, text)
}

fn held(config: &Config) -> Finding {
    let (check, folder) = ("spool", config.spool());
    let records = match spool::records(&folder, None) {
        Ok(records) => records,
        Err(error) => return Finding::wrong(check, format_args!("read {}: {error}", folder.display())).or_hint(AS_RELAY),
    };
    let (mut count, mut oldest, mut unreadable) = (0_usize, None, None);
    for (id, record) in records {
        count += 1;
        match record {
            Ok(record) => oldest = Some(oldest.map_or(record.arrived, |oldest: Timestamp| oldest.min(record.arrived))),
            Err(error) => drop(unreadable.get_or_insert_with(|| format!("{id} cannot be read: {}", said(&error)))),
        }
    }
    if let Some(text) = unreadable {
        return Finding::wrong(check, format_args!("{count} held; {text}"))
            .or_hint("a disk that is not sound, or another user: `optout-relay spool show` names them all");
    }
    let aside = std::fs::read_dir(folder.join(CORRUPT)).map(Iterator::count).unwrap_or_default();
    if aside > 0 {
        let text = format!("{count} held; {aside} damaged files lie in {}", folder.join(CORRUPT).display());
        return Finding::warning(check, text, "look at what is in them, and take them away");
    }
    let Some(oldest) = oldest else { return Finding::ok(check, "nothing is held") };
    let waits = Duration::try_from(Timestamp::now().duration_since(oldest)).unwrap_or_default();
    let text = format!("{count} held, the oldest for {}", format_duration(Duration::from_secs(waits.as_secs())));
    // By then it was tried a few times.
    if waits > config.file.delivery.retry_max {
        return Finding::warning(check, text, "`optout-relay spool show` tells why, and `optout-relay spool retry` tries now");
    }
    Finding::ok(check, text)
}

/// There is no clock to compare ours with, but it never goes back.
fn clock(config: &Config) -> Finding {
    let (check, now) = ("clock", Timestamp::now());
    let shown = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ");
    let hint = "set the clock, and have it kept right: timedatectl set-ntp true";
    if now < RELEASED {
        let text = format!("it is {}, and this program is younger", shown(now));
        return Finding::wrong(check, text).or_hint(hint);
    }
    let last = |name| ends_of::<Line>(&config.logs(), name).iter().rev().find_map(Line::moment);
    let newest = ["suppressed", "sent", "learned", "actions"].into_iter().filter_map(last).max();
    match newest.filter(|newest| *newest > now.checked_add(STEP).unwrap_or(now)) {
        Some(newest) => {
            let text = format!("it is {}, and the newest line of the logs is from {}", shown(now), shown(newest));
            Finding::warning(check, text, hint)
        }
        None => Finding::ok(check, format_args!("it is {}, and nothing says otherwise", shown(now))),
    }
}

/// Intakes that have fallen silent.
pub fn silent(config: &Config) -> Option<Finding> {
    let silent = log::silent_intakes(config, Timestamp::now()).into_iter().next()?;
    Some(Finding::new(super::Status::Warning, "learn", silent.replacen("; ", "\nhint: ", 1)))
}
