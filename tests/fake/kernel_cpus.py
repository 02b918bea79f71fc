"""What the kernel shows and does of CPUs: interrupts, cpufreq, cpusets, unbound workqueues; and
systemd, which writes the groups of its units.

After kernel/irq/proc.c, drivers/cpufreq/cpufreq.c and kernel/cgroup/cpuset.c; a managed interrupt's
affinity cannot be set (EIO).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qlaunch.children import Done
from qlaunch.host.irqs import cpus_of, mask_of
from qlaunch.values import CpuSet, parse_cpu_set
from tests.fake.kernel import FakeKernel

CPUFREQ = "sys/devices/system/cpu/cpufreq"
WORK = "sys/devices/virtual/workqueue/cpumask"
OFFERED = "performance powersave schedutil"
SYSTEMD = "run/systemd/system"


@dataclass
class CpuKernel(FakeKernel):
    """A Door with CPUs."""

    def add_cpus(self, online: str = "0-3", possible: str = "0-3") -> None:
        """Two to a policy; nothing is kept off any of them."""
        every = parse_cpu_set(possible)
        self.put("sys/devices/system/cpu/online", f"{online}\n")
        self.put("sys/devices/system/cpu/possible", f"{possible}\n")
        self.put("proc/irq/default_smp_affinity", f"{mask_of(every)}\n")
        self.put(WORK, f"{mask_of(every)}\n")
        for first in every[::2]:
            policy = f"{CPUFREQ}/policy{first}"
            self.put(f"{policy}/related_cpus", f"{first} {first + 1}\n")
            self.put(f"{policy}/scaling_available_governors", f"{OFFERED}\n")
            self.put(f"{policy}/scaling_governor", "schedutil\n")

    def add_irq(self, number: int, cpus: str, *, managed: bool = False) -> Path:
        """One, and by which CPUs it is taken."""
        mask = mask_of(parse_cpu_set(cpus))
        self.put(f"proc/irq/{number}/smp_affinity", f"{mask}\n")
        if managed:
            self.put(f".model/managed/{number}", "")
        return self.put(f"proc/irq/{number}/smp_affinity_list", f"{cpus}\n")

    def add_group(self, name: str, tasks: str = "") -> Path:
        """A control group at the top."""
        group = self.root / "sys/fs/cgroup" / name
        group.mkdir()
        self.fill_cgroup(group)
        (group / "cgroup.procs").write_text(tasks)
        return group

    def add_systemd(self, **units: str) -> None:
        """As PID 1; units at the top with their AllowedCPUs, of which "" is none."""
        self.put(f"{SYSTEMD}/x", "")
        for name, cpus in units.items():
            unit = name.replace("_", ".")
            self.add_group(unit, tasks="88\n")
            self.put(f".model/units/{unit}", "")
            if cpus:
                self._set_unit(unit, cpus)

    def allowed(self, unit: str) -> str:
        """AllowedCPUs of it."""
        return (self.root / ".model/units" / unit).read_text()

    def run(self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False) -> Done:
        """systemctl, and what the other kernels know."""
        if argv[0] != "systemctl":
            return super().run(argv, stdin, daemon=daemon)
        words = list(argv)
        at = words.index("--")
        if words[1] == "show":
            assert words[2:at] == ["--property=Id,LoadState,AllowedCPUs"]
            blocks = [
                f"Id={u}\nLoadState=loaded\nAllowedCPUs={self.allowed(u).replace(',', ' ')}\n"
                if (self.root / ".model/units" / u).exists() else
                f"Id={u}\nLoadState=not-found\nAllowedCPUs=\n"
                for u in words[at + 1:]
            ]
            return Done(0, "\n".join(blocks), "")
        assert words[1:at] == ["set-property", "--runtime"]
        unit, (key, _, cpus) = words[at + 1], words[at + 2].partition("=")
        assert key == "AllowedCPUs"
        known = (self.root / ".model/units" / unit).exists()
        if not known or any(f.pattern == unit for f in self.faults):
            return Done(1, "", f"Failed to set unit properties on {unit}: No\n")
        self._set_unit(unit, cpus)
        if self.after_write:
            self.after_write(unit, cpus)
        return Done(0, "", "")

    def _set_unit(self, unit: str, cpus: str) -> None:
        """It turns the controller on and never off here, and leaves the list of a unit that has
        none any more (systemd#43846)."""
        (self.root / ".model/units" / unit).write_text(cpus)
        control = self.root / "sys/fs/cgroup/cgroup.subtree_control"
        if cpus:
            if "cpuset" not in control.read_text().split():
                self._store_control(control, "+cpuset")
            if (control.parent / unit).is_dir():
                (control.parent / unit / "cpuset.cpus").write_text(f"{cpus}\n")

    def _store(self, path: Path, text: str) -> None:
        store = {
            "smp_affinity_list": self._store_irq, "scaling_governor": self._store_governor,
            "cpuset.cpus": self._store_cpuset, "default_smp_affinity": self._store_mask,
            "cpumask": self._store_mask,
        }.get(path.name)
        if store:
            store(path, text.strip())
        else:
            super()._store(path, text)

    def _store_irq(self, path: Path, text: str) -> None:
        if (self.root / ".model/managed" / path.parent.name).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        cpus = self._known(path, text)
        if not set(cpus) & set(self._list("online")):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        path.write_text(f"{cpus}\n")
        path.with_name("smp_affinity").write_text(f"{mask_of(cpus)}\n")

    def _store_governor(self, path: Path, text: str) -> None:
        if text not in path.with_name("scaling_available_governors").read_text().split():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        path.write_text(f"{text}\n")

    def _store_cpuset(self, path: Path, text: str) -> None:
        """One with tasks is not emptied."""
        if not text and path.read_text().strip() and path.with_name("cgroup.procs").read_text():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.write_text(f"{self._known(path, text) if text else ''}\n")

    def _store_mask(self, path: Path, text: str) -> None:
        cpus = self._known(path, str(cpus_of(text)))
        path.write_text(f"{mask_of(cpus)}\n")

    def _known(self, path: Path, text: str) -> CpuSet:
        try:
            cpus = parse_cpu_set(text)
        except ValueError:
            cpus = CpuSet()
        if not cpus or not set(cpus) <= set(self._list("possible")):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return cpus

    def _list(self, name: str) -> CpuSet:
        return parse_cpu_set((self.root / "sys/devices/system/cpu" / name).read_text().strip())
