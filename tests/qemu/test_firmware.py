"""Firmware, board and direct boot on real QEMUs: what the guest and the monitor say of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.probe import read_facts
from qlaunch.plan.install import for_installing, with_window
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.profile import Profile
from qlaunch.run.handover import opened
from qlaunch.run.makes import make_files
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.guest import make_guest, newest_kernel
from tests.fake.loop import run
from tests.fake.plans import profile, said

pytestmark = pytest.mark.qemu
BASE = '[machine]\naccel = "tcg"\nmemory = "256M"\n'


def plan_of(text: str, qemu: str, home: Path, *, install: bool = False) -> Plan:
    """The plan of an ordinary user with this home; its run-time files are there too."""
    machine = profile(f'{text}\n[qemu]\nbinary = "{qemu}"\n')
    return plan_from(for_installing(machine).profile if install else machine, home,
                     install=install)


def plan_from(machine: Profile, home: Path, *, install: bool = False) -> Plan:
    """The same of a profile that has been read."""
    facts = read_facts(facts_wanted(machine, holders=False))
    assert facts.invoker is not None
    replace = msgspec.structs.replace
    invoker = replace(facts.invoker, root=False, uid=os.geteuid(), home=str(home))
    # what nobody may not, we who test may
    files = tuple(replace(file, readable=True, writable=True) for file in facts.files)
    facts = replace(facts, invoker=invoker, files=files)
    plan = make_plan(with_window(machine, facts) if install else machine, facts)
    assert said(plan) == []
    assert plan.state_dir.startswith(str(home))
    return replace(plan, runtime_dir=str(home), socket_dir=str(home), steps=())


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Iterator[QemuProcess]:
    """A QEMU on the plan's own command line, with what it keeps."""
    make_files(plan, lambda _: None)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with (directory / "log").open("ab") as stderr, opened(plan, lock, []) as handover:
        own = plan.profile.qemu.env
        process = start_qemu(
            render_argv(plan), fds=handover.fds, stderr_fd=stderr.fileno(), env=own
        )
    os.close(lock)
    try:
        yield process
    finally:
        process.send(9)
        process.wait(30)
        process.close()


