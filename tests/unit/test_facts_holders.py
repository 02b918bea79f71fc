"""Who holds a device: each kind of holder is found, named with a remedy, and not a neighbour's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qlaunch.facts.holders import is_vital, with_holders
from qlaunch.facts.model import Holder
from qlaunch.facts.pci import read_pci
from tests.fake.trees import Tree, card_on_ioh3420

SESSION = "/user.slice/user-1000.slice/session-2.scope"
USER_UNIT = "/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def holders(tree: Tree, address: str) -> tuple[Holder, ...]:
    found = {d.address: d.holders for d in with_holders(tree.root, read_pci(tree.root))}
    return found[address] or ()  # type: ignore[index]


def kinds(tree: Tree, address: str) -> list[tuple[str, str]]:
    return [(h.kind, h.what) for h in holders(tree, address)]


def test_processes_are_named_with_unit_and_remedy(tree: Tree) -> None:
    card_on_ioh3420(tree)
    tree.process(30, "Xorg", SESSION, ["/dev/dri/card0", "/dev/fb0"])
    tree.process(4, "nvtop", SESSION, ["/dev/dri/renderD128"])
    tree.process(50, "pipewire", USER_UNIT, ["/dev/snd/controlC1"])
    tree.process(60, "bash", SESSION, ["/dev/pts/0"])
    nvtop, xorg = holders(tree, "0000:01:00.0")
    assert (nvtop.pid, nvtop.remedy) == (4, "close nvtop, or: kill 4")
    assert (xorg.command, xorg.unit) == ("Xorg", "session-2.scope")
    assert xorg.what == "/dev/dri/card0, /dev/fb0"
    assert "terminate-session 2" in xorg.remedy
    (pipewire,) = holders(tree, "0000:01:00.1")
    assert pipewire.remedy == "systemctl --user stop pipewire.service"
    assert not any(is_vital(h) for h in (nvtop, xorg, pipewire))
    assert holders(tree, "0000:00:10.0") == ()


def test_a_usb_controller_is_held_by_who_reads_its_devices(tree: Tree) -> None:
    """Through libusb (bus/usb), hidraw, as a camera, or as a keyboard."""
    path = tree.pci("0000:00:14.0", "8086:a36d", 0x0C0330, driver="xhci_hcd", group=4)
    tree.char(f"{path}/usb1/1-4", "189:3")
    tree.char(f"{path}/usb1/1-4/1-4:1.0/0003:046D:C52B.0002/hidraw/hidraw1")
    tree.char(f"{path}/usb1/1-4/1-4:1.1/video4linux/video0")
    tree.char(f"{path}/usb1/1-4/1-4:1.1/input/input7/event3")
    tree.process(5, "solaar", SESSION, ["/dev/hidraw1"])
    tree.process(6, "scanner", SESSION, ["/dev/bus/usb/001/004", "/dev/hidraw2"])
    tree.process(7, "cheese", SESSION, ["/dev/video0"])
    tree.process(8, "Xorg", SESSION, ["/dev/input/event3", "/dev/input/event4"])
    assert [(h.command, h.what) for h in holders(tree, "0000:00:14.0")] == [
        ("solaar", "/dev/hidraw1"), ("scanner", "/dev/bus/usb/001/004"), ("cheese", "/dev/video0"),
        ("Xorg", "/dev/input/event3"),
    ]


def test_nvidias_nodes_are_known_by_their_minor(tree: Tree) -> None:
    """They are in no class of sysfs; nvidia-drm without modeset makes no other."""
    for number, address in enumerate(("0000:03:00.0", "0000:04:00.0")):
        tree.pci(address, "10de:2684", 0x030000, driver="nvidia", group=8 + number)
        tree.write(
            f"proc/driver/nvidia/gpus/{address}/information",
            f"Model: \t\t NVIDIA GeForce\nBus Location: \t {address}\nDevice Minor: \t {number}\n",
        )
    tree.process(9, "python3", "/", ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia1"])
    assert kinds(tree, "0000:03:00.0") == []
    assert kinds(tree, "0000:04:00.0") == [("process", "/dev/nvidia1")]
    tree.write("proc/driver/nvidia/gpus/0000:04:00.0/information", "Device Minor:  none\n")
    assert kinds(tree, "0000:04:00.0") == []


@pytest.mark.parametrize(
    ("comm", "cgroup", "remedy"),
    [
        ("nvidia-persiste", "/system.slice/nvidia-persistenced.service",
         "systemctl stop nvidia-persistenced.service"),
        ("qemu-system-x86", "/machine.slice/x.scope", "shut down the machine that has it (pid 9)"),
        ("X", "/system.slice/gdm.service", "systemctl stop gdm.service, which ends the desktop"),
        ("app", "/machine.slice/docker-1.scope", "systemctl stop docker-1.scope"),
        ("app", "4:memory:/x.service\n1:name=systemd:/system.slice/a.service\n0::/",
         "systemctl stop a.service"),
        ("app", "/", "close app, or: kill 9"),
    ],
)
def test_remedies(tree: Tree, comm: str, cgroup: str, remedy: str) -> None:
    card_on_ioh3420(tree)
    tree.process(9, comm, cgroup, ["/dev/dri/card0"])
    assert [h.remedy for h in holders(tree, "0000:01:00.0")] == [remedy]


def test_a_cut_command_is_completed(tree: Tree) -> None:
    card_on_ioh3420(tree)
    tree.process(9, "nvidia-persiste", "/", ["/dev/dri/card0"], "/usr/bin/nvidia-persistenced")
    assert [h.command for h in holders(tree, "0000:01:00.0")] == ["nvidia-persistenced"]


def test_the_group_node_holds_every_function(tree: Tree) -> None:
    for function in "01":
        tree.pci(f"0000:03:00.{function}", "10de:1200", 0x030000, driver="vfio-pci", group=8)
    tree.pci("0000:04:00.0", "10de:1200", 0x030000, driver="vfio-pci", group=9)
    function = tree.pci("0000:41:00.4", "10de:26b1", 0x030200, driver="nvidia", group=41)
    tree.pci("0000:41:00.0", "10de:26b1", 0x030200, driver="nvidia", group=40)
    tree.link(f"{function}/physfn", "../0000:41:00.0")
    tree.process(7, "qemu-system-x86", "/", ["/dev/vfio/8", "/dev/vfio/41"])
    assert kinds(tree, "0000:03:00.0") == kinds(tree, "0000:03:00.1") == [("vfio", "/dev/vfio/8")]
    assert kinds(tree, "0000:41:00.4") == [("vfio", "/dev/vfio/41")], "it stays with its driver"
    assert kinds(tree, "0000:04:00.0") == []


def sata(tree: Tree) -> None:
    path = tree.pci("0000:00:11.0", "1002:4391", 0x010601, driver="ahci")
    where = f"{path}/ata1/host0/target0:0:0/0:0:0:0"
    tree.disk(where, "sda", "8:0", 100, {f"sda{i}": (f"8:{i}", 10) for i in range(1, 4)})


def test_mounted_partition_and_swap(tree: Tree) -> None:
    sata(tree)
    tree.mount("8:1", "/srv/my\\040data", "/dev/sda1")
    tree.mount("8:17", "/other", "/dev/sdb1")
    tree.swap("/dev/sda2")
    mount, swap = holders(tree, "0000:00:11.0")
    assert (mount.kind, mount.what) == ("mount", "/srv/my data (/dev/sda1)")
    assert mount.remedy == "umount '/srv/my data'"
    assert (swap.kind, swap.remedy) == ("swap", "swapoff /dev/sda2")
    assert is_vital(mount)
    assert is_vital(swap)


def test_a_volume_group_in_between(tree: Tree) -> None:
    sata(tree)
    tree.stacked("dm-0", "253:0", ["sda3"], name="luks-1", uuid="CRYPT-LUKS2-abc")
    tree.stacked("dm-1", "253:1", ["dm-0"], name="vg-root", uuid="LVM-xyz")
    tree.mount("253:1", "/", "/dev/mapper/vg-root")
    assert kinds(tree, "0000:00:11.0") == [("mount", "/ (/dev/mapper/vg-root)")]


def test_idle_volumes_are_told(tree: Tree) -> None:
    sata(tree)
    tree.stacked("dm-1", "253:1", ["sda3"], name="vg-home", uuid="LVM-xyz")
    tree.stacked("md127", "9:127", ["sda1"])
    found = holders(tree, "0000:00:11.0")
    assert [(h.kind, h.what) for h in found] == [
        ("md", "/dev/md127"), ("lvm", "/dev/mapper/vg-home (lvm)"),
    ]
    assert all(is_vital(h) for h in found)


def test_btrfs_over_two_disks(tree: Tree) -> None:
    sata(tree)
    tree.mount("0:45", "/pool", "/dev/sda1", "btrfs")  # an anonymous device number
    for member in ("sda1", "sda2"):
        tree.directory(f"sys/fs/btrfs/1234-uuid/devices/{member}")
    assert kinds(tree, "0000:00:11.0") == [
        ("mount", "/pool (/dev/sda1)"), ("mount", "/pool (/dev/sda2)"),
    ]


WAYS = {  # to a disk, below the controller: what the kernel puts in between
    "SAS": "host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0",
    "SAS expander": "host0/port-0:0/expander-0:0/port-0:0:3/end_device-0:0:3/target0:0:3/0:0:3:0",
    "FC": "host7/rport-7:0-2/target7:0:0/7:0:0:1",
    "MMC": "mmc_host/mmc0/mmc0:0001",
    "SD over USB": "usb1/1-3/1-3:1.0/rtsx_usb_sdmmc.2.auto/mmc_host/mmc0/mmc0:aaaa",
    "virtio SCSI": "virtio1/host2/target2:0:0/2:0:0:1",
    "RAID": "host0/scsi_host/host0/c0/d0",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_root_behind_any_controller(tree: Tree, way: str) -> None:
    path = tree.pci("0000:00:11.0", "1000:0097", 0x010700, driver="mpt3sas")
    tree.disk(f"{path}/{WAYS[way]}", "sdq", "65:0", 100, {"sdq2": ("65:2", 10)})
    tree.mount("65:2", "/", "/dev/sdq2")
    (holder,) = holders(tree, "0000:00:11.0")
    assert (holder.kind, holder.what) == ("mount", "/ (/dev/sdq2)")
    assert is_vital(holder)


def test_the_root_behind_vmd(tree: Tree) -> None:
    """Its functions are in a PCI domain of their own, below VMD's; both would take the root."""
    vmd = "sys/devices/pci0000:00/0000:00:0e.0"
    tree.pci("0000:00:0e.0", "8086:9a0b", 0x010400, driver="vmd")
    tree.pci("10000:e0:06.0", "8086:9a09", 0x060400, driver="pcieport", header_type=1)
    tree.pci("10000:e1:00.0", "144d:a80a", 0x010802, driver="nvme")
    where = f"{vmd}/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0"
    tree.disk(where, "nvme0n1", "259:0", 100, {"nvme0n1p1": ("259:1", 10)})
    tree.mount("259:1", "/", "/dev/nvme0n1p1")
    expected = [("mount", "/ (/dev/nvme0n1p1)")]
    assert kinds(tree, "0000:00:0e.0") == kinds(tree, "10000:e1:00.0") == expected
    assert kinds(tree, "10000:e0:06.0") == []


