"""Who uses a PCI function: processes, mounts, swap, routes, the seat, its mediated devices.

Asked before a device is taken from the host, because `unbind` under a user hangs (nvidia), loses
data (a mounted disk) or cuts off whoever typed it (the network card). Every holder says what to
do. A function's IOMMU group has the holders of all its members.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import join, quote

from msgspec.structs import replace

from qlaunch.children import guarded
from qlaunch.errors import KERNEL_LOG, HostError, StuckError
from qlaunch.facts.blocks import BlockTable, is_claimed
from qlaunch.facts.links import (
    Route,
    has_moved_link,
    has_policy,
    link_to,
    links_over,
    read_routes,
)
from qlaunch.facts.mdevs import MdevTable
from qlaunch.facts.model import DISPLAY_CLASS, Holder, PciDevice
from qlaunch.facts.processes import read_process_holders
from qlaunch.facts.tree import base_of, link_name, read_lines, read_whole

VITAL = frozenset(("mount", "swap", "route", "lvm", "md", "zfs", "claimed"))
_OPENING = 3.0  # seconds for opening a controller's disks
_ANCESTORS = 32  # launcher, sudo, shell, multiplexer, sshd: far less
_CLOSE = {"lvm": "lvchange -an", "crypt": "cryptsetup close", "multipath": "multipath -f"}
_NETWORK_CLASS = 0x02
_LINK_LOCAL = "20"  # scope column of /proc/net/if_inet6


def is_vital(holder: Holder) -> bool:
    """Whether the host itself would break: mounted file systems and active volumes, swap, the
    default route, the SSH connection we came by. Processes, seats and VFIO users can be ended;
    a link that is up is worth a warning only.
    """
    return holder.kind in VITAL


def with_holders(root: Path, devices: Sequence[PciDevice]) -> tuple[PciDevice, ...]:
    """The devices with `holders` filled in, vital ones first. Bridges have none of their own."""
    blocks = BlockTable(root)
    mdevs = MdevTable(root, devices)
    owners = _node_owners(devices, blocks) | _nvidia_nodes(root, devices) | mdevs.nodes
    processes = read_process_holders(root, owners)
    network = _Network(root)
    seats = _seat_holders(root, devices)
    filled = []
    for device in devices:
        holders = [
            *_of_disks(blocks, device),
            *network.holders(n[4:] for n in device.nodes if n.startswith("net/")),
            *_moved_links(root, device),
            *seats.get(device.address, ()),
            *processes.get(device.address, ()),
            *(processes.get(f"group {device.iommu_group}", ()) if _is_vfio(device) else ()),
            *mdevs.holders(device, processes),
        ]
        holders.sort(key=lambda h: not is_vital(h))
        filled.append(replace(device, holders=tuple(holders)))
    return tuple(filled)


def _is_vfio(device: PciDevice) -> bool:
    """Variant drivers (mlx5_vfio_pci) count too, and NVIDIA's own, with which its vGPUs stay."""
    vgpu = device.driver == "nvidia" and device.physfn is not None
    return device.iommu_group is not None and ("vfio" in (device.driver or "") or vgpu)


def _node_owners(devices: Sequence[PciDevice], blocks: BlockTable) -> dict[str, str]:
    """/dev path → address; of a VFIO group node, "group N"."""
    owners: dict[str, str] = {}
    for device in devices:
        owners.update((f"/dev/{n}", device.address) for n in device.nodes if n[:4] != "net/")
        for name in _names(device, blocks):
            owners.update((path, device.address) for path in (blocks.label(name), f"/dev/{name}"))
        if _is_vfio(device):
            owners[f"/dev/vfio/{device.iommu_group}"] = f"group {device.iommu_group}"
    return owners


def _nvidia_nodes(root: Path, devices: Sequence[PciDevice]) -> dict[str, str]:
    """/dev/nvidiaN → address. NVIDIA's driver has no class in sysfs; the number is the "Device
    Minor" of /proc/driver/nvidia/gpus/ADDRESS/information, where an unbind waits for its users.
    """
    found = {}
    for device in devices:
        if device.driver == "nvidia":
            path = f"{base_of(root)}/proc/driver/nvidia/gpus/{device.address}/information"
            for line in read_lines(path):
                key, _, value = line.partition(":")
                if key.strip() == "Device Minor" and value.strip().isdigit():
                    found[f"/dev/nvidia{value.strip()}"] = str(device.address)
    return found


