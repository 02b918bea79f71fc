"""A real sshd on loopback: its own keys, port and configuration, its login is whoever tests.

The home directory that its sessions see is a directory of the test's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

UNPACKED = Path(__file__).parents[2] / "build/sshd"  # by contrib/sshd
INSTALLED = shutil.which("sshd", path=f"{os.environ.get('PATH')}:/usr/sbin")
SSHD = INSTALLED or str(UNPACKED / "usr/sbin/sshd")
# An unpacked sshd lacks the account that root's wants to have; nobody else's passwd is changed.
_WITH_ACCOUNT = """mount --bind "$1" /etc/passwd && shift && exec "$@"
"""
SESSION_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv HOME={home} PATH={path} TMPDIR={home}/tmp XDG_RUNTIME_DIR={home}/run
MaxSessions {sessions}
AllowStreamLocalForwarding {forward}
"""
_CLIENT = """\
Host there
HostName 127.0.0.1
Port {port}
IdentityFile {directory}/user_key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {directory}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
BatchMode yes
"""


class Sshd:
    """A started sshd; `config` is for ssh -F, and its host is called `there`."""

    def __init__(self, directory: Path, path: str, **settings: str) -> None:
        self.directory = directory
        self.home = directory / "home"
        for name in ("tmp", "run"):
            (self.home / name).mkdir(parents=True, mode=0o700)
        self.config = directory / "my config"
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name],
                           check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        values = {"directory": directory, "port": self.port, "home": self.home, "path": path,
                  "sessions": "10", "forward": "yes", **settings}
        key = (directory / "host_key.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")
        self.config.write_text(_CLIENT.format(**values))
        (directory / "sshd_config").write_text(_SERVER.format(**values))
        self.log = directory / "sshd.log"
        self.process = psutil.Popen(
            self._command("-D", "-f", str(directory / "sshd_config"), "-E", str(self.log)),
            stdin=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": _libraries()},
        )
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.02)

    def _command(self, *options: str) -> list[str]:
        words = [SSHD, *options]
        if INSTALLED is None:
            for name in ("session", "auth"):  # programs of their own since OpenSSH 9.8 and 10
                path = UNPACKED / f"usr/lib/openssh/sshd-{name}"
                words += ["-o", f"Sshd{name.title()}Path={path}"] if path.exists() else []
        names = [entry.pw_name for entry in pwd.getpwall()]
        if os.geteuid() != 0 or "sshd" in names:
            return words
        passwd = self.directory / "passwd"
        passwd.write_text(Path("/etc/passwd").read_text()
                          + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
        return ["unshare", "-m", "sh", "-c", _WITH_ACCOUNT, "sh", str(passwd), *words]

    def servers(self) -> list[psutil.Process]:
        """The processes that hold connections."""
        try:
            return [p for p in self.process.children(recursive=True) if p.name() == "sshd"]
        except psutil.NoSuchProcess:  # it was stopped
            return []

    def cut(self) -> None:
        """All connections end as they do when this machine's network does."""
        for process in self.servers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Nothing stays behind: connections neither."""
        self.cut()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def _libraries() -> str:
    return "" if INSTALLED else ":".join(map(str, UNPACKED.glob("usr/lib/*-linux-gnu")))


@contextlib.contextmanager
def _run_sshd() -> Iterator[None]:
    """Root's sshd wants a directory that packages make at boot. Where there is none, whoever comes
    first makes it and the last one, of all that test at the same time, takes it away."""
    place = Path("/run/sshd")
    mark = place / ".qlaunch-tests"
    fd = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o755)
            mark.touch()
        yield
    finally:
        with contextlib.suppress(OSError):  # another has it still
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mark.exists():
                mark.unlink()
                place.rmdir()
        os.close(fd)


@contextlib.contextmanager
def sshd(directory: Path, path: str = SESSION_PATH, **settings: str) -> Iterator[Sshd]:
    """Within the block it listens."""
    with _run_sshd() if os.geteuid() == 0 else contextlib.nullcontext():
        server = Sshd(directory, path, **settings)
        try:
            yield server
        finally:
            server.stop()
