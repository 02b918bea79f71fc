"""Texts of a profile, odd ones, reach a real QEMU as they were written or are refused by their key.

What QEMU opens is looked up among its open files and mappings; what it only tells the guest is read
as the guest would, through the ports of fw_cfg (docs/specs/fw_cfg.rst) and the monitor.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qlaunch.errors import ProfileError
from qlaunch.plan.model import Plan
from qlaunch.profile.read import read_profile
from qlaunch.vm.ready import wait_ready
from tests.fake.boot import acpi_table, kernel
from tests.fake.loop import run
from tests.qemu.test_firmware import plan_from, started
from tests.unit.test_profile_fuzz import document

pytestmark = pytest.mark.qemu
SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
# What QEMU opens by a name of its own: key → the name's place below.
ROLES = ("disk", "cd", "backing", "bios", "table", "config", "kernel", "initrd", "log", "ram",
         "share")
OPENED = ("disk", "cd", "backing", "log", "ram", "share")  # as long as it runs
PARSED = ",= :;'\"\\%#&*?[]{}()|<>üß漢😀\u202e\u00a0-~"
COMMAND_LINE, DIRECTORY = 0x15, 0x19  # keys of fw_cfg


class Words(NamedTuple):
    """One example: a file's name for each role, the directory they are in, and plain texts."""

    directory: str
    names: dict[str, str]
    told: str
    append: str
    product: str
    serial: str


def _fits(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) <= 200 and text not in (".", "..")


anything = st.characters(exclude_categories=["Cs"], exclude_characters="\0$/")
printed = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$/")
some = st.text(PARSED, min_size=1, max_size=14)
name = (some | st.text(printed, min_size=1, max_size=20)).filter(_fits)
rare = st.text(anything, min_size=1, max_size=8).filter(_fits)  # control characters too
words = st.builds(
    Words, directory=name | rare, names=st.fixed_dictionaries(dict.fromkeys(ROLES, name)),
    told=name, append=name | rare, product=name, serial=st.text("aZ9-_", min_size=1, max_size=20),
)
PLAIN = Words("plain", {role: role for role in ROLES}, "told", "quiet", "product", "s")


def refused(said: Words) -> bool:
    """Whether the profile's rules have to refuse it: control characters, and a colon where QEMU
    separates several files with it."""
    texts = (said.directory, *said.names.values(), said.told, said.append, said.product)
    odd = any(ord(c) < 32 or ord(c) == 127 for text in texts for c in text)
    return odd or ":" in said.directory + said.names["table"]


def laid_out(place: Path, said: Words) -> dict[str, Path]:
    """Role → its file, made; all have names of their own."""
    files = {role: place / "files" / said.directory / f"{n}{text}"[:60]
             for n, (role, text) in enumerate(said.names.items())}
    content = {
        "disk": b"", "cd": bytes(1 << 20), "backing": bytes(1 << 20), "bios": SEABIOS.read_bytes(),
        "table": acpi_table(), "config": b"of a file", "kernel": kernel(), "initrd": b"initrd",
    }
    (place / "files" / said.directory).mkdir(parents=True)
    for role, data in content.items():
        if data:
            files[role].write_bytes(data)
    files["share"].mkdir()
    return files


def written(files: dict[str, Path], said: Words, qemu: str) -> str:
    """The profile."""
    at = {role: str(path) for role, path in files.items()}
    return document({
        "machine": {
            "accel": "tcg", "memory": "64M", "bios": at["bios"], "fw_cfg": {"opt/t,=": said.told},
            "acpi_tables": [{"file": at["table"]}],
            "fw_cfg_files": [{"name": "opt/f", "file": at["config"]}],
        },
        "memory": {"backend": "file", "path": at["ram"]},
        "kernel": {"file": at["kernel"], "initrd": at["initrd"], "append": said.append},
        "smbios": {"system": {"product": said.product}, "oem_strings": [said.told]},
        "disk": [{"file": at["disk"], "format": "qcow2", "serial": said.serial,
                  "create": {"backing": at["backing"], "backing_format": "raw"}}],
        "cdrom": [{"file": at["cd"]}], "serial": [{"type": "file", "file": at["log"]}],
        "net": [{"user": {"tftp": at["share"]}}],
        "share": [{"path": at["share"], "tag": "t", "type": "9p"}],
        "qemu": {"binary": qemu, "env": {"QLAUNCH_TEXT": said.told},
                 "set": {"cd0.model": said.told}},
    })


