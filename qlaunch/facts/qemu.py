"""What a QEMU binary can do, asked from itself once and cached.

One run without a machine (`-M none`) answers everything but displays and audio backends, for which
`-display help` and `-audiodev help` run beside it. The answers depend on the binary and on its
modules, so both are in the cache's key. The cache lies in $XDG_CACHE_HOME/qlaunch (root:
/var/cache/qlaunch), is believed only when nobody else could have written it, and is
never needed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from qlaunch.errors import HostError, Problem
from qlaunch.facts.model import Invoker, QemuBinary

SCHEMA = 5  # raise when what is asked, or QemuBinary, changes
_MODULES = ("/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib/qemu", "/usr/lib64/qemu")


class _Key(Struct, frozen=True):
    """Which binary an answer is about: equal keys, equal answers."""

    schema: int
    path: str  # resolved
    size: int
    mtime_ns: int
    modules_ns: tuple[int, ...]  # of the module directories: packages add displays and devices


class _Cached(Struct, frozen=True):
    key: _Key
    qemu: QemuBinary


def find_binary(name: str) -> str | None:
    """A name on PATH, or a path → an executable file's path; None when there is none."""
    directories = [""] if "/" in name else os.get_exec_path()
    for directory in directories:
        path = Path(directory, name)
        with suppress(OSError):  # is_file() raises for a directory that we may not enter
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return None


def read_qemu(
    name: str, *, account: Invoker | None = None, cache: Path | None = None
) -> QemuBinary | None:
    """The binary's abilities, from the cache or from itself; None when there is no such binary.

    As root it is run as `account`, because a profile may name any file. `cache` is the directory
    for answers (default: see the module). Raises HostError when the binary crashes, says
    something else than QMP, or takes a minute.
    """
    path = find_binary(name)
    if path is None:
        return None
    key = _key(path)
    directory = cache or cache_directory()
    file = directory / f"{key.path.strip('/').replace('/', '%')[-200:]}.json"
    cached = _read_cache(file, key)
    if cached is not None:
        return msgspec.structs.replace(cached, path=path)
    from qlaunch.facts.qemu_ask import ask

    found = ask(path, account)
    _write_cache(file, _Cached(key, found))
    return found


def cache_directory() -> Path:
    """/var/cache/qlaunch for root, whatever its environment says, else the XDG one."""
    if os.geteuid() == 0:
        return Path("/var/cache/qlaunch")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else Path("~/.cache").expanduser()) / "qlaunch"


def _key(path: str) -> _Key:
    try:
        real = Path(path).resolve()
        status = real.stat()
    except OSError as error:
        raise HostError(Problem(f"{path} cannot be read", found=str(error),
                                hint=f"namei -l '{path}' shows what is in the way")) from None
    modules = (*_MODULES, str(real.parent.parent / "lib/qemu"))
    return _Key(SCHEMA, str(real), status.st_size, status.st_mtime_ns, tuple(map(_mtime, modules)))


def _mtime(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def _read_cache(file: Path, key: _Key) -> QemuBinary | None:
    """None unless it is ours alone, of this shape, and about this binary."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as stream:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        try:
            cached = msgspec.json.decode(stream.read(), type=_Cached)
        except (msgspec.DecodeError, OSError, UnicodeDecodeError):
            return None
    return cached.qemu if cached.key == key else None


def _write_cache(file: Path, cached: _Cached) -> None:
    """Atomically; a cache that cannot be written is done without."""
    draft = file.with_name(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = file.parent.stat()
        if owner.st_uid != os.geteuid() or owner.st_mode & 0o022:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as stream:
            stream.write(msgspec.json.encode(cached))
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink()
