"""Debian 12's OVMF in a recorded tree: three descriptors, and files as large as the real ones."""

from __future__ import annotations

import json
import os
from typing import Any

from msgspec.structs import replace

from qlaunch.facts.model import Firmware, HostFile
from tests.fake.trees import Tree

SHARED = "usr/share/qemu/firmware"
CODE_SIZE, VARS_SIZE = 3653632, 540672
# name → code, template, machines, features
DEBIAN: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "40-edk2-x86_64-secure-enrolled.json": (
        "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd", ("pc-q35-*",),
        ("acpi-s3", "enrolled-keys", "requires-smm", "secure-boot"),
    ),
    "50-edk2-x86_64-secure.json": (
        "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd", ("pc-q35-*",),
        ("acpi-s3", "requires-smm", "secure-boot"),
    ),
    "60-edk2-x86_64.json": (
        "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", ("pc-i440fx-*", "pc-q35-*"), ("acpi-s3",),
    ),
}


def descriptor(
    code: str, template: str | None, machines: tuple[str, ...] = ("pc-q35-*",),
    features: tuple[str, ...] = (), *, kind: str = "raw", arch: str = "x86_64", **mapping: Any,
) -> dict[str, Any]:
    """The tree of a descriptor."""
    flash: dict[str, Any] = {
        "device": "flash", "executable": {"filename": code, "format": kind}, **mapping,
    }
    if template:
        flash["nvram-template"] = {"filename": template, "format": kind}
    return {
        "description": "UEFI", "interface-types": ["uefi"], "mapping": flash, "tags": [],
        "targets": [{"architecture": arch, "machines": list(machines)}],
        "features": list(features),
    }


def ovmf(tree: Tree) -> None:
    """Install it."""
    for name, (code, template, machines, features) in DEBIAN.items():
        paths = f"/usr/share/OVMF/{code}", f"/usr/share/OVMF/{template}"
        for path, size in zip(paths, (CODE_SIZE, VARS_SIZE), strict=True):
            os.truncate(tree.write(path[1:], b""), size)
        tree.write(f"{SHARED}/{name}", json.dumps(descriptor(*paths, machines, features)))


def packaged(found: tuple[Firmware, ...] | None) -> tuple[Firmware, ...] | None:
    """Whoever recorded them, they are root's and everybody may read them."""

    def owned(file: HostFile | None) -> HostFile | None:
        return file and replace(file, readable=True, writable=False, uid=0, gid=0, mode=0o644)

    return found and tuple(replace(f, code=owned(f.code), vars=owned(f.vars)) for f in found)
