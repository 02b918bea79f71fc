"""TOML → Profile: the one place where profiles are read.

The happy path is one parse and one `msgspec.convert`. Anything wrong takes the slow path, which
tells every fault at once with file and line. This is the only file that imports tomli.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli

from qlaunch.errors import Problem, ProfileError
from qlaunch.profile.check import check_profile
from qlaunch.profile.files import OpenError, read_text, shown
from qlaunch.profile.find import find_profile
from qlaunch.profile.keys import KeyPath, parse_key
from qlaunch.profile.layers import (
    Collector,
    Layer,
    Override,
    Tree,
    apply_override,
    merge,
    parse_override,
    skeleton,
    skeleton_value,
)
from qlaunch.profile.letin import is_let_in, not_let_in
from qlaunch.profile.paths import PathRules, expand_path, expand_tree, home_directory
from qlaunch.profile.places import Finding, Places
from qlaunch.profile.profile import Profile
from qlaunch.profile.tables import build
from qlaunch.profile.trust import asking_user, check_trust
from qlaunch.values import parse_vm_name

__all__ = ["Loaded", "Source", "find_profile", "pack_profile", "read_profile"]

_BACKSLASH = ("a backslash starts an escape here", "write 'single quotes', where it does not")
_TWICE = "keep one of them; of what there may be several: [[disk]], a header each"
_A_LINE = "a line is key = value, [table] or # comment"
_TABLES = "[cpu] is a table, [[disk]] one of several"
_QUOTES = 'text is written in quotes, key = "text", and a comment begins with #'
_TOML_WORDS = (  # the start of tomli's message, our message and hint
    ("Cannot overwrite", "this key is said twice", _TWICE),
    ("Cannot declare", "this table is said twice", _TWICE),
    ("Cannot mutate", "this table was complete already", "say all of it in one place"),
    ("Cannot redefine", "this key is said twice", _TWICE),
    ("Invalid value", "this is not a TOML value", 'text is written in quotes: key = "text"'),
    ("Expected newline or end", "nothing may follow the value on its line", _QUOTES),
    ("Expected '=' after", 'expected "=" after a key', _A_LINE),
    ("Expected ']' at", 'expected "]" after the name of a table', _TABLES),
    ("Invalid initial", "this is not a key", _A_LINE),
    ("Invalid statement", "this is neither a table nor a key", _A_LINE),
    ("Illegal character '\\n'", "the closing quote is missing", _QUOTES),
    ("Unclosed array", 'the closing "]" of a list is missing', 'key = ["one", "two"]'),
    ("Unterminated string", "the closing quote is missing", _QUOTES),
    ("Unescaped '\\\\'", *_BACKSLASH),
    ("Invalid hex value", *_BACKSLASH),
    ("Escaped character", *_BACKSLASH),
)
_PLACE = r" \(at (?:line (\d+), column (\d+)|end of document)\)$"


class Source(msgspec.Struct, frozen=True):
    """A file that was read."""

    path: Path
    text: str


class Loaded:
    """A profile, the files it came from, and where each key was said.

    `trusted` is True only when root reads it and nobody but root could have written any of it;
    otherwise hooks and raw arguments are the asking user's, and run as that user; through pkexec
    there are none then.
    """

    def __init__(
        self,
        profile: Profile,
        sources: tuple[Source, ...],
        findings: Sequence[Finding],
        trusted: bool,
        places: Places,
    ) -> None:
        self.profile = profile
        self.sources = sources  # the profile itself, then what it extends
        self.trusted = trusted
        self._findings = findings
        self._places = places
        self.by = ""  # the option that has changed the keys in `derived`
        self.derived: tuple[KeyPath, ...] = ()

    def changed(self, profile: Profile, keys: tuple[KeyPath, ...], by: str, note: str) -> Loaded:
        """The same files, with a profile that an option on the command line made of theirs."""
        kept = [f for f in self._findings if f.path[:1] not in keys]
        problem = Problem(f"{by}: {note}", severity="note")
        other = Loaded(profile, self.sources, [*kept, Finding((), problem)], self.trusted,
                       self._places)
        other.by, other.derived = by, keys
        return other

    def replaced(self, profile: Profile) -> Loaded:
        """The same files, with a profile that was made of theirs for a purpose of our own."""
        return Loaded(profile, self.sources, [], self.trusted, self._places)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Warnings and notes of the profile's own rules, in file order."""
        return self._places.in_order(self._findings) if self._findings else ()

    def origin(self, keypath: str | KeyPath) -> str:
        """`win7.toml:12` for the most specific key known, `--set`, or "" for a default."""
        if isinstance(keypath, str):
            try:
                keypath = parse_key(keypath)
            except ValueError:
                return ""
        if any(keypath[: len(key)] == key for key in self.derived):
            return self.by
        return self._places.origin(keypath)


