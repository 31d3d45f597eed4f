"""The relay as a service: installed by the commands of README.md, used, and treated badly. Runs where systemd is process 1
and nothing else matters; prints one line a check and ends at the first that fails."""

import base64
import contextlib
import os
import pwd
import re
import signal
import smtplib
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

ETC, STATE, UNIT = Path("/etc/optout-relay"), Path("/var/lib/optout-relay"), "optout-relay.service"
DROP_IN = Path(f"/etc/systemd/system/{UNIT}.d/trial.conf")
PASSWORD = "correct horse"
PATIENCE = 20


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, timeout=60, **options).stdout.strip()


def show(name):
    return run("systemctl", "show", "--value", "-p", name, UNIT)


def journal():
    run("journalctl", "--sync")
    return run("journalctl", "-o", "cat", "-u", UNIT)


def eventually(is_so, what):
    end = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return found


def says(text, before=0):
    """Is in the journal once more than `before`."""
    eventually(lambda: journal().count(text) > before, f"the journal says {text!r}")


def readme():
    """The commands of its section about services, a block each."""
    text = Path("README.md").read_text().split("\n## Run it as a service\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh[^\n]*\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3, blocks
    return blocks


def shell(commands, stdin=""):
    """As a person types them: `sudo` is of ours, and the binary is built already."""
    sudo = 'sudo() { if [ "$1" = -u ]; then runuser -u "$2" -- "${@:3}"; else "$@"; fi; }'
    script = f"set -e; {sudo}; cargo() {{ :; }}; export -f sudo\n{commands}"
    done = subprocess.run(["bash", "-c", script], text=True, capture_output=True, input=stdin, timeout=60)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def configure(text):
    """`relay.toml`, written over, so owner and rights stay."""
    (ETC / "relay.toml").write_text(f'state_dir = "{STATE}"\n{text}')


def drop_in(text):
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(f"[Service]\n{text}\n")
    run("systemctl", "daemon-reload")


def mail(to, port=2525):
    with smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
        client.sendmail("shop@example.com", [to], "Subject: hello\r\n\r\nIt works.\r\n")


def is_refused(to):
    with smtplib.SMTP("localhost", 2525, timeout=PATIENCE) as client:
        client.ehlo()
        client.mail("shop@example.com")
        code, text = client.rcpt(to)
        return code == 550 and b"opted out" in text


class Host(socketserver.StreamRequestHandler):
    """A mail host that wants a password; `seen` is what it was told."""

    seen = []

    def handle(self):
        self.wfile.write(b"220 smtp.shop.test ESMTP\r\n")
        known = in_data = False
        for line in self.rfile:
            line = line.strip()
            verb = line.split(b" ")[0].upper()
            if in_data:
                reply, in_data = (b"250 ok", False) if line == b"." else (b"", True)
            elif verb == b"EHLO":
                reply = b"250-smtp.shop.test\r\n250 AUTH PLAIN"
            elif verb == b"AUTH":
                known = base64.b64decode(line.split(b" ")[2]).decode().split("\0") == ["", "shop", PASSWORD]
                reply = b"235 2.7.0 ok" if known else b"535 5.7.8 no"
            elif verb == b"RCPT" and not known:
                reply = b"530 5.7.0 who are you?"
            elif verb == b"DATA":
                reply, in_data = b"354 go on", True
            elif verb == b"QUIT":
                reply = b"221 bye"
            else:
                reply = b"250 ok"
            if verb == b"RCPT":
                self.seen.append(line.decode())
            if reply:
                self.wfile.write(reply + b"\r\n")


class Names(socketserver.BaseRequestHandler):
    """A name server: every name is of this machine, by IPv4."""

    def handle(self):
        query, socket_ = self.request
        end = query.index(b"\0", 12) + 5
        is_a = query[end - 4 : end - 2] == b"\0\1"
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1")
        head = query[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, is_a, 0, 0)
        socket_.sendto(head + query[12:end] + (answer if is_a else b""), self.client_address)


class Encrypted(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True

    def get_request(self):
        connection, address = super().get_request()
        shows = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shows.load_cert_chain(ETC / "host.pem", "/tmp/host.key")
        return shows.wrap_socket(connection, server_side=True), address


@contextlib.contextmanager
def host():
    with Encrypted(("127.0.0.1", 4650), Host) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()


def certify(name, certificate, key):
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=CA:FALSE"]
    kind = ["-x509", "-days", "9", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", *kind, *subject, "-keyout", key, "-out", certificate)


def certify_us(name):
    """As the README says it should lie there."""
    certify(name, "/tmp/chain.pem", "/tmp/key.pem")
    run("install", "-m", "640", "-g", "optout-relay", "/tmp/key.pem", "/tmp/chain.pem", ETC)


def the_readme_installs_it():
    shell(readme()[0])
    assert show("ActiveState") == "active", journal()
    assert show("StatusText") == "1 opt-out in force, 0 messages held, 0 sessions", show("StatusText")
    assert run("systemd-analyze", "verify", UNIT) == "" and "warning" not in journal()
    mail("buyer@example.org")
    assert is_refused("opted-out@example.com")
    assert len(list((STATE / "var/outbox").glob("*.eml"))) == 1


def everything_belongs_to_whom_it_should():
    user = pwd.getpwnam("optout-relay")
    for path in (STATE, STATE / "spool", STATE / "log/suppressed.jsonl"):
        mode = path.stat()
        assert mode.st_uid == user.pw_uid and mode.st_mode & 0o077 == 0, path
    for path in (ETC, ETC / "relay.toml", ETC / "blacklist.toml"):
        mode = path.stat()
        assert mode.st_uid == 0 and mode.st_gid == user.pw_gid and mode.st_mode & 0o027 == 0, path


def the_sandbox_is_shut():
    pid = show("MainPID")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert status["CapBnd"] == status["CapPrm"] == "0" * 16 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits) and re.search(r"Max open files +16384 +16384 ", limits), limits
    within = ["nsenter", "-t", pid, "-m"]
    for path in (ETC, "/usr", "/var/lib", "/sys/fs/cgroup"):
        touched = subprocess.run([*within, "touch", f"{path}/x"], capture_output=True, text=True)
        assert "Read-only file system" in touched.stderr, (path, touched)
    assert not run(*within, "ls", "/home", "/root").replace("/home:", "").replace("/root:", "").strip()
    devices = run(*within, "ls", "/dev").split()
    assert "null" in devices and "vda" not in devices and "mem" not in devices, devices


def opt_outs_and_spool_are_seen_to_by_the_readme():
    before = (ETC / "blacklist.toml").stat()
    # Its answer is "no", which is an exit code.
    shell(readme()[2].replace(" explain buyer@example.org ", " explain buyer@example.org || test $? = 1 "))
    eventually(lambda: is_refused("buyer@example.org"), "the opt-out is in force")
    after = (ETC / "blacklist.toml").stat()
    assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)
    says("opt-out list reloaded")
    assert show("ActiveState") == "active" and "2 opt-outs in force" in show("StatusText"), show("StatusText")


def a_group_member_changes_a_list_and_the_relay_still_reads_it():
    run("useradd", "-G", "optout-relay", "colleague")
    folder = ETC / "lists"
    folder.mkdir(mode=0o770)
    os.chmod(folder, 0o770)
    (folder / "shop.toml").write_text("")
    for path in (folder, folder / "shop.toml"):
        os.chown(path, 0, pwd.getpwnam("optout-relay").pw_gid)
    os.chmod(folder / "shop.toml", 0o660)
    configure('[opt_out]\nlists = ["blacklist.toml", "lists/shop.toml"]\n')
    run("systemctl", "restart", UNIT)
    shell(f"cd /; sudo -u colleague optout-relay list add colleague@example.org --list {folder}/shop.toml")
    eventually(lambda: is_refused("colleague@example.org"), "the opt-out of a colleague is in force")


def a_password_that_only_root_can_read():
    certify("smtp.shop.test", ETC / "host.pem", "/tmp/host.key")
    os.chmod(ETC / "host.pem", 0o644)
    url = "smtps://shop@smtp.shop.test:4650"
    configure(f'[upstream]\nurl = "{url}"\nca = "{ETC}/host.pem"\npassword = {{ credential = "smtp" }}\n')
    subprocess.run(["systemctl", "restart", UNIT], capture_output=True)
    says("upstream.password: is empty")
    assert show("ActiveState") == "activating"
    # It is tried again and again, so nobody needs to start it.
    shell(readme()[1].replace("sudo systemctl restart optout-relay", ""), f"{PASSWORD}\n")
    eventually(lambda: show("ActiveState") == "active", "it is up by itself")
    assert (ETC / "password").stat().st_mode & 0o777 == 0o600
    with host():
        mail("first@example.org")
        assert Host.seen == ["RCPT TO:<first@example.org>"], Host.seen
    pid = show("MainPID")
    told = [journal(), Path(f"/proc/{pid}/cmdline").read_text(), Path(f"/proc/{pid}/environ").read_text()]
    assert not any(PASSWORD in text for text in told)


def held_mail_outlives_a_restart():
    Host.seen.clear()
    # It keeps no connection to the host of before.
    run("systemctl", "restart", UNIT)
    mail("second@example.org")
    assert "1 held" in shell("cd /; sudo -u optout-relay optout-relay spool show")
    run("systemctl", "restart", UNIT)
    # Root's files would be in the relay's way.
    retry = subprocess.run(["optout-relay", "spool", "retry"], cwd="/", capture_output=True, text=True)
    assert retry.returncode == 74 and "run this as the relay's user" in retry.stderr, retry
    with host():
        shell("cd /; sudo -u optout-relay optout-relay spool retry")
        eventually(lambda: Host.seen == ["RCPT TO:<second@example.org>"], "it is delivered")
    assert STATE.stat().st_uid == pwd.getpwnam("optout-relay").pw_uid


def names_itself(port=2525):
    with smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
        trusts = ssl.create_default_context(cafile=str(ETC / "chain.pem"))
        trusts.check_hostname = False
        client.starttls(context=trusts)
        return client.sock.getpeercert()["subject"][0][0][1]


def a_renewed_certificate_is_in_force_by_itself():
    certify_us("old.shop.test")
    configure('[listen]\ncertificate = "chain.pem"\nkey = "key.pem"\n')
    run("systemctl", "restart", UNIT)
    assert names_itself() == "old.shop.test"
    certify_us("new.shop.test")
    says("certificate reloaded")
    assert names_itself() == "new.shop.test"


def a_tool_with_a_password_of_its_own():
    configure('[listen]\nusers = "users.toml"\nclients = []\ncertificate = "chain.pem"\nkey = "key.pem"\n')
    shell("cd /; sudo optout-relay user add feedback-tool", "tea for two\n")
    user = (ETC / "users.toml").stat()
    assert user.st_gid == pwd.getpwnam("optout-relay").pw_gid and user.st_mode & 0o777 == 0o640
    run("systemctl", "restart", UNIT)
    with smtplib.SMTP("localhost", 2525, timeout=PATIENCE) as client:
        client.login("feedback-tool", "tea for two")
        client.sendmail("shop@example.com", ["buyer@example.net"], "Subject: hello\r\n\r\nIt works.\r\n")


def one_that_hangs_is_started_anew():
    configure("")
    drop_in("WatchdogSec=1s\nRestartSec=100ms")
    run("systemctl", "restart", UNIT)
    pid, before = int(show("MainPID")), int(show("NRestarts"))
    # Each of these is told with a sign of life of its own, and all together take longer than the watchdog waits.
    for _ in range(2):
        with socket.create_connection(("localhost", 2525)):
            eventually(lambda: show("StatusText").endswith(" 1 session"), "the session is told")
        eventually(lambda: show("StatusText").endswith(" 0 sessions"), "its end is told")
    assert int(show("MainPID")) == pid, "it was killed although it lives"
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: int(show("NRestarts")) > before and show("ActiveState") == "active", "it is started anew")
    mail("after@example.org")
    says("Watchdog timeout")
    DROP_IN.unlink()


