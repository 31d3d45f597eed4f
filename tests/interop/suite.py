"""Every client through the relay to every host, every kind of mail: what arrives, where, and what the log says.

The relay stands between two taps (wire.py), so what is compared is what the client really put on the wire, what the
relay really put on the wire, and what the host really stored.

usage: suite.py RELAY-BINARY FOLDER
"""

import collections
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from clients import CLIENTS, Smtplib
from hosts import FOLDED_FIELD, PATIENCE, Postfix, Sink, wait_for
from mails import ATTACHMENT_SIZE, BLACKLIST, CASES, OPTED_OUT, expected, spelling
from wire import Tap

TRACE = re.compile(rb"Received: from (?:[^\n]*\r\n)(?:[ \t][^\n]*\r\n)*")
HASHED = {name: hashlib.sha256(f"{name}@clear.example".encode()).hexdigest() for name in ("hashed", "silent")}


class Relay:
    """The program under test with a configuration and a folder of its own: client, tap, relay, tap, host."""

    def __init__(self, binary, folder, name, port, upstream="smtp://127.0.0.1:{port}", keys="", **environment):
        self.name, folder = name, folder / f"relay-{name}"
        self.encrypted = bool(keys)
        folder.mkdir()
        self.behind = Tap(port)
        (folder / "blacklist.toml").write_text(BLACKLIST.format(**HASHED))
        (folder / "relay.toml").write_text(
            f"""
            hostname  = "relay.example"
            state_dir = "{folder}/var"
            [listen]
            smtp = ["127.0.0.1:0"]
            [upstream]
            url = "{upstream.format(port=self.behind.port)}"
            """
            + keys
        )
        self.talk = folder / "talk"
        self.suppressed = folder / "var" / "log" / "suppressed.jsonl"
        self.spool = folder / "var" / "spool"
        self.process = subprocess.Popen(
            [binary, "serve", "--config", folder / "relay.toml"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.talk.open("wb"),
            env={**os.environ, **environment},
        )  # fmt: skip
        wait_for("start the relay", lambda: self.process.poll() is not None or self.place())
        if not self.place():
            raise RuntimeError(f"the relay does not start: {self.talk.read_text()}")
        self.before = Tap(int(self.place()[1]))

    def place(self):
        return re.search(r"listens on +127\.0\.0\.1:(\d+)", self.talk.read_text())

    def logged(self, sender=None):
        """Who stands in the suppression log, once for each line."""
        events = [json.loads(line) for line in self.suppressed.read_text().splitlines()]
        return [event["recipient"] for event in events if sender in (None, event["sender"])]

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.before.close()
            self.behind.close()


class Broken(Exception):
    """A promise that was not kept."""


def demand(kept, otherwise):
    if not kept:
        raise Broken(otherwise)


def difference(expected, found):
    """Where two byte strings part, for whoever has to find out why."""
    at = next((i for i, (one, other) in enumerate(zip(expected, found)) if one != other), min(len(expected), len(found)))
    near = slice(max(0, at - 20), at + 40)
    return f"{len(expected)} and {len(found)} bytes, apart from byte {at} on: {expected[near]!r} became {found[near]!r}"


def same_list(expected, found, what):
    expected, found = collections.Counter(expected), collections.Counter(found)
    missing, surplus = list((expected - found).elements()), list((found - expected).elements())
    demand(not missing and not surplus, f"{what}: missing {missing}, too many {surplus}")


def without_trace(stored):
    trace = TRACE.match(stored)
    demand(trace, f"no Received of the relay in front: {stored[:80]!r}")
    demand(b"by relay.example with " in trace[0], f"not the relay's Received: {trace[0]!r}")
    return stored[trace.end() :]


def sender_of(relay, client, case):
    """Of its own for every mail, so that everything that is found can be told apart by it."""
    return f"{client.name}.{CASES.index(case)}@{relay.name}.example"


def send(relay, client, case):
    done = client.send(relay.before.port, case.mail(sender_of(relay, client, case)))
    wait_for("the end of the dialogue", lambda: all(talk.over.is_set() for talk in relay.before.conversations))
    return done


def one_mail(relay, host, client, case):
    """Sends one mail and checks everything that can be seen of it; what there is to say of it, or `Broken`."""
    sender = sender_of(relay, client, case)
    done = send(relay, client, case)
    want = expected(client, host, case.recipients)
    demand(done == want.taken, f"{client.name} says {'sent' if done else 'not sent'}: {client.said.strip()}")

    # What the client said: RCPT for everybody, unless it gave up on the way.
    came = relay.before.transactions(sender)
    named = [spelling(recipient) for mail in came for recipient in mail.recipients]
    if want.taken:
        same_list(map(spelling, case.recipients), named, "recipients named by the client")
        demand(case.shows(came[0]), f"{client.name} did not send what this case is about")
    suppressed = [recipient for recipient in named if recipient in want.suppressed]
    same_list(suppressed, map(spelling, relay.logged(sender)), "suppression log")

    # What the relay said to the host, where it can be read.
    went = [] if relay.encrypted else [mail for mail in relay.behind.transactions(sender) if mail.body is not None]
    demand(len(went) == bool(want.copies) or relay.encrypted, f"{len(went)} transactions with the host")
    stored = host.wait_for_copies(sender, len(want.copies))
    if not want.copies:
        demand(not stored, "something arrived")
        return "nothing leaves"
    clear = [recipient for recipient in came[0].recipients if spelling(recipient) in want.copies]
    for mail in went:
        same_list(clear, mail.recipients, "recipients named to the host")
        declared = "BODY=8BITMIME" in mail.parameters
        demand(declared == (not mail.body.isascii()), f"8-bit or not, and said so or not: MAIL FROM {mail.parameters}")
        sent = without_trace(mail.body)
        demand(sent == came[0].body, f"on the wire: {difference(came[0].body, sent)}")

    # What the host has.
    same_list(clear, [recipient for mail in stored for recipient in mail.recipients], "recipients who got it")
    for mail in stored:
        content = without_trace(mail.content)
        demand(content == came[0].content(), f"as stored: {difference(came[0].content(), content)}")
    return f"{len(clear)} × {len(came[0].content())} bytes, {len(suppressed)} suppressed"


def nobody_was_mailed(relay, host):
    """Over all that was sent: no opted-out address was named to the host, as far as can be read, and none got anything."""
    host.settle()
    spoken = [] if relay.encrypted else relay.behind.transactions()
    named = [recipient for mail in spoken for recipient in mail.recipients]
    got = [recipient for mail in host.arrived() for recipient in mail.recipients]
    demand(got and (named or relay.encrypted), "nothing was sent at all")
    folded = {recipient.casefold() for recipient in OPTED_OUT}
    mailed = [recipient for recipient in named + got if recipient.casefold() in folded]
    demand(not mailed, f"mailed although opted out: {mailed}")
    return f"{len(got)} copies"


def nothing_in_the_clear(relay, host):
    """What is encrypted cannot be read by a tap: neither the mail nor the login."""
    wire = b"".join(bytes(talk.sent) for talk in relay.behind.conversations)
    demand(wire, "the host was not even asked")
    for secret in (b"MAIL FROM", b"AUTH", b"Subject:"):
        demand(secret not in wire, f"{secret.decode()} can be read on the wire")
    demand(host.password not in relay.talk.read_text(), "the relay tells the password")
    return f"{len(wire)} bytes"


def put_off(relay, host, client):
    """The host cannot be trusted or does not trust us: the mail is held, its bytes on disk, and nothing can be read."""
    demand(send(relay, client, CASES[0]), f"{client.name} heard {client.said}")
    held = [path.read_bytes() for path in relay.spool.glob("*.msg")]
    came = relay.before.transactions(sender_of(relay, client, CASES[0]))
    demand([without_trace(mail) for mail in held] == [mail.body for mail in came], f"{len(held)} messages are held")
    host.settle()
    demand(not host.arrived(sender_of(relay, client, CASES[0])), "something arrived")
    nothing_in_the_clear(relay, host)
    return f"held, {len(held[0])} bytes"


def stops_cleanly(relay):
    status = relay.stop()
    demand(status == 0, f"exit status {status}")
    talk = relay.talk.read_text()
    demand("panicked" not in talk, f"it panicked: {talk[-2000:]}")
    return "exit status 0"


class Report:
    """One line a check, and the count."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, promise, *arguments):
        begun = time.monotonic()
        try:
            word, remark = "ok  ", promise(*arguments)
            self.passed += 1
        except Exception as error:  # Whatever went wrong, it is this check that failed, and the others go on.
            word, remark = "FAIL", f"{type(error).__name__}: {error}"
            self.failed += 1
        print(f"{word}  {name:<66} {time.monotonic() - begun:5.1f} s  {remark}", flush=True)


def in_the_clear(report, stack, binary, folder, host, clients):
    """Every client, every case."""
    relay = Relay(binary, folder, host.name, host.port)
    stack.callback(relay.process.kill)
    for client in clients:
        for case in CASES:
            report.check(f"{client.name} → {host.name}: {case.name}", one_mail, relay, host, client, case)
    report.check(f"{host.name}: nobody who opted out was mailed", nobody_was_mailed, relay, host)
    report.check(f"{host.name}: the relay stops when it is told to", stops_cleanly, relay)


def encrypted(report, stack, binary, folder, host, client):
    """STARTTLS and smtps with a login, and what may go wrong with either."""
    # On loopback STARTTLS is not demanded, so the host has a name that only this relay knows.
    (folder / "hosts").write_text("127.0.0.1 mail.host.example\n")
    names = {"LD_PRELOAD": "libnss_wrapper.so", "NSS_WRAPPER_HOSTS": str(folder / "hosts")}
    starttls, smtps = "smtp://mail.host.example:{port}", "smtps://localhost:{port}"

    def relay(name, port, upstream, ca="ca", password=host.password):
        keys = f"""
            user = "{host.user}"
            password = {{ env = "HOST_PASSWORD" }}
            ca = "{host.etc}/{ca}.pem"
            """
        relay = Relay(binary, folder, name, port, upstream, keys, HOST_PASSWORD=password, **names)
        stack.callback(relay.process.kill)
        return relay

    for name, port, upstream in (("starttls", host.starttls_port, starttls), ("smtps", host.smtps_port, smtps)):
        good = relay(name, port, upstream)
        for case in CASES:
            report.check(f"{client.name} → {host.name}, {name}: {case.name}", one_mail, good, host, client, case)
        report.check(f"{host.name}, {name}: nobody who opted out was mailed", nobody_was_mailed, good, host)
        report.check(f"{host.name}, {name}: nothing can be read", nothing_in_the_clear, good, host)
        report.check(f"{host.name}, {name}: the relay stops when it is told to", stops_cleanly, good)

    for name, *arrangement in (
        ("wrong password", host.starttls_port, starttls, "ca", "wrong"),
        ("unknown CA", host.starttls_port, starttls, "other-ca"),
        ("certificate for another name", host.smtps_port, "smtps://127.0.0.1:{port}"),
        ("host without STARTTLS", host.port, starttls),
    ):
        bad = relay(name.replace(" ", "-").lower(), *arrangement)
        report.check(f"{client.name} → {host.name}, {name}: put off", put_off, bad, host, client)
        report.check(f"{host.name}, {name}: the relay stops when it is told to", stops_cleanly, bad)


def main(binary, folder):
    attachment = folder / "attachment"
    attachment.write_bytes(hashlib.shake_256(b"optout-relay").digest(ATTACHMENT_SIZE))
    clients = [kind(folder, attachment) for kind in CLIENTS]
    report = Report()
    with ExitStack() as stack:
        for kind in (Sink, Postfix):
            host = kind(folder)
            stack.callback(host.stop)
            in_the_clear(report, stack, binary, folder, host, clients)
        encrypted(report, stack, binary, folder, host, Smtplib(folder, attachment))
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    # So that what was started is stopped on the way out.
    # What was started is stopped on the way out, whoever ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
