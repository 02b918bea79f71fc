"""Adding kernel parameters in the way of each boot loader, so that they can be taken out again.

GRUB's /etc/default/grub is a shell script that grub-mkconfig reads, so a line of ours below the
others adds to theirs; where drop-ins are read (Debian, Ubuntu), it is a file of ours. An entry of
systemd-boot may have several `options` lines. grubby(8), kernelstub and `rpm-ostree kargs` keep
the parameters themselves. `kernelstub --delete-options` goes through a set and so shuffles what
remains (its application.py), which is why it is given the whole list instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.facts.bootloader import GRUB, grub_command, linux_entries
from qlaunch.setup.boot import (
    CMDLINE,
    cmdline_text,
    entry_words,
    kernelstub_options,
    nothing_found,
    systemd_places,
)
from qlaunch.setup.model import HEAD, Boot, Command, KernelImage, Part, SetupFacts, Subject

GRUB_DROPIN = "/etc/default/grub.d/zz-qlaunch.cfg"  # the last to be read


class Added(Struct, frozen=True, kw_only=True):
    """How parameters are added: in parts of files, or by commands (`kept`)."""

    parts: tuple[Part, ...] = ()
    kept: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def add_parameters(boot: Boot, facts: SetupFacts, words: Sequence[str]) -> Added:
    """How these words are added where they are not yet."""
    if not words:
        return Added()
    if boot == "none":
        return Added(problems=(Problem(
            "the kernel command line is left alone; it still wants", found=" ".join(words),
            severity="warning", hint="add these in your boot loader's own way",
        ),))
    if boot == "systemd-boot":
        return _systemd(facts, words)
    if boot == "grub":
        return Added(parts=(_grub(facts, words),))
    return Added(kept=tuple(words))


def line_part(facts: SetupFacts, path: str, text: str, words: str, subject: Subject) -> Part:
    """A marked line at the end of a file."""
    before = facts.files.get(path)
    return Part(
        path=path, kind="line", text=text, words=words, subject=subject,
        newline=bool(before) and not (before or "").endswith("\n"),
        made="" if before is None else None,
    )


def _grub(facts: SetupFacts, words: Sequence[str]) -> Part:
    said = " ".join(words)
    line = f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {said}"'
    if facts.grub_dropins:
        return Part(path=GRUB_DROPIN, kind="own", text=f"{HEAD}{line}\n", subject="boot")
    return line_part(facts, GRUB, line, said, "boot")


def _systemd(facts: SetupFacts, words: Sequence[str]) -> Added:
    by_hand, from_cmdline = systemd_places(facts)
    if not by_hand and not from_cmdline:
        return Added(problems=(nothing_found(facts),))
    entries = linux_entries(facts)
    parts: list[Part] = []
    for path in by_hand:
        missing = _missing(words, entry_words(entries[path]))
        if missing:
            parts.append(line_part(facts, path, f"options {missing}", missing, ""))
    if not from_cmdline:
        return Added(parts=tuple(parts))
    missing = _missing(words, cmdline_text(facts).split())
    if missing:
        made = None if CMDLINE in facts.files else cmdline_text(facts)
        parts.append(Part(path=CMDLINE, kind="words", text=missing, made=made, subject="boot"))
    unread = not missing or boot_commands("systemd-boot", facts)
    return Added(parts=tuple(parts), problems=() if unread else (Problem(
        f"nothing was found that makes the boot entries anew from {CMDLINE}",
        allowed="kernel-install, reinstall-kernels, mkinitcpio",
        hint="add the parameters by hand; qlaunch doctor checks them",
    ),))


def _missing(words: Sequence[str], there: Sequence[str]) -> str:
    return " ".join(w for w in words if w not in there)


def boot_commands(boot: Boot, facts: SetupFacts) -> tuple[tuple[str, ...], ...]:
    """What is run when the loader's files have changed.

    /etc/kernel/cmdline is read when a kernel is installed, so all are installed once more
    (kernel-install(8)); where there are no entries, a unified kernel image takes it in.
    """
    if boot == "grub":
        return (grub_command(facts.programs) or grub_command(("grub-mkconfig",)),)
    if boot != "systemd-boot":
        return ()
    if "reinstall-kernels" in facts.programs:
        return (("reinstall-kernels",),)
    if "kernel-install" in facts.programs and linux_entries(facts):
        return tuple(_kernel_install(k) for k in facts.kernels if k.image)
    return (("mkinitcpio", "-P"),) if "mkinitcpio" in facts.programs else ()


def _kernel_install(kernel: KernelImage) -> tuple[str, ...]:
    initrd = (kernel.initrd,) if kernel.initrd else ()
    return ("kernel-install", "add", kernel.release, kernel.image, *initrd)


# -- by command -------------------------------------------------------------------------------


def keep_commands(
    boot: Boot, facts: SetupFacts, add: Iterable[str], remove: Iterable[str]
) -> list[Command]:
    """What tells grubby, kernelstub or rpm-ostree; each with what takes it back."""
    more, less = list(add), list(remove)
    if not more and not less:
        return []
    if boot == "kernelstub":
        return [_kernelstub(kernelstub_options(facts), more, less)]
    plus, minus = _grubby if boot == "grubby" else _ostree
    found = []
    if less:
        found.append(Command(argv=minus(less), back=plus(less)))
    if more:
        found.append(Command(argv=plus(more), back=minus(more)))
    return found


def _plus_grubby(words: list[str]) -> tuple[str, ...]:
    return ("grubby", "--update-kernel=ALL", f"--args={' '.join(words)}")


def _minus_grubby(words: list[str]) -> tuple[str, ...]:
    return ("grubby", "--update-kernel=ALL", f"--remove-args={' '.join(words)}")


def _plus_ostree(words: list[str]) -> tuple[str, ...]:
    return ("rpm-ostree", "kargs", *(f"--append-if-missing={w}" for w in words))


def _minus_ostree(words: list[str]) -> tuple[str, ...]:
    return ("rpm-ostree", "kargs", *(f"--delete-if-present={w}" for w in words))


_grubby = (_plus_grubby, _minus_grubby)
_ostree = (_plus_ostree, _minus_ostree)


def _kernelstub(now: list[str], add: list[str], remove: list[str]) -> Command:
    after = [w for w in now if w not in remove] + [w for w in add if w not in now]
    back = ("kernelstub", "--options", " ".join(now))
    if not remove:
        return Command(argv=("kernelstub", "--add-options", " ".join(add)), back=back)
    if not after:  # an empty list is taken for none
        return Command(argv=("kernelstub", "--delete-options", " ".join(remove)), back=back)
    return Command(argv=("kernelstub", "--options", " ".join(after)), back=back)
