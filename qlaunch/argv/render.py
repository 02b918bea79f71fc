"""The whole command line, in the order a person would write it."""

from __future__ import annotations

from qlaunch.argv import base, devices
from qlaunch.argv.option import Option
from qlaunch.plan.model import Plan

FAMILIES = (
    base.identity_options,
    base.machine_options,
    base.firmware_options,
    base.control_options,
    devices.port_options,
    devices.controller_options,
    devices.disk_options,
    devices.net_options,
    devices.card_options,
    devices.display_options,
    devices.serial_options,
)


def plan_options(plan: Plan) -> list[Option]:
    """Every option with its reason; [qemu] set and args come last, verbatim."""
    options = [o for family in FAMILIES for o in family(plan)]
    qemu = plan.profile.qemu
    for name, value in (qemu.set or {}).items():
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        options.append(Option("-set", why="qemu.set", whole=f"device.{name}={text}"))
    options += [Option("", why="qemu.args", verbatim=word) for word in qemu.args]
    return options


def render_argv(plan: Plan) -> list[str]:
    """The argument vector, the binary first."""
    return [plan.qemu, *(word for option in plan_options(plan) for word in option.words)]
