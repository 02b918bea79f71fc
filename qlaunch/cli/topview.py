"""`top` as lines of text: machines, host CPUs with what runs on them, disks and NICs.

Pure, so that the terminal only paints, and `--once` prints the same.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qlaunch.cli.command import typed
from qlaunch.cli.usage import DiskUse, MachineUse, Snapshot

SORTS = ("name", "cpu", "memory")
BAR = 10
GLUE = "\0"  # a space at which no line is broken
_HEAD = ("MACHINE", "STATE", "CPU%", "VCPU%", "IO%", "EMU%", "MEM", "READ", "WRITE", "IN", "OUT")
_WIDTHS = (13, 8, 5, 5, 4, 4, 6, 6, 6, 6, 6)  # 79 with the spaces between
_DETAIL = "{:<26}  {:>8}  {:>12}  {:>8}  {:>8}"
_KINDS = {"vcpu": 0, "iothread": 1, "vhost": 2, "emulator": 3}
KEYS = "q quits, arrows scroll, s sorts (by {sort})"
LEGEND = """\
IO%: iothreads and vhost; EMU%: QEMU's other threads; percents are of one CPU;
READ to OUT: a second; IN: to the guest"""


class Screen(NamedTuple):
    """Lines that are always there, and lines that scroll below them; `heads` are indices (of all)
    of headings."""

    fixed: list[str]
    rest: list[str]
    heads: frozenset[int]


def draw(snapshot: Snapshot, sort: str = "name", width: int = 80) -> Screen:
    """The whole picture, as long as it gets; what runs on a CPU is wrapped at `width`."""
    fixed = [_host(snapshot), "", _row(_HEAD)]
    machines = sorted(snapshot.machines, key=_order(sort))
    fixed += [_machine(one) for one in machines] or ["no machine runs"]
    if snapshot.through_root:
        fixed.append(f"and {snapshot.through_root} through root: {typed('sudo qlaunch top')}")
    heads = {2}
    rest = ["", "HOST CPU  BUSY             WHO RUNS THERE"]
    heads.add(len(fixed) + 1)
    rest += _cpus(snapshot, width)
    details = _details(machines)
    if details:
        heads.add(len(fixed) + len(rest) + 1)
        rest += ["", *details]
    return Screen(fixed, rest, frozenset(heads))


def _order(sort: str) -> Callable[[MachineUse], tuple[float, str]]:
    if sort == "cpu":
        return lambda one: (-one.percent(), one.name)
    if sort == "memory":
        return lambda one: (-one.resident, one.name)
    return lambda one: (0, one.name)


def _host(snapshot: Snapshot) -> str:
    cpus = snapshot.cpus
    busy = sum(cpus.values()) / len(cpus) if cpus else 0.0
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.time))
    many = f"{len(cpus)} CPUs" if len(cpus) != 1 else "1 CPU"
    return (f"qlaunch top  {clock}  host: {many} {busy:.0f} % busy, memory "
            f"{short(snapshot.memory_used)} of {short(snapshot.memory_total)}")


def _row(cells: Sequence[str]) -> str:
    name, state, *numbers = cells
    left = f"{clip(name, _WIDTHS[0]):<{_WIDTHS[0]}} {clip(state, _WIDTHS[1]):<{_WIDTHS[1]}}"
    return left + "".join(
        f" {cell:>{width}}" for cell, width in zip(numbers, _WIDTHS[2:], strict=True)
    )


def _machine(one: MachineUse) -> str:
    disks = one.disks or ()
    read, written = ("-", "-") if one.disks is None else (
        short(sum(d.read for d in disks)), short(sum(d.written for d in disks)))
    got, sent = ("-", "-") if not one.nics else (
        short(sum(n.received for n in one.nics)), short(sum(n.sent for n in one.nics)))
    numbers = (one.percent(), one.percent("vcpu"), one.percent("iothread", "vhost"),
               one.percent("emulator"))
    return _row((one.name, one.state, *(f"{number:.0f}" for number in numbers),
                 short(one.resident), read, written, got, sent))


def _cpus(snapshot: Snapshot, width: int) -> list[str]:
    """One line a host CPU: those on which a machine ran first, the others' load after them."""
    there: dict[int, list[tuple[str, int, str, float]]] = {}
    many = len(snapshot.machines) > 1
    for machine in snapshot.machines:
        for thread in machine.threads:
            if thread.percent >= 0.5:
                name = f"{machine.name}: {thread.name}" if many else thread.name
                there.setdefault(thread.cpu, []).append(
                    (machine.name, _KINDS[thread.kind], name, thread.percent))
    lines = []
    for cpu in sorted(snapshot.cpus, key=lambda cpu: (cpu not in there, cpu)):
        busy = snapshot.cpus[cpu]
        bar = "#" * round(busy / 100 * BAR)
        who = ", ".join(f"{name} {percent:.0f}%".replace(" ", GLUE) for *_, name, percent in
                        sorted(there.get(cpu, ()), key=lambda one: -one[3]))
        head = f"{cpu:>8}  {busy:3.0f}% {bar:<{BAR}}  "
        wrapped = textwrap.wrap(who or "-", max(width, 60), initial_indent=head,
                                subsequent_indent=" " * len(head), break_long_words=False,
                                break_on_hyphens=False)
        lines += [line.replace(GLUE, " ") for line in wrapped]
    return lines


