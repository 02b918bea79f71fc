"""The base of every profile table, and the field types shared by them.

A key is one annotated field: its type checks it, its default makes it optional, its description
goes to the JSON Schema and the manual. Nothing else has to be edited to add one.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

__all__ = ["Annotated", "Argv", "Count", "Meta", "Table"]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table. Unknown keys are faults.

    Tables repeat `frozen=True` for the type checker, which does not see it inherited. A pattern
    comes with `extra={"form": …}`, its words in messages.
    """


Count: TypeAlias = Annotated[int, Meta(ge=1, le=1024)]
Argv: TypeAlias = tuple[str, ...]
