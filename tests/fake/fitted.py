"""Recorded hosts with what one family of keys is about added to them: a network card with virtual
functions, control groups, a Wayland desktop with gfxstream, and the like."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from qlaunch.facts.cgroup_model import CgroupLevel, CpuPolicy, Tuning
from qlaunch.facts.model import HostFacts, PciDevice, QemuBinary
from qlaunch.facts.net_model import Link
from qlaunch.facts.usb_model import HostInput, UsbDevice
from qlaunch.facts.vgpu_model import Sriov, VgpuFacts
from qlaunch.values import CpuSet, MacAddress, PciAddress, PciId

_NIC = PciAddress("0000:0b:00.0")
_RUTABAGA = "virtio-vga-rutabaga"


def fitted(name: str, facts: HostFacts) -> HostFacts:
    """The facts as the golden profile of that name wants them."""
    return _FITS[name](facts) if name in _FITS else facts


def _groups(facts: HostFacts) -> HostFacts:
    names = ("memory", "pids")
    slice_ = CgroupLevel(path="/user.slice", has=names, on=names, root=True)
    return replace(facts, cgroup=(slice_,))


def _own_cpus(facts: HostFacts) -> HostFacts:
    names = ("memory", "pids", "cpuset")
    offered = ("performance", "schedutil")
    policies = tuple(
        CpuPolicy(cpus=CpuSet((cpu.id,)), governor=offered[1], offered=offered)
        for cpu in facts.cpus or ()
    )
    return replace(
        facts, cgroup=(
            CgroupLevel(path="/user.slice", has=names, on=names, root=True),
            CgroupLevel(path="", has=names, on=names, top=True, root=True),
        ), tuning=Tuning(policies=policies, irqbalance=812, systemd=True),
    )


def _board(facts: HostFacts) -> HostFacts:
    return replace(facts, dmi={"board_name": "M5A99X", "bios_vendor": "AMI", "board_serial": None})


def _second_link(facts: HostFacts) -> HostFacts:
    link = Link(name="eth1", index=9, kind="physical", up=True, mac="10:bf:48:00:00:09")
    return replace(facts, links=(*(facts.links or ()), link))


def _gfxstream(facts: HostFacts) -> HostFacts:
    desktop, qemu = facts.desktop, facts.qemu
    if desktop is None or qemu is None or qemu.version < (8, 2):
        return facts
    sockets = {**desktop.sockets, "wayland": "/run/user/1000/wayland-0"}
    return replace(
        facts, desktop=replace(desktop, sockets=sockets), qemu=_with_device(qemu, _RUTABAGA)
    )


def _with_device(qemu: QemuBinary, name: str) -> QemuBinary:
    return replace(qemu, devices=(*qemu.devices, name))


def _kvmfr(facts: HostFacts) -> HostFacts:
    return replace(facts, desktop=facts.desktop and replace(facts.desktop, kvmfr=(64 << 20,)))


def _plugged(facts: HostFacts) -> HostFacts:
    stick = UsbDevice(name="2-3", id="0781:5567", bus=2, address=7, serial="4C530001",
                      text="SanDisk Cruzer")
    other = UsbDevice(name="1-4.2", id="0403:6001", bus=1, address=12, text="FTDI FT232")
    return replace(facts, usb=(stick, other), inputs=())


def _keyboards(facts: HostFacts) -> HostFacts:
    by_id = "/dev/input/by-id/usb-"
    names = {"First-event-kbd": "keyboard", "Second-event-kbd": "keyboard", "Mouse-event-mouse":
             "mouse", "": "keyboard"}
    return replace(facts, inputs=tuple(
        HostInput(node=f"/dev/input/event{number}", name=name,
                  kind="mouse" if kind == "mouse" else "keyboard",
                  paths=(f"{by_id}{name}",) if name else ())
        for number, (name, kind) in enumerate(names.items())
    ))


def _virtual_functions(facts: HostFacts) -> HostFacts:
    card = PciDevice(
        address=_NIC, id=PciId("8086:1572"), class_code=0x020000, driver="i40e", iommu_group=30,
        header_type=0, reset_methods=("flr",), sriov_total=32, sriov_count=0, holders=(),
    )
    link = Link(name="enp11s0", index=8, kind="physical", up=True, pci=_NIC,
                mac=MacAddress("3c:fd:fe:00:00:01"))
    shape = Sriov(address=_NIC, offset=16, stride=1, vf_id=PciId("8086:154c"))
    return replace(
        facts, pci=(*(facts.pci or ()), card), links=(*(facts.links or ()), link),
        vgpu=VgpuFacts(sriov=(shape,)),
    )


_FITS: dict[str, Callable[[HostFacts], HostFacts]] = {
    "memory": _groups, "isolate": _own_cpus, "kernel": _board, "links": _second_link,
    "gfxstream": _gfxstream, "kvmfr": _kvmfr, "usb": _plugged, "evdev": _keyboards,
    "vgpu-net": _virtual_functions,
}
