"""Which functions go to the guest, in which place."""

from __future__ import annotations

import pytest

from qlaunch.argv.render import render_argv
from tests.fake.plans import AUDIO, BRIDGE, NET, device, host, planned, said

CARD = device("03:00.0", group=8)
SOUND = device("03:00.1", "10de:0e0c", AUDIO, group=8, driver="snd_hda_intel")
OTHER = device("04:00.0", "10ec:8168", NET, group=9, driver="r8169")
HOST = host(CARD, SOUND, OTHER)
PC = '[machine]\ntype = "pc"\n'


def test_a_card_named_by_its_id_is_the_card_at_its_address() -> None:
    by_id = planned('[[pci]]\ndevice = "10de:1200"\nfunctions = "all"\nx_vga = true\n', HOST)
    address = '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\nx_vga = true\n'
    by_address = planned(address, HOST)
    assert said(by_id) == []
    assert by_id.cards == by_address.cards
    assert by_id.ports == by_address.ports


@pytest.mark.parametrize("name", ["03:00.0", "10de:1200"])
def test_the_era_decides_the_port_however_the_card_is_named(name: str) -> None:
    text = f'guest = "windows7"\n[[pci]]\ndevice = "{name}"\nfunctions = "all"\nx_vga = true\n'
    plan = planned(text, HOST)
    assert [p.type for p in plan.ports] == ["ioh3420"]
    assert [(c.place.bus, c.place.addr) for c in plan.cards] == [("root", "00.0"), ("root", "00.1")]


def test_a_function_that_goes_alone_is_function_0_of_its_port() -> None:
    """A guest that finds no function 0 looks for no other."""
    usb = device("0c:00.3", "1022:149c", 0x0C0330, group=16, driver="xhci_hcd")
    more = device("0c:00.4", "1022:1487", AUDIO, group=17, driver="snd_hda_intel")
    text = '[[pci]]\ndevice = "0c:00.3"\n'
    assert [c.place.addr for c in planned(text, host(usb, more)).cards] == ["00.0"]
    both = planned(text + '[[pci]]\ndevice = "0c:00.4"\n', host(usb, more))
    assert [(c.place.addr, c.multifunction) for c in both.cards] == [
        ("00.0", True), ("00.4", False),
    ]


def test_functions_of_a_card_share_one_port_and_say_so() -> None:
    plan = planned('[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n', HOST)
    assert [(c.address, c.companion, c.multifunction) for c in plan.cards] == [
        ("0000:03:00.0", False, True), ("0000:03:00.1", True, False),
    ]
    alone = planned('[[pci]]\ndevice = "04:00.0"\nfunctions = "all"\n', HOST)
    assert [c.multifunction for c in alone.cards] == [False]


def test_a_companion_with_a_table_of_its_own_is_not_taken_twice() -> None:
    text = '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n[[pci]]\ndevice = "{}"\n'
    for other in ("03:00.1", "10de:0e0c"):
        plan = planned(text.format(other), HOST)
        assert [c.address for c in plan.cards] == ["0000:03:00.0", "0000:03:00.1"]
        assert not plan.cards[1].companion


def test_only_the_named_function_is_the_guests_display_and_has_the_rom() -> None:
    text = '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\nx_vga = true\nrom = "/r"\nboot = 1\n'
    first, second = planned(text, HOST).cards
    assert (first.x_vga, first.rom, first.boot) == (True, "/r", 1)
    assert (second.x_vga, second.rom, second.boot) == (False, None, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('device = "09:00.0"', "pci[0].device: this host has no such PCI device"),
        ('device = "ffff:000f"', "pci[0].device: this host has no such PCI device"),
        ('device = "03:00.0"\nid = "10de:ffff"',
         "pci[0].id: another device stands at 0000:03:00.0"),
        ('device = "03:00.1"\nx_vga = true\n[[pci]]\ndevice = "03:00.0"',
         "pci[0].x_vga: x_vga is for VGA cards"),
        ('device = "04:00.0"\n[[pci]]\ndevice = "10ec:8168"',
         "pci[1].device: this device is named twice"),
        ('device = "0000:00:1c.0"',
         "pci[0].device: 0000:00:1c.0 is a bridge; VFIO hands over devices, not bridges"),
    ],
)  # fmt: skip
def test_refused(text: str, fault: str) -> None:
    bridge = device("00:1c.0", "8086:1", BRIDGE, group=20, driver="pcieport")
    plan = planned(f"[[pci]]\n{text}\n", host(CARD, SOUND, OTHER, bridge))
    assert [line for line in said(plan) if "IOMMU group" not in line] == [fault]
    assert all(p.hint for p in plan.problems)


def test_two_devices_of_one_id_have_to_be_told_apart() -> None:
    twin = device("05:00.0", "10ec:8168", NET, group=10, driver="r8169")
    plan = planned('[[pci]]\ndevice = "10ec:8168"\n', host(OTHER, twin))
    (problem,) = (p for p in plan.problems if p.severity == "error")
    assert problem.message == "several devices have this id"
    assert "0000:04:00.0, 0000:05:00.0" in problem.found
    assert '"04:00.0"' in problem.hint


def test_a_device_that_moved_is_named_with_its_new_place() -> None:
    plan = planned('[[pci]]\ndevice = "04:00.0"\nid = "10de:0e0c"\n', HOST)
    (problem,) = (p for p in plan.problems if p.severity == "error")
    assert problem.hint == "10de:0e0c is now at 0000:03:00.1"


@pytest.mark.parametrize("name", ["ffff:ffff", "10de:1209", "09:00.0", "1000:09:1f.7"])
def test_a_device_that_nobody_has_is_shown_as_written(name: str) -> None:
    for facts in (HOST, host(pci=None)):
        argv = render_argv(planned(f'[[pci]]\ndevice = "{name}"\nx_vga = true\n', facts))
        (word,) = (w for w in argv if w.startswith("vfio-pci"))
        assert f"host={name}" in word.replace("host=0000:", "host=")


def test_the_old_machine_has_no_root_ports() -> None:
    plan = planned(PC + '[[pci]]\ndevice = "04:00.0"\n', HOST)
    assert (plan.ports, plan.cards[0].place.bus) == ((), "pci.0")
    plan = planned(PC + '[[pci]]\ndevice = "04:00.0"\nport = "pcie-root-port"\n', HOST)
    assert said(plan) == ["machine.type: the pc machine has no PCI Express root ports"]


def test_a_function_follows_the_port_said_for_its_card() -> None:
    text = '[[pci]]\ndevice = "03:00.0"\nport = "ioh3420"\n[[pci]]\ndevice = "03:00.1"\n'
    assert [c.place.bus for c in planned(text, HOST).cards] == ["root", "root"]
    straight = planned('[[pci]]\ndevice = "04:00.0"\nport = "none"\n', HOST).cards[0]
    assert straight.place == type(straight.place)("pcie.0", straight.place.addr)


def test_there_is_room_for_eight_ports() -> None:
    many = [device(f"{n:02x}:00.0", f"1234:{n:04x}", NET, group=n) for n in range(16, 25)]
    text = "".join(f'[[pci]]\ndevice = "{d.address}"\n' for d in many)
    eight = planned(text.rpartition("[[pci]]")[0], host(*many))
    assert said(eight) == []
    assert len({p.addr for p in eight.ports}) == 8
    assert [p.multifunction for p in eight.ports] == [True] + [False] * 7
    nine = planned(text, host(*many))
    assert any("room for 8 root ports" in line for line in said(nine))
