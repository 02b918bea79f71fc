"""`bind` and `unbind`: one step by hand, journalled like a run's, so that it can be taken back.

Each device bound by hand has a directory of its own in .bound, beside the machines'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qlaunch.errors import HostError, NotRestoredError, Problem, UsageError
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.host.device import read_driver
from qlaunch.host.handler import Host, telling
from qlaunch.host.handlers import HANDLERS
from qlaunch.host.release import release
from qlaunch.plan.steps import TakeDevice
from qlaunch.plan.takeover import load_driver
from qlaunch.run.claims import BY_HAND, Owner, drop_claims, sign_claims, take_claims
from qlaunch.run.engine import Engine
from qlaunch.run.journal import (
    FILE_NAME,
    create_journal,
    make_header,
    open_journal,
    read_boot_id,
    read_journal,
)
from qlaunch.run.locks import HostLock, make_directory
from qlaunch.values import PciAddress

BOUND = ".bound"
Say = Callable[[str], None]


@contextmanager
def claimed(base: str, devices: Sequence[str], say: Say) -> Iterator[None]:
    """Host lock and claims: a running machine's device is refused."""
    make_directory(base, 0o711)
    owner = Owner(BY_HAND, os.getpid(), time.time())
    with HostLock(base, say):
        claims = take_claims(base, owner, devices)
        try:
            for claim in claims:
                if claim.left_by and os.path.lexists(Path(base, claim.left_by, FILE_NAME)):
                    raise HostError(
                        Problem(f"{claim.left_by} died with {claim.device}",
                                hint=f"qlaunch recover '{claim.left_by}'")
                    )
            claims = sign_claims(claims, owner)
            yield
        finally:
            drop_claims(claims)


def bind(base: str, devices: Sequence[PciDevice], say: Say) -> None:
    """Take each device to its VFIO driver. Raises HostError; those before it stay bound."""
    host = telling(say)
    with claimed(base, [d.address for d in devices], say):
        for device in devices:
            directory = Path(base, BOUND, device.address)
            if (directory / FILE_NAME).exists() and device.driver == device.vfio_driver:
                say(f"{device.address} is on {device.driver} already")
                continue
            make_directory(str(directory))
            (directory / FILE_NAME).unlink(missing_ok=True)
            journal = create_journal(directory, make_header(host, device.address))
            try:
                Engine(host, journal, HANDLERS).apply(
                    [
                        load_driver(device.vfio_driver, device.vfio_module),
                        TakeDevice(
                            address=device.address, id=device.id, subsystem=device.subsystem,
                            driver=device.vfio_driver, module=device.vfio_module,
                        ),
                    ]
                )
            except HostError:
                _forget(directory)
                raise
            finally:
                journal.close()
            say(f"{device.address} [{device.id}] is on {read_driver(host, device.address)}, was on "
                f"{device.driver or 'no driver'}")


def unbind(base: str, devices: Sequence[PciDevice], driver: str | None, say: Say) -> None:
    """Give each device back: to `driver`, to the one it had before `bind`, or to whichever the
    kernel finds. Raises HostError when that takes it not, NotRestoredError when one did not go
    back; those before it stay where they are then."""
    host = telling(say)
    with claimed(base, [d.address for d in devices], say):
        for device in devices:
            directory = Path(base, BOUND, device.address)
            if driver is None and _undo(host, directory, say):
                continue
            say(release(host, device.address, driver))
            _forget(directory)


def _undo(host: Host, directory: Path, say: Say) -> bool:
    """Undo a `bind` of ours, if there is one of this boot."""
    path = directory / FILE_NAME
    if not path.exists():
        return False
    contents = read_journal(path)
    if contents.is_stale(read_boot_id(host)):
        _forget(directory)
        return False
    if contents.lost:
        say(f"warning: {path} is damaged; the driver that it had is not known")
        _forget(directory)
        return False
    journal = open_journal(path)
    try:
        outcome = Engine.resume(host, journal, HANDLERS, contents.records).undo_all()
    finally:
        journal.close()
    for sentence in outcome.sentences:
        say(sentence)
    if outcome.left:
        raise NotRestoredError(outcome.problems)
    _forget(directory)
    return True


def _forget(directory: Path) -> None:
    (directory / FILE_NAME).unlink(missing_ok=True)
    if directory.is_dir():
        directory.rmdir()


def named_devices(facts: HostFacts, addresses: Sequence[PciAddress]) -> list[PciDevice]:
    """The devices at these addresses. Raises UsageError naming every one that is not there."""
    missing = [a for a in addresses if facts.device(a) is None]
    if missing:
        raise UsageError(
            [Problem("this host has no such PCI device", where=a, hint="qlaunch devices")
             for a in missing]
        )
    return [d for a in addresses if (d := facts.device(a)) is not None]
