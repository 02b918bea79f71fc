"""`selftest`: a profile's devices to a guest and back, round by round, before a desktop is trusted
to it.

The machine of a round has the profile's chipset, firmware, host devices and hooks, and a disk with
our boot sector, which says what it sees and powers off: nothing of the guest's own is there. Each
round is an ordinary Session, so what it proves holds for `run`.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from qlaunch.errors import Problem, StuckError, UsageError
from qlaunch.host import sysfs
from qlaunch.host.carried import read_kinds
from qlaunch.host.device import pci_path, read_driver
from qlaunch.host.handler import Host
from qlaunch.plan.model import Plan
from qlaunch.profile.control import Hooks, Qemu
from qlaunch.profile.machine import Machine
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import Loaded
from qlaunch.profile.storage import Disk
from qlaunch.run.session import Session
from qlaunch.run.story import Story
from qlaunch.values import HostPath, PciAddress, Size, VmName

DISK = 1 << 20  # SeaBIOS boots no disk below one cylinder, 516096 bytes
MEMORY = 512 << 20  # VFIO pins all of it, and nothing here needs more
GRACE = 15.0  # seconds beyond those asked for until the guest is told to quit: UEFI boots no sector
EMULATED = 8  # times as long without KVM
_ANSWER = 10.0  # seconds for the few files of a device that nothing is done to
_FILES = ("driver_override", "reset_method", "d3cold_allowed", "power/control", "sriov_numvfs")


class Round(Struct, frozen=True, kw_only=True):
    """What one round took, in seconds, and what was not as before after it."""

    number: int
    take: float  # the host steps
    start: float  # QEMU, until the guest ran
    run: float
    give_back: float
    end: str  # how the guest ended
    changed: tuple[str, ...] = ()


def selftest_profile(profile: Profile, disk: str, seconds: int, *, hooks: bool) -> Profile:
    """The profile without anything of its guest. Raises UsageError when it has no host devices."""
    if not (profile.pci or profile.vgpu):
        raise UsageError(
            Problem("the profile hands no device of the host to its guest", where=profile.name,
                    hint="a selftest is for profiles with [[pci]] or [[vgpu]]")
        )
    own = profile.machine
    name = f"{profile.name[:50]}-selftest"
    machine = Machine(
        type=own.type, accel=own.accel, firmware=own.firmware, secure_boot=own.secure_boot,
        smm=own.smm, bios=own.bios, memory=Size(min(int(own.memory), MEMORY)),
        fw_cfg={"opt/org.qlaunch/name": name, "opt/org.qlaunch/seconds": str(seconds)},
    )
    return Profile(
        name=VmName(name), guest=profile.guest, machine=machine, pci=profile.pci,
        vgpu=profile.vgpu, stop=profile.stop, hooks=profile.hooks if hooks else Hooks(),
        qemu=Qemu(binary=profile.qemu.binary, env=profile.qemu.env, user=profile.qemu.user),
        disk=(Disk(file=HostPath(disk), format="raw", bus="virtio", boot=0, read_only=True),),
    )


def boot_disk(image: bytes) -> str:
    """A file with our boot sector that every account can read; the caller's to remove."""
    fd, path = tempfile.mkstemp(prefix="qlaunch-selftest-", suffix=".img")
    try:
        os.write(fd, image)
        os.ftruncate(fd, DISK)
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)
    return path


def device_state(host: Host, addresses: Sequence[PciAddress]) -> dict[str, str]:
    """What a round may not change of these devices: "ADDRESS what" → text.

    Some of the files take the device's lock, which what hangs in the kernel holds for ever.
    """
    state: dict[str, str] = {}
    patient = replace(host, deadline=min(host.deadline, _ANSWER))
    for address in addresses:
        path = pci_path(host, address)
        state[f"{address} is there"] = "yes" if path.exists() else "no"
        state[f"{address} driver"] = read_driver(host, address) or "none"
        state[f"{address} nodes"] = " ".join(sorted(map(str, read_kinds(host, address))))

        def read(path: Path = path) -> dict[str, str]:
            return {name: sysfs.read_text(path / name) or "" for name in _FILES}

        try:
            files = sysfs.guarded_read(patient, read, f"reading {address}")
        except StuckError:
            files = {"answers": "no: what holds it hangs in the kernel"}
        state |= {f"{address} {name}": text for name, text in files.items()}
    return state


def differences(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """One sentence each."""
    return tuple(
        f"{key}: was {before.get(key) or 'empty'}, is {text or 'empty'}"
        for key, text in sorted(after.items()) if before.get(key) != text
    )


class _Timed(Session):
    """A session that notes when its stages begin, and ends a guest that does not end itself."""

    times: dict[int, float]
    patience: float

    def stage(self, number: int, text: str) -> None:
        self.times[number] = time.monotonic()
        if number == 10:
            signal.setitimer(signal.ITIMER_REAL, 0)
        super().stage(number, text)
        if number == 9:
            signal.setitimer(signal.ITIMER_REAL, self.patience)


class Telling(Story):
    """A story that is remembered: how the guest ended is told there."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.end = ""

    def say(self, text: str) -> None:
        """As Story.say."""
        _, ended, rest = text.partition(": ended (")
        if ended:
            self.end = rest.partition(")")[0]
        super().say(text)


def run_round(
    number: int, loaded: Loaded, make_plan: Callable[[bool], Plan], before: dict[str, str],
    addresses: Sequence[PciAddress], *, base: str, patience: float, quiet: bool,
    net: Any = None,
) -> Round:
    """One round. Raises QlaunchError as a run does."""
    story = Telling(quiet=quiet)
    session = _Timed(loaded, make_plan, story, base=base, net=net)
    session.times, session.patience = {}, patience

    def enough(signum: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)  # as `stop --now` does

    earlier = signal.signal(signal.SIGALRM, enough)
    try:
        code = session.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        story.close()
    at = session.times
    over = time.monotonic()
    return Round(
        number=number, take=at[6] - at[5], start=at[9] - at[7], run=at[10] - at[9],
        give_back=over - at[10], end=story.end or f"exit code {code}",
        changed=differences(before, device_state(Host(), addresses)),
    )
