"""Make and remove vGPUs by hand: mediated devices (GVT-g and others), and NVIDIA's
on virtual functions. `run` does this by itself for [[vgpu]] tables. One that is
made by hand is used by the profile that has its uuid, or its function's address
as parent, and stays.

Needs root. Nothing of it survives a reboot.
"""

from __future__ import annotations

import argparse
import uuid

from qlaunch.cli.base import runtime_base
from qlaunch.cli.byhand import need_root
from qlaunch.cli.text import nearest, say
from qlaunch.errors import EXIT_OK, Problem, UsageError
from qlaunch.facts.vgpu_model import MdevParent, MdevType, NvidiaType, NvidiaVf, VgpuFacts
from qlaunch.values import PciAddress, parse_pci_address

EXAMPLE = """\
example:
  qlaunch vgpu create 00:02.0 i915-GVTg_V5_4
  qlaunch devices --vgpu
  qlaunch vgpu remove fff6f017-3417-4ad3-b05e-17ae3e1a4615
  qlaunch vgpu create 41:00.5 "NVIDIA RTX6000-Ada-8Q"
  qlaunch vgpu remove 41:00.5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """create PARENT TYPE, remove UUID or ADDRESS."""
    parser.add_argument("action", metavar="ACTION", help="create or remove")
    parser.add_argument(
        "words", nargs="*", metavar="PARENT TYPE | UUID",
        help="of what to make which type; or which one to remove: a mediated device's UUID, a "
        "virtual function's address",
    )
    parser.add_argument("--uuid", help="the mediated device's UUID; a random one when absent")


def run(args: argparse.Namespace) -> int:
    """Make or remove one."""
    words = list(args.words)
    _check_words(args.action, words)
    if args.action == "remove":
        _remove(words[0])
        return EXIT_OK
    name = _uuid(args.uuid) if args.uuid else str(uuid.uuid4())
    from qlaunch.facts.vgpu import read_vgpu

    facts = read_vgpu()
    function = find_function(facts, words[0])
    if function is not None:
        if args.uuid:
            raise UsageError(Problem("a virtual function has no UUID", where="--uuid",
                                     hint="leave --uuid out"))
        known = find_nvidia_type(function, words[1])
        need_root("vgpu create")
        from qlaunch.run.slices import set_type

        set_type(runtime_base(), function.address, known.number, known.name, say)
        return EXIT_OK
    parent, kind = find_type(facts, words[0], words[1])
    need_root("vgpu create")
    from qlaunch.run.slices import create_slice

    create_slice(runtime_base(), parent.name, kind.id, name, say)
    return EXIT_OK


def _remove(word: str) -> None:
    address = _address(word)
    name = _uuid(word) if address is None else ""
    need_root("vgpu remove")
    from qlaunch.run.slices import clear_type, remove_slice

    if address is not None:
        clear_type(runtime_base(), address, say)
    else:
        remove_slice(runtime_base(), name, say)


def _address(text: str) -> PciAddress | None:
    try:
        return parse_pci_address(text)
    except ValueError:
        return None


def _check_words(action: str, words: list[str]) -> None:
    forms = {"create": ("PARENT", "TYPE"), "remove": ("UUID or ADDRESS",)}
    if action not in forms:
        raise UsageError(
            Problem("there is no such action", where="qlaunch vgpu", found=action,
                    allowed=", ".join(forms), hint="qlaunch vgpu --help")
        )
    if len(words) != len(forms[action]):
        raise UsageError(
            Problem(f"vgpu {action} takes {' '.join(forms[action])}", found=" ".join(words),
                    hint="qlaunch vgpu --help")
        )


def _uuid(text: str) -> str:
    """In lower case, as the kernel names it. Raises UsageError."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise UsageError(
            Problem("this is no UUID", found=text,
                    allowed="one like fff6f017-3417-4ad3-b05e-17ae3e1a4615, or an address like "
                    "41:00.4 (NVIDIA's on a virtual function)",
                    hint="qlaunch devices --vgpu lists them")
        ) from None


def find_function(facts: VgpuFacts, parent: str) -> NvidiaVf | None:
    """A virtual function with NVIDIA's files, by its address; None for every other word."""
    address = _address(parent)
    return next((v for v in facts.nvidia if v.address == address), None)


def find_nvidia_type(function: NvidiaVf, kind: str) -> NvidiaType:
    """By number or name. Raises UsageError."""
    for known in function.creatable:
        if kind in (str(known.number), known.name) or known.name.endswith(f" {kind}"):
            return known
    names = [t.name for t in function.creatable]
    near = nearest(kind, names)
    raise UsageError(
        Problem(f"{function.address} cannot be given such a type now", found=kind,
                allowed=", ".join(names) or "nothing",
                hint=f"did you mean {near}?" if near else "")
    )


def find_type(facts: VgpuFacts, parent: str, kind: str) -> tuple[MdevParent, MdevType]:
    """The parent (full or short address, or name) and its type. Raises UsageError."""
    found = next((p for p in facts.parents if parent in (p.name, p.name.removeprefix("0000:"))),
                 None)
    if found is None:
        names = [p.name for p in facts.parents]
        names += [v.address for v in facts.nvidia if v.creatable]
        raise UsageError(
            Problem("no vGPU can be made on this", found=parent,
                    allowed=", ".join(names) or "none at all",
                    hint="qlaunch devices --vgpu tells what there is, and what is missing")
        )
    for known in found.types:
        if kind in (known.id, known.name, known.id.partition("-")[2]):
            return found, known
    near = nearest(kind, [t.id for t in found.types])
    raise UsageError(
        Problem(f"{found.name} has no such type", found=kind,
                allowed=", ".join(t.id for t in found.types),
                hint=f"did you mean {near}?" if near else "")
    )
