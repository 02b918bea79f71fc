"""What every host step has."""

from __future__ import annotations

from msgspec import Struct


class BaseStep(Struct, frozen=True, kw_only=True, tag_field="step"):
    """`why` is the profile key or rule that asked for the step."""

    why: str = ""
