"""The six questions of `qlaunch new`: what is proposed on this host, and what an answer may be."""

from __future__ import annotations

from typing import NamedTuple

from qlaunch.facts.model import HostFacts, HostFile, PciDevice
from qlaunch.plan.cards import card_of, is_display
from qlaunch.plan.eras import ERAS
from qlaunch.plan.handover import Group, groups
from qlaunch.plan.topology import cores_of
from qlaunch.plan.uefi import PACKAGES
from qlaunch.values import PciAddress, Size, parse_pci_address, parse_size

GIB = 1 << 30
GUESTS = {
    "windows11": "Windows 11", "windows10": "Windows 8 or 10", "windows7": "Windows 7",
    "linux": "Linux", "other": "something else",
}
VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel", "1a03": "ASPEED", "102b": "Matrox"}
_MOST_CPUS = 16  # proposed
_DISK = {"linux": "32G", "other": "32G"}
_BIGGEST_NAME = 15  # of a link (IFNAMSIZ)


class Answers(NamedTuple):
    """Complete, and each of its kind; whether the host can do it is the plan's to say."""

    guest: str
    card: PciAddress | None
    cpus: int
    memory: Size
    disk: Size | str  # of a new image, or the path of one that is there
    network: str  # "nat", "user", "none" or "bridge:NAME"


class Choice(NamedTuple):
    """A card to choose, and what stands against it."""

    device: PciDevice
    text: str
    obstacle: str = ""


def cards(facts: HostFacts) -> list[Choice]:
    """Every graphics card, the ones that could be handed over first, the firmware's last. Slices
    of one (virtual functions) are no cards: [[vgpu]] is for them."""
    found: list[Choice] = []
    for group in groups(facts):
        found += [_choice(group, device) for device in group.devices
                  if is_display(device) and device.physfn is None]
    return sorted(found, key=lambda c: (bool(c.obstacle), bool(c.device.boot_vga)))


def _choice(group: Group, device: PciDevice) -> Choice:
    maker = VENDORS.get(device.id[:4], "a card")
    remarks = [f"on {device.driver}" if device.driver else "without a driver"]
    if device.boot_vga:
        remarks.append("the host's own")
    obstacle = group.obstacles[0].message if group.obstacles else ""
    text = f"{device.address.short}  {maker} [{device.id}], {', '.join(remarks)}"
    return Choice(device, text, obstacle)


def propose_guest(facts: HostFacts) -> str:
    """The newest that this host has all for."""
    return next((g for g in ("windows11", "windows10") if not _guest_lacks(g, facts)), "other")


def propose_card(facts: HostFacts) -> str:
    """One that is free and not the one the host starts on; "none" where there is none such."""
    every = cards(facts)
    free = [c for c in every if not c.obstacle and not c.device.boot_vga]
    return free[0].device.address.short if free and len(every) > 1 else "none"


