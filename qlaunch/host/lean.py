"""A package of which only a part is imported.

pyroute2's `__init__` imports everything that it has, a database and two dozen protocols among it:
a third of the time that the part for links takes. Here it is run when somebody asks the package
for a name that only it can give, and not before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def prepare(name: str) -> None:
    """Let `import NAME.part` import that part, and `__init__` wait until it is called for.

    Nothing changes for a package that is imported already, or that is not there.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def missing(attribute: str) -> Any:
        """A module of the package, else whatever `__init__` has under that name (PEP 562)."""
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if find_spec(f"{name}.{attribute}") is not None:
            return import_module(f"{name}.{attribute}")
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = missing
    sys.modules[name] = package
