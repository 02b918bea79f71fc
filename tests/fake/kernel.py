"""A kernel of files: a tree like sysfs whose files behave as the kernel's do when written.

State lives in the tree alone (and in `.model` beside it), because a guarded write happens in a
forked child. What each write does and says follows drivers/base/bus.c, drivers/pci/pci-sysfs.c and
drivers/vfio, as measured on a real one; see the comments for what is easily got wrong.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlaunch.children import Done
from qlaunch.host.handler import Host
from tests.fake.kernel_tree import ABSENT, HANG, KernelTree

METHODS = ("device_specific", "acpi", "flr", "af_flr", "pm", "bus")


@dataclass
class FakeKernel(KernelTree):
    """A Door (see host/handler.py) and the tree behind it."""

    before_write: Callable[[str, str], None] | None = None
    after_write: Callable[[str, str], None] | None = None

    def host(self, **changes: Any) -> Host:
        """A Host that lives here; short deadlines."""
        settings: dict[str, Any] = {"root": self.root, "door": self, "deadline": 5.0}
        settings["settle"] = 0.05
        return Host(**(settings | changes))

    # The door

    def write(self, path: Path, data: bytes) -> None:
        """write(2)."""
        relative, text = str(path.relative_to(self.root)), data.decode()
        if self.before_write:
            self.before_write(relative, text)
        with (self.root / ".model/log").open("a") as log:
            log.write(f"{relative} {text.strip()}\n")
        if not path.exists():
            raise OSError(errno.ENOENT, "", str(path))
        self._fail(path, relative, text)
        if data:  # a zero-length write never reaches a store function
            self._store(path, text)
        if self.after_write:
            self.after_write(relative, text)

    def try_open(self, path: Path) -> None:
        """open(2) of a group node: one opener."""
        if not path.exists():
            raise OSError(errno.ENOENT, "", str(path))
        self._fail(path, str(path.relative_to(self.root)), "")
        if (self.root / ".model/open" / path.name).exists():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    def run(self, argv: Sequence[str]) -> Done:
        """modprobe: knows the vfio modules."""
        assert list(argv[:2]) == ["modprobe", "--"]
        name = argv[2]
        if not name.startswith("vfio"):
            return Done(1, "", f"modprobe: FATAL: Module {name} not found in directory /lib/x\n")
        (self.root / "sys/module" / name).mkdir(exist_ok=True)
        if name == "vfio_pci":
            self.add_driver("vfio-pci")
        return Done(0, "", "")

    # What the kernel does

    def _fail(self, path: Path, relative: str, text: str) -> None:
        for fault in (f for f in self.faults if f.number != ABSENT):
            if fnmatch.fnmatch(relative, fault.pattern) and fault.data in (None, text.strip()):
                if fault.number != HANG:
                    raise OSError(fault.number, os.strerror(fault.number), str(path))
                self._wait((self.root / ".model/release").exists)

    def _wait(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)

    def _store(self, path: Path, text: str) -> None:
        store = {
            "driver_override": self._store_override, "bind": self._store_bind,
            "unbind": self._store_unbind, "drivers_probe": self._store_probe,
            "reset": self._store_reset, "reset_method": self._store_methods,
            "nr_hugepages": self._store_hugepages,
            "remove": self._store_remove,
        }.get(path.name)
        if store:
            store(path, text)
        else:
            path.write_text(text.strip() + "\n")

    def _store_override(self, path: Path, text: str) -> None:
        name = text.split("\n", maxsplit=1)[0]
        path.write_text(f"{name or '(null)'}\n")
        model = self.root / ".model" / path.parent.name / "override"
        model.write_text(name)  # "(null)" when that was written: a driver of that name

    def _store_bind(self, path: Path, text: str) -> None:
        address, driver = text.strip("\n"), path.parent.name
        if not self.device(address).exists() or not self._accepts(driver, address):
            raise OSError(errno.ENODEV, "No such device", str(path))
        if self.driver_of(address):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        self._probe(driver, address, path)

    def _store_unbind(self, path: Path, text: str) -> None:
        address, driver = text.strip("\n"), path.parent.name
        if not self.device(address).exists() or self.driver_of(address) != driver:
            raise OSError(errno.ENODEV, "No such device", str(path))
        if driver == "vfio-pci":  # vfio_unregister_group_dev waits for the user, however long
            opened = self.root / ".model/open" / str(self.group(address))
            self._wait(lambda: not opened.exists())
        self.detach(address, driver)

    def _store_probe(self, path: Path, text: str) -> None:
        address = text.strip("\n")
        if not self.device(address).exists():
            raise OSError(errno.ENODEV, "No such device", str(path))
        if self.driver_of(address):
            return  # success, and the old driver stays
        for folder in sorted((self.root / "sys/bus/pci/drivers").iterdir()):
            if self._accepts(folder.name, address):
                if self.is_owned(address):
                    raise OSError(errno.EINVAL, "Invalid argument", str(path))
                self._probe(folder.name, address, path)
                return
        # success, and nothing was bound

    def _probe(self, driver: str, address: str, path: Path) -> None:
        if driver == "vfio-pci":
            header = (self.root / ".model" / address / "header").read_text()
            if header != "0" or self.group(address) is None:
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
            if self.read(address, "sriov_numvfs") != "0":
                raise OSError(errno.EBUSY, "Device or resource busy", str(path))
            self.attach_vfio(address)
        elif self.is_owned(address):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        else:
            self.attach(address, driver)

    def _store_reset(self, path: Path, text: str) -> None:
        address = path.parent.name
        if not self.read(address, "reset_method"):
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device", str(path))
        with (self.root / ".model/resets").open("a") as log:  # even under a running guest
            log.write(f"{address}\n")

    def _store_methods(self, path: Path, text: str) -> None:
        possible = (self.root / ".model" / path.parent.name / "possible").read_text().split()
        wanted = text.split()
        if wanted == ["default"]:
            wanted = possible
        if any(name not in METHODS or name not in possible for name in wanted):
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        path.write_text(" ".join(wanted) + "\n" if wanted else "")

    def _store_hugepages(self, path: Path, text: str) -> None:
        names = ("nr", "free", "surplus")
        pool = {n: int((path.parent / f"{n}_hugepages").read_text()) for n in names}
        used = pool["nr"] - pool["free"]
        wanted = int(text)
        limit = int((self.root / ".model/limit").read_text())
        persistent = max(pool["nr"] - pool["surplus"], 0)
        given = min(wanted, max(limit, persistent)) if wanted > persistent else wanted
        total = max(given, used)  # pages in use become surplus
        for name, value in (("nr", total), ("free", total - used), ("surplus", total - given)):
            (path.parent / f"{name}_hugepages").write_text(f"{value}\n")

    def _store_remove(self, path: Path, text: str) -> None:
        self.remove(path.parent.name)

    def _accepts(self, driver: str, address: str) -> bool:
        model = self.root / ".model" / address
        override = (model / "override").read_text()
        return driver == override if override else driver in (model / "matches").read_text().split()
