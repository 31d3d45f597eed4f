"""The same malformed ends of data to this relay, strict and mending, and to Debian's Postfix, all in front of one host: who
takes the mail, how many mails arrive and whether as they were sent, whether the session lives, and whether a smuggled one
arrives. That there is something to smuggle is proved by a Postfix that does not forbid it.

usage: differential.py RELAY-BINARY FOLDER [--write]

The table in docs/differential.md must be what was measured; --write writes it anew.
"""

import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from compared import LARGEST, Open, Relay, Sink, Strict
from hosts import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("ends-of-data.toml")
DOCUMENT = ROOT / "docs" / "differential.md"

# What a name in a corpus stands for where it is repeated.
REPEATED = {"..": "..\r\n", "lf": "\n", "line": "sixty-four bytes are a line that is long enough for the purpose.\r\n"}

# Between two segments, so that the first is read alone. If it is not, one case is like another: nothing hangs on it.
PAUSE = threading.Event()
# To whom no mail of a case is, but one that was smuggled.
VICTIM = "victim@example.com"
RECEIVED = re.compile(rb"Received: from [^\n]*\r\n(?:[ \t][^\n]*\r\n)*")
BARE = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")

INTRODUCTION = """# What becomes of malformed mail

The same bytes, sent after DATA's 354 to this relay, to this relay with `listen.line_endings = "fix"`, and to Debian's Postfix {version}
with `smtpd_forbid_bare_newline = reject` and no exclusions, each in front of the same host. A *fake end* is what some servers take for the
end of a message and others do not: where two of them disagree, whoever writes a mail can smuggle a second one in behind it.

`1` is one mail at the host, `refused` is a 5xx after the true end and nothing at the host, `2` are two mails that were two by the
standard as well, `nothing` is what arrives of a client that hung up before a true end. A **smuggled** mail never is among them; past
this Postfix with `smtpd_forbid_bare_newline = no` go those of {open} of the {cases} cases. `altered` is mail that arrived in other
bytes than it was sent, the `Received:` field aside; `mended` is mail in which LF, CR, and any number of CR before an LF became CRLF,
NUL is gone, and nothing else has changed. Unless something else stands there, the session goes on.

`tests/interop/differential.py` makes this table from `tests/interop/ends-of-data.toml`, and fails where it is not what it measures, where a
difference has no reason, or where this relay lets a smuggled mail, a bare CR, a bare LF or a NUL through to the host, alters a mail that
needs no mending, or mends one in another way.

| sent | this relay | `"fix"` | Postfix | why they differ |
|---|---|---|---|---|
"""


@dataclass
class Case:
    """What is sent, and why there is a difference."""

    fake: str | None
    name: str
    pieces: list
    why: str | None
    opens: str
    hangs_up: bool = False

    def body(self, number, server):
        """What stands before the first true end, the CR LF behind DATA being its first; `None` where there is none."""
        if self.opens == "nothing" or self.hangs_up:
            return None
        wire = b"".join(spelled(piece, number, server) for piece in self.pieces)
        assert b"\r\n.\r\n" in b"\r\n" + wire, f"{self.name} has no true end"
        return wire[: (b"\r\n" + wire).index(b"\r\n.\r\n")]


def cases():
    corpus = tomllib.loads(CORPUS.read_text())
    for fake in corpus["fake"]:
        for place in corpus["place"]:
            pieces = [piece.replace("{fake}", fake["send"]) for piece in place["send"]]
            yield Case(fake["name"], place["name"], pieces, fake.get("why"), place.get("opens", "DATA"))
    for case in corpus["case"]:
        yield Case(None, case["name"], case["send"], case.get("why"), case.get("opens", "DATA"), case.get("hangs_up", False))


def spelled(piece, number, server):
    piece = re.sub(r"\{(\S+)\*(\d+)\}", lambda times: REPEATED.get(times[1], times[1]) * int(times[2]), piece)
    for word in ("smuggled", "second"):
        piece = piece.replace("{" + word + "}", f"{word}-{number}@{server}.example")
    return piece.encode("latin-1")


class Client:
    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def send(self, *pieces):
        for at, piece in enumerate(pieces):
            if at:
                PAUSE.wait(0.03)
            try:
                self.stream.sendall(piece)
            except OSError:
                return  # It has hung up: what is heard next tells.

    def hang_up(self):
        try:
            self.stream.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # So has the other side.

    def reply(self):
        """The code of the next reply; `None` where there is none any more."""
        while True:
            line, end, rest = self.unread.partition(b"\n")
            if end:
                self.unread = rest
                if line[3:4] != b"-":
                    return int(line[:3])
                continue
            try:
                more = self.stream.recv(65536)
            except ConnectionError:
                return None
            if not more:
                return None
            self.unread += more


