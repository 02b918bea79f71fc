"""What a launcher does with its memory as it begins to watch."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from qlaunch.run import live


class Knot:
    """What only the collector finds."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture
def started() -> Iterator[None]:
    """As `__main__` leaves it."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_a_rounds_garbage_is_collected_in_the_next(started: None) -> None:
    """Frozen once more, that of fifty rounds of a selftest was 4 MB."""
    live._collect_from_here()
    gone = weakref.ref(Knot())
    live._collect_from_here()
    gc.collect()
    assert gone() is None
