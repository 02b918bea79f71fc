"""Which facts a profile's plan depends on, so that nothing else is read before a launch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from qlaunch.facts.model import Wanted
from qlaunch.plan.firmware import firmware_kind
from qlaunch.profile.profile import Profile
from qlaunch.values import HostPath


def facts_wanted(profile: Profile, *, holders: bool, trusted: bool = False) -> Wanted:
    """`trusted` is the profile's (Loaded.trusted). `holders` asks for the scan of processes: `run`
    and `check` need it, `argv` does not."""
    return Wanted(
        cpus=profile.cpu.pin is not None,
        memory=bool(profile.machine.hugepages or profile.memory or profile.numa),
        limits=_asks_much(profile),
        pinned=profile.cpu.pin == "auto" or profile.cpu.isolate,
        tuning=profile.cpu.isolate or profile.cpu.governor is not None,
        pci=bool(profile.pci or profile.vgpu),
        vgpu=bool(profile.vgpu),
        holders=holders and bool(profile.pci or profile.vgpu),
        kvm=profile.machine.accel != "tcg",
        iommu=bool(profile.pci or profile.vgpu),
        links=any(n.bridge or n.tap or n.macvtap or n.nat for n in profile.net),
        network=any(n.bridge or n.nat for n in profile.net),
        firewall=any(n.nat for n in profile.net),
        desktop=_needs_desktop(profile),
        qemu=profile.qemu.binary,
        user=profile.qemu.user or "",
        machine=profile.name,
        trusted=trusted,
        firmware=firmware_kind(profile)[0] == "uefi",
        dmi=profile.smbios is not None and profile.smbios.copy,
        usb=bool(profile.usb),
        inputs=bool(profile.usb) or any(i.evdev for i in profile.input),
        evdev=tuple(i.evdev for i in profile.input if i.evdev),
        vsock=profile.vsock is not None,
        files=(*_paths(profile), *_nodes(profile)),
        programs=tuple(_programs(profile)),
    )


def _asks_much(profile: Profile) -> bool:
    """Of the scheduler, or memory that is locked, as VFIO does."""
    cpu, memory = profile.cpu, profile.memory
    if profile.pci or (memory is not None and memory.lock):
        return True
    return cpu.sched is not None or cpu.nice is not None


def _needs_desktop(profile: Profile) -> bool:
    """A GPU to draw with, or the user's session: for sound, its bus, its windows."""
    display = profile.display
    return profile.audio is not None or display.type in (
        "dbus", "egl-headless", "looking-glass"
    ) or bool(display.gl or display.cross_domain or display.vga in ("virtio-gl", "venus")) or any(
        v.display or v.any for v in profile.vgpu
    )


def _programs(profile: Profile) -> Iterator[str]:
    """Programs that a family runs, or runs when they are there."""
    if profile.tpm is not None:
        yield "swtpm"
    if any(share.type == "virtiofs" for share in profile.share):
        yield from ("virtiofsd", "unshare")
    if any(net.passt is not None for net in profile.net):
        yield "passt"
    if any(net.nat is not None for net in profile.net):
        yield from ("nft", "dnsmasq")
    if any(disk.create or disk.throwaway for disk in profile.disk):
        yield "qemu-img"


def _nodes(profile: Profile) -> Iterator[str]:
    """Device nodes that a table means without naming them."""
    if profile.vsock is not None:
        yield "/dev/vhost-vsock"
    if profile.rng is not None and profile.rng.source != "builtin":
        yield f"/dev/{profile.rng.source}"
    if profile.display.blob:
        yield "/dev/udmabuf"


def _paths(value: Any) -> Iterator[HostPath]:
    """Every path that the profile names."""
    if isinstance(value, HostPath):
        yield value
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _paths(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _paths(item)
