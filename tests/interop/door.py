"""Whoever knocks: real clients that encrypt and log in, scanners that look for holes, and one session of each hostile kind.

usage: door.py RELAY-BINARY FOLDER
"""

import json
import os
import re
import smtplib
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from hosts import free_port, wait_for

PASSWORD = "correct horse battery staple"
MAIL = b"Subject: hello\r\n\r\nIt works.\r\n"

# nmap's own scripts would pass by a port that is not 25; the plus makes them look.
SCRIPTS = "smtp-open-relay smtp-enum-users smtp-commands smtp-ntlm-info smtp-vuln-cve2010-4344 smtp-vuln-cve2011-1720 smtp-vuln-cve2011-1764"
TRANSACTION = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"

# Findings of testssl that speak of the certificate of this test, not of the relay.
OF_THE_CERTIFICATE = {"cert_crlDistributionPoints", "cert_ocspURL", "cert_revocation", "OCSP_stapling", "DNS_CAArecord",
                      "certificate_transparency", "cert_expirationStatus", "cert_chain_of_trust", "cert_validityPeriod"}  # fmt: skip

HOSTILE = {
    "a browser": b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nEHLO x\r\n",
    "TLS in the clear": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "noise": bytes(range(256)) * 300,
    "an endless line": b"x" * 3_000_000,
    "an endless argument": b"MAIL FROM:<" + b"a" * 3_000_000,
    "NUL and 8-bit in commands": b"EHLO \0\xff\r\nMAIL FROM:<\xff@b>\r\nNOOP\0\r\n",
    "bare line ends": b"EHLO x\nMAIL FROM:<a@b>\rRCPT TO:<c@d>\n\r\n",
    "a huge size": b"EHLO x\r\nMAIL FROM:<a@b.example> SIZE=999999999999999999999\r\n",
    "a body without an end": TRANSACTION + b"DATA\r\n" + b"y" * 30_000_000,
    "a body that is too large": TRANSACTION + b"DATA\r\n" + b"y\r\n" * 10_000_000 + b".\r\nQUIT\r\n",
    "ends of data that are none": TRANSACTION + b"DATA\r\na\n.\nb\r.\rc\n.\r\nMAIL FROM:<smuggled@b.example>\r\n\r\n.\r\nQUIT\r\n",
    "a million NOOPs": b"NOOP\r\n" * 1_000_000,
    "a million recipients": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 200_000,
    "AUTH without an end": b"EHLO x\r\nAUTH PLAIN " + b"A" * 3_000_000 + b"\r\n",
    "AUTH of noise": b"EHLO x\r\nAUTH LOGIN\r\n////\r\nAUTH PLAIN /w==\r\nAUTH PLAIN AAAA\r\n*\r\n",
    "commands behind STARTTLS": b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<smuggled@b.example>\r\n",
    "BDAT": TRANSACTION + b"BDAT 10 LAST\r\n0123456789",
    "a header without an end": TRANSACTION + b"DATA\r\n" + b"X: y\r\n" * 300_000 + b"\r\n.\r\nQUIT\r\n",
    "nothing at all": b"",
}


class Relay:
    def __init__(self, binary, folder, name, keys):
        self.binary, self.folder, self.talk = binary, folder / name, folder / f"{name}.talk"
        self.folder.mkdir()
        self.port, self.submissions = free_port(), free_port()
        (self.folder / "blacklist.toml").write_text('addresses = ["out@example.com"]\n')
        (self.folder / "relay.toml").write_text(
            f"""
            hostname  = "localhost"
            state_dir = "{self.folder}/var"
            [upstream]
            url = "file:{self.folder}/outbox"
            [listen]
            smtp = ["127.0.0.1:{self.port}"]
            submissions = ["127.0.0.1:{self.submissions}"]
            certificate = "{folder}/chain.pem"
            key = "{folder}/key.pem"
            """
            + keys
        )
        if "users" in keys:
            self.command("user", "add", "tool", "--senders", "*@shop.example", input=f"{PASSWORD}\n".encode())
        self.process = subprocess.Popen(
            [binary, "serve", "--config", self.folder / "relay.toml"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.talk.open("wb"),
        )  # fmt: skip
        wait_for("start the relay", lambda: "started listen=" in self.talk.read_text() or self.process.poll() is not None)

    def command(self, *words, **how):
        subprocess.run([self.binary, "--config", self.folder / "relay.toml", *words], check=True, **how)

    def outbox(self):
        return [json.loads(path.read_text()) for path in sorted((self.folder / "outbox").glob("*.json"))]

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


class Report:
    passed = failed = 0

    def check(self, what, holds, otherwise=""):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"{'ok  ' if holds else 'FAIL'}  {what}" + ("" if holds else f": {otherwise}"), flush=True)


def certify(folder):
    call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "chain.pem"]
    subprocess.run(call + more, check=True, capture_output=True)


def run(*words, **how):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **how)