def read_profile(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    root_user: bool | None = None,
) -> Loaded:
    """The profile at a path, with `--set` texts laid over it. Nothing on the host is changed.

    Raises ProfileError with every fault, in file order, and UsageError for an override that
    cannot be understood. `root_user` (default: whether this is root) demands what trust.py says.
    """
    as_root = os.geteuid() == 0 if root_user is None else root_user
    sets = [parse_override(text, _read_value) for text in overrides]
    home = home_directory()

    def rules(directory: Path) -> PathRules:
        return PathRules(directory, home, os.environ)

    here = _working_directory()
    collector = _collector(here / path, as_root, rules)
    collector.collect(here / path)
    if collector.problems:
        raise ProfileError(collector.problems)
    layers = collector.layers
    faults = [
        (number, at, problem)
        for number, layer in enumerate(layers)
        for at, problem in expand_tree(layer.tree, Profile, rules(layer.directory))
    ]
    tree: Tree = {}
    for layer in layers:
        tree = merge(tree, layer.tree)
    places = Places(layers, sets)
    findings: list[Finding] = []
    for override in sets:
        tree = _override(tree, override, rules(here), findings)
    findings += _name(tree, layers[-1].path)
    findings += _live(faults, places)
    profile, told = _convert(tree, findings, places)
    trusted = as_root and all(layer.root_only for layer in layers)
    trusted = trusted and not (sets and asking_user() is not None)
    if as_root and not trusted and is_let_in() and (refused := list(not_let_in(profile))):
        raise ProfileError(places.in_order(refused))
    sources = tuple(Source(layer.path, layer.text) for layer in [layers[-1], *layers[:-1]])
    return Loaded(profile, sources, told, trusted, places)


def pack_profile(path: Path) -> bytes:
    """The profile and all that it extends as one file (sent.py). Raises ProfileError."""
    from qlaunch.profile.sent import pack

    def expand(text: str, layer: Layer) -> str:
        return expand_path(text, PathRules(layer.directory, home_directory(), os.environ))

    return pack(_working_directory() / path, lambda file: _load(file, False), expand)


def _collector(
    path: Path, as_root: bool, rules: Callable[[Path], PathRules]
) -> Collector:
    if path.suffix == ".sent":
        from qlaunch.profile.sent import Unpacked

        outer = _load(path, as_root, parse=False)
        sent = Unpacked(outer, _parse, _working_directory(),
                        lambda text, where: expand_path(text, rules(where)))
        return Collector(sent.load, sent.expand)
    return Collector(
        lambda file: _load(file, as_root),
        lambda text, layer: expand_path(text, rules(layer.directory)),
    )


