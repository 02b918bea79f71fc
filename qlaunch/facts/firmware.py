"""UEFI firmware that the host offers, and what the host's own board says of itself.

Firmware is described by JSON files in three directories; a file of the first replaces one of the
same name in the others, an empty one hides it, and names are tried in their order (QEMU's
docs/interop/firmware.json). Only flash images for x86_64 with a UEFI interface are of use here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from qlaunch.facts.files import can_access, read_files
from qlaunch.facts.model import Firmware, Invoker
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_whole

SYSTEM = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
_LARGEST = 1 << 16  # bytes of a descriptor; they are about one thousand
_DMI = (
    "bios_vendor", "bios_version", "bios_date", "bios_release", "sys_vendor", "product_name",
    "product_version", "product_serial", "product_sku", "product_family", "board_vendor",
    "board_name", "board_version", "board_serial", "board_asset_tag", "chassis_vendor",
    "chassis_version", "chassis_serial", "chassis_asset_tag",
)  # fmt: skip


def read_firmware(account: Invoker | None, root: Path = Path("/")) -> tuple[Firmware, ...]:
    """What the descriptors offer `account`, in the order in which it is to be tried.

    A descriptor that is broken or of another shape is passed over, as QEMU's users do.
    """
    directories = list(SYSTEM)
    if account is not None and account.home.startswith("/"):
        directories.insert(0, f"{account.home}/.config/qemu/firmware")
    base = base_of(root)
    files: dict[str, str] = {}
    for directory in directories:
        for name in list_names(base + directory):
            if name.endswith(".json"):
                files.setdefault(name, f"{directory}/{name}")
    found: list[Firmware] = []
    for _, path in sorted(files.items()):
        try:
            found += _described(path, _decode(path, account, root), account, root)
        except (KeyError, TypeError, AttributeError):  # a shape of its own
            continue
    return tuple(found)


def _decode(path: str, account: Invoker | None, root: Path) -> dict[str, Any]:
    """An empty table for what cannot be read. Root reads a user's file only where they may."""
    real = base_of(root) + path
    if account is not None and os.geteuid() == 0 and not path.startswith(SYSTEM) and not (
        can_access(real, account.uid, account.gid, account.groups, "r", top=str(root))
    ):
        return {}
    try:
        if not stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116 - a FIFO would block the open
            return {}
        tree = msgspec.json.decode(read_whole(real, _LARGEST) or b"{}")
    except (OSError, msgspec.DecodeError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _described(
    path: str, tree: dict[str, Any], account: Invoker | None, root: Path
) -> Iterator[Firmware]:
    targets = [t for t in tree.get("targets", ()) if t["architecture"] == "x86_64"]
    mapping = tree.get("mapping", {})
    if "uefi" not in tree.get("interface-types", ()) or not targets:
        return
    if mapping["device"] != "flash":
        return
    code, template = mapping["executable"], mapping.get("nvram-template")
    paths = [str(image["filename"]) for image in (code, template) if image]
    files = read_files(paths, account, root)
    yield Firmware(
        descriptor=path, code=files[0], code_format=str(code["format"]),
        vars=files[1] if template else None,
        vars_format=str(template["format"]) if template else "raw",
        vars_size=_seen_size(base_of(root) + paths[1], template["format"]) if template else None,
        mode=str(mapping.get("mode", "split")),
        machines=tuple(str(glob) for target in targets for glob in target["machines"]),
        features=tuple(str(feature) for feature in tree.get("features", ())),
    )


def _seen_size(path: str, kind: str) -> int | None:
    """The size of the flash that an image stands for: qcow2 tells it at byte 24 (QEMU's
    docs/interop/qcow2.txt)."""
    if kind == "raw":
        try:
            return os.stat(path).st_size  # noqa: PTH116
        except OSError:
            return None
    head = read_whole(path, 32) or b""
    return int.from_bytes(head[24:32], "big") if head[:4] == b"QFI\xfb" and head[31:] else None


def read_dmi(root: Path = Path("/"), account: Invoker | None = None) -> dict[str, str | None]:
    """The texts of /sys/class/dmi/id; None for what only root may read (serial numbers), and so
    for what an `account` may not that root looks for."""
    base = f"{base_of(root)}/sys/class/dmi/id"
    there = set(list_names(base))
    return {name: _text(f"{base}/{name}", root, account) for name in _DMI if name in there}


def _text(path: str, root: Path, account: Invoker | None) -> str | None:
    if account is not None and not can_access(
        path, account.uid, account.gid, account.groups, "r", top=str(root)
    ):
        return None
    return read_attribute(path)
