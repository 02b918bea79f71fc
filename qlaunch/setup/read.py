"""Reading the host, or a directory that stands for its root, for its setup.

Nothing is asked of a tool: programs are looked for by name, and what grub-mkconfig and mkinitcpio
read is taken from their own text, because that is what differs between distributions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from msgspec import DecodeError

from qlaunch.codec import from_json
from qlaunch.errors import HostError, Problem
from qlaunch.facts import bootloader
from qlaunch.facts.bootloader import (
    find_tool,
    is_ostree,
    names_in,
    read_loader,
    read_os_release,
    read_text,
)
from qlaunch.facts.model import PciDevice
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_lines, read_whole
from qlaunch.setup import boot, early, files
from qlaunch.setup.model import RECORD_PATH, KernelImage, Record, SetupFacts, Wishes
from qlaunch.setup.parameters import GRUB_DROPIN
from qlaunch.values import PciAddress

_PROGRAMS = (
    *bootloader.TOOLS,
    "kernel-install", "reinstall-kernels", "update-initramfs", "mkinitramfs", "dracut",
    "mkinitcpio", "udevadm", "systemctl",
)  # fmt: skip
_SINGLE = (
    bootloader.GRUB, boot.CMDLINE, boot.CMDLINE_OF_VENDOR, bootloader.KERNELSTUB,
    *bootloader.LOADER_CONFS,
    GRUB_DROPIN, early.MODPROBE, early.INITRAMFS_MODULES, early.DRACUT, early.MKINITCPIO,
    early.MKINITCPIO_DROPIN, files.MODULES, files.SYSCTL, files.UDEV, files.LIMITS,
)  # fmt: skip


def read_setup(root: Path, wishes: Wishes, record: Record | None) -> SetupFacts:
    """What the setup depends on. PCI devices only where early binding is asked for."""
    base = base_of(root)
    release = read_os_release(base)
    users = _users(base, wishes.user)
    kernels = tuple(_kernels(base))
    running = _running(base, kernels)
    pci = _pci(root, running) if wishes.early else None
    texts, denied = _files(base, wishes, users, record)
    return SetupFacts(
        id=release.get("ID", ""), like=tuple(release.get("ID_LIKE", "").split()),
        token=tuple(_tokens(base, release)), loader=read_loader(base),
        ostree=is_ostree(base),
        programs=frozenset(p for p in _PROGRAMS if find_tool(base, p) and _answers(base, p)),
        grub_dropins=_mentions(base, ("grub-mkconfig", "grub2-mkconfig"), b"/default/grub.d"),
        mkinitcpio_dropins=_mentions(base, ("mkinitcpio",), b"mkinitcpio.conf.d"),
        kernels=kernels, builtin=_builtin(base, running), cpu=_cpu(base),
        page=_meminfo(base, "Hugepagesize:") or files.SMALL, memory=_meminfo(base, "MemTotal:"),
        cmdline=read_attribute(f"{base}/proc/cmdline") or "", files=texts, denied=denied,
        pci=pci, drivers=_drivers(base, running, pci or (), wishes.early), users=users,
    )


def read_record(root: Path) -> Record | None:
    """What was set up; None: nothing. Raises HostError for a file that cannot be understood."""
    path = base_of(root) + RECORD_PATH
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(Problem(f"the record cannot be read: {error.strerror}", where=path,
                                hint="as root: qlaunch host show")) from None
    try:
        return from_json(raw, Record)
    except (DecodeError, UnicodeDecodeError) as error:
        raise HostError(Problem(
            "this record of a setup cannot be understood", where=path, found=str(error),
            hint="what is ours says so in its first line: grep -rl 'qlaunch host setup' /etc /boot",
        )) from None


# -- files ------------------------------------------------------------------------------------


def _files(
    base: str, wishes: Wishes, users: dict[str, int], record: Record | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    paths = dict.fromkeys(_SINGLE)
    if wishes.user in users:
        paths[files.user_unit(users[wishes.user])] = None
    paths.update(dict.fromkeys(p.path for p in record.parts) if record else {})
    denied: list[str] = []
    for directory, ending in (("/etc/default/grub.d", ".cfg"),
                              *((d, ".conf") for d in bootloader.ENTRY_DIRS)):
        names = names_in(base + directory)
        if names is None:
            denied.append(directory)
        paths.update(dict.fromkeys(f"{directory}/{n}" for n in names or () if n.endswith(ending)))
    texts: dict[str, str] = {}
    for path in paths:
        text = read_text(base, path, denied)
        if text is not None:
            texts[path] = text
    return texts, tuple(denied)


def _answers(base: str, name: str) -> bool:
    """systemctl and udevadm speak to daemons, which a container has not (sd_booted(3))."""
    path = {"systemctl": "/run/systemd/system", "udevadm": "/run/udev/control"}.get(name)
    return path is None or Path(base + path).exists()


def _mentions(base: str, names: Sequence[str], text: bytes) -> bool:
    """Whether a script names this directory: then it reads what lies in it."""
    return any(text in (read_whole(p) or b"") for n in names if (p := find_tool(base, n)))


# -- what the host is -------------------------------------------------------------------------


def _tokens(base: str, release: dict[str, str]) -> Iterator[str]:
    """kernel-install(8), --entry-token: machine-id, os-id, os-image-id, or the file."""
    for path in ("/etc/kernel/entry-token", "/etc/machine-id"):
        text = read_attribute(base + path)
        if text:
            yield text
    yield from (release[key] for key in ("ID", "IMAGE_ID") if release.get(key))


def _kernels(base: str) -> Iterator[KernelImage]:
    for release in list_names(f"{base}/lib/modules") or list_names(f"{base}/usr/lib/modules"):
        image = f"/usr/lib/modules/{release}/vmlinuz"
        if Path(base + image).is_file():
            yield KernelImage(release=release, image=image)
            continue
        image, initrd = f"/boot/vmlinuz-{release}", f"/boot/initrd.img-{release}"
        if Path(base + image).is_file():
            has = Path(base + initrd).is_file()
            yield KernelImage(release=release, image=image, initrd=initrd if has else "")
        else:
            yield KernelImage(release=release)


def _running(base: str, kernels: Sequence[KernelImage]) -> str:
    """The release that runs, or in a directory without one the newest that is installed."""
    said = read_attribute(f"{base}/proc/sys/kernel/osrelease") or (
        "" if base else os.uname().release
    )
    releases = sorted((k.release for k in kernels), key=_version)
    return said if said in releases or not releases else releases[-1]


def _version(release: str) -> list[tuple[int, str]]:
    return [(int(w), "") if w.isdigit() else (-1, w) for w in re.split(r"[.\-+_]", release)]


def _builtin(base: str, release: str) -> frozenset[str]:
    """modules.builtin: paths like kernel/drivers/vfio/pci/vfio-pci.ko."""
    lines = read_lines(f"{_modules(base, release)}/modules.builtin")
    names = (line.rpartition("/")[2].partition(".ko")[0] for line in lines)
    return frozenset(name.replace("-", "_") for name in names)


def _modules(base: str, release: str) -> str:
    path = f"{base}/lib/modules/{release}"
    return path if Path(path).is_dir() else f"{base}/usr/lib/modules/{release}"


def _cpu(base: str) -> Literal["", "intel", "amd"]:
    text = (read_whole(f"{base}/proc/cpuinfo", 4096) or b"").decode(errors="replace")
    match = re.search(r"^vendor_id\s*:\s*(\S+)", text, re.M)
    vendor = match[1] if match else ""
    return {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(vendor, "")  # type: ignore[return-value]


def _meminfo(base: str, key: str) -> int | None:
    """A value of /proc/meminfo, in bytes."""
    for line in read_lines(f"{base}/proc/meminfo"):
        words = line.split()
        if words[:1] == [key] and words[1].isdigit():
            return int(words[1]) << 10
    return None


def _users(base: str, name: str) -> dict[str, int]:
    """The named user's number: from the account database of the host, or the directory's file."""
    if not name:
        return {}
    if not base:
        import pwd

        try:
            return {name: pwd.getpwnam(name).pw_uid}
        except KeyError:
            return {}
    rows = (line.split(":") for line in read_lines(f"{base}/etc/passwd"))
    return {row[0]: int(row[2]) for row in rows if row[0] == name and row[2].isdigit()}


# -- devices ----------------------------------------------------------------------------------


def _pci(root: Path, release: str) -> tuple[PciDevice, ...]:
    from qlaunch.facts.holders import with_holders
    from qlaunch.facts.pci import read_pci

    return with_holders(root, read_pci(root, release=release))


def _drivers(
    base: str, release: str, pci: Sequence[PciDevice], early_ones: Sequence[PciAddress]
) -> dict[str, tuple[str, ...]]:
    """Which modules would take each device: modules.alias, and the driver that has it now."""
    wanted = [d for d in pci if d.address in early_ones]
    if not wanted:
        return {}
    aliases = [
        line.split() for line in read_lines(f"{_modules(base, release)}/modules.alias")
        if line.startswith("alias pci:")
    ]
    found: dict[str, tuple[str, ...]] = {}
    for device in wanted:
        names = [w[2] for w in aliases if len(w) == 3 and fnmatchcase(device.modalias, w[1])]
        if not names and device.driver and not device.driver.startswith("vfio"):
            names = [device.driver.replace("-", "_")]
        found[device.address] = tuple(dict.fromkeys(names))
    return found
