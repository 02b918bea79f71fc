"""Become root for a plan that needs it: sudo at a terminal, pkexec on a desktop, or sudo with a
window that asks for the password (sudo(8), -A), where there is no pkexec.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, NoReturn

from qlaunch.cli.text import say
from qlaunch.errors import HostError, Problem, ProfileError
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeCgroup

if TYPE_CHECKING:
    from qlaunch.profile.read import Loaded

# What QEMU's window, sound and messages need; sudo and pkexec would drop it.
KEPT = (
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER", "LANG",
    "XDG_RUNTIME_DIR", "QLAUNCH_DEBUG", "QLAUNCH_ON", "QLAUNCH_VIA",
)
ASKPASS = ("ssh-askpass", "ksshaskpass", "lxqt-openssh-askpass",
           "/usr/libexec/openssh/gnome-ssh-askpass", "/usr/lib/ssh/x11-ssh-askpass")


def become_root(plan: Plan) -> NoReturn:
    """Say what root is needed for, and run this command again as root."""
    needed = [s for s in plan.steps if not isinstance(s, MakeCgroup) or s.needed]
    steps = [str(step) for step in needed] or [
        f"obey {plan.root_for}" if plan.root_for else "put a tap on a bridge"]
    more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
    say(f"{plan.name} needs root to {steps[0]}{more} (qlaunch plan)")
    run_as_root(plan.name)


def refuse_what_pkexec_would(loaded: Loaded) -> None:
    """Before anybody is asked for a password. Raises ProfileError."""
    from qlaunch.profile.letin import is_roots, not_let_in

    refused = list(not_let_in(loaded.profile))
    if not refused or is_roots(str(source.path) for source in loaded.sources):
        return
    command = root_command(sys.stdin.isatty(), dict(os.environ))
    if command is not None and command[0] == "pkexec":
        raise ProfileError(
            found.problem._replace(
                where=f"{loaded.origin(found.path)}: {'.'.join(map(str, found.path))}")
            for found in refused
        )


def run_as_root(name: str) -> NoReturn:
    """Replace this process by the same command under sudo or pkexec.

    Raises HostError, with nothing changed, when neither can ask.
    """
    command = root_command(sys.stdin.isatty(), dict(os.environ))
    if command is None:
        raise HostError(_cannot_ask(name))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)  # noqa: S606 - an argv list


def _cannot_ask(name: str) -> Problem:
    import shutil

    words = f"qlaunch {join(sys.argv[1:])}"
    if not shutil.which("sudo"):
        return Problem("there is neither sudo nor pkexec to ask for it", where=name,
                       hint=f"as root: {words}")
    return Problem(
        "root is needed, and nothing here can ask for a password", where=name,
        found="no pkexec, and sudo has neither a terminal nor an askpass program",
        hint=f"at a terminal: {words}; or install pkexec (Debian), polkit (Fedora, Arch)",
    )


def root_command(terminal: bool, env: dict[str, str]) -> list[str] | None:
    """The argv that runs this very command as root; None when nothing can ask for a password."""
    import shutil

    kept = [name for name in KEPT if name in env and not _usual(name, env[name])]
    screen = env.get("DISPLAY") or env.get("WAYLAND_DISPLAY")
    # -I: root may import nothing from the directory it happens to be asked in.
    own = [sys.executable, "-I", "-m", "qlaunch", *sys.argv[1:]]
    keep = [f"--preserve-env={','.join(kept)}"] if kept else []
    if shutil.which("sudo") and (terminal or not screen):
        return ["sudo", *keep, "--", *own]
    if shutil.which("pkexec") and screen:
        from qlaunch.cli import asroot

        # pkexec goes to root's home; relative paths are meant from here.
        variables = [f"{name}={env[name]}" for name in kept]
        here = str(Path.cwd())
        ours = asroot.command(here, variables, sys.argv[1:])
        return ["pkexec", *(ours or ["env", f"--chdir={here}", *variables, *own])]
    asks = _askpass(env)
    if shutil.which("sudo") and asks:
        return ["env", f"SUDO_ASKPASS={asks}", "sudo", "-A", *keep, "--", *own]
    return None


def _askpass(env: dict[str, str]) -> str:
    """A program that asks for a password in a window: the user's choice, else any."""
    import shutil

    for name in (env.get("SUDO_ASKPASS", ""), env.get("SSH_ASKPASS", ""), *ASKPASS):
        found = shutil.which(name) if name else None
        if found:
            return found
    return ""


def _usual(name: str, value: str) -> bool:
    """Found by root as well: the fewer a sudoers file has to allow, the better."""
    return name == "XDG_RUNTIME_DIR" and value == f"/run/user/{os.getuid()}"
