"""KVM, IOMMU and network links from recorded trees: what is off says why and what to switch."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from qlaunch.facts.iommu import read_iommu
from qlaunch.facts.kvm import read_cpu_flags, read_kvm
from qlaunch.facts.links import links_over, read_links, read_routes, route_to
from tests.fake.trees import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("node", "flags", "usable", "reason", "hint"),
    [
        (True, "svm", True, "", ""),
        (True, "vmx", True, "", ""),
        (True, "hypervisor", False, "neither vmx nor svm", "tcg"),
        (False, "vmx", False, "not loaded", "modprobe kvm_intel"),
        (False, "svm", False, "not loaded", "modprobe kvm_amd"),
        (False, "hypervisor", False, "virtual machine", "-cpu host"),
        (False, "sse2", False, "neither vmx nor svm", "BIOS"),
    ],
)
def test_kvm(tree: Tree, node: bool, flags: str, usable: bool, reason: str, hint: str) -> None:
    tree.cpus("0", flags=flags)
    if node:
        tree.write("dev/kvm")
    kvm = read_kvm(tree.root)
    assert (kvm.present, kvm.usable) == (node, usable)
    assert reason in kvm.reason
    assert hint in kvm.hint
    assert bool(kvm.reason) is not usable


def test_flags_of_the_first_cpu_only(tree: Tree) -> None:
    first = "processor: 0\n" + "x: y\n" * 4000 + "flags\t: fpu svm\n"
    tree.write("proc/cpuinfo", first + "processor: 1\nflags\t: vmx\n")
    assert read_cpu_flags(tree.root) == {"fpu", "svm"}
    assert read_cpu_flags(tree.root / "nowhere") == frozenset()


def dmar(flags: int) -> bytes:
    return b"DMAR" + bytes(32) + struct.pack("BB", 38, flags) + bytes(10)


def intel(tree: Tree, cmdline: str = "intel_iommu=on") -> None:
    tree.cpus("0", flags="vmx", vendor="GenuineIntel")
    tree.write("proc/cmdline", cmdline)
    tree.write("sys/firmware/acpi/tables/DMAR", dmar(1))
    tree.write("sys/class/iommu/dmar0/intel-iommu/ecap", "f010da")
    tree.directory("sys/kernel/iommu_groups/0")


def test_intel_on(tree: Tree) -> None:
    intel(tree)
    iommu = read_iommu(tree.root)
    assert (iommu.enabled, iommu.kind, iommu.groups) == (True, "intel", 1)
    assert iommu.interrupt_remapping is True
    assert (iommu.reason, iommu.hint, iommu.unsafe_interrupts) == ("", "", None)


def test_no_remapping_by_each_source(tree: Tree) -> None:
    intel(tree)
    tree.write("sys/class/iommu/dmar1/intel-iommu/ecap", "f010d2")  # one unit without IR
    assert read_iommu(tree.root).interrupt_remapping is False
    tree.write("sys/class/iommu/dmar1/intel-iommu/ecap", "f010da")
    tree.write("sys/firmware/acpi/tables/DMAR", dmar(0))
    assert read_iommu(tree.root).interrupt_remapping is False
    tree.write("sys/firmware/acpi/tables/DMAR", dmar(1))
    tree.write("proc/cmdline", "intel_iommu=on intremap=off")
    assert read_iommu(tree.root).interrupt_remapping is False


def test_the_interrupt_chips_have_the_last_word(tree: Tree) -> None:
    intel(tree)
    tree.write("proc/interrupts", "   0:  44   IO-APIC   2-edge  timer")
    assert read_iommu(tree.root).interrupt_remapping is False
    tree.write("proc/interrupts", "   0:  44  IR-IO-APIC   2-edge  timer")
    tree.write("sys/class/iommu/dmar0/intel-iommu/ecap", "0")
    assert read_iommu(tree.root).interrupt_remapping is True


def test_amd(tree: Tree) -> None:
    tree.write("sys/class/iommu/ivhd0/amd-iommu/features", "80000853")
    tree.directory("sys/kernel/iommu_groups/0")
    assert read_iommu(tree.root).kind == "amd"
    assert read_iommu(tree.root).interrupt_remapping is True


@pytest.mark.parametrize(("text", "value"), [("Y", True), ("N", False)])
def test_unsafe_interrupts(tree: Tree, text: str, value: bool) -> None:
    tree.write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", text)
    assert read_iommu(tree.root).unsafe_interrupts is value


@pytest.mark.parametrize(
    ("table", "vendor", "flags", "cmdline", "reason", "hint"),
    [
        ("DMAR", "GenuineIntel", "vmx", "quiet", "not told", "add intel_iommu=on"),
        ("DMAR", "GenuineIntel", "vmx", "intel_iommu=off", "intel_iommu=off", "take intel_iommu"),
        ("DMAR", "GenuineIntel", "vmx", "intel_iommu=on", "did not start", "dmesg"),
        ("IVRS", "AuthenticAMD", "svm", "amd_iommu=off", "amd_iommu=off", "take amd_iommu=off"),
        ("IVRS", "AuthenticAMD", "svm", "iommu=pt", "did not start", "AMD-Vi"),
        ("", "GenuineIntel", "vmx", "", "no DMAR", "VT-d in the BIOS"),
        ("", "AuthenticAMD", "svm", "", "no IVRS", "AMD-Vi) in the BIOS"),
        ("", "AuthenticAMD", "svm hypervisor", "", "virtual machine", "intel-iommu"),
        ("", "Hygon", "svm", "", "DMAR or IVRS", "BIOS"),
    ],
)
def test_why_it_is_off(
    tree: Tree, table: str, vendor: str, flags: str, cmdline: str, reason: str, hint: str
) -> None:
    tree.cpus("0", flags=flags, vendor=vendor)
    tree.write("proc/cmdline", cmdline)
    if table:
        tree.write(f"sys/firmware/acpi/tables/{table}", b"")
    iommu = read_iommu(tree.root)
    assert not iommu.enabled
    assert iommu.interrupt_remapping is None
    assert reason in iommu.reason
    assert hint in iommu.hint


def test_links(tree: Tree) -> None:
    path = tree.pci("0000:04:00.0", "1af4:1041", 0x020000, driver="virtio-pci")
    tree.link_up("eth0", 2, below=f"{path}/virtio2", mac="52:54:00:26:7f:96")
    tree.link_up("br0", 3, flags=0x1002)
    tree.directory("sys/class/net/br0/bridge")
    tree.link_up("tap0", 4, tun_flags="0x1102", owner="1000")
    tree.link_up("tun0", 5, tun_flags="0x1001", owner="-1")
    tree.link_up("wlan0", 6, below=path)
    tree.directory("sys/class/net/wlan0/phy80211")
    tree.write("sys/class/net/bonding_masters", "")
    tree.enslave("tap0", "br0")
    tree.route("br0")
    links = {link.name: link for link in read_links(tree.root)}
    assert {n: link.kind for n, link in links.items()} == {
        "eth0": "physical", "br0": "bridge", "tap0": "tap", "tun0": "virtual", "wlan0": "wireless",
    }
    assert (links["eth0"].pci, links["eth0"].mac) == ("0000:04:00.0", "52:54:00:26:7f:96")
    assert (links["tap0"].master, links["tap0"].owner, links["tun0"].owner) == ("br0", 1000, None)
    assert (links["eth0"].up, links["br0"].up) == (True, False)
    assert [n for n, link in links.items() if link.default_route] == ["br0"]
    assert (links["tap0"].index, links["br0"].pci) == (4, None)


def test_longest_prefix_wins(tree: Tree) -> None:
    tree.route("eth0")
    tree.route("eth1", "0000A8C0", "0000FFFF")  # 192.168.0.0/16, as little-endian memory
    tree.route("eth2", "0005A8C0", "00FFFFFF")
    net = "20010db8" + "0" * 24
    tree.append("proc/net/ipv6_route", f"{net} 20 {net} 00 {net} 100 1 0 00000001 eth3")
    routes = read_routes(tree.root)
    found = [route_to(routes, a) for a in ("8.8.8.8", "192.168.1.1", "192.168.5.1", "2001:db8::1")]
    assert found == ["eth0", "eth1", "eth2", "eth3"]
    assert route_to(routes, "fe80::1%eth9") is None
    host = "fd" + "0" * 30
    tree.append("proc/net/ipv6_route", f"{host} 80 {host} 00 {host} 0 1 0 80200001 lo")
    assert read_routes(tree.root) == routes
    assert route_to(routes, "nonsense") is None


def test_links_over_a_vlan_on_a_bond(tree: Tree) -> None:
    for index, name in enumerate(("eth0", "bond0", "bond0.7"), 1):
        tree.link_up(name, index)
    tree.enslave("eth0", "bond0")
    tree.link("sys/class/net/bond0/upper_bond0.7", "../bond0.7")
    assert set(links_over(tree.root, "eth0")) == {"eth0", "bond0", "bond0.7"}
    assert links_over(tree.root, "bond0.7") == ("bond0.7",)


def test_this_host() -> None:
    kvm = read_kvm()
    assert kvm.usable or (kvm.reason and kvm.hint)
    assert not kvm.usable or read_cpu_flags() & {"vmx", "svm"}
    iommu = read_iommu()
    assert iommu.enabled == (iommu.groups > 0) == (not iommu.reason)
    assert "lo" in {link.name for link in read_links()}
