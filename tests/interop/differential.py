"""The same malformed ends of data to this relay, strict and mending, and to Debian's Postfix, all in front of one host: who
takes the mail, how many mails arrive and whether as they were sent, whether the session lives, and whether a smuggled one
arrives. That there is something to smuggle is proved by a Postfix that does not forbid it.

usage: differential.py RELAY-BINARY FOLDER [--write]

The table in docs/differential.md must be what was measured; --write writes it anew.
"""

import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hosts import PATIENCE, Postfix, free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("ends-of-data.toml")
DOCUMENT = ROOT / "docs" / "differential.md"

# The same for all, so that what is too large is too large everywhere.
LARGEST = 1_000_000

# What a name in a corpus stands for where it is repeated.
REPEATED = {"..": "..\r\n", "lf": "\n", "line": "sixty-four bytes are a line that is long enough for the purpose.\r\n"}

# Between two segments, so that the first is read alone. If it is not, one case is like another: nothing hangs on it.
PAUSE = threading.Event()
RECEIVED = re.compile(rb"Received: from [^\n]*\r\n(?:[ \t][^\n]*\r\n)*")
BARE = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")

INTRODUCTION = """# What becomes of malformed mail

The same bytes, sent after DATA's 354 to this relay, to this relay with `listen.line_endings = "fix"`, and to Debian's Postfix {version}
with `smtpd_forbid_bare_newline = reject` and no exclusions, each in front of the same host. A *fake end* is what some servers take for the
end of a message and others do not: where two of them disagree, whoever writes a mail can smuggle a second one in behind it.

`1` is one mail at the host, `refused` is a 5xx after the true end and nothing at the host, `2` are two mails that were two by the
standard as well. A **smuggled** mail never is among them; past this Postfix with `smtpd_forbid_bare_newline = no` go those of {open} of
the {cases} cases. `altered` is mail that arrived in other bytes than it was sent, the `Received:` field aside; `mended` is mail in which
LF, CR, and any number of CR before an LF became CRLF, NUL is gone, and nothing else has changed. Unless something else stands there,
the session goes on.

`tests/interop/differential.py` makes this table from `tests/interop/ends-of-data.toml`, and fails where it is not what it measures, where a
difference has no reason, or where this relay lets a smuggled mail, a bare CR, a bare LF or a NUL through to the host, alters a mail that
needs no mending, or mends one in another way.

| sent | this relay | `"fix"` | Postfix | why they differ |
|---|---|---|---|---|
"""


class Sink(socketserver.ThreadingTCPServer):
    """A host that knows one end of data, and keeps every byte before it by its sender."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 100

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.port, self.arrived, self.lock = self.server_address[1], [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, sender):
        with self.lock:
            return [wire for whom, wire in self.arrived if whom == sender]


class Session(socketserver.BaseRequestHandler):
    def handle(self):
        self.unread, sender = b"", None
        self.request.sendall(b"220 sink.example ESMTP\r\n")
        while (line := self.until(b"\r\n")) is not None:
            verb = line[:4].upper()
            if verb == b"MAIL":
                sender = re.search(rb"<([^>]*)>", line)[1].decode()
            if verb == b"DATA":
                self.request.sendall(b"354 go on\r\n")
                wire = self.until(b"\r\n.\r\n")
                if wire is None:
                    return
                with self.server.lock:
                    self.server.arrived.append((sender, wire[:-3]))
            if verb == b"QUIT":
                return self.request.sendall(b"221 bye\r\n")
            more = b"250-sink.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 0\r\n" if verb == b"EHLO" else b"250 ok\r\n"
            self.request.sendall(more)

    def until(self, end):
        while end not in self.unread:
            try:
                piece = self.request.recv(65536)
            except OSError:
                piece = b""
            if not piece:
                return None
            self.unread += piece
        at = self.unread.index(end) + len(end)
        found, self.unread = self.unread[:at], self.unread[at:]
        return found


class Strict(Postfix):
    """It hands everything on to the sink, and forbids all that it can."""

    def __init__(self, folder, sink):
        self.sink, self.open_port = sink, free_port()
        super().__init__(folder)

    def main_cf(self):
        kept = super().main_cf().split("# Nothing may leave")[0]
        return kept + f"""
