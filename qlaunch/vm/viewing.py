"""How a running machine can be looked at, from QEMU itself: it knows what it listens on."""

from __future__ import annotations

from typing import NamedTuple

from qlaunch.vm.monitor import Monitor, QmpError


class Viewing(NamedTuple):
    """`spice` and `vnc` are a unix socket's path or host:port, "" for none; `memory` is that shared
    with Looking Glass; `window` the display that QEMU itself opens (gtk, sdl, dbus, none …)."""

    window: str
    spice: str
    vnc: str
    memory: str


async def read_viewing(monitor: Monitor) -> Viewing:
    """Raises HostError. A QEMU without SPICE does not know its command."""
    options = await monitor.execute("query-display-options")
    return Viewing(
        window=str(options["type"]), spice=await _spice(monitor), vnc=await _vnc(monitor),
        memory=await _memory(monitor),
    )


async def _spice(monitor: Monitor) -> str:
    try:
        said = await monitor.execute("query-spice")
    except QmpError:
        return ""
    if not said["enabled"]:
        return ""
    host = str(said.get("host", ""))
    return f"{host}:{said['port']}" if "port" in said else host


async def _vnc(monitor: Monitor) -> str:
    try:
        said = await monitor.execute("query-vnc")
    except QmpError:
        return ""
    if not said["enabled"]:
        return ""
    host, service = str(said.get("host", "")), str(said.get("service", ""))
    if said.get("family") == "unix":
        return service if service.startswith("/") else host
    return f"[{host}]:{service}" if ":" in host else f"{host}:{service}"


async def _memory(monitor: Monitor) -> str:
    objects = await monitor.execute("qom-list", {"path": "/objects"})
    if not any(one["name"] == "looking-glass-mem" for one in objects):
        return ""
    return str(await monitor.execute(
        "qom-get", {"path": "/objects/looking-glass-mem", "property": "mem-path"}))
