"""Rules about watchdog and shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import Size

MIN_SHARED = 1 << 20


def check_shared_memory(profile: Profile) -> Iterator[Finding]:
    """A PCI BAR is a power of two (ivshmem_common_realize), and two guests' names differ here."""
    names: dict[str, str] = {}
    if profile.display.type == "looking-glass" and profile.display.kvmfr is None:
        names[profile.display.shared_file] = "display.shared_file"
    for number, shmem in enumerate(profile.shmem):
        size = int(shmem.size)
        if size < MIN_SHARED or size & (size - 1):
            near = max(MIN_SHARED, 1 << size.bit_length())
            yield Finding(
                ("shmem", number, "size"),
                Problem("shared memory is a power of two, 1M or more", found=str(shmem.size),
                        hint=f'size = "{Size(near)}"'),
            )
        here = f"shmem[{number}]"
        first = names.setdefault(shmem.name, here)
        if first != here:
            yield Finding(
                ("shmem", number, "name"),
                Problem(f"{first} is the same memory", found=shmem.name,
                        hint="give each a name of its own"),
            )


def check_watchdog(profile: Profile) -> Iterator[Finding]:
    """The chipset's own watchdog is q35's, and has no slot."""
    watchdog = profile.watchdog
    if watchdog is None or watchdog.model != "itco":
        return
    kind = profile.machine.type
    if kind == "pc" or kind.startswith("pc-i440fx"):
        yield Finding(
            ("watchdog", "model"),
            Problem("only the q35 chipset has this watchdog", found=f'"itco" on {kind}',
                    hint='use model = "i6300esb"'),
            also=(("machine", "type"),),
        )
    if watchdog.addr is not None:
        yield Finding(
            ("watchdog", "addr"),
            Problem("this watchdog is in the chipset and has no slot", found=f'"{watchdog.addr}"',
                    hint='leave it out, or use model = "i6300esb"'),
            also=(("watchdog", "model"),),
        )


def check_rate(profile: Profile) -> Iterator[Finding]:
    """QEMU refuses a limit of nothing (virtio_rng_device_realize)."""
    if profile.rng is not None and profile.rng.rate is not None and profile.rng.rate < 1:
        yield Finding(("rng", "rate"), Problem("the guest would never get any", found="0B",
                                               hint="leave rate out for no limit"))


EXTRA_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_shared_memory, check_watchdog, check_rate,
)
