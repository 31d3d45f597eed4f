//! The mailbox with notices, as the configuration has it, and what is done with its mails. Never speaks IMAP itself.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Encryption};
use crate::learn::imap::{self, Mailbox, NotNow, Security, Taken};
use crate::learn::{Intake, Learner, NotLearned};
use crate::mail::clean;
use crate::place::Fault;
use crate::upstream::{Trust, connector};

/// The mailbox; none where none is named.
pub fn open(config: &Arc<Config>) -> Result<Option<Mailbox>, Fault> {
    let Some(route) = config.learning.imap.clone() else { return Ok(None) };
    let written = &config.file.learn.imap;
    let tls = || {
        let ca: Option<PathBuf> = written.ca.clone();
        connector(ca.as_deref().map_or(Trust::System, Trust::Ca)).map_err(|e| Fault::of_file(&config.path, e))
    };
    let security = match route.encryption {
        Encryption::None => Security::None,
        Encryption::StartTls => Security::StartTls(tls()?),
        Encryption::Tls => Security::Tls(tls()?),
    };
    // Found now or never: later trouble is the mailbox's own.
    config.imap_password()?;
    let fetch = config.clone();
    Ok(Some(Mailbox {
        host: route.host,
        port: route.port,
        security,
        user: route.user,
        password: Arc::new(move || fetch.imap_password().ok().flatten()),
        folder: written.folder.clone(),
        senders: written.senders.clone(),
        move_to: Some(written.move_to.clone()).filter(|folder| !folder.is_empty()),
        poll: written.poll,
        state: config.imap_place(),
    }))
}

/// Learns from its mails until `stop`.
pub async fn watch(mailbox: Mailbox, learner: Learner, stop: CancellationToken) {
    let learn = async |mail: Bytes| match learner.learn(&mail, Intake::Imap).await {
        Ok(learned) => {
            for settled in &learned.0 {
                tracing::info!("from the mailbox: {}", clean(&settled.to_string(), 400));
            }
            Ok(if learned.is_something() { Taken::Learned } else { Taken::Looked })
        }
        Err(NotLearned) => Err(NotNow),
    };
    imap::watch(mailbox, learn, stop).await;
}