def test_a_pool_of_zfs(tree: Tree) -> None:
    """Its mounts name the pool, and sysfs knows nothing of it."""
    sata(tree)
    tree.mount("0:31", "/", "rpool/ROOT/debian", "zfs")
    tree.write("run/udev/data/b8:2", "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=rpool")
    assert kinds(tree, "0000:00:11.0") == [], "without the module it is an old label"
    tree.directory("sys/module/zfs/parameters")
    (holder,) = holders(tree, "0000:00:11.0")
    assert (holder.kind, holder.what, holder.remedy) == (
        "zfs", "/dev/sda2 (rpool)", "zpool export rpool")
    assert is_vital(holder)


def test_bcachefs_over_two_disks(tree: Tree) -> None:
    sata(tree)
    tree.mount("0:45", "/pool", "/dev/sda1:/dev/sda3", "bcachefs")
    assert kinds(tree, "0000:00:11.0") == [
        ("mount", "/pool (/dev/sda1)"), ("mount", "/pool (/dev/sda3)"),
    ]


def nic(tree: Tree) -> str:
    path = tree.pci("0000:04:00.0", "10ec:8168", 0x020000, driver="r8169")
    tree.link_up("eth0", 2, below=path)
    return "0000:04:00.0"


def test_default_route(tree: Tree) -> None:
    address = nic(tree)
    tree.route("eth0")
    (holder,) = holders(tree, address)
    assert (holder.kind, holder.what) == ("route", "eth0, the default route")
    assert is_vital(holder)


