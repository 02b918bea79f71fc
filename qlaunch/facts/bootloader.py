"""Which boot loader starts the host: `host setup` writes for it, and `doctor` names its commands.

Looked at are tools that keep the parameters themselves, GRUB's /etc/default/grub, systemd-boot's
loader.conf and the loader entries (UAPI Boot Loader Specification, type #1), and what the firmware
was told of who started the system (systemd's Boot Loader Interface; GRUB writes it since 2.12).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from msgspec import Struct

from qlaunch.facts.health_model import Boot
from qlaunch.facts.tree import base_of, read_lines, read_whole

GRUB = "/etc/default/grub"
KERNELSTUB = "/etc/kernelstub/configuration"
ENTRY_DIRS = ("/efi/loader/entries", "/boot/efi/loader/entries", "/boot/loader/entries")
LOADER_CONFS = tuple(d.replace("/entries", "/loader.conf") for d in ENTRY_DIRS)
TOOLS = ("update-grub", "grub-mkconfig", "grub2-mkconfig", "grubby", "kernelstub", "rpm-ostree")
_BIN = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin")
_LOADER_INFO = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

# "unsure": an ordinary user may not see the boot partition, and GRUB is taken for granted.
Doubt = Literal["", "none", "both", "unsure"]


class BootFacts(Struct, frozen=True, kw_only=True):
    """The host, as far as its boot loader can be told from it."""

    id: str = ""  # ID of os-release(5)
    like: tuple[str, ...] = ()  # ID_LIKE
    loader: str = ""  # the firmware variable LoaderInfo: "GRUB 2.12", "systemd-boot 252"
    ostree: bool = False
    programs: frozenset[str] = frozenset()
    files: dict[str, str] = {}  # what may be changed or tells of parameters, and is there
    denied: tuple[str, ...] = ()  # of these, what this user may not read


def which_boot(facts: BootFacts) -> tuple[Boot, Doubt]:
    """The boot loader whose parameters count, and what is not known of that.

    Where two are installed, LoaderInfo says which one started the system.
    """
    known = _by_tool(facts)
    if known:
        return known, ""
    systemd = any(path in facts.files for path in LOADER_CONFS) or bool(linux_entries(facts))
    grub = GRUB in facts.files
    if not (systemd or grub) or (facts.loader.startswith("systemd-boot") and not systemd):
        return "", "none"
    if systemd and grub:
        return _of_two(facts.loader)
    if systemd:
        return "systemd-boot", ""
    hidden = not facts.loader and bool(set(facts.denied) & {*LOADER_CONFS, *ENTRY_DIRS})
    return "grub", "unsure" if hidden else ""


def _by_tool(facts: BootFacts) -> Boot:
    """A tool that has the last word on the parameters, whatever starts the host."""
    if facts.ostree and "rpm-ostree" in facts.programs:
        return "rpm-ostree"
    if "kernelstub" in facts.programs and KERNELSTUB in facts.files:
        return "kernelstub"
    fedora = {"fedora", "rhel"} & {facts.id, *facts.like}
    return "grubby" if fedora and "grubby" in facts.programs else ""


def _of_two(loader: str) -> tuple[Boot, Doubt]:
    if loader.startswith("systemd-boot"):
        return "systemd-boot", ""
    return ("grub", "") if loader.startswith("GRUB") else ("", "both")


def linux_entries(facts: BootFacts) -> dict[str, str]:
    """Loader entries that start Linux."""
    return {
        path: text for path, text in facts.files.items()
        if path.rpartition("/")[0] in ENTRY_DIRS and re.search(r"^linux\s", text, re.M)
    }


def grub_command(programs: Collection[str]) -> tuple[str, ...]:
    """What makes GRUB's configuration anew; () where none of its tools is here."""
    if "update-grub" in programs:
        return ("update-grub",)
    if "grub2-mkconfig" in programs:
        return ("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg")
    return ("grub-mkconfig", "-o", "/boot/grub/grub.cfg") if "grub-mkconfig" in programs else ()


# -- reading ----------------------------------------------------------------------------------


def read_boot(root: Path = Path("/")) -> BootFacts:
    """What `which_boot` looks at."""
    base = base_of(root)
    release = read_os_release(base)
    paths = [GRUB, KERNELSTUB, *LOADER_CONFS]
    denied: list[str] = []
    for directory in ENTRY_DIRS:
        names = names_in(base + directory)
        if names is None:
            denied.append(directory)
        paths += [f"{directory}/{name}" for name in names or () if name.endswith(".conf")]
    files = {p: text for p in paths if (text := read_text(base, p, denied)) is not None}
    return BootFacts(
        id=release.get("ID", ""), like=tuple(release.get("ID_LIKE", "").split()),
        loader=read_loader(base), ostree=is_ostree(base),
        programs=frozenset(name for name in TOOLS if find_tool(base, name)),
        files=files, denied=tuple(denied),
    )


def read_text(base: str, path: str, denied: list[str]) -> str | None:
    """A file's text, whatever its encoding; what may not be read is noted in `denied`."""
    try:
        return Path(base + path).read_bytes().decode("utf-8", "surrogateescape")
    except PermissionError:
        denied.append(path)
    except OSError:
        pass
    return None


def names_in(path: str) -> list[str] | None:
    """A directory's entries; None when they may not be seen."""
    try:
        return sorted(entry.name for entry in Path(path).iterdir())
    except PermissionError:
        return None
    except OSError:
        return []


def find_tool(base: str, name: str) -> str:
    """A program's path below the root; "" when there is none."""
    return next((p for d in _BIN if Path(p := f"{base}/{d}/{name}").is_file()), "")


def is_ostree(base: str) -> bool:
    """Whether the system is one of OSTree's deployments."""
    return Path(f"{base}/run/ostree-booted").exists() or Path(f"{base}/ostree/repo").is_dir()


def read_loader(base: str) -> str:
    """An EFI variable: four bytes of attributes, then UTF-16."""
    raw = read_whole(f"{base}/{_LOADER_INFO}", 4096) or b""
    return raw[4:].decode("utf-16-le", "replace").rstrip("\0")


def read_os_release(base: str) -> dict[str, str]:
    """os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        lines = read_lines(base + path)
        if lines:
            pairs = (line.partition("=") for line in lines if "=" in line and line[0] != "#")
            return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {}
