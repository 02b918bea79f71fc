"""Serial and parallel ports and the debug console: what is behind each.

A file is opened by us when root starts QEMU. So is a port of the host's for a machine of root's
own; a user needs its group (dialout, lp).
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_output, root_for_itself
from qlaunch.plan.model import Place
from qlaunch.plan.plugs import PlannedSerial
from qlaunch.profile.ports import Debugcon, Parallel, Serial

DEVICES = {"isa": "isa-serial", "usb": "usb-serial", "pci": "pci-serial", "virtio": "virtconsole"}
_COM_PORTS = 4  # ISA_SERIAL ports that have an address and interrupt of their own


def plan_serials(draft: Draft) -> None:
    """The [[serial]] tables."""
    counts = dict.fromkeys(DEVICES, 0)
    for index, serial in enumerate(draft.profile.serial):
        key = f"serial[{index}]"
        device = DEVICES[serial.bus]
        draft.need(device, f"{key}.bus")
        place: Place | None = None
        if serial.bus == "usb":
            place = draft.usb_place("serial", f"serial{index}-usb", f"{key}.bus",
                                    index=counts["usb"])
        elif serial.bus == "virtio":
            draft.wants_channel = draft.wants_channel or f"{key}.bus"
        elif serial.bus == "pci":
            place = draft.place("serial", f"serial{index}-pci", f"{key}.bus",
                                index=counts["pci"])
        elif counts["isa"] >= _COM_PORTS:
            draft.problem("a PC has four COM ports", f"{key}.bus",
                          hint='use bus = "pci", "usb" or "virtio"')
        _add(draft, f"serial{index}", key, serial, device, place=place, nth=counts[serial.bus])
        counts[serial.bus] += 1


def plan_parallels(draft: Draft) -> None:
    """The [[parallel]] tables."""
    for index, port in enumerate(draft.profile.parallel):
        draft.need("isa-parallel", f"parallel[{index}]")
        _add(draft, f"parallel{index}", f"parallel[{index}]", port, "isa-parallel", nth=index)


def plan_debugcon(draft: Draft) -> None:
    """The [debugcon] table."""
    if draft.profile.debugcon is not None:
        draft.need("isa-debugcon", "debugcon")
        _add(draft, "debugcon", "debugcon", draft.profile.debugcon, "isa-debugcon")


def _add(
    draft: Draft, ident: str, key: str, table: Serial | Parallel | Debugcon, device: str, *,
    place: Place | None = None, nth: int = 0,
) -> None:
    path, fd = "", None
    if table.type == "socket":
        path = f"{draft.paths.sockets}/{ident}.sock"
        fd = draft.fd("listen", path)
    elif table.type == "file":
        path = table.file or f"{draft.paths.state}/{ident}.log"
        check_output(draft, draft.facts.file(path), f"{key}.file", by_root=root_for_itself(draft))
        fd = draft.fd("serial", path) if draft.account is not None else None
    elif table.type == "stdio":
        fd = draft.fd("terminal", ident)
    elif table.type == "tcp" and isinstance(table, Serial):
        path = table.address or ""
    elif table.type == "device":
        path = table.file or ""
        fd = _host_port(draft, key, path)
    planned = PlannedSerial(id=ident, key=key, type=table.type, path=path, fd=fd, device=device,
                            place=place, nth=nth)
    draft.decided["serials"] = (*draft.decided.get("serials", ()), planned)


def _host_port(draft: Draft, key: str, path: str) -> int | None:
    """A port of the host's: the fd when root opens it for a machine of its own.

    For a user who asked, root opens none: the path could be any device's.
    """
    file, invoker = draft.facts.file(path), draft.facts.invoker
    if file is None:
        return None
    if file.kind != "char":
        draft.problem("this is no port of the host's", f"{key}.file", found=f"{path}: {file.kind}",
                      hint="ls -l /dev/ttyS* /dev/ttyUSB* /dev/parport*")
    elif not (file.readable and file.writable):
        if draft.account and invoker and invoker.asked != draft.account.uid:
            return draft.fd("file", path)
        who = f"{draft.account.name}, who QEMU runs as," if draft.account else "you"
        draft.problem(f"{who} may not use this port", f"{key}.file", found=path,
                      hint=f"ls -l '{path}' names the group that may")
    return None
