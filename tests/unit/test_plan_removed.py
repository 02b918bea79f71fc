"""[qemu] args that were written for an older QEMU."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import render_argv
from qlaunch.plan.model import Plan
from tests.fake.plans import QEMU, host, planned

OLD, NEW = (7, 2, 0), (10, 0, 2)


def plan_of(*words: str, version: tuple[int, int, int] = NEW) -> Plan:
    text = f"[qemu]\nargs = {json.dumps(list(words))}\n"
    return planned(text, host(qemu=replace(QEMU, version=version)))


def told(plan: Plan) -> list[tuple[str, str, str]]:
    return [(p.severity, p.where, p.hint) for p in plan.problems if p.where.startswith("qemu.args")]


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (("-no-hpet",), ("-machine", "hpet=off")),
        (("--no-acpi",), ("-machine", "acpi=off")),
        (("-realtime", "mlock=on"), ("-overcommit", "mem-lock=on")),
        (("-rtc-td-hack",), ("-rtc", "driftfix=slew")),
        (("-no-kvm-pit",), ()),
        (("-balloon", "none"), ()),
        (("-chardev", "tty,id=a,path=/dev/ttyS0"), ("-chardev", "serial,id=a,path=/dev/ttyS0")),
        (("-chardev", "socket,id=a,path=/s,server,nowait"),
         ("-chardev", "socket,id=a,path=/s,server=on,wait=off")),
        (("-serial", "tcp::4444,server,nowait"), ("-serial", "tcp::4444,server=on,wait=off")),
        (("-vnc", ":0,password"), ("-vnc", ":0,password=on")),
        (("-drive", "file=/a,,b,if=virtio,scsi=off"), ("-drive", "file=/a,,b,if=virtio")),
        (("-drive", "scsi=off,file=/a"), ("-drive", "file=/a")),
        (("-device", "virtio-blk-pci,scsi=off,drive=a"), ("-device", "virtio-blk-pci,drive=a")),
        (("-display", "sdl,alt_grab=on"), ("-display", "sdl,grab-mod=lshift-lctrl-lalt")),
    ],
)
def test_what_has_an_exact_successor_is_translated(
    words: tuple[str, ...], becomes: tuple[str, ...]
) -> None:
    plan = plan_of("-k", "de", *words, "-usbdevice", "tablet")
    assert plan.args == ("-k", "de", *becomes, "-usbdevice", "tablet")
    assert render_argv(plan)[-len(plan.args):] == list(plan.args)
    assert {(s, w) for s, w, _ in told(plan)} == {("note", "qemu.args[2]")}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-soundhw", "hda"), "[audio]"),
        (("-device", "virtio-blk-pci,scsi=on,drive=a"), 'bus = "scsi"'),
        (("-device", "pci-assign,host=03:00.0"), "[[pci]]"),
        (("-drive", "file=/a,serial=x"), "serial of a [[disk]]"),
        (("-drive", "file=/a,boot=on"), "boot = 1"),
        (("-net", "nic,vlan=0"), "[[net]]"),
        (("-no-kvm",), 'machine.accel = "tcg"'),
        (("-balloon", "virtio"), "[balloon]"),
        (("-usbdevice", "host:1234:5678"), "[[usb]]"),
        (("-bt", "hci"), "[[usb]]"),
        (("-watchdog", "i6300esb"), "[watchdog]"),
    ],
)
def test_for_the_rest_the_key_is_named(words: tuple[str, ...], hint: str) -> None:
    plan = plan_of(*words)
    ((severity, where, said),) = told(plan)
    assert (severity, where) == ("error", "qemu.args[0]")
    assert hint in said
    assert plan.args is None


@pytest.mark.parametrize(
    "words",
    [
        ("-no-hpet",), ("-no-acpi",), ("-singlestep",),
        ("-chardev", "tty,id=a,path=/dev/ttyS0"),
        ("-device", "virtio-blk-pci,scsi=off,drive=a"),
    ],
)
def test_what_this_qemu_still_has_is_left_alone(words: tuple[str, ...]) -> None:
    plan = plan_of(*words, version=OLD)
    assert (plan.args, told(plan)) == (None, [])
    assert render_argv(plan)[-len(words):] == list(words)


@pytest.mark.parametrize(
    "words",
    [
        ("-append", "-no-hpet"), ("-device", "virtio-scsi-pci,scsi=off"), ("-usbdevice", "tablet"),
        ("-cpu", "host,+aes"), ("-enable-kvm",), ("-net", "nic,model=e1000"), ("-device",),
        ("-drive", "file=/server,,nowait"), ("-chardev", "socket,id=server,path=/s"),
    ],
)
def test_what_only_looks_like_it_is_left_alone(words: tuple[str, ...]) -> None:
    plan = plan_of(*words)
    assert (plan.args, told(plan)) == (None, [])


def test_nobody_looked_at_qemu() -> None:
    plan = planned('[qemu]\nargs = ["-no-hpet"]\n', host(qemu=None))
    assert plan.args is None
