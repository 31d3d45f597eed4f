"""What the tests of both packages share: commands are run, and checks are told one a line."""

import re
import subprocess
import time
import traceback

PATIENCE = 20


def run(*command, fails=False, **options):
    """Runs a command to its end; what it printed, errors too."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, **options)
    assert fails == (done.returncode != 0), f"{' '.join(map(str, command))}: {done.returncode}: {done.stdout}"
    return done.stdout


def eventually(is_so, what):
    end = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return found


def owner(root, name):
    """Number of the user, by the files of the root: this machine has other users."""
    return int(re.search(rf"^{name}:[^:]*:(\d+):", (root / "etc/passwd").read_text(), re.MULTILINE)[1])


def group(root, name):
    return int(re.search(rf"^{name}:[^:]*:(\d+):", (root / "etc/group").read_text(), re.MULTILINE)[1])


def belongs(path, user, of_group, mode):
    found = path.stat()
    mine = (found.st_uid, found.st_gid, oct(found.st_mode & 0o7777))
    assert mine == (user, of_group, oct(mode)), f"{path}: {mine}"


def hold(checks, trouble=lambda: ""):
    """Runs the checks in their order, ends at the first that fails; the exit code."""
    for check in checks:
        begun, name = time.monotonic(), check.__name__.replace("_", " ")
        try:
            check()
        except Exception:
            print(f"FAIL  {name}\n{traceback.format_exc()}{trouble()}")
            return 1
        print(f"ok    {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    return 0
