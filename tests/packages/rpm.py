"""The rpm, below a root with a minimal system in which nothing runs: what is in it, and what becomes of the files by
installation, upgrade and removal. Arguments: the root, the package, and a later one."""

import sys
from pathlib import Path

from checks import belongs, group, hold, run

ROOT, PACKAGE, LATER = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
ETC = ROOT / "etc/optout-relay"
ENABLED = ROOT / "etc/systemd/system/multi-user.target.wants/optout-relay.service"
FILES = """
/etc/optout-relay/relay.toml
/usr/bin/optout-relay
/usr/lib/systemd/system/optout-relay.service
/usr/lib/systemd/system/optout-relay.socket
/usr/lib/sysusers.d/optout-relay.conf
/usr/share/bash-completion/completions/optout-relay
/usr/share/fish/vendor_completions.d/optout-relay.fish
/usr/share/licenses/optout-relay/LICENSE
/usr/share/man/man1/optout-relay.1.gz
/usr/share/man/man1/optout-relay-list-add.1.gz
/usr/share/man/man5/relay.toml.5.gz
/usr/share/optout-relay/blacklist.toml
/usr/share/zsh/site-functions/_optout-relay
""".split()


def rpm(*arguments):
    """Its data base is the root's own; that of Debian knows nothing of what the package requires."""
    return run("rpm", "--root", str(ROOT), "--nodeps", *arguments)


def everything_is_kept():
    assert "buyer@example.org" in (ETC / "blacklist.toml").read_text()
    assert (ROOT / "var/lib/optout-relay/log/suppressed.jsonl").read_text() == "{}\n"


def it_holds_what_it_should():
    held = run("rpm", "-qpl", PACKAGE).split()
    assert not set(FILES) - set(held), set(FILES) - set(held)
    # Nothing may be placed by a package where lists and logs are.
    assert [name for name in held if name.startswith(("/etc", "/var"))] == ["/etc/optout-relay/relay.toml"]
    assert run("rpm", "-qpc", PACKAGE).split() == ["/etc/optout-relay/relay.toml"]
    assert "systemd >= 252" in run("rpm", "-qpR", PACKAGE)


def it_is_installed():
    rpm("-i", PACKAGE)
    reader = group(ROOT, "optout-relay")
    belongs(ETC, 0, reader, 0o750)
    belongs(ETC / "relay.toml", 0, reader, 0o640)
    belongs(ETC / "blacklist.toml", 0, reader, 0o640)
    assert ENABLED.is_symlink()
    assert 'state_dir = "/var/lib/optout-relay"\n' in (ETC / "relay.toml").read_text()
    assert "sound" in run("chroot", str(ROOT), "optout-relay", "check")


def an_upgrade_keeps_what_the_user_changed():
    run("chroot", str(ROOT), "optout-relay", "list", "add", "buyer@example.org")
    log = ROOT / "var/lib/optout-relay/log"
    log.mkdir(parents=True)
    (log / "suppressed.jsonl").write_text("{}\n")
    (ETC / "relay.toml").write_text((ETC / "relay.toml").read_text() + "# mine\n")
    rpm("-U", LATER)
    assert run("rpm", "--root", str(ROOT), "-q", "--qf", "%{RELEASE}", "optout-relay") == "2"
    assert (ETC / "relay.toml").read_text().endswith("# mine\n") and ENABLED.is_symlink()
    belongs(ETC / "relay.toml", 0, group(ROOT, "optout-relay"), 0o640)
    everything_is_kept()


def a_removal_keeps_list_and_log():
    said = rpm("-e", "optout-relay")
    assert "are kept in /etc/optout-relay and /var/lib/optout-relay" in said, said
    assert not (ROOT / "usr/bin/optout-relay").exists() and not ENABLED.is_symlink()
    assert (ETC / "relay.toml.rpmsave").read_text().endswith("# mine\n")
    everything_is_kept()


def installed_again_it_goes_on():
    rpm("-i", PACKAGE)
    assert "would be suppressed" in run("chroot", str(ROOT), "optout-relay", "explain", "buyer@example.org", fails=True)
    everything_is_kept()


sys.exit(hold([it_holds_what_it_should, it_is_installed, an_upgrade_keeps_what_the_user_changed, a_removal_keeps_list_and_log, installed_again_it_goes_on]))
