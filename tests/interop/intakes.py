"""Every way by which a notice comes in: our own address, a folder, the command, a real Dovecot; and then a mail to its buyer.

usage: intakes.py RELAY-BINARY FOLDER
"""

import imaplib
import json
import pwd
import smtplib
import ssl
import subprocess
import sys
import time
from pathlib import Path

from door import Report
from hosts import free_port, wait_for

PASSWORD = 'correct "horse" battery'
SOON = 2

NOTICE = """From: Amazon <auto-communication@amazon.com>
To: shop@shop.example
Date: Wed, 25 Nov 2026 08:00:00 +0000
Subject: Your e-mail could not be delivered [{order}]
Message-ID: <{id}@amazon.com>
X-Space-Notification-Type: BUYER_OPTED_OUT_BSM_MESSAGES
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="b1"

--b1
Content-Type: text/html; charset=UTF-8
Content-Transfer-Encoding: quoted-printable

<p>Your message could not be delivered, because t=
he buyer has chosen to opt out of receiving unsolicited messages.</p><a hr=
ef=3D"mailto:{buyer}@market=
place.amazon.it?subject=3Dx">contact</a>
--b1--
""".replace("\n", "\r\n")


def certify(folder):
    """An authority, `ca.pem`, and what it says of localhost, `chain.pem`."""
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90"]
    authority = ["-subj", "/CN=authority", "-keyout", folder / "ca-key.pem", "-out", folder / "ca.pem"]
    leaf = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", folder / "ca.pem", "-CAkey", folder / "ca-key.pem", "-keyout", folder / "key.pem", "-out", folder / "chain.pem"]  # fmt: skip
    for words in (authority, leaf):
        subprocess.run(new + words, check=True, capture_output=True)


def notice(buyer, order="404-1234567-7654321"):
    return NOTICE.format(buyer=buyer, order=order, id=buyer).encode()


def other(sender="someone@example.com", size=10):
    return f"From: {sender}\r\nSubject: hello\r\n\r\n{'x' * size}\r\n".encode()


class Dovecot:
    """Of its own, with one user, in a Maildir; TLS from the first byte and STARTTLS."""

    def __init__(self, folder, capabilities=""):
        self.folder, self.tls, self.plain = folder / f"dovecot{bool(capabilities)}", free_port(), free_port()
        self.mail = self.folder / "mail"
        for path in (self.folder, self.mail, self.folder / "run"):
            path.mkdir()
        user = pwd.getpwnam("nobody")
        (self.folder / "users").write_text(f"shop:{{PLAIN}}{PASSWORD}::::::\n")
        (self.folder / "dovecot.conf").write_text(
            f"""
            base_dir = {self.folder}/run
            log_path = {self.folder}/log
            protocols = imap
            ssl = yes
            ssl_cert = <{folder}/chain.pem
            ssl_key = <{folder}/key.pem
            disable_plaintext_auth = yes
            auth_mechanisms = plain login
            default_login_user = nobody
            default_internal_user = nobody
            default_internal_group = nogroup
            first_valid_uid = 1
            mail_location = maildir:{self.mail}
            {f"imap_capability = {capabilities}" if capabilities else ""}
            passdb {{
              driver = passwd-file
              args = {self.folder}/users
            }}
            userdb {{
              driver = static
              args = uid={user.pw_uid} gid={user.pw_gid} home={self.folder}
            }}
            service anvil {{
              chroot =
            }}
            service imap-login {{
              chroot =
              inet_listener imap {{
                address = 127.0.0.1
                port = {self.plain}
              }}
              inet_listener imaps {{
                address = 127.0.0.1
                port = {self.tls}
                ssl = yes
              }}
            }}
            """
        )
        subprocess.run(["chown", "-R", "nobody", self.mail, self.folder], check=True)
        self.start()

    def start(self):
        self.process = subprocess.Popen(["dovecot", "-F", "-c", self.folder / "dovecot.conf"], stdout=subprocess.DEVNULL)
        wait_for("start Dovecot", self.is_there)

    def is_there(self):
        try:
            return self.client().logout()
        except OSError:
            return False

    def client(self):
        context = ssl.create_default_context(cafile=self.folder.parent / "ca.pem")
        client = imaplib.IMAP4_SSL("localhost", self.tls, ssl_context=context, timeout=30)
        client.login("shop", PASSWORD)
        return client

    def put(self, *mails):
        client = self.client()
        for mail in mails:
            assert client.append("INBOX", None, None, mail)[0] == "OK"
        client.logout()

    def flags(self, folder="INBOX"):
        """The senders of all mails, and whether each was seen."""
        client = self.client()
        client.select(folder, readonly=True)
        found = []
        for uid in client.uid("search", None, "ALL")[1][0].split():
            parts = client.uid("fetch", uid, "(FLAGS BODY.PEEK[HEADER.FIELDS (FROM)])")[1]
            seen = any(b"\\Seen" in (part if isinstance(part, bytes) else part[0]) for part in parts)
            found.append(("amazon" if any(b"auto-communication@amazon" in part[1] for part in parts if isinstance(part, tuple)) else "other", seen))
        client.logout()
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Relay:
    def __init__(self, binary, folder, name, keys):
        self.binary, self.folder, self.port, self.keys = binary, folder / name, free_port(), keys
        self.talk = self.folder / "talk"
        (self.folder / "notices").mkdir(parents=True)
        (self.folder / "password").write_text(PASSWORD + "\n")
        (self.folder / "blacklist.toml").write_text("")
        (self.folder / "relay.toml").write_text(
            f"""
            hostname  = "localhost"
            state_dir = "{self.folder}/var"
            [listen]
            smtp = ["127.0.0.1:{self.port}"]
            [upstream]
            url = "file:{self.folder}/outbox"
            [learn]
            folder = "notices"
            {keys}
            """
        )
        self.start()

    def start(self):
        self.talk.write_text("")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--config", self.folder / "relay.toml"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.talk.open("ab"),
        )  # fmt: skip
        wait_for("start the relay", lambda: "started listen=" in self.talk.read_text() or self.process.poll() is not None)

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)

    def mail(self, to, content=b"Subject: hello\r\n\r\nx\r\n"):
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.ehlo()
            client.mail("shop@shop.example")
            code, text = client.rcpt(to)
            return (code, text.decode()) if code != 250 else tuple(part if isinstance(part, int) else part.decode() for part in client.data(content))

    def is_suppressed(self, buyer):
        return self.mail(f"{buyer}@marketplace.amazon.it")[0] == 550

    def last_line(self):
        return json.loads((self.folder / "var/log/suppressed.jsonl").read_text().splitlines()[-1])


