"""The virtio-serial controller and its channels."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.channels import BUS
from qlaunch.plan.model import Plan
from qlaunch.plan.plugs import PlannedChannel


def bus_options(plan: Plan) -> list[Option]:
    """The controller."""
    where = plan.places["channel"]
    return [device("virtio-serial-pci", plan.channel_bus, id="channel",
                   **place(where.bus, where.addr))]


def channel_options(plan: Plan) -> list[Option]:
    """A backend and a port for each channel."""
    return [made for channel in plan.channels for made in _channel(channel)]


def _channel(channel: PlannedChannel) -> list[Option]:
    name = f"{channel.id}-host"
    backends: dict[str, dict[str, Value | None]] = {
        "socket": {"fd": channel.fd, "server": True, "wait": False},
        "spicevmc": {"name": "vdagent"},
        "spiceport": {"name": channel.name},
        "qemu-vdagent": {"name": "vdagent", "clipboard": True, "mouse": False},
    }
    return [
        option("-chardev", channel.backend, why=channel.key, id=name,
               **backends[channel.backend]),
        device("virtserialport", channel.key, id=channel.id, bus=BUS, nr=channel.number,
               chardev=name, name=channel.name),
    ]
