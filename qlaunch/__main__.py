"""`python -m qlaunch` and the console script. Imports one verb's modules and no others."""

import gc
import sys

from qlaunch.cli.main import main as run_verb

__all__ = ["main"]


def main() -> int:
    """Run the verb of the command line.

    Most verbs live for 50 ms, and would spend 8 of them looking for garbage that is not there:
    while modules are imported, and again when the interpreter ends. What watches a guest turns the
    collector on again (run/live.py).
    """
    gc.disable()
    try:
        return run_verb()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
