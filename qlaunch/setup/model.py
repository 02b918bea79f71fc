"""What `qlaunch host setup` works with: the host's files as text, the wishes, and the record.

Everything between reading (`read.py`) and writing (`apply.py`) is a function of these structs, so
that the whole of it can be tried on trees of any distribution. Paths are absolute as the host
itself sees them, whatever directory stands for its root. Texts are UTF-8 with surrogate escapes,
so that a file in any encoding comes back byte by byte.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from qlaunch.errors import Problem
from qlaunch.facts.bootloader import BootFacts
from qlaunch.facts.model import PciDevice
from qlaunch.values import PciAddress, Size

Boot = Literal["", "grub", "systemd-boot", "kernelstub", "grubby", "rpm-ostree", "none"]
BOOTS = ("grub", "systemd-boot", "kernelstub", "grubby", "rpm-ostree", "none")
RECORD_PATH = "/var/lib/qlaunch/host-setup.json"
HEAD = "# Written by qlaunch host setup; qlaunch host revert takes it away.\n"
# Stands above a line of ours in a file that is not ours.
MARK = "# qlaunch host setup; qlaunch host revert takes out the next line"


class Pages(Struct, frozen=True, kw_only=True):
    """Huge pages to set aside at boot: `2M:4096`."""

    size: Size  # bytes a page
    count: int


class Wishes(Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    early: tuple[PciAddress, ...] = ()
    gvt: bool = False
    hugepages: tuple[Pages, ...] = ()
    user: str = ""
    memlock: Size | None = None  # bytes; None is no limit
    boot: Boot = ""  # "": find out


class KernelImage(Struct, frozen=True, kw_only=True):
    """An installed kernel: what kernel-install(8) wants to know of it."""

    release: str
    image: str = ""
    initrd: str = ""


class SetupFacts(BootFacts, frozen=True, kw_only=True):
    """The host, as far as its setup depends on it; `files` has all that may be changed."""

    token: tuple[str, ...] = ()  # what kernel-install may begin an entry's name with
    grub_dropins: bool = False  # grub-mkconfig reads /etc/default/grub.d
    mkinitcpio_dropins: bool = False  # mkinitcpio reads /etc/mkinitcpio.conf.d
    kernels: tuple[KernelImage, ...] = ()
    builtin: frozenset[str] = frozenset()  # modules built in, with underscores
    cpu: Literal["", "intel", "amd"] = ""
    page: int = 2 << 20  # bytes of the default huge page
    memory: int | None = None  # bytes in the machine; None: could not tell
    cmdline: str = ""  # of the running kernel
    pci: tuple[PciDevice, ...] | None = None  # None: nobody asked for early binding
    # Of each early device: modules that would take it.
    drivers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)  # name → uid


Subject = Literal["", "boot", "initramfs", "udev", "systemd"]


class Part(Struct, frozen=True, kw_only=True):
    """One thing that is ours: a file (`own`), a marked line (`line`), or words in a line."""

    path: str
    kind: Literal["own", "line", "words"]
    text: str  # the file, the line without its newline, the words
    subject: Subject = ""  # who has to be told that it changed
    words: str = ""  # line: what in it is ours even if somebody added to the line
    newline: bool = False  # line: the file did not end in a newline before
    made: str | None = None  # line, words: the file was not there, and was begun with this

    def same(self, other: Part) -> bool:
        """Whether both say the same, whatever the file looked like before."""
        return (self.path, self.kind, self.text) == (other.path, other.kind, other.text)


class Record(Struct, frozen=True, kw_only=True):
    """What was done, in /var/lib/qlaunch/host-setup.json: enough to take it back."""

    version: int = 1
    wishes: Wishes = Wishes()
    boot: Boot = ""
    parameters: tuple[str, ...] = ()  # added by a command, not in a file of ours
    shown: tuple[str, ...] = ()  # every parameter that was added
    parts: tuple[Part, ...] = ()
    directories: tuple[str, ...] = ()  # made for the parts
    done: bool = True  # False: it was interrupted; commands may not have run


class Change(Struct, frozen=True, kw_only=True):
    """One file's text before and after; None is no file."""

    path: str
    before: str | None
    after: str | None


class Command(Struct, frozen=True, kw_only=True):
    """A command, and the one that takes it back after the files are as they were."""

    argv: tuple[str, ...]
    back: tuple[str, ...]


class Setup(Struct, frozen=True, kw_only=True):
    """The decision: what to write, what to run, and what to remember then."""

    changes: tuple[Change, ...] = ()
    commands: tuple[Command, ...] = ()
    record: Record | None = None  # None: nothing of ours is left
    problems: tuple[Problem, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.changes or self.commands)
