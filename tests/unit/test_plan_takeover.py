"""What is done to the host for passed-through devices, and every reason not to."""

from __future__ import annotations

import pytest

from qlaunch.facts.model import Holder, HolderKind, Iommu
from qlaunch.plan.handover import groups, obstacles
from qlaunch.plan.steps import (
    HoldPower,
    LoadModule,
    OwnGroup,
    ResetDevices,
    TakeDevice,
    devices_of,
)
from tests.fake.plans import AUDIO, BRIDGE, NET, ROOT, USER, device, host, planned, said

CARD = device("03:00.0", group=8, reset_methods=("bus",))
SOUND = device("03:00.1", "10de:0e0c", AUDIO, group=8, driver="snd_hda_intel")
PORT = device("00:01.0", "8086:1901", BRIDGE, group=8, driver="pcieport")
NIC = device("04:00.0", "10ec:8168", NET, group=9, driver="r8169", reset_methods=("flr", "pm"))
BOTH = '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n'
ONE = '[[pci]]\ndevice = "04:00.0"\n'


def test_the_order_of_steps() -> None:
    plan = planned(BOTH + ONE, host(PORT, CARD, SOUND, NIC))
    assert said(plan) == []
    kinds = [type(s) for s in plan.steps]
    assert kinds == [LoadModule] * 2 + [HoldPower] + [TakeDevice] * 3 + [ResetDevices] * 2 + [
        OwnGroup
    ] * 2
    taken = [s for s in plan.steps if isinstance(s, TakeDevice)]
    assert [(s.address, s.id, s.driver) for s in taken] == [
        ("0000:03:00.0", "10de:1200", "vfio-pci"), ("0000:03:00.1", "10de:0e0c", "vfio-pci"),
        ("0000:04:00.0", "10ec:8168", "vfio-pci"),
    ]
    resets = [s.addresses for s in plan.steps if isinstance(s, ResetDevices)]
    assert resets == [("0000:03:00.0", "0000:03:00.1"), ("0000:04:00.0",)]
    assert [s.address for s in plan.steps if isinstance(s, HoldPower)] == ["0000:03:00.0"]
    owned = [(s.group, s.uid) for s in plan.steps if isinstance(s, OwnGroup)]
    assert owned == [(8, ROOT.uid), (9, ROOT.uid)]
    assert [f.of for f in plan.fds if f.kind == "claim"] == [s.address for s in taken]
    assert plan.needs_root


def test_a_variant_driver_is_loaded_and_taken() -> None:
    nic = device("04:00.0", "15b3:1018", NET, group=9, vfio_driver="mlx5-vfio-pci")
    steps = planned(ONE, host(nic)).steps
    assert "mlx5_vfio_pci" in [s.module for s in steps if isinstance(s, LoadModule)]
    assert [s.driver for s in steps if isinstance(s, TakeDevice)] == ["mlx5-vfio-pci"]


def test_an_ordinary_users_plan_is_the_one_root_will_carry_out_for_them() -> None:
    assert planned(ONE, host(NIC, invoker=USER)) == planned(ONE, host(NIC, invoker=ROOT))
    own = planned('[[disk]]\nfile = "/x"\n', host(invoker=USER))
    assert (own.account, own.needs_root) == (None, False)
    assert own.runtime_dir == "/run/user/1000/qlaunch/vm"


def test_no_reset_where_none_is_wanted() -> None:
    steps = planned(ONE + 'reset = "none"\n', host(NIC)).steps
    assert not [s for s in steps if isinstance(s, ResetDevices)]


@pytest.mark.parametrize(("method", "fine"), [("flr", True), ("auto", True), ("bus", False)])
def test_a_reset_the_kernel_does_not_offer(method: str, fine: bool) -> None:
    plan = planned(f'{ONE}reset = "{method}"\n', host(NIC))
    assert said(plan) == (
        [] if fine else ["pci[0].reset: the kernel cannot reset 0000:04:00.0 this way"]
    )


OFF = Iommu(enabled=False, reason="the firmware has no DMAR table", hint="switch on VT-d")
WEAK = Iommu(enabled=True, groups=3, interrupt_remapping=False)


