"""The machines whose facts are checked in below tests/data/facts, and how they are made.

`python -m tests.fake.snapshots` writes fx8120.json and plain.json anew; with `--qemu` it first
asks the installed QEMU 7.2 and that of contrib/qemu10 for what is kept in qemu-*.json. Who asks
and who owns a node are given here, so that the same files come out for every user.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from msgspec.structs import replace

from qlaunch.codec import from_json, to_json
from qlaunch.facts.desktop import read_desktop
from qlaunch.facts.model import HostFacts, HostFile, Invoker, QemuBinary, Wanted
from qlaunch.facts.probe import read_facts
from tests.fake.firmware import ovmf, packaged
from tests.fake.tower import hd7870, tower
from tests.fake.trees import Tree
from tests.fake.vgpu_hosts import ada, gvt

DATA = Path(__file__).parents[1] / "data/facts"
QEMUS = {
    "qemu-7.2.json": "/usr/bin/qemu-system-x86_64",
    "qemu-10.0.json": str(Path(__file__).parents[2] / "build/qemu10/qemu-system-x86_64"),
}
USER = Invoker(
    root=False, uid=1000, gid=1000, name="user", home="/home/user", groups=(6, 107, 1000),
    runtime_dir="/run/user/1000", display=True,
)
_GIB = 1 << 21  # in sectors


def fx8120(root: Path) -> Tree:
    """AMD FX-8120 on a 990FX board: an ATI card for the host, an NVIDIA one for the guest."""
    tree = Tree(root)
    tree.cpus("0-7", flags="svm npt")
    for cpu in range(8):
        tree.cpu(cpu, cpu // 2, f"{cpu & ~1}-{cpu | 1}", l3="0-7", max_khz=3100000)
    tree.node(0, "0-7", 16000, 12000)
    _kernel(tree, "fx8120", "quiet splash", ("vfio", "vfio_pci", "kvm", "kvm_amd", "tun", "bridge"))
    tree.write("sys/firmware/acpi/tables/IVRS", b"IVRS")
    tree.write("sys/class/iommu/ivhd0/amd-iommu/features", "80000853")
    tree.write("proc/interrupts", "   0:  44  IR-IO-APIC    2-edge      timer")
    tree.write("dev/kvm")
    tree.write("dev/vhost-net")
    _fx8120_board(tree)
    _fx8120_cards(tree)
    ovmf(tree)
    tree.mount("8:1", "/", "/dev/sda1")
    tree.swap("/dev/sda2")
    for socket in ("bus", "pipewire-0", "pulse/native"):
        tree.write(f"run/user/1000/{socket}")
    return tree


def _fx8120_board(tree: Tree) -> None:
    tree.pci("0000:00:00.0", "1002:5a14", 0x060000, group=0, header_type=0x80)
    tree.pci("0000:00:00.2", "1002:5a23", 0x080600)
    for number, (address, ident) in enumerate(
        (("00:02.0", "1002:5a16"), ("00:04.0", "1002:5a18"), ("00:0b.0", "1002:5a1f")), 1
    ):
        tree.pci(
            f"0000:{address}", ident, 0x060400, driver="pcieport", group=number, header_type=1,
            reset="pm",
        )
    sata = tree.pci(
        "0000:00:11.0", "1002:4391", 0x010601, driver="ahci", group=4, subsystem="1043:84dd"
    )
    tree.disk(
        f"{sata}/ata1/host0/target0:0:0/0:0:0:0", "sda", "8:0", 223 * _GIB,
        {"sda1": ("8:1", 200 * _GIB), "sda2": ("8:2", 16 * _GIB)},
    )
    tree.disk(
        f"{sata}/ata3/host2/target2:0:0/2:0:0:0", "sdc", "8:32", 931 * _GIB,
        {"sdc5": ("8:37", 400 * _GIB), "sdc6": ("8:38", 100 * _GIB)},
    )
    tree.pci(
        "0000:00:12.0", "1002:4397", 0x0C0310, driver="ohci-pci", group=5, header_type=0x80,
        subsystem="1043:84dd",
    )
    tree.pci(
        "0000:00:12.2", "1002:4396", 0x0C0320, driver="ehci-pci", group=5, reset="pm",
        subsystem="1043:84dd",
    )
    tree.pci("0000:00:14.0", "1002:4385", 0x0C0500, driver="piix4_smbus", group=6, revision=0x42)
    nic = tree.pci(
        "0000:04:00.0", "10ec:8168", 0x020000, driver="r8169", group=9, reset="pm bus",
        revision=6, subsystem="1043:8432",
    )
    tree.link_up("enp4s0", 2, below=nic, mac="10:bf:48:00:00:01")
    tree.link_up("br0", 3, mac="10:bf:48:00:00:01")
    tree.directory("sys/class/net/br0/bridge")
    tree.link_up("lo", 1, flags=0x9, mac="00:00:00:00:00:00")
    tree.enslave("enp4s0", "br0")
    tree.route("br0")
    tree.route("br0", "0000A8C0", "00FFFFFF")


def _fx8120_cards(tree: Tree) -> None:
    host = tree.pci(
        "0000:02:00.0", "1002:683f", 0x030000, driver="radeon", group=7, header_type=0x80,
        reset="bus", subsystem="1787:200b", boot_vga="1",
    )
    hdmi = tree.pci("0000:02:00.1", "1002:aab0", 0x040300, driver="snd_hda_intel", group=7,
                    header_type=0x80, subsystem="1787:aab0")
    guest = tree.pci(
        "0000:03:00.0", "10de:1200", 0x030000, driver="nouveau", group=8, header_type=0x80,
        reset="bus", revision=0xA1, subsystem="1462:2380", boot_vga="0",
    )
    audio = tree.pci("0000:03:00.1", "10de:0e0c", 0x040300, driver="snd_hda_intel", group=8,
                     header_type=0x80, revision=0xA1, subsystem="1462:2380")
    tree.drm(host, 0, 128, fb=0)
    tree.sound(hdmi, 0)
    tree.drm(guest, 1, 129)
    tree.sound(audio, 1)
    tree.process(
        812, "Xorg", "/user.slice/user-1000.slice/session-2.scope", ["/dev/dri/card0"]
    )


def plain(root: Path) -> Tree:
    """A desktop with everything switched off in its firmware: no IOMMU, no KVM."""
    tree = Tree(root)
    tree.cpus("0-3", flags="sse2", vendor="GenuineIntel")
    for cpu in range(4):
        tree.cpu(cpu, cpu, str(cpu), l3="0-3", l3_kib=6144)
    tree.node(0, "0-3", 8000, 5000)
    _kernel(tree, "plain", "quiet", ("tun",))
    tree.pci("0000:00:00.0", "8086:0150", 0x060000)
    tree.pci("0000:00:01.0", "8086:0151", 0x060400, driver="pcieport", header_type=1)
    nic = tree.pci("0000:00:19.0", "8086:1503", 0x020000, driver="e1000e", reset="pm")
    card = tree.pci("0000:01:00.0", "10de:1200", 0x030000, driver="nouveau", header_type=0x80,
                    reset="bus", boot_vga="1")
    tree.pci("0000:01:00.1", "10de:0e0c", 0x040300, driver="snd_hda_intel", header_type=0x80)
    tree.drm(card, 0, 128)
    tree.link_up("eno1", 2, below=nic)
    tree.route("eno1")
    return tree


def _kernel(tree: Tree, host: str, cmdline: str, modules: tuple[str, ...]) -> None:
    tree.write("proc/sys/kernel/hostname", host)
    tree.write("proc/sys/kernel/osrelease", "6.1.0-28-amd64")
    tree.write("proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 {cmdline}")
    for module in modules:
        tree.append("proc/modules", f"{module} 16384 0 - Live 0x0000000000000000")


def qemu72() -> QemuBinary:
    """QEMU 7.2 of Debian 12, as it described itself."""
    return from_json((DATA / "qemu-7.2.json").read_bytes(), QemuBinary)


def qemu100() -> QemuBinary:
    """QEMU 10.0 of Debian 12's backports."""
    return from_json((DATA / "qemu-10.0.json").read_bytes(), QemuBinary)