def knock(server, number, case):
    """One session with one case: the first reply after it, and whether the session lives (or the client has ended it)."""
    client = Client(server.port)
    with client.stream:
        pieces = [spelled(piece, number, server.name) for piece in case.pieces]
        envelope = [f"MAIL FROM:<case-{number}@{server.name}.example>", "RCPT TO:<buyer@example.com>"]
        envelope += ["DATA"] if case.opens != "nothing" else []
        expected = [220, 250, 250, 250, 354][: 3 + len(envelope) - 1]
        codes = [client.reply()]
        client.send(b"EHLO tool.example\r\n")
        codes.append(client.reply())
        begin = "".join(f"{line}\r\n" for line in envelope).encode()
        client.send(begin + b"".join(pieces) if case.opens == "in one go" else begin)
        codes += [client.reply() for _ in envelope]
        assert codes == expected, (server.name, case.name, codes)
        if case.opens != "in one go":
            client.send(*pieces)
        if case.hangs_up:
            client.hang_up()
            return client.reply(), True
        first = client.reply()
        client.send(b"NOOP\r\nQUIT\r\n")
        rest = list(iter(client.reply, None))
        return first, rest[-2:] == [250, 221]


def answered(server, number, case):
    try:
        return knock(server, number, case)
    except OSError as error:
        raise RuntimeError(f"{server.name}, {case.fake or ''} {case.name}: no answer") from error


def unstuffed(wire):
    return re.sub(rb"(^|\r\n)\.", rb"\1", wire)


def mended(body):
    """What becomes of it with "fix", said in other words than the relay's own."""
    return re.sub(rb"\r*\n|\r", b"\r\n", unstuffed(body).replace(b"\0", b""))


def below_received(wire):
    content = unstuffed(wire)
    return content[RECEIVED.match(content).end() :]


@dataclass
class Outcome:
    """What came of a case at one of the servers."""

    first: int | None
    lives: bool
    own: list
    second: int
    smuggled: int
    hung_up: bool
    body: bytes | None
    change: str = "altered"

    def altered(self):
        return bool(self.own) and self.body is not None and below_received(self.own[0].content) != unstuffed(self.body)

    def words(self):
        arrived = len(self.own) + self.second + self.smuggled
        if self.hung_up and not arrived and self.first in (None, 421):
            words = ["nothing"]
        elif self.first == 250:
            words = [str(arrived)]
        else:
            words = ["refused"] if self.first and self.first >= 500 and not arrived else [str(self.first or "no answer"), str(arrived)]
        words += ["**smuggled**"] if self.smuggled else []
        words += [self.change] if self.altered() else []
        return ", ".join(words + ([] if self.lives else ["hangs up"]))


def outcome(sink, server, number, case, first, lives):
    own, second, smuggled = (sink.of(f"{who}-{number}@{server.name}.example") for who in ("case", "second", "smuggled"))
    smuggled += [mail for mail in own + second if VICTIM in mail.recipients]
    own, second = ([mail for mail in mails if VICTIM not in mail.recipients] for mails in (own, second))
    change = "mended" if server.name == "mending" else "altered"
    return Outcome(first, lives, own, len(second), len(smuggled), case.hangs_up, case.body(number, server.name), change)


def broken_promises(case, strict, mending):
    """What this relay must not do, whatever Postfix does."""
    if strict.smuggled or mending.smuggled:
        yield "smuggled through this relay"
    if strict.altered():
        yield "altered by this relay"
    if case.hangs_up and (strict.own or mending.own):
        yield "taken without its end"
    if strict.body is None:
        return
    if not BARE.search(strict.body):
        if mending.words() != strict.words():
            yield '"fix" differs although nothing is to be mended'
        return
    if strict.own or strict.first not in (550, 552):
        yield "taken by this relay, although not canonical"
    too_large = len(mending.body) > LARGEST or len(mended(mending.body)) > LARGEST
    if too_large != (mending.first == 552) or len(mending.own) != (not too_large):
        yield f'"fix" answers {mending.first}, and {len(mending.own)} arrive'
    if mending.own and below_received(mending.own[0].content) != mended(mending.body):
        yield f'"fix" makes {below_received(mending.own[0].content)[:200]!r} of it'


