"""The whole command line, in the order a person would write it."""

from __future__ import annotations

from qlaunch.argv.base import control_options, identity_options, machine_options
from qlaunch.argv.firmware import firmware_options
from qlaunch.argv.option import Option, option
from qlaunch.late import Family, called_for
from qlaunch.plan.model import Plan

FIRST = (identity_options, machine_options, firmware_options, control_options)
# Controllers that the plan has because a device wants one, and what a display brings.
BUSES: tuple[Family, ...] = (
    (("usb_bus",), "qlaunch.argv.usb:controller_options"),
    (("channel_bus",), "qlaunch.argv.channels:bus_options"),
    (("channels",), "qlaunch.argv.channels:channel_options"),
)
# What is plugged in comes after what it is plugged into.
FAMILIES: tuple[Family, ...] = (
    (("pci", "machine"), "qlaunch.argv.cards:port_options"),
    (("controller", "disk", "cdrom"), "qlaunch.argv.storage:controller_options"),
    (("balloon",), "qlaunch.argv.memory:balloon_options"),
    (("disk", "cdrom"), "qlaunch.argv.storage:disk_options"),
    (("net",), "qlaunch.argv.network:net_options"),
    (("pci",), "qlaunch.argv.cards:card_options"),
    (("vgpu",), "qlaunch.argv.vgpu:vgpu_options"),
    (("audio",), "qlaunch.argv.audio:audio_options"),  # the D-Bus display names its backend
    (("display",), "qlaunch.argv.display:display_options"),
    (("serial", "parallel", "debugcon"), "qlaunch.argv.ports:serial_options"),
    (("usb",), "qlaunch.argv.usb:usb_options"),
    (("input",), "qlaunch.argv.inputs:input_options"),
    (("rng",), "qlaunch.argv.extras:rng_options"),
    (("watchdog",), "qlaunch.argv.extras:watchdog_options"),
    (("machine.pvpanic", "machine.vmcoreinfo"), "qlaunch.argv.extras:notice_options"),
    (("vsock",), "qlaunch.argv.extras:vsock_options"),
    (("tpm",), "qlaunch.argv.tpm:tpm_options"),
    (("share",), "qlaunch.argv.shares:share_options"),
    (("shmem",), "qlaunch.argv.shmem:shmem_options"),
    (("stop",), "qlaunch.argv.stop:stop_options"),
)


def plan_options(plan: Plan) -> list[Option]:
    """Every option with its reason; [qemu] globals, set and args come last, verbatim."""
    options = [o for make in FIRST for o in make(plan)]
    options += [o for make in called_for(BUSES, plan) for o in make(plan)]
    options += [o for make in called_for(FAMILIES, plan.profile) for o in make(plan)]
    qemu = plan.profile.qemu
    for name, value in (qemu.globals or {}).items():
        driver, _, key = name.rpartition(".")
        options.append(option("-global", why="qemu.globals", driver=driver, property=key,
                              value=value))
    for name, value in (qemu.set or {}).items():
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        options.append(Option("-set", why="qemu.set", whole=f"device.{name}={text}"))
    args = qemu.args if plan.args is None else plan.args
    options += [Option("", why="qemu.args", verbatim=word) for word in args]
    return options


def render_argv(plan: Plan) -> list[str]:
    """The argument vector, the binary first."""
    return [plan.qemu, *(word for option in plan_options(plan) for word in option.words)]