def test_default_route_through_a_bridge(tree: Tree) -> None:
    address = nic(tree)
    tree.link_up("br0", 3)
    tree.enslave("eth0", "br0")
    tree.route("br0")
    assert kinds(tree, address) == [("route", "eth0 (through br0), the default route")]


def test_default_route_through_open_vswitch(tree: Tree) -> None:
    """Its internal port br0 has the route, and nothing in sysfs ties it to the card."""
    address = nic(tree)
    tree.link_up("ovs-system", 3)
    tree.link_up("br0", 4, iflink="4", type="1")
    tree.link("sys/class/net/eth0/master", "../ovs-system")
    tree.route("br0")
    (holder,) = holders(tree, address)
    assert (holder.kind, holder.what) == ("route", "eth0 (through br0), the default route")


@pytest.mark.parametrize("files", [
    {"iflink": "9", "type": "1"}, {"tun_flags": "0x1002"}, {"bridge/stp_state": "0"},
    {"type": "65534"}, {"lower_eth1/ifindex": "8"},
])
def test_what_is_no_internal_port(tree: Tree, files: dict[str, str]) -> None:
    address = nic(tree)
    tree.link_up("other", 4)
    for name, text in files.items():
        tree.write(f"sys/class/net/other/{name}", text)
    tree.link_up("ovs-system", 3)
    tree.link("sys/class/net/eth0/master", "../ovs-system")
    tree.route("other")
    assert kinds(tree, address) == [("link", "eth0, a port of ovs-system")]


