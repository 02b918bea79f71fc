"""Ordinary users for tests that root runs: accounts of this machine's, and accounts that are not.

A child in a mount namespace of its own sees an /etc/passwd with one user more, a /run/user and a
/run/qlaunch that nobody else sees. A user's child keeps CAP_DAC_READ_SEARCH, because the
interpreter and this checkout may lie where only root may look; it may write no more than the user.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UID = 54321
TOP = Path(__file__).parents[2]
AS_USER = [
    "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search", "--",
]  # fmt: skip


def everybody_reads_it() -> bool:
    """Whether any account can read this checkout; where it is in root's home, none other can."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words = [*nobody, "cat", str(TOP / "README.md")]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


_STAGE = """\
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/user/54321
chown 54321:54321 /run/user/54321
chmod 700 /run/user/54321
mount -t tmpfs -o mode=755 none /var/lib
mount -t tmpfs -o mode=755 none /var/cache
cd "$1/home"
shift
set +e
"""


class Stage:
    """A directory of a test with the home of `tester`; `run` is a script in a world of its own.

    In the script `q` is qlaunch as root, `u` as tester, `s` as root asked through tester's sudo.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        for name, line in (
            ("passwd", f"tester:x:{UID}:{UID}::{self.home}:/bin/sh"), ("group", f"tester:x:{UID}:")
        ):
            text = Path(f"/etc/{name}").read_text()
            (directory / name).write_text(f"{text}{line}\n")
        self.home.chmod(0o700)
        self.give(self.home)

    def give(self, *paths: Path) -> None:
        """To tester."""
        for path in paths:
            os.chown(path, UID, UID)

    def write(self, name: str, text: str | bytes) -> Path:
        """A file of tester's in their home."""
        path = self.home / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)
        self.give(path)
        return path

    def run(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """bash, in namespaces for mounts."""
        qlaunch = f'"{sys.executable}" -m qlaunch "$@"'
        user = f'HOME="{self.home}" XDG_RUNTIME_DIR="${{RUNTIME-/run/user/{UID}}}"'
        functions = (
            f"q() {{ {qlaunch}; }}\n"
            f"u() {{ env {user} {' '.join(AS_USER)} {qlaunch}; }}\n"
            f"s() {{ SUDO_UID={UID} SUDO_GID={UID} SUDO_USER=tester {qlaunch}; }}\n"
        )
        return subprocess.run(
            ["unshare", "-m", "--propagation", "private", "bash", "-c",
             _STAGE + functions + script, "stage", str(self.directory)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP), "LANG": "C.UTF-8", **env},
            capture_output=True, text=True, check=False, timeout=180, stdin=subprocess.DEVNULL,
        )  # fmt: skip