def a_stop_waits_for_mail_under_way():
    drop_in("TimeoutStopSec=1s")
    configure('shutdown_grace = "10s"\n')
    run("systemctl", "restart", UNIT)
    client = smtplib.SMTP("localhost", 2525, timeout=PATIENCE)
    client.ehlo()
    client.mail("shop@example.com")
    stop = subprocess.Popen(["systemctl", "stop", UNIT])
    eventually(lambda: show("ActiveState") == "deactivating", "it stops")
    # Longer than the unit would wait.
    time.sleep(2.5)
    client.rcpt("late@example.org")
    assert client.data("Subject: late\r\n\r\nx\r\n")[0] == 250
    assert stop.wait(PATIENCE) == 0 and show("Result") == "success" and show("ActiveState") == "inactive"
    DROP_IN.unlink()


def nobody_is_refused_while_it_is_started_anew():
    configure("")
    run("install", "-m", "644", "systemd/optout-relay.socket", "/etc/systemd/system/")
    run("systemctl", "daemon-reload")
    assert run("systemd-analyze", "verify", "optout-relay.socket") == ""
    text = Path("systemd/optout-relay.socket").read_text()
    shell(re.search(r"^#   (systemctl stop .*)$", text, re.MULTILINE)[1])
    says("systemd has handed over 127.0.0.1:2525 and [::1]:2525: that is listened on in place of `listen.smtp`")
    over, greeted, failures = threading.Event(), [0], []

    def knock(address):
        while not over.is_set():
            try:
                with socket.create_connection((address, 2525), timeout=PATIENCE) as tool:
                    greeting = tool.recv(4)
                    assert greeting == b"220 ", greeting
                    greeted[0] += 1
                    tool.sendall(b"QUIT\r\n")
                    tool.recv(100)
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
                return

    tools = [threading.Thread(target=knock, args=(address,)) for address in ("127.0.0.1", "::1") * 4]
    for tool in tools:
        tool.start()
    for _ in range(3):
        before = greeted[0]
        run("systemctl", "restart", UNIT)
        eventually(lambda: greeted[0] > before + 20, "tools are let in")
    over.set()
    for tool in tools:
        tool.join()
    assert not failures, failures
    mail("sockets@example.org")


