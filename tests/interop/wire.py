"""What really goes over the wire: a tap that hands every byte on and keeps a copy. It never changes one."""

import re
import selectors
import socket
import threading
from dataclasses import dataclass, field

PATH = re.compile(rb"\s*(MAIL\s+FROM|RCPT\s+TO)\s*:\s*<([^>]*)>(.*)", re.IGNORECASE)


@dataclass
class Transaction:
    """One MAIL, its RCPTs, and the message as it went over the wire: dots stuffed, without the final dot."""

    sender: str
    parameters: str
    recipients: list = field(default_factory=list)
    body: bytes | None = None

    def content(self):
        """The message itself (RFC 5321 4.5.2)."""
        return re.sub(rb"(^|\r\n)\.", rb"\1", self.body)


class Conversation:
    """One connection: both directions in full, and where in the client's bytes each message began."""

    def __init__(self):
        self.sent, self.heard = bytearray(), bytearray()
        self.begins = []
        self.line_start = 0
        self.over = threading.Event()

    def server_says(self, data):
        self.heard += data
        while (end := self.heard.find(b"\n", self.line_start)) >= 0:
            # A client waits for 354, so what it has sent before belongs to the commands.
            if self.heard.startswith(b"354", self.line_start):
                self.begins.append(len(self.sent))
            self.line_start = end + 1

    def transactions(self):
        sent, at, found = bytes(self.sent), 0, []
        for begin in [*self.begins, len(sent)]:
            for line in sent[at:begin].split(b"\r\n"):
                if not (match := PATH.match(line)):
                    continue
                verb, path, parameters = (part.decode() for part in match.groups())
                if verb.upper().startswith("MAIL"):
                    found.append(Transaction(path, parameters.strip()))
                else:
                    found[-1].recipients.append(path)
            if sent.startswith(b".\r\n", begin):
                found[-1].body, at = b"", begin + 3
            elif (end := sent.find(b"\r\n.\r\n", begin)) >= 0:
                found[-1].body, at = sent[begin : end + 2], end + 5
            else:
                break
        return found


class Tap:
    """Listens on a free port of 127.0.0.1 and passes all on to `port`."""

    def __init__(self, port):
        self.behind = port
        self.conversations = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def transactions(self, sender=None):
        """All so far, or those of one sender."""
        found = [t for conversation in self.conversations for t in conversation.transactions()]
        return [t for t in found if sender in (None, t.sender)]

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            conversation = Conversation()
            self.conversations.append(conversation)
            threading.Thread(target=self._pass_on, args=(client, conversation), daemon=True).start()

    def _pass_on(self, client, conversation):
        try:
            with client, socket.create_connection(("127.0.0.1", self.behind)) as server:
                both = selectors.DefaultSelector()
                both.register(client, selectors.EVENT_READ, (server, conversation.sent.extend))
                both.register(server, selectors.EVENT_READ, (client, conversation.server_says))
                while both.get_map():
                    for key, _ in both.select():
                        other, note = key.data
                        data = key.fileobj.recv(1 << 16)
                        note(data)
                        if data:
                            other.sendall(data)
                        else:
                            both.unregister(key.fileobj)
                            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # One side has hung up: so do we, on both.
        finally:
            conversation.over.set()
