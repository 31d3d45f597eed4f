"""The real hosts: Debian's smtp-sink, and a Postfix of its own that delivers into a maildir. Each keeps what arrives."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 30
FOLDED_FIELD = rb"[^\n]*\n(?:[ \t][^\n]*\n)*"


@dataclass
class Arrived:
    """One stored file: whom it is for, and the message as the host got it, with the line ends of the wire again."""

    sender: str
    recipients: list
    content: bytes


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(what, condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience} s")
        time.sleep(0.02)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
            return peer.recv(3) == b"220"
    except OSError:
        return False


class Host:
    """Reads each file of the store once; `copies` counts one for each recipient."""

    store: Path
    offers_smtputf8: bool

    def __init__(self):
        self.read = {}

    def arrived(self, sender=None):
        for file in self.store.iterdir() if self.store.exists() else []:
            if file.name not in self.read:
                self.read[file.name] = self.parse(file.read_bytes())
        return [mail for mail in self.read.values() if sender in (None, mail.sender)]

    def wait_for_copies(self, sender, count):
        """All that came from this sender, once it is as much as expected; as much as there is when patience ends."""
        try:
            wait_for("delivery", lambda: sum(len(mail.recipients) for mail in self.arrived(sender)) >= count)
        except TimeoutError:
            pass
        return self.arrived(sender)


class Sink(Host):
    """smtp-sink(1): no SMTPUTF8, one file for each transaction."""

    name, offers_smtputf8 = "smtp-sink", False

    def __init__(self, folder):
        super().__init__()
        self.store = folder / "sink"
        self.store.mkdir()
        shutil.chown(self.store, "nobody")
        self.port = free_port()
        command = ["smtp-sink", "-u", "nobody", "-d", f"{self.store}/%s.", f"127.0.0.1:{self.port}", "100"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_for("start smtp-sink", lambda: answers(self.port))

    def parse(self, file):
        # Its own fields, three lines of Received, what came, and an empty line.
        own, rest = re.fullmatch(rb"((?:X-[^\n]*\n)+)Received:" + FOLDED_FIELD + rb"(.*)\n", file, re.DOTALL).groups()
        sender = re.search(rb"^X-Mail-Args: <([^>]*)>", own, re.MULTILINE)[1].decode()
        recipients = re.findall(rb"^X-Rcpt-Args: <([^>]*)>", own, re.MULTILINE)
        return Arrived(sender, [recipient.decode() for recipient in recipients], rest.replace(b"\n", b"\r\n"))

    def settle(self):
        pass  # It has written everything before it answers.

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Postfix(Host):
    """A private instance: it takes mail for every address there is and delivers all of it into one maildir."""

    name, offers_smtputf8 = "postfix", True

    def __init__(self, folder):
        super().__init__()
        self.folder = folder / "postfix"
        self.etc = self.folder / "etc"
        self.store = self.folder / "mail" / "all" / "new"
        self.port, self.starttls_port, self.smtps_port = free_port(), free_port(), free_port()
        for name in ("etc/sasl", "spool", "data", "mail"):
            (self.folder / name).mkdir(parents=True)
        shutil.chown(self.folder / "data", "postfix")
        shutil.chown(self.folder / "mail", "nobody")
        self.make_certificates()
        self.make_password()
        (self.etc / "main.cf").write_text(self.main_cf())
        (self.etc / "master.cf").write_text(self.master_cf())
        self.postfix("start")
        for port in (self.port, self.starttls_port):
            wait_for("start postfix", lambda port=port: answers(port))

    def main_cf(self):
        nobody = pwd.getpwnam("nobody")
        return f"""
            compatibility_level = 3.6
            queue_directory = {self.folder}/spool
            data_directory = {self.folder}/data
            command_directory = /usr/sbin
            daemon_directory = /usr/lib/postfix/sbin
            maillog_file = {self.folder}/log
            maillog_file_prefixes = {self.folder}
            myhostname = host.example
            mydestination =
            mynetworks = 127.0.0.0/8
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            smtpd_peername_lookup = no
            smtpd_relay_restrictions = permit_mynetworks, reject
            # Nothing may leave this machine, whatever goes wrong.
            default_transport = error:no mail leaves this host
            virtual_mailbox_domains = static:all
            virtual_mailbox_maps = static:all/
            virtual_mailbox_base = {self.folder}/mail
            virtual_uid_maps = static:{nobody.pw_uid}
            virtual_gid_maps = static:{nobody.pw_gid}
            virtual_mailbox_limit = 0
            message_size_limit = 50000000
            # What it gets is what it stores: no field added, dropped or rewritten.
            local_header_rewrite_clients =
            message_drop_headers =
            smtpd_tls_security_level = none
            smtpd_tls_chain_files = {self.etc}/host.pem
            cyrus_sasl_config_path = {self.etc}/sasl
            smtpd_sasl_local_domain = host.example
            """.replace("\n            ", "\n")

    def master_cf(self):
        port, starttls, smtps = self.port, self.starttls_port, self.smtps_port
        login = """
              -o smtpd_sasl_auth_enable=yes
              -o smtpd_tls_auth_only=yes
              -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"""
        return f"""
            127.0.0.1:{port}     inet  n - n - -    smtpd
            127.0.0.1:{starttls} inet  n - n - -    smtpd
              -o smtpd_tls_security_level=encrypt{login}
            127.0.0.1:{smtps}    inet  n - n - -    smtpd
              -o smtpd_tls_wrappermode=yes{login}
            cleanup   unix  n - n - 0    cleanup
            qmgr      unix  n - n 300 1  qmgr
            tlsmgr    unix  - - n 1000? 1 tlsmgr
            rewrite   unix  - - n - -    trivial-rewrite
            bounce    unix  - - n - 0    bounce
            defer     unix  - - n - 0    bounce
            trace     unix  - - n - 0    bounce
            proxymap  unix  - - n - -    proxymap
            error     unix  - - n - -    error
            retry     unix  - - n - -    error
            virtual   unix  - n n - -    virtual
            anvil     unix  - - n - 1    anvil
            postlog   unix-dgram n - n - 1 postlogd
            """.replace("\n            ", "\n")

    def make_certificates(self):
        """A CA of our own, another one that vouches for nothing, and a certificate for the names that the tests use."""
        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], cwd=self.etc, check=True, capture_output=True)

        new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
        for name in ("ca", "other-ca"):
            openssl(*new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(*new, "-subj", "/CN=host", "-keyout", "host.key", "-out", "host.csr")
        (self.etc / "names").write_text("subjectAltName = DNS:mail.host.example, DNS:localhost\n")
        openssl("x509", "-req", "-in", "host.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
                "-extfile", "names", "-out", "host.crt")
        (self.etc / "host.pem").write_bytes((self.etc / "host.key").read_bytes() + (self.etc / "host.crt").read_bytes())

    def make_password(self):
        """Cyrus SASL with a password file of its own. (Debian's Postfix looks in `sasl` whatever it is configured to.)"""
        self.user, self.password = "seller", "corréct-horse!"
        passwords = self.etc / "sasl" / "sasldb2"
        command = ["saslpasswd2", "-p", "-c", "-f", passwords, "-u", "host.example", self.user]
        subprocess.run(command, input=self.password.encode(), check=True, capture_output=True)
        shutil.chown(passwords, "postfix")
        (self.etc / "sasl" / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {passwords}\nmech_list: PLAIN LOGIN\n"
        )

    def parse(self, file):
        # What virtual(8) and smtpd(8) put in front; X-Original-To stands there only where it says something else.
        own, rest = re.fullmatch(
            rb"((?:(?:Return-Path|X-Original-To|Delivered-To):[^\n]*\n)+)Received:" + FOLDED_FIELD + rb"(.*)", file, re.DOTALL
        ).groups()
        sender = re.search(rb"^Return-Path: <([^>]*)>", own, re.MULTILINE)[1].decode()
        recipient = re.search(rb"^(?:X-Original-To|Delivered-To): ([^\n]*)", own, re.MULTILINE)[1].decode()
        return Arrived(sender, [recipient], rest.replace(b"\n", b"\r\n"))

    def settle(self):
        """Waits until the queue is empty, so that a mail too many would have arrived as well."""
        queues = [self.folder / "spool" / name for name in ("incoming", "active", "deferred", "maildrop")]
        empty = lambda: not any(files for queue in queues for _, _, files in os.walk(queue))
        wait_for("empty the queue of postfix", empty)

    def log(self):
        return (self.folder / "log").read_text()

    def postfix(self, command):
        subprocess.run(["postfix", "-c", self.etc, command], check=True, capture_output=True, timeout=60)

    def stop(self):
        self.postfix("stop")
