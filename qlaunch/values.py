"""Small typed values: parsed once at the edge, `str()` gives back what a user would type.

Each is a subclass of a builtin so that it compares, hashes and formats like one, and `parse_*`
raises ValueError with a sentence that names what was expected. Nothing here touches the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Text until it is used: compiling all eight takes longer than parsing a profile.
_PCI = r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])"
_PCI_ID = r"([0-9a-f]{4}):([0-9a-f]{4})"
_MAC = r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_SIZE = r"([0-9]{1,12})(?:([KMGT])(?:i?B)?|B)"
_DURATION = r"([0-9]{1,10}(?:\.[0-9]{1,6})?)(ms|s|m|min|h)"
_SLOT = r"(?:0x)?([01]?[0-9a-f])(?:\.([0-7]))?"
_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,62}"
_CPU_RANGE = r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*"
_MAX_CPU = 8191  # CONFIG_NR_CPUS of x86_64 distribution kernels
_MAX_SECONDS = 1e9  # so that the spelling in seconds, to the microsecond, is exact
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class PciAddress(str):
    """A PCI function's full sysfs name (`0000:03:00.0`); sorts as lspci sorts."""

    __slots__ = ()

    @property
    def function(self) -> int:
        """0 to 7."""
        return int(self[-1])

    @property
    def slot_name(self) -> str:
        """All but the function: what the functions of one card share (`0000:03:00`)."""
        return self[:-2]

    @property
    def short(self) -> str:
        """Without the domain when it is 0, as `lspci` and QEMU's `host=` accept it."""
        return self[5:] if self.startswith("0000:") else str(self)


class PciId(str):
    """vendor:device in lower-case hexadecimal, as `lspci -n` writes it."""

    __slots__ = ()


class PciSelector(str):
    """How a profile names a host device: a full address or a vendor:device pair."""

    __slots__ = ()

    @property
    def address(self) -> PciAddress | None:
        """The address, when it is one."""
        return PciAddress(self) if "." in self else None

    @property
    def id(self) -> PciId | None:
        """The vendor:device pair, when it is one."""
        return None if "." in self else PciId(self)


class GuestSlot(str):
    """A device's place on a guest bus in QEMU's `addr=` form: `1c.0`, always two hex digits."""

    __slots__ = ()

    @property
    def slot(self) -> int:
        """0 to 31."""
        return int(self[:2], 16)

    @property
    def function(self) -> int:
        """0 to 7."""
        return int(self[3:])


class Size(int):
    """A number of bytes; `str()` is the shortest exact QEMU spelling ("8G", "1536M", "1000B")."""

    def __str__(self) -> str:
        for unit in "TGMK":
            if self and self % _UNITS[unit] == 0:
                return f"{self // _UNITS[unit]}{unit}"
        return f"{int(self)}B"


class Duration(float):
    """Seconds, to the microsecond; `str()` is "60s"."""

    def __str__(self) -> str:
        return f"{float(self):.6f}".rstrip("0").rstrip(".") + "s"


class MacAddress(str):
    """Lower-case colon form of a unicast MAC address."""

    __slots__ = ()


class VmName(str):
    """A machine's name: safe as one path component and inside a QEMU option string."""

    __slots__ = ()


class HostPath(str):
    """A path on the host; absolute once a profile has been read."""

    __slots__ = ()


class Program(str):
    """A program: a name on PATH, or with a slash or a leading `~` a path as HostPath is one."""

    __slots__ = ()

    @property
    def is_path(self) -> bool:
        """Whether it is no name on PATH."""
        return "/" in self or self.startswith("~")


class CpuSet(tuple[int, ...]):
    """Host CPU numbers, ascending, without repeats; `str()` is the kernel's list form ("0,4-6")."""

    __slots__ = ()

    def __new__(cls, cpus: Iterable[int] = ()) -> CpuSet:
        return super().__new__(cls, sorted(set(cpus)))

    def __str__(self) -> str:
        runs: list[list[int]] = []
        for cpu in self:
            if runs and cpu == runs[-1][1] + 1:
                runs[-1][1] = cpu
            else:
                runs.append([cpu, cpu])
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def parse_pci_address(text: str) -> PciAddress:
    """`03:00.0` or `0000:03:00.0` (VMD domains may have up to 8 digits) → PciAddress."""
    match = re.fullmatch(_PCI, text.strip().lower())
    if not match:
        raise ValueError("a PCI address like 03:00.0 or 0000:03:00.0")
    domain, bus, slot, function = match.groups()
    return PciAddress(f"{int(domain or '0', 16):04x}:{bus}:{slot}.{function}")


