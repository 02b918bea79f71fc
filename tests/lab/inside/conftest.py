"""Fixtures of the tests that run inside a lab host.

A test says which hosts it is for by `@pytest.mark.topology("numa")`; without that it is for `card`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .monitor import Monitor
from .slices import load_samples
from .state import changed, host_state

ROOT = Path(__file__).resolve().parents[3]
DISK_SIZE = 1 << 20  # SeaBIOS boots no disk below one cylinder, 516096 bytes


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "topology(*names): the lab hosts a test is for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = os.environ["QLAUNCH_LAB_TOPOLOGY"]
    wanted = [item for item in items if here in _topologies(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


def _topologies(item: pytest.Item) -> tuple[str, ...]:
    marker = item.get_closest_marker("topology")
    return tuple(marker.args) if marker else ("card",)


@pytest.fixture(scope="session")
def monitor() -> Iterator[Monitor]:
    """QMP of the machine these tests run in: the eye on the card's monitor."""
    connected = Monitor()
    yield connected
    connected.close()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The host is as it was, whatever the test did."""
    before = host_state()
    yield
    assert changed(before, host_state()) == {}


@pytest.fixture(scope="session")
def screens() -> Path:
    """Where pictures go: both sides see it under this path."""
    return Path(os.environ["QLAUNCH_LAB_RESULTS"]) / "screens"


@pytest.fixture
def boot_disk(tmp_path: Path) -> Path:
    """Our boot sector as a disk large enough to be booted."""
    disk = tmp_path / "guest.img"
    shutil.copyfile(ROOT / "qlaunch/data/bootsector.bin", disk)
    os.truncate(disk, DISK_SIZE)
    return disk


@pytest.fixture(scope="session")
def samples() -> None:
    """The kernel's sample mediated devices, and one that is somebody else's."""
    load_samples()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where QEMU's account can read, and write in `out`."""
    made = subprocess.run(
        ["mktemp", "-d", "/tmp/lab-XXXXXX"], capture_output=True, text=True, check=True
    )
    directory = Path(made.stdout.strip())
    directory.chmod(0o755)
    (directory / "out").mkdir()
    (directory / "out").chmod(0o777)
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)
