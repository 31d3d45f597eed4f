"""Debian's pflogsumm reads the relay's log of `log.format = "postfix"`, and counts every ending as what it was.

usage: summary.py RELAY-BINARY FOLDER
"""

import re
import smtplib
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

from door import Report
from hosts import free_port, wait_for

# What the host says at RCPT, by the local part.
SAYS = {"busy": b"451 4.2.1 come back later\r\n", "nobody": b"550 5.1.1 no such user\r\n"}

LIST = """addresses = ["out@example.com"]
[[opt_out]]
address = "drop@example.com"
action = "drop"
[[opt_out]]
address = "bounce@example.com"
action = "bounce"
"""


class Host(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address = True, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 host.example ESMTP\r\n")
        in_data = False
        for line in self.rfile:
            if in_data:
                in_data = line != b".\r\n"
                if not in_data:
                    self.wfile.write(b"250 2.0.0 queued\r\n")
            elif line.upper().startswith(b"DATA"):
                in_data = True
                self.wfile.write(b"354 go on\r\n")
            elif line.upper().startswith(b"RCPT"):
                local = re.search(rb"<([^@>]*)", line)[1].decode()
                self.wfile.write(SAYS.get(local, b"250 2.1.5 ok\r\n"))
            else:
                self.wfile.write(b"250 ok\r\n")


def relay(binary, folder, host):
    folder.mkdir()
    port, log = free_port(), folder / "mail.log"
    (folder / "blacklist.toml").write_text(LIST)
    (folder / "relay.toml").write_text(
        f'hostname = "relay.example"\nstate_dir = "{folder}/var"\n[upstream]\nurl = "smtp://127.0.0.1:{host}"\n'
        f'[listen]\nsmtp = ["127.0.0.1:{port}"]\n[log]\nformat = "postfix"\n'
    )
    process = subprocess.Popen(
        [binary, "serve", "--config", folder / "relay.toml"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=log.open("wb"),
    )  # fmt: skip
    wait_for("start the relay", lambda: "started listen=" in log.read_text() or process.poll() is not None)
    return process, port, log


def send(port, *recipients):
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        try:
            client.sendmail("shop@shop.example", recipients, f"Subject: x\r\nMessage-ID: <{recipients[0]}>\r\n\r\nx\r\n")
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError):
            pass


def total(summary, what):
    found = re.search(rf"^ *(\d+) +{what}\b", summary, re.MULTILINE)
    return int(found[1]) if found else None


def main(binary, folder):
    report = Report()
    process, port, log = relay(binary, folder / "summary", Host().port)
    try:
        for names in (["in"], ["also", "in"], ["out", "in"], ["drop", "in"], ["bounce"], ["nobody"], ["busy"]):
            send(port, *(f"{name}@example.com" for name in names))
        # The report about the bounce goes out by itself.
        wait_for("send the report", lambda: "to=<shop@shop.example>" in log.read_text())
    finally:
        process.terminate()
        process.wait(60)
    text = log.read_text()
    summary = subprocess.run(["pflogsumm", log], capture_output=True, text=True, check=True)
    report.check("pflogsumm has nothing to say against the log", not summary.stderr, summary.stderr)
    expected = {"received": 7, "delivered": 6, "deferred": 1, "bounced": 2, "rejected": 1, "discarded": 1, "senders": 1, "recipients": 3}
    for what, count in expected.items():
        found = total(summary.stdout, what)
        report.check(f"{count} {what}", found == count, f"{found}\n{summary.stdout}\n{text}")
    for words in ("Recipient address opted out", "Recipient address rejected: opted out", "recipient has opted out", "no such user",
                  "come back later", "shop@shop.example"):  # fmt: skip
        report.check(f"it tells of {words!r}", words in summary.stdout, summary.stdout)
    report.check("each message is told to its end", text.count(": removed") == 7, text)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
