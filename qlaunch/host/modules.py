"""Loading kernel modules. Nothing is unloaded: taking vfio modules away hangs the next start."""

from __future__ import annotations

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import LoadModule


class LoadModuleHandler:
    """modprobe."""

    def capture(self, host: Host, step: LoadModule) -> Captured:
        """Whether it is there already, as a module or built in."""
        return {"loaded": is_loaded(host, step.module)}

    def apply(self, host: Host, step: LoadModule, captured: Captured) -> None:
        """Raises HostError with modprobe's own words when the module does not load."""
        if captured["loaded"]:
            return
        done = sysfs.run(host, ["modprobe", "--", step.module])
        if done.code != 0:
            words = done.err.strip().splitlines()
            raise HostError(
                Problem(
                    f"the kernel module {step.module} cannot be loaded", where=step.why,
                    found=words[-1] if words else f"modprobe ended with code {done.code}",
                    hint=f"modinfo {step.module} tells whether this kernel has it",
                )
            )

    def undo(self, host: Host, step: LoadModule, captured: Captured) -> str | None:
        """Nothing."""
        return None


def bring_driver(host: Host, driver: str) -> None:
    """Have a PCI driver of this name, from a module of its name if need be. Raises HostError; no
    device was touched."""
    path = host.path(f"sys/bus/pci/drivers/{driver}")
    if path.is_dir():
        return
    done = sysfs.run(host, ["modprobe", "--", driver])
    if path.is_dir():
        return
    words = done.err.strip().splitlines()
    raise HostError(
        Problem(
            f"this host has no PCI driver {driver}",
            found=words[-1] if words else f"the module {driver} brings no driver of that name",
            hint="ls /sys/bus/pci/drivers shows those that are loaded; modprobe the module of "
            "another",
        )
    )


def is_loaded(host: Host, module: str) -> bool:
    """Whether the kernel has it. A built-in one without parameters is not in /sys/module."""
    name = module.replace("-", "_")
    if host.path(f"sys/module/{name}").exists():
        return True
    release = sysfs.read_text(host.path("proc/sys/kernel/osrelease"))
    listed = sysfs.read_text(host.path(f"lib/modules/{release}/modules.builtin")) or ""
    files = (line.rsplit("/", 1)[-1].removesuffix(".ko") for line in listed.splitlines())
    return name in (file.replace("-", "_") for file in files)
