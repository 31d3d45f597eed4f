"""The servers whose answers differential.py compares, and the host behind them, which keeps every byte as it came."""

import re
import socketserver
import subprocess
import threading

from hosts import Arrived, Postfix, free_port, wait_for

# The same for all, so that what is too large is too large everywhere.
LARGEST = 1_000_000


def address(line):
    return re.search(rb"<([^>]*)>", line)[1].decode()


class Sink(socketserver.ThreadingTCPServer):
    """A host that knows one end of data, and keeps every byte before it by its sender."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 100

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.port, self.arrived, self.lock = self.server_address[1], [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, sender):
        with self.lock:
            return [mail for mail in self.arrived if mail.sender == sender]


class Session(socketserver.BaseRequestHandler):
    def handle(self):
        self.unread = b""
        self.request.sendall(b"220 sink.example ESMTP\r\n")
        while (line := self.until(b"\r\n")) is not None:
            verb = line[:4].upper()
            if verb == b"MAIL":
                sender, recipients = address(line), []
            if verb == b"RCPT":
                recipients.append(address(line))
            if verb == b"DATA":
                self.request.sendall(b"354 go on\r\n")
                wire = self.until(b"\r\n.\r\n")
                if wire is None:
                    return
                with self.server.lock:
                    self.server.arrived.append(Arrived(sender, recipients, wire[:-3]))
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
    """It hands everything on to the sink, and forbids bare line feeds.

    Not `smtpd_forbid_unauth_pipelining`: it would refuse what is sent without waiting for 354 before it reads an end.
    """

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
