"""Device interrupts leave CPUs, and those that are requested meanwhile start elsewhere.

Documentation/core-api/irq/irq-affinity.rst. An interrupt that the kernel has spread itself
(IRQD_AFFINITY_MANAGED: the queues of NVMe and many network cards) or that belongs to one CPU cannot
be moved: EIO, since Linux 6.11 EPERM (kernel/irq/proc.c, write_irq_affinity). Such a queue's is
raised by work that is submitted on its CPU, where only the guest's threads are.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.host.together import (
    Kind,
    Note,
    Setting,
    Want,
    join,
    leave,
    narrowed,
    read_list,
    read_note,
    write_note,
)
from qlaunch.plan.cpu_steps import MoveIrqs
from qlaunch.values import CpuSet

DEFAULT = "default_smp_affinity"  # a mask, where all others are lists


class Irqs(Kind):
    """By the names of their files below /proc/irq."""

    name = "irqs"
    # The last two: no vector is free on the others, another move of it has not happened yet.
    refused = (errno.EIO, errno.EPERM, errno.ENOSPC, errno.EBUSY)

    def find(self, host: Host, note: Note) -> Iterator[str]:
        """The default first: what is requested meanwhile has it."""
        yield DEFAULT
        for path in host.path("proc/irq").glob("[0-9]*"):
            yield f"{path.name}/smp_affinity_list"

    def read(self, host: Host, names: Sequence[str]) -> dict[str, str]:
        """As lists, all of them."""
        found = {}
        for name in names:
            try:
                text = sysfs.read_text(host.path(f"proc/irq/{name}"))
            except OSError:  # freed while it is read
                continue
            if text:
                found[name] = str(cpus_of(text) if name == DEFAULT else read_list(text))
        return found

    def write(self, host: Host, name: str, text: str) -> None:
        """One write(2)."""
        words = mask_of(read_list(text)) if name == DEFAULT else text
        sysfs.write(host, host.path(f"proc/irq/{name}"), words)

    def wanted(self, host: Host, name: str, before: str, note: Note) -> str:
        """Those that are on none of the CPUs stay as they are."""
        return narrowed(host, before, note)


class MoveIrqsHandler:
    """smp_affinity_list of each, default_smp_affinity."""

    def capture(self, host: Host, step: MoveIrqs) -> Captured:
        """Nothing: the note keeps what was there before the first machine."""
        return {}

    def apply(self, host: Host, step: MoveIrqs, captured: Captured) -> None:
        """Raises HostError when no CPU would be left."""
        _adopt(host)
        join(host, Irqs(), step.machine, Want(step.cpus))

    def undo(self, host: Host, step: MoveIrqs, captured: Captured) -> str | None:
        """Those that are still as we have set them go back; those requested meanwhile, whose CPUs
        are the default's of then, get the default's of before."""
        _adopt(host)
        leave(host, Irqs(), step.machine)
        return None


def _adopt(host: Host) -> None:
    """What came since the first machine: before that machine it would have had the default's CPUs
    of then."""
    kind = Irqs()
    note = read_note(host, kind)
    default = note.settings.get(DEFAULT) if note else None
    if note is None or default is None or not default.ours:
        return
    fresh = [name for name in kind.find(host, note) if name not in note.settings]
    for name, text in kind.read(host, fresh).items():
        if text in default.ours:
            note.settings[name] = Setting(before=default.before, ours=[text])
    write_note(host, kind, note)


def mask_of(cpus: CpuSet) -> str:
    """Hexadecimal, in groups of 32 bits (lib/bitmap.c)."""
    text = f"{sum(1 << cpu for cpu in cpus):x}"
    text = text.zfill(-(-len(text) // 8) * 8) if len(text) > 8 else text
    return ",".join(text[n : n + 8] for n in range(0, len(text), 8)) if len(text) > 8 else text


def cpus_of(mask: str) -> CpuSet:
    """The CPUs of such a mask; none when it is no mask."""
    try:
        number = int(mask.replace(",", ""), 16)
    except ValueError:
        return CpuSet()
    return CpuSet(bit for bit in range(number.bit_length()) if number >> bit & 1)