def test_default_route_of_ipv6_only(tree: Tree) -> None:
    address = nic(tree)
    zero = "0" * 32
    tree.append("proc/net/ipv6_route", f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo")
    assert kinds(tree, address) == []
    tree.append("proc/net/ipv6_route", f"{zero} 00 {zero} 00 fe80{zero[4:]} 400 2 0 00000003 eth0")
    assert kinds(tree, address) == [("route", "eth0, the default route")]


def test_a_link_with_an_address_is_a_soft_holder(tree: Tree) -> None:
    address = nic(tree)
    tree.append("proc/net/if_inet6", "fe80" + "0" * 28 + " 02 40 20 80     eth0")
    assert kinds(tree, address) == []  # every link that is up has a link-local address
    tree.route("eth0", "0000A8C0", "0000FFFF")
    (holder,) = holders(tree, address)
    assert (holder.kind, is_vital(holder)) == ("link", False)


def test_a_port_of_a_bridge_without_an_address(tree: Tree) -> None:
    """As guests' bridges are."""
    address = nic(tree)
    tree.link_up("br0", 3)
    tree.enslave("eth0", "br0")
    (holder,) = holders(tree, address)
    assert (holder.kind, holder.what) == ("link", "eth0, a port of br0")
    assert holder.remedy == "ip link set eth0 nomaster"


def test_a_vlan_without_an_address(tree: Tree) -> None:
    address = nic(tree)
    tree.link("sys/class/net/eth0/upper_eth0.5", "../eth0.5")
    (holder,) = holders(tree, address)
    assert (holder.kind, holder.what) == ("link", "eth0, which eth0.5 is made on")
    assert holder.remedy == "ip link delete eth0.5"


@pytest.mark.parametrize("where", ["", "virtio3/", "mlx5_core.sf.2/"])
def test_a_link_in_another_network_namespace(tree: Tree, where: str) -> None:
    """sysfs shows the directory that it is in, and not the link."""
    path = tree.pci("0000:04:00.0", "8086:1572", 0x020000, driver="i40e")
    assert holders(tree, "0000:04:00.0") == ()  # a driver that has made no link
    tree.link_up("eth0", 2, below=f"{path}/{where}".rstrip("/"))
    assert holders(tree, "0000:04:00.0") == ()
    (tree.root / "sys/class/net/eth0").unlink()
    shutil.rmtree(tree.root / path / where / "net/eth0")
    (holder,) = holders(tree, "0000:04:00.0")
    assert (holder.kind, is_vital(holder)) == ("namespace", False)
    assert "another network namespace" in holder.what
    assert "lsns -t net" in holder.remedy


@pytest.mark.parametrize(("client", "held"), [
    ("192.168.7.9", True), ("::ffff:192.168.7.9", True), ("10.0.0.1", False),
    ("fe80::1%eth0", True), ("fe80::1%eth1", False),
])
def test_the_ssh_connection(tree: Tree, client: str, held: bool) -> None:
    address = nic(tree)
    tree.route("eth1")  # the default route goes elsewhere
    tree.route("eth0", "0000A8C0", "0000FFFF")
    tree.write("proc/self/environ", b"PATH=/bin\0")  # sudo dropped it
    tree.write("proc/self/status", "Name:\tqlaunch\nPPid:\t77")
    tree.write("proc/77/environ", f"SSH_CONNECTION={client} 50000 192.168.1.1 22\0".encode())
    (holder,) = holders(tree, address)
    assert (holder.kind == "route") is held
    assert (client in holder.what) is held


def test_the_seats_only_card(tree: Tree) -> None:
    card_on_ioh3420(tree)
    tree.write("run/systemd/seats/seat0", "# private\nACTIVE=2\nACTIVE_UID=1000")
    tree.write("run/systemd/sessions/2", "USER=anna\nTYPE=wayland")
    (holder,) = holders(tree, "0000:01:00.0")
    assert holder.kind == "seat"
    assert "anna" in holder.what
    other = tree.pci("0000:02:00.0", "10de:1200", 0x030000, driver="nouveau")
    tree.drm(other, 1)
    assert kinds(tree, "0000:01:00.0") == []


def test_an_empty_seat_holds_nothing(tree: Tree) -> None:
    card_on_ioh3420(tree)
    tree.write("run/systemd/seats/seat0", "ACTIVE=")
    assert kinds(tree, "0000:01:00.0") == []


def test_this_host() -> None:
    for device in with_holders(Path("/"), read_pci()):
        assert device.holders is not None
        assert all(h.what and h.remedy for h in device.holders)
