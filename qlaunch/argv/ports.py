"""Serial and parallel ports, and the debug console."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.model import Plan
from qlaunch.plan.plugs import PlannedSerial


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
    elif port.device == "usb-serial":
        from qlaunch.plan.usb import BUS

        pairs["bus"] = BUS
    elif port.device == "virtconsole":
        from qlaunch.plan.channels import BUS, CONSOLES

        pairs |= {"bus": BUS, "nr": CONSOLES[min(port.nth, len(CONSOLES) - 1)]}
    elif port.place is not None:
        pairs |= {"id": f"{port.id}-pci", **place(port.place.bus, port.place.addr)}
    return device(port.device, why, **pairs)
