"""Two recorded machines that can be sliced: a laptop with Intel's GVT-g, and a server whose Ada
card has NVIDIA's vendor files on its virtual functions.

Names, descriptions and number formats are those that i915 (gvt/kvmgt.c) and NVIDIA's driver write.
"""

from __future__ import annotations

from pathlib import Path

from tests.fake.trees import PCI, Tree

GVT_TEXT = "low_gm_size: {}MB\nhigh_gm_size: {}MB\nfence: 4\nresolution: {}\nweight: {}"
ADA_TYPES = (
    (555, "NVIDIA RTX6000-Ada-2Q"), (557, "NVIDIA RTX6000-Ada-8Q"), (559, "NVIDIA RTX6000-Ada-16Q"),
)  # fmt: skip


def mdev_type(
    tree: Tree, parent: str, ident: str, available: int, *, description: str | None = None,
    name: str | None = None, api: str = "vfio-pci",
) -> None:
    """One directory of a parent's mdev_supported_types."""
    path = f"{parent}/mdev_supported_types/{ident}"
    tree.write(f"{path}/available_instances", str(available))
    tree.write(f"{path}/device_api", api)
    tree.directory(f"{path}/devices")
    if name is not None:
        tree.write(f"{path}/name", name)
    if description is not None:
        tree.write(f"{path}/description", description)


def gvt(root: Path) -> Tree:
    """A Core i7-8550U with UHD 620 and i915.enable_gvt=1; wireless only."""
    tree = Tree(root)
    tree.cpus("0-7", flags="vmx ept", vendor="GenuineIntel")
    for cpu in range(8):
        core = cpu % 4
        tree.cpu(cpu, core, f"{core},{core + 4}", l3="0-7", max_khz=4000000)
    tree.node(0, "0-7", 16000, 11000)
    _kernel(tree, "gvt-laptop", "6.1.0-28-amd64",
            "quiet i915.enable_gvt=1 kvm.ignore_msrs=1 intel_iommu=on i915.enable_guc=0")
    for module in ("vfio", "vfio_iommu_type1", "kvm", "kvm_intel", "mdev", "kvmgt", "i915", "tun"):
        tree.append("proc/modules", f"{module} 16384 0 - Live 0x0000000000000000")
        tree.directory(f"sys/module/{module}")
    for name, text in (
        ("i915/parameters/enable_gvt", "Y"), ("i915/parameters/enable_guc", "0"),
        ("kvm/parameters/ignore_msrs", "Y"),
    ):
        tree.write(f"sys/module/{name}", text)
    tree.write("sys/class/iommu/dmar0/intel-iommu/ecap", "f050da")
    tree.write("proc/interrupts", "   0:  44  IR-IO-APIC    2-edge      timer")
    for node in ("dev/kvm", "dev/net/tun"):
        tree.write(node)
    tree.pci("0000:00:00.0", "8086:5914", 0x060000, driver="skl_uncore", group=0)
    card = tree.pci("0000:00:02.0", "8086:5917", 0x030000, driver="i915", group=1, reset="flr",
                    subsystem="17aa:2256", revision=7, boot_vga="1")
    tree.drm(card, 0, 128, fb=0)
    tree.write("dev/dri/renderD128")
    wireless = tree.pci("0000:02:00.0", "8086:24fd", 0x028000, driver="iwlwifi", group=8,
                        reset="flr pm", subsystem="8086:1010")
    tree.link_up("wlp2s0", 2, below=wireless, mac="7c:2a:31:00:00:01")
    tree.directory("sys/class/net/wlp2s0/wireless")
    tree.route("wlp2s0")
    tree.pci("0000:03:00.0", "144d:a808", 0x010802, driver="nvme", group=9, reset="flr")
    tree.link("sys/class/mdev_bus/0000:00:02.0", f"../../../{PCI}/0000:00:02.0")
    mdev_type(tree, card, "i915-GVTg_V5_4", 1, name="GVTg_V5_4",
              description=GVT_TEXT.format(128, 512, "1920x1200", 4))
    mdev_type(tree, card, "i915-GVTg_V5_8", 2, name="GVTg_V5_8",
              description=GVT_TEXT.format(64, 384, "1024x768", 2))
    tree.process(
        911, "gnome-shell", "/user.slice/user-1000.slice/session-2.scope", ["/dev/dri/card0"]
    )
    return tree