def _convert(
    tree: Tree, findings: list[Finding], places: Places
) -> tuple[Profile, list[Finding]]:
    """The profile and what to warn of. Raises ProfileError with everything that is wrong."""
    refused: msgspec.ValidationError | None = None
    profile: Profile | None = None
    if not findings:
        try:
            profile = build(tree)
        except msgspec.ValidationError as error:
            refused = error
    if profile is None:
        from qlaunch.profile.report import all_findings

        raise ProfileError(places.in_order(all_findings(tree, findings, refused)))
    told = check_profile(profile)
    if any(finding.problem.severity == "error" for finding in told):
        raise ProfileError(places.in_order(told))
    return profile, told


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:
        return Path("/")  # ours has been removed; an absolute path still works


def _load(path: Path, as_root: bool, *, parse: bool = True) -> Layer:
    """Read and parse one file."""
    name = shown(path.name)
    file = read_text(path, name)
    text, status = file.text, file.status
    root_only = False
    if as_root:
        try:
            verdict = check_trust(str(path), status, asking_user())
        except OSError as error:
            raise OpenError(Problem(f"cannot be judged: {error}", where=shown(path))) from None
        if verdict.problems:
            raise ProfileError(verdict.problems)
        root_only = verdict.root_only
    tree = _parse(text, name) if parse else {}
    return Layer(path, text, tree, (status.st_dev, status.st_ino), root_only)


def _parse(text: str, name: str) -> Tree:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ProfileError(_toml_problem(error, text, name)) from None
    except RecursionError:
        message, hint = "lists or tables nest too deep", "no profile nests more than 4 deep"
    except ValueError:  # int() refuses more than 4300 digits
        message, hint = "a number with too many digits", "sizes have units: 8G"
    raise ProfileError(Problem(message, where=name, hint=hint)) from None


def _toml_problem(error: tomli.TOMLDecodeError, text: str, name: str) -> Problem:
    """tomli's message in this program's words, with place and line."""
    said = str(error)
    match = re.search(_PLACE, said)  # tomli before 2.2 has no lineno and colno
    line = getattr(error, "lineno", None) or int((match and match[1]) or text.count("\n") + 1)
    column = getattr(error, "colno", None) or int((match and match[2]) or 1)
    said = said[: match.start()] if match else said
    plain = said[:1].lower() + said[1:]
    words = [(ours, hint) for theirs, ours, hint in _TOML_WORDS if said.startswith(theirs)]
    message, hint = words[0] if words else (plain, "")
    rows = text.split("\n")
    at_end = match is not None and match[1] is None
    row = "" if at_end or line > len(rows) else shown(rows[line - 1].strip())
    found = row if len(row) <= 60 else row[:59] + "…"
    return Problem(message, f"{name}:{line}:{column}", found, hint=hint)


def _read_value(text: str) -> Any:
    """A TOML value. Raises ValueError for anything else (a second line, a second key)."""
    try:
        tree = tomli.loads(f"value = {text}")
    except RecursionError:
        raise ValueError("nested too deep") from None
    if len(tree) != 1:
        raise ValueError("more than one value")
    return tree["value"]


def _override(
    tree: Tree, override: Override, rules: PathRules, findings: list[Finding]
) -> Tree:
    alone = skeleton(override)
    for _, problem in expand_tree(alone, Profile, rules):
        findings.append(Finding(override.path, problem))
    return apply_override(tree, Override(override.path, skeleton_value(alone, override.path)))


def _name(tree: Tree, path: Path) -> list[Finding]:
    """Name the machine after its file, when the profile does not."""
    if "name" in tree:
        return []
    tree["name"] = path.stem
    try:
        parse_vm_name(path.stem)
    except ValueError as error:
        problem = Problem(
            f"the file's name does not do as the machine's: expected {error}",
            found=shown(path.stem), hint='add name = "…" to the profile',
        )
        return [Finding(("name",), problem)]
    return []


def _live(faults: list[tuple[int, KeyPath, Problem]], places: Places) -> list[Finding]:
    """Path faults by their place in the merged tree; those of replaced values are forgotten."""
    merged = [(places.merged_path(number, at), problem) for number, at, problem in faults[:200]]
    return [Finding(at, problem) for at, problem in merged if at is not None]