@pytest.mark.parametrize(
    ("iommu", "words"), [(OFF, "IOMMU is off"), (WEAK, "does not remap interrupts")]
)
def test_no_iommu_is_told_once_however_many_devices(iommu: Iommu, words: str) -> None:
    loose = [device(a, i, NET, group=None) for a, i in (("04:00.0", "1:1"), ("05:00.0", "1:2"))]\
        if not iommu.enabled else [NIC, device("05:00.0", "0001:0002", NET, group=11)]
    text = '[[pci]]\ndevice = "04:00.0"\n[[pci]]\ndevice = "05:00.0"\n'
    plan = planned(text, host(*loose, iommu=iommu))
    (problem,) = (p for p in plan.problems if p.severity == "error")
    assert words in problem.message
    assert problem.hint
    assert problem in [p._replace(where="pci[0].device") for p in obstacles(
        host(*loose, iommu=iommu), loose
    )]


def test_a_device_without_a_group() -> None:
    nic = device("04:00.0", "10ec:8168", NET, group=None)
    plan = planned(ONE, host(nic))
    assert [line.partition(",")[0] for line in said(plan)] == [
        "pci[0].device: 0000:04:00.0 is in no IOMMU group"
    ]


def test_virtual_functions_keep_their_parent() -> None:
    plan = planned(ONE, host(device("04:00.0", "8086:1", NET, group=9, sriov_count=2)))
    assert said(plan) == ["pci[0].device: 0000:04:00.0 has 2 virtual functions switched on"]


HELD: list[tuple[HolderKind, str, str]] = [
    ("mount", "/ (/dev/sda1)", "carries the host's file system / (/dev/sda1)"),
    ("swap", "/dev/sda2", "carries the host's swap /dev/sda2"),
    ("route", "eth0, the default route", "carries eth0, the default route"),
    ("lvm", "/dev/vg/x (lvm)", "carries a volume of the host, /dev/vg/x (lvm)"),
    ("md", "/dev/md0", "carries an array of the host, /dev/md0"),
    ("seat", "seat0's only display card", "is seat0's only display card"),
    ("mdev", "fff6f017", "carries the mediated device fff6f017"),
    ("vfio", "/dev/vfio/9", "is in use: vfio uses /dev/vfio/9"),
]


@pytest.mark.parametrize(("kind", "what", "words"), HELD)
def test_who_uses_a_device_is_told_with_the_remedy(
    kind: HolderKind, what: str, words: str
) -> None:
    held = device("04:00.0", "1:1", NET, group=9,
                  holders=(Holder(kind=kind, what=what, remedy="do that"),))
    plan = planned('[[pci]]\ndevice = "04:00.0"\n', host(held))
    (problem,) = (p for p in plan.problems if p.severity == "error")
    assert problem.message == f"0000:04:00.0 {words}"
    assert problem.hint == "do that"
    assert [p.message for p in obstacles(host(held), [held], force=True)
            if p.severity == "error"] == [problem.message]


def test_a_process_is_named_and_may_be_overruled_by_hand() -> None:
    xorg = Holder(kind="process", what="/dev/dri/card0", pid=812, command="Xorg")
    held = device("04:00.0", "1:1", NET, group=9, holders=(xorg,))
    text = "0000:04:00.0 is in use: Xorg (pid 812) uses /dev/dri/card0"
    assert said(planned('[[pci]]\ndevice = "04:00.0"\n', host(held))) == [f"pci[0].device: {text}"]
    for force, severity in ((False, "error"), (True, "warning")):
        found = obstacles(host(held), [held], force=force)
        assert [(p.severity, p.where, p.message) for p in found] == [(severity, "", text)]


def test_a_containers_link_may_be_overruled_by_hand() -> None:
    moved = Holder(kind="namespace", what="a link that is in another network namespace",
                   remedy="end the container")
    held = device("04:00.0", "1:1", NET, group=9, holders=(moved,))
    text = "0000:04:00.0 carries a link that is in another network namespace"
    assert said(planned('[[pci]]\ndevice = "04:00.0"\n', host(held))) == [f"pci[0].device: {text}"]
    for force, severity in ((False, "error"), (True, "warning")):
        found = obstacles(host(held), [held], force=force)
        assert [(p.severity, p.message, p.hint) for p in found] == [
            (severity, text, "end the container")]


def test_force_overrules_the_process_and_not_the_mount_beside_it() -> None:
    """Whatever they are called."""
    cat = Holder(kind="process", what="/dev/sda1", pid=8, command="cat", remedy="kill 8")
    mount = Holder(kind="mount", what=f"/mnt/{cat} (/dev/sda1)", remedy="umount /mnt")
    held = device("04:00.0", "1:1", NET, group=9, holders=(mount, cat))
    found = obstacles(host(held), [held], force=True)
    assert [(p.severity, p.hint) for p in found] == [
        ("error", "umount /mnt"), ("warning", "kill 8"),
    ]


