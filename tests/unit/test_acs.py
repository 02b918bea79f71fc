"""Which port keeps devices together in a group: its configuration space, and what is said of it.

data/config has what QEMU's ports say of themselves after the firmware, in the form of lspci -xxxx
without lines that are all zeros.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.advise.examine import examine
from qlaunch.advise.finding import Finding
from qlaunch.codec import from_json, to_json
from qlaunch.facts.acs import port_of
from qlaunch.facts.health_model import AcsPort, ExaminedFacts, health_of
from tests.fake import doctor_hosts as hosts
from tests.fake.plans import BRIDGE, device
from tests.fake.trees import Tree
from tests.fake.typed import Type, typing

DATA = Path(__file__).parents[1] / "data/config"
PORT = "0000:00:0b.0"
CONFIG = f"/sys/bus/pci/devices/{PORT}/config"
BRIDGE_DEVICE = device(PORT[5:], "1002:5a1f", BRIDGE)
ON = 0x1D  # what the kernel writes into a port that can do all of it


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Type:
    return typing(capfd)


def recorded(name: str, *, control: int = 0) -> bytes:
    """Its 4096 bytes; `control` goes into the ACS control register."""
    space = bytearray(4096)
    for line in (DATA / f"{name}.txt").read_text().splitlines():
        offset, _, values = line.partition(": ")
        space[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(values)
    if control:
        at = port_of(BRIDGE_DEVICE, bytes(space)).at
        assert at is not None
        space[at + 6] = control
    return bytes(space)


@pytest.mark.parametrize(
    ("name", "kind", "at"),
    [("ioh3420", "root port", None), ("pcie-root-port", "root port", 0x148),
     ("x3130-upstream", "upstream port", None), ("xio3130-downstream", "downstream port", None),
     ("pcie-pci-bridge", "bridge", None)],
)  # fmt: skip
def test_what_ports_say_of_themselves(name: str, kind: str, at: int | None) -> None:
    found = port_of(BRIDGE_DEVICE, recorded(name))
    assert (found.kind, found.at, found.read) == (kind, at, 4096)
    assert found.capability == (0x5F if at else 0)
    assert port_of(BRIDGE_DEVICE, recorded("pcie-root-port", control=ON)).control == ON


@pytest.mark.parametrize("space", [None, b"", b"\xff" * 4096, recorded("ioh3420")[:64]])
def test_nothing_is_made_of_what_cannot_be_read(space: bytes | None) -> None:
    assert port_of(BRIDGE_DEVICE, space).kind == ""


@pytest.mark.parametrize("at", [0x34, 0x55, 0x102, 0x103])
@pytest.mark.parametrize("byte", [0x00, 0x40, 0x54, 0xFC, 0xFF])
def test_lists_that_lead_astray_end(at: int, byte: int) -> None:
    space = bytearray(recorded("pcie-root-port"))
    space[at] = byte
    assert port_of(BRIDGE_DEVICE, bytes(space)).address == PORT
    assert port_of(BRIDGE_DEVICE, bytes(space)[:0x14A]).at is None


def shared(root: Path, space: bytes, cmdline: str = "quiet") -> Tree:
    """The guest's card and a USB controller behind one port, all in one group."""
    tree = hosts.healthy(root)
    tree.pci("0000:05:00.0", "1b21:1242", 0x0C0330, driver="xhci_hcd", group=8)
    link = root / "sys/bus/pci/devices" / PORT / "iommu_group"
    link.unlink()
    link.symlink_to("../../../kernel/iommu_groups/8")
    tree.write(f"sys/bus/pci/devices/{PORT}/config", space)
    tree.write("proc/cmdline", cmdline)
    return tree


def said(tree: Tree, *, root: bool = True) -> dict[str, Finding]:
    found = examine(hosts.examined(tree, root=root))
    return {one.subject: one for one in found if one.subject in ("groups", "ACS")}


