"""The rounds: what is started, in which order, and what is noted of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import libvirt
from byhand import Observer, by_hand
from machine import ENV, NULL, QLAUNCH, Machine, machines, spawn

SETTLED = 0.2  # seconds after RESUME until the launcher's memory is read


class Bench(NamedTuple):
    """All samples by row: milliseconds, and MiB in the rows named "resident"."""

    rounds: int
    host: dict[str, str]
    samples: dict[str, list[float]]
    absent: dict[str, str]  # row -> why it was not measured

    def as_json(self) -> dict[str, object]:
        return self._asdict()


def measure(rounds: int) -> Bench:
    """All rounds, and one before them that is not counted: caches and .pyc files are warm then."""
    with machines() as (user, bridged), contextlib.ExitStack() as stack:
        bench = Bench(rounds, _host(user), {}, {})
        todo: list[tuple[str, Callable[[], dict[str, float]]]] = [
            ("by hand, user net", lambda: _by_hand(user)),
            ("qlaunch run, user net", lambda: _run(user)),
            ("virsh create, user net", lambda: libvirt.create(user)),
        ]
        if why := libvirt.absent():
            bench.absent[todo.pop()[0]] = why
        else:
            stack.callback(libvirt.destroy)
        if bridged is not None:
            todo += [
                ("by hand, bridge", lambda: _by_hand(bridged)),
                ("qlaunch run, bridge", lambda: _run(bridged)),
            ]
        else:
            bench.absent["bridge"] = "a namespace of its own needs root"
        todo += [(f"qlaunch {verb}", partial(_whole, user, verb)) for verb in ("argv", "plan")]
        for number in range(rounds + 1):
            print(f"\rround {number} of {rounds} ", end="", file=sys.stderr)
            for row, action in todo:
                for kind, value in action().items():
                    if number:
                        bench.samples.setdefault(f"{row}{kind}", []).append(value)
    print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    return bench


def _by_hand(machine: Machine) -> dict[str, float]:
    return {"": by_hand(machine)}


def _run(machine: Machine) -> dict[str, float]:
    log = machine.directory / "stderr"
    err = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    begin = time.time()
    pid = spawn([QLAUNCH, "run", str(machine.profile)], {0: NULL, 1: NULL, 2: err})
    os.close(err)
    try:
        with Observer(machine.qmp, pid) as observer:
            resumed = observer.resumed()
            time.sleep(SETTLED)
            resident = _resident(pid)
            ending = time.time()
            observer.ask("quit")
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        print(log.read_text(), file=sys.stderr)
        raise
    ended = (time.time() - ending) * 1000
    said = log.read_text()
    if machine.pins and "vCPUs on CPUs 0→" not in said:
        raise SystemExit(f"the vCPUs were not pinned:\n{said}")
    if status:
        raise SystemExit(f"qlaunch run ended with {os.waitstatus_to_exitcode(status)}:\n{said}")
    return {"": (resumed - begin) * 1000, ", resident": resident, ", quit to end": ended}


def _whole(machine: Machine, verb: str) -> dict[str, float]:
    begin = time.perf_counter()
    pid = spawn([QLAUNCH, verb, str(machine.profile)], {0: NULL, 1: NULL, 2: NULL})
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"qlaunch {verb} failed")
    return {"": (time.perf_counter() - begin) * 1000}


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the launcher has ended")


def _host(machine: Machine) -> dict[str, str]:
    done = subprocess.run(
        [machine.argv[0], "--version"], capture_output=True, text=True, check=True, env=ENV
    )
    cpu = next(_fields("/proc/cpuinfo", "model name"), "")
    return {
        "cpu": cpu, "kernel": os.uname().release,
        "accel": machine.accel.partition(",")[0],
        "qemu": done.stdout.split()[3], "python": sys.version.split()[0],
        "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", "libvirt": libvirt.version(),
    }


def _fields(path: str, name: str) -> Iterator[str]:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            yield line.partition(":")[2].strip()
