"""Which kernel parameters the host's boot loader has, and what to say where it cannot be told.

Read are GRUB's /etc/default/grub and, where grub-mkconfig reads it too, /etc/default/grub.d; the
`options` lines of loader entries (UAPI Boot Loader Specification, type #1), which Fedora's GRUB
has as well; /etc/kernel/cmdline (kernel-install(8)); and kernelstub's own configuration.
"""

from __future__ import annotations

import json
import re

from qlaunch.errors import Problem
from qlaunch.facts.bootloader import (
    ENTRY_DIRS,
    GRUB,
    KERNELSTUB,
    LOADER_CONFS,
    linux_entries,
    which_boot,
)
from qlaunch.setup.model import Boot, SetupFacts

CMDLINE = "/etc/kernel/cmdline"
CMDLINE_OF_VENDOR = "/usr/lib/kernel/cmdline"
_SHELL_WORDS = re.compile(r"^\s*(?:export\s+)?GRUB_CMDLINE_LINUX(?:_DEFAULT)?\+?=(.*)$", re.M)
_RESCUE = re.compile(r"fallback|rescue|recovery", re.I)


def find_boot(facts: SetupFacts) -> tuple[Boot, tuple[Problem, ...]]:
    """Which boot loader's parameters count, or why that cannot be told."""
    boot, doubt = which_boot(facts)
    if doubt == "none":
        return boot, (nothing_found(facts),)
    if doubt == "both":
        return boot, (_two(facts),)
    return boot, () if not doubt else (
        Problem("this user may not look into the boot partition; GRUB is taken for granted",
                severity="note", hint="as root: qlaunch host setup … is sure"),
    )


def lacking(boot: Boot, facts: SetupFacts) -> Problem | None:
    """What a boot loader that was named would need to be this host's."""
    tools = {
        "grub": ("update-grub", "grub-mkconfig", "grub2-mkconfig"), "kernelstub": ("kernelstub",),
        "grubby": ("grubby",), "rpm-ostree": ("rpm-ostree",),
    }.get(boot, ())
    if not tools or facts.programs.intersection(tools):
        return None
    return Problem(f"--boot {boot} needs {' or '.join(tools)}, which is not here",
                   hint="leave --boot out: it is found out by itself")


def _two(facts: SetupFacts) -> Problem:
    return Problem(
        "both GRUB and systemd-boot are installed; which one starts this host cannot be told",
        found=f"{GRUB}, {next((p for p in LOADER_CONFS if p in facts.files), ENTRY_DIRS[-1])}",
        hint="say which: --boot grub or --boot systemd-boot",
    )


def nothing_found(facts: SetupFacts) -> Problem:
    if facts.denied:
        return Problem("the boot loader's files cannot be read by this user",
                       found=", ".join(facts.denied), hint="as root: qlaunch host setup …")
    return Problem(
        "no boot loader was found whose kernel parameters can be set",
        allowed="GRUB, systemd-boot, kernelstub, grubby, rpm-ostree",
        hint="--boot none does the rest, and tells which ones to add by hand",
    )


# -- what is there ----------------------------------------------------------------------------


def wordlists(boot: Boot, facts: SetupFacts) -> list[list[str]]:
    """The parameters of the next boot, as far as files tell, for each place that has some."""
    if boot == "grub":
        texts = [t for p, t in facts.files.items() if p.startswith(GRUB)]
        return [[w for text in texts for w in _shell_words(text)]]
    if boot == "kernelstub":
        return [kernelstub_options(facts)]
    if boot == "grubby":
        entries = [entry_words(t) for t in linux_entries(facts).values()]
        if entries and not any("$kernelopts" in words for words in entries):
            return entries
        return [_shell_words(facts.files.get(GRUB, ""))]
    if boot in ("rpm-ostree", "none"):
        return [facts.cmdline.split()]
    by_hand, from_cmdline = systemd_places(facts)
    texts_of = linux_entries(facts)
    found = [entry_words(texts_of[path]) for path in by_hand]
    return [*found, cmdline_text(facts).split()] if from_cmdline else found


def cannot_tell(boot: Boot, facts: SetupFacts) -> bool:
    """Whether the next boot's parameters are where no file that may be read tells them: then the
    record says what is there. rpm-ostree's are in its deployments."""
    return boot == "rpm-ostree" or (boot == "grubby" and bool({*ENTRY_DIRS} & {*facts.denied}))


def systemd_places(facts: SetupFacts) -> tuple[list[str], bool]:
    """Entries that are written by hand, and whether others come from /etc/kernel/cmdline.

    A fallback or rescue entry written by hand stays as it is: it is for when parameters are wrong.
    """
    entries = linux_entries(facts)
    generated = {path for path in entries if _is_generated(path, facts)}
    by_hand = sorted(p for p in entries.keys() - generated if not _RESCUE.search(p))
    return by_hand, bool(generated) or (CMDLINE in facts.files and not by_hand)


def _is_generated(path: str, facts: SetupFacts) -> bool:
    """TOKEN-RELEASE.conf, with a boot counter at most: kernel-install's names."""
    name = re.sub(r"(\+\d+(-\d+)?)?\.conf$", "", path.rpartition("/")[2])
    return any(name == f"{token}-{k.release}" for token in facts.token for k in facts.kernels)


def cmdline_text(facts: SetupFacts) -> str:
    """/etc/kernel/cmdline, or what kernel-install(8) takes without it: the vendor's, else the
    running kernel's without what the boot loader put in front."""
    for path in (CMDLINE, CMDLINE_OF_VENDOR):
        if path in facts.files:
            return facts.files[path]
    words = [w for w in facts.cmdline.split() if not w.startswith(("BOOT_IMAGE=", "initrd="))]
    return " ".join(words) + "\n" if words else ""


def _shell_words(text: str) -> list[str]:
    return [w.strip("\"'") for line in _SHELL_WORDS.findall(text)
            for w in line.partition(" #")[0].split()]


def kernelstub_options(facts: SetupFacts) -> list[str]:
    """Its user's list; "default" is what a new user's begins with."""
    try:
        whole = json.loads(facts.files.get(KERNELSTUB, "{}"))
        options = (whole.get("user") or whole.get("default") or {}).get("kernel_options", [])
    except (ValueError, AttributeError):
        return []
    return options.split() if isinstance(options, str) else [str(o) for o in options]


def entry_words(text: str) -> list[str]:
    return [w for line in re.findall(r"^options\s+(.*)$", text, re.M) for w in line.split()]