def test_a_port_without(tmp_path: Path) -> None:
    found = said(shared(tmp_path, recorded("ioh3420")))
    assert set(found) == {"groups"}
    one = found["groups"]
    assert one.message.endswith(f"no part of the card: {PORT} has no ACS")
    assert one.evidence[1] == (CONFIG, "root port, no extended capability 000d (ACS)")
    assert one.fix[0] == f"plug the card into another slot, behind another port than {PORT}"
    assert one.fix[-1].startswith("or give all of them to the guest")


def test_a_port_with_it_switched_off(tmp_path: Path) -> None:
    one = said(shared(tmp_path, recorded("pcie-root-port")))["groups"]
    assert one.message.endswith(f": {PORT} has ACS, switched off")
    assert one.evidence[1] == (
        CONFIG, "root port, ACS at 0x148: capability 005f, control 0000"
    )
    assert one.fix[0].startswith("switch on ACS in the BIOS setup")
    assert "another slot" not in " ".join(one.fix)


def test_it_is_off_by_the_kernels_command_line(tmp_path: Path) -> None:
    word = "pci=disable_acs_redir=pci:1002:5a1f"
    space = recorded("pcie-root-port", control=0x11)
    one = said(shared(tmp_path, space, f"quiet {word}"))["groups"]
    assert one.message.endswith(": 0000:00:0b.0 has ACS, switched off")
    assert one.fix[:2] == (f"take {word} out of /etc/default/grub", "sudo update-grub")


@pytest.mark.parametrize("name", ["pcie-root-port", "x3130-upstream"])
def test_a_port_that_is_not_to_blame(tmp_path: Path, name: str) -> None:
    space = recorded(name, control=ON if name == "pcie-root-port" else 0)
    one = said(shared(tmp_path, space))["groups"]
    assert one.message.endswith("no part of the card")
    assert one.evidence[1].file == CONFIG
    assert one.fix[0] == "plug the card into another slot, or switch on ACS in the BIOS setup"


def test_conventional_pci(tmp_path: Path) -> None:
    one = said(shared(tmp_path, recorded("pcie-pci-bridge")))["groups"]
    assert one.message.endswith(": 0000:00:0b.0 leads to conventional PCI, which has none")
    assert one.fix[0].startswith("plug the card into another slot")


@pytest.mark.parametrize("read", [64, 256])
def test_who_sees_too_little_is_told_so(tmp_path: Path, read: int) -> None:
    tree = shared(tmp_path, recorded("pcie-root-port")[:read])
    found = said(tree, root=False)
    one = found["ACS"]
    assert (one.level, one.devices) == ("unknown", ("0000:03:00.0",))
    assert one.message == f"could not tell whether {PORT}, above 0000:03:00.0, has ACS"
    assert one.evidence == ((CONFIG, f"{read} bytes of 4096"),)
    assert one.fix == ("run as root: sudo qlaunch doctor",)
    assert "ACS in the BIOS setup" in found["groups"].fix[0]
    assert said(tree)["ACS"].fix == ()


def test_ports_of_groups_that_nobody_shares_are_not_read(tmp_path: Path) -> None:
    health = health_of(hosts.examined(hosts.healthy(tmp_path)))
    assert health is not None and health.acs == ()


def test_as_json(tmp_path: Path, typed: Type) -> None:
    facts = hosts.examined(shared(tmp_path / "root", recorded("pcie-root-port")))
    health = health_of(facts)
    assert health is not None
    assert health.acs == (
        AcsPort(address=BRIDGE_DEVICE.address, kind="root port", read=4096, at=0x148,
                capability=0x5F),
    )
    assert from_json(to_json(facts), ExaminedFacts) == facts
    file = tmp_path / "facts.json"
    file.write_bytes(to_json(facts))
    told = json.loads(typed("doctor", "--facts", str(file), "--json").out)
    (one,) = [f for f in told["findings"] if f["subject"] == "groups"]
    assert {"file": CONFIG,
            "value": "root port, ACS at 0x148: capability 005f, control 0000"} in one["evidence"]
    assert "switched off" in one["message"]
    shown = typed("doctor", "--facts", str(file)).out
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    unexamined = replace(facts, health=replace(health, acs=None))
    assert "ACS" not in {f.subject for f in examine(unexamined)}
