"""Graphics cards: the firmware's own, who sits in their memory, who looks at them.

The firmware's picture stays in the boot card's memory until a driver takes it over (sysfb); VFIO
then fails with "can't reserve [mem …]". Names in /proc/iomem are those that efifb, simplefb and
the boot code give their region.
"""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host, unexamined
from qlaunch.advise.fixes import add_parameter
from qlaunch.facts.model import PciDevice
from qlaunch.plan.cards import is_display
from qlaunch.plan.quirks import Quirk, quirks_of
from qlaunch.values import PciAddress

_DEVICES = "/sys/bus/pci/devices"
_SQUATTERS = ("BOOTFB", "efifb", "simplefb", "simple-framebuffer", "vesafb")
_FIRMWARE_FB = ("EFI VGA", "VESA VGA", "simple", "simpledrmdrmfb")
_UNBIND = {
    "EFI VGA": "efi-framebuffer", "VESA VGA": "vesa-framebuffer", "simple": "simple-framebuffer",
    "simpledrmdrmfb": "simple-framebuffer",
}
_THREE_D = 0x0302  # a card without outputs of its own
_PORTABLE = (8, 9, 10, 14, 31, 32)  # SMBIOS 7.4.1: portable, laptop, notebook, convertible …


def _cards(host: Host) -> list[PciDevice]:
    return [device for device in host.facts.pci or () if is_display(device)]


def boot_vga(host: Host) -> Iterator[Finding]:
    """Which card the firmware and the console use, and whether there is another."""
    if host.facts.pci is None:
        yield unexamined("boot_vga", "which cards there are")
        return
    cards = _cards(host)
    first = next((card for card in cards if card.boot_vga), None)
    if first is None:
        yield Finding(
            subject="boot_vga", level="ok",
            message="no card is the firmware's" if cards else "this host has no graphics card",
            evidence=(Evidence(f"{_DEVICES}/*/boot_vga", "no 1"),),
        )
        return
    evidence = tuple(Evidence(f"{_DEVICES}/{card.address}/boot_vga", "1" if card.boot_vga else "0")
                     for card in cards)
    if len(cards) == 1:
        yield Finding(
            subject="boot_vga", level="warning", evidence=evidence, devices=(first.address,),
            message=f"{first.address} is the host's only graphics card",
            reason="handed to a guest, the host's screen is dark until it comes back, and the "
            "guest needs a copy of the card's ROM",
            fix=("have a way in by SSH, and end the desktop first: profiles/single-gpu.toml",
                 "or plug in a second card for the host"),
        )
        return
    if first.driver and first.driver.startswith("vfio"):
        yield Finding(
            subject="boot_vga", level="warning", evidence=evidence, devices=(first.address,),
            message=f"{first.address}, which the firmware starts on, is bound to {first.driver}",
            reason="the console has no picture, and the card's ROM is the firmware's used copy",
            fix=("make the other card the first one in the BIOS setup",),
        )
        return
    others = ", ".join(card.address for card in cards if card is not first)
    yield Finding(
        subject="boot_vga", level="ok", evidence=evidence, devices=(first.address,),
        message=f"the host starts on {first.address}; free for guests: {others}",
    )


def framebuffers(host: Host) -> Iterator[Finding]:
    """The firmware's picture, still in a card's memory."""
    health = host.health
    if health.framebuffers is None and health.bar_users is None:
        return
    bound = [(f, kind) for f in health.framebuffers or () for kind in _FIRMWARE_FB
             if f.partition(" ")[2].startswith(kind)]
    squatted = {
        address: names for address, users in (health.bar_users or {}).items()
        if (names := [user for user in users if user in _SQUATTERS])
    }
    evidence = (
        Evidence("/proc/fb", "; ".join(health.framebuffers or ()) or "empty"),
        *(Evidence("/proc/iomem", f"{', '.join(names)} in {address}")
          for address, names in squatted.items()),
    )
    if not bound and not squatted:
        yield Finding(subject="framebuffers", level="ok", evidence=evidence,
                      message="none of the firmware's is left")
        return
    kinds = dict.fromkeys(_UNBIND[kind] for _, kind in bound) or {"efi-framebuffer": None}
    yield Finding(
        subject="framebuffers", level="warning", evidence=evidence,
        devices=tuple(PciAddress(a) for a in squatted) or tuple(
            card.address for card in _cards(host) if card.boot_vga),
        message="the firmware's framebuffer still lies in the memory of "
        + (", ".join(squatted) or "the boot card"),
        reason="VFIO cannot map that memory (BAR: can't reserve) while it is there",
        fix=(
            *(f"echo {kind}.0 | sudo tee /sys/bus/platform/drivers/{kind}/unbind"
              for kind in kinds),
            "for good:", *add_parameter(health, "initcall_blacklist=sysfb_init"),
        ),
    )