def answers(plan: Plan, directory: Path, **questions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Start it, ask, and end it."""

    async def ask() -> dict[str, Any]:
        monitor = await wait_ready(
            f"{plan.runtime_dir}/control.sock", process, timeout=60,
            last_words=lambda: last_words(f"{plan.runtime_dir}/log"),
        )
        async with monitor:
            return {n: await monitor.execute(c, a) for n, (c, a) in questions.items()}

    with started(plan, directory) as process:
        return run(ask())


def spoken(plan: Plan, directory: Path) -> str:
    """Let the guest run to its end; what it said on its serial port."""

    async def let_go() -> None:
        monitor = await wait_ready(
            f"{plan.runtime_dir}/control.sock", process, timeout=60,
            last_words=lambda: last_words(f"{plan.runtime_dir}/log"),
        )
        async with monitor:
            await monitor.execute("cont")

    with started(plan, directory) as process:
        run(let_go())
        process.wait(120)
    return (directory / "serial").read_text(errors="replace")


def guest_text(directory: Path, script: str, modules: tuple[str, ...] = ()) -> str:
    """Tables that boot the small guest with this script."""
    guest = make_guest(directory, script, modules)
    return (
        f'[kernel]\nfile = "{guest.kernel}"\ninitrd = "{guest.initrd}"\n'
        f'append = "{guest.append}"\n'
        f'[[serial]]\ntype = "file"\nfile = "{directory}/serial"\n'
    )


def flash(number: int, name: str) -> tuple[str, dict[str, Any]]:
    """A question about a property of a flash chip."""
    return "qom-get", {"path": f"/machine/system.flash{number}", "property": name}


def uefi_text(machine: str, directory: Path, script: str) -> str:
    """A machine whose UEFI starts the small guest."""
    packed = str(newest_kernel())  # as packed: only then it has the form of a UEFI program
    text = BASE.replace("256M", "512M") + machine + "\n" + guest_text(directory, script)
    return re.sub('^file = "[^"]*vmlinu.*"$', f'file = "{packed}"', text, count=1, flags=re.M)


def test_a_guest_starts_from_uefi_and_its_variables_stay(both_qemus: str, tmp_path: Path) -> None:
    script = "test -d /sys/firmware/efi && echo efi: $(cat /sys/firmware/efi/fw_platform_size)"
    text = uefi_text('firmware = "uefi"', tmp_path, script)
    plan = plan_of(text, both_qemus, tmp_path)
    assert "efi: 64" in spoken(plan, tmp_path)
    kept = Path(plan.state_dir, "uefi-vars-528K.qcow2")
    first = kept.stat()
    again = plan_of(text, both_qemus, tmp_path)
    found = answers(
        again, tmp_path, block=("query-block", {}), secure=flash(1, "secure"),
    )
    assert kept.stat().st_ino == first.st_ino
    images = {b["inserted"]["file"]: b["inserted"] for b in found["block"] if "inserted" in b}
    assert images[str(kept)]["drv"] == "qcow2"
    assert not images[str(kept)]["ro"]
    code = next(image for path, image in images.items() if "CODE" in path)
    assert code["ro"]
    assert found["secure"] is False


def test_secure_boot_keeps_its_variables_in_smm(both_qemus: str, tmp_path: Path) -> None:
    text = uefi_text("secure_boot = true", tmp_path, "dmesg | grep -i 'secure boot'")
    plan = plan_of(text, both_qemus, tmp_path)
    assert "Secure boot enabled" in spoken(plan, tmp_path)
    found = answers(
        plan, tmp_path, block=("query-block", {}), secure=flash(1, "secure"),
        smm=("qom-get", {"path": "/machine", "property": "smm"}),
    )
    assert found["smm"] == "on"
    assert found["secure"] is True
    files = [b["inserted"]["file"] for b in found["block"] if "inserted" in b]
    assert sorted(Path(f).name for f in files) == [
        "OVMF_CODE_4M.ms.fd", "uefi-vars-secure-528K.qcow2"
    ]


SCRIPT = """\
cd /sys/class/dmi/id
for name in sys_vendor product_name board_name board_asset_tag chassis_vendor bios_vendor; do
    echo $name: $(cat $name)
done
strings=$(cat /sys/firmware/dmi/entries/11-0/raw | tr '\\\\0' ' ')
echo oem: $strings
echo fw: $(cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.qlaunch/text/raw)
echo file: $(cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.qlaunch/file/raw)
echo date: $(date -u +%Y-%m-%d)
dmesg | grep -i -e dmar -e hpet
echo cmdline: $(cat /proc/cmdline)
"""
BOARD = """\
rtc = "2013-10-17T12:00:00"
rtc_clock = "vm"
hpet = false
pit_policy = "discard"
iommu = "intel"
boot_menu = true
boot_timeout = "1s"
boot_order = "cd"
boot_retry = "10s"
fw_cfg = { "opt/org.qlaunch/text" = "hello, guest" }
fw_cfg_files = [{ name = "opt/org.qlaunch/file", file = "%s" }]
[smbios]
bios = { vendor = "The, vendor", release = "5.17" }
system = { manufacturer = "ACME, Inc.", product = "Anvil", serial = "1", family = "f", sku = "s" }
board = { product = "Board", asset = "A-7", location = "here" }
chassis = { manufacturer = "Case", sku = "c" }
oem_strings = ["first", "second, with a comma"]
"""


def test_the_guest_reads_its_board(both_qemus: str, tmp_path: Path) -> None:
    (tmp_path / "payload").write_text("from a file")
    (tmp_path / "payload").chmod(0o644)
    text = BASE + BOARD % (tmp_path / "payload") + guest_text(
        tmp_path, SCRIPT, ("qemu_fw_cfg", "dmi-sysfs")
    )
    plan = plan_of(text, both_qemus, tmp_path)
    lines = spoken(plan, tmp_path).replace("\r", "").splitlines()
    for wanted in (
        "sys_vendor: ACME, Inc.", "product_name: Anvil", "board_name: Board",
        "board_asset_tag: A-7", "chassis_vendor: Case", "bios_vendor: The, vendor",
        "fw: hello, guest", "file: from a file", "date: 2013-10-17",
    ):
        assert wanted in lines
    said_of = "\n".join(lines)
    assert "first" in said_of and "second, with a comma" in said_of
    assert "DMAR: IOMMU" in said_of or "DMAR" in said_of
    assert "hpet" not in said_of.lower().replace("hpet=", "")


def test_an_installation_is_seen_by_vnc(both_qemus: str, tmp_path: Path) -> None:
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(1 << 20))
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    text = (
        f'{BASE}[[pci]]\ndevice = "00:1e.7"\nx_vga = true\n[[cdrom]]\nfile = "{disc}"\n'
        f'[[disk]]\nfile = "{tmp_path}/disk"\nboot = 0\n[install]\nfriendly = true\n'
    )
    plan = plan_of(text, both_qemus, tmp_path, install=True)
    found = answers(
        plan, tmp_path, vnc=("query-vnc", {}), pci=("query-pci", {}),
        disc=("qom-get", {"path": "/machine/peripheral/cd0", "property": "bootindex"}),
        disk=("qom-get", {"path": "/machine/peripheral/disk0", "property": "bootindex"}),
        model=("qom-get", {"path": "/machine/peripheral/disk0", "property": "type"}),
    )
    assert found["vnc"]["enabled"]
    assert "vga" in [d["qdev_id"] for d in found["pci"][0]["devices"]]
    assert (found["disc"], found["disk"], found["model"]) == (0, 1, "ide-hd")


@pytest.mark.parametrize("kind", ["intel", "amd", "virtio"])
def test_the_guest_has_an_iommu(kind: str, both_qemus: str, tmp_path: Path) -> None:
    plan = plan_of(BASE + f'iommu = "{kind}"\n[balloon]\n', both_qemus, tmp_path)
    found = answers(
        plan, tmp_path, pci=("query-pci", {}),
        type=("qom-get", {"path": "/machine/peripheral/iommu", "property": "type"}),
    )
    assert found["type"] == {
        "intel": "intel-iommu", "amd": "amd-iommu", "virtio": "virtio-iommu-pci"
    }[kind]
    if kind == "virtio":
        devices = {d["qdev_id"]: (d["slot"], d["function"]) for d in found["pci"][0]["devices"]}
        assert devices["iommu"] == (2, 6)
        assert devices["port02-0"] == (2, 0)
