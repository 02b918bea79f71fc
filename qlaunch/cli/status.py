"""Tell one machine's state: since when it runs or whether it is paused, what it
holds, where its ports, its picture and its log are.
"""

from __future__ import annotations

import argparse
import time

import msgspec

from qlaunch.cli.base import runtime_base
from qlaunch.cli.command import typed
from qlaunch.cli.known import known_machine
from qlaunch.cli.ps import Machine, duration, machine
from qlaunch.cli.seen import NEXT, Seen, look
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK
from qlaunch.run.info import Info, read_info
from qlaunch.run.journal import FILE_NAME, Stage, read_journal

EXAMPLE = """\
example:
  qlaunch status win7
  qlaunch status win7 --json | jq -r .seen.status
"""


MOMENT = 0.2  # seconds that the CPU's use is measured over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and --json."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    base = runtime_base()
    name = known_machine(base, args.name)
    found = machine(base, name)
    info = read_info(f"{base}/{name}")
    stage, pending = journal_state(f"{base}/{name}")
    load = read_load(found.qemu_pid) if found.qemu_pid else None
    seen = look(info) if info and found.qemu_pid else None
    if args.json:
        write_json({
            **msgspec.structs.asdict(found), "stage": stage, "steps_to_undo": pending,
            "info": info, "load": load,
            "seen": seen.record() if seen else None,
        })
        return EXIT_OK
    lines = [f"{name}: {_state(found, seen)}"]
    if info is not None:
        lines += _told(info)
    lines.append(f"  processes QEMU {found.qemu_pid or '-'}, launcher {found.launcher_pid or '-'}")
    if load is not None:
        lines.append(
            f"  load      {load.cpu_percent:.0f} % of a CPU, {load.resident >> 20} MiB resident, "
            f"{load.threads} threads"
        )
    if seen is not None:
        lines += seen.lines()
    elif found.qemu_pid:
        lines.append("  monitor   another program has it: whether the guest is paused is not known")
    if stage:
        lines.append(f"  stage     {stage}")
    lines += [f"  to undo   {text}" for text in pending]
    if found.state in ("unsupervised", "left over"):
        lines.append(typed(f"hint: qlaunch recover '{name}'"))
    elif seen is not None and seen.status in NEXT:
        lines.append(typed(f"hint: {NEXT[seen.status].format(name=name)}"))
    write("\n".join(lines) + "\n")
    return EXIT_OK


def _state(found: Machine, seen: Seen | None) -> str:
    """The launcher's word; QEMU's where the guest does not run."""
    if seen is None or seen.status == "running":
        return found.state
    return seen.status if found.state == "running" else f"{found.state}, {seen.status}"


def _told(info: Info) -> list[str]:
    """What was written down at its start."""
    return [
        f"  since     {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(info.started))} "
        f"({duration(time.time() - info.started)})",
        f"  profile   {_profile(info.profile)}",
        f"  guest     {info.vcpus} vCPU(s), {info.memory >> 20} MiB",
        f"  monitor   {info.socket_dir}/qmp.sock",
        f"  log       {info.state_dir}/qlaunch.log",
    ]


def _profile(path: str) -> str:
    """One that `qlaunch on` has sent (profile/sent.py) was there for the start only."""
    whole, _, name = path.rpartition("/")
    return f"{name}, sent by qlaunch on" if ".sent/" in f"{whole}/" else path


class Load(msgspec.Struct, frozen=True):
    """What QEMU uses: share of one CPU over a moment, bytes, threads."""

    cpu_percent: float
    resident: int
    threads: int


def read_load(pid: int) -> Load | None:
    """From psutil; None when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return Load(process.cpu_percent(MOMENT), process.memory_info().rss, process.num_threads())
    except psutil.Error:
        return None


def journal_state(runtime: str) -> tuple[str, list[str]]:
    """The last stage in the journal, and the steps that are not undone."""
    from pathlib import Path

    from qlaunch.errors import HostError
    from qlaunch.run.recover import pending_steps

    path = Path(runtime, FILE_NAME)
    if not path.exists():
        return "", []
    try:
        records = read_journal(path).records
    except HostError as error:
        return str(error), []
    stages = [r for r in records if isinstance(r, Stage)]
    stage = f"{stages[-1].stage}: {stages[-1].detail}" if stages else ""
    return stage, [str(step) for step in pending_steps(records)]
