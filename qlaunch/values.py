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
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_DURATION = r"([0-9]{1,10}(?:\.[0-9]{1,6})?)(ms|s|m|min|h)"
_SLOT = r"(?:0x)?([01]?[0-9a-f])(?:\.([0-7]))?"
_NETWORK = r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})/([0-9]{1,2})"
_MAX_CPU = 8191  # CONFIG_NR_CPUS of x86_64 distribution kernels
_MAX_SECONDS = 1e9  # so that the spelling in seconds, to the microsecond, is exact
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIGNS = frozenset(" ._+-")  # of a name, beside letters and digits
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


class Ipv4Network(str):
    """An IPv4 network in CIDR form, `192.168.77.0/24`; no bit is set behind its length."""

    __slots__ = ()

    @property
    def bits(self) -> int:
        """The length of the prefix."""
        return int(self.partition("/")[2])

    @property
    def first(self) -> int:
        """The network's own address, as a number."""
        return ipv4_number(self.partition("/")[0])

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (32 - self.bits)

    def address(self, index: int) -> str:
        """The address at an index; -1 is the broadcast address."""
        return ipv4_text(self.first + index % self.size)

    def overlaps(self, other: Ipv4Network) -> bool:
        """Whether any address is in both."""
        shift = 32 - min(self.bits, other.bits)
        return self.first >> shift == other.first >> shift


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
    text = text.strip()
    digits = text.rstrip("BKMGTi")
    unit = text[len(digits):]
    letter = unit[:1]
    known = unit == "B" or (letter in _UNITS and unit[1:] in ("", "B", "iB"))
    if not known or not _is_number(digits, 12):
        raise ValueError("a size with a unit like 8G or 512M")
    return Size(int(digits) * _UNITS.get(letter, 1))


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


def parse_ipv4_network(text: str) -> Ipv4Network:
    """`192.168.77.0/24` → Ipv4Network; at least 8 addresses, and no bit behind the length."""
    match = re.fullmatch(_NETWORK, text.strip())
    parts = [int(part) for part in match.groups()] if match else [256] * 5
    if max(parts[:4]) > 255 or not 8 <= parts[4] <= 29:
        raise ValueError("an IPv4 network like 192.168.77.0/24 (/8 to /29)")
    network = Ipv4Network(".".join(str(p) for p in parts[:4]) + f"/{parts[4]}")
    if network.first % network.size:
        first = ipv4_text(network.first - network.first % network.size)
        raise ValueError(f"a network by its first address, like {first}/{parts[4]}")
    return network


def ipv4_number(text: str) -> int:
    """`10.0.2.3` → a number; -1 for what is no IPv4 address."""
    parts = text.split(".")
    if len(parts) != 4 or not all(p.isascii() and p.isdigit() and len(p) < 4 for p in parts):
        return -1
    numbers = [int(part) for part in parts]
    return int.from_bytes(bytes(numbers), "big") if max(numbers) < 256 else -1


def ipv4_text(number: int) -> str:
    """A number → `10.0.2.3`."""
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


def _is_number(text: str, most: int) -> bool:
    """Whether it is 1 to `most` decimal digits."""
    return text.isascii() and text.isdigit() and len(text) <= most


def parse_vm_name(text: str) -> VmName:
    """Letters, digits, space and `._+-`, at most 63, not starting with a sign or dot."""
    fits = text.isascii() and text[:1].isalnum() and len(text) <= 63 and text == text.strip()
    if not fits or not all(c.isalnum() or c in _SIGNS for c in text):
        raise ValueError("a name of letters, digits, spaces and . _ + - (at most 63)")
    return VmName(text)


def parse_cpu_set(text: str) -> CpuSet:
    """`0,4-6` → CpuSet; an empty list, a falling range or a number over 8191 is refused."""
    cpus: set[int] = set()
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(_is_number(end, 6) for end in ends):
            raise ValueError("a CPU list like 0,4 or 2-5")
        first, last = int(ends[0]), int(ends[-1])
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


def is_uuid(text: str) -> bool:
    """Whether this is a UUID in lower case, as the kernel names mediated devices (%pUl)."""
    return len(text) == 36 and _UUID.fullmatch(text) is not None
