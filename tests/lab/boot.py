"""Boots a lab host and runs one command in it.

virtme-ng starts a packaged kernel on the running machine's own files, so there is no image to
build. The root is copy-on-write or read-only in there: all that comes back is what is written to
the result directory build/lab/TOPOLOGY, which both sides see under the same path. A command that
hangs, a host that panics and an interrupted caller all end with the process group being killed and
nothing left.
"""

from __future__ import annotations

import compileall
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fake.guest import unpacked

from .hot import ARCHIVE, pack
from .topology import Topology

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path("tests/lab/inside")
NEW_QEMU = ROOT / "build/qemu10/qemu-system-x86_64"
TIMED_OUT = 124
KERNEL_MESSAGE = re.compile(r"\[ *\d+\.\d+\] ")


@dataclass(frozen=True)
class Outcome:
    """What is left of one run."""

    exit_code: int
    log: Path
    junit: Path

    def output(self) -> str:
        """The console from where the command started, without the kernel's messages."""
        text = self.log.read_text(errors="replace")
        said = text.partition("starting script")[2] or text
        return "\n".join(
            line for line in said.splitlines() if not KERNEL_MESSAGE.match(line)
        ).strip()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def results(topology: Topology) -> Path:
    """The directory a run of this topology leaves its results in."""
    return ROOT / "build/lab" / topology.name


def kernel() -> Path:
    """The newest packaged kernel; one that runs in a container's host may have no modules here.

    Ubuntu's kernels are root's alone to read.
    """
    found = [k for k in Path("/boot").glob("vmlinuz-*") if modules_of(k).is_dir()]
    if not found:
        raise FileNotFoundError(
            "no kernel with modules in /boot: install linux-image-amd64 (Ubuntu: -generic)"
        )
    readable = [k for k in found if os.access(k, os.R_OK)]
    if not readable:
        raise PermissionError(f"{found[0]} is root's alone to read: run this through sudo")
    return max(readable, key=lambda k: k.stat().st_mtime)


def modules_of(image: Path) -> Path:
    return Path("/lib/modules") / image.name.removeprefix("vmlinuz-")


def monitor_options(sockets: Path) -> list[str]:
    """L1's QMP: one socket for us outside, one that QEMU itself connects to and shows L1 as a port.

    The second spares a relay process. The port holds data back until somebody in L1 opens it.
    """
    inner = sockets / "inner"
    return [
        f"-qmp unix:{sockets / 'qmp'},server=on,wait=off",
        f"-chardev socket,id=labqmp,path={inner},server=on,wait=off",
        "-mon chardev=labqmp,mode=control",
        f"-chardev socket,id=labport,path={inner}",
        "-device virtio-serial-pci,id=labserial,bus=pcie.0,addr=0x1d",
        "-device virtserialport,bus=labserial.0,chardev=labport,name=labqmp",
    ]


def vng(topology: Topology, sockets: Path, command: Sequence[str] = ()) -> list[str]:
    """The command line that boots the topology; an interactive shell without a command."""
    options = [*topology.options, *monitor_options(sockets)]
    newer = topology.new_qemu and NEW_QEMU.exists()
    argv = [
        str(Path(sys.executable).with_name("vng")),
        *("--run", str(kernel())),
        *(("--qemu", str(NEW_QEMU)) if newer else ()),
        *("--disable-kvm", "--disable-microvm"),  # both give a machine that is not q35 with TCG
        "--force-9p",  # else seconds go by until vng has seen that virtiofsd does not start
        f"--rwdir={results(topology)}",
        "--verbose",
        *("--cpus", topology.cpus),
        *("--memory", topology.memory),
        *("--append", topology.kernel_line),
        "--qemu-opts=" + " ".join(options),
    ]
    return [*argv, "--", shlex.join(command)] if command else argv


