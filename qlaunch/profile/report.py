"""All that is wrong with a tree that could not be read: its faults, then its contradictions.

The rules of check.py need a whole profile. So the faulty keys are left out, the rest is read, and
what the rules say of it is told as well, except where a faulty key had its part in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from qlaunch.errors import Problem
from qlaunch.profile.check import check_profile
from qlaunch.profile.faults import MAX_FAULTS, find_faults
from qlaunch.profile.keys import KeyPath
from qlaunch.profile.places import Finding
from qlaunch.profile.tables import build, whole

_ROUNDS = 8  # leaving out a required key makes its table faulty in turn


def all_findings(
    tree: dict[str, Any], known: Sequence[Finding], refused: msgspec.ValidationError | None
) -> list[Finding]:
    """Every fault and contradiction; `known` are those found before the tree was complete."""
    told = {finding.path for finding in known}
    found = [*known, *(f for f in find_faults(tree, whole()) if f.path not in told)]
    if not found and refused is not None:
        found = [_fallback(refused)]
    if len(found) > MAX_FAULTS:
        rest = Problem(f"more than {MAX_FAULTS} faults; these are the first",
                       hint="correct them, and the rest is told")
        return [*found[:MAX_FAULTS], Finding((), rest)]
    return found + _contradictions(tree, [finding.path for finding in found])


def _contradictions(tree: dict[str, Any], faulty: list[KeyPath]) -> list[Finding]:
    for _ in range(_ROUNDS):
        more = [finding.path for finding in find_faults(tree, whole())]
        if not more:
            break
        for path in more:
            tree = _without(tree, path)
        faulty = [*faulty, *more]
    tree = {"name": "x", **tree}
    try:
        profile = build(tree)
    except msgspec.ValidationError:
        return []
    return [
        finding
        for finding in check_profile(profile)[:MAX_FAULTS]
        if not any(_touch(path, at) for path in (finding.path, *finding.also) for at in faulty)
    ]


def _touch(one: KeyPath, other: KeyPath) -> bool:
    """Whether one key holds the other, or is it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _without(tree: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """The tree without a key; for a list's entry, without the list, because the other entries
    would change their numbers. The tree itself is still needed to find places."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    rest: dict[str, Any] = _cut(tree, path) if path else tree
    return rest


def _cut(node: Any, path: KeyPath) -> Any:
    first, *rest = path
    if isinstance(node, dict) and isinstance(first, str) and first in node:
        if not rest:
            return {key: value for key, value in node.items() if key != first}
        return {**node, first: _cut(node[first], tuple(rest))}
    if isinstance(node, list) and isinstance(first, int) and first < len(node):
        return [*node[:first], _cut(node[first], tuple(rest)), *node[first + 1 :]]
    return node


def _fallback(refused: msgspec.ValidationError) -> Finding:
    """A refusal that the walk has no words for: at least its place."""
    parts = re.findall(r"\.([A-Za-z0-9_]+)|\[(\d+)\]", str(refused).partition(" - at ")[2])
    path: KeyPath = tuple(int(index) if index else key for key, index in parts)
    return Finding(path, Problem("this value cannot be used here",
                                 hint="man qlaunch.toml, or qlaunch schema, tells what can"))
