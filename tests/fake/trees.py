"""Recorded machines: small /sys, /proc and /dev trees that the probes read as they read "/".

A `Tree` writes what the kernel would show, nothing more: attribute files end in a newline, an
empty driver_override is "(null)", class directories hang below the device that they belong to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

PCI = "sys/bus/pci/devices"
CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"


class Tree:
    """A root directory and the ways to furnish it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chars = 0

    def write(self, path: str, text: str | bytes = "") -> Path:
        """A file with a newline after its text; bytes go in as they are."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())
        return file

    def directory(self, path: str) -> Path:
        made = self.root / path
        made.mkdir(parents=True, exist_ok=True)
        return made

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def append(self, path: str, line: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(line + "\n")

    # -- CPUs and memory ------------------------------------------------------------------------

    def cpus(
        self, present: str, online: str | None = None, isolated: str = "", flags: str = "svm",
        vendor: str = "AuthenticAMD",
    ) -> None:
        self.write(f"{CPU}/present", present)
        self.write(f"{CPU}/online", online or present)
        self.write(f"{CPU}/isolated", isolated)
        self.write("proc/cpuinfo", f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}")

    def cpu(
        self, number: int, core: int, siblings: str, *, package: int = 0, l3: str = "",
        l3_kib: int = 8192, max_khz: int | None = None,
    ) -> None:
        path = f"{CPU}/cpu{number}"
        self.write(f"{path}/topology/physical_package_id", str(package))
        self.write(f"{path}/topology/core_id", str(core))
        self.write(f"{path}/topology/thread_siblings_list", siblings)
        for index, level in enumerate((1, 1, 2, 3) if l3 else (1, 1, 2)):
            self.write(f"{path}/cache/index{index}/level", str(level))
            self.write(f"{path}/cache/index{index}/shared_cpu_list", l3 if level == 3 else siblings)
            self.write(f"{path}/cache/index{index}/size", f"{l3_kib if level == 3 else 32}K")
        if max_khz:
            self.write(f"{path}/cpufreq/cpuinfo_max_freq", str(max_khz))

    def node(
        self, number: int, cpus: str, total_mib: int, free_mib: int,
        hugepages: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        """`hugepages`: KiB a page → (total, free). Of the free memory, 1 MiB is page cache."""
        path = f"{NODE}/node{number}"
        self.write(f"{path}/cpulist", cpus)
        self.write(
            f"{path}/meminfo",
            f"Node {number} MemTotal:       {total_mib << 10} kB\n"
            f"Node {number} MemFree:        {(free_mib - 1) << 10} kB\n"
            f"Node {number} Inactive(file): 1024 kB\n"
            f"Node {number} HugePages_Total:     0",
        )
        for size, (total, free) in (hugepages or {2048: (0, 0), 1048576: (0, 0)}).items():
            self.write(f"{path}/hugepages/hugepages-{size}kB/nr_hugepages", str(total))
            self.write(f"{path}/hugepages/hugepages-{size}kB/free_hugepages", str(free))

    # -- PCI ------------------------------------------------------------------------------------

    def pci(
        self, address: str, ident: str, class_code: int, *, driver: str | None = None,
        group: int | None = None, subsystem: str = "0000:0000", revision: int = 0,
        header_type: int = 0, override: str = "(null)", reset: str | None = "",
        power: str = "D0", numa: int = -1, uevent: bool = True, **attributes: str,
    ) -> str:
        """One function; `attributes` are further files. Returns its directory below the root."""
        path = f"{PCI}/{address}"
        vendor, device = ident.split(":")
        subvendor, subdevice = subsystem.split(":")
        ids = (vendor, device, subvendor, subdevice)
        v, d, sv, sd = (text.upper().rjust(8, "0") for text in ids)
        base, sub, interface = class_code >> 16, class_code >> 8 & 255, class_code & 255
        modalias = f"pci:v{v}d{d}sv{sv}sd{sd}bc{base:02X}sc{sub:02X}i{interface:02X}"
        lines = [f"DRIVER={driver}"] if driver else []
        lines += [
            f"PCI_CLASS={class_code:X}", f"PCI_ID={ident.upper()}",
            f"PCI_SUBSYS_ID={subsystem.upper()}", f"PCI_SLOT_NAME={address}",
            f"MODALIAS={modalias}",
        ]
        files: dict[str, str | bytes] = {
            "vendor": f"0x{vendor}", "device": f"0x{device}", "class": f"0x{class_code:06x}",
            "subsystem_vendor": f"0x{subvendor}", "subsystem_device": f"0x{subdevice}",
            "revision": f"0x{revision:02x}", "driver_override": override, "power_state": power,
            "numa_node": str(numa), "modalias": modalias,
            "config": bytes(14) + bytes((header_type,)) + bytes(49),
            **attributes,
        }
        if uevent:
            files["uevent"] = "\n".join(lines)
        if reset is not None:
            files["reset_method"] = reset
        for name, text in files.items():
            self.write(f"{path}/{name}", text)
        if driver:
            self.link(f"{path}/driver", f"../../../bus/pci/drivers/{driver}")
        if group is not None:
            self.directory(f"sys/kernel/iommu_groups/{group}")
            self.link(f"{path}/iommu_group", f"../../../kernel/iommu_groups/{group}")
        return path

    def char(self, where: str, number: str = "") -> None:
        """A character device's directory; a `number` of its own unless told."""
        self.directory(where)
        self.chars += 1
        self.link(f"sys/dev/char/{number or f'240:{self.chars}'}", f"../../../{where}")

    def drm(self, device: str, card: int, render: int | None = None, fb: int | None = None) -> None:
        self.char(f"{device}/drm/card{card}")
        self.directory(f"{device}/drm/card{card}/card{card}-HDMI-A-1")
        if render is not None:
            name = f"renderD{render}"
            self.char(f"{device}/drm/{name}")
            self.link(f"{device}/drm/{name}/device", f"../../../{device.rpartition('/')[2]}")
            self.link(f"sys/class/drm/{name}", f"../../../{device}/drm/{name}")
            self.write(f"dev/dri/{name}")
        if fb is not None:
            self.char(f"{device}/graphics/fb{fb}")

    def sound(self, device: str, card: int) -> None:
        self.directory(f"{device}/sound/card{card}/input7")
        for name in (f"controlC{card}", f"pcmC{card}D3p"):
            self.char(f"{device}/sound/card{card}/{name}")

    # -- block devices and what is on them ------------------------------------------------------

    def disk(
        self, where: str, name: str, number: str, sectors: int,
        partitions: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        """`where` gets `block/NAME`; `partitions`: name → (number, sectors of 512 bytes)."""
        path = f"{where}/block/{name}"
        self._block(path, name, number, sectors)
        for part, (part_number, part_sectors) in (partitions or {}).items():
            self._block(f"{path}/{part}", part, part_number, part_sectors)
            self.write(f"{path}/{part}/partition", "1")

    def _block(self, path: str, name: str, number: str, sectors: int) -> None:
        self.write(f"{path}/dev", number)
        self.write(f"{path}/size", str(sectors))
        self.directory(f"{path}/holders")
        up = os.path.relpath(self.root / path, self.root / "sys/class/block")
        self.link(f"sys/class/block/{name}", up)
        self.write(f"dev/{name}")

    def stacked(self, device: str, number: str, below: Sequence[str], **dm: str) -> None:
        """A device mapper or md device on top of others; `dm`: its name and uuid."""
        self._block(f"sys/devices/virtual/block/{device}", device, number, 2048)
        for key, text in dm.items():
            self.write(f"sys/devices/virtual/block/{device}/dm/{key}", text)
        for lower in below:
            self.link(f"sys/class/block/{lower}/holders/{device}", f"../../{device}")

    def mount(self, number: str, point: str, source: str, kind: str = "ext4") -> None:
        self.append(
            "proc/self/mountinfo", f"27 1 {number} / {point} rw,relatime - {kind} {source} rw"
        )

    def swap(self, node: str) -> None:
        if not (self.root / "proc/swaps").exists():
            self.append("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")
        self.append("proc/swaps", f"{node}                partition\t1000\t\t0\t\t-2")

    # -- network --------------------------------------------------------------------------------

    def link_up(
        self, name: str, index: int, *, below: str | None = None, flags: int = 0x1003,
        mac: str = "52:54:00:00:00:01", **files: str,
    ) -> None:
        """A link; `below` is the device directory (under the root) that it hangs on."""
        where = f"{below}/net/{name}" if below else f"sys/devices/virtual/net/{name}"
        for key, text in {
            "ifindex": str(index), "flags": hex(flags), "address": mac, **files
        }.items():
            self.write(f"{where}/{key}", text)
        if below:
            self.link(f"{where}/device", "../..")
        self.link(
            f"sys/class/net/{name}",
            os.path.relpath(self.root / where, self.root / "sys/class/net"),
        )

    def enslave(self, link: str, bridge: str) -> None:
        self.link(f"sys/class/net/{link}/master", f"../{bridge}")
        self.link(f"sys/class/net/{link}/upper_{bridge}", f"../{bridge}")
        self.directory(f"sys/class/net/{bridge}/brif/{link}")

    def route(self, link: str, network: str = "00000000", mask: str = "00000000") -> None:
        if not (self.root / "proc/net/route").exists():
            self.append("proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMask")
        words = (link, network, "00000000", "0003", "0", "0", "0", mask, "0", "0", "0")
        self.append("proc/net/route", "\t".join(words))

    # -- processes ------------------------------------------------------------------------------

    def process(
        self, pid: int, comm: str, cgroup: str, nodes: Sequence[str] = (), program: str = ""
    ) -> None:
        self.write(f"proc/{pid}/comm", comm)
        self.write(f"proc/{pid}/cmdline", f"{program or comm}\0--flag\0".encode())
        self.write(f"proc/{pid}/cgroup", cgroup if ":" in cgroup else f"0::{cgroup}")
        self.directory(f"proc/{pid}/fd")
        for number, node in enumerate(("/dev/null", *nodes, "socket:[1234]")):
            self.link(f"proc/{pid}/fd/{number}", node)


def smt8(root: Path) -> Tree:
    """Four cores with two threads, numbered as Intel does: 0-3, then 4-7 their second threads."""
    tree = Tree(root)
    tree.cpus("0-7", flags="vmx", vendor="GenuineIntel")
    for cpu in range(8):
        core = cpu % 4
        tree.cpu(cpu, core, f"{core},{core + 4}", l3="0-7", max_khz=4000000)
    tree.node(0, "0-7", 16384, 8192)
    return tree


def hybrid(root: Path) -> Tree:
    """Two performance cores with two threads and four efficient cores without."""
    tree = Tree(root)
    tree.cpus("0-7", flags="vmx", vendor="GenuineIntel")
    for cpu in range(4):
        tree.cpu(cpu, cpu // 2, f"{cpu & ~1}-{cpu | 1}", l3="0-7", max_khz=5000000)
    for cpu in range(4, 8):
        tree.cpu(cpu, cpu, str(cpu), l3="0-7", max_khz=3800000)
    tree.write("sys/devices/cpu_core/cpus", "0-3")
    tree.write("sys/devices/cpu_atom/cpus", "4-7")
    return tree


def numa2(root: Path) -> Tree:
    """Two packages on two nodes; CPU 3 is offline, 6 and 7 are isolated."""
    tree = Tree(root)
    tree.cpus("0-7", online="0-2,4-7", isolated="6-7")
    for cpu in (0, 1, 2, 4, 5, 6, 7):
        package = cpu // 4
        tree.cpu(
            cpu, cpu % 4, str(cpu), package=package, l3="4-7" if package else "0-2",
            l3_kib=32768 if package else 16384,
        )
    tree.node(0, "0-2", 8192, 4096, {2048: (512, 500)})
    tree.node(1, "4-7", 4096, 1024, {2048: (0, 0), 1048576: (2, 1)})
    return tree


def card_on_ioh3420(tree: Tree) -> None:
    """A card and its audio in one group with their port, as below ioh3420, which has no ACS."""
    tree.pci("0000:00:10.0", "8086:3420", 0x060400, driver="pcieport", group=5, header_type=0x81)
    gpu = tree.pci(
        "0000:01:00.0", "1234:1111", 0x030000, driver="bochs-drm", group=5, header_type=0x80,
        subsystem="1af4:1100", reset="bus", boot_vga="1",
    )
    audio = tree.pci(
        "0000:01:00.1", "8086:2668", 0x040300, driver="snd_hda_intel", group=5, reset="pm bus"
    )
    tree.drm(gpu, 0, 128, fb=0)
    tree.sound(audio, 1)
    tree.write("sys/bus/pci/slots/1/address", "0000:01:00")
