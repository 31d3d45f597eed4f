//! Whether mail would go in a circle: `upstream.url` leads to a listener of this relay's own. Never asks anybody for an
//! address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::HostRoute;

pub(super) const MESSAGE: &str = "leads back to this relay, which listens there itself";
pub(super) const HINT: &str = "mail would go in a circle; name the host of your mail provider";

/// As far as the name alone tells; `machine` is that of this machine.
pub(super) fn is_circle(listen: &[SocketAddr], route: &HostRoute, machine: &str) -> bool {
    let bare = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let host = bare(&route.host);
    let known: &[IpAddr] = match host.parse() {
        Ok(ip) => &[ip],
        Err(_) if host == "localhost" || host.ends_with(".localhost") => {
            &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        }
        // Whichever of the machine's addresses it stands for.
        Err(_) if host == bare(machine) => return has_port(listen, route.port),
        Err(_) => &[],
    };
    known.iter().any(|ip| takes(listen, SocketAddr::new(*ip, route.port), |_| false))
}

/// One of the listeners takes what is sent to the address; `is_own` tells whether this machine has it.
pub(super) fn takes(listen: &[SocketAddr], to: SocketAddr, is_own: impl Fn(IpAddr) -> bool) -> bool {
    // What is sent to "any address" stays on the machine.
    let ip = match to.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    listen.iter().filter(|listener| listener.port() == to.port()).any(|listener| {
        let at = listener.ip().to_canonical();
        let any = at.is_unspecified() && at.is_ipv4() == ip.is_ipv4();
        at == ip || any && (ip.is_loopback() || is_own(ip))
    })
}

/// There is a listener on this port. Port 0 is another one at every start.
pub(super) fn has_port(listen: &[SocketAddr], port: u16) -> bool {
    port > 0 && listen.iter().any(|listener| listener.port() == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_seen_and_nothing_else() {
        let own = |ip: IpAddr| ip == IpAddr::from([192, 0, 2, 1]);
        for (listener, to, circle) in [
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "127.0.0.1:587", false),
            ("127.0.0.1:25", "127.0.0.2:25", false),
            ("127.0.0.1:25", "192.0.2.1:25", false),
            ("127.0.0.1:25", "0.0.0.0:25", true),
            ("127.0.0.1:25", "[::ffff:127.0.0.1]:25", true),
            ("127.0.0.1:25", "[::1]:25", false),
            ("0.0.0.0:25", "127.0.0.2:25", true),
            ("0.0.0.0:25", "192.0.2.1:25", true),
            ("0.0.0.0:25", "192.0.2.2:25", false),
            ("0.0.0.0:25", "[::1]:25", false),
            ("[::]:25", "[::1]:25", true),
            ("[::]:25", "127.0.0.1:25", false),
            ("192.0.2.9:25", "192.0.2.9:25", true),
        ] {
            let listen = [listener.parse().unwrap()];
            assert_eq!(takes(&listen, to.parse().unwrap(), own), circle, "{listener} {to}");
        }
    }

    #[test]
    fn names_of_this_machine_are_known() {
        for (host, port, circle) in [
            ("localhost", 25, true),
            ("LOCALHOST.", 25, true),
            ("relay.localhost", 25, true),
            ("localhost", 26, false),
            ("Shop.example", 25, true),
            ("shop.example.", 25, true),
            ("shop.example", 26, false),
            ("mail.example", 25, false),
        ] {
            let route = HostRoute { implicit_tls: false, user: None, host: host.into(), port };
            assert_eq!(is_circle(&["[::1]:25".parse().unwrap()], &route, "shop.EXAMPLE"), circle, "{host} {port}");
        }
    }
}
