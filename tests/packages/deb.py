"""The deb, on a minimal Debian whose systemd is the process in the first argument: its network is ours, its files are seen
through /proc, and commands are run in it. 1.deb is the package, 2.deb and 3.deb are later ones with another relay.toml."""

import base64
import json
import smtplib
import sys
import urllib.request
from pathlib import Path

from checks import belongs, eventually, group, hold, owner, run

SYSTEMD = sys.argv[1]
ROOT = Path(f"/proc/{SYSTEMD}/root")
ETC, STATE = ROOT / "etc/optout-relay", ROOT / "var/lib/optout-relay"
UNIT = "optout-relay.service"
# The suppression log as it was before anything was done to the package.
PROOF = []
OWN = """hostname = "shop.test"
state_dir = "/var/lib/optout-relay"
[upstream]
url = "smtp://127.0.0.1:9"
[opt_out]
lists = ["blacklist.toml", "/var/lib/optout-relay/desk.toml"]
[admin]
users = "admins.toml"
"""


def inside(*command, fails=False):
    return run("nsenter", "--target", SYSTEMD, "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--", *command, fails=fails)


def dpkg(*arguments):
    """As a machine does it by itself at night: nobody is asked, and what the user has changed stays."""
    return inside("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confdef", "--force-confold", *arguments)


def show(name):
    return inside("systemctl", "show", "--value", "-p", name, UNIT).strip()


def journal():
    inside("journalctl", "--sync")
    return inside("journalctl", "-o", "cat", "-u", UNIT)


def is_enabled():
    return inside("systemctl", "is-enabled", UNIT, fails=not (ROOT / "etc/systemd/system/multi-user.target.wants" / UNIT).is_symlink()).strip()


def program():
    """What runs; "(deleted)" stands behind one that was replaced."""
    return inside("readlink", f"/proc/{show('MainPID')}/exe").strip()


def mail(to):
    with smtplib.SMTP("localhost", 2525, timeout=20) as client:
        client.sendmail("shop@example.com", [to], "Subject: hello\r\n\r\nIt works.\r\n")


def is_refused(to):
    with smtplib.SMTP("localhost", 2525, timeout=20) as client:
        client.ehlo()
        client.mail("shop@example.com")
        code, text = client.rcpt(to)
        return code == 550 and b"opted out" in text


def suppressed():
    return [json.loads(line)["recipient"] for line in (STATE / "log/suppressed.jsonl").read_text().splitlines()]


def held():
    return sorted(path.name for path in (STATE / "spool").iterdir() if path.suffix in (".msg", ".json", ".new", ".out"))


def everything_is_kept():
    """What the seller may have to prove, or has accepted."""
    assert "buyer@example.org" in (ETC / "blacklist.toml").read_text()
    assert (STATE / "log/suppressed.jsonl").read_bytes().startswith(PROOF[0])
    belongs(ETC / "blacklist.toml", 0, group(ROOT, "optout-relay"), 0o640)
    belongs(STATE, owner(ROOT, "optout-relay"), group(ROOT, "optout-relay"), 0o700)
    if (ETC / "admins.toml").exists():
        assert "late@example.org" in (STATE / "desk.toml").read_text()


def it_is_installed_and_runs():
    inside("apt-get", "install", "-q", "-y", "/trial/1.deb")
    assert show("ActiveState") == "active" and is_enabled() == "enabled", journal()
    assert show("StatusText") == "1 opt-out in force, 0 messages held, 0 sessions", show("StatusText")
    assert program() == "/usr/bin/optout-relay", program()
    assert inside("systemd-analyze", "verify", UNIT) == ""
    assert inside("dpkg", "-V", "optout-relay") == "" and inside("dpkg", "--audit") == ""
    reader = group(ROOT, "optout-relay")
    belongs(ETC, 0, reader, 0o750)
    belongs(ETC / "relay.toml", 0, reader, 0o640)
    belongs(ETC / "blacklist.toml", 0, reader, 0o640)
    belongs(STATE, owner(ROOT, "optout-relay"), reader, 0o700)


def mail_goes_through_and_who_has_opted_out_gets_none():
    mail("buyer@example.org")
    assert len(list((STATE / "var/outbox").glob("*.eml"))) == 1
    assert is_refused("opted-out@example.com")
    inside("optout-relay", "list", "add", "buyer@example.org", "--reason", "asked by telephone")
    eventually(lambda: is_refused("Buyer+7@example.org"), "the opt-out is in force")
    assert suppressed()[0] == "opted-out@example.com" and suppressed()[-1] == "Buyer+7@example.org"
    inside("systemctl", "reload", UNIT)
    assert "sound" in inside("runuser", "-u", "optout-relay", "--", "optout-relay", "check")
    PROOF.append((STATE / "log/suppressed.jsonl").read_bytes())
    everything_is_kept()


def it_can_be_configured_again():
    before = show("MainPID")
    dpkg("--configure", "--pending")
    for _ in range(2):
        inside("env", "DPKG_MAINTSCRIPT_PACKAGE=optout-relay", "/var/lib/dpkg/info/optout-relay.postinst", "configure", "0.1.0-1")
    assert show("ActiveState") == "active" and show("MainPID") != before
    everything_is_kept()


