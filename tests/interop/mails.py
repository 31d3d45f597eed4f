"""What is sent, to whom, and who has opted out. Data only."""

from dataclasses import dataclass
from typing import Callable

from wire import Transaction

# One of each kind of entry, and the address as the tool writes it: in other words than the list does.
REJECTED = [
    "Buyer.One@Gone.example",
    "anyone@left.example",
    "x@mail.sub-left.example",
    "promo-7@clear.example",
    "hashed+shop@clear.example",
]
DROPPED = [
    "Quiet.One@Gone.example",
    "anyone@quiet.example",
    "x@mail.sub-quiet.example",
    "whisper-7@clear.example",
    "silent+shop@clear.example",
]
DROPPED_UTF8 = "MÜLLER@gone.example"

BLACKLIST = """
addresses = ["buyer.one@gone.example"]
domains   = ["left.example", "*.sub-left.example"]
patterns  = ["promo-*@clear.example"]
# hashed@clear.example
hashes    = ["sha256:{hashed}"]

[[opt_out]]
address = "quiet.one@gone.example"
action  = "drop"
[[opt_out]]
domain  = "quiet.example"
action  = "drop"
[[opt_out]]
domain  = "*.sub-quiet.example"
action  = "drop"
[[opt_out]]
pattern = "whisper-*@clear.example"
action  = "drop"
[[opt_out]]
hash    = "sha256:{silent}"
action  = "drop"
[[opt_out]]
address = "müller@gone.example"
action  = "drop"
"""


def spelling(address):
    """Clients may lower the case of a domain before they send; the local part is not theirs to change."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


OPTED_OUT = {spelling(address) for address in (*REJECTED, *DROPPED, DROPPED_UTF8)}
BUYERS = [f"Buyer{number:02}@clear.example" for number in range(45)]
ATTACHMENT_SIZE = 10 << 20


def among_the_others(opted_out):
    """50 recipients: each of the five opt-outs stands behind nine others."""
    fifty = list(BUYERS)
    for place, recipient in enumerate(opted_out):
        fifty.insert(place * 10 + 9, recipient)
    return fifty


@dataclass
class Mail:
    """What a client is asked to send."""

    sender: str
    recipients: list
    body: bytes
    attach: bool
    eight_bit: bool
    utf8: bool


@dataclass
class Case:
    """A mail, and how its bytes prove on the wire that the client really sent what the case is about."""

    name: str
    shows: Callable[[Transaction], bool]
    recipients: list
    body: bytes = b"Thank you for your order.\nIt is on its way.\n"
    attach: bool = False
    eight_bit: bool = False
    utf8: bool = False

    def mail(self, sender):
        return Mail(sender, self.recipients, self.body, self.attach, self.eight_bit, self.utf8)


def body_of(transaction):
    return transaction.body.partition(b"\r\n\r\n")[2]


def is_sent(transaction):
    return b"order" in body_of(transaction)


CASES = [
    Case("plain", is_sent, ["Buyer@clear.example"]),
    Case(
        "8-bit body",
        lambda t: "Grüße, 購入者\r\n".encode() in body_of(t),
        ["buyer@clear.example"],
        body="Grüße, 購入者\n".encode(),
        eight_bit=True,
    ),
    Case("UTF-8 addresses", is_sent, ["jürgen@clear.example", DROPPED_UTF8, "buyer@clear.example"], utf8=True),
    Case("attachment of 10 MB", lambda t: len(t.body) > ATTACHMENT_SIZE * 4 / 3, ["buyer@clear.example"], attach=True),
    Case(
        "dots at line starts",
        lambda t: b"\r\n..\r\n" in t.body and b"\r\n...two\r\n" in t.body and b"\r\n..one" in t.body,
        ["buyer@clear.example"],
        body=b".one\n..two\n.\n...\nno dot .\n.\n",
    ),
    Case("empty body", lambda t: not body_of(t).strip(), ["buyer@clear.example"], body=b""),
    Case("50, five opted out (reject)", is_sent, among_the_others(REJECTED)),
    Case("50, five opted out (drop)", is_sent, among_the_others(DROPPED)),
    Case("nobody but opted out (reject)", lambda t: t.body is None, REJECTED[:1]),
    Case("nobody but opted out (drop)", is_sent, DROPPED[:1]),
]


@dataclass
class Expected:
    """What must come of a mail."""

    copies: set
    suppressed: set
    taken: bool


def expected(client, host, recipients):
    """By what is promised: opt-outs of the kind `reject` are refused at RCPT, and so are international addresses from
    a client that did not say SMTPUTF8; opt-outs of the kind `drop` are taken and go nowhere."""
    recipients = {spelling(recipient) for recipient in recipients}
    unspeakable = {recipient for recipient in recipients if not recipient.isascii() and not client.knows_smtputf8}
    rejected = recipients & {spelling(recipient) for recipient in REJECTED}
    dropped = (recipients & OPTED_OUT) - rejected - unspeakable
    clear = recipients - OPTED_OUT - unspeakable

    refused = rejected | unspeakable
    if refused and not client.goes_on:
        return Expected(copies=set(), suppressed=rejected, taken=False)
    if refused == recipients:
        return Expected(copies=set(), suppressed=rejected, taken=False)
    if not all(recipient.isascii() for recipient in clear) and not host.offers_smtputf8:
        return Expected(copies=set(), suppressed=rejected | dropped, taken=False)
    return Expected(copies=clear, suppressed=rejected | dropped, taken=True)
