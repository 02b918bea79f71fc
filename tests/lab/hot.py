"""What a lab host reads again and again, packed into one file that it keeps in memory.

The host's root is a 9p mount without a cache: there every start of Python costs seconds and every
start of QEMU reads all of it anew. One large file comes over quickly.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

ARCHIVE = "hot.tar"
BINARIES = ("qemu-system-x86_64",)
DATA = ("/usr/share/qemu", "/usr/share/seabios")
HUGE = 20 << 20  # bytes: a compiled type checker
UNUSED = frozenset((
    "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "unittest/test",
    "mypy", "mypyc", "pip", "setuptools", "virtme", "ruff", "jsonschema", "rich",
))  # fmt: skip


def directories(checkout: Path) -> list[Path]:
    """Those that are packed, and mounted over, as a whole."""
    paths = sysconfig.get_paths()
    code = [Path(paths["stdlib"]), Path(paths["purelib"])]
    here = [checkout / name for name in ("qlaunch", "tests", "profiles")]
    return [path for path in (*code, *here, *map(Path, DATA)) if path.is_dir()]


def files() -> list[Path]:
    """Programs and the libraries they load."""
    which = ["/usr/bin/env", "sh", "-c", 'command -v "$1"', "sh"]
    found = {Path(sys.executable).resolve()}
    for name in BINARIES:
        done = subprocess.run([*which, name], capture_output=True, text=True, check=True)
        found.add(Path(done.stdout.strip()).resolve())
    for program in list(found):
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        words = done.stdout.replace("=>", " ").split()
        found |= {Path(word).resolve() for word in words if word.startswith("/")}
    return sorted(found)


def pack(checkout: Path, target: Path) -> None:
    """Write the archive, and beside it the list of what to mount over what."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    with tarfile.open(target, "w") as archive:
        for directory in directories(checkout):
            for path in _below(directory, stdlib):
                archive.add(path, recursive=False)
        for path in files():
            archive.add(path)
    listed = [*directories(checkout), *files()]
    target.with_suffix(".list").write_text("".join(f"{path}\n" for path in listed))


def _below(directory: Path, stdlib: Path) -> Iterator[Path]:
    yield directory
    is_code = directory == stdlib or "site-packages" in directory.parts
    for path in sorted(directory.iterdir()):
        if is_code and _is_unused(path, stdlib):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path, stdlib)
        else:
            yield path


def _is_unused(path: Path, stdlib: Path) -> bool:
    others = path.parent == stdlib and path.name in ("site-packages", "dist-packages")
    huge = path.is_file() and path.stat().st_size > HUGE
    return others or huge or path.name in UNUSED or path.name.startswith("config-")
