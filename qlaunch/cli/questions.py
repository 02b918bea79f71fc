"""The questions of `qlaunch new` at a terminal, each with what is proposed; or the flags alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qlaunch.advise import answers as rules
from qlaunch.cli.text import nearest
from qlaunch.errors import Problem, UsageError
from qlaunch.facts.model import HostFacts


class Question(NamedTuple):
    """One of the six: `propose` and `parse` may look at what was answered before."""

    key: str
    text: str
    propose: Callable[[HostFacts, dict[str, Any]], str]
    parse: Callable[[str, HostFacts], Any]
    choices: Callable[[HostFacts], list[str]] = lambda _facts: []


QUESTIONS = (
    Question("guest", "What will run in it?", lambda facts, _a: rules.propose_guest(facts),
             lambda text, _f: rules.parse_guest(text),
             lambda _f: [f"{era:10} {words}" for era, words in rules.GUESTS.items()]),
    Question("card", "Which graphics card is handed to it?",
             lambda facts, _a: rules.propose_card(facts), rules.parse_card,
             lambda facts: [*_cards(facts), "none     an emulated one, in a window"]),
    Question("cpus", "How many CPUs?", lambda _f, _a: "auto", rules.parse_cpus),
    Question("memory", "How much memory?", lambda facts, _a: str(rules.propose_memory(facts)),
             rules.parse_memory),
    Question("disk", "Its disk: a size for a new image, an image, or a device?",
             lambda _f, given: rules.propose_disk(given["guest"]),
             lambda text, _f: rules.parse_disk(text)),
    Question("network", "Which network?",
             lambda facts, given: rules.propose_network(facts, root=given["card"] is not None),
             lambda text, _f: rules.parse_network(text),
             lambda facts: [*(f"bridge:{x.name}" for x in facts.links or ()
                              if x.kind == "bridge" and x.name != "docker0"),
                            "nat      a network of its own behind the host (root)",
                            "user     behind the host, slower", "none"]),
)  # fmt: skip


def _cards(facts: HostFacts) -> list[str]:
    from textwrap import indent, wrap

    lines = []
    for choice in rules.cards(facts):
        why = f"cannot be had: {choice.obstacle}" if choice.obstacle else ""
        why = indent("\n".join(wrap(why, 67, break_on_hyphens=False)), " " * 11)
        lines.append(f"{choice.text}\n{why}".rstrip())
    return lines


def all_answers(args: argparse.Namespace, facts: HostFacts) -> rules.Answers:
    """From flags, proposals (--yes) and the terminal. Raises UsageError."""
    missing = [q.key for q in QUESTIONS if getattr(args, q.key) is None]
    if missing and not args.yes and not sys.stdin.isatty():
        flags = " ".join(f"--{key}" for key in missing)
        raise UsageError(Problem(
            "there is no terminal to ask at", "qlaunch new", found=f"not said: {flags}",
            hint="--yes takes what is proposed, or say them",
        ))
    given: dict[str, Any] = {}
    for question in QUESTIONS:
        proposed = question.propose(facts, given)
        text = getattr(args, question.key)
        if text is None and not args.yes:
            given[question.key] = _ask(question, facts, proposed, recorded=bool(args.facts))
            continue
        try:
            given[question.key] = question.parse(proposed if text is None else text, facts)
        except ValueError as error:
            raise UsageError(_wrong(question, text or proposed, str(error))) from None
    return rules.Answers(**given)


def _wrong(question: Question, text: str, allowed: str) -> Problem:
    near = nearest(text, allowed.split(", "))
    hints = {"card": "qlaunch devices --cards", "network": "ip -br link lists bridges"}
    return Problem(
        "this is no answer", f"--{question.key}", found=text, allowed=allowed,
        hint=f"did you mean {near}?" if near else hints.get(question.key, "qlaunch new --help"),
    )


def _ask(question: Question, facts: HostFacts, proposed: str, *, recorded: bool) -> Any:
    """Until the answer is one. Raises UsageError at the end of the input."""
    lines = [question.text, *(f"  {choice}" for choice in question.choices(facts))]
    sys.stderr.write("\n".join(lines) + "\n")
    while True:
        sys.stderr.write(f"{question.key} [{proposed}]: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            sys.stderr.write("\n")
            raise UsageError(Problem("the questions were not answered; nothing was written",
                                     "qlaunch new", hint="--yes takes what is proposed"))
        try:
            answer = question.parse(line.strip() or proposed, facts)
            if why := rules.against(question.key, answer, facts):
                raise ValueError(why)
            if question.key == "disk" and isinstance(answer, str) and not recorded:
                _look_for(answer)
            return answer
        except ValueError as error:
            sys.stderr.write(f"  that cannot be: {error}\n")


def _look_for(disk: str) -> None:
    """Raises ValueError where there is none; what cannot be looked at is the plan's to tell."""
    try:
        path = Path(disk).expanduser()
        found = path.is_file() or path.is_block_device()
    except (OSError, RuntimeError):
        return
    if not found:
        raise ValueError("a size like 64G for a new one, or an image or device that is there")
