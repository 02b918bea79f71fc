"""What a [[vgpu]] table or a wish asks for, and what was chosen for it: plain data and comparisons
that the kinds share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

from qlaunch.facts.model import PciDevice
from qlaunch.facts.vgpu_model import VgpuFacts
from qlaunch.plan.draft import Draft
from qlaunch.profile.vgpu import Vgpu, Wish, fits_form, least_bytes, least_pixels
from qlaunch.values import CpuSet, PciAddress, parse_pci_address

LIST = "qlaunch devices --vgpu lists what this host has"
AFTER_CRASH = "after a crash: sudo qlaunch recover --all"
WHOLE = "goes to the guest as a whole, by a [[pci]] table"
ONE_OF_TWO = "a guest has the whole card or slices of it: drop one of the two tables"
Kind = Literal["auto", "mdev", "vf", "nvidia-vf"]


class Want(Struct, frozen=True, kw_only=True):
    """One slice, as asked for."""

    kind: Kind = "auto"
    parent: str | None = None
    type: str | None = None
    bytes: int = 0
    pixels: tuple[int, int] = (0, 0)
    vfs: int | None = None
    uuid: str = ""
    nodes: frozenset[int] = frozenset()  # NUMA nodes of the vCPUs or the memory, when told

    @property
    def of_type(self) -> bool:
        """Whether it says what type."""
        return bool(self.type or self.bytes or self.pixels != (0, 0))

    def __str__(self) -> str:
        words = [f'type "{self.type}"'] if self.type else []
        words += [f"memory >={self.bytes >> 20}M"] if self.bytes else []
        words += [f"resolution >={self.pixels[0]}x{self.pixels[1]}"] if any(self.pixels) else []
        return ", ".join(words) or "a virtual function"


class Choice(Struct, frozen=True, kw_only=True):
    """One slice, as found on this host."""

    kind: Literal["mdev", "vf", "nvidia-vf"]
    parent: str  # of a mediated device; the physical function of a virtual one
    type: str = ""
    address: PciAddress | None = None  # of the virtual function
    number: int = 0  # of the virtual function on its parent; of an NVIDIA type
    existing: bool = False  # the mediated device, or this type on the function, is there already
    enable: int = 0  # how many virtual functions the physical one is to have at least
    said: bool = False  # the profile says how many
    on: bool = False  # they are on already
    load: str = ""  # a module that makes the type appear
    free: str = ""  # what was left, for the plan's reader
    memory: int = 0  # bytes of an NVIDIA type that is made, where its name tells


class Taken(Struct):
    """What earlier tables of the same machine have been given."""

    instances: dict[tuple[str, str], int] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    claims: dict[str, str] = field(default_factory=dict)  # what other machines have
    cards: frozenset[str] = frozenset()  # what goes to the guest by [[pci]], whole groups included
    of_card: dict[str, tuple[Choice, ...]] = field(default_factory=dict)  # by physical function
    emulated: bool = False  # a wish for a virtio card was granted: there is one card

    def copy(self) -> Taken:
        """One that can be added to by itself."""
        return Taken(dict(self.instances), set(self.functions), self.claims, self.cards,
                     dict(self.of_card), self.emulated)

    def has(self, address: str) -> bool:
        """Whether this machine has a device already."""
        return address in self.functions or address in self.cards

    def add(self, choice: Choice) -> None:
        """What one more table has been given."""
        if choice.address is not None:
            self.functions.add(choice.address)
            card = choice.parent or choice.address
            self.of_card[card] = (*self.of_card.get(card, ()), choice)
        elif not choice.existing:
            key = (choice.parent, choice.type)
            self.instances[key] = self.instances.get(key, 0) + 1


def want_of(table: Vgpu | Wish, uuid: str, draft: Draft, kind: Kind = "auto") -> Want:
    """A table's, or a wish's for a type or a virtual function. A text without its form counts as
    absent; the profile's rules have told it."""
    memory, size = table.memory, table.resolution
    parent = table.parent if isinstance(table, Vgpu) else table.vf
    return Want(
        kind=kind, parent=_full(parent), type=table.type,
        bytes=least_bytes(memory) if memory and fits_form("memory", memory) else 0,
        pixels=least_pixels(size) if size and fits_form("resolution", size) else (0, 0),
        vfs=table.vfs if isinstance(table, Vgpu) else None, uuid=uuid, nodes=guest_nodes(draft),
    )


def _full(parent: str | None) -> str | None:
    """A short address in its full form."""
    try:
        return parse_pci_address(parent) if parent else None
    except ValueError:
        return parent


def guest_nodes(draft: Draft) -> frozenset[int]:
    """The NUMA nodes that the profile pins vCPUs to, else those that its memory is from; none when
    it leaves that open."""
    listed = getattr(draft.profile.cpu.pin, "vcpus", ())
    cpus = {n for entry in listed if isinstance(entry, CpuSet) for n in entry}
    pinned = frozenset(c.node for c in draft.facts.cpus or () if c.id in cpus)
    return pinned or frozenset(n for node in draft.profile.numa for n in node.host_nodes or ())


def left_by(devices: Iterable[str], info: VgpuFacts) -> tuple[str, str]:
    """Which of these devices dead machines left behind, and what puts them back; "" for none."""
    known = {d: info.left[d] for d in devices if d in info.left}
    names = sorted(set(known.values()))
    return (
        "; ".join(f"{device} was left behind by {name}" for device, name in known.items()),
        " and ".join(f"sudo qlaunch recover '{name}'" for name in names),
    )


def is_far(device: PciDevice | None, want: Want) -> bool:
    """Whether a device is on another node than the vCPUs. -1 is that of nobody knows which."""
    node = device.numa_node if device else None
    return bool(want.nodes) and node is not None and node >= 0 and node not in want.nodes


def is_named(device: PciDevice, wanted: str | None) -> bool:
    """Whether a selector (full address or vendor:device) means this device; None means all."""
    return wanted in (None, device.address, device.id)


def near_name(name: str | None, known: list[str]) -> str:
    """"did you mean X?" about a type's name; "" when none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name or "", known, 1, 0.75)
    return f"did you mean {near[0]}?" if near else ""


def user_of(device: PciDevice | None, *, named: bool = False) -> str:
    """Who uses a device, in words; "" for nobody, and when nobody looked. A link that has an
    address, or that a bridge stands on, is left to the host unless the profile has `named` the
    device itself."""
    found = device.holders or () if device else ()
    holders = [h for h in found if not (named and h.kind == "link")]
    return str(holders[0]) if holders else ""

