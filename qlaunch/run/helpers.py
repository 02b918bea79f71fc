"""What the helpers of a plan need before they run: directories, files and a socket to QEMU each.

Imported only for plans that have helpers. Nothing of it is undone: sockets and processes end with
those who hold them, and the directories hold what the machine keeps.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Plan, PlannedHelper
from qlaunch.run.account import as_account, give_over, group_of
from qlaunch.run.cleanup import HELPERS
from qlaunch.run.handover import Handover, open_file
from qlaunch.run.locks import make_directory, remedy
from qlaunch.run.story import QEMU_LOG
from qlaunch.vm.helpers import Helpers
from qlaunch.vm.sockets import connect_unix, listen_unix


@contextlib.contextmanager
def helped(
    plan: Plan, log: int, handover: Handover, say: Callable[[str], None]
) -> Iterator[Helpers]:
    """Start the plan's helpers and hand QEMU's ends of their sockets over; on leaving, all have
    ended. Leave it after QEMU's end: until then they are waited for. `log` is the fd of QEMU's log.

    Raises HostError when one could not be started.
    """
    notes = _open_notes(f"{plan.runtime_dir}/{HELPERS}")
    helpers = Helpers(f"{plan.state_dir}/{QEMU_LOG}", log, notes)
    try:
        _start(plan, helpers, handover)
        yield helpers
    except BaseException:
        handover.close()  # they end when nobody has the other ends of their sockets
        helpers.end(say, hurry=True)
        raise
    finally:
        helpers.end(say)
        os.close(notes)


def _open_notes(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise HostError(
            Problem("the helpers cannot be noted", where=path, found=error.strerror or str(error),
                    hint=remedy(error, path))
        ) from None


def _start(plan: Plan, helpers: Helpers, handover: Handover) -> None:
    for helper in plan.helpers:
        _make_directories(plan, helper)
        with contextlib.ExitStack() as stack:
            theirs, ours = _sockets(plan, helper)
            stack.callback(os.close, theirs)
            handover.keep(plan.fd("helper", helper.id), ours)
            fds = {helper.inner_fd: theirs}
            for number, path, writable in helper.files:
                with as_account(plan):
                    fds[number] = open_file(path, writable)
                stack.callback(os.close, fds[number])
            cpus = plan.pins.emulator if plan.pins else None
            helpers.start(helper, fds, plan.account, cpus, group_of(plan))


def _make_directories(plan: Plan, helper: PlannedHelper) -> None:
    """The account's own. Those of a machine of root's are made by root for it."""
    account = plan.account
    by_root = account is not None and plan.state_dir.startswith("/var/lib/qlaunch/")
    owner = (account.uid, account.gid) if account and by_root else None
    for path in helper.directories:
        with as_account(plan):
            if owner is not None:
                give_over(path, *owner)
            make_directory(path, 0o700, owner)


def _sockets(plan: Plan, helper: PlannedHelper) -> tuple[int, int]:
    """The helper's end and QEMU's. A listening one has its only connection already, and its name
    in the launcher's own directory is gone again."""
    if helper.socket == "pair":
        inner, outer = socket.socketpair()
        return inner.detach(), outer.detach()
    path = f"{plan.runtime_dir}/{helper.id}.sock"
    with (
        listen_unix(path, backlog=1) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected,
    ):
        try:
            connect_unix(connected, path)
            os.unlink(path)  # noqa: PTH108
        except OSError as error:
            raise HostError(
                Problem("a helper's socket could not be made", helper.key,
                        found=f"{path}: {error.strerror}", hint=remedy(error, path))
            ) from None
        return listening.detach(), connected.detach()