def parse_pci_id(text: str) -> PciId:
    """`10de:1200` → PciId."""
    match = re.fullmatch(_PCI_ID, text.strip().lower())
    if not match:
        raise ValueError("a vendor:device pair like 10de:1200")
    return PciId(match[0])


def parse_pci_selector(text: str) -> PciSelector:
    """An address or a vendor:device pair → PciSelector."""
    for parse in (parse_pci_address, parse_pci_id):
        try:
            return PciSelector(parse(text))
        except ValueError:
            continue
    raise ValueError("a PCI address like 03:00.0 or a vendor:device pair like 10de:1200")


def parse_guest_slot(text: str) -> GuestSlot:
    """`1c.0`, `5` or `0x5` (always hexadecimal, as QEMU reads `addr=`) → GuestSlot."""
    match = re.fullmatch(_SLOT, text.strip().lower())
    if not match:
        raise ValueError("a guest slot like 05 or 1c.0 (hexadecimal, 00 to 1f)")
    return GuestSlot(f"{int(match[1], 16):02x}.{match[2] or 0}")


def parse_size(text: str) -> Size:
    """`8G`, `512M`, `1024K`, `8GiB`, `512B`: always powers of 1024, as QEMU reads them."""
    match = re.fullmatch(_SIZE, text.strip())
    if not match:
        raise ValueError("a size with a unit like 8G or 512M")
    return Size(int(match[1]) * (_UNITS[match[2]] if match[2] else 1))


def parse_duration(text: str) -> Duration:
    """`60s`, `500ms`, `2min`, `1h` → seconds."""
    match = re.fullmatch(_DURATION, text.strip())
    if not match:
        raise ValueError("a duration with a unit like 60s or 2min")
    seconds = round(float(match[1]) * _SECONDS[match[2]], 6)
    if seconds > _MAX_SECONDS:
        raise ValueError("a duration with a unit like 60s or 2min, of less than 32 years")
    return Duration(seconds)


def parse_mac(text: str) -> MacAddress:
    """`52:54:00:26:7F:96` → MacAddress; multicast and all-zero addresses are refused."""
    mac = text.strip().lower()
    if not re.fullmatch(_MAC, mac):
        raise ValueError("a MAC address like 52:54:00:26:7f:96")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError("a unicast MAC address (the first byte even), like 52:54:00:26:7f:96")
    return MacAddress(mac)


def parse_vm_name(text: str) -> VmName:
    """Letters, digits, space and `._+-`, at most 63, not starting with a sign or dot."""
    if not re.fullmatch(_NAME, text) or text != text.strip():
        raise ValueError("a name of letters, digits, spaces and . _ + - (at most 63)")
    return VmName(text)


def parse_cpu_set(text: str) -> CpuSet:
    """`0,4-6` → CpuSet; an empty list, a falling range or a number over 8191 is refused."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(_CPU_RANGE, part)
        if not match:
            raise ValueError("a CPU list like 0,4 or 2-5")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last > _MAX_CPU:
            raise ValueError(f"a CPU list like 0,4 or 2-5, rising, none over {_MAX_CPU}")
        cpus.update(range(first, last + 1))
    return CpuSet(cpus)


def parse_cpu_numbers(numbers: Iterable[object]) -> CpuSet:
    """CPU numbers from a list of a profile's or of JSON's → CpuSet."""
    cpus: list[int] = []
    for number in numbers:
        if type(number) is not int or not 0 <= number <= _MAX_CPU:
            raise ValueError(f"CPU numbers from 0 to {_MAX_CPU}")
        cpus.append(number)
    return CpuSet(cpus)