class Monitor:
    """The user's own monitor, many questions at a time: fw_cfg gives one byte a question."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()  # the greeting
        self.ask(("qmp_capabilities", {}))

    def ask(self, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
        """An answer each, in order."""
        text = "".join(json.dumps({"execute": c, "arguments": a}) + "\n" for c, a in questions)
        self._socket.sendall(text.encode())
        answers: list[Any] = []
        while len(answers) < len(questions):
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                answers.append(answer["return"])
        return answers

    def config(self, key: int, size: int) -> bytes:
        """The first bytes behind a key of fw_cfg."""
        lines = [f"o/h 0x510 {key:#x}", *["i/b 0x511"] * size]
        human = "human-monitor-command"
        data = bytearray()
        for start in range(0, len(lines), 200):
            part = [(human, {"command-line": line}) for line in lines[start : start + 200]]
            data += bytes(int(a.rpartition("=")[2], 16) for a in self.ask(*part) if a)
        return bytes(data)

    def configs(self) -> dict[str, bytes]:
        """The files of fw_cfg that are looked at here."""
        count = int.from_bytes(self.config(DIRECTORY, 4), "big")
        raw = self.config(DIRECTORY, 4 + 64 * count)[4:]
        found = {}
        for entry in (raw[n : n + 64] for n in range(0, len(raw), 64)):
            label = entry[8:].rstrip(b"\0").decode()
            if label.startswith(("opt/", "etc/smbios/smbios-tables")):
                size, key = int.from_bytes(entry[:4], "big"), int.from_bytes(entry[4:6], "big")
                found[label] = self.config(key, size)
        return found

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def opened(pid: int) -> set[str]:
    """Every file that a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return found


@contextlib.contextmanager
def monitored(plan: Plan, directory: Path) -> Iterator[tuple[int, Monitor]]:
    """Start it; its pid and its monitor."""

    async def wait() -> None:
        ready = await wait_ready(f"{directory}/control.sock", process, timeout=60,
                                 last_words=(directory / "log").read_text)
        async with ready:
            pass

    with started(plan, directory) as process:
        run(wait())
        monitor = Monitor(directory / "qmp.sock")
        try:
            yield process.pid, monitor
        finally:
            monitor.close()


def reaches(said: Words, qemu: str) -> None:
    """One example."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-texts-") as top:
        place = Path(top)
        files = laid_out(place, said)
        (place / "vm.toml").write_text(written(files, said, qemu), encoding="utf-8")
        if refused(said):
            with pytest.raises(ProfileError) as caught:
                read_profile(place / "vm.toml")
            assert all(problem.where for problem in caught.value.problems)
            return
        plan = plan_from(read_profile(place / "vm.toml").profile, place)
        with monitored(plan, place) as (pid, monitor):
            assert {str(files[role]) for role in OPENED} <= opened(pid)
            assert _seen(monitor) == (
                *(str(files[role]) for role in ("kernel", "initrd", "bios")),
                said.append, said.serial, said.told,
            )
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert f"QLAUNCH_TEXT={said.told}".encode() in environ
            append = said.append.encode() + b"\0"
            assert monitor.config(COMMAND_LINE, len(append)) == append
            configs = monitor.configs()
            assert configs["opt/t,="] == said.told.encode()
            assert configs["opt/f"] == b"of a file"
            tables = configs["etc/smbios/smbios-tables"]
            for text in (said.told, said.product):
                assert text.encode() + b"\0" in tables


def _seen(monitor: Monitor) -> tuple[str, ...]:
    board = [("qom-get", {"path": "/machine", "property": name})
             for name in ("kernel", "initrd", "firmware", "append")]
    disk = ("qom-get", {"path": "/machine/peripheral/disk0", "property": "serial"})
    model = ("qom-get", {"path": "/machine/peripheral/cd0", "property": "model"})
    return tuple(monitor.ask(*board, disk, model))


CHECKED = settings(
    max_examples=6, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@CHECKED
@given(words)
@example(PLAIN._replace(directory="a,b=c, d", names={r: f",={r},,'ü\" %s" for r in ROLES},
                        told=",,a=b, ", append="root=/dev/vda, x='ü'", product="é,uuid=1"))
@example(PLAIN._replace(directory="new\nline"))
@example(PLAIN._replace(names={**PLAIN.names, "table": "a:b"}))
@example(PLAIN._replace(directory="json:{}"))
def test_texts_reach_qemu_or_are_refused(both_qemus: str, said: Words) -> None:
    reaches(said, both_qemus)


@pytest.mark.nightly
@settings(CHECKED, max_examples=300)
@given(words)
def test_texts_reach_qemu_or_are_refused_nightly(both_qemus: str, said: Words) -> None:
    reaches(said, both_qemus)
