"""`impatient.py SECONDS recover …`: qlaunch, which waits no longer than that for the kernel.

It waits a minute and more as a rule, because a reset may take as long; a test that knows that a
write never returns need not.
"""

from __future__ import annotations

import sys
from typing import Any

from qlaunch import children
from qlaunch.cli.main import main

most = float(sys.argv[1])
wait = children.guarded


def guarded(*arguments: Any, deadline: float = most, **more: Any) -> str:
    """As it is, with the smaller deadline."""
    return wait(*arguments, deadline=min(deadline, most), **more)


children.guarded = guarded
sys.exit(main(sys.argv[2:]))
