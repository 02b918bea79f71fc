"""Early binding: devices that vfio-pci gets at boot, before their own drivers look at them.

`ids=` of vfio-pci goes by vendor and device, so it takes every device of that kind; a softdep
(modprobe.d(5)) only makes vfio-pci load first, and never keeps a driver from the devices that stay
with the host. Nothing is blacklisted. A device that the host needs is refused: at boot there is
nobody yet to give it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qlaunch.errors import Problem
from qlaunch.facts.holders import is_vital
from qlaunch.facts.model import DISPLAY_CLASS, PciDevice
from qlaunch.setup.model import HEAD, Part, SetupFacts
from qlaunch.setup.parameters import line_part
from qlaunch.values import PciAddress

MODPROBE = "/etc/modprobe.d/qlaunch.conf"
INITRAMFS_MODULES = "/etc/initramfs-tools/modules"
DRACUT = "/etc/dracut.conf.d/qlaunch.conf"
MKINITCPIO = "/etc/mkinitcpio.conf"
MKINITCPIO_DROPIN = "/etc/mkinitcpio.conf.d/qlaunch.conf"
_BY_ITSELF = "leave it out: qlaunch run hands it over when the machine starts"


def early_problems(facts: SetupFacts, early: Sequence[PciAddress]) -> Iterator[Problem]:
    """Why these devices cannot be bound at boot."""
    found = {d.address: d for d in facts.pci or ()}
    for address in early:
        device = found.get(address)
        if device is None:
            yield Problem("there is no such device", where=f"--early {address}",
                          hint="qlaunch devices lists them")
        elif device.is_bridge:
            yield Problem("this is a bridge; VFIO hands over devices, not bridges",
                          where=f"--early {address}", hint="name the device behind it")
        else:
            yield from _needed(facts, device, early)


def _needed(
    facts: SetupFacts, device: PciDevice, early: Sequence[PciAddress]
) -> Iterator[Problem]:
    where = f"--early {device.address}"
    if is_card(device):
        staying = [d for d in facts.pci or () if is_card(d) and d.address not in early]
        if not staying:
            yield Problem("this is the host's only graphics card", where, hint=_BY_ITSELF)
        elif device.boot_vga:
            yield Problem(
                "the host's screen is on this card", where,
                found="boot_vga is 1: the firmware starts with it",
                hint=f"make {staying[0].address} the first display in the BIOS setup; or "
                "leave it to qlaunch run",
            )
    for holder in device.holders or ():
        if is_vital(holder):  # from the first second; processes come later
            yield Problem("the host needs this device", where, found=str(holder),
                          hint=_BY_ITSELF)
    twins = [d.address for d in facts.pci or () if d.id == device.id and d.address not in early]
    if twins:
        yield Problem(
            f"vfio-pci's ids would take {', '.join(twins)} too", where,
            found=f"all are [{device.id}]", hint=_BY_ITSELF,
        )


def is_card(device: PciDevice) -> bool:
    """Whether it is a graphics card (PCI class 03)."""
    return device.class_code >> 16 == DISPLAY_CLASS


def early_ids(facts: SetupFacts, early: Sequence[PciAddress]) -> str:
    """The value of ids=, each id once, in the order asked for."""
    found = {d.address: d.id for d in facts.pci or ()}
    return ",".join(dict.fromkeys(str(found[a]) for a in early))


def in_kernel(facts: SetupFacts) -> bool:
    """Whether vfio-pci is built in, as Ubuntu's is: then options come from the command line, and
    neither a softdep nor the initramfs has a part in it."""
    return "vfio_pci" in facts.builtin


def early_notes(facts: SetupFacts, early: Sequence[PciAddress]) -> Iterator[Problem]:
    """A driver that is built in is there before any module."""
    if in_kernel(facts) or not early:
        return
    if initramfs_of(facts) == "mkinitcpio" and not _has_modconf(facts):
        yield Problem(
            "HOOKS has no modconf, so the initramfs will not know the ids", where=MKINITCPIO,
            severity="warning", hint="add modconf to HOOKS (mkinitcpio.conf(5))",
        )
    for address in early:
        for driver in facts.drivers.get(address, ()):
            if driver in facts.builtin:
                yield Problem(
                    f"{driver} is built into the kernel and is there before vfio-pci",
                    where=f"--early {address}", severity="warning", hint=_BY_ITSELF,
                )


def _has_modconf(facts: SetupFacts) -> bool:
    """Where HOOKS is in a drop-in of somebody's, nothing is said."""
    hooks = [line for line in facts.files.get(MKINITCPIO, "").splitlines()
             if line.lstrip().startswith("HOOKS=")]
    return not hooks or "modconf" in hooks[-1]


def early_part(facts: SetupFacts, early: Sequence[PciAddress]) -> Part:
    """The modprobe.d file: ids, and a softdep for every module that would take one of them."""
    drivers = dict.fromkeys(
        d for a in early for d in facts.drivers.get(a, ())
        if d not in facts.builtin and not d.startswith("vfio")
    )
    lines = [f"options vfio-pci ids={early_ids(facts, early)}"]
    lines += [f"softdep {driver} pre: vfio-pci" for driver in drivers]
    return Part(path=MODPROBE, kind="own", text=HEAD + "\n".join(lines) + "\n",
                subject="initramfs")


# -- the initramfs ----------------------------------------------------------------------------


def initramfs_of(facts: SetupFacts) -> str:
    """Which tool makes it. With dracut, Ubuntu keeps an update-initramfs that calls it."""
    if "mkinitramfs" in facts.programs and "update-initramfs" in facts.programs:
        return "initramfs-tools"
    return next((t for t in ("mkinitcpio", "dracut") if t in facts.programs), "")


def initramfs_command(facts: SetupFacts) -> tuple[tuple[str, ...], ...]:
    """What makes it anew for every kernel; none when nobody knows how."""
    return {
        "initramfs-tools": (("update-initramfs", "-u", "-k", "all"),),
        "mkinitcpio": (("mkinitcpio", "-P"),),
        "dracut": (("dracut", "--force", "--regenerate-all"),),
    }.get(initramfs_of(facts), ())


def initramfs_part(facts: SetupFacts) -> Part | Problem:
    """vfio-pci goes in, and first, because the graphics drivers are in it as well.

    initramfs-tools(7): modules, one a line, `#` comments on lines of their own. dracut.conf(5):
    force_drivers. mkinitcpio.conf(5): MODULES; drop-ins since version 36.
    """
    tool = initramfs_of(facts)
    if tool == "initramfs-tools":
        return line_part(facts, INITRAMFS_MODULES, "vfio_pci", "vfio_pci", "initramfs")
    if tool == "mkinitcpio":
        line = 'MODULES=(vfio_pci "${MODULES[@]}")'
        if facts.mkinitcpio_dropins:
            return Part(path=MKINITCPIO_DROPIN, kind="own", text=f"{HEAD}{line}\n",
                        subject="initramfs")
        return line_part(facts, MKINITCPIO, line, "vfio_pci", "initramfs")
    if tool == "dracut" and not facts.ostree:
        return Part(path=DRACUT, kind="own", text=f'{HEAD}force_drivers+=" vfio-pci "\n',
                    subject="initramfs")
    return Problem(
        "nothing was found that makes this host's initramfs, where early binding begins",
        where="--early", allowed="initramfs-tools, dracut, mkinitcpio", hint=_BY_ITSELF,
    )
