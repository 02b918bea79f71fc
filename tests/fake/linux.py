"""A small Linux guest: the packaged kernel, busybox, and a script of the test's as its init."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.boot import kernel, modules_of

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod $module; done
/bin/busybox --install -s /bin
export PATH=/bin
sh /script
poweroff -f
"""


def image() -> Path:
    """The kernel to start."""
    return kernel()


def initramfs(target: Path, script: str, modules: Sequence[str]) -> None:
    """Write one that loads `modules` with what they need, runs `script` and powers off."""
    tree = target.with_suffix(".tree")
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    names = []
    for number, module in enumerate(_in_order(modules)):
        names.append(f"/{number}-{module.name}")
        shutil.copy(module, tree / names[-1].lstrip("/"))
    (tree / "modules").write_text("\n".join(names) + "\n")
    (tree / "script").write_text(script)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    with target.open("wb") as file:
        listing = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
        subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet"], cwd=tree, input=listing.encode(),
            stdout=file, check=True,
        )
    shutil.rmtree(tree)


def _in_order(modules: Sequence[str]) -> list[Path]:
    """Files to insert, each once, after what it depends on; built-in ones are left out."""
    release = modules_of(image()).name
    found: dict[Path, None] = {}
    for module in modules:
        said = subprocess.run(
            ["/sbin/modprobe", "-S", release, "--show-depends", module], capture_output=True,
            text=True, check=True,
        ).stdout
        for line in said.splitlines():
            if line.startswith("insmod "):
                found.setdefault(Path(line.split()[1]))
    return list(found)
