"""A kernel of files: a tree like sysfs whose files behave as the kernel's do when written.

State lives in the tree alone (and in `.model` beside it), because a guarded write happens in a
forked child. What each write does and says follows drivers/base/bus.c, drivers/pci/pci-sysfs.c and
drivers/vfio, as measured on a real one; see the comments for what is easily got wrong.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    variants: Mapping[str, str] = field(default_factory=dict)  # module: its VFIO driver
    amid_write: Callable[[str, str], None] | None = None  # when half of it is to be seen

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

    def mkdir(self, path: Path) -> None:
        """A control group: the files in it depend on what the one above has turned on."""
        relative = str(path.relative_to(self.root))
        if self.before_write:
            self.before_write(relative, "mkdir")
        self._fail(path, relative, "mkdir")
        path.mkdir()
        self.fill_cgroup(path)
        if self.after_write:
            self.after_write(relative, "mkdir")

    def rmdir(self, path: Path) -> None:
        """One that holds processes or groups stays; its files are no hindrance."""
        relative = str(path.relative_to(self.root))
        if self.before_write:
            self.before_write(relative, "rmdir")
        self._fail(path, relative, "rmdir")
        procs = (path / "cgroup.procs").read_text() if path.exists() else ""
        if procs or any(child.is_dir() for child in path.iterdir()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        shutil.rmtree(path)
        if self.after_write:
            self.after_write(relative, "rmdir")

    def run(self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False) -> Done:
        """modprobe: knows the vfio modules; which driver is in one, its directory tells then."""
        assert list(argv[:2]) == ["modprobe", "--"]
        name = argv[2]
        if name in self.variants:
            driver = self.variants[name]
            self.add_driver(driver)
            folder = self.root / "sys/module" / name / "drivers"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"pci:{driver}").symlink_to(self.root / "sys/bus/pci/drivers" / driver)
            return Done(0, "", "")
        if not name.startswith("vfio"):
            return Done(1, "", f"modprobe: FATAL: Module {name} not found in directory /lib/x\n")
        (self.root / "sys/module" / name).mkdir(exist_ok=True)
        if name == "vfio_pci":
            self.add_driver("vfio-pci")
        return Done(0, "", "")

    def send_signal(self, pid: int, number: int) -> None:
        """Nobody runs here."""
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

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

    def amid(self, path: Path) -> None:
        """In the middle of a write."""
        if self.amid_write:
            self.amid_write(str(path.relative_to(self.root)), "")

    def _store(self, path: Path, text: str) -> None:
        store = {
            "driver_override": self._store_override, "bind": self._store_bind,
            "unbind": self._store_unbind, "drivers_probe": self._store_probe,
            "reset": self._store_reset, "reset_method": self._store_methods,
            "nr_hugepages": self._store_hugepages,
            "compact_memory": self._store_compact, "compact": self._store_compact,
            "remove": self._store_remove, "rom": self._store_rom,
            "rescan": self._store_rescan,
            "cgroup.subtree_control": self._store_control, "cgroup.kill": self._store_kill,
            "memory.max": self._store_limit,
            **{f"resource{n}_resize": self._store_resize for n in range(6)},
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
        self.amid(path)
        self._probe(driver, address, path)

    def _store_unbind(self, path: Path, text: str) -> None:
        address, driver = text.strip("\n"), path.parent.name
        if not self.device(address).exists() or self.driver_of(address) != driver:
            raise OSError(errno.ENODEV, "No such device", str(path))
        if "vfio" in driver:  # vfio_unregister_group_dev waits for the user, however long
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
        if "vfio" in driver:
            header = (self.root / ".model" / address / "header").read_text()
            if header != "0" or self.group(address) is None:
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
            if self.read(address, "sriov_numvfs") != "0":
                raise OSError(errno.EBUSY, "Device or resource busy", str(path))
            self.attach_vfio(address, driver)
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

    def _store_compact(self, path: Path, text: str) -> None:
        """Write-only; what was in pieces can be pages now."""
        pieces, limit = (self.root / ".model" / name for name in ("pieces", "limit"))
        limit.write_text(str(int(limit.read_text()) + int(pieces.read_text())))
        pieces.write_text("0")

    def _store_rom(self, path: Path, text: str) -> None:
        """Shown between 1 and 0; a read at any other time is EINVAL there, and nothing here."""
        image = self.root / ".model" / path.parent.name / "rom"
        path.write_bytes(image.read_bytes() if text.strip() == "1" else b"")

    def _store_control(self, path: Path, text: str) -> None:
        """A group with processes has no limited ones in it, but for the top."""
        on = path.read_text().split()
        for word in text.split():
            name = word[1:]
            if name not in (path.parent / "cgroup.controllers").read_text().split():
                raise OSError(errno.EINVAL, "", str(path))
            top = not (path.parent / "cgroup.type").exists()
            if not top and (path.parent / "cgroup.procs").read_text():
                raise OSError(errno.EBUSY, "", str(path))
            below = path.parent.glob("*/cgroup.subtree_control")
            if word.startswith("-") and any(name in p.read_text().split() for p in below):
                raise OSError(errno.EBUSY, "", str(path))
            on = [n for n in on if n != name] + ([name] if word.startswith("+") else [])
        path.write_text(" ".join(on) + "\n" if on else "")
        for group in (child for child in path.parent.iterdir() if child.is_dir()):
            self.fill_cgroup(group)

    def _store_kill(self, path: Path, text: str) -> None:
        (path.parent / "cgroup.procs").write_text("")
        path.write_text("")

    def _store_limit(self, path: Path, text: str) -> None:
        """In whole pages."""
        value = text.strip()
        path.write_text(f"{value if value == 'max' else int(value) // 4096 * 4096}\n")

    def _store_remove(self, path: Path, text: str) -> None:
        self.remove(path.parent.name, keep=True)

    def _store_resize(self, path: Path, text: str) -> None:
        if self.driver_of(path.parent.name):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        bit = int(text)
        if not int(path.read_text(), 16) >> bit & 1:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        lines = (path.parent / "resource").read_text().splitlines()
        lines[int(path.name[8])] = f"0x{1 << 40:016x} 0x{(1 << 40) + (1 << bit + 20) - 1:016x} 0x0"
        (path.parent / "resource").write_text("\n".join(lines) + "\n")

    def _store_rescan(self, path: Path, text: str) -> None:
        """What was removed is there again, as new, and a host driver takes it at once."""
        for address in self.put_back():
            self._store_probe(self.root / "sys/bus/pci/drivers_probe", address)

    def _accepts(self, driver: str, address: str) -> bool:
        model = self.root / ".model" / address
        override = (model / "override").read_text()
        return driver == override if override else driver in (model / "matches").read_text().split()