def propose_cpus(facts: HostFacts) -> int:
    """All but a core or a quarter of them, which the host keeps."""
    cores = [core.cpus for core in cores_of(facts.cpus or ())]
    if len(cores) < 2:
        return 1
    kept = max(1, len(cores) // 4)
    wide = max(len(core) for core in cores)
    return min(_MOST_CPUS, sum(len(core) for core in cores[kept:]) // wide * wide)


def propose_memory(facts: HostFacts) -> Size:
    """Half of the host's, in whole GiB, and not more than is free."""
    ram, total = facts.ram, host_memory(facts)
    free = ram.available if ram else sum(node.free for node in facts.memory or ())
    return Size(max(1, min(-(-total // GIB) // 2, free // GIB - 1, 64)) * GIB)


def host_memory(facts: HostFacts) -> int:
    """Bytes of the whole host; 0 when nobody knows."""
    return facts.ram.total if facts.ram else sum(node.total for node in facts.memory or ())


def propose_disk(guest: str) -> str:
    """A new image of a size that the guest's installer is content with."""
    return _DISK.get(guest, "64G")


def propose_network(facts: HostFacts, *, root: bool) -> str:
    """The bridge that leads out, else nat where root is needed anyway and can, else user mode."""
    for link in facts.links or ():
        if link.kind == "bridge" and (link.default_route or any(
            x.master == link.name and x.kind == "physical" for x in facts.links or ()
        )):
            return f"bridge:{link.name}"
    able = all(facts.programs.get(name) for name in ("nft", "dnsmasq"))
    return "nat" if root and able and facts.tun else "user"


# -- what stands against an answer ------------------------------------------------------------


def against(key: str, answer: object, facts: HostFacts) -> str:
    """Why the plan would refuse it on this host; "" when nothing is known against it."""
    if key == "guest":
        return _guest_lacks(str(answer), facts)
    if key == "card":
        choice = next((c for c in cards(facts) if c.device.address == answer), None)
        return choice.obstacle if choice else ""
    return _network_lacks(str(answer), facts) if key == "network" else ""


def _guest_lacks(guest: str, facts: HostFacts) -> str:
    era = ERAS[guest]
    if era.firmware == "uefi" and facts.firmware == ():
        return f"{guest} wants UEFI firmware, and this host has none: install {PACKAGES}"
    if era.tpm and _missing(facts, "swtpm"):
        return f"{guest} wants a TPM, and this host has none to give: install swtpm"
    return ""


def _network_lacks(network: str, facts: HostFacts) -> str:
    kind, _, name = network.partition(":")
    if kind == "bridge" and facts.links is not None and not any(
        link.name == name and link.kind == "bridge" for link in facts.links
    ):
        return f"this host has no bridge {name}"
    lacks = [tool for tool in ("nft", "dnsmasq") if kind == "nat" and _missing(facts, tool)]
    return f"this host has no {' and no '.join(lacks)}" if lacks else ""


def _missing(facts: HostFacts, program: str) -> bool:
    """Looked for, and not found."""
    return program in facts.programs and not facts.programs[program]


# -- what is typed ----------------------------------------------------------------------------


def parse_guest(text: str) -> str:
    """Raises ValueError with what is allowed, as all of these."""
    if text not in ERAS:
        raise ValueError(", ".join(ERAS))
    return text


def parse_card(text: str, facts: HostFacts) -> PciAddress | None:
    """A graphics card's address, or none."""
    if text == "none":
        return None
    known = ", ".join(choice.device.address.short for choice in cards(facts))
    try:
        address = parse_pci_address(text)
    except ValueError:
        raise ValueError(f"{known}, none" if known else "none: there is no card") from None
    if not any(choice.device.address == address for choice in cards(facts)):
        raise ValueError(f"{known}, none" if known else "none: there is no card")
    return address


def parse_cpus(text: str, facts: HostFacts) -> int:
    """A number of what the host has, or auto."""
    if text == "auto":
        return propose_cpus(facts)
    most = sum(cpu.online for cpu in facts.cpus or ()) or 1
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise ValueError(f"auto, or 1 to {most}")
    return int(text)


def parse_memory(text: str, facts: HostFacts) -> Size:
    """Less than the host has."""
    total = host_memory(facts)
    try:
        size = parse_size(text)
    except ValueError:
        raise ValueError("a size like 8G or 4096M") from None
    if size < 64 << 20 or 0 < total <= size:
        most = f"less than {Size(total >> 20 << 20)}" if total else "any size like 8G"
        raise ValueError(f"64M or more, {most}")
    return size


def parse_disk(text: str) -> Size | str:
    """A size for a new image, or a path; what is there is looked at later."""
    try:
        return parse_size(text)
    except ValueError:
        pass
    if not text or "\0" in text:
        raise ValueError("a size like 64G, an image, or a device like /dev/sdc6")
    return text


def parse_network(text: str) -> str:
    """nat, user, none, bridge:NAME."""
    kind, _, name = text.partition(":")
    if text in ("nat", "user", "none") or (
        kind == "bridge" and 0 < len(name) <= _BIGGEST_NAME and "/" not in name
        and not any(sign.isspace() for sign in name)
    ):
        return text
    raise ValueError("nat, user, none, or bridge:NAME")


def functions(facts: HostFacts, card: PciAddress) -> list[PciDevice]:
    """The card's other functions: its audio, its USB."""
    return [
        d for d in facts.pci or ()
        if card_of(d.address) == card_of(card) and d.address != card and not d.is_bridge
    ]


def strangers(facts: HostFacts, card: PciAddress) -> list[PciDevice]:
    """What is in the card's group without being part of it."""
    device = facts.device(card)
    group = facts.group(device.iommu_group) if device and device.iommu_group is not None else ()
    return [d for d in group if not d.is_bridge and card_of(d.address) != card_of(card)]


def disk_format(found: HostFile | None, path: str) -> str:
    """By the image's header, else by its name."""
    if found is not None and found.kind == "block":
        return "raw"
    if found is not None and found.format:
        return found.format
    suffix = path.rpartition(".")[2].lower()
    return suffix if suffix in ("qcow2", "vmdk", "vdi", "vhdx") else "raw"
