"""Mediated devices: made for a run and taken away again, when they are ours.

`create` is an atomic claim: the kernel keeps one list of UUIDs for all parents and says EEXIST to
the second (mdev_device_create). `remove` while somebody has the device open waits inside the
kernel, and the directory is gone meanwhile, so it is written only once the group is provably free.
The error numbers are those of drivers/vfio/mdev and of the parents' drivers.
"""

from __future__ import annotations

import errno
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.host.nodes import GROUP_MODE, capture_node, disown_node, own_node
from qlaunch.plan.steps import CreateMdev, OwnDeviceGroup

_DRIVER = "see dmesg for the driver's reason"
_NO_ROOM = "another machine or another type took what was left; see qlaunch devices --vgpu"
_HINTS = {
    errno.EUSERS: _NO_ROOM,  # the core's, when available_instances is used up
    errno.ENOSPC: _NO_ROOM,
    errno.ENOMEM: "i915: the graphics memory is too small or in pieces; raise the aperture in the "
    "firmware's setup, or create it before the desktop starts",
    errno.EINVAL: "the driver does not take this UUID or type",
    errno.EPERM: "this needs root",
    errno.EBUSY: "the parent device is being unbound or reset",
}
_NVIDIA_WAIT = 2.0  # settling times that its driver may take to remove the device by itself


def mdev_path(host: Host, uuid: str) -> Path:
    """The device's directory."""
    return host.path(f"sys/bus/mdev/devices/{uuid}")


def read_mdev(host: Host, uuid: str) -> tuple[str, str] | None:
    """(parent, type) of a mediated device; None when there is none of this UUID."""
    path = mdev_path(host, uuid)
    kind = sysfs.read_link_name(path / "mdev_type")
    try:
        return path.resolve(strict=True).parent.name, kind or ""
    except OSError:
        return None


class CreateMdevHandler:
    """`create` of the type, `remove` of the device."""

    def capture(self, host: Host, step: CreateMdev) -> Captured:
        """Whether a device of this UUID is there."""
        return {"existed": read_mdev(host, step.uuid) is not None}

    def apply(self, host: Host, step: CreateMdev, captured: Captured) -> None:
        """Raises HostError when the UUID is somebody else's, when the device that is there is
        another one or in use, or with the kernel's reason for making none."""
        if captured["existed"]:
            _check_same(host, step)
            return
        try:
            create_mdev(host, step.parent, step.type, step.uuid)
        except FileExistsError:
            captured["existed"] = True
            raise HostError(_is_anothers(step)) from None

    def undo(self, host: Host, step: CreateMdev, captured: Captured) -> str | None:
        """Remove it when this step made it. Raises HostError when it is still in use, being made,
        or being removed."""
        if captured["existed"]:
            return None
        sysfs.wait_until(host, lambda: not _is_unsettled(host, step), f"{step.uuid} to settle")
        if _is_unsettled(host, step):
            raise HostError(
                Problem(
                    "the kernel is still making or removing the mediated device", step.uuid,
                    hint="end what has it open, then qlaunch recover --all",
                )
            )
        found = read_mdev(host, step.uuid)
        if found is None:
            return None
        if found != (step.parent, step.type):
            return f"the mediated device {step.uuid} stays: it is {found[1] or 'one'} of {found[0]}"
        remove_mdev(host, step.uuid)
        return f"the mediated device {step.uuid} is removed"


def _is_unsettled(host: Host, step: CreateMdev) -> bool:
    """Whether one of the parent's is on its way in or out.

    `mdev_type` is made last and goes before the rest. A `remove` that is written before says EAGAIN
    and is gone for good (remove_store, mdev_device_remove). A removal waits for whoever has the
    device open when the bus has its name no more, but the parent still its directory (device_del).
    """
    found = read_mdev(host, step.uuid)
    if found is not None:
        return found == (step.parent, "")
    return host.path(f"sys/class/mdev_bus/{step.parent}/{step.uuid}").exists()


