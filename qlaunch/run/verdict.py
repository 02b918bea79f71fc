"""Stage 11: what is told at the end of a run, and the exit code."""

from __future__ import annotations

from signal import SIGKILL
from typing import TYPE_CHECKING, NoReturn

from qlaunch.errors import (
    EXIT_FAILED,
    EXIT_OK,
    KERNEL_LOG,
    HostError,
    NotRestoredError,
    Problem,
    QlaunchError,
)
from qlaunch.run.engine import Outcome
from qlaunch.run.locks import remedy
from qlaunch.run.story import Story

if TYPE_CHECKING:
    from qlaunch.vm.watch import End


RUNGS = {"powerdown": "its power button", "quit": "quit", "term": "SIGTERM", "kill": "SIGKILL"}


def tell_end(
    name: str, end: End | None, failure: BaseException | None, outcome: Outcome, story: Story
) -> int:
    """Tell what came back and how the machine ended; the exit code.

    Raises NotRestoredError when something is left, else the failure as a QlaunchError.
    """
    for sentence in outcome.sentences:
        story.say(sentence)
    left = [*outcome.problems]
    if end is not None and end.reason == "stuck":
        left.append(Problem("QEMU could not be ended; its devices stay with it", name,
                            found=end.detail, hint=KERNEL_LOG))
    if left:
        _not_restored(name, left, failure, story)
    if failure is not None:
        _failed(name, failure, story)
    if end is None or end.reason in ("died", "panic"):
        story.note("[11] ended badly")
        if end is not None:
            story.say(f"{name}: ended badly ({why(end)}), all given back")
            if end.exit.signal == SIGKILL and not end.detail:
                story.say("hint: the kernel kills what it has no memory for, and says so: dmesg")
        return EXIT_FAILED
    story.note("[11] done")
    story.say(f"{name}: ended ({why(end)}), all given back")
    return EXIT_OK


def _not_restored(
    name: str, left: list[Problem], failure: BaseException | None, story: Story
) -> NoReturn:
    problems = [p.of(name) for p in failure.problems] if isinstance(failure, QlaunchError) else []
    problems += [problem for problem in left if problem not in problems]
    problems.append(
        Problem("the host is not as it was", where=name,
                hint=f"qlaunch recover '{name}'")
    )
    for problem in problems:
        story.note(str(problem))
    raise NotRestoredError(problems) from failure


def _failed(name: str, failure: BaseException, story: Story) -> NoReturn:
    if isinstance(failure, QlaunchError):
        failure.of(name)
    story.note(f"[11] failed: {failure}")
    if isinstance(failure, KeyboardInterrupt):
        raise HostError(Problem("interrupted; the host is as it was")) from None
    if isinstance(failure, OSError) and not isinstance(failure, QlaunchError):
        raise HostError(
            Problem(f"the run could not go on: {failure.strerror or failure}",
                    where=str(failure.filename or ""),
                    hint=remedy(failure, failure.filename) if failure.filename
                    else f"qlaunch logs '{name}' tells how far it came")
        ) from failure
    raise failure


def why(end: End) -> str:
    """How it ended, in a few words."""
    if end.reason == "guest":
        return "the guest powered off"
    if end.reason == "stopped":
        return f"stopped by {RUNGS[end.rungs[-1]]}" if end.rungs else "stopped"
    if end.reason == "gone":
        return "how, nobody saw"
    if end.reason == "died":
        return f"QEMU died: {end.exit}" + (f", {end.detail}" if end.detail else "")
    return f"QEMU was told to: {end.detail}" if end.detail else end.reason
