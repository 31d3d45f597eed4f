"""The same malformed ends of data to this relay, strict and mending, and to Debian's Postfix, all in front of one host: who
takes the mail, how many mails arrive, whether the session lives, and whether a smuggled one arrives.

usage: differential.py RELAY-BINARY FOLDER [--write]

The table in docs/differential.md must be what was measured; --write writes it anew.
"""

import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hosts import Postfix, free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("ends-of-data.toml")
DOCUMENT = ROOT / "docs" / "differential.md"
INTRODUCTION = """# What becomes of malformed mail

The same bytes, sent after DATA's 354 to this relay, to this relay with `listen.line_endings = "fix"`, and to Debian's Postfix {version}
with `smtpd_forbid_bare_newline = reject` and no exclusions, each in front of the same host. A *fake end* is what some servers take for the
end of a message and others do not: where two of them disagree, whoever writes a mail can smuggle a second one in behind it.

`1` is one mail at the host, `refused` is a 5xx after the true end and nothing at the host, `2` are two mails that were two by the
standard as well. A **smuggled** mail never is among them. Unless something else stands there, the session goes on.

`tests/interop/differential.py` makes this table from `tests/interop/ends-of-data.toml`, and fails where it is not what it measures, where a
difference has no reason, or where this relay lets a smuggled mail, a bare CR, a bare LF or a NUL through to the host.

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
        self.sink = sink
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
"""

    def master_cf(self):
        return super().master_cf() + "\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"


class Relay:
    def __init__(self, binary, folder, name, sink, keys):
        self.name, folder, self.port = name, folder / name, free_port()
        folder.mkdir()
        self.talk = folder / "talk"
        (folder / "blacklist.toml").write_text("")
        (folder / "relay.toml").write_text(
            f'hostname = "relay.example"\nstate_dir = "{folder}/var"\n[upstream]\nurl = "smtp://127.0.0.1:{sink}"\n'
            f'[listen]\nsmtp = ["127.0.0.1:{self.port}"]\n{keys}'
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
        self.process.wait(60)


def cases():
    """Names, pieces, and why there is a difference."""
    corpus = tomllib.loads(CORPUS.read_text())
    for fake in corpus["fake"]:
        for place in corpus["place"]:
            pieces = [piece.replace("{fake}", fake["send"]) for piece in place["send"]]
            yield fake["name"], place["name"], pieces, fake.get("why")
    for case in corpus["case"]:
        yield None, case["name"], case["send"], case.get("why")


def spelled(piece, number, server):
    piece = re.sub(r"\{x\*(\d+)\}", lambda times: "x" * int(times[1]), piece)
    for word in ("smuggled", "second"):
        piece = piece.replace("{" + word + "}", f"{word}-{number}@{server}.example")
    return piece.encode("latin-1")


def heard(stream, quiet):
    """All lines until it has been quiet for so long; and whether it has hung up."""
    wire, end = b"", time.monotonic() + 20
    stream.settimeout(quiet)
    while time.monotonic() < end:
        try:
            piece = stream.recv(65536)
        except TimeoutError:
            if wire:
                break
            continue
        except OSError:
            piece = b""
        if not piece:
            return wire.split(b"\r\n")[:-1], True
        wire += piece
    return wire.split(b"\r\n")[:-1], False


def knock(server, number, pieces):
    """One session with one case: the first reply after it, and whether the session lives."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        envelope = [None, "EHLO tool.example", f"MAIL FROM:<case-{number}@{server.name}.example>", "RCPT TO:<buyer@example.com>", "DATA"]
        for line, code in zip(envelope, (b"220", b"250", b"250", b"250", b"354")):
            if line:
                stream.sendall(line.encode() + b"\r\n")
            lines = []
            while not lines or lines[-1][3:4] == b"-":
                more, gone = heard(stream, 0.05)
                lines += more
                assert not gone, (server.name, number, line, lines)
            assert lines[-1].startswith(code), (server.name, number, line, lines)
        for at, piece in enumerate(pieces):
            # A piece of its own is a segment of its own.
            time.sleep(0.03 if at else 0)
            stream.sendall(spelled(piece, number, server.name))
        lines, gone = heard(stream, 0.4)
        if not gone:
            try:
                stream.sendall(b"\r\nNOOP\r\n")
                answers, gone = heard(stream, 0.2)
                gone = gone or not any(line.startswith(b"250") for line in answers)
            except OSError:
                gone = True
        return lines[0] if lines else b"", not gone


def told(sink, server, number, first, lives):
    count = lambda who: len(sink.of(f"{who}-{number}@{server.name}.example"))
    own, second, smuggled = count("case"), count("second"), count("smuggled")
    if smuggled:
        what = f"{own + smuggled}, **smuggled**"
    elif first[:1] == b"2":
        what = str(own + second)
    else:
        what = "refused" if first[:1] == b"5" and own + second == 0 else f"{first[:3].decode() or 'no answer'}, {own + second}"
    return what + ("" if lives else ", hangs up")


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
    servers = [Relay(binary, folder, "strict", sink.port, ""), Relay(binary, folder, "mending", sink.port, 'line_endings = "fix"\n'),
               Strict(folder, sink.port)]  # fmt: skip
    failed = []
    try:
        all_cases = list(cases())
        with ThreadPoolExecutor(12) as pool:
            runs = {(server.name, number): pool.submit(knock, server, number, pieces)
                    for number, (_, _, pieces, _) in enumerate(all_cases) for server in servers}  # fmt: skip
            results = {key: run.result() for key, run in runs.items()}
        for server in servers:
            server.settle()
        rows = []
        for number, (fake, name, _, why) in enumerate(all_cases):
            cells = [told(sink, server, number, *results[server.name, number]) for server in servers]
            rows.append((fake, name, cells, why))
            if cells[0] != cells[2] and not why:
                failed.append(f"{fake or ''} {name}: {cells}, and no reason")
            if any("smuggled" in cell for cell in cells[:2]):
                failed.append(f"{fake or ''} {name}: smuggled through this relay: {cells}")
    finally:
        for server in servers:
            server.stop()
    for sender, wire in sink.arrived:
        if sender.endswith(("@strict.example", "@mending.example")) and re.search(rb"\0|\r(?!\n)|(?<!\r)\n", wire):
            failed.append(f"{sender}: not canonical at the host: {wire[:200]!r}")
    version = subprocess.run(["postconf", "-h", "mail_version"], capture_output=True, text=True, check=True).stdout.strip()
    measured = INTRODUCTION.format(version=".".join(version.split(".")[:2])) + table(rows)
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
    sys.exit(main(str(Path(sys.argv[1]).resolve()), sys.argv[2], "--write" in sys.argv))