def table(rows):
    """Equal rows of one fake end are one."""
    text, at = "", 0
    while at < len(rows):
        fake, name, cells, why = rows[at]
        places = [name]
        while fake and at + 1 < len(rows) and rows[at + 1][0] == fake and rows[at + 1][2] == cells:
            at += 1
            places.append(rows[at][1])
        at += 1
        if fake:
            all_of_it = sum(row[0] == fake for row in rows) == len(places)
            name = f"`{fake}`, " + ("wherever it stands" if all_of_it else "; ".join(places))
        differs = len({cells[0], cells[2]}) > 1
        text += f"| {name} | {' | '.join(cells)} | {why if differs else ''} |\n"
    return text


def measure(binary, folder, sink, all_cases):
    """Every case to every server: the outcomes by case, and what became of the relays."""
    servers = []
    try:
        servers.append(Relay(binary, folder, "strict", sink.port, ""))
        servers.append(Relay(binary, folder, "mending", sink.port, 'line_endings = "fix"\n'))
        servers.append(Strict(folder, sink.port))
        servers.append(Open(servers[-1]))
        with ThreadPoolExecutor(12) as pool:
            runs = [[pool.submit(answered, server, number, case) for server in servers] for number, case in enumerate(all_cases)]
            results = [[run.result() for run in of_case] for of_case in runs]
        for server in servers[:3]:
            server.settle()
    finally:
        stopped = [(server, server.stop()) for server in servers[:3]]
    # Only now, for what a relay still has under way it finishes before it stops.
    outcomes = [[outcome(sink, server, number, case, *result) for server, result in zip(servers, results[number])]
                for number, case in enumerate(all_cases)]  # fmt: skip
    talks = [(relay.name, status, relay.talk.read_text()) for relay, status in stopped[:2]]
    trouble = [f"{name}: exit status {status}: {talk[-2000:]}" for name, status, talk in talks if status or "panicked" in talk]
    return outcomes, trouble


def judged(all_cases, outcomes):
    """What differs without a reason, has a reason without a difference, or breaks a promise."""
    differing = set()
    for case, (strict, mending, postfix, _) in zip(all_cases, outcomes):
        name = f"{case.fake or ''} {case.name}: {[one.words() for one in (strict, mending, postfix)]}"
        if strict.words() != postfix.words():
            differing.add(case.fake or case.name)
            if not case.why:
                yield f"{name}, and no reason"
        for what in broken_promises(case, strict, mending):
            yield f"{name}: {what}"
    for case in all_cases:
        if case.why and (case.fake or case.name) not in differing:
            yield f"{case.fake or case.name}: a reason, and no difference"


def not_canonical(sink):
    for mail in sink.arrived:
        if mail.sender.endswith(("@strict.example", "@mending.example")) and BARE.search(mail.content):
            yield f"{mail.sender}: not canonical at the host: {mail.content[:200]!r}"


def document(all_cases, outcomes, open_to):
    version = subprocess.run(["postconf", "-h", "mail_version"], capture_output=True, text=True, check=True).stdout.strip()
    version = ".".join(version.split(".")[:2])
    rows = [(case.fake, case.name, [one.words() for one in of_case[:3]], case.why) for case, of_case in zip(all_cases, outcomes)]
    return INTRODUCTION.format(version=version, open=open_to, cases=len(rows)) + table(rows)


def not_documented(measured):
    there = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    if there != measured:
        yield from (f"not in {DOCUMENT.name}: {line}" for line in measured.splitlines() if line not in there.splitlines())
        yield f"{DOCUMENT.name} is not what was measured; differential.py ... --write writes it anew"


def main(binary, folder, write):
    folder = Path(folder) / "differential"
    folder.mkdir()
    folder.chmod(0o755)
    sink, all_cases = Sink(), list(cases())
    outcomes, failed = measure(binary, folder, sink, all_cases)
    failed += [*judged(all_cases, outcomes), *not_canonical(sink)]
    open_to = sum(bool(of_case[3].smuggled) for of_case in outcomes)
    if not open_to:
        failed.append("nothing can be smuggled past a Postfix that forbids nothing: what do these cases prove?")
    measured = document(all_cases, outcomes, open_to)
    if write:
        DOCUMENT.write_text(measured)
    failed += not_documented(measured)
    for line in failed:
        print("FAIL ", line)
    print(f"{len(all_cases)} cases, {len(sink.arrived)} mails at the host")
    print(f"{0 if failed else len(all_cases)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # What was started is stopped on the way out, whoever ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main(str(Path(sys.argv[1]).resolve()), sys.argv[2], "--write" in sys.argv))
