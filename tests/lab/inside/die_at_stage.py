"""`die_at_stage.py STAGE run PROFILE …`: qlaunch, killed with -9 as it enters a stage."""

from __future__ import annotations

import os
import signal
import sys

from qlaunch.cli.main import main
from qlaunch.run import session, verdict

wanted = int(sys.argv[1])
enter = session.Session.stage
tell = verdict.tell_end


def stage(self: session.Session, number: int, text: str) -> None:
    """As it is, and then the end."""
    enter(self, number, text)
    if number == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


session.Session.stage = stage  # type: ignore[method-assign]
if wanted == 11:
    session.tell_end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
sys.exit(main(sys.argv[2:]))
