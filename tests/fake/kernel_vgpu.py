"""Mediated devices, virtual functions and NVIDIA's vGPU files on the fake kernel.

What each write does and says follows drivers/vfio/mdev/mdev_sysfs.c and mdev_core.c,
drivers/pci/iov.c and NVIDIA's vGPU guide. Types of one parent share one pool, so the number of
instances of each changes with every one that is made.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qlaunch.children import Done
from qlaunch.facts.vgpu_model import Sriov
from qlaunch.plan.vgpu_vf import vf_address
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FIRST_GROUP = 50  # of what is made


@dataclass
class VgpuKernel(FakeKernel):
    """See the module's docstring. State is in the tree and .model, as for the base."""

    no_room: int = errno.EUSERS  # what a driver without a free instance says
    modules: tuple[str, ...] = ("kvmgt",)

    # -- set up ---------------------------------------------------------------------------------

    def add_parent(
        self, name: str, types: Mapping[str, int], pool: int, *, driver: str = "mdpy",
        text: str = "", label: str = "",
    ) -> Path:
        """An mdev parent; `types`: id → what one takes of the pool. A PCI device when it is one."""
        path = self.root / "sys/devices/pci0000:00" / name
        if not path.exists():
            path = self.root / "sys/devices/virtual" / driver / name
            path.mkdir(parents=True)
        (self.root / "sys/class/mdev_bus").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/bus/mdev/devices").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/class/mdev_bus" / name).symlink_to(path)
        model = self.root / ".model/mdev" / name
        model.mkdir(parents=True)
        (model / "pool").write_text(str(pool))
        for kind, cost in types.items():
            folder = path / "mdev_supported_types" / kind
            (folder / "devices").mkdir(parents=True)
            files = {"create": "", "device_api": "vfio-pci\n", "name": f"{label or kind}\n"}
            if text:
                files["description"] = text
            for file, content in files.items():
                (folder / file).write_text(content)
            (model / kind).write_text(str(cost))
        self._count_instances(name)
        return path

    def add_sriov(
        self, address: str, total: int, *, offset: int = 1, stride: int = 1, vf: str = "0010",
        matches: str = "", same_group: bool = False,
    ) -> None:
        """The files of a physical function; `matches` are its functions' host drivers."""
        for name, text in {
            "sriov_totalvfs": total, "sriov_offset": offset, "sriov_stride": stride,
            "sriov_vf_device": vf, "sriov_drivers_autoprobe": 1,
        }.items():
            (self.device(address) / name).write_text(f"{text}\n")
        model = self.root / ".model" / address
        (model / "vf_matches").write_text(matches)
        (model / "same_group").write_text("yes" if same_group else "")

    def add_nvidia(self, physical: str, types: Sequence[tuple[int, str, int]], pool: int) -> None:
        """Vendor files on each virtual function of a card; types: (number, name, GiB)."""
        model = self.root / ".model" / physical
        (model / "gpu").write_text(str(pool))
        (model / "types").write_text("".join(f"{n}:{name}:{g}\n" for n, name, g in types))
        for address in self.functions(physical):
            (self.device(address) / "nvidia").mkdir()
            (self.device(address) / "nvidia/current_vgpu_type").write_text("0\n")
            (self.root / "dev/vfio" / str(self.group(address))).touch(mode=0o600)
        self._count_creatable(physical)

    def functions(self, physical: str) -> list[str]:
        """Its virtual functions, in order."""
        path = self.device(physical)
        return [(path / f"virtfn{n}").readlink().name for n in range(99)
                if (path / f"virtfn{n}").is_symlink()]

    def mdevs(self) -> list[str]:
        """UUIDs of all mediated devices."""
        return sorted(p.name for p in (self.root / "sys/bus/mdev/devices").iterdir())

    def group_of(self, uuid: str) -> int:
        """A mediated device's group."""
        return int((self.root / "sys/bus/mdev/devices" / uuid / "iommu_group").readlink().name)

    # -- the door -------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False) -> Done:
        """modprobe: some more modules."""
        if argv[2] in self.modules:
            (self.root / "sys/module" / argv[2]).mkdir(exist_ok=True)
            return Done(0, "", "")
        return super().run(argv, stdin, daemon=daemon)

    def _store(self, path: Path, text: str) -> None:
        if path.name == "create":
            self._create(path, text)
        elif path.name == "remove" and (self.root / "sys/bus/mdev/devices" / path.parent.name
                                        ).is_symlink():
            self._remove_mdev(path.parent)
        elif path.name == "sriov_numvfs":
            self._set_count(path, text)
        elif path.name == "current_vgpu_type":
            self._set_type(path, text)
        else:
            super()._store(path, text)

    def _store_unbind(self, path: Path, text: str) -> None:
        """The driver takes its mediated devices with it, and then can make no more
        (mdev_unregister_parent): for one that is open it waits."""
        address = text.strip("\n")
        device = self.device(address)
        if self.driver_of(address) == path.parent.name and self._makes_mdevs(address):
            (self.root / "sys/class/mdev_bus" / address).unlink()
            for uuid in [u for u in self.mdevs() if (device / u).exists()]:
                self._remove_mdev(self.root / "sys/bus/mdev/devices" / uuid)
            kept = self.root / ".model/mdev" / address / "off"
            shutil.move(device / "mdev_supported_types", kept)
        super()._store_unbind(path, text)

    def _makes_mdevs(self, address: str) -> bool:
        return (self.root / "sys/class/mdev_bus" / address).is_symlink()

    def attach(self, address: str, driver: str) -> None:
        """A driver that made mediated devices of it can do so again."""
        super().attach(address, driver)
        kept = self.root / ".model/mdev" / address / "off"
        if "vfio" not in driver and kept.exists():
            shutil.move(kept, self.device(address) / "mdev_supported_types")
            (self.root / "sys/class/mdev_bus" / address).symlink_to(self.device(address))

    # -- mediated devices -----------------------------------------------------------------------

    def _create(self, path: Path, text: str) -> None:
        uuid = text.removesuffix("\n").lower()
        if not _UUID.fullmatch(uuid):
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        if (self.root / "sys/bus/mdev/devices" / uuid).is_symlink():
            raise OSError(errno.EEXIST, "File exists", str(path))
        kind = path.parent
        parent = kind.parents[1]
        if int((kind / "available_instances").read_text()) < 1:
            raise OSError(self.no_room, os.strerror(self.no_room), str(path))
        made = parent / uuid
        made.mkdir()
        (made / "remove").touch()
        (self.root / "sys/bus/mdev/devices" / uuid).symlink_to(made)
        self._new_group(made)
        self.amid(path)
        (kind / "devices" / uuid).symlink_to(made)
        (made / "mdev_type").symlink_to(kind)
        self._count_instances(parent.name)

    def _free_group(self) -> int:
        groups = self.root / "sys/kernel/iommu_groups"
        return next(n for n in range(FIRST_GROUP, 999) if not (groups / str(n)).exists())

    def _new_group(self, device: Path) -> None:
        groups, number = self.root / "sys/kernel/iommu_groups", self._free_group()
        (groups / str(number)).mkdir()
        (device / "iommu_group").symlink_to(groups / str(number))
        (self.root / "dev/vfio" / str(number)).touch(mode=0o600)

    def _remove_mdev(self, link: Path) -> None:
        """While it is open its name is gone already, and the writer waits."""
        device = link.resolve()
        group = (device / "iommu_group").readlink()
        (device / "remove").unlink()
        if not (device / "mdev_type").is_symlink():  # it is not made yet, and stays for good
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(device))
        kind = (device / "mdev_type").readlink()
        (device / "mdev_type").unlink()
        self.amid(device / "remove")
        (self.root / "sys/bus/mdev/devices" / device.name).unlink()
        opened = self.root / ".model/open" / group.name
        self._wait(lambda: not opened.exists())
        (kind / "devices" / device.name).unlink()  # and with it its instance
        (self.root / "dev/vfio" / group.name).unlink()
        group.rmdir()
        shutil.rmtree(device)
        self._count_instances(device.parent.name, device.parent)

    def _count_instances(self, parent: str, path: Path | None = None) -> None:
        path = path or self.root / "sys/class/mdev_bus" / parent
        types = path / "mdev_supported_types"
        model = self.root / ".model/mdev" / parent
        cost = {t.name: int((model / t.name).read_text()) for t in types.iterdir()}
        used = sum(cost[t.name] * len(list((t / "devices").iterdir())) for t in types.iterdir())
        left = int((model / "pool").read_text()) - used
        for kind, price in cost.items():
            (types / kind / "available_instances").write_text(f"{left // price}\n")

    # -- virtual functions ----------------------------------------------------------------------

    def _set_count(self, path: Path, text: str) -> None:
        device, wanted = path.parent, int(text)
        now = int(path.read_text())
        if wanted > int((device / "sriov_totalvfs").read_text()):
            raise OSError(errno.ERANGE, "Numerical result out of range", str(path))
        if wanted == now:
            return
        if not (device / "driver").is_symlink():
            raise OSError(errno.ENOENT, "No such file or directory", str(path))
        if now and wanted:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        if wanted:
            for number in range(wanted):
                self._add_function(device.name, number)
            self.amid(path)
        else:
            self._remove_functions(device.name)
        path.write_text(f"{wanted}\n")

    def _add_function(self, physical: str, number: int) -> None:
        path, model = self.device(physical), self.root / ".model" / physical
        read = {n: (path / f"sriov_{n}").read_text().strip() for n in (
            "offset", "stride", "vf_device", "drivers_autoprobe")}
        sriov = Sriov(address=PciAddress(physical), offset=int(read["offset"]),
                      stride=int(read["stride"]))
        address = vf_address(PciAddress(physical), sriov, number)
        vendor = self.read(physical, "vendor").removeprefix("0x")
        matches = (model / "vf_matches").read_text()
        same = (model / "same_group").read_text()
        group = self.group(physical) if same else self._free_group()
        function = self.add_device(
            address, ids=f"{vendor}:{read['vf_device']}", group=group, methods="flr",
            matches=matches,
        )
        (function / "physfn").symlink_to(path)
        ids = b"\xff" * 4  # a virtual function does not say them itself
        (function / "config").write_bytes(ids + (function / "config").read_bytes()[4:])
        (path / f"virtfn{number}").symlink_to(function)
        if matches and read["drivers_autoprobe"] == "1":
            self.attach(address, matches.split()[0])

    def _remove_functions(self, physical: str) -> None:
        """Waits, with the device's lock held, for whoever has one open (vfio's remove)."""
        for number, address in enumerate(self.functions(physical)):
            group = self.group(address)
            opened = self.root / ".model/open" / str(group)
            if (self.driver_of(address) or "").startswith("vfio"):
                self._wait(lambda opened=opened: not opened.exists())  # type: ignore[misc]
            (self.device(physical) / f"virtfn{number}").unlink()
            self.remove(address)
            self.remove_model(address)
            folder = self.root / f"sys/kernel/iommu_groups/{group}"
            if not self.members(group):
                shutil.rmtree(folder)

    # -- NVIDIA ---------------------------------------------------------------------------------

    def _set_type(self, path: Path, text: str) -> None:
        function = path.parents[1]
        now = int(path.read_text())
        if not text.strip().isdigit():
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        wanted = int(text)
        opened = self.root / ".model/open" / str(self.group(function.name))
        stubborn = self.root / ".model" / function.name / "stubborn"
        if stubborn.exists() and now and not wanted and (left := int(stubborn.read_text())):
            stubborn.write_text(str(left - 1))
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        if opened.exists() or (now and wanted):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        creatable = (path.parent / "creatable_vgpu_types").read_text()
        if wanted and not re.search(rf"^{wanted}\s", creatable, re.MULTILINE):
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        path.write_text(f"{wanted}\n")
        self._count_creatable((function / "physfn").readlink().name)

    def _count_creatable(self, physical: str) -> None:
        """What still fits; on a card that is shared by time all vGPUs have one size."""
        model = self.root / ".model" / physical
        types = [line.split(":") for line in (model / "types").read_text().splitlines()]
        size = {int(number): int(gib) for number, _, gib in types}
        files = [self.device(a) / "nvidia" for a in self.functions(physical)]
        made = [n for f in files if (n := int((f / "current_vgpu_type").read_text()))]
        left = int((model / "gpu").read_text()) - sum(size[n] for n in made)
        sizes = {size[n] for n in made}
        for folder in files:
            free = (folder / "current_vgpu_type").read_text() == "0\n"
            lines = ["ID    : vGPU Name"] + [
                f"{number:<6}: {name}" for number, name, gib in types
                if free and int(gib) <= left and (not sizes or int(gib) in sizes)
            ]
            (folder / "creatable_vgpu_types").write_text("\n".join(lines) + "\n")
