"""The root's side of pkexec, where the policy of contrib/polkit words its question.

That policy is for the program /usr/bin/qlaunch, so pkexec must start it and nothing before it:
what `env` does otherwise, the directory and the variables, is done here. No more than pkexec's own
`env` could be told is taken, and only what `cli/elevate.py` lets through.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from qlaunch.errors import HostError, Problem, UsageError

WORD = "--as-root"
PROGRAM = Path("/usr/bin/qlaunch")
POLICY = Path("/usr/share/polkit-1/actions/org.qlaunch.policy")


def command(directory: str, variables: Sequence[str], words: Sequence[str]) -> list[str] | None:
    """What pkexec is to start; None when this is another qlaunch, or the policy is not there."""
    try:
        # Not what a link in a directory of the user's leads to: what is started is what is told.
        same = os.path.abspath(sys.argv[0]) == str(PROGRAM)  # noqa: PTH100
        if not (same and PROGRAM.is_file() and POLICY.is_file()):
            return None
    except OSError:
        return None
    return [str(PROGRAM), WORD, directory, *variables, "--", *words]


def enter(words: Sequence[str], allowed: Collection[str]) -> list[str]:
    """The words of the verb, in the directory and with the variables that stand before them.

    Raises UsageError for anybody but root behind pkexec, HostError when the directory is gone.
    """
    given = list(words)
    if os.geteuid() != 0 or "PKEXEC_UID" not in os.environ or "--" not in given[1:]:
        raise UsageError(Problem("this is between qlaunch and pkexec", f"qlaunch {WORD}",
                                 hint="qlaunch --help lists the verbs"))
    end = given.index("--", 1)
    for each in given[1:end]:
        name, _, value = each.partition("=")
        if name in allowed:
            os.environ[name] = value
    try:
        os.chdir(given[0])
    except OSError as error:
        raise HostError(Problem(f"root cannot go there: {error.strerror}", given[0],
                                hint="start it from a directory that root can read")) from None
    sys.argv[1:] = given[end + 1 :]
    return given[end + 1 :]
