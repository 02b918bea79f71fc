"""What stands at the paths a profile names, and whether QEMU's account may use it.

Rights are computed from owners, modes and POSIX access lists along the path, because it is not
always the account that looks: root plans for the user QEMU will run as.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from qlaunch.facts.blocks import BlockTable, block_name, is_claimed
from qlaunch.facts.imagelock import ImageLock, read_image_lock
from qlaunch.facts.images import Header, read_header
from qlaunch.facts.model import HostFile, Invoker
from qlaunch.facts.tree import base_of, real_path

Kind = Literal["missing", "file", "block", "char", "directory", "socket", "other", "denied"]
_KINDS: tuple[tuple[int, Kind], ...] = (
    (stat.S_IFREG, "file"), (stat.S_IFBLK, "block"), (stat.S_IFCHR, "char"),
    (stat.S_IFDIR, "directory"), (stat.S_IFSOCK, "socket"),
)  # fmt: skip
_BITS = {"r": 4, "w": 2, "x": 1}
# linux/posix_acl_xattr.h: a 4 byte version, then entries of tag (2), permissions (2), id (4)
_ACL_USER, _ACL_GROUP, _ACL_MASK = 0x02, 0x08, 0x10


def read_files(
    paths: Sequence[str], account: Invoker | None, root: Path = Path("/")
) -> tuple[HostFile, ...]:
    """One HostFile a path (absolute, as the profile names it), in order, each path once."""
    table: BlockTable | None = None
    found = []
    for path in dict.fromkeys(paths):
        name = block_name(root, path)
        if name is not None and table is None:
            table = BlockTable(root)
        found.append(_read_file(root, path, account, name, table))
    return tuple(found)


def can_access(
    path: str, uid: int, gid: int, groups: Collection[int], want: str, *, top: str = "/"
) -> bool:
    """Whether an account may do all of `want` ("r", "w", "x") with the file a path leads to.

    Every directory from `top` down must let it through. Root always may. A path that is missing,
    or that we cannot look at ourselves, counts as no.
    """
    if uid == 0:
        return True
    real = Path(real_path(path))
    above = [parent for parent in real.parents if parent.is_relative_to(real_path(top))]
    belongs = frozenset((gid, *groups))
    need = sum(_BITS[letter] for letter in want)
    return all(_allows(parent, uid, belongs, 1) for parent in above) and _allows(
        real, uid, belongs, need
    )


def _allows(path: Path, uid: int, groups: frozenset[int], need: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    mode = status.st_mode
    if uid == status.st_uid:
        return mode >> 6 & need == need
    acl = _access_list(path)
    if acl is not None:
        return _acl_allows(acl, status.st_gid, uid, groups, mode & 7, need)
    if status.st_gid in groups:
        return mode >> 3 & need == need
    return mode & need == need


def _access_list(path: Path) -> list[tuple[int, int, int]] | None:
    """(tag, permissions, id) entries; None without a list. logind gives seats' users theirs."""
    try:
        raw = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return None
    words = [int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw) - 1, 2)]
    return [
        (words[i], words[i + 1], words[i + 2] | words[i + 3] << 16)
        for i in range(2, len(words) - 3, 4)
    ]


def _acl_allows(
    acl: list[tuple[int, int, int]], owner: int, uid: int, groups: frozenset[int], other: int,
    need: int,
) -> bool:
    """The order of posix_acl_permission(): the user's entry, any group's, then others."""
    mask = next((bits for tag, bits, _ in acl if tag == _ACL_MASK), 7)
    for tag, bits, ident in acl:
        if tag == _ACL_USER and ident == uid:
            return bits & mask & need == need
    # ACL_GROUP_OBJ (0x04) is the owning group's entry
    mine = [
        bits for tag, bits, ident in acl
        if (tag == _ACL_GROUP and ident in groups) or (tag == 0x04 and owner in groups)
    ]
    return any(bits & mask & need == need for bits in mine) if mine else other & need == need


def _read_file(
    root: Path, path: str, account: Invoker | None, name: str | None, table: BlockTable | None
) -> HostFile:
    real = Path(real_path(f"{str(root).rstrip('/')}{path}"))
    try:
        status = real.stat()
    except PermissionError:
        return HostFile(path=path, kind="denied", readable=False, writable=False)
    except OSError:
        return _missing(root, path, real, account)
    kind: Kind = next((k for bits, k in _KINDS if stat.S_IFMT(status.st_mode) == bits), "other")
    size: int | None = status.st_size if kind == "file" else None
    mounted: tuple[str, ...] = ()
    in_use = device = ""
    if name is not None and table is not None:
        kind, size = "block", table.size(name)
        mounted, in_use = table.mounted(name), table.in_use(name)
        device = table.number_of(name)
        if not (mounted or in_use or base_of(root)) and is_claimed(str(real)):
            in_use = "claimed by the kernel (mounted in another namespace, or held by a driver)"
    related = table.related(name) if name is not None and table is not None else ()
    lock = _lock(str(real), [f"{base_of(root)}/dev/{n}" for n in related], kind)
    readable = _may(real, account, "r", root)
    header = read_header(str(real)) if _may_look(kind, readable, account) else Header("")
    return HostFile(
        path=path, kind=kind, size=size, readable=readable,
        writable=_may(real, account, "w", root) and not _read_only(real, kind),
        mounted=mounted, written=bool(mounted and name and table and table.written(name)),
        in_use=in_use, lock=lock.use, locked_by=lock.by,
        format=header.format, capacity=header.capacity, device=device,
        uid=status.st_uid, gid=status.st_gid, mode=stat.S_IMODE(status.st_mode),
    )


def _missing(root: Path, path: str, real: Path, account: Invoker | None) -> HostFile:
    """Of a missing file, `writable` is whether the account could make it."""
    near = next((p for p in real.parents if p.is_dir()), Path("/"))
    try:
        free: int | None = (found := os.statvfs(near)).f_bavail * found.f_frsize
    except OSError:
        free = None
    shown = "" if near == real.parent else str(near).removeprefix(base_of(root)) or "/"
    return HostFile(
        path=path, kind="missing", readable=False, near=shown, free=free,
        writable=not shown and _may(near, account, "wx", root)
        and not _read_only(near, "directory"),
    )


def _lock(path: str, related: Sequence[str], kind: Kind) -> ImageLock:
    """A block device is also taken by who has its partitions, or the drive that it is part of."""
    if kind not in ("file", "block"):
        return ImageLock()
    locks = (read_image_lock(p) for p in (path, *related))
    return next((lock for lock in locks if lock.use), ImageLock())


def _may_look(kind: Kind, readable: bool, account: Invoker | None) -> bool:
    """Root reads no header for a user of what that user may not read; block devices it hands out,
    and its own machine's files are its own."""
    own = account is not None and account.asked != account.uid
    return kind == "block" or (kind == "file" and (readable or own))


def _may(path: Path, account: Invoker | None, want: str, root: Path) -> bool:
    if account is None:
        return os.access(path, sum(_BITS[letter] for letter in want))
    return can_access(str(path), account.uid, account.gid, account.groups, want, top=str(root))


def _read_only(path: Path, kind: Kind) -> bool:
    """A file on a read-only mount; device nodes are writable there all the same."""
    if kind not in ("file", "directory"):
        return False
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
