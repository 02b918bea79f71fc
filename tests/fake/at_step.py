"""`at_step.py STEP MOMENT run PROFILE …`: qlaunch, with a fault at one of its host steps.

For the real kernel in the lab what `faults.py` is for the fake one; the moments are the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qlaunch.host.handlers
from qlaunch.cli.main import main
from qlaunch.host.sysfs import Kernel
from qlaunch.run import session
from tests.fake.faults import Events, Fault, Faulty

hooks: Any = SimpleNamespace(after_write=None, root=Path(os.environ["QLAUNCH_FAULT_DIR"]))
(hooks.root / ".model").mkdir(exist_ok=True)


class Watched(Kernel):
    """The real door, with something that happens after a write."""

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        if hooks.after_write is not None:
            hooks.after_write(str(path), data.decode())


room: Any = session
make = room.Host
fault: Any = Fault(sys.argv[2], int(sys.argv[1]))  # type: ignore[arg-type]
events = Events(hooks, os.getpid())
handlers: Any = {
    kind: Faulty(handler, fault, events)
    for kind, handler in qlaunch.host.handlers.HANDLERS.items()
}
qlaunch.host.handlers.HANDLERS = handlers
room.Host = lambda **settings: make(door=Watched(), **settings)
sys.exit(main(sys.argv[3:]))
