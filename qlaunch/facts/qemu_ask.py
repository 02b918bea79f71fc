"""Asking a QEMU binary what it can do, in one run of about 70 ms.

All commands are on its stdin before it starts and `quit` is the last, so nothing is waited for
but its end. Which devices a user may create only the monitor's `info qdm` tells (the others are
marked no-user there), with their aliases; it also makes QEMU load its modules.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Any

import msgspec

from qlaunch.children import Setup, start_child
from qlaunch.errors import HostError, Problem
from qlaunch.facts.model import Invoker, QemuBinary

DEADLINE = 60.0  # seconds for each run; it takes 0.1, but from a cold disk or emulated many
PROPERTIES_OF = (
    "ahci", "bochs-display", "e1000", "e1000e", "ich9-ahci", "ich9-intel-hda", "ide-cd", "ide-hd",
    "igb", "intel-hda", "ioh3420", "isa-serial", "ivshmem-plain", "max-x86_64-cpu", "nvme",
    "pcie-root-port",
    "qemu-xhci", "qxl-vga", "ramfb", "rtl8139", "scsi-cd", "scsi-hd", "tpm-tis", "usb-storage",
    "VGA", "vfio-pci", "vfio-pci-nohotplug", "vhost-user-fs-pci", "virtio-balloon-pci",
    "virtio-blk-pci", "virtio-net-pci", "virtio-scsi-pci", "virtio-vga",
    "virtio-vga-gl",
)  # fmt: skip
_QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("hello", "qmp_capabilities", {}),
    ("version", "query-version", {}),
    ("machines", "query-machines", {}),
    ("qdm", "human-monitor-command", {"command-line": "info qdm"}),
    ("cpus", "qom-list-types", {"implements": "x86_64-cpu"}),
    ("accels", "qom-list-types", {"implements": "accel"}),
    ("chardevs", "qom-list-types", {"implements": "chardev"}),
    ("vnc", "query-vnc", {}),
    ("schema", "query-qmp-schema", {}),
    *((f"of {t}", "device-list-properties", {"typename": t}) for t in PROPERTIES_OF),
    ("bye", "quit", {}),
)


def ask(path: str, account: Invoker | None = None) -> QemuBinary:
    """Run `path` and ask. Raises HostError with its last words when it does not play along.

    All children have ended, killed if need be, when this returns or raises.
    """
    questions = b"\n".join(
        msgspec.json.encode({"execute": command, "arguments": arguments, "id": name})
        for name, command, arguments in _QUESTIONS
    )
    machine = ["-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"]
    first = _Child([path, *machine], questions + b"\n", account)
    try:
        second = _Child([path, "-display", "help"], b"", account)
        try:
            third = _Child([path, "-audiodev", "help"], b"", account)
            try:
                answers = _answers(path, first)
                second.wait(path)
                third.wait(path)
            finally:
                third.close()
        finally:
            second.close()
    finally:
        first.close()
    try:
        return _binary(path, answers, second.out, third.out)
    except (KeyError, TypeError, AttributeError) as error:
        raise HostError(_problem(path, f"an answer of another shape: {error!r}")) from None


class _Child:
    """A run whose stdin, stdout and stderr are memory: no pipe to fill up, nothing to poll."""

    def __init__(self, argv: list[str], stdin: bytes, account: Invoker | None) -> None:
        self.fds = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
        self.pid = 0
        self.code: int | None = None
        try:
            os.write(self.fds[0], stdin)
            os.lseek(self.fds[0], 0, os.SEEK_SET)
            self.pid = start_child(argv, fds=dict(enumerate(self.fds)), setup=_drop(account))
        except BaseException:
            self.close()
            raise

    def wait(self, path: str) -> None:
        """To its end. Raises HostError after DEADLINE; `close` then kills it."""
        pidfd = os.pidfd_open(self.pid)
        try:
            ended, _, _ = select.select([pidfd], [], [], DEADLINE)
        finally:
            os.close(pidfd)
        if not ended:
            raise HostError(_problem(path, f"no answer within {DEADLINE:g} s", self.last_words))
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Kill what still runs and let go of the memory, keeping what was said."""
        if self.pid and self.code is None:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.out, self.err = (_content(fd) for fd in self.fds[1:])
        for fd in self.fds:
            os.close(fd)

    @property
    def last_words(self) -> str:
        """The last line of its stderr that says something."""
        lines = [line for line in _content(self.fds[2]).splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def _content(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")


def _drop(account: Invoker | None) -> list[Setup]:
    """Nothing when we are no root, or when root was asked for by name."""
    if account is None or os.geteuid() != 0 or account.uid == 0:
        return []
    return [
        Setup("setgroups", lambda: os.setgroups([])),
        Setup("setgid", lambda: os.setgid(account.gid)),
        Setup("setuid", lambda: os.setuid(account.uid)),
    ]


def _answers(path: str, child: _Child) -> dict[str, Any]:
    """Question → its return; refused ones (an unknown device) are left out."""
    child.wait(path)
    answers: dict[str, Any] = {}
    for line in _content(child.fds[1]).splitlines():
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError:
            raise HostError(_problem(path, line, child.last_words)) from None
        if isinstance(message, dict) and "return" in message:
            answers[str(message.get("id"))] = message["return"]
    if child.code or "bye" not in answers:
        ended = f"killed by signal {-child.code}" if child.code and child.code < 0 else (
            f"exit code {child.code}"
        )
        raise HostError(_problem(path, ended, child.last_words))
    return answers


def _problem(path: str, found: str, last_words: str = "") -> Problem:
    said = last_words or found
    return Problem(
        f"{path} does not answer as QEMU does" + (f": {found}" if last_words else ""),
        found=said[:200],
        hint=f"try it by hand: {path} -M none -display none -qmp stdio",
    )


def _binary(
    path: str, answers: dict[str, Any], display_help: str, audiodev_help: str
) -> QemuBinary:
    version = answers["version"]["qemu"]
    machines = {m[key] for m in answers["machines"] for key in ("name", "alias") if m.get(key)}
    displays = set(_displays(display_help))
    if any(t["name"] == "chardev-spicevmc" for t in answers.get("chardevs", ())):
        displays.add("spice")
    if "vnc" in answers:
        displays.add("vnc")
    return QemuBinary(
        path=path,
        version=(version["major"], version["minor"], version["micro"]),
        machines=tuple(sorted(machines - {"none"})),
        aliases={m["alias"]: m["name"] for m in answers["machines"] if m.get("alias")},
        devices=tuple(sorted(_devices(answers["qdm"]))),
        properties={
            name: tuple(sorted(p["name"] for p in answers[f"of {name}"]))
            for name in PROPERTIES_OF
            if f"of {name}" in answers
        },
        displays=tuple(sorted(displays)),
        audiodevs=tuple(sorted(_displays(audiodev_help))),  # none when a module lacks a library
        aio=_aio(answers.get("schema", ())),
        cpus=tuple(sorted(
            t["name"].removesuffix("-x86_64-cpu") for t in answers.get("cpus", ())
        )),
        accels=tuple(sorted(
            t["name"].removesuffix("-accel") for t in answers["accels"]
            if t["name"].endswith("-accel")
        )),
    )


def _aio(schema: Any) -> tuple[str, ...]:
    """BlockdevAioOptions, by its members: the schema hides the names of types."""
    for entry in schema:
        if entry["meta-type"] == "enum":
            names = [m["name"] for m in entry.get("members", ())] or entry.get("values", [])
            if {"threads", "native"} <= set(names):
                return tuple(sorted(names))
    return ()


def _devices(listing: str) -> set[str]:
    """`name "ich9-ahci", bus PCI, alias "ahci", desc "…"` → names and aliases, but no-user ones."""
    found: set[str] = set()
    for line in listing.splitlines():
        if line.startswith('name "') and not line.rstrip().endswith(", no-user"):
            words = line.split('"')
            found.add(words[1])
            if words[2].rstrip().endswith("alias"):
                found.add(words[3])
    return found


def _displays(listing: str) -> list[str]:
    """The indented or bare names under "Available …:", up to an empty line."""
    names = []
    for line in listing.partition(":")[2].lstrip("\n").splitlines():
        if not line.strip():
            break
        names.append(line.strip())
    return [name for name in names if " " not in name]
