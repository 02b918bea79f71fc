"""Become root for a plan that needs it: sudo at a terminal, pkexec on a desktop."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from qlaunch.cli.text import say
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Plan

# What QEMU's window, sound and messages need; sudo and pkexec would drop it.
KEPT = (
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER", "LANG",
    "QLAUNCH_DEBUG",
)


def become_root(plan: Plan, detach: bool) -> NoReturn:
    """Replace this process by the same command under sudo or pkexec.

    Raises HostError, with nothing changed, when neither can ask.
    """
    steps = [str(step) for step in plan.steps] or ["a tap on a bridge"]
    say(f"{plan.name} needs root for {len(steps)} step(s): {steps[0]}{', …' * (len(steps) > 1)}")
    command = root_command(sys.stdin.isatty(), dict(os.environ))
    if command is None:
        raise HostError(
            Problem("this profile needs root, and there is no way to ask for it here",
                    hint="sudo qlaunch run …, or run it from a terminal")
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)  # noqa: S606 - an argv list


def root_command(terminal: bool, env: dict[str, str]) -> list[str] | None:
    """The argv that runs this very command as root; None when nothing can ask for a password."""
    import shutil

    kept = [name for name in KEPT if name in env]
    own = [sys.executable, "-m", "qlaunch", *sys.argv[1:]]
    if shutil.which("sudo") and (terminal or not env.get("DISPLAY")):
        return ["sudo", f"--preserve-env={','.join(kept)}", "--", *own]
    if shutil.which("pkexec") and (env.get("DISPLAY") or env.get("WAYLAND_DISPLAY")):
        return ["pkexec", "env", *[f"{n}={env[n]}" for n in kept], *own]
    return None