def test_a_link_with_an_address_is_a_warning() -> None:
    link = Holder(kind="link", what="eth1, which is up and has an address", remedy="down")
    plan = planned(ONE, host(device("04:00.0", "1:1", NET, group=9, holders=(link,))))
    assert said(plan) == []
    assert said(plan, "warning") == [
        "pci[0].device: 0000:04:00.0 carries eth1, which is up and has an address"
    ]


def test_the_hosts_only_card_goes_with_a_warning() -> None:
    alone = host(pci=(CARD, SOUND))
    assert any("only graphics card" in w for w in said(planned(BOTH, alone), "warning"))
    assert said(planned(BOTH, host(CARD, SOUND)), "warning") == []


def test_what_else_is_in_the_group_is_told_once() -> None:
    usb = device("05:00.0", "1912:0014", 0x0C0330, group=8, driver="xhci_hcd")
    text = '[[pci]]\ndevice = "03:00.0"\n'
    plan = planned(text, host(CARD, SOUND, usb, PORT))
    (problem,) = (p for p in plan.problems if p.severity == "error")
    assert "IOMMU group 8" in problem.message
    assert "0000:03:00.1, 0000:05:00.0" in problem.message
    assert "snd_hda_intel" in problem.found
    assert 'group = "take"' in problem.hint
    own = planned(text, host(CARD, SOUND, PORT)).problems
    assert [p.hint for p in own] == ['functions = "all" hands the whole card over']
    taken = planned(text + 'group = "take"\n', host(CARD, SOUND, usb, PORT))
    assert said(taken) == []
    assert [s.address for s in taken.steps if isinstance(s, TakeDevice)] == [
        "0000:03:00.0", "0000:03:00.1", "0000:05:00.0",
    ]


@pytest.mark.parametrize("driver", [None, "vfio-pci", "pci-stub"])
def test_members_that_may_stay(driver: str | None) -> None:
    quiet = device("03:00.1", "10de:0e0c", AUDIO, group=8, driver=driver)
    assert said(planned('[[pci]]\ndevice = "03:00.0"\n', host(CARD, quiet))) == []


def test_a_member_that_is_taken_along_is_asked_about_too() -> None:
    swap = Holder(kind="swap", what="/dev/sdb", remedy="swapoff /dev/sdb")
    disk = device("05:00.0", "1:3", 0x010601, group=8, driver="ahci", holders=(swap,))
    plan = planned('[[pci]]\ndevice = "03:00.0"\ngroup = "take"\n', host(CARD, disk))
    assert said(plan) == ["pci[0].group: 0000:05:00.0 carries the host's swap /dev/sdb"]


def test_groups_for_the_list_of_devices() -> None:
    found = {g.number: g for g in groups(host(PORT, CARD, SOUND, NIC, device(
        "00:1f.0", "8086:1", BRIDGE, group=3)))}
    assert found[8].obstacles == ()
    assert [p.message for p in found[3].obstacles] == ["only bridges, which stay with the host"]
    off = groups(host(device("04:00.0", "1:1", NET, group=None), iommu=OFF))
    assert "IOMMU is off" in off[-1].obstacles[0].message


def test_the_list_has_no_group_for_devices_without_one_when_there_are_none() -> None:
    assert [g.number for g in groups(host(NIC))] == [9, 90]
    assert [g.number for g in groups(host(device("04:00.0", "1:1", NET, group=None)))] == [90, None]


def test_the_devices_of_a_step() -> None:
    steps = planned(BOTH, host(CARD, SOUND)).steps
    found = {type(s): devices_of(s) for s in steps}
    assert found[LoadModule] == ()
    assert found[HoldPower] == ("0000:03:00.0",)
    assert found[ResetDevices] == ("0000:03:00.0", "0000:03:00.1")
    assert found[TakeDevice] == ("0000:03:00.1",)


def test_a_list_of_resets_that_is_looked_for_again_is_told() -> None:
    plan = planned(f'{BOTH}reset = "default"\n', host(PORT, CARD, SOUND))
    (problem,) = [p for p in plan.problems if p.where == "pci[0].reset"]
    assert problem.severity == "warning"
    assert "0000:03:00.0, 0000:03:00.1; what is stale" in problem.message
    (step,) = [s for s in plan.steps if isinstance(s, ResetDevices)]
    assert step.method == "default"
