"""`selftest`: a profile's devices to a guest and back, round by round, before a desktop is trusted
to it.

The machine of a round has the profile's chipset, firmware, host devices and hooks, and a disk with
our boot sector, which says what it sees and powers off: nothing of the guest's own is there. Each
round is an ordinary Session, so what it proves holds for `run`.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from msgspec import Struct

from qlaunch.errors import Problem, UsageError
from qlaunch.host.handler import Host
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import Step
from qlaunch.profile.control import Hooks, Qemu
from qlaunch.profile.machine import Machine
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import Loaded
from qlaunch.profile.storage import Disk
from qlaunch.run.compared import differences, host_state
from qlaunch.run.session import Session
from qlaunch.run.story import Story
from qlaunch.values import HostPath, Size, VmName

DISK = 1 << 20  # SeaBIOS boots no disk below one cylinder, 516096 bytes
MEMORY = 512 << 20  # VFIO pins all of it, and nothing here needs more
GRACE = 15.0  # seconds beyond those asked for until the guest is told to quit: UEFI boots no sector
EMULATED = 8  # times as long without KVM


class Round(Struct, frozen=True, kw_only=True):
    """What one round took, in seconds, and what was not as before after it."""

    number: int
    take: float  # the host steps
    start: float  # QEMU, until the guest ran
    run: float
    give_back: float
    end: str  # how the guest ended
    code: int = 0  # what a run would have ended with
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
        for words in (": ended (", ": ended badly ("):
            _, ended, rest = text.partition(words)
            if ended:
                self.end = rest.rpartition(")")[0]
        super().say(text)


def run_round(
    number: int, loaded: Loaded, make_plan: Callable[[bool], Plan], before: dict[str, str],
    steps: Sequence[Step], *, base: str, patience: float, quiet: bool,
    net: Any = None,
) -> Round:
    """One round; `before` is what `steps` may change. Raises QlaunchError as a run does."""
    gc.collect()  # a round leaves too little for the collector to begin by itself
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
        give_back=over - at[10], end=story.end or f"exit code {code}", code=code,
        changed=differences(before, host_state(Host(), steps)),
    )
