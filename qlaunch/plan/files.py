"""Whether a file of the host may be used, by whom it is opened, and whether it is what it is
called: for every family that names one."""

from __future__ import annotations

from typing import Literal

from qlaunch.facts.model import HostFile
from qlaunch.plan.draft import Draft


def protocol(path: str, file: HostFile | None) -> Literal["file", "host_device"]:
    """QEMU's file driver refuses block devices; a path below /dev is one when nobody looked."""
    if file is not None and file.kind != "missing":
        return "host_device" if file.kind == "block" else "file"
    return "host_device" if path.startswith("/dev/") else "file"


def handed_fd(draft: Draft, path: str, file: HostFile | None, writable: bool, *,
              direct: bool = False) -> int | None:
    """A fixed fd when root opens what QEMU's own account could not; `direct` as its cache mode."""
    if file is None or not opened_by_root(draft, file):
        return None
    if file.readable and (file.writable or not writable):
        return None
    device = file.device if file.kind == "block" else None
    return draft.fd("file", path, writable=writable, direct=direct, device=device)


def root_for_itself(draft: Draft) -> bool:
    """Root's own machine: its files are root's, whoever QEMU runs as."""
    invoker = draft.facts.invoker
    if draft.account is None or invoker is None:
        return False
    return invoker.asked != draft.account.uid


def opened_by_root(draft: Draft, file: HostFile) -> bool:
    """Root opens any file for a machine of its own, but for a user who asked only block devices:
    a path that a user wrote must not open root's files to them."""
    if draft.account is None or draft.facts.invoker is None:
        return False
    return file.kind == "block" or (root_for_itself(draft) and file.kind == "file")


def account_name(draft: Draft) -> str:
    """Whom messages about rights are about."""
    return "you" if draft.account is None else f"{draft.account.name}, who QEMU runs as,"


def check_file(
    draft: Draft, file: HostFile | None, where: str, read_only: bool, *, handed: bool = True,
    shared: bool = False,
) -> None:
    """A file that is missing, of the wrong kind, out of reach, or used by the host.

    With `handed` root opens it for QEMU's account; otherwise QEMU opens it by itself. With
    `shared` another QEMU may have it open too.
    """
    if file is None:
        return
    if file.kind == "missing":
        draft.problem("no such file", where, found=file.path, hint=_missing_hint(file.path))
    elif file.kind == "denied":
        draft.problem("the file cannot be reached by you", where, found=file.path,
                      hint=f"namei -l '{file.path}' shows what is in the way")
    elif file.kind not in ("file", "block"):
        drive = where.startswith(("disk", "cdrom"))
        draft.problem(
            f"this is a {kind_of(file)}, not a file" + " or block device" * drive, where,
            found=file.path,
            hint="name a disk image, a partition or a whole drive" if drive
            else "name the file itself",
        )
    elif file.kind == "block" and (file.in_use or (file.mounted and not read_only)):
        _in_use(draft, file, where, read_only)
    elif not shared and (file.lock == "writing" or (file.lock and not read_only)):
        _locked(draft, file, where)
    else:
        _check_rights(draft, file, where, read_only, handed and opened_by_root(draft, file))
        if file.written:
            _changing(draft, file, where)


def _missing_hint(path: str) -> str:
    if path.startswith("/dev/"):
        return "lsblk -o NAME,SIZE,MODEL,SERIAL; ls /dev/disk/by-id"
    if path.endswith((".qcow2", ".img", ".raw")):
        kind = "qcow2" if path.endswith(".qcow2") else "raw"
        return f"qemu-img create -f {kind} '{path}' 64G"
    return "is the path relative to the profile's own directory?"


def _in_use(draft: Draft, file: HostFile, where: str, read_only: bool) -> None:
    if file.mounted and not read_only:
        draft.problem(
            "the host has this block device mounted; two writers destroy a file system", where,
            found=f"{file.path} on {', '.join(file.mounted)}",
            hint="the host runs from it: name another disk" if "/" in file.mounted
            else f"umount {' '.join(file.mounted)}",
        )
    else:
        draft.problem("the host uses this block device", where,
                      found=f"{file.path}: {file.in_use}",
                      hint=f"lsblk '{file.path}' shows what is on it; take that out of use first")


def _changing(draft: Draft, file: HostFile, where: str) -> None:
    """No harm to the host; but the guest keeps in its memory what the host has changed since."""
    points = [point for point in file.mounted if point != "/"]
    draft.problem(
        "the host writes to a file system on this block device while the guest reads it: what the "
        "guest sees does not fit together", where, severity="warning",
        found=f"{file.path} on {', '.join(file.mounted)}",
        hint=f"umount {' '.join(points)}; or a snapshot of it (LVM), or a copy"
        if points == list(file.mounted) else "give the guest a snapshot of it (LVM), or a copy",
    )


def _check_rights(
    draft: Draft, file: HostFile, where: str, read_only: bool, by_root: bool
) -> None:
    if not by_root and not (file.readable and (read_only or file.writable)):
        need = "read" if read_only else "read and write"
        draft.problem(f"{account_name(draft)} may not {need} this file", where, found=file.path,
                      hint=f"namei -l '{file.path}' shows what is in the way")


def _locked(draft: Draft, file: HostFile, where: str) -> None:
    """QEMU itself would refuse it, but only after the host was changed."""
    shared = "; or, for both to read it: read_only = true" if file.lock == "reading" else ""
    draft.problem(
        "another QEMU has this disk open", where,
        found=f"{file.path}: {file.locked_by or 'by a process that is not yours'}",
        hint=f"shut that machine down first{shared}" if file.locked_by
        else f"sudo fuser -v '{file.path}' shows who{shared}",
    )


def kind_of(file: HostFile) -> str:
    """In words, for a message."""
    return {"char": "character device", "other": "pipe"}.get(file.kind, file.kind)


def check_output(draft: Draft, file: HostFile | None, where: str, *, by_root: bool) -> None:
    """A file that is made, or that is there and written to, `by_root` or as QEMU's account."""
    if file is None:
        return
    look = f"namei -l '{file.path}' shows what is in the way"
    if file.kind == "missing" and file.near:
        directory = file.path.rpartition("/")[0]
        draft.problem("there is no directory to make the file in", where,
                      found=f"{directory}; {file.near} is there", hint=f"mkdir -p '{directory}'")
    elif file.kind not in ("missing", "file", "char", "denied"):
        draft.problem(f"this is a {kind_of(file)}, not a file", where, found=file.path,
                      hint="name a file, which is made when there is none")
    elif file.kind == "denied" or not (file.writable or by_root):
        draft.problem(f"{account_name(draft)} may not write this file", where, found=file.path,
                      hint=look)


def check_format(draft: Draft, file: HostFile | None, where: str, wanted: str) -> None:
    """An image that is of another format than the profile says, by its own header."""
    if file is None or file.kind not in ("file", "block") or file.format in ("", wanted):
        return
    if wanted == "raw":
        draft.problem(
            f"this is a {file.format} image, and would be shown to the guest as it lies there",
            where, found=f'{file.path} begins as {file.format} does; format = "raw"',
            hint=f'set format = "{file.format}" if you made it so; if a guest wrote this at the '
            "start of its raw disk, believe it nothing",
        )
    else:
        draft.problem(
            f"this is no {wanted} image", where,
            found=f"{file.path} is {file.format}, by its header",
            hint=f'set format = "{file.format}"; qemu-img info \'{file.path}\'',
        )