def seats(host: Host) -> Iterator[Finding]:
    """Who sits at the host, and who has a card open."""
    people = tuple(Evidence(f"/run/systemd/seats/{seat}", who)
                   for seat, who in host.health.seats.items())
    cards = _cards(host)
    if any(card.holders is None for card in cards):
        yield unexamined("seats, holders", "who uses the cards")
        return
    only = len(cards) == 1
    free = True
    for card in cards:
        held = [holder for holder in card.holders or () if holder.kind in ("process", "seat")]
        if not held or (card.boot_vga and not only):
            continue
        free = False
        evidence = tuple(Evidence(f"/proc/{h.pid}/fd" if h.pid else "/run/systemd/seats", str(h))
                         for h in held)
        yield Finding(
            subject="seats, holders", level="note", devices=(card.address,),
            evidence=(*evidence, *people),
            message=f"{card.address} is in use: "
            + ", ".join(dict.fromkeys(h.command or h.kind for h in held)),
            reason="a card is taken from the host only when nobody has it open",
            fix=tuple(dict.fromkeys(h.remedy for h in held if h.remedy)),
        )
    if free and cards:
        message = "nobody uses the cards that guests could get"
        level_unknown = not host.root
        yield Finding(
            subject="seats, holders", level="unknown" if level_unknown else "ok", evidence=people,
            message=f"could not tell whether {message}: other users' processes are hidden"
            if level_unknown else message,
            fix=("sudo qlaunch doctor",) if level_unknown else (),
        )


def quirks(host: Host) -> Iterator[Finding]:
    """What is known of devices that a guest could get, once for all that it is known of; a card of
    the host's own stays anyway."""
    cards = _cards(host)
    known: dict[str, tuple[Quirk, list[PciDevice]]] = {}
    for device in host.facts.pci or ():
        if device.boot_vga and len(cards) > 1:
            continue
        for quirk in quirks_of(device):
            if quirk.severity == "note" and not is_display(device):
                continue  # `qlaunch devices` tells of those, too many for a host as a whole
            known.setdefault(quirk.id, (quirk, []))[1].append(device)
    for quirk, devices in known.values():
        yield Finding(
            subject="quirks", level="note", message=f"{_named(devices)}: {quirk.text}",
            evidence=tuple(
                Evidence(f"{_DEVICES}/{device.address}/{{vendor,device}}", device.id)
                for device in _without_slices(devices)
            ),
            reason=f"in a guest's hands; {quirk.source}", fix=(quirk.advice,),
            devices=tuple(device.address for device in devices),
        )


def _without_slices(devices: list[PciDevice]) -> list[PciDevice]:
    """Those that are no virtual functions of others among them."""
    there = {device.address for device in devices}
    return [device for device in devices if device.physfn not in there]


def _named(devices: list[PciDevice]) -> str:
    """Addresses; of virtual functions, whose they are and how many."""
    names = []
    for device in _without_slices(devices):
        count = sum(other.physfn == device.address for other in devices)
        more = f" and its {count} virtual function{'s' * (count > 1)}" if count else ""
        names.append(f"{device.address}{more}")
    return ", ".join(names)


def laptop(host: Host) -> Iterator[Finding]:
    """A second card without outputs: Optimus and the like."""
    cards = _cards(host)
    dark = [card for card in cards if card.class_code >> 8 == _THREE_D]
    portable = host.health.chassis in _PORTABLE
    for card in dark:
        if len(cards) < 2 or not (portable or any(c.id.startswith("8086:") for c in cards)):
            continue
        yield Finding(
            subject="quirks", level="note", devices=(card.address,),
            message=f"{card.address} has no outputs of its own"
            + (": a laptop's second card (Optimus)" if portable else ""),
            evidence=(
                Evidence(f"{_DEVICES}/{card.address}/class", f"0x{card.class_code:06x}"),
                Evidence("/sys/class/dmi/id/chassis_type", str(host.health.chassis or "?")),
            ),
            reason="the guest's picture is seen through Looking Glass or SPICE only; NVIDIA's "
            "driver may want the card's ROM, and a battery (error 43)",
            fix=('rom = "FILE" in its [[pci]]: the ROM is in the BIOS update, or in ACPI (_ROM)',
                 'type = "looking-glass" in [display]',
                 "a battery: acpi_tables in [machine], with an SSDT that has one"),
        )
