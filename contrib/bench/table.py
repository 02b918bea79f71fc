"""Medians in a table of at most 80 columns, as Markdown, beside what was aimed at."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rounds import Bench

Medians = dict[str, float]


class Aim(NamedTuple):
    """A limit that is known once the medians are, and how it is written."""

    words: str
    limit: Callable[[Medians], float | None]


HAND, RUN = "by hand, user net", "qlaunch run, user net"
AIMS = {
    RUN: Aim("hand + 70 ms", lambda m: m[HAND] + 70),
    "qlaunch run, bridge": Aim("hand + 110 ms", lambda m: m["by hand, bridge"] + 110),
    "qlaunch argv": Aim("60 ms", lambda m: 60),
    f"{RUN}, resident": Aim("24 MiB", lambda m: 24),
    "qlaunch run, bridge, resident": Aim("24 MiB", lambda m: 24),
}
HALF = Aim("half of virsh", lambda m: m.get("virsh create, user net", 0) / 2 or None)


def text(bench: Bench) -> str:
    """The whole."""
    medians = {row: median(samples) for row, samples in bench.samples.items()}
    rows = [
        "|                                     |   median |  fastest | aim              |",
        "|-------------------------------------|---------:|---------:|------------------|",
    ]
    for row, samples in bench.samples.items():
        unit = "MiB" if row.endswith("resident") else "ms"
        aims = [AIMS[row]] if row in AIMS else []
        rows.append(_row(row, medians, min(samples), unit, aims))
    if "virsh create, user net" in medians:
        verdict = _verdict(HALF, medians, medians[RUN])
        rows.append(f"| {'qlaunch run against virsh create':35} | "
                    f"{medians[RUN] / medians['virsh create, user net']:8.2f} | {'':8} | "
                    f"{verdict:16} |")
    rows += [f"\n{row}: {why}" for row, why in bench.absent.items()]
    host = bench.host
    libvirt = f", libvirt {host['libvirt']}" if host["libvirt"] else ""
    rows.append(
        f"\n{bench.rounds} rounds, one of each row after the other; load before: {host['load']}."
        f"\n{host['cpu']}, Linux {host['kernel']}, QEMU {host['qemu']} ({host['accel']}),"
        f"\nPython {host['python']}{libvirt}."
    )
    return "\n".join(rows)


def _row(row: str, medians: Medians, low: float, unit: str, aims: list[Aim]) -> str:
    verdict = "".join(_verdict(aim, medians, medians[row]) for aim in aims)
    digits = 1 if unit == "MiB" else 0
    mid, low_text = (f"{value:.{digits}f} {unit}" for value in (medians[row], low))
    return f"| {row:35} | {mid:>8} | {low_text:>8} | {verdict:16} |"


def _verdict(aim: Aim, medians: Medians, value: float) -> str:
    limit = aim.limit(medians)
    if limit is None:
        return ""
    return f"{aim.words} {'ok' if value <= limit else 'no'}"
