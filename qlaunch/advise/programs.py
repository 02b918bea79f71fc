"""QEMU, the parts of it that distributions split off, UEFI firmware, and the helpers beside it."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host, unexamined
from qlaunch.advise.fixes import install
from qlaunch.facts.model import QemuBinary
from qlaunch.plan.packages import install_hint
from qlaunch.plan.platform import MIN_QEMU

# What is told: (key of plan/packages.py, what it is for)
_PARTS = (
    ("display gtk", "a window"), ("display spice", "SPICE"),
    ("display egl-headless", "OpenGL without a window"), ("virtio-vga-gl", "OpenGL in guests"),
    ("audiodev pipewire", "sound by PipeWire"), ("audiodev pa", "sound by PulseAudio"),
)
_USES = {
    "qemu-img": "disks made or thrown away", "swtpm": "a TPM, which Windows 11 asks for",
    "virtiofsd": "shared directories", "passt": "passt networks",
    "nft": "nat networks", "dnsmasq": "nat networks",
}
_DESCRIPTORS = "/usr/share/qemu/firmware"


def qemu(host: Host) -> Iterator[Finding]:
    """There, new enough, and able to take a device."""
    found = host.facts.qemu
    if found is None:
        yield Finding(
            subject="QEMU", level="fault", message="not installed",
            evidence=(Evidence("PATH", "no qemu-system-x86_64"),),
            reason="it is what runs the machines", fix=(install(host.health, "qemu"),),
        )
        return
    version = ".".join(map(str, found.version))
    if found.version < MIN_QEMU:
        oldest = ".".join(map(str, MIN_QEMU))
        yield Finding(
            subject="QEMU", level="fault", message=f"{version} is too old: {oldest} is the oldest",
            evidence=(Evidence(found.path, version),),
            fix=(f"install QEMU {oldest} or newer, or name one with [qemu] binary",),
        )
    elif found.devices and not found.has("vfio-pci"):
        yield Finding(
            subject="QEMU", level="fault", message=f"{version} was built without vfio-pci",
            evidence=(Evidence(f"{found.path} -device help", "no vfio-pci"),),
            reason="it cannot take a device", fix=(install(host.health, "qemu"),),
        )
    else:
        yield Finding(subject="QEMU", level="ok", message=f"{version}",
                      evidence=(Evidence(found.path, version),))


def parts(host: Host) -> Iterator[Finding]:
    """Windows, SPICE, OpenGL, sound: each is a package on most distributions."""
    found = host.facts.qemu
    if found is None or not found.devices:
        return
    missing = [(key, use) for key, use in _PARTS if not _has(found, key)]
    sound = [key for key, _ in _PARTS if key.startswith("audiodev")]
    if any(_has(found, key) for key in sound):  # one way to be heard is enough
        missing = [(key, use) for key, use in missing if key not in sound]
    if not missing:
        yield Finding(
            subject="QEMU's parts", level="ok", message="windows, SPICE, OpenGL and sound",
            evidence=(Evidence(f"{found.path} -display help", ", ".join(found.displays)),),
        )
        return
    hints = dict.fromkeys(install_hint(key, found.version) for key, _ in missing)
    yield Finding(
        subject="QEMU's parts", level="note",
        message=f"not here: {', '.join(use for _, use in missing)}",
        evidence=(
            Evidence(f"{found.path} -display help", ", ".join(found.displays) or "none"),
            Evidence(f"{found.path} -audiodev help", ", ".join(found.audiodevs) or "none"),
        ),
        reason="machines seen on their own card's monitor need none of it",
        fix=tuple(hint for hint in hints if hint),
    )


def _has(found: QemuBinary, key: str) -> bool:
    kind, _, name = key.partition(" ")
    if kind == "display":
        name = {"spice": "spice-app"}.get(name, name)
        return name in found.displays or (name == "spice-app" and "spice" in found.displays)
    if kind == "audiodev":
        return name in found.audiodevs or not found.audiodevs
    return found.has(key)


def ovmf(host: Host) -> Iterator[Finding]:
    """UEFI firmware by QEMU's descriptors; with Microsoft's keys for Windows 11."""
    found = host.facts.firmware
    if found is None:
        yield unexamined("OVMF", "whether there is UEFI firmware")
        return
    names = Evidence(_DESCRIPTORS, ", ".join(f.descriptor.rpartition("/")[2] for f in found)
                     or "no descriptor for x86_64")
    if not found:
        yield Finding(
            subject="OVMF", level="warning", message="there is no UEFI firmware for guests",
            evidence=(names,), reason="Windows 11 needs it, and cards since 2012 start best by it",
            fix=(install(host.health, "ovmf"),),
        )
    elif not any("enrolled-keys" in f.features for f in found):
        yield Finding(
            subject="OVMF", level="note", evidence=(names,),
            message="there, but none with Microsoft's keys for Secure Boot",
            reason="Windows 11 wants to see Secure Boot",
            fix=(install(host.health, "ovmf"),),
        )
    else:
        yield Finding(subject="OVMF", level="ok", evidence=(names,),
                      message="UEFI firmware, with and without Secure Boot")


def helpers(host: Host) -> Iterator[Finding]:
    """Programs that some tables of a profile run."""
    found = host.health.programs
    if not found:
        return
    missing = [name for name in _USES if not found.get(name)]
    evidence = (Evidence("/usr/bin, /usr/sbin, /usr/lib/qemu, /usr/libexec", ", ".join(
        f"{name} {'there' if found.get(name) else 'missing'}" for name in _USES)),)
    if not missing:
        yield Finding(subject="helpers", level="ok", message=", ".join(_USES), evidence=evidence)
        return
    uses = dict.fromkeys(_USES[name] for name in missing)
    yield Finding(
        subject="helpers", level="note", evidence=evidence,
        message=f"not here: {', '.join(missing)}", reason=f"needed for {'; '.join(uses)}",
        fix=(install(host.health, *missing),),
    )
