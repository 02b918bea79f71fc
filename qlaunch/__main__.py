"""`python -m qlaunch` and the console script. Imports one verb's modules and no others."""

import sys

from qlaunch.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
