//! A private Postfix between the same two ends: own folder, own port, its opt-outs in a hash map, everything else as
//! Debian ships it. Never touches the Postfix that the machine may be running.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Ends with its value.
pub struct Postfix {
    pub address: SocketAddr,
    folder: TempDir,
}

/// The stations that such a relay needs, with Debian's limits, none of them in a chroot.
const STATIONS: &str = "
pickup     unix  n  -  n  60     1  pickup
cleanup    unix  n  -  n  -      0  cleanup
qmgr       unix  n  -  n  300    1  qmgr
tlsmgr     unix  -  -  n  1000?  1  tlsmgr
rewrite    unix  -  -  n  -      -  trivial-rewrite
bounce     unix  -  -  n  -      0  bounce
defer      unix  -  -  n  -      0  bounce
trace      unix  -  -  n  -      0  bounce
verify     unix  -  -  n  -      1  verify
proxymap   unix  -  -  n  -      -  proxymap
smtp       unix  -  -  n  -      -  smtp
relay      unix  -  -  n  -      -  smtp
error      unix  -  -  n  -      -  error
retry      unix  -  -  n  -      -  error
anvil      unix  -  -  n  -      1  anvil
scache     unix  -  -  n  -      1  scache
postlog    unix-dgram n -  n -    1  postlogd
";

impl Postfix {
    /// Starts it in front of `sink`; the error says why there is none.
    pub fn start(sink: SocketAddr, opted_out: &[String]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let address = free_port().map_err(|error| error.to_string())?;
        configure(folder.path(), address, sink, opted_out).map_err(|error| error.to_string())?;
        let postfix = Self { address, folder };
        let map = format!("hash:{}", postfix.folder.path().join("etc/optouts").display());
        postfix.call("postmap", &[&map])?;
        postfix.call("postfix", &["start"])?;
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Ok(postfix);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it does not listen".into())
    }

    fn call(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.path().join("etc")).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{program} {}` failed ({status}); it wants to be root", arguments.join(" "))),
            Err(error) => Err(format!("`{program}`: {error}")),
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // Nothing more can be done about one that does not stop.
        let _ = self.call("postfix", &["stop"]);
    }
}

fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn configure(folder: &Path, address: SocketAddr, sink: SocketAddr, opted_out: &[String]) -> io::Result<()> {
    // Its stations run as another user and must get to the queue.
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for name in ["etc", "queue", "data"] {
        fs::create_dir(folder.join(name))?;
    }
    Command::new("chown").arg("postfix").arg(folder.join("data")).stderr(Stdio::null()).status()?;
    let at = |name: &str| folder.join(name).display().to_string();
    let settings = [
        ("compatibility_level", "3.6".to_owned()),
        ("queue_directory", at("queue")),
        ("data_directory", at("data")),
        ("command_directory", "/usr/sbin".into()),
        ("daemon_directory", "/usr/lib/postfix/sbin".into()),
        ("mail_owner", "postfix".into()),
        ("setgid_group", "postdrop".into()),
        ("myhostname", "postfix.bench.example".into()),
        ("mydestination", String::new()),
        ("alias_maps", String::new()),
        ("local_recipient_maps", String::new()),
        ("inet_interfaces", "127.0.0.1".into()),
        ("mynetworks", "127.0.0.0/8".into()),
        ("relayhost", format!("[{}]:{}", sink.ip(), sink.port())),
        ("smtpd_recipient_restrictions", format!("check_recipient_access hash:{}, permit_mynetworks, reject", at("etc/optouts"))),
        ("smtpd_client_connection_rate_limit", "0".into()),
        ("maillog_file", at("log")),
        ("maillog_file_prefixes", folder.display().to_string()),
    ];
    let main: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    fs::write(folder.join("etc/main.cf"), main)?;
    fs::write(folder.join("etc/master.cf"), format!("{address} inet n - n - - smtpd{STATIONS}"))?;
    let map: String = opted_out.iter().map(|recipient| format!("{recipient} 550 5.7.1 opted out\n")).collect();
    fs::write(folder.join("etc/optouts"), map)
}
