"""The tree behind the fake kernel: what a test sets up, and what it compares afterwards."""

from __future__ import annotations

import fnmatch
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

BOOT_ID = "11111111-2222-3333-4444-555555555555"
ALIVE = bytes.fromhex("86800000060010000000000300000000")
HANG = -1
ABSENT = -2


@dataclass
class Fault:
    """Writes of `data` (any when None) to paths like `pattern` fail, or hang until released.

    ABSENT is about nodes: a driver binds, and those of its nodes that match do not appear.
    """

    pattern: str
    number: int
    data: str | None = None


@dataclass
class KernelTree:
    """sys/, proc/ and dev/, and `.model` beside them for what a real kernel keeps to itself."""

    root: Path
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in ("sys/bus/pci/devices", "sys/bus/pci/drivers", "sys/module", "dev/vfio",
                       "sys/kernel/iommu_groups", ".model/open", "proc/sys/kernel/random"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.put("sys/bus/pci/drivers_probe", "")
        self.put("sys/bus/pci/rescan", "")
        self.put("proc/sys/kernel/osrelease", "6.1.0-test\n")
        self.put("proc/sys/kernel/random/boot_id", BOOT_ID + "\n")

    def put(self, relative: str, text: str) -> Path:
        """Make or overwrite a file."""
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def add_cgroups(self, own: str = "") -> None:
        """A unified hierarchy with nothing turned on, and us in the group `own`."""
        top = self.root / "sys/fs/cgroup"
        top.mkdir(parents=True)
        for name in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.procs"):
            has = "cpu cpuset memory pids\n" if name == "cgroup.controllers" else ""
            (top / name).write_text(has)
        self.put("proc/self/cgroup", f"0::{own or '/'}\n")
        group = top
        for name in own.split("/")[1:]:
            group /= name
            group.mkdir()
            self.fill_cgroup(group)

    def fill_cgroup(self, group: Path) -> None:
        """The files that the kernel makes in a group."""
        on = (group.parent / "cgroup.subtree_control").read_text().split()
        files = {"cgroup.type": "domain\n", "cgroup.procs": "", "cgroup.kill": "",
                 "cgroup.subtree_control": "", "cgroup.controllers": f"{' '.join(on)}\n"}
        limits = {"memory": ("memory.max", "max\n"), "pids": ("pids.max", "max\n"),
                  "cpuset": ("cpuset.cpus", "\n")}
        for name, (file, text) in limits.items():
            if name in on:
                files[file] = text
            else:
                (group / file).unlink(missing_ok=True)
        for file, text in files.items():
            if file == "cgroup.controllers" or not (group / file).exists():
                (group / file).write_text(text)

    def add_driver(self, name: str) -> None:
        """A loaded driver."""
        folder = self.root / "sys/bus/pci/drivers" / name
        folder.mkdir(exist_ok=True)
        for file in ("bind", "unbind", "new_id"):
            (folder / file).touch()

    def add_device(
        self, address: str, *, ids: str = "1234:1111", driver: str | None = None,
        group: int | None = 1, methods: str | None = "bus", possible: str | None = None,
        matches: str = "", header: int = 0, vfs: int = 0, nodes: str = "",
    ) -> Path:
        """A function; `methods` is what its list says, `possible` what `default` finds.

        `nodes` ("drm/card drm/renderD") are what a host driver makes of it, each with a number.
        """
        path = self.root / "sys/devices/pci0000:00" / address
        path.mkdir(parents=True)
        vendor, device = ids.split(":")
        files = {
            "vendor": f"0x{vendor}\n", "device": f"0x{device}\n", "subsystem_vendor": "0x1af4\n",
            "subsystem_device": "0x1100\n", "driver_override": "(null)\n", "remove": "",
            "power/control": "on\n", "d3cold_allowed": "1\n", "sriov_numvfs": f"{vfs}\n",
        }
        if methods is not None:
            files |= {"reset": "", "reset_method": f"{methods}\n" if methods else ""}
        for name, text in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        (path / "config").write_bytes(ALIVE)
        (self.root / "sys/bus/pci/devices" / address).symlink_to(path)
        model = self.root / ".model" / address
        model.mkdir()
        (model / "possible").write_text(possible if possible is not None else methods or "")
        (model / "matches").write_text(f"{matches} {driver or ''}")
        (model / "header").write_text(str(header))
        (model / "override").touch()
        (model / "nodes").write_text(nodes)
        if group is not None:
            folder = self.root / "sys/kernel/iommu_groups" / str(group)
            (folder / "devices").mkdir(parents=True, exist_ok=True)
            (folder / "devices" / address).symlink_to(path)
            (path / "iommu_group").symlink_to(folder)
        if driver:
            self.add_driver(driver)
            if driver == "vfio-pci":
                self.attach_vfio(address)
            else:
                self.attach(address, driver)
        return path

    def add_hugepages(
        self, total: int, free: int, limit: int, folder: str = "sys/kernel/mm"
    ) -> Path:
        """A pool of 2 MiB pages that cannot grow over `limit`."""
        pool = f"{folder}/hugepages/hugepages-2048kB"
        for name, value in (("nr", total), ("free", free), ("resv", 0), ("surplus", 0)):
            self.put(f"{pool}/{name}_hugepages", f"{value}\n")
        self.put(".model/limit", str(limit))
        self.put(".model/pieces", "0")
        return self.root / pool

    def open_group(self, group: int) -> None:
        """Somebody has /dev/vfio/GROUP open from now on."""
        (self.root / ".model/open" / str(group)).touch()

    def close_group(self, group: int) -> None:
        """They let go."""
        (self.root / ".model/open" / str(group)).unlink()

    def release(self) -> None:
        """What hangs goes on."""
        (self.root / ".model/release").touch()

    def kill(self, address: str) -> None:
        """The device falls off the bus: its cached files stay, config space is all ones."""
        (self.device(address) / "config").write_bytes(b"\xff" * 16)

    def vanish(self, address: str) -> None:
        """The device is removed."""
        self.remove(address)

    def driver_of(self, address: str) -> str | None:
        """By the link."""
        try:
            return (self.device(address) / "driver").readlink().name
        except FileNotFoundError:
            return None

    def read(self, address: str, name: str) -> str:
        """One of the device's files."""
        return (self.device(address) / name).read_text().strip()

    def log(self) -> list[str]:
        """Every write so far: "path data"."""
        path = self.root / ".model/log"
        return path.read_text().splitlines() if path.exists() else []

    def remove_model(self, address: str) -> None:
        """Forget a device that vanished, so that another can take its address."""
        shutil.rmtree(self.root / ".model" / address)

    # What the behaviour is made of

    def attach(self, address: str, driver: str) -> None:
        folder = self.root / "sys/bus/pci/drivers" / driver
        (self.device(address) / "driver").symlink_to(folder)
        (folder / address).symlink_to(self.device(address))
        if "vfio" not in driver:
            self.make_nodes(address)

    def make_nodes(self, address: str) -> None:
        """What a driver's probe registers, under the number that is in .model/number."""
        number = self.root / ".model/number"
        text = number.read_text() if number.exists() else "0"
        for name in self.nodes(address):
            path = f"{self.device(address).relative_to(self.root)}/{name}{text}"
            if not any(
                f.number == ABSENT and fnmatch.fnmatch(path, f.pattern) for f in self.faults
            ):
                (self.root / path).mkdir(parents=True, exist_ok=True)

    def nodes(self, address: str) -> list[str]:
        return (self.root / ".model" / address / "nodes").read_text().split()

    def attach_vfio(self, address: str, driver: str = "vfio-pci") -> None:
        self.attach(address, driver)
        (self.device(address) / "power/control").write_text("auto\n")  # pm_runtime_allow
        node = self.root / "dev/vfio" / str(self.group(address))
        if not node.exists():
            node.touch(mode=0o600)

    def detach(self, address: str, driver: str) -> None:
        (self.device(address) / "driver").unlink()
        (self.root / "sys/bus/pci/drivers" / driver / address).unlink()
        for name in self.nodes(address):
            shutil.rmtree(self.device(address) / name.split("/")[0], ignore_errors=True)
        if "vfio" in driver:
            (self.device(address) / "power/control").write_text("on\n")  # pm_runtime_forbid
            group = self.group(address)
            if not any("vfio" in (self.driver_of(a) or "") for a in self.members(group)):
                (self.root / "dev/vfio" / str(group)).unlink()

    def remove(self, address: str, *, keep: bool = False) -> None:
        """Off the bus; with `keep` a rescan finds it again."""
        driver, group = self.driver_of(address), self.group(address)
        if driver:
            self.detach(address, driver)
        if keep:
            shutil.copytree(
                self.device(address), self.root / ".model" / address / "removed", symlinks=True)
        shutil.rmtree(self.device(address))
        (self.root / "sys/bus/pci/devices" / address).unlink()
        (self.root / f"sys/kernel/iommu_groups/{group}/devices" / address).unlink()

    def put_back(self) -> list[str]:
        """All that were removed, with what the kernel knows of new devices."""
        back = []
        for kept in sorted((self.root / ".model").glob("*/removed")):
            address = kept.parent.name
            shutil.move(kept, self.device(address))
            (self.root / "sys/bus/pci/devices" / address).symlink_to(self.device(address))
            if (group := self.group(address)) is not None:
                folder = self.root / f"sys/kernel/iommu_groups/{group}/devices"
                (folder / address).symlink_to(self.device(address))
            fresh = {"driver_override": "(null)", "d3cold_allowed": "1", "power/control": "on"}
            for name, text in fresh.items():
                (self.device(address) / name).write_text(f"{text}\n")
            (self.root / ".model" / address / "override").write_text("")
            back.append(address)
        return back

    def is_owned(self, address: str) -> bool:
        return (self.root / ".model/open" / str(self.group(address))).exists()

    def members(self, group: int | None) -> list[str]:
        folder = self.root / f"sys/kernel/iommu_groups/{group}/devices"
        return [p.name for p in folder.iterdir()]

    def group(self, address: str) -> int | None:
        link = self.device(address) / "iommu_group"
        return int(link.readlink().name) if link.is_symlink() else None

    def device(self, address: str) -> Path:
        return self.root / "sys/devices/pci0000:00" / address


def snapshot(
    root: Path, tops: tuple[str, ...] = ("sys", "proc", "dev")
) -> dict[str, tuple[int, int, int, str]]:
    """Everything below `tops`: mode, owner and content or target of each path."""
    tree: dict[str, tuple[int, int, int, str]] = {}
    for top in tops:
        for path in [root / top, *(root / top).rglob("*")]:
            found = path.lstat()
            content = ""
            if stat.S_ISLNK(found.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(found.st_mode):
                content = path.read_bytes().hex()
            owner = (found.st_uid, found.st_gid)
            tree[str(path.relative_to(root))] = (found.st_mode, *owner, content)
    return tree