def facts_fx8120(root: Path) -> HostFacts:
    """The machine as root asks on behalf of its user through sudo."""
    fx8120(root)
    asker = replace(USER, root=True, asked=1000)
    return _facts(root, asker, Wanted(holders=True, qemu=None, files=("/dev/sdc6",)))


def facts_plain(root: Path) -> HostFacts:
    """The machine as its user asks."""
    plain(root)
    return _facts(root, USER, Wanted(holders=True, qemu=None))


def facts_gvt(root: Path) -> HostFacts:
    """The laptop as root asks on behalf of its user."""
    gvt(root)
    asker = replace(USER, root=True, asked=1000)
    return _facts(root, asker, Wanted(holders=True, qemu=None, vgpu=True))


def facts_ada(root: Path) -> HostFacts:
    """The server as root asks for itself: QEMU runs as nobody."""
    ovmf(ada(root))
    nobody = Invoker(root=True, uid=65534, gid=65534, name="nobody", home="/")
    facts = _facts(root, nobody, Wanted(holders=True, qemu=None, vgpu=True))
    return replace(facts, qemu=qemu100())


def facts_tower(root: Path) -> HostFacts:
    """The tower as root asks on behalf of its user, with the QEMU of the backports."""
    ovmf(tower(root))
    asker = replace(USER, root=True, asked=1000)
    facts = _facts(root, asker, Wanted(holders=True, qemu=None))
    return replace(facts, qemu=qemu100())


