"""Settings of the host's CPUs that several machines change at once.

A note for all machines says what each wants, and of each setting what it was before the first and
what qlaunch has made of it since. Whoever begins or ends makes each of them anew from what was
before and what is still wanted, so that it does not matter who ends first; the last to go leaves
what was there and removes the note. A setting that shows something else than qlaunch has written
is somebody else's by now, and stays. The note is written before what it tells of is done, under
the host lock, which the engine's callers hold: a run that is killed anywhere is an ordinary undo.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from qlaunch.errors import HostError, Problem
from qlaunch.host import notes, sysfs
from qlaunch.host.handler import Host
from qlaunch.values import CpuSet, parse_cpu_set

_GONE = (errno.ENOENT, errno.ENODEV)


class Want(Struct, frozen=True):
    """What one machine asks for its CPUs."""

    cpus: CpuSet
    value: str = ""


class Setting(Struct):
    """One file (or property) as it was, and all that we have written to it since."""

    before: str
    ours: list[str] = field(default_factory=list)


class Note(Struct):
    """The whole, as it is kept in /run."""

    wants: dict[str, Want] = field(default_factory=dict)  # machine → what it wants
    settings: dict[str, Setting] = field(default_factory=dict)
    turned_on: bool = False  # by us, so that these settings are there at all

    @property
    def cpus(self) -> CpuSet:
        """Those of all machines."""
        return CpuSet(cpu for want in self.wants.values() for cpu in want.cpus)


class Kind:
    """One sort of settings: where they are and how they are read, made and written."""

    name = ""  # of the note, below /run/qlaunch
    refused: tuple[int, ...] = ()  # what the kernel says of a setting that cannot be had

    def find(self, host: Host, note: Note) -> Iterator[str]:
        """The settings that there are, by a name of their own."""
        raise NotImplementedError

    def read(self, host: Host, names: Sequence[str]) -> dict[str, str]:
        """What they show; those that have gone are left out."""
        raise NotImplementedError

    def write(self, host: Host, name: str, text: str) -> None:
        """Set one. Raises OSError, or HostError."""
        raise NotImplementedError

    def wanted(self, host: Host, name: str, before: str, note: Note) -> str:
        """What it is to show."""
        raise NotImplementedError

    def prepare(self, host: Host, note: Note) -> None:
        """Before any is looked for; may save the note."""

    def clear(self, host: Host, note: Note) -> None:
        """After the last machine, when all show what they showed before."""

    def same(self, host: Host, shown: str, wanted: str) -> bool:
        """Whether what is shown does as well as what was to be written."""
        return shown == wanted

    def hint(self, host: Host, name: str, error: OSError) -> str:
        """What to do when one cannot be written."""
        return sysfs.way_on(error)


def join(host: Host, kind: Kind, machine: str, want: Want) -> None:
    """Have this machine's CPUs among those that the settings are made for. Raises HostError."""
    note = read_note(host, kind) or Note()
    note.wants[machine] = want
    kind.prepare(host, note)
    _settle(host, kind, note, tuple(kind.find(host, note)))


def leave(host: Host, kind: Kind, machine: str) -> bool:
    """Take them out again; whether that was the last machine's. Raises HostError, with the note
    kept, when a setting does not become what it was."""
    note = read_note(host, kind)
    if note is None:
        return False
    note.wants.pop(machine, None)
    _settle(host, kind, note)
    if note.wants:
        return False
    kind.clear(host, note)
    _path(host, kind).unlink(missing_ok=True)
    return True


def _settle(host: Host, kind: Kind, note: Note, found: Sequence[str] = ()) -> None:
    """Everything that is ours to set becomes what it is to be now."""
    shown = kind.read(host, list(dict.fromkeys((*found, *note.settings))))
    for name, one in list(note.settings.items()):
        if shown.get(name) not in (one.before, *one.ours):
            del note.settings[name]  # gone, or somebody else's by now
    for name in found:
        if name in shown and name not in note.settings:
            note.settings[name] = Setting(before=shown[name])
    to_do = {}
    for name, one in note.settings.items():
        text = kind.wanted(host, name, one.before, note)
        if text != shown[name]:
            to_do[name] = text
            one.ours = list(dict.fromkeys((*one.ours, text)))
    write_note(host, kind, note)
    failed: list[HostError] = []
    for name, text in to_do.items():
        try:
            _write(host, kind, name, text)
        except HostError as error:  # the others are made all the same
            failed.append(error)
    if failed:
        raise failed[0]
    _accept(host, kind, note, to_do)


def _write(host: Host, kind: Kind, name: str, text: str) -> None:
    try:
        kind.write(host, name, text)
    except OSError as error:
        if error.errno in (*_GONE, *kind.refused):
            return
        raise HostError(
            Problem(f"it cannot be set to {text or 'nothing'}", where=name,
                    found=error.strerror or str(error), hint=kind.hint(host, name, error))
        ) from error


def _accept(host: Host, kind: Kind, note: Note, to_do: dict[str, str]) -> None:
    """Read back. Where the kernel may refuse, what it shows instead is noted as ours too."""
    shown = kind.read(host, list(to_do)) if to_do else {}
    other = {name: text for name, text in shown.items() if not kind.same(host, text, to_do[name])}
    for name, text in other.items():
        if not kind.refused:
            raise HostError(Problem("the kernel shows something else", where=name, found=text,
                                    allowed=to_do[name] or "nothing",
                                    hint="somebody else may set it too; start it again"))
        if text != note.settings[name].before:
            note.settings[name].ours.append(text)
    if other:
        write_note(host, kind, note)


def narrowed(host: Host, before: str, note: Note) -> str:
    """A CPU list ("" is all) without the machines' CPUs: what has no other gets all others. Raises
    HostError when there is none."""
    if not note.cpus:
        return before
    online = read_list(sysfs.read_text(host.path("sys/devices/system/cpu/online")) or "")
    others = CpuSet(cpu for cpu in online if cpu not in note.cpus)
    if not others:
        raise HostError(
            Problem("no CPU would be left to the host", where=", ".join(sorted(note.wants)),
                    found=f"CPU {note.cpus} isolated", allowed=f"some of the online CPUs {online}",
                    hint="end one of these machines, or pin it to fewer CPUs")
        )
    left = CpuSet(cpu for cpu in read_list(before) if cpu not in note.cpus)
    return str(left or others)


def read_list(text: str) -> CpuSet:
    """A list of the kernel's or of systemd's, whose ranges are separated by blanks."""
    try:
        return parse_cpu_set(",".join(text.split())) if text.strip() else CpuSet()
    except ValueError:
        return CpuSet()


def _path(host: Host, kind: Kind) -> Path:
    return host.path(f"run/qlaunch/.{kind.name}")


def read_note(host: Host, kind: Kind) -> Note | None:
    """None when no machine has any of it."""
    return notes.read(_path(host, kind), Note)


def write_note(host: Host, kind: Kind, note: Note) -> None:
    """Whole or not at all. Raises HostError."""
    notes.write(_path(host, kind), note, mode=0o711)
