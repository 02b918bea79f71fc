"""The lab hosts: which QEMU options make which machine.

A topology is one emulated host ("L1"). It is data only, so that a test states what hardware it
needs by name and a new kind of host costs a few lines here and nothing in the code that boots it.

Our devices have fixed addresses from 0x10 on: virtme-ng fills pcie.0 from slot 1, and how many
slots it takes changes with its version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# What a TCG machine need not load. udev, where it is installed, loads by alias all that -cpu max
# and q35 offer; these cost ten of twenty seconds until the shell and no test looks at them.
# kvm_amd is here because -cpu max on TCG shows svm: /dev/kvm would appear and be chosen.
UNWANTED = (
    "acpi_cpufreq,aesni_intel,ahci,crc32_pclmul,crct10dif_pclmul,ghash_clmulni_intel,i2c_i801,"
    "i6300esb,iTCO_wdt,kvm_amd,kvm_intel,lpc_ich,pcspkr,powernow_k8,psmouse,sha1_ssse3,"
    "sha256_ssse3,sha512_ssse3,sr_mod"
)


@dataclass(frozen=True)
class Topology:
    """One emulated host."""

    name: str
    summary: str
    options: tuple[str, ...]
    modules: tuple[str, ...]
    cpus: str
    memory: str = "3G"
    append: str = ""
    timeout: float = 1500.0  # seconds for all of its tests
    samples: bool = False  # the kernel's sample mediated devices are built for it
    new_qemu: bool = False  # by the QEMU of contrib/qemu10, where it is there
    nightly: bool = False
    long: tuple[str, ...] = ()  # files of tests that have a host of their own at night

    def steady(self) -> Topology:
        """The same emulated by one thread, which outlives hours of devices that change hands: a CPU
        of one thread may reach for a device's memory as another's takes it away, of which QEMU
        dies (7.2: memory_region_dispatch_write, 10.0: iotlb_to_section), once in ten minutes.
        """
        return replace(self, options=(*self.options, "-accel tcg,thread=single"))

    @property
    def kernel_line(self) -> str:
        # An emulated CPU has no leaks to close, and forgets all it translated at each system call
        # when the kernel closes them: everything takes twice as long.
        line = f"intel_iommu=on iomem=relaxed mitigations=off modprobe.blacklist={UNWANTED}"
        return f"{line} {self.append}".strip()


IOMMU = (
    "-machine q35,kernel-irqchip=split",
    # Our -cpu comes after virtme-ng's and wins. As an AMD the CPU would have SMT only with topoext.
    "-cpu max,vendor=GenuineIntel",
    "-device intel-iommu,intremap=on,caching-mode=on",
)

# An ioh3420 has no ACS: the port and all functions below it are one IOMMU group.
# A codec is needed, or snd_hda_intel finds nothing to drive; without an explicit audiodev QEMU
# looks for a sound server and fills the log with its failures.
GRAPHICS_CARD = (
    "-device ioh3420,id=rp1,bus=pcie.0,chassis=1,slot=1,addr=0x10",
    "-device VGA,id=gpu0,bus=rp1,addr=00.0,multifunction=on",
    "-audiodev none,id=sound0",
    "-device intel-hda,id=hda0,bus=rp1,addr=00.1",
    "-device hda-duplex,bus=hda0.0,audiodev=sound0",
)

NVME = (
    "-device pcie-root-port,id=rp3,bus=pcie.0,chassis=3,slot=3,addr=0x12",
    "-device nvme-subsys,id=ss0",
    "-device nvme,serial=lab1,bus=rp3,subsys=ss0,sriov_max_vfs=2,sriov_vq_flexible=4,"
    "sriov_vi_flexible=2,max_ioqpairs=8,msix_qsize=8",
)

# For what a host keeps on it: zeros, and what was written in a file of QEMU's without a name.
NVME_DISK = (
    "-drive if=none,id=disk0,format=raw,file.driver=null-co,file.read-zeroes=on,file.size=64M,"
    "snapshot=on",
    "-device nvme-ns,drive=disk0",
)

# A pcie-root-port has ACS: everything below gets a group of its own, virtual functions too.
OTHER_DEVICES = (
    "-device pcie-root-port,id=rp2,bus=pcie.0,chassis=2,slot=2,addr=0x11",
    "-device e1000e,id=nic0,bus=rp2,mac=52:54:00:00:00:01",
    *NVME,
    *NVME_DISK,
    "-device qemu-xhci,id=usb0,bus=pcie.0,addr=0x13",
    "-device usb-tablet,id=labtablet0,bus=usb0.0",
    # The one above goes to guests; what is plugged into this one goes by itself.
    "-device qemu-xhci,id=usb1,bus=pcie.0,addr=0x14",
    "-device usb-tablet,id=labtablet1,bus=usb1.0",
)

CARD = Topology(
    name="card",
    summary="a graphics card with audio as boot VGA; a NIC, an SR-IOV NVMe with a disk, a USB "
    "controller; the kernel's sample mediated devices",
    options=(*IOMMU, *GRAPHICS_CARD, *OTHER_DEVICES),
    modules=("bochs", "snd_hda_intel", "vfio-pci", "e1000e", "nvme", "xhci_pci", "mdev"),
    cpus="4,sockets=1,cores=2,threads=2",
    samples=True,
    long=("test_faults.py", "test_many.py"),
)

NUMA = Topology(
    name="numa",
    summary="two nodes of four CPUs with SMT and hugepages on both; a NIC of the second to pass "
    "through; a keyboard and a tablet",
    options=(
        *IOMMU,
        "-object memory-backend-ram,id=m0,size=1536M",
        "-object memory-backend-ram,id=m1,size=1536M",
        "-numa node,nodeid=0,memdev=m0,cpus=0-3",
        "-numa node,nodeid=1,memdev=m1,cpus=4-7",
        # Behind a host bridge of its own, whose node the firmware's tables tell (_PXM).
        "-device pxb-pcie,id=pxb1,bus=pcie.0,addr=0x10,bus_nr=64,numa_node=1",
        "-device pcie-root-port,id=rp2,bus=pxb1,chassis=2,slot=2",
        "-device e1000e,id=nic0,bus=rp2,mac=52:54:00:00:00:01",
        "-device virtio-tablet-pci,bus=pcie.0,addr=0x15",  # the keyboard is the board's own
    ),
    modules=("vfio-pci", "e1000e", "evdev", "virtio_input"),
    cpus="8,sockets=2,cores=2,threads=2",
    append="hugepagesz=2M hugepages=128",
)

SLICES = Topology(
    name="slices",
    summary="the kernel's sample mediated devices, and an NVMe with two virtual functions",
    options=(*IOMMU, *NVME),
    modules=("vfio-pci", "nvme", "mdev"),
    cpus="4,sockets=1,cores=2,threads=2",
    timeout=1800.0,
    samples=True,
    long=("test_vgpu_faults.py", "test_vgpu_kills.py", "test_vgpu_rounds.py"),
)

NETWORK = Topology(
    name="network",
    summary="a network card with virtual functions, which QEMU has from 8.0 on",
    options=(
        *IOMMU,
        "-device pcie-root-port,id=rp2,bus=pcie.0,chassis=2,slot=2,addr=0x11",
        "-device igb,id=nic0,bus=rp2,mac=52:54:00:00:00:01",
    ),
    modules=("vfio-pci", "igb"),
    cpus="2,sockets=1,cores=2,threads=1",
    new_qemu=True,
    nightly=True,
)

# In the order in which two workers of pytest-xdist get them: CARD is as long as NUMA and SLICES.
TOPOLOGIES = {topology.name: topology for topology in (NUMA, CARD, SLICES, NETWORK)}