def an_upgrade_brings_new_defaults_to_who_changed_nothing():
    before = show("MainPID")
    dpkg("-i", "/trial/2.deb")
    assert show("ActiveState") == "active" and show("MainPID") != before
    assert program() == "/usr/bin/optout-relay", program()
    assert (ETC / "relay.toml").read_text().endswith("# Of revision 2.\n")
    belongs(ETC / "relay.toml", 0, group(ROOT, "optout-relay"), 0o640)
    assert is_refused("buyer@example.org")
    everything_is_kept()


def the_admin_page_has_a_list_that_it_may_write():
    assert '"/var/lib/optout-relay/desk.toml"' in (ETC / "relay.toml").read_text()
    (ETC / "relay.toml").write_text(OWN)
    inside("sh", "-c", "echo a long secret | optout-relay user --admin add anna")
    inside("systemctl", "restart", UNIT)
    ask = urllib.request.Request("http://127.0.0.1:8025/api/v1/opt-outs", json.dumps({"entries": ["late@example.org"]}).encode())
    ask.add_header("Content-Type", "application/json")
    ask.add_header("Authorization", "Basic " + base64.b64encode(b"anna:a long secret").decode())
    with urllib.request.urlopen(ask, timeout=20) as answer:
        assert json.load(answer)["list"] == "/var/lib/optout-relay/desk.toml"
    assert is_refused("late@example.org")
    belongs(STATE / "desk.toml", owner(ROOT, "optout-relay"), group(ROOT, "optout-relay"), 0o640)


def an_upgrade_keeps_what_the_user_changed():
    mail("held@example.org")
    waiting, before = held(), show("MainPID")
    assert len(waiting) >= 1
    dpkg("-i", "/trial/3.deb")
    assert (ETC / "relay.toml").read_text() == OWN
    assert (ETC / "relay.toml.dpkg-dist").read_text().endswith("# Of revision 3.\n")
    assert show("ActiveState") == "active" and show("MainPID") != before and program() == "/usr/bin/optout-relay"
    assert inside("dpkg-query", "-W", "-f", "${Version}", "optout-relay").endswith("-3")
    with smtplib.SMTP("localhost", 2525, timeout=20) as client:
        assert client.ehlo()[1].startswith(b"shop.test")
    assert "held@example.org" in inside("runuser", "-u", "optout-relay", "--", "optout-relay", "spool", "show")
    everything_is_kept()


def one_that_was_switched_off_stays_off():
    inside("systemctl", "disable", "--now", UNIT)
    dpkg("-i", "/trial/3.deb")
    assert show("ActiveState") == "inactive" and is_enabled() == "disabled"
    inside("systemctl", "enable", "--now", UNIT)
    assert show("ActiveState") == "active"


def a_removal_stops_it_and_keeps_all():
    said = dpkg("-r", "optout-relay")
    assert show("ActiveState") == "inactive" and not (ROOT / "usr/bin/optout-relay").exists(), said
    assert (ETC / "relay.toml").read_text() == OWN and held()
    everything_is_kept()


def installed_again_it_goes_on():
    dpkg("-i", "/trial/3.deb")
    assert show("ActiveState") == "active" and is_refused("buyer@example.org")
    assert (ETC / "relay.toml").read_text() == OWN
    everything_is_kept()


def a_purge_keeps_the_proof_and_says_where():
    said = dpkg("-P", "optout-relay")
    for place in ("/etc/optout-relay", "/var/lib/optout-relay"):
        assert f"optout-relay: opt-outs, logs and held mail are kept in {place}; " in said, said
    assert not (ETC / "relay.toml").exists() and not (ETC / "relay.toml.dpkg-dist").exists()
    assert inside("systemctl", "list-unit-files", "--no-legend", "optout-relay*", fails=True) == ""
    assert held()
    everything_is_kept()


def it_goes_on_with_what_lies_there_from_before():
    """A list that outlived a purge, and a configuration that was made by hand."""
    (ETC / "relay.toml").write_text(OWN)
    dpkg("-i", "/trial/1.deb")
    assert (ETC / "relay.toml").read_text() == OWN
    belongs(ETC / "relay.toml", 0, group(ROOT, "optout-relay"), 0o640)
    assert show("ActiveState") == "active" and is_refused("buyer@example.org")
    everything_is_kept()
    dpkg("-P", "optout-relay")
    everything_is_kept()


def nothing_went_wrong():
    assert "panicked" not in journal()
    assert inside("systemctl", "list-units", "--failed", "--no-legend") == ""


CHECKS = [
    it_is_installed_and_runs,
    mail_goes_through_and_who_has_opted_out_gets_none,
    it_can_be_configured_again,
    an_upgrade_brings_new_defaults_to_who_changed_nothing,
    the_admin_page_has_a_list_that_it_may_write,
    an_upgrade_keeps_what_the_user_changed,
    one_that_was_switched_off_stays_off,
    a_removal_stops_it_and_keeps_all,
    installed_again_it_goes_on,
    a_purge_keeps_the_proof_and_says_where,
    it_goes_on_with_what_lies_there_from_before,
    nothing_went_wrong,
]

sys.exit(hold(CHECKS, lambda: journal()[-4000:]))
