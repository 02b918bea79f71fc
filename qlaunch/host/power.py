"""Keeping a PCI function out of D3cold."""

from __future__ import annotations

from qlaunch.errors import KERNEL_LOG, HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import HoldPower


class HoldPowerHandler:
    """d3cold_allowed = 0 for as long as VFIO has the device: planned before TakeDevice."""

    def capture(self, host: Host, step: HoldPower) -> Captured:
        """The file's text; None where the kernel has no such file."""
        return {"d3cold_allowed": self._read(host, step)}

    def apply(self, host: Host, step: HoldPower, captured: Captured) -> None:
        """Raises HostError when the kernel does not take it."""
        if captured["d3cold_allowed"] in (None, "0"):
            return
        self._write(host, step, "0")

    def undo(self, host: Host, step: HoldPower, captured: Captured) -> str | None:
        """Write the text that was there. Raises HostError when the device is gone."""
        before = captured["d3cold_allowed"]
        if before is not None and self._read(host, step) != before:
            self._write(host, step, before)
        return None

    def _read(self, host: Host, step: HoldPower) -> str | None:
        device.check_present(host, step.address)
        return sysfs.read_text(device.pci_path(host, step.address) / "d3cold_allowed")

    def _write(self, host: Host, step: HoldPower, text: str) -> None:
        path = device.pci_path(host, step.address) / "d3cold_allowed"
        try:  # d3cold_allowed_store resumes the device first, which may take its time
            sysfs.guarded_write(host, path, text, f"writing d3cold_allowed of {step.address}")
        except OSError as error:
            raise HostError(
                Problem(f"d3cold_allowed cannot be set to {text}", step.address, found=str(error),
                        hint=sysfs.way_on(error))
            ) from error
        found = sysfs.read_text(path)
        if found != text:
            message = f"d3cold_allowed did not become {text}"
            raise HostError(Problem(message, step.address, str(found), hint=KERNEL_LOG))
