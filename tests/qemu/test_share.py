"""Shared directories with a real QEMU and a real virtiofsd: there, confined, gone at the end."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.facts.probe import find_program
from qlaunch.run.info import find_supervisor, read_info
from qlaunch.vm.monitor import Monitor
from tests.fake.loop import run
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
VIRTIOFSD = find_program("virtiofsd")
needs_virtiofsd = pytest.mark.skipif(
    not VIRTIOFSD or (VIRTIOFSD.startswith("/usr/lib/qemu/") and os.geteuid() != 0),
    reason="needs a virtiofsd that this user can start",
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that QEMU's account can write to: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-share-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


def machine(make: Make, directory: Path, *lines: str) -> Vm:
    vm = make()
    share = f'[[share]]\npath = "{directory}"\ntag = "docs"\n' + "\n".join(lines) + "\n"
    vm.path.write_text(vm.path.read_text() + share)
    return vm


def daemons(directory: Path) -> Iterator[int]:
    """The virtiofsds that serve a directory; in a sandbox there are two of them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if VIRTIOFSD in words[:4] and str(directory) in " ".join(words):
                yield int(entry.name)


def ask(vm: Vm, *commands: tuple[str, dict[str, Any]]) -> list[Any]:
    """Over the user's own monitor."""
    info = read_info(vm.runtime)
    assert info is not None

    async def main() -> list[Any]:
        async with await Monitor.connect(f"{info.socket_dir}/qmp.sock", timeout=60) as monitor:
            return [await monitor.execute(name, arguments) for name, arguments in commands]

    return run(main())


def device_at(vm: Vm, ident: str) -> str:
    """PCI id of the device with that id, once the firmware has numbered the bus it is on."""
    (buses,) = ask(vm, ("query-pci", {}))
    found = [device for bus in buses for device in bus["devices"]]
    for device in found:  # grows by what is behind the bridges
        if device["qdev_id"] == ident:
            return f"{device['id']['vendor']:04x}:{device['id']['device']:04x}"
        found += device.get("pci_bridge", {}).get("devices", ())
    return ""


@needs_virtiofsd
def test_virtiofs(make: Make, both_qemus: str, directory: Path) -> None:
    vm = machine(make, directory, "xattr = true")
    started = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
    assert started.returncode == 0, started.stderr
    until(lambda: device_at(vm, "share0") == "1af4:105a", "the firmware has found the device")
    tag, memory = ask(
        vm, ("qom-get", {"path": "/machine/peripheral/share0", "property": "tag"}),
        ("query-memdev", {}),
    )
    assert tag == "docs"
    assert [m["share"] for m in memory] == [True]
    served = list(daemons(directory))
    assert served
    qemu = Path(f"/proc/{vm.qemu()}").stat().st_uid
    for pid in served:
        status = Path(f"/proc/{pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        assert uids == [str(qemu)] * 4
        assert qemu != 0 or os.geteuid() != 0
    # The one that does the work sees the directory as its root.
    own = directory.stat()
    roots = [Path(f"/proc/{pid}/root").stat() for pid in served]
    assert (own.st_dev, own.st_ino) in [(r.st_dev, r.st_ino) for r in roots]
    stopped = qlaunch("stop", vm.name, "--now")
    assert stopped.returncode == 0, stopped.stderr
    assert list(daemons(directory)) == []
    assert "does not end" not in qlaunch("logs", vm.name).stdout


@needs_virtiofsd
@pytest.mark.parametrize("launcher_too", [False, True])
def test_qemu_is_killed(make: Make, directory: Path, *, launcher_too: bool) -> None:
    vm = machine(make, directory)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    launcher = find_supervisor(vm.runtime)
    assert launcher is not None
    assert list(daemons(directory))
    if launcher_too:
        os.kill(launcher, signal.SIGKILL)
        until(lambda: find_supervisor(vm.runtime) is None, "the launcher is gone")
        assert list(daemons(directory))
    os.kill(vm.qemu(), signal.SIGKILL)
    until(lambda: not list(daemons(directory)), "virtiofsd ends with QEMU")
    if launcher_too:
        assert qlaunch("recover", vm.name).returncode == 0
    until(lambda: not Path(vm.runtime).exists(), "nothing is left")


@needs_virtiofsd
def test_virtiofsd_is_killed_and_the_guest_runs_on(make: Make, directory: Path) -> None:
    vm = machine(make, directory)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    for pid in daemons(directory):
        os.kill(pid, signal.SIGKILL)
    told = "virtiofsd for share[0] ended (signal SIGKILL); the guest runs on without share[0]"
    until(lambda: told in qlaunch("logs", vm.name).stdout, told)
    assert qlaunch("stop", vm.name, "--now").returncode == 0


@pytest.mark.parametrize("read_only", [False, True])
def test_9p(make: Make, both_qemus: str, directory: Path, *, read_only: bool) -> None:
    vm = machine(make, directory, 'type = "9p"', f"read_only = {str(read_only).lower()}")
    started = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
    assert started.returncode == 0, started.stderr
    until(lambda: device_at(vm, "share0") == "1af4:1049", "the firmware has found the device")
    tag = ("qom-get", {"path": "/machine/peripheral/share0", "property": "mount_tag"})
    assert ask(vm, tag) == ["docs"]
    assert list(daemons(directory)) == []
    assert qlaunch("stop", vm.name, "--now").returncode == 0
