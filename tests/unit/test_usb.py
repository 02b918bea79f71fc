"""USB devices: found, refused, lent, given back; keyboards that are the host's only ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.errors import HostError
from qlaunch.facts.inputs import read_inputs
from qlaunch.facts.model import HostFacts, HostFile
from qlaunch.facts.usb import plugged, read_usb
from qlaunch.facts.vsock import read_cids
from qlaunch.host.shared import MakeSharedHandler
from qlaunch.host.usb import LendUsbHandler
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import LendUsb, MakeShared, OwnNode
from qlaunch.run.beside import pluggable
from qlaunch.values import HostPath
from tests.fake.kernel import FakeKernel
from tests.fake.plans import QEMU, ROOT, USER, host, planned, said
from tests.fake.usb import KEYBOARD, MOUSE, UsbTree, mount

ANY = msgspec.structs.replace(QEMU, devices=())
STICK, DONGLE = "0781:5581", "046d:c52b"


@pytest.fixture
def tree(tmp_path: Path) -> UsbTree:
    return UsbTree(tmp_path)


def facts(tree: UsbTree, *, root: bool = True, paths: tuple[str, ...] = ()) -> HostFacts:
    account = ROOT if root else USER
    return host(
        qemu=ANY, invoker=account, usb=read_usb(tree.root, account),
        inputs=read_inputs(tree.root, paths, account),
        files=tuple(HostFile(path=p, kind="char") for p in paths),
    )


def usb_plan(tree: UsbTree, text: str, **more: Any) -> Plan:
    return planned(text, facts(tree, **more))


def devices(plan: Plan) -> list[str]:
    argv = render_argv(plan)
    return [argv[n + 1] for n, word in enumerate(argv) if word == "-device"
            and argv[n + 1].startswith("usb-host")]


def test_what_a_port_carries(tree: UsbTree) -> None:
    tree.plug("1-4", STICK, serial="AB12", product="Ultra", drivers=("usb-storage",), block="sdb")
    tree.plug("1-10", "0bda:8153", drivers=("r8152",), net="enx00")
    tree.plug("1-2", "1d6b:0002", cls=9, drivers=("hub",))
    mount(tree, "8:16", "/media/stick")
    hub, stick, net = read_usb(tree.root)
    assert (hub.name, hub.is_hub) == ("1-2", True)
    assert (stick.id, stick.serial, stick.text) == (STICK, "AB12", "Ultra")
    assert (stick.blocks, stick.mounted, stick.drivers) == (
        ("sdb",), ("/media/stick",), ("usb-storage",))
    assert (stick.node, net.links) == ("/dev/bus/usb/001/001", ("enx00",))
    assert [d.name for d in plugged(tree.root)] == ["1-2", "1-4", "1-10"]


def test_a_device_is_opened_for_qemu_and_lent(tree: UsbTree) -> None:
    tree.plug("1-4", DONGLE)
    plan = usb_plan(tree, '[[usb]]\ndevice = "046D:C52B"\n')
    assert said(plan) == []
    fd = plan.fd("file", "/dev/bus/usb/001/001")
    assert devices(plan) == [f"usb-host,id=usbdev0,bus=usb.0,port=9,hostdevice=/dev/fdset/{fd}"]
    assert f"fd={fd},set={fd},opaque=/dev/bus/usb/001/001" in render_argv(plan)
    assert plan.steps == (LendUsb(id=DONGLE, why="usb[0]"),)


def test_who_may_open_it_needs_no_root(tree: UsbTree) -> None:
    node = tree.plug("1-4", DONGLE)
    for parent in [node, *node.parents]:
        if parent.is_relative_to(tree.root):
            parent.chmod(0o777)
    text = '[[usb]]\nport = "1-4"\n'
    plan = usb_plan(tree, text, root=False)
    assert (plan.steps, plan.account) == ((), None)
    assert devices(plan) == [
        "usb-host,id=usbdev0,bus=usb.0,port=9,hostdevice=/dev/bus/usb/001/001"]
    node.chmod(0o644)
    plan = usb_plan(tree, text, root=False)
    assert plan.needs_root and plan.account is not None
    assert plan.steps == (LendUsb(name="1-4", why="usb[0]"),)


def test_twins_are_told_apart_by_port_or_serial(tree: UsbTree) -> None:
    tree.plug("1-4", DONGLE, serial="A")
    tree.plug("1-5", DONGLE, serial="B")
    plan = usb_plan(tree, f'[[usb]]\ndevice = "{DONGLE}"\n')
    (problem,) = plan.problems
    assert problem.message == "several USB devices match"
    assert problem.hint == 'name its port too: port = "1-4"'
    for more in ('port = "1-5"', 'serial = "B"'):
        plan = usb_plan(tree, f'[[usb]]\ndevice = "{DONGLE}"\n{more}\n')
        assert said(plan) == []
        assert plan.usbs[0].node == "/dev/bus/usb/001/002"
    plan = usb_plan(tree, '[[usb]]\nport = "1-5"\n[[usb]]\nserial = "B"\n')
    assert said(plan) == ["usb[1]: usb[0] is the same device"]


def test_one_that_is_not_plugged_in(tree: UsbTree) -> None:
    tree.plug("1-4", STICK)
    text = f'[[usb]]\ndevice = "{DONGLE}"\nport = "1-4"\n'
    plan = usb_plan(tree, text)
    assert said(plan) == ["usb[0]: this USB device is not plugged in"]
    assert "there is 1-4 [0781:5581]" in plan.problems[0].found
    plan = usb_plan(tree, text + "optional = true\n")
    assert said(plan) == devices(plan) == []
    assert plan.usbs[0].lent


def test_what_the_host_needs_stays(tree: UsbTree) -> None:
    tree.plug("1-1", STICK, drivers=("usb-storage",), block="sdb")
    tree.plug("1-2", "1d6b:0002", cls=9, drivers=("hub",))
    tree.plug("1-3", "0bda:8153", net="enx00")
    tree.plug("1-4", "08e6:3437", drivers=("usbfs",))
    mount(tree, "8:16", "/media/stick")
    plan = usb_plan(tree, "".join(f'[[usb]]\nport = "1-{n}"\n' for n in (1, 2, 3, 4)))
    assert said(plan) == [
        "usb[0]: the host has this device's file system mounted", "usb[1]: hubs stay with the host",
        "usb[3]: another program has this USB device",
    ]
    assert said(plan, "warning") == ["usb[2]: the host loses the network link enx00"]
    assert plan.problems[0].hint == "umount /media/stick"


def test_the_only_keyboard_is_told(tree: UsbTree) -> None:
    tree.plug("1-4", DONGLE)
    tree.input(3, "A keyboard", keys=KEYBOARD, on="1-4")
    text = '[[usb]]\nport = "1-4"\n'
    assert len(said(usb_plan(tree, text), "warning")) == 1
    tree.input(4, "AT keyboard", keys=KEYBOARD)
    assert said(usb_plan(tree, text), "warning") == []


def test_keyboards_and_mice_are_known_by_their_keys(tree: UsbTree) -> None:
    tree.input(0, "Power Button", keys="10000000000000 0")
    tree.input(3, "A keyboard", keys=KEYBOARD, by_id="usb-X-event-kbd")
    tree.input(4, "A mouse", keys=MOUSE, axes="1943")
    found = read_inputs(tree.root, ("/dev/input/by-id/usb-X-event-kbd", "/dev/input/event4"))
    assert [(i.kind, i.paths) for i in found] == [
        ("other", ()), ("keyboard", ("/dev/input/by-id/usb-X-event-kbd",)),
        ("mouse", ("/dev/input/event4",)),
    ]


KBD, MICE = "/dev/input/by-id/usb-X-event-kbd", "/dev/input/by-id/usb-X-event-mouse"
EVDEV = f'[[input]]\nevdev = "{KBD}"\n[[input]]\nevdev = "{MICE}"\n'


@pytest.fixture
def desk(tree: UsbTree) -> UsbTree:
    tree.input(3, "A keyboard", keys=KEYBOARD, by_id="usb-X-event-kbd")
    tree.input(4, "A mouse", keys=MOUSE, axes="1943", by_id="usb-X-event-mouse")
    for event in (3, 4):
        (tree.root / f"dev/input/event{event}").chmod(0o600)
    return tree


def evdevs(plan: Plan) -> list[str]:
    argv = render_argv(plan)
    return [word for word in argv if word.startswith("input-linux")]


def test_evdev_devices_go_over_together(desk: UsbTree) -> None:
    plan = usb_plan(desk, EVDEV, paths=(KBD, MICE))
    assert said(plan) == []
    assert evdevs(plan) == [
        f"input-linux,id=evdev0,evdev={KBD},grab_all=on,repeat=on",
        f"input-linux,id=evdev1,evdev={MICE}",
    ]
    assert [s.path for s in plan.steps if isinstance(s, OwnNode)] == [
        "/dev/input/event3", "/dev/input/event4"]
    (warning,) = said(plan, "warning")
    assert "the host has no other keyboard" in warning
    desk.input(5, "Another", keys=KEYBOARD)
    assert said(usb_plan(desk, EVDEV, paths=(KBD, MICE)), "warning") == []


def test_grab_keys(desk: UsbTree) -> None:
    text = EVDEV.replace("\n[[input]]", '\ngrab_keys = "scrolllock"\nrepeat = false\n[[input]]', 1)
    text = text.replace("[[input]]\n", '[[input]]\n', 1)
    plan = usb_plan(desk, text, paths=(KBD, MICE))
    assert evdevs(plan)[0] == (
        f"input-linux,id=evdev0,evdev={KBD},grab_all=on,grab-toggle=scrolllock")
    assert plan.problems[0].found == "scrolllock"
    plan = usb_plan(desk, f'[[input]]\nevdev = "{MICE}"\ngrab = true\n', paths=(MICE,))
    assert said(plan) == ["input[0].grab: grab keys are pressed on a keyboard, and this is none"]
    assert said(plan, "warning") == [
        "input[0].evdev: no keyboard is handed over, so no key brings these back"]


def test_what_is_no_input_device(desk: UsbTree) -> None:
    plan = usb_plan(desk, '[[input]]\nevdev = "/dev/null"\n', paths=("/dev/null",))
    assert said(plan) == ["input[0].evdev: this is no input device with events"]
    missing = HostFile(path=KBD, kind="missing")
    plan = planned(f'[[input]]\nevdev = "{KBD}"\n', host(qemu=ANY, inputs=(), files=(missing,)))
    assert said(plan) == ["input[0].evdev: no such input device"]


# -- given back ----------------------------------------------------------------------------------


class UsbKernel(FakeKernel):
    """Probing an interface binds the driver that `.model/usb` names for it."""

    def _store_probe(self, path: Path, text: str) -> None:
        interface = self.root / "sys/bus/usb/devices" / text.strip()
        if not interface.exists():
            raise OSError(errno.ENODEV, "No such device", str(path))
        driver = (self.root / ".model/usb").read_text()
        if driver and not (interface / "driver").is_symlink():
            (interface / "driver").symlink_to(self.root / "sys/bus/usb/drivers" / driver)


@pytest.fixture
def kernel(tree: UsbTree) -> UsbKernel:
    kernel = UsbKernel(tree.root)
    tree.write("sys/bus/usb/drivers_probe", b"")
    tree.write(".model/usb", b"usbhid")
    return kernel


def driver(tree: UsbTree, interface: str) -> str | None:
    path = tree.root / "sys/bus/usb/devices" / interface / "driver"
    return path.readlink().name if path.is_symlink() else None


def test_interfaces_that_a_killed_qemu_left_are_probed(tree: UsbTree, kernel: UsbKernel) -> None:
    tree.plug("1-4", DONGLE, drivers=("usbhid", ""))
    step, handler = LendUsb(id=DONGLE), LendUsbHandler()
    captured = handler.capture(kernel.host(), step)
    assert captured == {"drivers": {"1-4:1.0": "usbhid", "1-4:1.1": None}}
    handler.apply(kernel.host(), step, captured)
    (tree.root / "sys/bus/usb/devices/1-4:1.0/driver").unlink()
    told = handler.undo(kernel.host(), step, captured)
    assert told == "the USB device 046d:c52b is back on usbhid"
    assert (driver(tree, "1-4:1.0"), driver(tree, "1-4:1.1")) == ("usbhid", None)
    assert kernel.log() == ["sys/bus/usb/drivers_probe 1-4:1.0"]
    handler.undo(kernel.host(), step, captured)
    assert len(kernel.log()) == 1


def test_a_device_that_moved_to_another_port_is_given_back_there(
    tree: UsbTree, kernel: UsbKernel
) -> None:
    tree.plug("1-4", DONGLE)
    step, handler = LendUsb(id=DONGLE), LendUsbHandler()
    captured = handler.capture(kernel.host(), step)
    tree.unplug("1-4")
    assert handler.undo(kernel.host(), step, captured) is None
    tree.plug("2-1", DONGLE, drivers=("",))
    handler.undo(kernel.host(), step, captured)
    assert driver(tree, "2-1:1.0") == "usbhid"


def test_one_that_stays_without_a_driver_is_an_error(tree: UsbTree, kernel: UsbKernel) -> None:
    tree.plug("1-4", DONGLE)
    step, handler = LendUsb(name="1-4", id=DONGLE), LendUsbHandler()
    captured = handler.capture(kernel.host(), step)
    (tree.root / "sys/bus/usb/devices/1-4:1.0/driver").unlink()
    (tree.root / ".model/usb").write_text("")
    with pytest.raises(HostError, match="stays without a driver"):
        handler.undo(kernel.host(), step, captured)
    tree.unplug("1-4")
    tree.plug("1-4", STICK)
    with pytest.raises(HostError, match="another USB device"):
        handler.apply(kernel.host(), step, captured)
    assert handler.undo(kernel.host(), step, captured) is None


# -- plugged in again ----------------------------------------------------------------------------


def test_a_device_is_followed_and_twins_are_not_guessed(tree: UsbTree) -> None:
    plan = usb_plan(tree, f'[[usb]]\ndevice = "{DONGLE}"\noptional = true\n')
    found = pluggable(plan.usbs[0], tree.root)
    assert found.find("") == ""
    tree.plug("1-4", DONGLE)
    first = found.find("")
    assert first == "/dev/bus/usb/001/001"
    tree.plug("1-5", DONGLE)
    assert found.find(first) == first
    assert found.find("") == ""
    tree.unplug("1-4")
    assert found.find(first) == "/dev/bus/usb/001/002"
    assert found.device("/dev/fdset/7") == {
        "driver": "usb-host", "id": "usbdev0", "bus": "usb.0", "port": "9",
        "hostdevice": "/dev/fdset/7"}


# -- shared memory, vsock ------------------------------------------------------------------------


def test_shared_memory_comes_and_goes(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    (tmp_path / "dev/shm").mkdir(parents=True)
    step = MakeShared(path=HostPath("/dev/shm/x"), size=1 << 20, uid=os.geteuid(),
                      gid=os.getegid(), mode=0o640)
    handler, file = MakeSharedHandler(), tmp_path / "dev/shm/x"
    captured = handler.capture(kernel.host(), step)
    handler.apply(kernel.host(), step, captured)
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (1 << 20, 0o640)
    assert file.stat().st_blocks * 512 >= 1 << 20
    handler.undo(kernel.host(), step, captured)
    assert not file.exists()
    handler.undo(kernel.host(), step, captured)

    file.write_bytes(b"")  # systemd-tmpfiles makes such
    captured = handler.capture(kernel.host(), step)
    handler.apply(kernel.host(), step, captured)
    handler.undo(kernel.host(), step, captured)
    assert file.read_bytes() == b""
    file.write_bytes(bytes(100))
    with pytest.raises(HostError, match="cannot be the guest's shared memory"):
        handler.capture(kernel.host(), step)
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(HostError, match="no regular file"):
        handler.capture(kernel.host(), step)


def test_memory_that_qemu_makes_is_only_removed(tmp_path: Path) -> None:
    kernel, file = FakeKernel(tmp_path), tmp_path / "dev/shm/x"
    file.parent.mkdir(parents=True)
    step = MakeShared(path=HostPath("/dev/shm/x"), size=1 << 20, uid=os.geteuid(),
                      gid=os.getegid(), ours=False)
    handler, host_ = MakeSharedHandler(), kernel.host()
    captured = handler.capture(host_, step)
    handler.apply(host_, step, captured)
    assert not file.exists()
    handler.undo(host_, step, captured)  # QEMU had not come that far
    file.write_bytes(bytes(1 << 20))
    other = msgspec.structs.replace(step, uid=os.geteuid() + 1)
    handler.undo(host_, other, captured)
    assert file.exists()  # somebody else's by now
    handler.undo(host_, step, captured)
    assert not file.exists()
    file.write_bytes(bytes(1 << 20))
    captured = handler.capture(host_, step)
    handler.apply(host_, step, captured)
    handler.undo(host_, step, captured)
    assert file.exists()  # it was there before


def test_vsock_addresses_in_use(tree: UsbTree) -> None:
    tree.write("proc/7/cmdline", b"qemu\0-device\0vhost-vsock-pci,guest-cid=42,id=v\0")
    tree.write("proc/8/cmdline", b'qemu\0-device\0{"driver":"vhost-vsock-pci","guest-cid":43}\0')
    tree.write("proc/9/cmdline", b"vim\0")
    assert read_cids(tree.root) == (42, 43)
    first = planned("[vsock]\n", host(qemu=ANY)).vsock
    assert first is not None and first.cid > 2
    second = planned("[vsock]\n", host(qemu=ANY, vsock_cids=(first.cid,))).vsock
    assert second is not None and second.cid == first.cid + 1
    plan = planned("[vsock]\ncid = 42\n", host(qemu=ANY, vsock_cids=(42,)))
    assert said(plan) == ["vsock.cid: a machine that runs has this vsock address"]
