"""What a profile may say that is not root's own, when pkexec or a set-user-ID program has made us
root: no command, and nothing to QEMU but what its keys make of it.

Through sudo it may: sudo makes root of whom root has named, for what root has named, where these
ask for a password or for nothing. Hooks and QEMU are the asking user's there, and run as that user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.profile.trust import asking_user, check_trust


def is_let_in(environ: Mapping[str, str] | None = None) -> bool:
    """Whether it is pkexec or a set-user-ID program that has made us root for another user."""
    if environ is None and os.geteuid() == 0 != os.getuid():
        return True
    env = os.environ if environ is None else environ
    return asking_user({"PKEXEC_UID": env.get("PKEXEC_UID", "")}) is not None


def is_roots(paths: Iterable[str]) -> bool:
    """Whether root alone could have written each of these files."""
    try:
        return all(check_trust(path, os.stat(path), None).root_only for path in paths)  # noqa: PTH116
    except OSError:
        return False


def not_let_in(profile: Profile) -> Iterator[Finding]:
    """What of a profile that is not root's own is refused then."""
    hooks, qemu = profile.hooks, profile.qemu
    own = "/" in qemu.binary and not is_roots([qemu.binary])
    problem = Problem(
        "through pkexec, only a profile of root's own may say what is run",
        hint="qlaunch run in a terminal, where sudo asks; or a profile that is root's, in "
        "/etc/qlaunch",
    )
    for path, said in (
        (("hooks", "before"), hooks.before), (("hooks", "after"), hooks.after),
        (("qemu", "args"), qemu.args), (("qemu", "binary"), own),
    ):
        if said:
            yield Finding(path, problem)
