"""Parts that are loaded only for the machines that have them.

A family of devices (a TPM, shared folders, sound …) is a table of the profile, its rules, its plan
and its options. Each room lists its families with the tables that call for them, so that a
machine without a TPM does not pay for importing what knows about TPMs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeAlias

# (tables of the profile, or keys ("machine.pvpanic"), any of which calls for it; "module:function")
Family: TypeAlias = tuple[tuple[str, ...], str]


def load(target: str) -> Any:
    """What "module:name" names. Raises ImportError, AttributeError."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def called_for(families: tuple[Family, ...], profile: object) -> Iterator[Callable[..., Any]]:
    """The functions of the families whose tables the profile has, in the order of the list."""
    for tables, target in families:
        if any(attrgetter(table)(profile) for table in tables):
            yield load(target)
