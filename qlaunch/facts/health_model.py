"""What `doctor` judges and no plan needs, as data that goes to JSON.

None means "could not tell", as everywhere in the facts. A class of its own takes it along, so that
no launch pays for making these.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from qlaunch.facts.model import HostFacts
from qlaunch.values import CpuSet, PciAddress

Family = Literal["", "debian", "fedora", "arch", "suse"]
Boot = Literal["", "grub", "grubby", "kernelstub", "systemd-boot", "rpm-ostree"]
ModuleState = Literal["loaded", "builtin", "loadable", "missing", "unknown"]

PortKind = Literal["", "root port", "upstream port", "downstream port", "bridge", "other"]


class Leftover(Struct, frozen=True, kw_only=True):
    """A machine's runtime directory that nobody holds the lock of."""

    name: str
    path: str
    steps: int | None = None  # lines of its journal; None: there is none, or it cannot be read


class AcsPort(Struct, frozen=True, kw_only=True):
    """A bridge of a group that is shared, and its Access Control Services."""

    address: PciAddress
    kind: PortKind = ""  # "bridge" is one to or of conventional PCI; "": could not tell
    read: int = 0  # bytes of its configuration space that could be read
    at: int | None = None  # where the capability is; None: there is none, or not in these bytes
    capability: int = 0  # its registers
    control: int = 0


class Health(Struct, frozen=True, kw_only=True):
    """The host as its keeper has set it up."""

    system: str = ""  # PRETTY_NAME of os-release(5)
    family: Family = ""
    boot: Boot = ""  # what sets the kernel's parameters
    boot_command: str = ""  # what makes GRUB's configuration anew
    modules: dict[str, ModuleState] = field(default_factory=dict)
    modules_dir: bool | None = None  # /lib/modules/RELEASE of the running kernel is there
    parameters: dict[str, str] = field(default_factory=dict)  # "kvm.ignore_msrs" → "N"
    governors: dict[str, CpuSet] = field(default_factory=dict)  # scaling_governor → CPUs
    scaling_driver: str = ""  # of the first CPU: intel_pstate, acpi-cpufreq …
    transparent_pages: str = ""  # the choice in transparent_hugepage/enabled
    memlock: int | Literal["unlimited"] | None = None  # bytes: the soft limit of whoever asks
    secure_boot: bool | None = None  # by the firmware's variable; None: no UEFI, or not told
    framebuffers: tuple[str, ...] | None = None  # lines of /proc/fb
    bar_users: dict[str, tuple[str, ...]] | None = None  # PCI address → who sits in its memory
    seats: dict[str, str] = field(default_factory=dict)  # seat → who is active on it
    chassis: int | None = None  # SMBIOS 7.4.1: 9 is a laptop
    programs: dict[str, str] = field(default_factory=dict)  # helpers: name → path, "" is missing
    leftovers: tuple[Leftover, ...] | None = None
    acs: tuple[AcsPort, ...] | None = None


class ExaminedFacts(HostFacts, frozen=True, kw_only=True):
    """HostFacts with the rest; a snapshot without it loads as one that nobody has examined."""

    health: Health | None = None


def health_of(facts: HostFacts) -> Health | None:
    """The rest, where it was looked at."""
    return facts.health if isinstance(facts, ExaminedFacts) else None
