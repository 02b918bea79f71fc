"""A Linux guest in two megabytes: the packaged kernel, busybox, a few modules and a script.

It says on its first serial port what it finds, so that a test can ask a guest, and not only QEMU,
whether a device works. It boots in two seconds under TCG and powers off when its script has ended.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

INIT = """\
#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/lib/$module"; done < /modules
{script}
echo guest: done
poweroff -f
"""
APPEND = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"


class Guest(NamedTuple):
    """What a profile's direct boot needs."""

    kernel: Path
    initrd: Path
    append: str = APPEND


def newest_kernel() -> Path:
    """A packaged kernel that has its modules here. Raises FileNotFoundError."""
    found = [
        k for k in Path("/boot").glob("vmlinuz-*")
        if Path("/lib/modules", k.name.removeprefix("vmlinuz-")).is_dir()
    ]
    if not found:
        raise FileNotFoundError("no kernel with modules in /boot: install linux-image-amd64")
    return max(found, key=lambda k: k.stat().st_mtime)


def make_guest(
    directory: Path, script: str, modules: tuple[str, ...] = (), extra: tuple[Path, ...] = (),
    *, packed: bool = False,
) -> Guest:
    """The guest's files in `directory`, readable by every account.

    `script` is for busybox's sh; `modules` are loaded before it, with what they depend on, and
    then the `extra` ones, which are files. With a TPM the kernel has to stay `packed`: where QEMU
    starts an ELF kernel, it puts the initrd over the ACPI tables, which are larger then.
    """
    packed_kernel = newest_kernel()
    release = packed_kernel.name.removeprefix("vmlinuz-")
    tree = directory / "guest"
    for name in ("bin", "lib", "proc", "sys", "dev", "mnt"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(_program("busybox"), tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    files = [*_module_files(modules, release), *extra]
    for path in files:
        shutil.copy(path, tree / "lib" / path.name)
    (tree / "modules").write_text("".join(f"{path.name}\n" for path in files))
    init = tree / "init"
    init.write_text(INIT.format(script=script))
    init.chmod(0o755)
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), check=True,
        capture_output=True,
    ).stdout
    initrd = directory / "guest.initrd"
    initrd.write_bytes(gzip.compress(archive, 1))
    initrd.chmod(0o644)
    shutil.rmtree(tree)
    return Guest(packed_kernel if packed else unpacked(packed_kernel, directory), initrd)


def unpacked(kernel: Path, directory: Path) -> Path:
    """The kernel as an ELF file in `directory`, which QEMU starts by its PVH note.

    Emulated, its own decompression takes longer than all the rest of its start. As it is when it
    is packed with something else than xz. A lab host finds one that was unpacked outside.
    """
    outside = Path(os.environ.get("QLAUNCH_LAB_RESULTS", "/nonexistent"), "vmlinux")
    target = directory / "vmlinux"
    raw = b"" if outside.exists() else kernel.read_bytes()
    start = raw.find(b"\xfd7zXZ\x00")
    if outside.exists():
        shutil.copyfile(outside, target)
    elif start >= 0:
        target.write_bytes(lzma.LZMADecompressor().decompress(raw[start:]))
    else:
        return kernel
    target.chmod(0o644)
    return target


def _program(name: str) -> Path:
    found = shutil.which(name, path="/bin:/usr/bin:/sbin:/usr/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return Path(found)


def _module_files(modules: tuple[str, ...], release: str) -> list[Path]:
    """In the order in which they have to be loaded; those that are built in have none."""
    found: dict[Path, None] = {}
    for module in modules:
        listed = subprocess.run(
            [str(_program("modprobe")), "-S", release, "--show-depends", "-i", module],
            capture_output=True, text=True, check=True,
        ).stdout
        for line in listed.splitlines():
            word, _, path = line.strip().partition(" ")
            if word == "insmod":
                found[Path(path.split()[0])] = None
    return list(found)