def _names(device: PciDevice, blocks: BlockTable) -> tuple[str, ...]:
    """The block devices it carries and everything on top of them."""
    nodes = (node for node in device.nodes if node in blocks.names)
    return tuple(dict.fromkeys(name for node in nodes for name in blocks.above(node)))


def _of_disks(blocks: BlockTable, device: PciDevice) -> list[Holder]:
    """Of each drive what the host has on it; of one without, whether the kernel claims it."""
    found: list[Holder] = []
    unsure: dict[str, list[Holder]] = {}
    names = [node for node in device.nodes if node in blocks.names]
    for disk in (name for name in names if not blocks.is_partition(name)):
        holders = list(_block_holders(blocks, blocks.above(disk)))
        if all(holder.kind == "zfs" for holder in holders):  # also of a pool that was exported
            unsure[disk] = holders
        else:
            found += holders
    if unsure and not blocks.base and os.geteuid() == 0:
        found += _claims(blocks, device, unsure)
    else:
        found += [holder for holders in unsure.values() for holder in holders]
    return list(dict.fromkeys(found))  # a volume over two drives is one


def _claims(
    blocks: BlockTable, device: PciDevice, unsure: dict[str, list[Holder]]
) -> Iterable[Holder]:
    """Drives that the kernel keeps although nothing we know of uses them: mounted in another mount
    namespace, an iSCSI target's, a ZFS pool's that udev has not seen. Opening a drive may hang
    where its driver does, hence the child."""

    def look() -> str:
        return " ".join(disk for disk in unsure if is_claimed(f"/dev/{disk.replace('!', '/')}"))

    try:
        claimed = guarded(look, f"opening the drives of {device.address}", deadline=_OPENING)
    except StuckError:
        yield Holder(kind="claimed", what=f"{' '.join(unsure)}, which does not answer",
                     remedy=KERNEL_LOG)
        return
    except (OSError, HostError):
        return
    for disk in claimed.split():
        label = blocks.label(disk)
        yield from unsure[disk] or (Holder(
            kind="claimed", what=label,
            remedy=f"lsblk {label}; fuser -v {label}: it is mounted in a container, or an iSCSI "
            "target's, a RAID's or a pool's",
        ),)


def _block_holders(blocks: BlockTable, names: Sequence[str]) -> Iterable[Holder]:
    """Mounts and swaps; of volumes that nothing is mounted on, the volume."""
    for name in names:
        label = blocks.label(name)
        points = blocks.mounts_of(name)
        if points:
            more = f" and {len(points) - 1} more" if len(points) > 1 else ""
            remedy = "the host runs from it" if "/" in points else f"umount {join(points)}"
            yield Holder(kind="mount", what=f"{points[0]}{more} ({label})", remedy=remedy)
        if name in blocks.swaps:
            yield Holder(kind="swap", what=label, remedy=f"swapoff {label}")
        if not (points or name in blocks.swaps or any(n != name for n in blocks.above(name))):
            yield from _volume(blocks, name, label)


def _volume(blocks: BlockTable, name: str, label: str) -> Iterable[Holder]:
    """A volume, array or pool that is active, with nothing on top that we know of."""
    layer = blocks.layer(name)
    if layer == "md":
        yield Holder(kind="md", what=label, remedy=f"mdadm --stop {label}")
    elif layer:
        remedy = f"{_CLOSE.get(layer, 'dmsetup remove')} {label}"
        yield Holder(kind="lvm", what=f"{label} ({layer})", remedy=remedy)
    elif (pool := blocks.pool_of(name)) is not None:
        yield Holder(kind="zfs", what=f"{label} ({pool or 'pool'})",
                     remedy=f"zpool export {quote(pool)}" if pool else "zpool export its pool")


