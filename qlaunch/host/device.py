"""What handlers read of a PCI function, and the proofs they ask for before they touch it."""

from __future__ import annotations

import errno
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.values import PciAddress, is_uuid

NO_OVERRIDE = ("", "(null)")  # what driver_override reads as when there is none
DEAD = b"\xff\xff\xff\xff"


def pci_path(host: Host, address: PciAddress) -> Path:
    """The device's directory (a link, as sysfs has it)."""
    return host.path(f"sys/bus/pci/devices/{address}")


def read_driver(host: Host, address: PciAddress) -> str | None:
    """The driver that the device is bound to. Takes no lock: it is a link."""
    return sysfs.read_link_name(pci_path(host, address) / "driver")


def read_group(host: Host, address: PciAddress) -> int | None:
    """The device's IOMMU group."""
    name = sysfs.read_link_name(pci_path(host, address) / "iommu_group")
    return int(name) if name is not None else None


def read_state(host: Host, address: PciAddress) -> Captured:
    """What an undo needs to know of a device. Raises HostError when it is gone."""
    check_present(host, address)
    path = pci_path(host, address)

    def read() -> Captured:
        override = sysfs.read_text(path / "driver_override")
        number, subsystem = read_id(host, address)
        return {
            "id": number,
            "subsystem": subsystem,
            "driver": read_driver(host, address),
            "override": None if override in NO_OVERRIDE else override,
            "control": sysfs.read_text(path / "power/control"),
            "group": read_group(host, address),
            "physfn": read_physfn(host, address),
        }

    state: Captured = sysfs.guarded_read(host, read, f"reading {address}")
    return state


def read_id(host: Host, address: PciAddress) -> tuple[str, str]:
    """vendor:device and its subsystem's, as `lspci -n` writes them."""
    path = pci_path(host, address)
    words = [
        (sysfs.read_text(path / name) or "").removeprefix("0x")
        for name in ("vendor", "device", "subsystem_vendor", "subsystem_device")
    ]
    return f"{words[0]}:{words[1]}", f"{words[2]}:{words[3]}"


def is_alive(host: Host, address: PciAddress) -> bool:
    """Whether config space answers: all ones is a device that fell off the bus.

    The kernel's `vendor` file is a cached value and says nothing. Reading resumes the device. The
    ids of a virtual function are all ones at all times (PCI Express, 9.3.4.1): its class tells.
    """

    def read() -> bool:
        path = pci_path(host, address)
        with (path / "config").open("rb", buffering=0) as file:
            head = file.read(12)
        ident = head[8:] if (path / "physfn").is_symlink() else head[:4]
        return ident not in (DEAD, b"")

    try:
        return bool(sysfs.guarded_read(host, read, f"reading config space of {address}"))
    except OSError:
        return False


def read_physfn(host: Host, address: PciAddress) -> str | None:
    """The physical function of a virtual one; None for every other device."""
    return sysfs.read_link_name(pci_path(host, address) / "physfn")


def is_switched_off(host: Host, address: PciAddress, physfn: str | None) -> bool:
    """Whether a virtual function went with the others of its physical one, which is there: then
    nothing of it can or need be put back. `physfn` is as it was read before."""
    return physfn is not None and not pci_path(host, address).exists() and (
        pci_path(host, PciAddress(physfn)).exists()
    )


def check_no_functions(host: Host, address: PciAddress) -> None:
    """A physical function without its driver may take its virtual ones away, or wait for those
    that have them open, so it is left alone while they are on. Raises HostError."""
    path = pci_path(host, address) / "sriov_numvfs"
    if not path.exists():
        return
    found = sysfs.guarded_read(host, lambda: sysfs.read_number(path), f"reading {address}")
    if found:
        raise HostError(
            Problem(f"the device has {found} virtual functions switched on", where=address,
                    hint="when none is used: "
                    f"echo 0 | sudo tee /sys/bus/pci/devices/{address}/sriov_numvfs")
        )


def check_no_mdevs(host: Host, address: PciAddress) -> None:
    """A driver that is unbound removes the mediated devices that were made on the device: an idle
    one silently, and for one that is open it waits, while nobody can be asked any more
    (mdev_unregister_parent, vfio_unregister_group_dev). Raises HostError naming them."""
    path = pci_path(host, address)
    found = [name for name in (p.name for p in sorted(path.iterdir())) if is_uuid(name)]
    if not found:
        return
    used = [uuid for uuid in found if _is_open(host, path / uuid)]
    who = ", ".join(f"{uuid} ({'in use' if uuid in used else 'nobody has it open'})"
                    for uuid in found)
    raise HostError(
        Problem("mediated devices were made on it, which its driver would take with it", address,
                found=who, hint=f"qlaunch devices {address} tells what has them: end that" if used
                else "when nothing needs them: "
                + "; ".join(f"qlaunch vgpu remove {uuid}" for uuid in found))
    )


def _is_open(host: Host, mdev: Path) -> bool:
    group = sysfs.read_link_name(mdev / "iommu_group")
    try:
        sysfs.door(host).try_open(host.path(f"dev/vfio/{group}"))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


REVIVED = (  # a hint, for a device that does not answer
    "suspend and resume, or a cold restart of the host, brings such a card back"
)


def check_present(host: Host, address: PciAddress) -> None:
    if not pci_path(host, address).exists():
        raise HostError(
            Problem(
                "the device is gone from the PCI bus", where=address,
                hint="echo 1 | sudo tee /sys/bus/pci/rescan finds devices that were removed",
            )
        )


def check_group_free(host: Host, group: int) -> None:
    """Prove that nobody has /dev/vfio/GROUP open. Raises HostError when somebody does.

    A group node has a single opener (vfio_group_fops_open says EBUSY to the second), which is the
    only proof without a race; a sysfs reset or unbind would go ahead under a running guest. The
    last user may need a moment to be torn down, so it is asked again for the settling time.
    """
    node = host.path(f"dev/vfio/{group}")
    refused: list[OSError] = []

    def is_free() -> bool:
        try:
            sysfs.door(host).try_open(node)
        except FileNotFoundError:
            return True  # no device of the group is bound to vfio
        except OSError as error:
            refused.append(error)
            return error.errno != errno.EBUSY
        refused.clear()
        return True

    sysfs.wait_until(host, is_free, f"the last user of {node} to let go")
    if refused:
        raise HostError(_not_free(host, group, node, refused[-1]))


def _not_free(host: Host, group: int, node: Path, error: OSError) -> Problem:
    if error.errno == errno.EBUSY:
        from qlaunch.host.openers import vfio_openers

        who = vfio_openers(host, group)
        return Problem(
            "the device is still in use: its IOMMU group is open",
            where=str(node),
            found="; ".join(who),
            hint="end what has it open, then repeat this" if who
            else f"see who has it with: fuser -v {node}",
        )
    return Problem("cannot tell whether the device is free", str(node), found=str(error),
                   hint=f"see who has it with: sudo fuser -v {node}")