def _details(machines: Sequence[MachineUse]) -> list[str]:
    """Each disk and NIC of each machine."""
    rows = []
    many = len(machines) > 1
    for one in machines:
        prefix = f"{clip(one.name, 13)}: " if many else ""
        rows += [_disk(prefix, rate) for rate in one.disks or ()]
        rows += [_DETAIL.format(clip(prefix + nic.name, 26), short(nic.received), short(nic.sent),
                                "", "").rstrip() for nic in one.nics]
    head = _DETAIL.format("DISK OR NIC", "READ, IN", "WRITTEN, OUT", "READS", "WRITES")
    return [head, *rows] if rows else []


def _disk(prefix: str, disk: DiskUse) -> str:
    return _DETAIL.format(clip(prefix + disk.name, 26), short(disk.read), short(disk.written),
                          f"{disk.reads:.0f}", f"{disk.writes:.0f}")


def clip(text: str, width: int) -> str:
    """At most `width` columns; a cut is shown."""
    return text if len(text) <= width else f"{text[:width - 1]}+"


def short(number: float) -> str:
    """`0`, `999`, `1.2K`, `34M`, `7.9G`: at most five columns."""
    if number < 1000:
        return f"{number:.0f}"
    for unit in "KMGTPE":
        number /= 1024
        if number < 9.95:
            return f"{number:.1f}{unit}"
        if number < 1000:
            return f"{number:.0f}{unit}"
    return "huge"


def visible(
    screen: Screen, height: int, width: int, offset: int, sort: str
) -> list[tuple[str, bool]]:
    """Exactly `height` lines of at most `width` columns, each with whether it is a heading.

    The last tells the keys, and what does not fit.
    """
    fixed = screen.fixed[: max(height - 1, 0)]
    room = max(height - 1 - len(fixed), 0)
    offset = max(0, min(offset, len(screen.rest) - room))
    lines = [(line, i in screen.heads) for i, line in enumerate(fixed)]
    lines += [(line, len(screen.fixed) + offset + i in screen.heads)
              for i, line in enumerate(screen.rest[offset : offset + room])]
    lines += [("", False)] * (height - 1 - len(lines))
    hidden = len(screen.rest) - offset - room
    foot = (f"{hidden} more lines; " if hidden > 0 else "") + KEYS.format(sort=sort)
    return [(clip(line, width), head) for line, head in [*lines, (foot, True)]][:height]
