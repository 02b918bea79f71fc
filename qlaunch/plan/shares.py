"""Shared directories: a virtiofsd for each of type virtiofs; 9p is QEMU's own.

There are two virtiofsd. The one in C came with QEMU up to 7.2 and wants to be root, which it is in
a user namespace of its own (unshare); guests' users but root cannot make files through it, because
one host account can be mapped to one id only. The one in Rust makes that namespace by itself, and
lets root and the user of the account's own number make files. Sources: tools/virtiofsd of QEMU 7.2
(passthrough_ll.c), README.md of virtiofsd 1.13.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from qlaunch.facts.model import HostFile
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PlannedHelper
from qlaunch.profile.shares import Share

DEVICES = {"virtiofs": "vhost-user-fs-pci", "9p": "virtio-9p-pci"}
SOCKET = 3  # virtiofsd's listening socket
_PACKAGE = "virtiofsd (Debian 13, Fedora, Arch) or qemu-system-common (Debian 12)"


def share_id(index: int) -> str:
    """The id of a share's device, and of its helper."""
    return f"share{index}"


def plan_shares(draft: Draft) -> None:
    """Places, daemons, and whether the directories may be used."""
    for index, share in enumerate(draft.profile.share):
        key = f"share[{index}]"
        _check_directory(draft, draft.facts.file(share.path), share, f"{key}.path")
        draft.place("share", share_id(index), key, index=index, addr=share.addr)
        draft.need(DEVICES[share.type], f"{key}.type")
        if share.type == "virtiofs":
            draft.share_memory = draft.share_memory or key
            _plan_virtiofsd(draft, share, index, key)


def _check_directory(draft: Draft, file: HostFile | None, share: Share, where: str) -> None:
    """Whoever serves it runs as QEMU's account, so that a profile exports no more than that."""
    if file is None:
        return
    who = "you" if draft.account is None else f"{draft.account.name}, who QEMU runs as,"
    look = f"namei -l '{file.path}' shows what is in the way"
    if file.kind == "missing":
        draft.problem("no such directory", where, found=file.path, hint=f"mkdir -p '{file.path}'")
    elif file.kind not in ("denied", "directory"):
        draft.problem("this is no directory", where, found=file.path,
                      hint="name the directory that the guest shall see")
    elif not file.readable:
        draft.problem(f"{who} may not read this directory", where, found=file.path, hint=look)
    elif not (file.writable or share.read_only):
        draft.problem(
            f"{who} may not write to this directory, and the guest can do no more", where,
            found=file.path, hint="read_only = true tells the guest", severity="warning",
        )


def _plan_virtiofsd(draft: Draft, share: Share, index: int, key: str) -> None:
    virtiofsd = draft.program("virtiofsd", key, _PACKAGE)
    dialect = _dialect(virtiofsd)
    argv = _in_c(draft, virtiofsd, share, key) if dialect == "c" else _in_rust(virtiofsd, share)
    draft.helper(
        PlannedHelper(
            id=share_id(index), name="virtiofsd", key=key, argv=argv, inner_fd=SOCKET,
            groups=dialect != "c", socket="listen", why=key,
        )
    )


def _dialect(path: str) -> Literal["c", "rust"]:
    """QEMU's own one was in QEMU's directory; a link of that name to /usr/libexec is Debian 13's,
    where `facts.programs` has the other."""
    return "c" if PurePath(path).parent == PurePath("/usr/lib/qemu") else "rust"


def _in_rust(virtiofsd: str, share: Share) -> tuple[str, ...]:
    cache = "never" if share.cache == "none" else share.cache or "auto"
    return (
        virtiofsd, f"--fd={SOCKET}", f"--shared-dir={share.path}", f"--cache={cache}",
        f"--sandbox={share.sandbox}", "--announce-submounts", "--rlimit-nofile=0",
        *(("--xattr",) if share.xattr else ()), *(("--readonly",) if share.read_only else ()),
    )


def _in_c(draft: Draft, virtiofsd: str, share: Share, key: str) -> tuple[str, ...]:
    newer = "a virtiofsd of 1.0 or newer (Debian 13, Fedora, Arch)"
    if share.read_only:
        draft.problem("this virtiofsd cannot share a directory for reading only",
                      f"{key}.read_only", found=virtiofsd,
                      hint=f'use type = "9p", or {newer}')
    if share.sandbox == "none":
        draft.problem("this virtiofsd cannot do without its sandbox", f"{key}.sandbox",
                      found=virtiofsd, hint=f"drop the key, or use {newer}")
    root = draft.account is not None and draft.account.uid == 0
    unshare = () if root else (
        draft.program("unshare", key, "util-linux"), "--user", "--map-root-user",
    )
    if not root:
        _check_unprivileged(draft, virtiofsd, key, newer)
    path = share.path.replace("\\", "\\\\").replace(",", "\\,")
    options = [
        f"source={path}", f"cache={share.cache or 'auto'}", "announce_submounts",
        *(("xattr",) if share.xattr else ()),
    ]
    return (*unshare, virtiofsd, f"--fd={SOCKET}", "-o", ",".join(options), "--rlimit-nofile=0")


def _check_unprivileged(draft: Draft, virtiofsd: str, key: str, newer: str) -> None:
    """It insists on leaving its groups, which only root can let it do (setgroups is denied in the
    user namespace of an ordinary user: user_namespaces(7))."""
    invoker = draft.facts.invoker
    if draft.account is None and invoker is not None and invoker.groups:
        draft.problem(
            "this virtiofsd cannot be started by an ordinary user", key, found=virtiofsd,
            hint=f'use type = "9p", or {newer}, or as root: qlaunch run …',
        )
    draft.problem(
        "through this virtiofsd only the guest's root can make files", key,
        found=f"{virtiofsd}, run without root's rights",
        hint=f"{newer} lets the guest's user of your number, too", severity="note",
    )