def ada(root: Path) -> Tree:
    """An EPYC server with an RTX 6000 Ada, eight virtual functions on, one of them given away."""
    tree = Tree(root)
    tree.cpus("0-15", flags="svm npt")
    for cpu in range(16):
        tree.cpu(cpu, cpu % 8, f"{cpu % 8},{cpu % 8 + 8}", l3="0-15", max_khz=3700000)
    tree.node(0, "0-15", 128000, 120000)
    _kernel(tree, "ada-server", "6.8.0-48-generic", "quiet amd_iommu=on iommu=pt")
    for module in ("vfio", "vfio_iommu_type1", "kvm", "kvm_amd", "nvidia", "nvidia_vgpu_vfio",
                   "tun", "bridge"):
        tree.append("proc/modules", f"{module} 16384 0 - Live 0x0000000000000000")
        tree.directory(f"sys/module/{module}")
    tree.write("sys/class/iommu/ivhd0/amd-iommu/features", "25bf732fa2295afe:1d")
    tree.write("proc/interrupts", "   0:  44  IR-IO-APIC    2-edge      timer")
    for node in ("dev/kvm", "dev/vhost-net", "dev/net/tun"):
        tree.write(node)
    tree.pci("0000:00:00.0", "1022:14a4", 0x060000, group=0)
    own = tree.pci("0000:c3:00.0", "1a03:2000", 0x030000, driver="ast", group=60, reset="bus",
                   boot_vga="1")
    tree.drm(own, 0)
    nic = tree.pci("0000:c5:00.0", "14e4:1750", 0x020000, driver="bnxt_en", group=62, reset="flr",
                   numa=0)
    tree.link_up("eno1", 2, below=nic, mac="3c:ec:ef:00:00:01")
    tree.link_up("br0", 3, mac="3c:ec:ef:00:00:01")
    tree.directory("sys/class/net/br0/bridge")
    tree.enslave("eno1", "br0")
    tree.route("br0")
    card = tree.pci(
        "0000:41:00.0", "10de:26b1", 0x030200, driver="nvidia", group=40, reset="flr bus", numa=0,
        subsystem="10de:16a1", revision=0xA1, sriov_totalvfs="8", sriov_numvfs="8",
        sriov_offset="4", sriov_stride="1", sriov_vf_device="26b1", sriov_drivers_autoprobe="1",
    )
    heading = "ID    : vGPU Name"
    for number in range(8):
        address = f"0000:41:{(number + 4) >> 3:02x}.{(number + 4) & 7}"
        function = tree.pci(address, "10de:26b1", 0x030200, driver="nvidia", group=41 + number,
                            reset="flr", numa=0, subsystem="10de:16a1", revision=0xA1)
        tree.link(f"{function}/physfn", "../0000:41:00.0")
        tree.link(f"{card}/virtfn{number}", f"../{address}")
        types = [f"{n:<6}: {name}" for n, name in ADA_TYPES] if number else []
        tree.write(f"{function}/nvidia/creatable_vgpu_types", "\n".join([heading, *types]))
        tree.write(f"{function}/nvidia/current_vgpu_type", "0" if number else "559")
    return tree


def _kernel(tree: Tree, host: str, release: str, cmdline: str) -> None:
    tree.write("proc/sys/kernel/hostname", host)
    tree.write("proc/sys/kernel/osrelease", release)
    tree.write("proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{release} root=/dev/sda1 {cmdline}")
