"""`bind` and `unbind` by hand, whose record of what the device had may be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.run import manual
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.plans import device

GPU = PciAddress("0000:01:00.0")


def test_a_damaged_record_does_not_keep_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever driver the kernel finds gets it, and that is told."""
    kernel = FakeKernel(tmp_path / "root")
    kernel.add_device(GPU, driver="bochs", methods="flr")
    monkeypatch.setattr(manual, "telling", lambda _: kernel.host())
    said: list[str] = []
    base = str(tmp_path / "qlaunch")
    manual.bind(base, [device("01:00.0", "1234:1111", driver="bochs")], said.append)
    assert kernel.driver_of(GPU) == "vfio-pci"
    journal = Path(base, manual.BOUND, GPU, "journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b"intent" in line and GPU.encode() in line)
    journal.write_bytes(b"".join((*lines[:at], b"?" + lines[at], *lines[at + 1:])))
    manual.unbind(base, [device("01:00.0", "1234:1111", driver="vfio-pci")], None, said.append)
    assert kernel.driver_of(GPU) == "bochs"
    assert f"{journal} is damaged; the driver that it had is not known" in said[-2]
    assert said[-1] == f"{GPU} is on bochs"
    assert not journal.parent.exists()