def create_mdev(host: Host, parent: str, kind: str, uuid: str) -> None:
    """Raises FileExistsError when there is one of this UUID, HostError for all else."""
    path = host.path(f"sys/class/mdev_bus/{parent}/mdev_supported_types/{kind}/create")
    try:
        sysfs.guarded_write(host, path, uuid, f"making {kind} on {parent}")
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise HostError(
            Problem(f"{parent} makes no {kind}", where=parent, found="there is no such type",
                    hint="qlaunch devices --vgpu lists the types")
        ) from error
    except OSError as error:
        raise HostError(
            Problem(f"{parent} did not make a {kind}", where=parent, found=error.strerror or "",
                    hint=_HINTS.get(error.errno or 0, _DRIVER))
        ) from error
    if not sysfs.wait_until(host, lambda: read_mdev(host, uuid) is not None, f"{uuid} to appear"):
        raise HostError(Problem(f"the mediated device {uuid} did not appear", where=parent,
                                hint=_DRIVER))


def remove_mdev(host: Host, uuid: str) -> None:
    """Raises HostError when it is in use or stays, StuckError when the kernel hangs on it."""
    path = mdev_path(host, uuid)
    group = sysfs.read_link_name(path / "iommu_group")
    if group is not None:
        device.check_group_free(host, int(group))
    if _is_nvidia(path):
        # Its driver removes the device when QEMU ends; some versions fail when we are first.
        patient = Host(
            root=host.root, settle=host.settle * _NVIDIA_WAIT, on_wait=host.on_wait
        )
        sysfs.wait_until(patient, lambda: not path.exists(), f"the driver to remove {uuid}")
    try:
        sysfs.guarded_write(host, path / "remove", "1", f"removing {uuid}")
    except OSError as error:
        if error.errno != errno.ENOENT and path.exists():  # else somebody's removal has begun
            raise HostError(
                Problem("the mediated device cannot be removed", where=uuid, found=str(error),
                        hint=sysfs.way_on(error))
            ) from error
    if not sysfs.wait_until(host, lambda: not path.exists(), f"{uuid} to go"):
        raise HostError(Problem("the mediated device is still there", where=uuid, hint=_DRIVER))


def _is_nvidia(path: Path) -> bool:
    try:
        driver = sysfs.read_link_name(path.resolve(strict=True).parent / "driver")
    except OSError:
        return False
    return (driver or "").startswith("nvidia")


def _check_same(host: Host, step: CreateMdev) -> None:
    """A device that was there already is used when the plan has seen it and nobody has it open."""
    found = read_mdev(host, step.uuid)
    if not step.existing:
        raise HostError(_is_anothers(step))
    if found != (step.parent, step.type):
        raise HostError(
            Problem("another mediated device has this UUID", where=step.uuid,
                    found=f"{found[1]} of {found[0]}" if found else "none any more",
                    allowed=f"{step.type} of {step.parent}")
        )
    group = sysfs.read_link_name(mdev_path(host, step.uuid) / "iommu_group")
    if group is not None:
        device.check_group_free(host, int(group))


def _is_anothers(step: CreateMdev) -> Problem:
    return Problem(
        "somebody made a mediated device of this UUID meanwhile", where=step.uuid,
        hint=f"qlaunch vgpu remove {step.uuid}, when nothing needs it; or give another uuid",
    )


class OwnDeviceGroupHandler:
    """/dev/vfio/N of a device that an earlier step made."""

    def capture(self, host: Host, step: OwnDeviceGroup) -> Captured:
        """The group's number and node; no number while the device is not there."""
        group = _group(host, step)
        return {} if group is None else {"group": group, **capture_node(_node(host, group))}

    def apply(self, host: Host, step: OwnDeviceGroup, captured: Captured) -> None:
        """See `own_node`. Raises HostError when the device is in no IOMMU group."""
        group = _group(host, step)
        if group is None:
            raise HostError(
                Problem("the device is in no IOMMU group", where=step.device.rpartition("/")[2],
                        hint="is the IOMMU on? qlaunch check PROFILE tells")
            )
        node = {k: v for k, v in captured.items() if k != "group"}
        captured["group"] = group
        own_node(host, _node(host, group), (step.uid, step.gid, GROUP_MODE), node)
        captured.update(node)

    def undo(self, host: Host, step: OwnDeviceGroup, captured: Captured) -> str | None:
        """See `disown_node`; the node of a device that was made for the run goes with it."""
        node = {k: v for k, v in captured.items() if k != "group"}
        if not node:
            return None
        return disown_node(_node(host, int(captured["group"])), node)


def _group(host: Host, step: OwnDeviceGroup) -> int | None:
    name = sysfs.read_link_name(host.path(f"sys/{step.device}/iommu_group"))
    return int(name) if name is not None else None


def _node(host: Host, group: int) -> Path:
    return host.path(f"dev/vfio/{group}")
