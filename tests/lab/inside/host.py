"""The lab host's devices, by plain sysfs reads and writes.

Deliberately without any code of qlaunch: qlaunch's own view and doings are compared to this.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from pathlib import Path

PCI = Path("/sys/bus/pci")
VBE_ENABLE = 0x500 + 4 * 2  # of the VGA's BAR 2: register 4 of those at 0x500


@dataclass(frozen=True)
class Device:
    """One PCI function of the lab host."""

    address: str

    @property
    def path(self) -> Path:
        return PCI / "devices" / self.address

    def read(self, name: str) -> str:
        return (self.path / name).read_text().strip()

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    @property
    def driver(self) -> str | None:
        link = self.path / "driver"
        return link.resolve().name if link.exists() else None

    @property
    def group(self) -> str:
        return (self.path / "iommu_group").resolve().name

    @property
    def group_members(self) -> list[str]:
        return sorted(entry.name for entry in (self.path / "iommu_group/devices").iterdir())

    @property
    def alive(self) -> bool:
        """A device that fell off the bus answers with all ones."""
        return (self.path / "config").read_bytes()[:4] != b"\xff\xff\xff\xff"

    def bind(self, driver: str) -> None:
        """Override, unbind, bind: raises where drivers_probe would say nothing."""
        self.write("driver_override", driver)
        self._unbind()
        (PCI / "drivers" / driver / "bind").write_text(self.address)

    def give_back(self, driver: str) -> None:
        """As before bind(). A newline clears the override; an empty write would write nothing."""
        self.write("driver_override", "\n")
        self._unbind()
        (PCI / "drivers" / driver / "bind").write_text(self.address)

    def _unbind(self) -> None:
        if self.driver is not None:
            self.write("driver/unbind", self.address)


def wait_until_gone(path: Path, timeout: float = 10.0) -> None:
    """For nodes that devtmpfs removes a moment later."""
    deadline = time.monotonic() + timeout
    while path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is still there")
        time.sleep(0.05)


def card_to_text_mode() -> None:
    """What a reset does on real cards: out of the mode that the host's driver had set.

    QEMU's VGA ignores a bus reset. As long as its VBE extension is on, text memory is not there,
    and the guest's video BIOS cannot turn it off: the ports are not among those vfio passes. So
    this is to be called before each guest, while bochs drives the card; bochs turns it on again
    when it binds. (A mapping of a BAR that a driver holds needs iomem=relaxed.)
    """
    with (
        (GRAPHICS.path / "resource2").open("r+b", buffering=0) as bar,
        mmap.mmap(bar.fileno(), mmap.PAGESIZE) as registers,
        memoryview(registers) as raw,
        raw.cast("H") as words,
    ):
        words[VBE_ENABLE // 2] = 0


GRAPHICS = Device("0000:01:00.0")
AUDIO = Device("0000:01:00.1")
GRAPHICS_PORT = Device("0000:00:10.0")
NETWORK = Device("0000:02:00.0")
NUMA_NETWORK = Device("0000:41:00.0")  # on node 1 of topology numa
NVME = Device("0000:03:00.0")
USB = Device("0000:00:13.0")
