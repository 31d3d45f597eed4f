//! Who can reach the listeners, and who may use them: a relay that anybody may use is a spammer's. Never asks the network.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::file::Listen;

/// What is wrong, with the key in `[listen]` that it is about, and what to do.
pub struct Wrong {
    pub key: &'static str,
    pub message: String,
    pub hint: &'static str,
}

const OPEN_HINT: &str = "name the machines that may use it in `listen.clients`, or set `listen.require_tls = true` with `listen.certificate`, `listen.key` and `listen.users`";

/// Looks at `[listen]` as a whole.
pub fn examine(listen: &Listen) -> Result<(), Wrong> {
    let wrong = |key, message: &str, hint| Err(Wrong { key, message: message.to_owned(), hint });
    match (&listen.certificate, &listen.key) {
        (Some(_), None) => {
            return wrong("listen.certificate", "there is no key to it", "set listen.key to the file of its private key");
        }
        (None, Some(_)) => {
            return wrong("listen.key", "there is no certificate to it", "set listen.certificate to the file of its chain");
        }
        (None, None) if listen.require_tls => {
            return wrong("listen.require_tls", "needs a certificate", "set listen.certificate and listen.key");
        }
        (None, None) if !listen.submissions.is_empty() => {
            return wrong("listen.submissions", "needs a certificate", "set listen.certificate and listen.key");
        }
        _ => {}
    }
    for (key, addresses) in [("listen.smtp", &listen.smtp), ("listen.submissions", &listen.submissions)] {
        if let Some(address) = addresses.iter().find(|address| is_reachable(**address)) {
            guarded(listen, key, *address)?;
        }
    }
    Ok(())
}

/// Other machines can connect to it.
pub fn is_reachable(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// An address that others reach has somebody who says who may use it.
pub fn guarded(listen: &Listen, key: &'static str, address: SocketAddr) -> Result<(), Wrong> {
    if let Some(net) = listen.clients.iter().find(|net| is_everybody(net)) {
        return Err(Wrong {
            key: "listen.clients",
            message: format!(
                "{net} is half the world, and {address} can be reached from there: anybody could send mail through it"
            ),
            hint: "name the networks of your own machines, as in \"192.168.1.0/24\"; machines elsewhere log in: `listen.users`",
        });
    }
    let named = listen.clients.iter().any(|net| !net.addr().is_loopback());
    let login = listen.require_tls && listen.users.is_some();
    if named || login {
        return Ok(());
    }
    let message = format!("{address} can be reached by other machines, and nothing says which of them may use it");
    Err(Wrong { key, message, hint: OPEN_HINT })
}

/// Larger than any network that one owner has; private ones are no exception where they are whole.
fn is_everybody(net: &IpNet) -> bool {
    let private = |ip: Ipv6Addr| ip.is_unique_local() || ip.is_unicast_link_local();
    match net.addr() {
        IpAddr::V4(_) => net.prefix_len() < 8,
        IpAddr::V6(ip) => net.prefix_len() < 16 && !(private(ip) && net.prefix_len() >= 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_world_is_no_network() {
        for (net, expected) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("::/0", true),
            ("2000::/3", true),
            ("10.0.0.0/8", false),
            ("192.168.1.7/32", false),
            ("fc00::/7", false),
            ("fe80::/10", false),
            ("2001:db8::/32", false),
        ] {
            assert_eq!(is_everybody(&net.parse().unwrap()), expected, "{net}");
        }
    }
}
