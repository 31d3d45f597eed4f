"""The foreign clients. Each sends a mail in its own way; where it writes messages itself, it does so here too."""

import email.message
import email.policy
import json
import os
import smtplib
import subprocess
from pathlib import Path

SUBJECT = "Your order"
PATIENCE = 60


class Client:
    """`send` is true where the client says that it was sent, at least to somebody."""

    knows_smtputf8 = True
    # Sends to the others when one of several recipients is refused.
    goes_on = True

    def __init__(self, folder, attachment):
        self.folder, self.attachment = folder, attachment

    def run(self, command, stdin=b"", **environment):
        """An exit status other than 0 is an answer; what the client says is kept for whoever looks for a reason."""
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=PATIENCE, cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), **environment},
        )  # fmt: skip
        self.said = (done.stdout[-1500:] + done.stderr[-1500:]).decode(errors="replace")
        return done.returncode == 0

    def file(self, name, content):
        (self.folder / name).write_bytes(content)
        return name

    def message(self, mail):
        """For clients that take whole messages: RFC 5322 with LF."""
        policy = email.policy.SMTPUTF8 if mail.utf8 else email.policy.SMTP
        message = email.message.EmailMessage(policy.clone(linesep="\n"))
        message["From"], message["To"], message["Subject"] = mail.sender, ", ".join(mail.recipients), SUBJECT
        if mail.attach:
            message.set_content("See below.\n")
            message.add_attachment(self.attachment.read_bytes(), maintype="application", subtype="octet-stream")
        elif mail.eight_bit:
            message["Content-Type"], message["Content-Transfer-Encoding"] = "text/plain; charset=utf-8", "8bit"
            return message.as_bytes() + mail.body
        else:
            message.set_content(mail.body.decode())
        return message.as_bytes()


class Swaks(Client):
    """Perl. Pipelines, and goes on where somebody is accepted."""

    name, knows_smtputf8 = "swaks", False

    def send(self, port, mail):
        command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--helo", "tool.example", "--pipeline"]
        command += ["--from", mail.sender, "--to", ",".join(mail.recipients), "--h-Subject", SUBJECT, "--suppress-data"]
        command += ["--body", f"@{self.file('body', mail.body)}"]
        if mail.attach:
            command += ["--attach", f"@{self.attachment}"]
        if mail.eight_bit:
            command += ["--add-header", "Content-Type: text/plain; charset=utf-8"]
        return self.run(command)


class Curl(Client):
    """C. Gives up at the first refused recipient unless it is told to go on."""

    name = "curl"

    def send(self, port, mail):
        name = self.file("message", self.message(mail).replace(b"\n", b"\r\n"))
        command = ["curl", "--silent", "--show-error", f"smtp://127.0.0.1:{port}/tool.example", "--upload-file", name]
        command += ["--mail-rcpt-allowfails", "--mail-from", mail.sender]
        for recipient in mail.recipients:
            command += ["--mail-rcpt", recipient]
        return self.run(command)


class Msmtp(Client):
    """C. Pipelines, and gives up the whole message when one recipient is refused: such tools want `drop`."""

    name, knows_smtputf8, goes_on = "msmtp", False, False

    def send(self, port, mail):
        command = ["msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={port}", "--domain=tool.example"]
        command += ["--tls=off", "--auth=off", f"--from={mail.sender}", "--", *mail.recipients]
        return self.run(command, self.message(mail))


class Smtplib(Client):
    """Python's own. Goes on, and returns who was refused."""

    name = "smtplib"

    def send(self, port, mail):
        options = (["BODY=8BITMIME"] if mail.eight_bit else []) + (["SMTPUTF8"] if mail.utf8 else [])
        try:
            with smtplib.SMTP("127.0.0.1", port, "tool.example", PATIENCE) as relay:
                message = self.message(mail).replace(b"\n", b"\r\n")
                self.said = str(relay.sendmail(mail.sender, mail.recipients, message, options))
                return True
        except smtplib.SMTPException as error:
            self.said = str(error)
            return False


class Nodemailer(Client):
    """JavaScript. Goes on, and reports who was rejected."""

    name = "nodemailer"

    def send(self, port, mail):
        order = {"port": port, "envelope": {"from": mail.sender, "to": mail.recipients}, "subject": SUBJECT}
        if mail.eight_bit:
            order["raw"] = self.message(mail).decode()
        else:
            order["text"] = mail.body.decode()
            order["attachment"] = str(self.attachment) if mail.attach else None
        script = Path(__file__).with_name("nodemailer.js")
        return self.run(["node", script], json.dumps(order).encode(), NODE_PATH=os.environ["NODEMAILER"])


CLIENTS = [Swaks, Curl, Msmtp, Smtplib, Nodemailer]