def suppressed_soon(report, what, relay, buyer):
    """The mail is refused within two seconds of the notice, and the log names the notice."""
    begun = time.monotonic()
    try:
        # What the relay tells is in force.
        wait_for(what, lambda: f": {buyer}@" in relay.talk.read_text())
        holds = relay.is_suppressed(buyer)
    except TimeoutError:
        holds = False
    took = time.monotonic() - begun
    line = relay.last_line() if holds else {}
    named = holds and line["rule"]["file"].endswith("learned.toml") and line["source"] == f"notice <{buyer}@amazon.com>"
    report.check(f"{what}: suppressed after {took:.2f} s, by its notice", named and took < SOON, f"{line}, see {relay.talk}")


def four_ways(report, relay, dovecot):
    reply = relay.mail("optout@relay.local", notice("byaddress"))
    report.check("the reply says what was learned", reply[0] == 250 and "learned: byaddress@marketplace.amazon.it opted out" in reply[1], reply)
    suppressed_soon(report, "a notice to our own address", relay, "byaddress")
    (relay.folder / "notices/x.eml").write_bytes(notice("byfolder"))
    suppressed_soon(report, "a notice in the folder", relay, "byfolder")
    command = [relay.binary, "--config", relay.folder / "relay.toml", "learn"]
    done = subprocess.run([*command, "-"], input=notice("bycommand"), capture_output=True)
    report.check("the command says what it sees and why", b"X-Space-Notification-Type" in done.stdout and done.returncode == 0, done)
    begun = time.monotonic()
    wait_for("the list", lambda: relay.is_suppressed("bycommand"), SOON)
    line = relay.last_line()
    report.check(f"a notice given to the command: suppressed after {time.monotonic() - begun:.2f} s, by its notice",
                 line["source"] == "notice <bycommand@amazon.com>", line)  # fmt: skip
    dovecot.put(notice("byimap"))
    suppressed_soon(report, "a notice in the mailbox", relay, "byimap")


