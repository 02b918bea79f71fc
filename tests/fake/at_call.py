"""`at_call.py SIGNAL MODULE:NAME run PROFILE …`: qlaunch, signalling itself as it calls a function.

For the moments inside a stage, of which `at_stage.py` knows the beginnings only.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import reduce
from typing import Any

from qlaunch.cli.main import main

number = signal.Signals(int(sys.argv[1]))
module, _, path = sys.argv[2].partition(":")
*outer, name = path.split(".")
owner: Any = reduce(getattr, outer, importlib.import_module(module))
inner = getattr(owner, name)


def call(*arguments: Any, **named: Any) -> Any:
    """The signal, and then as it is."""
    os.kill(os.getpid(), number)
    return inner(*arguments, **named)


setattr(owner, name, call)
sys.exit(main(sys.argv[3:]))