def clients(report, relay, folder):
    """Each logs in over TLS and hands one mail in."""
    (folder / "mail").write_bytes(MAIL)
    (folder / "password").write_text(PASSWORD)
    sender, recipient, chain = "me@shop.example", "buyer@example.com", str(folder / "chain.pem")
    swaks = ["swaks", "--to", recipient, "--from", sender, "--server", "localhost", "--data", f"@{folder}/mail", "--auth-user", "tool",
             "--auth-password", PASSWORD, "--tls-verify", "--tls-ca-path", chain, "--silent", "2"]  # fmt: skip
    curl = ["curl", "-sS", "--cacert", chain, "--mail-from", sender, "--mail-rcpt", recipient, "-T", f"{folder}/mail",
            "--user", f"tool:{PASSWORD}"]  # fmt: skip
    msmtp = ["msmtp", "--host=localhost", f"--port={relay.port}", "--auth=on", "--user=tool", f"--passwordeval=cat {folder}/password",
             "--tls=on", f"--tls-trust-file={chain}", f"--from={sender}", recipient]  # fmt: skip
    for name, words, input in [
        ("swaks, STARTTLS, PLAIN", swaks + ["--port", str(relay.port), "--tls", "--auth", "PLAIN"], None),
        ("swaks, TLS at once, LOGIN", swaks + ["--port", str(relay.submissions), "--tls-on-connect", "--auth", "LOGIN"], None),
        ("curl, STARTTLS", curl + ["--ssl-reqd", f"smtp://localhost:{relay.port}"], None),
        ("curl, TLS at once", curl + [f"smtps://localhost:{relay.submissions}"], None),
        ("msmtp, STARTTLS", msmtp, MAIL.decode()),
    ]:
        before = len(relay.outbox())
        done = run(*words, input=input)
        report.check(name, done.returncode == 0 and len(relay.outbox()) == before + 1, done.stdout + done.stderr)
    trusts = ssl.create_default_context(cafile=chain)
    with smtplib.SMTP("localhost", relay.port) as tool:
        tool.starttls(context=trusts)
        tool.login("tool", PASSWORD)
        report.check("smtplib, STARTTLS", tool.sendmail(sender, [recipient], MAIL) == {})
        code, text = tool.mail("me@elsewhere.example")
        report.check("smtplib, somebody else's sender is refused", code == 553, f"{code} {text}")
    with smtplib.SMTP_SSL("localhost", relay.submissions, context=trusts) as tool:
        tool.ehlo()
        codes = [tool.docmd("AUTH", "PLAIN AHRvb2wAd3Jvbmc=")[0] for _ in range(3)]
        report.check("smtplib, a wrong password three times", codes == [535, 535, 421], codes)
    log = relay.talk.read_text()
    report.check("the log tells of wrong passwords, and never one", "login failed" in log and PASSWORD not in log and "wrong\n" not in log)


def scan(report, relay, folder):
    scripts = ",".join(f"+{script}" for script in SCRIPTS.split())
    found = run("nmap", "-Pn", "-p", str(relay.port), "--script", scripts, "127.0.0.1").stdout
    closed = "isn't an open relay" in found and "authentication needed" in found
    report.check("nmap: no open relay, no users told, no known hole", closed and "VULNERABLE:" not in found, found)
    words = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--severity", "MEDIUM", "--add-ca", str(folder / "chain.pem")]
    for name, more in [("STARTTLS", ["-t", "smtp", f"localhost:{relay.port}"]), ("TLS at once", [f"localhost:{relay.submissions}"])]:
        file = folder / f"testssl-{len(more)}.json"
        run(*words, "-S", "-p", "-s", "-f", "-U", "--jsonfile", str(file), *more)
        found = [finding for finding in json.loads(file.read_text()) if finding["id"] not in OF_THE_CERTIFICATE]
        bad = [f"{finding['id']} {finding['severity']}: {finding['finding']}" for finding in found
               if finding["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")]  # fmt: skip
        # A scanner that did not get through finds nothing.
        report.check(f"testssl, {name}: no finding above low", file.exists() and not bad, bad)
        looked = run(*words[:-4], "-p", "--jsonfile", str(file) + ".all", *more).stdout
        report.check(f"testssl, {name}: TLS 1.2 and 1.3, nothing older",
                     all(re.search(line, looked) for line in (r"TLS 1\s+not offered", r"TLS 1\.1\s+not offered", r"TLS 1\.2\s+offered", r"TLS 1\.3\s+offered")), looked)  # fmt: skip


def hostile(report, relay):
    """Whatever comes, the relay lives, says nothing of a panic, and takes the next mail."""
    for name, wire in HOSTILE.items():
        with socket.create_connection(("127.0.0.1", relay.port)) as stream:
            stream.settimeout(30)
            try:
                stream.sendall(wire)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65536):
                    pass
            except OSError:
                # It may hang up before it has heard everything.
                pass
        before = len(relay.outbox())
        with smtplib.SMTP("127.0.0.1", relay.port) as tool:
            tool.sendmail("a@b.example", ["after@d.example"], MAIL)
        envelopes = relay.outbox()
        smuggled = [envelope for envelope in envelopes if "smuggled" in envelope["sender"]]
        report.check(f"after {name}", len(envelopes) == before + 1 and not smuggled and relay.process.poll() is None, envelopes[before:])
    log = relay.talk.read_text()
    report.check("nothing has panicked", "panicked" not in log, log)


def main(binary, folder):
    report, folder = Report(), Path(folder) / "door"
    folder.mkdir()
    certify(folder)
    strict = Relay(binary, folder, "strict", 'clients = ["10.9.0.0/16"]\nusers = "users.toml"\n')
    clients(report, strict, folder)
    scan(report, strict, folder)
    report.check("it stops with 0", strict.stop() == 0, strict.talk.read_text())
    open_to_us = Relay(binary, folder, "trusting", "")
    hostile(report, open_to_us)
    report.check("it stops with 0 after all of them", open_to_us.stop() == 0, open_to_us.talk.read_text())
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1]), sys.argv[2]))
