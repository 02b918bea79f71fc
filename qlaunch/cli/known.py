"""NAME on the command line: a machine that has a runtime directory, or a clear answer."""

from __future__ import annotations

import os

from qlaunch.cli.text import nearest, say
from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.plan.paths import runtime_root
from qlaunch.run.info import machine_names
from qlaunch.values import parse_vm_name


def known_machine(base: str, text: str) -> str:
    """The name; a profile's file name stands for its stem.

    A machine that root runs for this user makes the command run again as root. Raises HostError
    for an unknown one.
    """
    name = machine_name(text)
    names = machine_names(base)
    if name in names:
        return name
    ours = machines_of_root()
    if name in ours:
        from qlaunch.cli.elevate import run_as_root

        say(f"{name} was started through root")
        run_as_root(name)
    near = nearest(name, [*names, *ours])
    hint = "qlaunch ps" if os.geteuid() == 0 else "qlaunch ps; root's machines: sudo qlaunch ps"
    if _has_run(name):
        hint, near = f"qlaunch logs '{name}' tells how it ended", ""
    raise HostError(
        Problem(f"no machine {name} runs or left something behind", where=base,
                hint=f"did you mean {near}?" if near else hint)
    )


def _has_run(name: str) -> bool:
    from qlaunch.facts.invoker import read_invoker
    from qlaunch.plan.paths import machine_paths
    from qlaunch.run.story import LOG

    return os.access(f"{machine_paths(name, read_invoker()).state}/{LOG}", os.R_OK)


def machines_of_root() -> list[str]:
    """Machines that root runs for this user, by the directories of their sockets."""
    uid = os.geteuid()
    return machine_names(f"{runtime_root(True, uid, '')}/.by-uid/{uid}") if uid else []


def machine_name(text: str) -> str:
    """A name, or a profile's path for its stem. Raises UsageError for what cannot be one."""
    try:
        return parse_vm_name(text.rsplit("/", 1)[-1].removesuffix(".toml"))
    except ValueError as error:
        raise UsageError(
            Problem("this cannot be a machine's name", found=text or '""', allowed=str(error),
                    hint="qlaunch ps lists names")
        ) from None
