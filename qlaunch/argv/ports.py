"""Serial and parallel ports, and the debug console."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.model import Plan
from qlaunch.plan.plugs import PlannedSerial
from qlaunch.plan.slots import BRIDGE


def serial_options(plan: Plan) -> list[Option]:
    """A backend and a device for each port, in the order of their tables."""
    options = []
    for port in plan.serials:
        why = port.key if port.id == "debugcon" else f"{port.key}.type"
        if port.type in ("file", "device") and port.fd is not None:
            options.append(option("-add-fd", why="rule: QEMU's account cannot open this file",
                                  fd=port.fd, set=port.fd, opaque=port.path))
        options += [_backend(port, why), _device(plan, port, why)]
    return options


def _backend(port: PlannedSerial, why: str) -> Option:
    path = port.path if port.fd is None else f"/dev/fdset/{port.fd}"
    if port.type == "stdio":
        # Not QEMU's own stdio: it would share our process group, and die of a Ctrl-C.
        return option("-chardev", "socket", why=why, id=port.id, fd=port.fd)
    if port.type == "socket":
        return option("-chardev", "socket", why=why, id=port.id, fd=port.fd, server=True,
                      wait=False)
    if port.type == "tcp":
        host, _, number = port.path.rpartition(":")
        return option("-chardev", "socket", why=why, id=port.id, host=host.strip("[]"),
                      port=number, server=True, wait=False)
    if port.type == "pty":
        return option("-chardev", "pty", why=why, id=port.id)
    if port.type == "device":
        kind = "parallel" if port.device == "isa-parallel" else "serial"
        return option("-chardev", kind, why=why, id=port.id, path=path)
    return option("-chardev", "file", why=why, id=port.id, path=path, append=True)


def _device(plan: Plan, port: PlannedSerial, why: str) -> Option:
    pairs: dict[str, Value | None] = {"chardev": port.id}
    if port.device == "isa-debugcon" and plan.profile.debugcon is not None:
        pairs["iobase"] = f"{plan.profile.debugcon.iobase:#x}"
    elif port.device == "virtconsole":
        from qlaunch.plan.channels import BUS, CONSOLES

        pairs |= {"bus": BUS, "nr": CONSOLES[min(port.nth, len(CONSOLES) - 1)]}
    elif port.device == "pci-serial" and port.place is not None:
        pairs |= {"id": f"{port.id}-pci", **place(port.place.bus, port.place.addr),
                  "multifunction": _is_first_of_several(plan, port) or None}
    elif port.place is not None:
        pairs |= place(port.place.bus, None, port.place.port)
    return device(port.device, why, **pairs)


def _is_first_of_several(plan: Plan, port: PlannedSerial) -> bool:
    """Whether there are more functions beside it, which are found by function 0 only."""
    bus = port.place.bus if port.place else ""
    beside = [p for p in plan.serials if p.place and p.place.bus == bus and p.place.addr]
    return bus != BRIDGE and len(beside) > 1 and beside[0] is port