def mailbox(report, relay, dovecot):
    many = [other() for _ in range(17)] + [other("auto-communication@amazon.com"), other("x@evil.example, auto-communication@amazon.com")]
    dovecot.put(*many, notice("first"), notice("second"))
    suppressed_soon(report, "two notices among many mails", relay, "second")
    wait_for("the marks", lambda: dovecot.flags().count(("amazon", True)) >= 3)
    flags = dovecot.flags()
    report.check("notices are seen, all others are as they were", flags.count(("amazon", True)) == 3 and ("other", True) not in flags, flags)
    relay.stop()
    dovecot.put(notice("whileaway"))
    looked = relay.talk.read_text().count("from the mailbox")
    relay.start()
    suppressed_soon(report, "a notice that came while the relay was away", relay, "whileaway")
    report.check("nothing is asked for twice", relay.talk.read_text().count("from the mailbox") == 1, looked)
    dovecot.stop()
    wait_for("the trouble", lambda: "no notices from the mailbox for now" in relay.talk.read_text())
    dovecot.start()
    dovecot.put(notice("afterwards"))
    wait_for("the mailbox again", lambda: "the mailbox is there again" in relay.talk.read_text(), 60)
    suppressed_soon(report, "a notice after the server was away", relay, "afterwards")
    # Larger than any notice.
    dovecot.put(other("auto-communication@amazon.com", 11 << 20), notice("behindalarge"))
    suppressed_soon(report, "a notice behind a mail that is too large", relay, "behindalarge")
    # Another validity: all is looked at again, and nothing is learned twice.
    relay.stop()
    place = relay.folder / "var/imap.json"
    known = json.loads(place.read_text())
    place.write_text(json.dumps({**known, "validity": known["validity"] + 1}))
    relay.start()
    dovecot.put(notice("newvalidity"))
    suppressed_soon(report, "a notice under another validity", relay, "newvalidity")
    text = (relay.folder / "var/learned.toml").read_text()
    report.check("nothing is learned twice", text.count('"first@marketplace') == 1, text)
    report.check("no password in the log", PASSWORD not in relay.talk.read_text())


def moved(report, binary, folder, dovecot, name):
    dovecot.client().create("Handled")
    relay = Relay(binary, folder, name, imap_keys(folder, f"imap://shop@localhost:{dovecot.plain}", 'move_to = "Handled"'))
    dovecot.put(other(), notice(f"{name}moved"))
    suppressed_soon(report, f"{name}: a notice from a server on this machine, in the clear", relay, f"{name}moved")
    # Notices that were learned before lie there as well.
    kept = name == "copy"
    wait_for("the move", lambda: dovecot.flags("Handled") and (("amazon", True) in dovecot.flags()) == kept)
    report.check(f"{name}: it lies in the other folder, {'and is seen in its own' if kept else 'and nowhere else'}",
                 ("other", True) not in dovecot.flags(), dovecot.flags())  # fmt: skip
    relay.stop()


def imap_keys(folder, url, more=""):
    return f"""
            [learn.imap]
            url = "{url}"
            password = {{ file = "password" }}
            ca = "{folder}/ca.pem"
            poll = "200ms"
            {more}
            """


def refused(report, binary, folder, dovecot):
    """What must not come about: each says why."""
    for what, url, password, ca, words in [
        ("a wrong password", f"imaps://shop@localhost:{dovecot.tls}", "wrong", f"{folder}/ca.pem", "the server refuses user and password"),
        ("a certificate of nobody", f"imaps://shop@localhost:{dovecot.tls}", PASSWORD, "/etc/ssl/certs/ca-certificates.crt", "TLS: "),
        ("another name", f"imaps://shop@127.0.0.1:{dovecot.tls}", PASSWORD, f"{folder}/ca.pem", "TLS: "),
    ]:
        name = "".join(word[0] for word in what.split())
        relay = Relay(binary, folder, f"no-{name}", f'[learn.imap]\nurl = "{url}"\npassword = {{ file = "password" }}\nca = "{ca}"')
        relay.stop()
        (relay.folder / "password").write_text(password)
        relay.start()
        try:
            wait_for(what, lambda: f"no notices from the mailbox for now: {words}" in relay.talk.read_text(), 20)
            holds = True
        except TimeoutError:
            holds = False
        report.check(f"{what} is refused and told", holds, relay.talk.read_text())
        relay.stop()


def main(binary, folder):
    report = Report()
    folder = folder / "intakes"
    folder.mkdir()
    folder.chmod(0o755)
    certify(folder)
    dovecot = Dovecot(folder)
    relay = Relay(binary, folder, "relay", imap_keys(folder, f"imaps://shop@localhost:{dovecot.tls}"))
    try:
        four_ways(report, relay, dovecot)
        mailbox(report, relay, dovecot)
        relay.stop()
        refused(report, binary, folder, dovecot)
        moved(report, binary, folder, dovecot, "move")
        dovecot.stop()
        dovecot = Dovecot(folder, "IMAP4rev1 LITERAL+ SASL-IR")
        moved(report, binary, folder, dovecot, "copy")
    finally:
        dovecot.stop()
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return report.failed > 0


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve()), Path(sys.argv[2])))