def environment() -> dict[str, str]:
    """vng calls its helpers by name, and they are where it is itself, not always on PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path}


def inner_script(topology: Topology, command: Sequence[str]) -> str:
    """What runs in L1. The exit code goes to a file: not every vng passes it on."""
    out = results(topology)
    return "\n".join(
        [
            f"cd {shlex.quote(str(ROOT))}",
            f"export QLAUNCH_LAB_INSIDE=1 QLAUNCH_LAB_TOPOLOGY={topology.name}",
            f"export QLAUNCH_LAB_RESULTS={shlex.quote(str(out))} PYTHONDONTWRITEBYTECODE=1",
            f"sh {INSIDE}/setup.sh {shlex.quote(str(out))} {' '.join(topology.modules)}",
            f"cd {shlex.quote(str(ROOT))}",  # the one that is in memory now
            shlex.join(command),
            f"echo $? > {shlex.quote(str(out / 'exit'))}",
            "",
        ]
    )


def pytest_command(topology: Topology, arguments: Sequence[str] = ()) -> list[str]:
    """The inside tests of a topology: all of them where the arguments are options alone."""
    junit = results(topology) / "junit.xml"
    pytest = [sys.executable, "-m", "pytest", f"--junitxml={junit}"]
    # The checkout is read-only in there: nothing that keeps a database beside the tests.
    pytest += ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    where = [] if any(not word.startswith("-") for word in arguments) else [str(INSIDE)]
    # The default junit family refuses record_property, by which tests report times.
    return [*pytest, "-o", "junit_family=xunit1", "-m", "lab", *arguments, *where]


def parts(topology: Topology, *, nightly: bool) -> list[tuple[Topology, list[str]]]:
    """The hosts of its tests' boots and their arguments: one by day."""
    if not nightly:
        return [(topology, [])]
    short = [f"--ignore={INSIDE / file}" for file in topology.long]
    whole = [(topology, ["--nightly", *short])]
    steady = topology.steady()
    return whole + [(steady, ["--nightly", str(INSIDE / file)]) for file in topology.long]


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Short, because a unix socket's path may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-lab-") as path:
        yield Path(path)


def run(topology: Topology, command: Sequence[str], timeout: float | None = None) -> Outcome:
    """Boot, run, and come back with what happened; the previous run's results are removed first.

    A host whose emulator crashed is booted once more. QEMU 7.2, emulating several CPUs, was seen to
    die in memory_region_dispatch_write without a region, once in some thirty boots, while devices
    changed hands: no fault of what runs in there.
    """
    outcome = _boot(topology, command, timeout)
    if has_crashed(outcome):
        sys.stderr.write(f"{topology.name}: its QEMU has crashed; once more\n")
        outcome = _boot(topology, command, timeout)
    return outcome


def has_crashed(outcome: Outcome) -> bool:
    """Whether the host was gone in the middle: no exit code, no panic, no end of its time."""
    text = outcome.log.read_text(errors="replace")
    ended = (outcome.log.parent / "exit").exists() or outcome.exit_code == TIMED_OUT
    said = any(word in text for word in ("Kernel panic", "reboot:"))
    return "starting script" in text and not ended and not said


def _boot(topology: Topology, command: Sequence[str], timeout: float | None) -> Outcome:
    out = results(topology)
    shutil.rmtree(out, ignore_errors=True)
    (out / "screens").mkdir(parents=True)
    # In there the checkout is read-only and slow: without compiled files each start takes seconds.
    compileall.compile_dir(ROOT / "qlaunch", quiet=2)
    compileall.compile_dir(ROOT / "tests", quiet=2)
    pack(ROOT, out / ARCHIVE)
    unpacked(kernel(), out)  # for the guests in there: nothing is slower than doing it emulated
    script = out / "inner.sh"
    script.write_text(inner_script(topology, command))
    if topology.samples:
        build_samples()
    log = out / "console.log"
    with socket_directory() as sockets, log.open("wb") as sink:
        argv = vng(topology, sockets, ["sh", str(script)])
        in_time = _supervise(argv, sink.fileno(), timeout or topology.timeout)
    code = out / "exit"
    (out / ARCHIVE).unlink()
    (out / "vmlinux").unlink(missing_ok=True)
    exit_code = int(code.read_text() or 1) if code.exists() else 1
    return Outcome(exit_code if in_time else TIMED_OUT, log, out / "junit.xml")


def build_samples() -> Path:
    """The sample modules of the kernel that is booted. Raises CalledProcessError."""
    target = ROOT / "build/samples"
    release = kernel().name.removeprefix("vmlinuz-")
    script = ROOT / "tests/lab/samples.sh"
    subprocess.run(["sh", str(script), release, str(target)], check=True)
    return target


def _supervise(argv: list[str], sink: int, timeout: float) -> bool:
    """False when the time was over. The process group is gone afterwards in every case.

    The log comes through cat and a pipe because vng's QEMU opens /proc/self/fd/1 several times:
    a file would be truncated each time and the writers overwrite each other.
    """
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=sink) as cat:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=cat.stdin,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
