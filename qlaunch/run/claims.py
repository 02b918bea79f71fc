"""Who has a device: one locked file a device, with its owner's name inside.

The lock says whether the owner lives; the text says who it is, or who left the device behind when
launcher and QEMU both died. A dead owner's journal is recovered before its device is taken. QEMU
has inherited the lock and could have let go of it: the machine that is named is looked at as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from msgspec import MsgspecError, Struct
from msgspec.structs import replace

from qlaunch.codec import from_json, to_json
from qlaunch.errors import HostError, Problem
from qlaunch.run.info import is_alive, is_supervised
from qlaunch.run.locks import make_directory, open_own, remedy, try_lock, write_locked
from qlaunch.values import parse_vm_name

CLAIMS = ".claims"
BY_HAND = "(by hand)"  # no machine can have this name


class Owner(Struct, frozen=True):
    """What a claim file says."""

    name: str  # a machine's, or BY_HAND: it becomes a path
    pid: int = 0
    started: float = 0.0  # time.time() of the claim


class Claim(Struct, frozen=True):
    """A claim that this process holds; `left_by` is the dead machine that had it before, and whose
    name the file keeps until `sign_claims`."""

    device: str
    fd: int
    path: str
    left_by: str | None = None


def take_claims(base: str, owner: Owner, devices: Iterable[str]) -> list[Claim]:
    """Claim all devices or none. Raises HostError naming the live owner of a taken one."""
    directory = f"{base}/{CLAIMS}"
    make_directory(directory)
    claims: list[Claim] = []
    try:
        for device in devices:
            claims.append(_take(directory, device, owner))
    except BaseException:
        drop_claims(claims)
        raise
    return claims


def _take(directory: str, device: str, owner: Owner) -> Claim:
    path = f"{directory}/{device}"
    fd = try_lock(path)
    if fd is None:
        raise _in_use(device, read_owner(path))
    before = _owner_of(os.pread(fd, 4096, 0))
    claim = Claim(device, fd, path, before.name if before else None)
    try:
        if before is None or before.name == owner.name:
            return _sign(claim, owner)
        runtime = f"{os.path.dirname(directory)}/{before.name}"  # noqa: PTH120
        if is_supervised(runtime) or is_alive(runtime):
            raise _in_use(device, before)
    except BaseException:
        drop_claims([claim])
        raise
    return claim


def _in_use(device: str, owner: Owner | None) -> HostError:
    if owner is not None and owner.name == BY_HAND:
        return HostError(Problem(f"{device} is being changed by hand", where=device,
                                 hint="bind, unbind or rom is at it: again in a moment"))
    return HostError(
        Problem(
            f"{device} is in use by the machine {owner.name if owner else '?'}", where=device,
            hint=f"qlaunch stop '{owner.name}'" if owner else "qlaunch ps",
        )
    )


def sign_claims(claims: Iterable[Claim], owner: Owner) -> list[Claim]:
    """Write the new owner's name, now that nothing of a dead one's is left to be recovered."""
    return [claim if claim.left_by is None else _sign(claim, owner) for claim in claims]


def _sign(claim: Claim, owner: Owner) -> Claim:
    try:
        write_locked(claim.fd, claim.path, to_json(owner))
    except OSError as error:
        raise HostError(
            Problem(f"the claim cannot be written: {error.strerror}", where=claim.path,
                    hint=remedy(error, claim.path))
        ) from None
    return replace(claim, left_by=None)


def read_owner(path: str) -> Owner | None:
    """The owner a claim file names, if it can be read."""
    try:
        with os.fdopen(open_own(path), "rb") as file:
            return _owner_of(file.read(4096))
    except OSError:
        return None


def _owner_of(raw: bytes) -> Owner | None:
    """None for a name that no machine can have: recovery would look elsewhere for its journal."""
    try:
        owner = from_json(raw, Owner)
        if owner.name != BY_HAND:
            parse_vm_name(owner.name)
    except (MsgspecError, ValueError, RecursionError):
        return None
    return owner


def drop_claims(claims: Iterable[Claim], *, keep_files: bool = False) -> None:
    """Give claims up: the files go while they are still locked.

    With `keep_files`, and when a dead owner's name is still in them, they stay: that owner's
    journal has to be recovered first.
    """
    for claim in claims:
        if not keep_files and claim.left_by is None:
            with contextlib.suppress(OSError):
                os.unlink(claim.path)  # noqa: PTH108
        os.close(claim.fd)
