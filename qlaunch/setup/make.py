"""From the host, the wishes and what was done before to the changes: a function without effects.

What is wished for now is all that stays: the host is first thought without what was done before,
then the wishes are put in, and the difference to the files as they are is the work. `revert` is
the same with nothing wished for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from qlaunch.errors import Problem
from qlaunch.setup.boot import cannot_tell, find_boot, lacking, wordlists
from qlaunch.setup.early import (
    early_ids,
    early_notes,
    early_part,
    early_problems,
    in_kernel,
    initramfs_command,
    initramfs_part,
)
from qlaunch.setup.edit import holds, put, take
from qlaunch.setup.files import file_parts, file_problems, hugepage_words
from qlaunch.setup.model import (
    BOOTS,
    Boot,
    Change,
    Command,
    Part,
    Record,
    Setup,
    SetupFacts,
    Subject,
    Wishes,
)
from qlaunch.setup.parameters import Added, add_parameters, boot_commands, keep_commands


class _Want(msgspec.Struct):
    """What shall be there."""

    boot: Boot = ""
    added: Added = Added()
    parts: list[Part] = []
    shown: tuple[str, ...] = ()
    problems: list[Problem] = []


def make_setup(facts: SetupFacts, wishes: Wishes, record: Record | None) -> Setup:
    """What has to be done for these wishes. Errors among `problems` forbid it."""
    bare = _without(facts, record)
    want = _wanted(bare, wishes, record)
    want.problems += _not_ours(facts, want.parts, record)
    if any(p.severity == "error" for p in want.problems):
        return Setup(problems=tuple(want.problems))
    return _settle(facts, want, wishes, record)


def make_revert(facts: SetupFacts, record: Record) -> Setup:
    """What has to be done to take all of it back."""
    want = _Want(boot=record.boot, parts=[], problems=[])
    return _settle(facts, want, Wishes(), record)


def _without(facts: SetupFacts, record: Record | None) -> SetupFacts:
    """The host as if nothing had been set up."""
    files = dict(facts.files)
    for part in reversed(record.parts if record else ()):
        text = take(files.get(part.path), part)
        if text is None:
            files.pop(part.path, None)
        else:
            files[part.path] = text
    cmdline = facts.cmdline
    if record:
        cmdline = " ".join(w for w in cmdline.split() if w not in record.shown)
    return msgspec.structs.replace(facts, files=files, cmdline=cmdline)


# -- what is wanted ---------------------------------------------------------------------------


def _wanted(facts: SetupFacts, wishes: Wishes, record: Record | None) -> _Want:
    want = _Want(parts=[], problems=[])
    if facts.id == "nixos":
        want.problems.append(Problem(
            "NixOS is set up in its own configuration", found="ID=nixos in os-release",
            hint='boot.kernelParams = [ "intel_iommu=on" "iommu=pt" ]; in configuration.nix',
        ))
        return want
    boot, problems = find_boot(facts) if not wishes.boot else (wishes.boot, ())
    lack = lacking(boot, facts)
    want.problems += [*problems, *([lack] if lack else [])]
    want.problems += early_problems(facts, wishes.early)
    if any(p.severity == "error" for p in want.problems) or boot not in BOOTS:
        return want
    want.boot = boot
    want.problems += early_notes(facts, wishes.early)
    known = wordlists(boot, facts)
    if record and boot in ("kernelstub", "grubby", "rpm-ostree"):
        known = [[w for w in words if w not in record.parameters] for words in known]
    words = list(_new_words(_units(facts, wishes), known, want.problems))
    want.added = add_parameters(boot, facts, words)
    want.shown = tuple(words) if boot != "none" else ()
    want.problems += want.added.problems
    want.parts += want.added.parts
    if wishes.early and not in_kernel(facts):
        want.parts.append(early_part(facts, wishes.early))
        initramfs = initramfs_part(facts)
        if isinstance(initramfs, Problem):
            want.problems.append(initramfs)
        else:
            want.parts.append(initramfs)
    want.problems += file_problems(facts, wishes)
    if not any(p.severity == "error" for p in want.problems):
        want.parts += file_parts(facts, wishes)
    return want


def _units(facts: SetupFacts, wishes: Wishes) -> Iterator[tuple[str, ...]]:
    """Kernel parameters, those together that belong together.

    Documentation/admin-guide/kernel-parameters.txt: AMD's IOMMU is on without a parameter, and
    `iommu=pt` spares the host's own devices the translation.
    """
    if facts.cpu != "amd":  # where the vendor is not known it does no harm
        yield ("intel_iommu=on",)
    yield ("iommu=pt",)
    if wishes.gvt:
        # GuC submission stands against it (intel_gvt.c), and Windows' driver reads registers that
        # KVM does not have.
        yield from (("i915.enable_gvt=1",), ("i915.enable_guc=0",), ("kvm.ignore_msrs=1",))
    yield from hugepage_words(wishes)
    if wishes.early and in_kernel(facts):
        yield (f"vfio-pci.ids={early_ids(facts, wishes.early)}",)


def _new_words(
    units: Iterable[tuple[str, ...]], known: list[list[str]], problems: list[Problem]
) -> Iterator[str]:
    """The words that some place does not have; one with another value is left to its owner."""
    for unit in units:
        if known and all(word in words for words in known for word in unit):
            continue
        others = [w for words in known for w in words if _against(w, unit)]
        if others:
            problem = _conflict(unit[0], others[0])
            if problem:
                problems.append(problem)
            continue
        yield from unit


def _against(word: str, unit: tuple[str, ...]) -> bool:
    """Whether a word gives one of these parameters another value; `-` and `_` are the same."""
    if word in unit:
        return False
    key = word.partition("=")[0].replace("-", "_")
    off = word == "iommu=off" and unit[0].startswith("intel_iommu")
    return off or any(key == w.partition("=")[0].replace("-", "_") for w in unit)


def _conflict(wanted: str, there: str) -> Problem | None:
    value = there.partition("=")[2].split(",")
    if wanted == "intel_iommu=on" and "on" in value:
        return None
    off = "off" in value or wanted.startswith("vfio-pci.ids")
    return Problem(
        f"the kernel command line has {there}, which stands against {wanted}",
        severity="error" if off else "warning",
        hint=f"take {there} out, then do this again" if off
        else f"it is left as it is; take it out yourself if {wanted} is what you want",
    )


def _not_ours(
    facts: SetupFacts, parts: Iterable[Part], record: Record | None
) -> Iterator[Problem]:
    """A file of our name that we have not written is somebody's."""
    ours = {p.path for p in record.parts} if record else set()
    for part in parts:
        text = facts.files.get(part.path)
        if part.kind == "own" and part.path not in ours and text not in (None, part.text):
            yield Problem(
                "this file is there already, and qlaunch has no record of writing it",
                where=part.path, hint="move it away, then do this again",
            )


