"""Name, sandbox, processors, memory, monitors: the options every machine has."""

from __future__ import annotations

from qlaunch.argv.cpu import cpu_options
from qlaunch.argv.machine import board_options
from qlaunch.argv.memory import memory_options
from qlaunch.argv.option import Option, option
from qlaunch.plan.model import Plan

WINDOWS = ("gtk", "sdl")
SANDBOX = {
    "obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny",
}


def identity_options(plan: Plan) -> list[Option]:
    """Name, uuid, no defaults, paused, confined."""
    return [
        option("-name", why="name", guest=plan.name, debug_threads=True),
        option("-uuid", plan.uuid, why=plan.uuid_why),
        option("-nodefaults", why="rule: only what the profile says is in the machine"),
        option("-no-user-config", why="rule: no configuration but this one"),
        option("-S", why="rule: no guest instruction runs before the vCPUs are pinned"),
        _sandbox(plan),
    ]


def _sandbox(plan: Plan) -> Option:
    """A window's library starts processes of its own (dbus-launch), and virglrenderer does the
    drawing of venus in a virgl_render_server: with spawn=deny QEMU dies of them."""
    needs = f"{plan.display} window" if plan.display in WINDOWS else ""
    if plan.profile.display.vga == "venus":
        needs = "venus card"
    if needs:
        why = f"rule: QEMU is confined by seccomp; a {needs} has to start helpers"
        return option("-sandbox", "on", why=why, **{**SANDBOX, "spawn": "allow"})
    return option("-sandbox", "on", why="rule: QEMU is confined by seccomp", **SANDBOX)


def machine_options(plan: Plan) -> list[Option]:
    """The board, its processors and its memory."""
    return [*board_options(plan), *cpu_options(plan), *memory_options(plan)]


def control_options(plan: Plan) -> list[Option]:
    """Two QMP sockets: one client at a time is QEMU's rule, so the user has one of their own."""
    options = []
    for kind, why in (
        ("control", "rule: qlaunch's own monitor"), ("qmp", "rule: your monitor, qmp.sock")
    ):
        options += [
            option("-chardev", "socket", why=why, id=kind, fd=plan.fd(kind), server=True,
                   wait=False),
            option("-mon", why=why, chardev=kind, mode="control"),
        ]
    return options