def it_ends_without_a_trace_of_trouble():
    run("systemctl", "stop", "optout-relay.socket", UNIT)
    assert show("Result") == "success" and show("ActiveState") == "inactive"
    assert run("systemctl", "list-units", "--failed", "--no-legend") == ""
    assert "panicked" not in journal()


CHECKS = [
    the_readme_installs_it,
    everything_belongs_to_whom_it_should,
    the_sandbox_is_shut,
    opt_outs_and_spool_are_seen_to_by_the_readme,
    a_group_member_changes_a_list_and_the_relay_still_reads_it,
    a_password_that_only_root_can_read,
    held_mail_outlives_a_restart,
    a_renewed_certificate_is_in_force_by_itself,
    a_tool_with_a_password_of_its_own,
    one_that_hangs_is_started_anew,
    a_stop_waits_for_mail_under_way,
    nobody_is_refused_while_it_is_started_anew,
    it_ends_without_a_trace_of_trouble,
]


def main():
    names = socketserver.UDPServer(("127.0.0.1", 53), Names)
    threading.Thread(target=names.serve_forever, daemon=True).start()
    for check in CHECKS:
        begun, name = time.monotonic(), check.__name__.replace("_", " ")
        try:
            check()
        except (AssertionError, OSError, subprocess.SubprocessError, smtplib.SMTPException) as error:
            detail = getattr(error, "stderr", "") or ""
            print(f"FAIL  {name}\n{traceback.format_exc()}{detail}\n{journal()[-4000:]}")
            return 1
        print(f"ok    {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    return 0


sys.exit(main())