# -- the difference ---------------------------------------------------------------------------


def _settle(facts: SetupFacts, want: _Want, wishes: Wishes, record: Record | None) -> Setup:
    old = record or Record()
    parts = [_as_it_is(facts, part, old) for part in want.parts]
    changes = tuple(_changes(facts, parts, old.parts))
    touched = {c.path for c in changes}
    argvs: set[tuple[str, ...]] = set()
    for boot, some in ((want.boot, parts), (old.boot, old.parts)):
        for subject in sorted({p.subject for p in some if p.path in touched or not old.done}):
            argvs |= set(_commands(subject, boot, facts))
    commands = [*_kept(facts, want, old),
                *(Command(argv=argv, back=argv) for argv in sorted(argvs, key=_turn))]
    after = Record(
        wishes=wishes, boot=want.boot, parameters=want.added.kept, shown=want.shown,
        parts=tuple(parts), directories=old.directories,
    )
    return Setup(
        changes=changes, commands=tuple(commands), problems=tuple(want.problems),
        record=after if parts or want.added.kept else None,
    )


def _as_it_is(facts: SetupFacts, part: Part, old: Record) -> Part:
    """The recorded part where it says the same and is there still: it knows the file of then."""
    for known in old.parts:
        if known.same(part) and holds(facts.files.get(part.path), known):
            return known
    return part


def _changes(
    facts: SetupFacts, parts: Iterable[Part], old: Iterable[Part]
) -> Iterator[Change]:
    new = {p.path: p for p in parts}
    before = list(old)
    for path in sorted({*new, *(p.path for p in before)}):
        there = facts.files.get(path)
        mine = [p for p in before if p.path == path]
        part = new.get(path)
        if part is not None and mine == [part] and holds(there, part):
            continue
        text = there
        for one in reversed(mine):
            text = take(text, one)
        if part is not None and not (part.kind == "own" and text == part.text):
            text = put(text, part)
        if text != there:
            yield Change(path=path, before=there, after=text)


def _commands(subject: Subject, boot: Boot, facts: SetupFacts) -> tuple[tuple[str, ...], ...]:
    """What has to be run when files of the subject have changed."""
    if subject == "boot":
        return boot_commands(boot, facts)
    if subject == "initramfs":
        return initramfs_command(facts)
    if subject == "udev" and "udevadm" in facts.programs:
        return (("udevadm", "control", "--reload"),
                ("udevadm", "trigger", "--subsystem-match=vfio"))
    if subject == "systemd" and "systemctl" in facts.programs:
        return (("systemctl", "daemon-reload"),)
    return ()


def _kept(facts: SetupFacts, want: _Want, old: Record) -> list[Command]:
    """Parameters that a command keeps: those that are not there yet, and ours that shall go."""
    boot = want.boot or old.boot
    known = wordlists(boot, facts) if boot in BOOTS else []
    if old.boot and old.boot != boot and old.parameters:
        gone = keep_commands(old.boot, facts, (), old.parameters)
        return [*gone, *keep_commands(boot, facts, want.added.kept, ())]
    add = [w for w in want.added.kept if not all(w in words for words in known)]
    remove = [w for w in old.parameters if w not in want.added.kept
              and any(w in words for words in known)]
    if cannot_tell(boot, facts):
        has = old.parameters if old.done else ()
        add = [w for w in want.added.kept if w not in has]
        remove = [w for w in old.parameters if w not in want.added.kept]
    return keep_commands(boot, facts, add, remove)


_ORDER = ("update-initramfs", "dracut", "mkinitcpio", "update-grub", "grub-mkconfig",
          "grub2-mkconfig", "kernel-install", "reinstall-kernels", "udevadm", "systemctl")


def _turn(argv: tuple[str, ...]) -> tuple[int, bool, tuple[str, ...]]:
    """The initramfs before the boot loader, which copies it; reload before trigger."""
    return _ORDER.index(argv[0]), "trigger" in argv, argv
