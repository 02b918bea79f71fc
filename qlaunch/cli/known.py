"""NAME on the command line: a machine that has a runtime directory, or a clear answer."""

from __future__ import annotations

from qlaunch.cli.text import nearest
from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.run.info import machine_names
from qlaunch.values import parse_vm_name


def known_machine(base: str, text: str) -> str:
    """The name; a profile's file name stands for its stem. Raises HostError for an unknown one."""
    name = text.rsplit("/", 1)[-1].removesuffix(".toml")
    try:
        name = parse_vm_name(name)
    except ValueError as error:
        raise UsageError(
            Problem("this cannot be a machine's name", found=text, allowed=str(error))
        ) from None
    names = machine_names(base)
    if name in names:
        return name
    near = nearest(name, names)
    raise HostError(
        Problem(f"no machine {name} runs or left something behind", where=base,
                hint=f"did you mean {near}?" if near else "qlaunch ps")
    )