relayhost = [127.0.0.1]:{self.sink}
disable_dns_lookups = yes
local_header_rewrite_clients =
message_drop_headers =
smtpd_tls_security_level = none
smtpd_tls_chain_files = {self.etc}/host.pem
smtpd_forbid_bare_newline = reject
smtpd_forbid_bare_newline_exclusions =
smtpd_error_sleep_time = 0
smtpd_delay_reject = no
message_size_limit = {LARGEST}
"""

    def master_cf(self):
        forbids_nothing = f"\n127.0.0.1:{self.open_port} inet n - n - - smtpd\n  -o smtpd_forbid_bare_newline=no\n"
        return super().master_cf() + forbids_nothing + "smtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"


class Open:
    """The same Postfix by its other door."""

    name = "open"

    def __init__(self, postfix):
        self.port = postfix.open_port


class Relay:
    def __init__(self, binary, folder, name, sink, keys):
        self.name, folder, self.port = name, folder / name, free_port()
        folder.mkdir()
        self.talk = folder / "talk"
        (folder / "blacklist.toml").write_text("")
        (folder / "relay.toml").write_text(
            f'hostname = "relay.example"\nstate_dir = "{folder}/var"\n[upstream]\nurl = "smtp://127.0.0.1:{sink}"\n'
            f'[listen]\nsmtp = ["127.0.0.1:{self.port}"]\nmax_message_size = "{LARGEST}B"\n{keys}'
        )
        self.process = subprocess.Popen(
            [binary, "serve", "--config", folder / "relay.toml"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self.talk.open("wb"),
        )  # fmt: skip
        wait_for("start the relay", lambda: "started listen=" in self.talk.read_text() or self.process.poll() is not None)

    def settle(self):
        pass  # It answers when the sink has it.

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


@dataclass
class Case:
    """What is sent, and why there is a difference."""

    fake: str | None
    name: str
    pieces: list
    why: str | None
    opens: str

    def body(self, number, server):
        """What stands before the first true end, the CR LF behind DATA being its first; `None` without DATA."""
        if self.opens == "nothing":
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
        yield Case(None, case["name"], case["send"], case.get("why"), case.get("opens", "DATA"))


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
    """One session with one case: the first reply after it, and whether the session lives."""
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
        first = client.reply()
        client.send(b"NOOP\r\nQUIT\r\n")
        rest = list(iter(client.reply, None))
        return first, rest[-2:] == [250, 221]


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
    body: bytes | None
    change: str = "altered"

    def altered(self):
        return bool(self.own) and self.body is not None and below_received(self.own[0]) != unstuffed(self.body)

    def words(self):
        arrived = len(self.own) + self.second + self.smuggled
        if self.first == 250:
            words = [str(arrived)]
        else:
            words = ["refused"] if self.first and self.first >= 500 and not arrived else [str(self.first or "no answer"), str(arrived)]
        words += ["**smuggled**"] if self.smuggled else []
        words += [self.change] if self.altered() else []
        return ", ".join(words + ([] if self.lives else ["hangs up"]))


def outcome(sink, server, number, case, first, lives):
    of = lambda who: sink.of(f"{who}-{number}@{server.name}.example")
    change = "mended" if server.name == "mending" else "altered"
    return Outcome(first, lives, of("case"), len(of("second")), len(of("smuggled")), case.body(number, server.name), change)


def broken_promises(case, strict, mending):
    """What this relay must not do, whatever Postfix does."""
    if strict.smuggled or mending.smuggled:
        yield "smuggled through this relay"
    if strict.altered():
        yield "altered by this relay"
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
    if mending.own and below_received(mending.own[0]) != mended(mending.body):
        yield f'"fix" makes {below_received(mending.own[0])[:200]!r} of it'


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


def main(binary, folder, write):
    folder = Path(folder) / "differential"
    folder.mkdir()
    folder.chmod(0o755)
    sink = Sink()
    servers, failed = [], []
    try:
        servers.append(Relay(binary, folder, "strict", sink.port, ""))
        servers.append(Relay(binary, folder, "mending", sink.port, 'line_endings = "fix"\n'))
        servers.append(Strict(folder, sink.port))
        servers.append(Open(servers[-1]))
        all_cases = list(cases())
        with ThreadPoolExecutor(12) as pool:
            runs = {(server.name, number): pool.submit(knock, server, number, case)
                    for number, case in enumerate(all_cases) for server in servers}  # fmt: skip
            results = {key: run.result() for key, run in runs.items()}
        for server in servers[:3]:
            server.settle()
        rows, differing, open_to = [], set(), 0
        for number, case in enumerate(all_cases):
            outcomes = [outcome(sink, server, number, case, *results[server.name, number]) for server in servers]
            cells = [one.words() for one in outcomes[:3]]
            rows.append((case.fake, case.name, cells, case.why))
            open_to += bool(outcomes[3].smuggled)
            if cells[0] != cells[2]:
                differing.add(case.fake or case.name)
            name = f"{case.fake or ''} {case.name}: {cells}"
            failed += [f"{name}, and no reason"] if cells[0] != cells[2] and not case.why else []
            failed += [f"{name}: {what}" for what in broken_promises(case, *outcomes[:2])]
    finally:
        stopped = [server.stop() for server in servers[:3]]
    for relay, status in zip(servers[:2], stopped):
        talk = relay.talk.read_text()
        if status != 0 or "panicked" in talk:
            failed.append(f"{relay.name}: exit status {status}: {talk[-2000:]}")
    failed += [f"{case.fake or case.name}: a reason, and no difference" for case in all_cases
               if case.why and (case.fake or case.name) not in differing]  # fmt: skip
    if not open_to:
        failed.append("nothing can be smuggled past a Postfix that forbids nothing: what do these cases prove?")
    for sender, wire in sink.arrived:
        if sender.endswith(("@strict.example", "@mending.example")) and BARE.search(wire):
            failed.append(f"{sender}: not canonical at the host: {wire[:200]!r}")
    version = subprocess.run(["postconf", "-h", "mail_version"], capture_output=True, text=True, check=True).stdout.strip()
    version = ".".join(version.split(".")[:2])
    measured = INTRODUCTION.format(version=version, open=open_to, cases=len(rows)) + table(rows)
    if write:
        DOCUMENT.write_text(measured)
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != measured:
        there = DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []
        failed += [f"not in {DOCUMENT.name}: {line}" for line in measured.splitlines() if line not in there]
        failed.append(f"{DOCUMENT.name} is not what was measured; differential.py ... --write writes it anew")
    for line in failed:
        print("FAIL ", line)
    print(f"{len(rows)} cases, {len(sink.arrived)} mails at the host")
    print(f"{0 if failed else len(rows)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # What was started is stopped on the way out, whoever ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main(str(Path(sys.argv[1]).resolve()), sys.argv[2], "--write" in sys.argv))
