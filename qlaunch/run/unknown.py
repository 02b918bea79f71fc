"""What a journal cannot tell: only a person can say then that the host is as it was."""

from __future__ import annotations

from pathlib import Path

from qlaunch.errors import HostError, NotRestoredError, Problem
from qlaunch.run.journal import Contents, Journal, open_journal, read_journal

ONCE_READ = (
    "once this is read: {way} '{path}'; then qlaunch devices shows the driver of each device, and "
    "qlaunch unbind ADDRESS gives one back"
)


def opened_journal(path: Path) -> tuple[Contents, Journal]:
    """Raises NotRestoredError for a journal that cannot be opened, or could be somebody else's:
    what the run did to the host is not known, and nothing is undone."""
    try:
        return read_journal(path), open_journal(path)
    except HostError as error:
        told = [
            problem._replace(
                message=f"{problem.message}, so what this run did to the host is not known; "
                "nothing is undone",
                hint=f"ls -ld '{path}' shows it; {ONCE_READ.format(way='rm -r', path=path)}",
            )
            for problem in error.problems
        ]
        raise NotRestoredError(told) from None


def what_is_lost(path: Path, contents: Contents) -> list[Problem]:
    """What the run did to the host and nobody can know: only a person can say that it is over."""
    if not contents.lost:
        return []
    return [
        Problem(
            "the journal is damaged, so what this run did to the host is not known for certain; "
            "the rest of it is undone", where=str(path), found="\n           ".join(contents.lost),
            hint=ONCE_READ.format(way="rm", path=path),
        )
    ]
