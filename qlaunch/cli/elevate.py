"""Become root for a plan that needs it: sudo at a terminal, pkexec on a desktop."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import join
from typing import NoReturn

from qlaunch.cli.text import say
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Plan

# What QEMU's window, sound and messages need; sudo and pkexec would drop it.
KEPT = (
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER", "LANG",
    "QLAUNCH_DEBUG",
)


def become_root(plan: Plan) -> NoReturn:
    """Say what root is needed for, and run this command again as root."""
    steps = [str(step) for step in plan.steps] or ["put a tap on a bridge"]
    more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
    say(f"{plan.name} needs root to {steps[0]}{more} (qlaunch plan)")
    run_as_root(plan.name)


def run_as_root(name: str) -> NoReturn:
    """Replace this process by the same command under sudo or pkexec.

    Raises HostError, with nothing changed, when neither can ask.
    """
    command = root_command(sys.stdin.isatty(), dict(os.environ))
    if command is None:
        raise HostError(
            Problem("there is neither sudo nor pkexec to ask for it", where=name,
                    hint=f"as root: qlaunch {join(sys.argv[1:])}")
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)  # noqa: S606 - an argv list


def root_command(terminal: bool, env: dict[str, str]) -> list[str] | None:
    """The argv that runs this very command as root; None when nothing can ask for a password."""
    import shutil

    kept = [name for name in KEPT if name in env]
    screen = env.get("DISPLAY") or env.get("WAYLAND_DISPLAY")
    # -I: root may import nothing from the directory it happens to be asked in.
    own = [sys.executable, "-I", "-m", "qlaunch", *sys.argv[1:]]
    if shutil.which("sudo") and (terminal or not screen):
        keep = [f"--preserve-env={','.join(kept)}"] if kept else []
        return ["sudo", *keep, "--", *own]
    if shutil.which("pkexec") and screen:
        # pkexec goes to root's home; relative paths are meant from here.
        return ["pkexec", "env", f"--chdir={Path.cwd()}", *[f"{n}={env[n]}" for n in kept], *own]
    return None
