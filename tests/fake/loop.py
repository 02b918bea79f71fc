"""Run a coroutine as a test, and fail when it leaves a task or an uncollected exception behind."""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

from qlaunch.vm.loop import asyncio

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
    """asyncio.run() with a limit, that raises for what asyncio would only have complained of."""
    noise: list[dict[str, Any]] = []
    left: list[asyncio.Task[Any]] = []

    async def guarded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
        result = await asyncio.wait_for(main, limit)
        left.extend(asyncio.all_tasks() - {asyncio.current_task()})
        gc.collect()
        return result

    result = asyncio.run(guarded())
    gc.collect()
    assert not left, f"tasks left behind: {left}"
    assert not noise, f"asyncio complained: {noise}"
    return result
