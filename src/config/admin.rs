//! Who can reach the admin page: it changes opt-outs, so it is never open by mistake. Never asks the network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access::{Wrong, is_reachable};
use super::file::{Admin, Listen};
use super::is_host_name;

/// The admin page as it is meant; there is none where nobody could log in.
#[derive(Clone, Debug)]
pub struct AdminDoor {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Who may log in.
    pub users: PathBuf,
    /// By which names browsers may call it, in lower case; addresses and `localhost` on top.
    pub hosts: Vec<String>,
    /// Nothing can be changed there.
    pub read_only: bool,
    /// How long somebody stays logged in who does nothing.
    pub session: Duration,
}

impl AdminDoor {
    /// Looks at `[admin]`, and at the certificate of `[listen]`.
    pub fn mean(admin: &Admin, listen: &Listen, base: &Path) -> Result<Option<Self>, Wrong> {
        let Some(users) = &admin.users else { return Ok(None) };
        if listen.certificate.is_none()
            && !admin.plain_http
            && let Some(address) = admin.listen.iter().find(|address| is_reachable(**address))
        {
            let message = format!("{address} can be reached by other machines, and passwords would go there in the clear");
            let hint = "set listen.certificate and listen.key; or, where something before it encrypts, admin.plain_http = true";
            return Err(Wrong { key: "admin.listen", message, hint });
        }
        if let Some(host) = admin.hosts.iter().find(|host| !is_host_name(host)) {
            let message = format!("{host:?} is no host name");
            return Err(Wrong { key: "admin.hosts", message, hint: "without a port, as in \"mail.shop.example\"" });
        }
        if admin.session.is_zero() {
            return Err(Wrong { key: "admin.session", message: "may not be 0".into(), hint: "\"8h\" is a working day" });
        }
        Ok(Some(Self {
            listen: admin.listen.clone(),
            users: base.join(users),
            hosts: admin.hosts.iter().map(|host| host.to_lowercase()).collect(),
            read_only: admin.read_only,
            session: admin.session,
        }))
    }
}
