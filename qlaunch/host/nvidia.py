"""NVIDIA's vGPUs on virtual functions by its driver's own files (kernel 6.8 and newer).

The function stays with the nvidia driver. Functions, unlike UUIDs, are used again: a release that
comes too late would take the next owner's vGPU, so it looks, under the host's lock, whether the
function still has the type that was set and nobody has it open. The driver refuses a release for a
moment after QEMU has ended, so it is tried several times.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import SetVgpuType

TRIES = 10
_HINTS = {
    errno.EINVAL: "the card cannot make this type now: its other vGPUs decide what it can make",
    errno.ENOSPC: "no memory of the card is left for this type",
    errno.EBUSY: "the function is in use",
    errno.EPERM: "this needs root, and NVIDIA's nvidia-vgpu-mgr service running",
}


class SetVgpuTypeHandler:
    """nvidia/current_vgpu_type."""

    def capture(self, host: Host, step: SetVgpuType) -> Captured:
        """The type it has. Raises HostError when the function or the file is gone."""
        device.check_present(host, step.address)
        return {"type": _read(host, step)}

    def apply(self, host: Host, step: SetVgpuType, captured: Captured) -> None:
        """Set the type, 0 first where the plan has seen another. Raises HostError when the function
        is in use or has got a vGPU since, or with the driver's reason."""
        group = device.read_group(host, step.address)
        if group is not None:
            device.check_group_free(host, group)
        now = _read(host, step)
        if now not in (0, step.existing):
            captured["type"] = now  # also when it came after `capture`: no undo takes it away
            raise HostError(_is_anothers(step, now))
        if now != 0:
            _write(host, step, 0)
        _write(host, step, step.type)
        if _read(host, step) != step.type:
            raise HostError(
                Problem("the vGPU's type did not stay", where=step.address,
                        found=str(_read(host, step)), hint="see dmesg | grep -i vgpu")
            )

    def undo(self, host: Host, step: SetVgpuType, captured: Captured) -> str | None:
        """Take the vGPU away, when it is still the one that was made here. Raises HostError when
        it is in use or the driver does not let go of it."""
        if not device.pci_path(host, step.address).exists():
            return None
        if _read(host, step) not in (0, step.type):
            return f"{step.address} has another vGPU by now, which stays"
        group = device.read_group(host, step.address)
        if group is not None:
            device.check_group_free(host, group)
        now = _read(host, step)
        if now == captured["type"]:
            return None
        if now != 0:
            _release(host, step)
        if captured["type"] != 0:
            _write(host, step, captured["type"])
        return f"the vGPU on {step.address} is taken away"


def _is_anothers(step: SetVgpuType, now: int) -> Problem:
    return Problem(
        "somebody made a vGPU on the function meanwhile", where=step.address, found=f"type {now}",
        allowed=f"type {step.existing}, as the plan has seen, or none" if step.existing else "none",
        hint=f"qlaunch vgpu remove {step.address}, when nothing needs it; or start again: the plan "
        "then sees it",
    )


def _file(host: Host, step: SetVgpuType) -> Path:
    return device.pci_path(host, step.address) / "nvidia/current_vgpu_type"


def _read(host: Host, step: SetVgpuType) -> int:
    found = sysfs.guarded_read(
        host, lambda: sysfs.read_number(_file(host, step)), f"reading {step.address}"
    )
    if found is None:
        raise HostError(
            Problem("the function has no vGPU files", where=step.address,
                    hint="is NVIDIA's vGPU host driver loaded, and SR-IOV switched on?")
        )
    return int(found)


def _write(host: Host, step: SetVgpuType, kind: int) -> None:
    try:
        sysfs.guarded_write(host, _file(host, step), str(kind), f"setting {step.address}'s vGPU")
    except OSError as error:
        raise HostError(
            Problem(
                f"the vGPU's type cannot be set to {kind}", where=step.address,
                found=error.strerror or "",
                hint=_HINTS.get(error.errno or 0, "see dmesg | grep -i vgpu"),
            )
        ) from error


def _release(host: Host, step: SetVgpuType) -> None:
    """0, as often as it takes."""
    for last in (False,) * (TRIES - 1) + (True,):
        try:
            _write(host, step, 0)
        except HostError as error:
            cause = error.__cause__
            if last or not isinstance(cause, OSError) or cause.errno != errno.EBUSY:
                raise
        if _read(host, step) == 0:
            return
        time.sleep(host.settle / 5)  # a second
    raise HostError(
        Problem("the driver does not let go of the vGPU", where=step.address,
                found=f"type {_read(host, step)} after {TRIES} tries",
                hint=f"echo 0 | sudo tee {_file(host, step)}")
    )