def facts_hd7870(root: Path) -> HostFacts:
    """The machine of 2012, the same way."""
    hd7870(root)
    asker = replace(USER, root=True, asked=1000)
    return _facts(root, asker, Wanted(holders=True, qemu=None, files=("/dev/md0",)))


def _facts(root: Path, invoker: Invoker, wanted: Wanted) -> HostFacts:
    facts = read_facts(wanted, root)
    files = tuple(_given(file) for file in facts.files)
    desktop = read_desktop(invoker, root)
    render = tuple(replace(n, usable=True, group="render") for n in desktop.render)
    return replace(
        facts, invoker=invoker, qemu=qemu72(), files=files,
        desktop=replace(desktop, render=render), firmware=packaged(facts.firmware),
    )


def _given(file: HostFile) -> HostFile:
    """Nodes of a recorded tree are plain files of whoever recorded it; udev's rules give these."""
    if file.kind == "missing":
        return replace(file, writable=False, free=None)
    node = replace(file, readable=True, writable=True, uid=0, gid=6, mode=0o660)  # disk
    return replace(node, kind="char", size=None, gid=107) if file.path == "/dev/kvm" else node


SNAPSHOTS = {
    "fx8120": facts_fx8120, "plain": facts_plain, "gvt-laptop": facts_gvt, "ada-server": facts_ada,
    "tower": facts_tower, "hd7870": facts_hd7870,
}


def main(arguments: list[str]) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    if "--qemu" in arguments:
        from qlaunch.facts.qemu_ask import ask

        for file, binary in QEMUS.items():
            answer = replace(ask(binary), path="/usr/bin/qemu-system-x86_64")
            (DATA / file).write_bytes(to_json(answer, indent=1))
    for name, make in SNAPSHOTS.items():
        with tempfile.TemporaryDirectory() as root:
            (DATA / f"{name}.json").write_bytes(to_json(make(Path(root)), indent=1) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
