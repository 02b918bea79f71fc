"""A real systemd as PID 1, in namespaces of its own, that starts nothing by itself.

It has its own /run and /dev and one target without units, so that nothing of the host is touched.
Only what a test starts runs there; all of it goes with the namespace.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psutil

PROGRAM = next(
    (p for p in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(p).exists()), ""
)
SETUP = """
set -e
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=755 none /dev
mkdir /dev/pts /dev/shm /dev/net
mount -t devpts -o newinstance,ptmxmode=666 none /dev/pts
mount -t tmpfs none /dev/shm
for each in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    name=${each%%:*}; rest=${each#*:}
    mknod -m 666 /dev/$name c ${rest%:*} ${rest#*:}
done
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
umount -R -l /sys/fs/cgroup
if ! mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; then exit 77; fi
if ! [ -e /sys/fs/cgroup/cgroup.controllers ]; then exit 77; fi
mkdir -p /run/systemd/system
for each in bare sysinit basic shutdown; do
    printf '[Unit]\\nDefaultDependencies=no\\nAllowIsolate=yes\\n' >/run/systemd/system/$each.target
done
paths=/run/systemd/system.control:/run/systemd/transient:/run/systemd/system
export container=other SYSTEMD_UNIT_PATH=$paths SYSTEMD_LOG_TARGET=console
exec "$0" --system --unit=bare.target --log-level=info --show-status=no
"""


class Systemd:
    """One that runs; `run` is a command in its namespaces."""

    def __init__(self, pid: int) -> None:
        self.enter = ["nsenter", "-t", str(pid), "-m", "-p", "-C", "-i", "-u", "-n"]

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.enter, *words], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=os.environ | environ,
        )

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **environ) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def state(self, unit: str) -> str:
        """active, deactivating, inactive, failed …"""
        return self.run("systemctl", "is-active", unit).stdout.strip()


@contextmanager
def booted() -> Iterator[Systemd | str]:
    """A Systemd, or why there is none."""
    if not PROGRAM or os.geteuid() != 0:
        yield "needs root and systemd"
        return
    group = _group()
    words = [
        "sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{group}/cgroup.procs",
        "unshare", "-m", "-p", "-f", "-C", "-i", "-u", "-n", "--mount-proc", "--kill-child",
        "sh", "-c", SETUP, PROGRAM,
    ]
    group.mkdir()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield _ready(process) or _words(log)
        finally:
            process.kill()
            process.wait(60)
            _remove(group)


def _group() -> Path:
    """A group of its own, in the hierarchy that systemd is to have."""
    top = Path("/sys/fs/cgroup")
    return (top / "unified" if (top / "unified").is_dir() else top) / f"systemd-{os.getpid()}"


def _remove(group: Path) -> None:
    """It and all that systemd has made in it; whoever is in one is being killed."""
    for path in sorted((p for p in (group, *group.rglob("*")) if p.is_dir()), reverse=True):
        deadline = time.monotonic() + 60
        while "populated 0" not in (path / "cgroup.events").read_text():
            assert time.monotonic() < deadline, path
            time.sleep(0.05)
        path.rmdir()


def _ready(process: subprocess.Popen[bytes]) -> Systemd | None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():  # of unshare: PID 1 of the namespace
            systemd = Systemd(child.pid)
            if systemd.run("systemctl", "is-system-running").stdout.strip() in (
                "running", "degraded",
            ):
                return systemd
        time.sleep(0.1)
    return None


def _words(log: TextIO) -> str:
    log.seek(0)
    return f"systemd does not start in a namespace: {log.read()[-2000:]}"