class _Network:
    """Routes of one moment, and which links they make precious."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.routes: tuple[Route, ...] = read_routes(root)
        self.default = {route.link for route in self.routes if route.bits == 0}
        self.addressed = {route.link for route in self.routes if route.bits}
        for line in read_lines(f"{base_of(root)}/proc/net/if_inet6"):
            words = line.split()
            if len(words) == 6 and words[3] != _LINK_LOCAL:
                self.addressed.add(words[5])
        client, server = ssh_ends(root)
        self.client = client
        self.ssh = link_to(self.routes, client) if client else None
        if not base_of(root) and has_policy(self.routes, ""):
            self._ask_policy(client, server)

    def _ask_policy(self, client: str, server: str) -> None:
        """A default route of another table is for those that a rule sends there, so it makes its
        link no more precious than an address does."""
        from qlaunch.facts.policy import link_back, read_all_tables

        routes = read_all_tables()
        self.addressed.update(route.link for route in routes)
        if client:
            self.ssh = link_back(client, server) or link_to((*self.routes, *routes), client)

    def holders(self, names: Iterable[str]) -> Iterable[Holder]:
        """At most one a link: its gravest use, also through a bridge, bond or VLAN on it."""
        for name in names:
            over = links_over(self.root, name)
            if self.ssh in over:
                yield Holder(
                    kind="route", what=f"{_through(name, self.ssh)}, the SSH connection from "
                    f"{self.client}", remedy="come in by another network card, or from the console",
                )
            elif used := next((link for link in over if link in self.default), None):
                yield Holder(
                    kind="route", what=f"{_through(name, used)}, the default route",
                    remedy="move the default route to another network card: ip route",
                )
            elif used := next((link for link in over if link in self.addressed), None):
                yield Holder(
                    kind="link", what=f"{_through(name, used)}, which is up and has an address",
                    remedy=f"ip link set {name} down",
                )
            elif master := link_name(f"{base_of(self.root)}/sys/class/net/{name}/master"):
                yield Holder(kind="link", what=f"{name}, a port of {master}",
                             remedy=f"ip link set {name} nomaster")
            elif above := over[1:]:
                yield Holder(kind="link", what=f"{name}, which {', '.join(above)} is made on",
                             remedy=f"ip link delete {above[0]}")


def _moved_links(root: Path, device: PciDevice) -> Iterable[Holder]:
    """A network card whose link somebody has moved: a container, mostly. Which, nothing tells."""
    if device.base_class == _NETWORK_CLASS and has_moved_link(root, device.address):
        yield Holder(
            kind="namespace", what="a link that is in another network namespace",
            remedy="end the container that has it; lsns -t net lists them. By hand: "
            "nsenter -t PID -n ip link set LINK netns 1",
        )


def _through(name: str, used: str | None) -> str:
    return name if used in (None, name) else f"{name} (through {used})"


def ssh_client(root: Path) -> str | None:
    """The address our SSH session comes from; None without one."""
    return ssh_ends(root)[0] or None


def ssh_ends(root: Path) -> tuple[str, str]:
    """The client's address and ours in SSH_CONNECTION, of our environment or an ancestor's.

    sudo drops it, so parents are asked, up to the first that has it.
    """
    base = base_of(root)
    pid = "self"
    for _ in range(_ANCESTORS):
        for entry in (read_whole(f"{base}/proc/{pid}/environ") or b"").split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION="):
                words = [*entry.partition(b"=")[2].decode(errors="replace").split(), "", "", ""]
                return words[0], words[2]
        status = dict(
            line.partition(":")[::2] for line in read_lines(f"{base}/proc/{pid}/status")
        )
        pid = status.get("PPid", "").strip()
        if pid in ("", "0", "1"):
            break
    return "", ""


def _seat_holders(root: Path, devices: Sequence[PciDevice]) -> dict[str, tuple[Holder, ...]]:
    """The host's only card with a screen on it while somebody sits there (logind's seat0)."""
    cards = [
        device for device in devices
        if device.class_code >> 16 == DISPLAY_CLASS
        and any(node.startswith(("dri/card", "fb", "nvidia")) for node in device.nodes)
    ]
    if len(cards) != 1:
        return {}
    seat = _assignments(f"{base_of(root)}/run/systemd/seats/seat0")
    session = seat.get("ACTIVE", "")
    if not session:
        return {}
    about = _assignments(f"{base_of(root)}/run/systemd/sessions/{session}")
    who = about.get("USER") or f"uid {seat.get('ACTIVE_UID', '?')}"
    holder = Holder(
        kind="seat",
        what=f"seat0's only display card, where {who} is logged in ({about.get('TYPE') or 'tty'})",
        remedy=f"come in over SSH, then: loginctl terminate-session {session}",
    )
    return {cards[0].address: (holder,)}


def _assignments(path: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in read_lines(path) if line[:1] != "#")
