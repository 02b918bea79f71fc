"""Which facts a profile's plan depends on, so that nothing else is read before a launch."""

from __future__ import annotations

from qlaunch.facts.model import Wanted
from qlaunch.profile.profile import Profile


def facts_wanted(profile: Profile, *, holders: bool, trusted: bool = False) -> Wanted:
    """`trusted` is the profile's (Loaded.trusted). `holders` asks for the scan of processes: `run`
    and `check` need it, `argv` does not."""
    return Wanted(
        cpus=profile.cpu.pin is not None,
        memory=profile.machine.hugepages is not False,
        pci=bool(profile.pci),
        holders=holders and bool(profile.pci),
        kvm=profile.machine.accel != "tcg",
        iommu=bool(profile.pci),
        links=any(n.bridge or n.tap for n in profile.net),
        qemu=profile.qemu.binary,
        user=profile.qemu.user or "",
        trusted=trusted,
        files=tuple(d.file for d in profile.disk) + tuple(c.file for c in profile.cdrom)
        + tuple(p.rom for p in profile.pci if p.rom)
        + tuple(t.file for t in profile.machine.acpi_tables)
        + ((profile.machine.bios,) if profile.machine.bios else ()),
    )
