"""A fake host with everything that a run can change, and a profile that makes it change all of it.

The kernel of slices and that of networks in one, with USB devices and shared memory beside them.
Steps are those that the planner makes of the profile, so that what is tried is what would be run.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from qlaunch.facts.cgroup import read_cgroup
from qlaunch.facts.inputs import read_inputs
from qlaunch.facts.model import HostFacts, HostFile, Kernel
from qlaunch.facts.net_model import Link
from qlaunch.facts.tuning import read_tuning
from qlaunch.facts.usb import read_usb
from qlaunch.facts.vgpu_model import MdevParent, MdevType, NvidiaType, NvidiaVf, Sriov, VgpuFacts
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import Step
from qlaunch.values import PciAddress, PciId
from tests.fake.kernel_cpus import CpuKernel
from tests.fake.kernel_tree import snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.network import FakeNetwork
from tests.fake.plans import AUDIO, NET, QEMU, ROOT, device, host, planned, said
from tests.fake.usb import KEYBOARD, UsbTree

GPU, SOUND, USB = "0000:01:00.0", "0000:01:00.1", "0000:00:14.0"
NIC, NVIDIA, NVIDIA_VF = "0000:03:00.0", "0000:41:00.0", "0000:41:00.4"
EVENT, DONGLE = "/dev/input/event3", "046d:c52b"
EFIFB = "sys/bus/platform/drivers/efi-framebuffer"
FOREIGN = "11111111-2222-3333-4444-555555555555"  # somebody's mediated device, which stays

PROFILE = f"""
[machine]
memory = "4M"
hugepages = "2M"
[cpu]
cores = 2
isolate = true
governor = "performance"
[cpu.pin]
vcpus = ["1", "2"]
[[pci]]
device = "{GPU}"
functions = "all"
reset = "pm"
[[pci]]
device = "{USB}"
[[vgpu]]
kind = "mdev"
parent = "mdpy"
type = "mdpy-vga"
[[vgpu]]
kind = "vf"
parent = "{NIC}"
mac = "52:54:00:00:00:aa"
vlan = 7
[[vgpu]]
type = "NVIDIA RTX6000-Ada-8Q"
[[usb]]
device = "{DONGLE}"
[[input]]
evdev = "{EVENT}"
[[shmem]]
name = "looking-glass"
size = "1M"
[[net]]
nat = {{ net = "192.168.77.0/24", forward = ["tcp:2222:22"] }}
[limits]
memory = "512M"
pids = 200
[[net]]
bridge = "br7"
make_bridge = true
[[net]]
macvtap = "eth0"
"""


@dataclass
class WholeKernel(CpuKernel, VgpuKernel, FakeNetwork):
    """A Door and a Net; see the modules of both."""

    def fill(self) -> None:
        """The host that PROFILE is for."""
        self.add_device(GPU, driver="bochs", methods="flr pm", nodes="drm/card")
        self.add_device(SOUND, ids="8086:2668", driver="snd_hda_intel", methods="pm")
        self.add_device(USB, ids="1b36:000d", driver="xhci_hcd", group=2, methods="flr")
        (self.device(USB) / "power/control").write_text("auto\n")
        self.add_device(NIC, ids="8086:1521", driver="igb", group=3, methods="flr")
        self.add_sriov(NIC, 2, vf="1520", matches="igbvf")
        (self.device(NIC) / "net/eno1").mkdir(parents=True)
        self.add_device(NVIDIA, ids="10de:26b1", driver="nvidia", group=40, methods="bus")
        self.add_sriov(NVIDIA, 1, offset=4, matches="nvidia")
        self.write(self.device(NVIDIA) / "sriov_numvfs", b"1")
        self.add_nvidia(NVIDIA, [(557, "NVIDIA RTX6000-Ada-8Q", 8)], pool=16)
        parent = self.add_parent("mdpy", {"mdpy-vga": 1}, pool=4)
        self.write(parent / "mdev_supported_types/mdpy-vga/create", FOREIGN.encode())
        self.add_hugepages(2, 1, limit=50)
        links = json.loads((self.root / "links.json").read_text())
        vfs = [{"mac": f"02:00:00:00:00:0{n}", "vlan": 0} for n in range(2)]
        links["eno1"] = {"kind": "", "mac": "10:00:00:00:00:02", "vfs": vfs}
        (self.root / "links.json").write_text(json.dumps(links))
        self.add_cgroups()
        self.add_cpus(online="0-2")
        for name in ("services", "users"):
            self.add_group(name, tasks="" if name == "users" else "88\n")
        for number, cpus in ((24, "0-3"), (25, "2"), (27, "0")):
            self.add_irq(number, cpus)
        self.add_irq(26, "1", managed=True)
        usb = UsbTree(self.root)
        usb.plug("1-4", DONGLE, drivers=("usbhid", "usbhid"))
        usb.write("sys/bus/usb/drivers_probe", b"")
        usb.input(3, "A keyboard", keys=KEYBOARD)
        usb.input(4, "Another", keys=KEYBOARD)
        (self.root / EVENT[1:]).chmod(0o640)
        self.put("dev/shm/other", "")
        (self.device(GPU) / "boot_vga").write_text("1\n")
        self.add_console()
        (self.root / "run/qlaunch").mkdir(parents=True)
        (self.root / "run/qlaunch").chmod(0o711 if os.geteuid() == 0 else 0o700)

    def add_console(self) -> None:
        """fbcon on the firmware's framebuffer."""
        self.put("sys/class/vtconsole/vtcon0/name", "(S) dummy device\n")
        self.put("sys/class/vtconsole/vtcon0/bind", "0\n")
        self.put("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
        self.put("sys/class/vtconsole/vtcon1/bind", "1\n")
        for name in ("bind", "unbind"):
            self.put(f"{EFIFB}/{name}", "")
        (self.root / EFIFB / "efi-framebuffer.0").symlink_to("../../devices/efi-framebuffer.0")

    def facts(self) -> HostFacts:
        """What a probe says of it; the parts that it cannot read of a fake are told here."""
        ada, physical = "NVIDIA RTX6000-Ada-8Q", PciAddress(NVIDIA)
        vgpu = VgpuFacts(
            parents=(MdevParent(name="mdpy", types=(
                MdevType(id="mdpy-vga", api="vfio-pci", available=3),)),),
            sriov=(Sriov(address=PciAddress(NIC), offset=1, vf_id=PciId("8086:1520")),),
            nvidia=(NvidiaVf(address=PciAddress(NVIDIA_VF), creatable=(NvidiaType(557, ada),)),),
        )
        vf = device(NVIDIA_VF[5:], "10de:26b1", driver="nvidia", group=self.group(NVIDIA_VF),
                    physfn=physical)
        return host(
            device("01:00.0", "1234:1111", driver="bochs", boot_vga=True),
            device("01:00.1", "8086:2668", AUDIO, driver="snd_hda_intel"),
            device("00:14.0", "1b36:000d", 0x0C0330, group=2, driver="xhci_hcd"),
            device("03:00.0", "8086:1521", NET, group=3, driver="igb", sriov_total=2,
                   sriov_count=0),
            device("41:00.0", "10de:26b1", group=40, driver="nvidia", sriov_total=1,
                   sriov_count=1),
            vf, vgpu=vgpu, usb=read_usb(self.root, ROOT),
            inputs=read_inputs(self.root, (EVENT,), ROOT),
            links=(Link(name="eth0", kind="physical", up=True),), qemu=replace(QEMU, devices=()),
            cgroup=read_cgroup(self.root), tuning=read_tuning(self.root),
            kernel=Kernel(release="5.15.0-test"),
            files=(HostFile(path="/dev/kvm", kind="char"),
                   HostFile(path=EVENT, kind="char")),
        )  # fmt: skip

    def plan(self) -> Plan:
        """The plan of PROFILE, to be run below the root by whoever runs the tests."""
        plan = planned(PROFILE, self.facts())
        assert said(plan) == []
        base = self.root / "run/qlaunch/vm"
        steps = plan.steps if os.geteuid() == 0 else tuple(map(_as_us, plan.steps))
        return replace(
            plan, steps=steps, account=None, runtime_dir=str(base), socket_dir=str(base),
            state_dir=str(self.root / ".model/state"),
        )

    def qemu_takes_usb(self) -> None:
        """QEMU detaches the drivers of a device it opens; killed, it leaves it so."""
        for driver in (self.root / "sys/bus/usb/devices").glob("1-4:*/driver"):
            driver.unlink()

    def state(self) -> dict[str, Any]:
        """The host: trees, links, firewall tables and what lies in /run."""
        links = (self.root / "links.json").read_text()
        return {**snapshot(self.root), **snapshot(self.root, ("nft", "run")), "links": links}

    # What the two do not know

    def _vf(self, links: dict[str, Any], ifname: str, number: int) -> dict[str, Any]:
        vf: dict[str, Any] = links[ifname]["vfs"][number]
        return dict(vf)

    def _set_vf(
        self, links: dict[str, Any], ifname: str, number: int, mac: str | None, vlan: int | None
    ) -> dict[str, Any]:
        wanted = {"mac": mac, "vlan": vlan}
        links[ifname]["vfs"][number] |= {k: v for k, v in wanted.items() if v is not None}
        return {}

    def _store(self, path: Path, text: str) -> None:
        if path == self.root / "sys/bus/usb/drivers_probe":
            interface = self.root / "sys/bus/usb/devices" / text.strip()
            if not interface.exists():
                raise OSError(errno.ENODEV, "No such device", str(path))
            if not (interface / "driver").is_symlink():
                (interface / "driver").symlink_to(self.root / "sys/bus/usb/drivers/usbhid")
        elif path.parent == self.root / EFIFB:
            link = path.parent / text.strip()
            if link.is_symlink() == (path.name == "bind"):
                raise OSError(errno.ENODEV, "No such device", str(path))
            link.unlink() if link.is_symlink() else link.symlink_to(f"../../devices/{link.name}")
        elif path.is_relative_to(self.root / "sys/class/vtconsole"):
            path.write_text(f"{text.strip()}\n")  # `bind` is a driver's elsewhere
        else:
            super()._store(path, text)


def _as_us(step: Step) -> Step:
    """Nodes go to whoever runs the test: only root may give them to another."""
    if not hasattr(step, "uid"):
        return step
    return replace(step, uid=os.geteuid(), gid=os.getegid())
